//! Open alerts, and the outbox of what is still to be told about them. What stands here survives a
//! crash: an alert and its message are written in one transaction, before anything is sent.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use crate::alert::letter::{Letter, State};
use crate::alert::policy::{Known, Step};
use crate::error::{Error, Kind, Result};
use crate::retain::doubt::Watched;
use crate::retain::terms::Terms;

/// How long the one who sends a message keeps others from it.
const CLAIM: TimeDelta = TimeDelta::seconds(120);

/// The first pause after a message could not be sent; each further one is twice as long.
const BACKOFF: TimeDelta = TimeDelta::seconds(15);

/// The longest pause.
const BACKOFF_MAX: TimeDelta = TimeDelta::hours(1);

/// A message that no relay took for so long is given up.
const GIVE_UP: TimeDelta = TimeDelta::days(14);

pub struct Alerts {
    db: Mutex<Connection>,
}

/// A message to one recipient that is still to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    pub row: i64,
    pub to: String,
    pub letter: Letter,
    /// Of the alert, for the date of the message.
    pub created_at: DateTime<Utc>,
    pub attempts: u32,
    pub last_error: Option<String>,
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

fn failed(error: &rusqlite::Error) -> Error {
    Error::new(Kind::System, format!("the alerts in state_dir: {error}"))
        .hint("if the file alerts.db is damaged, move it aside: what is wrong is found anew")
}

fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn time(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<DateTime<Utc>>> {
    Ok(row.get::<_, Option<String>>(column)?.and_then(|text| text.parse().ok()))
}

impl Alerts {
    /// Opens the alerts in a folder.
    ///
    /// # Errors
    /// The file cannot be opened, or is none of ours.
    pub fn open(dir: &Path) -> Result<Self> {
        let db = Connection::open(dir.join("alerts.db")).map_err(|error| failed(&error))?;
        let set_up = || {
            db.busy_timeout(Duration::from_secs(10))?;
            db.execute_batch(
                "create table if not exists alerts (key text primary key, since text not null, summary text not null, told_at text);
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
                create table if not exists facts (name text primary key, at text not null, value text not null);",
            )
        };
        set_up().map_err(|error| failed(&error))?;
        Ok(Alerts { db: Mutex::new(db) })
    }

    fn db(&self) -> MutexGuard<'_, Connection> {
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
    /// it, with a message to each recipient, in one transaction.
    ///
    /// # Errors
    /// The file cannot be written; nothing has changed then.
    pub fn settle(
        &self,
        recipients: &[String],
        now: DateTime<Utc>,
        decide: impl FnOnce(&[Known]) -> Vec<(Step, Letter)>,
    ) -> Result<Vec<Step>> {
        let work = || {
            let mut db = self.db();
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let steps = decide(&read_known(&tx)?);
            let told_at = (!recipients.is_empty()).then(|| text(now));
            for (step, letter) in &steps {
                let tell = match step {
                    Step::Open(problem) | Step::Remind(problem) => {
                        tx.execute(
                            "insert into alerts (key, since, summary, told_at) values (?1, ?2, ?3, ?4)
                            on conflict (key) do update set summary = ?3, told_at = ?4",
                            params![problem.key, text(problem.since), problem.summary, told_at],
                        )?;
                        true
                    }
                    Step::Reword(problem) => {
                        tx.execute("update alerts set summary = ?2 where key = ?1", params![problem.key, problem.summary])?;
                        false
                    }
                    Step::Close(known) => {
                        tx.execute("delete from alerts where key = ?1", [&known.key])?;
                        known.told_at.is_some()
                    }
                };
                for recipient in recipients.iter().filter(|_| tell) {
                    // A reminder of what still waits to be told would say nothing new.
                    tx.execute(
                        "insert into outbox (recipient, key, state, subject, text, html, created_at, next_try_at)
                        select ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7
                        where ?3 <> 'reminder' or not exists (select 1 from outbox where recipient = ?1 and key = ?2 and state <> 'closed')",
                        params![recipient, letter.key, letter.state.as_str(), letter.subject, letter.text, letter.html, text(now)],
                    )?;
                }
            }
            tx.commit()?;
            Ok(steps.into_iter().map(|(step, _)| step).collect())
        };
        work().map_err(|error| failed(&error))
    }

    /// What is still to be sent, oldest first.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn pending(&self) -> Result<Vec<Pending>> {
        let read = || {
            let db = self.db();
            let mut statement = db.prepare_cached("select * from outbox order by row")?;
            let rows = statement.query_map([], |row| {
                let state: String = row.get("state")?;
                Ok(Pending {
                    row: row.get("row")?,
                    to: row.get("recipient")?,
                    letter: Letter {
                        key: row.get("key")?,
                        state: State::parse(&state).unwrap_or(State::Open),
                        subject: row.get("subject")?,
                        text: row.get("text")?,
                        html: row.get("html")?,
                    },
                    created_at: time(row, "created_at")?.unwrap_or_default(),
                    attempts: row.get("attempts")?,
                    last_error: row.get("last_error")?,
                })
            })?;
            rows.collect::<rusqlite::Result<_>>()
        };
        read().map_err(|error: rusqlite::Error| failed(&error))
    }

    /// Takes a message, so that no other process sends it too. False: another has it, an earlier one
    /// about the same must be told first, or (with `only_due`) its time has not come. Times far
    /// ahead were written under another clock and hold nobody up.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn claim(&self, row: i64, now: DateTime<Utc>, only_due: bool) -> Result<bool> {
        self.db()
            .execute(
                "update outbox set claimed_until = ?2, claimed_by_daemon = ?6 where row = ?1
                and (claimed_until is null or claimed_until < ?3 or claimed_until > ?4)
                and (not ?6 or next_try_at <= ?3 or next_try_at > ?5)
                and not exists (select 1 from outbox before
                    where before.key = outbox.key and before.recipient = outbox.recipient and before.row < outbox.row)",
                params![row, text(now + CLAIM), text(now), text(now + CLAIM * 2), text(now + BACKOFF_MAX * 2), only_due],
            )
            .map(|changed| changed == 1)
            .map_err(|error| failed(&error))
    }

    /// Lets go of what a former daemon had taken when it was killed. The caller holds the lock of the
    /// daemon: there is no other.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn release_claims_of_daemon(&self) -> Result<()> {
        self.db().execute("update outbox set claimed_until = null where claimed_by_daemon", []).map(drop).map_err(|error| failed(&error))
    }

    /// Notes that a message was taken by the relay.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn sent(&self, row: i64) -> Result<()> {
        self.db().execute("delete from outbox where row = ?1", [row]).map(drop).map_err(|error| failed(&error))
    }

    /// Notes that a message could not be sent; it is tried again later. True: it is given up.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn unsent(&self, pending: &Pending, error: &str, now: DateTime<Utc>) -> Result<bool> {
        if now - pending.created_at > GIVE_UP && pending.attempts > 100 {
            return self.sent(pending.row).map(|()| true);
        }
        let pause = BACKOFF * 2_i32.saturating_pow(pending.attempts.min(10));
        self.db()
            .execute(
                "update outbox set attempts = attempts + 1, claimed_until = null, last_error = ?2, next_try_at = ?3 where row = ?1",
                params![pending.row, error, text(now + pause.min(BACKOFF_MAX))],
            )
            .map(|_| false)
            .map_err(|error| failed(&error))
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
        self.db()
            .query_row("select value from facts where name = ?1", [of_terms(backup, store)], |row| row.get::<_, String>(0))
            .optional()
            .map(|value| value.and_then(|value| serde_json::from_str(&value).ok()))
            .map_err(|error| failed(&error))
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

fn read_known(db: &Connection) -> rusqlite::Result<Vec<Known>> {
    let mut statement = db.prepare_cached("select * from alerts order by key")?;
    let rows = statement.query_map([], |row| {
        Ok(Known {
            key: row.get("key")?,
            since: time(row, "since")?.unwrap_or_default(),
            summary: row.get("summary")?,
            told_at: time(row, "told_at")?,
        })
    })?;
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::letter;
    use crate::alert::problems::Problem;

    fn at(secs: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + secs, 0).unwrap()
    }

    fn problem() -> Problem {
        Problem { key: "a".into(), since: at(0), summary: "it failed".into(), details: String::new(), facts: vec![], commands: vec![] }
    }

    fn open(alerts: &Alerts, recipients: &[String]) {
        let step = (Step::Open(problem()), letter::of_problem(&problem(), State::Open, "db1", at(0)));
        alerts
            .settle(recipients, at(0), |known| if known.iter().any(|known| known.told_at.is_some()) { vec![] } else { vec![step] })
            .unwrap();
    }

    #[test]
    fn a_message_for_everybody_who_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let alerts = Alerts::open(dir.path()).unwrap();
        open(&alerts, &[]);
        assert_eq!(alerts.known().unwrap()[0].told_at, None);
        assert!(alerts.pending().unwrap().is_empty());
        let both = ["a@b".to_owned(), "c@d".to_owned()];
        open(&alerts, &both);
        open(&alerts, &both);
        let pending = alerts.pending().unwrap();
        assert_eq!(pending.iter().map(|pending| pending.to.as_str()).collect::<Vec<_>>(), ["a@b", "c@d"]);
        assert_eq!(alerts.known().unwrap()[0].told_at, Some(at(0)));
        let close = |known: &[Known]| vec![(Step::Close(known[0].clone()), letter::of_end(&known[0], "db1", at(9)))];
        alerts.settle(&both, at(9), close).unwrap();
        assert!(alerts.known().unwrap().is_empty());
        assert_eq!(alerts.pending().unwrap().len(), 4);
    }

    #[test]
    fn one_sender_at_a_time_and_ever_longer_pauses() {
        let dir = tempfile::tempdir().unwrap();
        let alerts = Alerts::open(dir.path()).unwrap();
        open(&alerts, &["a@b".to_owned()]);
        let pending = alerts.pending().unwrap().remove(0);
        let claim = |secs| alerts.claim(pending.row, at(secs), true).unwrap();
        assert!(claim(0));
        assert!(!claim(1), "another has it");
        alerts.release_claims_of_daemon().unwrap();
        assert!(claim(2), "the daemon that had it died");
        assert!(claim(123), "another one died");
        alerts.unsent(&pending, "no", at(130)).unwrap();
        assert!(!claim(144));
        assert!(claim(145));
        alerts.unsent(&alerts.pending().unwrap()[0], "no", at(145)).unwrap();
        assert!(!claim(174));
        assert!(alerts.claim(pending.row, at(150), false).unwrap(), "a command does not wait");
        assert!(!alerts.claim(pending.row, at(151), false).unwrap(), "but for another that has it");
        assert!(claim(-100_000), "the clock has jumped back");
        alerts.sent(pending.row).unwrap();
        assert!(alerts.pending().unwrap().is_empty());
    }

    #[test]
    fn the_end_is_not_told_before_the_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let alerts = Alerts::open(dir.path()).unwrap();
        let both = ["a@b".to_owned(), "c@d".to_owned()];
        open(&alerts, &both);
        let close = |known: &[Known]| vec![(Step::Close(known[0].clone()), letter::of_end(&known[0], "db1", at(9)))];
        alerts.settle(&both, at(9), close).unwrap();
        let rows: Vec<i64> = alerts.pending().unwrap().iter().map(|pending| pending.row).collect();
        let claim = |nth: usize| alerts.claim(rows[nth], at(9), false).unwrap();
        assert!(!claim(2) && claim(0) && !claim(2));
        alerts.sent(rows[0]).unwrap();
        assert!(claim(2), "the first of two recipients knows of it");
        assert!(!claim(3) && claim(1));
    }

    #[test]
    fn reminders_do_not_pile_up_before_a_relay_that_is_away() {
        let dir = tempfile::tempdir().unwrap();
        let alerts = Alerts::open(dir.path()).unwrap();
        let to = ["a@b".to_owned()];
        let remind = |secs| {
            let step = (Step::Remind(problem()), letter::of_problem(&problem(), State::Reminder, "db1", at(secs)));
            alerts.settle(&to, at(secs), |_| vec![step]).unwrap();
            alerts.pending().unwrap()
        };
        open(&alerts, &to);
        assert_eq!(remind(1).len(), 1);
        alerts.sent(alerts.pending().unwrap()[0].row).unwrap();
        assert_eq!(remind(2).len(), 1);
        assert_eq!(remind(3).len(), 1);
        assert_eq!(alerts.known().unwrap()[0].told_at, Some(at(3)));
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
