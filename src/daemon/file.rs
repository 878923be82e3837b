//! Whether the file was edited: its stamp is looked at once a second. That works on every file
//! system and for every way to replace a file, as a bind mount, a renamed copy, or the swapped links
//! of Kubernetes, where notifications of the kernel do not.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What changes with every edit, and with every change of rights. `None`: it is not there, or
/// nobody lets us look.
type Stamp = Option<(u64, u64, u64, [i64; 2], [i64; 2])>;

/// For so many looks in a row it must have been the same: somebody may be writing.
const QUIET_LOOKS: u32 = 2;

/// The same for a file that is gone: it mostly comes again.
const GONE_LOOKS: u32 = 5;

pub struct Watch {
    path: PathBuf,
    /// As the daemon read it.
    taken: Stamp,
    /// At the last look, and for how many looks it has been so.
    seen: Stamp,
    quiet: u32,
}

impl Watch {
    pub fn new(path: &Path) -> Self {
        let stamp = stamp(path);
        Watch { path: path.to_owned(), taken: stamp, seen: stamp, quiet: 0 }
    }

    /// Whether it is another than the one that was read, and has been quiet for a while. True once
    /// for each edit.
    pub fn has_changed(&mut self) -> bool {
        let now = stamp(&self.path);
        self.quiet = if now == self.seen { self.quiet.saturating_add(1) } else { 0 };
        self.seen = now;
        let wanted = if now.is_some() { QUIET_LOOKS } else { GONE_LOOKS };
        let changed = now != self.taken && self.quiet >= wanted;
        if changed {
            self.taken = now;
        }
        changed
    }

    /// It is read now, whatever its state: somebody has said so.
    pub fn take(&mut self) {
        self.taken = stamp(&self.path);
    }
}

fn stamp(path: &Path) -> Stamp {
    let meta = std::fs::metadata(path).ok()?;
    // The change time of the inode moves with what leaves size and mtime alone: `chmod`, `cp --preserve`.
    Some((meta.dev(), meta.ino(), meta.size(), [meta.mtime(), meta.mtime_nsec()], [meta.ctime(), meta.ctime_nsec()]))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    type Edit<'a> = (&'a str, &'a dyn Fn());

    /// After how many looks the change is told; it must be told once.
    fn looks(watch: &mut Watch) -> usize {
        let told = (1..20).position(|_| watch.has_changed()).expect("the change is seen");
        assert!((0..10).all(|_| !watch.has_changed()), "once for each edit");
        told + 1
    }

    #[test]
    fn every_way_to_edit_is_seen_once_and_when_it_has_settled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        let aside = dir.path().join("y");
        std::fs::write(&path, "a").unwrap();
        let mut watch = Watch::new(&path);
        assert!((0..10).all(|_| !watch.has_changed()));
        // Written piece by piece, with pauses: not one look falls into quiet.
        for text in ["ab", "abc", "abcd"] {
            std::fs::write(&path, text).unwrap();
            assert!(!watch.has_changed() && !watch.has_changed(), "it may not be whole yet");
        }
        assert_eq!(looks(&mut watch), 1);

        let edits: [Edit<'_>; 5] = [
            ("another file takes the name", &|| {
                std::fs::write(&aside, "abcd").unwrap();
                std::fs::rename(&aside, &path).unwrap();
            }),
            ("away, and written anew", &|| {
                std::fs::rename(&path, dir.path().join("x.toml~")).unwrap();
                std::fs::write(&path, "abcd").unwrap();
            }),
            ("the same size at the same time", &|| {
                let before = std::fs::metadata(&path).unwrap().modified().unwrap();
                std::fs::write(&path, "dcba").unwrap();
                std::fs::File::options().write(true).open(&path).unwrap().set_modified(before).unwrap();
            }),
            ("other rights", &|| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap()),
            ("back again", &|| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap()),
        ];
        for (what, edit) in edits {
            edit();
            assert_eq!(looks(&mut watch), 3, "{what}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!((0..4).all(|_| !watch.has_changed()), "it mostly comes again");
        std::fs::write(&path, "a").unwrap();
        assert_eq!(looks(&mut watch), 3);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(looks(&mut watch), 6);
    }

    /// A config map: `x.toml -> ..data/x.toml`, and `..data` is renamed over.
    #[test]
    fn links_that_are_swapped_as_kubernetes_does() {
        let dir = tempfile::tempdir().unwrap();
        let version = |name: &str, text: &str| {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("x.toml"), text).unwrap();
            symlink(name, dir.path().join("..data_tmp")).unwrap();
            std::fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        };
        version("..1", "a");
        let path = dir.path().join("x.toml");
        symlink("..data/x.toml", &path).unwrap();
        let mut watch = Watch::new(&path);
        assert!((0..10).all(|_| !watch.has_changed()));
        version("..2", "b");
        std::fs::remove_dir_all(dir.path().join("..1")).unwrap();
        assert_eq!(looks(&mut watch), 3);
        version("..3", "b");
        assert_eq!(looks(&mut watch), 3);
    }

    #[test]
    fn what_was_taken_by_hand_is_no_news() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        std::fs::write(&path, "a").unwrap();
        let mut watch = Watch::new(&path);
        std::fs::write(&path, "ab").unwrap();
        watch.take();
        assert!((0..10).all(|_| !watch.has_changed()));
    }
}
