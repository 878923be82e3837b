//! A folder of another host, by sftp. It looks like one of this machine: a run writes into
//! `.partial-LABEL-OWNER` beside the backups, and a rename that replaces nothing makes it a backup.

mod known_hosts;
mod link;
mod login;
mod read;
mod session;
mod tree;
mod upload;
mod write;

#[cfg(test)]
mod sshd;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::TimeDelta;
use futures_util::{StreamExt, TryStreamExt};
use russh_sftp::protocol::FileAttributes;

use super::local::PARTIAL;
use super::{Added, FileWriter, Listed, Objects, Reader, Store, Upload};
use crate::catalog::entry::Documents;
use crate::catalog::{Id, Label};
use crate::config::plan::SshPlace;
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::host::disk::Usage;
use crate::host::{Tag, clock};
use crate::wal::name::FOLDER as LOG;
use link::Link;
use login::Account;
use tree::join;
use upload::SshUpload;
use write::SshFile;

/// Single files that are under way longer are of the dead: nothing there tells who still lives.
const DEAD_AFTER: TimeDelta = TimeDelta::hours(1);

/// How many folders are read at a time.
const READS_MAX: usize = 16;

/// What a trial is called.
const CHECK: &str = "check";

/// Whether nothing was written into a single file or a trial for too long.
fn is_old(attributes: &FileAttributes) -> bool {
    let dead = (clock::now() - DEAD_AFTER).timestamp();
    attributes.mtime.is_some_and(|time| i64::from(time) < dead)
}

/// A store in a folder of another host. Clones share one connection.
#[derive(Clone)]
pub struct SshStore {
    link: Arc<Link>,
    root: String,
    /// Which `state_dir` the unfinished work of this program belongs to.
    owner: String,
}

impl SshStore {
    /// Connects only when it is used.
    pub fn new(place: &SshPlace, owner: String) -> Self {
        Self::with_agent(place, owner, std::env::var_os(login::AGENT).map(PathBuf::from))
    }

    /// With the socket of an agent, for keys that no file holds.
    fn with_agent(place: &SshPlace, owner: String, agent: Option<PathBuf>) -> Self {
        let written = place.at.path.to_string_lossy();
        let root = match written.trim_end_matches('/') {
            "" => "/".to_owned(),
            root => root.to_owned(),
        };
        let account = Account::of(&place.at, agent);
        SshStore { link: Arc::new(Link::new(account)), root, owner }
    }

    fn backup_dir(&self, backup: &str) -> String {
        join(&self.root, backup)
    }

    fn dir(&self, id: &Id) -> String {
        join(&self.backup_dir(&id.backup), &id.label.to_string())
    }

    fn partial(&self, what: &str) -> String {
        format!("{PARTIAL}{what}-{}", self.owner)
    }

    /// The name of a single file or folder under way, like no other.
    fn partial_once(&self, what: &str) -> String {
        self.partial(&format!("{what}.{}", Tag::random().random_part()))
    }

    /// How full the file system is that holds the store. `None`: the server does not tell.
    ///
    /// # Errors
    /// There is no way to the host, or no such folder.
    pub async fn usage(&self) -> Result<Option<Usage>> {
        self.link.usage(&self.root).await
    }

    /// Tries what a run needs there: to make, to write durably, to rename and to remove. Returns how
    /// many bytes are available to the account; `None`: the server does not tell.
    ///
    /// # Errors
    /// What does not work.
    pub async fn try_out(&self) -> Result<Option<u64>> {
        self.link.make_folders(&self.root, &self.root).await?;
        self.remove_dead_checks().await?;
        let [dir, moved] = [CHECK, CHECK].map(|what| join(&self.root, &self.partial_once(what)));
        let tried = async {
            self.link.make_new_folder(&dir).await?;
            let mut file = Box::new(SshFile::create(self.link.clone(), join(&dir, "file")).await?);
            file.write(Bytes::from_static(b"pgvigil check\n")).await?;
            file.finish().await?;
            self.link.rename_new("rename", &dir, &moved).await?;
            self.link.sync_folder(&self.root).await
        };
        let tried = tried.await;
        let removed = match (self.link.remove_all(&dir).await, self.link.remove_all(&moved).await) {
            (Ok(()), removed) | (removed, _) => removed,
        };
        tried.and(removed)?;
        Ok(self.usage().await?.map(|usage| usage.available))
    }

    /// Removes what is ours of the unfinished in a folder, where it begins with `what` and is of the dead.
    async fn remove_dead(&self, folder: &str, what: &str, is_dead: impl Fn(&FileAttributes) -> bool) -> Result<usize> {
        let (begin, end) = (format!("{PARTIAL}{what}"), format!("-{}", self.owner));
        self.remove_those(folder, |name, attributes| name.starts_with(&begin) && name.ends_with(&end) && is_dead(attributes)).await
    }

    async fn remove_those(&self, folder: &str, is_meant: impl Fn(&str, &FileAttributes) -> bool) -> Result<usize> {
        let mut removed = 0;
        for (name, attributes) in self.link.names(folder).await? {
            if is_meant(&name, &attributes) {
                self.link.remove_all(&join(folder, &name)).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Removes what a killed `check` left.
    async fn remove_dead_checks(&self) -> Result<usize> {
        self.remove_dead(&self.root, CHECK, is_old).await
    }

    /// Removes what was left of files of the log by whoever pushed them.
    async fn remove_dead_log(&self, log: &str) -> Result<usize> {
        let mut removed = 0;
        for (timeline, _) in self.link.names(log).await?.into_iter().filter(|(_, attributes)| attributes.is_dir()) {
            removed += self.remove_those(&join(log, &timeline), |name, attributes| name.starts_with(PARTIAL) && is_old(attributes)).await?;
        }
        Ok(removed)
    }

    /// The labels in a folder of a backup that are folders.
    async fn folders<T: std::str::FromStr>(&self, folder: &str) -> Result<Vec<T>> {
        let names = self.link.names(folder).await?;
        Ok(names.into_iter().filter(|(_, attributes)| attributes.is_dir()).filter_map(|(name, _)| name.parse().ok()).collect())
    }
}

#[async_trait]
impl Objects for SshStore {
    async fn put(&self, key: &str, bytes: Bytes) -> Result<Added> {
        let target = join(&self.root, key);
        let (dir, name) = target.rsplit_once('/').unwrap_or((&self.root, key));
        self.link.make_folders(&self.root, dir).await?;
        self.link.place_new(&join(dir, &self.partial_once(name)), &target, bytes).await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let path = join(&self.root, key);
        let found = self.link.whole(&path).await?;
        let folder = path.rsplit_once('/').map_or(".", |(folder, _)| folder);
        // A store whose disk is not mounted answers nothing.
        if found.is_none() && self.link.look(folder).await?.is_none() {
            return Err(Error::new(Kind::Store, format!("cannot read {}: there is no such folder", self.link.place(&path)))
                .hint("look whether the disk of the store is mounted on that host"));
        }
        Ok(found)
    }

    async fn list(&self, folder: &str) -> Result<Vec<Listed>> {
        let names = self.link.names(&join(&self.root, folder)).await?;
        let listed = |(name, attributes): (String, FileAttributes)| {
            let bytes = if attributes.is_dir() {
                None
            } else if attributes.is_regular() {
                attributes.size
            } else {
                return None;
            };
            Some(Listed { name, bytes })
        };
        Ok(names.into_iter().filter(|(name, _)| !name.starts_with('.')).filter_map(listed).collect())
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.link.remove_file(&join(&self.root, key)).await
    }
}

#[async_trait]
impl Store for SshStore {
    async fn begin(&self, id: &Id) -> Result<Box<dyn Upload>> {
        let parent = self.backup_dir(&id.backup);
        self.link.make_folders(&self.root, &parent).await?;
        let partial = join(&parent, &self.partial(&id.label.to_string()));
        self.link.make_new_folder(&partial).await?;
        Ok(Box::new(SshUpload::new(self.link.clone(), parent, partial, self.dir(id))))
    }

    async fn backups(&self) -> Result<Vec<String>> {
        Ok(self.folders::<Name>(&self.root).await?.into_iter().map(|name| name.to_string()).collect())
    }

    async fn labels(&self, backup: &str) -> Result<Vec<Label>> {
        self.folders(&self.backup_dir(backup)).await
    }

    async fn taken(&self, backup: &str) -> Result<Vec<Label>> {
        let label = |name: &String| name.strip_prefix(PARTIAL).unwrap_or(name).split('-').next()?.parse().ok();
        Ok(self.link.names(&self.backup_dir(backup)).await?.iter().filter_map(|(name, _)| label(name)).collect())
    }

    async fn documents(&self, id: &Id) -> Result<Documents> {
        self.link.documents(&self.dir(id)).await
    }

    async fn documents_of(&self, ids: Vec<Id>) -> Result<Vec<(Id, Documents)>> {
        let reads = ids.into_iter().map(|id| async move { self.documents(&id).await.map(|documents| (id, documents)) });
        futures_util::stream::iter(reads).buffered(READS_MAX).try_collect().await
    }

    async fn read(&self, id: &Id, name: &str) -> Result<Reader> {
        read::reader(self.link.clone(), join(&self.dir(id), name)).await
    }

    async fn add_document(&self, id: &Id, name: &str, bytes: Bytes) -> Result<Added> {
        let partial = join(&self.backup_dir(&id.backup), &self.partial_once(name));
        self.link.place_new(&partial, &join(&self.dir(id), name), bytes).await
    }

    async fn sweep(&self, backup: &str) -> Result<usize> {
        self.remove_dead_checks().await?;
        // A folder is of a run, and `latest` under way of its end: none goes on. Where `latest` points
        // to is not touched.
        let is_dead = |attributes: &FileAttributes| attributes.is_dir() || attributes.is_symlink() || is_old(attributes);
        let swept = self.remove_dead(&self.backup_dir(backup), "", is_dead).await?;
        Ok(swept + self.remove_dead_log(&join(&self.backup_dir(backup), LOG)).await?)
    }

    async fn clear(&self, id: &Id) -> Result<()> {
        let dir = self.backup_dir(&id.backup);
        let of_label = format!("{PARTIAL}{}-", id.label);
        self.remove_those(&dir, |name, _| name.starts_with(&of_label)).await.map(drop)
    }

    async fn remove(&self, id: &Id) -> Result<()> {
        let parent = self.backup_dir(&id.backup);
        // Under the name of unfinished work it is no backup in one step, manifest and all, and is
        // swept should we die on the way. What an earlier removal left has that name as well.
        let partial = join(&parent, &self.partial(&id.label.to_string()));
        self.link.remove_all(&partial).await?;
        self.link.rename_new("remove", &self.dir(id), &partial).await?;
        self.link.sync_folder(&parent).await?;
        self.link.remove_all(&partial).await
    }

    async fn point_latest(&self, backup: &str, label: Option<Label>) -> Result<()> {
        let dir = self.backup_dir(backup);
        self.link.point(&join(&dir, "latest"), &join(&dir, &self.partial("latest")), label.map(|label| label.to_string())).await
    }

    fn folder(&self, _: &Id) -> Option<PathBuf> {
        None
    }
}
