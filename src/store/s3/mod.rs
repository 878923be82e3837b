//! A bucket of an S3 server.
//!
//! The folders of other stores are prefixes of keys here: PREFIX/BACKUP/LABEL/FILE. What is under a
//! label is a backup when its manifest is there, which is put last, and no object is ever written over
//! another.

mod answers;
mod bucket;
#[cfg(test)]
mod faults;
mod objects;
mod parts;
mod payload;
#[cfg(test)]
mod proxy;
mod reading;
#[cfg(test)]
mod tests;
mod try_out;
mod upload;
mod writing;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use aws_credential_types::Credentials;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};

use self::bucket::{Address, Bucket, Patience};
use self::objects::{Manner, Seen, Shelf, new_writer};
use self::parts::Parts;
use self::payload::Payload;
use self::upload::S3Upload;
use super::{Added, Listed, Objects, Reader, Store, Upload};
use crate::catalog::entry::Documents;
use crate::catalog::manifest::MANIFEST;
use crate::catalog::{Id, Label};
use crate::config::file::Addressing;
use crate::config::plan::S3Place;
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::host::secret;

/// Says under a label that it is unfinished, and whose.
const MARKER: &str = ".partial";

/// What servers other than AWS take as well.
const REGION: &str = "us-east-1";

/// How many small requests are under way at a time.
const REQUESTS_MAX: usize = 16;

/// A store in a bucket.
pub struct S3Store {
    place: Arc<Place>,
}

/// Where the objects of a store are.
struct Place {
    shelf: Arc<Shelf>,
    /// In front of every key: empty, or with a slash at its end.
    root: String,
    /// Which `state_dir` the unfinished work of this program belongs to.
    owner: String,
    parts: Parts,
    /// A folder of this machine where large parts wait.
    spool: PathBuf,
}

impl Place {
    fn backup_dir(&self, backup: &str) -> String {
        format!("{}{backup}/", self.root)
    }

    fn dir(&self, id: &Id) -> String {
        format!("{}{}/", self.backup_dir(&id.backup), id.label)
    }

    fn file(&self, id: &Id, name: &str) -> String {
        format!("{}{name}", self.dir(id))
    }

    fn marker(&self, id: &Id) -> String {
        self.file(id, MARKER)
    }

    /// A label as people write it.
    fn shown(&self, id: &Id) -> String {
        self.shelf.bucket.place(&self.dir(id))
    }
}

impl S3Store {
    /// Prepares the way to a store; nothing is sent yet. `owner` names the `state_dir` that unfinished
    /// work belongs to.
    ///
    /// # Errors
    /// A secret or the certificates are not to be had.
    pub fn new(name: &str, at: &S3Place, owner: String) -> Result<Self> {
        Self::with(name, at, owner, Parts::default(), Patience::default())
    }

    fn with(name: &str, at: &S3Place, owner: String, parts: Parts, patience: Patience) -> Result<Self> {
        let section = format!("stores.{name}");
        let secret = |key: &str, given: Option<&_>| {
            let key = format!("{section}.{key}");
            match given {
                Some(given) => secret::resolve(&key, given),
                None => Err(Error::new(Kind::Secret, format!("{key} is missing")).hint("add it to the store")),
            }
        };
        let session_token = at.session_token.as_ref().map(|given| secret("session_token", Some(given))).transpose()?;
        let credentials = Credentials::new(
            secret("access_key_id", at.access_key_id.as_ref())?.reveal(),
            secret("secret_access_key", at.secret_access_key.as_ref())?.reveal(),
            session_token.map(|token| token.reveal().to_owned()),
            None,
            "pgvigil",
        );
        let prefix = at.at.prefix.as_deref().unwrap_or_default().trim_matches('/');
        let bucket = Bucket::new(section, address(&at.at), credentials, at.at.ca_file.as_deref(), patience)?;
        let manner = Manner { sse: at.at.sse.clone(), sse_kms_key_id: at.at.sse_kms_key_id.clone(), object_lock: at.at.object_lock };
        let place = Place {
            shelf: Arc::new(Shelf { bucket, manner }),
            root: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            owner,
            parts,
            spool: at.spool.clone(),
        };
        Ok(S3Store { place: Arc::new(place) })
    }

    fn shelf(&self) -> &Shelf {
        &self.place.shelf
    }

    /// What lies under the labels of a backup from one label on, until `visit` has enough.
    async fn walk_labels(
        &self,
        backup: &str,
        from: Option<Label>,
        mut visit: impl FnMut(Label, &str) -> ControlFlow<()> + Send,
    ) -> Result<()> {
        let dir = self.place.backup_dir(backup);
        // Without its last letter, a label is less than everything under it, however a server sorts.
        let after = from.map(|label| format!("{dir}{label}").trim_end_matches('Z').to_owned());
        self.shelf()
            .walk(&dir, true, after.as_deref(), |seen| {
                let Seen::Object { key, .. } = seen else { return ControlFlow::Continue(()) };
                let rest = key.strip_prefix(&dir).unwrap_or_default();
                // Labels begin with a digit; segments of WAL stand behind them.
                if rest.starts_with(|c: char| c > '9') {
                    return ControlFlow::Break(());
                }
                match rest.split_once('/').and_then(|(label, name)| Some((label.parse().ok()?, name))) {
                    Some((label, name)) => visit(label, name),
                    None => ControlFlow::Continue(()),
                }
            })
            .await
    }

    /// Deletes everything under a label, its marker last: should we die on the way, it still says
    /// whose the rest is.
    async fn delete_label(&self, id: &Id) -> Result<()> {
        let (dir, marker) = (self.place.dir(id), self.place.marker(id));
        self.shelf().abort_below(&dir).await?;
        loop {
            let mut keys = self.shelf().keys(&dir).await?;
            keys.retain(|key| *key != marker);
            if keys.is_empty() {
                return self.shelf().delete(&marker).await;
            }
            // Without it the label is no backup, whatever else is still there.
            let manifest = self.place.file(id, MANIFEST);
            if keys.contains(&manifest) {
                self.shelf().delete(&manifest).await?;
                keys.retain(|key| *key != manifest);
            }
            let deletes = keys.into_iter().map(|key| async move { self.shelf().delete(&key).await });
            let deletes: Vec<_> = deletes.collect();
            futures_util::stream::iter(deletes).buffer_unordered(REQUESTS_MAX).try_collect::<()>().await?;
        }
    }

    /// Writes our marker under a label, over any other.
    async fn take(&self, id: &Id) -> Result<()> {
        let owner = Payload::from(Bytes::from(format!("{}\n", self.place.owner)));
        self.shelf().put_over(&self.place.marker(id), owner, &new_writer()).await
    }
}

/// Where the bucket of a store is.
fn address(at: &crate::config::file::S3) -> Address {
    let region = at.region.clone().unwrap_or_else(|| REGION.to_owned());
    let endpoint = match &at.endpoint {
        Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
        None => format!("https://s3.{region}.amazonaws.com"),
    };
    // The certificate of AWS covers one name in front of its own.
    let is_label = !at.bucket.contains('.');
    let addressing = at.addressing.unwrap_or(if at.endpoint.is_none() && is_label { Addressing::Host } else { Addressing::Path });
    let base = match (addressing, endpoint.split_once("://")) {
        (Addressing::Host, Some((scheme, host))) => format!("{scheme}://{}.{host}", at.bucket),
        _ => format!("{endpoint}/{}", at.bucket),
    };
    Address { base, bucket: at.bucket.clone(), region }
}

#[async_trait]
impl Objects for S3Store {
    async fn put(&self, key: &str, bytes: Bytes) -> Result<Added> {
        self.shelf().put_new(&format!("{}{key}", self.place.root), Payload::from(bytes), true, &new_writer()).await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        self.shelf().get(&format!("{}{key}", self.place.root)).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<Listed>> {
        let dir = self.place.backup_dir(folder);
        let mut listed = Vec::new();
        self.shelf()
            .walk(&dir, false, None, |seen| {
                let (key, bytes) = match seen {
                    Seen::Object { key, bytes } => (key, Some(bytes)),
                    Seen::Folder(key) => (key, None),
                };
                match key.strip_prefix(&dir) {
                    Some(name) if !name.is_empty() && !name.starts_with('.') => listed.push(Listed { name: name.to_owned(), bytes }),
                    _ => {}
                }
                ControlFlow::Continue(())
            })
            .await?;
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.shelf().delete(&format!("{}{key}", self.place.root)).await
    }
}

#[async_trait]
impl Store for S3Store {
    async fn begin(&self, id: &Id) -> Result<Box<dyn Upload>> {
        Ok(Box::new(S3Upload::begin(Arc::clone(&self.place), id).await?))
    }

    async fn backups(&self) -> Result<Vec<String>> {
        let root = &self.place.root;
        let mut names = Vec::new();
        self.shelf()
            .walk(root, false, None, |seen| {
                if let Seen::Folder(key) = seen {
                    names.extend(key.strip_prefix(root).filter(|name| name.parse::<Name>().is_ok()).map(str::to_owned));
                }
                ControlFlow::Continue(())
            })
            .await?;
        let mut backups = Vec::new();
        for name in names {
            let mut has_one = false;
            self.walk_labels(&name, None, |_, file| {
                has_one = file == MANIFEST;
                if has_one { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .await?;
            backups.extend(has_one.then_some(name));
        }
        Ok(backups)
    }

    async fn labels(&self, backup: &str) -> Result<Vec<Label>> {
        let mut labels = BTreeSet::new();
        self.walk_labels(backup, None, |label, name| {
            if name == MANIFEST {
                labels.insert(label);
            }
            ControlFlow::Continue(())
        })
        .await?;
        Ok(labels.into_iter().collect())
    }

    async fn taken(&self, backup: &str) -> Result<Vec<Label>> {
        let mut labels = BTreeSet::new();
        self.walk_labels(backup, None, |label, _| {
            labels.insert(label);
            ControlFlow::Continue(())
        })
        .await?;
        Ok(labels.into_iter().collect())
    }

    async fn documents(&self, id: &Id) -> Result<Documents> {
        let mut found = self.documents_of(vec![id.clone()]).await?;
        Ok(found.pop().map(|(_, documents)| documents).unwrap_or_default())
    }

    async fn documents_of(&self, ids: Vec<Id>) -> Result<Vec<(Id, Documents)>> {
        let mut names: BTreeMap<Id, Vec<String>> = ids.iter().map(|id| (id.clone(), Vec::new())).collect();
        let backups: BTreeSet<&String> = ids.iter().map(|id| &id.backup).collect();
        for backup in backups {
            let labels: BTreeSet<Label> = ids.iter().filter(|id| id.backup == *backup).map(|id| id.label).collect();
            self.walk_labels(backup, labels.first().copied(), |label, name| {
                if labels.last().is_some_and(|last| label > *last) {
                    return ControlFlow::Break(());
                }
                let is_document = name.strip_suffix(".json").is_some_and(|stem| !stem.contains('/'));
                if is_document && let Some(names) = names.get_mut(&Id { backup: backup.clone(), label }) {
                    names.push(name.to_owned());
                }
                ControlFlow::Continue(())
            })
            .await?;
        }
        // What has no manifest is no backup.
        let wanted = names.iter().filter(|(_, names)| names.iter().any(|name| name == MANIFEST));
        let wanted = wanted.flat_map(|(id, names)| names.iter().map(move |name| (id, name)));
        let gets = wanted.map(|(id, name)| async move {
            let document = self.shelf().get(&self.place.file(id, name)).await?;
            // One that is not there any more was pruned in this moment.
            Ok::<_, Error>(document.map(|document| (id.clone(), name.clone(), document)))
        });
        let gets: Vec<_> = gets.collect();
        let got: Vec<_> = futures_util::stream::iter(gets).buffered(REQUESTS_MAX).try_collect().await?;
        let mut found: BTreeMap<Id, Documents> = names.into_keys().map(|id| (id, Documents::new())).collect();
        for (id, name, document) in got.into_iter().flatten() {
            found.entry(id).or_default().push((name, document));
        }
        Ok(found.into_iter().collect())
    }

    async fn read(&self, id: &Id, name: &str) -> Result<Reader> {
        reading::open(Arc::clone(&self.place.shelf), self.place.file(id, name)).await
    }

    async fn add_document(&self, id: &Id, name: &str, bytes: Bytes) -> Result<Added> {
        if self.shelf().writer_of(&self.place.file(id, MANIFEST)).await?.is_none() {
            return Err(Error::new(Kind::NotFound, format!("there is no backup {} any more", self.place.shown(id))));
        }
        self.shelf().put_new(&self.place.file(id, name), Payload::from(bytes), true, &new_writer()).await
    }

    async fn sweep(&self, backup: &str) -> Result<usize> {
        let mut swept = 0;
        let mut marked = BTreeMap::new();
        self.walk_labels(backup, None, |label, name| {
            let (has_marker, has_manifest) = marked.entry(label).or_insert((false, false));
            *has_marker |= name == MARKER;
            *has_manifest |= name == MANIFEST;
            ControlFlow::Continue(())
        })
        .await?;
        for (label, (_, is_complete)) in marked.into_iter().filter(|(_, (has_marker, _))| *has_marker) {
            let id = Id { backup: backup.to_owned(), label };
            let marker = self.place.marker(&id);
            let owner = self.shelf().get(&marker).await?.unwrap_or_default();
            if owner.trim_ascii_end() != self.place.owner.as_bytes() {
                continue;
            }
            let deleted = if is_complete { self.shelf().delete(&marker).await } else { self.delete_label(&id).await };
            match deleted {
                Ok(()) => swept += 1,
                // Its lifecycle rules will.
                Err(error) if error.kind == Kind::Undeletable => tracing::debug!(%error, "what a dead run left stays"),
                Err(error) => return Err(error),
            }
        }
        Ok(swept)
    }

    async fn clear(&self, id: &Id) -> Result<()> {
        let (dir, manifest) = (self.place.dir(id), self.place.file(id, MANIFEST));
        let keys = self.shelf().keys(&dir).await?;
        // What is complete is no leftover.
        if keys.is_empty() || keys.contains(&manifest) {
            return Ok(());
        }
        self.take(id).await?;
        self.delete_label(id).await
    }

    async fn remove(&self, id: &Id) -> Result<()> {
        let manifest = self.place.file(id, MANIFEST);
        let absent = || Error::new(Kind::NotFound, format!("there is no backup {}", self.place.shown(id)));
        if self.shelf().writer_of(&manifest).await?.is_none() {
            return Err(absent());
        }
        // Should we die on the way, the rest is known as ours.
        self.take(id).await?;
        if let Err(error) = self.shelf().delete(&manifest).await {
            let _ = self.shelf().delete(&self.place.marker(id)).await;
            return Err(error);
        }
        self.delete_label(id).await
    }

    async fn point_latest(&self, _: &str, _: Option<Label>) -> Result<()> {
        // A bucket has no links.
        Ok(())
    }

    fn folder(&self, _: &Id) -> Option<PathBuf> {
        None
    }
}
