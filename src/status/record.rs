//! What is shown of one backup, drawn from its catalog while it is at hand: manifests are large, and
//! are not held.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::freshness;
use crate::alert::problems::{BackupFacts, wanted};
use crate::catalog::{Catalog, Entry, Id, Rung};
use crate::config::plan::{Backup, Plan};
use crate::config::values::{Count, Name};
use crate::job::prune;
use crate::physical::lag::Figures;
use crate::retain::policy::{Candidate, Reason, TIERS};
use crate::schedule::due::Job;
use crate::schedule::slots;
use crate::state::{Outcome, Run};

/// How many of the newest backups are shown one by one.
const KEPT_MAX: usize = 400;

/// How far back runs are shown.
pub const RUNS_SINCE: TimeDelta = TimeDelta::weeks(13);

/// How many coming slots are shown of each kind.
const SLOTS: usize = 2;

/// A backup that is kept.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kept {
    pub label: String,
    pub taken_at: DateTime<Utc>,
    pub rung: Rung,
    pub bytes: u64,
    pub raw_bytes: u64,
    pub tiers: Vec<&'static str>,
    pub pinned: bool,
}

/// A run that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ran {
    pub started_at: DateTime<Utc>,
    pub seconds: f64,
    pub is_good: bool,
}

/// The copies in one store, as retention sees them, with their sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    pub store: Name,
    pub copies: Vec<(Candidate, u64)>,
}

/// A tier: how many of its periods are filled, and how many it may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tier {
    pub name: &'static str,
    pub filled: usize,
    pub of: Count,
}

#[derive(Debug, Clone)]
pub struct Record {
    pub name: Name,
    pub zone: Tz,
    pub want: Rung,
    pub fresh: freshness::Facts,
    pub stale_at: Option<DateTime<Utc>>,
    /// Newest first; at most [`KEPT_MAX`] of them.
    pub kept: Vec<Kept>,
    pub kept_count: usize,
    pub kept_bytes: u64,
    pub tiers: Vec<Tier>,
    /// Oldest first.
    pub runs: Vec<Ran>,
    /// Of the newest good one; `None`: there is no evidence.
    pub rows: Option<u64>,
    /// From the first byte to the last of the newest good one.
    pub seconds: Option<f64>,
    pub restore: Option<(f64, DateTime<Utc>)>,
    pub budget_seconds: Option<f64>,
    /// The newest proof that a drill restored it.
    pub proven_at: Option<DateTime<Utc>>,
    pub last_run: Option<(DateTime<Utc>, bool)>,
    pub coming: Vec<(Job, DateTime<Utc>)>,
    /// By store.
    pub held: Vec<Held>,
    /// Of a physical backup, as the daemon saw it last.
    pub log: Option<Figures>,
}

/// What is shown of a backup, by its catalog and its runs, newest first.
pub fn record(
    plan: &Plan,
    facts: &BackupFacts<'_>,
    runs: &[Run],
    first_slot: Option<DateTime<Utc>>,
    stale_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Record {
    let (backup, catalog) = (facts.backup, facts.catalog);
    let want = wanted(backup.want);
    let of_it: Vec<&Entry> = catalog.entries.iter().filter(|entry| entry.id.backup == backup.name.as_str()).collect();
    let past = || of_it.iter().filter(|entry| entry.manifest.taken_at <= now);
    let by_id = tiers_by_id(plan, backup, catalog, now);
    let newest_good = facts.newest_good(now);
    let proofs = || past().flat_map(|entry| entry.copies.values().flatten()).filter(|proof| proof.at <= now);
    let ended: Vec<&Run> = runs.iter().filter(|run| run.kind == Job::Dump && counts(run)).collect();
    Record {
        name: backup.name.clone(),
        zone: backup.timezone,
        want,
        fresh: freshness::Facts {
            newest: past().find(|entry| entry.rung() >= want).map(|entry| entry.manifest.taken_at),
            any: !of_it.is_empty() || !catalog.unreadable.is_empty(),
            first_slot: first_slot.or_else(|| slots::next(backup.schedule.as_ref()?, backup.timezone, facts.since.unwrap_or(now).min(now))),
        },
        stale_at,
        kept: of_it
            .iter()
            .take(KEPT_MAX)
            .map(|entry| Kept {
                label: entry.id.label.to_string(),
                taken_at: entry.manifest.taken_at,
                rung: entry.rung(),
                bytes: entry.manifest.bytes(),
                raw_bytes: entry.manifest.raw_bytes(),
                tiers: by_id.get(&entry.id).cloned().unwrap_or_default(),
                pinned: entry.pinned,
            })
            .collect(),
        kept_count: of_it.len(),
        kept_bytes: of_it.iter().map(|entry| entry.manifest.bytes()).sum(),
        tiers: tiers(backup, &by_id),
        runs: ended.iter().rev().filter_map(|run| ran(run)).collect(),
        rows: newest_good.and_then(|entry| {
            let evidence = entry.manifest.evidence.as_ref()?;
            Some(evidence.databases.values().flat_map(|database| database.rows.values()).sum())
        }),
        seconds: newest_good.and_then(|entry| seconds(entry.manifest.started_at, entry.manifest.finished_at)),
        restore: facts.measured(now).map(|(_, proof, seconds)| (seconds, proof.at)),
        budget_seconds: backup.drill.as_ref().and_then(|drill| drill.budget).map(|budget| budget.as_secs_f64()),
        proven_at: proofs().filter(|proof| proof.rung >= Rung::Restored && proof.restore_seconds().is_some()).map(|proof| proof.at).max(),
        last_run: ended.first().map(|run| (run.finished_at.unwrap_or(run.started_at), is_good(run))),
        coming: coming(backup, now),
        held: held(plan, backup, &of_it),
        log: None,
    }
}

/// A run under way says nothing yet, and one that was skipped did nothing.
fn counts(run: &Run) -> bool {
    run.outcome.as_deref().is_some_and(|outcome| outcome != Outcome::Skipped.as_str())
}

fn is_good(run: &Run) -> bool {
    run.id.is_some() && run.outcome.as_deref().is_some_and(|outcome| [Outcome::Ok.as_str(), Outcome::Problems.as_str()].contains(&outcome))
}

fn ran(run: &Run) -> Option<Ran> {
    Some(Ran {
        started_at: run.started_at,
        seconds: seconds(run.started_at, run.finished_at.unwrap_or(run.started_at))?,
        is_good: is_good(run),
    })
}

fn seconds(from: DateTime<Utc>, to: DateTime<Utc>) -> Option<f64> {
    (to - from).to_std().ok().map(|span| span.as_secs_f64())
}

/// The tiers that each backup fills in any of its stores.
fn tiers_by_id(plan: &Plan, backup: &Backup, catalog: &Catalog, now: DateTime<Utc>) -> BTreeMap<Id, Vec<&'static str>> {
    let mut filled: BTreeMap<Id, Vec<&'static str>> = BTreeMap::new();
    for verdict in backup.stores.iter().flat_map(|store| prune::judge(plan, backup, store, catalog, &prune::Received::new(), now).verdicts)
    {
        let tiers = filled.entry(verdict.id).or_default();
        for tier in verdict.reasons.iter().filter_map(Reason::tier) {
            if !tiers.contains(&tier) {
                tiers.push(tier);
            }
        }
    }
    filled
}

/// The tiers that the file names, each with how many backups fill it.
fn tiers(backup: &Backup, by_id: &BTreeMap<Id, Vec<&'static str>>) -> Vec<Tier> {
    let keep = &backup.keep;
    let within = keep.within.map_or(Count::Number(0), |_| Count::Forever);
    TIERS
        .into_iter()
        .zip([keep.last, within, keep.daily, keep.weekly, keep.monthly, keep.yearly])
        .filter(|(_, of)| *of != Count::Number(0))
        .map(|(name, of)| Tier { name, of, filled: by_id.values().filter(|tiers| tiers.contains(&name)).count() })
        .collect()
}

fn coming(backup: &Backup, now: DateTime<Utc>) -> Vec<(Job, DateTime<Utc>)> {
    let of = |job, schedule| {
        let slots = move |schedule| slots::iter(schedule, backup.timezone, now).take(SLOTS).map(move |at| (job, at));
        Option::into_iter(schedule).flat_map(slots)
    };
    let mut coming: Vec<_> = of(Job::Dump, backup.schedule.as_ref()).chain(of(Job::Drill, backup.drill_schedule())).collect();
    coming.sort_by_key(|(_, at)| *at);
    coming
}

fn held(plan: &Plan, backup: &Backup, entries: &[&Entry]) -> Vec<Held> {
    let of = |store: &Name| {
        let copy = |entry: &&Entry| Some((prune::candidate(entry, store)?, entry.manifest.bytes()));
        Held { store: store.clone(), copies: entries.iter().filter_map(copy).collect() }
    };
    backup.stores.iter().filter(|store| plan.stores.contains_key(store.as_str())).map(of).collect()
}
