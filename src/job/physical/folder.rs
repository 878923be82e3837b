//! A folder in which files of the log lie until every store has them: the one that `archive_command` fills for
//! servers whose machine or image has no pgvigil (`wal_folder`), or the one that `pg_receivewal` fills.

use std::borrow::Cow;
use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use nix::libc;
use nix::unistd::AccessFlags;
use serde::{Deserialize, Serialize};

use crate::config::Plan;
use crate::config::file::Wal;
use crate::config::plan::Backup;
use crate::error::{Error, Result};
use crate::host::disk;
use crate::job::physical::archive::Owner;
use crate::job::physical::push::owner_of;
use crate::physical::inbox::{self, Lying, Sorted, Stays, Whole};
use crate::wal::WalName;

/// The largest segment there is.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Bytes that say whose log a file is.
const HEAD_BYTES: usize = 64;

/// Where the log of a backup lies before it is in the stores, and what stays there. `None`: the server itself pushes
/// it, or nothing is archived.
pub fn of<'a>(plan: &Plan, backup: &'a Backup) -> Option<(Cow<'a, Path>, Stays)> {
    let physical = backup.physical.as_ref()?;
    match (&physical.wal_folder, physical.wal?) {
        (Some(folder), _) => Some((Cow::Borrowed(folder), Stays::Nothing)),
        (None, Wal::Stream) => Some((Cow::Owned(plan.spool_dir.join("wal").join(backup.name.as_str())), Stays::ForReceiver)),
        (None, Wal::ArchiveCommand) => None,
    }
}

/// All folders in which log of a backup lies before it is in the stores, in the order in which it is brought.
pub fn all(plan: &Plan, backup: &Backup) -> Vec<(PathBuf, Stays)> {
    let Some((folder, stays)) = of(plan, backup) else { return Vec::new() };
    let left = (stays == Stays::ForReceiver).then(|| (left(&folder), Stays::Left));
    left.into_iter().chain([(folder.into_owned(), stays)]).collect()
}

/// Where what was received waits when receiving begins anew. No backup can have a dot in its name.
pub fn left(folder: &Path) -> PathBuf {
    folder.with_extension("left")
}

/// Whether it can be worked with.
///
/// # Errors
/// It is not there, or what is in it cannot be removed.
pub fn check(folder: &Path) -> Result<()> {
    let unusable = |error: &std::io::Error| {
        Error::system(format_args!("cannot use the folder of the log {}", folder.display()), error)
            .hint("make the folder, mount it into the server's container too, and let the user of pgvigil write in it; docs/pitr.md")
    };
    std::fs::read_dir(folder).map_err(|error| unusable(&error))?;
    let all = AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK;
    nix::unistd::eaccess(folder, all).map_err(|error| unusable(&error.into()))
}

/// What is wrong with what lies there, by a look. `owner` is the cluster of the archive, as far as it is known.
pub fn problems(folder: &Path, stays: Stays, owner: Option<&Owner>, now: DateTime<Utc>) -> Vec<String> {
    let sorted = match look(folder, stays) {
        Ok(sorted) => stays.without_kept(sorted),
        Err(error) => return vec![error.message],
    };
    let why = |whole: &Whole| match first_page(&folder.join(&whole.name), whole.parsed) {
        Err(why) => Some(why),
        Ok(Some(its)) if owner.is_some_and(|owner| *owner != its) => Some(format!("it is of cluster {}", its.system_identifier)),
        Ok(_) => None,
    };
    let wrong = sorted.whole.iter().filter(|whole| whole.is_settled(now)).filter_map(|whole| Some((whole.name.clone(), why(whole)?)));
    let full = disk::usage(folder).map_or(0, |usage| usage.percent());
    inbox::problems(&folder.display().to_string(), &sorted, &wrong.collect::<Vec<_>>(), full, now)
}

/// What lies there, in the order of the log. One that pg_receivewal has yet to make is empty.
///
/// # Errors
/// It cannot be worked with.
pub fn look(folder: &Path, stays: Stays) -> Result<Sorted> {
    if stays != Stays::Nothing && !folder.exists() {
        return Ok(Sorted::default());
    }
    check(folder)?;
    let failed = |error: &std::io::Error| Error::system(format_args!("cannot read {}", folder.display()), error);
    let mut lying = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| failed(&error))? {
        let entry = entry.map_err(|error| failed(&error))?;
        // What has just gone is of no interest.
        let Ok(meta) = entry.metadata() else { continue };
        let modified = meta.modified().map_err(|error| failed(&error))?.into();
        lying.push(Lying { name: entry.file_name().to_string_lossy().into_owned(), is_file: meta.is_file(), modified });
    }
    Ok(inbox::sort(lying, stays))
}

/// The newest file of the log that lies in a folder, and whose it is. `None`: nothing has been received into any.
///
/// # Errors
/// The folder cannot be read.
pub fn newest(folder: &Path) -> Result<Option<(Owner, WalName)>> {
    let failed = |error: &std::io::Error| Error::system(format_args!("cannot read {}", folder.display()), error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| failed(&error))? {
        names.push(entry.map_err(|error| failed(&error))?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names.iter().rev().find_map(|name| {
        let parsed = WalName::parse(name)?;
        Some((first_page(&folder.join(name), parsed).ok()??, parsed))
    }))
}

/// Whoever fills the folder must not lead us elsewhere.
fn open(path: &Path) -> std::io::Result<(File, Metadata)> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let meta = file.metadata()?;
    Ok((file, meta))
}

/// Why a file of the log cannot be taken.
pub fn unreadable(error: &std::io::Error) -> String {
    format!("it cannot be read: {}", crate::error::plain_io(error))
}

/// Whose log it is, by its beginning.
fn first_page(path: &Path, parsed: WalName) -> Result<Option<Owner>, String> {
    let (file, meta) = open(path).map_err(|error| unreadable(&error))?;
    let mut head = Vec::new();
    file.take(HEAD_BYTES as u64).read_to_end(&mut head).map_err(|error| unreadable(&error))?;
    owner_of(parsed, &head, meta.len())
}

/// The folder of a file that a server names, by a path of its own.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file as it was read: another may come to its place under the same name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    pub name: String,
    /// Device, inode, length, and when it was written (s, ns).
    is: (u64, u64, u64, i64, i64),
}

impl Version {
    fn new(path: &Path, meta: &Metadata) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Version { name, is: (meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()) }
    }

    /// When it was last written, by the clock of the machine that it lies on.
    pub fn written_at(&self) -> Option<DateTime<Utc>> {
        let (.., secs, nanos) = self.is;
        DateTime::from_timestamp(secs, u32::try_from(nanos).ok()?)
    }

    /// The one that lies there now.
    ///
    /// # Errors
    /// It cannot be looked at, or has gone.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        Ok(Version::new(path, &std::fs::symlink_metadata(path)?))
    }
}

/// Its bytes, and which version they are of.
///
/// # Errors
/// It cannot be read, or is longer than any segment.
pub fn read(path: &Path) -> std::io::Result<(Bytes, Version)> {
    let (file, meta) = open(path)?;
    if meta.len() > FILE_BYTES_MAX {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, format!("it has {} bytes", meta.len())));
    }
    let mut raw = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
    file.take(FILE_BYTES_MAX).read_to_end(&mut raw)?;
    Ok((Bytes::from(raw), Version::new(path, &meta)))
}

/// Removes what was read. What has come to its place since is for the next look.
///
/// # Errors
/// It cannot be removed.
pub fn remove(folder: &Path, version: &Version) -> Result<()> {
    let path = folder.join(&version.name);
    let removed = match Version::of(&path) {
        Ok(there) if there == *version => std::fs::remove_file(&path),
        Ok(_) => return Ok(()),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::system(format_args!("cannot remove {}", path.display()), &error))
        }
        _ => Ok(()),
    }
}
