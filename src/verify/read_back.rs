//! Every byte read back from the store: lengths, hashes, checksums of the codec, and the end of
//! every dump.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::stored::Stored;
use crate::catalog::{FileEntry, Role};
use crate::config::file::Format;
use crate::error::{Error, Kind, Result, plain_io};
use crate::pack::end::{EndWatch, Seen};
use crate::pack::packer::{Meter, hex};
use crate::pack::tar::{BACKUP_MANIFEST, Passed};
use crate::physical::whole::ServerManifest;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Bytes read, as stored.
    pub bytes: u64,
    /// Why the backup is bad; empty: it is sound.
    pub errors: Vec<String>,
    /// Tables that the dump of a database makes, where its format shows them.
    pub tables: BTreeMap<String, u64>,
    /// Why nobody could look into what is encrypted: its bytes were held against their hashes only.
    pub locked: Option<Error>,
}

/// Reads back every file of a backup, and what is in them as far as the keys go. The meter counts
/// bytes as stored in `packed` and unpacked ones in `raw`.
///
/// # Errors
/// The store does not answer, so that nothing can be said of the backup.
pub async fn read_back(stored: &Stored<'_>, meter: &Meter) -> Result<Findings> {
    let mut findings = Findings::default();
    let (main, what) = if stored.manifest.physical.is_some() { (Role::Base, "base backup") } else { (Role::Dump, "dump") };
    if !stored.manifest.files.iter().any(|file| file.role == main) {
        findings.errors.push(format!("the manifest names no {what}"));
    }
    let mut archives = Vec::new();
    for file in &stored.manifest.files {
        let (bytes, verdict) = match read_file(stored, file, meter).await {
            Ok(read) => read,
            Err(error) if is_missing(&error) => (0, Err("it is missing".to_owned())),
            Err(error) if error.kind == Kind::Secret => {
                findings.locked.get_or_insert(error);
                let (bytes, checked) = stored.check(file).await?;
                (bytes, checked.map(|()| None))
            }
            Err(error) if error.kind == Kind::Damaged => {
                findings.errors.push(error.message);
                continue;
            }
            Err(error) => return Err(error),
        };
        findings.bytes += bytes;
        match verdict {
            Ok(seen) => {
                let seen = seen.map(|mut seen| {
                    archives.extend(seen.tar.take().map(|passed| (tablespace_of(&file.name), *passed)));
                    seen
                });
                let tables = seen.and_then(|seen| seen.tables).filter(|_| file.role == Role::Dump);
                findings.tables.extend(file.database.clone().zip(tables));
            }
            Err(error) => findings.errors.push(format!("{}: {error}", file.name)),
        }
    }
    if stored.manifest.physical.is_some() && findings.errors.is_empty() && findings.locked.is_none() {
        findings.errors.extend(against_the_server(stored, &archives).await?);
    }
    Ok(findings)
}

fn is_missing(error: &Error) -> bool {
    error.message.ends_with("no such file or directory")
}

/// The tablespace that an archive is of; that of the data directory has a name instead of a number.
fn tablespace_of(name: &str) -> Option<u32> {
    name.split('.').next()?.parse().ok()
}

/// Whether what is in the archives of a base backup is what PostgreSQL sent, by its own manifest, whose
/// hash is right.
async fn against_the_server(stored: &Stored<'_>, archives: &[(Option<u32>, Passed)]) -> Result<Vec<String>> {
    let Some(file) = stored.manifest.files.iter().find(|file| file.role == Role::BackupManifest) else {
        return Ok(vec![format!("{BACKUP_MANIFEST} is missing")]);
    };
    let mut bytes = Vec::new();
    let (mut reader, _) = stored.open(file).await?;
    reader
        .read_to_end(&mut bytes)
        .await
        .map_err(|error| Error::new(Kind::Store, format!("cannot read {BACKUP_MANIFEST}: {}", plain_io(&error))))?;
    Ok(match ServerManifest::parse(&bytes) {
        Ok(manifest) => manifest.compare(archives),
        Err(wrong) => vec![wrong],
    })
}

/// Reads one file; returns how many bytes it has, and what was seen in it or is wrong with it.
async fn read_file(stored: &Stored<'_>, file: &FileEntry, meter: &Meter) -> Result<(u64, Result<Option<Seen>, String>)> {
    let mut unpacked = stored.unpacked(file).await?;
    let mut watch = match (file.role, stored.manifest.format) {
        (Role::Globals, _) | (Role::Dump, Format::Plain) => Some(EndWatch::plain(false)),
        (Role::Dump, Format::Custom) => Some(EndWatch::custom()),
        (Role::Base, _) => Some(EndWatch::tar()),
        (Role::Dump, Format::Directory) | (Role::Notes | Role::BackupManifest, _) => None,
    };
    let mut raw_bytes = 0u64;
    let before = (meter.raw_bytes(), meter.packed_bytes());
    while let Some(block) = unpacked.blocks.recv().await {
        raw_bytes += block.len() as u64;
        if let Some(watch) = &mut watch {
            watch.feed(&block);
        }
        let bytes = unpacked.hashed.bytes();
        meter.raw.store(before.0 + raw_bytes, Ordering::Relaxed);
        meter.packed.store(before.1 + bytes, Ordering::Relaxed);
    }
    let sound = match unpacked.end().await {
        Ok(()) => Ok(()),
        Err(error) if error.kind == Kind::Damaged => Err(error.message),
        Err(error) => {
            let (store, id) = (stored.store, stored.id);
            let path = store.folder(id).map_or_else(|| id.to_string(), |folder| folder.display().to_string());
            return Err(error
                .context(format_args!("{path}/{}", file.name))
                .hint("look into the kernel's log: the disk or the way to it may be failing; then verify again"));
        }
    };
    let hashed = &unpacked.hashed;
    let verdict = (|| {
        sound?;
        compare(file, hashed)?;
        if raw_bytes != file.raw_bytes {
            return Err(format!("it unpacks to {raw_bytes} bytes; {} were packed", file.raw_bytes));
        }
        watch.map(EndWatch::finish).transpose()
    })();
    Ok((hashed.bytes(), verdict))
}

/// Whether what was read to its end is what was stored.
///
/// # Errors
/// In which it differs.
pub fn compare(file: &FileEntry, hashed: &Hashed) -> Result<(), String> {
    let (bytes, sha256) = (hashed.bytes(), hashed.sha256());
    if bytes != file.bytes {
        return Err(format!("it has {bytes} bytes; {} were stored", file.bytes));
    }
    if sha256 != file.sha256 {
        return Err(format!("its sha256 is {sha256}; {} was stored", file.sha256));
    }
    Ok(())
}

/// What a reader has seen so far.
#[derive(Clone, Default)]
pub struct Hashed(Arc<Mutex<(Sha256, u64)>>);

impl Hashed {
    pub fn bytes(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// In hex.
    pub fn sha256(&self) -> String {
        hex(&self.0.lock().unwrap_or_else(PoisonError::into_inner).0.clone().finalize())
    }
}

/// Hashes what is read through it.
pub struct HashingReader<R> {
    inner: R,
    hashed: Hashed,
}

impl<R> HashingReader<R> {
    pub fn new(inner: R) -> (Self, Hashed) {
        let hashed = Hashed::default();
        (HashingReader { inner, hashed: hashed.clone() }, hashed)
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for HashingReader<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = polled {
            let read = &buf.filled()[before..];
            let mut hashed = self.hashed.0.lock().unwrap_or_else(PoisonError::into_inner);
            hashed.0.update(read);
            hashed.1 += read.len() as u64;
        }
        polled
    }
}
