//! How large the parts of a file are: pure.
//!
//! A server takes 10,000 parts at most, of 5 MiB to 5 GiB each, and how long a stream will be is not
//! known when it begins. Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>

const MIB: u64 = 1024 * 1024;

/// The growth of parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// The length of the first, in bytes.
    pub first_bytes: u64,
    /// They double each time that so many are written.
    pub double_every: u32,
    /// Larger ones wait in a file of the spool, not in memory. In bytes.
    pub in_memory_bytes_max: u64,
}

impl Default for Parts {
    fn default() -> Self {
        Parts { first_bytes: 8 * MIB, double_every: 1_000, in_memory_bytes_max: UNDER_WAY_BYTES }
    }
}

/// What parts under way may hold, in bytes; one always may.
const UNDER_WAY_BYTES: u64 = 64 * MIB;
const UNDER_WAY_MAX: u64 = 4;

impl Parts {
    /// The length of a part by its number, which counts from 1, in bytes.
    pub fn bytes(self, number: u32) -> u64 {
        self.first_bytes << (number.saturating_sub(1) / self.double_every).min(16)
    }

    /// How many parts of such a length are sent at a time.
    pub fn under_way(bytes: u64) -> usize {
        usize::try_from((UNDER_WAY_BYTES / bytes.max(1)).clamp(1, UNDER_WAY_MAX)).unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS_MAX: u32 = 10_000;
    const GIB: u64 = 1024 * MIB;
    const TIB: u64 = 1024 * GIB;

    #[test]
    fn ten_thousand_parts_hold_five_tebibytes() {
        let parts = Parts::default();
        let total: u64 = (1..=NUMBERS_MAX).map(|number| parts.bytes(number)).sum();
        assert!(total >= 5 * TIB, "{total}");
        for number in 1..=NUMBERS_MAX {
            assert!((5 * MIB..=5 * GIB).contains(&parts.bytes(number)), "{number}");
            assert!(parts.bytes(number) <= parts.bytes(number + 1), "{number}");
        }
    }

    #[test]
    fn the_growth_as_a_table() {
        let parts = Parts::default();
        for (number, mib) in [(1, 8), (1_000, 8), (1_001, 16), (2_001, 32), (3_001, 64), (4_001, 128), (9_001, 4_096), (10_000, 4_096)] {
            assert_eq!(parts.bytes(number), mib * MIB, "{number}");
        }
        // What fits before each part must wait in a file.
        let in_memory: u64 =
            (1..=NUMBERS_MAX).map(|number| parts.bytes(number)).take_while(|bytes| *bytes <= parts.in_memory_bytes_max).sum();
        assert_eq!(in_memory / GIB, 117);
    }

    #[test]
    fn memory_is_bounded() {
        for (mib, count) in [(5, 4), (8, 4), (16, 4), (32, 2), (64, 1), (4_096, 1)] {
            assert_eq!(Parts::under_way(mib * MIB), count, "{mib}");
        }
    }
}
