//! Whether a bucket can be a store: what a run needs is done once, with a small object.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::S3Store;
use super::objects::{Seen, new_writer};
use super::payload::Payload;
use crate::error::{Error, Kind, Result};
use crate::store::Added;

/// What a store can do beyond what it must.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    /// The keys may delete.
    pub deletes: bool,
    /// The server refuses to write over an object when it is asked to (`If-None-Match: *`). Without
    /// that, two installations that share the store could write under one label.
    pub refuses: bool,
}

impl std::fmt::Display for Tried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.deletes { "objects can be deleted" } else { "nothing can be deleted: that is left to its lifecycle rules" })?;
        if !self.refuses {
            f.write_str("; it writes over what is there, so no other installation may share it")?;
        }
        Ok(())
    }
}

impl S3Store {
    /// Puts, reads, lists and deletes a small object.
    ///
    /// # Errors
    /// What of it does not work.
    pub async fn try_out(&self) -> Result<Tried> {
        const TEXT: &[u8] = b"pgvigil check\n";
        let begin = format!("{}.pgvigil-check-", self.place.root);
        let key = format!("{begin}{}", new_writer());
        let shelf = self.shelf();
        let put = async |writer: String| shelf.put_new(&key, Payload::from(Bytes::from_static(TEXT)), false, &writer).await;
        put(new_writer()).await?;
        let tried = async {
            let refuses = put(new_writer()).await? == Added::AlreadyThere;
            let wrong = |what: &str| Error::new(Kind::Store, format!("{} {what}", shelf.bucket.place(&key)));
            if shelf.get(&key).await?.as_deref() != Some(TEXT) {
                return Err(wrong("does not hold what was just written into it"));
            }
            let mut is_listed = false;
            let see = |seen| {
                is_listed |= matches!(&seen, Seen::Object { key: found, .. } if *found == key);
                ControlFlow::Continue(())
            };
            shelf.walk(&begin, true, None, see).await?;
            if !is_listed {
                return Err(wrong("was just written, and is in no listing").hint("a server whose listings lag behind cannot be a store"));
            }
            Ok(refuses)
        };
        let tried = tried.await;
        let deletes = match shelf.delete(&key).await {
            Ok(()) => true,
            Err(error) if error.kind == Kind::Undeletable => false,
            Err(error) => return Err(tried.err().unwrap_or(error)),
        };
        Ok(Tried { deletes, refuses: tried? })
    }
}
