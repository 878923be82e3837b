//! Physical backups of the file: base backups, and where the log comes from.

use std::path::PathBuf;
use std::time::Duration;

use super::faults::Examined;
use super::file::{self, BackupKind, Wal};
use super::plan::Keep;
use super::values::{Count, Name, Schedule};

/// A physical backup.
#[derive(Debug, Clone)]
pub struct Physical {
    /// How the log comes into the archive. `None`: not at all; a base backup holds what makes it whole.
    pub wal: Option<Wal>,
    /// Where the server's `archive_command` lays it, for whoever takes it into the archive. `None`: the server puts it
    /// there by itself.
    pub wal_folder: Option<PathBuf>,
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

/// What goes with the folder that `archive_command` fills.
pub(super) fn check_folder(name: &Name, backup: &file::Backup, examined: &mut Examined<'_>) {
    let Some(folder) = &backup.wal_folder else { return };
    let path = ["backups", name.as_str(), "wal_folder"];
    if !folder.is_absolute() {
        examined.fault(
            &path,
            format!("relative path {:?}", folder.display().to_string()),
            "write an absolute path, such as \"/srv/archive\"",
        );
    }
    if backup.kind == Some(BackupKind::Physical) && backup.wal != Some(Wal::ArchiveCommand) {
        examined.fault(&path, "wal_folder is for what archive_command lays into it", "set wal = \"archive_command\", or remove it");
    }
}

/// The plan of a physical backup; of a dump there is none.
pub(super) fn plan_physical(backup: &file::Backup) -> Option<Physical> {
    if backup.kind != Some(BackupKind::Physical) {
        return None;
    }
    Some(Physical { wal: backup.wal, wal_folder: backup.wal_folder.clone(), incremental: backup.incremental.clone() })
}
