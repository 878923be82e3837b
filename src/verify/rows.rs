//! Rows that went by in a dump, held against those that were counted.

use std::collections::BTreeMap;

use crate::catalog::proof::Mismatch;
use crate::pack::census::TableRows;
use crate::postgres::quote::canonical;

/// The tables whose rows differ. A table of the dump that nobody counted is none: rows of extensions
/// are there as well. A table that was counted as empty may be missing.
pub fn differences(counted: &BTreeMap<String, u64>, passed: &[TableRows]) -> Vec<Mismatch> {
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for table in passed {
        *seen.entry(canonical(&table.table)).or_default() += table.rows;
    }
    counted
        .iter()
        .filter_map(|(table, expected)| {
            let found = seen.get(&canonical(table)).copied();
            (found.unwrap_or(0) != *expected).then(|| Mismatch {
                object: format!("table {table}"),
                expected: expected.to_string(),
                found: found.map_or_else(|| "none".to_owned(), |found| found.to_string()),
            })
        })
        .collect()
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
}
