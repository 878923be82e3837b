//! The log goes with the last base backup that needs it.

use serde::Serialize;

use crate::catalog::{Catalog, Id};
use crate::error::Result;
use crate::job::physical::archive;
use crate::physical::retain::log_from;
use crate::store::Objects;
use crate::wal::name::{FOLDER, SUFFIX, timeline_folder};
use crate::wal::{Lsn, WalName};

/// Log in a store that no base backup there needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expired {
    pub files: usize,
    /// By their names, the oldest and the newest.
    pub first: String,
    pub last: String,
    /// From here on the log is needed.
    pub before: Lsn,
    #[serde(skip)]
    keys: Vec<String>,
}

/// What is not needed by the base backups that stay, oldest first. What is before the first that stays leads nowhere;
/// histories are small and stay. `owed`: from there on another store has yet to get it. `None`: all of it is needed, or
/// nobody can tell.
///
/// # Errors
/// The store cannot be read.
pub async fn expired(
    store: &dyn Objects,
    backup: &str,
    catalog: &Catalog,
    stays: impl Fn(&Id) -> bool,
    owed: Option<Lsn>,
) -> Result<Option<Expired>> {
    // One that cannot be read may need it.
    if catalog.unreadable.iter().any(|(id, _)| id.backup == backup) {
        tracing::warn!(backup, "a manifest cannot be read: nothing of the log is deleted");
        return Ok(None);
    }
    let kept = catalog.entries.iter().filter(|entry| entry.id.backup == backup && stays(&entry.id));
    let Some(before) = log_from(kept.filter_map(|entry| entry.manifest.physical.as_ref())) else { return Ok(None) };
    let before = owed.map_or(before, |owed| owed.min(before));
    let found = found(store, backup, before).await?;
    let (Some((first, _)), Some((last, _))) = (found.first().cloned(), found.last().cloned()) else { return Ok(None) };
    Ok(Some(Expired { files: found.len(), first, last, before, keys: found.into_iter().map(|(_, key)| key).collect() }))
}

/// From where on another store lacks log that this one has, and that the base backups there need.
///
/// # Errors
/// One of the two cannot be read.
pub async fn owed(here: &dyn Objects, there: &dyn Objects, backup: &str, catalog: &Catalog) -> Result<Option<Lsn>> {
    let bases = catalog.entries.iter().filter(|entry| entry.id.backup == backup);
    let Some(from) = log_from(bases.filter_map(|entry| entry.manifest.physical.as_ref())) else { return Ok(None) };
    let (ours, theirs) = (archive::look(here, backup).await?, archive::look(there, backup).await?);
    Ok(ours.lowest_not_in(&theirs, from))
}

/// Removes it from a store.
///
/// # Errors
/// The store cannot be written; what was not deleted stays.
pub async fn remove(store: &dyn Objects, backup: &str, expired: &Expired) -> Result<()> {
    for key in &expired.keys {
        store.delete(key).await?;
    }
    tracing::info!(backup, files = expired.files, before = %expired.before, "log that no base backup needs: deleted");
    Ok(())
}

/// Names and keys of what lies before a place, oldest first.
async fn found(store: &dyn Objects, backup: &str, before: Lsn) -> Result<Vec<(String, String)>> {
    let bytes = match archive::Owner::read(store, backup).await? {
        Some(owner) => owner.segment_bytes,
        None => return Ok(Vec::new()),
    };
    let first = before.0 / bytes;
    let mut found = Vec::new();
    for folder in store.list(&format!("{backup}/{FOLDER}")).await?.iter().filter(|listed| listed.bytes.is_none()) {
        let Ok(timeline) = u32::from_str_radix(&folder.name, 16) else { continue };
        let folder = timeline_folder(backup, timeline);
        for file in store.list(&folder).await? {
            if let Some(name) = file.name.strip_suffix(SUFFIX)
                && let Some(WalName::Segment(numbers) | WalName::Partial(numbers) | WalName::Label(numbers)) = WalName::parse(name)
                && let Some(segment) = numbers.segment(bytes).filter(|segment| segment.number < first)
            {
                found.push((segment.number, name.to_owned(), format!("{folder}/{}", file.name)));
            }
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, name, key)| (name, key)).collect())
}
