//! What stands in a file beside its meaning: its secrets, and what is right but probably not meant.

use super::file::{EvidenceMode, File, Want};
use super::plan::{Sourced, Warning};
use super::telling::{Hook, On};
use super::values::Given;

/// Every value of the file that may come from elsewhere, with its key.
pub fn givens(file: &File) -> Vec<Sourced> {
    let mut found = Vec::new();
    let mut note = |key: String, given: Option<&Given>, is_secret: bool| {
        found.extend(given.map(|given| Sourced { key, given: given.clone(), is_secret }));
    };
    note("listen_token".to_owned(), file.listen_token.as_ref(), true);
    note("signing_key".to_owned(), file.signing_key.as_ref(), true);
    for (name, server) in &file.servers {
        note(format!("servers.{name}.user"), server.user.as_ref(), false);
        note(format!("servers.{name}.password"), server.password.as_ref(), true);
    }
    for (name, store) in &file.stores {
        note(format!("stores.{name}.access_key_id"), store.access_key_id.as_ref(), true);
        note(format!("stores.{name}.secret_access_key"), store.secret_access_key.as_ref(), true);
        note(format!("stores.{name}.session_token"), store.session_token.as_ref(), true);
    }
    for (name, backup) in &file.backups {
        note(format!("backups.{name}.database"), backup.database.as_ref(), false);
        note(format!("backups.{name}.identity"), backup.identity.as_ref(), true);
    }
    if let Some(email) = &file.email {
        note("email.username".to_owned(), email.username.as_ref(), false);
        note("email.password".to_owned(), email.password.as_ref(), true);
    }
    for (name, webhook) in &file.webhooks {
        note(format!("webhooks.{name}.url"), Some(&webhook.url), true);
        for (header, given) in &webhook.headers {
            note(format!("webhooks.{name}.headers.{header}"), Some(given), true);
        }
    }
    for (name, ping) in &file.pings {
        note(format!("pings.{name}.url"), Some(&ping.url), true);
    }
    found
}

/// Whether a failure would reach somebody.
pub fn has_channel(file: &File) -> bool {
    let is_heard = |hook: &Hook| hook.on.as_ref().is_none_or(|on| on.contains(&On::AlertOpen) || on.contains(&On::RunFailed));
    file.email.is_some() || !file.webhooks.is_empty() || !file.pings.is_empty() || file.hooks.values().any(is_heard)
}

/// What `check` warns about without asking anybody.
pub fn warnings(file: &File) -> Vec<Warning> {
    let mut found = Vec::new();
    if !has_channel(file) {
        found.push(Warning {
            subject: "alerts".to_owned(),
            message: "nobody hears of a failure: there is no [email], [webhooks] or [pings] section".to_owned(),
            hint: "add [email] with relay, from and to".to_owned(),
        });
    }
    for (key, given) in [("listen_token", file.listen_token.is_some()), ("listen_names", file.listen_names.is_some())] {
        if given && file.listen.is_none() {
            found.push(Warning {
                subject: "listen".to_owned(),
                message: format!("{key} has no effect without listen"),
                hint: format!("add listen = \"127.0.0.1:9847\", or remove {key}"),
            });
        }
    }
    if file.trusted_signers.is_some() && file.signing_key.is_none() && file.backups.values().any(|backup| backup.schedule.is_some()) {
        found.push(Warning {
            subject: "signatures".to_owned(),
            message: "trusted_signers without signing_key: what the schedules of this file make is signed by nobody, and does not count"
                .to_owned(),
            hint: "add signing_key = { file = \"PATH\" }: ssh-keygen -t ed25519 -N '' -C pgvigil -f PATH makes one".to_owned(),
        });
    }
    if file.backups.is_empty() && file.discovery.is_none() {
        found.push(Warning {
            subject: "backups".to_owned(),
            message: "the file names no backup".to_owned(),
            hint: "add [backups.NAME] with database = \"NAME\"".to_owned(),
        });
    }
    for (name, backup) in &file.backups {
        let want = backup.want.unwrap_or_default();
        let is_drilled = backup.drill.as_ref().is_some_and(|drill| drill.schedule.is_some());
        if want > Want::Readable && !is_drilled {
            found.push(Warning {
                subject: format!("backup {name}"),
                message: "want is above readable, which only drills reach, and no drill has a schedule: after each run it is told as unproven until somebody drills it by hand".to_owned(),
                hint: "add drill = { schedule = \"0 4 * * 0\" }".to_owned(),
            });
        }
        if want == Want::Matched && backup.evidence == Some(EvidenceMode::Off) {
            found.push(Warning {
                subject: format!("backup {name}"),
                message: "want = \"matched\" with evidence = \"off\": there is nothing that a drill could compare with".to_owned(),
                hint: "take evidence out, or set want = \"restored\"".to_owned(),
            });
        }
        if is_drilled && backup.encrypt_to.is_some() && backup.identity.is_none() {
            found.push(Warning {
                subject: format!("backup {name}"),
                message: "drill has a schedule and encrypt_to names recipients, but no drill can open it: there is no identity".to_owned(),
                hint: "add identity = { file = \"PATH\" } with the private key of one recipient, or drill elsewhere, where it is"
                    .to_owned(),
            });
        }
        let Some(schedule) = &backup.schedule else { continue };
        let keeps_recent = backup.keep.as_ref().is_none_or(|keep| keep.last.is_some() || keep.within.is_some());
        if !keeps_recent && finer_than_a_day(&schedule.cron) {
            found.push(Warning {
                subject: format!("backup {name}"),
                message: format!("schedule {:?} is finer than a day, and keep sets neither last nor within: all but the first backup of a day is deleted", schedule.text),
                hint: "add last or within to keep".to_owned(),
            });
        }
    }
    found
}

/// Whether two slots ever lie less than 20 hours apart, over the coming fortnight of a plain year.
/// The count is of calendar times, so that a change of the clock makes no daily schedule finer.
fn finer_than_a_day(cron: &croner::Cron) -> bool {
    let Some(start) = chrono::NaiveDate::from_ymd_opt(2026, 6, 1).and_then(|day| day.and_hms_opt(0, 0, 0)) else {
        return false;
    };
    let slots: Vec<_> = cron.iter_after(start.and_utc()).take(15).collect();
    slots.windows(2).any(|pair| pair[1] - pair[0] < chrono::Duration::hours(20))
}
