//! Retention carried out: the plan with its reasons first, then its application, in each store by
//! itself.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use crate::catalog::entry::in_order;
use crate::catalog::{Catalog, Entry, Id, Pin, Rung, Wanted};
use crate::config::Plan;
use crate::config::plan::{Backup, Keep};
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::host::clock;
use crate::job::physical::prune::{Expired as ExpiredLog, expired};
use crate::job::{keys, physical, stores, verify};
use crate::retain::awaited::awaited;
use crate::retain::doubt::{self, Doubt};
use crate::retain::policy::{self, Candidate, Reason, Verdict};
use crate::retain::terms::{self, Standing, Terms};
use crate::state::{Alerts, History, State};
use crate::store::Store;

/// What retention says about the copies of a backup in one store, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    pub store: Name,
    pub verdicts: Vec<Verdict>,
    /// What each of them builds on that is nothing by itself.
    pub builds_on: BTreeMap<Id, Id>,
    /// Log that goes with the last base backup that needs it, once somebody has looked.
    pub log: Option<ExpiredLog>,
}

/// What stores held that give no answer now. One of which nothing is known holds nothing: nothing
/// that it may still have to receive is deleted.
pub type Received = BTreeMap<Name, Vec<Candidate>>;

/// What retention says about a backup's copies in a store, by the catalog. What another store still
/// has to receive and would keep stays until it is there.
pub fn judge(plan: &Plan, backup: &Backup, store: &Name, catalog: &Catalog, received: &Received, now: DateTime<Utc>) -> Judged {
    let copies = candidates(backup, store, catalog);
    let mut verdicts = policy::plan(keep_in(plan, backup, store), &copies, backup.timezone, now);
    if verdicts.iter().any(|verdict| !verdict.keep) {
        for other in receivers(backup).filter(|other| *other != store) {
            let awaited: BTreeSet<Id> = awaited_by(plan, backup, other, catalog, received, now).into_iter().collect();
            for verdict in verdicts.iter_mut().filter(|verdict| awaited.contains(&verdict.id)) {
                if !verdict.keep {
                    (verdict.keep, verdict.reasons) = (true, Vec::new());
                }
                if verdict.reasons.iter().all(|reason| matches!(reason, Reason::AwaitedBy(_))) {
                    verdict.reasons.push(Reason::AwaitedBy(other.to_string()));
                }
            }
        }
    }
    // What does not count takes nobody's place, and nobody deletes it: it may be from before signing.
    let foreign = catalog.entries.iter().filter(|entry| entry.id.backup == backup.name.as_str() && !counts(entry, store));
    verdicts.extend(foreign.map(|entry| Verdict { id: entry.id.clone(), keep: true, reasons: vec![Reason::Unsigned] }));
    let builds_on = copies.iter().filter_map(|copy| Some((copy.id.clone(), copy.incremental_of.clone()?))).collect();
    Judged { store: store.clone(), verdicts, builds_on, log: None }
}

/// The stores that copies are made to: all but the primary.
pub fn receivers(backup: &Backup) -> impl Iterator<Item = &Name> {
    backup.stores.iter().skip(1)
}

/// The stores that are brought up to date: those, and the primary of a backup whose log may lie in another one.
pub fn brought(backup: &Backup) -> impl Iterator<Item = &Name> {
    let is_archived = backup.stores.len() > 1 && backup.physical.as_ref().is_some_and(|physical| physical.wal.is_some());
    backup.stores.iter().take(usize::from(is_archived)).chain(receivers(backup))
}

/// What a store still has to receive of a backup, newest first.
pub fn awaited_by(plan: &Plan, backup: &Backup, store: &Name, catalog: &Catalog, received: &Received, now: DateTime<Utc>) -> Vec<Id> {
    let is_silent = catalog.silent.iter().any(|(name, _)| name == store.as_str());
    let here = match received.get(store) {
        Some(copies) if is_silent => copies.clone(),
        _ => candidates(backup, store, catalog),
    };
    let others = backup.stores.iter().filter(|other| *other != store);
    let elsewhere: Vec<Candidate> = others.flat_map(|other| candidates(backup, other, catalog)).collect();
    awaited(keep_in(plan, backup, store), &here, &elsewhere, backup.timezone, now)
}

/// Notes what the stores of a backup hold that have answered, and says what those held that have not.
///
/// # Errors
/// The history cannot be read or written.
pub fn received(history: &History, backup: &Backup, catalog: &Catalog) -> Result<Received> {
    let mut known = Received::new();
    for store in receivers(backup) {
        if catalog.silent.iter().any(|(name, _)| name == store.as_str()) {
            let Some(copies) = history.received(backup.name.as_str(), store.as_str())? else { continue };
            let copies = copies.into_iter().map(|(label, taken_at)| Candidate {
                id: Id { backup: backup.name.to_string(), label },
                taken_at,
                rung: Rung::Readable,
                pinned: false,
                physical: backup.physical.is_some(),
                incremental_of: None,
            });
            known.insert(store.clone(), copies.collect());
        } else {
            let copies: Vec<_> = candidates(backup, store, catalog).into_iter().map(|copy| (copy.id.label, copy.taken_at)).collect();
            history.note_received(backup.name.as_str(), store.as_str(), &copies)?;
        }
    }
    Ok(known)
}

/// What is kept of a backup in a store.
pub fn keep_in<'a>(plan: &'a Plan, backup: &'a Backup, store: &Name) -> &'a Keep {
    // Units of dumps say nothing of base backups, nor the other way round.
    let speaks = |keep: &&Keep| if backup.physical.is_some() { keep.speaks_of_base_backups() } else { keep.speaks_of_dumps() };
    plan.stores.get(store).and_then(|store| store.keep.as_ref()).filter(speaks).unwrap_or(&backup.keep)
}

fn candidates(backup: &Backup, store: &Name, catalog: &Catalog) -> Vec<Candidate> {
    let of_it = catalog.entries.iter().filter(|entry| entry.id.backup == backup.name.as_str());
    of_it.filter_map(|entry| candidate(entry, store)).collect()
}

/// Whether a copy in a store has a say there; one that is elsewhere is nothing to judge.
fn counts(entry: &Entry, store: &Name) -> bool {
    !entry.copies.contains_key(store.as_str()) || entry.counts_in(store.as_str())
}

/// The copy of a backup in a store, as retention sees it. `None`: it is not there, or does not count.
pub fn candidate(entry: &Entry, store: &Name) -> Option<Candidate> {
    if !entry.counts_in(store.as_str()) {
        return None;
    }
    let rung = entry.rung_in(store.as_str())?;
    let physical = entry.manifest.physical.as_ref();
    let incremental_of = physical.and_then(|physical| physical.incremental_of.as_ref()).and_then(|id| Wanted::parse(id).ok());
    Some(Candidate {
        id: entry.id.clone(),
        taken_at: entry.manifest.taken_at,
        rung,
        pinned: entry.pinned,
        physical: physical.is_some(),
        incremental_of: incremental_of.and_then(|wanted| Some(Id { backup: wanted.backup, label: wanted.label? })),
    })
}

/// Notes what retention goes by for what is new in the file.
///
/// # Errors
/// `state_dir` cannot be written.
pub fn note_terms(plan: &Plan, alerts: &Alerts) -> Result<()> {
    for backup in plan.backups.values() {
        for store in &backup.stores {
            let terms = Terms::new(keep_in(plan, backup, store), backup.timezone);
            alerts.set_terms(backup.name.as_str(), store.as_str(), &terms, clock::now(), true)?;
        }
    }
    Ok(())
}

/// Takes the retention of the file for meant: a person has pruned by it.
///
/// # Errors
/// `state_dir` cannot be written.
pub fn accept_terms(plan: &Plan, alerts: &Alerts, backup: &Backup) -> Result<()> {
    for store in &backup.stores {
        let terms = Terms::new(keep_in(plan, backup, store), backup.timezone);
        alerts.set_terms(backup.name.as_str(), store.as_str(), &terms, clock::now(), false)?;
    }
    Ok(())
}

/// What an edit of retention would delete that its terms before would keep, by store.
pub type Held = BTreeMap<Name, Vec<Id>>;

/// Holds the terms of the file against those that were last obeyed, in every store of a backup.
///
/// # Errors
/// `state_dir` cannot be read.
pub fn held(plan: &Plan, alerts: &Alerts, backup: &Backup, catalog: &Catalog, now: DateTime<Utc>) -> Result<Held> {
    let mut held = Held::new();
    for store in &backup.stores {
        held.extend(held_in(plan, alerts, backup, store, catalog, now)?);
    }
    Ok(held)
}

fn held_in(
    plan: &Plan,
    alerts: &Alerts,
    backup: &Backup,
    store: &Name,
    catalog: &Catalog,
    now: DateTime<Utc>,
) -> Result<Option<(Name, Vec<Id>)>> {
    let terms = Terms::new(keep_in(plan, backup, store), backup.timezone);
    let before = alerts.terms(backup.name.as_str(), store.as_str())?;
    Ok(match terms::standing(before.as_ref(), &terms, &candidates(backup, store, catalog), now) {
        Standing::Held(more) => Some((store.clone(), more)),
        Standing::Same | Standing::Harmless => None,
    })
}

/// What an edit holds, in words.
pub fn held_in_words(backup: &Backup, held: &Held) -> String {
    let ids: BTreeSet<&Id> = held.values().flatten().collect();
    let backups = if ids.len() == 1 { "1 backup".to_owned() } else { format!("{} backups", ids.len()) };
    format!(
        "retention of {name} was changed and would delete {backups} more than before: nothing of it is deleted until pgvigil prune {name}",
        name = backup.name
    )
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
            for verdict in judge(plan, backup, store, catalog, &Received::new(), now).verdicts {
                reasons.entry(verdict.id).or_default().insert(store.clone(), verdict.reasons);
            }
        }
    }
    reasons
}

/// What retention says of a backup in its stores.
pub struct Look {
    pub judged: Vec<Judged>,
    /// What an edit of retention holds.
    pub held: Held,
    /// Stores beside the primary that give no answer: nothing is said of them.
    pub silent: Vec<(String, Error)>,
}

/// Judges the copies of a backup in every store of it that answers.
///
/// # Errors
/// The primary cannot be read, or lists nothing where there were backups: to delete by such a listing
/// would be to delete blindly.
pub async fn look(plan: &Plan, owner: &str, history: &History, alerts: &Alerts, backup: &Backup, now: DateTime<Utc>) -> Result<Look> {
    let catalog = stores::catalog_of_backup(plan, owner, backup).await?;
    let primary = &backup.stores[0];
    let is_empty = !catalog.entries.iter().any(|entry| entry.copies.contains_key(primary.as_str()));
    if is_empty && history.has_stored(backup.name.as_str())? {
        return Err(Error::new(
            Kind::Store,
            format!("store {primary} lists no backup of {}, and there were some: nothing is pruned", backup.name),
        )
        .hint("is its disk mounted? pgvigil list shows what is there"));
    }
    let received = received(history, backup, &catalog)?;
    let (mut judged, mut held) = (Vec::new(), Held::new());
    for store in &backup.stores {
        if catalog.silent.iter().any(|(name, _)| name == store.as_str()) {
            continue;
        }
        judged.push(judge(plan, backup, store, &catalog, &received, now));
        held.extend(held_in(plan, alerts, backup, store, &catalog, now)?);
    }
    Ok(Look { judged, held, silent: catalog.silent })
}

/// Deletes what has expired. The caller holds the lock of the backup. What somebody has pinned since
/// it was judged stays, and what is in use does; its verdict says so.
///
/// # Errors
/// A store cannot be written; what has not been deleted stays.
pub async fn apply(plan: &Plan, state: &State, backup: &Backup, judged: &mut [Judged]) -> Result<usize> {
    let mut deleted = 0;
    for judged in judged.iter_mut().filter(|judged| judged.verdicts.iter().any(|verdict| !verdict.keep)) {
        let store = stores::open(&plan.stores[&judged.store], state.owner())?;
        let result = delete(plan, state, &*store, judged, &mut deleted).await;
        // Whatever was deleted, the link must not lead nowhere.
        verify::point_latest(plan, &*store, judged.store.as_str(), backup.name.as_str()).await?;
        result.map_err(|error| error.context(format_args!("store {}", judged.store)))?;
    }
    if backup.physical.is_some() {
        for judged in judged.iter_mut() {
            prune_log(plan, state, backup, judged).await.map_err(|error| error.context(format_args!("store {}", judged.store)))?;
        }
    }
    Ok(deleted)
}

/// Looks what log would go with what has expired.
///
/// # Errors
/// A store cannot be read.
pub async fn look_at_log(plan: &Plan, state: &State, backup: &Backup, judged: &mut [Judged]) -> Result<()> {
    for judged in judged.iter_mut().filter(|_| backup.physical.is_some()) {
        let (store, catalog) = there(plan, state, backup, &judged.store).await?;
        let goes = |id: &Id| judged.verdicts.iter().any(|verdict| verdict.id == *id && !verdict.keep);
        judged.log = log_that_goes(plan, state, backup, &judged.store, (&*store, &catalog), |id| !goes(id)).await?;
    }
    Ok(())
}

/// The log that nothing needs any more which is there.
async fn prune_log(plan: &Plan, state: &State, backup: &Backup, judged: &mut Judged) -> Result<()> {
    let (store, catalog) = there(plan, state, backup, &judged.store).await?;
    judged.log = log_that_goes(plan, state, backup, &judged.store, (&*store, &catalog), |_| true).await?;
    match &judged.log {
        Some(log) => physical::prune::remove(&*store, backup.name.as_str(), log).await,
        None => Ok(()),
    }
}

/// The log of a store that nothing needs: neither there nor in another, which may have yet to get it from here.
async fn log_that_goes(
    plan: &Plan,
    state: &State,
    backup: &Backup,
    name: &Name,
    (store, catalog): (&dyn Store, &Catalog),
    stays: impl Fn(&Id) -> bool,
) -> Result<Option<ExpiredLog>> {
    let all = expired(store, backup.name.as_str(), catalog, &stays, None).await?;
    if all.is_none() {
        return Ok(None);
    }
    let mut owed = None;
    for other in backup.stores.iter().filter(|other| *other != name) {
        let looked = async {
            let (other, catalog) = there(plan, state, backup, other).await?;
            physical::prune::owed(store, &*other, backup.name.as_str(), &catalog).await
        };
        match looked.await {
            Ok(from) => owed = from.into_iter().chain(owed).min(),
            Err(error) => {
                tracing::warn!(backup = %backup.name, store = %other, %error, "nobody can tell what it lacks: no log is deleted");
                return Ok(None);
            }
        }
    }
    if owed.is_none() { Ok(all) } else { expired(store, backup.name.as_str(), catalog, stays, owed).await }
}

/// What one store holds of a backup.
async fn there(plan: &Plan, state: &State, backup: &Backup, name: &Name) -> Result<(std::sync::Arc<dyn Store>, Catalog)> {
    let store = stores::open(&plan.stores[name], state.owner())?;
    let catalog = stores::catalog_of_one(plan, &*store, name.as_str(), Some(backup.name.as_str())).await?;
    Ok((store, catalog))
}

async fn delete(plan: &Plan, state: &State, store: &dyn Store, judged: &mut Judged, deleted: &mut usize) -> Result<()> {
    let Judged { store: name, verdicts, builds_on, .. } = judged;
    // Oldest first: should it break off, what is newer is still there. But what builds on another goes before that one.
    let mut expired: Vec<&mut Verdict> = verdicts.iter_mut().filter(|verdict| !verdict.keep).collect();
    if builds_on.is_empty() {
        expired.reverse();
    }
    let mut needed: BTreeMap<Id, Id> = BTreeMap::new();
    for verdict in expired {
        let stays = match needed.get(&verdict.id) {
            Some(by) => Some(Reason::NeededBy(by.clone())),
            None => delete_one(plan, state, store, name, &verdict.id).await?,
        };
        let Some(reason) = stays else {
            *deleted += 1;
            tracing::info!(id = %verdict.id, store = %name, "expired: deleted");
            continue;
        };
        let mut of = &verdict.id;
        while let Some(older) = builds_on.get(of) {
            needed.entry(older.clone()).or_insert_with(|| verdict.id.clone());
            of = older;
        }
        (verdict.keep, verdict.reasons) = (true, vec![reason]);
    }
    Ok(())
}

/// Deletes one, unless there is a reason why it stays.
async fn delete_one(plan: &Plan, state: &State, store: &dyn Store, name: &Name, id: &Id) -> Result<Option<Reason>> {
    // A pin takes no lock, and thousands may go before this one does.
    if in_order::<Pin>("pin", id, &store.documents(id).await?, &keys::trust(plan)).last().is_some_and(|pin| pin.pinned) {
        tracing::warn!(%id, store = %name, "pinned just now: kept");
        return Ok(Some(Reason::Pinned));
    }
    // Nor does a drill or a restore take the lock of the backup: it may last for hours.
    let Some(_seized) = state.seize_copy(id)? else {
        tracing::warn!(%id, store = %name, "a drill or a restore reads it: kept");
        return Ok(Some(Reason::InUse));
    };
    match store.remove(id).await {
        Ok(()) => Ok(None),
        // Keys that may not delete are a way of working: rules of the bucket do it in their time.
        Err(error) if error.kind == Kind::Undeletable => {
            tracing::info!(%id, store = %name, %error, "expired, and not ours to delete: kept");
            Ok(Some(Reason::Undeletable))
        }
        // Another installation that shares the store was first.
        Err(_) if store.documents(id).await.is_ok_and(|left| left.is_empty()) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_pinned_after_it_was_judged_stays_and_what_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let text =
            format!("[servers.main]\nhost = \"x\"\n[stores.local]\npath = \"{}\"\n[backups.x]\ndatabase = \"x\"\n", dir.path().display());
        let plan = crate::config::parse(&text, std::path::Path::new("x")).unwrap();
        let expired = |label: &str| {
            let folder = dir.path().join("x").join(label);
            std::fs::create_dir_all(&folder).unwrap();
            let id = Id { backup: "x".into(), label: label.parse().unwrap() };
            (Verdict { id, keep: false, reasons: vec![Reason::Expired] }, folder)
        };
        let ((pinned, its_folder), (other, gone)) = (expired("20240102T010000Z"), expired("20240101T010000Z"));
        let (drilled, under_drill) = expired("20240103T010000Z");
        let states = tempfile::tempdir().unwrap();
        let state = State::open(states.path()).unwrap();
        let held = state.hold_copy(&drilled.id).unwrap().unwrap();
        std::fs::write(its_folder.join("pin-20240103T000000Z.json"), "{\"pinned\": true}").unwrap();
        let mut judged =
            [Judged { store: "local".parse().unwrap(), verdicts: vec![drilled, pinned, other], builds_on: BTreeMap::new(), log: None }];
        let deleted = apply(&plan, &state, &plan.backups["x"], &mut judged).await.unwrap();
        assert_eq!((deleted, under_drill.exists(), its_folder.exists(), gone.exists()), (1, true, true, false));
        let [drilled, kept, went] = &judged[0].verdicts[..] else { panic!("{judged:?}") };
        assert_eq!((drilled.keep, drilled.reasons.as_slice()), (true, &[Reason::InUse][..]));
        assert_eq!((kept.keep, kept.reasons.as_slice(), went.keep), (true, &[Reason::Pinned][..], false));
        // The next prune has it.
        drop(held);
        judged[0].verdicts.truncate(1);
        judged[0].verdicts[0].keep = false;
        assert_eq!((apply(&plan, &state, &plan.backups["x"], &mut judged).await.unwrap(), under_drill.exists()), (1, false));
    }

    #[test]
    fn a_store_speaks_of_one_kind_and_says_nothing_of_the_other() {
        let text = "[servers.main]\nhost = \"x\"\n[stores.a]\npath = \"/a\"\n[stores.b]\npath = \"/b\"\nkeep = { KEEP }\n\
            [backups.dumps]\ndatabase = \"x\"\nstores = [\"a\", \"b\"]\n[backups.bases]\nkind = \"physical\"\nstores = [\"a\", \"b\"]\n";
        for (keep, of_dumps, of_bases) in [
            ("base_backups = 2", false, true),
            ("window = \"7d\"", false, true),
            ("daily = 7", true, false),
            ("daily = 7, base_backups = 2", true, true),
            ("", true, false),
        ] {
            let plan = crate::config::parse(&text.replace("KEEP", keep), std::path::Path::new("x")).unwrap();
            let store = "b".parse().unwrap();
            let own = |name: &str| keep_in(&plan, &plan.backups[name], &store) == plan.stores[&store].keep.as_ref().unwrap();
            assert_eq!((own("dumps"), own("bases")), (of_dumps, of_bases), "{keep}");
        }
    }
}
