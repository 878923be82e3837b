//! The log of physical backups, beside the schedule: received where the file says stream, taken in where it
//! names a folder, and looked at every minute.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Daemon;
use crate::config::Plan;
use crate::config::plan::Backup;
use crate::host::clock;
use crate::job::physical::anew::Anew;
use crate::job::physical::{deliver, folder, status, stream};
use crate::physical::lag;
use crate::state::State;
use crate::state::watched::Watched;

/// How often somebody who has the lock is asked again.
const LOCK_AGAIN: Duration = Duration::from_secs(1);

/// How often the archive is held against the server.
const WATCH_EVERY: Duration = Duration::from_secs(60);

/// A slot that is made, or a base backup that begins, needs a moment before anybody calls it wrong.
const WATCH_FIRST: Duration = Duration::from_secs(10);

/// How long pg_receivewal and what it has received may take at the end.
const END_WITHIN: Duration = Duration::from_secs(10);

/// What runs for the log.
#[derive(Default)]
pub(super) struct Receiving {
    tasks: JoinSet<()>,
    cancel: CancellationToken,
    /// Whose log has a gap that only a base backup leads over.
    pub anew: Anew,
}

impl Daemon {
    /// Receives and watches by the file as it is now.
    pub(super) fn receive(&mut self) {
        // What goes by the file before ends by itself; the locks are free when it has.
        self.receiving.cancel.cancel();
        self.receiving.cancel = CancellationToken::new();
        let is_archived = |backup: &&Backup| backup.physical.as_ref().is_some_and(|physical| physical.wal.is_some());
        for backup in self.plan.backups.values().filter(is_archived) {
            let of = (Arc::clone(&self.plan), backup.clone(), self.state.clone(), self.receiving.cancel.clone());
            if folder::of(&self.plan, backup).is_some() {
                let (plan, backup, state, cancel) = of.clone();
                let anew = self.receiving.anew.clone();
                self.receiving.tasks.spawn(async move { keep_receiving(&plan, &backup, &state, &anew, &cancel).await });
            }
            let ((plan, backup, _, cancel), anew) = (of, self.receiving.anew.clone());
            self.receiving.tasks.spawn(async move { watch(&plan, &backup, &anew, &cancel).await });
        }
    }

    /// Ends it: what has been received is durable, and waits in the spool.
    pub(super) async fn end_receiving(&mut self) {
        self.receiving.cancel.cancel();
        let ended = async { while self.receiving.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(END_WITHIN, ended).await;
    }
}

async fn keep_receiving(plan: &Plan, backup: &Backup, state: &State, anew: &Anew, cancel: &CancellationToken) {
    loop {
        match state.lock(&stream::lock_name(backup)) {
            Ok(Some(_lock)) => return deliver::bring(plan, backup, state.owner(), anew, cancel).await,
            // A run by hand receives it meanwhile, or what goes by the file before.
            Ok(None) => {}
            Err(error) => tracing::warn!(backup = %backup.name, %error, "the log is not received"),
        }
        tokio::select! {
            () = tokio::time::sleep(LOCK_AGAIN) => {}
            () = cancel.cancelled() => return,
        }
    }
}

/// Notes what is wrong with the log of a backup, for whoever assesses.
async fn watch(plan: &Plan, backup: &Backup, anew: &Anew, cancel: &CancellationToken) {
    let (mut wait, mut unseen_since) = (WATCH_FIRST, None);
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => wait = WATCH_EVERY,
            () = cancel.cancelled() => return,
        }
        let (seen, now, name) = (status::status(plan, backup).await, clock::now(), backup.name.as_str());
        let (mut problems, figures, why) = match seen {
            Ok(status) => {
                if status.wants_base {
                    anew.note(&backup.name, false);
                }
                let figures = status.figures();
                (status.problems, figures, status.error)
            }
            Err(error) => {
                let before = Watched::read(&plan.state_dir, name, now);
                (Vec::new(), before.map(|before| before.figures).unwrap_or_default(), Some(error.message))
            }
        };
        match why {
            None => unseen_since = None,
            Some(why) => match lag::unseen(*unseen_since.get_or_insert(now), &why, now) {
                Some(problem) => problems.push(problem),
                // It may be back at the next look.
                None => continue,
            },
        }
        if let Err(error) = Watched::note(&plan.state_dir, name, problems, figures, now) {
            tracing::warn!(backup = %backup.name, %error, "cannot note how the log stands");
        }
    }
}
