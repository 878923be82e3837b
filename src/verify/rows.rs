//! Rows that went by in a dump, held against those that were counted.

use std::collections::BTreeMap;

use crate::catalog::proof::Mismatch;
use crate::pack::census::TableRows;
use crate::postgres::quote::canonical;

/// The tables whose rows differ. A table of the dump that nobody counted is none: rows of extensions
/// are there as well. A table that was counted as empty may be missing.
pub fn differences(counted: &BTreeMap<String, u64>, passed: &[TableRows]) -> Vec<Mismatch> {
    let seen = tally(counted.keys(), passed.iter().map(|table| (table.table.as_str(), table.rows)));
    counted
        .iter()
        .filter_map(|(table, expected)| {
            let found = seen.get(table).copied();
            (found.unwrap_or(0) != *expected).then(|| Mismatch {
                object: format!("table {table}"),
                expected: expected.to_string(),
                found: found.map_or_else(|| "none".to_owned(), |found| found.to_string()),
            })
        })
        .collect()
}

/// The rows of a dump by the names that the evidence has for its tables. A dump is in the encoding of
/// its database, and letters beyond ASCII are not told apart here where that is not UTF-8.
pub fn tally<'a>(names: impl IntoIterator<Item = &'a String>, passed: impl IntoIterator<Item = (&'a str, u64)>) -> BTreeMap<String, u64> {
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for (table, rows) in passed {
        *seen.entry(canonical(table)).or_default() += rows;
    }
    let (mut found, mut absent) = (BTreeMap::new(), Vec::new());
    for name in names {
        match seen.remove(&canonical(name)) {
            Some(rows) => {
                found.insert(name.clone(), rows);
            }
            None => absent.push(name),
        }
    }
    for name in absent {
        let like = ascii(&canonical(name));
        let mut alike = seen.keys().filter(|there| !there.is_ascii() && ascii(there) == like);
        if let (Some(there), None) = (alike.next().cloned(), alike.next()) {
            found.extend(seen.remove(&there).map(|rows| (name.clone(), rows)));
        }
    }
    found
}

/// With one sign for whatever stands between letters of ASCII.
fn ascii(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii() {
            text.push(c);
        } else if !text.ends_with(char::REPLACEMENT_CHARACTER) {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_too_few_or_too_many_is_named() {
        let counted: BTreeMap<String, u64> =
            [("public.a", 2), ("public.b", 0), ("public.c", 1)].map(|(name, n)| (name.to_owned(), n)).into();
        let passed = |tables: &[(&str, u64)]| -> Vec<TableRows> {
            let rows =
                |(table, rows): &(&str, u64)| TableRows { table: (*table).to_owned(), columns: String::new(), rows: *rows, digest: None };
            tables.iter().map(rows).collect()
        };
        let named = |tables: &[(&str, u64)]| -> Vec<String> {
            differences(&counted, &passed(tables)).into_iter().map(|m| format!("{} {} {}", m.object, m.expected, m.found)).collect()
        };
        assert_eq!(named(&[("public.a", 2), ("public.c", 1), ("ext.config", 7)]), [""; 0]);
        assert_eq!(named(&[("public.a", 1), ("public.c", 1)]), ["table public.a 2 1"]);
        assert_eq!(named(&[("public.a", 2), ("public.b", 3)]), ["table public.b 0 3", "table public.c 1 none"]);
    }

    #[test]
    fn a_name_in_another_encoding_is_known_by_its_ascii() {
        let names = ["public.\"t\u{e9}\"".to_owned(), "public.t".to_owned()];
        let seen = tally(&names, [("public.\"t\u{fffd}\"", 3), ("public.t", 1), ("public.t", 2)]);
        assert_eq!(seen.into_values().collect::<Vec<_>>(), [3, 3]);
        // Its bytes may look like UTF-8, and of two nobody knows which.
        assert_eq!(tally(&names[..1], [("public.\"t\u{c9}\"", 3)]).into_values().collect::<Vec<_>>(), [3]);
        assert!(tally(&names[..1], [("public.\"t\u{fffd}\"", 3), ("public.\"t\u{fffd}\u{fffd}\"", 3)]).is_empty());
    }
}
