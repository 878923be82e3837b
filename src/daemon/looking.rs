//! How things stand: looked at beside the work, and kept.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinError;

use super::{Daemon, broken_off};
use crate::alert::policy::next_turn;
use crate::alert::routes::routes;
use crate::config::values::Name;
use crate::error::Error;
use crate::host::{clock, memory};
use crate::job::assess;

/// Looking at how things stand may take this share of the time: one in so many.
const ASSESS_SHARE: u32 = 5_000;

/// At least so often, and at most so often, is it looked.
const ASSESS_EVERY: std::ops::RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(900);

impl Daemon {
    /// Looks at how things stand, beside the work: a disk that hangs holds up nothing else.
    pub(super) fn look(&mut self) {
        let (plan, history, alerts) = (Arc::clone(&self.plan), Arc::clone(&self.history), Arc::clone(&self.alerts));
        let due: Vec<Name> = plan
            .stores
            .values()
            .filter(|store| self.disks.get(&store.name).is_none_or(|looked| looked.elapsed() >= store.check_every))
            .map(|store| store.name.clone())
            .collect();
        self.disks.extend(due.iter().map(|name| (name.clone(), Instant::now())));
        self.look_at = Instant::now() + *ASSESS_EVERY.end();
        let unusable = self.unread.as_ref().or(self.unnoted.as_ref()).cloned();
        self.looking.spawn(async move {
            let started = Instant::now();
            let looked = assess::look_and_settle(&plan, &history, &alerts, &|name| due.contains(name), unusable.as_ref()).await;
            if let Err(error) = &looked {
                tracing::error!(%error, "cannot keep how things stand; tried again");
            }
            (started.elapsed(), looked.err())
        });
    }

    pub(super) fn looked(&mut self, looked: Result<(Duration, Option<Error>), JoinError>) {
        let (took, error) = looked.unwrap_or_else(|error| {
            broken_off("a look at how things stand", &error);
            Default::default()
        });
        if let Some(error) = error {
            self.cry(&error);
        }
        let soonest = self.plan.stores.values().map(|store| store.check_every).min().unwrap_or(Duration::MAX);
        let pause = took.saturating_mul(ASSESS_SHARE).clamp(*ASSESS_EVERY.start(), *ASSESS_EVERY.end());
        // Sooner, if something has happened meanwhile, or somebody is to be told of what lasts.
        let pause = pause.min(soonest.max(Duration::from_secs(1))).min(self.until_turn().unwrap_or(Duration::MAX));
        self.look_at = self.look_at.min(Instant::now() + pause);
        self.telling.soon();
        memory::give_back();
    }

    /// How long it is to the next reminder or escalation.
    fn until_turn(&self) -> Option<Duration> {
        let (known, now) = (self.alerts.known().ok()?, clock::now());
        (next_turn(&known, &routes(&self.plan), now)? - now).to_std().ok()
    }
}
