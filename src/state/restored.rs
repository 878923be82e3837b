//! Restores in the history. They say nothing of how a backup stands.

use chrono::{DateTime, Utc};
use rusqlite::params;

use super::history::{History, failed, text};
use crate::error::Result;

impl History {
    /// Notes that a restore of a backup begins, and to where. `lock` is held while it is under way.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn begin_restore(&self, backup: &str, id: &str, target: &str, lock: &str, started_at: DateTime<Utc>) -> Result<i64> {
        let db = self.db();
        db.execute(
            "insert into runs (kind, backup, server, id, target, lock, started_at) values ('restore', ?1, '', ?2, ?3, ?4, ?5)",
            params![backup, id, target, lock, text(started_at)],
        )
        .map_err(|error| failed(&error))?;
        Ok(db.last_insert_rowid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::due::Job;
    use crate::state::Outcome;

    #[test]
    fn a_restore_is_on_record_and_says_nothing_of_the_backup() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(dir.path()).unwrap();
        let now = "2024-01-15T02:00:00Z".parse().unwrap();
        let id = "x/20240115T010000Z";
        let row = history.begin_restore("x", id, "shop on server main", "restore:1", now).unwrap();
        let run = history.runs(Some("x")).unwrap().pop().unwrap();
        assert_eq!((run.kind, run.lock(), run.target.as_deref()), (Job::Restore, "restore:1", Some("shop on server main")));
        history.end(row, now, Outcome::Failed, Some("no"), Some(id), true).unwrap();
        assert_eq!(history.runs(None).unwrap()[0].error.as_deref(), Some("no"));
        assert!(
            !history.has_stored("x").unwrap() && history.unfinished().unwrap().is_empty() && history.broken_drills().unwrap().is_empty()
        );
        for job in [Job::Dump, Job::Drill] {
            assert_eq!(history.last_verdict(job, "x", false).unwrap(), None);
            assert_eq!(history.under_way(job, "x").unwrap(), None);
        }
        assert_eq!(history.last_ended("x").unwrap(), None);
    }
}
