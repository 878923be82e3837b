//! What came back from a restore, held against what was there under the dump's snapshot.

use std::collections::BTreeMap;

use crate::catalog::DatabaseEvidence;
use crate::catalog::evidence::CheckResult;
use crate::catalog::proof::{Compared, Mismatch};

/// What is known of a database that came back.
#[derive(Debug, Clone, Default)]
pub struct Found {
    pub evidence: DatabaseEvidence,
    /// Of the tables that have a digest in the evidence; an error where a table could not be read.
    pub digests: BTreeMap<String, Result<String, String>>,
    pub checks: BTreeMap<String, CheckResult>,
}

/// How a comparison is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The backup is of a part: what else is there does not count.
    pub narrow: bool,
    /// Both servers are of one major version: they put a definition into the same words.
    pub same_major: bool,
}

/// What the comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    pub compared: Compared,
    /// Definitions, sequences, extensions and checks that were held against each other.
    pub others: u64,
    /// What differs by the surroundings, and not by the backup.
    pub notes: Vec<String>,
}

/// Compares; every difference is named.
pub fn compare(expected: &DatabaseEvidence, found: &Found, terms: Terms) -> Comparison {
    let mut made = Comparison::default();
    rows(expected, found, &mut made);
    definitions(expected, &found.evidence, terms, &mut made);
    sequences(expected, &found.evidence, &mut made);
    extensions(expected, &found.evidence, &mut made);
    checks(expected, found, &mut made);
    if expected.large_objects != found.evidence.large_objects && !(terms.narrow && expected.large_objects == 0) {
        differs(&mut made, "large objects", &expected.large_objects, &found.evidence.large_objects);
    }
    if !terms.same_major && !expected.definitions.is_empty() {
        made.notes.push("the drill's server is of another major version: objects were compared by their names only".to_owned());
    }
    for (name, version) in &expected.collations {
        match found.evidence.collations.get(name) {
            Some(there) if there != version => {
                made.notes.push(format!(
                    "collation {name} is of version {there} there, and was of {version}: a restore onto such a system sorts anew"
                ));
            }
            _ => {}
        }
    }
    made
}

fn differs(made: &mut Comparison, object: impl Into<String>, expected: &dyn std::fmt::Display, found: &dyn std::fmt::Display) {
    made.compared.mismatches.push(Mismatch { object: object.into(), expected: expected.to_string(), found: found.to_string() });
}

fn rows(expected: &DatabaseEvidence, found: &Found, made: &mut Comparison) {
    for (table, count) in &expected.rows {
        made.compared.tables += 1;
        made.compared.rows += count;
        match found.evidence.rows.get(table) {
            Some(there) if there == count => {}
            Some(there) => differs(made, format!("table {table}: rows"), &count, &there),
            None => differs(made, format!("table {table}: rows"), &count, &"no table"),
        }
    }
    for (table, digest) in &expected.digests {
        match found.digests.get(table) {
            Some(Ok(there)) if *there == digest.digest => {}
            Some(Ok(there)) => differs(made, format!("table {table}: content"), &digest.digest, &there),
            Some(Err(error)) => differs(made, format!("table {table}: content"), &digest.digest, &error),
            None => differs(made, format!("table {table}: content"), &digest.digest, &"not read"),
        }
    }
}

fn definitions(expected: &DatabaseEvidence, found: &DatabaseEvidence, terms: Terms, made: &mut Comparison) {
    for (object, hash) in &expected.definitions {
        made.others += 1;
        match found.definitions.get(object) {
            None => differs(made, object, &"there", &"missing"),
            Some(there) if there != hash && terms.same_major => {
                differs(made, object, &format!("definition {hash}"), &format!("definition {there}"));
            }
            Some(_) => {}
        }
    }
    if !terms.narrow {
        for object in found.definitions.keys().filter(|object| !expected.definitions.contains_key(*object)) {
            differs(made, object, &"missing", &"there");
        }
    }
}

/// A sequence may have run ahead between the snapshot and the dump, never back.
fn sequences(expected: &DatabaseEvidence, found: &DatabaseEvidence, made: &mut Comparison) {
    for (name, sequence) in &expected.sequences {
        made.others += 1;
        let Some(value) = sequence.value else { continue };
        let there = found.sequences.get(name).and_then(|there| there.value);
        let is_behind = there.is_none_or(|there| if sequence.increment < 0 { there > value } else { there < value });
        if is_behind {
            let at_least = if sequence.increment < 0 { "at most" } else { "at least" };
            let there = there.map_or_else(|| "never called".to_owned(), |there| there.to_string());
            differs(made, format!("sequence {name}: value"), &format!("{at_least} {value}"), &there);
        }
    }
}

fn extensions(expected: &DatabaseEvidence, found: &DatabaseEvidence, made: &mut Comparison) {
    for (name, version) in &expected.extensions {
        made.others += 1;
        match found.extensions.get(name) {
            None => differs(made, format!("extension {name}"), &version, &"missing"),
            // A dump names no version: a restore installs the one that the server has.
            Some(there) if there != version => {
                made.notes.push(format!("extension {name} is of version {there} there, and was of {version}"));
            }
            Some(_) => {}
        }
    }
}

fn checks(expected: &DatabaseEvidence, found: &Found, made: &mut Comparison) {
    for (name, result) in &expected.checks {
        let Some(value) = &result.value else {
            made.notes.push(format!("check {name} had failed under the snapshot already: it was not compared"));
            continue;
        };
        made.others += 1;
        match found.checks.get(name) {
            Some(CheckResult { value: Some(there), .. }) if there == value => {}
            Some(CheckResult { value: Some(there), .. }) => differs(made, format!("check {name}"), &value, &there),
            Some(CheckResult { error: Some(error), .. }) => differs(made, format!("check {name}"), &value, &error),
            _ => differs(made, format!("check {name}"), &value, &"not run"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::evidence::{RowsDigest, Sequence};

    fn evidence() -> DatabaseEvidence {
        DatabaseEvidence {
            rows: [("public.t".to_owned(), 3)].into(),
            digests: [("public.t".to_owned(), RowsDigest { columns: "(a)".to_owned(), digest: "d".to_owned() })].into(),
            sequences: [
                ("public.s".to_owned(), Sequence { value: Some(5), increment: 1 }),
                ("public.down".to_owned(), Sequence { value: Some(-5), increment: -1 }),
                ("public.fresh".to_owned(), Sequence { value: None, increment: 1 }),
            ]
            .into(),
            definitions: [("table public.t".to_owned(), "1".to_owned()), ("index public.i".to_owned(), "2".to_owned())].into(),
            extensions: [("plpgsql".to_owned(), "1.0".to_owned())].into(),
            large_objects: 1,
            checks: [("c".to_owned(), CheckResult { value: Some("7".to_owned()), error: None })].into(),
            ..DatabaseEvidence::default()
        }
    }

    fn found() -> Found {
        Found { digests: [("public.t".to_owned(), Ok("d".to_owned()))].into(), checks: evidence().checks, evidence: evidence() }
    }

    const TERMS: Terms = Terms { narrow: false, same_major: true };

    fn named(change: impl FnOnce(&mut Found), terms: Terms) -> Vec<String> {
        let mut found = found();
        change(&mut found);
        compare(&evidence(), &found, terms)
            .compared
            .mismatches
            .into_iter()
            .map(|m| format!("{}|{}|{}", m.object, m.expected, m.found))
            .collect()
    }

    #[test]
    fn what_is_the_same_matches() {
        let made = compare(&evidence(), &found(), TERMS);
        assert_eq!(made.compared, Compared { tables: 1, rows: 3, mismatches: vec![] });
        assert_eq!((made.others, made.notes), (7, vec![]));
    }

    #[test]
    fn what_differs_is_named() {
        type Change = fn(&mut Found);
        let changes: [(Change, &[&str]); 13] = [
            (|f| *f.evidence.rows.get_mut("public.t").unwrap() = 2, &["table public.t: rows|3|2"]),
            (|f| f.evidence.rows.clear(), &["table public.t: rows|3|no table"]),
            (|f| drop(f.digests.insert("public.t".into(), Ok("e".into()))), &["table public.t: content|d|e"]),
            (|f| drop(f.digests.remove("public.t")), &["table public.t: content|d|not read"]),
            (|f| drop(f.evidence.definitions.remove("index public.i")), &["index public.i|there|missing"]),
            (|f| drop(f.evidence.definitions.insert("index public.i".into(), "3".into())), &["index public.i|definition 2|definition 3"]),
            (|f| drop(f.evidence.definitions.insert("view public.v".into(), "3".into())), &["view public.v|missing|there"]),
            (|f| f.evidence.sequences.get_mut("public.s").unwrap().value = Some(4), &["sequence public.s: value|at least 5|4"]),
            (|f| f.evidence.sequences.get_mut("public.down").unwrap().value = Some(-4), &["sequence public.down: value|at most -5|-4"]),
            (
                |f| f.evidence.sequences.clear(),
                &["sequence public.down: value|at most -5|never called", "sequence public.s: value|at least 5|never called"],
            ),
            (|f| f.evidence.extensions.clear(), &["extension plpgsql|1.0|missing"]),
            (|f| f.evidence.large_objects = 0, &["large objects|1|0"]),
            (|f| f.checks.get_mut("c").unwrap().value = Some("8".into()), &["check c|7|8"]),
        ];
        for (change, expected) in changes {
            assert_eq!(named(change, TERMS), expected);
        }
    }

    #[test]
    fn what_ran_ahead_or_depends_on_the_surroundings_is_no_difference() {
        assert!(named(|f| f.evidence.sequences.get_mut("public.s").unwrap().value = Some(9), TERMS).is_empty());
        assert!(named(|f| drop(f.evidence.extensions.insert("plpgsql".into(), "1.1".into())), TERMS).is_empty());
        let other_major = Terms { same_major: false, ..TERMS };
        assert!(named(|f| drop(f.evidence.definitions.insert("index public.i".into(), "3".into())), other_major).is_empty());
        let narrow = Terms { narrow: true, ..TERMS };
        assert!(named(|f| drop(f.evidence.definitions.insert("view public.v".into(), "3".into())), narrow).is_empty());
    }
}
