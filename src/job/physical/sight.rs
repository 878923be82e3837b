//! Looks at how far the server has written, while its log comes: so it is known until when a segment tells all. When it
//! came does not say that: after an outage those are hours apart.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::config::plan;
use crate::host::Tag;
use crate::postgres::Server;
use crate::postgres::basebackup::Standing;
use crate::wal::Lsn;

/// How often: what a segment tells ends so much before it came, at most. An exec costs the Engine more than a session.
const LOOK_EVERY: Duration = Duration::from_secs(15);
const EXEC_EVERY: Duration = Duration::from_secs(60);

/// Looks that are kept: those of the log that still waits are older.
const KEPT_MAX: usize = 4096;

/// A commit has its time before its place in the log: by a moment, or by as long as the disk of the log stands still.
pub const COMMITS_TAKE: TimeDelta = TimeDelta::seconds(5);

/// The looks so far, each at a time and a place.
pub struct Sight {
    server: plan::Server,
    looks: Mutex<VecDeque<(DateTime<Utc>, Lsn)>>,
}

impl Sight {
    pub fn new(server: plan::Server) -> Self {
        Sight { server, looks: Mutex::default() }
    }

    /// Looks now and then. A server that does not answer says nothing.
    pub async fn keep_looking(&self) -> Infallible {
        let every = if self.server.place.is_by_exec() { EXEC_EVERY } else { LOOK_EVERY };
        let mut server = None;
        loop {
            if server.is_none() {
                server = Server::connect(&self.server, Tag::random()).await.ok();
            }
            if let Some(there) = &server {
                match Standing::written(there).await {
                    Ok(Some(standing)) => self.note(standing.now - COMMITS_TAKE, standing.lsn),
                    // Nothing has been replayed yet.
                    Ok(None) => {}
                    Err(_) => server = None,
                }
            }
            tokio::time::sleep(every).await;
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
        let text = "[stores.local]\npath = \"/b\"\n[servers.main]\nhost = \"h\"\n[backups.c]\nkind = \"physical\"\nwal = \"stream\"\n";
        let plan = crate::config::parse(text, std::path::Path::new("x.toml")).unwrap();
        let sight = Sight::new(plan.servers["main"].clone());
        let at = |second: i64| DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(second);
        assert_eq!(sight.told_until(Lsn(100)), None);
        for (second, lsn) in [(1, 50), (2, 100), (3, 101)] {
            sight.note(at(second), Lsn(lsn));
        }
        assert_eq!([49, 50, 100, 200].map(|end| sight.told_until(Lsn(end))), [None, Some(at(1)), Some(at(2)), Some(at(3))]);
    }
}
