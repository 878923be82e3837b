//! The stores of a plan, opened.

use std::sync::Arc;

use crate::catalog::manifest::MANIFEST;
use crate::catalog::{Catalog, Entry, Id};
use crate::config::Plan;
use crate::config::plan::{self, Backup, StoreKind};
use crate::error::{Error, Kind, Result};
use crate::host::disk::Usage;
use crate::job::{assess, keys};
use crate::store::local::LocalStore;
use crate::store::s3::S3Store;
use crate::store::ssh::SshStore;
use crate::store::{Store, aside, catalog_of};

/// Opens a store. `owner` names the `state_dir` that unfinished work belongs to.
///
/// # Errors
/// This version does not know the kind, or a secret of it is missing.
pub fn open(store: &plan::Store, owner: &str) -> Result<Arc<dyn Store>> {
    match &store.kind {
        StoreKind::Local(path) => Ok(Arc::new(LocalStore::new(path.clone(), owner.to_owned()))),
        StoreKind::S3(place) => Ok(Arc::new(S3Store::new(store.name.as_str(), place, owner.to_owned())?)),
        StoreKind::Ssh(place) => Ok(Arc::new(SshStore::new(place, owner.to_owned()))),
    }
}

/// Whether what has a label in a store is a backup of ours. Where signatures are asked for, a folder
/// that somebody else put there is none.
///
/// # Errors
/// The store cannot be read.
pub async fn is_ours(plan: &Plan, store: &dyn Store, id: &Id) -> Result<bool> {
    let trust = keys::trust(plan);
    if !trust.is_on() {
        return Ok(true);
    }
    let mut catalog = Catalog::trusting(trust);
    catalog.add("", id, &store.documents(id).await?);
    Ok(catalog.entries.first().is_some_and(Entry::counts))
}

/// Whether a store still has a backup: between a look at the catalog and the lock it may have been deleted.
///
/// # Errors
/// The store cannot be read.
pub async fn still_has(store: &dyn Store, id: &Id) -> Result<bool> {
    Ok(store.documents(id).await?.iter().any(|(name, _)| name == MANIFEST))
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
        StoreKind::S3(place) => {
            let tried = S3Store::new(store.name.as_str(), place, "check".to_owned())?.try_out().await?;
            Ok(format!("{}: writable, {tried}", store.place()))
        }
        StoreKind::Ssh(at) => Ok(match SshStore::new(at, "check".to_owned()).try_out().await? {
            Some(available) => format!("{}: writable, {} available", store.place(), crate::status::words::size(available)),
            None => format!("{}: writable", store.place()),
        }),
    }
}

/// The usage of the file system that a store lies on. `None`: it has none that could be full.
pub async fn usage(store: &plan::Store) -> Option<Result<Usage>> {
    match &store.kind {
        StoreKind::Local(path) => Some(assess::usage(path.clone()).await),
        StoreKind::Ssh(at) => {
            let at = at.clone();
            assess::asked(format!("usage of {}", store.place()), async move { SshStore::new(&at, String::new()).usage().await })
                .await
                .transpose()
        }
        StoreKind::S3(_) => None,
    }
}

/// The catalog of a backup over the stores of its section. Those beside the primary that give no
/// answer are named in it.
///
/// # Errors
/// The primary cannot be read.
pub async fn catalog_of_backup(plan: &Plan, owner: &str, backup: &Backup) -> Result<Catalog> {
    let catalog = read(plan, backup.stores.iter().map(|name| &plan.stores[name]), owner, Some(backup.name.as_str())).await;
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
    let catalog = read(plan, plan.stores.values(), owner, backup).await;
    match catalog.silent.first() {
        Some((_, error)) if catalog.silent.len() == plan.stores.len() => Err(error.clone()),
        _ => Ok(catalog),
    }
}

/// What one store holds of a backup, or of all.
///
/// # Errors
/// It cannot be read.
pub async fn catalog_of_one(plan: &Plan, store: &dyn Store, name: &str, backup: Option<&str>) -> Result<Catalog> {
    let mut catalog = Catalog::trusting(keys::trust(plan));
    catalog_of(store, name, backup, &mut catalog).await?;
    Ok(catalog)
}

async fn read<'a>(plan: &Plan, stores: impl Iterator<Item = &'a plan::Store>, owner: &str, backup: Option<&str>) -> Catalog {
    let mut catalog = Catalog::trusting(keys::trust(plan));
    for store in stores {
        let read = async { catalog_of(&*open(store, owner)?, store.name.as_str(), backup, &mut catalog).await };
        if let Err(error) = read.await {
            catalog.silent.push((store.name.to_string(), error.context(format_args!("store {}", store.name))));
        }
    }
    catalog
}
