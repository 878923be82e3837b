//! The text of a plain dump, read as `psql` would read it: what is a statement and where it ends,
//! what is quoted, what is a comment, what are rows, what is for psql itself.

use memchr::memmem;

/// Who hears what is in a dump, piece by piece.
pub trait Listener {
    /// Bytes of a statement, quotes and all, without comments.
    fn sql(&mut self, _bytes: &[u8]) {}

    /// The end of a statement, its semicolon included.
    fn statement_end(&mut self, _statement: &Ended<'_>) {}

    /// Rows of the `COPY` whose statement has just ended, with their line ends.
    fn rows(&mut self, _bytes: &[u8]) {}

    /// The `\.` behind the rows.
    fn rows_end(&mut self) {}

    /// A command for psql, without its backslash; its first bytes where it is long.
    fn meta(&mut self, _line: &[u8]) {}

    /// A spelling that no dump holds and that some psql could read in another way than this reader;
    /// told once.
    fn doubt(&mut self, _what: &'static str) {}
}

/// A statement that has ended.
pub struct Ended<'a> {
    /// Its beginning, white space folded, without what is quoted.
    pub head: &'a [u8],
    /// Whether rows follow: `COPY ... FROM stdin`.
    pub copies: bool,
}

/// The end of the rows of a table, with the end of the line before it.
const COPY_END: &[u8] = b"\n\\.\n";

/// What no row begins with, the same way.
const COPY_END_BEGINS: &[u8] = b"\n\\.";

/// Longest command for psql that matters here, in bytes.
const META_BYTES: usize = 256;

/// Longest head of a statement that matters here, in bytes.
const HEAD_BYTES: usize = 64;

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

/// Where a reader stands in a dump at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Between statements.
    Between,
    Statement,
    Line,
    Rows,
}

/// The reader of plain dumps.
pub struct Lexer {
    state: State,
    /// Bytes that could not be judged before more of them came.
    pending: Vec<u8>,
    /// The beginning of the statement under way, white space folded.
    head: Vec<u8>,
    /// The last bytes of the statement under way, outside of quotes.
    statement_end: [u8; 16],
    meta: Vec<u8>,
    /// The byte before, outside of quotes: `E` in front of a quote, a letter in front of a dollar.
    before: u8,
    /// Of the statement under way: a semicolon inside of them does not end it.
    parens: u32,
    body: Body,
    /// `standard_conforming_strings = off` was met: every `'...'` has escapes.
    escapes: bool,
    /// The statement that ended with the bytes just read: whether rows follow.
    ended: Option<bool>,
    /// The last byte outside of quotes and comments that is no white space.
    last: u8,
    /// The first doubt, and whether it was told.
    doubt: Option<&'static str>,
    doubted: bool,
}

/// What `psql` follows to know a body of SQL: `CREATE FUNCTION ... BEGIN ATOMIC ...; ...; END`.
/// <https://www.postgresql.org/docs/current/sql-createfunction.html>
#[derive(Default)]
struct Body {
    word: Vec<u8>,
    /// First letters of the first words, where they can belong to `CREATE OR REPLACE FUNCTION`.
    initials: [u8; 4],
    words: usize,
    /// How many `END`s are awaited.
    depth: u32,
}

impl Body {
    fn byte(&mut self, byte: u8) {
        if self.word.len() < 16 {
            self.word.push(byte.to_ascii_lowercase());
        }
    }

    fn end_of_word(&mut self, in_parens: bool) {
        if self.word.is_empty() {
            return;
        }
        let word = std::mem::take(&mut self.word);
        if word[0].is_ascii_digit() {
            return;
        }
        if [b"create".as_slice(), b"function", b"procedure", b"or", b"replace"].contains(&word.as_slice())
            && let Some(initial) = self.initials.get_mut(self.words)
        {
            *initial = word[0];
        }
        self.words += 1;
        let makes_routine = matches!(self.initials, [b'c', b'f' | b'p', ..] | [b'c', b'o', b'r', b'f' | b'p']);
        if makes_routine && !in_parens {
            match word.as_slice() {
                b"begin" => self.depth += 1,
                b"case" if self.depth > 0 => self.depth += 1,
                b"end" => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
    }
}

impl Default for Lexer {
    fn default() -> Self {
        Lexer {
            state: State::Sql,
            pending: Vec::new(),
            head: Vec::new(),
            statement_end: [0; 16],
            meta: Vec::new(),
            before: b'\n',
            parens: 0,
            body: Body::default(),
            escapes: false,
            ended: None,
            last: b'\n',
            doubt: None,
            doubted: false,
        }
    }
}

impl Lexer {
    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8], listener: &mut impl Listener) {
        if self.pending.is_empty() {
            let read = self.advance(bytes, listener);
            self.pending.extend_from_slice(&bytes[read..]);
        } else {
            let mut joined = std::mem::take(&mut self.pending);
            joined.extend_from_slice(bytes);
            let read = self.advance(&joined, listener);
            joined.drain(..read);
            self.pending = joined;
        }
    }

    /// Where the text has come to.
    pub fn place(&self) -> Place {
        match self.state {
            State::Copy { .. } => Place::Rows,
            State::LineComment => Place::Line,
            State::Sql if self.head.is_empty() && self.pending.is_empty() => Place::Between,
            _ => Place::Statement,
        }
    }

    /// Reads as far as can be judged, and returns how far. What is left is short, unless a tag of
    /// a dollar quote never ends, which no dump holds.
    fn advance(&mut self, bytes: &[u8], listener: &mut impl Listener) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let read = match &self.state {
                State::Copy { line_start } => {
                    let line_start = *line_start;
                    self.copy(rest, line_start, listener)
                }
                State::Sql => {
                    let read = self.sql(rest);
                    let beyond = match self.state {
                        State::LineComment | State::BlockComment(_) => 2,
                        State::Meta => 1,
                        _ => 0,
                    };
                    listener.sql(&rest[..read.saturating_sub(beyond)]);
                    read
                }
                State::LineComment => {
                    let read = self.until(rest, b"\n");
                    if self.state == State::Sql {
                        listener.sql(b"\n");
                    }
                    read
                }
                State::BlockComment(depth) => {
                    let depth = *depth;
                    let read = self.block_comment(rest, depth);
                    if self.state == State::Sql {
                        listener.sql(b" ");
                    }
                    read
                }
                State::Meta => self.meta(rest, listener),
                State::Single { escapes } => {
                    let escapes = *escapes;
                    let read = self.single(rest, escapes);
                    listener.sql(&rest[..read]);
                    read
                }
                State::Double => {
                    let read = self.quoted(rest, b"\"");
                    listener.sql(&rest[..read]);
                    read
                }
                State::Dollar(tag) => {
                    let tag = tag.clone();
                    let read = self.quoted(rest, &tag);
                    listener.sql(&rest[..read]);
                    read
                }
            };
            if read == 0 {
                break;
            }
            at += read;
            if let Some(what) = self.doubt
                && !std::mem::replace(&mut self.doubted, true)
            {
                listener.doubt(what);
            }
            if let Some(copies) = self.ended.take() {
                listener.statement_end(&Ended { head: &self.head, copies });
                self.head.clear();
            }
        }
        at
    }

    /// Rows: the fast path, most of a dump.
    fn copy(&mut self, bytes: &[u8], line_start: bool, listener: &mut impl Listener) -> usize {
        if line_start {
            let end = &COPY_END[1..];
            if bytes.starts_with(end) {
                listener.rows_end();
                self.back_to_sql();
                return end.len();
            }
            if end.starts_with(bytes) {
                return 0;
            }
            self.judge_row(bytes);
        }
        for found in memmem::find_iter(bytes, COPY_END_BEGINS) {
            if bytes[found..].starts_with(COPY_END) {
                listener.rows(&bytes[..=found]);
                listener.rows_end();
                self.back_to_sql();
                return found + COPY_END.len();
            }
            if found + COPY_END_BEGINS.len() < bytes.len() {
                self.judge_row(&bytes[found + 1..]);
            }
        }
        // What may be the beginning of the end waits for more.
        let waits = (1..COPY_END.len()).rev().find(|len| bytes.ends_with(&COPY_END[..*len])).unwrap_or(0);
        let read = bytes.len() - waits;
        if read > 0 {
            listener.rows(&bytes[..read]);
            self.state = State::Copy { line_start: bytes[read - 1] == b'\n' };
        }
        read
    }

    /// `\.` ends the rows for `psql` also where a carriage return follows, and what stands behind it
    /// would be run.
    fn judge_row(&mut self, row: &[u8]) {
        if row.starts_with(&COPY_END_BEGINS[1..]) {
            self.doubt.get_or_insert("rows that end in the middle");
        }
    }

    fn back_to_sql(&mut self) {
        self.state = State::Sql;
        self.before = b'\n';
    }

    fn sql(&mut self, bytes: &[u8]) -> usize {
        for (at, &byte) in bytes.iter().enumerate() {
            let next = bytes.get(at + 1).copied();
            let before = std::mem::replace(&mut self.before, byte);
            let last = self.last;
            if !byte.is_ascii_whitespace() {
                self.last = byte;
            }
            if is_word(byte) && byte != b'$' {
                self.body.byte(byte);
                self.note(byte);
                continue;
            }
            let waits = match byte {
                b'-' | b'/' | b'$' | b';' => next.is_none(),
                _ => false,
            };
            if waits {
                (self.before, self.last) = (before, last);
                return at;
            }
            if byte == b'\'' {
                self.judge_quote(before, last);
            }
            self.body.end_of_word(self.parens > 0);
            match byte {
                // psql takes it for a command of its own wherever it stands.
                b'\\' => {
                    self.meta.clear();
                    self.state = State::Meta;
                    return at + 1;
                }
                b'-' if next == Some(b'-') => {
                    self.last = last;
                    self.state = State::LineComment;
                    return at + 2;
                }
                b'/' if next == Some(b'*') => {
                    self.last = last;
                    self.state = State::BlockComment(1);
                    return at + 2;
                }
                b'\'' => {
                    self.note(b'\'');
                    self.state = State::Single { escapes: self.escapes || before == b'E' || before == b'e' };
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
                        (self.before, self.last) = (before, last);
                        return at;
                    }
                    DollarTag::Not => {
                        if !next.is_some_and(|byte| byte.is_ascii_digit()) {
                            self.doubt.get_or_insert("a dollar sign of no quote");
                        }
                        self.note(byte);
                    }
                },
                b'$' => {
                    self.doubt.get_or_insert("a dollar sign in a word");
                    self.note(byte);
                }
                b'(' => {
                    self.parens += 1;
                    self.note(byte);
                }
                b')' => {
                    self.parens = self.parens.saturating_sub(1);
                    self.note(byte);
                }
                b';' if self.parens == 0 && self.body.depth == 0 => {
                    let copies = self.end_statement() && next == Some(b'\n');
                    self.ended = Some(copies);
                    if copies {
                        self.state = State::Copy { line_start: true };
                        return at + 2;
                    }
                    return at + 1;
                }
                b'\n' => self.note(b' '),
                _ => self.note(byte),
            }
        }
        bytes.len()
    }

    /// Letters in front of a quote decide how it is read, and so does a string on the line before,
    /// which goes on in the next one.
    /// <https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-STRINGS>
    fn judge_quote(&mut self, before: u8, last: u8) {
        let prefix = self.body.word.as_slice();
        let raw = before == b'&' || [b"b".as_slice(), b"x"].contains(&prefix);
        if is_word(before) && ![b"e".as_slice(), b"n", b"b", b"x"].contains(&prefix) {
            self.doubt.get_or_insert("a word right in front of a quote");
        } else if raw && self.escapes {
            self.doubt.get_or_insert("a prefixed string without standard_conforming_strings");
        } else if last == b'\'' && before != b'\'' {
            self.doubt.get_or_insert("a string in two parts");
        }
    }

    /// Whether it is a `COPY ... FROM stdin`.
    fn end_statement(&mut self) -> bool {
        let copies = self.head.starts_with(b"COPY ") && self.statement_end.ends_with(b" FROM stdin");
        if let Some(value) = self.head.strip_prefix(b"SET standard_conforming_strings = ") {
            self.escapes = value == b"off";
        }
        self.statement_end = [0; 16];
        self.body = Body::default();
        copies
    }

    /// A byte of the statement under way, outside of quotes.
    fn note(&mut self, byte: u8) {
        if byte == b' ' && (self.head.is_empty() || self.statement_end[15] == b' ') {
            return;
        }
        if self.head.len() < HEAD_BYTES {
            self.head.push(byte);
        }
        self.statement_end.rotate_left(1);
        self.statement_end[15] = byte;
    }

    /// Skips to behind a delimiter that ends the state.
    fn until(&mut self, bytes: &[u8], end: &[u8]) -> usize {
        match memmem::find(bytes, end) {
            Some(found) => {
                // A comment leaves what stands before it next to what stands behind it.
                if self.state != State::LineComment {
                    self.last = end[end.len() - 1];
                }
                self.state = State::Sql;
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
                    (self.before, self.last) = (b'\'', b'\'');
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

    fn meta(&mut self, bytes: &[u8], listener: &mut impl Listener) -> usize {
        let end = memchr::memchr(b'\n', bytes);
        let line = &bytes[..end.unwrap_or(bytes.len())];
        let room = META_BYTES.saturating_sub(self.meta.len());
        self.meta.extend_from_slice(&line[..room.min(line.len())]);
        let Some(end) = end else {
            return bytes.len();
        };
        listener.meta(&self.meta);
        self.back_to_sql();
        end + 1
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

    #[derive(Default)]
    struct Heard {
        text: Vec<u8>,
        heard: Vec<String>,
    }

    impl Listener for Heard {
        fn sql(&mut self, bytes: &[u8]) {
            self.text.extend_from_slice(bytes);
        }
        fn statement_end(&mut self, statement: &Ended<'_>) {
            let text = String::from_utf8(std::mem::take(&mut self.text)).unwrap();
            self.heard.push(format!("{}{}", if statement.copies { "copy " } else { "" }, text.trim()));
        }
        fn rows(&mut self, bytes: &[u8]) {
            self.text.extend_from_slice(bytes);
        }
        fn rows_end(&mut self) {
            let text = String::from_utf8(std::mem::take(&mut self.text)).unwrap();
            self.heard.push(format!("rows {text:?}"));
        }
        fn meta(&mut self, line: &[u8]) {
            self.heard.push(format!("meta {}", String::from_utf8_lossy(line)));
        }
        fn doubt(&mut self, what: &'static str) {
            self.heard.push(format!("doubt: {what}"));
        }
    }

    /// Each of these is read in two ways by one psql or another, and hides a command in one of them.
    #[test]
    fn what_could_be_read_otherwise_is_doubted() {
        for text in [
            "SELECT aE'\\' ; \n;",
            "SELECT 1E'\\' ; ';",
            "SELECT E'a'\n'\\' || ' ; x ';",
            "SELECT E'a' -- b\n '\\' || ' ; x ';",
            "SELECT E'a' /* b\n */ '\\' || ' ; x ';",
            "SELECT 1$$'$$ ; x ';",
            "SELECT $$a$$$$'$$ ; x ';",
            "SELECT a$b$'$b$ ; x ';",
            "SET standard_conforming_strings = off;SELECT b'\\' ; x ';",
            "SET standard_conforming_strings = off;SELECT U&'\\' ; x ';",
        ] {
            for piece in [1, 2, text.len()] {
                assert!(read(text, piece).0.iter().any(|heard| heard.starts_with("doubt")), "{text} {:?}", read(text, piece));
            }
        }
        for text in [
            "SELECT 'it''s', E'it\\'s', N'n', x'1f', B'01', U&'u', $1, ('a')::text, 'a' || 'b', \"a$b\", $$x$$, $a$'$a$;",
            "COMMENT ON TABLE t IS 'a\n''b';",
        ] {
            for piece in [1, 2, text.len()] {
                assert!(!read(text, piece).0.iter().any(|heard| heard.starts_with("doubt")), "{text} {:?}", read(text, piece));
            }
        }
    }

    fn read(text: &str, piece: usize) -> (Vec<String>, Place) {
        let (mut lexer, mut heard) = (Lexer::default(), Heard::default());
        for bytes in text.as_bytes().chunks(piece) {
            lexer.feed(bytes, &mut heard);
        }
        (heard.heard, lexer.place())
    }

    #[test]
    fn statements_end_where_psql_sees_their_end() {
        for (text, expected) in [
            ("a; b ;\n", &["a;", "b ;"][..]),
            (
                "CREATE RULE r AS ON INSERT TO t DO (DELETE FROM a; DELETE FROM b);\nx;\n",
                &["CREATE RULE r AS ON INSERT TO t DO (DELETE FROM a; DELETE FROM b);", "x;"],
            ),
            (
                "CREATE FUNCTION f() RETURNS int\n BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END;\nx;\n",
                &["CREATE FUNCTION f() RETURNS int\n BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END;", "x;"],
            ),
            (
                "create or replace procedure p() begin atomic select 1; end;\nBEGIN;\nx;\n",
                &["create or replace procedure p() begin atomic select 1; end;", "BEGIN;", "x;"],
            ),
            ("CREATE TABLE t (\"begin\" int, a int DEFAULT 1);\n", &["CREATE TABLE t (\"begin\" int, a int DEFAULT 1);"]),
            ("COPY t (a) FROM stdin;\n1;\n\\.\n\nx;\n", &["copy COPY t (a) FROM stdin;", "rows \"1;\\n\"", "x;"]),
            ("COPY t FROM stdin;\n\\.\nx;\n", &["copy COPY t FROM stdin;", "rows \"\"", "x;"]),
            ("COPY t FROM '/etc/passwd';\nx;\n", &["COPY t FROM '/etc/passwd';", "x;"]),
            ("-- c;\na -- ;\n;/* ; */ b;\n", &["a \n;", "b;"]),
            ("SELECT 1 \\! id\n;\n", &["meta ! id", "SELECT 1 ;"]),
            ("\\restrict k\na;\n\\unrestrict k\n", &["meta restrict k", "a;", "meta unrestrict k"]),
            ("SET standard_conforming_strings = off;\nSELECT '\\'; x';\n", &["SET standard_conforming_strings = off;", "SELECT '\\'; x';"]),
            ("SELECT '\\';\nx;\n", &["SELECT '\\';", "x;"]),
        ] {
            for piece in 1..text.len() {
                let (heard, place) = read(text, piece);
                assert_eq!(heard, expected, "pieces of {piece}");
                assert_eq!(place, Place::Between, "{text}");
            }
        }
    }

    /// A row of many blocks does not pile up.
    #[test]
    fn a_long_row_needs_no_memory() {
        let (mut lexer, mut heard) = (Lexer::default(), Heard::default());
        lexer.feed(b"COPY public.t (a) FROM stdin;\n", &mut heard);
        for _ in 0..1000 {
            lexer.feed(&[b'x'; 1000], &mut heard);
            assert!(lexer.pending.len() < 8);
        }
        // A backslash at the border of two blocks is not the start of a line.
        lexer.feed(b"x\\", &mut heard);
        lexer.feed(b"\\.\n", &mut heard);
        assert_eq!(lexer.place(), Place::Rows);
        lexer.feed(b"\\.\n", &mut heard);
        assert_eq!(lexer.place(), Place::Between);
    }

    proptest! {
        /// Any text, in any pieces, is read the same as in one.
        #[test]
        fn pieces_do_not_matter(
            parts in prop::collection::vec(prop::sample::select(vec![
                "COPY t FROM stdin;\n", "\\.\n", "1\tx\n", "$a$", "$$", "'", "E'", "\\'", "''", "\"", ";", "\n", "--", "/*", "*/", "a", "$", "\\", "-", "/",
                "(", ")", "CREATE FUNCTION f ", "begin ", "case ", "end ", "\\restrict k\n",
            ]), 0..40),
            piece in 1usize..9,
        ) {
            let text = parts.concat();
            prop_assert_eq!(read(&text, piece), read(&text, text.len().max(1)));
        }
    }
}
