//! The archive of a cluster's log in a store, looked at.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::keys::Identities;
use crate::store::{Added, Objects};
use crate::wal::name::{FOLDER, SEGMENT_BYTES, SUFFIX, key, timeline_folder};
use crate::wal::object::{self, Header};
use crate::wal::{Archive, History, WalName};

/// Whose log it is. Written with the first segment and never changed: log of another cluster is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub system_identifier: String,
    pub segment_bytes: u64,
}

/// Its name in the folder of the log.
const OWNER: &str = "cluster.json";

impl Owner {
    fn key(backup: &str) -> String {
        format!("{backup}/{FOLDER}/{OWNER}")
    }

    /// Whose log an archive is. `None`: nothing is in it yet.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn read(store: &dyn Objects, backup: &str) -> Result<Option<Self>> {
        // A folder that is not there yet answers nothing by itself.
        if !store.list(&format!("{backup}/{FOLDER}")).await?.iter().any(|listed| listed.name == OWNER) {
            return Ok(None);
        }
        let Some(bytes) = store.get(&Self::key(backup)).await? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Error::new(Kind::Damaged, format!("{} cannot be read: {error}", Self::key(backup))).hint("is the disk of the store sound?")
        })
    }

    /// Makes an archive this cluster's, or makes sure that it is.
    ///
    /// # Errors
    /// It is another's, or the store does not answer.
    pub async fn claim(&self, store: &dyn Objects, backup: &str) -> Result<()> {
        let there = if let Some(there) = Self::read(store, backup).await? {
            there
        } else {
            let bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
            match store.put(&Self::key(backup), Bytes::from(bytes)).await? {
                Added::Done => return Ok(()),
                // Another came at the same time.
                Added::AlreadyThere => Self::read(store, backup).await?.unwrap_or_else(|| self.clone()),
            }
        };
        if there == *self {
            return Ok(());
        }
        let (ours, its) = (&self.system_identifier, &there.system_identifier);
        Err(Error::new(Kind::Refused, format!("the archive of {backup} is of cluster {its}, and this is cluster {ours}")).hint(
            "a cluster that initdb or pg_upgrade has made is another one: give it a [backups.NAME] section of its own, so that no log is mixed",
        ))
    }
}

/// Whose an archive is, once one has asked: nobody becomes another cluster between two files.
#[derive(Default)]
pub struct Claimed(Option<Owner>);

impl Claimed {
    /// # Errors
    /// It is another's, or the store does not answer.
    pub async fn by(&mut self, owner: &Owner, store: &dyn Objects, backup: &str) -> Result<()> {
        if self.0.as_ref() != Some(owner) {
            owner.claim(store, backup).await?;
            self.0 = Some(owner.clone());
        }
        Ok(())
    }
}

/// Looks what is in an archive.
///
/// # Errors
/// The store cannot be read, or a history file in it.
pub async fn look(store: &dyn Objects, backup: &str) -> Result<Archive> {
    let segment_bytes = Owner::read(store, backup).await?.map_or(SEGMENT_BYTES, |owner| owner.segment_bytes);
    let mut archive = Archive { segment_bytes, ..Archive::default() };
    for folder in store.list(&format!("{backup}/{FOLDER}")).await? {
        let Some(timeline) = folder.bytes.is_none().then(|| u32::from_str_radix(&folder.name, 16).ok()).flatten() else { continue };
        let mut numbers = BTreeSet::new();
        for file in store.list(&timeline_folder(backup, timeline)).await? {
            let Some(name) = file.name.strip_suffix(SUFFIX) else { continue };
            match WalName::parse(name) {
                Some(WalName::Segment(segment)) if segment.timeline == timeline => {
                    numbers.extend(segment.segment(segment_bytes).map(|segment| segment.number));
                }
                Some(WalName::Partial(part)) if part.timeline() == timeline => archive.open.extend(part.segment(segment_bytes)),
                Some(WalName::History(of)) if of == timeline => {
                    archive.histories.insert(timeline, history(store, backup, name, timeline).await?);
                }
                _ => {}
            }
        }
        archive.segments.insert(timeline, numbers);
    }
    Ok(archive)
}

async fn history(store: &dyn Objects, backup: &str, name: &str, timeline: u32) -> Result<History> {
    let damaged = |why: String| Error::new(Kind::Damaged, format!("{name} in the archive of {backup}: {why}"));
    // It is never encrypted: without it nobody could tell which way the log goes.
    let (_, raw) = read(store, backup, name, WalName::History(timeline), &Identities::default())
        .await?
        .ok_or_else(|| damaged("it has just gone".to_owned()))?;
    History::parse(&String::from_utf8_lossy(&raw), timeline).map_err(damaged)
}

/// A file of the log, opened and checked. `None`: the archive answered that it has none.
///
/// # Errors
/// The store cannot be read, the file is damaged (`Damaged`), or none of the keys opens it (`Secret`).
pub async fn read(store: &dyn Objects, backup: &str, name: &str, parsed: WalName, keys: &Identities) -> Result<Option<(Header, Vec<u8>)>> {
    let Some(packed) = stored(store, backup, name, parsed).await? else { return Ok(None) };
    open(packed, backup, name, keys).await.map(Some)
}

/// Opens a file of the log, and checks it.
///
/// # Errors
/// It is damaged (`Damaged`), or none of the keys opens it (`Secret`).
pub async fn open(packed: Bytes, backup: &str, name: &str, keys: &Identities) -> Result<(Header, Vec<u8>)> {
    opened(packed, backup, name, keys, object::open).await
}

/// The same, block by block. What was taken before an error is worth nothing.
///
/// # Errors
/// As [`open`], and what `take` fails with.
pub async fn unpack(
    packed: Bytes,
    backup: &str,
    name: &str,
    keys: &Identities,
    mut take: impl FnMut(&[u8]) -> Result<()> + Send + 'static,
) -> Result<()> {
    opened(packed, backup, name, keys, move |name, packed, keys| object::unpack(name, packed, keys, &mut take)).await.map(|_| ())
}

async fn opened<T: Send + 'static>(
    packed: Bytes,
    backup: &str,
    name: &str,
    keys: &Identities,
    open: impl FnOnce(&str, &[u8], &Identities) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (named, keys) = (name.to_owned(), keys.clone());
    let opened = tokio::task::spawn_blocking(move || open(&named, &packed, &keys)).await;
    let opened = opened.map_err(|error| Error::new(Kind::System, format!("an unpacker failed: {error}")))?;
    opened.map_err(|error| match error.kind {
        Kind::Damaged => damaged(backup, name, &error.message),
        Kind::Secret => error
            .context(format_args!("{name} in the archive of {backup}"))
            .hint("give the private key of one of those that encrypt_to names: --identity FILE, or identity of the backup in the file"),
        _ => error,
    })
}

/// What stands in front of a file of the log, which nobody needs a key for.
///
/// # Errors
/// The store cannot be read, or the file is damaged.
pub async fn header(store: &dyn Objects, backup: &str, name: &str, parsed: WalName) -> Result<Option<Header>> {
    let Some(packed) = stored(store, backup, name, parsed).await? else { return Ok(None) };
    object::header(&packed).map(|(header, _)| Some(header)).map_err(|why| damaged(backup, name, &why))
}

/// What is told of a damaged file of the log.
pub fn damaged(backup: &str, name: &str, why: &str) -> Error {
    Error::new(Kind::Damaged, format!("{name} in the archive of {backup} is damaged: {why}"))
        .hint("another store may have a sound copy; look into the kernel's log of the one that keeps it")
}

/// A file of the log as it lies in a store. `None`: the archive answered that it has none.
///
/// # Errors
/// The store cannot be read.
pub async fn stored(store: &dyn Objects, backup: &str, name: &str, parsed: WalName) -> Result<Option<Bytes>> {
    get(store, &timeline_folder(backup, parsed.timeline()), &key(backup, name, parsed)).await
}

/// An object, where its folder is. Without the folder of its timeline there is none either, if the
/// archive itself is there.
async fn get(store: &dyn Objects, folder: &str, key: &str) -> Result<Option<Bytes>> {
    match store.get(key).await {
        Ok(found) => Ok(found),
        Err(error) => {
            let (parent, name) = folder.rsplit_once('/').unwrap_or(("", folder));
            let there = store.list(parent).await?;
            if !there.is_empty() && !there.iter().any(|listed| listed.name == name) { Ok(None) } else { Err(error) }
        }
    }
}
