//! Receiving begins anew where it cannot go on: the server has let go of log that was not received. What was received
//! goes into a store, the slot is made again, and only a base backup leads over the gap.

use std::path::Path;

use crate::config::Plan;
use crate::config::plan::Backup;
use crate::error::{Error, Kind, Result};
use crate::job::physical::archive::Claimed;
use crate::job::physical::folder;
use crate::job::physical::push::Sealed;
use crate::job::stores;
use crate::postgres::Server;
use crate::postgres::quote::literal;
use crate::postgres::server::explain;
use crate::wal::WalName;

/// Whether a slot has lost log that it needs, and is of no use for ever.
/// <https://www.postgresql.org/docs/current/view-pg-replication-slots.html>
///
/// # Errors
/// The server does not answer.
pub async fn is_lost(server: &Server, slot: &str) -> Result<bool> {
    let slot = literal(slot);
    let sql = format!("select to_json(exists (select from pg_replication_slots where slot_name = {slot} and wal_status = 'lost'))");
    server.query(server.maintenance_database(), &sql).await
}

/// Whether pg_receivewal says that the server has not got any more what comes next.
pub fn is_gone(said: &str) -> bool {
    said.contains("has already been removed")
}

/// Empties the folder of what was received, by way of the stores, and drops the slot if it is lost.
///
/// # Errors
/// No store takes what was received, or the server does not drop the slot: then all is as it was, and it is tried again.
pub async fn begin(plan: &Plan, backup: &Backup, folder: &Path, by: &str, server: &Server, lost: Option<&str>) -> Result<()> {
    let unreadable = |error: &std::io::Error| Error::system(format_args!("cannot read {}", folder.display()), error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| unreadable(&error))? {
        names.push(entry.map_err(|error| unreadable(&error))?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    for name in names.iter().filter(|name| WalName::parse(name).is_some()) {
        put_away(plan, backup, &folder.join(name), by).await?;
    }
    if let Some(slot) = lost {
        let args = [format!("--slot={slot}"), "--drop-slot".to_owned(), "--no-password".to_owned()];
        let dropped = server.host().start(server.call("pg_receivewal", args.to_vec())).await?.ended().await?;
        if !dropped.exit.is_success() {
            let error = explain("pg_receivewal", dropped.exit, &dropped.stderr);
            return Err(Error { kind: Kind::Postgres, ..error }.context("a lost slot cannot be dropped"));
        }
    }
    Ok(())
}

/// A file goes when a store has it: the others get it from there. One that is still empty goes as it is.
async fn put_away(plan: &Plan, backup: &Backup, path: &Path, by: &str) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some(parsed) = WalName::parse(&name) else { return Ok(()) };
    let (raw, _) = folder::read(path).map_err(|error| Error::system(format_args!("cannot read {}", path.display()), &error))?;
    let sealed = match Sealed::new(&name, parsed, &raw, None, &backup.encrypt_to) {
        Ok(sealed) => Some(sealed),
        Err(error) if error.kind == Kind::Damaged && path.extension().is_some_and(|ending| ending == "partial") => None,
        Err(error) => return Err(error),
    };
    if let Some(sealed) = sealed {
        let mut outcome = Err(Error::new(Kind::Store, "it is in no store"));
        for name in &backup.stores {
            let put = async {
                let store = stores::open(&plan.stores[name], by)?;
                sealed.put(&*store, backup.name.as_str(), &mut Claimed::default()).await
            };
            let put = put.await.map_err(|error| error.context(format_args!("store {name}")));
            outcome = if outcome.is_ok() { outcome } else { put };
        }
        outcome.map_err(|error| error.context(format_args!("{} was received, and goes into no store", path.display())))?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::system(format_args!("cannot remove {}", path.display()), &error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_has_not_got_any_more() {
        assert!(is_gone(
            "could not send replication command: ERROR:  requested WAL segment 000000010000000000000003 has already been removed"
        ));
        assert!(!is_gone("ERROR:  replication slot \"pgvigil_c\" is active for PID 4"));
    }
}
