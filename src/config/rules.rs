//! What fits together in a file and what does not: keys against each other, against the kind of
//! backup and against the way to the server.

use super::choose::listed;
use super::faults::Examined;
use super::file::{self, BackupKind, File, Format};
use super::plan::JOBS;
use super::values::Name;
use crate::keys::{Recipient, Trusted};

/// Keys of the one kind of backup that stand at the other.
pub fn check_kind(name: &Name, backup: &file::Backup, kind: BackupKind, examined: &mut Examined<'_>) {
    let dump_only = [
        ("database", backup.database.is_some()),
        ("databases", backup.databases.is_some()),
        ("exclude", backup.exclude.is_some()),
        ("format", backup.format.is_some()),
        ("jobs", backup.jobs.is_some()),
        ("contents", backup.contents.is_some()),
        ("tables", backup.tables.is_some()),
        ("exclude_tables", backup.exclude_tables.is_some()),
        ("schemas", backup.schemas.is_some()),
        ("globals", backup.globals.is_some()),
        ("evidence", backup.evidence.is_some()),
    ];
    let physical_only =
        [("incremental", backup.incremental.is_some()), ("wal", backup.wal.is_some()), ("wal_folder", backup.wal_folder.is_some())];
    let (foreign, hint) = match kind {
        BackupKind::Dump => (&physical_only[..], "remove it, or set kind = \"physical\""),
        BackupKind::Physical => (&dump_only[..], "remove it: a physical backup holds the whole cluster"),
    };
    for (key, _) in foreign.iter().filter(|(_, given)| *given) {
        let message = match kind {
            BackupKind::Dump => format!("{key} is a key of physical backups"),
            BackupKind::Physical => format!("{key} is a key of dumps"),
        };
        examined.fault(&["backups", name.as_str(), key], message, hint);
    }
}

/// A chain that is never begun anew only grows: each restore needs all of it.
pub fn check_chain(name: &Name, backup: &file::Backup, examined: &mut Examined<'_>) {
    if backup.incremental.is_some() && backup.schedule.is_none() {
        examined.fault(
            &["backups", name.as_str(), "incremental"],
            "incremental without schedule: no whole base backup would ever be made",
            "add schedule = \"0 1 * * 0\" for a whole one each week",
        );
    }
}

/// Format, jobs, contents and patterns against each other and against the way to the server.
pub fn check_form(name: &Name, backup: &file::Backup, server: Option<&file::Server>, examined: &mut Examined<'_>) {
    let key = |key| ["backups", name.as_str(), key];
    let format = backup.format.unwrap_or_default();
    let by_exec = server.is_some_and(file::Server::is_by_exec);
    if format == Format::Directory && by_exec {
        examined.fault(
            &key("format"),
            "format = \"directory\" cannot be dumped inside a container",
            "set via = \"network\" on the server, so that the programs here write the folder, or use format = \"custom\"",
        );
    }
    if backup.jobs.is_some_and(|jobs| jobs != JOBS) && format != Format::Directory {
        examined.fault(&key("jobs"), "jobs without format = \"directory\"", "remove it, or set format = \"directory\"");
    }
    if backup.jobs == Some(0) {
        examined.fault(&key("jobs"), "no jobs", "write 1 or more");
    }
    let patterns = [("tables", &backup.tables), ("exclude_tables", &backup.exclude_tables), ("schemas", &backup.schemas)];
    for (name, list) in patterns {
        if list.iter().flatten().any(String::is_empty) {
            examined.fault(&key(name), format!("empty pattern in {name}"), "write a name or a pattern, such as \"public.orders\"");
        }
    }
}

/// To whom a backup is encrypted.
pub fn recipients(name: &Name, backup: &file::Backup, examined: &mut Examined<'_>) -> Vec<Recipient> {
    let path = ["backups", name.as_str(), "encrypt_to"];
    let mut recipients: Vec<Recipient> = Vec::new();
    for text in backup.encrypt_to.iter().flatten() {
        match text.parse() {
            Ok(recipient) if recipients.contains(&recipient) => {}
            Ok(recipient) => recipients.push(recipient),
            Err(why) => examined.fault(
                &path,
                why,
                "write public keys: age1... (age-keygen -y KEY prints it), or the line of an .pub file, ssh-ed25519 or ssh-rsa",
            ),
        }
    }
    if backup.encrypt_to.as_ref().is_some_and(Vec::is_empty) {
        examined.fault(&path, "encrypt_to names nobody, so nothing would be encrypted", "name a recipient, or remove it");
    }
    recipients
}

/// Whose signatures count.
pub fn signers(file: &File, examined: &mut Examined<'_>) -> Vec<Trusted> {
    let mut signers = Vec::new();
    for text in file.trusted_signers.iter().flatten() {
        match text.parse() {
            Ok(signer) => signers.push(signer),
            Err(why) => examined.fault(&["trusted_signers"], why, "write the line of an .pub file of ssh-keygen -t ed25519"),
        }
    }
    if file.trusted_signers.as_ref().is_some_and(Vec::is_empty) {
        examined.fault(&["trusted_signers"], "trusted_signers names nobody, so no backup would count", "name a signer, or remove it");
    }
    signers
}

/// The queries under `checks`.
pub fn check_checks(name: &Name, backup: &file::Backup, examined: &mut Examined<'_>) {
    for (check, query) in backup.checks.iter().flatten() {
        if query.trim().is_empty() {
            examined.fault(
                &["backups", name.as_str(), "checks", check.as_str()],
                format!("check {check} asks nothing"),
                "write a query of one value, such as \"select count(*) > 0 from users\"",
            );
        }
    }
}

pub fn check_keep(keep: &file::Keep, kind: Option<BackupKind>, path: &[&str], examined: &mut Examined<'_>) {
    let tiers = [
        ("last", keep.last.is_some()),
        ("within", keep.within.is_some()),
        ("daily", keep.daily.is_some()),
        ("weekly", keep.weekly.is_some()),
        ("monthly", keep.monthly.is_some()),
        ("yearly", keep.yearly.is_some()),
    ];
    let physical = [("base_backups", keep.base_backups.is_some()), ("window", keep.window.is_some())];
    let foreign = match kind {
        Some(BackupKind::Dump) => &physical[..],
        Some(BackupKind::Physical) => &tiers[..],
        None => &[],
    };
    for (unit, _) in foreign.iter().filter(|(_, given)| *given) {
        let mut path = path.to_vec();
        path.push(unit);
        examined.fault(
            &path,
            format!("{unit} is not a unit of this kind of backup"),
            "dumps have last, within, daily, weekly, monthly, yearly; physical backups base_backups and window",
        );
    }
}

/// The address of a Docker Engine.
pub fn check_engine(docker: &str, path: &[&str], examined: &mut Examined<'_>) {
    if !["unix://", "tcp://", "http://"].iter().any(|scheme| docker.starts_with(scheme)) {
        examined.fault(
            path,
            format!("bad address of the Docker Engine {docker:?}"),
            "write unix:///var/run/docker.sock or tcp://HOST:2375",
        );
    }
}

/// Sections that stand by themselves.
pub fn check_rest(file: &File, examined: &mut Examined<'_>) {
    if let Some(discovery) = &file.discovery {
        check_engine(&discovery.docker, &["discovery", "docker"], examined);
    }
    if file.takeover_after.is_some_and(|span| span.0 < std::time::Duration::from_secs(2)) {
        examined.fault(&["takeover_after"], "a holder could not give signs of life so often", "write 2s or more, such as \"45s\"");
    }
    if file.max_concurrent_runs == Some(0) {
        examined.fault(&["max_concurrent_runs"], "no run would ever start", "write 1 or more");
    }
    for (key, path) in [("state_dir", &file.state_dir), ("spool_dir", &file.spool_dir)] {
        if let Some(path) = path
            && !path.is_absolute()
        {
            examined.fault(&[key], format!("{key} {:?} is not absolute", path.display().to_string()), "write it from the root");
        }
    }
    let places: Vec<_> = file.stores.iter().filter_map(|(name, store)| Some((name, store.path.as_ref()?))).collect();
    for (n, (name, path)) in places.iter().enumerate() {
        // Paths compare by their parts: a slash at the end makes no other folder.
        if let Some((other, _)) = places[..n].iter().find(|(_, earlier)| earlier == path) {
            examined.fault(
                &["stores", name.as_str(), "path"],
                format!("stores {other} and {name} have the same path"),
                "keep one of them: each would prune the other's backups",
            );
        }
    }
    for name in file.pings.keys().filter(|name| !file.backups.contains_key(*name)) {
        examined.fault(
            &["pings", name.as_str()],
            format!("ping {name} names no backup of this file"),
            format!("backups: {}", listed(file.backups.keys())),
        );
    }
}
