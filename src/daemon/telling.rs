//! The telling of the daemon: each channel empties its part of the outbox by itself, so that one that
//! hangs holds up no other; and the digest, at its time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::task::{self, JoinError, JoinSet};

use super::{Daemon, broken_off};
use crate::alert::delivery::{self, Channel, Sender};
use crate::alert::routes::routes;
use crate::alert::{letter, problems};
use crate::error::Error;
use crate::host::clock;
use crate::job::{assess, digest};

/// How often the outbox is looked into for what a command left there, or what is due again.
const OUTBOX_EVERY: Duration = Duration::from_secs(5);

/// When it is tried again to tell past the outbox.
const CRY_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// What was done.
pub(super) enum Told {
    /// A channel has sent what it could.
    Sent,
    /// It was told past the outbox; how long not to do it again.
    Cried(Duration),
}

pub(super) struct Telling {
    pub tasks: JoinSet<Told>,
    /// The channels at work, and the digest.
    busy: BTreeMap<String, task::Id>,
    at: Instant,
    /// When it may be told again, past the outbox, that nothing can be kept.
    cry_at: Instant,
    /// The slot of the digest that comes next, once it is known.
    next_digest: Option<DateTime<Utc>>,
}

impl Telling {
    pub fn new() -> Self {
        Telling { tasks: JoinSet::new(), busy: BTreeMap::new(), at: Instant::now(), cry_at: Instant::now(), next_digest: None }
    }

    /// There is news.
    pub fn soon(&mut self) {
        self.at = Instant::now();
    }

    fn begin(&mut self, what: &str, work: impl Future<Output = Told> + Send + 'static) {
        let task = self.tasks.spawn(work);
        self.busy.insert(what.to_owned(), task.id());
    }
}

/// No channel is called so.
const CRY: &str = "cry";
const DIGEST: &str = "digest";

impl Daemon {
    /// Begins to send what is due by every channel that is idle.
    pub(super) fn tell(&mut self, now: DateTime<Utc>) {
        if Instant::now() < self.telling.at {
            return;
        }
        self.telling.at = Instant::now() + OUTBOX_EVERY;
        self.digest(now);
        let channels = match self.alerts.channels_pending() {
            Ok(channels) => channels,
            Err(error) => {
                tracing::error!(%error, "cannot read the outbox; tried again");
                return;
            }
        };
        for channel in channels {
            if self.telling.busy.contains_key(&channel) {
                continue;
            }
            let (plan, alerts, name) = (Arc::clone(&self.plan), Arc::clone(&self.alerts), channel.clone());
            self.telling.begin(&channel, async move {
                if let Err(error) = delivery::deliver_by(&plan, &alerts, &name, Sender::Daemon).await {
                    tracing::error!(%error, channel = name, "cannot send; it stays in the outbox");
                }
                Told::Sent
            });
        }
    }

    /// Writes the digest that is due.
    fn digest(&mut self, now: DateTime<Utc>) {
        let is_known = self.telling.next_digest.is_some_and(|next| now < next);
        if self.telling.busy.contains_key(DIGEST) || is_known {
            return;
        }
        let due = digest::due(&self.plan, &self.alerts, now).unwrap_or_else(|error| {
            tracing::error!(%error, "cannot tell when the digest is due; tried again");
            digest::Due::Never
        });
        match due {
            digest::Due::Never => {}
            digest::Due::At(next) => self.telling.next_digest = Some(next),
            digest::Due::Now(slot) => {
                let (plan, history, alerts) = (Arc::clone(&self.plan), Arc::clone(&self.history), Arc::clone(&self.alerts));
                self.telling.begin(DIGEST, async move {
                    if let Err(error) = digest::write(&plan, &history, &alerts, slot).await {
                        tracing::error!(%error, "cannot write the digest; tried again");
                    }
                    Told::Sent
                });
            }
        }
    }

    /// The plan is another one.
    pub(super) fn tell_by_new_plan(&mut self) {
        self.telling.next_digest = None;
        let plan = Arc::clone(&self.plan);
        if let Err(error) = self.alerts.forget_channels(|channel| Channel::of(&plan, channel).is_some(), clock::now()) {
            tracing::warn!(%error, "messages to channels that are gone stay in the outbox");
        }
        self.telling.soon();
    }

    /// Tells that no alert can be kept: a message about that cannot be kept either, so it goes out
    /// at once, and again every so often.
    pub(super) fn cry(&mut self, error: &Error) {
        if self.telling.busy.contains_key(CRY) || Instant::now() < self.telling.cry_at || routes(&self.plan).is_empty() {
            return;
        }
        let plan = Arc::clone(&self.plan);
        let problem = problems::unusable_alerts(&plan.state_dir, error, clock::now());
        self.telling.begin(CRY, async move {
            let letter = letter::of_problem(&problem, letter::State::Open, &assess::machine(), problem.since);
            let sent = delivery::at_once(&plan, &letter, problem.since).await;
            if let Err(error) = &sent {
                tracing::error!(%error, "cannot tell that no alert can be kept; tried again");
            }
            let remind_every = plan.email.as_ref().map_or(plan.channels.policy.remind_every, |email| email.remind_every);
            Told::Cried(if sent.is_ok() { remind_every } else { CRY_AGAIN_AFTER })
        });
    }

    pub(super) fn told(&mut self, told: Result<(task::Id, Told), JoinError>) {
        let id = told.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        self.telling.busy.retain(|_, task| *task != id);
        match told {
            Ok((_, Told::Cried(pause))) => self.telling.cry_at = Instant::now() + pause,
            Ok((_, Told::Sent)) => {}
            Err(error) => broken_off("the sending of messages", &error),
        }
    }
}
