//! What is sent with a request: it can be sent again, its hash is known before, and whoever sends it
//! sees how far it has come.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::error::Result;
use crate::store::local::{PARTIAL, create_file, failed, make_dirs};

/// How much is handed over at a time, in bytes.
const FRAME_BYTES: usize = 256 * 1024;

/// Bytes to send, hashed. Clones share them.
#[derive(Debug, Clone)]
pub struct Payload {
    source: Source,
    pub bytes: u64,
    pub sha256: [u8; 32],
}

#[derive(Debug, Clone)]
enum Source {
    Memory(Vec<Bytes>),
    Spool(Arc<File>),
}

impl Payload {
    /// Hashes what is to be sent.
    pub fn of(chunks: Vec<Bytes>) -> Self {
        let mut hash = Sha256::new();
        for chunk in &chunks {
            hash.update(chunk);
        }
        let bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Payload { bytes, source: Source::Memory(chunks), sha256: hash.finalize().into() }
    }

    /// Its checksum, which a server verifies and keeps with the object. In base64.
    pub fn checksum(&self) -> String {
        STANDARD.encode(self.sha256)
    }

    /// Content-MD5, which servers ask for beside an object lock. In base64. `None`: of what is in a
    /// file; that is a part, which no lock is told of.
    pub fn md5(&self) -> Option<String> {
        let Source::Memory(chunks) = &self.source else { return None };
        let hash = chunks.iter().fold(md5::Md5::new(), Digest::chain_update);
        Some(STANDARD.encode(hash.finalize()))
    }

    /// The body of one try; `sent` counts the bytes that were taken.
    pub fn body(&self, sent: Arc<AtomicU64>) -> Sending {
        let source = match &self.source {
            Source::Memory(chunks) => Blocks::Memory(chunks.iter().rev().cloned().collect()),
            Source::Spool(file) => Blocks::Spool(read(Arc::clone(file), self.bytes)),
        };
        Sending { source, left: self.bytes, sent }
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Payload::of(vec![bytes])
    }
}

/// What comes together in a file that has no name any more: it goes with the program.
pub struct Spool {
    file: File,
    bytes: u64,
    hash: Sha256,
}

impl Spool {
    /// # Errors
    /// The folder cannot be written.
    pub fn create(folder: &Path) -> Result<Self> {
        make_dirs(folder, folder)?;
        let path = folder.join(format!("{PARTIAL}part-{}", super::objects::new_writer()));
        drop(create_file(&path)?);
        let file = File::options().read(true).write(true).open(&path);
        let removed = std::fs::remove_file(&path);
        let file = file.and_then(|file| removed.map(|()| file)).map_err(|error| failed("create", &path, &error))?;
        Ok(Spool { file, bytes: 0, hash: Sha256::new() })
    }

    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.file.write_all_at(chunk, self.bytes)?;
        self.hash.update(chunk);
        self.bytes += chunk.len() as u64;
        Ok(())
    }

    pub fn into_payload(self) -> Payload {
        Payload { source: Source::Spool(Arc::new(self.file)), bytes: self.bytes, sha256: self.hash.finalize().into() }
    }
}

/// Reads a file from its beginning, wherever others stand in it.
fn read(file: Arc<File>, bytes: u64) -> mpsc::Receiver<io::Result<Bytes>> {
    let (out, blocks) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        let mut at = 0;
        while at < bytes {
            let len = usize::try_from(bytes - at).unwrap_or(usize::MAX).min(FRAME_BYTES);
            let mut block = vec![0; len];
            let block = file.read_exact_at(&mut block, at).map(|()| Bytes::from(block));
            at += len as u64;
            let is_broken = block.is_err();
            if out.blocking_send(block).is_err() || is_broken {
                return;
            }
        }
    });
    blocks
}

/// A payload on its way. Its length is told before, which servers ask for.
pub struct Sending {
    source: Blocks,
    left: u64,
    sent: Arc<AtomicU64>,
}

enum Blocks {
    /// The next one is the last.
    Memory(Vec<Bytes>),
    Spool(mpsc::Receiver<io::Result<Bytes>>),
}

impl Body for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = match &mut self.source {
            Blocks::Memory(chunks) => chunks.pop().map(|mut chunk| {
                if chunk.len() > FRAME_BYTES {
                    chunks.push(chunk.split_off(FRAME_BYTES));
                }
                Ok(chunk)
            }),
            Blocks::Spool(blocks) => ready!(blocks.poll_recv(cx)),
        };
        if let Some(Ok(chunk)) = &next {
            self.left -= chunk.len() as u64;
            self.sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
        Poll::Ready(next.map(|chunk| chunk.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_do_not_depend_on_chunks() {
        let whole = Payload::from(Bytes::from_static(b"hello world"));
        let parts = Payload::of(vec![Bytes::from_static(b"hello "), Bytes::new(), Bytes::from_static(b"world")]);
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(&dir.path().join("spool")).unwrap();
        spool.add(b"hello ").unwrap();
        spool.add(b"world").unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("spool")).unwrap().count(), 0);
        // As `printf 'hello world' | openssl md5 -binary | base64` prints it.
        assert_eq!(parts.md5().as_deref(), Some("XrY7u+Ae7tCTyyK7j1rNww=="));
        for other in [parts, spool.into_payload()] {
            assert_eq!((whole.bytes, whole.checksum()), (other.bytes, other.checksum()));
        }
    }
}
