//! The log of a way to a target, as files that are laid beside a cluster.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};

use crate::config::plan::Backup;
use crate::error::{Error, Kind, Result};
use crate::job::physical::look::{Seen, newest_transaction};
use crate::physical::plan::{Stop, Way};
use crate::physical::target::Target;
use crate::wal::object::Header;
use crate::wal::{Archive, Segment, name};

/// How far the clock that says when a segment was archived may be from that of the server.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::hours(1);

/// So many segments a record may go on in.
const RECORD_SEGMENTS: u64 = 4;

/// The names of the files that its recovery asks for, in their order.
pub fn names(way: &Way, archive: &Archive) -> Vec<String> {
    let segments = way.reach.iter().flat_map(|reach| &reach.segments);
    segments.map(|segment| segment.name(archive.segment_bytes)).chain(history(way, archive)).collect()
}

/// What says where its timeline comes of. A base backup of that timeline itself needs none.
fn history(way: &Way, archive: &Archive) -> Option<String> {
    archive.histories.contains_key(&way.timeline).then(|| name::history(way.timeline))
}

/// One of them, unpacked.
///
/// # Errors
/// It is not in the archive any more, or damaged (`Damaged`), or a store does not answer.
pub async fn read(backup: &Backup, seen: &Seen, name: &str) -> Result<Vec<u8>> {
    seen.read(backup.name.as_str(), name).await?.ok_or_else(|| gone(name))
}

fn gone(name: &str) -> Error {
    Error::new(Kind::Damaged, format!("{name} is not in the archive"))
}

/// The segments that lead to a target, as far as their places tell.
pub fn needed(way: &Way, stop: &Stop, segment_bytes: u64) -> Vec<Segment> {
    let segments = way.reach.iter().flat_map(|reach| &reach.segments).copied();
    match stop {
        // PostgreSQL stops behind the first record that begins at the place or later.
        Stop::At(Target::Lsn(lsn)) => {
            let last = lsn.0 / segment_bytes + RECORD_SEGMENTS;
            segments.filter(|segment| segment.number <= last).collect()
        }
        _ => segments.collect(),
    }
}

/// Lays the log into a folder, which is made. That of a moment ends with the segment that shows a later
/// transaction, where `pg_waldump` can look: the days behind it are not needed.
///
/// # Errors
/// Something is missing or damaged, a store does not answer, or the folder cannot be written.
pub async fn lay(backup: &Backup, seen: &Seen, way: &Way, stop: &Stop, bin_dir: Option<&Path>, folder: &Path) -> Result<()> {
    let failed = |error: &std::io::Error| Error::system(format_args!("cannot write into {}", folder.display()), error);
    DirBuilder::new().mode(0o700).create(folder).map_err(|error| failed(&error))?;
    let bytes = seen.archive.segment_bytes;
    if let Some(name) = history(way, &seen.archive) {
        let raw = read(backup, seen, &name).await?;
        std::fs::write(folder.join(name), raw).map_err(|error| failed(&error))?;
    }
    for segment in needed(way, stop, bytes) {
        let name = segment.name(bytes);
        let raw = read(backup, seen, &name).await?;
        let path = folder.join(name);
        std::fs::write(&path, raw).map_err(|error| failed(&error))?;
        if let (Stop::At(Target::Time(at)), Some(bin_dir)) = (stop, bin_dir)
            && seen.header(backup.name.as_str(), segment).await?.is_some_and(|header| may_show_later(&header, *at))
            // Where it cannot be seen, all of it is laid.
            && newest_transaction(bin_dir, &path).await.is_ok_and(|newest| newest > Some(*at))
        {
            break;
        }
    }
    Ok(())
}

/// Lays what no store gives under its own name into a folder, which is made for it: what lies on this machine, and a
/// segment of which there is a part. False: there is nothing of that.
///
/// # Errors
/// It cannot be read any more, or the folder cannot be written.
pub async fn lay_received(backup: &Backup, seen: &Seen, way: &Way, stop: &Stop, folder: &Path) -> Result<bool> {
    let failed = |error: &std::io::Error| Error::system(format_args!("cannot write into {}", folder.display()), error);
    let is_received = |segment: &Segment| seen.received.as_ref().is_some_and(|received| received.has(*segment));
    let bytes = seen.archive.segment_bytes;
    let open = way.reach.as_ref().filter(|reach| reach.open).and_then(|reach| reach.segments.last()).copied();
    let segments = needed(way, stop, bytes).into_iter().filter(|segment| is_received(segment) || Some(*segment) == open);
    let mut names: Vec<String> = segments.map(|segment| segment.name(bytes)).collect();
    let is_received = |timeline: u32| seen.received.as_ref().is_some_and(|received| received.histories.contains_key(&timeline));
    names.extend(history(way, &seen.archive).filter(|_| is_received(way.timeline)));
    if names.is_empty() {
        return Ok(false);
    }
    DirBuilder::new().mode(0o700).create(folder).map_err(|error| failed(&error))?;
    for name in names {
        let raw = match read(backup, seen, &name).await {
            // What is before it leads as far as it does.
            Err(error) if error.kind == Kind::Damaged && open.is_some_and(|open| open.name(bytes) == name) => {
                tracing::warn!(%error, "of the last segment there is a part, which is not taken along");
                continue;
            }
            raw => raw?,
        };
        std::fs::write(folder.join(name), raw).map_err(|error| failed(&error))?;
    }
    Ok(true)
}

/// A segment that was archived long before holds nothing later.
fn may_show_later(header: &Header, at: DateTime<Utc>) -> bool {
    header.at + CLOCKS_DIFFER >= at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Id;
    use crate::wal::{History, Lsn, Reach};

    const MB: u64 = 1 << 20;

    #[test]
    fn the_log_that_is_laid() {
        let segments = (3..12).map(|number| Segment { timeline: 2, number }).collect();
        let reach = Reach { timeline: 2, segments, end: Lsn(12 * MB), gaps: Vec::new(), open: false };
        let base = Id { backup: "c".into(), label: "20240115T010000Z".parse().unwrap() };
        let way = Way { base, timeline: 2, reach: Some(reach) };
        let numbers = |stop: Stop| needed(&way, &stop, MB).iter().map(|segment| segment.number).collect::<Vec<_>>();
        assert_eq!(numbers(Stop::At(Target::Latest)), [3, 4, 5, 6, 7, 8, 9, 10, 11]);
        assert_eq!(numbers(Stop::At(Target::Lsn(Lsn(5 * MB - 1)))), [3, 4, 5, 6, 7, 8]);
        assert_eq!(numbers(Stop::At(Target::Lsn(Lsn(5 * MB)))), [3, 4, 5, 6, 7, 8, 9]);
        let mut archive = Archive { segment_bytes: MB, ..Archive::default() };
        assert_eq!(names(&way, &archive).len(), 9, "it begins on that timeline");
        archive.histories.insert(2, History(vec![(1, Lsn(4 * MB))]));
        assert_eq!(names(&way, &archive).last().map(String::as_str), Some("00000002.history"));
        assert_eq!(names(&Way { timeline: 1, reach: None, ..way }, &archive), [] as [String; 0]);
    }
}
