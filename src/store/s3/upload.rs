//! A backup on its way into a bucket.
//!
//! A bucket has no rename, so a marker, LABEL/.partial, says whose unfinished work a label is. It is
//! put where none is and goes when the manifest is there. Whoever clears a label after a dead writer
//! first writes its own marker over it: a writer that was only paused finds it before and after its
//! manifest, and gives up.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::Place;
use super::objects::{Seen, new_writer};
use super::payload::Payload;
use super::writing::{Open, S3File, taken};
use crate::catalog::Id;
use crate::catalog::manifest::MANIFEST;
use crate::error::{Error, Kind, Result};

use crate::store::{Added, FileWriter, Reader, Upload};

/// Clones share it.
#[derive(Clone)]
struct Work {
    place: Arc<Place>,
    id: Id,
    /// Whose marker it is.
    writer: String,
    /// The files that were begun.
    names: Arc<Mutex<BTreeSet<String>>>,
    open: Open,
}

pub struct S3Upload {
    work: Work,
    /// Neither committed nor discarded.
    is_open: bool,
}

impl S3Upload {
    /// Takes a label, which must be free.
    pub async fn begin(place: Arc<Place>, id: &Id) -> Result<Self> {
        let work = Work { place, id: id.clone(), writer: new_writer(), names: Arc::default(), open: Arc::default() };
        let marker = work.place.marker(id);
        let owner = Payload::from(Bytes::from(format!("{}\n", work.place.owner)));
        if work.place.shelf.put_new(&marker, owner, false, &work.writer).await? == Added::AlreadyThere {
            return Err(taken(&work.place.shown(id)));
        }
        let mut is_free = true;
        let dir = work.place.dir(id);
        let walked = work.place.shelf.walk(&dir, true, None, |seen| {
            is_free &= matches!(&seen, Seen::Object { key, .. } if *key == marker);
            if is_free { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        match walked.await {
            Ok(()) if is_free => Ok(S3Upload { work, is_open: true }),
            looked => {
                let _ = work.place.shelf.delete(&marker).await;
                looked.and_then(|()| Err(taken(&work.place.shown(id))))
            }
        }
    }
}

impl Work {
    fn file(&self, name: &str) -> S3File {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        let place = &self.place;
        S3File::new(Arc::clone(place), place.file(&self.id, name), Arc::clone(&self.open))
    }

    async fn is_ours(&self) -> Result<bool> {
        let found = self.place.shelf.writer_of(&self.place.marker(&self.id)).await?;
        Ok(found.as_ref() == Some(&self.writer))
    }

    /// Whether every file that was written is there.
    async fn is_whole(&self) -> Result<bool> {
        let dir = self.place.dir(&self.id);
        let found = self.place.shelf.keys(&dir).await?;
        let found: BTreeSet<&str> = found.iter().filter_map(|key| key.strip_prefix(&dir)).collect();
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(names.iter().all(|name| found.contains(name.as_str())))
    }

    async fn commit(&self, manifest: Bytes) -> Result<()> {
        let place = &self.place;
        let label = || place.shown(&self.id);
        // Of a writer that was left open; what it wrote is none of the backup.
        if let Err(error) = self.abort_all().await {
            tracing::debug!(%error, "an upload that was left open stays");
        }
        if !self.is_ours().await? {
            return Err(taken(&label()));
        }
        let key = place.file(&self.id, MANIFEST);
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(MANIFEST.to_owned());
        if place.shelf.put_new(&key, Payload::from(manifest), true, &self.writer).await? == Added::AlreadyThere {
            return Err(taken(&label()));
        }
        // Somebody may have begun to clear the label between the look and the manifest, or be done.
        match place.shelf.writer_of(&place.marker(&self.id)).await? {
            Some(found) if found == self.writer => {}
            None if self.is_whole().await? => {}
            _ => {
                place.shelf.delete(&key).await?;
                return Err(taken(&label()));
            }
        }
        // A label with a manifest is complete, whatever markers lie beside it.
        if let Err(error) = place.shelf.delete(&place.marker(&self.id)).await {
            tracing::debug!(%error, "the marker of a finished backup stays");
        }
        Ok(())
    }

    async fn abort_all(&self) -> Result<()> {
        let open: BTreeMap<String, String> = self.open.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (upload_id, key) in open {
            self.place.shelf.abort(&key, &upload_id).await?;
            self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&upload_id);
        }
        Ok(())
    }

    /// Takes away what was written, as far as the label is still ours.
    async fn give_up(&self) {
        let given_up = async {
            self.abort_all().await?;
            if !self.is_ours().await? {
                return Ok(());
            }
            let dir = self.place.dir(&self.id);
            self.place.shelf.abort_below(&dir).await?;
            let names: Vec<String> = self.names.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
            // The manifest first, which an answer that was lost may have put there.
            let manifest = self.place.file(&self.id, MANIFEST);
            if self.place.shelf.writer_of(&manifest).await?.as_ref() == Some(&self.writer) {
                self.place.shelf.delete(&manifest).await?;
            }
            for name in names.iter().filter(|name| *name != MANIFEST) {
                self.place.shelf.delete(&self.place.file(&self.id, name)).await?;
            }
            self.place.shelf.delete(&self.place.marker(&self.id)).await
        };
        match given_up.await {
            Ok(()) => {}
            Err(error) if error.kind == Kind::Undeletable => {
                tracing::info!(%error, "what a failed run wrote stays in the store until its lifecycle rules remove it");
            }
            Err(error) => tracing::warn!(%error, "cannot remove what a failed run wrote; the next run will"),
        }
    }
}

#[async_trait]
impl Upload for S3Upload {
    async fn create(&mut self, name: &str) -> Result<Box<dyn FileWriter>> {
        Ok(Box::new(self.work.file(name)))
    }

    async fn create_folder(&mut self, _: &str) -> Result<PathBuf> {
        Err(Error::new(Kind::Store, "a bucket is no folder of this machine"))
    }

    async fn seal_folder(&mut self, _: &Path) -> Result<()> {
        Ok(())
    }

    async fn read(&mut self, name: &str) -> Result<Reader> {
        super::reading::open(Arc::clone(&self.work.place.shelf), self.work.place.file(&self.work.id, name)).await
    }

    async fn commit(mut self: Box<Self>, manifest: Bytes) -> Result<()> {
        let committed = self.work.commit(manifest).await;
        self.is_open = false;
        if committed.is_err() {
            self.work.give_up().await;
        }
        committed
    }

    async fn discard(mut self: Box<Self>) {
        self.is_open = false;
        self.work.give_up().await;
    }
}

impl Drop for S3Upload {
    fn drop(&mut self) {
        if std::mem::take(&mut self.is_open)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let work = self.work.clone();
            runtime.spawn(async move { work.give_up().await });
        }
    }
}
