//! The first page of a segment: whose it is and which one.

use super::{Lsn, Segment};

/// What `src/include/access/xlog_internal.h` calls `XLP_LONG_HEADER`.
const LONG_HEADER: u16 = 0x0002;

/// Bytes of a long page header.
const HEADER_BYTES: usize = 40;

/// What the first page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstPage {
    /// Of the cluster.
    pub system_identifier: u64,
    pub segment_bytes: u64,
    start: Lsn,
    timeline: u32,
}

impl FirstPage {
    /// Reads it, in the byte order of this machine, which is that of the server beside it.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let head = bytes.get(..HEADER_BYTES).ok_or("it is too short to be a segment")?;
        let u16_at = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
        let u32_at = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let u64_at = |at: usize| {
            let mut all = [0; 8];
            all.copy_from_slice(&head[at..at + 8]);
            u64::from_ne_bytes(all)
        };
        // The magic number begins with 0xD1 in every version since 10; which it is says the major version.
        if u16_at(0) >> 8 != 0xD1 || u16_at(2) & LONG_HEADER == 0 {
            return Err("it does not begin like a segment of the log".to_owned());
        }
        let segment_bytes = u64::from(u32_at(32));
        if !segment_bytes.is_power_of_two() || !(1 << 20..=1 << 30).contains(&segment_bytes) {
            return Err(format!("its first page names segments of {segment_bytes} bytes"));
        }
        Ok(FirstPage { system_identifier: u64_at(24), segment_bytes, start: Lsn(u64_at(8)), timeline: u32_at(4) })
    }

    /// Whether it is the whole segment that its name says.
    ///
    /// # Errors
    /// In which it differs.
    pub fn check(&self, segment: Segment, bytes: usize) -> Result<(), String> {
        if bytes as u64 != self.segment_bytes {
            return Err(format!("it has {bytes} bytes, and a segment of this cluster {}", self.segment_bytes));
        }
        if self.start != segment.start(self.segment_bytes) {
            return Err(format!("it begins at {}, and by its name at {}", self.start, segment.start(self.segment_bytes)));
        }
        // The first segment of a timeline begins with pages of the one before.
        if self.timeline > segment.timeline {
            return Err(format!("it is of timeline {}, and by its name of {}", self.timeline, segment.timeline));
        }
        Ok(())
    }
}
