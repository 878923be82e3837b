//! What programs and templates are told: one event, as data.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::letter::State;
use crate::config::channels::Severity;
use crate::config::telling::On;

/// An alert, or a step of a run. Its fields are documented: programs of users read them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// Such as `alert_open`, `run_failed`; `test`.
    pub event: String,
    /// Of the alert, such as `backup/euem_db/failed`; of a run: `backup/euem_db`.
    pub key: String,
    /// `open`, `reminder`, `closed`, `test`, `digest`; empty for a run.
    pub state: String,
    pub severity: Severity,
    /// One line, with PROBLEM, STILL or OVER in front.
    pub title: String,
    /// One line, without.
    pub summary: String,
    /// The last lines that a program said; may be empty.
    pub details: String,
    pub since: Option<DateTime<Utc>>,
    /// When it was written.
    pub at: DateTime<Utc>,
    pub machine: String,
    pub backup: Option<String>,
    pub store: Option<String>,
    pub facts: Vec<Fact>,
    /// Where to look further.
    pub commands: Vec<String>,
    /// All of it, as a mail says it.
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<RunEvent>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    pub name: String,
    pub value: String,
}

/// The run that an event is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunEvent {
    pub slot: Option<DateTime<Utc>>,
    pub by_hand: bool,
    /// Of the backup. `None`: nothing was stored, or not yet.
    pub id: Option<String>,
    /// `None`: it has begun.
    pub outcome: Option<String>,
    pub rung: Option<String>,
    pub error: Option<String>,
    pub warnings: Vec<String>,
    pub seconds: u64,
    pub bytes: u64,
    /// The same slot will be tried again.
    pub will_retry: bool,
}

impl Event {
    /// What its key is about.
    #[must_use]
    pub fn about(mut self, key: &str) -> Self {
        key.clone_into(&mut self.key);
        let mut parts = key.split('/');
        match (parts.next(), parts.next()) {
            (Some("backup" | "ping"), Some(name)) => self.backup = Some(name.to_owned()),
            (Some("store"), Some(name)) => self.store = Some(name.to_owned()),
            _ => {}
        }
        self
    }

    /// What can be told of a mail of a version that knew no events.
    pub fn of_mail(key: &str, state: State, subject: &str, text: &str, at: DateTime<Utc>) -> Self {
        let title = subject.trim_start_matches("[pgvigil] ").to_owned();
        let event = Event::on(state).map_or(state.as_str(), On::as_str).to_owned();
        let summary = text.lines().next().unwrap_or_default().to_owned();
        Event { event, state: state.as_str().to_owned(), title, summary, at, text: text.to_owned(), ..Event::default() }.about(key)
    }

    /// What a hook names it. `None`: none is run on it, but by a test.
    pub fn on(state: State) -> Option<On> {
        match state {
            State::Open => Some(On::AlertOpen),
            State::Reminder => Some(On::AlertReminder),
            State::Closed => Some(On::AlertClosed),
            State::Test | State::Digest => None,
        }
    }
}
