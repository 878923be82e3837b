//! A folder of this machine.
//!
//! A run writes into `.partial-LABEL-OWNER` beside the backups, where OWNER is the `state_dir` that
//! made it; when all of it is on the disk, a rename that replaces nothing makes it a backup.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::libc;

use super::direct::{Writer, read_ahead};
use super::{Added, FileWriter, Listed, Objects, Reader, Store, Upload};
use crate::catalog::entry::Documents;
use crate::catalog::{Id, Label};
use crate::error::{Error, Kind, Result, plain_io};

pub(super) const PARTIAL: &str = ".partial-";

/// A store in a folder.
#[derive(Debug, Clone)]
pub struct LocalStore {
    root: PathBuf,
    /// Which `state_dir` the unfinished work of this program belongs to.
    owner: String,
}

impl LocalStore {
    pub fn new(root: PathBuf, owner: String) -> Self {
        LocalStore { root, owner }
    }

    fn backup_dir(&self, backup: &str) -> PathBuf {
        self.root.join(backup)
    }

    fn dir(&self, id: &Id) -> PathBuf {
        self.backup_dir(&id.backup).join(id.label.to_string())
    }

    fn partial(&self, what: &str) -> String {
        format!("{PARTIAL}{what}-{}", self.owner)
    }

    /// The name of a single file under way in a folder.
    fn partial_file(&self, dir: &Path, name: &str) -> PathBuf {
        dir.join(self.partial(&format!("{name}.{:08x}", std::process::id())))
    }

    /// The folder of a backup, made durable where it is new.
    fn make_backup_dir(&self, backup: &str) -> Result<PathBuf> {
        let dir = self.backup_dir(backup);
        make_dirs(&self.root, &dir)?;
        Ok(dir)
    }
}

/// Runs what may wait for the disk where it holds up nobody.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::new(Kind::Store, format!("a write was broken off: {error}"))),
    }
}

pub(super) fn failed(doing: &str, path: &Path, error: &io::Error) -> Error {
    let failure = Error::new(Kind::Store, format!("cannot {doing} {}: {}", path.display(), plain_io(error)));
    match error.raw_os_error() {
        Some(libc::ENOSPC) => {
            failure.hint("the disk is full: free space, or move the store to a larger one; nothing that was stored is lost")
        }
        Some(libc::EDQUOT) => failure.hint("the quota of this user is used up"),
        Some(libc::EROFS) => failure.hint(
            "the file system is read-only: mount it writable, and look into the kernel's log why it is not; under systemd the unit may lack the path: pgvigil check tells",
        ),
        Some(libc::EACCES | libc::EPERM) => failure.hint("let the user that pgvigil runs as own the folder: chown, mode 0700"),
        Some(libc::EFBIG) => failure.hint("a limit on file sizes is set (ulimit -f)"),
        Some(libc::EIO) => failure.hint("look into the kernel's log: the disk or the way to it may be failing; then run again"),
        Some(libc::EMFILE | libc::ENFILE) => failure.hint("raise the limit of open files (ulimit -n)"),
        Some(libc::EEXIST) => failure.hint("somebody else made it in this very moment; run again"),
        _ => failure.hint("look at the folder, its rights and its mount; then run again"),
    }
}

pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| failed("make durable", dir, &error))
}

pub(super) fn create_file(path: &Path) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(|error| failed("create", path, &error))
}

/// A rename that replaces nothing. File systems that cannot promise it still refuse to replace a
/// folder that is not empty, and ours never are.
pub(super) fn rename_new(from: &Path, to: &Path) -> nix::Result<()> {
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        Err(nix::Error::EINVAL | nix::Error::ENOSYS) if from.is_dir() => nix::fcntl::renameat(AT_FDCWD, from, AT_FDCWD, to),
        result => result,
    }
}

/// The names in a folder; none where there is no folder.
pub(super) fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", dir, &error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed("list", dir, &error))?;
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// The JSON documents of a folder.
fn documents_in(dir: &Path) -> Result<Documents> {
    let mut found = names(dir)?;
    found.retain(|name| Path::new(name).extension().is_some_and(|end| end == "json"));
    let mut documents = Vec::with_capacity(found.len());
    for name in found {
        let path = dir.join(&name);
        let bytes = open(&path).and_then(|mut file| {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut file, &mut bytes).map(|_| bytes)
        });
        match bytes {
            Ok(bytes) => documents.push((name, Bytes::from(bytes))),
            // Pruned in this moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("read", &path, &error)),
        }
    }
    Ok(documents)
}

/// Writes a file aside and puts it in its place, which must be free.
fn place(partial: &Path, target: &Path, bytes: &[u8]) -> Result<Added> {
    let file = create_file(partial)?;
    // Held while the file is under way: a sweep beside it leaves it alone.
    let _ = file.try_lock();
    place_by(file, partial, target, bytes)
}

fn place_by(mut file: File, partial: &Path, target: &Path, bytes: &[u8]) -> Result<Added> {
    let result = (|| {
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| failed("write", partial, &error))?;
        let added = match rename_new(partial, target) {
            Ok(()) => Added::Done,
            Err(nix::Error::EEXIST) => Added::AlreadyThere,
            Err(error) => return Err(failed("create", target, &error.into())),
        };
        // Whoever put it there may have died before this.
        target.parent().map_or(Ok(()), sync_dir)?;
        Ok(added)
    })();
    if !matches!(result, Ok(Added::Done)) {
        let _ = std::fs::remove_file(partial);
    }
    result
}

#[async_trait]
impl Objects for LocalStore {
    async fn put(&self, key: &str, bytes: Bytes) -> Result<Added> {
        let target = self.root.join(key);
        let (store, root) = (self.clone(), self.root.clone());
        blocking(move || {
            let Some((dir, name)) = target.parent().zip(target.file_name()) else {
                return Err(Error::new(Kind::Store, "an object without a name"));
            };
            make_dirs(&root, dir)?;
            // One name for all who write it: what a killed one left is found without a look at the folder.
            let partial = dir.join(store.partial(&name.to_string_lossy()));
            match claim(&partial)? {
                Some(file) => place_by(file, &partial, &target, &bytes),
                None => place(&store.partial_file(dir, &name.to_string_lossy()), &target, &bytes),
            }
        })
        .await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let path = self.root.join(key);
        blocking(move || {
            match open(&path).and_then(|mut file| {
                let mut bytes = Vec::new();
                io::Read::read_to_end(&mut file, &mut bytes).map(|_| bytes)
            }) {
                Ok(bytes) => Ok(Some(Bytes::from(bytes))),
                // A store whose disk is not mounted answers nothing.
                Err(error) if error.kind() == io::ErrorKind::NotFound && path.parent().is_some_and(Path::is_dir) => Ok(None),
                Err(error) => Err(failed("read", &path, &error)),
            }
        })
        .await
    }

    async fn list(&self, folder: &str) -> Result<Vec<Listed>> {
        let dir = self.root.join(folder);
        blocking(move || {
            let mut listed = Vec::new();
            for name in names(&dir)?.into_iter().filter(|name| !name.starts_with('.')) {
                let path = dir.join(&name);
                match std::fs::symlink_metadata(&path) {
                    Ok(meta) if meta.is_dir() => listed.push(Listed { name, bytes: None }),
                    Ok(meta) if meta.is_file() => listed.push(Listed { name, bytes: Some(meta.len()) }),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(failed("look at", &path, &error)),
                }
            }
            Ok(listed)
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let path = self.root.join(key);
        blocking(move || match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path, &error)),
            _ => Ok(()),
        })
        .await
    }
}

/// Makes a file under way whose name others may want as well, in the place of one that a dead writer left. `None`:
/// another is at it.
///
/// Who writes one holds its lock, and only who holds it removes one. Between making and locking it another may have
/// taken it for a dead one's: then the name leads elsewhere.
fn claim(partial: &Path) -> Result<Option<File>> {
    let is_there = |file: &File| {
        let same = |there: Metadata| file.metadata().is_ok_and(|ours| (ours.dev(), ours.ino()) == (there.dev(), there.ino()));
        std::fs::symlink_metadata(partial).is_ok_and(same)
    };
    if let Ok(left) = open(partial) {
        if left.try_lock().is_err() || !is_there(&left) {
            return Ok(None);
        }
        std::fs::remove_file(partial).map_err(|error| failed("remove", partial, &error))?;
    }
    let file = match create_file(partial) {
        Ok(file) => file,
        Err(_) if partial.exists() => return Ok(None),
        Err(error) => return Err(error),
    };
    // Where there are no locks nobody takes it for a dead one's.
    let is_taken = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
    Ok((!is_taken && is_there(&file)).then_some(file))
}

/// Makes the folders between the root of a store and a folder in it, each durable.
pub(super) fn make_dirs(root: &Path, dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|_| dir != root) {
        make_dirs(root, parent)?;
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("make", dir, &error)),
            _ => return sync_dir(parent),
        }
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| failed("make", dir, &error))
}

#[async_trait]
impl Store for LocalStore {
    async fn begin(&self, id: &Id) -> Result<Box<dyn Upload>> {
        let (store, id) = (self.clone(), id.clone());
        blocking(move || {
            let parent = store.make_backup_dir(&id.backup)?;
            let target = parent.join(id.label.to_string());
            let partial = parent.join(store.partial(&id.label.to_string()));
            DirBuilder::new().mode(0o700).create(&partial).map_err(|error| failed("make", &partial, &error))?;
            Ok(Box::new(LocalUpload { partial, target, parent, open: true }) as Box<dyn Upload>)
        })
        .await
    }

    async fn backups(&self) -> Result<Vec<String>> {
        let root = self.root.clone();
        blocking(move || {
            let mut found = names(&root)?;
            found.retain(|name| name.parse::<crate::config::values::Name>().is_ok() && root.join(name).is_dir());
            Ok(found)
        })
        .await
    }

    async fn labels(&self, backup: &str) -> Result<Vec<Label>> {
        let dir = self.backup_dir(backup);
        blocking(move || {
            let found = names(&dir)?;
            Ok(found.iter().filter_map(|name| name.parse().ok()).filter(|label: &Label| dir.join(label.to_string()).is_dir()).collect())
        })
        .await
    }

    async fn taken(&self, backup: &str) -> Result<Vec<Label>> {
        let dir = self.backup_dir(backup);
        blocking(move || {
            let label = |name: &String| name.strip_prefix(PARTIAL).unwrap_or(name).split('-').next()?.parse().ok();
            Ok(names(&dir)?.iter().filter_map(label).collect())
        })
        .await
    }

    async fn documents(&self, id: &Id) -> Result<Documents> {
        let dir = self.dir(id);
        blocking(move || documents_in(&dir)).await
    }

    async fn documents_of(&self, ids: Vec<Id>) -> Result<Vec<(Id, Documents)>> {
        // One change of threads for all of them: of a hundred thousand it would be most of the time.
        let store = self.clone();
        blocking(move || ids.into_iter().map(|id| documents_in(&store.dir(&id)).map(|documents| (id, documents))).collect()).await
    }

    async fn read(&self, id: &Id, name: &str) -> Result<Reader> {
        reader(self.dir(id).join(name)).await
    }

    async fn add_document(&self, id: &Id, name: &str, bytes: Bytes) -> Result<Added> {
        let target = self.dir(id).join(name);
        let partial = self.partial_file(&self.backup_dir(&id.backup), name);
        blocking(move || place(&partial, &target, &bytes)).await
    }

    async fn sweep(&self, backup: &str) -> Result<usize> {
        let dir = self.backup_dir(backup);
        let ours = format!("-{}", self.owner);
        let root = self.root.clone();
        blocking(move || {
            super::aside::remove_checks_of_dead(&root);
            let mut swept = 0;
            for name in names(&dir)? {
                if !(name.starts_with(PARTIAL) && name.ends_with(&ours)) {
                    continue;
                }
                let path = dir.join(&name);
                let meta = std::fs::symlink_metadata(&path);
                let removed = match meta {
                    Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(&path),
                    // Of `latest`; what it points to is not ours to touch.
                    Ok(meta) if meta.is_symlink() => std::fs::remove_file(&path),
                    Ok(meta) if meta.is_file() && open(&path).is_ok_and(|file| file.try_lock().is_ok()) => std::fs::remove_file(&path),
                    _ => continue,
                };
                removed.map_err(|error| failed("remove", &path, &error))?;
                swept += 1;
            }
            Ok(swept)
        })
        .await
    }

    async fn clear(&self, id: &Id) -> Result<()> {
        let dir = self.backup_dir(&id.backup);
        let of_label = format!("{PARTIAL}{}-", id.label);
        blocking(move || {
            for name in names(&dir)?.iter().filter(|name| name.starts_with(&of_label)) {
                let path = dir.join(name);
                std::fs::remove_dir_all(&path).map_err(|error| failed("remove", &path, &error))?;
            }
            Ok(())
        })
        .await
    }

    async fn remove(&self, id: &Id) -> Result<()> {
        let (dir, parent) = (self.dir(id), self.backup_dir(&id.backup));
        // Under the name of unfinished work it is no backup in one step, manifest and all, and is
        // swept should we die on the way.
        let partial = parent.join(self.partial(&id.label.to_string()));
        blocking(move || {
            rename_new(&dir, &partial).map_err(|error| failed("remove", &dir, &error.into()))?;
            sync_dir(&parent)?;
            std::fs::remove_dir_all(&partial).map_err(|error| failed("remove", &partial, &error))
        })
        .await
    }

    async fn point_latest(&self, backup: &str, label: Option<Label>) -> Result<()> {
        let dir = self.backup_dir(backup);
        let partial = dir.join(self.partial("latest"));
        let latest = dir.join("latest");
        blocking(move || {
            let now = std::fs::read_link(&latest).ok();
            let wanted = label.map(|label| PathBuf::from(label.to_string()));
            if now == wanted {
                return Ok(());
            }
            let Some(wanted) = wanted else {
                return std::fs::remove_file(&latest).map_err(|error| failed("remove", &latest, &error));
            };
            let _ = std::fs::remove_file(&partial);
            let linked = std::os::unix::fs::symlink(wanted, &partial).and_then(|()| std::fs::rename(&partial, &latest));
            linked.map_err(|error| {
                let _ = std::fs::remove_file(&partial);
                failed("link", &latest, &error)
            })
        })
        .await
    }

    fn folder(&self, id: &Id) -> Option<PathBuf> {
        Some(self.dir(id))
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path)
}

async fn reader(path: PathBuf) -> Result<Reader> {
    blocking(move || open(&path).map_err(|error| failed("read", &path, &error))).await.map(read_ahead)
}

struct LocalUpload {
    partial: PathBuf,
    target: PathBuf,
    parent: PathBuf,
    /// Neither committed nor discarded.
    open: bool,
}

#[async_trait]
impl Upload for LocalUpload {
    async fn create(&mut self, name: &str) -> Result<Box<dyn FileWriter>> {
        let (path, partial) = (self.partial.join(name), self.partial.clone());
        blocking(move || {
            // A file of a directory archive that comes from another store.
            path.parent().map_or(Ok(()), |dir| make_dirs(&partial, dir))?;
            let file = create_file(&path)?;
            Ok(Box::new(LocalFile::new(file, path)) as Box<dyn FileWriter>)
        })
        .await
    }

    async fn create_folder(&mut self, name: &str) -> Result<PathBuf> {
        let path = self.partial.join(name);
        blocking(move || {
            DirBuilder::new().mode(0o700).create(&path).map_err(|error| failed("make", &path, &error))?;
            Ok(path)
        })
        .await
    }

    async fn seal_folder(&mut self, folder: &Path) -> Result<()> {
        let folder = folder.to_owned();
        blocking(move || {
            for name in names(&folder)? {
                let path = folder.join(name);
                let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
                let sealed = open(&path).and_then(|file| {
                    file.set_permissions(private)?;
                    file.sync_all()
                });
                sealed.map_err(|error| failed("make durable", &path, &error))?;
            }
            sync_dir(&folder)
        })
        .await
    }

    async fn read(&mut self, name: &str) -> Result<Reader> {
        reader(self.partial.join(name)).await
    }

    async fn commit(mut self: Box<Self>, manifest: Bytes) -> Result<()> {
        blocking(move || {
            let path = self.partial.join(crate::catalog::manifest::MANIFEST);
            let mut file = create_file(&path)?;
            file.write_all(&manifest).and_then(|()| file.sync_all()).map_err(|error| failed("write", &path, &error))?;
            drop(file);
            for name in names(&self.partial)? {
                let path = self.partial.join(name);
                if path.is_dir() {
                    sync_dir(&path)?;
                }
            }
            sync_dir(&self.partial)?;
            rename_new(&self.partial, &self.target).map_err(|error| failed("name", &self.target, &error.into()))?;
            if let Err(error) = sync_dir(&self.parent) {
                // The name shows, but a power cut might take it back: not a success. Under its
                // former name it is swept.
                let _ = rename_new(&self.target, &self.partial);
                return Err(error);
            }
            self.open = false;
            Ok(())
        })
        .await
    }

    async fn discard(mut self: Box<Self>) {
        let _ = blocking(move || {
            self.remove();
            Ok(())
        })
        .await;
    }
}

impl LocalUpload {
    fn remove(&mut self) {
        if std::mem::take(&mut self.open)
            && let Err(error) = std::fs::remove_dir_all(&self.partial)
        {
            tracing::warn!(path = %self.partial.display(), error = %plain_io(&error), "cannot remove what a failed run wrote; the next run will");
        }
    }
}

impl Drop for LocalUpload {
    fn drop(&mut self) {
        self.remove();
    }
}

pub(super) struct LocalFile {
    /// `None` after a failure: what was written cannot be trusted any more.
    file: Option<Writer>,
    path: PathBuf,
}

impl LocalFile {
    pub(super) fn new(file: File, path: PathBuf) -> Self {
        LocalFile { file: Some(Writer::new(file)), path }
    }

    fn take(&mut self) -> Result<Writer> {
        self.file.take().ok_or_else(|| Error::new(Kind::Store, format!("{} failed before", self.path.display())))
    }
}

#[async_trait]
impl FileWriter for LocalFile {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let (mut file, path) = (self.take()?, self.path.clone());
        let written = blocking(move || file.write(&bytes).map(|()| file).map_err(|error| failed("write", &path, &error)));
        self.file = Some(written.await?);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        let (mut file, path) = (self.take()?, self.path.clone());
        blocking(move || {
            file.write_rest().map_err(|error| failed("write", &path, &error))?;
            file.sync().map_err(|error| failed("make durable", &path, &error))
        })
        .await
    }
}
