//! How full a file system is, as `df` shows it.

use std::path::{Path, PathBuf};

use sysinfo::{DiskRefreshKind, Disks};

use crate::error::{Error, Kind, Result};

/// The file system that holds a folder. All sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    pub total: u64,
    pub used: u64,
    /// To this user: what is reserved for root is not.
    pub available: u64,
    /// Where it is mounted, and its type, where they are known.
    pub mount: Option<(PathBuf, String)>,
}

impl Usage {
    /// used / (used + available), rounded up to a whole percent as `df` does.
    pub fn percent(&self) -> u8 {
        let sum = u128::from(self.used) + u128::from(self.available);
        if sum == 0 {
            return 0;
        }
        u8::try_from((u128::from(self.used) * 100).div_ceil(sum)).unwrap_or(100)
    }
}

/// Looks at the file system that holds a path. The path need not be there yet.
///
/// # Errors
/// The system does not tell.
pub fn usage(path: &Path) -> Result<Usage> {
    let there = path.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let failed =
        |error: nix::Error| Error::new(Kind::System, format!("cannot look at the file system of {}: {}", path.display(), error.desc()));
    // sysinfo knows no reserved blocks; the call beneath df does.
    let stat = nix::sys::statvfs::statvfs(there).map_err(failed)?;
    let unit = stat.fragment_size();
    Ok(Usage {
        total: stat.blocks() * unit,
        used: stat.blocks().saturating_sub(stat.blocks_free()) * unit,
        available: stat.blocks_available() * unit,
        mount: mount(there),
    })
}

fn mount(path: &Path) -> Option<(PathBuf, String)> {
    let path = path.canonicalize().ok()?;
    let disks = Disks::new_with_refreshed_list_specifics(DiskRefreshKind::nothing()).ok()?;
    let holder =
        disks.iter().filter(|disk| path.starts_with(disk.mount_point())).max_by_key(|disk| disk.mount_point().as_os_str().len())?;
    Some((holder.mount_point().to_owned(), holder.file_system().to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_is_rounded_up() {
        for (used, available, percent) in [(0, 0, 0), (0, 10, 0), (1, 999, 1), (800, 200, 80), (801, 199, 81), (1, 0, 100)] {
            assert_eq!(Usage { total: 2_000, used, available, mount: None }.percent(), percent, "{used} {available}");
        }
        assert_eq!(Usage { total: u64::MAX, used: u64::MAX / 2, available: u64::MAX / 2, mount: None }.percent(), 50);
    }

    #[test]
    fn a_folder_that_is_not_there_yet() {
        let dir = tempfile::tempdir().unwrap();
        let usage = usage(&dir.path().join("a/b")).unwrap();
        assert!(usage.total > 0 && usage.used + usage.available <= usage.total);
    }
}
