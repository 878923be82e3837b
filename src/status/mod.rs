//! How everything stands, for `status` and the listener: `gather.rs` asks, the others decide or
//! summarise what was found, and are pure.

pub mod calendar;
pub mod forecast;
pub mod freshness;
pub mod gather;
pub mod record;
pub mod verdict;
pub mod words;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::catalog::Rung;
use crate::physical::lag::Figures;
use crate::state::alerts::Loaded;
use crate::state::outbox::Pending;

pub use gather::{Gathered, gather};
pub use record::{Held, Kept, Ran, Record};

/// The document of `status --json`.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    pub healthy: bool,
    pub daemon: Daemon,
    pub config: Config,
    pub backups: Vec<Backup>,
    pub stores: Vec<Store>,
    pub alerts: Vec<Alert>,
    pub outbox: Outbox,
    pub orphaned: Vec<String>,
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Daemon {
    pub running: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct Config {
    pub loaded_at: Option<DateTime<Utc>>,
    pub error: Option<String>,
    /// By the last edit that was taken over.
    pub changed_at: Option<DateTime<Utc>>,
    pub changes: Vec<String>,
}

impl Config {
    pub fn of(loaded: Loaded) -> Self {
        let (changed_at, changes) = loaded.changes.map_or((None, Vec::new()), |(at, changes)| (Some(at), changes));
        Config { loaded_at: loaded.at, error: loaded.error.map(|(_, error)| error), changed_at, changes }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Backup {
    pub name: String,
    pub last_success_at: Option<DateTime<Utc>>,
    pub last_success_id: Option<String>,
    pub rung: Option<Rung>,
    pub age_seconds: Option<i64>,
    pub max_age_seconds: Option<i64>,
    pub next_at: Option<DateTime<Utc>>,
    pub running: bool,
    pub last_run: Option<LastRun>,
    /// Measured by the newest drill.
    pub restore_seconds: Option<f64>,
    /// How its log stood when the daemon looked last; of a physical backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<Log>,
    /// In the stores beside the primary, if there are such.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<Copies>,
}

/// The log of a physical backup.
#[derive(Debug, Clone, Serialize)]
pub struct Log {
    #[serde(flatten)]
    pub figures: Figures,
    /// The age of what a loss of the server would leave (RPO).
    pub may_lose_seconds: Option<i64>,
}

/// How a backup stands in a store that it is copied to.
#[derive(Debug, Clone, Serialize)]
pub struct Copies {
    pub store: String,
    /// Whether the store answers.
    pub answers: bool,
    pub last_success_at: Option<DateTime<Utc>>,
    pub last_success_id: Option<String>,
    pub rung: Option<Rung>,
    /// How many backups it still has to receive.
    pub awaited: usize,
}

#[derive(Debug, Clone, Serialize)]
pub struct LastRun {
    pub outcome: Option<String>,
    pub error: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Store {
    pub name: String,
    pub total_bytes: Option<u64>,
    pub used_bytes: Option<u64>,
    pub used_percent: Option<u8>,
    pub alert_above_percent: u8,
}

#[derive(Debug, Clone, Serialize)]
pub struct Alert {
    pub key: String,
    pub since: DateTime<Utc>,
    pub summary: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct Outbox {
    pub pending: usize,
    /// They wait for the end of quiet hours.
    pub held: usize,
    pub last_error: Option<String>,
}

impl Outbox {
    pub fn of(pending: Vec<Pending>) -> Self {
        Outbox { pending: pending.len(), held: 0, last_error: pending.into_iter().rev().find_map(|pending| pending.last_error) }
    }
}

impl Status {
    /// The same a moment later: what was found has become older.
    #[must_use]
    pub fn at(&self, now: DateTime<Utc>) -> Self {
        let mut status = self.clone();
        for backup in &mut status.backups {
            backup.age_seconds = backup.last_success_at.map(|taken_at| (now - taken_at).num_seconds());
            if let Some(log) = &mut backup.log {
                log.may_lose_seconds = log.figures.may_lose_seconds(now);
            }
        }
        status
    }
}

/// A count or a size as a fraction can be made of it.
#[expect(clippy::cast_precision_loss, reason = "for figures and pictures, of which some digits are shown")]
pub fn float(number: u64) -> f64 {
    number as f64
}
