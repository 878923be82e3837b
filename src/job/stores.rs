//! The stores of a plan, opened.

use std::sync::Arc;

use crate::catalog::Catalog;
use crate::config::Plan;
use crate::config::plan::{self, Backup, StoreKind};
use crate::error::{Error, Kind, Result};
use crate::host::disk::Usage;
use crate::job::assess;
use crate::store::local::LocalStore;
use crate::store::{Store, aside, catalog_of};

/// Opens a store. `owner` names the `state_dir` that unfinished work belongs to.
///
/// # Errors
/// A secret of it is missing.
pub fn open(store: &plan::Store, owner: &str) -> Result<Arc<dyn Store>> {
    match &store.kind {
        StoreKind::Local(path) => Ok(Arc::new(LocalStore::new(path.clone(), owner.to_owned()))),
        StoreKind::S3(_) | StoreKind::Ssh(_) => {
            Err(Error::new(Kind::NotYet, format!("store {}: not yet: this version keeps backups in folders only", store.name))
                .hint("name a store with path"))
        }
    }
}

/// Tries what runs need of a store, and says how it stands.
///
/// # Errors
/// What does not work.
pub async fn try_out(store: &plan::Store) -> Result<String> {
    match &store.kind {
        StoreKind::Local(path) => {
            let folder = path.clone();
            let tried = tokio::task::spawn_blocking(move || aside::try_out(&folder)).await;
            let available = tried.unwrap_or_else(|error| Err(Error::new(Kind::Store, error.to_string())))?;
            Ok(format!("{}: writable, {} available", path.display(), crate::status::words::size(available)))
        }
        StoreKind::S3(_) | StoreKind::Ssh(_) => open(store, "").map(|_| String::new()),
    }
}

/// The usage of the file system that a store lies on. `None`: it has none that could be full.
pub async fn usage(store: &plan::Store) -> Option<Result<Usage>> {
    match &store.kind {
        StoreKind::Local(path) => Some(assess::usage(path.clone()).await),
        StoreKind::S3(_) | StoreKind::Ssh(_) => None,
    }
}

/// The catalog of a backup over the stores of its section. Those beside the primary that give no
/// answer are named in it.
///
/// # Errors
/// The primary cannot be read.
pub async fn catalog_of_backup(plan: &Plan, owner: &str, backup: &Backup) -> Result<Catalog> {
    let catalog = read(backup.stores.iter().map(|name| &plan.stores[name]), owner, Some(backup.name.as_str())).await;
    match catalog.silent.iter().find(|(name, _)| *name == backup.stores[0].as_str()) {
        Some((_, error)) => Err(error.clone()),
        None => Ok(catalog),
    }
}

/// The catalog over all stores, of one backup or of all. Stores that give no answer are named in it.
///
/// # Errors
/// None of them can be read.
pub async fn catalog(plan: &Plan, owner: &str, backup: Option<&str>) -> Result<Catalog> {
    let catalog = read(plan.stores.values(), owner, backup).await;
    match catalog.silent.first() {
        Some((_, error)) if catalog.silent.len() == plan.stores.len() => Err(error.clone()),
        _ => Ok(catalog),
    }
}

async fn read<'a>(stores: impl Iterator<Item = &'a plan::Store>, owner: &str, backup: Option<&str>) -> Catalog {
    let mut catalog = Catalog::default();
    for store in stores {
        let read = async { catalog_of(&*open(store, owner)?, store.name.as_str(), backup, &mut catalog).await };
        if let Err(error) = read.await {
            catalog.silent.push((store.name.to_string(), error.context(format_args!("store {}", store.name))));
        }
    }
    catalog
}
