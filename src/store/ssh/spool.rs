//! Folders of this machine for programs that write files by themselves, until these are on the other host.

use std::fs::DirBuilder;
use std::hash::Hasher;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::catalog::Id;
use crate::error::Result;
use crate::store::local::{PARTIAL, failed};

/// What one store keeps in the spool.
#[derive(Debug, Clone)]
pub struct Spool {
    root: PathBuf,
    /// Store and `state_dir` as the end of a name.
    whose: String,
}

impl Spool {
    /// `store` is what no other store has, such as its address.
    pub fn new(root: PathBuf, store: &str, owner: &str) -> Self {
        let mut hash = Xxh3::new();
        hash.write(store.as_bytes());
        Spool { root, whose: format!("{:016x}-{owner}", hash.finish()) }
    }

    /// The folder of one backup under way.
    pub fn of(&self, id: &Id) -> Spooled {
        Spooled { path: self.root.join(format!("{PARTIAL}{}.{}.{}", id.backup, id.label, self.whose)) }
    }

    /// Removes what runs of a backup left that were killed. None may be under way.
    ///
    /// # Errors
    /// The spool cannot be written.
    pub fn sweep(&self, backup: &str) -> Result<()> {
        let (begin, end) = (format!("{PARTIAL}{backup}."), format!(".{}", self.whose));
        for entry in std::fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.starts_with(&begin) && name.ends_with(&end)) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// A folder in the spool, which goes with this.
#[derive(Debug)]
pub struct Spooled {
    path: PathBuf,
}

impl Spooled {
    /// A new folder in it.
    ///
    /// # Errors
    /// The spool cannot be written.
    pub fn create(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        let made =
            DirBuilder::new().recursive(true).mode(0o700).create(&self.path).and_then(|()| DirBuilder::new().mode(0o700).create(&path));
        made.map_err(|error| failed("make", &path, &error))?;
        Ok(path)
    }

    /// How a path in it is called in the backup.
    pub fn name<'a>(&self, path: &'a Path) -> Option<&'a str> {
        path.strip_prefix(&self.path).ok()?.to_str()
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(%error, "cannot remove from the spool what is on the other host; the next run will");
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, &error)),
        _ => Ok(()),
    }
}
