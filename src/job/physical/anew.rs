//! Receiving begins anew where it cannot go on: the server has let go of log that was not received. What was received
//! is laid aside, from where it goes into the stores, and only a base backup leads over the gap.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::plan::Backup;
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::job::physical::folder;
use crate::job::physical::push::owner_of;
use crate::job::physical::unpack::make_durable;
use crate::postgres::Server;
use crate::postgres::quote::literal;
use crate::postgres::server::explain;
use crate::wal::{Lsn, WalName};

/// The backups whose log has a gap that only a base backup leads over; whether that is told once, and must be kept in
/// mind, or is seen at each look.
#[derive(Debug, Clone, Default)]
pub struct Anew(Arc<Mutex<BTreeMap<Name, bool>>>);

impl Anew {
    /// There is one more.
    pub fn tell(&self, backup: &Backup) {
        tracing::error!(
            backup = %backup.name,
            "the server has removed log that was not received: there is a gap, and a base backup leads over it; receiving begins anew"
        );
        self.note(&backup.name, true);
    }

    /// Notes one.
    pub fn note(&self, name: &Name, is_told_once: bool) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *noted.entry(name.clone()).or_default() |= is_told_once;
    }

    /// Those since the last time.
    pub fn take(&self) -> BTreeMap<Name, bool> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether a slot is of no use any more: it holds nothing back, and nobody can receive by it.
/// <https://www.postgresql.org/docs/current/view-pg-replication-slots.html>
///
/// # Errors
/// The server does not answer.
pub async fn is_lost(server: &Server, slot: &str) -> Result<bool> {
    let slot = literal(slot);
    let sql = format!("select to_json(exists (select from pg_replication_slots where slot_name = {slot} and wal_status = 'lost'))");
    server.query(server.maintenance_database(), &sql).await
}

/// Drops one that is of no use; the next to receive makes it anew. Log that the server still has all the same is received
/// from where the folder ends.
///
/// # Errors
/// The server does not do it.
pub async fn drop_slot(server: &Server, slot: &str) -> Result<()> {
    let args = [format!("--slot={slot}"), "--drop-slot".to_owned(), "--no-password".to_owned()];
    let dropped = server.host().start(server.call("pg_receivewal", args.to_vec())).await?.ended().await?;
    if dropped.exit.is_success() {
        return Ok(());
    }
    let error = explain("pg_receivewal", dropped.exit, &dropped.stderr);
    Err(Error { kind: Kind::Postgres, ..error }.context("a slot that is of no use cannot be dropped"))
}

/// From where on a slot holds the log. `None`: there is no such slot, or it holds nothing.
///
/// # Errors
/// The server does not answer.
pub async fn place(server: &Server, slot: &str) -> Result<Option<Lsn>> {
    let slot = literal(slot);
    let sql = format!("select coalesce((select to_json(restart_lsn) from pg_replication_slots where slot_name = {slot}), 'null')");
    server.query(server.maintenance_database(), &sql).await
}

/// Puts one back to where it was: the server takes a receiver's word for its place, also for one whose log is removed.
/// <https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-REPLICATION>
///
/// # Errors
/// The server does not do it.
pub async fn put_back(server: &Server, slot: &str, place: Lsn) -> Result<()> {
    let sql = format!("select to_json(end_lsn) from pg_replication_slot_advance({}, '{place}')", literal(slot));
    server.query::<Lsn>(server.maintenance_database(), &sql).await.map(|_| ())
}

/// Whether a server has left the timeline of what was received before it ends: pg_receivewal asks for what follows, and
/// is refused for ever.
///
/// # Errors
/// The server does not answer, or the folder cannot be read.
pub async fn has_left(server: &Server, received: &Path, said: &str) -> Result<bool> {
    if !names_place(said) {
        return Ok(false);
    }
    let now: u32 = server.query(server.maintenance_database(), "select to_json(timeline_id) from pg_control_checkpoint()").await?;
    Ok(folder::newest(received)?.is_some_and(|(_, newest)| newest.timeline() < now))
}

/// Whether the server refuses a place of the log, in whatever language.
fn names_place(said: &str) -> bool {
    let is_place = |word: &str| word.trim_matches(|c: char| !c.is_ascii_alphanumeric()).parse::<Lsn>().is_ok();
    said.lines().filter(|line| line.contains("could not send replication command")).any(|line| line.split_whitespace().any(is_place))
}

/// Whether pg_receivewal says that the server has not got any more what comes next. Its own words are English, those of
/// the server may be in any language: they name a segment, and what cannot be read of one has a place behind its name.
pub fn is_gone(said: &str) -> bool {
    let is_of_server = |line: &&str| {
        ["could not send replication command", "unexpected termination of replication stream"].iter().any(|words| line.contains(words))
    };
    let names_segment = |word: &str| {
        let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '/');
        !word.ends_with(',') && matches!(WalName::parse(bare), Some(WalName::Segment(_)))
    };
    said.lines().filter(is_of_server).any(|line| line.split_whitespace().any(names_segment))
}

/// Lays aside what was received, so that receiving begins where the slot is. False: nothing lay there, it did so already.
///
/// # Errors
/// The folder cannot be written; what was moved already is as safe there.
pub fn begin(received: &Path) -> Result<bool> {
    let left = folder::left(received);
    let failed = |error: &io::Error| Error::system(format_args!("cannot lay aside what is in {}", received.display()), error);
    DirBuilder::new().recursive(true).mode(0o700).create(&left).map_err(|error| failed(&error))?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(received).map_err(|error| failed(&error))? {
        names.push(entry.map_err(|error| failed(&error))?.file_name().to_string_lossy().into_owned());
    }
    // The newest last: as long as it is there, pg_receivewal goes on from there.
    names.sort();
    let mut was_there = false;
    for name in names {
        let (from, to) = (received.join(&name), left.join(&name));
        let moved = match WalName::parse(&name) {
            None => continue,
            Some(parsed @ WalName::Partial(_)) if is_empty(parsed, &from) => std::fs::remove_file(&from),
            Some(_) => std::fs::rename(&from, free(to)),
        };
        match moved {
            // It has just gone into the stores.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&error)),
            _ => was_there = true,
        }
    }
    make_durable(&left)?;
    Ok(was_there)
}

/// Another of that name may lie there from before: neither takes the place of the other, and the second is told as no
/// file of the log.
fn free(place: PathBuf) -> PathBuf {
    let numbered = |number: u32| place.with_file_name(format!("{}.{number}", place.file_name().unwrap_or_default().to_string_lossy()));
    if place.exists() { (2..u32::MAX).map(numbered).find(|place| !place.exists()).unwrap_or(place) } else { place }
}

/// Nothing has been received into it yet.
fn is_empty(parsed: WalName, path: &Path) -> bool {
    folder::read(path).is_ok_and(|(raw, _)| owner_of(parsed, &raw, raw.len() as u64).is_err())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_has_not_got_any_more() {
        let of_server = "pg_receivewal: error: could not send replication command \"START_REPLICATION\": ";
        for said in [
            "ERROR:  requested WAL segment 000000010000000000000003 has already been removed",
            "FEHLER:  das angeforderte WAL-Segment 000000010000000000000003 wurde schon entfernt",
            "ОШИБКА:  запрошенный сегмент WAL «000000010000000000000003» уже удалён",
        ] {
            assert!(is_gone(&format!("{of_server}{said}")), "{said}");
        }
        for said in [
            "ERROR:  replication slot \"pgvigil_c\" is active for PID 4",
            "could not write 8192 bytes to WAL file \"000000010000000000000003\": No space left on device",
            "could not fsync file \"000000010000000000000003\": Input/output error",
            "unexpected termination of replication stream: ERROR:  could not read from WAL segment 000000010000000000000003, offset 0: Input/output error",
            "could not open file \"/spool/wal/c/000000010000000000000003\": Permission denied",
        ] {
            assert!(!is_gone(said), "{said}");
        }
    }

    #[test]
    fn what_the_server_has_left() {
        let of_server = "pg_receivewal: error: could not send replication command \"START_REPLICATION\": ";
        for (said, names) in [
            ("ERROR:  requested starting point 0/6000000 on timeline 1 is not in this server's history", true),
            ("FEHLER:  angeforderter Startpunkt 0/6000000 auf Zeitleiste 1 ist nicht in der History dieses Servers", true),
            ("ERROR:  replication slot \"pgvigil_c\" is active for PID 4", false),
        ] {
            assert_eq!(names_place(&format!("{of_server}{said}")), names, "{said}");
        }
        assert!(!names_place("pg_receivewal: error: could not fsync 0/6000000"));
    }

    #[test]
    fn what_was_received_is_laid_aside() {
        let dir = tempfile::tempdir().unwrap();
        let received = dir.path().join("c");
        std::fs::create_dir(&received).unwrap();
        for name in ["000000010000000000000003", "000000010000000000000004.partial", "notes.txt"] {
            std::fs::write(received.join(name), "").unwrap();
        }
        assert!(begin(&received).unwrap());
        let names = |folder: &Path| {
            let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.collect::<Vec<_>>()
        };
        assert_eq!(
            (names(&received), names(&dir.path().join("c.left"))),
            (vec!["notes.txt".to_owned()], vec!["000000010000000000000003".to_owned()])
        );
        assert!(!begin(&received).unwrap(), "it begins where the slot is already");
    }
}
