//! What the manifest of a base backup says beside that of a dump.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::wal::Lsn;

/// `kind` of a base backup.
pub const PHYSICAL: &str = "physical";

/// The folder of a cluster, copied while it was at work, with the log that makes it whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Physical {
    /// The name of its first superuser.
    pub superuser: String,
    /// Of the cluster: log of another fits no file of this one.
    pub system_identifier: String,
    pub timeline: u32,
    /// Where the log that it needs begins.
    pub start_lsn: Lsn,
    /// From here on it is consistent: an earlier moment cannot be restored with it.
    pub stop_lsn: Lsn,
    /// By the server's clock; the second is not before `stop_lsn`.
    pub started_at: DateTime<Utc>,
    pub stopped_at: DateTime<Utc>,
    /// The next transaction by then.
    pub next_xid: u64,
    pub wal_segment_bytes: u64,
    /// The log up to `stop_lsn` is in the archive of the folder, not beside it.
    pub with_wal: bool,
    /// Whether it was taken from a standby.
    pub from_standby: bool,
    pub data_checksums: bool,
    /// Files of the cluster, and their bytes.
    pub cluster_files: u64,
    pub cluster_bytes: u64,
    pub tablespaces: Vec<Tablespace>,
    /// What a server must not have less of to replay the log, and the libraries that it loads.
    pub settings: BTreeMap<String, String>,
    /// The base backup, by its ID, that it holds the changes since. `None`: it is whole by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incremental_of: Option<String>,
}

/// A tablespace outside of the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    pub oid: u32,
    pub name: String,
    /// Where it lay.
    pub location: String,
    /// By then.
    #[serde(default)]
    pub bytes: u64,
}
