//! packed bytes -> a folder: where backups are kept.

pub mod aside;
#[cfg(test)]
mod contract;
mod direct;
pub mod local;
#[cfg(test)]
mod memory;
pub mod original;
pub mod s3;
pub mod ssh;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::AsyncRead;

use crate::catalog::entry::Documents;
use crate::catalog::{Catalog, Id, Label};
use crate::error::Result;

/// Single objects beside the backups, such as segments of WAL. A key is a relative path whose parts
/// are plain names, such as `cluster/wal/00000001/000000010000000000000003.zst`.
#[async_trait]
pub trait Objects: Send + Sync {
    /// Writes an object, whole and durable when this returns; never replaces one.
    ///
    /// # Errors
    /// The store cannot be written; the object is not there.
    async fn put(&self, key: &str, bytes: Bytes) -> Result<Added>;

    /// An object. `None`: the store answered that there is none, which is another thing than no
    /// answer.
    ///
    /// # Errors
    /// The store cannot be read.
    async fn get(&self, key: &str) -> Result<Option<Bytes>>;

    /// The objects and folders right below a folder, in the order of their names; none where there
    /// is no folder. Unfinished ones do not show.
    ///
    /// # Errors
    /// The store cannot be read.
    async fn list(&self, folder: &str) -> Result<Vec<Listed>>;

    /// Removes an object; one that is not there is no error.
    ///
    /// # Errors
    /// The store cannot be written.
    async fn delete(&self, key: &str) -> Result<()>;
}

/// What stands in a folder of [`Objects`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    /// `None`: a folder.
    pub bytes: Option<u64>,
}

/// A place for backups. One folder a backup, whose name appears only when all of it is durable.
#[async_trait]
pub trait Store: Objects {
    /// Begins a backup. Nothing of it shows under its name before [`Upload::commit`].
    ///
    /// # Errors
    /// The store cannot be written.
    async fn begin(&self, id: &Id) -> Result<Box<dyn Upload>>;

    /// The names of the backups that have a folder here.
    ///
    /// # Errors
    /// The store cannot be read.
    async fn backups(&self) -> Result<Vec<String>>;

    /// The labels that a backup has here, whatever is in their folders, in their order.
    ///
    /// # Errors
    /// The store cannot be read.
    async fn labels(&self, backup: &str) -> Result<Vec<Label>>;

    /// The labels that are not free for a new backup: those that are there, and those under way,
    /// whoever makes them.
    ///
    /// # Errors
    /// The store cannot be read.
    async fn taken(&self, backup: &str) -> Result<Vec<Label>>;

    /// The JSON documents of one backup: manifest, proofs and pins.
    ///
    /// # Errors
    /// The store cannot be read.
    async fn documents(&self, id: &Id) -> Result<Documents>;

    /// The documents of several backups, in the order of their ids.
    ///
    /// # Errors
    /// The store cannot be read.
    async fn documents_of(&self, ids: Vec<Id>) -> Result<Vec<(Id, Documents)>> {
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            let documents = self.documents(&id).await?;
            found.push((id, documents));
        }
        Ok(found)
    }

    /// A file of a backup.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    async fn read(&self, id: &Id, name: &str) -> Result<Reader>;

    /// Adds a document to a backup, durable when this returns; never replaces one.
    ///
    /// # Errors
    /// There is one of that name (`AlreadyThere`), or the store cannot be written.
    async fn add_document(&self, id: &Id, name: &str, bytes: Bytes) -> Result<Added>;

    /// Removes what unfinished runs of ours left of a backup, and returns how many there were.
    /// No run of it may be under way.
    ///
    /// # Errors
    /// The store cannot be written.
    async fn sweep(&self, backup: &str) -> Result<usize>;

    /// Removes what unfinished runs of anybody left under a label: another installation that shares
    /// the store may have died over its slot. Who calls holds the lease of the slot.
    ///
    /// # Errors
    /// The store cannot be written.
    async fn clear(&self, id: &Id) -> Result<()>;

    /// Removes a backup: first it is none any more, then its files go. No run of it may be under way.
    ///
    /// # Errors
    /// The store cannot be written; what is left of it then is no backup, and is swept later.
    async fn remove(&self, id: &Id) -> Result<()>;

    /// Points `latest` at a label, where the store has links; `None` takes it away.
    ///
    /// # Errors
    /// The store cannot be written.
    async fn point_latest(&self, backup: &str, label: Option<Label>) -> Result<()>;

    /// The folder on this machine, if it is one: programs can open its files by themselves.
    fn folder(&self, id: &Id) -> Option<PathBuf>;
}

/// The bytes of a file.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    Done,
    AlreadyThere,
}

/// A backup under way.
#[async_trait]
pub trait Upload: Send {
    /// A new file.
    ///
    /// # Errors
    /// The store cannot be written.
    async fn create(&mut self, name: &str) -> Result<Box<dyn FileWriter>>;

    /// A folder for a program that writes files by itself.
    ///
    /// # Errors
    /// The store is none of this machine.
    async fn create_folder(&mut self, name: &str) -> Result<PathBuf>;

    /// Makes durable what a program wrote into such a folder.
    ///
    /// # Errors
    /// It is not durable: the run has failed.
    async fn seal_folder(&mut self, folder: &Path) -> Result<()>;

    /// A finished file of this upload, to look at it before the commit.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    async fn read(&mut self, name: &str) -> Result<Reader>;

    /// Writes the manifest and lets the backup appear under its name. When this returns it is
    /// complete and durable; when it fails it is not there.
    ///
    /// # Errors
    /// The name is taken, or the store cannot be written.
    async fn commit(self: Box<Self>, manifest: Bytes) -> Result<()>;

    /// Takes away what was written.
    async fn discard(self: Box<Self>);
}

/// A file under way.
#[async_trait]
pub trait FileWriter: Send {
    /// # Errors
    /// The store cannot be written.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Makes the file durable.
    ///
    /// # Errors
    /// It is not durable: a second try could not tell, the run has failed.
    async fn finish(self: Box<Self>) -> Result<()>;
}

/// How many folders are read in one go, and how many goes there are at a time.
const READS_IN_ONE: usize = 64;
const READS_MAX: usize = 4;

/// Reads what a store holds into a catalog: of one backup, or of all. All of it, or nothing.
///
/// # Errors
/// The store cannot be read.
pub async fn catalog_of(store: &dyn Store, name: &str, backup: Option<&str>, catalog: &mut Catalog) -> Result<()> {
    let backups = match backup {
        Some(backup) => vec![backup.to_owned()],
        None => store.backups().await?,
    };
    let mut found = Vec::new();
    for backup in backups {
        let ids: Vec<Id> = store.labels(&backup).await?.into_iter().map(|label| Id { backup: backup.clone(), label }).collect();
        let goes: Vec<Vec<Id>> = ids.chunks(READS_IN_ONE).map(<[Id]>::to_vec).collect();
        let reads = goes.into_iter().map(|ids| store.documents_of(ids));
        let mut read = futures_util::stream::iter(reads).buffered(READS_MAX);
        while let Some(some) = read.next().await.transpose()? {
            found.extend(some);
        }
    }
    for (id, documents) in &found {
        catalog.add(name, id, documents);
    }
    catalog.sort();
    Ok(())
}
