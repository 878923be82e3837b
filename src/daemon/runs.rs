//! The runs of the daemon: what is due begins as far as there is a place, and its end is noted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use tokio::task::{self, JoinError};

use super::{AGAIN_AFTER, Daemon, Done, Work};
use crate::config::values::Name;
use crate::error::{Kind, Result};
use crate::host::{Tag, clock};
use crate::job::assess::spelled;
use crate::job::progress::Progress;
use crate::job::run::{self, Order, Report};
use crate::schedule::due::{Due, Job, due};
use crate::schedule::slots;
use crate::state::Outcome;

/// How long after one that a gap has asked for another one may be: it may have failed, or log was lost again.
const ASK_AGAIN: Duration = Duration::from_secs(3600);

impl Daemon {
    /// Begins what is due as far as there is a place, and returns when it must be asked again.
    pub(super) fn begin_due(&mut self, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
        let plan = Arc::clone(&self.plan);
        let mut due_now = Vec::new();
        let mut next = now + TimeDelta::hours(1);
        for backup in plan.backups.values().filter(|backup| !self.busy.contains_key(&backup.name)) {
            let Some(schedule) = &backup.schedule else { continue };
            let record = self.history.record(Job::Dump, backup.name.as_str(), &spelled(backup, &schedule.spelled()), now)?;
            match due(backup, &record, now) {
                Due::Run { slot, attempt } => due_now.push((slot, backup.name.clone(), attempt)),
                Due::Skip { slot } if self.waiting.contains(&backup.name) => due_now.push((slot, backup.name.clone(), 1)),
                Due::Skip { slot } => {
                    let why = "missed while no daemon ran, and catch_up = false";
                    self.history.skipped(Job::Dump, backup.name.as_str(), backup.server.as_str(), now, Some(slot), why)?;
                    tracing::warn!(backup = %backup.name, %slot, "slot skipped: {why}");
                    next = now;
                }
                Due::At(at) => next = at.map_or(next, |at| at.min(next)),
            }
        }
        // Who waits already goes first: else one that is due again at once would always be.
        let waited = std::mem::take(&mut self.waiting);
        due_now.sort_by_key(|(slot, name, _)| (!waited.contains(name), *slot, name.clone()));
        for (slot, name, attempt) in due_now {
            // The end of a run makes a place, and asks again.
            if self.has_place() {
                self.begin_run(name, slot, attempt);
            } else {
                self.waiting.insert(name);
            }
        }
        Ok(next.min(self.begin_due_drill(now)?))
    }

    /// Nothing that is there leads over a gap in the log: a base backup is made as soon as there is a place, whatever the
    /// schedule says. Of one that is made by hand only the gap is told, as every gap is.
    pub(super) fn ask_for_bases(&mut self) {
        let plan = Arc::clone(&self.plan);
        for (name, is_told_once) in self.receiving.anew.take() {
            let is_scheduled = plan.backups.get(&name).is_some_and(|backup| backup.schedule.is_some());
            // Where log is lost again and again, base backups must not take all of the way.
            let is_new = self.asked_for.get(&name).is_none_or(|at| at.elapsed() >= ASK_AGAIN);
            if is_scheduled && is_new && !self.busy.contains_key(&name) && self.has_place() && !self.stops {
                self.asked_for.insert(name.clone(), Instant::now());
                self.begin_run(name, clock::now().trunc_subsecs(0), 1);
            } else if is_scheduled && is_told_once {
                // When there is a place, and the time.
                self.receiving.anew.note(&name, true);
            }
        }
    }

    fn has_place(&self) -> bool {
        let places = usize::try_from(self.plan.max_concurrent_runs).unwrap_or(usize::MAX);
        self.busy.values().filter(|(work, _)| matches!(work, Work::Run { .. })).count() < places
    }

    fn begin_run(&mut self, name: Name, slot: DateTime<Utc>, attempt: u32) {
        tracing::info!(backup = %name, slot = %slot.format("%Y-%m-%dT%H:%M:%SZ"), attempt, "run begins");
        let (plan, cancel, followers) = (Arc::clone(&self.plan), self.cancel.child_token(), self.followers.clone());
        let backup = name.clone();
        let task = self.work.spawn(async move {
            let report = run::run(&plan, name.as_str(), Order::Slot(slot), &Progress::default(), &followers, &cancel).await;
            (name, Work::Run { slot }, report.map(Some))
        });
        self.busy.insert(backup, (Work::Run { slot }, task.id()));
    }

    pub(super) fn ended(&mut self, done: Result<(task::Id, Done), JoinError>) {
        let now = clock::now();
        let mut again = now;
        match done {
            Ok((_, (name, work, result))) => {
                self.busy.remove(&name);
                self.copy_soon(&name);
                let is_held = matches!(&result, Err(error) if error.kind == Kind::Busy);
                let noted = self.note_end(&name, work, result, now);
                if let Err(error) = &noted {
                    tracing::error!(backup = %name, %error, "the end of a run cannot be noted");
                }
                // Its slot may be due still.
                if is_held || noted.is_err() {
                    again = self.next_due.min(now + AGAIN_AFTER);
                    self.waiting.insert(name);
                }
                if matches!(work, Work::Run { .. }) {
                    self.unnoted = noted.err();
                }
            }
            Err(error) => {
                // A defect of ours. Its lock is free; it is found interrupted.
                tracing::error!(%error, "a run was broken off");
                let broken = self.busy.iter().find(|(_, (_, id))| *id == error.id()).map(|(name, (work, _))| (name.clone(), *work));
                if let Some((name, work)) = broken {
                    self.busy.remove(&name);
                    let plan = Arc::clone(&self.plan);
                    if let (Work::Run { .. }, Some(backup)) = (work, plan.backups.get(&name)) {
                        self.sweep(backup);
                    }
                }
            }
        }
        self.next_due = again;
        self.look_at = Instant::now();
    }

    fn note_end(&mut self, name: &Name, work: Work, result: Result<Option<Report>>, now: DateTime<Utc>) -> Result<()> {
        let Work::Run { slot } = work else {
            if let Err(error) = result {
                tracing::warn!(backup = %name, %error, "cannot clean up after a former run; the next one tries again");
            }
            return Ok(());
        };
        match result {
            Ok(None) => {}
            Ok(Some(report)) => log_report(name, &report),
            // Another process is at it: the slot is skipped if that is a run, else it waits.
            Err(error) if error.kind == Kind::Busy => tracing::warn!(backup = %name, %error, "run did not begin"),
            Err(error) => {
                tracing::error!(backup = %name, %error, "run could not begin");
                let server = self.plan.backups.get(name).map_or("", |backup| backup.server.as_str());
                let outcome = if error.kind == Kind::Cancelled { Outcome::Cancelled } else { Outcome::Failed };
                let row = self.history.begin(name.as_str(), server, now, &Tag::random(), Some(slot))?;
                self.history.end(row, now, outcome, Some(&error.message), None, true)?;
                if error.kind.may_pass() {
                    self.history.may_pass(row)?;
                }
            }
        }
        // Slots that came meanwhile are not made up for: a slow dump would never end.
        if let Some(backup) = self.plan.backups.get(name)
            && let Some(schedule) = &backup.schedule
            && let Some(missed) = slots::latest(schedule, backup.timezone, slot, now - TimeDelta::seconds(1))
        {
            let why = "the run of an earlier slot was still under way";
            self.history.skipped(Job::Dump, name.as_str(), backup.server.as_str(), now, Some(missed), why)?;
            tracing::warn!(backup = %name, slot = %missed, "slot skipped: {why}");
        }
        Ok(())
    }
}

fn log_report(name: &Name, report: &Report) {
    for warning in report.warnings.iter().chain(&report.problems) {
        tracing::warn!(backup = %name, "{warning}");
    }
    let id = report.id.as_ref().map(ToString::to_string).unwrap_or_default();
    let rung = report.rung.map(crate::catalog::Rung::as_str).unwrap_or_default();
    let outcome = report.outcome.as_str();
    if let Some(error) = &report.error {
        tracing::error!(backup = %name, id, outcome, rung, %error, "run ended");
    } else {
        tracing::info!(backup = %name, id, outcome, rung, bytes = report.bytes, seconds = report.seconds, "run ended");
    }
}
