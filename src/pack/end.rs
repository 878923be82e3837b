//! Whether a dump came to its proper end.
//!
//! The end marker of a plain dump is a comment that rows and function bodies can hold as well, and
//! a dump that is cut in the middle of `COPY` restores without an error. So the text is followed as
//! `psql` would read it: what is data, what is quoted, what is a comment; and the marker only
//! counts where the text is plain SQL and nothing but `\unrestrict` with the dump's own key follows.

use super::census::{Census, TableRows};
use super::lexer::{Lexer, Place};
use super::tar::{Passed, TarWatch};

/// Watches a dump go by.
pub enum EndWatch {
    /// Output of `pg_dump --format=plain` or `pg_dumpall`.
    Plain(Box<PlainWatch>),
    /// An archive of `pg_dump --format=custom`, which has no end marker: the exit status, the
    /// length and the hash are its proof.
    Custom { head: Vec<u8>, bytes: u64 },
    /// A tar archive of pg_basebackup.
    Tar(Box<TarWatch>),
}

/// The first bytes of an archive of `pg_dump`.
const ARCHIVE_MAGIC: &[u8] = b"PGDMP";

impl EndWatch {
    /// `digests`: takes one of the rows of each table as they pass.
    pub fn plain(digests: bool) -> Self {
        EndWatch::Plain(Box::new(PlainWatch::new(digests)))
    }

    pub fn tar() -> Self {
        EndWatch::Tar(Box::default())
    }

    pub fn custom() -> Self {
        EndWatch::Custom { head: Vec::new(), bytes: 0 }
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        match self {
            EndWatch::Plain(watch) => watch.feed(bytes),
            EndWatch::Custom { head, bytes: count } => {
                let missing = ARCHIVE_MAGIC.len().saturating_sub(head.len());
                head.extend_from_slice(&bytes[..missing.min(bytes.len())]);
                *count += bytes.len() as u64;
            }
            EndWatch::Tar(watch) => watch.feed(bytes),
        }
    }

    /// Whether the text goes to another database by itself: made with `--create`, or of a cluster.
    pub fn connects(&self) -> bool {
        matches!(self, EndWatch::Plain(watch) if watch.census.connects)
    }

    /// What was seen.
    ///
    /// # Errors
    /// Why this is not a whole dump.
    pub fn finish(self) -> Result<Seen, String> {
        match self {
            EndWatch::Plain(watch) => watch.finish(),
            EndWatch::Custom { bytes: 0, .. } => Err("it is empty".to_owned()),
            EndWatch::Custom { head, .. } if head != ARCHIVE_MAGIC => Err("it does not begin like an archive of pg_dump".to_owned()),
            EndWatch::Custom { .. } => Ok(Seen::default()),
            EndWatch::Tar(watch) => Ok(Seen { tar: Some(Box::new(watch.finish()?)), ..Seen::default() }),
        }
    }
}

/// What a whole dump held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// `CREATE TABLE` statements; `None` where the format hides them.
    pub tables: Option<u64>,
    /// The rows of each table in `COPY` data; `None` where the format hides them.
    pub rows: Option<Vec<TableRows>>,
    /// The files of a tar archive.
    pub tar: Option<Box<Passed>>,
}

/// The longest end of a text that matters here, in bytes.
const TAIL_BYTES: usize = 256;

/// The reader of plain dumps.
pub struct PlainWatch {
    lexer: Lexer,
    census: Census,
}

impl PlainWatch {
    fn new(digests: bool) -> Self {
        PlainWatch { lexer: Lexer::default(), census: Census::new(digests) }
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.census.ending.bytes(bytes);
        self.lexer.feed(bytes, &mut self.census);
    }

    fn finish(self) -> Result<Seen, String> {
        self.census.ending.judge(self.lexer.place())?;
        Ok(Seen { tables: Some(self.census.tables), rows: Some(self.census.found), tar: None })
    }
}

/// What the end of a plain dump is judged by, for whoever reads one.
#[derive(Default)]
pub struct Ending {
    /// The last bytes of all.
    tail: Vec<u8>,
    /// The key of `\restrict` at the top.
    restrict_key: Option<Vec<u8>>,
    /// Whether `\unrestrict` with that key was met since.
    unrestricted: bool,
}

impl Ending {
    /// Takes the next bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        if bytes.len() >= TAIL_BYTES {
            self.tail.clear();
            self.tail.extend_from_slice(&bytes[bytes.len() - TAIL_BYTES..]);
        } else {
            self.tail.extend_from_slice(bytes);
            let excess = self.tail.len().saturating_sub(TAIL_BYTES);
            self.tail.drain(..excess);
        }
    }

    /// Takes a command for psql.
    pub fn meta(&mut self, line: &[u8]) {
        if let Some(key) = line.strip_prefix(b"restrict ") {
            self.restrict_key.get_or_insert_with(|| key.to_vec());
        } else if let Some(key) = line.strip_prefix(b"unrestrict ") {
            self.unrestricted |= self.is_key(key);
        }
    }

    /// Whether this is the key of the dump.
    pub fn is_key(&self, key: &[u8]) -> bool {
        self.restrict_key.as_deref() == Some(key)
    }

    /// Whether the dump has such a key.
    pub fn has_key(&self) -> bool {
        self.restrict_key.is_some()
    }

    /// At the end of the text, where the reader stands at this place.
    ///
    /// # Errors
    /// Why this is not a whole dump.
    pub fn judge(&self, place: Place) -> Result<(), String> {
        if self.tail.is_empty() {
            return Err("it is empty".to_owned());
        }
        match place {
            Place::Rows => return Err("it ends in the middle of the rows of a table".to_owned()),
            Place::Line => return Err("it ends in the middle of a line".to_owned()),
            Place::Statement => return Err("it ends in the middle of a statement".to_owned()),
            Place::Between => {}
        }
        // pg_dump writes `\unrestrict` behind the marker, pg_dumpall in front of it.
        let mut end = self.tail.trim_ascii_end();
        if let Some(key) = &self.restrict_key {
            if !self.unrestricted {
                return Err("it lacks the \\unrestrict line of its own key at the end".to_owned());
            }
            let unrestrict = [b"\\unrestrict ".as_slice(), key].concat();
            end = end.strip_suffix(unrestrict.as_slice()).unwrap_or(end).trim_ascii_end();
        }
        let markers: [&[u8]; 2] =
            [b"\n--\n-- PostgreSQL database dump complete\n--", b"\n--\n-- PostgreSQL database cluster dump complete\n--"];
        if !markers.iter().any(|marker| end.ends_with(marker)) {
            return Err("it lacks the end marker of pg_dump".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the watch says of a text that comes in pieces of a size.
    fn watch(text: &[u8], piece: usize) -> Result<Seen, String> {
        let mut watch = EndWatch::plain(false);
        for bytes in text.chunks(piece.max(1)) {
            watch.feed(bytes);
        }
        watch.finish()
    }

    const END: &str = "--\n-- PostgreSQL database dump complete\n--\n\n";

    fn dump() -> String {
        format!(
            r#"--
-- PostgreSQL database dump
--

\restrict abcDEF

SET standard_conforming_strings = on;

CREATE FUNCTION public.f() RETURNS text
    LANGUAGE plpgsql
    AS $_$
begin
  -- it's
COPY nothing FROM stdin;
{END}  return $$x$$ || E'a\'b;
COPY c FROM stdin;
';
end $_$;

COMMENT ON FUNCTION public.f() IS 'It''s a "comment"
COPY x FROM stdin;
/* not a comment
';

/* a comment /* in a comment */ ' " $x$ */

CREATE TABLE public."we ird
name;" (
    id integer DEFAULT 1 NOT NULL,
    t text DEFAULT E'\\'
);

CREATE VIEW public.v AS SELECT 1 AS a$b, 'x'::text AS c;

COPY public."we ird
name;" (id, t) FROM stdin;
1	\\.
2	--\n-- PostgreSQL database dump complete\n--
3	a
--
-- PostgreSQL database dump complete
--

\.


{END}\unrestrict abcDEF

"#
        )
    }

    #[test]
    fn a_whole_dump_is_whole_in_pieces_of_every_size() {
        let text = dump();
        for piece in 1..text.len() {
            let seen = watch(text.as_bytes(), piece).unwrap();
            assert_eq!(seen.tables, Some(1), "pieces of {piece}");
            let rows: Vec<_> = seen.rows.unwrap().into_iter().map(|table| (table.table, table.rows)).collect();
            assert_eq!(rows, [("public.\"we ird\nname;\"".to_owned(), 7)], "pieces of {piece}");
        }
    }

    /// A cut is noticed wherever it falls, also behind a marker that rows or functions fake. Only
    /// white space behind the end may be missing.
    #[test]
    fn every_cut_is_noticed() {
        for (name, text) in
            [("with a key", dump()), ("without a key", dump().replace("\\restrict abcDEF\n", "").replace("\\unrestrict abcDEF\n", ""))]
        {
            let whole = text.trim_end().len() + 1;
            for cut in 0..whole {
                assert!(watch(&text.as_bytes()[..cut], 4096).is_err(), "{name}: cut at {cut} of {whole}:\n{}", &text[..cut]);
            }
            assert!(watch(text.as_bytes(), 4096).is_ok(), "{name}");
        }
    }

    #[test]
    fn the_key_must_be_the_files_own() {
        let text = dump().replace("\\unrestrict abcDEF", "\\unrestrict another");
        assert!(watch(text.as_bytes(), 100).unwrap_err().contains("unrestrict"));
    }

    #[test]
    fn the_end_of_globals_is_known_too() {
        let text = "--\n-- PostgreSQL database cluster dump\n--\n\n\\restrict k\n\nCREATE ROLE a;\n\n\\unrestrict k\n\n--\n-- PostgreSQL database cluster dump complete\n--\n\n";
        assert!(watch(text.as_bytes(), 7).is_ok());
        assert!(watch(text.replace("\\unrestrict k", "").as_bytes(), 7).is_err());
    }

    #[test]
    fn an_empty_dump_is_none() {
        assert!(watch(b"", 1).is_err());
        assert!(EndWatch::custom().finish().is_err());
    }

    #[test]
    fn an_archive_is_known_by_its_head() {
        let mut watch = EndWatch::custom();
        watch.feed(b"PG");
        watch.feed(b"DMP\x01\x0e");
        assert!(watch.finish().is_ok());
        let mut watch = EndWatch::custom();
        watch.feed(b"OCI runtime exec failed");
        assert!(watch.finish().is_err());
    }

    proptest! {
        /// Any text, in any pieces, is judged the same as in one.
        #[test]
        fn pieces_do_not_matter(
            parts in prop::collection::vec(prop::sample::select(vec![
                "COPY t FROM stdin;\n", "\\.\n", "1\tx\n", "$a$", "$$", "'", "E'", "\\'", "''", "\"", ";", "\n", "--", "/*", "*/", "a", "$", "\\", "-", "/",
                "\\restrict k\n", "\\unrestrict k\n", "--\n-- PostgreSQL database dump complete\n--\n",
            ]), 0..40),
            piece in 1usize..9,
        ) {
            let text = parts.concat();
            prop_assert_eq!(watch(text.as_bytes(), piece).is_ok(), watch(text.as_bytes(), text.len()).is_ok());
        }
    }
}
