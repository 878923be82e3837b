//! The roles that a dump names. Of a dump of another tool nobody recorded them, and a restore needs
//! them all.

use std::collections::BTreeSet;

use crate::pack::lexer::{Ended, Listener};

/// Collects the names while a dump goes by.
#[derive(Default)]
pub struct Roles {
    pub found: BTreeSet<String>,
    text: Vec<u8>,
}

/// Longer statements name no role that matters: they are definitions, or data.
const TEXT_BYTES_MAX: usize = 64 * 1024;

impl Listener for Roles {
    fn sql(&mut self, bytes: &[u8]) {
        let room = TEXT_BYTES_MAX.saturating_sub(self.text.len());
        self.text.extend_from_slice(&bytes[..room.min(bytes.len())]);
    }

    fn statement_end(&mut self, statement: &Ended<'_>) {
        let text = std::mem::take(&mut self.text);
        let words: &[&str] = match statement.head {
            head if head.starts_with(b"ALTER DEFAULT PRIVILEGES ") => &["ROLE", "TO", "FROM"],
            head if head.starts_with(b"ALTER ") => &["OWNER TO"],
            head if head.starts_with(b"GRANT ") || head.starts_with(b"CREATE POLICY ") => &["TO"],
            head if head.starts_with(b"REVOKE ") => &["FROM"],
            head if head.starts_with(b"SET SESSION AUTHORIZATION ") => &["AUTHORIZATION"],
            head if head.starts_with(b"CREATE SCHEMA ") => &["AUTHORIZATION"],
            _ => return,
        };
        self.found.extend(roles_behind(&String::from_utf8_lossy(&text), words));
    }
}

/// The names in the lists behind these words.
fn roles_behind(text: &str, words: &[&str]) -> BTreeSet<String> {
    let tokens = tokens(text);
    let mut found = BTreeSet::new();
    for (at, _) in tokens.iter().enumerate() {
        let is_behind = words.iter().any(|word| {
            let word: Vec<&str> = word.split(' ').collect();
            at >= word.len()
                && tokens[at - word.len()..at]
                    .iter()
                    .zip(&word)
                    .all(|(token, word)| token.quoted.is_none() && token.text.eq_ignore_ascii_case(word))
        });
        if !is_behind {
            continue;
        }
        for (nth, token) in tokens[at..].iter().enumerate() {
            match (nth % 2, &token.quoted) {
                (0, Some(name)) => drop(found.insert(name.clone())),
                (0, None) if !["PUBLIC", "DEFAULT"].iter().any(|word| token.text.eq_ignore_ascii_case(word)) => {
                    found.insert(token.text.to_lowercase());
                }
                (0, None) => {}
                (_, _) if token.text == "," => {}
                _ => break,
            }
        }
    }
    found
}

struct Token {
    text: String,
    /// The name in double quotes.
    quoted: Option<String>,
}

fn tokens(text: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                let mut name = String::new();
                while let Some(c) = chars.next() {
                    if c == '"' && chars.next_if_eq(&'"').is_none() {
                        break;
                    }
                    name.push(c);
                }
                found.push(Token { text: String::new(), quoted: Some(name) });
            }
            '\'' => while chars.next().is_some_and(|c| c != '\'') {},
            c if c.is_whitespace() => {}
            c if c.is_alphanumeric() || c == '_' => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(|c| c.is_alphanumeric() || matches!(c, '_' | '$')) {
                    word.push(c);
                }
                found.push(Token { text: word, quoted: None });
            }
            c => found.push(Token { text: c.to_string(), quoted: None }),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::lexer::Lexer;

    #[test]
    fn roles_of_every_statement_that_names_them() {
        let dump = r#"ALTER TABLE public.t OWNER TO alice;
ALTER FUNCTION public.f(a text) OWNER TO "Bob ""B""";
GRANT SELECT,INSERT ON TABLE public.t TO carol,"dave;" WITH GRANT OPTION;
GRANT ALL ON SCHEMA public TO PUBLIC;
REVOKE ALL ON FUNCTION public.to_from(text) FROM erin;
CREATE POLICY p ON public.t FOR SELECT TO frank, grace USING ((a = 'TO nobody'::text));
ALTER DEFAULT PRIVILEGES FOR ROLE heidi IN SCHEMA public GRANT SELECT ON TABLES TO ivan;
CREATE FUNCTION public.g() RETURNS text LANGUAGE sql AS $$ALTER TABLE x OWNER TO nobody;$$;
COPY public.t (a) FROM stdin;
GRANT x TO nobody;
\.
"#;
        let mut roles = Roles::default();
        Lexer::default().feed(dump.as_bytes(), &mut roles);
        let found: Vec<&str> = roles.found.iter().map(String::as_str).collect();
        assert_eq!(found, ["Bob \"B\"", "alice", "carol", "dave;", "erin", "frank", "grace", "heidi", "ivan"]);
    }
}
