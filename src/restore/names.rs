//! Names of tables as people and dumps write them: `table`, `schema.table`, quoted where they must be.

use crate::postgres::quote::identifier;

/// A table, with its schema where that is known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    pub schema: Option<String>,
    pub name: String,
}

impl Named {
    /// Reads a name as SQL would: without quotes its letters are small.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = parts(text)?;
        let name = parts.pop()?;
        let schema = parts.pop();
        parts.is_empty().then_some(Named { schema, name })
    }

    /// Whether a name without a schema means it too.
    pub fn means(&self, other: &Named) -> bool {
        self.name == other.name && (self.schema.is_none() || self.schema == other.schema)
    }

    /// As `format('%I.%I')` of PostgreSQL, but for its reserved words.
    pub fn quoted_where_needed(&self) -> String {
        super::chosen::written(self)
    }

    /// As SQL, quoted.
    pub fn quoted(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", identifier(schema), identifier(&self.name)),
            None => identifier(&self.name),
        }
    }
}

/// A single name as SQL would read it.
pub fn single(text: &str) -> Option<String> {
    let mut parts = parts(text)?;
    let name = parts.pop()?;
    parts.is_empty().then_some(name)
}

/// The parts of a dotted name; `None` where it is none.
fn parts(text: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let (part, after) = if let Some(quoted) = rest.strip_prefix('"') {
            unquoted(quoted)?
        } else {
            let end = rest.find('.').unwrap_or(rest.len());
            if rest[..end].contains('"') {
                return None;
            }
            (rest[..end].to_lowercase(), &rest[end..])
        };
        if part.is_empty() {
            return None;
        }
        parts.push(part);
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None if after.is_empty() => return Some(parts),
            None => return None,
        }
    }
}

/// What stands between the quotes, and what follows them.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut part = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c != '"' {
            part.push(c);
        } else if chars.next_if(|(_, next)| *next == '"').is_some() {
            part.push('"');
        } else {
            return Some((part, &text[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_sql_reads_them() {
        for (text, expected) in [
            ("orders", Some((None, "orders"))),
            ("Orders", Some((None, "orders"))),
            ("public.orders", Some((Some("public"), "orders"))),
            ("\"Mixed Case\".\"Ta\"\"b.le\"", Some((Some("Mixed Case"), "Ta\"b.le"))),
            ("a.b.c", None),
            ("", None),
            ("a.", None),
            (".a", None),
            ("\"a", None),
            ("\"a\"b", None),
            ("a\"b\"", None),
        ] {
            let named = Named::parse(text);
            let found = named.as_ref().map(|named| (named.schema.as_deref(), named.name.as_str()));
            assert_eq!(found, expected, "{text}");
        }
        assert_eq!(Named::parse("a.\"b\"\"c\"").unwrap().quoted(), "\"a\".\"b\"\"c\"");
    }

    #[test]
    fn a_name_without_a_schema_means_any() {
        let (bare, full) = (Named::parse("t").unwrap(), Named::parse("s.t").unwrap());
        assert!(bare.means(&full) && full.means(&full) && !full.means(&bare) && !full.means(&Named::parse("x.t").unwrap()));
    }
}
