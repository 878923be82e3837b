//! A file that is written to a bucket: a small one in one request, a larger one in parts that grow, of
//! which a few are under way. Nothing shows before the last of them is there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::Method;
use reqwest::header::ETAG;
use tokio::task::JoinSet;

use super::Place;
use super::answers::{self, Created, Failure};
use super::bucket::Ask;
use super::objects::{WRITER, new_writer};
use super::parts::Parts;
use super::payload::{Payload, Spool};
use crate::error::{Error, Kind, Result};
use crate::store::local::{blocking, failed};
use crate::store::{Added, FileWriter};

/// Uploads in parts that are neither completed nor aborted, by their ids, with their keys. Whoever
/// gives up aborts them.
pub type Open = Arc<Mutex<BTreeMap<String, String>>>;

pub struct S3File {
    place: Arc<Place>,
    key: String,
    open: Open,
    /// What the next part is made of; a large one is in a file.
    chunks: Vec<Bytes>,
    spool: Option<Spool>,
    bytes: u64,
    /// Who writes, as the metadata of the object tell.
    writer: String,
    parted: Option<Parted>,
    /// A part was lost: what was written cannot be trusted any more.
    failed: bool,
}

/// An upload in parts.
struct Parted {
    upload_id: String,
    begun: u32,
    sending: JoinSet<Result<Part>>,
    done: Vec<Part>,
}

struct Part {
    number: u32,
    etag: String,
    checksum: String,
}

impl S3File {
    pub fn new(place: Arc<Place>, key: String, open: Open) -> Self {
        S3File { place, key, open, chunks: Vec::new(), spool: None, bytes: 0, writer: new_writer(), parted: None, failed: false }
    }

    /// The length that the next part should have.
    fn part_bytes(&self) -> u64 {
        self.place.parts.bytes(self.parted.as_ref().map_or(0, |parted| parted.begun) + 1)
    }

    async fn add(&mut self, mut bytes: Bytes) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.part_bytes() - self.bytes;
            let chunk = bytes.split_to(usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len()));
            self.bytes += chunk.len() as u64;
            if self.part_bytes() > self.place.parts.in_memory_bytes_max {
                self.spool(chunk).await?;
            } else {
                self.chunks.push(chunk);
            }
            if self.bytes == self.part_bytes() {
                self.send_part().await?;
            }
        }
        Ok(())
    }

    async fn spool(&mut self, chunk: Bytes) -> Result<()> {
        let (spool, folder) = (self.spool.take(), self.place.spool.clone());
        let spooled = blocking(move || {
            let mut spool = spool.map_or_else(|| Spool::create(&folder), Ok)?;
            spool.add(&chunk).map_err(|error| failed("write into", &folder, &error))?;
            Ok(spool)
        });
        self.spool = Some(spooled.await?);
        Ok(())
    }

    /// Sends what has come together, when there is room for it among those under way.
    async fn send_part(&mut self) -> Result<()> {
        if self.parted.is_none() {
            self.parted = Some(self.begin().await?);
        }
        let Some(parted) = &mut self.parted else { return Ok(()) };
        while parted.sending.len() >= Parts::under_way(self.bytes) {
            parted.next_done().await?;
        }
        parted.begun += 1;
        let (place, key, upload_id, number) = (Arc::clone(&self.place), self.key.clone(), parted.upload_id.clone(), parted.begun);
        let (chunks, spool) = (std::mem::take(&mut self.chunks), self.spool.take());
        self.bytes = 0;
        parted.sending.spawn(async move {
            let payload = match spool {
                Some(spool) => spool.into_payload(),
                None => hashed(chunks).await?,
            };
            send(&place, &key, &upload_id, number, payload).await
        });
        Ok(())
    }

    async fn begin(&self) -> Result<Parted> {
        let ask = Ask::new(Method::POST, &self.key)
            .query("uploads", "")
            .header(WRITER, &self.writer)
            .header("x-amz-checksum-algorithm", "SHA256")
            .headers(self.place.shelf.manner.headers(true));
        let created: Result<Created, Failure> = self.place.shelf.bucket.text(&ask).await.and_then(|text| answers::read(&text));
        let upload_id = created.map_err(|failure| self.place.shelf.bucket.error("write", &self.key, &failure))?.upload_id;
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(upload_id.clone(), self.key.clone());
        Ok(Parted { upload_id, begun: 0, sending: JoinSet::new(), done: Vec::new() })
    }

    /// Sends what is left and lets the file appear under its name.
    async fn close(mut self: Box<Self>) -> Result<()> {
        if self.parted.is_none() {
            let payload = hashed(std::mem::take(&mut self.chunks)).await?;
            return match self.place.shelf.put_new(&self.key, payload, true, &self.writer).await? {
                Added::Done => Ok(()),
                Added::AlreadyThere => Err(self.taken()),
            };
        }
        if self.bytes > 0 {
            self.send_part().await?;
        }
        let Some(mut parted) = self.parted.take() else { return Ok(()) };
        while !parted.sending.is_empty() {
            parted.next_done().await?;
        }
        parted.done.sort_by_key(|part| part.number);
        self.complete(&parted).await?;
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&parted.upload_id);
        Ok(())
    }

    async fn complete(&self, parted: &Parted) -> Result<()> {
        let ask = Ask::new(Method::POST, &self.key)
            .query("uploadId", &parted.upload_id)
            .header("if-none-match", "*")
            .slowly()
            .payload(Payload::from(Bytes::from(listed(&parted.done))));
        let Err(failure) = self.place.shelf.bucket.text(&ask).await else {
            return Ok(());
        };
        // An upload that is not there any more was completed by a try whose answer was lost.
        if failure.is_doubtful() || failure.is_absent() {
            match self.place.shelf.writer_of(&self.key).await {
                Ok(Some(found)) if found == self.writer => return Ok(()),
                _ if failure.is_taken() => return Err(self.taken()),
                _ => {}
            }
        }
        Err(self.place.shelf.bucket.error("write", &self.key, &failure))
    }

    fn taken(&self) -> Error {
        taken(&self.place.shelf.bucket.place(&self.key))
    }
}

/// Something is there that is not ours.
pub fn taken(place: &str) -> Error {
    Error::new(Kind::Store, format!("{place} is there already, of somebody else"))
        .hint("another installation may write into this store; run again: a run takes the next free label")
}

#[async_trait]
impl FileWriter for S3File {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        if self.failed {
            return Err(Error::new(Kind::Store, format!("{} failed before", self.place.shelf.bucket.place(&self.key))));
        }
        let added = self.add(bytes).await;
        self.failed = added.is_err();
        added
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        if self.failed {
            return Err(Error::new(Kind::Store, format!("{} failed before", self.place.shelf.bucket.place(&self.key))));
        }
        self.close().await
    }
}

impl Parted {
    /// Waits for one of the parts under way.
    async fn next_done(&mut self) -> Result<()> {
        match self.sending.join_next().await {
            Some(Ok(part)) => self.done.push(part?),
            Some(Err(error)) => return Err(Error::new(Kind::Store, format!("a write was broken off: {error}"))),
            None => {}
        }
        Ok(())
    }
}

async fn hashed(chunks: Vec<Bytes>) -> Result<Payload> {
    blocking(move || Ok(Payload::of(chunks))).await
}

async fn send(place: &Place, key: &str, upload_id: &str, number: u32, payload: Payload) -> Result<Part> {
    let bucket = &place.shelf.bucket;
    let checksum = payload.checksum();
    let ask = Ask::new(Method::PUT, key)
        .query("partNumber", number.to_string())
        .query("uploadId", upload_id)
        .header("x-amz-checksum-sha256", &checksum)
        .payload(payload);
    let response = bucket.ask(&ask).await.map_err(|failure| bucket.error("write", key, &failure))?;
    let etag = response.headers().get(ETAG).and_then(|value| value.to_str().ok()).unwrap_or_default();
    Ok(Part { number, etag: etag.to_owned(), checksum })
}

/// The body of CompleteMultipartUpload.
fn listed(parts: &[Part]) -> String {
    let mut text = String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for part in parts {
        let etag = quick_xml::escape::escape(&part.etag);
        let (number, checksum) = (part.number, &part.checksum);
        text.push_str(&format!(
            "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag><ChecksumSHA256>{checksum}</ChecksumSHA256></Part>"
        ));
    }
    text.push_str("</CompleteMultipartUpload>");
    text
}
