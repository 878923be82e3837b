//! What waits behind the file of the log that a server asks to archive: pushed with it, in the order of the log.
//!
//! A server asks for one file at a time. Under load that would cost a process and several ways to each store for every
//! segment; so a call also pushes what follows, and leaves a note of each, by which the call for it finds it done. A
//! note is about speed only: without it, or where it is of another file, the file is pushed.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::plan::Backup;
use crate::job::physical::folder::Version;
use crate::wal::WalName;

/// How many files are pushed behind the one that was asked for.
const BEHIND_MAX: usize = 7;

/// Larger segments are pushed one by one: several are in memory at a time. In bytes.
const BYTES_MAX: u64 = 64 << 20;

/// Where the server marks what is to be archived, beside its log.
const MARKS: &str = "archive_status";
const READY: &str = ".ready";

/// Where notes lie, beside the log: nothing there is part of a base backup.
const NOTES: &str = "pgvigil-pushed";

/// The files that wait behind one, in the order of the log.
pub fn behind(asked: &Version, path: &Path) -> Vec<PathBuf> {
    let folder = parent(path);
    if asked.bytes() > BYTES_MAX {
        return Vec::new();
    }
    let marks = std::fs::read_dir(folder.join(MARKS)).into_iter().flatten().flatten();
    let ready = marks.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(READY).map(str::to_owned));
    follow(&asked.name, ready).into_iter().map(|name| folder.join(name)).collect()
}

/// A history goes before all log, and a cut segment is not log that others follow: both are for the server to order.
fn follow(asked: &str, ready: impl Iterator<Item = String>) -> Vec<String> {
    let in_order = |name: &str| matches!(WalName::parse(name), Some(WalName::Segment(_) | WalName::Label(_)));
    if !in_order(asked) {
        return Vec::new();
    }
    let mut names: Vec<String> = ready.filter(|name| in_order(name) && name.as_str() > asked).collect();
    names.sort();
    names.truncate(BEHIND_MAX);
    names
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// That a file is durable in every store of a backup.
#[derive(PartialEq, Serialize, Deserialize)]
struct Note {
    backup: String,
    stores: Vec<String>,
    file: Version,
}

/// Notes of what was pushed before the server asked for it.
pub struct Notes<'a> {
    folder: PathBuf,
    backup: &'a Backup,
}

impl<'a> Notes<'a> {
    pub fn beside(path: &Path, backup: &'a Backup) -> Self {
        Notes { folder: parent(path).join(NOTES), backup }
    }

    fn note(&self, file: &Version) -> Note {
        let stores = self.backup.stores.iter().map(ToString::to_string).collect();
        Note { backup: self.backup.name.to_string(), stores, file: file.clone() }
    }

    /// Whether that very file was pushed; the note of it is used up.
    pub fn take(&self, file: &Version) -> bool {
        let path = self.folder.join(&file.name);
        let Ok(text) = std::fs::read(&path) else { return false };
        let _ = std::fs::remove_file(&path);
        serde_json::from_slice::<Note>(&text).is_ok_and(|note| note == self.note(file))
    }

    pub fn leave(&self, file: &Version) {
        let text = serde_json::to_vec(&self.note(file)).unwrap_or_default();
        let left = std::fs::create_dir_all(&self.folder).and_then(|()| std::fs::write(self.folder.join(&file.name), text));
        if let Err(error) = left {
            tracing::debug!(%error, file = file.name, "no note of it: it will be pushed again");
        }
    }

    /// Removes all that are left: of files that the server has never asked for again.
    pub fn clear(&self) {
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_segment() {
        let segment = |n: u32| format!("0000000100000000{n:08X}");
        let follow = |asked: &str, ready: &[String]| follow(asked, ready.iter().cloned());
        let all: Vec<String> = (1..=20).rev().map(segment).collect();
        assert_eq!(follow(&segment(3), &all), (4..=10).map(segment).collect::<Vec<_>>());
        assert_eq!(follow(&segment(20), &all), [] as [String; 0]);
        let label = format!("{}.00000028.backup", segment(5));
        let others = [segment(6), "00000002.history".to_owned(), format!("{}.partial", segment(7)), "x".to_owned(), label.clone()];
        assert_eq!(follow(&segment(5), &others), [label.clone(), segment(6)]);
        assert_eq!(follow(&label, &others), [segment(6)]);
        assert_eq!(follow("00000002.history", &others), [] as [String; 0]);
    }
}
