//! How a block of a dump is packed: as one whole member of a gzip file (RFC 1952) or one whole
//! frame of a zstd file (RFC 8878). Files of many members or frames are what every stock gunzip
//! and zstd reads, and each block can be packed, and unpacked, on a core of its own.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use zstd::zstd_safe;

use crate::config::values::Compression;
use crate::error::{Error, Kind, Result};

/// The codec of a file with its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    Gzip(u8),
    Zstd(u8),
    None,
}

/// The level behind "gzip": smaller files than `gzip -6` in a fifth of its time.
const GZIP_LEVEL: u8 = 2;
const ZSTD_LEVEL: u8 = 3;

/// Sizes in bytes of a block before it is packed. zstd profits from a longer view.
const GZIP_BLOCK_BYTES: usize = 512 * 1024;
const ZSTD_BLOCK_BYTES: usize = 1024 * 1024;

/// Our members say in the gzip header's extra field how long they are, so that a reader can hand
/// out whole members without unpacking them first. RFC 1952, 2.3.1.1.
const EXTRA_ID: [u8; 2] = *b"PV";
pub const GZIP_HEAD_BYTES: usize = 20;
const GZIP_TAIL_BYTES: usize = 8;

impl From<Compression> for Codec {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::Gzip(level) => Codec::Gzip(level.unwrap_or(GZIP_LEVEL)),
            Compression::Zstd(level) => Codec::Zstd(level.unwrap_or(ZSTD_LEVEL)),
            Compression::None => Codec::None,
        }
    }
}

impl Codec {
    /// What a file name says of its codec.
    pub fn of_name(name: &str) -> Self {
        match name.rsplit_once('.') {
            Some((_, "gz")) => Codec::Gzip(GZIP_LEVEL),
            Some((_, "zst")) => Codec::Zstd(ZSTD_LEVEL),
            _ => Codec::None,
        }
    }

    /// What a file name ends in.
    pub fn suffix(self) -> &'static str {
        match self {
            Codec::Gzip(_) => ".gz",
            Codec::Zstd(_) => ".zst",
            Codec::None => "",
        }
    }

    pub fn block_bytes(self) -> usize {
        match self {
            Codec::Gzip(_) | Codec::None => GZIP_BLOCK_BYTES,
            Codec::Zstd(_) => ZSTD_BLOCK_BYTES,
        }
    }

    /// How many blocks are packed at a time. Four cores pack faster than one backend of the server
    /// writes rows; more would only cost memory, of which the high levels of zstd need much each.
    pub fn workers(self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        match self {
            Codec::Zstd(16..) => 1,
            Codec::Zstd(13..) => cores.min(2),
            _ => cores.min(4),
        }
    }

    /// Packs one block into one member or frame.
    ///
    /// # Errors
    /// The codec refuses, which it does only when memory is out.
    pub fn pack(self, block: Bytes) -> Result<Bytes> {
        match self {
            Codec::Gzip(level) => gzip(level, &block),
            Codec::Zstd(level) => zstd(level, &block),
            Codec::None => Ok(block),
        }
    }
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::new(Kind::System, format!("cannot pack a block with {what}: {error}"))
}

/// Working memory of a codec, handed from block to block. There are never more than blocks are
/// packed at a time; kept by thread there would be one for each thread of the pool.
struct Pool<T>(Mutex<Vec<(u8, T)>>);

impl<T> Pool<T> {
    const fn new() -> Self {
        Pool(Mutex::new(Vec::new()))
    }

    /// Works with one that was made for the level.
    fn with<R>(&self, level: u8, make: impl FnOnce() -> Result<T>, work: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        let kept = {
            let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // One of another level has served its run.
            idle.retain(|(made_for, _)| *made_for == level);
            idle.pop()
        };
        let mut one = match kept {
            Some((_, one)) => one,
            None => make()?,
        };
        let result = work(&mut one);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((level, one));
        result
    }
}

fn gzip(level: u8, block: &[u8]) -> Result<Bytes> {
    static POOL: Pool<libdeflater::Compressor> = Pool::new();
    let make = || {
        let lvl = libdeflater::CompressionLvl::new(i32::from(level)).map_err(|_| failed("gzip", &"bad level"))?;
        Ok(libdeflater::Compressor::new(lvl))
    };
    POOL.with(level, make, |compressor| {
        let bound = compressor.deflate_compress_bound(block.len());
        let mut member = vec![0; GZIP_HEAD_BYTES + bound + GZIP_TAIL_BYTES];
        let body = compressor
            .deflate_compress(block, &mut member[GZIP_HEAD_BYTES..GZIP_HEAD_BYTES + bound])
            .map_err(|error| failed("gzip", &error))?;
        let len = GZIP_HEAD_BYTES + body + GZIP_TAIL_BYTES;
        let too_long = |_| failed("gzip", &"block too long");
        let member_len = u32::try_from(len).map_err(too_long)?;
        let raw_len = u32::try_from(block.len()).map_err(too_long)?;
        // FEXTRA, no time, Unix; then the one subfield.
        member[..10].copy_from_slice(&[0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 3]);
        member[10..12].copy_from_slice(&8u16.to_le_bytes());
        member[12..14].copy_from_slice(&EXTRA_ID);
        member[14..16].copy_from_slice(&4u16.to_le_bytes());
        member[16..20].copy_from_slice(&member_len.to_le_bytes());
        member[len - 8..len - 4].copy_from_slice(&libdeflater::crc32(block).to_le_bytes());
        member[len - 4..len].copy_from_slice(&raw_len.to_le_bytes());
        member.truncate(len);
        Ok(Bytes::from(member))
    })
}

/// The length of a member of ours by its head; `None` for anybody else's.
pub fn gzip_member_bytes(head: &[u8]) -> Option<usize> {
    let ours = head.len() >= GZIP_HEAD_BYTES && head[..4] == [0x1f, 0x8b, 8, 4] && head[10..16] == [8, 0, EXTRA_ID[0], EXTRA_ID[1], 4, 0];
    let len = u32::from_le_bytes(head.get(16..20)?.try_into().ok()?) as usize;
    // Deflate never makes a block much longer; a longer one is damage.
    let fits = (GZIP_HEAD_BYTES + GZIP_TAIL_BYTES..=2 * GZIP_BLOCK_BYTES).contains(&len);
    (ours && fits).then_some(len)
}

/// Unpacks one whole member of ours.
///
/// # Errors
/// It is damaged.
pub fn gunzip_member(member: &[u8]) -> Result<Bytes> {
    static POOL: Pool<libdeflater::Decompressor> = Pool::new();
    let damaged = |why: &dyn std::fmt::Display| Error::new(Kind::Damaged, format!("not sound gzip: {why}"));
    let raw_len = member
        .last_chunk::<4>()
        .map(|bytes| u32::from_le_bytes(*bytes) as usize)
        .filter(|len| *len <= GZIP_BLOCK_BYTES)
        .ok_or_else(|| damaged(&"bad length of a block"))?;
    let mut raw = vec![0; raw_len];
    let body = &member[GZIP_HEAD_BYTES..member.len() - GZIP_TAIL_BYTES];
    let unpack =
        |decompressor: &mut libdeflater::Decompressor| decompressor.deflate_decompress(body, &mut raw).map_err(|error| damaged(&error));
    let len = POOL.with(0, || Ok(libdeflater::Decompressor::new()), unpack)?;
    let crc = libdeflater::crc32(&raw).to_le_bytes();
    if len != raw_len || member[member.len() - 8..member.len() - 4] != crc {
        return Err(damaged(&"a block's checksum does not match"));
    }
    Ok(Bytes::from(raw))
}

fn zstd(level: u8, block: &[u8]) -> Result<Bytes> {
    static POOL: Pool<zstd::bulk::Compressor<'static>> = Pool::new();
    let refused = |error: std::io::Error| failed("zstd", &error);
    let make = || {
        let mut compressor = zstd::bulk::Compressor::new(i32::from(level)).map_err(refused)?;
        // Without it a flipped bit unpacks to wrong rows, without an error.
        compressor.set_parameter(zstd_safe::CParameter::ChecksumFlag(true)).map_err(refused)?;
        Ok(compressor)
    };
    POOL.with(level, make, |compressor| compressor.compress(block).map(Bytes::from).map_err(refused))
}

/// How much of a file must be at hand to know the length of a frame of ours.
pub fn zstd_frame_bytes_max() -> usize {
    zstd_safe::compress_bound(ZSTD_BLOCK_BYTES) + 64
}

/// The length of the frame that these bytes begin with, and of what it holds; `None` for frames
/// that are not of our making, or cut.
pub fn zstd_frame_bytes(bytes: &[u8]) -> Option<(usize, usize)> {
    let raw = zstd_safe::get_frame_content_size(bytes).ok()??;
    let raw = usize::try_from(raw).ok().filter(|raw| *raw <= ZSTD_BLOCK_BYTES)?;
    let len = zstd_safe::find_frame_compressed_size(bytes).ok()?;
    Some((len, raw))
}

/// Unpacks one whole frame of ours.
///
/// # Errors
/// It is damaged.
pub fn unzstd_frame(frame: &[u8], raw_len: usize) -> Result<Bytes> {
    let mut raw = Vec::new();
    unzstd_frame_into(frame, raw_len, &mut raw)?;
    Ok(Bytes::from(raw))
}

/// The same, in place of what is in `raw`: its memory serves for one after the other.
///
/// # Errors
/// It is damaged.
pub fn unzstd_frame_into(frame: &[u8], raw_len: usize, raw: &mut Vec<u8>) -> Result<()> {
    static POOL: Pool<zstd::bulk::Decompressor<'static>> = Pool::new();
    let damaged = |error: &dyn std::fmt::Display| Error::new(Kind::Damaged, format!("not sound zstd: {error}"));
    let make = || zstd::bulk::Decompressor::new().map_err(|error| damaged(&error));
    raw.clear();
    raw.reserve(raw_len);
    POOL.with(0, make, |decompressor| {
        decompressor.decompress_to_buffer(frame, raw).map_err(|error| damaged(&error))?;
        if raw.len() == raw_len { Ok(()) } else { Err(damaged(&"a block is too short")) }
    })
}
