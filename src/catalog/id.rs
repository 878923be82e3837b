//! Names of backups and of their files.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, TimeZone, Utc};
use chrono_tz::Tz;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::error::{Error, Kind, Result};

const LABEL_FORM: &str = "%Y%m%dT%H%M%SZ";

/// The label of a backup: its slot in UTC, to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(DateTime<Utc>);

impl Label {
    /// The label of a slot; what is finer than a second is dropped.
    pub fn of(slot: DateTime<Utc>) -> Self {
        Label(Utc.timestamp_opt(slot.timestamp(), 0).single().unwrap_or(slot))
    }

    pub fn slot(self) -> DateTime<Utc> {
        self.0
    }

    /// The next second.
    #[must_use]
    pub fn next(self) -> Self {
        Label(self.0 + chrono::Duration::seconds(1))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.format(LABEL_FORM))
    }
}

impl FromStr for Label {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let time = NaiveDateTime::parse_from_str(text, LABEL_FORM).map_err(drop)?;
        let label = Label(time.and_utc());
        // Only the one spelling that we write is a label.
        if label.to_string() == text { Ok(label) } else { Err(()) }
    }
}

/// One backup: `BACKUP/LABEL`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    pub backup: String,
    pub label: Label,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.backup, self.label)
    }
}

/// The backup that somebody asks for: by its label, or the newest good one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub backup: String,
    /// `None`: `latest`.
    pub label: Option<Label>,
}

impl Wanted {
    /// Reads `BACKUP/LABEL` or `BACKUP/latest`.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            Error::new(Kind::NotFound, format!("{text:?} is not the ID of a backup"))
                .hint("an ID is BACKUP/LABEL, such as euem_db/20240115T010000Z, or BACKUP/latest; pgvigil list shows them")
        };
        let (backup, label) = text.split_once('/').ok_or_else(wrong)?;
        let label = match label {
            "latest" => None,
            label => Some(label.parse().map_err(|()| wrong())?),
        };
        if backup.is_empty() {
            return Err(wrong());
        }
        Ok(Wanted { backup: backup.to_owned(), label })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.label {
            Some(label) => write!(f, "{}/{label}", self.backup),
            None => write!(f, "{}/latest", self.backup),
        }
    }
}

/// All but `[A-Za-z0-9._-]`.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b'-');

/// A name of a database as part of a file name. Clean-up scripts of many set-ups delete by the
/// globs `backup_*` and `.*`: neither may match.
pub fn encode(name: &str) -> String {
    let encoded = utf8_percent_encode(name, ENCODED).to_string();
    match encoded.strip_prefix("backup_") {
        Some(rest) => format!("%62ackup_{rest}"),
        None if encoded.starts_with('.') => encoded.replacen('.', "%2E", 1),
        // Stock tools would take it for an option.
        None if encoded.starts_with('-') => encoded.replacen('-', "%2D", 1),
        None => encoded,
    }
}

/// The file name of a dump without its endings: the database and the slot in the backup's zone.
pub fn dump_stem(database: &str, slot: DateTime<Utc>, zone: Tz) -> String {
    format!("{}_{}", encode(database), slot.with_timezone(&zone).format("%Y%m%d_%H%M%S"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn labels_have_one_spelling() {
        let label: Label = "20240115T010000Z".parse().unwrap();
        assert_eq!(label.to_string(), "20240115T010000Z");
        assert_eq!(label.next().to_string(), "20240115T010001Z");
        for text in
            ["", "latest", "20240115T010000", "2024-01-15T01:00:00Z", "20240115T0100001Z", "20240115T250000Z", "../x", "+0240115T010000Z"]
        {
            assert!(text.parse::<Label>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_date_of_a_file_is_in_the_zone() {
        let slot = "20240115T010000Z".parse::<Label>().unwrap().slot();
        assert_eq!(dump_stem("euem_db", slot, Tz::Europe__Vienna), "euem_db_20240115_020000");
        assert_eq!(dump_stem("a b/c", slot, Tz::UTC), "a%20b%2Fc_20240115_010000");
    }

    #[test]
    fn no_name_of_ours_matches_the_globs_of_clean_up_scripts() {
        assert_eq!(encode("backup_x"), "%62ackup_x");
        assert_eq!(encode(".hidden"), "%2Ehidden");
        assert_eq!(encode("-rf"), "%2Drf");
        assert_eq!(encode("backup"), "backup");
    }

    proptest! {
        #[test]
        fn encoded_names_are_safe_and_distinct(a in ".{1,63}", b in ".{1,63}") {
            let encoded = encode(&a);
            prop_assert!(encoded.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-%".contains(&c)));
            prop_assert!(!encoded.starts_with("backup_") && !encoded.starts_with(['.', '-']));
            let back = percent_encoding::percent_decode_str(&encoded).decode_utf8().unwrap().into_owned();
            prop_assert_eq!(&back, &a);
            prop_assert_eq!(a == b, encoded == encode(&b));
        }
    }
}
