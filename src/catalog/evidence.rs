//! What was in a database under the snapshot of its dump: what a drill must find again.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::postgres::server::Database;

/// What is known of the source at the moment of the dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub databases: BTreeMap<String, DatabaseEvidence>,
}

/// Evidence of one database. What a reader does not know it ignores; what an older program did not
/// record is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseEvidence {
    /// What no dump of a database holds.
    pub properties: DatabaseProperties,
    /// The name under which the snapshot was exported. `None`: nothing was recorded under one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_at: Option<DateTime<Utc>>,
    /// Exact rows of each table that the dump holds the rows of, counted on the server.
    #[serde(default)]
    pub rows: BTreeMap<String, u64>,
    /// Digests of those rows in the form of `COPY`, in any order.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub digests: BTreeMap<String, RowsDigest>,
    #[serde(default)]
    pub sequences: BTreeMap<String, Sequence>,
    /// How many there are of each kind of object.
    #[serde(default)]
    pub objects: BTreeMap<String, u64>,
    /// A hash of what defines each object, by kind and name; of what PostgreSQL itself words anew at
    /// each restore, such as expressions, only the name is held against another.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub definitions: BTreeMap<String, String>,
    #[serde(default)]
    pub extensions: BTreeMap<String, String>,
    #[serde(default)]
    pub large_objects: u64,
    /// Versions of the collations that something uses.
    #[serde(default)]
    pub collations: BTreeMap<String, String>,
    /// What the user's `checks` answered.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub checks: BTreeMap<String, CheckResult>,
    /// Every role that an object, a privilege or a policy names.
    #[serde(default)]
    pub roles: BTreeSet<String>,
    /// The role that initdb made.
    #[serde(default)]
    pub superuser: Option<String>,
    /// Tablespaces that something lies in.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tablespaces: BTreeSet<String>,
    /// The parent of each partition.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub partitions: BTreeMap<String, String>,
    /// `shared_preload_libraries` of the server, where it may be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preload: Option<String>,
    /// What is in the database and not in the evidence, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

/// The properties of a database, as a value that older and newer programs read alike.
pub type DatabaseProperties = serde_json::Value;

/// A digest with the columns that it is of, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsDigest {
    /// With parentheses, as `COPY` takes them; empty: a table without columns.
    pub columns: String,
    pub digest: String,
}

/// Where a sequence stood. It is not transactional: the dump may hold a later value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// `None`: it was never called.
    pub value: Option<i64>,
    pub increment: i64,
}

/// What a check of the user answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// As psql prints it; `None`: it failed.
    pub value: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl CheckResult {
    /// A check that answers yes or no must answer yes; any other value is recorded only.
    pub fn passes(&self) -> bool {
        self.error.is_none() && !matches!(self.value.as_deref(), Some("f" | ""))
    }
}

impl DatabaseEvidence {
    /// What is known of a database without asking it.
    pub fn of(database: &Database) -> Self {
        DatabaseEvidence { properties: serde_json::to_value(database).unwrap_or_default(), ..DatabaseEvidence::default() }
    }

    /// Whether there is anything to compare.
    pub fn is_recorded(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Rows of all tables.
    pub fn rows_total(&self) -> u64 {
        self.rows.values().sum()
    }
}
