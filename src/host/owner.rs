//! Root goes on as the owner of `state_dir`, so that no file of the daemon ends up root's.

use std::ffi::CString;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Gid, Uid, User, getgrouplist, setgid, setgroups, setuid};

use crate::error::{Error, Kind, Result};

/// Becomes the owner of the folder if this is root and the owner is not. A folder that is not
/// there yet is root's to make. Must come before any thread starts.
///
/// # Errors
/// The system refuses the change.
pub fn become_owner_of(dir: &Path) -> Result<()> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    let Ok(meta) = std::fs::metadata(dir) else {
        return Ok(());
    };
    let (uid, gid) = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
    if uid.is_root() {
        return Ok(());
    }
    let failed = |what: &str, error: nix::Error| {
        Error::new(Kind::System, format!("cannot go on as user {uid}, the owner of {}: {what}: {}", dir.display(), error.desc()))
    };
    // With the groups of the account, so that membership in `docker` still counts.
    let (gid, groups) = match User::from_uid(uid) {
        Ok(Some(user)) => {
            let name = CString::new(user.name).unwrap_or_default();
            let groups = getgrouplist(&name, user.gid).map_err(|error| failed("getgrouplist", error))?;
            (user.gid, groups)
        }
        _ => (gid, vec![gid]),
    };
    setgroups(&groups).map_err(|error| failed("setgroups", error))?;
    setgid(gid).map_err(|error| failed("setgid", error))?;
    setuid(uid).map_err(|error| failed("setuid", error))?;
    Ok(())
}
