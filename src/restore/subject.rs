//! What a statement of a dump is about: whose definition, whose rows.

use super::words::{Name, Sort, Word, begins, find, name_at, words, words_up_to};

/// What a statement is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The session itself: settings.
    Session,
    /// A table, a view, a sequence: what has a name among tables.
    Relation(Name),
    Index(Name),
    /// Anything else that lies in a schema.
    Member(Name),
    Schema(Vec<u8>),
    /// What lies in no schema.
    Nobody,
}

/// What it says of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    Definition,
    /// `CREATE SEQUENCE`: whose it is shows later.
    Sequence,
    /// The sequence belongs to that table.
    OwnedBy(Name),
    /// The column is an identity, with that sequence.
    Identity(Option<Name>),
    /// An index of that name is made with it, in the table's schema.
    MakesIndex(Vec<u8>),
    /// That one becomes a partition.
    Attaches(Name),
    /// Statistics of that name.
    Statistics(Name),
    ForeignKey(Name),
    /// Triggers, policies, rules, publications: they act beyond the table.
    Acts,
    Data,
}

/// Reads a statement.
pub fn subject(statement: &[u8]) -> (Subject, About) {
    let words = words_up_to(statement, 4);
    let first = |n: usize| words.get(n).map(|word| word.text).unwrap_or_default();
    match first(0) {
        b"SET" => (Subject::Session, About::Definition),
        b"SELECT" => selected(statement),
        b"INSERT" => {
            let words = words_up_to(statement, 6);
            (relation(&words, 2), About::Data)
        }
        b"REFRESH" => (relation(&words_up_to(statement, 6), 3), About::Data),
        b"CREATE" => created(&self::words(statement)),
        b"ALTER" => altered(&self::words(statement)),
        b"COMMENT" | b"GRANT" | b"REVOKE" | b"SECURITY" => said_of(&self::words(statement)),
        _ => (Subject::Nobody, About::Definition),
    }
}

/// The table of a `COPY`.
pub fn copied(statement: &[u8]) -> Option<Name> {
    name_at(&words_up_to(statement, 4), 1).map(|(name, _)| name)
}

/// A name inside of a string: `'public.t_id_seq'`.
pub fn name_in(text: &Word<'_>) -> Option<Name> {
    if text.sort != Sort::Text || text.text.first() == Some(&b'$') {
        return None;
    }
    let inner = text.text.strip_suffix(b"'")?;
    let (inner, escapes) = match inner.strip_prefix(b"'") {
        Some(inner) => (inner, false),
        None => (inner.strip_prefix(b"E'")?, true),
    };
    let mut plain = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        let skips = *byte == b'\'' || (escapes && *byte == b'\\');
        plain.push(if skips { *bytes.next()? } else { *byte });
    }
    let words = words(&plain);
    name_at(&words, 0).filter(|(_, end)| *end == words.len()).map(|(name, _)| name)
}

fn selected(statement: &[u8]) -> (Subject, About) {
    let words = words_up_to(statement, 6);
    if begins(&words, &["SELECT", "pg_catalog", ".", "set_config"]) {
        return (Subject::Session, About::Definition);
    }
    let literal = words.iter().position(|word| word.is("setval")).and_then(|at| words.get(at + 2));
    match literal.and_then(name_in) {
        Some(name) => (Subject::Relation(name), About::Data),
        None => (Subject::Nobody, About::Data),
    }
}

fn relation(words: &[Word<'_>], at: usize) -> Subject {
    name_at(words, at).map_or(Subject::Nobody, |(name, _)| Subject::Relation(name))
}

/// Anything in a schema; an operator's name is signs.
fn member(words: &[Word<'_>], at: usize) -> Subject {
    match name_at(words, at) {
        Some((name, end)) if name.schema.is_none() && words.get(end).is_some_and(|word| word.is(".")) => {
            Subject::Member(Name { schema: Some(name.name), name: Vec::new() })
        }
        Some((name, _)) => Subject::Member(name),
        None => Subject::Nobody,
    }
}

fn behind(words: &[Word<'_>], wanted: &[&str]) -> Option<usize> {
    find(words, 0, wanted).map(|at| at + wanted.len())
}

fn skip(words: &[Word<'_>], at: usize, word: &str) -> usize {
    if words.get(at).is_some_and(|found| found.is(word)) { at + 1 } else { at }
}

/// Kinds whose names lie in no schema.
const NOWHERE: [&str; 12] = [
    "EXTENSION",
    "EVENT",
    "LANGUAGE",
    "TRUSTED",
    "PROCEDURAL",
    "PUBLICATION",
    "SUBSCRIPTION",
    "SERVER",
    "CAST",
    "TRANSFORM",
    "ACCESS",
    "USER",
];

fn created(words: &[Word<'_>]) -> (Subject, About) {
    let on = |words: &[Word<'_>]| behind(words, &["ON"]).map_or(Subject::Nobody, |at| relation(words, skip(words, at, "ONLY")));
    let mut at = 1;
    while words.get(at).is_some_and(|word| {
        ["OR", "REPLACE", "UNLOGGED", "FOREIGN", "MATERIALIZED", "RECURSIVE", "UNIQUE", "CONSTRAINT"].iter().any(|more| word.is(more))
    }) {
        at += 1;
    }
    let is = |wanted: &str| words.get(at).is_some_and(|word| word.is(wanted));
    if is("TABLE") || is("VIEW") {
        (relation(words, at + 1), About::Definition)
    } else if is("SEQUENCE") {
        (relation(words, at + 1), About::Sequence)
    } else if is("INDEX") {
        let name = words.get(at + 1).and_then(Word::name).unwrap_or_default();
        (on(words), About::MakesIndex(name))
    } else if is("TRIGGER") || is("POLICY") {
        (on(words), About::Acts)
    } else if is("RULE") {
        let to = behind(words, &["TO"]).map_or(Subject::Nobody, |at| relation(words, at));
        (to, About::Acts)
    } else if is("STATISTICS") {
        let table = behind(words, &["FROM"]).map_or(Subject::Nobody, |at| relation(words, at));
        match name_at(words, at + 1) {
            Some((name, _)) => (table, About::Statistics(name)),
            None => (table, About::Definition),
        }
    } else if is("SCHEMA") {
        (words.get(at + 1).and_then(Word::name).map_or(Subject::Nobody, Subject::Schema), About::Definition)
    } else if is("DATA") || NOWHERE.iter().any(|kind| is(kind)) {
        (Subject::Nobody, About::Definition)
    } else if is("TEXT") {
        (member(words, at + 3), About::Definition)
    } else if is("OPERATOR") {
        let family = words.get(at + 1).is_some_and(|word| word.is("CLASS") || word.is("FAMILY"));
        (member(words, if family { at + 2 } else { at + 1 }), About::Definition)
    } else if is("DEFAULT") {
        (member(words, at + 2), About::Definition)
    } else {
        (member(words, at + 1), About::Definition)
    }
}

fn altered(words: &[Word<'_>]) -> (Subject, About) {
    let is = |n: usize, wanted: &str| words.get(n).is_some_and(|word| word.is(wanted));
    let at = if is(1, "MATERIALIZED") || is(1, "FOREIGN") { 2 } else { 1 };
    if is(1, "FOREIGN") && is(2, "DATA") {
        return (Subject::Nobody, About::Definition);
    }
    if is(1, "LARGE") {
        return (Subject::Nobody, About::Data);
    }
    if is(at, "TABLE") || is(at, "VIEW") || is(at, "SEQUENCE") {
        let start = skip(words, at + 1, "ONLY");
        return match name_at(words, start) {
            Some((name, end)) => (Subject::Relation(name), said_of_relation(&words[end..])),
            None => (Subject::Nobody, About::Definition),
        };
    }
    if is(at, "INDEX") {
        let attached = behind(words, &["ATTACH", "PARTITION"]).and_then(|at| name_at(words, at));
        let about = attached.map_or(About::Definition, |(name, _)| About::Attaches(name));
        return (name_at(words, at + 1).map_or(Subject::Nobody, |(name, _)| Subject::Index(name)), about);
    }
    if is(at, "STATISTICS") {
        return (name_at(words, at + 1).map_or(Subject::Nobody, |(name, _)| Subject::Index(name)), About::Definition);
    }
    if is(at, "PUBLICATION") {
        let table = behind(words, &["ADD", "TABLE"]).map_or(Subject::Nobody, |at| relation(words, skip(words, at, "ONLY")));
        return (table, About::Acts);
    }
    if is(at, "SCHEMA") {
        return (words.get(at + 1).and_then(Word::name).map_or(Subject::Nobody, Subject::Schema), About::Definition);
    }
    if is(at, "DEFAULT") {
        let schema = behind(words, &["IN", "SCHEMA"]).and_then(|at| words.get(at)?.name());
        return (schema.map_or(Subject::Nobody, Subject::Schema), About::Definition);
    }
    created(words)
}

/// Behind the name of an `ALTER TABLE`.
fn said_of_relation(words: &[Word<'_>]) -> About {
    if begins(words, &["OWNED", "BY"]) {
        return name_at(words, 2).map_or(About::Definition, |(name, _)| About::OwnedBy(name));
    }
    if begins(words, &["ATTACH", "PARTITION"]) {
        return name_at(words, 2).map_or(About::Definition, |(name, _)| About::Attaches(name));
    }
    if begins(words, &["ADD", "CONSTRAINT"]) {
        let referenced = find(words, 3, &["REFERENCES"]).filter(|_| begins(&words[3.min(words.len())..], &["FOREIGN", "KEY"]));
        return match (referenced.and_then(|at| name_at(words, at + 1)), words.get(2).and_then(Word::name)) {
            (Some((other, _)), _) => About::ForeignKey(other),
            (None, Some(name)) => About::MakesIndex(name),
            (None, None) => About::Definition,
        };
    }
    if (begins(words, &["ENABLE"]) || begins(words, &["DISABLE"])) && find(words, 0, &["ROW", "LEVEL"]).is_none() {
        return About::Acts;
    }
    if begins(words, &["ALTER", "COLUMN"]) && find(words, 0, &["ADD", "GENERATED"]).is_some() {
        // In parentheses, where `find` does not look.
        let sequence = words.windows(2).position(|two| two[0].is("SEQUENCE") && two[1].is("NAME"));
        return About::Identity(sequence.and_then(|at| name_at(words, at + 2)).map(|(name, _)| name));
    }
    About::Definition
}

/// `COMMENT ON`, `SECURITY LABEL FOR x ON`, `GRANT ... ON`: the kind and the name behind the `ON`.
fn said_of(words: &[Word<'_>]) -> (Subject, About) {
    let none = (Subject::Nobody, About::Definition);
    let Some(at) = behind(words, &["ON"]) else {
        return none;
    };
    let is = |n: usize, wanted: &str| words.get(at + n).is_some_and(|word| word.is(wanted));
    let acts = if is(0, "TRIGGER") || is(0, "POLICY") || is(0, "RULE") { About::Acts } else { About::Definition };
    if acts == About::Acts || is(0, "CONSTRAINT") {
        let Some(on) = find(words, at, &["ON"]) else {
            return none;
        };
        if words.get(on + 1).is_some_and(|word| word.is("DOMAIN")) {
            return (member(words, on + 2), acts);
        }
        return (relation(words, skip(words, on + 1, "ONLY")), acts);
    }
    let start = if is(0, "MATERIALIZED") || (is(0, "FOREIGN") && is(1, "TABLE")) { 2 } else { 1 };
    if is(start - 1, "TABLE") || is(start - 1, "VIEW") || is(start - 1, "SEQUENCE") {
        (relation(words, at + start), About::Definition)
    } else if is(0, "COLUMN") {
        (relation(words, at + 1), About::Definition)
    } else if is(0, "INDEX") || is(0, "STATISTICS") {
        (name_at(words, at + 1).map_or(Subject::Nobody, |(name, _)| Subject::Index(name)), About::Definition)
    } else if is(0, "SCHEMA") {
        (words.get(at + 1).and_then(Word::name).map_or(Subject::Nobody, Subject::Schema), About::Definition)
    } else if is(0, "LARGE") {
        (Subject::Nobody, About::Data)
    } else if is(0, "FOREIGN") || is(0, "DATABASE") || NOWHERE.iter().any(|kind| is(0, kind)) {
        none
    } else if is(0, "OPERATOR") && (is(1, "CLASS") || is(1, "FAMILY")) {
        (member(words, at + 2), About::Definition)
    } else if is(0, "TEXT") {
        (member(words, at + 3), About::Definition)
    } else {
        (member(words, at + 1), About::Definition)
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::parse_name;
    use super::*;

    #[test]
    fn subjects() {
        let name = |text: &str| parse_name(text).unwrap();
        let rel = |text: &str| Subject::Relation(name(text));
        let definition = About::Definition;
        for (statement, subject_is, about) in [
            ("CREATE UNLOGGED TABLE public.t (", rel("public.t"), definition.clone()),
            ("CREATE FOREIGN TABLE public.t (", rel("public.t"), definition.clone()),
            ("CREATE MATERIALIZED VIEW public.v AS", rel("public.v"), definition.clone()),
            ("CREATE SEQUENCE public.s", rel("public.s"), About::Sequence),
            ("ALTER SEQUENCE public.s OWNED BY public.t.id;", rel("public.s"), About::OwnedBy(name("public.t"))),
            (
                "ALTER TABLE public.t ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (\n SEQUENCE NAME public.t_id_seq\n START WITH 1);",
                rel("public.t"),
                About::Identity(Some(name("public.t_id_seq"))),
            ),
            ("ALTER TABLE ONLY public.t ATTACH PARTITION public.c FOR VALUES IN (1);", rel("public.t"), About::Attaches(name("public.c"))),
            ("CREATE UNIQUE INDEX i ON ONLY public.t USING btree (a);", rel("public.t"), About::MakesIndex(b"i".to_vec())),
            ("ALTER INDEX public.i ATTACH PARTITION public.j;", Subject::Index(name("public.i")), About::Attaches(name("public.j"))),
            ("ALTER TABLE ONLY public.t ADD CONSTRAINT k PRIMARY KEY (id);", rel("public.t"), About::MakesIndex(b"k".to_vec())),
            (
                "ALTER TABLE ONLY public.t ADD CONSTRAINT k FOREIGN KEY (a) REFERENCES s.u(id);",
                rel("public.t"),
                About::ForeignKey(name("s.u")),
            ),
            ("CREATE CONSTRAINT TRIGGER x AFTER UPDATE OF a ON public.t FROM u NOT DEFERRABLE;", rel("public.t"), About::Acts),
            ("CREATE POLICY p ON public.t USING (true);", rel("public.t"), About::Acts),
            ("CREATE RULE r AS\n    ON INSERT TO public.t DO NOTHING;", rel("public.t"), About::Acts),
            ("ALTER TABLE public.t DISABLE TRIGGER x;", rel("public.t"), About::Acts),
            ("ALTER TABLE public.t ENABLE ROW LEVEL SECURITY;", rel("public.t"), definition.clone()),
            ("ALTER PUBLICATION p ADD TABLE ONLY public.t;", rel("public.t"), About::Acts),
            ("COMMENT ON COLUMN public.t.c IS 'ON x';", rel("public.t"), definition.clone()),
            ("COMMENT ON CONSTRAINT c ON public.t IS 'x';", rel("public.t"), definition.clone()),
            ("COMMENT ON TRIGGER c ON public.t IS 'x';", rel("public.t"), About::Acts),
            ("COMMENT ON INDEX public.i IS 'x';", Subject::Index(name("public.i")), definition.clone()),
            ("GRANT SELECT(a),UPDATE(b) ON TABLE public.t TO r;", rel("public.t"), definition.clone()),
            ("GRANT USAGE ON SCHEMA s TO r;", Subject::Schema(b"s".to_vec()), definition.clone()),
            ("GRANT ALL ON FUNCTION s.f(a integer) TO r;", Subject::Member(name("s.f")), definition.clone()),
            ("CREATE STATISTICS public.s ON a, b FROM public.t;", rel("public.t"), About::Statistics(name("public.s"))),
            ("SELECT pg_catalog.setval('\"Mixed Case\".\"T_seq\"', 1, true);", rel("\"Mixed Case\".\"T_seq\""), About::Data),
            ("SELECT pg_catalog.set_config('search_path', '', false);", Subject::Session, definition.clone()),
            ("CREATE OPERATOR s.=== (", Subject::Member(Name { schema: Some(b"s".to_vec()), name: Vec::new() }), definition.clone()),
            ("CREATE OPERATOR CLASS s.c\n DEFAULT", Subject::Member(name("s.c")), definition.clone()),
            ("CREATE TEXT SEARCH CONFIGURATION s.c (", Subject::Member(name("s.c")), definition.clone()),
            ("ALTER FUNCTION s.f() OWNER TO x;", Subject::Member(name("s.f")), definition.clone()),
            ("CREATE TYPE s.t AS ENUM (", Subject::Member(name("s.t")), definition.clone()),
            ("CREATE EXTENSION IF NOT EXISTS x WITH SCHEMA public;", Subject::Nobody, definition.clone()),
            (
                "ALTER DEFAULT PRIVILEGES FOR ROLE a IN SCHEMA s GRANT ALL ON TABLES TO b;",
                Subject::Schema(b"s".to_vec()),
                definition.clone(),
            ),
            ("REFRESH MATERIALIZED VIEW public.v;", rel("public.v"), About::Data),
            ("INSERT INTO public.t VALUES (1);", rel("public.t"), About::Data),
        ] {
            assert_eq!(subject(statement.as_bytes()), (subject_is, about), "{statement}");
        }
    }
}
