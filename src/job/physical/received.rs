//! The log that lies on this machine and in no store yet: what pg_receivewal has received, the segment that is being
//! written too, and what waits in the folder of the log. A restore takes it along: it is what the stores do not tell.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use crate::config::Plan;
use crate::config::plan::Backup;
use crate::job::physical::archive::Owner;
use crate::job::physical::folder;
use crate::job::physical::push::owner_of;
use crate::wal::name::PARTIAL;
use crate::wal::{History, Segment, WalName};

/// Segments in folders here.
#[derive(Debug, Clone, Default)]
pub struct Received {
    folders: Vec<PathBuf>,
    pub whole: BTreeSet<Segment>,
    /// Those that are being written, or were when they were left: the rest is zeros, at which recovery ends.
    pub open: BTreeSet<Segment>,
    pub histories: BTreeMap<u32, History>,
    /// When the newest of them was last written.
    pub written_at: Option<DateTime<Utc>>,
}

impl Received {
    /// What lies here of a cluster, and what cannot be read of it, in words.
    pub fn look(plan: &Plan, backup: &Backup, owner: &Owner) -> (Self, Vec<String>) {
        let (mut received, mut unreadable) = (Received::default(), Vec::new());
        for (folder, _) in folder::all(plan, backup) {
            let entries = match std::fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    unreadable.push(format!("{}: {}", folder.display(), folder::unreadable(&error)));
                    continue;
                }
            };
            for entry in entries.flatten() {
                let path = entry.path();
                if let Err(why) = received.take(&path, owner) {
                    unreadable.push(format!("{}: {why}", path.display()));
                }
            }
            received.folders.push(folder);
        }
        (received, unreadable)
    }

    fn take(&mut self, path: &Path, owner: &Owner) -> Result<(), String> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some(parsed) = WalName::parse(&name) else { return Ok(()) };
        let (raw, version) = match folder::read(path) {
            Ok(read) => read,
            // It has just gone into the stores.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(folder::unreadable(&error)),
        };
        match parsed {
            WalName::History(timeline) => {
                let history = History::parse(&String::from_utf8_lossy(&raw), timeline)?;
                self.histories.insert(timeline, history);
            }
            WalName::Segment(numbers) | WalName::Partial(numbers) => {
                // Nothing has been received into one yet, or it is of another cluster: the delivery tells that.
                let is_its = owner_of(parsed, &raw, raw.len() as u64).ok().flatten().as_ref() == Some(owner);
                let Some(segment) = numbers.segment(owner.segment_bytes).filter(|_| is_its) else { return Ok(()) };
                let of = if matches!(parsed, WalName::Partial(_)) { &mut self.open } else { &mut self.whole };
                of.insert(segment);
                self.written_at = self.written_at.max(version.written_at());
            }
            WalName::Label(_) => {}
        }
        Ok(())
    }

    pub fn has(&self, segment: Segment) -> bool {
        self.whole.contains(&segment) || self.open.contains(&segment)
    }

    /// One of them. `None`: it is not here, or has gone into the stores meanwhile.
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        let read = |name: &str| {
            let of = |folder: &PathBuf| folder::read(&folder.join(name)).ok().map(|(raw, _)| raw.to_vec());
            self.folders.iter().find_map(of)
        };
        // It may become whole between two looks.
        read(name).or_else(|| read(&format!("{name}{PARTIAL}"))).or_else(|| read(name))
    }
}
