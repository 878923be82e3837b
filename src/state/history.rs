//! The runs of every backup, also the failed and interrupted ones.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::host::Tag;
use crate::schedule::due::{Attempted, Job, Record};

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
    /// Only a dump says how the backup stands; a drill proves one that is there.
    pub kind: Job,
    pub slot: Option<DateTime<Utc>>,
    pub started_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
    /// `None`: it is under way.
    pub outcome: Option<String>,
    pub error: Option<String>,
    /// Of the backup that was made, drilled or restored.
    pub id: Option<String>,
    /// Where a restore or a copy went to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The one that is held while a restore or a copy is under way.
    #[serde(skip)]
    pub lock: Option<String>,
}

impl Run {
    /// A killed run could not note its end.
    pub fn interrupt(&mut self) {
        let next = if self.kind == Job::Dump { "run" } else { self.kind.as_str() };
        self.outcome = Some(Outcome::Interrupted.as_str().to_owned());
        self.error = Some(format!("killed, or the machine went down; the next {next} removes what it left"));
    }

    /// The lock that is held while it is under way.
    pub fn lock(&self) -> &str {
        match self.kind {
            Job::Dump => &self.backup,
            Job::Drill => super::DRILL,
            Job::Restore | Job::Copy => self.lock.as_deref().unwrap_or_default(),
        }
    }
}

/// A run that has begun and not ended, as far as the history knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    pub row: i64,
    pub backup: String,
    pub server: String,
    pub tag: Option<Tag>,
}

/// What later versions added to the runs, in their order.
const COLUMNS: [&str; 5] = [
    "scheduled integer not null default 0",
    "may_pass integer not null default 0",
    "kind text not null default 'dump'",
    "target text",
    "lock text",
];

pub struct History {
    /// Shared by the tasks of a run.
    db: Mutex<Connection>,
}

pub(super) fn failed(error: &rusqlite::Error) -> Error {
    Error::new(Kind::System, format!("the run history in state_dir: {error}"))
        .hint("if the file history.db is damaged, move it aside: no backup depends on it")
}

pub(super) fn text(time: DateTime<Utc>) -> String {
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

    pub(super) fn db(&self) -> MutexGuard<'_, Connection> {
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
            create index if not exists runs_by_backup on runs (backup, started_at);
            create table if not exists schedules (
                backup text primary key,
                schedule text not null,
                since text not null
            );
            create table if not exists received (
                backup text not null,
                store text not null,
                copies text not null,
                primary key (backup, store)
            );",
        )?;
        self.add_columns()?;
        self.db().execute_batch("create index if not exists runs_by_slot on runs (backup, slot) where scheduled = 1;")
    }

    /// Files of earlier versions lack what schedules, drills and restores need. What stands in them are dumps.
    fn add_columns(&self) -> rusqlite::Result<()> {
        let mut db = self.db();
        let lacks = |db: &Connection, column: &str| -> rusqlite::Result<bool> {
            let name = column.split(' ').next().unwrap_or_default();
            db.query_row("select count(*) = 0 from pragma_table_info('runs') where name = ?1", [name], |row| row.get(0))
        };
        // Asked first: to look must not wait for whoever writes.
        if !lacks(&db, COLUMNS[COLUMNS.len() - 1])? {
            return Ok(());
        }
        // All or none, for another may open the file at the same time.
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for column in COLUMNS {
            if lacks(&tx, column)? {
                tx.execute_batch(&format!("alter table runs add column {column}"))?;
            }
        }
        tx.commit()
    }

    /// Notes that a run begins, with the mark by which its leftovers can be found, and the slot that
    /// it is for if the schedule asks for it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn begin(&self, backup: &str, server: &str, started_at: DateTime<Utc>, tag: &Tag, slot: Option<DateTime<Utc>>) -> Result<i64> {
        let db = self.db();
        db.execute(
            "insert into runs (backup, server, started_at, tag, slot, scheduled) values (?1, ?2, ?3, ?4, ?5, ?6)",
            params![backup, server, text(started_at), tag.as_str(), slot.map(text), slot.is_some()],
        )
        .map_err(|error| failed(&error))?;
        Ok(db.last_insert_rowid())
    }

    /// Notes a run or a drill that was passed over.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn skipped(&self, job: Job, backup: &str, server: &str, at: DateTime<Utc>, slot: Option<DateTime<Utc>>, why: &str) -> Result<()> {
        self.db()
            .execute(
                "insert into runs (kind, backup, server, started_at, finished_at, outcome, error, slot, scheduled) values (?1, ?2, ?3, ?4, ?4, 'skipped', ?5, ?6, ?7)",
                params![job.as_str(), backup, server, text(at), why, slot.map(text), slot.is_some()],
            )
            .map(drop)
            .map_err(|error| failed(&error))
    }

    /// Notes that a failed run is worth another try.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn may_pass(&self, row: i64) -> Result<()> {
        self.db().execute("update runs set may_pass = 1 where row = ?1", [row]).map(drop).map_err(|error| failed(&error))
    }

    /// What is on record of a schedule that a daemon obeys. One that is seen for the first time, or
    /// that reads otherwise than before, has no missed slots.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn record(&self, job: Job, backup: &str, schedule: &str, now: DateTime<Utc>) -> Result<Record> {
        let key = schedule_key(job, backup);
        let note = || {
            let db = self.db();
            // Asked first: to look must not wait for whoever writes.
            let known = "select 1 from schedules where backup = ?1 and schedule = ?2 and since <= ?3";
            if db.prepare_cached(known)?.exists(params![key, schedule, text(now)])? {
                return Ok(());
            }
            db.execute("insert or replace into schedules (backup, schedule, since) values (?1, ?2, ?3)", params![key, schedule, text(now)])
                .map(drop)
        };
        note().map_err(|error: rusqlite::Error| failed(&error))?;
        Ok(self.recorded(job, backup, now)?.unwrap_or(Record { since: now, last: None }))
    }

    /// What is on record of a schedule; `None`: no daemon has seen it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn recorded(&self, job: Job, backup: &str, now: DateTime<Utc>) -> Result<Option<Record>> {
        let ask = || -> rusqlite::Result<Option<Record>> {
            let db = self.db();
            let mut since = db.prepare_cached("select since from schedules where backup = ?1")?;
            let Some(since) = since.query_row([schedule_key(job, backup)], |row| row.get::<_, String>(0)).optional()? else {
                return Ok(None);
            };
            let mut statement = db.prepare_cached(
                "select slot, sum(outcome is not 'skipped'),
                    max(case when may_pass or outcome = 'interrupted' then coalesce(finished_at, started_at) end),
                    max(coalesce(outcome in ('ok', 'problems', 'skipped') or id is not null, false))
                from runs where backup = ?1 and kind = ?3 and scheduled = 1 and slot = (
                    select max(slot) from runs where backup = ?1 and kind = ?3 and scheduled = 1 and slot <= ?2)
                group by slot",
            )?;
            let last = statement
                .query_row(params![backup, text(now), job.as_str()], |row| {
                    let settled: bool = row.get(3)?;
                    let may_pass = row.get::<_, Option<String>>(2)?.filter(|_| !settled);
                    Ok((row.get::<_, String>(0)?, row.get(1)?, may_pass))
                })
                .optional()?
                .and_then(|(slot, attempts, may_pass)| {
                    Some(Attempted { slot: slot.parse().ok()?, attempts, may_pass: may_pass.and_then(|time| time.parse().ok()) })
                });
            Ok(Some(Record { since: since.parse().unwrap_or(now), last }))
        };
        ask().map_err(|error| failed(&error))
    }

    /// Another number whenever another connection has written.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn version(&self) -> Result<i64> {
        self.db().query_row("pragma data_version", [], |row| row.get(0)).map_err(|error| failed(&error))
    }

    /// The latest slot on record that is still to come: the clock has jumped back.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn future_slot(&self, backup: &str, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>> {
        self.db()
            .query_row(
                "select max(slot) from runs where backup = ?1 and kind = 'dump' and scheduled = 1 and slot > ?2",
                params![backup, text(now)],
                |row| row.get::<_, Option<String>>(0),
            )
            .map(|slot| slot.and_then(|slot| slot.parse().ok()))
            .map_err(|error| failed(&error))
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

    /// Whether a run has ever stored a backup.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn has_stored(&self, backup: &str) -> Result<bool> {
        self.db()
            .query_row(
                "select exists (select 1 from runs where backup = ?1 and kind = 'dump' and id is not null and outcome in ('ok', 'problems'))",
                [backup],
                |row| row.get(0),
            )
            .map_err(|error| failed(&error))
    }

    /// Whether a backup was made here, as far as can be told: a run that never said what it made may have.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn has_made(&self, backup: &str, id: &str) -> Result<bool> {
        self.db()
            .query_row(
                "select exists (select 1 from runs where backup = ?1 and kind = 'dump' and (id = ?2 or outcome is null))",
                [backup, id],
                |row| row.get(0),
            )
            .map_err(|error| failed(&error))
    }

    /// Runs that have not ended, and ended ones whose leftovers could not be removed.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn unfinished(&self) -> Result<Vec<Unfinished>> {
        let read = || -> rusqlite::Result<Vec<Unfinished>> {
            let db = self.db();
            let mut statement = db.prepare(
                "select row, backup, server, tag from runs where kind = 'dump' and (outcome is null or tag is not null) order by row",
            )?;
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
        self.select("?1 is null or backup = ?1", backup)
    }

    /// The runs of a backup that began after a moment, newest first.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn runs_since(&self, backup: &str, since: DateTime<Utc>) -> Result<Vec<Run>> {
        // Times are written in one form, whose order is that of the text.
        self.select(&format!("backup = ?1 and started_at >= '{}'", text(since)), Some(backup))
    }

    /// The first slot of a backup's schedule that was ever begun or passed over.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn first_slot(&self, backup: &str) -> Result<Option<DateTime<Utc>>> {
        self.db()
            .query_row("select min(slot) from runs where backup = ?1 and kind = 'dump' and scheduled = 1", [backup], |row| {
                row.get::<_, Option<String>>(0)
            })
            .map(|slot| slot.and_then(|slot| slot.parse().ok()))
            .map_err(|error| failed(&error))
    }

    /// The last run or drill of a backup that says how things stand: one under way, one that a person
    /// stopped and one that did not begin do not. `running`: somebody holds its lock; else one without
    /// an end was interrupted.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn last_verdict(&self, job: Job, backup: &str, running: bool) -> Result<Option<Run>> {
        let under_way = if running { "" } else { "outcome is null or" };
        let telling = last_of(
            job,
            &format!("({under_way} outcome in ('ok', 'problems', 'failed', 'interrupted') or outcome = 'cancelled' and scheduled = 1)"),
        );
        let mut last = self.select(&telling, Some(backup))?.pop();
        if let Some(run) = last.as_mut().filter(|run| run.outcome.is_none()) {
            run.interrupt();
        }
        Ok(last)
    }

    /// The last run of a backup that has ended, however.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn last_ended(&self, backup: &str) -> Result<Option<Run>> {
        Ok(self.select(&last_of(Job::Dump, "outcome is not null"), Some(backup))?.pop())
    }

    /// The run or drill that has ended last, whatever it was of. A restore is no work of the daemon's, and
    /// copies follow their runs.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn newest_ended(&self) -> Result<Option<Run>> {
        let newest =
            "?1 is null and row = (select row from runs where finished_at is not null and outcome <> 'skipped' and kind not in ('restore', 'copy')
            order by finished_at desc, row desc limit 1)";
        Ok(self.select(newest, None)?.pop())
    }

    /// The run or drill of a backup that has begun and not ended, as far as the history knows.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn under_way(&self, job: Job, backup: &str) -> Result<Option<Run>> {
        Ok(self.select(&last_of(job, "outcome is null"), Some(backup))?.pop())
    }

    /// How long the last good run or drill of a backup took.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn last_duration(&self, backup: &str, job: Job) -> Result<Option<Duration>> {
        let run = self.select(&last_of(job, "id is not null and outcome in ('ok', 'problems')"), Some(backup))?.pop();
        Ok(run.and_then(|run| (run.finished_at? - run.started_at).to_std().ok()))
    }

    pub(super) fn select(&self, condition: &str, backup: Option<&str>) -> Result<Vec<Run>> {
        let read = || -> rusqlite::Result<Vec<Run>> {
            let db = self.db();
            let mut statement = db.prepare_cached(&format!(
                "select backup, slot, started_at, finished_at, outcome, error, id, kind, target, lock from runs
                where {condition} order by started_at desc, row desc"
            ))?;
            let time = |text: Option<String>| text.and_then(|text| text.parse().ok());
            let rows = statement.query_map([backup], |row| {
                Ok(Run {
                    backup: row.get(0)?,
                    kind: kind(&row.get::<_, String>(7)?),
                    slot: time(row.get(1)?),
                    started_at: time(row.get(2)?).unwrap_or_default(),
                    finished_at: time(row.get(3)?),
                    outcome: row.get(4)?,
                    error: row.get(5)?,
                    id: row.get(6)?,
                    target: row.get(8)?,
                    lock: row.get(9)?,
                })
            })?;
            rows.collect()
        };
        read().map_err(|error| failed(&error))
    }
}

fn kind(text: &str) -> Job {
    [Job::Drill, Job::Restore, Job::Copy].into_iter().find(|job| job.as_str() == text).unwrap_or(Job::Dump)
}

/// The condition for the last row of a backup that fits.
fn last_of(job: Job, fits: &str) -> String {
    let kind = job.as_str();
    format!("backup = ?1 and row = (select max(row) from runs where backup = ?1 and kind = '{kind}' and {fits})")
}

/// The name of a schedule on record. No backup can have a slash in its name.
fn schedule_key(job: Job, backup: &str) -> String {
    match job {
        Job::Dump => backup.to_owned(),
        Job::Drill | Job::Restore | Job::Copy => format!("{backup}/{}", job.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_of_a_schedule() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(dir.path()).unwrap();
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let (seen, slot, now) = (at("2024-01-14T00:00:00Z"), at("2024-01-15T01:00:00Z"), at("2024-01-15T02:00:00Z"));
        assert_eq!(history.recorded(Job::Dump, "x", now).unwrap(), None);
        assert_eq!(history.record(Job::Dump, "x", "0 1 * * *", seen).unwrap(), Record { since: seen, last: None });
        let begin = |slot| history.begin("x", "main", now, &Tag::random(), Some(slot)).unwrap();
        let row = begin(slot);
        let last = |attempts, may_pass| Some(Attempted { slot, attempts, may_pass });
        assert_eq!(history.record(Job::Dump, "x", "0 1 * * *", now).unwrap(), Record { since: seen, last: last(1, None) });
        history.end(row, now, Outcome::Failed, Some("no"), None, true).unwrap();
        assert_eq!(history.record(Job::Dump, "x", "0 1 * * *", now).unwrap().last, last(1, None), "it will not pass");
        history.may_pass(row).unwrap();
        assert_eq!(history.record(Job::Dump, "x", "0 1 * * *", now).unwrap().last, last(1, Some(now)));
        let second = begin(slot);
        history.interrupted(second, None, true).unwrap();
        assert_eq!(history.record(Job::Dump, "x", "0 1 * * *", now).unwrap().last, last(2, Some(now)));
        assert_eq!(history.last_verdict(Job::Dump, "x", false).unwrap().unwrap().outcome.as_deref(), Some("interrupted"));
        let third = begin(slot);
        history.end(third, now, Outcome::Ok, None, Some("x/20240115T010000Z"), true).unwrap();
        assert_eq!(history.record(Job::Dump, "x", "0 1 * * *", now).unwrap().last, last(3, None));
        assert_eq!(history.last_verdict(Job::Dump, "x", false).unwrap().unwrap().outcome.as_deref(), Some("ok"));
        // Begun while the clock was a year ahead.
        begin(at("2025-01-15T01:00:00Z"));
        assert_eq!(history.record(Job::Dump, "x", "0 1 * * *", now).unwrap().last, last(3, None));
        assert_eq!(history.future_slot("x", now).unwrap(), Some(at("2025-01-15T01:00:00Z")));
        // Another schedule begins anew.
        assert_eq!(history.record(Job::Dump, "x", "0 3 * * *", now).unwrap().since, now);
        assert_eq!(history.recorded(Job::Dump, "x", now).unwrap().map(|record| record.since), Some(now));
    }

    #[test]
    fn a_run_from_its_beginning_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(dir.path()).unwrap();
        let at = "2024-01-15T01:00:00Z".parse().unwrap();
        let tag = Tag::random();
        let first = history.begin("x", "main", at, &tag, None).unwrap();
        history.set_slot(first, at).unwrap();
        assert_eq!(
            history.unfinished().unwrap(),
            [Unfinished { row: first, backup: "x".into(), server: "main".into(), tag: Some(tag.clone()) }]
        );
        history.end(first, at, Outcome::Ok, None, Some("x/20240115T010000Z"), true).unwrap();
        assert!(history.unfinished().unwrap().is_empty());

        let second = history.begin("x", "main", at, &tag, None).unwrap();
        history.interrupted(second, None, false).unwrap();
        assert_eq!(history.unfinished().unwrap().len(), 1, "what it left is still there");
        history.interrupted(second, None, true).unwrap();
        assert!(history.unfinished().unwrap().is_empty());
        let runs = history.runs(Some("x")).unwrap();
        assert_eq!(runs.iter().map(|run| run.outcome.as_deref().unwrap()).collect::<Vec<_>>(), ["interrupted", "ok"]);
        assert_eq!(runs[1].slot, Some(at));
        assert!(history.runs(Some("y")).unwrap().is_empty());
    }

    #[test]
    fn a_file_of_an_earlier_version_is_opened_and_its_rows_are_dumps() {
        let first = "create table runs (row integer primary key, backup text not null, server text not null, slot text,
            started_at text not null, finished_at text, outcome text, error text, id text, tag text);";
        let second = "alter table runs add column scheduled integer not null default 0;
            alter table runs add column may_pass integer not null default 0;";
        for version in [first.to_owned(), format!("{first}{second}")] {
            let dir = tempfile::tempdir().unwrap();
            let row = "insert into runs (backup, server, started_at, finished_at, outcome, id)
                values ('x', 'main', '2024-01-15T01:00:00Z', '2024-01-15T01:00:09Z', 'ok', 'x/20240115T010000Z')";
            Connection::open(dir.path().join("history.db")).unwrap().execute_batch(&format!("{version}{row}")).unwrap();
            // Two at once, as a command beside a daemon.
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| History::open(dir.path()).unwrap());
                }
            });
            let history = History::open(dir.path()).unwrap();
            let runs = history.runs(Some("x")).unwrap();
            assert_eq!(runs.iter().map(|run| (run.kind, run.outcome.as_deref())).collect::<Vec<_>>(), [(Job::Dump, Some("ok"))]);
            assert_eq!(history.last_duration("x", Job::Dump).unwrap(), Some(Duration::from_secs(9)));
            assert!(history.has_stored("x").unwrap());
            assert!(history.has_made("x", "x/20240115T010000Z").unwrap() && !history.has_made("x", "x/20240116T010000Z").unwrap());
        }
    }
}
