//! What the server that is restored to says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;

/// The server and those of its databases that matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// Its name in the file.
    pub name: String,
    pub version: String,
    pub major: u32,
    pub is_superuser: bool,
    /// Of its psql, and of the pg_restore beside it.
    pub client_version: String,
    pub facts: Surroundings,
    /// The databases that would be restored to, where they exist.
    pub existing: BTreeMap<String, Existing>,
}

/// What a dump needs around it and does not hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Surroundings {
    pub roles: BTreeSet<String>,
    pub tablespaces: BTreeSet<String>,
    /// That could be made.
    pub extensions: BTreeSet<String>,
    pub databases: BTreeSet<String>,
}

/// A database that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Existing {
    pub allows_connections: bool,
    /// Some of what is in it outside of system schemas and extensions; nothing: it is empty.
    #[serde(default)]
    pub objects: Vec<String>,
    #[serde(default)]
    pub schemas: BTreeSet<String>,
    /// Those that were asked about.
    #[serde(default)]
    pub tables: Vec<TableThere>,
    #[serde(default)]
    pub sessions: Vec<Visitor>,
}

/// A table, a view or whatever else bears the name of one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct TableThere {
    pub schema: String,
    pub name: String,
    #[serde(default)]
    pub has_rows: bool,
}

/// An open session.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Visitor {
    pub user: Option<String>,
    pub application: Option<String>,
    /// `None`: over a socket.
    pub address: Option<String>,
}

impl fmt::Display for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let application = self.application.as_deref().filter(|name| !name.is_empty()).unwrap_or("an unnamed program");
        let user = self.user.as_deref().unwrap_or("nobody");
        let address = self.address.as_deref().unwrap_or("a local socket");
        f.write_str(&crate::host::printable(&format!("{user} with {application} from {address}")).replace('\n', " "))
    }
}
