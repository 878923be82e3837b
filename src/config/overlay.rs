//! Values that stand outside of the file: variables of the environment, labels of containers. Each is
//! laid over the file under its own key, and a fault of it is told under its own name.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::changes::NAMED;

/// Variables that begin so and have two underscores are configuration.
const PREFIX: &str = "PGVIGIL_";

/// Between the parts of a key in the name of a variable. One underscore may stand in a name, and
/// Kubernetes makes variables such as `PGVIGIL_PORT` for a service of that name.
const BETWEEN: &str = "__";

/// Before each value behind the end of the file: room for the places of its sections and its key.
const LEAD: &str = "\n    v = ";

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// As it is told: the name of the variable, or container and label.
    pub source: String,
    /// Such as `backups`, `x`, `schedule`.
    pub path: Vec<String>,
    pub value: String,
}

/// The variables that are configuration, in the order of their keys. An empty one is not set.
pub fn of_environment(variables: impl Iterator<Item = (String, String)>) -> Vec<Overlay> {
    let mut overlays: Vec<Overlay> = variables
        .filter(|(_, value)| !value.is_empty())
        .filter_map(|(name, value)| {
            let key = name.strip_prefix(PREFIX).filter(|_| name.contains(BETWEEN))?;
            // PGVIGIL__TIMEZONE is a key at the top.
            let key = key.strip_prefix('_').unwrap_or(key);
            let path = key.split(BETWEEN).map(str::to_lowercase).collect();
            Some(Overlay { source: name, path, value })
        })
        .collect();
    // `keep` before its parts.
    overlays.sort_by(|a, b| a.path.cmp(&b.path));
    overlays
}

/// A file with what is laid over it, in one text: so every fault has its place in it.
pub struct Sources {
    text: String,
    file_end: usize,
    lines: usize,
    laid: Vec<(Range<usize>, Overlay)>,
}

impl Sources {
    pub fn new(file: &str, overlays: &[Overlay]) -> Self {
        let mut text = file.to_owned();
        let mut laid = Vec::new();
        for overlay in overlays {
            let start = text.len();
            text.push_str(LEAD);
            text.push_str(&overlay.value);
            laid.push((start..text.len(), overlay.clone()));
        }
        Sources { text, file_end: file.len(), lines: 1 + memchr::memchr_iter(b'\n', file.as_bytes()).count(), laid }
    }

    pub(super) fn file(&self) -> &str {
        &self.text[..self.file_end]
    }

    /// The line of a place; what is laid over the file counts on behind its last line.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        match self.laid.iter().position(|(place, _)| place.contains(&offset)) {
            Some(nth) => self.lines + 1 + nth,
            None => 1 + memchr::memchr_iter(b'\n', &self.text.as_bytes()[..offset.min(self.file_end)]).count(),
        }
    }

    /// What a line is called if it is none of the file.
    pub(super) fn source_of(&self, line: usize) -> Option<&str> {
        let nth = line.checked_sub(self.lines + 1)?;
        self.laid.get(nth).map(|(_, overlay)| overlay.source.as_str())
    }

    /// Lays everything over the table of the file. What cannot be laid is a fault, with its line.
    pub(super) fn lay<'a>(&'a self, table: &mut DeTable<'a>) -> Vec<(usize, String, String)> {
        let mut faults = Vec::new();
        let mut begun: BTreeSet<&[String]> = BTreeSet::new();
        for (place, overlay) in &self.laid {
            let depth = depth_of(&overlay.path);
            if overlay.path.len() < depth || overlay.path.iter().any(String::is_empty) {
                let hint = "write PGVIGIL_SECTION__NAME__KEY=VALUE, such as PGVIGIL_BACKUPS__SHOP__SCHEDULE or PGVIGIL_SERVERS__MAIN__HOST";
                faults.push((self.line_of(place.start), "it names no key".to_owned(), hint.to_owned()));
                continue;
            }
            let is_whole = overlay.path.len() == depth;
            // The first part of a value begins it anew: what the file says there counts no more.
            let is_fresh = !is_whole && begun.insert(&overlay.path[..depth]);
            put(table, &overlay.path, (depth, is_fresh), self.read(place), place);
            if is_whole {
                begun.insert(&overlay.path);
            }
        }
        faults
    }

    /// What is laid at a place and does not fit there as TOML may fit as the text that it is: a name or
    /// a password may look like a number. Makes it that; false if it is already.
    pub(super) fn retry_as_text<'a>(&'a self, table: &mut DeTable<'a>, at: &Range<usize>) -> bool {
        let is_at = |place: &Range<usize>| place.start + LEAD.len() <= at.start && at.end <= place.end;
        let Some((place, overlay)) = self.laid.iter().find(|(place, _)| is_at(place)) else { return false };
        if matches!(self.read(place).get_ref(), DeValue::String(_)) {
            return false;
        }
        put(table, &overlay.path, (overlay.path.len(), false), self.as_text(place), place);
        true
    }

    /// As TOML where it is that, else as text.
    fn read<'a>(&'a self, place: &Range<usize>) -> Spanned<DeValue<'a>> {
        let line = &self.text[place.clone()];
        let parsed = DeTable::parse(line).ok().filter(|table| table.get_ref().len() == 1);
        match parsed.and_then(|table| table.into_inner().remove("v")) {
            Some(value) => moved(value, place.start),
            None => self.as_text(place),
        }
    }

    fn as_text<'a>(&'a self, place: &Range<usize>) -> Spanned<DeValue<'a>> {
        let value = place.start + LEAD.len()..place.end;
        Spanned::new(value.clone(), DeValue::String(Cow::Borrowed(&self.text[value])))
    }
}

/// How many parts of a path lead to a key; what goes deeper is within its value.
fn depth_of(path: &[String]) -> usize {
    match path.first() {
        Some(top) if NAMED.contains(&top.as_str()) => 3,
        Some(_) if path.len() > 1 => 2,
        _ => 1,
    }
}

/// Puts a value into a table under a path. At `depth` stands the key; with `is_fresh` its value is
/// begun anew. Sections and keys get places of their own before the value: a fault of them is no
/// fault of the value.
fn put<'a>(table: &mut DeTable<'a>, path: &[String], (depth, is_fresh): (usize, bool), value: Spanned<DeValue<'a>>, place: &Range<usize>) {
    let (last, sections) = path.split_last().map_or(("", path), |(last, sections)| (last.as_str(), sections));
    let mut at = table;
    for (nth, section) in sections.iter().enumerate() {
        let is_table = at.get(section.as_str()).is_some_and(|inner| matches!(inner.get_ref(), DeValue::Table(_)));
        if !is_table || is_fresh && nth + 1 == depth {
            at.remove(section.as_str());
            // A section is as wide as what is laid for it, a value begins where it begins.
            let width = if nth + 1 < depth { place.clone() } else { place.start + 2..place.end };
            let key = Spanned::new(place.start + 1..place.start + 2, Cow::Owned(section.clone()));
            at.insert(key, Spanned::new(width, DeValue::Table(DeTable::new())));
        }
        let Some(DeValue::Table(inner)) = at.get_mut(section.as_str()).map(Spanned::get_mut) else { return };
        at = inner;
    }
    at.remove(last);
    at.insert(Spanned::new(place.start + 3..place.start + 4, Cow::Owned(last.to_owned())), value);
}

/// The same value at another place.
fn moved(value: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    let span = value.span().start + by..value.span().end + by;
    let value = match value.into_inner() {
        DeValue::Table(table) => {
            let entries = table.into_iter().map(|(key, value)| {
                let place = key.span().start + by..key.span().end + by;
                (Spanned::new(place, key.into_inner()), moved(value, by))
            });
            DeValue::Table(entries.collect())
        }
        DeValue::Array(mut values) => {
            for value in values.iter_mut() {
                let inner = std::mem::replace(value, Spanned::new(0..0, DeValue::Boolean(false)));
                *value = moved(inner, by);
            }
            DeValue::Array(values)
        }
        value => value,
    };
    Spanned::new(span, value)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::plan::Which;
    use super::super::values::{Count, Given};
    use super::super::{Plan, parse_all};
    use super::*;

    const FILE: &str = "[servers.main]\nhost = \"db\"\n[stores.local]\npath = \"/b\"\n[backups.shop]\ndatabase = \"shop\"\nkeep = { last = 9, daily = 9 }\n";

    fn plan(file: &str, variables: &[(&str, &str)]) -> Result<Plan, String> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        parse_all(file, Path::new("x.toml"), &of_environment(variables)).map_err(|faults| faults.to_string())
    }

    #[test]
    fn environment_alone() {
        let plan = plan(
            "",
            &[
                ("PGVIGIL_SERVERS__MAIN__HOST", "db"),
                ("PGVIGIL_SERVERS__MAIN__PASSWORD__FILE", "/run/secrets/pg"),
                ("PGVIGIL_STORES__LOCAL__PATH", "/backups"),
                ("PGVIGIL_BACKUPS__EUEM_DB__DATABASE", "2024"),
                ("PGVIGIL_BACKUPS__EUEM_DB__SCHEDULE", "0 2 * * *"),
                ("PGVIGIL_BACKUPS__EUEM_DB__GLOBALS", "false"),
                ("PGVIGIL_BACKUPS__EUEM_DB__RETRIES", "5"),
                ("PGVIGIL_BACKUPS__EUEM_DB__TABLES", "[\"a\", 'b']"),
                ("PGVIGIL_BACKUPS__EUEM_DB__KEEP__LAST", "4"),
                ("PGVIGIL_BACKUPS__EUEM_DB__KEEP__YEARLY", "forever"),
                ("PGVIGIL__TIMEZONE", "Europe/Vienna"),
                // Not ours: what Kubernetes makes for a service, and what has a meaning of its own.
                ("PGVIGIL_SERVICE_HOST", "10.0.0.1"),
                ("PGVIGIL_PORT_9847_TCP", "tcp://10.0.0.1:9847"),
                ("PGVIGIL_CONFIG", "/x"),
                ("PGVIGIL_BACKUPS__EUEM_DB__MAX_AGE", ""),
                ("OTHER__X", "1"),
            ],
        )
        .unwrap();
        let backup = &plan.backups["euem_db"];
        assert_eq!(backup.which, Which::One(Given::Literal("2024".into())), "a name that looks like a number");
        assert_eq!((backup.globals, backup.retries, backup.timezone), (false, 5, chrono_tz::Tz::Europe__Vienna));
        assert_eq!(backup.schedule.as_ref().unwrap().text, "0 2 * * *");
        assert_eq!(backup.dump.tables, ["a", "b"]);
        assert_eq!((backup.keep.last, backup.keep.daily, backup.keep.yearly), (Count::Number(4), Count::Number(0), Count::Forever));
        assert_eq!(plan.servers["main"].password, Some(Given::File("/run/secrets/pg".into())));
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let plan = plan(
            FILE,
            &[
                ("PGVIGIL_BACKUPS__SHOP__DATABASE", "other"),
                ("PGVIGIL_BACKUPS__SHOP__KEEP__LAST", "2"),
                ("PGVIGIL_BACKUPS__MORE__DATABASE", "more"),
                ("PGVIGIL_SERVERS__MAIN__PASSWORD", "0123"),
            ],
        )
        .unwrap();
        let shop = &plan.backups["shop"];
        assert_eq!(shop.which, Which::One(Given::Literal("other".into())));
        assert_eq!((shop.keep.last, shop.keep.daily), (Count::Number(2), Count::Number(0)), "keep is replaced as a whole");
        assert_eq!(plan.servers["main"].password, Some(Given::Literal("0123".into())));
        assert_eq!(plan.backups.len(), 2);
    }

    #[test]
    fn faults_name_the_variable() {
        let table = [
            ("PGVIGIL_BACKUPS__SHOP__SCHEDUL", "@daily", "unknown key `schedul`", "did you mean `schedule`?"),
            ("PGVIGIL_BACKUPS__SHOP__SCHEDULE", "0 25 * * *", "bad schedule \"0 25 * * *\"", ""),
            ("PGVIGIL_BACKUPS__SHOP__RETRIES", "many", "expected u32", ""),
            ("PGVIGIL_BACKUPS__SHOP__RETRIES", "-1", "integer `-1`, expected u32", ""),
            ("PGVIGIL_BACKUPS__SHOP__KEEP", "{ dayly = 7 }", "unknown key `dayly`", "did you mean `daily`?"),
            ("PGVIGIL_BACKUPS__SHOP__KEEP__DAYLY", "7", "unknown key `dayly`", "did you mean `daily`?"),
            ("PGVIGIL_BACKUPS__SHOP__SERVER", "mian", "unknown server \"mian\"", "servers of this file: main"),
            ("PGVIGIL_BACKUPS__SHOP", "x", "it names no key", "PGVIGIL_BACKUPS__SHOP__SCHEDULE"),
            ("PGVIGIL_BACKUPS____SCHEDULE", "x", "it names no key", "PGVIGIL_"),
            ("PGVIGIL_BACKUPS__A.B__DATABASE", "x", "bad name \"a.b\"", ""),
            ("PGVIGIL_BAKCUPS__SHOP__DATABASE", "x", "unknown key `bakcups`", "did you mean `backups`?"),
            ("PGVIGIL_STORES__LOCAL__PATH", "backups", "path \"backups\" is not absolute", ""),
            ("PGVIGIL__TIMEZONE", "Europe/Viena", "unknown time zone", ""),
            ("PGVIGIL_PINGS__SHOP__URI", "x", "unknown key `uri`", "did you mean `url`?"),
        ];
        for (name, value, message, hint) in table {
            let told = plan(FILE, &[(name, value)]).unwrap_err();
            assert!(told.lines().any(|line| line.starts_with(&format!("{name}: ")) && line.contains(message)), "{name}: {told}");
            assert!(told.contains(hint), "{name}: {told}");
            assert!(!told.contains("x.toml:"), "{name}: {told}");
        }
        // Beside those of the file, which keep their lines.
        let told = plan(&FILE.replace("database", "datbase"), &[("PGVIGIL_BACKUPS__SHOP__RETRIES", "x")]).unwrap_err();
        assert!(told.starts_with("x.toml:6: unknown key `datbase`") && told.contains("PGVIGIL_BACKUPS__SHOP__RETRIES: "), "{told}");
    }

    #[test]
    fn a_value_is_no_more_than_a_value() {
        for value in ["1\nretries = 9", "\"\nx = 1", "'", "[", "{", "\u{0}", "a\nb", "#", "2026-01-01", "nan"] {
            let plan = plan(FILE, &[("PGVIGIL_BACKUPS__SHOP__DATABASE", value)]).unwrap();
            assert_eq!(plan.backups["shop"].which, Which::One(Given::Literal(value.into())), "{value:?}");
            assert_eq!(plan.backups["shop"].retries, 2);
        }
    }
}
