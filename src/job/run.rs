//! One run of a backup, from the lock to the proof.

use std::sync::OnceLock;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::catalog::{Id, Label, Manifest, Rung};
use crate::config::Plan;
use crate::config::plan::Backup;
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::host::{Tag, clock};
use crate::job::follow::{Followers, Following};
use crate::job::make::{Made, Making};
use crate::job::progress::Progress;
use crate::job::spread::Spreading;
use crate::job::verify::{Opened, Proven};
use crate::job::{prune, stores, sweep, verify};
use crate::keys::Identities;
use crate::physical::chain::is_incremental;
use crate::postgres::server::Server;
use crate::schedule::due::{self, Job};
use crate::state::{History, Outcome, State};
use crate::store::Store;
use crate::verify::stored::Stored;

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Report {
    /// `None` if nothing was stored.
    pub id: Option<Id>,
    pub outcome: Outcome,
    pub rung: Option<Rung>,
    pub error: Option<Error>,
    /// What is worth knowing.
    pub warnings: Vec<String>,
    /// What needs a look.
    pub problems: Vec<String>,
    pub seconds: f64,
    pub bytes: u64,
    pub raw_bytes: u64,
}

impl Report {
    /// Of a run that stored nothing.
    fn nothing(outcome: Outcome, error: Option<Error>) -> Self {
        Report { id: None, outcome, rung: None, error, warnings: Vec::new(), problems: Vec::new(), seconds: 0.0, bytes: 0, raw_bytes: 0 }
    }

    /// Why it did not end well, as the history keeps it.
    pub fn why(&self) -> Option<String> {
        match &self.error {
            Some(error) => Some(error.message.clone()),
            None if self.problems.is_empty() => None,
            None => Some(self.problems.join("\n")),
        }
    }
}

/// Who asks for a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// A person, now.
    ByHand,
    /// The same: of a base backup only the changes since the newest one.
    Changes,
    /// The schedule, for this slot.
    Slot(DateTime<Utc>),
}

impl Order {
    /// The slot that it is for. `None`: by hand.
    pub fn slot(self) -> Option<DateTime<Utc>> {
        match self {
            Order::ByHand | Order::Changes => None,
            Order::Slot(slot) => Some(slot),
        }
    }
}

/// Makes one backup now. All that can go wrong with the backup itself is in the report.
///
/// # Errors
/// The run did not begin: there is no such backup, another run of it holds the lock (`Busy`), the
/// plan asks for what this version cannot do, or `state_dir` cannot be written.
pub async fn run(
    plan: &Plan,
    backup: &str,
    order: Order,
    progress: &Progress,
    followers: &Followers,
    cancel: &CancellationToken,
) -> Result<Report> {
    let backup = find(plan, backup)?;
    let mut following = followers.of(plan, backup, order);
    let result = attempt(plan, backup, order, progress, &mut following, cancel).await;
    let will_retry = result.as_ref().is_ok_and(|report| will_retry(plan, backup, order, report));
    following.end(&result, will_retry);
    result
}

/// Whether the slot of a run that has just failed is tried again.
fn will_retry(plan: &Plan, backup: &Backup, order: Order, report: &Report) -> bool {
    if order.slot().is_none() || !matches!(report.outcome, Outcome::Failed) {
        return false;
    }
    let now = clock::now();
    let record = State::open(&plan.state_dir).and_then(|state| state.history()?.recorded(Job::Dump, backup.name.as_str(), now));
    // If it cannot be told, it is told as if it were over.
    record.ok().flatten().is_some_and(|record| due::will_retry(backup, &record, now))
}

async fn attempt(
    plan: &Plan,
    backup: &Backup,
    order: Order,
    progress: &Progress,
    following: &mut Following,
    cancel: &CancellationToken,
) -> Result<Report> {
    let state = State::open(&plan.state_dir)?;
    let history = state.history()?;
    let Some(_lock) = state.lock(backup.name.as_str())? else {
        let busy =
            Error::new(Kind::Busy, format!("another run of {} is under way", backup.name)).hint("wait for it; pgvigil history shows it");
        // One who prunes or cleans up holds the lock too, and no run: a slot waits for its end.
        if order.slot().is_none() || history.under_way(Job::Dump, backup.name.as_str())?.is_some() {
            history.skipped(Job::Dump, backup.name.as_str(), backup.server.as_str(), clock::now(), order.slot(), &busy.message)?;
        }
        return Err(busy);
    };
    let deadline = passed(backup.deadline);
    tokio::pin!(deadline);
    let store_name = &backup.stores[0];
    let store = stores::open(&plan.stores[store_name], state.owner())?;
    let prepared = async {
        sweep::sweep(plan, &state, &history, backup).await?;
        match order.slot() {
            Some(slot) => {
                let id = Id { backup: backup.name.to_string(), label: Label::of(slot) };
                Ok(store.labels(&id.backup).await?.contains(&id.label) && stores::is_ours(plan, &*store, &id).await?)
            }
            None => Ok(false),
        }
    };
    let is_there = tokio::select! {
        prepared = prepared => prepared?,
        () = cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "told to stop before it began")),
        error = &mut deadline => return Err(error),
    };
    if is_there {
        // The record of it was lost, not the backup.
        let there = "it is in the store already: a slot is never run again under its label";
        history.skipped(Job::Dump, backup.name.as_str(), backup.server.as_str(), clock::now(), order.slot(), there)?;
        return Ok(Report::nothing(Outcome::Skipped, None));
    }
    let started = std::time::Instant::now();
    let tag = Tag::random();
    let row = history.begin(backup.name.as_str(), backup.server.as_str(), clock::now(), &tag, order.slot())?;
    following.begin(order.slot());
    let server = OnceLock::new();
    let making = Making {
        plan,
        backup,
        slot: order.slot(),
        incremental: order == Order::Changes || order.slot().is_some_and(|slot| is_incremental(backup, slot)),
        store: &*store,
        server: &server,
        progress,
        tag: &tag,
        note_slot: &|slot| history.set_slot(row, slot),
    };
    let ready = tokio::select! {
        ready = making.make() => ready,
        () = cancel.cancelled() => Err(Error::new(Kind::Cancelled, "told to stop")),
        error = &mut deadline => Err(error),
    };
    // From here on it is a matter of moments, and whole or not at all: nobody breaks it off.
    let made = match ready {
        Ok(Some(ready)) => ready.commit().await,
        Ok(None) => {
            // For the record that is as good as an own one: whatever failed here before is over.
            let id = order.slot().map(|slot| Id { backup: backup.name.to_string(), label: Label::of(slot) }.to_string());
            history.end(row, clock::now(), Outcome::Ok, Some("another installation has made it"), id.as_deref(), true)?;
            return Ok(Report::nothing(Outcome::Skipped, None));
        }
        Err(error) => Err(error),
    };
    let mut clean = true;
    let mut report = match made {
        Ok(mut made) => {
            let proven = tokio::select! {
                proven = prove(plan, &*store, store_name, &made.manifest, &made.keys, std::mem::take(&mut made.opened), progress) => proven,
                () = cancel.cancelled() => Err(Error::new(Kind::Cancelled, "told to stop while reading back; the backup is written")),
                error = &mut deadline => Err(error.context("reading back what is written")),
            };
            reported(made, proven)
        }
        Err(error) => {
            clean = end_leftovers(plan, backup, &server, &tag).await;
            let outcome = if error.kind == Kind::Cancelled { Outcome::Cancelled } else { Outcome::Failed };
            Report::nothing(outcome, Some(error))
        }
    };
    // What needs a look must not push out what needs none: a dump without its tables is readable too.
    if report.rung.is_some_and(Rung::is_good) && report.outcome == Outcome::Ok {
        progress.begin("pruning");
        if let Err(error) = prune(plan, &state, &history, backup).await {
            let hint = error.hint.map(|hint| format!("\nHINT: {hint}")).unwrap_or_default();
            report.problems.push(format!("retention: {}{hint}", error.message));
            report.outcome = Outcome::Problems;
        }
    }
    // A daemon copies beside its runs, and tries again; without one nobody else would.
    if order.slot().is_none() && report.rung.is_some_and(Rung::is_good) && !matches!(report.outcome, Outcome::Cancelled) {
        for store in prune::brought(backup) {
            let spreading = Spreading { plan, state: &state, history: &history, backup, store, has_lock: true, progress, cancel };
            match spreading.spread().await {
                Ok(_) => {}
                Err(error) if error.kind == Kind::Busy => report.warnings.push(error.message),
                Err(error) => {
                    let hint = error.hint.map(|hint| format!("\nHINT: {hint}")).unwrap_or_default();
                    report.problems.push(format!("{}{hint}", error.message));
                    if report.outcome == Outcome::Ok {
                        report.outcome = Outcome::Problems;
                    }
                }
            }
        }
    }
    report.seconds = verify::round(started.elapsed().as_secs_f64());
    let id = report.id.as_ref().map(ToString::to_string);
    history.end(row, clock::now(), report.outcome, report.why().as_deref(), id.as_deref(), clean)?;
    if report.id.is_none() && report.error.as_ref().is_some_and(|error| error.kind.may_pass()) {
        history.may_pass(row)?;
    }
    Ok(report)
}

/// The backup of a name.
///
/// # Errors
/// The file has none.
pub fn find<'a>(plan: &'a Plan, name: &str) -> Result<&'a Backup> {
    plan.backups.get(name).ok_or_else(|| {
        let names: Vec<&str> = plan.backups.keys().map(Name::as_str).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        Error::new(Kind::NotFound, format!("there is no backup {name:?} in the file")).hint(format!("backups of the file: {names}"))
    })
}

/// Waits until a deadline has passed, which is an error.
async fn passed(deadline: Option<std::time::Duration>) -> Error {
    let Some(deadline) = deadline else { return std::future::pending().await };
    tokio::time::sleep(deadline).await;
    Error::new(Kind::Timeout, format!("the deadline of {} s has passed", deadline.as_secs()))
        .hint("look at what slowed the dump; deadline sets the patience")
}

/// Ends what a failed run may have left on the server. False: something may be left.
async fn end_leftovers(plan: &Plan, backup: &Backup, server: &OnceLock<Server>, tag: &Tag) -> bool {
    let ended = match server.get() {
        Some(server) => sweep::end_tagged(server, tag).await,
        // It never answered; a question of ours may still wait inside of its container.
        None => sweep::end_on_host(&plan.servers[&backup.server], tag).await,
    };
    match ended {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "cannot make sure that nothing of the run is left on the server; the next run tries again");
            false
        }
    }
}

fn reported(made: Made, proven: Result<Proven>) -> Report {
    let Made { manifest, mut warnings, mut problems, tables_there, .. } = made;
    let (rung, error) = match proven {
        Ok(Proven { proof, .. }) if proof.rung == Rung::Bad => (
            Rung::Bad,
            Some(
                Error::new(Kind::Damaged, format!("what was stored does not read back: {}", proof.errors.join("; ")))
                    .hint("look into the kernel's log for errors of the disk, and run again"),
            ),
        ),
        Ok(Proven { proof, tables }) => {
            if proof.rung.is_good() {
                warnings.extend(proof.notes);
            } else {
                problems.extend(proof.notes);
            }
            // A valid header and no tables is a dump too.
            problems.extend(
                tables_there
                    .iter()
                    .filter(|(database, there)| **there > 0 && tables.get(*database) == Some(&0))
                    .map(|(database, there)| format!("database {database:?} has {there} tables, and the dump holds none of them")),
            );
            (proof.rung, None)
        }
        Err(error) => (Rung::Written, Some(error)),
    };
    let outcome = match &error {
        Some(error) if error.kind == Kind::Cancelled => Outcome::Cancelled,
        Some(_) => Outcome::Failed,
        None if problems.is_empty() => Outcome::Ok,
        None => Outcome::Problems,
    };
    Report {
        id: Some(manifest.id()),
        outcome,
        rung: Some(rung),
        error,
        warnings,
        problems,
        seconds: 0.0,
        bytes: manifest.bytes(),
        raw_bytes: manifest.raw_bytes(),
    }
}

/// Deletes what retention does not keep, now that there is a new good backup.
async fn prune(plan: &Plan, state: &State, history: &History, backup: &Backup) -> Result<()> {
    let alerts = state.alerts()?;
    if let Some(doubt) = prune::doubt(&alerts)? {
        tracing::warn!(backup = %backup.name, "{}", doubt.told());
        return Ok(());
    }
    let mut look = prune::look(plan, state.owner(), history, &alerts, backup, clock::now()).await?;
    for (_, error) in &look.silent {
        // It is told by itself, and must not keep the primary from its work.
        tracing::warn!(backup = %backup.name, %error, "nothing is pruned there");
    }
    if !look.held.is_empty() {
        tracing::warn!(backup = %backup.name, "{}", prune::held_in_words(backup, &look.held));
        return Ok(());
    }
    prune::accept_terms(plan, &alerts, backup)?;
    prune::apply(plan, state, backup, &mut look.judged).await.map(drop)
}

/// From `written` to `readable`.
async fn prove(
    plan: &Plan,
    store: &dyn Store,
    name: &Name,
    manifest: &Manifest,
    keys: &Identities,
    opened: Opened,
    progress: &Progress,
) -> Result<Proven> {
    let id = manifest.id();
    let proven = verify::verify(plan, Stored { store, id: &id, manifest, keys }, None, Some(opened), progress).await?;
    if let Err(error) = verify::point_latest(plan, store, name.as_str(), &id.backup).await {
        tracing::warn!(%error, "cannot point `latest` at the newest backup");
    }
    Ok(proven)
}
