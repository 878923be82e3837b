//! Objects of a bucket: put once, read, listed, deleted.

use std::ops::ControlFlow;

use bytes::Bytes;
use chrono::SecondsFormat;
use reqwest::Method;

use super::answers::{self, Page, Uploads};
use super::bucket::{Ask, Bucket};
use super::payload::Payload;
use crate::config::file::{LockMode, ObjectLock};
use crate::error::{Error, Kind, Result};
use crate::host::{Tag, clock};
use crate::store::Added;

/// The metadata of an object that say who wrote it: an answer that was lost is not asked for, it is
/// looked up.
pub const WRITER: &str = "x-amz-meta-pgvigil";

/// What a server is told beside the bytes.
#[derive(Debug, Clone, Default)]
pub struct Manner {
    pub sse: Option<String>,
    pub sse_kms_key_id: Option<String>,
    pub object_lock: Option<ObjectLock>,
}

impl Manner {
    /// The headers of whatever begins an object. `kept`: nobody may delete it for as long as the lock
    /// says.
    pub fn headers(&self, kept: bool) -> Vec<(&'static str, String)> {
        let mut headers = Vec::new();
        headers.extend(self.sse.clone().map(|sse| ("x-amz-server-side-encryption", sse)));
        headers.extend(self.sse_kms_key_id.clone().map(|key| ("x-amz-server-side-encryption-aws-kms-key-id", key)));
        if let Some(lock) = self.object_lock.filter(|_| kept) {
            let mode = match lock.mode {
                LockMode::Governance => "GOVERNANCE",
                LockMode::Compliance => "COMPLIANCE",
            };
            let until = chrono::Duration::from_std(lock.retain.0).ok().and_then(|retain| clock::now().checked_add_signed(retain));
            let until = until.unwrap_or(chrono::DateTime::<chrono::Utc>::MAX_UTC);
            headers.push(("x-amz-object-lock-mode", mode.to_owned()));
            headers.push(("x-amz-object-lock-retain-until-date", until.to_rfc3339_opts(SecondsFormat::Secs, true)));
        }
        headers
    }
}

/// What stands in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Object {
        key: String,
        bytes: u64,
    },
    /// Of a listing of one level; without the slash.
    Folder(String),
}

/// Objects are of ours, in a bucket.
pub struct Shelf {
    pub bucket: Bucket,
    pub manner: Manner,
}

/// Whoever writes an object, as its metadata tell.
pub fn new_writer() -> String {
    Tag::random().random_part().to_owned()
}

impl Shelf {
    /// Writes an object where none is.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn put_new(&self, key: &str, payload: Payload, kept: bool, writer: &str) -> Result<Added> {
        let ask = self.put(key, payload, kept, writer).header("if-none-match", "*");
        match self.bucket.ask(&ask).await {
            Ok(_) => Ok(Added::Done),
            Err(failure) if failure.is_doubtful() => match self.writer_of(key).await {
                Ok(Some(found)) if found == writer => Ok(Added::Done),
                _ if failure.is_taken() => Ok(Added::AlreadyThere),
                _ => Err(self.bucket.error("write", key, &failure)),
            },
            Err(failure) => Err(self.bucket.error("write", key, &failure)),
        }
    }

    /// Writes an object, whatever is there.
    ///
    /// # Errors
    /// The keys may not write over an object (`Undeletable`), or the store cannot be written.
    pub async fn put_over(&self, key: &str, payload: Payload, writer: &str) -> Result<()> {
        let put = self.bucket.ask(&self.put(key, payload, false, writer)).await;
        put.map(drop).map_err(|failure| self.undeletable("write over", key, &failure))
    }

    fn put(&self, key: &str, payload: Payload, kept: bool, writer: &str) -> Ask {
        let mut ask = Ask::new(Method::PUT, key).header(WRITER, writer).headers(self.manner.headers(kept));
        ask = ask.header("x-amz-checksum-sha256", payload.checksum());
        if kept && self.manner.object_lock.is_some() {
            ask = ask.headers(payload.md5().map(|md5| ("content-md5", md5)));
        }
        ask.payload(payload)
    }

    /// Who wrote an object; `None`: there is none.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn writer_of(&self, key: &str) -> Result<Option<String>> {
        match self.bucket.ask(&Ask::new(Method::HEAD, key)).await {
            Ok(response) => {
                let writer = response.headers().get(WRITER).and_then(|value| value.to_str().ok());
                Ok(Some(writer.unwrap_or_default().to_owned()))
            }
            Err(failure) if failure.is_absent() => Ok(None),
            Err(failure) => Err(self.bucket.error("look at", key, &failure)),
        }
    }

    /// A small object; `None`: the store answered that there is none.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        match self.bucket.bytes(&Ask::get(key)).await {
            Ok(bytes) => Ok(Some(Bytes::from(bytes))),
            Err(failure) if failure.is_absent() => Ok(None),
            Err(failure) => Err(self.bucket.error("read", key, &failure)),
        }
    }

    /// Deletes an object; one that is not there is no error.
    ///
    /// # Errors
    /// The keys may not, or a lock holds it (`Undeletable`), or the store cannot be written.
    pub async fn delete(&self, key: &str) -> Result<()> {
        match self.bucket.ask(&Ask::new(Method::DELETE, key)).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_absent() => Ok(()),
            Err(failure) => Err(self.undeletable("delete", key, &failure)),
        }
    }

    /// A failure to take something away: that the keys may not, or a lock holds it, is one of its own.
    fn undeletable(&self, doing: &str, key: &str, failure: &answers::Failure) -> Error {
        let error = self.bucket.error(doing, key, failure);
        if failure.is_denied() { Error { kind: Kind::Undeletable, ..error } } else { error }
    }

    /// Goes through what begins with a prefix, in the order of its names, until `visit` has enough.
    /// `flat`: everything below it, else one level.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn walk(
        &self,
        prefix: &str,
        flat: bool,
        after: Option<&str>,
        mut visit: impl FnMut(Seen) -> ControlFlow<()> + Send,
    ) -> Result<()> {
        let failed = |failure: &answers::Failure| self.bucket.error("list", prefix, failure);
        let mut token: Option<String> = None;
        loop {
            let mut ask = Ask::get("").query("list-type", "2").query("prefix", prefix).query("encoding-type", "url");
            if !flat {
                ask = ask.query("delimiter", "/");
            }
            ask = match (&token, after) {
                (Some(token), _) => ask.query("continuation-token", token),
                (None, Some(after)) => ask.query("start-after", after),
                (None, None) => ask,
            };
            let text = self.bucket.text(&ask).await.map_err(|failure| failed(&failure))?;
            let page: Page = answers::read(&text).map_err(|failure| failed(&failure))?;
            let mut seen: Vec<Seen> =
                page.contents.iter().map(|object| Seen::Object { key: page.plain(&object.key).into_owned(), bytes: object.size }).collect();
            seen.extend(
                page.common_prefixes.iter().map(|folder| Seen::Folder(page.plain(&folder.prefix).trim_end_matches('/').to_owned())),
            );
            for one in seen {
                if visit(one).is_break() {
                    return Ok(());
                }
            }
            token = page.next_continuation_token.filter(|_| page.is_truncated);
            if token.is_none() {
                return Ok(());
            }
        }
    }

    /// The keys below a prefix.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        self.walk(prefix, true, None, |seen| {
            if let Seen::Object { key, .. } = seen {
                keys.push(key);
            }
            ControlFlow::Continue(())
        })
        .await?;
        Ok(keys)
    }

    /// Aborts an upload of a file in parts, so that the parts cost nothing any more.
    ///
    /// # Errors
    /// The keys may not (`Undeletable`), or the store cannot be written.
    pub async fn abort(&self, key: &str, upload_id: &str) -> Result<()> {
        match self.bucket.ask(&Ask::new(Method::DELETE, key).query("uploadId", upload_id)).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_absent() => Ok(()),
            Err(failure) => Err(self.undeletable("abort the upload of", key, &failure)),
        }
    }

    /// Aborts what was begun below a prefix and is neither completed nor aborted. A key that may not
    /// list it leaves that to a lifecycle rule.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub async fn abort_below(&self, prefix: &str) -> Result<()> {
        let mut after: Option<(String, String)> = None;
        loop {
            let mut ask = Ask::get("").query("uploads", "").query("prefix", prefix);
            if let Some((key, upload_id)) = &after {
                ask = ask.query("key-marker", key).query("upload-id-marker", upload_id);
            }
            let page: Uploads = match self.bucket.text(&ask).await.and_then(|text| answers::read(&text)) {
                Ok(page) => page,
                Err(failure) if failure.is_denied() => return Ok(()),
                Err(failure) => return Err(self.bucket.error("list the uploads of", prefix, &failure)),
            };
            for begun in &page.begun {
                if begun.key.starts_with(prefix) {
                    self.abort(&begun.key, &begun.upload_id).await?;
                }
            }
            after = page.next_key_marker.zip(page.next_upload_id_marker).filter(|_| page.is_truncated);
            if after.is_none() {
                return Ok(());
            }
        }
    }
}
