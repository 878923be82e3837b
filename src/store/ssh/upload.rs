//! A backup on its way to the other host.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::link::Link;
use super::read::reader;
use super::tree::join;
use super::write::SshFile;
use crate::catalog::manifest::MANIFEST;
use crate::error::{Error, Kind, Result};
use crate::store::{FileWriter, Reader, Upload};

pub struct SshUpload {
    link: Arc<Link>,
    parent: String,
    partial: String,
    target: String,
    /// Folders in it that files have brought along.
    folders: Vec<String>,
    /// Neither committed nor discarded.
    is_open: bool,
}

impl SshUpload {
    pub fn new(link: Arc<Link>, parent: String, partial: String, target: String) -> Self {
        SshUpload { link, parent, partial, target, folders: Vec::new(), is_open: true }
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

    async fn create_folder(&mut self, _: &str) -> Result<PathBuf> {
        Err(Error::new(Kind::Store, "a folder of another host is none of this machine"))
    }

    async fn seal_folder(&mut self, _: &Path) -> Result<()> {
        Ok(())
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
