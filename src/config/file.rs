//! The configuration file as it is written: every key that may stand there, its form and its
//! meaning. These types are also where `docs/pgvigil.schema.json` comes from.
//! What is absent is `None` here; the defaults are the plan's.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::hours::Quiet;
use super::telling::{Alerts, Hook, Ping, Webhook};
use super::values::{Compression, Count, Databases, Given, Name, Schedule, Span, Zone};

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "pgvigil.toml")]
pub struct File {
    /// IANA name; schedules, tiers and file names use it. Default "UTC".
    pub timezone: Option<Zone>,
    /// Run history, locks, alert outbox. Default "/var/lib/pgvigil".
    pub state_dir: Option<PathBuf>,
    /// What cannot be streamed. Default: the folder spool in state_dir.
    pub spool_dir: Option<PathBuf>,
    /// Over all backups; a run that finds no place waits. Default 1.
    pub max_concurrent_runs: Option<u32>,
    /// Where several installations share a store: one that holds a slot and gives no sign of life for so
    /// long loses it to another. Default "45s".
    pub takeover_after: Option<Span>,
    /// SIGTERM: how long a running dump may go on before it is cancelled. Default "60s".
    pub shutdown_grace: Option<Span>,
    /// Address of the status page, /livez, /healthz and /metrics; absent: no listener.
    pub listen: Option<String>,
    /// Bearer token for all but /livez and /healthz; without it only a loopback address may be listened on.
    pub listen_token: Option<Given>,
    /// Names of hosts that requests may be addressed to, beside the address itself and localhost.
    pub listen_names: Option<Vec<String>>,
    pub log: Option<Log>,
    /// Signs manifests, proofs and pins; a private key of OpenSSH, ed25519. Its public half counts by itself.
    pub signing_key: Option<Given>,
    /// Public keys whose signatures count, too: "ssh-ed25519 AAAA... NAME".
    pub trusted_signers: Option<Vec<String>>,
    /// Where PostgreSQL is.
    #[serde(default)]
    pub servers: BTreeMap<Name, Server>,
    /// Where backups are kept.
    #[serde(default)]
    pub stores: BTreeMap<Name, Store>,
    /// The lines of work: what, when, for how long.
    #[serde(default)]
    pub backups: BTreeMap<Name, Backup>,
    /// Containers that ask for a backup by their labels.
    pub discovery: Option<Discovery>,
    /// What holds for every channel.
    pub alerts: Option<Alerts>,
    pub email: Option<Email>,
    #[serde(default)]
    pub webhooks: BTreeMap<Name, Webhook>,
    /// Programs that run on events.
    #[serde(default)]
    pub hooks: BTreeMap<Name, Hook>,
    /// Dead-man's switches, each named after its backup.
    #[serde(default)]
    pub pings: BTreeMap<Name, Ping>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Default "info".
    pub level: Option<LogLevel>,
    /// Default "auto": journald's form under systemd, else text.
    pub format: Option<LogFormat>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    #[default]
    Auto,
    Text,
    Json,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Name or id of the container; PostgreSQL's own programs run inside it.
    pub container: Option<String>,
    /// Address of the Docker Engine. Default: DOCKER_HOST, then unix:///var/run/docker.sock.
    pub docker: Option<String>,
    /// How a container is reached. Default "exec".
    pub via: Option<Via>,
    pub host: Option<String>,
    #[schemars(range(min = 1))]
    pub port: Option<std::num::NonZeroU16>,
    /// Directory of the Unix-domain socket.
    pub socket: Option<PathBuf>,
    /// Default: found by the server's major version, then PATH.
    pub bin_dir: Option<PathBuf>,
    /// Default: the container's POSTGRES_USER, else "postgres".
    pub user: Option<Given>,
    pub password: Option<Given>,
    /// As libpq's. Default "prefer".
    pub sslmode: Option<SslMode>,
    pub sslrootcert: Option<PathBuf>,
    pub sslcert: Option<PathBuf>,
    pub sslkey: Option<PathBuf>,
    /// Where questions about the whole server are asked. Default "postgres".
    pub maintenance_database: Option<String>,
}

impl Server {
    /// Whether the container's own programs are to run, before anything else is known of it.
    pub fn is_by_exec(&self) -> bool {
        self.container.is_some() && self.via.unwrap_or_default() == Via::Exec
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// The programs of the container, through the Docker Engine.
    #[default]
    Exec,
    /// The programs here, over the container's own address.
    Network,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    Disable,
    Allow,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    /// As libpq writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            SslMode::Disable => "disable",
            SslMode::Allow => "allow",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// A folder of this machine.
    pub path: Option<PathBuf>,
    pub s3: Option<S3>,
    pub ssh: Option<Ssh>,
    pub access_key_id: Option<Given>,
    pub secret_access_key: Option<Given>,
    pub session_token: Option<Given>,
    /// Of the file system that holds path: used / (used + available). Default 80.
    #[schemars(range(min = 1, max = 100))]
    pub alert_above_percent: Option<u8>,
    /// Default "5m".
    pub check_every: Option<Span>,
    /// In the place of the backup's.
    pub keep: Option<Keep>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct S3 {
    pub bucket: String,
    /// Folder within the bucket; default: none.
    pub prefix: Option<String>,
    /// Default: that of AWS in the region.
    pub endpoint: Option<String>,
    /// Default "us-east-1", which servers other than AWS take as well.
    pub region: Option<String>,
    /// Where the bucket stands in an address. Default: path with an endpoint, host without.
    pub addressing: Option<Addressing>,
    /// Server-side encryption: "AES256" or "aws:kms".
    pub sse: Option<String>,
    pub sse_kms_key_id: Option<String>,
    /// Nobody can delete or replace what is written, for so long.
    pub object_lock: Option<ObjectLock>,
    /// PEM of a private certificate authority.
    pub ca_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Addressing {
    /// https://endpoint/bucket/key
    Path,
    /// https://bucket.endpoint/key
    Host,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ObjectLock {
    pub mode: LockMode,
    /// From the moment of writing.
    pub retain: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LockMode {
    Governance,
    Compliance,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ssh {
    pub host: String,
    pub user: Option<String>,
    pub port: Option<std::num::NonZeroU16>,
    pub path: PathBuf,
    pub identity: Option<PathBuf>,
    pub known_hosts: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// Default "dump".
    pub kind: Option<BackupKind>,
    /// Default: the only server.
    pub server: Option<Name>,
    pub database: Option<Given>,
    pub databases: Option<Databases>,
    /// Shell globs of names left out of databases = "all".
    pub exclude: Option<Vec<String>>,
    /// Cron of five fields (six with seconds first), or "@daily" and its kin; absent: only `run`.
    pub schedule: Option<Schedule>,
    /// Physical backups of PostgreSQL 17 and later: when an incremental one is made.
    pub incremental: Option<Schedule>,
    pub wal: Option<Wal>,
    /// With wal = "archive_command": the folder that the server lays its log into, where it has no pgvigil to call. What is
    /// in there is taken into every store, and then removed.
    pub wal_folder: Option<PathBuf>,
    /// Over the global one.
    pub timezone: Option<Zone>,
    pub jitter: Option<Span>,
    /// Slots missed while the daemon was down: one run, for the latest of them. Default true.
    pub catch_up: Option<bool>,
    /// The run is cancelled and alerted past it.
    pub deadline: Option<Span>,
    /// No byte from the dump for so long: cancelled and alerted. Default "1h".
    pub stall_timeout: Option<Span>,
    /// After a failure that may pass. Default 2.
    pub retries: Option<u32>,
    /// Default "plain".
    pub format: Option<Format>,
    /// Parallel dump, format = "directory" only. Default 2.
    #[schemars(range(min = 1))]
    pub jobs: Option<u32>,
    /// Default "all".
    pub contents: Option<Contents>,
    /// Only these (pg_dump patterns).
    pub tables: Option<Vec<String>>,
    /// Not these (pg_dump patterns).
    pub exclude_tables: Option<Vec<String>>,
    /// Only these (pg_dump patterns).
    pub schemas: Option<Vec<String>>,
    /// Roles and tablespaces beside the dump. Default true.
    pub globals: Option<bool>,
    /// gzip[:1-9], zstd[:1-19] or none. Default "gzip".
    pub compression: Option<Compression>,
    /// Recipients of age (age1...) or public keys of OpenSSH (ssh-ed25519, ssh-rsa); absent: not encrypted.
    pub encrypt_to: Option<Vec<String>>,
    /// Private keys that open what is encrypted, for scheduled drills.
    pub identity: Option<Given>,
    /// Default: the only store.
    pub stores: Option<Vec<Name>>,
    /// What is recorded under the dump's own snapshot. Default "rows".
    pub evidence: Option<EvidenceMode>,
    /// Queries of one value, run under the snapshot and again after a drill.
    pub checks: Option<BTreeMap<Name, String>>,
    /// Default { last = 3, daily = 7, weekly = 4, monthly = 12, yearly = "forever" }.
    pub keep: Option<Keep>,
    /// Alert when the newest good backup is older.
    pub max_age: Option<Span>,
    /// The rung that the newest backup must have for /healthz. Default "readable".
    pub want: Option<Want>,
    pub drill: Option<Drill>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackupKind {
    #[default]
    Dump,
    Physical,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Wal {
    Stream,
    ArchiveCommand,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// SQL that people can read.
    #[default]
    Plain,
    /// pg_dump's archive in one file, for pg_restore.
    Custom,
    /// pg_dump's archive in a folder, dumped by several jobs.
    Directory,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Contents {
    /// Definitions and rows.
    #[default]
    All,
    /// Definitions only.
    Schema,
    /// Rows only.
    Data,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EvidenceMode {
    #[default]
    Rows,
    Content,
    Off,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Want {
    Written,
    #[default]
    Readable,
    Restored,
    Matched,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    pub last: Option<Count>,
    pub within: Option<Span>,
    pub daily: Option<Count>,
    pub weekly: Option<Count>,
    pub monthly: Option<Count>,
    pub yearly: Option<Count>,
    /// Physical backups only.
    pub base_backups: Option<Count>,
    /// Physical backups only.
    pub window: Option<Span>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Drill {
    pub schedule: Option<Schedule>,
    /// "container", "local", or a server's name.
    pub on: Option<String>,
    /// The restore time that the drill is held to.
    pub budget: Option<Span>,
    /// The store whose copy is restored; default: the primary.
    pub store: Option<Name>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Discovery {
    /// Address of the Docker Engine whose containers are looked at: unix://PATH or tcp://HOST:PORT.
    pub docker: String,
    /// Containers that are gone for good: their backups are no longer expected.
    pub forget: Option<Vec<String>>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Email {
    /// smtp://HOST[:PORT] is STARTTLS, smtps://HOST[:PORT] TLS from the start.
    pub relay: String,
    pub tls: Option<Tls>,
    pub ca_file: Option<PathBuf>,
    pub username: Option<Given>,
    pub password: Option<Given>,
    pub from: String,
    pub to: Vec<String>,
    /// Default: the one of [alerts], "24h".
    pub remind_every: Option<Span>,
    /// Told too, of what is open for escalate_after.
    pub escalate_to: Option<Vec<String>>,
    /// Default "4h", with escalate_to.
    pub escalate_after: Option<Span>,
    /// Told only of what these channels did not take.
    pub fallback_for: Option<Vec<String>>,
    /// In the place of those of [alerts]; "none".
    pub quiet_hours: Option<Quiet>,
    /// When a mail with the state of everything goes to `to`; a schedule.
    pub digest: Option<Schedule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tls {
    Required,
    Opportunistic,
    None,
}

/// The JSON Schema of the file, for editors.
pub fn json_schema() -> String {
    let schema = schemars::schema_for!(File);
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}
