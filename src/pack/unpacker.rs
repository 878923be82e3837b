//! Packed bytes -> bytes. Blocks of our own making are unpacked on several cores; any other gzip
//! or zstd file in the ordinary way.

use std::io::Read;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::io::SyncIoBridge;

use super::codec::{self, Codec};
use super::seal::undecryptable;
use crate::error::{Error, Kind, Result, plain_io};

/// How much a plain reader reads at a time, in bytes.
const CHUNK_BYTES: usize = 512 * 1024;

/// Unpacks all of `input` and sends it to `out`. A receiver that is gone ends it quietly.
///
/// # Errors
/// A read fails, or what is read is damaged.
pub async fn unpack(input: impl AsyncRead + Send + Unpin + 'static, codec: Codec, out: mpsc::Sender<Bytes>) -> Result<()> {
    let (blocks, unpacked) = mpsc::channel(codec.workers());
    let collector = tokio::spawn(collect(unpacked, out.clone()));
    let mut input = input;
    let rest = match codec {
        Codec::None => plain(&mut input, &blocks).await?,
        Codec::Gzip(_) => gzip_members(&mut input, &blocks).await?,
        Codec::Zstd(_) => zstd_frames(&mut input, &blocks).await?,
    };
    drop(blocks);
    let wanted = collector.await.map_err(|error| failed(&error))??;
    match rest {
        Some(rest) if wanted => foreign(rest, input, codec, out).await,
        _ => Ok(()),
    }
}

fn failed(error: &dyn std::fmt::Display) -> Error {
    Error::new(Kind::System, format!("the unpacker failed: {error}"))
}

fn unreadable(error: &std::io::Error) -> Error {
    match undecryptable(error) {
        Some(why) => Error::new(Kind::Damaged, why),
        None => Error::new(Kind::Store, format!("cannot read: {}", plain_io(error))),
    }
}

fn cut() -> Error {
    Error::new(Kind::Damaged, "it is cut")
}

type Blocks = mpsc::Sender<JoinHandle<Result<Bytes>>>;

/// Hands the blocks on in their order. False if nobody wants them any more.
async fn collect(mut unpacked: mpsc::Receiver<JoinHandle<Result<Bytes>>>, out: mpsc::Sender<Bytes>) -> Result<bool> {
    while let Some(work) = unpacked.recv().await {
        let block = work.await.map_err(|error| failed(&error))??;
        if out.send(block).await.is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Fills the buffer to `len` bytes if the input has them.
async fn fill(input: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut, len: usize) -> Result<()> {
    buffer.reserve(len.saturating_sub(buffer.len()));
    while buffer.len() < len {
        let room = len - buffer.len();
        let read = input.read_buf(&mut buffer.limit(room)).await.map_err(|error| unreadable(&error))?;
        if read == 0 {
            break;
        }
    }
    Ok(())
}

async fn plain(input: &mut (impl AsyncRead + Unpin), blocks: &Blocks) -> Result<Option<BytesMut>> {
    loop {
        let mut chunk = BytesMut::new();
        fill(input, &mut chunk, CHUNK_BYTES).await?;
        if chunk.is_empty() {
            return Ok(None);
        }
        let chunk = chunk.freeze();
        if blocks.send(tokio::spawn(std::future::ready(Ok(chunk)))).await.is_err() {
            return Ok(None);
        }
    }
}

/// Members of ours; what begins with anybody else's is returned.
async fn gzip_members(input: &mut (impl AsyncRead + Unpin), blocks: &Blocks) -> Result<Option<BytesMut>> {
    loop {
        let mut member = BytesMut::new();
        fill(input, &mut member, codec::GZIP_HEAD_BYTES).await?;
        if member.is_empty() {
            return Ok(None);
        }
        let Some(len) = codec::gzip_member_bytes(&member) else {
            return Ok(Some(member));
        };
        fill(input, &mut member, len).await?;
        if member.len() < len {
            return Err(cut());
        }
        let work = tokio::task::spawn_blocking(move || codec::gunzip_member(&member));
        if blocks.send(work).await.is_err() {
            return Ok(None);
        }
    }
}

/// Frames of ours; what begins with anybody else's is returned.
async fn zstd_frames(input: &mut (impl AsyncRead + Unpin), blocks: &Blocks) -> Result<Option<BytesMut>> {
    let mut buffer = BytesMut::new();
    loop {
        fill(input, &mut buffer, codec::zstd_frame_bytes_max()).await?;
        if buffer.is_empty() {
            return Ok(None);
        }
        let Some((len, raw_len)) = codec::zstd_frame_bytes(&buffer) else {
            return Ok(Some(buffer));
        };
        let frame = buffer.split_to(len);
        let work = tokio::task::spawn_blocking(move || codec::unzstd_frame(&frame, raw_len));
        if blocks.send(work).await.is_err() {
            return Ok(None);
        }
    }
}

/// Files of other tools, whose blocks cannot be told apart without unpacking them.
async fn foreign(head: BytesMut, input: impl AsyncRead + Send + Unpin + 'static, codec: Codec, out: mpsc::Sender<Bytes>) -> Result<()> {
    let input = SyncIoBridge::new(input);
    let work = tokio::task::spawn_blocking(move || {
        let packed = Read::chain(std::io::Cursor::new(head), input);
        let damaged = |error: &std::io::Error| Error::new(Kind::Damaged, format!("not sound: {}", plain_io(error)));
        let mut raw: Box<dyn Read> = match codec {
            Codec::Gzip(_) => Box::new(flate2::read::MultiGzDecoder::new(packed)),
            Codec::Zstd(_) => Box::new(zstd::stream::read::Decoder::new(packed).map_err(|error| damaged(&error))?),
            Codec::None => Box::new(packed),
        };
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            let read = raw.read(&mut chunk).map_err(|error| damaged(&error))?;
            chunk.truncate(read);
            if read == 0 || out.blocking_send(Bytes::from(chunk)).is_err() {
                return Ok(());
            }
        }
    });
    work.await.map_err(|error| failed(&error))?
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::end::EndWatch;
    use super::super::packer::{Meter, Packed, pack};
    use super::super::seal::Seal;
    use super::*;

    fn packed(raw: &[u8], codec: Codec) -> (Vec<u8>, Packed) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let (out, mut from) = mpsc::channel::<Bytes>(4);
            let all = tokio::spawn(async move {
                let mut all: Vec<u8> = Vec::new();
                while let Some(block) = from.recv().await {
                    all.extend_from_slice(&block);
                }
                all
            });
            let pass = pack(raw, EndWatch::plain(false), codec, Seal::Open, Duration::from_secs(60), Arc::new(Meter::default()), out)
                .await
                .unwrap();
            (all.await.unwrap(), pass.packed)
        })
    }

    fn unpacked(packed: &[u8], codec: Codec) -> Result<Vec<u8>> {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let (out, mut from) = mpsc::channel::<Bytes>(4);
            let work = tokio::spawn(unpack(std::io::Cursor::new(packed.to_vec()), codec, out));
            let mut all = Vec::new();
            while let Some(block) = from.recv().await {
                all.extend_from_slice(&block);
            }
            work.await.unwrap().map(|()| all)
        })
    }

    /// Text of some megabytes, so that there are several blocks.
    fn text(len: usize) -> Vec<u8> {
        let mut text: Vec<u8> = Vec::with_capacity(len + 32);
        let mut seed = 7u64;
        while text.len() < len {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            writeln!(text, "{}\tsome words\t{:x}", text.len(), seed >> 40).unwrap();
        }
        text.truncate(len);
        text
    }

    const CODECS: [Codec; 5] = [Codec::Gzip(1), Codec::Gzip(9), Codec::Zstd(3), Codec::Zstd(13), Codec::None];

    #[test]
    fn there_and_back() {
        for codec in CODECS {
            for len in [0, 1, 512 * 1024, 512 * 1024 + 1, 5_000_000] {
                let raw = text(len);
                let (bytes, said) = packed(&raw, codec);
                assert_eq!((said.raw_bytes, said.bytes), (raw.len() as u64, bytes.len() as u64));
                assert!(unpacked(&bytes, codec).unwrap() == raw, "{codec:?} of {len}");
            }
        }
    }

    /// Other tools write one long member or frame.
    #[test]
    fn files_of_other_tools_are_read() {
        let raw = text(3_000_000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&raw).unwrap();
        let mut two = gzip.finish().unwrap();
        two.extend_from_slice(&packed(b"and more", Codec::Gzip(1)).0);
        assert!(unpacked(&two, Codec::Gzip(1)).unwrap() == [&raw[..], b"and more"].concat());
        let frame = zstd::encode_all(&raw[..], 3).unwrap();
        assert!(unpacked(&frame, Codec::Zstd(3)).unwrap() == raw);
    }

    #[test]
    fn every_flip_and_cut_is_noticed_by_the_codec_or_the_length() {
        let raw = text(3_000_000);
        for codec in [Codec::Gzip(6), Codec::Zstd(3)] {
            let (bytes, _) = packed(&raw, codec);
            for n in 0..60 {
                let at = n * 7_919 % bytes.len();
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << (n % 8);
                // Some bits of a gzip header mean nothing; then the rows are right all the same.
                assert!(unpacked(&flipped, codec).map_or(true, |back| back == raw), "{codec:?} flipped at {at}");
                assert!(unpacked(&bytes[..at], codec).map_or(true, |back| back.len() < raw.len()), "{codec:?} cut at {at}");
            }
        }
    }

    /// A slow receiver holds the reading up: what is under way stays bounded.
    #[tokio::test]
    async fn back_pressure() {
        let meter = Arc::new(Meter::default());
        let (out, mut from) = mpsc::channel(1);
        let input = tokio::io::repeat(b'x').take(1 << 30);
        let work =
            tokio::spawn(pack(input, EndWatch::plain(false), Codec::None, Seal::Open, Duration::from_secs(60), Arc::clone(&meter), out));
        let mut taken = 0u64;
        for _ in 0..8 {
            taken += from.recv().await.unwrap().len() as u64;
            let under_way = meter.raw_bytes().saturating_sub(taken);
            assert!(under_way <= (Codec::None.workers() as u64 + 4) * Codec::None.block_bytes() as u64);
        }
        drop(from);
        assert!(work.await.unwrap().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dump_that_says_nothing_is_given_up() {
        let (_silent, input) = tokio::io::duplex(16);
        let (out, _from) = mpsc::channel(1);
        let result =
            pack(input, EndWatch::plain(false), Codec::None, Seal::Open, Duration::from_secs(3_600), Arc::new(Meter::default()), out).await;
        assert_eq!(result.err().map(|error| error.kind), Some(Kind::Timeout));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Rubbish is an error or some bytes, never a panic.
        #[test]
        fn rubbish_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), gzip in any::<bool>()) {
            let codec = if gzip { Codec::Gzip(1) } else { Codec::Zstd(1) };
            let head = packed(b"x", codec).0;
            let _ = unpacked(&bytes, codec);
            let _ = unpacked(&[&head[..head.len() / 2], &bytes[..]].concat(), codec);
        }
    }
}
