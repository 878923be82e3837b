//! The runs of every backup, also the failed and interrupted ones.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::host::Tag;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ok,
    /// Stored, with something that needs a look.
    Problems,
    Failed,
    Cancelled,
    /// It was killed, or the machine went down.
    Interrupted,
    Skipped,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Problems => "problems",
            Outcome::Failed => "failed",
            Outcome::Cancelled => "cancelled",
            Outcome::Interrupted => "interrupted",
            Outcome::Skipped => "skipped",
        }
    }
}

/// A run as `history` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Run {
    pub backup: String,
    pub slot: Option<DateTime<Utc>>,
    pub started_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
    /// `None`: it is under way.
    pub outcome: Option<String>,
    pub error: Option<String>,
    pub id: Option<String>,
}

/// A run that has begun and not ended, as far as the history knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    pub row: i64,
    pub backup: String,
    pub server: String,
    pub tag: Option<Tag>,
}

pub struct History {
    /// Shared by the tasks of a run.
    db: Mutex<Connection>,
}

fn failed(error: &rusqlite::Error) -> Error {
    Error::new(Kind::System, format!("the run history in state_dir: {error}"))
        .hint("if the file history.db is damaged, move it aside: no backup depends on it")
}

fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

impl History {
    /// Opens the history in a folder.
    ///
    /// # Errors
    /// The file cannot be opened, or is none of ours.
    pub fn open(dir: &Path) -> Result<Self> {
        let db = Connection::open(dir.join("history.db")).map_err(|error| failed(&error))?;
        let history = History { db: Mutex::new(db) };
        history.set_up().map_err(|error| failed(&error))?;
        Ok(history)
    }

    fn db(&self) -> MutexGuard<'_, Connection> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_up(&self) -> rusqlite::Result<()> {
        // A run beside a daemon waits for its turn to write.
        self.db().busy_timeout(Duration::from_secs(10))?;
        self.db().execute_batch(
            "create table if not exists runs (
                row integer primary key,
                backup text not null,
                server text not null,
                slot text,
                started_at text not null,
                finished_at text,
                outcome text,
                error text,
                id text,
                tag text
            );
            create index if not exists runs_by_backup on runs (backup, started_at);",
        )
    }

    /// Notes that a run begins, with the mark by which its leftovers can be found.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn begin(&self, backup: &str, server: &str, started_at: DateTime<Utc>, tag: &Tag) -> Result<i64> {
        let db = self.db();
        db.execute(
            "insert into runs (backup, server, started_at, tag) values (?1, ?2, ?3, ?4)",
            params![backup, server, text(started_at), tag.as_str()],
        )
        .map_err(|error| failed(&error))?;
        Ok(db.last_insert_rowid())
    }

    /// Notes the slot of a run under way.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_slot(&self, row: i64, slot: DateTime<Utc>) -> Result<()> {
        self.db().execute("update runs set slot = ?2 where row = ?1", params![row, text(slot)]).map(drop).map_err(|error| failed(&error))
    }

    /// Notes how a run ended. `clean`: nothing of it is left anywhere.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn end(&self, row: i64, at: DateTime<Utc>, outcome: Outcome, error: Option<&str>, id: Option<&str>, clean: bool) -> Result<()> {
        self.db()
            .execute(
                "update runs set finished_at = ?2, outcome = ?3, error = ?4, id = ?5, tag = case when ?6 then null else tag end where row = ?1",
                params![row, text(at), outcome.as_str(), error, id, clean],
            )
            .map(drop)
            .map_err(|error| failed(&error))
    }

    /// Runs that have not ended, and ended ones whose leftovers could not be removed.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn unfinished(&self) -> Result<Vec<Unfinished>> {
        let read = || -> rusqlite::Result<Vec<Unfinished>> {
            let db = self.db();
            let mut statement =
                db.prepare("select row, backup, server, tag from runs where outcome is null or tag is not null order by row")?;
            let rows = statement.query_map([], |row| {
                Ok(Unfinished {
                    row: row.get(0)?,
                    backup: row.get(1)?,
                    server: row.get(2)?,
                    tag: row.get::<_, Option<String>>(3)?.and_then(|tag| Tag::parse(&tag)),
                })
            })?;
            rows.collect()
        };
        read().map_err(|error| failed(&error))
    }

    /// Notes that a run was interrupted, if nothing else is known of its end, and whether what it
    /// left is gone.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn interrupted(&self, row: i64, id: Option<&str>, clean: bool) -> Result<()> {
        self.db()
            .execute(
                "update runs set
                    error = case when outcome is null then 'killed, or the machine went down' else error end,
                    id = coalesce(id, ?2),
                    outcome = coalesce(outcome, 'interrupted'),
                    tag = case when ?3 then null else tag end
                where row = ?1",
                params![row, id, clean],
            )
            .map(drop)
            .map_err(|error| failed(&error))
    }

    /// The slot that a run under way has noted.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn slot(&self, row: i64) -> Result<Option<DateTime<Utc>>> {
        self.db()
            .query_row("select slot from runs where row = ?1", [row], |row| row.get::<_, Option<String>>(0))
            .optional()
            .map(|slot| slot.flatten().and_then(|slot| slot.parse().ok()))
            .map_err(|error| failed(&error))
    }

    /// The runs, newest first, of one backup or of all.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn runs(&self, backup: Option<&str>) -> Result<Vec<Run>> {
        let read = || -> rusqlite::Result<Vec<Run>> {
            let db = self.db();
            let mut statement = db.prepare(
                "select backup, slot, started_at, finished_at, outcome, error, id from runs
                where ?1 is null or backup = ?1 order by started_at desc, row desc",
            )?;
            let time = |text: Option<String>| text.and_then(|text| text.parse().ok());
            let rows = statement.query_map([backup], |row| {
                Ok(Run {
                    backup: row.get(0)?,
                    slot: time(row.get(1)?),
                    started_at: time(row.get(2)?).unwrap_or_default(),
                    finished_at: time(row.get(3)?),
                    outcome: row.get(4)?,
                    error: row.get(5)?,
                    id: row.get(6)?,
                })
            })?;
            rows.collect()
        };
        read().map_err(|error| failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_from_its_beginning_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(dir.path()).unwrap();
        let at = "2024-01-15T01:00:00Z".parse().unwrap();
        let tag = Tag::random();
        let first = history.begin("x", "main", at, &tag).unwrap();
        history.set_slot(first, at).unwrap();
        assert_eq!(
            history.unfinished().unwrap(),
            [Unfinished { row: first, backup: "x".into(), server: "main".into(), tag: Some(tag.clone()) }]
        );
        history.end(first, at, Outcome::Ok, None, Some("x/20240115T010000Z"), true).unwrap();
        assert!(history.unfinished().unwrap().is_empty());

        let second = history.begin("x", "main", at, &tag).unwrap();
        history.interrupted(second, None, false).unwrap();
        assert_eq!(history.unfinished().unwrap().len(), 1, "what it left is still there");
        history.interrupted(second, None, true).unwrap();
        assert!(history.unfinished().unwrap().is_empty());
        let runs = history.runs(Some("x")).unwrap();
        assert_eq!(runs.iter().map(|run| run.outcome.as_deref().unwrap()).collect::<Vec<_>>(), ["interrupted", "ok"]);
        assert_eq!(runs[1].slot, Some(at));
        assert!(history.runs(Some("y")).unwrap().is_empty());
    }
}
