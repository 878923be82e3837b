//! A backup on its way to the other host.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use tokio_util::io::ReaderStream;

use super::link::Link;
use super::read::reader;
use super::spool::Spooled;
use super::tree::join;
use super::write::SshFile;
use crate::catalog::manifest::MANIFEST;
use crate::error::{Error, Kind, Result};
use crate::store::local::{failed, read_ahead};
use crate::store::{FileWriter, Reader, Upload};

/// Files of a folder that are on their way at a time: small ones are mostly waiting.
const FILES_MAX: usize = 4;

/// How much of a file is read at a time, in bytes.
const READ_BYTES: usize = 512 * 1024;

pub struct SshUpload {
    link: Arc<Link>,
    parent: String,
    partial: String,
    target: String,
    spooled: Spooled,
    /// Folders in it that files have brought along.
    folders: Vec<String>,
    /// Neither committed nor discarded.
    is_open: bool,
}

impl SshUpload {
    pub fn new(link: Arc<Link>, parent: String, partial: String, target: String, spooled: Spooled) -> Self {
        SshUpload { link, parent, partial, target, spooled, folders: Vec::new(), is_open: true }
    }

    async fn send(&self, file: &Path, path: String) -> Result<()> {
        let opened = std::fs::File::open(file).map_err(|error| failed("read", file, &error))?;
        let mut bytes = ReaderStream::with_capacity(read_ahead(opened), READ_BYTES);
        let mut writer = Box::new(SshFile::create(self.link.clone(), path).await?);
        while let Some(block) = bytes.next().await {
            writer.write(block.map_err(|error| failed("read", file, &error))?).await?;
        }
        writer.finish().await
    }

    async fn place(&self) -> Result<()> {
        self.link.rename_new("name", &self.partial, &self.target).await?;
        if let Err(error) = self.link.sync_folder(&self.parent).await {
            // The name shows, but a power cut might take it back: not a success. Under its former
            // name it is swept.
            let _ = self.link.rename_new("name", &self.target, &self.partial).await;
            return Err(error);
        }
        Ok(())
    }
}

#[async_trait]
impl Upload for SshUpload {
    async fn create(&mut self, name: &str) -> Result<Box<dyn FileWriter>> {
        let path = join(&self.partial, name);
        // A file of a directory archive brings its folder along.
        if let Some((folder, _)) = name.rsplit_once('/')
            && !self.folders.iter().any(|made| made == folder)
        {
            self.link.make_folders(&self.partial, &join(&self.partial, folder)).await?;
            self.folders.push(folder.to_owned());
        }
        Ok(Box::new(SshFile::create(self.link.clone(), path).await?))
    }

    async fn create_folder(&mut self, name: &str) -> Result<PathBuf> {
        self.spooled.create(name)
    }

    async fn seal_folder(&mut self, folder: &Path) -> Result<()> {
        let Some(name) = self.spooled.name(folder) else {
            return Err(Error::new(Kind::Store, format!("{} is no folder of this backup", folder.display())));
        };
        let to = join(&self.partial, name);
        self.link.make_new_folder(&to).await?;
        let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let entries = entries.map_err(|error| failed("list", folder, &error))?;
        let (this, to) = (&*self, to.as_str());
        let files = entries.into_iter().map(|entry| async move {
            let Ok(name) = entry.file_name().into_string() else {
                return Err(Error::new(Kind::Store, format!("{} has no name that can be kept", entry.path().display())));
            };
            this.send(&entry.path(), join(to, &name)).await
        });
        futures_util::stream::iter(files).buffer_unordered(FILES_MAX).try_for_each(|()| async { Ok(()) }).await?;
        self.link.sync_folder(to).await
    }

    async fn read(&mut self, name: &str) -> Result<Reader> {
        reader(self.link.clone(), join(&self.partial, name)).await
    }

    async fn commit(mut self: Box<Self>, manifest: Bytes) -> Result<()> {
        let mut file = self.create(MANIFEST).await?;
        file.write(manifest).await?;
        file.finish().await?;
        for folder in &self.folders {
            self.link.sync_folder(&join(&self.partial, folder)).await?;
        }
        self.link.sync_folder(&self.partial).await?;
        self.place().await?;
        self.is_open = false;
        Ok(())
    }

    async fn discard(mut self: Box<Self>) {
        self.is_open = false;
        remove(&self.link, &self.partial).await;
    }
}

async fn remove(link: &Link, partial: &str) {
    if let Err(error) = link.remove_all(partial).await {
        tracing::warn!(path = %link.place(partial), %error, "cannot remove what a failed run wrote; the next run will");
    }
}

impl Drop for SshUpload {
    fn drop(&mut self) {
        if let (true, Ok(runtime)) = (self.is_open, tokio::runtime::Handle::try_current()) {
            let (link, partial) = (self.link.clone(), std::mem::take(&mut self.partial));
            runtime.spawn(async move { remove(&link, &partial).await });
        }
    }
}
