//! A statement under another schema: names of what is moved, and nothing else, get the new one.

use bytes::Bytes;

use super::subject::name_in;
use super::words::{Name, Sort, Word, name_at, words};
use crate::postgres::quote::{identifier, literal};

/// Words in front of a name of a table, behind which a parenthesis may follow; elsewhere a name with
/// a parenthesis is a function.
const BEFORE_A_TABLE: [&str; 8] = ["TABLE", "ONLY", "ON", "REFERENCES", "COPY", "INTO", "OF", "FROM"];

/// Writes a statement anew.
pub fn to_schema(statement: &Bytes, into: &[u8], is_moved: &dyn Fn(&Name) -> bool) -> Bytes {
    let words = words(statement);
    let into = identifier(&String::from_utf8_lossy(into));
    let mut text: Vec<u8> = Vec::with_capacity(statement.len() + 64);
    let mut copied = 0;
    let mut at = 0;
    while at < words.len() {
        let sequence = of_a_sequence(&words, at).filter(|name| is_moved(name));
        if let Some(name) = sequence {
            let place = &words[at].at;
            text.extend_from_slice(&statement[copied..place.start]);
            text.extend_from_slice(literal(&format!("{into}.{}", identifier(&String::from_utf8_lossy(&name.name)))).as_bytes());
            copied = place.end;
            at += 1;
            continue;
        }
        let Some((name, end)) = qualified(&words, at) else {
            at += 1;
            continue;
        };
        let calls = words.get(end).is_some_and(|word| word.is("("))
            && !at.checked_sub(1).is_some_and(|before| BEFORE_A_TABLE.iter().any(|word| words[before].is(word)));
        if is_moved(&name) && !calls {
            let place = &words[at].at;
            text.extend_from_slice(&statement[copied..place.start]);
            text.extend_from_slice(into.as_bytes());
            copied = place.end;
        }
        at = end;
    }
    text.extend_from_slice(&statement[copied..]);
    Bytes::from(text)
}

/// A name with its schema that begins here, and is no end of a longer one.
fn qualified(words: &[Word<'_>], at: usize) -> Option<(Name, usize)> {
    if !matches!(words[at].sort, Sort::Bare | Sort::Quoted) || at.checked_sub(1).is_some_and(|before| words[before].is(".")) {
        return None;
    }
    name_at(words, at).filter(|(name, _)| name.schema.is_some())
}

/// The string of a `nextval('...'` or `setval('...'`.
fn of_a_sequence(words: &[Word<'_>], at: usize) -> Option<Name> {
    let before = |n: usize| at.checked_sub(n).and_then(|at| words.get(at));
    let calls = before(1)?.is("(") && (before(2)?.is("nextval") || before(2)?.is("setval"));
    if calls { name_in(&words[at]).filter(|name| name.schema.is_some()) } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::words::parse_name;
    use super::*;

    fn moved(statement: &str) -> String {
        let own = ["public.t", "public.t_id_seq", "\"Mixed Case\".\"Table\"", "\"Mixed Case\".\"Table_Id_seq\""]
            .map(|name| parse_name(name).unwrap());
        let moved = to_schema(&Bytes::from(statement.to_owned()), b"Old one", &|name| own.contains(name));
        String::from_utf8(moved.to_vec()).unwrap()
    }

    #[test]
    fn names_of_what_is_moved_and_nothing_else() {
        for (statement, expected) in [
            (
                "CREATE TABLE public.t (\n    a public.mood,\n    b text DEFAULT 'public.t'\n);",
                "CREATE TABLE \"Old one\".t (\n    a public.mood,\n    b text DEFAULT 'public.t'\n);",
            ),
            ("COPY public.t (a) FROM stdin;", "COPY \"Old one\".t (a) FROM stdin;"),
            ("COPY \"Mixed Case\".\"Table\" (\"Id\") FROM stdin;", "COPY \"Old one\".\"Table\" (\"Id\") FROM stdin;"),
            (
                "ALTER TABLE ONLY public.t ALTER COLUMN id SET DEFAULT nextval('public.t_id_seq'::regclass);",
                "ALTER TABLE ONLY \"Old one\".t ALTER COLUMN id SET DEFAULT nextval('\"Old one\".\"t_id_seq\"'::regclass);",
            ),
            (
                "SELECT pg_catalog.setval('\"Mixed Case\".\"Table_Id_seq\"', 5, true);",
                "SELECT pg_catalog.setval('\"Old one\".\"Table_Id_seq\"', 5, true);",
            ),
            ("SELECT pg_catalog.setval('public.other', 5, true);", "SELECT pg_catalog.setval('public.other', 5, true);"),
            (
                "ALTER TABLE ONLY public.t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES public.t(id);",
                "ALTER TABLE ONLY \"Old one\".t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES \"Old one\".t(id);",
            ),
            (
                "ALTER TABLE public.t ADD CONSTRAINT c CHECK (public.t(a) > x.public.t);",
                "ALTER TABLE \"Old one\".t ADD CONSTRAINT c CHECK (public.t(a) > x.public.t);",
            ),
            ("COMMENT ON COLUMN public.t.a IS $$public.t$$;", "COMMENT ON COLUMN \"Old one\".t.a IS $$public.t$$;"),
            ("CREATE INDEX \"public.t\" ON public.tt USING btree (a);", "CREATE INDEX \"public.t\" ON public.tt USING btree (a);"),
        ] {
            assert_eq!(moved(statement), expected);
        }
    }

    proptest! {
        /// Where nothing is moved, not a byte is changed; and what is in quotes never is.
        #[test]
        fn nothing_else_is_touched(parts in prop::collection::vec(prop::sample::select(vec![
            "public", ".", "t", "u", "\"t\"", " ", "(", ")", "'public.t'", "'it''s'", "E'\\'public.t'", "$$public.t$$", "nextval", "\"public.t\"", "::", "1.5", "é",
        ]), 0..30)) {
            let text = parts.concat();
            let unmoved = to_schema(&Bytes::from(text.clone()), b"x", &|_| false);
            prop_assert_eq!(&unmoved[..], text.as_bytes());
            let strings = |text: &[u8]| words(text).iter().filter(|word| word.sort == Sort::Text).map(|word| word.text.to_vec()).collect::<Vec<_>>();
            let text = text.replace("nextval", "n");
            prop_assert_eq!(strings(moved(&text).as_bytes()), strings(text.as_bytes()));
        }
    }
}
