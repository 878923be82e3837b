//! `wal push`: a file of the log into every store of a backup, durable before the server may forget it.

use std::path::Path;

use bytes::Bytes;

use crate::config::Plan;
use crate::config::plan::Backup;
use crate::error::{Error, Kind, Result};
use crate::host::clock;
use crate::job::physical::archive::{self, Owner};
use crate::job::stores;
use crate::keys::{Identities, Recipient};
use crate::pack::codec::Codec;
use crate::store::{Added, Objects};
use crate::wal::name::key;
use crate::wal::object::{self, Header};
use crate::wal::page::FirstPage;
use crate::wal::{Segment, WalName};

/// Packing must keep up with a server that writes at full speed, with one process a segment.
const CODEC: Codec = Codec::Zstd(1);

/// What a push is written by, in names of unfinished files: it knows no `state_dir`.
pub const PUSHER: &str = "walpush";

/// Puts a file of the log into every store of the backup. The same file again is a success if its bytes
/// are the same.
///
/// # Errors
/// It cannot be read, is not what its name says, or a store did not take it, or has another one of that
/// name.
pub async fn push(plan: &Plan, backup: &Backup, path: &Path) -> Result<()> {
    let (name, parsed) = named(path)?;
    let raw = std::fs::read(path).map_err(|error| Error::system(format_args!("cannot read {}", path.display()), &error))?;
    let sealed = Sealed::new(&name, parsed, &Bytes::from(raw), &backup.encrypt_to)?;
    let mut failed = None;
    // One that is away must not keep the others from it.
    for store in &backup.stores {
        let put = async { sealed.put(&*stores::open(&plan.stores[store], PUSHER)?, backup.name.as_str()).await };
        if let Err(error) = put.await {
            failed = Some(error.context(format_args!("store {store}")));
        }
    }
    failed.map_or(Ok(()), Err)
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
    /// Checks that it is what its name says, packs it, and encrypts it where it is log.
    ///
    /// # Errors
    /// It is not, or a recipient takes no key.
    pub fn new(name: &str, parsed: WalName, raw: &Bytes, recipients: &[Recipient]) -> Result<Self> {
        let wrong = |why: String| {
            Error::new(Kind::Damaged, format!("{name} is not what its name says: {why}"))
                .hint("it was not archived; look into the kernel's log of the server's disk")
        };
        let owner = owner_of(parsed, raw, raw.len() as u64).map_err(wrong)?;
        let system_identifier = owner.as_ref().and_then(|owner| owner.system_identifier.parse().ok());
        let header = Header::of(name, raw, clock::now(), system_identifier);
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
    pub async fn put(&self, store: &dyn Objects, backup: &str) -> Result<()> {
        if let Some(owner) = &self.owner {
            owner.claim(store, backup).await?;
        }
        let key = key(backup, &self.name, self.parsed);
        if store.put(&key, self.packed.clone()).await? == Added::Done {
            return Ok(());
        }
        // Whoever archives may have no key: the hash of what was packed stands in front.
        let there = match archive::header(store, backup, &self.name, self.parsed).await? {
            Some(header) if header.encryption.is_none() => {
                archive::read(store, backup, &self.name, self.parsed, &Identities::default()).await?.map(|(header, _)| header)
            }
            header => header,
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
