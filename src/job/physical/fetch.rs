//! `wal fetch`: a file of the log out of a store, checked, into the place where recovery wants it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::{Instant, sleep};

use crate::config::Plan;
use crate::config::plan::Backup;
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::host::writeback;
use crate::job::physical::archive::{self, Owner};
use crate::job::physical::folder::parent;
use crate::job::physical::push::PUSHER;
use crate::job::stores;
use crate::keys::Identities;
use crate::physical::recovery;
use crate::store::Store;
use crate::wal::{Segment, WalName};

/// How many segments are fetched ahead of the one that recovery asks for.
pub const AHEAD: usize = 8;

/// How many of them are on their way at a time, at most, and with how many bytes.
const AT_A_TIME: u64 = 4;
const BYTES_AT_A_TIME: u64 = 64 << 20;

/// How long a call waits for what another one is fetching ahead before it fetches it by itself: over a slow line the two
/// would only be in each other's way, and a line that stands still must not keep both.
const AHEAD_PATIENCE: Duration = Duration::from_secs(20);

/// How often it looks whether that has come. The end of the other one is no event, and to watch a folder costs more: it
/// takes the kernel ten milliseconds to end it.
const AHEAD_LOOK: Duration = Duration::from_millis(5);

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
    let mut search = Search::default();
    for (store_name, store) in stores {
        if let Some((_, raw)) = search.heed(store_name, archive::read(&**store, backup, name, parsed, keys).await) {
            return Ok(Some(raw));
        }
    }
    search.end()
}

/// What went wrong first in the stores, where none has a sound one.
#[derive(Default)]
struct Search(Option<Error>);

impl Search {
    fn heed<T>(&mut self, store: &Name, answer: Result<Option<T>>) -> Option<T> {
        answer.unwrap_or_else(|error| {
            let error = error.context(format_args!("store {store}"));
            tracing::warn!(%error, "looking into the next store");
            self.0.get_or_insert(error);
            None
        })
    }

    fn end<T>(self) -> Result<Option<T>> {
        self.0.map_or(Ok(None), Err)
    }
}

/// Fetches a file of the log. False: the archive answered that it has none.
///
/// # Errors
/// Anything else; the place is as it was.
pub async fn fetch(stores: &[(Name, Arc<dyn Store>)], backup: &str, name: &str, dest: &Path, keys: &Identities) -> Result<bool> {
    let Some(parsed) = WalName::parse(name) else {
        return Err(Error::new(Kind::Usage, format!("{name:?} is no file of the log")).hint("restore_command = 'pgvigil wal fetch %f %p'"));
    };
    let Some(aside) = bring(stores, backup, name, parsed, dest, keys).await? else { return Ok(false) };
    aside.put(dest)?;
    Ok(true)
}

/// Brings a file of the log beside its place, checked and durable: under its name it is whole, also after a power cut.
/// Recovery makes durable what it takes, and does not wait for what is so already. The name itself need not be.
async fn bring(
    stores: &[(Name, Arc<dyn Store>)],
    backup: &str,
    name: &str,
    parsed: WalName,
    dest: &Path,
    keys: &Identities,
) -> Result<Option<Aside>> {
    let mut search = Search::default();
    for (store_name, store) in stores {
        if let Some(aside) = search.heed(store_name, bring_from(&**store, backup, name, parsed, dest, keys).await) {
            return Ok(Some(aside));
        }
    }
    search.end()
}

async fn bring_from(store: &dyn Store, backup: &str, name: &str, parsed: WalName, dest: &Path, keys: &Identities) -> Result<Option<Aside>> {
    let Some(packed) = archive::stored(store, backup, name, parsed).await? else { return Ok(None) };
    let (aside, file) = Aside::create(dest)?;
    let (mut into, named) = (file.try_clone().map_err(|error| cannot_write(dest, &error))?, dest.to_owned());
    let take = move |block: &[u8]| {
        into.write_all(block).map_err(|error| cannot_write(&named, &error))?;
        writeback::begin(&into);
        Ok(())
    };
    archive::unpack(packed, backup, name, keys, take).await?;
    file.sync_all().map_err(|error| cannot_write(dest, &error))?;
    Ok(Some(aside))
}

fn cannot_write(dest: &Path, error: &std::io::Error) -> Error {
    Error::system(format_args!("cannot write {}", dest.display()), error)
}

/// A file beside its place. It is removed unless it is put there.
struct Aside(PathBuf);

impl Aside {
    fn create(dest: &Path) -> Result<(Self, File)> {
        let aside = dest.with_file_name(format!(".{}.{}", dest.file_name().unwrap_or_default().to_string_lossy(), std::process::id()));
        let _ = std::fs::remove_file(&aside);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside).map_err(|error| cannot_write(dest, &error))?;
        Ok((Aside(aside), file))
    }

    fn put(self, dest: &Path) -> Result<()> {
        std::fs::rename(&self.0, dest).map_err(|error| cannot_write(dest, &error))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Where those wait that were fetched ahead: a rename is all that is left to do.
fn ahead_folder(dest: &Path) -> PathBuf {
    parent(dest).join(recovery::AHEAD)
}

/// Moves what was fetched ahead into its place, or is just being fetched. False: it was not. It was checked when it
/// came: neither the file nor a store has to be asked.
///
/// # Errors
/// It is there, and cannot be moved.
pub async fn take_ahead(name: &str, dest: &Path) -> Result<bool> {
    if !is_segment(name) {
        return Ok(false);
    }
    let folder = ahead_folder(dest);
    let ready = folder.join(name);
    let until = Instant::now() + AHEAD_PATIENCE;
    loop {
        let may_come = is_on_its_way(&folder, name) && Instant::now() < until;
        match std::fs::rename(&ready, dest) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::system(format_args!("cannot move {}", ready.display()), &error)),
        }
        if !may_come {
            return Ok(false);
        }
        sleep(AHEAD_LOOK).await;
    }
}

fn is_segment(name: &str) -> bool {
    matches!(WalName::parse(name), Some(WalName::Segment(_)))
}

/// The lock of who fetches ahead, in the folder. In it stands the segment that they follow.
const AHEAD_LOCK: &str = "lock";

/// A segment's name begins with its timeline, in so many digits.
const TIMELINE_DIGITS: usize = 8;

/// Whether another call is fetching ahead what follows an earlier segment of the same timeline. Where a file system knows
/// no locks nobody is.
fn is_on_its_way(folder: &Path, name: &str) -> bool {
    let Ok(mut lock) = File::open(folder.join(AHEAD_LOCK)) else { return false };
    let mut followed = String::new();
    matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))
        && lock.read_to_string(&mut followed).is_ok()
        && followed.get(..TIMELINE_DIGITS) == name.get(..TIMELINE_DIGITS)
        && followed.as_str() < name
}

/// The turn to fetch ahead, if so little waits behind a file that more should be fetched, and nobody is at it: a second
/// one would fetch the same. Others are kept off until all who hold it have ended.
pub fn turn_ahead(name: &str, dest: &Path) -> Option<File> {
    let folder = ahead_folder(dest);
    let waiting = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let waiting = waiting.filter(|entry| entry.file_name().to_str().is_some_and(|there| there > name && there.len() == name.len()));
    if !is_segment(name) || waiting.count() > AHEAD / 2 {
        return None;
    }
    std::fs::create_dir_all(&folder).ok()?;
    let mut lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(folder.join(AHEAD_LOCK)).ok()?;
    lock.try_lock().ok()?;
    // Names of segments are all of one length.
    lock.write_all(name.as_bytes()).ok()?;
    Some(lock)
}

/// Fetches the segments that follow one, so that they wait beside their place. Ends at the first that the
/// archive has not. The caller holds the turn.
///
/// # Errors
/// A store does not answer, or the folder cannot be written.
pub async fn ahead(stores: &[(Name, Arc<dyn Store>)], backup: &str, name: &str, dest: &Path, keys: &Identities) -> Result<()> {
    let folder = ahead_folder(dest);
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
    let folder = &folder;
    let brought = missing.iter().map(|name| async move {
        let Some(parsed) = WalName::parse(name) else { return Ok(None) };
        bring(stores, backup, name, parsed, &folder.join(name), keys).await
    });
    let at_a_time = (BYTES_AT_A_TIME / bytes.max(1)).clamp(1, AT_A_TIME);
    // In their order, and none behind one that is not there.
    let mut brought = std::pin::pin!(futures_util::stream::iter(brought).buffered(usize::try_from(at_a_time).unwrap_or(1)));
    for name in &missing {
        let Some(aside) = brought.next().await.transpose()?.flatten() else { return Ok(()) };
        aside.put(&folder.join(name))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "000000010000000000000003";

    /// A place where recovery wants the segment, and the turn of one who fetches it ahead.
    fn begun() -> (tempfile::TempDir, PathBuf, File) {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("RECOVERYXLOG");
        let turn = turn_ahead("000000010000000000000002", &dest).unwrap();
        (dir, dest, turn)
    }

    #[tokio::test]
    async fn what_is_being_fetched_ahead_is_waited_for() {
        let (_dir, dest, turn) = begun();
        assert!(turn_ahead(NAME, &dest).is_none(), "one at a time");
        let mut taken = std::pin::pin!(take_ahead(NAME, &dest));
        assert!(futures_util::poll!(taken.as_mut()).is_pending());
        std::fs::write(ahead_folder(&dest).join(NAME), b"whole").unwrap();
        assert!(taken.await.unwrap());
        assert_eq!(std::fs::read(&dest).unwrap(), b"whole");
        drop(turn);
    }

    #[tokio::test]
    async fn once_the_other_has_ended_it_is_not_waited_for() {
        let (_dir, dest, turn) = begun();
        let mut taken = std::pin::pin!(take_ahead(NAME, &dest));
        assert!(futures_util::poll!(taken.as_mut()).is_pending());
        drop(turn);
        assert!(!taken.await.unwrap() && !dest.exists());
        assert!(turn_ahead(NAME, &dest).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_brings_it_not_is_not_waited_for_without_end() {
        let (_dir, dest, _turn) = begun();
        let began = Instant::now();
        // It was there before what the other one follows: recovery began anew.
        assert!(!take_ahead("000000010000000000000002", &dest).await.unwrap());
        // Nor is that of another timeline.
        assert!(!take_ahead("000000020000000000000003", &dest).await.unwrap());
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(!take_ahead(NAME, &dest).await.unwrap());
        assert!(began.elapsed() >= AHEAD_PATIENCE);
        // A file of another kind is never fetched ahead.
        assert!(!take_ahead("00000002.history", &dest).await.unwrap() && turn_ahead("00000002.history", &dest).is_none());
    }

    #[test]
    fn enough_that_waits_is_enough() {
        let (_dir, dest, turn) = begun();
        drop(turn);
        let segments = |from: u64, count: usize| {
            let first = Segment { timeline: 1, number: from };
            std::iter::successors(Some(first), |segment| Some(segment.next())).take(count).map(|segment| segment.name(16 << 20))
        };
        // What lies before it does not count.
        for name in segments(0, 3).chain(segments(4, AHEAD / 2)) {
            std::fs::write(ahead_folder(&dest).join(name), "").unwrap();
        }
        assert!(turn_ahead(NAME, &dest).is_some());
        std::fs::write(ahead_folder(&dest).join(segments(40, 1).next().unwrap()), "").unwrap();
        assert!(turn_ahead(NAME, &dest).is_none());
    }
}
