//! What the service manager hears of the daemon: when the schedule runs, what comes next and what
//! came last, and that there is life in it.

use std::fmt::Write;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use tokio::task::JoinHandle;

use super::{Daemon, Load, Work};
use crate::alert::problems::time;
use crate::config::Plan;
use crate::config::values::Name;
use crate::host::{clock, notify};
use crate::schedule::due::{Job, begins};
use crate::schedule::slots;
use crate::state::history::Run;

/// So many signs of life go into the time within which one is wanted.
const SIGNS: u32 = 4;

/// While it stops, more time is asked for so often at least.
const STILL_STOPPING_EVERY: Duration = Duration::from_secs(30);

/// The signs of life. Whoever gives them is the loop of the schedule, and only when a task that it sent
/// through the runtime with the last sign has come to its end: so both make progress. What a run
/// waits for plays no part.
pub(super) struct Pulse {
    within: Option<Duration>,
    given_at: Instant,
    task: Option<JoinHandle<()>>,
}

impl Pulse {
    pub fn new(within: Option<Duration>, now: Instant) -> Self {
        Pulse { within, given_at: now, task: None }
    }

    /// Whether a sign of life is to be given now.
    fn beat(&mut self, now: Instant) -> bool {
        let Some(within) = self.within else { return false };
        let is_time = now.saturating_duration_since(self.given_at) >= within / SIGNS;
        let beats = is_time && self.task.as_ref().is_none_or(JoinHandle::is_finished);
        if beats {
            self.given_at = now;
            self.task = Some(tokio::spawn(async {}));
        }
        beats
    }

    /// How often a loop must turn.
    pub fn every(&self) -> Duration {
        self.within.map_or(STILL_STOPPING_EVERY, |within| (within / SIGNS).min(STILL_STOPPING_EVERY))
    }
}

impl Daemon {
    /// Reads the file again, and says so.
    pub(super) fn reload_aloud(&mut self, load: Load<'_>) {
        notify::reloading();
        self.reload(load);
        notify::ready();
    }

    pub(super) fn tell_alive(&mut self) {
        if self.pulse.beat(Instant::now()) {
            notify::alive();
        }
    }

    pub(super) fn tell_stopping(&self) {
        notify::stopping();
        notify::still_stopping();
        self.tell_status(clock::now());
    }

    pub(super) fn tell_still_stopping(&mut self) {
        self.tell_alive();
        notify::still_stopping();
    }

    pub(super) fn tell_status(&self, now: DateTime<Utc>) {
        if !notify::is_heard() {
            return;
        }
        let mut running: Vec<String> =
            self.busy.iter().filter(|(_, (work, _))| matches!(work, Work::Run { .. })).map(|(name, _)| name.to_string()).collect();
        running.extend(self.drills.backup().map(|name| format!("drill of {name}")));
        let faulty = self.alerts.loaded().ok().and_then(|loaded| loaded.error).is_some();
        let last = self.history.newest_ended();
        notify::status(&line(&Standing {
            stops: self.stops,
            faulty,
            unread: self.unread.is_some() || last.is_err(),
            running: &running,
            next: next(&self.plan, now),
            last: last.ok().flatten().as_ref(),
            zone: &|name| self.plan.backups.get(name).map_or(Tz::UTC, |backup| backup.timezone),
        }));
    }
}

struct Standing<'a> {
    stops: bool,
    faulty: bool,
    /// It cannot be told what is due.
    unread: bool,
    running: &'a [String],
    next: Option<(&'a Name, Job, DateTime<Utc>)>,
    last: Option<&'a Run>,
    zone: &'a dyn Fn(&str) -> Tz,
}

/// How things stand, in one line.
fn line(standing: &Standing<'_>) -> String {
    let mut line = String::new();
    if standing.unread {
        line.push_str("the history cannot be read, nothing is begun; ");
    }
    if standing.faulty {
        line.push_str("the file is faulty, the one before it holds; ");
    }
    if !standing.running.is_empty() {
        let what = if standing.stops { "waits for" } else { "running" };
        let _ = write!(line, "{what}: {}; ", standing.running.join(", "));
    }
    if standing.stops {
        line.push_str("stopping; ");
    } else if let Some((name, job, at)) = standing.next {
        let _ = write!(line, "next: {}{name} at {}; ", of(job), time(at, (standing.zone)(name.as_str())));
    } else {
        line.push_str("no schedule; ");
    }
    match standing.last {
        None => line.push_str("no run yet"),
        Some(run) => {
            let (outcome, at) = (run.outcome.as_deref().unwrap_or_default(), run.finished_at.unwrap_or(run.started_at));
            let _ = write!(line, "last: {}{} {outcome} at {}", of(run.kind), run.backup, time(at, (standing.zone)(&run.backup)));
        }
    }
    line
}

fn of(job: Job) -> &'static str {
    match job {
        Job::Dump => "",
        Job::Drill => "drill of ",
        Job::Restore => "restore of ",
        Job::Copy => "copy of ",
    }
}

/// The next slot of all schedules, when its work begins.
fn next(plan: &Plan, now: DateTime<Utc>) -> Option<(&Name, Job, DateTime<Utc>)> {
    let of_backup = plan.backups.values().flat_map(|backup| {
        let dump = backup.schedule.as_ref().and_then(|schedule| slots::next(schedule, backup.timezone, now));
        let drill = backup.drill_schedule().and_then(|schedule| slots::next(schedule, backup.timezone, now));
        let dump = dump.map(|slot| (&backup.name, Job::Dump, begins(backup, slot)));
        dump.into_iter().chain(drill.map(|slot| (&backup.name, Job::Drill, slot)))
    });
    of_backup.min_by_key(|(name, job, at)| (*at, *name, *job))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc;

    use super::*;

    fn plan(backups: &str) -> Plan {
        let text = format!("[servers.main]\nsocket = \"/run/postgresql\"\n[stores.local]\npath = \"/srv/x\"\n{backups}");
        crate::config::parse(&text, Path::new("x.toml")).unwrap()
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn run(kind: Job, outcome: &str) -> Run {
        Run {
            backup: "shop".to_owned(),
            kind,
            slot: None,
            started_at: at("2026-01-15T01:00:00Z"),
            finished_at: Some(at("2026-01-15T01:10:00Z")),
            outcome: Some(outcome.to_owned()),
            error: None,
            id: None,
            target: None,
            lock: None,
        }
    }

    #[test]
    fn the_line_names_the_next_slot_in_its_zone_and_the_last_result() {
        let plan = plan(
            "[backups.shop]\ndatabase = \"shop\"\nschedule = \"0 2 * * *\"\ntimezone = \"Europe/Vienna\"\ndrill = { schedule = \"0 1 * * *\", on = \"local\" }\n\
             [backups.late]\ndatabase = \"late\"\nschedule = \"0 3 * * *\"\n",
        );
        let zone = |name: &str| plan.backups[name].timezone;
        let standing = |now: &str| Standing {
            stops: false,
            faulty: false,
            unread: false,
            running: &[],
            next: next(&plan, at(now)),
            last: None,
            zone: &zone,
        };
        assert_eq!(line(&standing("2026-01-15T00:30:00Z")), "next: shop at 2026-01-15 02:00:00 +01:00; no run yet");
        assert_eq!(line(&standing("2026-01-15T01:00:00Z")), "next: late at 2026-01-15 03:00:00 +00:00; no run yet");
        assert_eq!(line(&standing("2026-01-15T04:00:00Z")), "next: drill of shop at 2026-01-16 01:00:00 +01:00; no run yet");

        let (running, failed, drilled) = (["shop".to_owned()], run(Job::Dump, "failed"), run(Job::Drill, "ok"));
        let busy = Standing { running: &running, last: Some(&failed), faulty: true, ..standing("2026-01-15T01:00:00Z") };
        assert_eq!(
            line(&busy),
            "the file is faulty, the one before it holds; running: shop; next: late at 2026-01-15 03:00:00 +00:00; \
             last: shop failed at 2026-01-15 02:10:00 +01:00"
        );
        let stops = Standing { stops: true, last: Some(&drilled), faulty: false, ..busy };
        assert_eq!(line(&stops), "waits for: shop; stopping; last: drill of shop ok at 2026-01-15 02:10:00 +01:00");
        let unread = Standing { unread: true, next: None, last: None, running: &[], stops: false, ..stops };
        assert_eq!(line(&unread), "the history cannot be read, nothing is begun; no schedule; no run yet");
    }

    #[test]
    fn no_sign_of_life_while_the_runtime_stands_still() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let second = Duration::from_secs(1);
        runtime.block_on(async {
            let start = Instant::now();
            let mut pulse = Pulse::new(Some(4 * second), start);
            assert!(!pulse.beat(start), "not before its time");
            assert!(pulse.beat(start + second));
            assert!(!pulse.beat(start + second), "once");
            while !pulse.task.as_ref().unwrap().is_finished() {
                tokio::task::yield_now().await;
            }
            // A defect: a task that holds its thread.
            let (began, has_begun) = mpsc::channel();
            let (release, held) = mpsc::channel::<()>();
            let holder = tokio::spawn(async move {
                began.send(()).unwrap();
                let _ = held.recv();
            });
            has_begun.recv().unwrap();
            // The one that was sent before it has come back; the next one does not.
            assert!(pulse.beat(start + 2 * second));
            assert!(!pulse.beat(start + 3 * second));
            assert!(!pulse.beat(start + 60 * second));
            release.send(()).unwrap();
            holder.await.unwrap();
            while !pulse.task.as_ref().unwrap().is_finished() {
                tokio::task::yield_now().await;
            }
            assert!(pulse.beat(start + 61 * second));

            // A task that waits, as a run for its dump, is nothing of the kind.
            let waits = tokio::spawn(std::future::pending::<()>());
            while !pulse.task.as_ref().unwrap().is_finished() {
                tokio::task::yield_now().await;
            }
            assert!(pulse.beat(start + 62 * second));
            waits.abort();
        });
    }

    #[test]
    fn nobody_wants_signs_of_life() {
        let now = Instant::now();
        assert!(!Pulse::new(None, now).beat(now + Duration::from_secs(3_600)));
    }
}
