//! What this installation remembers beside the stores: its name, its locks, its history,
//! its alerts. The loss
//! of it loses no backup.

pub mod alerts;
pub mod copies;
pub mod discovered;
mod drills;
pub mod history;
pub mod outbox;
pub mod pings;
mod restored;
pub mod restores;
pub mod watched;

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::catalog::Id;
use crate::error::{Error, Kind, Result, plain_io};

pub use alerts::Alerts;
pub use history::{History, Outcome, Run};

/// The lock of the daemon among those of the backups.
const DAEMON: &str = "DAEMON";

/// The lock of drills: there is one at a time, whatever it is of.
pub const DRILL: &str = "DRILL";

/// How long a restore waits for the deletion of what it wants, and how often it looks.
const DELETION_TAKES: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The folder of the state.
#[derive(Debug, Clone)]
pub struct State {
    dir: PathBuf,
    owner: String,
}

/// A lock that is held; the end of the process ends it too.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Whether the file of the lock is still where it was taken. Without it another would get a lock
    /// of the same name.
    pub fn is_in_place(&self) -> bool {
        match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(held), Ok(there)) => (held.dev(), held.ino()) == (there.dev(), there.ino()),
            _ => false,
        }
    }
}

/// A copy that is held. Its file goes with the last who holds it, for there would be one for every backup ever pruned.
#[derive(Debug)]
pub struct CopyLock(Lock);

impl Drop for CopyLock {
    fn drop(&mut self) {
        if self.0.file.try_lock().is_ok() {
            let _ = std::fs::remove_file(&self.0.path);
        }
    }
}

impl State {
    /// Opens the folder, made where it is not there yet, and gives it its name.
    ///
    /// # Errors
    /// It cannot be made or written.
    pub fn open(dir: &Path) -> Result<Self> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir.join("locks"));
        made.map_err(|error| unwritable(dir, &error))?;
        Ok(State { dir: dir.to_owned(), owner: name_of(dir)? })
    }

    /// The name of this folder in the marks on unfinished work.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Takes the lock of a backup. `None`: another run of it is under way.
    ///
    /// # Errors
    /// The file of the lock cannot be opened.
    pub fn lock(&self, backup: &str) -> Result<Option<Lock>> {
        self.locked(backup, File::try_lock)
    }

    fn locked(&self, name: &str, try_lock: impl Fn(&File) -> std::result::Result<(), TryLockError>) -> Result<Option<Lock>> {
        let path = self.dir.join("locks").join(format!("{name}.lock"));
        loop {
            let file = OpenOptions::new()
                // NFS takes a shared lock of who may read only.
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(|error| unwritable(&path, &error))?;
            match try_lock(&file) {
                Ok(()) => {
                    let lock = Lock { file, path: path.clone() };
                    // Its file may have been removed between the two: the name is free again.
                    if lock.is_in_place() {
                        return Ok(Some(lock));
                    }
                }
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(unwritable(&path, &error)),
            }
        }
    }

    /// Keeps a copy of a backup from being deleted, beside others who do. It is not the lock of the backup, so that a
    /// dump may run beside. `None`: it is being deleted.
    ///
    /// # Errors
    /// The file of the lock cannot be opened.
    pub fn hold_copy(&self, id: &Id) -> Result<Option<CopyLock>> {
        Ok(self.locked(&copy_name(id), File::try_lock_shared)?.map(CopyLock))
    }

    /// The same for a restore, which is refused by nobody: where a store deletes it just now, that of another store may be
    /// meant, and who reads what has gone says so. `None`: nobody keeps it.
    ///
    /// # Errors
    /// The file of the lock cannot be opened.
    pub async fn hold_copy_or_go_on(&self, id: &Id) -> Result<Option<CopyLock>> {
        let began = std::time::Instant::now();
        loop {
            let held = self.hold_copy(id)?;
            if held.is_some() || began.elapsed() > DELETION_TAKES {
                return Ok(held);
            }
            // Whoever lets go of one seizes it for a moment, too.
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Holds a copy alone, to delete it. `None`: somebody needs it.
    ///
    /// # Errors
    /// The file of the lock cannot be opened.
    pub fn seize_copy(&self, id: &Id) -> Result<Option<CopyLock>> {
        Ok(self.lock(&copy_name(id))?.map(CopyLock))
    }

    /// Whether somebody holds the lock of a backup. To look at it must not take it, not even for a
    /// moment: a run that begins just then would be refused.
    pub fn is_locked(dir: &Path, backup: &str) -> bool {
        let Ok(meta) = std::fs::metadata(dir.join("locks").join(format!("{backup}.lock"))) else {
            return false;
        };
        let inode = format!(":{}", std::os::unix::fs::MetadataExt::ino(&meta));
        let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
        locks.lines().any(|line| line.contains("FLOCK") && line.split_whitespace().any(|field| field.ends_with(&inode)))
    }

    /// Takes the lock of the daemon. `None`: another one runs on this folder.
    ///
    /// # Errors
    /// The file of the lock cannot be opened.
    pub fn lock_daemon(&self) -> Result<Option<Lock>> {
        // No backup can have this name.
        self.lock(DAEMON)
    }

    /// Whether a daemon runs on this folder.
    pub fn has_daemon(dir: &Path) -> bool {
        Self::is_locked(dir, DAEMON)
    }

    /// # Errors
    /// The database of the alerts cannot be opened.
    pub fn alerts(&self) -> Result<Alerts> {
        Alerts::open(&self.dir)
    }

    /// # Errors
    /// The database of the history cannot be opened.
    pub fn history(&self) -> Result<History> {
        History::open(&self.dir)
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Kind::System, format!("cannot write {}: {}", path.display(), plain_io(error)))
        .hint("run as the owner of state_dir or as root, or set state_dir to a folder of this user")
}

/// Reads the name of the folder, or gives it one. Two that come at once agree on the first.
fn name_of(dir: &Path) -> Result<String> {
    let path = dir.join("id");
    if let Ok(text) = std::fs::read_to_string(&path) {
        let name = text.trim();
        remove_unnamed(dir);
        if name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(name.to_owned());
        }
        return Err(Error::new(Kind::System, format!("{} is damaged", path.display()))
            .hint("remove it, and .partial-* folders of dead runs in the stores by hand"));
    }
    let name: String = crate::host::Tag::random().as_str().trim_start_matches("pgvigil_").to_owned();
    let aside = dir.join(format!("id.{name}"));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        writeln!(file, "{name}")?;
        file.sync_all()?;
        // Where another was first, its name counts; it may have swept ours already.
        match std::fs::hard_link(&aside, &path) {
            Err(error) if !path.exists() => Err(error),
            _ => Ok(()),
        }
    })();
    let _ = std::fs::remove_file(&aside);
    written.map_err(|error| unwritable(&path, &error))?;
    std::fs::read_to_string(&path).map(|text| text.trim().to_owned()).map_err(|error| unwritable(&path, &error))
}

/// Removes what a process left that was killed while it gave the folder its name.
fn remove_unnamed(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let random = name.to_str().and_then(|name| name.strip_prefix("id.")).unwrap_or_default();
        if random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The lock of a copy among those of the backups, none of which can have a dot in its name.
fn copy_name(id: &Id) -> String {
    format!("{}.{}", id.backup, id.label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let first = State::open(dir.path()).unwrap();
        assert_eq!(State::open(dir.path()).unwrap().owner(), first.owner());
        let other = tempfile::tempdir().unwrap();
        assert_ne!(State::open(other.path()).unwrap().owner(), first.owner());
    }

    #[test]
    fn a_copy_is_deleted_when_nobody_holds_it_and_leaves_no_file() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let id = Id { backup: "x".into(), label: "20240115T010000Z".parse().unwrap() };
        let files = || std::fs::read_dir(dir.path().join("locks")).unwrap().count();
        let [restore, drill] = [(); 2].map(|()| state.hold_copy(&id).unwrap());
        assert!(restore.is_some() && drill.is_some() && files() == 1);
        assert!(state.lock("x").unwrap().is_some(), "a dump may run beside");
        assert!(state.seize_copy(&id).unwrap().is_none());
        drop(drill);
        assert!(state.seize_copy(&id).unwrap().is_none(), "the restore goes on");
        drop(restore);
        assert_eq!(files(), 1, "only that of the backup");
        let seized = state.seize_copy(&id).unwrap();
        assert!(seized.is_some() && state.hold_copy(&id).unwrap().is_none());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        assert!(runtime.block_on(state.hold_copy_or_go_on(&id)).unwrap().is_none(), "it is not waited for without end");
        std::thread::scope(|scope| {
            scope.spawn(|| drop(seized));
            assert!(runtime.block_on(state.hold_copy_or_go_on(&id)).unwrap().is_some());
        });
        // Many who come and go: never one who holds it beside one who deletes it.
        let (holders, deleters) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (state, id, holders, deleters) = (&state, &id, &holders, &deleters);
                scope.spawn(move || {
                    for _ in 0..200 {
                        let deletes = thread % 2 == 0;
                        let held = if deletes { state.seize_copy(id) } else { state.hold_copy(id) }.unwrap();
                        if held.is_some() {
                            let (ours, others) = if deletes { (deleters, holders) } else { (holders, deleters) };
                            let beside = ours.fetch_add(1, Ordering::SeqCst);
                            assert!(!deletes || beside == 0);
                            assert_eq!(others.load(Ordering::SeqCst), 0);
                            std::thread::yield_now();
                            ours.fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert_eq!(files(), 1);
    }

    #[test]
    fn one_run_of_a_backup_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        assert!(!State::is_locked(dir.path(), "x"));
        let held = state.lock("x").unwrap();
        assert!(held.is_some());
        assert!(State::is_locked(dir.path(), "x"));
        assert!(state.lock("x").unwrap().is_none());
        assert!(state.lock("xx").unwrap().is_some());
        assert!(held.as_ref().unwrap().is_in_place());
        let elsewhere = state.lock("y").unwrap().unwrap();
        std::fs::remove_file(dir.path().join("locks/y.lock")).unwrap();
        assert!(!elsewhere.is_in_place());
        let _another = state.lock("y").unwrap().unwrap();
        assert!(!elsewhere.is_in_place());
        drop(held);
        assert!(state.lock("x").unwrap().is_some());
    }
}
