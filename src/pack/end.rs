//! Whether a dump came to its proper end.
//!
//! The end marker of a plain dump is a comment that rows and function bodies can hold as well, and
//! a dump that is cut in the middle of `COPY` restores without an error. So the text is followed as
//! `psql` would read it: what is data, what is quoted, what is a comment; and the marker only
//! counts where the text is plain SQL and nothing but `\unrestrict` with the dump's own key follows.

use memchr::memmem;

/// Watches a dump go by.
pub enum EndWatch {
    /// Output of `pg_dump --format=plain` or `pg_dumpall`.
    Plain(Box<PlainWatch>),
    /// An archive of `pg_dump --format=custom`, which has no end marker: the exit status, the
    /// length and the hash are its proof.
    Custom { head: Vec<u8>, bytes: u64 },
}

/// The first bytes of an archive of `pg_dump`.
const ARCHIVE_MAGIC: &[u8] = b"PGDMP";

impl EndWatch {
    pub fn plain() -> Self {
        EndWatch::Plain(Box::default())
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
        }
    }

    /// Whether the text goes to another database by itself: made with `--create`, or of a cluster.
    pub fn connects(&self) -> bool {
        matches!(self, EndWatch::Plain(watch) if watch.connects)
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
            EndWatch::Custom { .. } => Ok(Seen { tables: None, rows: None }),
        }
    }
}

/// What a whole dump held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// `CREATE TABLE` statements; `None` where the format hides them.
    pub tables: Option<u64>,
    /// Rows of `COPY` data; `None` where the format hides them.
    pub rows: Option<u64>,
}

/// The end of the rows of a table, with the end of the line before it.
const COPY_END: &[u8] = b"\n\\.\n";

/// Longest head of a statement and longest tail of a text that matter here, in bytes.
const KEPT_BYTES: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// SQL outside of quotes and comments.
    Sql,
    LineComment,
    /// Nested this deep.
    BlockComment(u32),
    /// `'...'`, or `E'...'` with backslash escapes.
    Single {
        escapes: bool,
    },
    Double,
    /// `$tag$ ... $tag$`; holds the delimiter.
    Dollar(Vec<u8>),
    /// A line that begins with a backslash: for psql, not for the server.
    Meta,
    /// Rows, up to `\.` on a line of its own.
    Copy {
        line_start: bool,
    },
}

/// The reader of plain dumps.
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that was met, or not")]
pub struct PlainWatch {
    state: State,
    /// Bytes that could not be judged before more of them came.
    pending: Vec<u8>,
    /// The beginning of the statement under way, white space folded.
    statement: Vec<u8>,
    /// The last bytes of the statement under way, outside of quotes.
    statement_end: [u8; 16],
    /// The last bytes of all.
    tail: Vec<u8>,
    /// The key of `\restrict` at the top.
    restrict_key: Option<Vec<u8>>,
    /// Whether `\unrestrict` with that key was met since.
    unrestricted: bool,
    /// Whether `\connect` was met.
    connects: bool,
    meta: Vec<u8>,
    line_start: bool,
    /// The byte before, outside of quotes: `E` in front of a quote, a letter in front of a dollar.
    before: u8,
    empty: bool,
    tables: u64,
    rows: u64,
}

impl Default for PlainWatch {
    fn default() -> Self {
        PlainWatch {
            state: State::Sql,
            pending: Vec::new(),
            statement: Vec::new(),
            statement_end: [0; 16],
            tail: Vec::new(),
            restrict_key: None,
            unrestricted: false,
            connects: false,
            meta: Vec::new(),
            line_start: true,
            before: b'\n',
            empty: true,
            tables: 0,
            rows: 0,
        }
    }
}

impl PlainWatch {
    fn feed(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.empty = false;
        if bytes.len() >= KEPT_BYTES {
            self.tail.clear();
            self.tail.extend_from_slice(&bytes[bytes.len() - KEPT_BYTES..]);
        } else {
            self.tail.extend_from_slice(bytes);
            let excess = self.tail.len().saturating_sub(KEPT_BYTES);
            self.tail.drain(..excess);
        }
        if self.pending.is_empty() {
            let read = self.advance(bytes);
            self.pending.extend_from_slice(&bytes[read..]);
        } else {
            let mut joined = std::mem::take(&mut self.pending);
            joined.extend_from_slice(bytes);
            let read = self.advance(&joined);
            joined.drain(..read);
            self.pending = joined;
        }
    }

    /// Reads as far as can be judged, and returns how far. What is left is short, unless a tag of
    /// a dollar quote never ends, which no dump holds.
    fn advance(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let read = match &self.state {
                State::Copy { line_start } => self.copy(rest, *line_start),
                State::Sql => self.sql(rest),
                State::LineComment => self.until(rest, b"\n"),
                State::Meta => self.meta(rest),
                State::BlockComment(depth) => self.block_comment(rest, *depth),
                State::Single { escapes } => self.single(rest, *escapes),
                State::Double => self.quoted(rest, b"\""),
                State::Dollar(tag) => {
                    let tag = tag.clone();
                    self.quoted(rest, &tag)
                }
            };
            if read == 0 {
                break;
            }
            at += read;
        }
        at
    }

    /// Rows: the fast path, most of a dump.
    fn copy(&mut self, bytes: &[u8], line_start: bool) -> usize {
        if line_start {
            let end = &COPY_END[1..];
            if bytes.starts_with(end) {
                self.back_to_sql();
                return end.len();
            }
            if end.starts_with(bytes) {
                return 0;
            }
        }
        if let Some(found) = memmem::find(bytes, COPY_END) {
            self.rows += memchr::memchr_iter(b'\n', &bytes[..=found]).count() as u64;
            self.back_to_sql();
            return found + COPY_END.len();
        }
        // What may be the beginning of the end waits for more.
        let waits = (1..COPY_END.len()).rev().find(|len| bytes.ends_with(&COPY_END[..*len])).unwrap_or(0);
        let read = bytes.len() - waits;
        if read > 0 {
            self.rows += memchr::memchr_iter(b'\n', &bytes[..read]).count() as u64;
            self.state = State::Copy { line_start: bytes[read - 1] == b'\n' };
        }
        read
    }

    fn back_to_sql(&mut self) {
        self.state = State::Sql;
        self.line_start = true;
        self.before = b'\n';
        self.statement.clear();
        self.statement_end = [0; 16];
    }

    fn sql(&mut self, bytes: &[u8]) -> usize {
        for (at, &byte) in bytes.iter().enumerate() {
            let next = bytes.get(at + 1).copied();
            let line_start = std::mem::replace(&mut self.line_start, false);
            let before = std::mem::replace(&mut self.before, byte);
            match byte {
                b'\\' if line_start => {
                    self.meta.clear();
                    self.state = State::Meta;
                    return at + 1;
                }
                b'-' | b'/' | b'$' | b';' if next.is_none() => {
                    self.line_start = line_start;
                    self.before = before;
                    return at;
                }
                b'-' if next == Some(b'-') => {
                    self.state = State::LineComment;
                    return at + 2;
                }
                b'/' if next == Some(b'*') => {
                    self.state = State::BlockComment(1);
                    return at + 2;
                }
                b'\'' => {
                    self.note(b'\'');
                    self.state = State::Single { escapes: before == b'E' || before == b'e' };
                    return at + 1;
                }
                b'"' => {
                    self.note(b'"');
                    self.state = State::Double;
                    return at + 1;
                }
                b'$' if !is_word(before) => match dollar_tag(&bytes[at..]) {
                    DollarTag::Is(len) => {
                        self.state = State::Dollar(bytes[at..at + len].to_vec());
                        return at + len;
                    }
                    DollarTag::Unknown => {
                        self.line_start = line_start;
                        self.before = before;
                        return at;
                    }
                    DollarTag::Not => self.note(byte),
                },
                b';' => {
                    let copies = self.statement.starts_with(b"COPY ") && self.statement_end.ends_with(b" FROM stdin");
                    if self.statement.starts_with(b"CREATE TABLE ") || self.statement.starts_with(b"CREATE UNLOGGED TABLE ") {
                        self.tables += 1;
                    }
                    self.statement.clear();
                    self.statement_end = [0; 16];
                    if copies && next == Some(b'\n') {
                        self.state = State::Copy { line_start: true };
                        return at + 2;
                    }
                }
                b'\n' => {
                    self.line_start = true;
                    self.note(b' ');
                }
                _ => self.note(byte),
            }
        }
        bytes.len()
    }

    /// A byte of the statement under way, outside of quotes.
    fn note(&mut self, byte: u8) {
        if byte == b' ' && (self.statement.is_empty() || self.statement_end[15] == b' ') {
            return;
        }
        if self.statement.len() < 32 {
            self.statement.push(byte);
        }
        self.statement_end.rotate_left(1);
        self.statement_end[15] = byte;
    }

    /// Skips to behind a delimiter that ends the state.
    fn until(&mut self, bytes: &[u8], end: &[u8]) -> usize {
        match memmem::find(bytes, end) {
            Some(found) => {
                self.state = State::Sql;
                self.line_start = end == b"\n";
                self.before = end[end.len() - 1];
                found + end.len()
            }
            // A delimiter may lie across the border.
            None => bytes.len().saturating_sub(end.len() - 1),
        }
    }

    /// A quoted text, of which the statement notes the quotes only.
    fn quoted(&mut self, bytes: &[u8], end: &[u8]) -> usize {
        let read = self.until(bytes, end);
        if self.state == State::Sql {
            self.note(end[0]);
        }
        read
    }

    /// A doubled quote reads as the end of one string and the start of the next, which comes to
    /// the same; an escape string must see its backslashes.
    fn single(&mut self, bytes: &[u8], escapes: bool) -> usize {
        if !escapes {
            return self.quoted(bytes, b"'");
        }
        let mut at = 0;
        while let Some(found) = memchr::memchr2(b'\'', b'\\', &bytes[at..]) {
            let found = at + found;
            if bytes[found] == b'\\' {
                if found + 1 == bytes.len() {
                    return found;
                }
                at = found + 2;
                continue;
            }
            match bytes.get(found + 1) {
                None => return found,
                Some(b'\'') => at = found + 2,
                Some(_) => {
                    self.state = State::Sql;
                    self.before = b'\'';
                    return found + 1;
                }
            }
        }
        bytes.len()
    }

    fn block_comment(&mut self, bytes: &[u8], depth: u32) -> usize {
        let mut depth = depth;
        let mut at = 0;
        while let Some(found) = memchr::memchr2(b'*', b'/', &bytes[at..]) {
            let found = at + found;
            match (bytes[found], bytes.get(found + 1)) {
                (_, None) => {
                    self.state = State::BlockComment(depth);
                    return found;
                }
                (b'*', Some(b'/')) => {
                    depth -= 1;
                    at = found + 2;
                    if depth == 0 {
                        self.state = State::Sql;
                        self.before = b' ';
                        return at;
                    }
                }
                (b'/', Some(b'*')) => {
                    depth += 1;
                    at = found + 2;
                }
                _ => at = found + 1,
            }
        }
        self.state = State::BlockComment(depth);
        bytes.len()
    }

    fn meta(&mut self, bytes: &[u8]) -> usize {
        let end = memchr::memchr(b'\n', bytes);
        let line = &bytes[..end.unwrap_or(bytes.len())];
        let room = KEPT_BYTES.saturating_sub(self.meta.len());
        self.meta.extend_from_slice(&line[..room.min(line.len())]);
        let Some(end) = end else {
            return bytes.len();
        };
        if let Some(key) = self.meta.strip_prefix(b"restrict ") {
            self.restrict_key.get_or_insert_with(|| key.to_vec());
        } else if let Some(key) = self.meta.strip_prefix(b"unrestrict ") {
            self.unrestricted |= self.restrict_key.as_deref() == Some(key);
        } else if [b"connect".as_slice(), b"c"].contains(&self.meta.split(u8::is_ascii_whitespace).next().unwrap_or_default()) {
            self.connects = true;
        }
        self.state = State::Sql;
        self.line_start = true;
        self.before = b'\n';
        end + 1
    }

    fn finish(self) -> Result<Seen, String> {
        if self.empty {
            return Err("it is empty".to_owned());
        }
        match self.state {
            State::Copy { .. } => return Err("it ends in the middle of the rows of a table".to_owned()),
            State::Sql => {}
            State::LineComment => return Err("it ends in the middle of a line".to_owned()),
            _ => return Err("it ends in the middle of a statement".to_owned()),
        }
        if !self.statement.is_empty() || !self.pending.is_empty() {
            return Err("it ends in the middle of a statement".to_owned());
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
        Ok(Seen { tables: Some(self.tables), rows: Some(self.rows) })
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

enum DollarTag {
    /// The delimiter has so many bytes.
    Is(usize),
    Not,
    /// More bytes decide.
    Unknown,
}

/// <https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-DOLLAR-QUOTING>
fn dollar_tag(bytes: &[u8]) -> DollarTag {
    for (at, &byte) in bytes.iter().enumerate().skip(1) {
        match byte {
            b'$' => return DollarTag::Is(at + 1),
            b'0'..=b'9' if at == 1 => return DollarTag::Not,
            byte if is_word(byte) => {}
            _ => return DollarTag::Not,
        }
    }
    DollarTag::Unknown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the watch says of a text that comes in pieces of a size.
    fn watch(text: &[u8], piece: usize) -> Result<Seen, String> {
        let mut watch = EndWatch::plain();
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
            assert_eq!(watch(text.as_bytes(), piece), Ok(Seen { tables: Some(1), rows: Some(7) }), "pieces of {piece}");
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

    /// A row of many blocks does not pile up.
    #[test]
    fn a_long_row_needs_no_memory() {
        let mut watch = PlainWatch::default();
        watch.feed(b"COPY public.t (a) FROM stdin;\n");
        for _ in 0..1000 {
            watch.feed(&[b'x'; 1000]);
            assert!(watch.pending.len() < 8);
        }
        // A backslash at the border of two blocks is not the start of a line.
        watch.feed(b"x\\");
        watch.feed(b"\\.\n");
        assert!(matches!(watch.state, State::Copy { .. }));
        watch.feed(b"\\.\n");
        assert_eq!(watch.state, State::Sql);
        assert_eq!(watch.rows, 1);
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
