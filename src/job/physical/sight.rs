//! Looks at how far the server has written, while its log comes: so it is known until when a segment tells all. When it
//! came does not say that: after an outage those are hours apart.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::config::Plan;
use crate::config::plan::Backup;
use crate::host::Tag;
use crate::postgres::Server;
use crate::postgres::basebackup::Standing;
use crate::wal::Lsn;

/// How often; so much less than its age a segment tells at most.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Looks that are kept: those of the log that still waits are older.
const KEPT_MAX: usize = 4096;

/// A commit has its time a moment before its place in the log.
const COMMITS_TAKE: TimeDelta = TimeDelta::seconds(1);

/// The looks so far, each at a time and a place.
pub struct Sight<'a> {
    plan: &'a Plan,
    backup: &'a Backup,
    looks: Mutex<VecDeque<(DateTime<Utc>, Lsn)>>,
}

impl<'a> Sight<'a> {
    pub fn new(plan: &'a Plan, backup: &'a Backup) -> Self {
        Sight { plan, backup, looks: Mutex::default() }
    }

    /// Looks now and then. A server that does not answer says nothing.
    pub async fn keep_looking(&self) -> Infallible {
        let mut server = None;
        loop {
            if server.is_none() {
                server = Server::connect(&self.plan.servers[&self.backup.server], Tag::random()).await.ok();
            }
            if let Some(there) = &server {
                match Standing::written(there).await {
                    Ok(Some(standing)) => self.note(standing.now - COMMITS_TAKE, standing.lsn),
                    // What a standby has not received yet may have been committed.
                    Ok(None) => {}
                    Err(_) => server = None,
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn note(&self, at: DateTime<Utc>, lsn: Lsn) {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.push_back((at, lsn));
        if looks.len() > KEPT_MAX {
            looks.pop_front();
        }
    }

    /// Until when the log tells all that ends at a place. `None`: nobody has looked.
    pub fn told_until(&self, end: Lsn) -> Option<DateTime<Utc>> {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.iter().filter(|(_, lsn)| *lsn <= end).map(|(at, _)| *at).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_look_that_is_not_behind_the_end() {
        let plan = "state_dir = \"/s\"\n[stores.local]\npath = \"/b\"\n[servers.main]\nhost = \"h\"\n[backups.c]\nkind = \"physical\"\nwal = \"stream\"\n";
        let plan = crate::config::parse(plan, std::path::Path::new("x.toml")).unwrap();
        let sight = Sight::new(&plan, &plan.backups["c"]);
        let at = |second: i64| DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(second);
        assert_eq!(sight.told_until(Lsn(100)), None);
        for (second, lsn) in [(1, 50), (2, 100), (3, 101)] {
            sight.note(at(second), Lsn(lsn));
        }
        assert_eq!([49, 50, 100, 200].map(|end| sight.told_until(Lsn(end))), [None, Some(at(1)), Some(at(2)), Some(at(3))]);
    }
}
