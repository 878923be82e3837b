//! Places in the spool for clusters as of a moment, which are asked something and thrown away. Whoever holds
//! the lock of a place may do as he likes in it; what is in one that nobody holds is of a dead one.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::config::Plan;
use crate::error::{Error, Kind, Result};
use crate::host::removal::remove_folder;
use crate::postgres::throwaway;
use crate::state::{Lock, State};

/// How many there are: each holds a whole cluster.
const COUNT: usize = 8;

/// A place that is taken.
pub struct Place {
    folder: PathBuf,
    owner: String,
    _lock: Lock,
}

/// No backup can have a dot in its name.
fn lock_name(number: usize) -> String {
    format!("MOMENT.{number}")
}

fn folder(plan: &Plan, number: usize) -> PathBuf {
    plan.spool_dir.join(format!("moment.{number}"))
}

impl Place {
    /// Takes one that is free, and empties it.
    ///
    /// # Errors
    /// All are taken, or the spool cannot be written.
    pub async fn take(plan: &Plan) -> Result<Self> {
        let state = State::open(&plan.state_dir)?;
        sweep(plan, &state).await;
        for number in 0..COUNT {
            let Some(lock) = state.lock(&lock_name(number))? else { continue };
            let place = Place { folder: folder(plan, number), owner: state.owner().to_owned(), _lock: lock };
            place.empty().await?;
            DirBuilder::new().recursive(true).mode(0o700).create(&place.folder).map_err(|error| {
                Error::system(format_args!("cannot make {}", place.folder.display()), &error)
                    .hint("let the user that pgvigil runs as write into spool_dir")
            })?;
            return Ok(place);
        }
        Err(Error::new(Kind::Busy, format!("{COUNT} clusters of moments are under way already")).hint("wait for one of them"))
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The name of this installation, by which a sweep knows what is ours.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Ends what runs in it, and removes all of it.
    ///
    /// # Errors
    /// Something is left, which is swept later.
    pub async fn empty(&self) -> Result<()> {
        throwaway::sweep_local(&self.owner, &self.folder).await?;
        remove_folder(&self.folder).await.map_err(|error| {
            let folder = self.folder.display();
            Error::system(format_args!("{folder} is left"), &error).hint(format!("rm -r {folder}"))
        })
    }

    /// The same at the end of its use. What is left is told, and keeps nobody from the result.
    pub async fn leave(self) {
        if let Err(error) = self.empty().await {
            tracing::warn!(%error, "something of a cluster as of a moment is left; it is swept by the next run or drill");
        }
    }
}

/// Empties the places that nobody holds. What cannot be is logged, and tried again later.
pub async fn sweep(plan: &Plan, state: &State) {
    for number in 0..COUNT {
        let folder = folder(plan, number);
        if !folder.exists() {
            continue;
        }
        let Ok(Some(lock)) = state.lock(&lock_name(number)) else { continue };
        let place = Place { folder, owner: state.owner().to_owned(), _lock: lock };
        match place.empty().await {
            Ok(()) => tracing::warn!("a cluster as of a moment was broken off; swept what it left"),
            Err(error) => tracing::warn!(%error, "cannot remove what a cluster as of a moment left; tried again later"),
        }
    }
}
