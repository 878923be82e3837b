//! What is sent with a request: it can be sent again, its hash is known before, and whoever sends it
//! sees how far it has come.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use sha2::{Digest, Sha256};

/// How much is handed over at a time, in bytes.
const FRAME_BYTES: usize = 256 * 1024;

/// Bytes to send, hashed. Clones share them.
#[derive(Debug, Clone)]
pub struct Payload {
    chunks: Vec<Bytes>,
    pub bytes: u64,
    pub sha256: [u8; 32],
}

impl Payload {
    /// Hashes what is to be sent.
    pub fn of(chunks: Vec<Bytes>) -> Self {
        let mut hash = Sha256::new();
        for chunk in &chunks {
            hash.update(chunk);
        }
        Payload { bytes: chunks.iter().map(|chunk| chunk.len() as u64).sum(), chunks, sha256: hash.finalize().into() }
    }

    /// Content-MD5, which servers ask for beside an object lock. In base64.
    pub fn md5(&self) -> String {
        use base64::Engine;
        let mut hash = md5::Md5::new();
        for chunk in &self.chunks {
            hash.update(chunk);
        }
        base64::engine::general_purpose::STANDARD.encode(hash.finalize())
    }

    /// The body of one try; `sent` counts the bytes that were taken.
    pub fn body(&self, sent: Arc<AtomicU64>) -> Sending {
        let mut chunks = self.chunks.clone();
        chunks.reverse();
        Sending { chunks, left: self.bytes, sent }
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Payload::of(vec![bytes])
    }
}

/// A payload on its way. Its length is told before, which servers ask for.
pub struct Sending {
    /// The next one is the last.
    chunks: Vec<Bytes>,
    left: u64,
    sent: Arc<AtomicU64>,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(mut chunk) = self.chunks.pop() else {
            return Poll::Ready(None);
        };
        if chunk.len() > FRAME_BYTES {
            let rest = chunk.split_off(FRAME_BYTES);
            self.chunks.push(rest);
        }
        self.left -= chunk.len() as u64;
        self.sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(chunk))))
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
        assert_eq!((whole.bytes, whole.sha256), (parts.bytes, parts.sha256));
        // As `printf 'hello world' | openssl md5 -binary | base64` prints it.
        assert_eq!(parts.md5(), "XrY7u+Ae7tCTyyK7j1rNww==");
        assert_eq!(whole.md5(), parts.md5());
    }
}
