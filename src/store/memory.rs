//! The fake: a store in memory that fails when it is told to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Added, FileWriter, Listed, Objects, Reader, Store, Upload};
use crate::catalog::entry::Documents;
use crate::catalog::{Id, Label};
use crate::error::{Error, Kind, Result};

type Files = BTreeMap<String, Bytes>;

#[derive(Default)]
struct Inside {
    folders: BTreeMap<Id, Files>,
    objects: Files,
    calls: usize,
    /// The call, counted from 1, that fails.
    fail_at: Option<usize>,
}

/// A store in memory. Clones share it.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Inside>>);

impl MemoryStore {
    /// Lets the n-th of the calls that write fail.
    pub fn fail_at(&self, call: usize) {
        self.0.lock().unwrap().fail_at = Some(call);
    }

    fn call(&self) -> Result<()> {
        let mut inside = self.0.lock().unwrap();
        inside.calls += 1;
        if inside.fail_at == Some(inside.calls) {
            return Err(Error::new(Kind::Store, "told to fail"));
        }
        Ok(())
    }
}

#[async_trait]
impl Objects for MemoryStore {
    async fn put(&self, key: &str, bytes: Bytes) -> Result<Added> {
        self.call()?;
        let mut inside = self.0.lock().unwrap();
        if inside.objects.contains_key(key) {
            return Ok(Added::AlreadyThere);
        }
        inside.objects.insert(key.to_owned(), bytes);
        Ok(Added::Done)
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        Ok(self.0.lock().unwrap().objects.get(key).cloned())
    }

    async fn list(&self, folder: &str) -> Result<Vec<Listed>> {
        let inside = self.0.lock().unwrap();
        let below = inside.objects.iter().filter_map(|(key, bytes)| Some((key.strip_prefix(folder)?.strip_prefix('/')?, bytes)));
        let mut listed: Vec<Listed> = below
            .map(|(rest, bytes)| match rest.split_once('/') {
                Some((folder, _)) => Listed { name: folder.to_owned(), bytes: None },
                None => Listed { name: rest.to_owned(), bytes: Some(bytes.len() as u64) },
            })
            .collect();
        listed.dedup();
        Ok(listed)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.call()?;
        self.0.lock().unwrap().objects.remove(key);
        Ok(())
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn begin(&self, id: &Id) -> Result<Box<dyn Upload>> {
        self.call()?;
        Ok(Box::new(MemoryUpload { store: self.clone(), id: id.clone(), files: Arc::default() }))
    }

    async fn backups(&self) -> Result<Vec<String>> {
        let mut names: Vec<_> = self.0.lock().unwrap().folders.keys().map(|id| id.backup.clone()).collect();
        names.dedup();
        Ok(names)
    }

    async fn labels(&self, backup: &str) -> Result<Vec<Label>> {
        Ok(self.0.lock().unwrap().folders.keys().filter(|id| id.backup == backup).map(|id| id.label).collect())
    }

    async fn taken(&self, backup: &str) -> Result<Vec<Label>> {
        self.labels(backup).await
    }

    async fn documents(&self, id: &Id) -> Result<Documents> {
        let inside = self.0.lock().unwrap();
        let files = inside.folders.get(id).cloned().unwrap_or_default();
        Ok(files.into_iter().filter(|(name, _)| Path::new(name).extension().is_some_and(|end| end == "json")).collect())
    }

    async fn read(&self, id: &Id, name: &str) -> Result<Reader> {
        let inside = self.0.lock().unwrap();
        let bytes = inside.folders.get(id).and_then(|files| files.get(name)).cloned();
        let bytes = bytes.ok_or_else(|| Error::new(Kind::Store, "no such file"))?;
        Ok(Box::new(std::io::Cursor::new(bytes)))
    }

    async fn add_document(&self, id: &Id, name: &str, bytes: Bytes) -> Result<Added> {
        self.call()?;
        let mut inside = self.0.lock().unwrap();
        let files = inside.folders.get_mut(id).ok_or_else(|| Error::new(Kind::Store, "no such backup"))?;
        if files.contains_key(name) {
            return Ok(Added::AlreadyThere);
        }
        files.insert(name.to_owned(), bytes);
        Ok(Added::Done)
    }

    async fn sweep(&self, _: &str) -> Result<usize> {
        Ok(0)
    }

    async fn clear(&self, _: &Id) -> Result<()> {
        self.call()
    }

    async fn remove(&self, id: &Id) -> Result<()> {
        self.call()?;
        self.0.lock().unwrap().folders.remove(id).map(drop).ok_or_else(|| Error::new(Kind::Store, "no such backup"))
    }

    async fn point_latest(&self, _: &str, _: Option<Label>) -> Result<()> {
        self.call()
    }

    fn folder(&self, _: &Id) -> Option<PathBuf> {
        None
    }
}

struct MemoryUpload {
    store: MemoryStore,
    id: Id,
    files: Arc<Mutex<Files>>,
}

#[async_trait]
impl Upload for MemoryUpload {
    async fn create(&mut self, name: &str) -> Result<Box<dyn FileWriter>> {
        self.store.call()?;
        Ok(Box::new(MemoryFile { store: self.store.clone(), files: Arc::clone(&self.files), name: name.to_owned(), bytes: Vec::new() }))
    }

    async fn create_folder(&mut self, _: &str) -> Result<PathBuf> {
        Err(Error::new(Kind::Store, "no folder in memory"))
    }

    async fn seal_folder(&mut self, _: &Path) -> Result<()> {
        Ok(())
    }

    async fn read(&mut self, name: &str) -> Result<Reader> {
        let bytes = self.files.lock().unwrap().get(name).cloned();
        Ok(Box::new(std::io::Cursor::new(bytes.ok_or_else(|| Error::new(Kind::Store, "no such file"))?)))
    }

    async fn commit(self: Box<Self>, manifest: Bytes) -> Result<()> {
        self.store.call()?;
        let mut files = self.files.lock().unwrap().clone();
        files.insert("manifest.json".to_owned(), manifest);
        let mut inside = self.store.0.lock().unwrap();
        if inside.folders.contains_key(&self.id) {
            return Err(Error::new(Kind::Store, "the name is taken"));
        }
        inside.folders.insert(self.id.clone(), files);
        Ok(())
    }

    async fn discard(self: Box<Self>) {}
}

struct MemoryFile {
    store: MemoryStore,
    files: Arc<Mutex<Files>>,
    name: String,
    bytes: Vec<u8>,
}

#[async_trait]
impl FileWriter for MemoryFile {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.store.call()?;
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        self.store.call()?;
        self.files.lock().unwrap().insert(self.name.clone(), Bytes::from(self.bytes.clone()));
        Ok(())
    }
}
