//! The one pass of a dump: read, watch for the end, pack on several cores, encrypt, hash, hand on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::{JoinError, JoinHandle};

use super::codec::Codec;
use super::end::{EndWatch, Seen};
use super::seal::Seal;
use crate::error::{Error, Kind, Result};

/// How far a pass is, in bytes; read by whoever shows progress.
#[derive(Debug, Default)]
pub struct Meter {
    pub raw: AtomicU64,
    pub packed: AtomicU64,
    /// Told once, with the first byte.
    pub begun: Notify,
}

impl Meter {
    pub fn raw_bytes(&self) -> u64 {
        self.raw.load(Ordering::Relaxed)
    }

    pub fn packed_bytes(&self) -> u64 {
        self.packed.load(Ordering::Relaxed)
    }
}

/// What a pass made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    pub raw_bytes: u64,
    /// As stored.
    pub bytes: u64,
    /// Of the bytes as stored, in hex.
    pub sha256: String,
}

/// What came out of a pass, before it is known how the program that wrote it ended.
pub struct Pass {
    pub packed: Packed,
    pub watch: EndWatch,
}

impl Pass {
    /// Whether it was a whole dump.
    ///
    /// # Errors
    /// Why it was not.
    pub fn finish(self, program: &str) -> Result<(Packed, Seen)> {
        match self.watch.finish() {
            Ok(seen) => Ok((self.packed, seen)),
            Err(why) => Err(Error::new(Kind::Dump, format!("the output of {program} is not a whole dump: {why}"))
                .hint("run it again; if it stays so, run the program by hand and look at the end of its output")),
        }
    }
}

/// Packs all of `input` and sends it to `out`, block by block. Memory is bounded by the number of
/// blocks under way; when the receiver is slow, the reading waits.
///
/// # Errors
/// A read fails, no byte comes for `stall_timeout`, or the receiver is gone: then its own error is
/// the one to tell.
pub async fn pack(
    mut input: impl AsyncRead + Unpin,
    mut watch: EndWatch,
    codec: Codec,
    seal: Seal,
    stall_timeout: Duration,
    meter: Arc<Meter>,
    out: mpsc::Sender<Bytes>,
) -> Result<Pass> {
    let (blocks, packed) = mpsc::channel(codec.workers());
    // What waits in the channel may be packed already; working memory is only for so many.
    let places = Arc::new(Semaphore::new(codec.workers()));
    let collector = tokio::spawn(collect(packed, seal, out, Arc::clone(&meter)));
    let mut raw_bytes = 0u64;
    loop {
        let block = match tokio::time::timeout(stall_timeout, read_block(&mut input, codec.block_bytes())).await {
            Ok(Ok(block)) => block,
            Ok(Err(error)) => return Err(Error::new(Kind::Dump, format!("lost the dump's output: {error}"))),
            Err(_) => return Err(stalled(stall_timeout)),
        };
        if block.is_empty() {
            break;
        }
        raw_bytes += block.len() as u64;
        meter.raw.store(raw_bytes, Ordering::Relaxed);
        watch.feed(&block);
        let places = Arc::clone(&places);
        // Reading goes on while a block waits for its place: whoever writes must not wait for the packing of each.
        let work: JoinHandle<Result<Bytes>> = tokio::spawn(async move {
            let _place = places.acquire().await;
            let packed = tokio::task::spawn_blocking(move || codec.pack(block)).await;
            packed.map_err(|error| broken(&error))?
        });
        if blocks.send(work).await.is_err() {
            // The collector has ended, and says why.
            break;
        }
    }
    drop(blocks);
    let (bytes, sha256) = collector.await.map_err(|error| broken(&error))??;
    let packed = Packed { raw_bytes, bytes, sha256 };
    Ok(Pass { packed, watch })
}

fn broken(error: &JoinError) -> Error {
    Error::new(Kind::System, format!("the packer failed: {error}"))
}

/// A dump that says nothing for too long.
pub fn stalled(stall_timeout: Duration) -> Error {
    Error::new(Kind::Timeout, format!("no byte came from the dump for {} s", stall_timeout.as_secs()))
        .hint("look for locks and long queries on the server; stall_timeout sets the patience")
}

/// Reads until the block is full or the input ends.
async fn read_block(input: &mut (impl AsyncRead + Unpin), block_bytes: usize) -> std::io::Result<Bytes> {
    let mut block = BytesMut::with_capacity(block_bytes);
    while block.len() < block_bytes {
        let room = block_bytes - block.len();
        if input.read_buf(&mut (&mut block).limit(room)).await? == 0 {
            break;
        }
    }
    Ok(block.freeze())
}

/// Takes the packed blocks in their order, encrypts and hashes them and hands them on.
async fn collect(
    mut packed: mpsc::Receiver<JoinHandle<Result<Bytes>>>,
    mut seal: Seal,
    out: mpsc::Sender<Bytes>,
    meter: Arc<Meter>,
) -> Result<(u64, String)> {
    let mut hash = Sha256::new();
    let mut bytes = 0;
    let mut hand_on = async |block: Bytes| {
        if block.is_empty() {
            return Ok(());
        }
        hash.update(&block);
        bytes += block.len() as u64;
        meter.packed.store(bytes, Ordering::Relaxed);
        out.send(block).await.map_err(|_| Error::new(Kind::Store, "the store took no more"))
    };
    while let Some(work) = packed.recv().await {
        let block = work.await.map_err(|error| broken(&error))??;
        hand_on(seal.pass(block)?).await?;
    }
    hand_on(seal.finish()?).await?;
    Ok((bytes, hex(&hash.finalize())))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
