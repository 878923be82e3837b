//! A backup's copies in its other stores: what each of them still has to receive is copied on, byte by
//! byte, and read back there.

use std::sync::atomic::Ordering;

use bytes::BytesMut;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use crate::catalog::entry::newest_document;
use crate::catalog::manifest::MANIFEST;
use crate::catalog::{Catalog, Entry, FileEntry, Id, Rung};
use crate::config::Plan;
use crate::config::plan::Backup;
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::host::clock;
use crate::job::progress::Progress;
use crate::job::verify::{self, Opened};
use crate::job::{physical, prune, stores};
use crate::keys::Identities;
use crate::pack::packer::{Meter, hex};
use crate::state::copies::copy_lock;
use crate::state::{History, Outcome, State};
use crate::store::{Store, Upload};
use crate::verify::stored::Stored;

/// How much is read at a time, in bytes.
const READ_BYTES: usize = 512 * 1024;

/// The work of bringing one store up to date with the others of a backup.
pub struct Spreading<'a> {
    pub plan: &'a Plan,
    pub state: &'a State,
    pub history: &'a History,
    pub backup: &'a Backup,
    pub store: &'a Name,
    /// The caller holds the lock of the backup: its own run is over.
    pub has_lock: bool,
    pub progress: &'a Progress,
    pub cancel: &'a CancellationToken,
}

impl Spreading<'_> {
    /// Copies everything that the store still has to receive, newest first, and returns how many that
    /// were.
    ///
    /// # Errors
    /// A store cannot be read or written; or somebody else copies to it (`Busy`). What came before is
    /// there.
    pub async fn spread(&self) -> Result<usize> {
        let (backup, store_name) = (self.backup.name.as_str(), self.store.as_str());
        let Some(_lock) = self.state.lock(&copy_lock(backup, store_name))? else {
            return Err(Error::new(Kind::Busy, format!("{backup} is being copied to {store_name} already")).hint("wait for it"));
        };
        self.history.end_broken_copies(backup, store_name, clock::now())?;
        self.bring().await.map_err(|error| error.context(format_args!("copying {backup} to store {store_name}")))
    }

    async fn bring(&self) -> Result<usize> {
        let (backup, store_name) = (self.backup.name.as_str(), self.store.as_str());
        let store = stores::open(&self.plan.stores[self.store], self.state.owner())?;
        // A store that was the primary before an edit may still get a dump.
        let no_run = if self.has_lock { None } else { self.state.lock(backup)? };
        if self.has_lock || no_run.is_some() {
            store.sweep(backup).await?;
        }
        drop(no_run);
        let mut catalog = stores::catalog_of_backup(self.plan, self.state.owner(), self.backup).await?;
        if let Some((_, error)) = catalog.silent.iter().find(|(name, _)| name == store_name) {
            return Err(error.clone());
        }
        let received = prune::received(self.history, self.backup, &catalog)?;
        let mut done = 0;
        // Base backups come from the primary.
        let awaited = if prune::receivers(self.backup).any(|store| store == self.store) {
            prune::awaited_by(self.plan, self.backup, self.store, &catalog, &received, clock::now())
        } else {
            Vec::new()
        };
        for id in awaited {
            let row = self.history.begin_copy(backup, &id.to_string(), store_name, clock::now())?;
            let copied = tokio::select! {
                copied = self.one(&*store, &catalog, &id) => copied,
                () = self.cancel.cancelled() => Err(Error::new(Kind::Cancelled, "told to stop")),
            };
            let outcome = match &copied {
                Ok(()) => Outcome::Ok,
                Err(error) if error.kind == Kind::Cancelled => Outcome::Cancelled,
                Err(_) => Outcome::Failed,
            };
            let why = copied.as_ref().err().map(|error| error.message.clone());
            self.history.end(row, clock::now(), outcome, why.as_deref(), Some(&id.to_string()), true)?;
            copied.map_err(|error| error.context(&id))?;
            tracing::info!(%id, store = store_name, "copied and read back");
            done += 1;
        }
        if done > 0 {
            catalog = stores::catalog_of_backup(self.plan, self.state.owner(), self.backup).await?;
            prune::received(self.history, self.backup, &catalog)?;
        }
        if self.backup.physical.as_ref().is_some_and(|physical| physical.wal.is_some()) {
            tokio::select! {
                spread = physical::spread::spread(self.plan, self.backup, self.store, &catalog, &*store, self.state.owner()) => spread.map(drop)?,
                () = self.cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "told to stop")),
            }
        }
        Ok(done)
    }

    /// Copies one backup from the first store that has it whole.
    async fn one(&self, target: &dyn Store, catalog: &Catalog, id: &Id) -> Result<()> {
        let entry = catalog.entries.iter().find(|entry| entry.id == *id);
        let entry = entry.ok_or_else(|| Error::new(Kind::NotFound, format!("{id} is in no store")))?;
        let is_good = |name: &&Name| *name != self.store && entry.rung_in(name.as_str()).is_some_and(Rung::is_good);
        let mut last = None;
        for name in self.backup.stores.iter().filter(is_good) {
            let source = stores::open(&self.plan.stores[name], self.state.owner())?;
            let meter = self.progress.restart(format!("copying {id} to {}", self.store), entry.manifest.bytes());
            match self.copy(&*source, target, entry, &meter).await {
                Ok(()) => return self.prove(target, entry).await,
                Err(error) if error.kind == Kind::Damaged => {
                    // The copy that it came from has lost its rung; that is told, and another may do.
                    tracing::error!(%id, store = %name, %error, "cannot be copied on");
                    let before = entry.rung_in(name.as_str());
                    verify::verify(self.plan, stored(&*source, entry, &Identities::default()), before, None, self.progress).await?;
                    verify::point_latest(self.plan, &*source, name.as_str(), &id.backup).await?;
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::new(Kind::NotFound, format!("no store holds a good copy of {id}"))))
    }

    async fn copy(&self, source: &dyn Store, target: &dyn Store, entry: &Entry, meter: &Meter) -> Result<()> {
        let documents = source.documents(&entry.id).await?;
        let manifest = documents.iter().find(|(name, _)| name == MANIFEST).map(|(_, bytes)| bytes.clone());
        let manifest = manifest.ok_or_else(|| Error::new(Kind::Damaged, format!("{}: its manifest is gone", entry.id)))?;
        let mut upload = target.begin(&entry.id).await?;
        for file in &entry.manifest.files {
            if let Err(error) = copy_file(source, &mut *upload, &entry.id, file, meter).await {
                upload.discard().await;
                return Err(error);
            }
        }
        // The very bytes: they may be signed.
        upload.commit(manifest).await?;
        // What is held here is held there, or it would be deleted there, and come again and again.
        if let Some((name, bytes)) = newest_document("pin", &documents) {
            target.add_document(&entry.id, name, bytes.clone()).await?;
        }
        Ok(())
    }

    /// From `written` to `readable`, in this store. Its archives are those that were opened before:
    /// the hashes say so.
    async fn prove(&self, target: &dyn Store, entry: &Entry) -> Result<()> {
        let opened = Some(Opened::default());
        let proven = verify::verify(self.plan, stored(target, entry, &Identities::default()), None, opened, self.progress).await?;
        verify::point_latest(self.plan, target, self.store.as_str(), &entry.id.backup).await?;
        if proven.proof.rung == Rung::Bad {
            return Err(Error::new(Kind::Store, format!("what was stored does not read back: {}", proven.proof.errors.join("; ")))
                .hint("look at the disk of the other store and the way to it; it is told until a good copy is there"));
        }
        Ok(())
    }
}

/// A copy as it lies in a store. What is encrypted goes along as it is: hashes need no key.
fn stored<'a>(store: &'a dyn Store, entry: &'a Entry, keys: &'a Identities) -> Stored<'a> {
    Stored { store, id: &entry.id, manifest: &entry.manifest, keys }
}

/// Copies a file, and holds what goes by against its hash.
async fn copy_file(source: &dyn Store, upload: &mut dyn Upload, id: &Id, file: &FileEntry, meter: &Meter) -> Result<()> {
    let mut reader = source.read(id, &file.name).await?;
    let mut writer = upload.create(&file.name).await?;
    let (mut hash, mut bytes) = (Sha256::new(), 0u64);
    loop {
        let mut block = BytesMut::with_capacity(READ_BYTES);
        while block.len() < READ_BYTES {
            match reader.read_buf(&mut block).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Err(Error::new(Kind::Store, format!("cannot read {id}/{}: {error}", file.name))),
            }
        }
        if block.is_empty() {
            break;
        }
        hash.update(&block);
        bytes += block.len() as u64;
        meter.raw.fetch_add(block.len() as u64, Ordering::Relaxed);
        meter.packed.fetch_add(block.len() as u64, Ordering::Relaxed);
        writer.write(block.freeze()).await?;
    }
    if bytes != file.bytes || hex(&hash.finalize()) != file.sha256 {
        return Err(Error::new(Kind::Damaged, format!("{id}/{}: its bytes are not what the manifest says", file.name)));
    }
    writer.finish().await
}
