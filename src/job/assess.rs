//! How things stand: what is in the stores and on record, turned into what is wrong, and that into
//! alerts. Whoever looks, a daemon or a command, sees the same.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::task::AbortHandle;

use crate::alert::copies::{self, CopyFacts};
use crate::alert::letter;
use crate::alert::policy::{self, Known, Step, Tell};
use crate::alert::problems::{self, BackupFacts, Problem};
use crate::alert::routes::routes;
use crate::catalog::{Catalog, Id, Rung};
use crate::config::Plan;
use crate::config::plan::{Backup, Store};
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::host::clock;
use crate::host::disk::{self, Usage};
use crate::job::{keys, prune, stores};
use crate::physical::lag::Figures;
use crate::schedule::due::{self, Job};
use crate::state::alerts::Change;
use crate::state::copies::copy_lock;
use crate::state::discovered::Discovered;
use crate::state::watched::Watched;
use crate::state::{Alerts, DRILL, History, Run, State};
use crate::store::catalog_of;

/// A disk that does not answer for so long is told as that; nobody waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Is shown what is known of a backup, and when it will be too old.
pub type Show<'a> = &'a mut (dyn FnMut(&BackupFacts<'_>, Option<DateTime<Utc>>) -> Result<()> + Send);
/// An Engine that is gone for so long is told.
const LOST_FOR: chrono::TimeDelta = chrono::TimeDelta::minutes(2);

/// What was looked at, and what was found.
#[derive(Debug, Default)]
pub struct Assessment {
    pub problems: Vec<Problem>,
    /// Keys that begin so were looked at: what is not among the problems is over.
    pub looked_at: Vec<String>,
    /// Keys among them of which nothing can be told yet: an alert of them stays as it is.
    pub undecided: Vec<String>,
    pub backups: Vec<BackupState>,
    pub stores: Vec<StoreState>,
}

/// How a backup stands.
#[derive(Debug)]
pub struct BackupState {
    pub name: Name,
    /// Id, the moment that it shows, and its rung.
    pub newest_good: Option<(Id, DateTime<Utc>, Rung)>,
    /// When that will be too old.
    pub stale_at: Option<DateTime<Utc>>,
    pub next_at: Option<DateTime<Utc>>,
    pub last_run: Option<Run>,
    /// By the newest drill that got so far.
    pub restore_seconds: Option<f64>,
    /// How its log stood when the daemon looked last.
    pub log: Option<Figures>,
    pub running: bool,
    /// In the stores beside the primary.
    pub copies: Vec<CopyFacts>,
}

/// How a store stands.
#[derive(Debug)]
pub struct StoreState {
    pub name: Name,
    pub alert_above_percent: u8,
    /// `None`: it is no folder of this machine.
    pub usage: Option<Result<Usage>>,
}

impl Assessment {
    /// Adds how a backup stands.
    ///
    /// # Errors
    /// The history cannot be read. A store that cannot be read is a problem, not a failure.
    pub async fn look_at_backup(
        &mut self,
        plan: &Plan,
        history: &History,
        alerts: &Alerts,
        backup: &Backup,
        now: DateTime<Utc>,
    ) -> Result<()> {
        self.look_at_backup_for(plan, history, alerts, backup, now, &mut |_, _| Ok(())).await
    }

    /// The same, and shows what is known of it while its catalog is at hand, with when it will be too old.
    ///
    /// # Errors
    /// The history cannot be read.
    pub async fn look_at_backup_for(
        &mut self,
        plan: &Plan,
        history: &History,
        alerts: &Alerts,
        backup: &Backup,
        now: DateTime<Utc>,
        show: Show<'_>,
    ) -> Result<()> {
        let name = backup.name.as_str();
        let mut catalog = Catalog::trusting(keys::trust(plan));
        for store in backup.stores.iter().filter_map(|store| plan.stores.get(store)) {
            let key = format!("store/{}/unreadable", store.name);
            let told = self.problems.iter().position(|problem| problem.key == key);
            // What is elsewhere and gave no answer is not waited for again with every backup.
            let read = match told {
                Some(_) if store.kind.folder().is_none() => Err(no_answer()),
                _ => read(store, name, catalog.clone()).await,
            };
            match read {
                Ok(more) => catalog = more,
                Err(error) => {
                    if told.is_none() {
                        self.problems.push(problems::unreadable_store(store.name.as_str(), &error, now));
                    }
                    catalog.silent.push((store.name.to_string(), error));
                }
            }
            self.looked_at.push(key);
        }
        let running = State::is_locked(&plan.state_dir, name);
        let last = history.last_verdict(Job::Dump, name, running)?;
        let record = if backup.schedule.is_some() { history.recorded(Job::Dump, name, now)? } else { None };
        // Without a daemon nobody tries again.
        let has_daemon = State::has_daemon(&plan.state_dir);
        let under_way = if running { history.under_way(Job::Dump, name)? } else { None };
        let running_since = under_way.as_ref().map(|run| run.started_at);
        let retry_under_way = record
            .and_then(|record| record.last)
            .is_some_and(|last| last.may_pass.is_some() && under_way.is_some_and(|run| run.slot == Some(last.slot)));
        let is_drilling = State::is_locked(&plan.state_dir, DRILL);
        let last_drill = history.last_verdict(Job::Drill, name, is_drilling)?;
        let drilling = if is_drilling { history.under_way(Job::Drill, name)? } else { None };
        let drills_since = if backup.drill_schedule().is_some() { history.recorded(Job::Drill, name, now)? } else { None };
        let facts = BackupFacts {
            backup,
            catalog: &catalog,
            last: last.as_ref(),
            since: record.map(|record| record.since),
            running: running || is_read_back_elsewhere(plan, history, &catalog, name, now)?,
            running_since,
            retrying: has_daemon && (retry_under_way || record.is_some_and(|record| due::will_retry(backup, &record, now))),
            future_slot: history.future_slot(name, now)?,
            last_drill: last_drill.as_ref(),
            drills_since: drills_since.map(|record| record.since),
            drilling_since: drilling.map(|drill| drill.started_at),
        };
        let newest_good = facts.newest_good(now).map(|entry| (entry.id.clone(), entry.manifest.taken_at, entry.rung()));
        let copies = copies_of(plan, history, &catalog, backup, now)?;
        let watched = backup.physical.as_ref().and_then(|_| Watched::read(&plan.state_dir, name, now));
        // What a store that cannot be read holds is not known: neither good nor bad.
        if catalog.silent.iter().all(|(store, _)| *store != backup.stores[0].as_str()) {
            let found = problems::of_backup(&facts, now);
            self.undecided.extend(problems::undecided(&facts, &found, now));
            if !catalog.silent.is_empty() {
                // What is proven may be proven there.
                self.undecided.push(format!("backup/{name}/unproven"));
            }
            self.problems.extend(found);
            for copy in &copies {
                self.undecided.extend(copy.silent.then(|| copies::key(name, copy.store.as_str())));
                self.problems.extend(copies::of_copies(backup, copy, now));
            }
            match &watched {
                Some(watched) => self.problems.extend(problems::log_of(backup, watched)),
                None if backup.physical.is_some() => self.undecided.push(format!("backup/{name}/wal")),
                None => {}
            }
            let held = prune::held(plan, alerts, backup, &catalog, now)?;
            if !held.is_empty() {
                self.problems.push(problems::held_retention(backup, prune::held_in_words(backup, &held), &held, now));
            }
            self.looked_at.push(format!("backup/{name}/"));
        }
        let next_at = backup.schedule.as_ref().and_then(|schedule| crate::schedule::slots::next(schedule, backup.timezone, now));
        let stale_at = newest_good.as_ref().map(|(_, taken_at, _)| *taken_at).or(facts.since).and_then(|from| due::stale_at(backup, from));
        show(&facts, stale_at)?;
        self.backups.push(BackupState {
            name: backup.name.clone(),
            stale_at,
            newest_good,
            next_at,
            running,
            last_run: history.last_ended(name)?,
            copies,
            restore_seconds: facts.measured(now).map(|(_, _, seconds)| seconds),
            log: watched.map(|watched| watched.figures),
        });
        Ok(())
    }

    /// Adds how a store's disk stands.
    ///
    /// # Errors
    /// The alerts cannot be read.
    pub async fn look_at_store(&mut self, alerts: &Alerts, store: &Store, now: DateTime<Utc>) -> Result<()> {
        let usage = stores::usage(store).await;
        if let Some(usage) = &usage {
            let key = format!("store/{}/disk", store.name);
            let open = alerts.known()?.iter().any(|known| known.key == key);
            self.problems.extend(problems::of_store(store, usage.as_ref(), open, now));
            self.looked_at.push(key);
        }
        self.stores.push(StoreState { name: store.name.clone(), alert_above_percent: store.alert_above_percent, usage });
        Ok(())
    }

    /// Adds whether the history can be used; without it nothing runs.
    pub fn look_at_history(&mut self, plan: &Plan, error: Option<&Error>, now: DateTime<Utc>) {
        if let Some(error) = error
            && !self.problems.iter().any(|problem| problem.key == problems::HISTORY)
        {
            self.problems.push(problems::unusable_history(&plan.state_dir, error, now));
        }
        self.looked_at.push(problems::HISTORY.to_owned());
    }

    /// Adds whether the daemon obeys the file as it is.
    ///
    /// # Errors
    /// The alerts cannot be read.
    pub fn look_at_config(&mut self, alerts: &Alerts) -> Result<()> {
        if let Some((since, error)) = alerts.loaded()?.error {
            self.problems.push(Problem {
                key: "config/reload".to_owned(),
                since,
                summary: "the file was edited and is faulty: the daemon goes on with what it had".to_owned(),
                details: error,
                facts: Vec::new(),
                commands: vec!["pgvigil check".to_owned()],
            });
        }
        self.looked_at.push("config/reload".to_owned());
        Ok(())
    }

    /// Adds whether containers ask for what can be done, and whether they can be followed.
    pub fn look_at_discovery(&mut self, plan: &Plan, now: DateTime<Utc>) {
        self.looked_at.push("container/".to_owned());
        self.looked_at.push(problems::DISCOVERY.to_owned());
        let Some(discovery) = &plan.discovery else { return };
        self.problems.extend(discovery.faults.iter().map(|fault| problems::faulty_labels(fault, now)));
        let lost = Discovered::read(&plan.state_dir).lost.filter(|_| State::has_daemon(&plan.state_dir));
        // A restart of the Engine is nobody's news.
        if let Some((since, why)) = lost.filter(|(since, _)| now - *since >= LOST_FOR) {
            self.problems.push(problems::lost_engine(&discovery.docker, since, why));
        }
    }

    /// Adds whether the clock has jumped.
    ///
    /// # Errors
    /// The alerts cannot be written.
    pub fn look_at_clock(&mut self, alerts: &Alerts) -> Result<()> {
        if let Some(doubt) = prune::doubt(alerts)? {
            self.problems.push(Problem {
                key: "clock/jumped".to_owned(),
                since: doubt.at,
                summary: doubt.told(),
                details: String::new(),
                facts: vec![("Its time now", clock::now().format("%Y-%m-%d %H:%M:%S UTC").to_string())],
                commands: vec!["date".to_owned(), "pgvigil prune --dry-run".to_owned()],
            });
        }
        self.looked_at.push("clock/jumped".to_owned());
        Ok(())
    }

    /// Adds whether the pings were taken.
    ///
    /// # Errors
    /// The alerts cannot be read.
    pub fn look_at_pings(&mut self, plan: &Plan, alerts: &Alerts) -> Result<()> {
        let failed = alerts.failed_pings()?;
        self.problems.extend(failed.iter().filter(|ping| plan.channels.pings.contains_key(ping.backup.as_str())).map(problems::of_ping));
        self.looked_at.push("ping/".to_owned());
        Ok(())
    }

    /// Adds everything; of the disks those that `disks` picks.
    ///
    /// # Errors
    /// What is on record cannot be read.
    pub async fn look_at_all(
        &mut self,
        plan: &Plan,
        history: &History,
        alerts: &Alerts,
        disks: &(dyn Fn(&Name) -> bool + Sync),
        now: DateTime<Utc>,
    ) -> Result<()> {
        self.look_at_all_for(plan, history, alerts, disks, now, &mut |_, _| Ok(())).await
    }

    /// The same, and shows what is known of each backup while its catalog is at hand.
    ///
    /// # Errors
    /// What is on record cannot be read.
    pub async fn look_at_all_for(
        &mut self,
        plan: &Plan,
        history: &History,
        alerts: &Alerts,
        disks: &(dyn Fn(&Name) -> bool + Sync),
        now: DateTime<Utc>,
        show: Show<'_>,
    ) -> Result<()> {
        for store in plan.stores.values().filter(|store| disks(&store.name)) {
            self.look_at_store(alerts, store, now).await?;
        }
        let mut unreadable = None;
        for backup in plan.backups.values() {
            if let Err(error) = self.look_at_backup_for(plan, history, alerts, backup, now, show).await {
                unreadable.get_or_insert(error);
            }
        }
        self.look_at_history(plan, unreadable.as_ref(), now);
        self.look_at_config(alerts)?;
        self.look_at_discovery(plan, now);
        self.look_at_clock(alerts)?;
        self.look_at_pings(plan, alerts)?;
        // Alerts about what is no longer in the file are over.
        for known in alerts.known()? {
            if !is_of(plan, &known.key) {
                self.looked_at.push(known.key);
            }
        }
        Ok(())
    }

    /// Whether what is not among the problems is over.
    pub fn is_decided(&self, key: &str) -> bool {
        self.looked_at.iter().any(|prefix| key.starts_with(prefix.as_str())) && !self.undecided.iter().any(|undecided| undecided == key)
    }

    /// Writes what is wrong into the alerts, and the messages about it into the outbox.
    ///
    /// # Errors
    /// The alerts cannot be written.
    pub fn settle(&self, plan: &Plan, alerts: &Alerts, now: DateTime<Utc>) -> Result<Vec<Step>> {
        let (routes, machine) = (routes(plan), machine());
        let severity = |key: &str| plan.channels.policy.severity(key);
        let steps = alerts.settle(now, |known| {
            let steps = policy::settle(known, &self.problems, &|key| self.is_decided(key), &routes, &severity, now);
            let letter = |step: &Step, tell: &Tell| match step {
                Step::Open(problem) | Step::Remind(problem) | Step::Reword(problem) => {
                    letter::of_problem(problem, tell.state, &machine, now)
                }
                Step::Close(known) if !is_of(plan, &known.key) => {
                    let summary = format!("{} (no longer watched: it is not in the file)", known.summary);
                    letter::of_end(&Known { summary, ..known.clone() }, &machine, now)
                }
                Step::Close(known) => letter::of_end(known, &machine, now),
            };
            let message = |step: &Step, tell: Tell| {
                let mut letter = letter(step, &tell);
                letter.event.severity = severity(step.key());
                (tell, letter)
            };
            let changes = steps
                .into_iter()
                .map(|(step, told)| Change { messages: told.into_iter().map(|tell| message(&step, tell)).collect(), step });
            changes.collect()
        })?;
        Ok(steps)
    }
}

/// How a backup stands in the stores that it is copied to.
fn copies_of(plan: &Plan, history: &History, catalog: &Catalog, backup: &Backup, now: DateTime<Utc>) -> Result<Vec<CopyFacts>> {
    let received = prune::received(history, backup, catalog)?;
    let mut copies = Vec::new();
    for store in prune::receivers(backup) {
        let awaited = prune::awaited_by(plan, backup, store, catalog, &received, now);
        let newest_awaited = catalog.entries.iter().find(|entry| awaited.first() == Some(&entry.id));
        let newest = catalog.entries.iter().find(|entry| {
            entry.id.backup == backup.name.as_str()
                && entry.manifest.taken_at <= now
                && entry.rung_in(store.as_str()).is_some_and(Rung::is_good)
        });
        copies.push(CopyFacts {
            store: store.clone(),
            silent: catalog.silent.iter().any(|(name, _)| name == store.as_str()),
            newest: newest.map(|entry| (entry.id.clone(), entry.manifest.taken_at, entry.rung_in(store.as_str()).unwrap_or_default())),
            awaited: awaited.len(),
            newest_awaited_at: newest_awaited.map(|entry| entry.manifest.finished_at),
            copying: State::is_locked(&plan.state_dir, &copy_lock(backup.name.as_str(), store.as_str())),
            last: history.last_copy(backup.name.as_str(), store.as_str())?,
        });
    }
    Ok(copies)
}

/// Whether another installation may be reading back right now what it has committed: that takes no longer
/// than to make it, and its lease.
fn is_read_back_elsewhere(plan: &Plan, history: &History, catalog: &Catalog, backup: &str, now: DateTime<Utc>) -> Result<bool> {
    let Some(newest) = catalog.entries.iter().find(|entry| entry.id.backup == backup) else { return Ok(false) };
    let (began, made) = (newest.manifest.started_at, newest.manifest.finished_at);
    let patience = (made - began).to_std().unwrap_or_default() + plan.takeover_after;
    let is_fresh = (now - made).to_std().is_ok_and(|age| age <= patience);
    Ok(is_fresh && newest.rung() == Rung::Written && !history.has_made(backup, &newest.id.to_string())?)
}

/// Whether what an alert is about is in the file.
fn is_of(plan: &Plan, key: &str) -> bool {
    let mut parts = key.split('/');
    match (parts.next(), parts.next()) {
        (Some("backup"), Some(name)) => plan.backups.contains_key(name),
        (Some("ping"), Some(name)) => plan.channels.pings.contains_key(name),
        (Some("store"), Some(name)) => plan.stores.contains_key(name),
        _ => true,
    }
}

/// How often a look is made anew because something ended meanwhile.
const LOOKS_MAX: usize = 3;

/// Looks at everything and writes what follows from it. Should a run end between the two, what was
/// seen is old, and it is looked again: nobody is told of what is over. `unusable`: why the history
/// could not be used of late.
///
/// # Errors
/// What is on record cannot be read or written.
pub async fn look_and_settle(
    plan: &Plan,
    history: &History,
    alerts: &Alerts,
    disks: &(dyn Fn(&Name) -> bool + Sync),
    unusable: Option<&Error>,
) -> Result<()> {
    for look in 1.. {
        let before = history.version().ok();
        let mut assessment = Assessment::default();
        assessment.look_at_history(plan, unusable, clock::now());
        assessment.look_at_all(plan, history, alerts, disks, clock::now()).await?;
        if look == LOOKS_MAX || history.version().ok() == before {
            log(&assessment.settle(plan, alerts, clock::now())?);
            break;
        }
    }
    Ok(())
}

/// Alerts for the log of a daemon; a command says what it did by itself.
pub fn log(steps: &[Step]) {
    for step in steps {
        match step {
            Step::Open(problem) => tracing::error!(alert = %problem.key, "{}", problem.summary),
            Step::Remind(problem) => tracing::warn!(alert = %problem.key, "still: {}", problem.summary),
            Step::Close(known) => tracing::info!(alert = %known.key, "over: {}", known.summary),
            Step::Reword(_) => {}
        }
    }
}

/// A schedule with its zone, as it is told apart from what it was before.
pub fn spelled(backup: &Backup, schedule: &str) -> String {
    format!("{schedule} {}", backup.timezone)
}

/// The name of this machine.
pub fn machine() -> String {
    nix::unistd::gethostname().map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The usage of the file system that holds a path, unless it does not answer.
///
/// # Errors
/// The system does not tell, or not in time.
pub async fn usage(path: PathBuf) -> Result<Usage> {
    let question = format!("usage of {}", path.display());
    asked(question, async {
        tokio::task::spawn_blocking(move || disk::usage(&path))
            .await
            .unwrap_or_else(|error| Err(Error::new(Kind::System, error.to_string())))
    })
    .await
}

/// Reads a backup's copies in a store into a catalog, unless the store does not answer.
async fn read(store: &Store, backup: &str, mut catalog: Catalog) -> Result<Catalog> {
    let (opened, name, backup) = (stores::open(store, "")?, store.name.to_string(), backup.to_owned());
    asked(format!("catalog of {name}"), async move {
        catalog_of(&*opened, &name, Some(&backup), &mut catalog).await?;
        Ok(catalog)
    })
    .await
}

/// The answer to a question, unless it takes too long. Then it is not asked again before the first
/// one is answered: each holds a thread, and they are not without number.
pub async fn asked<T: Send + 'static>(question: String, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    static UNANSWERED: Mutex<BTreeMap<String, AbortHandle>> = Mutex::new(BTreeMap::new());
    let unanswered = || UNANSWERED.lock().unwrap_or_else(PoisonError::into_inner);
    if unanswered().get(&question).is_some_and(|task| !task.is_finished()) {
        return Err(no_answer());
    }
    let task = tokio::spawn(work);
    let handle = task.abort_handle();
    if let Ok(answered) = tokio::time::timeout(PATIENCE, task).await {
        return answered.unwrap_or_else(|error| Err(Error::new(Kind::System, error.to_string())));
    }
    unanswered().insert(question, handle);
    Err(no_answer())
}

/// The end of some work, unless it takes too long.
///
/// # Errors
/// Its own, or the store does not answer.
pub async fn within_patience<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(no_answer()))
}

fn no_answer() -> Error {
    Error::new(Kind::Store, format!("the disk does not answer for {} s", PATIENCE.as_secs())).hint("is it mounted, and alive?")
}
