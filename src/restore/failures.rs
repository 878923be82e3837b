//! What failed in a restore: the server's own words, alike ones together.

use super::load::Failure;

/// Failures that are told apart; what comes beyond is counted only.
const KINDS_MAX: usize = 200;

/// After so many a restore gives up: nothing useful comes of it any more.
const FAILURES_MAX: u64 = 1000;

/// Failures so far.
#[derive(Debug, Default)]
pub struct Failures {
    /// With the message without names and numbers, by which alike ones are known.
    found: Vec<(String, Failure)>,
    count: u64,
}

impl Failures {
    /// Counts one; `statement` is its beginning.
    pub fn note(&mut self, message: &str, statement: String) {
        self.count += 1;
        let first_line = message.lines().next().unwrap_or_default();
        let key = normalised(first_line);
        let room = self.found.len() < KINDS_MAX;
        if let Some((_, failure)) = self.found.iter_mut().find(|(known, _)| *known == key) {
            failure.count += 1;
        } else if room {
            self.found.push((key, Failure { message: message.to_owned(), statement, count: 1 }));
        } else if let Some((_, last)) = self.found.last_mut() {
            last.count += 1;
        }
    }

    /// Whether it is time to give up.
    pub fn are_too_many(&self) -> bool {
        self.count >= FAILURES_MAX
    }

    /// What is to be told.
    pub fn finish(self) -> Vec<Failure> {
        let gave_up = self.are_too_many();
        let mut failures: Vec<Failure> = self.found.into_iter().map(|(_, failure)| failure).collect();
        if gave_up {
            let message = format!("gave up after {FAILURES_MAX} failures: the rest of the dump was not loaded");
            failures.push(Failure { message, statement: String::new(), count: 1 });
        }
        failures
    }
}

/// A message without what differs between alike ones: quoted names, and numbers.
fn normalised(message: &str) -> String {
    let mut normal = String::new();
    let mut in_quotes = false;
    for c in message.chars() {
        match c {
            '"' => {
                in_quotes = !in_quotes;
                normal.push('"');
            }
            _ if in_quotes => {}
            c if c.is_ascii_digit() => {
                if !normal.ends_with('#') {
                    normal.push('#');
                }
            }
            c => normal.push(c),
        }
    }
    normal
}

/// The words of the server in what a `psql` said on stderr: its last error with what belongs to it.
/// `None`: it said nothing of a failed statement.
pub fn words(stderr: &str) -> Option<String> {
    let start = ["ERROR:  ", "FATAL:  ", "PANIC:  "].iter().filter_map(|level| stderr.rfind(level).map(|at| at + level.len())).max()?;
    let mut lines = stderr[start..].lines();
    let mut words = lines.next()?.to_owned();
    for line in lines.filter(|line| line.starts_with("DETAIL:  ") || line.starts_with("HINT:  ")) {
        words.push('\n');
        words.push_str(line);
    }
    Some(words)
}

/// What to do about a failed statement of a part of a dump.
pub fn hint(message: &str) -> Option<&'static str> {
    let hints: [(&[&str], &str); 8] = [
        (
            &["type \"", "does not exist"],
            "the part needs a type that the target has not: restore the schema of the type as well (--schema), or create the type first",
        ),
        (
            &["function ", "does not exist"],
            "the part needs a function that the target has not: restore its schema as well (--schema), or create it first",
        ),
        (&["role \"", "does not exist"], "create the role in the target first: pgvigil restore --globals, or CREATE ROLE"),
        (&["schema \"", "does not exist"], "create the schema in the target first, or restore it whole (--schema)"),
        (
            &["relation \"", "already exists"],
            "the target has it already: restore beside it with --into-schema, only the rows with --contents data, or drop it first",
        ),
        (
            &["relation \"", "does not exist"],
            "the part needs a table that the target has not: restore that table as well (--table), or create it first",
        ),
        (
            &["violates foreign key constraint"],
            "rows point at rows that the target has not: restore the referenced table as well, or restore beside the live tables with --into-schema",
        ),
        (&["duplicate key value"], "the target has these rows already: empty the table first, or restore beside it with --into-schema"),
    ];
    hints.iter().find(|(words, _)| words.iter().all(|word| message.contains(word))).map(|(_, hint)| *hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alike_ones_are_one() {
        let mut failures = Failures::default();
        for n in 0..5 {
            failures.note(&format!("role \"r{n}\" does not exist"), format!("ALTER {n}"));
        }
        failures.note("division by zero", "SELECT".to_owned());
        let found = failures.finish();
        assert_eq!((found.len(), found[0].count, found[0].statement.as_str()), (2, 5, "ALTER 0"));
        assert_eq!(found[0].message, "role \"r0\" does not exist");
    }

    #[test]
    fn a_thousand_are_enough() {
        let mut failures = Failures::default();
        for n in 0..1000 {
            assert!(!failures.are_too_many());
            failures.note("no such table", format!("COPY {n}"));
        }
        assert!(failures.are_too_many());
        let found = failures.finish();
        assert_eq!(found[0].count, 1000);
        assert!(found[1].message.starts_with("gave up after 1000"));
    }

    #[test]
    fn the_words_of_the_server() {
        let stderr =
            "psql:<stdin>:1: NOTICE:  x\npsql:<stdin>:3: ERROR:  relation \"a\" does not exist\nLINE 1: x\n        ^\nDETAIL:  more";
        assert_eq!(words(stderr).unwrap(), "relation \"a\" does not exist\nDETAIL:  more");
        assert_eq!(words("psql: error: no connection"), None);
    }
}
