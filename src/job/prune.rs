//! Retention carried out: the plan with its reasons first, then its application, in each store by
//! itself.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::catalog::{Catalog, Id};
use crate::config::Plan;
use crate::config::plan::{Backup, StoreKind};
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::host::clock;
use crate::job::{stores, verify};
use crate::retain::doubt::{self, Doubt};
use crate::retain::policy::{self, Candidate, Reason, Verdict};
use crate::state::{Alerts, History};
use crate::store::{Store, catalog_of};

/// What retention says about the copies of a backup in one store, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    pub store: Name,
    pub verdicts: Vec<Verdict>,
}

impl Judged {
    pub fn expired(&self) -> impl Iterator<Item = &Id> {
        self.verdicts.iter().filter(|verdict| !verdict.keep).map(|verdict| &verdict.id)
    }
}

/// What retention says about a backup's copies in a store, by the catalog.
pub fn judge(plan: &Plan, backup: &Backup, store: &Name, catalog: &Catalog, now: DateTime<Utc>) -> Judged {
    let keep = plan.stores.get(store).and_then(|store| store.keep.as_ref()).unwrap_or(&backup.keep);
    let candidates: Vec<Candidate> = catalog
        .entries
        .iter()
        .filter(|entry| entry.id.backup == backup.name.as_str())
        .filter_map(|entry| {
            let rung = entry.rung_in(store.as_str())?;
            Some(Candidate { id: entry.id.clone(), taken_at: entry.manifest.taken_at, rung, pinned: entry.pinned })
        })
        .collect();
    Judged { store: store.clone(), verdicts: policy::plan(keep, &candidates, backup.timezone, now) }
}

/// Whether the clock has jumped, so that nothing is deleted by it. `None`: it can be trusted.
///
/// # Errors
/// `state_dir` cannot be written.
pub fn doubt(alerts: &Alerts) -> Result<Option<Doubt>> {
    let Some(reading) = clock::reading() else { return Ok(None) };
    Ok(alerts.watch_clock(reading.wall, |before| doubt::observe(before, &reading))?.doubt)
}

/// Takes the clock as it is now for right: a person has seen it.
///
/// # Errors
/// `state_dir` cannot be written.
pub fn trust_the_clock(alerts: &Alerts) -> Result<()> {
    match clock::reading() {
        Some(reading) => alerts.watch_clock(reading.wall, |_| doubt::observe(None, &reading)).map(drop),
        None => Ok(()),
    }
}

/// Why retention keeps each backup, or that it does not, by the stores of its section.
pub type Reasons = BTreeMap<Id, BTreeMap<Name, Vec<Reason>>>;

/// What retention says of all that is in the catalog. Backups that the file no longer knows are
/// never pruned, and not in here.
pub fn reasons(plan: &Plan, catalog: &Catalog, now: DateTime<Utc>) -> Reasons {
    let mut reasons = Reasons::new();
    for backup in plan.backups.values() {
        for store in &backup.stores {
            for verdict in judge(plan, backup, store, catalog, now).verdicts {
                reasons.entry(verdict.id).or_default().insert(store.clone(), verdict.reasons);
            }
        }
    }
    reasons
}

/// Judges the copies of a backup in every store of it that this version can read.
///
/// # Errors
/// A store cannot be read, or lists nothing where there were backups: to delete by such a listing
/// would be to delete blindly.
pub async fn look(plan: &Plan, owner: &str, history: &History, backup: &Backup, now: DateTime<Utc>) -> Result<Vec<Judged>> {
    let mut judged = Vec::new();
    for name in &backup.stores {
        let store = &plan.stores[name];
        if !matches!(store.kind, StoreKind::Local(_)) {
            continue;
        }
        let mut catalog = Catalog::default();
        let opened = stores::open(store, owner)?;
        let read = catalog_of(&*opened, name.as_str(), Some(backup.name.as_str()), &mut catalog).await;
        read.map_err(|error| error.context(format_args!("store {name}")))?;
        if catalog.entries.is_empty() && history.has_stored(backup.name.as_str())? {
            return Err(Error::new(
                Kind::Store,
                format!("store {name} lists no backup of {}, and there were some: nothing is pruned", backup.name),
            )
            .hint("is its disk mounted? pgvigil list shows what is there"));
        }
        judged.push(judge(plan, backup, name, &catalog, now));
    }
    Ok(judged)
}

/// Deletes what has expired. The caller holds the lock of the backup.
///
/// # Errors
/// A store cannot be written; what has not been deleted stays.
pub async fn apply(plan: &Plan, owner: &str, backup: &Backup, judged: &[Judged]) -> Result<usize> {
    let mut deleted = 0;
    for judged in judged.iter().filter(|judged| judged.expired().next().is_some()) {
        let store = stores::open(&plan.stores[&judged.store], owner)?;
        let result = delete(&*store, judged, &mut deleted).await;
        // Whatever was deleted, the link must not lead nowhere.
        verify::point_latest(&*store, judged.store.as_str(), backup.name.as_str()).await?;
        result.map_err(|error| error.context(format_args!("store {}", judged.store)))?;
    }
    Ok(deleted)
}

async fn delete(store: &dyn Store, judged: &Judged, deleted: &mut usize) -> Result<()> {
    // Oldest first: should it break off, what is newer is still there.
    let expired: Vec<&Id> = judged.expired().collect();
    for id in expired.into_iter().rev() {
        store.remove(id).await?;
        *deleted += 1;
        tracing::info!(%id, store = %judged.store, "expired: deleted");
    }
    Ok(())
}
