//! `wal fetch`: a file of the log out of a store, checked, into the place where recovery wants it.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt;

use crate::config::Plan;
use crate::config::plan::Backup;
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::job::physical::archive::{self, Owner};
use crate::job::physical::folder::parent;
use crate::job::physical::push::PUSHER;
use crate::job::stores;
use crate::keys::Identities;
use crate::store::Store;
use crate::wal::{Segment, WalName};

/// How many segments are fetched ahead of the one that recovery asks for.
pub const AHEAD: usize = 8;

/// How many of them are on their way at a time, at most, and with how many bytes.
const AT_A_TIME: u64 = 4;
const BYTES_AT_A_TIME: u64 = 64 << 20;

/// Where those wait, beside the place where recovery wants them: a rename is all that is left to do.
const AHEAD_FOLDER: &str = "pgvigil-ahead";

/// The stores of a backup that a fetch looks into, in their order.
///
/// # Errors
/// One of them cannot be opened.
pub fn stores(plan: &Plan, backup: &Backup, only: Option<&Name>) -> Result<Vec<(Name, Arc<dyn Store>)>> {
    let chosen = backup.stores.iter().filter(|store| only.is_none_or(|only| only == *store));
    chosen.map(|store| Ok((store.clone(), stores::open(&plan.stores[store], PUSHER)?))).collect()
}

/// A file of the log, from the first store that has a sound one. `None`: every store answered that it has
/// none.
///
/// # Errors
/// No store has a sound one, and one of them did not answer, or has a damaged one; or none of the keys opens it.
pub async fn read(
    stores: &[(Name, Arc<dyn Store>)],
    backup: &str,
    name: &str,
    parsed: WalName,
    keys: &Identities,
) -> Result<Option<Vec<u8>>> {
    let mut failed: Option<Error> = None;
    for (store_name, store) in stores {
        match archive::read(&**store, backup, name, parsed, keys).await {
            Ok(Some((_, raw))) => return Ok(Some(raw)),
            Ok(None) => {}
            Err(error) => {
                let error = error.context(format_args!("store {store_name}"));
                tracing::warn!(%error, "looking into the next store");
                failed.get_or_insert(error);
            }
        }
    }
    failed.map_or(Ok(None), Err)
}

/// Fetches a file of the log. False: the archive answered that it has none.
///
/// # Errors
/// Anything else; the place is as it was.
pub async fn fetch(stores: &[(Name, Arc<dyn Store>)], backup: &str, name: &str, dest: &Path, keys: &Identities) -> Result<bool> {
    let Some(parsed) = WalName::parse(name) else {
        return Err(Error::new(Kind::Usage, format!("{name:?} is no file of the log")).hint("restore_command = 'pgvigil wal fetch %f %p'"));
    };
    if take_ahead(name, dest)? {
        return Ok(true);
    }
    let Some(raw) = read(stores, backup, name, parsed, keys).await? else { return Ok(false) };
    write(dest, &raw)?;
    Ok(true)
}

/// Writes aside, makes it durable, and puts it in its place: under its name it is whole, also after a power cut. Recovery
/// makes durable what it takes, and does not wait for what is so already. The name itself need not be.
fn write(dest: &Path, raw: &[u8]) -> Result<()> {
    let failed = |error: &std::io::Error| Error::system(format_args!("cannot write {}", dest.display()), error);
    let aside = dest.with_file_name(format!(".{}.{}", dest.file_name().unwrap_or_default().to_string_lossy(), std::process::id()));
    let _ = std::fs::remove_file(&aside);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        file.write_all(raw)?;
        file.sync_all()?;
        std::fs::rename(&aside, dest)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&aside);
    }
    written.map_err(|error| failed(&error))
}

fn ahead_folder(dest: &Path) -> PathBuf {
    parent(dest).join(AHEAD_FOLDER)
}

/// Moves what was fetched ahead into its place. False: it was not.
fn take_ahead(name: &str, dest: &Path) -> Result<bool> {
    let ready = ahead_folder(dest).join(name);
    match std::fs::rename(&ready, dest) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::system(format_args!("cannot move {}", ready.display()), &error)),
    }
}

/// Whether so little waits behind a file that more should be fetched.
pub fn wants_ahead(name: &str, dest: &Path) -> bool {
    let waiting = std::fs::read_dir(ahead_folder(dest)).into_iter().flatten().flatten();
    let waiting = waiting.filter(|entry| entry.file_name().to_str().is_some_and(|there| there > name && there.len() == name.len()));
    matches!(WalName::parse(name), Some(WalName::Segment(_))) && waiting.count() <= AHEAD / 2
}

/// Fetches the segments that follow one, so that they wait beside their place. Ends at the first that the
/// archive has not.
///
/// # Errors
/// A store does not answer, or the folder cannot be written.
pub async fn ahead(stores: &[(Name, Arc<dyn Store>)], backup: &str, name: &str, dest: &Path, keys: &Identities) -> Result<()> {
    let folder = ahead_folder(dest);
    let unmade = |error: &std::io::Error| Error::system(format_args!("cannot use {}", folder.display()), error);
    std::fs::create_dir_all(&folder).map_err(|error| unmade(&error))?;
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(folder.join("lock"));
    let lock = lock.map_err(|error| unmade(&error))?;
    // One at a time: a second one would fetch the same.
    if lock.try_lock().is_err() {
        return Ok(());
    }
    let Some((_, first)) = stores.first() else { return Ok(()) };
    let Some(bytes) = Owner::read(&**first, backup).await?.map(|owner| owner.segment_bytes) else { return Ok(()) };
    let Some(mut segment) = Segment::parse(name, bytes) else { return Ok(()) };
    remove_passed(&folder, segment, bytes);
    let mut missing = Vec::new();
    for _ in 0..AHEAD {
        segment = segment.next();
        missing.push(segment.name(bytes));
    }
    missing.retain(|name| !folder.join(name).exists());
    let fetched = missing.iter().map(|name| async move {
        let Some(parsed) = WalName::parse(name) else { return Ok(None) };
        read(stores, backup, name, parsed, keys).await
    });
    let at_a_time = (BYTES_AT_A_TIME / bytes.max(1)).clamp(1, AT_A_TIME);
    // In their order, and none behind one that is not there.
    let mut fetched = std::pin::pin!(futures_util::stream::iter(fetched).buffered(usize::try_from(at_a_time).unwrap_or(1)));
    for name in &missing {
        let Some(raw) = fetched.next().await.transpose()?.flatten() else { return Ok(()) };
        write(&folder.join(name), &raw)?;
    }
    Ok(())
}

/// What lies before the segment is of no use any more.
fn remove_passed(folder: &Path, segment: Segment, bytes: u64) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().and_then(|name| Segment::parse(name, bytes)).is_some_and(|there| there.number <= segment.number) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
