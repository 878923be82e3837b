//! The log that the base backups of a store need and another store has: copied on as it lies there, the oldest first.
//! A store that joins later gets it so, and one that has lost some of it.

use crate::catalog::Catalog;
use crate::config::Plan;
use crate::config::plan::Backup;
use crate::config::values::Name;
use crate::error::Result;
use crate::job::physical::archive::{self, Claimed, Owner};
use crate::job::{keys, stores};
use crate::keys::Identities;
use crate::physical::retain::log_from;
use crate::store::{Objects, Store, catalog_of};
use crate::wal::name::key;
use crate::wal::{Archive, Segment, WalName, object};

/// Brings a store what it lacks of the log, and returns how many files that were.
///
/// # Errors
/// The store cannot be read or written, is of another cluster, or none of the others gives what it lacks.
pub async fn spread(plan: &Plan, backup: &Backup, name: &Name, target: &dyn Store, by: &str) -> Result<usize> {
    let mut catalog = Catalog::trusting(keys::trust(plan));
    catalog_of(target, name.as_str(), Some(backup.name.as_str()), &mut catalog).await?;
    let Some(from) = log_from(catalog.entries.iter().filter_map(|entry| entry.manifest.physical.as_ref())) else { return Ok(0) };
    let mut there = archive::look(target, backup.name.as_str()).await?;
    let keys = keys::of_backup(plan, backup.name.as_str())?.unwrap_or_default();
    let (mut copied, mut failed) = (0, None);
    for other in backup.stores.iter().filter(|other| *other != name) {
        let brought = async {
            let source = stores::open(&plan.stores[other], by)?;
            bring(backup.name.as_str(), &*source, target, &mut there, from.0, &keys).await
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
async fn bring(backup: &str, source: &dyn Store, target: &dyn Store, there: &mut Archive, from: u64, keys: &Identities) -> Result<usize> {
    let has = archive::look(source, backup).await?;
    let Some(owner) = Owner::read(source, backup).await? else { return Ok(0) };
    let mut claimed = Claimed::default();
    let mut copied = 0;
    for (timeline, history) in &has.histories {
        if !there.histories.contains_key(timeline) {
            claimed.by(&owner, target, backup).await?;
            copied += usize::from(copy(backup, source, target, &format!("{timeline:08X}.history"), keys).await?);
            there.histories.insert(*timeline, history.clone());
        }
    }
    let first = from / has.segment_bytes;
    let missing = |(timeline, numbers): (&u32, &std::collections::BTreeSet<u64>)| {
        let of = |number: &u64| Segment { timeline: *timeline, number: *number };
        numbers.range(first..).map(of).filter(|segment| !there.contains(*segment)).collect::<Vec<_>>()
    };
    let mut missing: Vec<Segment> = has.segments.iter().flat_map(missing).collect();
    missing.sort_by_key(|segment| (segment.number, segment.timeline));
    for segment in missing {
        claimed.by(&owner, target, backup).await?;
        copied += usize::from(copy(backup, source, target, &segment.name(has.segment_bytes), keys).await?);
        there.segments.entry(segment.timeline).or_default().insert(segment.number);
    }
    Ok(copied)
}

/// The very bytes. What is encrypted is opened only if there is a key; false: it has gone meanwhile.
async fn copy(backup: &str, source: &dyn Objects, target: &dyn Objects, name: &str, keys: &Identities) -> Result<bool> {
    let Some(parsed) = WalName::parse(name) else { return Ok(false) };
    let Some(packed) = archive::stored(source, backup, name, parsed).await? else { return Ok(false) };
    let header = object::header(&packed).map_err(|why| archive::damaged(backup, name, &why))?.0;
    if header.name != name {
        return Err(archive::damaged(backup, name, &format!("it is {:?} by its header", header.name)));
    }
    if header.encryption.is_none() || !keys.is_empty() {
        archive::open(packed.clone(), backup, name, keys).await?;
    }
    // Whoever has put it there meanwhile has put the same.
    target.put(&key(backup, name, parsed), packed).await?;
    Ok(true)
}
