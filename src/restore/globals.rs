//! The statements of globals.sql, each looked at before any of them is sent: roles and tablespaces
//! are made where they are missing, and what is there stays as it is.

use std::collections::BTreeSet;

use super::names::single;
use crate::error::{Error, Kind, Result};
use crate::pack::lexer::{Ended, Lexer, Listener, Place};

/// What `pg_dumpall --globals-only` wrote, understood.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Globals {
    pub statements: Vec<Statement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub sql: String,
    pub about: About,
}

/// What a statement is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// The session itself.
    Session,
    /// `CREATE`, `ALTER`, `COMMENT ON`, `SECURITY LABEL ON ROLE`.
    Role(String),
    Tablespace(String),
    /// A membership, of both.
    Membership(String, String),
}

#[derive(Default)]
struct Reader {
    sql: Vec<u8>,
    found: Vec<String>,
    wrong: Option<String>,
}

impl Listener for Reader {
    fn sql(&mut self, bytes: &[u8]) {
        self.sql.extend_from_slice(bytes);
    }

    fn statement_end(&mut self, ended: &Ended<'_>) {
        if ended.copies {
            self.wrong.get_or_insert_with(|| "rows".to_owned());
        }
        let sql = String::from_utf8_lossy(&std::mem::take(&mut self.sql)).trim().to_owned();
        self.found.push(sql);
    }

    fn meta(&mut self, line: &[u8]) {
        let command = String::from_utf8_lossy(line);
        let word = command.split_whitespace().next().unwrap_or_default().to_owned();
        if word != "restrict" && word != "unrestrict" {
            self.wrong.get_or_insert_with(|| format!("the psql command \\{word}"));
        }
    }
}

impl Globals {
    /// Understands the text of a globals.sql.
    ///
    /// # Errors
    /// It holds what pg_dumpall never writes there.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let hostile = |what: &str| {
            Error::new(
                Kind::Damaged,
                format!("the globals of the backup hold what pg_dumpall never writes: {}", crate::host::printable(what)),
            )
            .hint("look into them: pgvigil cat ID globals.sql.gz; nothing of them was sent")
        };
        let mut reader = Reader::default();
        let mut lexer = Lexer::default();
        lexer.feed(text, &mut reader);
        if let Some(wrong) = reader.wrong {
            return Err(hostile(&wrong));
        }
        if lexer.place() == Place::Rows || !reader.sql.trim_ascii().is_empty() {
            return Err(hostile("a statement without an end"));
        }
        let statements = reader
            .found
            .into_iter()
            .filter(|sql| sql != ";")
            .map(|sql| match about(&sql) {
                Some(about) => Ok(Statement { sql, about }),
                None => Err(hostile(&sql.chars().take(60).collect::<String>())),
            })
            .collect::<Result<_>>()?;
        Ok(Globals { statements })
    }

    /// Roles that it makes.
    pub fn roles(&self) -> BTreeSet<&str> {
        self.made("CREATE ROLE", |about| if let About::Role(name) = about { Some(name) } else { None })
    }

    /// Tablespaces that it makes.
    pub fn tablespaces(&self) -> BTreeSet<&str> {
        self.made("CREATE TABLESPACE", |about| if let About::Tablespace(name) = about { Some(name) } else { None })
    }

    fn made<'a>(&'a self, head: &str, name: impl Fn(&'a About) -> Option<&'a String>) -> BTreeSet<&'a str> {
        let made = self.statements.iter().filter(|statement| statement.sql.starts_with(head));
        made.filter_map(|statement| name(&statement.about)).map(String::as_str).collect()
    }

    /// What to send to a server that has these: what is there already stays as it is.
    pub fn wanted<'a>(&'a self, roles: &'a BTreeSet<String>, tablespaces: &'a BTreeSet<String>) -> impl Iterator<Item = &'a Statement> {
        self.statements.iter().filter(|statement| match &statement.about {
            About::Session => true,
            About::Role(name) => !roles.contains(name),
            About::Tablespace(name) => !tablespaces.contains(name),
            About::Membership(role, member) => !(roles.contains(role) && roles.contains(member)),
        })
    }
}

/// What a statement is about; `None`: nothing that belongs there.
fn about(sql: &str) -> Option<About> {
    let words = words(sql.strip_suffix(';')?)?;
    let word = |n: usize| words.get(n).map(String::as_str).unwrap_or_default();
    let named = |n: usize| single(word(n));
    match (word(0), word(1), word(2)) {
        ("SET", "default_transaction_read_only" | "client_encoding" | "standard_conforming_strings", _) => Some(About::Session),
        ("CREATE" | "ALTER", "ROLE", _) => named(2).map(About::Role),
        ("CREATE" | "ALTER", "TABLESPACE", _) => named(2).map(About::Tablespace),
        ("COMMENT", "ON", "ROLE") => named(3).map(About::Role),
        ("COMMENT", "ON", "TABLESPACE") => named(3).map(About::Tablespace),
        ("SECURITY", "LABEL", _) => match words.iter().position(|word| word == "ROLE" || word == "TABLESPACE") {
            Some(at) if word(at) == "ROLE" => named(at + 1).map(About::Role),
            Some(at) => named(at + 1).map(About::Tablespace),
            None => None,
        },
        ("GRANT" | "REVOKE", ..) => match words.iter().position(|word| word == "TABLESPACE" || word == "PARAMETER") {
            Some(at) if word(at) == "TABLESPACE" => named(at + 1).map(About::Tablespace),
            // Rights on settings of the server go to a role.
            Some(_) => {
                let to = words.iter().position(|word| word == "TO" || word == "FROM")?;
                named(to + 1).map(About::Role)
            }
            None => {
                let to = words.iter().position(|word| word == "TO" || word == "FROM")?;
                Some(About::Membership(named(to.checked_sub(1)?)?, named(to + 1)?))
            }
        },
        _ => None,
    }
}

/// Words, names and strings of a statement, quotes and all. `None`: outside of quotes stands what
/// psql takes for itself, at any place of a line, or another sort of quote.
fn words(sql: &str) -> Option<Vec<String>> {
    let mut words = vec![String::new()];
    // The quote that is open, and whether a backslash escapes in it.
    let mut quote = None;
    let mut chars = sql.chars();
    while let Some(c) = chars.next() {
        let word = words.len() - 1;
        match quote {
            Some((open, escapes)) => {
                words[word].push(c);
                if c == open {
                    quote = None;
                } else if escapes && c == '\\' {
                    words[word].push(chars.next()?);
                }
            }
            None if c.is_whitespace() || c == ',' => words.push(String::new()),
            None if matches!(c, '\\' | ':' | '$') => return None,
            None => {
                if c == '"' || c == '\'' {
                    quote = Some((c, c == '\'' && words[word].eq_ignore_ascii_case("E")));
                }
                words[word].push(c);
            }
        }
    }
    words.retain(|word| !word.is_empty());
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "--\n-- PostgreSQL database cluster dump\n--\n\n\\restrict abc\n\nSET default_transaction_read_only = off;\nSET client_encoding = 'UTF8';\n\
        CREATE ROLE app;\nALTER ROLE app WITH NOSUPERUSER PASSWORD 'SCRAM-SHA-256$4096:a;b';\nCREATE ROLE \"O'Neill; x\";\n\
        ALTER ROLE \"O'Neill; x\" WITH LOGIN;\nALTER ROLE app SET search_path TO 'a', 'b';\n\
        GRANT app TO \"O'Neill; x\" WITH ADMIN OPTION GRANTED BY postgres;\nGRANT pg_read_all_data TO app;\n\
        CREATE TABLESPACE fast OWNER postgres LOCATION '/mnt/fast';\nGRANT ALL ON TABLESPACE fast TO app;\nGRANT SET ON PARAMETER work_mem TO app;\n\
        COMMENT ON ROLE app IS 'it''s';\n\n\\unrestrict abc\n";

    #[test]
    fn globals_are_understood() {
        let globals = Globals::parse(TEXT.as_bytes()).unwrap();
        assert_eq!(globals.roles().into_iter().collect::<Vec<_>>(), ["O'Neill; x", "app"]);
        assert_eq!(globals.tablespaces().into_iter().collect::<Vec<_>>(), ["fast"]);
        let (roles, no_tablespaces) = (["app".to_owned()].into(), BTreeSet::new());
        let wanted: Vec<&str> = globals.wanted(&roles, &no_tablespaces).map(|statement| statement.sql.as_str()).collect();
        assert!(wanted.contains(&"CREATE ROLE \"O'Neill; x\";") && wanted.contains(&"GRANT ALL ON TABLESPACE fast TO app;"), "{wanted:#?}");
        assert!(wanted.iter().any(|sql| sql.starts_with("GRANT app TO")), "{wanted:#?}");
        assert!(
            !wanted.iter().any(|sql| sql.contains("ROLE app") || sql.contains("PARAMETER")),
            "what is there stays as it is: {wanted:#?}"
        );
    }

    #[test]
    fn what_pg_dumpall_never_writes_is_refused() {
        for text in [
            "CREATE ROLE a;\n\\! touch /tmp/x\n",
            "DROP DATABASE live;",
            "CREATE ROLE a; ALTER SYSTEM SET archive_command = 'x';",
            "COPY x FROM PROGRAM 'id';",
            "DO $$ begin end $$;",
            "CREATE ROLE a",
            "SET ROLE postgres;",
            "CREATE ROLE a \\! touch /tmp/x\n;",
            "ALTER ROLE a PASSWORD E'\\'' \\! touch /tmp/x\n;",
            "ALTER ROLE a PASSWORD $$x$$;",
        ] {
            assert_eq!(Globals::parse(text.as_bytes()).map_err(|error| error.kind), Err(Kind::Damaged), "{text}");
        }
    }
}
