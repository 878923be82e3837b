//! Whether the file was edited: its stamp is looked at once a second. That works on every file
//! system and for every way to replace a file, as a bind mount or a renamed copy, where
//! notifications of the kernel do not.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What changes with every edit. `None`: it is not there.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

pub struct Watch {
    path: PathBuf,
    /// As the daemon read it.
    taken: Stamp,
    /// At the last look.
    seen: Stamp,
}

impl Watch {
    pub fn new(path: &Path) -> Self {
        let stamp = stamp(path);
        Watch { path: path.to_owned(), taken: stamp, seen: stamp }
    }

    /// Whether it is another than the one that was read. True once for each edit, and only when
    /// it has been the same for two looks: an editor may be writing.
    pub fn has_changed(&mut self) -> bool {
        let now = stamp(&self.path);
        let settled = now == self.seen;
        self.seen = now;
        let changed = settled && now != self.taken;
        if changed {
            self.taken = now;
        }
        changed
    }
}

fn stamp(path: &Path) -> Stamp {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_is_seen_once_and_when_it_has_settled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        std::fs::write(&path, "a").unwrap();
        let mut watch = Watch::new(&path);
        assert!(!watch.has_changed());
        std::fs::write(&path, "ab").unwrap();
        assert!(!watch.has_changed(), "it may not be whole yet");
        std::fs::write(&path, "abc").unwrap();
        assert!(!watch.has_changed());
        assert!(watch.has_changed());
        assert!(!watch.has_changed());
        // As editors do: another file takes the name.
        let aside = dir.path().join("y");
        std::fs::write(&aside, "abc").unwrap();
        std::fs::rename(&aside, &path).unwrap();
        assert!(!watch.has_changed());
        assert!(watch.has_changed());
        std::fs::remove_file(&path).unwrap();
        assert!(!watch.has_changed());
        assert!(watch.has_changed());
    }
}
