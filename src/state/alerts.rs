//! Open alerts, and the outbox of what is still to be told about them. What stands here survives a
//! crash: an alert and its message are written in one transaction, before anything is sent.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::outbox::put;
use crate::alert::letter::Letter;
use crate::alert::policy::{Known, Step, Tell, Told};
use crate::error::{Error, Kind, Result};
use crate::retain::doubt::Watched;
use crate::retain::terms::Terms;

pub struct Alerts {
    pub(super) db: Mutex<Connection>,
}

/// What becomes of an alert, and the messages about it.
#[derive(Debug, Clone)]
pub struct Change {
    pub step: Step,
    pub messages: Vec<(Tell, Letter)>,
}

/// The file that a daemon has loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    pub at: Option<DateTime<Utc>>,
    /// Why the file as it is now was not taken, and since when.
    pub error: Option<(DateTime<Utc>, String)>,
    /// What its last edit changed, a line each, and when that was taken over.
    pub changes: Option<(DateTime<Utc>, Vec<String>)>,
}

pub(super) fn failed(error: &rusqlite::Error) -> Error {
    Error::new(Kind::System, format!("the alerts in state_dir: {error}"))
        .hint("if the file alerts.db is damaged, move it aside: what is wrong is found anew")
}

pub(super) fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

pub(super) fn time(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<DateTime<Utc>>> {
    Ok(row.get::<_, Option<String>>(column)?.and_then(|text| text.parse().ok()))
}

impl Alerts {
    /// Opens the alerts in a folder.
    ///
    /// # Errors
    /// The file cannot be opened, or is none of ours.
    pub fn open(dir: &Path) -> Result<Self> {
        let mut db = Connection::open(dir.join("alerts.db")).map_err(|error| failed(&error))?;
        let mut set_up = || {
            db.busy_timeout(Duration::from_secs(10))?;
            db.execute_batch(FIRST)?;
            migrate(&mut db)
        };
        set_up().map_err(|error| failed(&error))?;
        Ok(Alerts { db: Mutex::new(db) })
    }

    pub(super) fn db(&self) -> MutexGuard<'_, Connection> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open alerts, by key.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn known(&self) -> Result<Vec<Known>> {
        read_known(&self.db()).map_err(|error| failed(&error))
    }

    /// Lets `decide` compare what is on record with what is wrong now, and writes what follows from
    /// it, with its messages, in one transaction.
    ///
    /// # Errors
    /// The file cannot be written; nothing has changed then.
    pub fn settle(&self, now: DateTime<Utc>, decide: impl FnOnce(&[Known]) -> Vec<Change>) -> Result<Vec<Step>> {
        let work = || {
            let mut db = self.db();
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let changes = decide(&read_known(&tx)?);
            for Change { step, messages } in &changes {
                match step {
                    Step::Open(problem) | Step::Remind(problem) => {
                        tx.execute(
                            "insert into alerts (key, since, summary) values (?1, ?2, ?3) on conflict (key) do update set summary = ?3",
                            params![problem.key, text(problem.since), problem.summary],
                        )?;
                    }
                    Step::Reword(problem) => {
                        tx.execute("update alerts set summary = ?2 where key = ?1", params![problem.key, problem.summary])?;
                    }
                    Step::Close(known) => {
                        tx.execute("delete from alerts where key = ?1", [&known.key])?;
                        tx.execute("delete from told where key = ?1", [&known.key])?;
                    }
                }
                for (tell, letter) in messages {
                    if !matches!(step, Step::Close(_)) {
                        note_told(&tx, step.key(), &tell.channel, &tell.to, now)?;
                    }
                    if tell.is_heard {
                        put(&tx, tell, letter, now)?;
                    }
                }
            }
            tx.commit()?;
            Ok(changes.into_iter().map(|change| change.step).collect())
        };
        work().map_err(|error| failed(&error))
    }

    /// What is remembered of the clocks, after `look` had a look at it.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn watch_clock(&self, now: DateTime<Utc>, look: impl FnOnce(Option<Watched>) -> Watched) -> Result<Watched> {
        let work = || {
            let mut db = self.db();
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value: Option<String> = tx.query_row("select value from facts where name = 'clock'", [], |row| row.get(0)).optional()?;
            let before = value.and_then(|value| serde_json::from_str(&value).ok());
            let watched = look(before.clone());
            if before.as_ref() != Some(&watched) {
                let value = serde_json::to_string(&watched).unwrap_or_default();
                tx.execute("insert or replace into facts (name, at, value) values ('clock', ?1, ?2)", params![text(now), value])?;
            }
            tx.commit()?;
            Ok(watched)
        };
        work().map_err(|error| failed(&error))
    }

    /// Which file a daemon has loaded.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn loaded(&self) -> Result<Loaded> {
        let read = || {
            let db = self.db();
            let mut loaded = Loaded::default();
            let mut statement = db.prepare_cached("select name, at, value from facts")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let at = time(row, "at")?;
                match row.get::<_, String>("name")?.as_str() {
                    "loaded" => loaded.at = at,
                    "changes" => {
                        let lines = serde_json::from_str(&row.get::<_, String>("value")?).unwrap_or_default();
                        loaded.changes = Some((at.unwrap_or_default(), lines));
                    }
                    "error" => loaded.error = Some((at.unwrap_or_default(), row.get("value")?)),
                    _ => {}
                }
            }
            Ok(loaded)
        };
        read().map_err(|error: rusqlite::Error| failed(&error))
    }

    /// Notes that the file was loaded, or why it was not.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_loaded(&self, result: std::result::Result<(), &str>, now: DateTime<Utc>) -> Result<()> {
        let db = self.db();
        let write = || match result {
            Ok(()) => {
                db.execute("delete from facts where name = 'error'", [])?;
                db.execute("insert or replace into facts (name, at, value) values ('loaded', ?1, '')", [text(now)])
            }
            Err(error) => db.execute(
                "insert into facts (name, at, value) values ('error', ?1, ?2) on conflict (name) do update set value = ?2",
                params![text(now), error],
            ),
        };
        write().map(drop).map_err(|error| failed(&error))
    }
}

/// The name under which the terms of a backup in a store are kept.
fn of_terms(backup: &str, store: &str) -> String {
    // No name has a slash in it.
    format!("terms/{backup}/{store}")
}

impl Alerts {
    /// Notes what an edit of the file has changed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_changes(&self, lines: &[String], now: DateTime<Utc>) -> Result<()> {
        let value = serde_json::to_string(lines).unwrap_or_default();
        self.db()
            .execute("insert or replace into facts (name, at, value) values ('changes', ?1, ?2)", params![text(now), value])
            .map(drop)
            .map_err(|error| failed(&error))
    }

    /// What retention last obeyed for a backup in a store.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn terms(&self, backup: &str, store: &str) -> Result<Option<Terms>> {
        let value = self
            .db()
            .query_row("select value from facts where name = ?1", [of_terms(backup, store)], |row| row.get::<_, String>(0))
            .optional()
            .map_err(|error| failed(&error))?;
        let read = |value: String| {
            serde_json::from_str(&value).map_err(|error| {
                let why =
                    format!("what retention obeyed for backup {backup} in store {store} cannot be read, so nothing is deleted: {error}");
                Error::new(Kind::System, why).hint(format!("pgvigil prune {backup} takes the retention of the file for meant"))
            })
        };
        value.map(read).transpose()
    }

    /// Notes what retention obeys from now on; with `only_first` nothing that was obeyed before is lost.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_terms(&self, backup: &str, store: &str, terms: &Terms, now: DateTime<Utc>, only_first: bool) -> Result<()> {
        let value = serde_json::to_string(terms).unwrap_or_default();
        let or = if only_first { "ignore" } else { "replace" };
        self.db()
            .execute(
                &format!("insert or {or} into facts (name, at, value) values (?1, ?2, ?3)"),
                params![of_terms(backup, store), text(now), value],
            )
            .map(drop)
            .map_err(|error| failed(&error))
    }
}

/// Writes down who was told that an alert is open.
pub(super) fn note_told(db: &Connection, key: &str, channel: &str, to: &str, now: DateTime<Utc>) -> rusqlite::Result<()> {
    db.execute("insert or replace into told (key, channel, recipient, at) values (?1, ?2, ?3, ?4)", params![key, channel, to, text(now)])
        .map(drop)
}

/// The tables as the first version made them; what came later is in [`migrate`].
const FIRST: &str = "create table if not exists alerts (key text primary key, since text not null, summary text not null, told_at text);
    create table if not exists outbox (
        row integer primary key autoincrement,
        recipient text not null,
        key text not null,
        state text not null,
        subject text not null,
        text text not null,
        html text not null,
        created_at text not null,
        attempts integer not null default 0,
        next_try_at text not null,
        claimed_until text,
        claimed_by_daemon integer,
        last_error text
    );
    create table if not exists facts (name text primary key, at text not null, value text not null);";

/// More channels than mail, and for each alert who was told of it. The first version told everybody by
/// mail at once.
const CHANNELS: &str = "alter table outbox add column channel text not null default 'email';
    alter table outbox add column not_before text;
    alter table outbox add column event text;
    alter table outbox add column fell_back integer not null default 0;
    create table told (key text not null, channel text not null, recipient text not null, at text not null, primary key (key, channel, recipient));
    insert into told select key, 'email', '*', told_at from alerts where told_at is not null;
    pragma user_version = 1;";

/// Brings a file up to date; two that come at once agree on the first.
fn migrate(db: &mut Connection) -> rusqlite::Result<()> {
    let version = |db: &Connection| db.query_row("pragma user_version", [], |row| row.get::<_, i64>(0));
    if version(db)? >= 1 {
        return Ok(());
    }
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if version(&tx)? < 1 {
        tx.execute_batch(CHANNELS)?;
    }
    tx.commit()
}

fn read_known(db: &Connection) -> rusqlite::Result<Vec<Known>> {
    let mut told: BTreeMap<String, Vec<Told>> = BTreeMap::new();
    let mut statement = db.prepare_cached("select * from told order by key, channel, recipient")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let one = Told { channel: row.get("channel")?, to: row.get("recipient")?, at: time(row, "at")?.unwrap_or_default() };
        told.entry(row.get("key")?).or_default().push(one);
    }
    let mut statement = db.prepare_cached("select * from alerts order by key")?;
    let rows = statement.query_map([], |row| {
        let key: String = row.get("key")?;
        let told = told.remove(&key).unwrap_or_default();
        Ok(Known { since: time(row, "since")?.unwrap_or_default(), summary: row.get("summary")?, told, key })
    })?;
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + secs, 0).unwrap()
    }

    /// A file of the first version, with an alert that was told, and its mail still to be sent.
    #[test]
    fn a_file_of_the_first_version_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let db = Connection::open(dir.path().join("alerts.db")).unwrap();
        db.execute_batch(FIRST).unwrap();
        db.execute_batch(
            "insert into alerts values ('backup/x/failed', '2026-11-22T01:00:00.000Z', 'it failed', '2026-11-22T01:00:01.000Z');
            insert into alerts values ('backup/y/failed', '2026-11-22T01:00:00.000Z', 'it failed', null);
            insert into outbox (recipient, key, state, subject, text, html, created_at, next_try_at, attempts, last_error)
                values ('a@b', 'backup/x/failed', 'open', '[pgvigil] PROBLEM: it failed', 'text', '<p>', '2026-11-22T01:00:01.000Z', '2026-11-22T01:00:01.000Z', 3, 'no');
            insert into facts values ('loaded', '2026-11-22T01:00:00.000Z', '');",
        )
        .unwrap();
        drop(db);
        // Several that come at once.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| Alerts::open(dir.path()).unwrap());
            }
        });
        let alerts = Alerts::open(dir.path()).unwrap();
        let known = alerts.known().unwrap();
        let everybody = Told { channel: "email".into(), to: "*".into(), at: "2026-11-22T01:00:01Z".parse().unwrap() };
        assert_eq!((&known[0].told, &known[1].told), (&vec![everybody], &vec![]));
        let pending = alerts.pending().unwrap().remove(0);
        assert_eq!((pending.channel.as_str(), pending.to.as_str(), pending.attempts), ("email", "a@b", 3));
        assert_eq!((pending.letter.event.title.as_str(), pending.letter.event.state.as_str()), ("PROBLEM: it failed", "open"));
        assert_eq!(pending.letter.event.backup.as_deref(), Some("x"));
        assert!(alerts.claim(&pending, at(0), true).unwrap());
        alerts.sent(pending.row).unwrap();
        assert!(alerts.loaded().unwrap().at.is_some());
    }

    #[test]
    fn what_a_daemon_has_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let alerts = Alerts::open(dir.path()).unwrap();
        assert_eq!(alerts.loaded().unwrap(), Loaded::default());
        alerts.set_loaded(Ok(()), at(0)).unwrap();
        alerts.set_loaded(Err("line 1"), at(1)).unwrap();
        alerts.set_loaded(Err("line 2"), at(2)).unwrap();
        assert_eq!(alerts.loaded().unwrap(), Loaded { at: Some(at(0)), error: Some((at(1), "line 2".into())), changes: None });
        alerts.set_loaded(Ok(()), at(3)).unwrap();
        assert_eq!(alerts.loaded().unwrap(), Loaded { at: Some(at(3)), error: None, changes: None });
        alerts.set_changes(&["x: schedule 02:00 -> 03:00".to_owned()], at(4)).unwrap();
        assert_eq!(alerts.loaded().unwrap().changes, Some((at(4), vec!["x: schedule 02:00 -> 03:00".to_owned()])));
    }
}
