//! Sizes and moments for people.

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use chrono_tz::Tz;

use super::float;

/// A size, in powers of ten as disks are sold and S3 bills.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = float(bytes);
    let mut unit = 0;
    while value >= 999.5 && unit < UNITS.len() - 1 {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if value < 9.995 => format!("{value:.2} {}", UNITS[unit]),
        _ if value < 99.95 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// A moment that is near, as people say it; farther off by its date.
pub fn moment(at: DateTime<Utc>, now: DateTime<Utc>, zone: Tz) -> String {
    let (there, here) = (at.with_timezone(&zone), now.with_timezone(&zone));
    let time = there.format("%H:%M");
    match (there.date_naive() - here.date_naive()).num_days() {
        0 => format!("today {time}"),
        1 => format!("tomorrow {time}"),
        -1 => format!("yesterday {time}"),
        -6..=6 => format!("{} {time}", there.format("%a")),
        _ if there.year() == here.year() => format!("{} {time}", there.format("%-d %b")),
        _ => there.format("%-d %b %Y").to_string(),
    }
}

/// A span in its largest unit, as between two moments.
pub fn roughly(span: TimeDelta) -> String {
    let secs = span.num_seconds().abs();
    match secs {
        0..90 => format!("{secs} s"),
        90..5_400 => format!("{} min", (secs + 30) / 60),
        5_400..172_800 => format!("{} h", (secs + 1_800) / 3_600),
        172_800..5_184_000 => format!("{} d", (secs + 43_200) / 86_400),
        5_184_000..63_072_000 => format!("{} months", secs / 2_629_800),
        _ => format!("{} years", secs / 31_557_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.00 kB"),
            (12_345, "12.3 kB"),
            (999_600, "1.00 MB"),
            (322_000_000, "322 MB"),
            (u64::MAX, "18447 PB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn moments() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        // A Thursday, 13:00 in Vienna.
        let now = at("2026-01-15T12:00:00Z");
        for (when, expected) in [
            ("2026-01-15T01:00:00Z", "today 02:00"),
            ("2026-01-15T23:30:00Z", "tomorrow 00:30"),
            ("2026-01-14T22:59:00Z", "yesterday 23:59"),
            ("2026-01-18T03:00:00Z", "Sun 04:00"),
            ("2026-01-22T03:00:00Z", "22 Jan 04:00"),
            ("2025-12-31T03:00:00Z", "31 Dec 2025"),
        ] {
            assert_eq!(moment(at(when), now, Tz::Europe__Vienna), expected);
        }
        for (secs, expected) in [
            (5, "5 s"),
            (100, "2 min"),
            (6_000, "2 h"),
            (90_000, "25 h"),
            (864_000, "10 d"),
            (8_640_000, "3 months"),
            (94_672_800, "3 years"),
        ] {
            assert_eq!(roughly(TimeDelta::seconds(-secs)), expected);
        }
    }
}
