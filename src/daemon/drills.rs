//! The drills of the daemon: one at a time, beside the runs, whatever they are of.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{AGAIN_AFTER, Daemon, broken_off};
use crate::catalog::Rung;
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::host::clock;
use crate::job::assess::{self, Assessment, spelled};
use crate::job::drill::{self, DrillReport};
use crate::job::progress::Progress;
use crate::job::run::Order;
use crate::schedule::due::{Due, Job, drill_due};
use crate::schedule::slots;
use crate::state::Outcome;

/// What occupies the one place.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Work {
    /// Cleaning up after a former life.
    Sweep,
    Drill {
        backup: Name,
        slot: DateTime<Utc>,
    },
}

/// `None`: it was a sweep.
pub(super) type Done = Result<Option<DrillReport>>;

#[derive(Default)]
pub(super) struct Drills {
    /// At most one.
    pub task: JoinSet<Done>,
    work: Option<Work>,
    /// Ends the drill.
    pub cancel: CancellationToken,
    /// What was due in time and waits for its turn: it is late, but was not missed.
    waiting: BTreeSet<Name>,
    /// Another process has the lock: no drill is tried before.
    held_until: Option<DateTime<Utc>>,
}

impl Drills {
    /// Whether there is a drill that could be waited for; a sweep is not.
    pub fn is_under_way(&self) -> bool {
        self.backup().is_some()
    }

    /// The backup that is under drill.
    pub fn backup(&self) -> Option<&Name> {
        match &self.work {
            Some(Work::Drill { backup, .. }) => Some(backup),
            _ => None,
        }
    }
}

impl Daemon {
    /// Tells of drills that were broken off, and cleans up after them. No drill begins before: a success
    /// must not hide that.
    pub(super) fn sweep_drills(&mut self) {
        let (plan, state, history, alerts) =
            (Arc::clone(&self.plan), self.state.clone(), Arc::clone(&self.history), Arc::clone(&self.alerts));
        self.drills.work = Some(Work::Sweep);
        self.drills.task.spawn(async move {
            let told = async |name: String| {
                let Some(backup) = plan.backups.get(name.as_str()) else { return Ok(()) };
                let mut assessment = Assessment::default();
                assessment.look_at_backup(&plan, &history, &alerts, backup, clock::now()).await?;
                assess::log(&assessment.settle(&plan, &alerts, clock::now())?);
                Ok(())
            };
            drill::sweep_idle(&plan, &state, &history, told).await?;
            Ok(None)
        });
    }

    /// Begins the drill that is due and has waited longest, if there is its place, and returns when it
    /// must be asked again.
    pub(super) fn begin_due_drill(&mut self, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
        let plan = Arc::clone(&self.plan);
        let mut due_now = Vec::new();
        let mut next = now + TimeDelta::hours(1);
        for backup in plan.backups.values() {
            let Some(schedule) = backup.drill_schedule() else { continue };
            // The end of it asks again.
            if matches!(&self.drills.work, Some(Work::Drill { backup: drilled, .. }) if *drilled == backup.name) {
                continue;
            }
            let record = self.history.record(Job::Drill, backup.name.as_str(), &spelled(backup, &schedule.text), now)?;
            match drill_due(backup, &record, now) {
                Due::Run { slot, .. } => due_now.push((slot, backup.name.clone())),
                Due::Skip { slot } if self.drills.waiting.contains(&backup.name) => due_now.push((slot, backup.name.clone())),
                Due::Skip { slot } => {
                    let why = "missed while no daemon ran, and catch_up = false";
                    self.history.skipped(Job::Drill, backup.name.as_str(), backup.server.as_str(), now, Some(slot), why)?;
                    tracing::warn!(backup = %backup.name, %slot, "slot of a drill skipped: {why}");
                    next = now;
                }
                Due::At(at) => next = at.map_or(next, |at| at.min(next)),
            }
        }
        let waited = std::mem::take(&mut self.drills.waiting);
        due_now.sort_by_key(|(slot, name)| (!waited.contains(name), *slot, name.clone()));
        let held = self.drills.held_until.filter(|until| now < *until && *until - now <= AGAIN_AFTER);
        if let Some(until) = held.filter(|_| !due_now.is_empty()) {
            next = next.min(until);
        }
        for (slot, name) in due_now {
            if self.drills.work.is_none() && held.is_none() {
                self.begin_drill(name, slot);
            } else {
                self.drills.waiting.insert(name);
            }
        }
        Ok(next)
    }

    fn begin_drill(&mut self, backup: Name, slot: DateTime<Utc>) {
        tracing::info!(backup = %backup, slot = %slot.format("%Y-%m-%dT%H:%M:%SZ"), "drill begins");
        let (plan, name) = (Arc::clone(&self.plan), backup.clone());
        self.drills.cancel = self.cancel.child_token();
        let cancel = self.drills.cancel.clone();
        self.drills.work = Some(Work::Drill { backup, slot });
        self.drills
            .task
            .spawn(async move { drill::run(&plan, name.as_str(), Order::Slot(slot), &Progress::default(), &cancel).await.map(Some) });
    }

    pub(super) fn drill_ended(&mut self, done: Result<Done, JoinError>) {
        let now = clock::now();
        let work = self.drills.work.take();
        match (work, done) {
            (Some(Work::Drill { backup, slot }), Ok(result)) => {
                let noted = self.note_drill(&backup, slot, result, now);
                if let Err(error) = &noted {
                    tracing::error!(backup = %backup, %error, "the end of a drill cannot be noted");
                    self.hold_drills(backup, now);
                }
                self.unnoted = noted.err();
            }
            (_, Ok(Err(error))) => tracing::warn!(%error, "cannot clean up after a former drill; the next one tries again"),
            (_, Ok(Ok(_))) => {}
            (work, Err(error)) => {
                broken_off("a drill", &error);
                // Its lock is free; it is found interrupted.
                if matches!(work, Some(Work::Drill { .. })) {
                    self.sweep_drills();
                }
            }
        }
        self.next_due = now;
        self.look_at = std::time::Instant::now();
    }

    /// Waits a moment before a drill is tried again.
    fn hold_drills(&mut self, backup: Name, now: DateTime<Utc>) {
        self.drills.waiting.insert(backup);
        self.drills.held_until = Some(now + AGAIN_AFTER);
    }

    fn note_drill(&mut self, name: &Name, slot: DateTime<Utc>, result: Done, now: DateTime<Utc>) -> Result<()> {
        match result {
            Ok(Some(report)) => log(&report),
            Ok(None) => {}
            // Its turn comes.
            Err(error) if error.kind == Kind::Busy => {
                tracing::info!(backup = %name, %error, "drill waits");
                self.hold_drills(name.clone(), now);
                return Ok(());
            }
            Err(error) => self.note_not_begun(name, slot, &error, now)?,
        }
        // Slots that came meanwhile are not made up for: a slow drill would never end.
        if let Some(backup) = self.plan.backups.get(name)
            && let Some(schedule) = backup.drill_schedule()
            && let Some(missed) = slots::latest(schedule, backup.timezone, slot, now - TimeDelta::seconds(1))
        {
            let why = "the drill of an earlier slot was still under way";
            self.history.skipped(Job::Drill, name.as_str(), backup.server.as_str(), now, Some(missed), why)?;
            tracing::warn!(backup = %name, slot = %missed, "slot of a drill skipped: {why}");
        }
        Ok(())
    }

    fn note_not_begun(&self, name: &Name, slot: DateTime<Utc>, error: &Error, now: DateTime<Utc>) -> Result<()> {
        tracing::error!(backup = %name, %error, "drill could not begin");
        let outcome = if error.kind == Kind::Cancelled { Outcome::Cancelled } else { Outcome::Failed };
        self.history.drill_not_begun(name.as_str(), now, outcome, &error.message, slot)
    }
}

fn log(report: &DrillReport) {
    let (id, outcome) = (&report.id, report.outcome.as_str());
    for warning in report.warnings.iter().chain(&report.problems) {
        tracing::warn!(%id, "{warning}");
    }
    let rung = report.rung.map(Rung::as_str).unwrap_or_default();
    if let Some(error) = &report.error {
        tracing::error!(%id, outcome, rung, %error, "drill ended");
    } else {
        let restore_seconds = report.drill.as_ref().map(|drill| drill.restore_seconds);
        tracing::info!(%id, outcome, rung, restore_seconds, seconds = report.seconds, "drill ended");
    }
}
