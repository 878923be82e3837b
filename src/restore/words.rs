//! The words of a statement: names, strings and signs, each with its place.

use std::ops::Range;

/// What a word is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Without quotes: a keyword, a name or a number.
    Bare,
    /// `"..."`
    Quoted,
    /// `'...'` with its prefix, or `$tag$...$tag$`.
    Text,
    /// One sign.
    Sign,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word<'a> {
    pub sort: Sort,
    /// As it stands there.
    pub text: &'a [u8],
    pub at: Range<usize>,
}

impl Word<'_> {
    /// Whether it is that keyword, or that sign.
    pub fn is(&self, wanted: &str) -> bool {
        matches!(self.sort, Sort::Bare | Sort::Sign) && self.text.eq_ignore_ascii_case(wanted.as_bytes())
    }

    /// The name that it stands for: folded as SQL does, or without its quotes.
    pub fn name(&self) -> Option<Vec<u8>> {
        match self.sort {
            Sort::Bare => Some(self.text.to_ascii_lowercase()),
            Sort::Quoted => {
                let inner = &self.text[1..self.text.len() - 1];
                let mut name = Vec::with_capacity(inner.len());
                let mut bytes = inner.iter();
                while let Some(byte) = bytes.next() {
                    name.push(*byte);
                    if *byte == b'"' {
                        bytes.next();
                    }
                }
                Some(name)
            }
            Sort::Text | Sort::Sign => None,
        }
    }
}

/// Takes a statement apart, as with `standard_conforming_strings`.
pub fn words(statement: &[u8]) -> Vec<Word<'_>> {
    words_up_to(statement, usize::MAX)
}

/// The same, of the first words only.
pub fn words_up_to(statement: &[u8], max: usize) -> Vec<Word<'_>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < statement.len() && found.len() < max {
        let byte = statement[at];
        if byte.is_ascii_whitespace() || byte == 0x0b {
            at += 1;
            continue;
        }
        let (sort, len) = one(&statement[at..]);
        found.push(Word { sort, text: &statement[at..at + len], at: at..at + len });
        at += len;
    }
    found
}

fn is_bare(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// The word at the front of a text, and its length.
fn one(text: &[u8]) -> (Sort, usize) {
    let bare = text.iter().take_while(|byte| is_bare(**byte)).count();
    let quote = text.get(bare) == Some(&b'\'');
    match text[0] {
        b'\'' => (Sort::Text, string(text, 0, false)),
        _ if bare == 1 && quote && b"eEbBxXnN".contains(&text[0]) => (Sort::Text, string(text, 1, text[0].eq_ignore_ascii_case(&b'e'))),
        b'"' => (Sort::Quoted, quoted(text, b'"')),
        b'$' => match dollar(text) {
            Some(len) => (Sort::Text, len),
            None => (Sort::Sign, 1),
        },
        _ if bare > 0 => (Sort::Bare, bare),
        _ => (Sort::Sign, 1),
    }
}

/// The length of a text in quotes, in which the quote is doubled.
fn quoted(text: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while let Some(found) = memchr::memchr(quote, &text[at..]) {
        at += found + 1;
        if text.get(at) != Some(&quote) {
            return at;
        }
        at += 1;
    }
    text.len()
}

fn string(text: &[u8], prefix: usize, escapes: bool) -> usize {
    if !escapes {
        return prefix + quoted(&text[prefix..], b'\'');
    }
    let mut at = prefix + 1;
    while let Some(found) = memchr::memchr2(b'\'', b'\\', &text[at..]) {
        at += found;
        if text[at] == b'\\' || text.get(at + 1) == Some(&b'\'') {
            at = (at + 2).min(text.len());
        } else {
            return at + 1;
        }
    }
    text.len()
}

fn dollar(text: &[u8]) -> Option<usize> {
    let tag = 1 + text[1..].iter().take_while(|byte| is_bare(**byte)).count();
    if text.get(tag) != Some(&b'$') || text[1].is_ascii_digit() {
        return None;
    }
    let delimiter = &text[..=tag];
    let rest = &text[delimiter.len()..];
    let end = memchr::memmem::find(rest, delimiter).map_or(rest.len(), |found| found + delimiter.len());
    Some(delimiter.len() + end)
}

/// A name of an object, with its schema or without.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    pub schema: Option<Vec<u8>>,
    pub name: Vec<u8>,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{}.", String::from_utf8_lossy(schema))?;
        }
        f.write_str(&String::from_utf8_lossy(&self.name))
    }
}

/// The name that stands at word `at`, and the number of the word behind it. Of three parts the last
/// is left: `schema.table.column`.
pub fn name_at(words: &[Word<'_>], at: usize) -> Option<(Name, usize)> {
    let first = words.get(at)?.name()?;
    let second = words.get(at + 1).filter(|dot| dot.is(".")).and_then(|_| words.get(at + 2)?.name());
    Some(match second {
        Some(name) => (Name { schema: Some(first), name }, at + 3),
        None => (Name { schema: None, name: first }, at + 1),
    })
}

/// Reads a name as a user writes it.
pub fn parse_name(text: &str) -> Option<Name> {
    let words = words(text.as_bytes());
    let (name, end) = name_at(&words, 0)?;
    (end == words.len()).then_some(name)
}

/// Where these words stand, one after the other, from word `from` on, outside of parentheses.
pub fn find(words: &[Word<'_>], from: usize, wanted: &[&str]) -> Option<usize> {
    let mut depth = 0u32;
    for at in from..words.len() {
        if words[at].is("(") {
            depth += 1;
        } else if words[at].is(")") {
            depth = depth.saturating_sub(1);
        } else if depth == 0 && wanted.iter().enumerate().all(|(n, wanted)| words.get(at + n).is_some_and(|word| word.is(wanted))) {
            return Some(at);
        }
    }
    None
}

/// Whether a statement begins with these words.
pub fn begins(words: &[Word<'_>], wanted: &[&str]) -> bool {
    wanted.len() <= words.len() && wanted.iter().zip(words).all(|(wanted, word)| word.is(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_names() {
        let statement = br#"ALTER TABLE ONLY "we""ird t".Tab ALTER x SET DEFAULT nextval('a.b'::regclass) || E'\'' || $a$'$a$;"#;
        let found = words(statement);
        let texts: Vec<&str> = found.iter().map(|word| std::str::from_utf8(word.text).unwrap()).collect();
        assert_eq!(
            texts,
            [
                "ALTER",
                "TABLE",
                "ONLY",
                "\"we\"\"ird t\"",
                ".",
                "Tab",
                "ALTER",
                "x",
                "SET",
                "DEFAULT",
                "nextval",
                "(",
                "'a.b'",
                ":",
                ":",
                "regclass",
                ")",
                "|",
                "|",
                "E'\\''",
                "|",
                "|",
                "$a$'$a$",
                ";"
            ]
        );
        let (name, end) = name_at(&found, 3).unwrap();
        assert_eq!((name, end), (Name { schema: Some(b"we\"ird t".to_vec()), name: b"tab".to_vec() }, 6));
        assert!(begins(&found, &["alter", "table"]));
        assert_eq!(find(&found, 0, &["SET", "DEFAULT"]), Some(8));
        assert_eq!(parse_name("a.b.c"), None);
        assert_eq!(parse_name("A"), Some(Name { schema: None, name: b"a".to_vec() }));
    }
}
