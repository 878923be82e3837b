//! How the last ping of each backup went, and when the state of everything was told last.

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension, TransactionBehavior, params};

use super::alerts::{Alerts, failed, text, time};
use super::outbox::put;
use crate::alert::letter::Letter;
use crate::alert::policy::Tell;
use crate::error::Result;

/// A ping that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedPing {
    pub backup: String,
    pub since: DateTime<Utc>,
    pub error: String,
}

impl Alerts {
    /// Notes how the last ping of a backup went.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_ping(&self, backup: &str, result: std::result::Result<(), &str>, now: DateTime<Utc>) -> Result<()> {
        let (db, name) = (self.db(), format!("ping/{backup}"));
        let write = match result {
            Ok(()) => db.execute("delete from facts where name = ?1", [name]),
            Err(error) => db.execute(
                "insert into facts (name, at, value) values (?1, ?2, ?3) on conflict (name) do update set value = ?3",
                params![name, text(now), error],
            ),
        };
        write.map(drop).map_err(|error| failed(&error))
    }

    /// The pings that were not taken.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn failed_pings(&self) -> Result<Vec<FailedPing>> {
        let read = || {
            let db = self.db();
            let mut statement = db.prepare_cached("select * from facts where name like 'ping/%' order by name")?;
            let rows = statement.query_map([], |row| {
                let name: String = row.get("name")?;
                let backup = name.trim_start_matches("ping/").to_owned();
                Ok(FailedPing { backup, since: time(row, "at")?.unwrap_or_default(), error: row.get("value")? })
            })?;
            rows.collect::<rusqlite::Result<_>>()
        };
        read().map_err(|error: rusqlite::Error| failed(&error))
    }

    /// The slot of the last digest. The first time that it is asked for, that is now: a schedule that
    /// is new has missed nothing.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn last_digest(&self, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
        let read = || {
            let db = self.db();
            db.execute("insert or ignore into facts (name, at, value) values ('digest', ?1, '')", [text(now)])?;
            let at = db.query_row("select at from facts where name = 'digest'", [], |row| time(row, "at")).optional()?;
            Ok(at.flatten().unwrap_or(now))
        };
        read().map_err(|error: rusqlite::Error| failed(&error))
    }

    /// Puts the digest of a slot into the outbox, unless it stands on record by now.
    ///
    /// # Errors
    /// The file cannot be written; nothing has changed then.
    pub fn put_digest(&self, slot: DateTime<Utc>, messages: &[(Tell, Letter)], now: DateTime<Utc>) -> Result<()> {
        let write = || {
            let mut db = self.db();
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if tx.execute("update facts set at = ?1 where name = 'digest' and at <> ?1", [text(slot)])? > 0 {
                for (tell, letter) in messages {
                    put(&tx, tell, letter, now)?;
                }
            }
            tx.commit()
        };
        write().map_err(|error| failed(&error))
    }
}
