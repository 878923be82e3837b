//! Which statements of a dump are wanted, for tables and schemas by name, and under which names.

use crate::config::file::Contents;

/// What is wanted of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Tables as the user writes them: `schema.table` or `table`, quoted where they must be.
    pub tables: Vec<String>,
    pub schemas: Vec<String>,
    pub contents: Contents,
    /// Beside the live ones, in this schema.
    pub into_schema: Option<String>,
}
