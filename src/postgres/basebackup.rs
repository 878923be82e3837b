//! What `pg_basebackup` is told, and what a server must be like for it.

use std::collections::BTreeMap;
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::Server;
use crate::catalog::Tablespace;
use crate::error::{Error, Kind, Result};
use crate::physical::whole::CHECKSUMS;
use crate::wal::Lsn;

/// What a server says of its cluster.
#[derive(Debug, Clone, Deserialize)]
pub struct Cluster {
    pub superuser: String,
    pub system_identifier: String,
    pub wal_segment_bytes: u64,
    pub now: DateTime<Utc>,
    pub next_xid: u64,
    pub in_recovery: bool,
    pub may_replicate: bool,
    pub wal_level: String,
    pub archive_mode: String,
    pub archive_command: String,
    pub archive_library: Option<String>,
    pub data_checksums: bool,
    /// Whether the server notes which blocks change. `None`: it is older than 17.
    pub summarizes: Option<bool>,
    /// Of others, under way.
    pub base_backups: u32,
    pub tablespaces: Vec<Tablespace>,
    /// Of the databases, in all tablespaces; what this role may not look at is left out.
    pub bytes: u64,
    pub settings: BTreeMap<String, String>,
}

/// A moment and a place of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Standing {
    pub now: DateTime<Utc>,
    pub next_xid: u64,
    /// Up to here the log is on its disk.
    pub lsn: Lsn,
}

/// A standby that replays must have no less of the first five; without its libraries a server may not
/// start, and without the rest it shows other rows.
/// <https://www.postgresql.org/docs/current/hot-standby.html#HOT-STANDBY-ADMIN>
const SETTINGS: &str = "'max_connections', 'max_worker_processes', 'max_wal_senders', 'max_prepared_transactions', \
    'max_locks_per_transaction', 'shared_preload_libraries', 'track_commit_timestamp', 'wal_level', 'max_slot_wal_keep_size', 'archive_timeout'";

impl Cluster {
    /// Asks a server.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn ask(server: &Server) -> Result<Self> {
        server.query(server.maintenance_database(), &question()).await
    }

    /// Whether a base backup can be made, and with an archive that the server feeds.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, user: &str, by_archive_command: bool) -> Result<()> {
        let refused = |what: String, hint: &str| Err(Error::new(Kind::Postgres, what).hint(hint));
        if !self.may_replicate {
            return refused(format!("role {user} may not replicate"), "ALTER ROLE ... REPLICATION, or use a superuser");
        }
        if self.wal_level == "minimal" {
            return refused(
                "wal_level is minimal: no base backup can be made".to_owned(),
                "set wal_level = replica, and start the server anew",
            );
        }
        if by_archive_command && self.archive_mode == "off" {
            return refused(
                "archive_mode is off: no log would come into the archive".to_owned(),
                "set archive_mode = on and archive_command as docs/pitr.md has it, and start the server anew",
            );
        }
        if by_archive_command && self.archive_command.is_empty() && self.archive_library.as_deref().unwrap_or_default().is_empty() {
            return refused(
                "archive_command is empty: no log would come into the archive".to_owned(),
                "set archive_command as docs/pitr.md has it: by pgvigil wal push, or into a folder that both see",
            );
        }
        if self.base_backups > 0 {
            return Err(Error::new(Kind::Busy, "another base backup of this server is under way")
                .hint("wait for it: two at once only slow each other"));
        }
        Ok(())
    }
}

impl Cluster {
    /// Whether it can say what has changed since another base backup.
    /// <https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-INCREMENTAL-BACKUP>
    ///
    /// # Errors
    /// Why not.
    pub fn check_summaries(&self) -> Result<()> {
        match self.summarizes {
            Some(true) => Ok(()),
            Some(false) => Err(Error::new(Kind::Postgres, "summarize_wal is off: no incremental base backup can be made")
                .hint("ALTER SYSTEM SET summarize_wal = on, and SELECT pg_reload_conf(); then a whole one first: pgvigil run NAME")),
            None => Err(Error::new(Kind::Postgres, "incremental base backups need PostgreSQL 17 or later")
                .hint("take incremental out of the backup's section")),
        }
    }
}

impl Standing {
    /// Asks a server.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn ask(server: &Server) -> Result<Self> {
        server.query(server.maintenance_database(), STANDING).await
    }

    /// Up to where it has written, flushed or not; a standby: what it has replayed, and when that was committed. `None`:
    /// it has replayed nothing yet.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn written(server: &Server) -> Result<Option<Self>> {
        server.query(server.maintenance_database(), WRITTEN).await
    }
}

/// What `pg_basebackup` is told. Without a folder it writes one archive to stdout; an incremental one reads the
/// manifest of the other from its stdin.
pub fn arguments(label: &str, with_wal: bool, folder: Option<&Path>, is_incremental: bool) -> Vec<String> {
    let pgdata = folder.map_or("-".to_owned(), |folder| folder.display().to_string());
    let mut args = vec![
        format!("--pgdata={pgdata}"),
        "--format=tar".to_owned(),
        format!("--wal-method={}", if with_wal { "fetch" } else { "none" }),
        // A spread one takes minutes in which nothing comes.
        "--checkpoint=fast".to_owned(),
        "--no-password".to_owned(),
        format!("--label={label}"),
        format!("--manifest-checksums={CHECKSUMS}"),
        // What passes us is made durable where it goes.
        "--no-sync".to_owned(),
    ];
    if folder.is_none() {
        args.push("--no-estimate-size".to_owned());
    }
    if is_incremental {
        args.push("--incremental=/dev/stdin".to_owned());
    }
    args
}

const STANDING: &str = "select json_build_object(
    'now', clock_timestamp(),
    'next_xid', pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
    'lsn', case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_flush_lsn() end)";

const WRITTEN: &str = "select case when standby and at is null then null else json_build_object(
    'now', at,
    'next_xid', pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
    'lsn', case when standby then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end) end
from (select pg_is_in_recovery() as standby,
    case when pg_is_in_recovery() then pg_last_xact_replay_timestamp() else clock_timestamp() end as at offset 0) looked";

fn question() -> String {
    format!(
        "select json_build_object(
    'system_identifier', (select system_identifier::text from pg_control_system()),
    'superuser', (select rolname from pg_roles where oid = 10),
    'wal_segment_bytes', (select setting::bigint from pg_settings where name = 'wal_segment_size'),
    'now', clock_timestamp(),
    'next_xid', pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
    'in_recovery', pg_is_in_recovery(),
    'may_replicate', (select rolsuper or rolreplication from pg_roles where rolname = current_user),
    'wal_level', current_setting('wal_level'),
    'archive_mode', current_setting('archive_mode'),
    'archive_command', coalesce(nullif(current_setting('archive_command'), '(disabled)'), ''),
    'archive_library', current_setting('archive_library', true),
    'summarizes', current_setting('summarize_wal', true) = 'on',
    'data_checksums', current_setting('data_checksums') = 'on',
    'base_backups', (select count(*) from pg_stat_progress_basebackup),
    'tablespaces', (select coalesce(json_agg(json_build_object(
        'oid', oid::bigint, 'name', spcname, 'location', pg_tablespace_location(oid), 'bytes', coalesce(pg_tablespace_size(oid), 0)) order by oid), '[]')
        from pg_tablespace where spcname not in ('pg_default', 'pg_global')),
    'bytes', (select coalesce(sum(pg_database_size(oid)), 0)::bigint from pg_database where has_database_privilege(oid, 'connect')),
    'settings', (select json_object_agg(name, setting) from pg_settings where name in ({SETTINGS})))"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_archive_to_stdout_or_several_into_a_folder() {
        let args = arguments("x", false, None, false);
        for part in ["--pgdata=-", "--format=tar", "--wal-method=none", "--no-estimate-size", "--manifest-checksums=CRC32C"] {
            assert!(args.iter().any(|arg| arg == part), "{part}: {args:?}");
        }
        let args = arguments("x", true, Some(Path::new("/spool/x")), true);
        assert!(args.contains(&"--pgdata=/spool/x".to_owned()) && args.contains(&"--wal-method=fetch".to_owned()));
        assert!(args.contains(&"--incremental=/dev/stdin".to_owned()));
    }
}
