//! `wal_folder`: what a server's `archive_command` has laid into a folder, taken into every store.
//!
//! For servers whose machine or image has no pgvigil. What is durable in every store is removed; until
//! then it stays where it is, so nothing is lost however this ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use nix::libc;
use nix::unistd::AccessFlags;
use tokio_util::sync::CancellationToken;

use crate::config::Plan;
use crate::config::plan::Backup;
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::host::clock;
use crate::job::physical::archive::Owner;
use crate::job::physical::push::{Sealed, owner_of};
use crate::job::stores;
use crate::physical::inbox::{self, Lying, Sorted, Whole};
use crate::store::Store;

/// How often the folder is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The longest wait after a failure; the first is as long as between two looks, each further one twice as long.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// The largest segment there is.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Bytes that say whose log a file is.
const HEAD_BYTES: usize = 64;

/// Whether it can be worked with.
///
/// # Errors
/// It is not there, or what is in it cannot be removed.
pub fn check(folder: &Path) -> Result<()> {
    let unusable = |error: &std::io::Error| {
        Error::system(format_args!("cannot use wal_folder {}", folder.display()), error)
            .hint("make the folder, mount it into the server's container too, and let the user of pgvigil write in it; docs/pitr.md")
    };
    std::fs::read_dir(folder).map_err(|error| unusable(&error))?;
    let all = AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK;
    nix::unistd::eaccess(folder, all).map_err(|error| unusable(&error.into()))
}

/// What is wrong with what lies there, by a look. `owner` is the cluster of the archive, as far as it is known.
pub fn problems(folder: &Path, owner: Option<&Owner>, now: DateTime<Utc>) -> Vec<String> {
    let sorted = match check(folder).and_then(|()| look(folder)) {
        Ok(sorted) => sorted,
        Err(error) => return vec![error.message],
    };
    let why = |whole: &Whole| match first_page(folder, whole) {
        Err(why) => Some(why),
        Ok(Some(its)) if owner.is_some_and(|owner| *owner != its) => Some(format!("it is of cluster {}", its.system_identifier)),
        Ok(_) => None,
    };
    let wrong = sorted.whole.iter().filter(|whole| whole.is_settled(now)).filter_map(|whole| Some((whole.name.clone(), why(whole)?)));
    inbox::problems(&folder.display().to_string(), &sorted, &wrong.collect::<Vec<_>>(), now)
}

fn look(folder: &Path) -> Result<Sorted> {
    let failed = |error: &std::io::Error| Error::system(format_args!("cannot read {}", folder.display()), error);
    let mut lying = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| failed(&error))? {
        let entry = entry.map_err(|error| failed(&error))?;
        // What has just gone is of no interest.
        let Ok(meta) = entry.metadata() else { continue };
        let modified = meta.modified().map_err(|error| failed(&error))?.into();
        lying.push(Lying { name: entry.file_name().to_string_lossy().into_owned(), is_file: meta.is_file(), modified });
    }
    Ok(inbox::sort(lying))
}

/// Whoever fills the folder must not lead us elsewhere.
fn open(folder: &Path, whole: &Whole) -> std::io::Result<(File, u64)> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(folder.join(&whole.name))?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

fn unreadable(error: &std::io::Error) -> String {
    format!("it cannot be read: {}", crate::error::plain_io(error))
}

/// Whose log it is, by its beginning.
fn first_page(folder: &Path, whole: &Whole) -> Result<Option<Owner>, String> {
    let (file, bytes) = open(folder, whole).map_err(|error| unreadable(&error))?;
    let mut head = Vec::new();
    file.take(HEAD_BYTES as u64).read_to_end(&mut head).map_err(|error| unreadable(&error))?;
    owner_of(whole.parsed, &head, bytes)
}

/// With what says later whether it is still the same file.
fn read(folder: &Path, whole: &Whole) -> Result<(Bytes, Metadata), String> {
    let (file, bytes) = open(folder, whole).map_err(|error| unreadable(&error))?;
    if bytes > FILE_BYTES_MAX {
        return Err(format!("it has {bytes} bytes"));
    }
    let mut raw = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
    let meta = file.metadata().map_err(|error| unreadable(&error))?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut raw).map_err(|error| unreadable(&error))?;
    Ok((Bytes::from(raw), meta))
}

/// Removes what was read. What has come to its place since is for the next look.
fn remove(path: &Path, read: &Metadata) -> Result<()> {
    let failed = |error: &std::io::Error| Error::system(format_args!("cannot remove {}", path.display()), error);
    let is = |meta: &Metadata| (meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec());
    let there = std::fs::symlink_metadata(path).map_err(|error| failed(&error))?;
    if is(&there) == is(read) { std::fs::remove_file(path).map_err(|error| failed(&error)) } else { Ok(()) }
}

/// Takes in what comes until it is told to end. Whatever fails is told and tried again.
pub async fn follow(plan: &Plan, backup: &Backup, folder: &Path, owner: &str, cancel: &CancellationToken) {
    let mut taking = Taking { plan, backup, folder, owner, stored: BTreeMap::new() };
    let (mut wait, mut told) = (LOOK_EVERY, BTreeSet::new());
    while !cancel.is_cancelled() {
        let Pass { wrong, away } = taking.pass(cancel).await;
        wait = if away.is_some() { (wait * 2).min(BACKOFF_MAX) } else { LOOK_EVERY };
        let now_told: BTreeSet<String> = wrong.into_iter().chain(away).collect();
        for problem in now_told.difference(&told) {
            tracing::warn!(backup = %backup.name, problem, "log waits in {}", folder.display());
        }
        told = now_told;
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = cancel.cancelled() => return,
        }
    }
}

struct Taking<'a> {
    plan: &'a Plan,
    backup: &'a Backup,
    folder: &'a Path,
    owner: &'a str,
    /// Which stores have what still lies here, by its name and the hash of its bytes: another may come under its name.
    stored: BTreeMap<(String, String), BTreeSet<Name>>,
}

/// What came of a look.
struct Pass {
    /// Of the folder and of single files, for which nothing else has to wait.
    wrong: Vec<String>,
    /// A store is away.
    away: Option<String>,
}

impl Taking<'_> {
    async fn pass(&mut self, cancel: &CancellationToken) -> Pass {
        let sorted = match check(self.folder).and_then(|()| look(self.folder)) {
            Ok(sorted) => sorted,
            Err(error) => return Pass { wrong: vec![error.message], away: None },
        };
        self.stored.retain(|(name, _), _| sorted.whole.iter().any(|whole| whole.name == *name));
        let foreign = inbox::foreign(&self.folder.display().to_string(), &sorted);
        let mut pass = Pass { wrong: foreign.into_iter().collect(), away: None };
        let mut stores = Vec::new();
        for name in &self.backup.stores {
            match stores::open(&self.plan.stores[name], self.owner) {
                Ok(store) => stores.push((name.clone(), store)),
                Err(error) => pass.away = Some(error.context(format_args!("store {name}")).message),
            }
        }
        for whole in &sorted.whole {
            if cancel.is_cancelled() || stores.is_empty() {
                break;
            }
            if let Err(error) = self.take(whole, &mut stores, &mut pass.away).await
                && whole.is_settled(clock::now())
            {
                pass.wrong.push(format!("{}: {}", whole.name, error.message));
            }
        }
        pass
    }

    /// Takes one file in, into the stores that are not away; one that fails now is away for the rest of this pass, so
    /// that it gets the log in its order. An error is the file's own.
    async fn take(&mut self, whole: &Whole, stores: &mut Vec<(Name, Arc<dyn Store>)>, away: &mut Option<String>) -> Result<()> {
        let (raw, read) = read(self.folder, whole).map_err(|why| Error::new(Kind::System, why))?;
        let sealed = Sealed::new(&whole.name, whole.parsed, &raw, &self.backup.encrypt_to)?;
        let key = (whole.name.clone(), sealed.sha256().to_owned());
        let stored = self.stored.entry(key.clone()).or_default();
        let mut refused = None;
        let mut answering = Vec::new();
        for (name, store) in stores.drain(..) {
            if !stored.contains(&name) {
                match sealed.put(&*store, self.backup.name.as_str()).await {
                    Ok(()) => {
                        stored.insert(name.clone());
                    }
                    Err(error) if matches!(error.kind, Kind::Refused | Kind::Damaged) => {
                        refused = Some(error.context(format_args!("store {name}")));
                    }
                    Err(error) => {
                        *away = Some(error.context(format_args!("store {name}")).message);
                        continue;
                    }
                }
            }
            answering.push((name, store));
        }
        *stores = answering;
        if self.backup.stores.iter().all(|store| stored.contains(store)) {
            self.stored.remove(&key);
            remove(&self.folder.join(&whole.name), &read)?;
        }
        refused.map_or(Ok(()), Err)
    }
}
