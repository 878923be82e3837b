//! What a statement of a dump may be. A restore runs the dump's code with the rights of whoever
//! restores, functions and all, so this contains no determined enemy within the database; it keeps a
//! dump from what lies outside of its database, and from what `pg_dump` never writes.

use super::split::{beginning, hostile};
use crate::error::Result;

/// What to do with a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Run,
    /// It belongs to a database by name, which need not be the one that is restored.
    Leave,
}

/// First words of the statements that `pg_dump` writes, besides `COPY`.
const WRITTEN: [&str; 13] =
    ["SET", "SELECT", "CREATE", "ALTER", "COMMENT", "GRANT", "REVOKE", "INSERT", "SECURITY", "REFRESH", "BEGIN;", "COMMIT;", "DROP"];

/// What it selects from.
const SELECTED: [&str; 14] = [
    "pg_catalog.set_config('search_path',",
    "pg_catalog.setval(",
    "pg_catalog.lo_open(",
    "pg_catalog.lo_close(",
    "pg_catalog.lo_create(",
    "pg_catalog.lo_unlink(",
    "pg_catalog.lowrite(",
    "pg_catalog.pg_restore_",
    "setval(",
    "lo_open(",
    "lo_close(",
    "lo_create(",
    "lo_unlink(",
    "lowrite(",
];

/// What lies outside of a database.
const OUTSIDE: [&str; 7] = ["DATABASE", "ROLE", "USER", "GROUP", "TABLESPACE", "SYSTEM", "OWNED"];

/// Encodings in which a backslash or a quote can be half of a character: `psql` reads such a text in
/// its own way. No server stores them, only `pg_dump --encoding` writes them.
/// <https://www.postgresql.org/docs/current/multibyte.html>
const UNSAFE_ENCODINGS: [&str; 7] = ["SJIS", "SHIFT_JIS_2004", "BIG5", "GBK", "UHC", "GB18030", "JOHAB"];

/// Judges a statement that is no `COPY ... FROM stdin`.
///
/// # Errors
/// No dump of a database holds it.
pub fn judge(statement: &[u8]) -> Result<Verdict> {
    let head = String::from_utf8_lossy(&statement[..statement.len().min(512)]);
    let words: Vec<&str> = head.split_ascii_whitespace().take(6).collect();
    let refused = || hostile(format_args!("the statement {:?}", beginning(statement)));
    let word = |n: usize| words.get(n).copied().unwrap_or_default();
    let is = |n: usize, wanted: &str| word(n).eq_ignore_ascii_case(wanted);
    if word(0) == ";" {
        return Ok(Verdict::Leave);
    }
    if !WRITTEN.contains(&word(0)) {
        return Err(refused());
    }
    let fine = match word(0) {
        "SELECT" => {
            let from = if word(1) == "*" && word(2) == "FROM" { word(3) } else { word(1) };
            SELECTED.iter().any(|start| from.starts_with(start))
        }
        "CREATE" | "ALTER" | "DROP" => {
            let of_a_role = is(1, "USER") && is(2, "MAPPING");
            !OUTSIDE.iter().any(|name| is(1, name)) || of_a_role
        }
        "COMMENT" if is(2, "DATABASE") => return Ok(Verdict::Leave),
        "COMMENT" => !(is(2, "ROLE") || is(2, "TABLESPACE")),
        "SECURITY" => !(is(3, "ROLE") || is(3, "DATABASE")),
        // Of roles to roles there is no ON.
        "GRANT" | "REVOKE" => has_on(&head) && !on_outside(&head),
        "SET" => sets_plainly(&words),
        _ => true,
    };
    if fine { Ok(Verdict::Run) } else { Err(refused()) }
}

/// Whether it is one of the forms in which a dump sets something. Two settings decide how the rest of
/// the text is read, and their statements are repeated: of those only what is known by sight.
fn sets_plainly(words: &[&str]) -> bool {
    match words[1..] {
        ["SESSION", "AUTHORIZATION", ..] => true,
        ["standard_conforming_strings", "=", value] => ["on;", "off;"].contains(&value),
        ["client_encoding", "=", value] => {
            let name = value.strip_prefix('\'').and_then(|rest| rest.strip_suffix("';"));
            name.is_some_and(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !UNSAFE_ENCODINGS.contains(&name))
        }
        // With the last of them the catalogs that all databases share could be written to.
        ["standard_conforming_strings" | "client_encoding" | "allow_system_table_mods", ..] => false,
        [name, "=", ..] => !name.ends_with("_libraries") && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
        _ => false,
    }
}

fn has_on(head: &str) -> bool {
    head.split_ascii_whitespace().any(|word| word == "ON")
}

fn on_outside(head: &str) -> bool {
    let mut words = head.split_ascii_whitespace().skip_while(|word| *word != "ON").skip(1);
    matches!(words.next(), Some("DATABASE" | "TABLESPACE" | "PARAMETER"))
}

/// Whether two settings of a session could make a `psql` see another text here: a backslash in
/// front of a quote, or a character of several bytes.
pub fn is_delicate(statement: &[u8]) -> bool {
    !statement.is_ascii() || memchr::memmem::find(statement, b"\\'").is_some()
}

/// Versions of `psql` that know `\restrict`.
/// <https://www.postgresql.org/docs/current/app-psql.html#APP-PSQL-META-COMMAND-RESTRICT>
pub fn knows_restrict(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().ok());
    let major = numbers.next().flatten().unwrap_or_default();
    let minor = numbers.next().flatten().unwrap_or_default();
    match major {
        13 => minor >= 22,
        14 => minor >= 19,
        15 => minor >= 14,
        16 => minor >= 10,
        17 => minor >= 6,
        18.. => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements() {
        for fine in [
            "SET statement_timeout = 0;",
            "SET client_encoding = 'UTF8';",
            "SELECT pg_catalog.set_config('search_path', '', false);",
            "SELECT pg_catalog.setval('public.s', 1, true);",
            "SELECT pg_catalog.lo_open('1', 131072);",
            "SELECT * FROM pg_catalog.pg_restore_relation_stats('relation', 't'::regclass);",
            "CREATE USER MAPPING FOR x SERVER y;",
            "CREATE TABLE public.\"ROLE\" ();",
            "GRANT SELECT ON TABLE t TO r;",
            "ALTER DEFAULT PRIVILEGES FOR ROLE a GRANT SELECT ON TABLES TO b;",
            "BEGIN;",
            "SET standard_conforming_strings = off;",
            "SET SESSION AUTHORIZATION 'x';",
            "SET default_tablespace = '';",
        ] {
            assert_eq!(judge(fine.as_bytes()).unwrap(), Verdict::Run, "{fine}");
        }
        for hostile in [
            "COPY t FROM PROGRAM 'touch /tmp/x';",
            "COPY t FROM '/etc/passwd';",
            "copy t from stdin;",
            "COPY t TO PROGRAM 'x' FROM stdin;",
            "ALTER SYSTEM SET archive_command = 'x';",
            "ALTER system SET a = 1;",
            "ALTER\u{b}SYSTEM SET a = 1;",
            "LOAD 'x';",
            "DO $$begin end$$;",
            "CREATE DATABASE x;",
            "DROP DATABASE x;",
            "CREATE ROLE x SUPERUSER;",
            "alter role postgres password 'x';",
            "ALTER USER postgres PASSWORD 'x';",
            "DROP TABLESPACE x;",
            "GRANT pg_execute_server_program TO x;",
            "GRANT ALL ON DATABASE live TO x;",
            "SELECT pg_catalog.pg_read_file('/etc/passwd');",
            "SELECT pg_terminate_backend(1);",
            "SELECT pg_catalog.lo_export(1, '/tmp/x');",
            "SELECT lo_import('/etc/passwd');",
            "SET allow_system_table_mods = on;",
            "SET session_preload_libraries = 'x';",
            "SET ROLE x;",
            "SET client_encoding = 'SJIS';",
            "SET client_encoding TO 'UTF8';",
            "SET standard_conforming_strings TO off;",
            "SET STANDARD_CONFORMING_STRINGS = off;",
            "SET LOCAL standard_conforming_strings = off;",
            "SET \"standard_conforming_strings\" = off;",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY;",
            "SET TRANSACTION READ ONLY;",
            "SELECT pg_catalog.set_config('standard_conforming_strings', 'off', false);",
            "TRUNCATE t;",
        ] {
            assert!(judge(hostile.as_bytes()).is_err(), "{hostile}");
        }
        assert_eq!(judge(b"COMMENT ON DATABASE live IS 'x';").unwrap(), Verdict::Leave);
    }

    #[test]
    fn versions_that_know_restrict() {
        for (version, knows) in [
            ("15.13", false),
            ("15.14", true),
            ("16.9", false),
            ("17.6", true),
            ("18beta1", true),
            ("18.0", true),
            ("12.99", false),
            ("", false),
        ] {
            assert_eq!(knows_restrict(version), knows, "{version}");
        }
    }
}
