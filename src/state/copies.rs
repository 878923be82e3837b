//! Copies to other stores: in the history, and what a store held when it could be read last.

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension, params};

use super::history::{History, failed, text};
use crate::catalog::Label;
use crate::error::Result;
use crate::state::Run;

/// The lock of what is copied on of a backup to a store. No backup can have a dot in its name, and no
/// label is the name of a store.
pub fn copy_lock(backup: &str, store: &str) -> String {
    format!("{backup}.{store}.copy")
}

/// What a store holds of a backup, each with the moment that it shows.
pub type Held = Vec<(Label, DateTime<Utc>)>;

impl History {
    /// Notes that a backup begins to be copied to a store.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn begin_copy(&self, backup: &str, id: &str, store: &str, started_at: DateTime<Utc>) -> Result<i64> {
        let db = self.db();
        db.execute(
            "insert into runs (kind, backup, server, id, target, lock, started_at) values ('copy', ?1, '', ?2, ?3, ?4, ?5)",
            params![backup, id, store, copy_lock(backup, store), text(started_at)],
        )
        .map_err(|error| failed(&error))?;
        Ok(db.last_insert_rowid())
    }

    /// The last copy of a backup to a store that says how things stand.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn last_copy(&self, backup: &str, store: &str) -> Result<Option<Run>> {
        // Names of stores are plain words of the file.
        let last = format!(
            "backup = ?1 and row = (select max(row) from runs where backup = ?1 and kind = 'copy' and target = '{store}'
            and outcome in ('ok', 'problems', 'failed'))"
        );
        Ok(self.select(&last, Some(backup))?.pop())
    }

    /// Copies that have begun and not ended. The caller holds their lock: all of them were broken off.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn end_broken_copies(&self, backup: &str, store: &str, at: DateTime<Utc>) -> Result<()> {
        self.db()
            .execute(
                "update runs set outcome = 'interrupted', error = 'killed, or the machine went down', finished_at = ?3
                where kind = 'copy' and backup = ?1 and target = ?2 and outcome is null",
                params![backup, store, text(at)],
            )
            .map(drop)
            .map_err(|error| failed(&error))
    }

    /// Notes what a store holds of a backup.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn note_received(&self, backup: &str, store: &str, copies: &[(Label, DateTime<Utc>)]) -> Result<()> {
        let copies: Vec<String> = copies.iter().map(|(label, taken_at)| format!("{label} {}", taken_at.to_rfc3339())).collect();
        let copies = copies.join("\n");
        let note = || {
            let db = self.db();
            // Asked first: to look must not wait for whoever writes.
            let same = "select 1 from received where backup = ?1 and store = ?2 and copies = ?3";
            if db.prepare_cached(same)?.exists(params![backup, store, copies])? {
                return Ok(());
            }
            db.execute("insert or replace into received (backup, store, copies) values (?1, ?2, ?3)", params![backup, store, copies])
                .map(drop)
        };
        note().map_err(|error: rusqlite::Error| failed(&error))
    }

    /// What a store held of a backup when it was read last. `None`: nobody has read it yet.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn received(&self, backup: &str, store: &str) -> Result<Option<Held>> {
        let copies = self
            .db()
            .query_row("select copies from received where backup = ?1 and store = ?2", params![backup, store], |row| {
                row.get::<_, String>(0)
            })
            .optional()
            .map_err(|error| failed(&error))?;
        let parse = |line: &str| {
            let (label, taken_at) = line.split_once(' ')?;
            Some((label.parse().ok()?, taken_at.parse().ok()?))
        };
        Ok(copies.map(|copies| copies.lines().filter_map(parse).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::due::Job;
    use crate::state::Outcome;

    #[test]
    fn copies_are_on_record_and_say_nothing_of_the_runs() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(dir.path()).unwrap();
        let now = "2024-01-15T02:00:00Z".parse().unwrap();
        let id = "x/20240115T010000Z";
        let row = history.begin_copy("x", id, "offsite", now).unwrap();
        assert_eq!(history.last_copy("x", "offsite").unwrap(), None, "it has not ended");
        history.end(row, now, Outcome::Failed, Some("no"), Some(id), true).unwrap();
        let last = history.last_copy("x", "offsite").unwrap().unwrap();
        assert_eq!((last.kind, last.lock(), last.target.as_deref()), (Job::Copy, "x.offsite.copy", Some("offsite")));
        assert_eq!(history.last_copy("x", "other").unwrap(), None);
        history.begin_copy("x", id, "offsite", now).unwrap();
        history.end_broken_copies("x", "offsite", now).unwrap();
        assert_eq!(history.runs(Some("x")).unwrap()[0].outcome.as_deref(), Some("interrupted"));
        assert!(!history.has_stored("x").unwrap() && history.unfinished().unwrap().is_empty());
        assert_eq!(history.last_ended("x").unwrap(), None);
        assert_eq!(history.last_verdict(Job::Dump, "x", false).unwrap(), None);
    }

    #[test]
    fn what_a_store_held_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(dir.path()).unwrap();
        assert_eq!(history.received("x", "offsite").unwrap(), None);
        let one = ("20240115T010000Z".parse().unwrap(), "2024-01-15T01:00:02.5Z".parse().unwrap());
        for copies in [vec![], vec![one], vec![]] {
            history.note_received("x", "offsite", &copies).unwrap();
            history.note_received("x", "offsite", &copies).unwrap();
            assert_eq!(history.received("x", "offsite").unwrap(), Some(copies));
        }
        assert_eq!(history.received("x", "other").unwrap(), None);
    }
}
