//! A file that is read from a bucket: a connection that is cut is made again, and the reading goes on
//! where it stood.

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
    let etag = header(ETAG);
    let (out, blocks) = mpsc::channel(BLOCKS_MAX);
    tokio::spawn(async move {
        let reading = Reading { shelf, key, etag, bytes, at: 0 };
        if let Err((reading, failure)) = reading.all(response, &out).await {
            let error = reading.shelf.bucket.error("read", &reading.key, &failure);
            let hint = error.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
            let _ = out.send(Err(io::Error::other(format!("{}{hint}", error.message)))).await;
        }
    });
    let stream = futures_util::stream::unfold(blocks, |mut blocks| async move { Some((blocks.recv().await?, blocks)) });
    Ok(Box::new(StreamReader::new(Box::pin(stream))))
}

struct Reading {
    shelf: Arc<Shelf>,
    key: String,
    etag: Option<String>,
    /// Of the whole file.
    bytes: u64,
    /// How much of it was handed on.
    at: u64,
}

impl Reading {
    async fn all(mut self, first: Response, out: &mpsc::Sender<io::Result<Bytes>>) -> Result<(), (Self, Failure)> {
        let patience = self.shelf.bucket.patience();
        let mut response = first;
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

    /// Hands on what one answer brings; done at the end of the file, or when nobody takes it.
    async fn some(&mut self, response: &mut Response, out: &mpsc::Sender<io::Result<Bytes>>) -> Result<(), Failure> {
        while self.at < self.bytes {
            let Some(block) = self.shelf.bucket.next(response).await? else {
                return Err(Failure::NoAnswer(format!("it ends after {} of {} bytes", self.at, self.bytes)));
            };
            self.at += block.len() as u64;
            if self.at > self.bytes {
                return Err(Failure::NoTrust(format!("it has more than the {} bytes that it told", self.bytes)));
            }
            if out.send(Ok(block)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Asks for the rest of the very same file.
    async fn again(&self) -> Result<Response, Failure> {
        let ask = Ask::get(&self.key).header("range", format!("bytes={}-", self.at));
        let ask = match &self.etag {
            Some(etag) => ask.header("if-match", etag),
            None => ask,
        };
        let response = self.shelf.bucket.ask(&ask).await?;
        let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if range != format!("bytes {}-{}/{}", self.at, self.bytes.saturating_sub(1), self.bytes) {
            return Err(Failure::NoTrust(format!("asked for the rest of a file, it answers the range {range:?}")));
        }
        Ok(response)
    }
}
