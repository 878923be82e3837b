//! What waits behind the file of the log that a server asks to archive: pushed with it, in the order of the log.
//!
//! A server asks for one file at a time. Under load that would cost a process and several ways to each store for every
//! segment; so a call also pushes what follows, and leaves a note of each, by which the call for it finds it done. A
//! note is about speed only: without it, or where it is of another file, the file is pushed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::AccessFlags;
use sha2::{Digest, Sha256};

use crate::config::Plan;
use crate::config::plan::Backup;
use crate::job::physical::folder::{Version, parent};
use crate::pack::packer::hex;
use crate::wal::WalName;

/// How many files are pushed behind the one that was asked for.
const BEHIND_MAX: usize = 7;

/// Larger ones are pushed one by one: several are in memory at a time. In bytes.
const BYTES_MAX: u64 = 32 << 20;

/// How long the server may be kept waiting for what it has not asked for yet.
pub const WITHIN: Duration = Duration::from_secs(20);

/// Where the server marks what is to be archived, beside its log.
const MARKS: &str = "archive_status";
const READY: &str = ".ready";

/// Where notes lie, beside the log: nothing there is part of a base backup.
const NOTES: &str = "pgvigil-pushed";

/// The files that wait behind one, in the order of the log.
pub fn behind(path: &Path) -> Vec<PathBuf> {
    let folder = parent(path);
    let asked = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let marks = std::fs::read_dir(folder.join(MARKS)).into_iter().flatten().flatten();
    let ready = marks.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(READY).map(str::to_owned));
    let is_small = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|meta| meta.len() <= BYTES_MAX);
    follow(asked, ready).into_iter().map(|name| folder.join(name)).take_while(is_small).collect()
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

/// The time that is left for one more: what is begun and cut off would have to be begun again.
pub struct Patience {
    began: Instant,
    longest: Duration,
}

impl Patience {
    /// `longest`: what the one took that was asked for.
    pub fn new(began: Instant, longest: Duration) -> Self {
        Patience { began, longest }
    }

    pub fn is_enough(&self, now: Instant) -> bool {
        now.duration_since(self.began) + self.longest <= WITHIN
    }

    pub fn took(&mut self, one: Duration) {
        self.longest = self.longest.max(one);
    }
}

/// Notes of files that are durable in every store before the server has asked for them. They are of one backup as it
/// is configured: where its stores are, and for whom it is encrypted.
pub struct Notes(PathBuf);

impl Notes {
    pub fn beside(path: &Path, plan: &Plan, backup: &Backup) -> Self {
        let stores: Vec<_> = backup.stores.iter().map(|name| (name, &plan.stores[name].kind)).collect();
        let scope = format!("{} {stores:?} {:?}", backup.name, backup.encrypt_to);
        let scope = hex(&Sha256::digest(scope.as_bytes()));
        Notes(parent(path).join(NOTES).join(&scope[..16]))
    }

    /// Whether that very file was pushed; the note of it is used up.
    pub fn take(&self, file: &Version) -> bool {
        let path = self.0.join(&file.name);
        let Ok(text) = std::fs::read(&path) else { return false };
        let _ = std::fs::remove_file(&path);
        serde_json::from_slice::<Version>(&text).is_ok_and(|note| note == *file)
    }

    /// Makes room for new ones; what is left is of files that the server has never asked for again.
    ///
    /// # Errors
    /// None can be left.
    pub fn renew(&self) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.0)?;
        nix::unistd::eaccess(&self.0, AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK)?;
        for entry in std::fs::read_dir(&self.0)? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// # Errors
    /// None can be left.
    pub fn leave(&self, file: &Version) -> std::io::Result<()> {
        std::fs::write(self.0.join(&file.name), serde_json::to_vec(file)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_is_begun_only_if_it_comes_to_its_end() {
        let began = Instant::now();
        let secs = Duration::from_secs;
        let mut patience = Patience::new(began, secs(4));
        assert!(patience.is_enough(began + secs(4)) && patience.is_enough(began + secs(16)) && !patience.is_enough(began + secs(17)));
        patience.took(secs(9));
        assert!(patience.is_enough(began + secs(11)) && !patience.is_enough(began + secs(12)));
        patience.took(secs(1));
        assert!(!patience.is_enough(began + secs(12)));
        assert!(!Patience::new(began, secs(21)).is_enough(began));
    }

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
