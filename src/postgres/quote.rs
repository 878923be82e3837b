//! Names and values in the syntax of whoever reads them. None of them is ever joined in bare.

/// A connection string for one database. A bare name with `=` in it would be taken for a
/// connection string of its own, and connect elsewhere.
/// <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-KEYWORD-VALUE>
pub fn conninfo(database: &str) -> String {
    format!("dbname={}", in_quotes(database))
}

/// A value in a connection string that people read, bare where that is safe.
pub fn conninfo_value(value: &str) -> String {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:".contains(&byte);
    if !value.is_empty() && value.bytes().all(safe) { value.to_owned() } else { in_quotes(value) }
}

fn in_quotes(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A string constant of SQL; right whatever standard_conforming_strings is.
/// <https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-STRINGS-ESCAPE>
pub fn literal(text: &str) -> String {
    if text.contains('\\') {
        format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

/// An identifier of SQL.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A name with or without a schema, every part of it quoted: servers of different versions quote
/// different words.
pub fn canonical(name: &str) -> String {
    let mut parts = vec![String::new()];
    let mut in_quotes = false;
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if in_quotes && chars.next_if_eq(&'"').is_some() => parts.last_mut().map(|part| part.push('"')).unwrap_or_default(),
            '"' => in_quotes = !in_quotes,
            '.' if !in_quotes => parts.push(String::new()),
            c => parts.last_mut().map(|part| part.push(c)).unwrap_or_default(),
        }
    }
    parts.iter().map(|part| identifier(part)).collect::<Vec<_>>().join(".")
}

/// An identifier of SQL for a page: on one line, whatever is in it.
/// <https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS>
pub fn identifier_on_one_line(name: &str) -> String {
    match escaped(name) {
        Some(escaped) => format!("U&{}", identifier(&escaped)),
        None => identifier(name),
    }
}

/// A string constant of SQL for a page: on one line, whatever is in it.
pub fn literal_on_one_line(text: &str) -> String {
    match escaped(text) {
        Some(escaped) => format!("U&'{}'", escaped.replace('\'', "''")),
        None => literal(text),
    }
}

/// Control characters as the escapes of `U&`; `None` where there are none.
fn escaped(text: &str) -> Option<String> {
    text.chars().any(char::is_control).then(|| {
        text.chars()
            .map(|c| match c {
                '\\' => "\\\\".to_owned(),
                c if c.is_control() => format!("\\{:04x}", u32::from(c)),
                c => c.to_string(),
            })
            .collect()
    })
}

/// One word of bash on one line, bare where that is safe.
pub fn shell(word: &str) -> String {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"._/:=@%+,-".contains(&byte);
    if !word.is_empty() && word.bytes().all(safe) {
        return word.to_owned();
    }
    if !word.chars().any(char::is_control) {
        if word.contains('\'') && !word.contains(['"', '$', '`', '\\', '!']) {
            return format!("\"{word}\"");
        }
        return format!("'{}'", word.replace('\'', r"'\''"));
    }
    let mut quoted = String::from("$'");
    for c in word.chars() {
        match c {
            '\'' => quoted.push_str("\\'"),
            '\\' => quoted.push_str("\\\\"),
            c if c.is_control() => {
                let mut utf8 = [0; 4];
                for byte in c.encode_utf8(&mut utf8).bytes() {
                    quoted.push_str(&format!("\\x{byte:02x}"));
                }
                // A hexadecimal digit behind it would be read as part of the escape.
                quoted.push_str("'$'");
            }
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names() {
        assert_eq!(conninfo(r"host=1.2.3.4 dbname=x"), "dbname='host=1.2.3.4 dbname=x'");
        assert_eq!(identifier_on_one_line("a\"b"), r#""a""b""#);
        assert_eq!(identifier_on_one_line("a\n\"b\\"), r#"U&"a\000a""b\\""#);
        assert_eq!(literal_on_one_line("a\n'"), "U&'a\\000a'''");
        assert_eq!(conninfo(r"it's \ here"), r"dbname='it\'s \\ here'");
        assert_eq!(
            (conninfo_value("/srv/a-b"), conninfo_value("it's"), conninfo_value("")),
            ("/srv/a-b".to_owned(), r"'it\'s'".to_owned(), "''".to_owned())
        );
        assert_eq!(literal(r"a'b\c"), r"E'a\'b\\c'");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(identifier(r#"a"b"#), r#""a""b""#);
        assert_eq!(canonical(r#"public."a.""b""#), r#""public"."a.""b""#);
        assert_eq!(canonical("t"), r#""t""#);
        assert_eq!(shell("a b$(x)'y"), r"'a b$(x)'\''y'");
        assert_eq!(shell("dbname='x y'"), "\"dbname='x y'\"");
        assert_eq!(shell("plain-1.2"), "plain-1.2");
        assert_eq!(shell(""), "''");
        assert_eq!(shell("a\nb'"), r"$'a\x0a'$'b\''");
    }
}
