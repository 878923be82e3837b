//! The log that lies on this machine and in no store yet: what pg_receivewal has received, the segment that is being
//! written too, and what waits in the folder of the log. A restore takes it along: it is what the stores do not tell.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use crate::config::Plan;
use crate::config::plan::Backup;
use crate::job::physical::archive::Owner;
use crate::job::physical::folder;
use crate::job::physical::push::owner_of;
use crate::physical::inbox::Stays;
use crate::wal::{Segment, WalName};

/// Behind the name of the segment that pg_receivewal writes.
const PARTIAL: &str = ".partial";

/// Segments in a folder here.
#[derive(Debug, Clone)]
pub struct Received {
    folder: PathBuf,
    pub whole: BTreeSet<Segment>,
    /// The one that is being written: its rest is zeros, at which recovery ends.
    pub open: Option<Segment>,
    /// When the newest of them was last written.
    pub written_at: DateTime<Utc>,
}

impl Received {
    /// What lies here of a cluster. `None`: nothing, or nobody may look.
    pub fn look(plan: &Plan, backup: &Backup, owner: &Owner) -> Option<Self> {
        let (folder, stays) = folder::of(plan, backup)?;
        let mut received =
            Received { folder: folder.clone().into_owned(), whole: BTreeSet::new(), open: None, written_at: DateTime::UNIX_EPOCH };
        for entry in std::fs::read_dir(&folder).ok()?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(parsed @ (WalName::Segment(numbers) | WalName::Partial(numbers))) = WalName::parse(&name) else { continue };
            let (Some(segment), Ok((raw, version))) = (numbers.segment(owner.segment_bytes), folder::read(&entry.path())) else { continue };
            if owner_of(parsed, &raw, raw.len() as u64).ok().flatten().as_ref() != Some(owner) {
                continue;
            }
            match parsed {
                WalName::Partial(_) if stays == Stays::ForReceiver => received.open = received.open.max(Some(segment)),
                WalName::Segment(_) => drop(received.whole.insert(segment)),
                _ => continue,
            }
            received.written_at = received.written_at.max(version.written_at().unwrap_or_default());
        }
        (received.open.is_some() || !received.whole.is_empty()).then_some(received)
    }

    pub fn has(&self, segment: Segment) -> bool {
        self.whole.contains(&segment) || self.open == Some(segment)
    }

    /// One of them. `None`: it is not here, or has gone into the stores meanwhile.
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        let read = |path: &Path| folder::read(path).ok().map(|(raw, _)| raw.to_vec());
        let path = self.folder.join(name);
        // It may become whole between two looks.
        read(&path).or_else(|| read(&self.folder.join(format!("{name}{PARTIAL}")))).or_else(|| read(&path))
    }
}
