//! The log that the base backups of a store need and another store has: copied on as it lies there, the oldest first.
//! A store that joins later gets it so, and one that has lost some of it.

use crate::catalog::Catalog;
use crate::config::Plan;
use crate::config::plan::Backup;
use crate::config::values::Name;
use crate::error::{Kind, Result};
use crate::job::physical::archive::{self, Claimed, Owner};
use crate::job::stores;
use crate::keys::Identities;
use crate::physical::retain::log_from;
use crate::store::{Objects, Store};
use crate::wal::name::{PARTIAL, history, key};
use crate::wal::{Archive, Segment, WalName, object};

/// Brings a store what its base backups in the catalog lack of the log, and returns how many files that were.
///
/// # Errors
/// The store cannot be read or written, is of another cluster, or none of the others gives what it lacks.
pub async fn spread(plan: &Plan, backup: &Backup, name: &Name, catalog: &Catalog, target: &dyn Store, by: &str) -> Result<usize> {
    let of_it = catalog.entries.iter().filter(|entry| entry.copies.contains_key(name.as_str()));
    let Some(from) = log_from(of_it.filter_map(|entry| entry.manifest.physical.as_ref())) else { return Ok(0) };
    let mut there = archive::look(target, backup.name.as_str()).await?;
    let (mut copied, mut failed) = (0, None);
    for other in backup.stores.iter().filter(|other| *other != name) {
        let brought = async {
            let source = stores::open(&plan.stores[other], by)?;
            bring(backup.name.as_str(), &*source, target, &mut there, from.0).await
        };
        match brought.await {
            Ok(files) => copied += files,
            Err(error) => failed = Some(error.context(format_args!("the log of store {other}"))),
        }
    }
    if copied > 0 {
        tracing::info!(backup = %backup.name, store = %name, files = copied, "log that another store has: copied");
    }
    failed.map_or(Ok(copied), Err)
}

/// From one of the others. `from`: a place in the log, before which nothing is needed.
async fn bring(backup: &str, source: &dyn Store, target: &dyn Store, there: &mut Archive, from: u64) -> Result<usize> {
    let has = archive::look(source, backup).await?;
    let Some(owner) = Owner::read(source, backup).await? else { return Ok(0) };
    let mut claimed = Claimed::default();
    let mut copied = 0;
    for (timeline, forks) in &has.histories {
        if !there.histories.contains_key(timeline) {
            claimed.by(&owner, target, backup).await?;
            copied += usize::from(copy(backup, source, target, &history(*timeline)).await?);
            there.histories.insert(*timeline, forks.clone());
        }
    }
    let first = from / has.segment_bytes;
    let missing = |(timeline, numbers): (&u32, &std::collections::BTreeSet<u64>)| {
        let of = |number: &u64| Segment { timeline: *timeline, number: *number };
        numbers.range(first..).map(of).filter(|segment| !there.contains(*segment)).collect::<Vec<_>>()
    };
    let mut missing: Vec<Segment> = has.segments.iter().flat_map(missing).collect();
    missing.sort_by_key(|segment| (segment.number, segment.timeline));
    let mut damaged = None;
    for segment in missing {
        claimed.by(&owner, target, backup).await?;
        match copy(backup, source, target, &segment.name(has.segment_bytes)).await {
            Ok(is_copied) => {
                copied += usize::from(is_copied);
                there.segments.entry(segment.timeline).or_default().insert(segment.number);
            }
            // Another store may have a sound one, and what is behind it is needed all the same.
            Err(error) if error.kind == Kind::Damaged => damaged = Some(error),
            Err(error) => return Err(error),
        }
    }
    let is_needed = |part: &&Segment| part.number >= first && !there.contains(**part) && !there.open.contains(*part);
    for part in has.open.iter().filter(is_needed).copied().collect::<Vec<_>>() {
        let name = format!("{}{PARTIAL}", part.name(has.segment_bytes));
        copied += usize::from(copy(backup, source, target, &name).await?);
        there.open.insert(part);
    }
    damaged.map_or(Ok(copied), Err)
}

/// The very bytes. What is encrypted is held against the hash in front of it; all else is opened. False: it has gone
/// meanwhile.
async fn copy(backup: &str, source: &dyn Objects, target: &dyn Objects, name: &str) -> Result<bool> {
    let Some(parsed) = WalName::parse(name) else { return Ok(false) };
    let Some(packed) = archive::stored(source, backup, name, parsed).await? else { return Ok(false) };
    object::check(name, &packed).map_err(|why| archive::damaged(backup, name, &why))?;
    if object::header(&packed).is_ok_and(|(header, _)| header.encryption.is_none()) {
        archive::open(packed.clone(), backup, name, &Identities::default()).await?;
    }
    // Whoever has put it there meanwhile has put the same.
    target.put(&key(backup, name, parsed), packed).await?;
    Ok(true)
}
