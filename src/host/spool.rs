//! Folders of the spool: what a program must have as files before it can be streamed on. What is in
//! them may be what is encrypted in the store, so they are for this user's eyes and gone with their
//! use; what a crash leaves is swept.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{Tag, disk};
use crate::error::{Error, Kind, Result, plain_io};

/// Where they lie, in the spool.
const FOLDER: &str = "files";

/// A folder of our own, which goes with this.
#[derive(Debug)]
pub struct Spooled {
    path: PathBuf,
    /// Held as long as the folder is used: what nobody holds is of a dead one.
    _lock: File,
}

impl Spooled {
    /// Makes one, and sweeps what the dead left. `bytes`: what it is expected to hold.
    ///
    /// # Errors
    /// It would not fit, or the spool cannot be written.
    pub fn make(spool_dir: &Path, bytes: u64) -> Result<Self> {
        sweep(spool_dir);
        let dir = spool_dir.join(FOLDER);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|error| failed(&dir, &error))?;
        let available = disk::usage(&dir)?.available;
        if available < bytes {
            return Err(Error::new(
                Kind::System,
                format!("it would not fit into the spool {}: about {bytes} bytes are needed, and {available} are available", dir.display()),
            )
            .hint("free space, or name another folder with spool_dir"));
        }
        loop {
            let path = dir.join(Tag::random().random_part());
            DirBuilder::new().mode(0o700).create(&path).map_err(|error| failed(&path, &error))?;
            // A sweep may have come in between: then the folder is gone, or its.
            if let Some(lock) = hold(&path).filter(|lock| is_in_place(lock, &path)) {
                return Ok(Spooled { path, _lock: lock });
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), error = %plain_io(&error), "cannot remove a folder of the spool; it is swept later");
        }
    }
}

/// Removes the folders that nobody uses any more.
pub fn sweep(spool_dir: &Path) {
    for entry in std::fs::read_dir(spool_dir.join(FOLDER)).into_iter().flatten().flatten() {
        let path = entry.path();
        let Some(_lock) = hold(&path) else { continue };
        match std::fs::remove_dir_all(&path) {
            Ok(()) => tracing::info!(path = %path.display(), "removed what a killed process left in the spool"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(path = %path.display(), error = %plain_io(&error), "cannot remove what a killed process left"),
        }
    }
}

fn hold(path: &Path) -> Option<File> {
    let file = File::open(path).ok()?;
    file.try_lock().ok()?;
    Some(file)
}

fn is_in_place(held: &File, path: &Path) -> bool {
    match (held.metadata(), std::fs::metadata(path)) {
        (Ok(held), Ok(there)) => (held.dev(), held.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Error {
    Error::system(format_args!("cannot make {}", path.display()), error).hint("let the user that pgvigil runs as write into spool_dir")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_what_the_dead_left_goes() {
        let spool = tempfile::tempdir().unwrap();
        let used = Spooled::make(spool.path(), 0).unwrap();
        std::fs::write(used.path().join("toc.dat"), "x").unwrap();
        let dead = spool.path().join(FOLDER).join("dead");
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join("toc.dat"), "x").unwrap();
        let other = Spooled::make(spool.path(), 0).unwrap();
        assert!(used.path().join("toc.dat").exists() && other.path().exists() && !dead.exists());
        let path = used.path().to_owned();
        drop(used);
        assert!(!path.exists() && other.path().exists());
    }

    #[test]
    fn what_would_not_fit_is_not_begun() {
        let spool = tempfile::tempdir().unwrap();
        let error = Spooled::make(spool.path(), u64::MAX).unwrap_err();
        assert!(error.message.contains("would not fit"), "{error}");
        assert_eq!(std::fs::read_dir(spool.path().join(FOLDER)).unwrap().count(), 0);
    }
}
