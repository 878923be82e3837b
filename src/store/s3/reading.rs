//! A file that is read from a bucket: a connection that is cut is made again, and the reading goes on
//! where it stood. A large one comes in parts, some at a time: one connection is slower than the way.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::Response;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG};
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

use super::answers::Failure;
use super::bucket::Ask;
use super::objects::Shelf;
use crate::error::{Error, Kind, Result};
use crate::store::Reader;

/// How many blocks wait for whoever takes them.
const BLOCKS_MAX: usize = 16;

/// A file that is larger comes in parts, in bytes.
const PARTS_FROM: u64 = 4 * PART_BYTES;

/// Of so many bytes each; so many of them times that wait in memory at most.
const PART_BYTES: u64 = 8 << 20;
const PARTS_AT_A_TIME: usize = 4;

/// Opens a file.
///
/// # Errors
/// It is not there, or cannot be read.
pub async fn open(shelf: Arc<Shelf>, key: String) -> Result<Reader> {
    let response = shelf.bucket.ask(&Ask::get(&key)).await.map_err(|failure| {
        let error = shelf.bucket.error("read", &key, &failure);
        if failure.is_absent() { Error { kind: Kind::NotFound, hint: None, ..error } } else { error }
    })?;
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let Some(bytes) = header(CONTENT_LENGTH).and_then(|text| text.parse().ok()) else {
        return Err(shelf.bucket.error("read", &key, &Failure::NoTrust("it does not tell the length".to_owned())));
    };
    let whole = Reading { shelf, key, etag: header(ETAG), bytes, at: 0, end: bytes };
    if bytes > PARTS_FROM {
        let parts = Parts { of: whole, next: 0, coming: VecDeque::new() };
        let stream = futures_util::stream::unfold(parts, Parts::block);
        return Ok(Box::new(StreamReader::new(Box::pin(stream))));
    }
    let (out, blocks) = mpsc::channel(BLOCKS_MAX);
    tokio::spawn(whole.read(Some(response), out));
    let stream = futures_util::stream::unfold(blocks, |mut blocks| async move { Some((blocks.recv().await?, blocks)) });
    Ok(Box::new(StreamReader::new(Box::pin(stream))))
}

/// A large file on its way.
struct Parts {
    of: Reading,
    /// Where the part begins that is asked for next.
    next: u64,
    /// Those that were asked for, in their order.
    coming: VecDeque<mpsc::Receiver<io::Result<Bytes>>>,
}

impl Parts {
    /// The next block, in the order of the file.
    async fn block(mut self) -> Option<(io::Result<Bytes>, Self)> {
        loop {
            while self.coming.len() < PARTS_AT_A_TIME && self.next < self.of.bytes {
                let end = self.of.bytes.min(self.next + PART_BYTES);
                let part = Reading { at: self.next, end, ..self.of.clone() };
                self.next = end;
                // All of a part may wait for those before it.
                let (out, blocks) = mpsc::channel(usize::try_from(PART_BYTES).unwrap_or(BLOCKS_MAX));
                tokio::spawn(part.read(None, out));
                self.coming.push_back(blocks);
            }
            if let Some(block) = self.coming.front_mut()?.recv().await {
                return Some((block, self));
            }
            self.coming.pop_front();
        }
    }
}

#[derive(Clone)]
struct Reading {
    shelf: Arc<Shelf>,
    key: String,
    etag: Option<String>,
    /// Of the whole file.
    bytes: u64,
    /// Where it stands, and where it ends.
    at: u64,
    end: u64,
}

impl Reading {
    /// Reads it to its end, or tells why not. `first`: what comes already.
    async fn read(self, first: Option<Response>, out: mpsc::Sender<io::Result<Bytes>>) {
        if let Err((reading, failure)) = self.all(first, &out).await {
            let error = reading.shelf.bucket.error("read", &reading.key, &failure);
            let hint = error.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
            let _ = out.send(Err(io::Error::other(format!("{}{hint}", error.message)))).await;
        }
    }

    async fn all(mut self, first: Option<Response>, out: &mpsc::Sender<io::Result<Bytes>>) -> Result<(), (Self, Failure)> {
        let patience = self.shelf.bucket.patience();
        let mut response = match first {
            Some(first) => first,
            None => match self.again().await {
                Ok(response) => response,
                Err(failure) => return Err((self, failure)),
            },
        };
        let mut tries = 0;
        loop {
            let before = self.at;
            let cut = match self.some(&mut response, out).await {
                Ok(()) => return Ok(()),
                Err(cut) => cut,
            };
            tries = if self.at > before { 0 } else { tries + 1 };
            if tries >= patience.tries {
                return Err((self, cut));
            }
            response = match self.again().await {
                Ok(response) => response,
                Err(failure) => return Err((self, failure)),
            };
        }
    }

    /// Hands on what one answer brings; done at the end, or when nobody takes it.
    async fn some(&mut self, response: &mut Response, out: &mpsc::Sender<io::Result<Bytes>>) -> Result<(), Failure> {
        while self.at < self.end {
            let Some(block) = self.shelf.bucket.next(response).await? else {
                return Err(Failure::NoAnswer(format!("it ends after {} of {} bytes", self.at, self.end)));
            };
            self.at += block.len() as u64;
            if self.at > self.end {
                return Err(Failure::NoTrust(format!("it has more than the {} bytes that it told", self.end)));
            }
            if out.send(Ok(block)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Asks for the rest of the very same file.
    async fn again(&self) -> Result<Response, Failure> {
        let ask = Ask::get(&self.key).header("range", format!("bytes={}-{}", self.at, self.end.saturating_sub(1)));
        let ask = match &self.etag {
            Some(etag) => ask.header("if-match", etag),
            None => ask,
        };
        let response = self.shelf.bucket.ask(&ask).await?;
        let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if range != format!("bytes {}-{}/{}", self.at, self.end.saturating_sub(1), self.bytes) {
            return Err(Failure::NoTrust(format!("asked for the rest of a file, it answers the range {range:?}")));
        }
        Ok(response)
    }
}
