//! The life of the daemon: it wakes once a second, begins what is due, looks at how things stand,
//! and tells. What is due and what is wrong is decided elsewhere, by pure functions.

mod discovery;
mod drills;
mod file;
mod notify;
mod probe;
mod reload;
mod telling;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{self, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::alert::delivery::{self, Sender};
use crate::alert::{letter, problems};
use crate::config::Plan;
use crate::config::plan::Backup;
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::host::signals::{self, Told};
use crate::host::{self, Tag, clock};
use crate::job::assess::{self, Assessment, spelled};
use crate::job::follow::Followers;
use crate::job::progress::Progress;
use crate::job::prune;
use crate::job::restore::leftovers;
use crate::job::run::{self, Order, Report};
use crate::job::sweep;
use crate::listen::Listener;
use crate::schedule::due::{Due, Job, due};
use crate::schedule::slots;
use crate::schedule::ticker::Ticker;
use crate::state::{Alerts, History, Outcome, State};

use drills::Drills;
use notify::Pulse;
use telling::Telling;

pub use file::Watch;

/// Looking at how things stand may take this share of the time: one in so many.
const ASSESS_SHARE: u32 = 5_000;

/// At least so often, and at most so often, is it looked.
const ASSESS_EVERY: std::ops::RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(900);

/// When a run is tried again whose lock somebody held, or that could not be put on record.
const AGAIN_AFTER: TimeDelta = TimeDelta::seconds(5);

/// How long what was cancelled may take to end its programs and backends.
const CANCEL_WITHIN: Duration = Duration::from_secs(30);

/// How long the last messages may take at the end.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Reads the file again, with its secrets.
pub type Load<'a> = &'a dyn Fn() -> Result<Plan>;

/// Runs until it is told to stop.
///
/// # Errors
/// It cannot begin: another daemon holds the lock (`Busy`), or `state_dir` cannot be written.
pub async fn run(mut file: Watch, plan: Plan, load: Load<'_>) -> Result<()> {
    let state = State::open(&plan.state_dir)?;
    let Some(lock) = state.lock_daemon()? else {
        return Err(Error::new(Kind::Busy, format!("another daemon runs on {}", plan.state_dir.display()))
            .hint("one daemon serves all backups of a file; give a second one a state_dir of its own"));
    };
    let mut signals = signals::of_daemon()?;
    let mut daemon = Daemon::new(plan, state)?;
    daemon.listener.follow(&daemon.plan)?;
    daemon.begin()?;
    daemon.follow();
    daemon.probe();
    let ticker = Ticker::start().await?;
    daemon.step(clock::now());
    // The schedule runs from now on.
    host::notify::ready();
    loop {
        tokio::select! {
            () = ticker.tick() => {
                if !lock.is_in_place() {
                    return Err(daemon.lose_state().await);
                }
                if file.has_changed() {
                    daemon.reload_aloud(load);
                }
                daemon.try_file_again(load);
            }
            Some(done) = daemon.work.join_next_with_id() => daemon.ended(done),
            Some(done) = daemon.drills.task.join_next() => daemon.drill_ended(done),
            Some(done) = daemon.looking.join_next() => daemon.looked(done),
            Some(done) = daemon.telling.tasks.join_next_with_id() => daemon.told(done),
            Some(seen) = daemon.discovery.heard.recv() => daemon.discovered(seen, load),
            Some(told) = signals.recv() => match told {
                Told::Reload => {
                    file.take();
                    daemon.reload_aloud(load);
                }
                Told::Stop => break,
            },
        }
        daemon.step(clock::now());
        daemon.tell_alive();
    }
    ticker.stop().await;
    daemon.drain(&mut signals).await;
    Ok(())
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

/// A task of ours that panicked has a defect: it must not be passed over.
fn broken_off(what: &str, error: &JoinError) {
    if error.is_panic() {
        tracing::error!(%error, "{what} was broken off");
    }
}

/// What runs for a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Run {
        slot: DateTime<Utc>,
    },
    /// Cleaning up after a former life.
    Sweep,
}

type Done = (Name, Work, Result<Option<Report>>);

struct Daemon {
    plan: Arc<Plan>,
    state: State,
    history: Arc<History>,
    alerts: Arc<Alerts>,
    /// Ends every run when it is cancelled.
    cancel: CancellationToken,
    work: JoinSet<Done>,
    busy: BTreeMap<Name, (Work, task::Id)>,
    drills: Drills,
    listener: Listener,
    /// What was due in time and has found no place yet: it is late, but was not missed.
    waiting: BTreeSet<Name>,
    /// Why it cannot be told what is due, and why a run could not be put on record.
    unread: Option<Error>,
    unnoted: Option<Error>,
    /// Before that moment nothing is due, unless the clock jumps.
    next_due: DateTime<Utc>,
    last_step: DateTime<Utc>,
    /// How long a look took, and why it could not be kept.
    /// Ends with the daemon.
    probing: JoinSet<()>,
    looking: JoinSet<(Duration, Option<Error>)>,
    look_at: Instant,
    /// When each store's disk was looked at.
    disks: BTreeMap<Name, Instant>,
    telling: Telling,
    followers: Followers,
    faulty: Option<reload::Faulty>,
    discovery: discovery::Discovery,
    pulse: Pulse,
    stops: bool,
}

impl Daemon {
    fn new(plan: Plan, state: State) -> Result<Self> {
        let now = clock::now();
        let plan = Arc::new(plan);
        Ok(Daemon {
            listener: Listener::new(&state, &plan)?,
            history: Arc::new(state.history()?),
            alerts: Arc::new(state.alerts()?),
            state,
            plan,
            drills: Drills::default(),
            cancel: CancellationToken::new(),
            work: JoinSet::new(),
            busy: BTreeMap::new(),
            waiting: BTreeSet::new(),
            unread: None,
            unnoted: None,
            next_due: now,
            last_step: now,
            probing: JoinSet::new(),
            looking: JoinSet::new(),
            look_at: Instant::now(),
            disks: BTreeMap::new(),
            telling: Telling::new(),
            followers: Followers::default(),
            faulty: None,
            discovery: discovery::Discovery::default(),
            pulse: Pulse::new(host::notify::watchdog(), Instant::now()),
            stops: false,
        })
    }

    /// What a former life left is told at once, and swept beside the work.
    fn begin(&mut self) -> Result<()> {
        let plan = Arc::clone(&self.plan);
        self.alerts.set_loaded(Ok(()), clock::now())?;
        prune::note_terms(&plan, &self.alerts)?;
        self.alerts.release_claims_of_daemon()?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            state_dir = %plan.state_dir.display(),
            backups = plan.backups.len(),
            "the daemon begins"
        );
        if !plan.has_channel {
            tracing::warn!("nobody hears of a failure: there is no [email], [webhooks] or [pings] section");
        }
        for backup in plan.backups.values() {
            self.sweep(backup);
        }
        self.sweep_drills();
        self.sweep_restores();
        Ok(())
    }

    /// Removes what dead restores left, also on servers that no backup is made of: one that was killed
    /// while the names changed lets nobody into the live database.
    fn sweep_restores(&mut self) {
        let (plan, state) = (Arc::clone(&self.plan), self.state.clone());
        self.probing.spawn(async move {
            if let Err(error) = leftovers::sweep(&plan, &state, None).await {
                tracing::warn!(%error, "cannot tell what interrupted restores left; the next restore or run tries again");
            }
        });
    }

    /// Tries everything once, beside the work: what does not answer holds nothing up.
    fn probe(&mut self) {
        let plan = Arc::clone(&self.plan);
        self.probing.spawn(async move { probe::probe(&plan).await });
    }

    /// Tells of a former run of a backup that was interrupted, and cleans up after it. Nothing of it
    /// runs before: a success must not hide that. It is done beside the work of others, for a store
    /// or a server may not answer.
    fn sweep(&mut self, backup: &Backup) {
        let (plan, state, history, alerts, backup) =
            (Arc::clone(&self.plan), self.state.clone(), Arc::clone(&self.history), Arc::clone(&self.alerts), backup.clone());
        let name = backup.name.clone();
        let task = self.work.spawn(async move {
            let swept = async {
                sweep::note_interrupted(&plan, &state, &history, &backup).await?;
                let is_locked = State::is_locked(&plan.state_dir, backup.name.as_str());
                let last = history.last_verdict(Job::Dump, backup.name.as_str(), is_locked)?;
                if last.is_some_and(|run| run.outcome.as_deref() == Some(Outcome::Interrupted.as_str())) {
                    let mut assessment = Assessment::default();
                    assessment.look_at_backup(&plan, &history, &alerts, &backup, clock::now()).await?;
                    assess::log(&assessment.settle(&plan, &alerts, clock::now())?);
                }
                sweep::sweep_idle(&plan, &state, &history, &backup).await
            };
            let swept = swept.await;
            (backup.name, Work::Sweep, swept.map(|()| None))
        });
        self.busy.insert(name, (Work::Sweep, task.id()));
    }

    /// Whatever has become due by now.
    fn step(&mut self, now: DateTime<Utc>) {
        if now < self.last_step || now >= self.next_due {
            let begun = self.begin_due(now);
            self.unread = begun.as_ref().err().cloned();
            self.next_due = begun.unwrap_or_else(|error| {
                tracing::error!(%error, "cannot tell what is due; tried again");
                now + TimeDelta::seconds(30)
            });
            self.tell_status(now);
        }
        self.last_step = now;
        if self.looking.is_empty() && Instant::now() >= self.look_at {
            self.look();
        }
        self.tell(now);
    }

    /// Begins what is due as far as there is a place, and returns when it must be asked again.
    fn begin_due(&mut self, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
        let plan = Arc::clone(&self.plan);
        let mut due_now = Vec::new();
        let mut next = now + TimeDelta::hours(1);
        for backup in plan.backups.values().filter(|backup| !self.busy.contains_key(&backup.name)) {
            let Some(schedule) = &backup.schedule else { continue };
            let record = self.history.record(Job::Dump, backup.name.as_str(), &spelled(backup, &schedule.text), now)?;
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
        let places = usize::try_from(plan.max_concurrent_runs).unwrap_or(usize::MAX);
        for (slot, name, attempt) in due_now {
            // The end of a run makes a place, and asks again.
            if self.busy.values().filter(|(work, _)| matches!(work, Work::Run { .. })).count() < places {
                self.begin_run(name, slot, attempt);
            } else {
                self.waiting.insert(name);
            }
        }
        Ok(next.min(self.begin_due_drill(now)?))
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

    fn ended(&mut self, done: Result<(task::Id, Done), JoinError>) {
        let now = clock::now();
        let mut again = now;
        match done {
            Ok((_, (name, work, result))) => {
                self.busy.remove(&name);
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

    /// Looks at how things stand, beside the work: a disk that hangs holds up nothing else.
    fn look(&mut self) {
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

    fn looked(&mut self, looked: Result<(Duration, Option<Error>), JoinError>) {
        let (took, error) = looked.unwrap_or_else(|error| {
            broken_off("a look at how things stand", &error);
            Default::default()
        });
        if let Some(error) = error {
            self.cry(&error);
        }
        let soonest = self.plan.stores.values().map(|store| store.check_every).min().unwrap_or(Duration::MAX);
        let pause = took.saturating_mul(ASSESS_SHARE).clamp(*ASSESS_EVERY.start(), *ASSESS_EVERY.end());
        // Sooner, if something has happened meanwhile.
        self.look_at = self.look_at.min(Instant::now() + pause.min(soonest.max(Duration::from_secs(1))));
        self.telling.soon();
    }

    /// Ends what runs and tells that `state_dir` is gone: what is on record is lost, and another daemon
    /// may have begun in its place.
    async fn lose_state(&mut self) -> Error {
        let error =
            Error::new(Kind::System, format!("state_dir {} was removed or replaced under the daemon", self.plan.state_dir.display()))
                .hint("start the daemon again; no backup is lost");
        tracing::error!(%error, "the daemon ends");
        self.cancel.cancel();
        let ended = async {
            while self.work.join_next().await.is_some() {}
            while self.drills.task.join_next().await.is_some() {}
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
    async fn drain(&mut self, signals: &mut UnboundedReceiver<Told>) {
        let grace = self.plan.shutdown_grace;
        tracing::info!(running = self.work.len(), grace_secs = grace.as_secs(), "told to stop");
        self.stops = true;
        self.tell_stopping();
        let mut deadline = tokio::time::Instant::now() + grace;
        // It is no backup, and loses nothing.
        self.drills.cancel.cancel();
        // Cleaning up after a former life may wait for a server; the next life goes on with it.
        loop {
            let runs = self.busy.values().any(|(work, _)| matches!(work, Work::Run { .. }));
            if !runs && !self.drills.is_under_way() {
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
        self.work.abort_all();
        self.drills.task.abort_all();
        self.looking.shutdown().await;
        self.look();
        let last_words = async {
            self.followers.finish().await;
            let _ = self.looking.join_next().await;
            while self.telling.tasks.join_next().await.is_some() {}
            let _ = delivery::deliver(&self.plan, &self.alerts, Sender::Once(LAST_WORDS)).await;
        };
        let _ = tokio::time::timeout(LAST_WORDS, last_words).await;
        tracing::info!("the daemon ends");
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
