//! The log goes with the last base backup that needs it.

use crate::catalog::Catalog;
use crate::error::Result;
use crate::job::physical::archive;
use crate::physical::retain::log_from;
use crate::store::Objects;
use crate::wal::name::{FOLDER, SUFFIX, timeline_folder};
use crate::wal::{Lsn, WalName};

/// Removes from a store what no base backup there needs any more, oldest first, and returns how many files
/// that were. What is before the first that stays leads nowhere; histories are small and stay.
///
/// # Errors
/// The store cannot be read or written.
pub async fn prune(store: &dyn Objects, backup: &str, catalog: &Catalog) -> Result<usize> {
    // One that cannot be read may need it.
    if catalog.unreadable.iter().any(|(id, _)| id.backup == backup) {
        tracing::warn!(backup, "a manifest cannot be read: nothing of the log is deleted");
        return Ok(0);
    }
    let kept = catalog.entries.iter().filter(|entry| entry.id.backup == backup);
    let Some(from) = log_from(kept.filter_map(|entry| entry.manifest.physical.as_ref())) else { return Ok(0) };
    let keys = before(store, backup, from).await?;
    for key in &keys {
        store.delete(key).await?;
    }
    if !keys.is_empty() {
        tracing::info!(backup, files = keys.len(), before = %from, "log that no base backup needs: deleted");
    }
    Ok(keys.len())
}

async fn before(store: &dyn Objects, backup: &str, from: Lsn) -> Result<Vec<String>> {
    let bytes = match archive::Owner::read(store, backup).await? {
        Some(owner) => owner.segment_bytes,
        None => return Ok(Vec::new()),
    };
    let first = from.0 / bytes;
    let mut found = Vec::new();
    for folder in store.list(&format!("{backup}/{FOLDER}")).await?.iter().filter(|listed| listed.bytes.is_none()) {
        let Ok(timeline) = u32::from_str_radix(&folder.name, 16) else { continue };
        let folder = timeline_folder(backup, timeline);
        for file in store.list(&folder).await? {
            if let Some(WalName::Segment(numbers) | WalName::Partial(numbers) | WalName::Label(numbers)) =
                file.name.strip_suffix(SUFFIX).and_then(WalName::parse)
                && let Some(segment) = numbers.segment(bytes).filter(|segment| segment.number < first)
            {
                found.push((segment.number, format!("{folder}/{}", file.name)));
            }
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, key)| key).collect())
}
