//! What a dump has set in its session, so that another session can stand where it stood.

use std::sync::Arc;

use bytes::Bytes;

/// The settings at one place of a dump; cheap to keep.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Grows with each change.
    version: u64,
    statements: Arc<Vec<(String, Bytes)>>,
}

impl Settings {
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The statements that set them again.
    pub fn replay(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for (_, statement) in self.statements.iter() {
            text.extend_from_slice(statement);
            text.push(b'\n');
        }
        text
    }

    /// After a statement that sets something; another one changes nothing.
    pub fn note(&mut self, statement: &Bytes) {
        let Some(name) = name(statement) else {
            return;
        };
        let statements = Arc::make_mut(&mut self.statements);
        statements.retain(|(known, _)| *known != name);
        statements.push((name, statement.clone()));
        self.version += 1;
    }

    /// The settings by which a `psql` reads the text, once more.
    pub fn reading(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for (wanted, default) in
            [("client_encoding", "SET client_encoding = 'UTF8';"), ("standard_conforming_strings", "SET standard_conforming_strings = on;")]
        {
            let set = self.statements.iter().find(|(name, _)| name == wanted);
            text.extend_from_slice(set.map_or(default.as_bytes(), |(_, statement)| statement));
            text.push(b'\n');
        }
        text
    }
}

/// The name of what a statement sets.
pub fn name(statement: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(&statement[..statement.len().min(200)]);
    if let Some(rest) = head.strip_prefix("SELECT pg_catalog.set_config('") {
        return Some(rest.split('\'').next()?.to_owned());
    }
    let rest = head.strip_prefix("SET ")?;
    if rest.starts_with("SESSION AUTHORIZATION ") {
        return Some("session_authorization".to_owned());
    }
    Some(rest.split_ascii_whitespace().next()?.to_owned())
}

/// Whether a server of that major version knows it: a dump of a newer server sets what an older one
/// has not and need not be told.
pub fn is_known(name: &str, server_major: u32) -> bool {
    match name {
        "transaction_timeout" => server_major >= 17,
        "default_table_access_method" => server_major >= 12,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_of_each_name_counts() {
        let mut settings = Settings::default();
        for statement in
            ["SET a = 1;", "SET b = 1;", "SELECT pg_catalog.set_config('search_path', '', false);", "SET a = 2;", "CREATE TABLE t ();"]
        {
            settings.note(&Bytes::from_static(statement.as_bytes()));
        }
        let text = String::from_utf8(settings.replay()).unwrap();
        assert_eq!(text, "SET b = 1;\nSELECT pg_catalog.set_config('search_path', '', false);\nSET a = 2;\n");
        assert_eq!(settings.version(), 4);
    }
}
