//! What somebody means by a moment.

use std::fmt;

use chrono::{DateTime, LocalResult, NaiveDateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

use crate::wal::Lsn;

/// Where a restore is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// All that was committed by then.
    Time(DateTime<Utc>),
    Lsn(Lsn),
    Xid(u64),
    /// A restore point, `pg_create_restore_point`.
    Name(String),
    /// All there is.
    Latest,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Time(at) => write!(f, "{}", in_utc(*at)),
            Target::Lsn(lsn) => write!(f, "LSN {lsn}"),
            Target::Xid(xid) => write!(f, "transaction {xid}"),
            Target::Name(name) => write!(f, "restore point {name:?}"),
            Target::Latest => f.write_str("the end of the log"),
        }
    }
}

impl Target {
    /// The setting of PostgreSQL that stands for it. All there is needs none.
    pub fn setting(&self) -> Option<(&'static str, String)> {
        Some(match self {
            Target::Time(at) => ("recovery_target_time", at.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string()),
            Target::Lsn(lsn) => ("recovery_target_lsn", lsn.to_string()),
            // PostgreSQL knows the lower half only.
            Target::Xid(xid) => ("recovery_target_xid", (xid & 0xFFFF_FFFF).to_string()),
            Target::Name(name) => ("recovery_target_name", name.clone()),
            Target::Latest => return None,
        })
    }
}

/// A moment for people, to the microsecond where it has them.
pub fn in_utc(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S%.f UTC").to_string()
}

/// The forms that [`time`] reads.
pub const FORMS: &str = "write \"2026-01-15 14:30:00\" in the zone of the backup, \"2026-01-15 14:30:00 Europe/Vienna\", \"2026-01-15 13:30:00Z\", \"2026-01-15 14:30:00+01:00\", or \"5 minutes ago\"";

/// Units of "5 minutes ago", in seconds.
const UNITS: [(&[&str], i64); 5] = [
    (&["s", "sec", "secs", "second", "seconds"], 1),
    (&["m", "min", "mins", "minute", "minutes"], 60),
    (&["h", "hour", "hours"], 3_600),
    (&["d", "day", "days"], 86_400),
    (&["w", "week", "weeks"], 604_800),
];

/// Reads a moment. Without a zone it is of `zone`.
///
/// # Errors
/// It is none, there is no such time in its zone, or there are two.
pub fn time(text: &str, zone: Tz, now: DateTime<Utc>) -> Result<DateTime<Utc>, String> {
    let text = text.trim();
    let none = || format!("{text:?} is no moment");
    if text == "now" {
        return Ok(now);
    }
    if let Some(span) = text.strip_suffix("ago") {
        return ago(span.trim()).and_then(|span| now.checked_sub_signed(span)).ok_or_else(none);
    }
    if let Ok(at) = DateTime::parse_from_rfc3339(&text.replacen(' ', "T", 1)) {
        return Ok(at.to_utc());
    }
    for form in ["%Y-%m-%d %H:%M:%S%.f %z", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z", "%Y-%m-%dT%H:%M:%S%.f%#z"] {
        if let Ok(at) = DateTime::parse_from_str(text, form) {
            return Ok(at.to_utc());
        }
    }
    let (time, zone) = match text.rsplit_once(' ') {
        Some((time, name)) if name.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            (time.trim_end(), name.parse().map_err(|_| format!("there is no zone {name:?}"))?)
        }
        _ => (text, zone),
    };
    let forms = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"];
    let local = forms.iter().find_map(|form| NaiveDateTime::parse_from_str(time, form).ok()).ok_or_else(none)?;
    match zone.from_local_datetime(&local) {
        LocalResult::Single(at) => Ok(at.to_utc()),
        LocalResult::Ambiguous(first, second) => Err(format!(
            "{time} came twice in {zone}, as the clocks were set back: write {} or {}",
            first.format("%Y-%m-%d %H:%M:%S%.f%:z"),
            second.format("%Y-%m-%d %H:%M:%S%.f%:z")
        )),
        LocalResult::None => Err(format!("there was no {time} in {zone}: the clocks were set forward over it")),
    }
}

fn ago(span: &str) -> Option<TimeDelta> {
    let digits = span.find(|c: char| !c.is_ascii_digit())?;
    let count: i64 = span[..digits].parse().ok()?;
    let unit = span[digits..].trim().to_lowercase();
    let (_, secs) = UNITS.iter().find(|(names, _)| names.contains(&unit.as_str()))?;
    TimeDelta::try_seconds(count.checked_mul(*secs)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let now: DateTime<Utc> = "2026-06-01T12:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("2026-01-15 14:30:00 Europe/Vienna", Ok("2026-01-15T13:30:00Z")),
            ("2026-01-15 14:30:00", Ok("2026-01-15T13:30:00Z")),
            ("2026-01-15T14:30", Ok("2026-01-15T13:30:00Z")),
            ("2026-01-15 14:30:00.25 UTC", Ok("2026-01-15T14:30:00.250Z")),
            ("2026-01-15 14:30:00Z", Ok("2026-01-15T14:30:00Z")),
            ("2026-01-15T14:30:00.123456+05:30", Ok("2026-01-15T09:00:00.123456Z")),
            ("2026-01-15 14:30:00+01", Ok("2026-01-15T13:30:00Z")),
            ("2026-01-15 14:30:00 +0100", Ok("2026-01-15T13:30:00Z")),
            ("2026-01-15 14:30:00 America/New_York", Ok("2026-01-15T19:30:00Z")),
            ("5 minutes ago", Ok("2026-06-01T11:55:00Z")),
            ("2h ago", Ok("2026-06-01T10:00:00Z")),
            ("1 day ago", Ok("2026-05-31T12:00:00Z")),
            ("now", Ok("2026-06-01T12:00:00Z")),
            // Berlin's and Vienna's clocks change together.
            ("2026-10-25 02:30:00", Err("came twice")),
            ("2026-10-25 02:30:00 Europe/Berlin", Err("2026-10-25 02:30:00+02:00 or 2026-10-25 02:30:00+01:00")),
            ("2026-10-25 02:30:00+01:00", Ok("2026-10-25T01:30:00Z")),
            ("2026-03-29 02:30:00", Err("there was no")),
            ("2026-10-04 02:10:00 Australia/Lord_Howe", Err("there was no")),
            ("2011-12-30 12:00:00 Pacific/Apia", Err("there was no")),
            ("2026-01-15 14:30:00 Mars/Base", Err("there is no zone")),
            ("yesterday", Err("is no moment")),
            ("five minutes ago", Err("is no moment")),
            ("99999999999999999999 days ago", Err("is no moment")),
            ("2026-13-01 00:00:00", Err("is no moment")),
            ("", Err("is no moment")),
        ] {
            match (time(text, Tz::Europe__Vienna, now), expected) {
                (Ok(at), Ok(expected)) => assert_eq!(at, expected.parse::<DateTime<Utc>>().unwrap(), "{text}"),
                (Err(why), Err(words)) => assert!(why.contains(words), "{text}: {why}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn settings_of_postgresql() {
        let at: DateTime<Utc> = "2026-01-15T13:30:00.5Z".parse().unwrap();
        assert_eq!(Target::Time(at).setting(), Some(("recovery_target_time", "2026-01-15 13:30:00.500000+00".to_owned())));
        assert_eq!(Target::Xid((3 << 32) + 7).setting(), Some(("recovery_target_xid", "7".to_owned())));
        assert_eq!(Target::Latest.setting(), None);
    }
}
