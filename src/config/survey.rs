//! What stands in a file beside its meaning: its secrets, the keys that this version does not
//! know how to obey, and what is right but probably not meant.

use super::faults::Examined;
use super::file::{BackupKind, EvidenceMode, File};
use super::plan::{Blocked, NotYet, Warning};
use super::values::Given;

/// Every secret of the file, with its key.
pub fn secrets(file: &File) -> Vec<(String, Given)> {
    let mut all: Vec<(String, &Option<Given>)> =
        vec![("listen_token".to_owned(), &file.listen_token), ("signing_key".to_owned(), &file.signing_key)];
    for (name, server) in &file.servers {
        all.push((format!("servers.{name}.password"), &server.password));
    }
    for (name, store) in &file.stores {
        all.push((format!("stores.{name}.access_key_id"), &store.access_key_id));
        all.push((format!("stores.{name}.secret_access_key"), &store.secret_access_key));
        all.push((format!("stores.{name}.session_token"), &store.session_token));
    }
    for (name, backup) in &file.backups {
        all.push((format!("backups.{name}.identity"), &backup.identity));
    }
    if let Some(email) = &file.email {
        all.push(("email.password".to_owned(), &email.password));
    }
    let urls = file
        .webhooks
        .iter()
        .map(|(name, hook)| (format!("webhooks.{name}.url"), &hook.url))
        .chain(file.pings.iter().map(|(name, ping)| (format!("pings.{name}.url"), &ping.url)));
    all.into_iter().filter_map(|(key, given)| Some((key, given.clone()?))).chain(urls.map(|(key, given)| (key, given.clone()))).collect()
}

/// The keys that a later version brings. A default that is spelled out is not among them.
pub fn not_yet(file: &File, examined: &Examined<'_>) -> Vec<NotYet> {
    let mut found = Vec::new();
    let mut note = |path: &[&str], blocks: Option<Blocked>| {
        found.push(NotYet { key: path.join("."), line: examined.line_at(path), blocks });
    };
    let top = [
        ("listen", file.listen.is_some()),
        ("email", file.email.is_some()),
        ("webhooks", !file.webhooks.is_empty()),
        ("pings", !file.pings.is_empty()),
        ("trusted_signers", file.trusted_signers.is_some()),
    ];
    for (key, _) in top.iter().filter(|(_, given)| *given) {
        note(&[key], None);
    }
    if file.signing_key.is_some() {
        note(&["signing_key"], Some(Blocked::Every));
    }
    for (name, backup) in &file.backups {
        let stops = Some(Blocked::One(name.clone()));
        let keys = [
            ("schedule", backup.schedule.is_some(), None),
            ("keep", backup.keep.is_some(), None),
            ("max_age", backup.max_age.is_some(), None),
            ("drill", backup.drill.is_some(), None),
            ("kind", backup.kind == Some(BackupKind::Physical), stops.clone()),
            ("encrypt_to", backup.encrypt_to.is_some(), stops.clone()),
            ("evidence", backup.evidence == Some(EvidenceMode::Content), stops.clone()),
            ("checks", backup.checks.is_some(), stops.clone()),
        ];
        for (key, _, blocks) in keys.into_iter().filter(|(_, given, _)| *given) {
            note(&["backups", name.as_str(), key], blocks);
        }
        let remote = backup
            .stores
            .iter()
            .flatten()
            .chain(file.stores.keys().filter(|_| backup.stores.is_none()))
            .filter(|store| file.stores.get(*store).is_some_and(|store| store.path.is_none()));
        for store in remote {
            let kind = if file.stores.get(store).is_some_and(|store| store.s3.is_some()) { "s3" } else { "ssh" };
            note(&["stores", store.as_str(), kind], stops.clone());
        }
    }
    found
}

/// What `check` warns about without asking anybody.
pub fn warnings(file: &File) -> Vec<Warning> {
    let mut found = Vec::new();
    if file.email.is_none() && file.webhooks.is_empty() && file.pings.is_empty() {
        found.push(Warning {
            subject: "alerts".to_owned(),
            message: "nobody hears of a failure: there is no [email], [webhooks] or [pings] section".to_owned(),
            hint: "add [email] with relay, from and to".to_owned(),
        });
    }
    if file.backups.is_empty() {
        found.push(Warning {
            subject: "backups".to_owned(),
            message: "the file names no backup".to_owned(),
            hint: "add [backups.NAME] with database = \"NAME\"".to_owned(),
        });
    }
    for (name, backup) in &file.backups {
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
