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

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn page(magic: u16, info: u16, timeline: u32, start: u64, segment_bytes: u32) -> Vec<u8> {
        let mut page = Vec::new();
        page.extend_from_slice(&magic.to_ne_bytes());
        page.extend_from_slice(&info.to_ne_bytes());
        page.extend_from_slice(&timeline.to_ne_bytes());
        page.extend_from_slice(&start.to_ne_bytes());
        page.extend_from_slice(&[0; 8]);
        page.extend_from_slice(&7u64.to_ne_bytes());
        page.extend_from_slice(&segment_bytes.to_ne_bytes());
        page.extend_from_slice(&8192u32.to_ne_bytes());
        page
    }

    #[test]
    fn what_its_first_page_says_is_held_against_its_name() {
        let parsed = FirstPage::parse(&page(0xD110, 2, 1, 3 * MB, 1 << 20)).unwrap();
        assert_eq!((parsed.system_identifier, parsed.segment_bytes), (7, MB));
        let check = |timeline, number, bytes| parsed.check(Segment { timeline, number }, bytes);
        assert_eq!(check(1, 3, 1 << 20), Ok(()));
        // The first segment of a new timeline begins with pages of the one before.
        assert_eq!(check(2, 3, 1 << 20), Ok(()));
        assert!(check(1, 4, 1 << 20).unwrap_err().contains("begins at 0/300000"));
        assert!(check(1, 3, 1000).unwrap_err().contains("it has 1000 bytes"));
        let newer = FirstPage::parse(&page(0xD118, 2, 9, 3 * MB, 1 << 20)).unwrap();
        assert!(newer.check(Segment { timeline: 1, number: 3 }, 1 << 20).unwrap_err().contains("timeline 9"));
        for bad in [page(0x1234, 2, 1, 0, 1 << 20), page(0xD110, 0, 1, 0, 1 << 20), page(0xD110, 2, 1, 0, 77), vec![0; 39], Vec::new()] {
            assert!(FirstPage::parse(&bad).is_err());
        }
    }
}
