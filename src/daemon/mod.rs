//! The life of the daemon: it wakes once a second, begins what is due, looks at how things stand,
//! and tells. What is due and what is wrong is decided elsewhere, by pure functions.

mod copies;
mod discovery;
mod drills;
mod ending;
mod file;
mod looking;
mod notify;
mod probe;
mod receiving;
mod reload;
mod runs;
mod telling;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::task::{self, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::config::Plan;
use crate::config::plan::Backup;
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::host::signals::{self, Told};
use crate::host::{self, clock};
use crate::job::assess::{self, Assessment};
use crate::job::follow::Followers;
use crate::job::prune;
use crate::job::restore::leftovers;
use crate::job::run::Report;
use crate::job::sweep;
use crate::listen::Listener;
use crate::schedule::due::Job;
use crate::schedule::ticker::Ticker;
use crate::state::{Alerts, History, Outcome, State};

use drills::Drills;
use notify::Pulse;
use telling::Telling;

pub use file::Watch;

/// When a run is tried again whose lock somebody held, or that could not be put on record.
const AGAIN_AFTER: TimeDelta = TimeDelta::seconds(5);

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
    daemon.receive();
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
            Some(done) = daemon.copies.tasks.join_next_with_id() => daemon.copied(done),
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
    copies: copies::Copies,
    listener: Listener,
    /// What was due in time and has found no place yet: it is late, but was not missed.
    waiting: BTreeSet<Name>,
    /// When a gap in the log has asked for a base backup.
    asked_for: BTreeMap<Name, Instant>,
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
    receiving: receiving::Receiving,
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
            copies: copies::Copies::default(),
            cancel: CancellationToken::new(),
            work: JoinSet::new(),
            busy: BTreeMap::new(),
            waiting: BTreeSet::new(),
            asked_for: BTreeMap::new(),
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
            receiving: receiving::Receiving::default(),
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
        self.ask_for_bases();
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
        self.begin_due_copies(now);
        if self.looking.is_empty() && Instant::now() >= self.look_at {
            self.look();
        }
        self.tell(now);
    }
}
