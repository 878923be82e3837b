//! A dump of a backup as SQL, whatever its format. No parser sees a byte of a file whose hash is not
//! the one of the manifest.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::catalog::{Id, Manifest};
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::store::Store;

/// SQL that comes block by block; the task says at the end whether all of it came.
pub struct Sql {
    pub blocks: mpsc::Receiver<Bytes>,
    pub reading: JoinHandle<Result<()>>,
}

/// Opens the dump of one database of a backup. `host` has a `pg_restore` that reads its archives.
///
/// # Errors
/// The backup holds none of that database, a file is missing or not what was stored (`Damaged`).
pub async fn open(store: &dyn Store, id: &Id, manifest: &Manifest, database: &str, host: Arc<dyn Host>) -> Result<Sql> {
    let _ = (store, id, manifest, database, host);
    Err(Error::new(Kind::NotYet, "restore"))
}
