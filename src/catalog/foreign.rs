//! File names of dumps that other tools made: `backup_DB_YYYYmmdd_HHMMSS.sql.gz` and its kin.

use chrono::{NaiveDate, NaiveDateTime};

use super::id::encode;
use crate::config::file::Format;

/// What the name of a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignName<'a> {
    /// All in front of the time: the database at its end.
    stem: &'a str,
    /// By the clock on the wall of whoever made it.
    pub local: NaiveDateTime,
    pub format: Format,
    /// With its dot.
    pub ending: &'static str,
}

/// What files end in, with their formats.
const ENDINGS: [(&str, Format); 4] =
    [(".sql", Format::Plain), (".sql.gz", Format::Plain), (".sql.zst", Format::Plain), (".dump", Format::Custom)];

/// `_YYYYmmdd_HHMMSS`, `9` for a digit.
const TIME_FORM: &str = "_99999999_999999";

impl<'a> ForeignName<'a> {
    /// Reads a name.
    ///
    /// # Errors
    /// Why it is none of these.
    pub fn parse(name: &'a str) -> Result<Self, String> {
        let (rest, ending, format) = ENDINGS
            .iter()
            .find_map(|(ending, format)| Some((name.strip_suffix(ending)?, *ending, *format)))
            .ok_or("its name does not end in .sql, .sql.gz, .sql.zst or .dump")?;
        let (stem, time) = rest
            .len()
            .checked_sub(TIME_FORM.len())
            .and_then(|at| rest.split_at_checked(at))
            .filter(|(stem, time)| !stem.is_empty() && has_form(time))
            .ok_or_else(|| format!("its name has no DATABASE_YYYYmmdd_HHMMSS in front of {ending}"))?;
        let number = |from: usize, to: usize| time[from..to].parse::<u32>().unwrap_or_default();
        let date = NaiveDate::from_ymd_opt(i32::try_from(number(1, 5)).unwrap_or_default(), number(5, 7), number(7, 9));
        let local = date.and_then(|date| date.and_hms_opt(number(10, 12), number(12, 14), number(14, 16)));
        let local = local.ok_or_else(|| format!("there is no such time as the {} of its name", &time[1..]))?;
        Ok(ForeignName { stem, local, format, ending })
    }

    /// Which of some databases it is of: the longest name that the stem ends in, behind a sign that
    /// parts words.
    pub fn database_of<'b>(&self, known: impl Iterator<Item = &'b str>) -> Option<&'b str> {
        let ends_in = |name: &str| {
            let before = self.stem.strip_suffix(name)?;
            (before.is_empty() || before.ends_with(['_', '-', '.'])).then_some(())
        };
        known.filter(|name| ends_in(name).or_else(|| ends_in(&encode(name))).is_some()).max_by_key(|name| name.len())
    }

    /// The database where none is known: all of the stem, without the word that scripts put in front.
    pub fn database(&self) -> &'a str {
        self.stem.strip_prefix("backup_").filter(|rest| !rest.is_empty()).unwrap_or(self.stem)
    }
}

fn has_form(time: &str) -> bool {
    time.len() == TIME_FORM.len()
        && time.bytes().zip(TIME_FORM.bytes()).all(|(byte, form)| if form == b'9' { byte.is_ascii_digit() } else { byte == form })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_scripts() {
        for (name, database, ending, local) in [
            ("backup_euem_db_20240115_020000.sql.gz", "euem_db", ".sql.gz", "2024-01-15 02:00:00"),
            ("euem_db_20240115_020001.sql", "euem_db", ".sql", "2024-01-15 02:00:01"),
            ("backup_a b_20240229_235959.sql.zst", "a b", ".sql.zst", "2024-02-29 23:59:59"),
            ("backup_20240115_020000.dump", "backup", ".dump", "2024-01-15 02:00:00"),
            ("x_20240115_010000_20240115_020000.dump", "x_20240115_010000", ".dump", "2024-01-15 02:00:00"),
        ] {
            let read = ForeignName::parse(name).unwrap();
            assert_eq!((read.database(), read.ending, read.local.to_string().as_str()), (database, ending, local), "{name}");
        }
    }

    #[test]
    fn names_that_say_nothing() {
        for name in [
            "",
            ".sql",
            "_20240115_020000.sql",
            "20240115_020000.sql",
            "x_20240115_020000.sql.bz2",
            "x_20240115_020000.tar",
            "x_20240115-020000.sql",
            "x_2024115_020000.sql",
            "x_20240115_02000.sql",
            "x_20240230_020000.sql",
            "x_20240115_240000.sql",
            "x_20240115_025960.sql",
            "x_2024011５_020000.sql",
            "ｘx_+0240115_020000.sql",
        ] {
            assert!(ForeignName::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn the_longest_known_database_is_meant() {
        for (name, expected) in [
            ("backup_app_20240115_020000.sql", Some("app")),
            ("app_20240115_020000.sql", Some("app")),
            ("nightly-app_20240115_020000.sql", Some("app")),
            ("backup_my_app_20240115_020000.sql", Some("my_app")),
            ("backup_app_x_20240115_020000.sql", None),
            ("backup_webapp_20240115_020000.sql", None),
            ("backup_a%20b_20240115_020000.sql", Some("a b")),
        ] {
            let read = ForeignName::parse(name).unwrap();
            assert_eq!(read.database_of(["my_app", "app", "a b"].into_iter()), expected, "{name}");
        }
    }
}
