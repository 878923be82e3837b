//! Which statements of a dump are wanted, for tables and schemas by name, and under which names.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::moved;
use super::split::{Copy, beginning};
use super::subject::{About, Subject, copied, subject};
use super::words::{Name, parse_name};
use crate::config::file::Contents;
use crate::error::{Error, Kind, Result};
use crate::postgres::quote::identifier;

/// What is wanted of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Tables as the user writes them: `schema.table` or `table`, quoted where they must be. A name
    /// without schema must be of one schema only. A view or a sequence can be named as well.
    pub tables: Vec<String>,
    pub schemas: Vec<String>,
    pub contents: Contents,
    /// Beside the live ones, in this schema.
    pub into_schema: Option<String>,
}

/// Notes on what is left out, at most.
const NOTES_MAX: usize = 1000;

/// Follows a dump and says what of it is run.
pub struct Chooser {
    /// With what each of them has met.
    tables: Vec<(Name, BTreeSet<Name>)>,
    schemas: Vec<(Vec<u8>, bool)>,
    contents: Contents,
    into: Option<Vec<u8>>,
    /// Sequences of which it is not known yet whose they are, and tables that may be partitions of a
    /// chosen one, with their statements. Nothing waits any more where the rows begin.
    pending: BTreeMap<Name, Vec<Bytes>>,
    /// What came with the chosen tables: sequences, indexes, statistics.
    own: BTreeSet<Name>,
    /// Sequences of tables that were not chosen, views that do not move.
    others: BTreeSet<Name>,
    /// The schema of names that have none.
    default_schema: Option<Vec<u8>>,
    begun: bool,
    /// The database is new: the schemas of the chosen tables are not there yet.
    is_fresh: bool,
    pub left_out: Vec<String>,
}

impl Chooser {
    /// # Errors
    /// A name is none.
    pub fn new(selection: &Selection, is_fresh: bool) -> Result<Self> {
        let bad = |text: &String| {
            Error::new(Kind::Usage, format!("{text:?} is no name of a table or schema"))
                .hint("quote what has capitals or signs: '\"Order\"'")
        };
        let tables = selection.tables.iter().map(|text| parse_name(text).map(|name| (name, BTreeSet::new())).ok_or_else(|| bad(text)));
        let plain = |text: &String| parse_name(text).filter(|name| name.schema.is_none()).map(|name| name.name).ok_or_else(|| bad(text));
        Ok(Chooser {
            tables: tables.collect::<Result<_>>()?,
            schemas: selection.schemas.iter().map(|text| plain(text).map(|name| (name, false))).collect::<Result<_>>()?,
            contents: selection.contents,
            into: selection.into_schema.as_ref().map(plain).transpose()?,
            pending: BTreeMap::new(),
            own: BTreeSet::new(),
            others: BTreeSet::new(),
            default_schema: None,
            begun: false,
            is_fresh,
            left_out: Vec::new(),
        })
    }

    /// What is run of a statement: nothing, itself, or itself with what waited for it.
    ///
    /// # Errors
    /// The dump is too old for what is asked.
    pub fn statement(&mut self, statement: Bytes) -> Result<Vec<Bytes>> {
        let (subject, about) = subject(&statement);
        if subject == Subject::Session {
            self.follow_search_path(&statement)?;
            return Ok(vec![statement]);
        }
        let chosen = self.choose(&subject, about, &statement);
        let mut run: Vec<Bytes> = Vec::new();
        for statement in chosen {
            if !std::mem::replace(&mut self.begun, true)
                && let Some(into) = self.into.as_ref().filter(|_| self.contents != Contents::Data)
            {
                run.push(Bytes::from(format!("CREATE SCHEMA IF NOT EXISTS {};", identifier(&String::from_utf8_lossy(into)))));
            }
            run.push(self.moved(&statement));
        }
        Ok(run)
    }

    /// A `COPY` that is wanted, under its name in the target.
    pub fn copy(&mut self, mut copy: Copy) -> Option<Copy> {
        let table = self.resolved(copied(&copy.statement)?);
        self.others.extend(std::mem::take(&mut self.pending).into_keys());
        let chosen = self.meets(&table) || self.own.contains(&table);
        if !chosen || self.contents == Contents::Schema {
            return None;
        }
        copy.statement = self.moved(&copy.statement);
        Some(copy)
    }

    /// Behind the last statement: whether all that was asked for was there.
    ///
    /// # Errors
    /// The dump has not what was named, or has it twice.
    pub fn finish(&mut self) -> Result<()> {
        for (name, met) in &self.tables {
            if met.is_empty() {
                return Err(Error::new(Kind::NotFound, format!("the dump has no table {name}"))
                    .hint("names are exact: quote those with capitals or signs ('\"Order\"'), and put the schema in front"));
            }
            if met.len() > 1 {
                let found = met.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                return Err(
                    Error::new(Kind::Usage, format!("table {name} is not one but several: {found}")).hint("put the schema in front")
                );
            }
        }
        if let Some((name, _)) = self.schemas.iter().find(|(_, met)| !met) {
            let name = String::from_utf8_lossy(name);
            return Err(Error::new(Kind::NotFound, format!("the dump has nothing in a schema {name}"))
                .hint("names are exact: quote those with capitals or signs"));
        }
        Ok(())
    }

    fn is_all(&self) -> bool {
        self.tables.is_empty() && self.schemas.is_empty()
    }

    /// Names without schema are of old dumps, which set the schema in front of each object.
    fn follow_search_path(&mut self, statement: &[u8]) -> Result<()> {
        if let Some(path) = statement.strip_prefix(b"SET search_path = ") {
            let words = super::words::words(path);
            self.default_schema = words.first().and_then(super::words::Word::name);
            if self.into.is_some() {
                return Err(Error::new(
                    Kind::Dump,
                    "the dump was made by a pg_dump older than 10.3, which does not write the schema of each name",
                )
                .hint("restore the tables into a new database (--to-database) and move them there"));
            }
        }
        Ok(())
    }

    fn resolved(&self, name: Name) -> Name {
        match name.schema {
            None => Name { schema: self.default_schema.clone(), ..name },
            Some(_) => name,
        }
    }

    /// Whether a relation is one of those asked for; remembers that it was there.
    fn meets(&mut self, name: &Name) -> bool {
        let mut meets = self.is_all();
        for (wanted, met) in &mut self.tables {
            if wanted.name == name.name && (wanted.schema.is_none() || wanted.schema == name.schema) {
                met.insert(name.clone());
                meets = true;
            }
        }
        let meets = self.meets_schema(name.schema.as_deref()) || meets;
        if meets && self.into.is_some() && !self.others.contains(name) {
            self.own.insert(name.clone());
        }
        meets
    }

    fn meets_schema(&mut self, schema: Option<&[u8]>) -> bool {
        let found = self.schemas.iter_mut().find(|(wanted, _)| Some(wanted.as_slice()) == schema);
        found.is_some_and(|(_, met)| {
            *met = true;
            true
        })
    }

    /// The same question, of one that is only referred to: it was there before.
    fn is_chosen(&self, name: &Name) -> bool {
        self.is_all()
            || self.own.contains(name)
            || self.tables.iter().any(|(_, met)| met.contains(name))
            || self.schemas.iter().any(|(wanted, _)| Some(wanted) == name.schema.as_ref())
    }

    fn choose(&mut self, subject: &Subject, about: About, statement: &Bytes) -> Vec<Bytes> {
        let chosen = match subject {
            Subject::Session => true,
            Subject::Relation(name) => {
                let name = self.resolved(name.clone());
                return self.relation(&name, about, statement);
            }
            Subject::Index(name) => {
                let attached_is_own = match about {
                    About::Attaches(child) => self.own.contains(&self.resolved(child)) || self.is_all(),
                    _ => true,
                };
                let name = self.resolved(name.clone());
                attached_is_own && (self.own.contains(&name) || self.is_chosen(&name))
            }
            Subject::Member(name) => {
                let name = self.resolved(name.clone());
                let chosen = self.meets_schema(name.schema.as_deref());
                if chosen && self.into.is_some() {
                    self.leave_out(statement, "only tables come into another schema");
                }
                self.is_all() || (chosen && self.into.is_none())
            }
            Subject::Schema(schema) => {
                let holds_chosen = || self.tables.iter().any(|(wanted, _)| wanted.schema.as_ref() == Some(schema));
                let makes = self.is_fresh && statement.starts_with(b"CREATE SCHEMA ") && holds_chosen();
                self.is_all() || ((self.meets_schema(Some(schema)) || makes) && self.into.is_none())
            }
            Subject::Nobody if about == About::Data => {
                if self.is_all() && statement.starts_with(b"SELECT pg_catalog.lo_open") && self.contents == Contents::Data {
                    self.leave_out(statement, "large objects do not come with the rows");
                }
                self.is_all() && self.contents == Contents::All
            }
            Subject::Nobody => self.is_all(),
        };
        if !chosen || self.contents == Contents::Data {
            return Vec::new();
        }
        // The caller may have made it, and public is there from the beginning.
        match statement.strip_prefix(b"CREATE SCHEMA ") {
            Some(rest) if !rest.starts_with(b"IF ") && !self.is_all() => {
                vec![Bytes::from([b"CREATE SCHEMA IF NOT EXISTS ", rest].concat())]
            }
            _ => vec![statement.clone()],
        }
    }

    fn relation(&mut self, name: &Name, about: About, statement: &Bytes) -> Vec<Bytes> {
        let one = || vec![statement.clone()];
        let is_view = [b"CREATE VIEW ".as_slice(), b"CREATE OR REPLACE VIEW ", b"CREATE MATERIALIZED "]
            .iter()
            .any(|start| statement.starts_with(start));
        if self.into.is_some() && is_view && self.others.insert(name.clone()) && self.meets(name) {
            self.leave_out(statement, "only tables come into another schema");
        }
        if self.into.is_some() && self.others.contains(name) {
            return Vec::new();
        }
        let chosen = self.meets(name) || self.own.contains(name);
        let wants_definition = self.contents != Contents::Data;
        if about == About::Data {
            let is_rows = !statement.starts_with(b"REFRESH ") || self.contents == Contents::All;
            if !chosen
                && statement.starts_with(b"SELECT ")
                && !self.others.contains(name)
                && !self.pending.contains_key(name)
                && !self.is_all()
            {
                self.leave_out(statement, "nothing in the dump says whose sequence it is");
            }
            return if chosen && is_rows && self.contents != Contents::Schema { one() } else { Vec::new() };
        }
        if let About::OwnedBy(table) = about {
            let table = self.resolved(table);
            let waited = self.pending.remove(name).unwrap_or_default();
            if !self.is_chosen(&table) {
                self.others.insert(name.clone());
                // Asked for by its own name it comes without its table.
                return if chosen && self.into.is_none() && wants_definition && self.is_chosen(name) { one() } else { Vec::new() };
            }
            self.own.insert(name.clone());
            return if wants_definition { waited.into_iter().chain(one()).collect() } else { Vec::new() };
        }
        if !chosen {
            let makes_table = [b"CREATE TABLE ".as_slice(), b"CREATE UNLOGGED ", b"CREATE FOREIGN TABLE "]
                .iter()
                .any(|start| statement.starts_with(start));
            match (about, self.pending.get_mut(name)) {
                (About::Definition, None) if makes_table && !self.tables.is_empty() => {
                    self.pending.insert(name.clone(), one());
                }
                (About::Sequence, _) => {
                    self.pending.insert(name.clone(), one());
                }
                (About::Identity(Some(sequence)), _) => {
                    self.others.insert(sequence);
                }
                (_, Some(waiting)) => waiting.push(statement.clone()),
                _ => {}
            }
            return Vec::new();
        }
        let schema = name.schema.clone();
        match about {
            About::Identity(Some(sequence)) => {
                self.own.insert(self.resolved(sequence));
            }
            About::MakesIndex(index) => {
                self.own.insert(Name { schema, name: index });
            }
            About::Statistics(statistics) => {
                self.own.insert(self.resolved(statistics));
            }
            About::Attaches(child) => {
                let child = self.resolved(child);
                if !self.is_chosen(&child) {
                    return self.partition(&child, statement);
                }
            }
            About::ForeignKey(other) if self.into.is_some() && !self.is_chosen(&self.resolved(other.clone())) => {
                self.leave_out(statement, format!("table {other} was not chosen"));
                return Vec::new();
            }
            About::Acts if self.into.is_some() => {
                self.leave_out(statement, "it acts beyond the table, and would on a copy as well");
                return Vec::new();
            }
            About::Acts if statement.starts_with(b"ALTER PUBLICATION ") && !self.is_all() => {
                self.leave_out(statement, "publications belong to the whole database");
                return Vec::new();
            }
            _ => {}
        }
        if !wants_definition {
            return Vec::new();
        }
        one()
    }

    /// A partition of a chosen table comes with it, and its own partitions too.
    fn partition(&mut self, child: &Name, statement: &Bytes) -> Vec<Bytes> {
        let Some(waited) = self.pending.remove(child) else {
            self.leave_out(statement, format!("partition {child} is not in the dump"));
            return Vec::new();
        };
        self.own.insert(child.clone());
        let mut run = Vec::new();
        for waited in waited {
            run.extend(self.relation(child, subject(&waited).1, &waited));
        }
        if self.contents != Contents::Data {
            run.push(statement.clone());
        }
        run
    }

    fn leave_out(&mut self, statement: &[u8], why: impl std::fmt::Display) {
        let matters = self.contents != Contents::Data || statement.starts_with(b"SELECT ");
        if matters && self.left_out.len() < NOTES_MAX {
            self.left_out.push(format!("{}: {why}", beginning(statement)));
        }
    }

    /// A statement under the names of the target.
    fn moved(&self, statement: &Bytes) -> Bytes {
        match &self.into {
            None => statement.clone(),
            Some(into) => moved::to_schema(statement, into, &|name| self.own.contains(name)),
        }
    }
}
