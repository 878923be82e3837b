//! The drill of one copy: restored into a throwaway server, and compared with its evidence.

use tokio_util::sync::CancellationToken;

use crate::catalog::{Entry, Rung};
use crate::config::Plan;
use crate::config::plan::Backup;
use crate::error::{Error, Kind, Result};
use crate::job::drill::Drilled;
use crate::job::progress::Progress;
use crate::state::State;
use crate::store::Store;

/// Restores a copy for a trial and says what it found; the caller writes the proof. The caller holds
/// the lock of drills and the copy. `before` is the rung that the copy has.
///
/// # Errors
/// Nothing was found out about the backup. What is wrong with the backup itself is in the proof.
pub async fn drill_copy(
    _plan: &Plan,
    _backup: &Backup,
    _store: &dyn Store,
    _entry: &Entry,
    _before: Rung,
    _progress: &Progress,
    _cancel: &CancellationToken,
) -> Result<Drilled> {
    Err(Error::new(Kind::NotYet, "drills: not yet in this version"))
}

/// Removes what drills left that were broken off. The caller holds the lock of drills, so whatever
/// carries the mark of this `state_dir` is of a dead one.
///
/// # Errors
/// Something cannot be removed; it is tried again before the next drill.
#[expect(clippy::unused_async, reason = "there is nothing that drills could leave yet")]
pub async fn sweep(_plan: &Plan, _state: &State) -> Result<()> {
    Ok(())
}
