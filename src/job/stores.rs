//! The stores of a plan, opened.

use std::sync::Arc;

use crate::catalog::Catalog;
use crate::config::Plan;
use crate::config::plan::{self, StoreKind};
use crate::error::{Error, Kind, Result};
use crate::store::local::LocalStore;
use crate::store::ssh::SshStore;
use crate::store::{Store, catalog_of};

/// Opens a store. `owner` names the `state_dir` that unfinished work belongs to.
///
/// # Errors
/// This version does not know the kind.
pub fn open(store: &plan::Store, owner: &str) -> Result<Arc<dyn Store>> {
    match &store.kind {
        StoreKind::Local(path) => Ok(Arc::new(LocalStore::new(path.clone(), owner.to_owned()))),
        StoreKind::Ssh(place) => Ok(Arc::new(SshStore::new(place, owner.to_owned()))),
        StoreKind::S3(_) => {
            Err(Error::new(Kind::NotYet, format!("store {}: not yet: this version keeps backups in folders only", store.name))
                .hint("name a store with path"))
        }
    }
}

/// The catalog over all stores that this version can read, of one backup or of all.
///
/// # Errors
/// A store cannot be read.
pub async fn catalog(plan: &Plan, owner: &str, backup: Option<&str>) -> Result<Catalog> {
    let mut catalog = Catalog::default();
    for store in plan.stores.values() {
        if matches!(store.kind, StoreKind::Local(_)) {
            let opened = open(store, owner)?;
            let read = catalog_of(&*opened, store.name.as_str(), backup, &mut catalog).await;
            read.map_err(|error| error.context(format_args!("store {}", store.name)))?;
        }
    }
    Ok(catalog)
}
