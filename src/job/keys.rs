//! The keys of a plan, read from where they are.

use std::path::Path;

use crate::catalog::Manifest;
use crate::config::Plan;
use crate::config::values::Given;
use crate::error::Result;
use crate::host::secret;
use crate::keys::{Identities, Signer, Trust};

/// Who opens a backup: whom somebody gives, else whom the file names; nobody is needed for what is
/// not encrypted.
///
/// # Errors
/// They are not to be had, or are none.
pub fn of(plan: &Plan, manifest: &Manifest, given: Option<Identities>) -> Result<Identities> {
    match given {
        Some(given) => Ok(given),
        None if manifest.encryption.is_none() => Ok(Identities::default()),
        None => Ok(of_backup(plan, &manifest.backup)?.unwrap_or_default()),
    }
}

/// Whom the file names for a backup.
///
/// # Errors
/// They are not to be had, or are none.
pub fn of_backup(plan: &Plan, backup: &str) -> Result<Option<Identities>> {
    let Some(given) = plan.backups.get(backup).and_then(|backup| backup.identity.as_ref()) else { return Ok(None) };
    let key = format!("backups.{backup}.identity");
    let text = secret::resolve(&key, given)?;
    // Where it is written in the file: the plan may hold it itself by now.
    let written = plan.givens.iter().find(|sourced| sourced.key == key).map(|sourced| &sourced.given);
    let from = match written {
        Some(Given::File(path)) => path.display().to_string(),
        _ => key,
    };
    Identities::parse(&from, text.reveal()).map(Some)
}

/// Those of a file that somebody names.
///
/// # Errors
/// It cannot be read, or holds none.
pub fn of_file(path: &Path) -> Result<Identities> {
    let text = secret::resolve("--identity", &Given::File(path.to_owned()))?;
    Identities::parse(&path.display().to_string(), text.reveal())
}

/// Who signs what this machine writes. `None`: nobody.
///
/// # Errors
/// The key is not to be had, or is none.
pub fn signer(plan: &Plan) -> Result<Option<Signer>> {
    let Some(given) = &plan.signing_key else { return Ok(None) };
    Signer::parse("signing_key", secret::resolve("signing_key", given)?.reveal()).map(Some)
}

/// Whose signatures count: those of the file, and its own. Where the own key cannot be read, the others
/// do, and there is no less to ask for.
pub fn trust(plan: &Plan) -> Trust {
    if plan.signing_key.is_none() && plan.trusted_signers.is_empty() {
        return Trust::default();
    }
    let own = signer(plan).ok().flatten().map(|signer| signer.public());
    Trust::in_signers(plan.trusted_signers.iter().cloned().chain(own).collect())
}
