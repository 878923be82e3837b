//! Names of files in `pg_wal` and in an archive.
//! <https://www.postgresql.org/docs/current/wal-internals.html>

use std::fmt::Write;

use super::Lsn;

/// Bytes of the log that one log file number counts.
const LOG_BYTES: u64 = 1 << 32;

/// The bytes of a segment where the server was made without `--wal-segsize`.
pub const SEGMENT_BYTES: u64 = 16 << 20;

/// A segment of the log, on its timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    pub timeline: u32,
    /// Segments before it since the beginning of the log.
    pub number: u64,
}

impl Segment {
    /// The one that holds a place.
    pub fn at(timeline: u32, lsn: Lsn, segment_bytes: u64) -> Self {
        Segment { timeline, number: lsn.0 / segment_bytes }
    }

    pub fn start(self, segment_bytes: u64) -> Lsn {
        Lsn(self.number.saturating_mul(segment_bytes))
    }

    /// Just behind its last byte.
    pub fn end(self, segment_bytes: u64) -> Lsn {
        self.next().start(segment_bytes)
    }

    #[must_use]
    pub fn next(self) -> Self {
        Segment { number: self.number.saturating_add(1), ..self }
    }

    pub fn name(self, segment_bytes: u64) -> String {
        let of_log = LOG_BYTES / segment_bytes;
        format!("{:08X}{:08X}{:08X}", self.timeline, self.number / of_log, self.number % of_log)
    }

    /// Reads the name of a whole segment.
    pub fn parse(name: &str, segment_bytes: u64) -> Option<Self> {
        match WalName::parse(name)? {
            WalName::Segment(raw) => raw.segment(segment_bytes),
            _ => None,
        }
    }
}

/// The three numbers of a segment's name, whose meaning depends on the size of segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    pub timeline: u32,
    log: u32,
    within: u32,
}

impl Numbers {
    pub fn timeline(self) -> u32 {
        self.timeline
    }

    /// `None`: there is no such segment where they are of this size.
    pub fn segment(self, segment_bytes: u64) -> Option<Segment> {
        let of_log = LOG_BYTES / segment_bytes;
        (u64::from(self.within) < of_log)
            .then(|| Segment { timeline: self.timeline, number: u64::from(self.log) * of_log + u64::from(self.within) })
    }
}

/// Behind the name of a segment of which there is a part.
pub const PARTIAL: &str = ".partial";

/// Of the file that says where a timeline forked.
pub fn history(timeline: u32) -> String {
    format!("{timeline:08X}.history")
}

/// What `archive_command` and `restore_command` name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalName {
    Segment(Numbers),
    /// The last segment of a timeline that a standby has left, `.partial`.
    Partial(Numbers),
    /// The label of a base backup that began in the segment, `.BYTES.backup`.
    Label(Numbers),
    /// Where a timeline forked, `.history`.
    History(u32),
}

impl WalName {
    /// `None`: it is none of PostgreSQL's, or spelled otherwise than PostgreSQL does.
    pub fn parse(name: &str) -> Option<Self> {
        let hex = |part: &str| {
            let is_ours = part.len() == 8 && part.bytes().all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte));
            if is_ours { u32::from_str_radix(part, 16).ok() } else { None }
        };
        if let Some(timeline) = name.strip_suffix(".history") {
            return hex(timeline).map(WalName::History);
        }
        let (numbers, rest) = (name.get(..24)?, name.get(24..)?);
        let numbers = Numbers { timeline: hex(&numbers[..8])?, log: hex(&numbers[8..16])?, within: hex(&numbers[16..])? };
        match rest {
            "" => Some(WalName::Segment(numbers)),
            PARTIAL => Some(WalName::Partial(numbers)),
            rest => {
                hex(rest.strip_prefix('.')?.strip_suffix(".backup")?)?;
                Some(WalName::Label(numbers))
            }
        }
    }

    pub fn timeline(self) -> u32 {
        match self {
            WalName::Segment(numbers) | WalName::Partial(numbers) | WalName::Label(numbers) => numbers.timeline,
            WalName::History(timeline) => timeline,
        }
    }

    /// Whether its bytes are log.
    pub fn is_log(self) -> bool {
        matches!(self, WalName::Segment(_) | WalName::Partial(_))
    }
}

/// Whether a name is of a segment that lies behind another one, on whatever timeline.
pub fn is_behind(name: &str, last: &str) -> bool {
    fn place(name: &str) -> Option<&str> {
        matches!(WalName::parse(name), Some(WalName::Segment(_))).then(|| &name[8..])
    }
    place(name).zip(place(last)).is_some_and(|(name, last)| name > last)
}

/// The folder of a backup's log, in its stores.
pub const FOLDER: &str = "wal";

/// The folder of a timeline in a store.
pub fn timeline_folder(backup: &str, timeline: u32) -> String {
    format!("{backup}/{FOLDER}/{timeline:08X}")
}

/// Where a file of the log stands in a store.
pub fn key(backup: &str, name: &str, parsed: WalName) -> String {
    let mut key = timeline_folder(backup, parsed.timeline());
    let _ = write!(key, "/{name}{SUFFIX}");
    key
}

/// What names of packed files of the log end in.
pub const SUFFIX: &str = ".zst";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_lies_behind_a_segment() {
        let last = "0000000100000016000000B3";
        for (name, expected) in [
            ("0000000100000016000000B3", false),
            ("0000000200000016000000B3", false),
            ("0000000100000016000000B4", true),
            ("000000020000001700000000", true),
            ("0000000100000016000000B2", false),
            ("00000002.history", false),
        ] {
            assert_eq!(is_behind(name, last), expected, "{name}");
        }
    }

    #[test]
    fn names_of_postgresql_and_no_others() {
        let numbers = Numbers { timeline: 1, log: 0x16, within: 0xB3 };
        for (name, parsed) in [
            ("0000000100000016000000B3", Some(WalName::Segment(numbers))),
            ("0000000100000016000000B3.partial", Some(WalName::Partial(numbers))),
            ("0000000100000016000000B3.00000028.backup", Some(WalName::Label(numbers))),
            ("00000002.history", Some(WalName::History(2))),
            ("0000000100000016000000b3", None),
            ("0000000100000016000000B", None),
            ("0000000100000016000000B3.zst", None),
            ("0000000100000016000000B3.backup", None),
            ("2.history", None),
            ("../0000000100000016000000B", None),
            ("archive_status", None),
            ("", None),
            ("00000001000000160000000\u{e9}", None),
        ] {
            assert_eq!(WalName::parse(name), parsed, "{name}");
        }
        assert_eq!(key("c", "00000002.history", WalName::History(2)), "c/wal/00000002/00000002.history.zst");
    }

    proptest! {
        #[test]
        fn a_segment_is_found_again_by_its_name(timeline in 1u32.., lsn in any::<u64>(), power in 20u32..=30) {
            let bytes = 1u64 << power;
            let segment = Segment::at(timeline, Lsn(lsn), bytes);
            prop_assert_eq!(Segment::parse(&segment.name(bytes), bytes), Some(segment));
            prop_assert!(segment.start(bytes).0 <= lsn && lsn <= segment.end(bytes).0);
        }
    }
}
