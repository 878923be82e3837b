//! Physical backups of the file: base backups, and where the log comes from.

use std::time::Duration;

use super::file::{self, BackupKind, Wal};
use super::plan::Keep;
use super::values::{Count, Schedule};

/// A physical backup.
#[derive(Debug, Clone)]
pub struct Physical {
    /// How the log comes into the archive. `None`: not at all; a base backup holds what makes it whole.
    pub wal: Option<Wal>,
    /// When an incremental base backup is made, where it is not time for a whole one.
    pub incremental: Option<Schedule>,
}

/// What is kept where the file says nothing.
const BASE_BACKUPS: u32 = 4;
const WINDOW: Duration = Duration::from_secs(14 * 86_400);

/// What retention keeps of a kind of backup where the file says nothing.
pub(super) fn default_keep(kind: BackupKind) -> Keep {
    match kind {
        BackupKind::Dump => Keep::default(),
        BackupKind::Physical => Keep { base_backups: Some(Count::Number(BASE_BACKUPS)), window: Some(WINDOW), ..Keep::nothing() },
    }
}

/// When a backup is made: of a physical one the incremental ones too.
pub(super) fn schedule(backup: &file::Backup) -> Option<Schedule> {
    let schedule = backup.schedule.clone()?;
    Some(match backup.incremental.as_ref().filter(|_| backup.kind == Some(BackupKind::Physical)) {
        Some(incremental) => schedule.with(incremental),
        None => schedule,
    })
}

/// The plan of a physical backup; of a dump there is none.
pub(super) fn plan_physical(backup: &file::Backup) -> Option<Physical> {
    if backup.kind != Some(BackupKind::Physical) {
        return None;
    }
    Some(Physical { wal: backup.wal, incremental: backup.incremental.clone() })
}
