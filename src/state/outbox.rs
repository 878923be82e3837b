//! The outbox: what is still to be told, each message to one recipient of one channel. It is written
//! together with the alert that it is about, and leaves when the receiver has taken it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::{Connection, Row, TransactionBehavior, params};

use super::alerts::{Alerts, failed, note_told, text, time};
use crate::alert::event::Event;
use crate::alert::letter::{Letter, State};
use crate::alert::policy::Tell;
use crate::error::Result;

/// How long the one who sends a message keeps others from it; a hook may take this much longer.
const CLAIM: TimeDelta = TimeDelta::seconds(120);
const CLAIM_MAX: TimeDelta = TimeDelta::seconds(900);

/// The first pause after a message could not be sent; each further one is twice as long.
const BACKOFF: TimeDelta = TimeDelta::seconds(15);

/// The longest pause.
const BACKOFF_MAX: TimeDelta = TimeDelta::hours(1);

/// A message that no receiver took for so long is given up.
const GIVE_UP: TimeDelta = TimeDelta::days(14);

/// A message to one recipient that is still to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    pub row: i64,
    /// `email`, `webhooks.NAME` or `hooks.NAME`.
    pub channel: String,
    pub to: String,
    pub letter: Letter,
    /// Of the alert, for the date of the message.
    pub created_at: DateTime<Utc>,
    /// The end of quiet hours.
    pub not_before: Option<DateTime<Utc>>,
    pub attempts: u32,
    pub last_error: Option<String>,
    /// It was given to those who stand in for its channel.
    pub fell_back: bool,
}

impl Pending {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let (key, subject, text): (String, String, String) = (row.get("key")?, row.get("subject")?, row.get("text")?);
        let state = State::parse(&row.get::<_, String>("state")?).unwrap_or(State::Open);
        let created_at = time(row, "created_at")?.unwrap_or_default();
        let event = row.get::<_, Option<String>>("event")?.and_then(|event| serde_json::from_str(&event).ok());
        // A message of a version that knew no events.
        let event = event.unwrap_or_else(|| Event::of_mail(&key, state, &subject, &text, created_at));
        Ok(Pending {
            row: row.get("row")?,
            channel: row.get("channel")?,
            to: row.get("recipient")?,
            letter: Letter { key, state, subject, text, html: row.get("html")?, event },
            created_at,
            not_before: time(row, "not_before")?,
            attempts: row.get("attempts")?,
            last_error: row.get("last_error")?,
            fell_back: row.get("fell_back")?,
        })
    }
}

/// Puts a message into the outbox.
pub(super) fn put(db: &Connection, tell: &Tell, letter: &Letter, now: DateTime<Utc>) -> rusqlite::Result<()> {
    // A reminder of what still waits to be told would say nothing new.
    db.execute(
        "insert into outbox (channel, recipient, key, state, subject, text, html, created_at, next_try_at, not_before, event)
        select ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, ?9, ?10
        where ?4 <> 'reminder' or not exists
            (select 1 from outbox where channel = ?1 and recipient = ?2 and key = ?3 and state <> 'closed')",
        params![
            tell.channel,
            tell.to,
            letter.key,
            tell.state.as_str(),
            letter.subject,
            letter.text,
            letter.html,
            text(now),
            tell.not_before.map(text),
            serde_json::to_string(&letter.event).unwrap_or_default()
        ],
    )
    .map(drop)
}

impl Alerts {
    /// What is still to be sent, oldest first.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn pending(&self) -> Result<Vec<Pending>> {
        let read = || {
            let db = self.db();
            let mut statement = db.prepare_cached("select * from outbox order by row")?;
            let rows = statement.query_map([], Pending::read)?;
            rows.collect::<rusqlite::Result<_>>()
        };
        read().map_err(|error: rusqlite::Error| failed(&error))
    }

    /// The channels that something is to be sent by.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn channels_pending(&self) -> Result<Vec<String>> {
        let read = || {
            let db = self.db();
            let mut statement = db.prepare_cached("select distinct channel from outbox order by channel")?;
            let rows = statement.query_map([], |row| row.get(0))?;
            rows.collect::<rusqlite::Result<_>>()
        };
        read().map_err(|error: rusqlite::Error| failed(&error))
    }

    /// Takes a message, so that no other process sends it too. False: another has it, an earlier one
    /// about the same must be told first, it waits for the end of quiet hours, or (with `only_due`)
    /// its time has not come. Times far ahead were written under another clock and hold nobody up.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn claim(&self, pending: &Pending, now: DateTime<Utc>, only_due: bool) -> Result<bool> {
        let hold = if pending.channel.starts_with("hooks.") { CLAIM_MAX } else { CLAIM };
        self.db()
            .execute(
                "update outbox set claimed_until = ?2, claimed_by_daemon = ?6 where row = ?1
                and (claimed_until is null or claimed_until < ?3 or claimed_until > ?4)
                and (not ?6 or next_try_at <= ?3 or next_try_at > ?5)
                and (not_before is null or not_before <= ?3 or not_before > ?7)
                and not exists (select 1 from outbox before where before.key = outbox.key
                    and before.channel = outbox.channel and before.recipient = outbox.recipient and before.row < outbox.row)",
                params![
                    pending.row,
                    text(now + hold),
                    text(now),
                    text(now + hold * 2),
                    text(now + BACKOFF_MAX * 2),
                    only_due,
                    text(now + TimeDelta::days(1) + BACKOFF_MAX)
                ],
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

    /// Notes that a message was taken by its receiver.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn sent(&self, row: i64) -> Result<()> {
        self.db().execute("delete from outbox where row = ?1", [row]).map(drop).map_err(|error| failed(&error))
    }

    /// Notes that a message could not be sent; it is tried again later, not before `pause` if the
    /// receiver asked for one. True: it is given up.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn unsent(&self, pending: &Pending, error: &str, pause: Option<Duration>, now: DateTime<Utc>) -> Result<bool> {
        if now - pending.created_at > GIVE_UP && pending.attempts > 100 {
            return self.sent(pending.row).map(|()| true);
        }
        let asked = pause.and_then(|pause| TimeDelta::from_std(pause).ok()).unwrap_or_default();
        let pause = (BACKOFF * 2_i32.saturating_pow(pending.attempts.min(10))).max(asked);
        self.db()
            .execute(
                "update outbox set attempts = attempts + 1, claimed_until = null, last_error = ?2, next_try_at = ?3 where row = ?1",
                params![pending.row, error, text(now + pause.min(BACKOFF_MAX))],
            )
            .map(|_| false)
            .map_err(|error| failed(&error))
    }

    /// Gives a message that its channel does not take to those who stand in for it, once. It stays
    /// where it is, too.
    ///
    /// # Errors
    /// The file cannot be written; nothing has changed then.
    pub fn fall_back(&self, pending: &Pending, to: &[Tell], now: DateTime<Utc>) -> Result<bool> {
        let work = || {
            let mut db = self.db();
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if tx.execute("update outbox set fell_back = 1 where row = ?1 and not fell_back", [pending.row])? == 0 {
                return Ok(false);
            }
            // Where several recipients of a channel are not reached, it is one piece of news.
            tx.execute(
                "update outbox set fell_back = 1 where channel = ?1 and key = ?2 and state = ?3 and created_at = ?4",
                params![pending.channel, pending.letter.key, pending.letter.state.as_str(), text(pending.created_at)],
            )?;
            for tell in to {
                put(&tx, tell, &pending.letter, now)?;
                let is_open: i64 = tx.query_row("select count(*) from alerts where key = ?1", [&pending.letter.key], |row| row.get(0))?;
                // So that they hear of its end as well.
                if is_open > 0 {
                    note_told(&tx, &pending.letter.key, &tell.channel, &tell.to, now)?;
                }
            }
            tx.commit()?;
            Ok(true)
        };
        work().map_err(|error: rusqlite::Error| failed(&error))
    }

    /// Drops what is for channels that have not been there for long: one may come back.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn forget_channels(&self, is_there: impl Fn(&str) -> bool, now: DateTime<Utc>) -> Result<()> {
        for gone in self.channels_pending()?.iter().filter(|channel| !is_there(channel)) {
            self.db()
                .execute("delete from outbox where channel = ?1 and created_at < ?2", params![gone, text(now - GIVE_UP)])
                .map_err(|error| failed(&error))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::alerts::Change;
    use super::*;
    use crate::alert::letter;
    use crate::alert::policy::{Known, Step};
    use crate::alert::problems::Problem;

    fn at(secs: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + secs, 0).unwrap()
    }

    fn problem() -> Problem {
        Problem { key: "a".into(), since: at(0), summary: "it failed".into(), details: String::new(), facts: vec![], commands: vec![] }
    }

    fn tell(to: &str, state: State) -> Tell {
        Tell { channel: "email".into(), to: to.into(), state, not_before: None, is_heard: true }
    }

    fn change(step: Step, to: &[&str], state: State, at: DateTime<Utc>) -> Change {
        let letter = match &step {
            Step::Close(known) => letter::of_end(known, "db1", at),
            _ => letter::of_problem(&problem(), state, "db1", at),
        };
        Change { step, messages: to.iter().map(|to| (tell(to, state), letter.clone())).collect() }
    }

    fn open(alerts: &Alerts, recipients: &[&str]) {
        let change = change(Step::Open(problem()), recipients, State::Open, at(0));
        let is_told = |known: &[Known]| known.iter().any(|known| !known.told.is_empty());
        alerts.settle(at(0), |known| if is_told(known) { vec![] } else { vec![change] }).unwrap();
    }

    fn close(alerts: &Alerts, recipients: &[&str]) {
        alerts.settle(at(9), |known| vec![change(Step::Close(known[0].clone()), recipients, State::Closed, at(9))]).unwrap();
    }

    #[test]
    fn a_message_for_everybody_who_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let alerts = Alerts::open(dir.path()).unwrap();
        open(&alerts, &[]);
        assert_eq!(alerts.known().unwrap()[0].told, []);
        assert!(alerts.pending().unwrap().is_empty());
        open(&alerts, &["a@b", "c@d"]);
        open(&alerts, &["a@b", "c@d"]);
        let pending = alerts.pending().unwrap();
        assert_eq!(pending.iter().map(|pending| pending.to.as_str()).collect::<Vec<_>>(), ["a@b", "c@d"]);
        assert_eq!(pending[0].letter, letter::of_problem(&problem(), State::Open, "db1", at(0)), "all of it survives");
        assert_eq!(
            alerts.known().unwrap()[0].told.iter().map(|told| (told.to.as_str(), told.at)).collect::<Vec<_>>(),
            [("a@b", at(0)), ("c@d", at(0))]
        );
        close(&alerts, &["a@b", "c@d"]);
        assert!(alerts.known().unwrap().is_empty());
        assert_eq!(alerts.pending().unwrap().len(), 4);
    }

    #[test]
    fn one_sender_at_a_time_and_ever_longer_pauses() {
        let dir = tempfile::tempdir().unwrap();
        let alerts = Alerts::open(dir.path()).unwrap();
        open(&alerts, &["a@b"]);
        let pending = alerts.pending().unwrap().remove(0);
        let claim = |secs| alerts.claim(&pending, at(secs), true).unwrap();
        assert!(claim(0));
        assert!(!claim(1), "another has it");
        alerts.release_claims_of_daemon().unwrap();
        assert!(claim(2), "the daemon that had it died");
        assert!(claim(123), "another one died");
        alerts.unsent(&pending, "no", None, at(130)).unwrap();
        assert!(!claim(144));
        assert!(claim(145));
        alerts.unsent(&alerts.pending().unwrap()[0], "no", None, at(145)).unwrap();
        assert!(!claim(174));
        assert!(alerts.claim(&pending, at(150), false).unwrap(), "a command does not wait");
        assert!(!alerts.claim(&pending, at(151), false).unwrap(), "but for another that has it");
        assert!(claim(-100_000), "the clock has jumped back");
        alerts.sent(pending.row).unwrap();
        assert!(alerts.pending().unwrap().is_empty());
    }

    #[test]
    fn the_end_is_not_told_before_the_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let alerts = Alerts::open(dir.path()).unwrap();
        open(&alerts, &["a@b", "c@d"]);
        close(&alerts, &["a@b", "c@d"]);
        let rows = alerts.pending().unwrap();
        let claim = |nth: usize| alerts.claim(&rows[nth], at(9), false).unwrap();
        assert!(!claim(2) && claim(0) && !claim(2));
        alerts.sent(rows[0].row).unwrap();
        assert!(claim(2), "the first of two recipients knows of it");
        assert!(!claim(3) && claim(1));
    }

    #[test]
    fn reminders_do_not_pile_up_before_a_relay_that_is_away() {
        let dir = tempfile::tempdir().unwrap();
        let alerts = Alerts::open(dir.path()).unwrap();
        let remind = |secs| {
            let change = change(Step::Remind(problem()), &["a@b"], State::Reminder, at(secs));
            alerts.settle(at(secs), |_| vec![change]).unwrap();
            alerts.pending().unwrap()
        };
        open(&alerts, &["a@b"]);
        assert_eq!(remind(1).len(), 1);
        alerts.sent(alerts.pending().unwrap()[0].row).unwrap();
        assert_eq!(remind(2).len(), 1);
        assert_eq!(remind(3).len(), 1);
        assert_eq!(alerts.known().unwrap()[0].told[0].at, at(3));
    }

    #[test]
    fn what_waits_for_the_morning_is_sent_by_nobody_before() {
        let dir = tempfile::tempdir().unwrap();
        let alerts = Alerts::open(dir.path()).unwrap();
        let morning = Tell { not_before: Some(at(3_600)), ..tell("a@b", State::Open) };
        let letter = letter::of_problem(&problem(), State::Open, "db1", at(0));
        alerts.settle(at(0), |_| vec![Change { step: Step::Open(problem()), messages: vec![(morning, letter)] }]).unwrap();
        close(&alerts, &["a@b"]);
        let pending = alerts.pending().unwrap();
        let claim = |nth: usize, secs, only_due| alerts.claim(&pending[nth], at(secs), only_due).unwrap();
        assert!(!claim(0, 3_599, true) && !claim(0, 3_599, false) && !claim(1, 3_599, false), "nor the end before the beginning");
        assert!(claim(0, 3_600, true));
        alerts.sent(pending[0].row).unwrap();
        assert!(claim(1, 3_600, true));
    }

    #[test]
    fn a_receiver_can_ask_for_a_pause() {
        let dir = tempfile::tempdir().unwrap();
        let alerts = Alerts::open(dir.path()).unwrap();
        open(&alerts, &["a@b"]);
        let pending = alerts.pending().unwrap().remove(0);
        assert!(alerts.claim(&pending, at(0), true).unwrap());
        alerts.unsent(&pending, "429", Some(Duration::from_secs(100)), at(0)).unwrap();
        assert!(!alerts.claim(&pending, at(99), true).unwrap());
        assert!(alerts.claim(&pending, at(100), true).unwrap());
        alerts.unsent(&pending, "429", Some(Duration::from_secs(1_000_000)), at(100)).unwrap();
        assert!(alerts.claim(&pending, at(3_700), true).unwrap(), "but not for ever");
    }

    #[test]
    fn who_stands_in_is_told_once_and_hears_of_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let alerts = Alerts::open(dir.path()).unwrap();
        open(&alerts, &["a@b", "c@d"]);
        let (pending, sibling) = (alerts.pending().unwrap().remove(0), alerts.pending().unwrap().remove(1));
        let spare = Tell { channel: "webhooks.spare".into(), to: String::new(), ..tell("", State::Open) };
        assert!(alerts.fall_back(&pending, std::slice::from_ref(&spare), at(1)).unwrap());
        assert!(!alerts.fall_back(&pending, std::slice::from_ref(&spare), at(2)).unwrap());
        assert!(!alerts.fall_back(&sibling, &[spare], at(2)).unwrap(), "the same to another recipient");
        assert_eq!(alerts.channels_pending().unwrap(), ["email", "webhooks.spare"]);
        assert!(alerts.known().unwrap()[0].told.iter().any(|told| told.channel == "webhooks.spare" && told.at == at(1)));
        assert_eq!(alerts.pending().unwrap()[2].letter, pending.letter);
        let is_there = |channel: &str| channel == "email";
        alerts.forget_channels(is_there, at(0) + GIVE_UP).unwrap();
        assert_eq!(alerts.channels_pending().unwrap(), ["email", "webhooks.spare"]);
        alerts.forget_channels(is_there, at(2) + GIVE_UP).unwrap();
        assert_eq!(alerts.channels_pending().unwrap(), ["email"]);
    }
}
