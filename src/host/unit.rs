//! The systemd unit of the daemon, as systemd has it with all drop-ins: what it may write. A command
//! that root runs beside it may write more, and would find nothing wrong.

use std::path::{Path, PathBuf};
use std::process::Command;

pub const NAME: &str = "pgvigil.service";

/// What a setting hides behind something else, also where it could be written.
const HIDDEN: [(&str, &[&str]); 2] = [("ProtectHome", &["/home", "/root", "/run/user"]), ("PrivateTmp", &["/tmp", "/var/tmp"])];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// It runs, or will at the next boot.
    pub is_used: bool,
    is_strict: bool,
    /// Of those of [`HIDDEN`] that are set.
    hides: Vec<(&'static str, &'static [&'static str])>,
    writable: Vec<PathBuf>,
}

/// The unit that systemd would start. `None`: there is no systemd, or no such unit.
#[expect(clippy::disallowed_methods, reason = "systemctl answers at once, and runs before anything else does")]
pub fn installed() -> Option<Unit> {
    if !sd_notify::booted().is_ok_and(|booted| booted) {
        return None;
    }
    let properties = "LoadState,ActiveState,UnitFileState,ProtectSystem,ProtectHome,PrivateTmp,ReadWritePaths,BindPaths,StateDirectory";
    let shown = Command::new("systemctl").args(["show", "--property", properties, NAME]).output().ok()?;
    shown.status.success().then(|| parse(&String::from_utf8_lossy(&shown.stdout))).flatten()
}

fn parse(shown: &str) -> Option<Unit> {
    let value = |key: &str| shown.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default();
    if value("LoadState") != "loaded" {
        return None;
    }
    // In front of a path: `-` where it may be missing, `+` where it is meant within RootDirectory.
    let named = value("ReadWritePaths").split_whitespace().map(|path| PathBuf::from(path.trim_start_matches(['-', '+'])));
    // Source, target and more, in the form of the file.
    let bound = value("BindPaths").split_whitespace().filter_map(|path| path.trim_start_matches('-').split(':').nth(1)).map(PathBuf::from);
    let state = value("StateDirectory").split_whitespace().map(|name| Path::new("/var/lib").join(name));
    Some(Unit {
        is_used: matches!(value("ActiveState"), "active" | "activating" | "reloading") || value("UnitFileState") == "enabled",
        is_strict: value("ProtectSystem") == "strict",
        hides: HIDDEN.into_iter().filter(|(setting, _)| !matches!(value(setting), "" | "no")).collect(),
        writable: named.chain(bound).chain(state).collect(),
    })
}

impl Unit {
    /// What to add to the unit so that it lets its daemon write a folder. `None`: nothing.
    pub fn lacks(&self, folder: &Path) -> Option<String> {
        let lies_in = |root: &Path| folder.starts_with(root) || resolved(folder).starts_with(resolved(root));
        let hiding = self.hides.iter().filter(|(_, roots)| roots.iter().any(|root| lies_in(Path::new(root))));
        let open: String = hiding.flat_map(|(setting, _)| [" and ", setting, "=no"]).collect();
        let is_writable = !self.is_strict || self.writable.iter().any(|root| lies_in(root));
        (!is_writable || !open.is_empty()).then(|| {
            format!(
                "systemctl edit pgvigil, and add in [Service]: ReadWritePaths=-{}{open}; then systemctl restart pgvigil (docs/systemd.md)",
                folder.display()
            )
        })
    }
}

/// Where a path leads, as far as it is there.
fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => resolved(parent).join(name),
        _ => path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(properties: &str) -> Unit {
        parse(&format!("LoadState=loaded\nActiveState=inactive\nUnitFileState=disabled\n{properties}")).unwrap()
    }

    #[test]
    fn what_is_named_is_writable_with_all_below_it() {
        let unit = unit(
            "ProtectSystem=strict\nProtectHome=yes\nPrivateTmp=yes\nReadWritePaths=/srv/a -/srv/b\nBindPaths=/x:/srv/c:rbind\nStateDirectory=pgvigil",
        );
        for folder in ["/srv/a", "/srv/a/deep/er", "/srv/b", "/srv/c", "/var/lib/pgvigil/store"] {
            assert_eq!(unit.lacks(Path::new(folder)), None, "{folder}");
        }
        for folder in ["/srv", "/srv/ab", "/srv/nosuch", "/var/lib", "/x"] {
            let hint = unit.lacks(Path::new(folder)).unwrap();
            assert!(hint.contains(&format!("ReadWritePaths=-{folder};")), "{hint}");
        }
        assert!(unit.lacks(Path::new("/var/tmp/a")).unwrap().contains("ReadWritePaths=-/var/tmp/a and PrivateTmp=no"));
        assert!(unit.lacks(Path::new("/home/a/b")).unwrap().contains("ReadWritePaths=-/home/a/b and ProtectHome=no"));
    }

    #[test]
    fn a_path_is_followed_to_where_it_leads() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::create_dir(dir.join("real")).unwrap();
        std::os::unix::fs::symlink("real", dir.join("link")).unwrap();
        let unit = Unit { is_used: true, is_strict: true, hides: Vec::new(), writable: vec![dir.join("link")] };
        assert_eq!(unit.lacks(&dir.join("real/not/there/yet")), None);
        assert_eq!(resolved(&dir.join("link/x")), dir.join("real/x"));
    }

    #[test]
    fn a_unit_without_protection_or_none_at_all() {
        let open = unit("ProtectSystem=full\nProtectHome=no\nPrivateTmp=no\nReadWritePaths=\nStateDirectory=");
        assert_eq!((open.lacks(Path::new("/tmp/x")), open.lacks(Path::new("/home/x")), open.is_used), (None, None, false));
        assert!(parse("LoadState=loaded\nActiveState=active").unwrap().is_used);
        assert!(parse("LoadState=loaded\nActiveState=inactive\nUnitFileState=enabled").unwrap().is_used);
        assert_eq!(parse("LoadState=not-found\nActiveState=inactive"), None);
    }
}
