//! `check`: the keys of encryption and signatures, each tried on something.

use super::check::Line;
use crate::config::Plan;
use crate::config::plan::Backup;
use crate::host::printable;
use crate::job::keys;
use crate::keys::opens;

pub(super) fn lines(plan: &Plan) -> Vec<Line> {
    signing(plan).into_iter().chain(plan.backups.values().filter_map(|backup| identity(plan, backup))).collect()
}

/// Whether there is a key that signs, and what it is called.
fn signing(plan: &Plan) -> Option<Line> {
    match keys::signer(plan) {
        Ok(signer) => {
            let public = signer?.public();
            Some(Line::good("signing_key", format!("signs as {}, {}", printable(&public.name()), public.fingerprint())))
        }
        Err(error) => Some(Line::bad("signing_key", &error)),
    }
}

/// Whether the identity of a backup opens what it encrypts.
fn identity(plan: &Plan, backup: &Backup) -> Option<Line> {
    let subject = format!("backup {}", backup.name);
    let identities = match keys::of_backup(plan, backup.name.as_str()) {
        Ok(identities) => identities?,
        Err(error) => return Some(Line::bad(subject, &error)),
    };
    Some(if opens(&identities, &backup.encrypt_to) {
        Line::good(subject, format!("identity of {} opens what is encrypted", identities.from()))
    } else if backup.encrypt_to.is_empty() {
        Line::good(subject, format!("identity of {} is for older backups: there is no encrypt_to", identities.from()))
    } else {
        Line::warning(
            subject,
            format!("identity of {} does not open what is encrypted from now on: its public key is not in encrypt_to", identities.from()),
            "add its public key to encrypt_to, or name the private key of one that is there",
        )
    })
}
