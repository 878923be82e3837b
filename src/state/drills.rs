//! Drills in the history. Only one goes on at a time, so all that has no end was broken off once their
//! lock is free.

use chrono::{DateTime, Utc};
use rusqlite::params;

use super::history::{History, Outcome, failed, text};
use crate::error::Result;

impl History {
    /// Notes that the drill of a backup begins. It has no mark: only one goes on at
    /// a time, so all that drills left is swept under their lock.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn begin_drill(&self, backup: &str, id: &str, started_at: DateTime<Utc>, slot: Option<DateTime<Utc>>) -> Result<i64> {
        let db = self.db();
        db.execute(
            "insert into runs (kind, backup, server, id, started_at, slot, scheduled) values ('drill', ?1, '', ?2, ?3, ?4, ?5)",
            params![backup, id, text(started_at), slot.map(text), slot.is_some()],
        )
        .map_err(|error| failed(&error))?;
        Ok(db.last_insert_rowid())
    }

    /// Notes a drill that could not begin. In one step: without its lock one that has no end would be
    /// taken for broken off.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn drill_not_begun(&self, backup: &str, at: DateTime<Utc>, outcome: Outcome, error: &str, slot: DateTime<Utc>) -> Result<()> {
        self.db()
            .execute(
                "insert into runs (kind, backup, server, started_at, finished_at, outcome, error, slot, scheduled)
                values ('drill', ?1, '', ?2, ?2, ?3, ?4, ?5, 1)",
                params![backup, text(at), outcome.as_str(), error, text(slot)],
            )
            .map(drop)
            .map_err(|error| failed(&error))
    }

    /// Drills that have begun and not ended. The caller holds their lock: all of them were broken off.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn broken_drills(&self) -> Result<Vec<(i64, String)>> {
        let read = || -> rusqlite::Result<Vec<(i64, String)>> {
            let db = self.db();
            let mut statement = db.prepare("select row, backup from runs where kind = 'drill' and outcome is null order by row")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        };
        read().map_err(|error| failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Tag;
    use crate::schedule::due::Job;

    #[test]
    fn a_drill_is_on_record_and_says_nothing_of_the_runs() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(dir.path()).unwrap();
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let (slot, now) = (at("2024-01-15T01:00:00Z"), at("2024-01-15T02:00:00Z"));
        let id = Some("x/20240115T010000Z");
        let drill = |outcome: Option<Outcome>| {
            let row = history.begin_drill("x", "x/20240115T010000Z", now, Some(slot)).unwrap();
            if let Some(outcome) = outcome {
                history.end(row, now, outcome, Some("why"), id, true).unwrap();
            }
            row
        };
        history.record(Job::Drill, "x", "@weekly", slot).unwrap();
        drill(Some(Outcome::Ok));
        assert!(!history.has_stored("x").unwrap(), "it has stored nothing");
        let run = history.begin("x", "main", now, &Tag::random(), None).unwrap();
        history.end(run, now, Outcome::Failed, Some("no"), None, true).unwrap();
        let failed = drill(Some(Outcome::Failed));
        for (job, outcome) in [(Job::Dump, "failed"), (Job::Drill, "failed")] {
            let last = history.last_verdict(job, "x", false).unwrap().unwrap();
            assert_eq!((last.kind, last.outcome.as_deref()), (job, Some(outcome)));
        }
        assert_eq!(history.last_ended("x").unwrap().unwrap().kind, Job::Dump);
        assert_eq!(history.recorded(Job::Dump, "x", now).unwrap(), None, "the schedule is the drills'");
        let attempted = history.recorded(Job::Drill, "x", now).unwrap().unwrap().last.unwrap();
        assert_eq!((attempted.slot, attempted.may_pass), (slot, None));

        let killed = drill(None);
        assert!(history.unfinished().unwrap().is_empty(), "its lock is not that of the backup");
        assert_eq!(history.broken_drills().unwrap(), [(killed, "x".to_owned())]);
        assert_eq!(history.under_way(Job::Drill, "x").unwrap().unwrap().lock(), "DRILL");
        assert_eq!(history.under_way(Job::Dump, "x").unwrap(), None);
        let verdict = |drilling| history.last_verdict(Job::Drill, "x", drilling).unwrap().unwrap().outcome;
        assert_eq!((verdict(true).as_deref(), verdict(false).as_deref()), (Some("failed"), Some("interrupted")));
        history.interrupted(killed, None, true).unwrap();
        assert!(history.broken_drills().unwrap().is_empty() && killed > failed);
        assert_eq!(verdict(true).as_deref(), Some("interrupted"));
    }
}
