//! The text of a dump, cut into what is done with each piece: a statement is run, rows are handed
//! on. What is no text of a dump at all is refused here, before anything of it reaches a `psql`.

use bytes::Bytes;

use crate::error::{Error, Kind, Result};
use crate::pack::census::copy_target;
use crate::pack::end::Ending;
use crate::pack::lexer::{Ended, Lexer, Listener};

/// The longest statement of a dump, in bytes: with `--inserts` it may hold a whole row of up to a
/// gigabyte, but what is longer than this is no definition and no large object's page.
const STATEMENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A piece of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Semicolon included, comments left out.
    Statement(Bytes),
    /// Rows of it follow, up to [`Item::RowsEnd`].
    Copy(Copy),
    /// With their line ends, cut anywhere.
    Rows(Bytes),
    RowsEnd,
}

/// `COPY table (columns) FROM stdin;`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// As it stands in the statement, schema and quotes included.
    pub table: String,
    /// With its parentheses; may be empty.
    pub columns: String,
    pub statement: Bytes,
}

/// Cuts a dump.
#[derive(Default)]
pub struct Splitter {
    lexer: Lexer,
    pieces: Pieces,
}

#[derive(Default)]
struct Pieces {
    /// Read at the moment, so that rows need not be copied out of it.
    block: Bytes,
    items: Vec<Item>,
    /// The statement under way.
    text: Vec<u8>,
    ending: Ending,
    any_statement: bool,
    refused: Option<Error>,
}

impl Splitter {
    /// Takes the next block and returns what it completes.
    ///
    /// # Errors
    /// It holds what no dump holds. Nothing of the block may be run.
    pub fn feed(&mut self, block: &Bytes) -> Result<Vec<Item>> {
        if memchr::memchr(0, block).is_some() {
            return Err(hostile("a zero byte"));
        }
        self.pieces.ending.bytes(block);
        self.pieces.block = block.clone();
        self.lexer.feed(block, &mut self.pieces);
        self.pieces.block = Bytes::new();
        match self.pieces.refused.take() {
            Some(error) => Err(error),
            None => Ok(std::mem::take(&mut self.pieces.items)),
        }
    }

    /// Behind the last block.
    ///
    /// # Errors
    /// The text is not a whole dump.
    pub fn finish(&self) -> Result<()> {
        let judged = self.pieces.ending.judge(self.lexer.place());
        judged.map_err(|why| Error::new(Kind::Damaged, format!("it is not a whole dump: {why}")))
    }
}

/// The refusal of a text that `pg_dump` did not write.
pub fn hostile(what: impl std::fmt::Display) -> Error {
    Error::new(Kind::Damaged, format!("the dump holds {what}: it is hostile, or was not made by pg_dump"))
        .hint("look at that place in the dump (pgvigil cat), and do not restore it by hand before you know who wrote it")
}

/// The beginning of a text, on one line.
pub fn beginning(text: &[u8]) -> String {
    let line = String::from_utf8_lossy(&text[..text.len().min(400)]);
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(160) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

/// Whether a `COPY` has nothing but a name and a list of names between its words: no program, no
/// file, no options.
fn is_plain(table: &str, columns: &str) -> bool {
    let bare = |text: &str| text.split('"').step_by(2).collect::<String>();
    let (table, columns) = (bare(table), bare(columns));
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '\u{fffd}';
    let inner = columns.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
    table.chars().all(|c| is_name(c) || c == '.')
        && (columns.is_empty() || inner.is_some_and(|inner| inner.chars().all(|c| is_name(c) || c == ',' || c == ' ')))
}

impl Pieces {
    fn refuse(&mut self, error: Error) {
        self.refused.get_or_insert(error);
    }
}

impl Listener for Pieces {
    fn sql(&mut self, bytes: &[u8]) {
        let bytes = if self.text.is_empty() { bytes.trim_ascii_start() } else { bytes };
        if self.text.len() + bytes.len() > STATEMENT_BYTES_MAX {
            let beginning = beginning(&self.text);
            self.refuse(Error::new(Kind::Damaged, format!("the dump holds a statement of more than 64 MiB: {beginning}")));
            return;
        }
        self.text.extend_from_slice(bytes);
    }

    fn statement_end(&mut self, statement: &Ended<'_>) {
        self.any_statement = true;
        let mut text = std::mem::take(&mut self.text);
        text.truncate(text.trim_ascii_end().len());
        let text = Bytes::from(text);
        if statement.copies {
            let (table, columns) = copy_target(&String::from_utf8_lossy(&text));
            if !is_plain(&table, &columns) {
                self.refuse(hostile(format_args!("the statement {:?}", beginning(&text))));
            }
            self.items.push(Item::Copy(Copy { table, columns, statement: text }));
        } else {
            self.items.push(Item::Statement(text));
        }
    }

    fn rows(&mut self, bytes: &[u8]) {
        let range = self.block.as_ptr_range();
        let rows = if range.contains(&bytes.as_ptr()) { self.block.slice_ref(bytes) } else { Bytes::copy_from_slice(bytes) };
        self.items.push(Item::Rows(rows));
    }

    fn rows_end(&mut self) {
        self.items.push(Item::RowsEnd);
    }

    fn meta(&mut self, line: &[u8]) {
        let between = self.text.trim_ascii().is_empty();
        if line.starts_with(b"restrict ") && between && !self.any_statement && !self.ending.has_key() {
            self.ending.meta(line);
            return;
        }
        if let Some(key) = line.strip_prefix(b"unrestrict ")
            && between
            && self.ending.is_key(key)
        {
            self.ending.meta(line);
            return;
        }
        let command = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        if [b"connect".as_slice(), b"c"].contains(&command) {
            let error = "the dump was made with --create: it goes to a database of its own choice (\\connect)";
            self.refuse(Error::new(Kind::Damaged, error).hint("restore it by hand with psql, or make the dump again without --create"));
            return;
        }
        self.refuse(hostile(format_args!("a command for psql, \\{}", beginning(line))));
    }

    fn doubt(&mut self, what: &'static str) {
        if self.text.is_empty() {
            self.refuse(hostile(what));
            return;
        }
        let beginning = beginning(&self.text);
        self.refuse(hostile(format_args!("{what} in the statement {beginning:?}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::lexer::Place;

    fn split(text: &str, piece: usize) -> Result<Vec<Item>> {
        let mut splitter = Splitter::default();
        let text = Bytes::copy_from_slice(text.as_bytes());
        let mut items: Vec<Item> = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let end = (at + piece).min(text.len());
            for item in splitter.feed(&text.slice(at..end))? {
                match (items.last_mut(), item) {
                    (Some(Item::Rows(rows)), Item::Rows(more)) => *rows = Bytes::from([&rows[..], &more[..]].concat()),
                    (_, item) => items.push(item),
                }
            }
            at = end;
        }
        assert_eq!(splitter.lexer.place(), Place::Between);
        Ok(items)
    }

    #[test]
    fn pieces_of_a_dump() {
        let text = "--\n-- PostgreSQL database dump\n--\n\n\\restrict k1\n\nSET a = 1;\nCREATE TABLE t (\n    a integer -- b\n);\n\
                    COPY public.t (a, \"b c\") FROM stdin;\n1\t2\n\\\\.\tx\n\\.\n\n\n-- x\n\nCREATE INDEX i ON t (a);\n\n\\unrestrict k1\n\n";
        for piece in [1, 2, 3, 7, 1000] {
            let items = split(text, piece).unwrap();
            let statement = |text: &'static str| Item::Statement(Bytes::from_static(text.as_bytes()));
            assert_eq!(items[0], statement("SET a = 1;"));
            assert_eq!(items[1], statement("CREATE TABLE t (\n    a integer \n);"));
            let Item::Copy(copy) = &items[2] else { panic!("{items:?}") };
            assert_eq!((copy.table.as_str(), copy.columns.as_str()), ("public.t", "(a, \"b c\")"));
            assert_eq!(
                items[3..],
                [Item::Rows(Bytes::from_static(b"1\t2\n\\\\.\tx\n")), Item::RowsEnd, statement("CREATE INDEX i ON t (a);")]
            );
        }
    }

    #[test]
    fn what_no_dump_holds_is_refused() {
        for (text, words) in [
            ("\\! touch /tmp/x\n", "\\! touch /tmp/x"),
            ("SELECT 1 \\! touch /tmp/x\n;", "\\! touch"),
            ("SELECT 1 \\g |touch /tmp/x\n;", "\\g |touch"),
            ("\\set x `touch /tmp/x`\n", "\\set x `touch"),
            ("\\restrict a\nSET a = 1;\n\\unrestrict b\n\\! touch\n", "\\unrestrict b"),
            ("SET a = 1;\n\\restrict a\n", "\\restrict a"),
            ("\\restrict a\n\\restrict b\n", "\\restrict b"),
            ("\\restrict a\nSELECT 1 \\unrestrict a\n;", "\\unrestrict a"),
            ("\\connect live\n", "--create"),
            ("COPY t FROM stdin;\n1\n\\.\r\n\\! touch /tmp/x\n\\.\n", "rows that end in the middle"),
            ("COPY t FROM stdin;\n\\.\r\n\\! touch /tmp/x\n\\.\n", "rows that end in the middle"),
            ("SELECT '\0';", "zero byte"),
            ("COPY t TO PROGRAM 'touch /tmp/x' FROM stdin;\n\\.\n", "COPY t TO PROGRAM"),
            ("COPY t (a) FROM PROGRAM 'x' WITH (b) FROM stdin;\n\\.\n", "FROM PROGRAM"),
            ("COPY (SELECT f()) TO x FROM stdin;\n\\.\n", "COPY (SELECT"),
            ("SELECT 1$$'$$ ; \\! touch ';", "dollar sign"),
        ] {
            for piece in [1, 2, 3, text.len()] {
                let error = split(text, piece).unwrap_err();
                assert!(error.message.contains(words), "{text:?} in {piece}: {error}");
            }
        }
    }
}
