//! What a throwaway server is told: fast, for nothing in it has to survive.

use std::collections::BTreeMap;

use super::PORT;

/// The cap on the memory of a drill's container.
pub const MEMORY_BYTES: i64 = 2 * 1024 * 1024 * 1024;

/// Of its /dev/shm, where parallel workers meet. It counts towards the cap.
pub const SHARED_MEMORY_BYTES: i64 = 512 * 1024 * 1024;

/// What every `initdb` is told. Everybody who reaches the socket is the superuser; databases come from
/// template0 with properties of their own.
const INITDB: [&str; 4] = ["--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"];

/// The memory fits under the cap with four sessions that build indexes at the same time.
/// <https://www.postgresql.org/docs/current/populate.html>
const SETTINGS: [(&str, &str); 25] = [
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("synchronous_commit", "off"),
    ("wal_level", "minimal"),
    ("max_wal_senders", "0"),
    ("archive_mode", "off"),
    ("wal_buffers", "16MB"),
    // Log files are used again while they are still in the cache.
    ("max_wal_size", "256MB"),
    ("checkpoint_timeout", "1d"),
    ("autovacuum", "off"),
    ("shared_buffers", "256MB"),
    ("maintenance_work_mem", "256MB"),
    ("work_mem", "32MB"),
    ("max_parallel_maintenance_workers", "2"),
    ("max_connections", "50"),
    // A dump of 100,000 tables in one transaction locks them all.
    ("max_locks_per_transaction", "2048"),
    ("jit", "off"),
    ("listen_addresses", ""),
    ("port", PORT),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("lc_messages", "C"),
    ("log_checkpoints", "off"),
    // The rows of a statement that failed are nothing for a log.
    ("log_min_error_statement", "panic"),
    ("log_error_verbosity", "terse"),
];

/// Since PostgreSQL 12: new log files are not filled with zeros first, which is as much writing again.
const NO_ZEROS: (&str, &str) = ("wal_init_zero", "off");

/// Since PostgreSQL 18 pages have checksums where nobody says no: for a disk that keeps them, and every
/// mark on a row that was read goes into the log with them.
const NO_CHECKSUMS: &str = "--no-data-checksums";

/// What `initdb` of a major version (0: unknown) is told beside the folder and the superuser's name.
pub fn initdb(major: u32) -> Vec<String> {
    INITDB.into_iter().chain((major >= 18).then_some(NO_CHECKSUMS)).map(str::to_owned).collect()
}

/// What `postgres` of a major version (0: unknown) is told beside the folder.
pub fn postgres(major: u32, socket_dir: &str, preload: Option<&str>) -> Vec<String> {
    let mut args = Vec::new();
    let own = [("unix_socket_directories", socket_dir), ("shared_preload_libraries", preload.unwrap_or_default())];
    let no_zeros = (major >= 12).then_some(NO_ZEROS);
    for (name, value) in SETTINGS.into_iter().chain(no_zeros).chain(own) {
        args.extend(["-c".to_owned(), format!("{name}={value}")]);
    }
    args
}

/// The same for a cluster that comes from elsewhere: what its log asks for it must not have less of. `files`
/// is the folder of a configuration of ours, which stands in the place of its own.
pub fn of_another(major: u32, socket_dir: &str, preload: Option<&str>, its: &BTreeMap<String, String>, files: &str) -> Vec<String> {
    let mut args = postgres(major, socket_dir, preload);
    let mut set = |name: &str, value: &str| args.extend(["-c".to_owned(), format!("{name}={value}")]);
    for name in NOT_LESS {
        if let Some(value) = its.get(name) {
            set(name, value);
        }
    }
    set("wal_level", "replica");
    // Sessions come when the recovery is over.
    set("hot_standby", "off");
    set("log_timezone", "UTC");
    for (name, file) in [("config_file", CONF), ("hba_file", HBA), ("ident_file", IDENT)] {
        set(name, &format!("{files}/{file}"));
    }
    args
}

/// Its files.
pub const CONF: &str = "drill.conf";
pub const HBA: &str = "drill_hba.conf";
pub const IDENT: &str = "drill_ident.conf";

/// Who reaches the socket is whoever it says.
pub const TRUST: &str = "local all all trust\n";

/// <https://www.postgresql.org/docs/current/hot-standby.html#HOT-STANDBY-ADMIN>
const NOT_LESS: [&str; 6] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "track_commit_timestamp",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_argument_each() {
        assert!(postgres(15, "/s", Some("a, b")).contains(&"shared_preload_libraries=a, b".to_owned()));
    }
}
