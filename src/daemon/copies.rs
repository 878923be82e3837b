//! The copies of the daemon: each backup is brought to its other stores beside the runs, one backup a
//! store at a time; a store that is down is tried again, and holds nothing else up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::task::{self, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{AGAIN_AFTER, Daemon, broken_off};
use crate::config::values::Name;
use crate::error::{Kind, Result};
use crate::host::clock;
use crate::job::progress::Progress;
use crate::job::prune;
use crate::job::spread::Spreading;
use crate::schedule::due::copy_again_after;

/// What runs elsewhere, by hand or on another machine, makes backups too: so often each store is looked at.
const LOOK_EVERY: TimeDelta = TimeDelta::hours(1);

/// A backup and a store that it is copied to.
type Pair = (Name, Name);

pub(super) type Done = (Pair, Result<usize>);

#[derive(Default)]
pub(super) struct Copies {
    pub tasks: JoinSet<Done>,
    busy: BTreeMap<Pair, task::Id>,
    /// When each is looked at again, and how often in a row it failed. One that is not in here is due.
    rest: BTreeMap<Pair, (DateTime<Utc>, u32)>,
    /// Ends the copies.
    pub cancel: CancellationToken,
}

impl Daemon {
    /// Begins the copies that are due, at most one to each store.
    pub(super) fn begin_due_copies(&mut self, now: DateTime<Utc>) {
        if self.stops {
            return;
        }
        let plan = Arc::clone(&self.plan);
        let mut occupied: BTreeSet<Name> = self.copies.busy.keys().map(|(_, store)| store.clone()).collect();
        let mut due: Vec<(DateTime<Utc>, Pair)> = Vec::new();
        for backup in plan.backups.values().filter(|backup| !self.busy.contains_key(&backup.name)) {
            for store in prune::brought(backup) {
                let pair = (backup.name.clone(), store.clone());
                let at = self.copies.rest.get(&pair).map_or(DateTime::UNIX_EPOCH, |(at, _)| *at);
                // A clock that went back must not make it wait for longer than it meant to.
                if at <= now || at - now > LOOK_EVERY {
                    due.push((at, pair));
                }
            }
        }
        due.sort();
        for (_, pair) in due {
            if occupied.insert(pair.1.clone()) {
                self.begin_copies(pair);
            }
        }
    }

    fn begin_copies(&mut self, pair: Pair) {
        let (plan, state, history) = (Arc::clone(&self.plan), self.state.clone(), Arc::clone(&self.history));
        let (cancel, of) = (self.copies.cancel.child_token(), pair.clone());
        let task = self.copies.tasks.spawn(async move {
            let (backup, store) = &of;
            let (Some(backup), progress) = (plan.backups.get(backup), Progress::default()) else { return (of, Ok(0)) };
            let spreading = Spreading {
                plan: &plan,
                state: &state,
                history: &history,
                backup,
                store,
                has_lock: false,
                progress: &progress,
                cancel: &cancel,
            };
            let spread = spreading.spread().await;
            (of, spread)
        });
        self.copies.busy.insert(pair, task.id());
    }

    /// There is something new of a backup.
    pub(super) fn copy_soon(&mut self, backup: &Name) {
        self.copies.rest.retain(|(name, _), _| name != backup);
    }

    pub(super) fn copied(&mut self, done: Result<(task::Id, Done), JoinError>) {
        let now = clock::now();
        let (pair, result) = match done {
            Ok((_, (pair, result))) => (pair, result),
            Err(error) => {
                broken_off("a copy", &error);
                let Some(pair) = self.copies.busy.iter().find(|(_, id)| **id == error.id()).map(|(pair, _)| pair.clone()) else { return };
                self.copies.busy.remove(&pair);
                self.copies.rest.insert(pair, (now + copy_again_after(1), 1));
                return;
            }
        };
        self.copies.busy.remove(&pair);
        let (backup, store) = &pair;
        let before = self.copies.rest.get(&pair).map_or(0, |(_, failures)| *failures);
        let (again, failures) = match &result {
            Ok(0) => (LOOK_EVERY, 0),
            Ok(copied) => {
                tracing::info!(%backup, %store, copied, "the store has what it keeps");
                (LOOK_EVERY, 0)
            }
            Err(error) if error.kind == Kind::Busy => (AGAIN_AFTER, before),
            Err(error) => {
                let again = copy_again_after(before + 1);
                tracing::error!(%backup, %store, %error, again_in_secs = again.num_seconds(), "cannot copy");
                (again, before + 1)
            }
        };
        self.copies.rest.insert(pair, (now + again, failures));
        if !matches!(result, Ok(0)) {
            self.look_at = Instant::now();
        }
    }
}
