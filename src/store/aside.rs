//! Files and folders outside of the catalog: what an export writes, and whether a folder can be a
//! store at all. They follow the same rule: aside first, then in place in one step.

use std::fs::DirBuilder;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::FileWriter;
use super::local::{LocalFile, PARTIAL, create_file, failed, rename_new, sync_dir};
use crate::error::Result;

/// Tries what a run needs of a folder: to make, to write durably, to rename and to remove. Returns
/// how many bytes are available to this user.
///
/// # Errors
/// What does not work.
pub fn try_out(root: &Path) -> Result<u64> {
    let fresh = !root.exists();
    DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(|error| failed("make", root, &error))?;
    remove_checks_of_dead(root);
    let dir = root.join(format!("{PARTIAL}check-{}", std::process::id()));
    let moved = dir.with_extension("moved");
    let tried = (|| {
        DirBuilder::new().mode(0o700).create(&dir).map_err(|error| failed("make", &dir, &error))?;
        let path = dir.join("file");
        let mut file = create_file(&path)?;
        file.write_all(b"pgvigil check\n").and_then(|()| file.sync_all()).map_err(|error| failed("write", &path, &error))?;
        rename_new(&dir, &moved).map_err(|error| failed("rename", &dir, &error.into()))?;
        sync_dir(root)
    })();
    let _ = std::fs::remove_dir_all(&dir);
    let _ = std::fs::remove_dir_all(&moved);
    tried?;
    let space = nix::sys::statvfs::statvfs(root).map_err(|error| failed("look at", root, &error.into()))?;
    if fresh {
        tracing::info!(path = %root.display(), "made the folder of the store");
    }
    Ok(space.blocks_available() * space.fragment_size())
}

/// What is written beside its place, to be put there when it is whole; else it goes with this.
pub struct Aside {
    path: PathBuf,
    open: bool,
}

impl Aside {
    /// A file beside `target`.
    ///
    /// # Errors
    /// The folder of the target cannot be written.
    pub fn file(target: &Path) -> Result<(Self, Box<dyn FileWriter>)> {
        let path = beside(target);
        let file = create_file(&path)?;
        let writer = LocalFile::new(file, path.clone());
        Ok((Aside { path, open: true }, Box::new(writer)))
    }

    /// A folder beside `target`.
    ///
    /// # Errors
    /// The folder of the target cannot be written.
    pub fn folder(target: &Path) -> Result<Self> {
        let path = beside(target);
        DirBuilder::new().mode(0o700).create(&path).map_err(|error| failed("make", &path, &error))?;
        Ok(Aside { path, open: true })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn beside(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    remove_of_dead(parent(target), &format!(".{name}{PARTIAL}"));
    target.with_file_name(format!(".{name}{PARTIAL}{}", std::process::id()))
}

/// Puts what is whole in its place, durably.
///
/// # Errors
/// Something is there and `replace` is false, or the folder cannot be written.
pub fn publish(mut aside: Aside, target: &Path, replace: bool) -> Result<()> {
    let placed = match rename_new(&aside.path, target) {
        Err(nix::Error::EEXIST | nix::Error::ENOTEMPTY) if replace && aside.path.is_dir() => {
            // A folder cannot take the place of another one in one step.
            std::fs::remove_dir_all(target).and_then(|()| std::fs::rename(&aside.path, target))
        }
        Err(nix::Error::EEXIST) if replace => std::fs::rename(&aside.path, target),
        result => result.map_err(Into::into),
    };
    placed.map_err(|error| failed("create", target, &error))?;
    aside.open = false;
    sync_dir(parent(target))
}

fn parent(target: &Path) -> &Path {
    target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes what a killed `check` left in a store.
pub(super) fn remove_checks_of_dead(root: &Path) {
    remove_of_dead(root, &format!("{PARTIAL}check-"));
}

/// Removes what processes left that were killed: names of `prefix` and the number of a process
/// that is no more.
fn remove_of_dead(dir: &Path, prefix: &str) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(prefix)).unwrap_or_default();
        let pid = rest.strip_suffix(".moved").unwrap_or(rest);
        if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
            let _ = if entry.path().is_dir() { std::fs::remove_dir_all(entry.path()) } else { std::fs::remove_file(entry.path()) };
        }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if self.open {
            let _ = if self.path.is_dir() { std::fs::remove_dir_all(&self.path) } else { std::fs::remove_file(&self.path) };
        }
    }
}
