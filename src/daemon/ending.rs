//! The end of the daemon: in good order, or because what it stands on is gone.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;

use super::{Daemon, Work};
use crate::alert::delivery::{self, Sender};
use crate::alert::{letter, problems};
use crate::error::{Error, Kind};
use crate::host::clock;
use crate::host::signals::Told;
use crate::job::assess;

/// How long what was cancelled may take to end its programs and backends.
const CANCEL_WITHIN: Duration = Duration::from_secs(30);

/// How long the last messages may take at the end.
const LAST_WORDS: Duration = Duration::from_secs(10);

impl Daemon {
    /// Ends what runs and tells that `state_dir` is gone: what is on record is lost, and another daemon
    /// may have begun in its place.
    pub(super) async fn lose_state(&mut self) -> Error {
        let error =
            Error::new(Kind::System, format!("state_dir {} was removed or replaced under the daemon", self.plan.state_dir.display()))
                .hint("start the daemon again; no backup is lost");
        tracing::error!(%error, "the daemon ends");
        self.cancel.cancel();
        let ended = async {
            while self.work.join_next().await.is_some() {}
            while self.drills.task.join_next().await.is_some() {}
            self.copies.tasks.shutdown().await;
        };
        let _ = tokio::time::timeout(CANCEL_WITHIN, ended).await;
        let problem = problems::unusable_alerts(&self.plan.state_dir, &error, clock::now());
        let letter = letter::of_problem(&problem, letter::State::Open, &assess::machine(), problem.since);
        if let Ok(Err(error)) = tokio::time::timeout(LAST_WORDS, delivery::at_once(&self.plan, &letter, problem.since)).await {
            tracing::error!(%error, "and nobody could be told");
        }
        error
    }

    /// Lets what runs come to its end for a while, then ends it; no new run begins.
    pub(super) async fn drain(&mut self, signals: &mut UnboundedReceiver<Told>) {
        let grace = self.plan.shutdown_grace;
        tracing::info!(running = self.work.len(), grace_secs = grace.as_secs(), "told to stop");
        self.stops = true;
        self.tell_stopping();
        let mut deadline = tokio::time::Instant::now() + grace;
        // It is no backup, and loses nothing.
        self.drills.cancel.cancel();
        self.copies.cancel.cancel();
        // Cleaning up after a former life may wait for a server; the next life goes on with it.
        loop {
            let runs = self.busy.values().any(|(work, _)| matches!(work, Work::Run { .. }));
            if !runs && !self.drills.is_under_way() && self.copies.tasks.is_empty() {
                break;
            }
            if !runs && !self.cancel.is_cancelled() {
                self.cancel.cancel();
                deadline = tokio::time::Instant::now() + CANCEL_WITHIN;
            }
            let still = self.pulse.every();
            tokio::select! {
                Some(done) = self.drills.task.join_next() => {
                    self.drill_ended(done);
                    continue;
                }
                Some(done) = self.copies.tasks.join_next_with_id() => {
                    self.copied(done);
                    continue;
                }
                Some(done) = self.work.join_next_with_id() => {
                    self.ended(done);
                    continue;
                }
                () = tokio::time::sleep(still) => {
                    self.tell_still_stopping();
                    continue;
                }
                () = tokio::time::sleep_until(deadline) => {}
                () = stopped(signals) => {}
            }
            if !self.cancel.is_cancelled() {
                tracing::info!(running = self.work.len(), "ending what still runs");
                self.cancel.cancel();
                deadline = tokio::time::Instant::now() + CANCEL_WITHIN;
            } else if tokio::time::Instant::now() >= deadline {
                // A store that hangs, most likely.
                tracing::error!(running = self.work.len(), "what was cancelled does not end; the next start sweeps what it leaves");
                break;
            }
        }
        self.end_receiving().await;
        self.work.abort_all();
        self.drills.task.abort_all();
        self.copies.tasks.abort_all();
        self.looking.shutdown().await;
        self.look();
        let telling = async {
            let _ = self.looking.join_next().await;
            while self.telling.tasks.join_next().await.is_some() {}
            let _ = delivery::deliver(&self.plan, &self.alerts, Sender::Once(LAST_WORDS)).await;
        };
        // A switch or a hook that is slow keeps no message back.
        let last_words = async { tokio::join!(self.followers.finish(), telling) };
        let _ = tokio::time::timeout(LAST_WORDS, last_words).await;
        tracing::info!("the daemon ends");
    }
}

/// Waits until it is told to stop.
async fn stopped(signals: &mut UnboundedReceiver<Told>) {
    while let Some(told) = signals.recv().await {
        if told == Told::Stop {
            return;
        }
    }
    std::future::pending::<()>().await;
}
