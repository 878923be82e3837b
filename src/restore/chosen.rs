//! Which tables of a backup somebody means.

use std::collections::BTreeSet;

use super::asked::Asked;
use super::names::{Named, single};
use super::plan::Refusal;
use super::target::{Existing, TableThere};
use crate::catalog::DatabaseEvidence;
use crate::config::file::Contents;
use crate::host::printable;
use crate::postgres::quote::identifier_on_one_line;

/// The tables that are wanted of one database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Those that are named, and the partitions of those. Where the backup does not tell its tables,
    /// as they were named.
    pub named: Vec<Named>,
    pub schemas: Vec<String>,
    /// All of them, as far as the backup tells: the named ones and those of the schemas.
    pub all: Vec<Named>,
}

/// How many names an answer shows.
const NAMES_MAX: usize = 20;

/// Finds what is asked for among what the backup holds.
///
/// # Errors
/// It holds no such table or schema, or several.
pub fn choose(asked: &Asked, evidence: Option<&DatabaseEvidence>) -> Result<Chosen, Refusal> {
    let unreadable = |what: &str, name: &str| {
        Refusal::new(format!("{:?} is no name of a {what}", printable(name)), "write it as in SQL: name, schema.name, or \"Quoted Name\"")
    };
    let known = evidence.map(known).unwrap_or_default();
    let mut chosen = Chosen::default();
    for text in &asked.schemas {
        let schema = single(text).ok_or_else(|| unreadable("schema", text))?;
        let of_schema: Vec<&Named> = known.iter().filter(|table| table.schema.as_deref() == Some(&schema)).collect();
        if of_schema.is_empty() && !known.is_empty() {
            let schemas: BTreeSet<&str> = known.iter().filter_map(|table| table.schema.as_deref()).collect();
            return Err(Refusal::new(
                format!("the backup has no table in a schema {}", identifier_on_one_line(&schema)),
                format!("it has: {}", several(schemas.into_iter().map(identifier_on_one_line))),
            ));
        }
        chosen.all.extend(of_schema.into_iter().cloned());
        chosen.schemas.push(schema);
    }
    for text in &asked.tables {
        let named = Named::parse(text).ok_or_else(|| unreadable("table", text))?;
        let mut meant = known.iter().filter(|table| named.means(table));
        let found = match (meant.next(), meant.next()) {
            (None, _) if known.is_empty() => named,
            (None, _) => {
                let near = known.iter().filter(|table| table.name.eq_ignore_ascii_case(&named.name)).map(written).next();
                let has = || format!("it has: {}", several(known.iter().map(written)));
                let hint = near.map_or_else(has, |near| format!("did you mean --table '{near}'?"));
                return Err(Refusal::new(format!("the backup has no table {}", written(&named)), hint));
            }
            (Some(found), None) => found.clone(),
            (Some(_), Some(_)) => {
                let several = several(known.iter().filter(|table| named.means(table)).map(written));
                return Err(Refusal::new(
                    format!("several tables of the backup are called {}", written(&named)),
                    format!("name the schema: one of {several}"),
                ));
            }
        };
        if let Some(root) = evidence.and_then(|evidence| rerouted(&found, evidence)) {
            return Err(Refusal::new(
                format!("the dump holds the rows of {} among those of {}", written(&found), written(&root)),
                format!("bring back all of it: --table {}; --into-schema NAME puts it beside the live one", written(&root)),
            ));
        }
        chosen.named.push(found);
    }
    if let Some(evidence) = evidence {
        with_partitions(&mut chosen.named, evidence);
    }
    chosen.all.extend(chosen.named.iter().cloned());
    if !asked.is_part() {
        chosen.all = known.into_iter().collect();
    }
    chosen.all.sort();
    chosen.all.dedup();
    Ok(chosen)
}

/// The table under which the dump has the rows of a partition, where an enum is hashed.
fn rerouted(table: &Named, evidence: &DatabaseEvidence) -> Option<Named> {
    let parent_of = |table: &Named| {
        let found = evidence.partitions.iter().find(|(child, _)| Named::parse(child).as_ref() == Some(table));
        found.and_then(|(_, parent)| Named::parse(parent))
    };
    let mut above = parent_of(table)?;
    while let Some(next) = parent_of(&above) {
        above = next;
    }
    evidence.rows.keys().any(|name| Named::parse(name).as_ref() == Some(&above)).then_some(above)
}

/// Every table that the evidence names.
fn known(evidence: &DatabaseEvidence) -> BTreeSet<Named> {
    let names = evidence.rows.keys().chain(evidence.partitions.keys()).chain(evidence.partitions.values());
    names.filter_map(|name| Named::parse(name)).collect()
}

fn with_partitions(tables: &mut Vec<Named>, evidence: &DatabaseEvidence) {
    let pairs: Vec<(Named, Named)> =
        evidence.partitions.iter().filter_map(|(child, parent)| Some((Named::parse(child)?, Named::parse(parent)?))).collect();
    let mut at = 0;
    while at < tables.len() {
        let children: Vec<Named> = pairs.iter().filter(|(_, parent)| *parent == tables[at]).map(|(child, _)| child.clone()).collect();
        for child in children {
            if !tables.contains(&child) {
                tables.push(child);
            }
        }
        at += 1;
    }
}

/// What stands in the way in the database that it goes into.
pub fn in_the_way(asked: &Asked, chosen: &Chosen, existing: &Existing) -> Vec<Refusal> {
    let into = asked.into_schema.as_deref();
    let is_meant = |table: &TableThere| {
        let there = Named { schema: Some(table.schema.clone()), name: table.name.clone() };
        match into {
            Some(schema) => table.schema == schema && chosen.all.iter().any(|wanted| wanted.name == table.name),
            None => {
                chosen.all.iter().any(|wanted| wanted.means(&there))
                    || (chosen.all.is_empty() && (!asked.is_part() || chosen.schemas.contains(&table.schema)))
            }
        }
    };
    let there: Vec<&TableThere> = existing.tables.iter().filter(|table| is_meant(table)).collect();
    let name = |table: &&TableThere| written(&Named { schema: Some(table.schema.clone()), name: table.name.clone() });
    let mut refusals = Vec::new();
    if asked.contents() == Contents::Data {
        let full: Vec<String> = there.iter().filter(|table| table.has_rows).map(name).collect();
        if !full.is_empty() {
            refusals.push(Refusal::new(
                format!("there are rows in {}", several(full.into_iter())),
                "rows go into empty tables only: TRUNCATE them first, or bring them in beside the live ones with --into-schema NAME",
            ));
        }
        let is_there = |wanted: &&Named| {
            there.iter().any(|table| wanted.means(&Named { schema: Some(table.schema.clone()), name: table.name.clone() }))
        };
        let absent: Vec<String> = chosen.all.iter().filter(|wanted| !is_there(wanted)).map(written).collect();
        if !absent.is_empty() {
            refusals.push(Refusal::new(
                format!("there is no table {}", several(absent.into_iter())),
                "rows go into tables that are there: bring their definitions first with --contents schema",
            ));
        }
    } else if !there.is_empty() {
        let hint = match into {
            Some(schema) => format!("name another schema than {}, or drop what is there", identifier_on_one_line(schema)),
            None => "add --into-schema NAME to have it beside the live one, or --contents data for the rows alone, into the empty table"
                .to_owned(),
        };
        refusals.push(Refusal::new(format!("there is already {}", several(there.iter().map(name))), hint));
    }
    refusals
}

/// A table as one would write it for `--table`.
pub fn written(table: &Named) -> String {
    let plain = |name: &str| {
        let mut bytes = name.bytes();
        bytes.next().is_some_and(|first| first.is_ascii_lowercase() || first == b'_')
            && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    let part = |name: &str| if plain(name) { name.to_owned() } else { identifier_on_one_line(name) };
    match &table.schema {
        Some(schema) => format!("{}.{}", part(schema), part(&table.name)),
        None => part(&table.name),
    }
}

/// The first of many names.
pub fn several(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    let more = names.len().saturating_sub(NAMES_MAX);
    names.truncate(NAMES_MAX);
    let shown = names.join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence() -> DatabaseEvidence {
        let mut evidence: DatabaseEvidence = serde_json::from_str(r#"{"properties": {}}"#).unwrap();
        for table in ["public.orders", "audit.orders", "public.customers", "public.events_1", "public.events_2_a", "\"Mixed\".\"Ta.ble\""] {
            evidence.rows.insert(table.to_owned(), 1);
        }
        for (child, parent) in
            [("public.events_1", "public.events"), ("public.events_2", "public.events"), ("public.events_2_a", "public.events_2")]
        {
            evidence.partitions.insert(child.to_owned(), parent.to_owned());
        }
        evidence
    }

    fn asked(tables: &[&str], schemas: &[&str]) -> Asked {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Asked { tables: owned(tables), schemas: owned(schemas), ..Asked::default() }
    }

    fn written_all(tables: &[Named]) -> Vec<String> {
        tables.iter().map(written).collect()
    }

    #[test]
    fn tables_are_found_by_name() {
        for (tables, schemas, expected) in [
            (&["customers"][..], &[][..], &["public.customers"][..]),
            (&["audit.orders"], &[], &["audit.orders"]),
            (&["\"Mixed\".\"Ta.ble\""], &[], &["\"Mixed\".\"Ta.ble\""]),
            (&["events"], &[], &["public.events", "public.events_1", "public.events_2", "public.events_2_a"]),
            (&["events_2"], &[], &["public.events_2", "public.events_2_a"]),
            (&["customers"], &["audit"], &["audit.orders", "public.customers"]),
        ] {
            let chosen = choose(&asked(tables, schemas), Some(&evidence())).unwrap();
            assert_eq!(written_all(&chosen.all), expected, "{tables:?} {schemas:?}");
        }
        assert_eq!(choose(&Asked::default(), Some(&evidence())).unwrap().all.len(), 8);
    }

    #[test]
    fn a_name_that_is_wrong_is_refused_with_the_right_one() {
        for (tables, schemas, message, hint) in [
            (&["nosuch"][..], &[][..], "no table nosuch", "public.customers"),
            (&["orders"], &[], "several tables", "audit.orders, public.orders"),
            (&["\"Customers\""], &[], "no table \"Customers\"", "did you mean --table 'public.customers'?"),
            (&["mixed.\"Ta.ble\""], &[], "no table", "did you mean"),
            (&["a.b.c"], &[], "no name of a table", "as in SQL"),
            (&[], &["nosuch"], "schema \"nosuch\"", "\"audit\", \"public\""),
        ] {
            let refusal = choose(&asked(tables, schemas), Some(&evidence())).unwrap_err();
            assert!(refusal.message.contains(message), "{refusal:?}");
            assert!(!hint.is_empty() && refusal.hint.contains(hint.trim_matches('"')), "{refusal:?}");
        }
    }

    #[test]
    fn a_partition_whose_rows_go_through_the_root_does_not_come_alone() {
        let mut evidence = evidence();
        evidence.rows.insert("public.events".to_owned(), 1);
        let refusal = choose(&asked(&["events_2_a"], &[]), Some(&evidence)).unwrap_err();
        assert!(refusal.message.contains("public.events_2_a among those of public.events"), "{refusal:?}");
        assert!(choose(&asked(&["events"], &[]), Some(&evidence)).is_ok());
    }

    #[test]
    fn without_evidence_names_are_taken_as_they_are() {
        let chosen = choose(&asked(&["nosuch"], &["s"]), None).unwrap();
        assert_eq!((written_all(&chosen.named), chosen.schemas), (vec!["nosuch".to_owned()], vec!["s".to_owned()]));
    }

    #[test]
    fn what_is_there_stands_in_the_way() {
        let table = |schema: &str, name: &str, has_rows| TableThere { schema: schema.into(), name: name.into(), has_rows };
        let existing = Existing {
            tables: vec![table("public", "orders", true), table("public", "customers", false), table("x", "customers", false)],
            ..Existing::default()
        };
        let rows = |asked: Asked| Asked { contents: Some(Contents::Data), ..asked };
        let into = |asked: Asked, schema: &str| Asked { into_schema: Some(schema.into()), ..asked };
        for (asked, expected) in [
            (asked(&["public.orders"], &[]), vec!["already public.orders"]),
            (asked(&["audit.orders"], &[]), vec![]),
            (into(asked(&["public.orders"], &[]), "y"), vec![]),
            (into(asked(&["public.customers"], &[]), "x"), vec!["already x.customers"]),
            (rows(asked(&["public.customers"], &[])), vec![]),
            (rows(asked(&["public.orders"], &[])), vec!["rows in public.orders"]),
            (rows(asked(&["audit.orders"], &[])), vec!["no table audit.orders"]),
            (rows(Asked::default()), vec!["rows in public.orders", "no table \"Mixed\".\"Ta.ble\", audit.orders"]),
        ] {
            let chosen = choose(&asked, Some(&evidence())).unwrap();
            let found = in_the_way(&asked, &chosen, &existing);
            assert_eq!(found.len(), expected.len(), "{found:?}");
            assert!(found.iter().zip(&expected).all(|(refusal, words)| refusal.message.contains(words)), "{found:?} {expected:?}");
        }
    }
}
