//! What goes by in a plain dump: tables made, and the rows of each, counted and, if asked, digested.

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::end::Ending;
use super::lexer::{Ended, Listener};

/// The rows of one table in a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRows {
    /// As the `COPY` statement names it, schema and quotes included.
    pub table: String,
    /// The list of columns of that statement with its parentheses; empty where it has none.
    pub columns: String,
    pub rows: u64,
    /// `None`: nobody asked.
    pub digest: Option<Digest>,
}

/// A digest of rows whose order does not matter: the sum of a 128-bit hash of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest(u128);

impl Digest {
    /// Of the rows of a text in the form of `COPY`, each with its line end.
    pub fn row(&mut self, line: &[u8]) {
        self.0 = self.0.wrapping_add(xxh3_128(line));
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "xxh3-128:{:032x}", self.0)
    }
}

/// The longest statement of a `COPY` that is read, in bytes: a table has at most 1,600 columns, whose
/// names have at most 63 characters each.
const COPY_BYTES_MAX: usize = 1024 * 1024;

/// Counts lines as they come, in pieces of any size.
pub struct Lines {
    rows: u64,
    digest: Option<Digest>,
    /// The beginning of a line whose end has not come yet.
    begun: Option<Box<Xxh3>>,
}

impl Lines {
    pub fn new(digests: bool) -> Self {
        Lines { rows: 0, digest: digests.then(Digest::default), begun: None }
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        let Some(digest) = &mut self.digest else {
            self.rows += memchr::memchr_iter(b'\n', bytes).count() as u64;
            return;
        };
        let mut from = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            let line = &bytes[from..=end];
            match self.begun.take() {
                None => digest.row(line),
                Some(mut begun) => {
                    begun.update(line);
                    digest.0 = digest.0.wrapping_add(begun.digest128());
                }
            }
            self.rows += 1;
            from = end + 1;
        }
        if from < bytes.len() {
            self.begun.get_or_insert_with(Box::default).update(&bytes[from..]);
        }
    }

    /// How many rows there were, and their digest.
    pub fn finish(self) -> (u64, Option<Digest>) {
        (self.rows, self.digest)
    }
}

/// Follows a dump.
pub struct Census {
    digests: bool,
    /// `CREATE TABLE` statements so far.
    pub tables: u64,
    pub found: Vec<TableRows>,
    /// Whether `\connect` was met.
    pub connects: bool,
    pub ending: Ending,
    /// The statement under way, if it may be a `COPY`.
    text: Vec<u8>,
    /// It is none.
    is_other: bool,
    lines: Lines,
}

impl Census {
    pub fn new(digests: bool) -> Self {
        Census {
            digests,
            tables: 0,
            found: Vec::new(),
            connects: false,
            ending: Ending::default(),
            text: Vec::new(),
            is_other: false,
            lines: Lines::new(digests),
        }
    }
}

impl Listener for Census {
    fn sql(&mut self, bytes: &[u8]) {
        if self.is_other {
            return;
        }
        let bytes = if self.text.is_empty() { bytes.trim_ascii_start() } else { bytes };
        let room = COPY_BYTES_MAX.saturating_sub(self.text.len());
        self.text.extend_from_slice(&bytes[..room.min(bytes.len())]);
        self.is_other = !self.text.iter().zip(b"COPY ").all(|(a, b)| a == b);
    }

    fn statement_end(&mut self, statement: &Ended<'_>) {
        if statement.head.starts_with(b"CREATE TABLE ") || statement.head.starts_with(b"CREATE UNLOGGED TABLE ") {
            self.tables += 1;
        }
        if statement.copies {
            let (table, columns) = copy_target(&String::from_utf8_lossy(&self.text));
            self.found.push(TableRows { table, columns, rows: 0, digest: None });
            self.lines = Lines::new(self.digests);
        }
        self.text.clear();
        self.is_other = false;
    }

    fn rows(&mut self, bytes: &[u8]) {
        self.lines.feed(bytes);
    }

    fn rows_end(&mut self) {
        let lines = std::mem::replace(&mut self.lines, Lines::new(self.digests));
        if let Some(table) = self.found.last_mut() {
            (table.rows, table.digest) = lines.finish();
        }
    }

    fn meta(&mut self, line: &[u8]) {
        self.ending.meta(line);
        if [b"connect".as_slice(), b"c"].contains(&line.split(u8::is_ascii_whitespace).next().unwrap_or_default()) {
            self.connects = true;
        }
    }
}

/// The table and the columns of `COPY table (columns) FROM stdin;`.
pub fn copy_target(statement: &str) -> (String, String) {
    let rest = statement.trim_start().strip_prefix("COPY ").unwrap_or_default();
    let mut in_quotes = false;
    let end = rest.find(|c: char| {
        in_quotes ^= c == '"';
        !in_quotes && (c == ' ' || c == '(')
    });
    let (table, rest) = rest.split_at(end.unwrap_or(rest.len()));
    let columns = rest.trim_start().rfind(" FROM stdin").map_or("", |end| &rest.trim_start()[..end]);
    (table.to_owned(), columns.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pack::lexer::Lexer;

    fn census(text: &str, piece: usize) -> Vec<TableRows> {
        let (mut lexer, mut census) = (Lexer::default(), Census::new(true));
        for bytes in text.as_bytes().chunks(piece.max(1)) {
            lexer.feed(bytes, &mut census);
        }
        census.found
    }

    #[test]
    fn targets() {
        for (statement, table, columns) in [
            ("COPY public.t (a, \"b c\") FROM stdin;", "public.t", "(a, \"b c\")"),
            ("\n\nCOPY public.\"x (y) FROM stdin\" (\"(\") FROM stdin;", "public.\"x (y) FROM stdin\"", "(\"(\")"),
            ("COPY s.t  FROM stdin;", "s.t", ""),
        ] {
            assert_eq!(copy_target(statement), (table.to_owned(), columns.to_owned()), "{statement}");
        }
    }

    #[test]
    fn one_changed_value_changes_the_digest_and_the_order_does_not() {
        let dump = |rows: &str| format!("SET a = 1;\nCOPY public.t (a) FROM stdin;\n{rows}\\.\n\nCOPYING;\n");
        let of = |rows: &str| census(&dump(rows), 1000)[0].clone();
        let one = of("1\n2\n2\n");
        assert_eq!(one.rows, 3);
        assert_eq!(of("2\n1\n2\n"), one);
        for other in ["1\n2\n3\n", "1\n2\n", "1\n1\n2\n", "12\n\n2\n"] {
            assert_ne!(of(other).digest, one.digest, "{other:?}");
        }
        for piece in 1..60 {
            assert_eq!(census(&dump("1\n2\n2\n"), piece), std::slice::from_ref(&one), "pieces of {piece}");
        }
    }

    proptest! {
        #[test]
        fn a_digest_is_of_the_set_of_rows(mut rows in prop::collection::vec("[a-c]{0,3}", 0..20), piece in 1usize..50) {
            let text = |rows: &[String]| rows.iter().flat_map(|row| [row.as_str(), "\n"]).collect::<String>();
            let mut lines = Lines::new(true);
            for bytes in text(&rows).as_bytes().chunks(piece) {
                lines.feed(bytes);
            }
            let one = lines.finish();
            prop_assert_eq!(one.0, rows.len() as u64);
            rows.sort();
            let mut lines = Lines::new(true);
            lines.feed(text(&rows).as_bytes());
            prop_assert_eq!(lines.finish(), one);
        }
    }
}
