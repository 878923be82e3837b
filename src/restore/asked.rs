//! What somebody asks of a restore, and whether it makes sense by itself.

use super::select::Selection;
use crate::config::file::Contents;
use crate::error::{Error, Kind, Result};

/// What is asked for, as on the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are the switches of the command line")]
pub struct Asked {
    pub databases: Vec<String>,
    pub to_database: Option<String>,
    pub to_server: Option<String>,
    pub store: Option<String>,
    pub clean: bool,
    pub keep_old: bool,
    pub disconnect: bool,
    pub in_place: bool,
    pub tables: Vec<String>,
    pub schemas: Vec<String>,
    pub into_schema: Option<String>,
    pub globals: bool,
    /// `None`: all.
    pub contents: Option<Contents>,
    /// What failed half-way stays, under its temporary name.
    pub keep_failed: bool,
    /// Also what nobody known has signed.
    pub accept_unsigned: bool,
}

impl Asked {
    /// Only some of a database.
    pub fn is_part(&self) -> bool {
        !self.tables.is_empty() || !self.schemas.is_empty()
    }

    pub fn contents(&self) -> Contents {
        self.contents.unwrap_or(Contents::All)
    }

    /// Whether it goes into a database as it is, and not under a name of its own first.
    pub fn goes_into_existing(&self) -> bool {
        self.is_part() || self.contents() == Contents::Data
    }

    /// What it wants of a dump; `None`: all of it.
    pub fn selection(&self) -> Option<Selection> {
        (self.is_part() || self.contents() != Contents::All).then(|| Selection {
            tables: self.tables.clone(),
            schemas: self.schemas.clone(),
            contents: self.contents(),
            into_schema: self.into_schema.clone(),
        })
    }

    /// Refuses what cannot be meant.
    ///
    /// # Errors
    /// Options that exclude each other, or that change nothing.
    pub fn check(&self) -> Result<()> {
        let part = self.is_part();
        let wrong: [(bool, &str, &str); 15] = [
            (
                self.into_schema.is_some() && !part,
                "--into-schema without --table or --schema",
                "name what goes there: --table orders --into-schema rescued",
            ),
            (
                self.into_schema.is_some() && self.contents() == Contents::Data,
                "--into-schema with --contents data",
                "leave one out: rows alone go into tables that are there",
            ),
            (
                self.clean && part,
                "--clean with --table or --schema",
                "to see tables beside the live ones add --into-schema NAME; --clean replaces a whole database",
            ),
            (
                self.clean && self.contents() != Contents::All,
                "--clean with --contents",
                "leave one out: a part would take the place of the whole database",
            ),
            (self.keep_old && !self.clean, "--keep-old without --clean", "add --clean, or leave it out: nothing is replaced"),
            (self.in_place && !self.clean, "--in-place without --clean", "add --clean, or leave it out: nothing is replaced"),
            (self.in_place && self.keep_old, "--in-place with --keep-old", "leave one out: in place, the old database is dropped first"),
            (
                self.disconnect && self.goes_into_existing(),
                "--disconnect where no database is replaced",
                "leave it out: rows and tables go in beside the open sessions",
            ),
            (
                self.keep_failed && self.goes_into_existing() && self.to_database.is_none(),
                "--keep-failed where no database is made",
                "leave it out: what goes into an existing database goes in as a whole, or not at all",
            ),
            (
                self.to_database.is_some() && self.databases.len() > 1,
                "--to-database with several --database",
                "restore them one by one, each --to-database of its own",
            ),
            (part && self.databases.len() > 1, "--table or --schema with several --database", "restore from one database at a time"),
            (self.to_database.as_deref() == Some(""), "--to-database without a name", "give the new database a name"),
            (self.into_schema.as_deref() == Some(""), "--into-schema without a name", "give the schema a name"),
            (
                self.tables.iter().chain(&self.schemas).chain(&self.databases).any(String::is_empty),
                "an empty name",
                "write the name of a table, a schema or a database",
            ),
            (
                self.to_database.iter().chain(&self.into_schema).any(|name| name.len() > super::page::NAME_BYTES_MAX),
                "a name of more than 63 bytes",
                "PostgreSQL would cut it: take a shorter one",
            ),
        ];
        match wrong.into_iter().find(|(is, ..)| *is) {
            Some((_, what, hint)) => Err(Error::new(Kind::Usage, what).hint(hint)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_wrong_usage() {
        let asked = |words: &str| {
            let mut asked = Asked::default();
            for word in words.split_whitespace() {
                match word {
                    "clean" => asked.clean = true,
                    "keep-old" => asked.keep_old = true,
                    "in-place" => asked.in_place = true,
                    "disconnect" => asked.disconnect = true,
                    "keep-failed" => asked.keep_failed = true,
                    "globals" => asked.globals = true,
                    "table" => asked.tables.push("t".into()),
                    "schema" => asked.schemas.push("s".into()),
                    "into" => asked.into_schema = Some("x".into()),
                    "to" => asked.to_database = Some("y".into()),
                    "database" => asked.databases.push("d".into()),
                    "rows" => asked.contents = Some(Contents::Data),
                    "definitions" => asked.contents = Some(Contents::Schema),
                    "empty" => asked.tables.push(String::new()),
                    "long" => asked.to_database = Some("x".repeat(64)),
                    word => panic!("{word}"),
                }
            }
            asked
        };
        for words in [
            "",
            "to",
            "database database",
            "clean",
            "clean to",
            "clean keep-old disconnect",
            "clean in-place disconnect keep-failed",
            "disconnect",
            "table",
            "table schema into",
            "table to keep-failed",
            "schema rows",
            "table definitions",
            "rows",
            "definitions to",
            "globals clean",
            "globals table",
        ] {
            assert_eq!(asked(words).check(), Ok(()), "{words}");
        }
        for words in [
            "into",
            "table into rows",
            "clean table",
            "clean schema",
            "clean rows",
            "clean definitions",
            "keep-old",
            "in-place",
            "clean in-place keep-old",
            "table disconnect",
            "rows disconnect",
            "table keep-failed",
            "rows keep-failed",
            "to database database",
            "table database database",
            "empty",
            "long",
        ] {
            assert_eq!(asked(words).check().map_err(|error| error.kind), Err(Kind::Usage), "{words}");
        }
    }

    #[test]
    fn all_of_a_dump_is_no_selection() {
        assert_eq!(Asked::default().selection(), None);
        let rows = Asked { contents: Some(Contents::Data), ..Asked::default() };
        assert!(rows.goes_into_existing() && rows.selection().is_some());
        let definitions = Asked { contents: Some(Contents::Schema), ..Asked::default() };
        assert!(!definitions.goes_into_existing() && definitions.selection().is_some());
    }
}
