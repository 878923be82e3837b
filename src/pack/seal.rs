//! Encryption as a step of the pass, behind the packing and before the hash, and back. The format is
//! that of age: what is written here stock `age -d` reads.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use age::stream::StreamWriter;
use age::{DecryptError, Decryptor, Encryptor};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::compat::{FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

use crate::error::{Error, Kind, Result, plain_io};
use crate::keys::{Identities, Recipient};

/// What the name of an encrypted file ends in.
pub const SUFFIX: &str = ".age";

/// How much is read at a time of what is encrypted, in bytes.
const READ_BYTES: usize = 256 * 1024;

/// The name of a file before it was encrypted. `None`: it was not.
pub fn inner_name(name: &str) -> Option<&str> {
    name.strip_suffix(SUFFIX)
}

/// Encrypts what passes, or lets it pass as it is.
pub enum Seal {
    Open,
    Age(Box<StreamWriter<Sink>>, Sink),
}

impl Seal {
    /// For these recipients; without one nothing is encrypted.
    ///
    /// # Errors
    /// A recipient takes no key.
    pub fn to(recipients: &[Recipient]) -> Result<Self> {
        if recipients.is_empty() {
            return Ok(Seal::Open);
        }
        let failed = |error: &dyn std::fmt::Display| Error::new(Kind::System, format!("cannot encrypt: {error}"));
        let sink = Sink::default();
        let encryptor = Encryptor::with_recipients(recipients.iter().map(Recipient::key)).map_err(|error| failed(&error))?;
        let writer = encryptor.wrap_output(sink.clone()).map_err(|error| failed(&error))?;
        Ok(Seal::Age(Box::new(writer), sink))
    }

    /// Takes the next block, and returns what is ready of the file.
    ///
    /// # Errors
    /// It cannot be encrypted.
    pub fn pass(&mut self, block: Bytes) -> Result<Bytes> {
        match self {
            Seal::Open => Ok(block),
            Seal::Age(writer, sink) => {
                writer.write_all(&block).map_err(|error| unsealable(&error))?;
                Ok(sink.take())
            }
        }
    }

    /// The end of the file; one that is left out is a cut.
    ///
    /// # Errors
    /// It cannot be encrypted.
    pub fn finish(self) -> Result<Bytes> {
        match self {
            Seal::Open => Ok(Bytes::new()),
            Seal::Age(writer, sink) => {
                writer.finish().map_err(|error| unsealable(&error))?;
                Ok(sink.take())
            }
        }
    }
}

/// Encrypts what is at hand as a whole, or leaves it as it is where there is no recipient.
///
/// # Errors
/// A recipient takes no key.
pub fn seal_all(bytes: Bytes, recipients: &[Recipient]) -> Result<Bytes> {
    let mut seal = Seal::to(recipients)?;
    let mut sealed = BytesMut::from(seal.pass(bytes)?);
    sealed.extend_from_slice(&seal.finish()?);
    Ok(sealed.freeze())
}

fn unsealable(error: &io::Error) -> Error {
    Error::new(Kind::System, format!("cannot encrypt: {}", plain_io(error)))
}

/// What the encryptor has written and nobody has taken yet: the blocks of one pass at most.
#[derive(Clone, Default)]
pub struct Sink(Arc<Mutex<BytesMut>>);

impl Sink {
    fn take(&self) -> Bytes {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).split().freeze()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is encrypted is not what was written: no failure of the way to it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Undecryptable(String);

/// Opens what is encrypted. Each piece is authentic before a byte of it is given out, and the end is
/// the end that was written: else reading fails with [`Undecryptable`].
///
/// # Errors
/// None of the identities opens it (`Secret`), it is no file of age (`Damaged`), or it cannot be read.
pub async fn unseal<R: AsyncRead + Send + Unpin + 'static>(
    reader: R,
    identities: &Identities,
) -> Result<impl AsyncRead + Send + Unpin + use<R>> {
    let failed = Arc::new(AtomicBool::new(false));
    let way = Way { inner: reader, failed: Arc::clone(&failed) };
    let buffered = tokio::io::BufReader::with_capacity(READ_BYTES, way).compat();
    let opened = match Decryptor::new_async_buffered(buffered).await {
        Ok(decryptor) => decryptor.decrypt_async(identities.keys()),
        Err(error) => Err(error),
    };
    let opened = opened.map_err(|error| match error {
        DecryptError::Io(error) if failed.load(Ordering::Relaxed) => Error::new(Kind::Store, format!("cannot read: {}", plain_io(&error))),
        error => not_opened(&error, identities),
    })?;
    Ok(Unsealed { inner: opened.compat(), failed })
}

/// Opens what is at hand as a whole.
///
/// # Errors
/// None of the identities opens it (`Secret`), or it is no whole file of age (`Damaged`).
pub fn unseal_all(bytes: &[u8], identities: &Identities) -> Result<Vec<u8>> {
    let decryptor = Decryptor::new_buffered(bytes).map_err(|error| not_opened(&error, identities))?;
    let mut reader = decryptor.decrypt(identities.keys()).map_err(|error| not_opened(&error, identities))?;
    let mut opened = Vec::with_capacity(bytes.len());
    reader.read_to_end(&mut opened).map_err(|error| damaged(how_it_ends(&error)))?;
    Ok(opened)
}

fn damaged(why: &str) -> Error {
    Error::new(Kind::Damaged, format!("it cannot be decrypted: {why}"))
}

fn not_opened(error: &DecryptError, identities: &Identities) -> Error {
    match error {
        DecryptError::NoMatchingKeys => Error::new(Kind::Secret, no_key(identities)),
        DecryptError::Io(_) => damaged("its header is cut"),
        DecryptError::InvalidMac => damaged("its header was changed"),
        DecryptError::InvalidHeader | DecryptError::UnknownFormat => damaged("it does not begin like a file of age"),
        error => damaged(&error.to_string()),
    }
}

fn how_it_ends(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::UnexpectedEof { "it is cut" } else { "it was changed" }
}

fn no_key(identities: &Identities) -> String {
    if identities.is_empty() {
        return "it is encrypted, and no identity was given".to_owned();
    }
    format!("none of the identities in {} opens it", identities.from())
}

/// Notes whether reading itself has failed.
struct Way<R> {
    inner: R,
    failed: Arc<AtomicBool>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Way<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if matches!(polled, Poll::Ready(Err(_))) {
            self.failed.store(true, Ordering::Relaxed);
        }
        polled
    }
}

struct Unsealed<R> {
    inner: R,
    failed: Arc<AtomicBool>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Unsealed<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        match polled {
            Poll::Ready(Err(error)) if !self.failed.load(Ordering::Relaxed) => {
                let why = how_it_ends(&error);
                Poll::Ready(Err(io::Error::other(Undecryptable(format!("it cannot be decrypted: {why}")))))
            }
            polled => polled,
        }
    }
}

/// The words of [`Undecryptable`] out of a failed read.
pub fn undecryptable(error: &io::Error) -> Option<String> {
    error.get_ref()?.downcast_ref::<Undecryptable>().map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::*;

    fn sealed(blocks: &[&[u8]], recipients: &[Recipient]) -> Vec<u8> {
        let mut seal = Seal::to(recipients).unwrap();
        let mut all = Vec::new();
        for block in blocks {
            all.extend_from_slice(&seal.pass(Bytes::copy_from_slice(block)).unwrap());
        }
        all.extend_from_slice(&seal.finish().unwrap());
        all
    }

    fn opened(bytes: &[u8], identities: &Identities) -> std::result::Result<Vec<u8>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut reader = unseal(io::Cursor::new(bytes.to_vec()), identities).await.map_err(|error| error.message)?;
            let mut all = Vec::new();
            match reader.read_to_end(&mut all).await {
                Ok(_) => Ok(all),
                Err(error) => Err(undecryptable(&error).unwrap_or_else(|| panic!("{error}"))),
            }
        })
    }

    /// Around the pieces of 64 KiB that age encrypts by.
    #[test]
    fn there_and_back_for_each_of_several() {
        let ((one, first), (two, second)) = (Identities::ephemeral(), Identities::ephemeral());
        for len in [0, 1, 65_535, 65_536, 65_537, 131_072, 700_000] {
            let raw = vec![7u8; len];
            let bytes = sealed(&[&raw[..len / 3], &raw[len / 3..]], &[one.clone(), two.clone()]);
            for key in [&first, &second] {
                assert!(opened(&bytes, key).unwrap() == raw, "{len}");
            }
        }
        assert_eq!(sealed(&[b"as it is"], &[]), b"as it is");
    }

    #[test]
    fn a_wrong_key_is_told_apart_from_damage() {
        let ((to, _), (_, other)) = (Identities::ephemeral(), Identities::ephemeral());
        let bytes = sealed(&[b"x"], &[to]);
        assert_eq!(opened(&bytes, &other).unwrap_err(), "none of the identities in the key of this run opens it");
        assert_eq!(opened(&bytes, &Identities::default()).unwrap_err(), "it is encrypted, and no identity was given");
        assert!(opened(b"-- PostgreSQL database dump\n", &other).unwrap_err().contains("does not begin"));
        assert!(opened(b"", &other).unwrap_err().contains("cut"));
    }

    /// What is behind must never be taken for the store's own failure, or the other way round.
    #[tokio::test]
    async fn a_failed_read_stays_a_failed_read() {
        let (to, key) = Identities::ephemeral();
        let bytes = sealed(&[&vec![1; 200_000]], &[to]);
        let broken = tokio_test_reader(bytes[..100_000].to_vec());
        let mut reader = unseal(broken, &key).await.unwrap();
        let error = reader.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!((undecryptable(&error), error.kind()), (None, io::ErrorKind::ConnectionReset));
    }

    /// Some bytes, and then no answer.
    fn tokio_test_reader(bytes: Vec<u8>) -> impl AsyncRead + Send + Unpin + 'static {
        struct Broken;
        impl AsyncRead for Broken {
            fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
        }
        tokio::io::AsyncReadExt::chain(io::Cursor::new(bytes), Broken)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn a_flip_or_a_cut_anywhere_is_noticed(at in any::<prop::sample::Index>(), bit in 0u8..8, len in 0usize..140_000) {
            let (to, key) = Identities::ephemeral();
            let raw = vec![9u8; len];
            let bytes = sealed(&[&raw], &[to]);
            let at = at.index(bytes.len());
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            prop_assert!(opened(&flipped, &key).is_err());
            prop_assert!(opened(&bytes[..at], &key).is_err());
            prop_assert!(unseal_all(&bytes, &key).unwrap() == raw);
            prop_assert!(unseal_all(&flipped, &key).is_err() && unseal_all(&bytes[..at], &key).is_err());
        }
    }
}
