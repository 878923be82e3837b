//! `wal push`: a file of the log into every store of a backup, durable before the server may forget it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt};

use crate::config::Plan;
use crate::config::plan::Backup;
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::host::clock;
use crate::job::physical::archive::{self, Claimed, Owner};
use crate::job::physical::batch::{self, Notes, Patience};
use crate::job::physical::folder::{self, Version};
use crate::job::physical::sight::COMMITS_TAKE;
use crate::job::stores;
use crate::keys::Recipient;
use crate::pack::codec::Codec;
use crate::store::{Added, Objects, Store};
use crate::wal::name::key;
use crate::wal::object::{self, Header};
use crate::wal::page::FirstPage;
use crate::wal::{Segment, WalName};

/// Packing must keep up with a server that writes at full speed, with one process a segment.
const CODEC: Codec = Codec::Zstd(1);

/// What a push is written by, in names of unfinished files: it knows no `state_dir`.
pub const PUSHER: &str = "walpush";

/// How many files are packed at a time, while others are on their way.
const PACKED_AHEAD: usize = 2;

/// A store, open for more than one file.
struct Target<'a> {
    name: &'a Name,
    store: Arc<dyn Store>,
    claimed: Claimed,
}

/// Puts a file of the log into every store of the backup, and then what waits behind it. The same file again is a
/// success if its bytes are the same.
///
/// # Errors
/// It cannot be read, is not what its name says, or a store did not take it, or has another one of that
/// name. What waits behind it is no concern of this: it is asked for by itself.
pub async fn push(plan: &Plan, backup: &Backup, path: &Path) -> Result<()> {
    named(path)?;
    let notes = Notes::beside(path, plan, backup);
    let version = Version::of(path).map_err(|error| unreadable(path, &error))?;
    if notes.take(&version) {
        return Ok(());
    }
    let (mut targets, mut failed) = (Vec::new(), None);
    for name in &backup.stores {
        match stores::open(&plan.stores[name], PUSHER) {
            Ok(store) => targets.push(Target { name, store, claimed: Claimed::default() }),
            Err(error) => failed = Some(error.context(format_args!("store {name}"))),
        }
    }
    let recipients: Arc<[Recipient]> = backup.encrypt_to.clone().into();
    let began = Instant::now();
    let (asked, _) = packed(path.to_owned(), Arc::clone(&recipients)).await?;
    failed = put(&asked, &mut targets, backup).await.err().or(failed);
    drop(asked);
    if let Some(failed) = failed {
        return Err(failed);
    }
    let behind = batch::behind(path);
    if !behind.is_empty() {
        let patience = Patience::new(began, began.elapsed());
        let packing = behind.into_iter().map(|path| packed(path, Arc::clone(&recipients)));
        let packing = futures_util::stream::iter(packing).buffered(PACKED_AHEAD);
        // A store that hangs must not keep the server waiting.
        let _ = tokio::time::timeout(batch::WITHIN, take_along(packing, &mut targets, backup, &notes, patience)).await;
    }
    Ok(())
}

/// Puts what waits behind into every store, in the order of the log, and no further than the first that fails: what is
/// wrong is told when it is asked for.
async fn take_along(
    mut packing: impl Stream<Item = Result<(Sealed, Version)>> + Unpin,
    targets: &mut [Target<'_>],
    backup: &Backup,
    notes: &Notes,
    mut patience: Patience,
) {
    if let Err(error) = notes.renew() {
        tracing::warn!(%error, "what waits behind is not pushed along: no notes can be left beside the log");
        return;
    }
    while patience.is_enough(Instant::now())
        && let Some(Ok((sealed, version))) = packing.next().await
    {
        let began = Instant::now();
        if put(&sealed, targets, backup).await.is_err() || notes.leave(&version).is_err() {
            return;
        }
        patience.took(began.elapsed());
    }
}

async fn packed(path: PathBuf, recipients: Arc<[Recipient]>) -> Result<(Sealed, Version)> {
    let packing = tokio::task::spawn_blocking(move || Sealed::read(&path, &recipients)).await;
    packing.map_err(|error| Error::new(Kind::System, format!("a packer failed: {error}")))?
}

/// Into every store at a time: one that is away must not keep the others from it.
async fn put(sealed: &Sealed, targets: &mut [Target<'_>], backup: &Backup) -> Result<()> {
    let puts = targets.iter_mut().map(|target| async {
        let put = sealed.put(&*target.store, backup.name.as_str(), &mut target.claimed).await;
        put.map_err(|error| error.context(format_args!("store {}", target.name)))
    });
    futures_util::future::join_all(puts).await.into_iter().collect()
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::system(format_args!("cannot read {}", path.display()), error)
}

fn named(path: &Path) -> Result<(String, WalName)> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match WalName::parse(name) {
        Some(parsed) => Ok((name.to_owned(), parsed)),
        None => Err(Error::new(Kind::Usage, format!("{:?} is no file of the log", path.display().to_string()))
            .hint("archive_command = 'pgvigil wal push %p'")),
    }
}

/// Whose log a file of so many bytes is, by its beginning. A label and a history do not say.
///
/// # Errors
/// In what it is not what its name says.
pub fn owner_of(parsed: WalName, head: &[u8], bytes: u64) -> Result<Option<Owner>, String> {
    match parsed {
        WalName::Segment(numbers) | WalName::Partial(numbers) => {
            let page = FirstPage::parse(head)?;
            let segment: Option<Segment> = numbers.segment(page.segment_bytes);
            let segment = segment.ok_or_else(|| format!("there is none with segments of {} bytes", page.segment_bytes))?;
            page.check(segment, usize::try_from(bytes).unwrap_or(usize::MAX))?;
            Ok(Some(Owner { system_identifier: page.system_identifier.to_string(), segment_bytes: page.segment_bytes }))
        }
        WalName::Label(_) | WalName::History(_) if bytes == 0 => Err("it is empty".to_owned()),
        WalName::Label(_) | WalName::History(_) => Ok(None),
    }
}

/// A file of the log, ready for a store.
pub struct Sealed {
    name: String,
    parsed: WalName,
    header: Header,
    owner: Option<Owner>,
    packed: Bytes,
}

impl Sealed {
    /// Of a file of the server's own, with the version of it that was read.
    ///
    /// # Errors
    /// It cannot be read, or as for [`Sealed::new`].
    pub fn read(path: &Path, recipients: &[Recipient]) -> Result<(Self, Version)> {
        let (_, parsed) = named(path)?;
        let (raw, version) = folder::read(path).map_err(|error| unreadable(path, &error))?;
        // A standby has what it has received, whenever that was committed.
        let is_standby = folder::parent(path).with_file_name("standby.signal").exists();
        let written_at = version.written_at().filter(|_| !is_standby).map(|at| at - COMMITS_TAKE);
        Ok((Self::new(&version.name, parsed, &raw, written_at, recipients)?, version))
    }

    /// Checks that it is what its name says, packs it, and encrypts it where it is log. `written_at`: until when it tells
    /// all, as far as that is known.
    ///
    /// # Errors
    /// It is not, or a recipient takes no key.
    pub fn new(name: &str, parsed: WalName, raw: &Bytes, written_at: Option<DateTime<Utc>>, recipients: &[Recipient]) -> Result<Self> {
        let wrong = |why: String| {
            Error::new(Kind::Damaged, format!("{name} is not what its name says: {why}"))
                .hint("it was not archived; look into the kernel's log of the server's disk")
        };
        let owner = owner_of(parsed, raw, raw.len() as u64).map_err(wrong)?;
        let system_identifier = owner.as_ref().and_then(|owner| owner.system_identifier.parse().ok());
        let header = Header::of(name, raw, clock::now(), written_at, system_identifier);
        // Where timelines fork is no secret, and must be seen before anybody asks for a key.
        let recipients = if parsed.is_log() { recipients } else { &[] };
        let packed = object::seal(&header, raw, CODEC, recipients)?;
        Ok(Sealed { name: name.to_owned(), parsed, header, owner, packed })
    }

    /// Of its bytes, in hex.
    pub fn sha256(&self) -> &str {
        &self.header.sha256
    }

    /// Puts it into a store, durably.
    ///
    /// # Errors
    /// The store does not take it, is of another cluster, or has another file of that name.
    pub async fn put(&self, store: &dyn Objects, backup: &str, claimed: &mut Claimed) -> Result<()> {
        if let Some(owner) = &self.owner {
            claimed.by(owner, store, backup).await?;
        }
        let key = key(backup, &self.name, self.parsed);
        if store.put(&key, self.packed.clone()).await? == Added::Done {
            return Ok(());
        }
        // Whoever archives may have no key: the hash of what was packed stands in front.
        let there = match archive::stored(store, backup, &self.name, self.parsed).await? {
            Some(packed) => Some(object::check(&self.name, &packed).map_err(|why| archive::damaged(backup, &self.name, &why))?),
            None => None,
        };
        match there {
            Some(there) if there.sha256 == self.header.sha256 && there.bytes == self.header.bytes => Ok(()),
            Some(there) => Err(Error::new(
                Kind::Refused,
                format!("{} is in the archive already, with other bytes (packed {})", self.name, there.at.format("%Y-%m-%d %H:%M:%S UTC")),
            )
            .hint("do two servers write into one archive? the one that is in there stays: give each cluster a [backups.NAME] section of its own")),
            None => Err(Error::new(Kind::Store, format!("{} was in the archive, and is gone", self.name)).hint("the server tries again")),
        }
    }
}
