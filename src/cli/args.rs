//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::config::DEFAULT_PATH;
use crate::config::file::{Contents, Format, LogLevel};
use crate::config::values::{Compression, Span};

/// PostgreSQL backups that are proven to restore
#[derive(Debug, Parser)]
#[command(
    name = "pgvigil",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    args_override_self = true,
    after_help = "Start with `pgvigil init > pgvigil.toml`, then `pgvigil --config pgvigil.toml check`.\n\
        Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done with problems, 75 locked by another run, 78 faulty configuration."
)]
pub struct Args {
    /// The configuration file
    #[arg(long, global = true, env = "PGVIGIL_CONFIG", value_name = "FILE", default_value = DEFAULT_PATH)]
    pub config: PathBuf,
    /// Write exactly one JSON document to stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// How much to log to stderr [default: the file's for the daemon, warn for commands]
    #[arg(long, global = true, value_name = "L")]
    pub log_level: Option<LogLevel>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Read the file, then try every server, store and program; each problem with its fix
    #[command(
        after_help = "Examples:\n  pgvigil check\n  pgvigil --config ./pgvigil.toml check --offline   # the file alone\n\nExit codes: 0 all is well, 1 something failed, 3 only warnings, 78 the file is faulty or a secret is missing."
    )]
    Check {
        /// Only the file, without asking servers and stores
        #[arg(long)]
        offline: bool,
    },
    /// Make one backup now and wait for it; safe beside a running daemon
    #[command(after_help = "Examples:\n  pgvigil run euem_db\n  pgvigil --json run euem_db | jq .rung")]
    Run {
        /// A [backups.NAME] section of the file
        backup: String,
        /// Physical: only the changes since the newest base backup (PostgreSQL 17 and later)
        #[arg(long)]
        incremental: bool,
    },
    /// Show the catalog, newest first
    #[command(after_help = "Examples:\n  pgvigil list\n  pgvigil list euem_db\n  pgvigil --json list | jq -r '.[].id'")]
    List {
        /// Only of this backup
        backup: Option<String>,
        #[command(flatten)]
        watch: WatchArgs,
    },
    /// Show one backup: its manifest, files, evidence and proofs
    #[command(after_help = "Examples:\n  pgvigil show euem_db/latest\n  pgvigil show euem_db/20240115T010000Z")]
    Show {
        /// BACKUP/LABEL or BACKUP/latest
        id: String,
    },
    /// Write a file of a backup to stdout, decrypted and unpacked
    #[command(
        after_help = "Examples:\n  pgvigil cat euem_db/latest | less\n  pgvigil cat euem_db/latest globals.sql.gz\n  pgvigil cat euem_db/latest RESTORE.md"
    )]
    Cat {
        /// BACKUP/LABEL or BACKUP/latest
        id: String,
        /// A file of the backup; without it the only dump
        file: Option<String>,
        /// Private keys that open it, in the place of those of the file
        #[arg(long, value_name = "FILE")]
        identity: Option<PathBuf>,
    },
    /// Show the runs, also the failed ones, with why
    #[command(after_help = "Examples:\n  pgvigil history\n  pgvigil history euem_db")]
    History {
        /// Only of this backup
        backup: Option<String>,
    },
    /// Dump one database to a file or to stdout, outside of the catalog
    Export(ExportArgs),
    /// Read every byte of a backup back and check it, or restore it for a trial
    #[command(
        after_help = "Examples:\n  pgvigil verify euem_db/latest\n  pgvigil verify euem_db/20240115T010000Z --store local\n  pgvigil verify euem_db/latest --drill\n\nExit codes: 0 the rung is reached, 1 bad or not there, 3 it could not be verified."
    )]
    Verify {
        /// BACKUP/LABEL or BACKUP/latest
        id: String,
        /// Restore it into a throwaway server and compare what is in there with the evidence
        #[arg(long)]
        drill: bool,
        /// Only the copy in this store
        #[arg(long, value_name = "S")]
        store: Option<String>,
        /// Private keys that open it, in the place of those of the file
        #[arg(long, value_name = "FILE")]
        identity: Option<PathBuf>,
    },
    /// Hold a backup whatever retention says
    #[command(after_help = "Example:\n  pgvigil pin euem_db/20240115T010000Z")]
    Pin {
        /// BACKUP/LABEL or BACKUP/latest
        id: String,
    },
    /// Let retention decide about a backup again
    #[command(after_help = "Example:\n  pgvigil unpin euem_db/20240115T010000Z")]
    Unpin {
        /// BACKUP/LABEL or BACKUP/latest
        id: String,
    },
    /// Print a starting file made from what is found on this machine
    #[command(after_help = "Examples:\n  pgvigil init > pgvigil.toml\n  pgvigil init --container postgres16 > pgvigil.toml")]
    Init {
        /// The container that PostgreSQL runs in
        #[arg(long, value_name = "NAME")]
        container: Option<String>,
    },
    /// Print the completions of a shell
    #[command(after_help = "Example:\n  pgvigil completions bash > /usr/share/bash-completion/completions/pgvigil")]
    Completions { shell: clap_complete::Shell },
    /// Write the manual pages into a folder, for packages
    #[command(hide = true)]
    Man { dir: PathBuf },
    /// Print the JSON Schema of the configuration file
    #[command(after_help = "Example:\n  pgvigil schema > pgvigil.schema.json")]
    Schema,
    /// Run the schedule in the foreground until SIGTERM or SIGINT
    #[command(
        after_help = "SIGHUP or an edit of the file reloads it. SIGTERM lets a running dump go on for shutdown_grace; a second one ends it at once.\n\nExamples:\n  pgvigil daemon\n  pgvigil --config ./pgvigil.toml --log-level debug daemon\n\nExit codes: 0 told to stop, 75 another daemon holds the lock, 78 the file is faulty or a secret is missing."
    )]
    Daemon,
    /// Show the coming slots of every schedule
    #[command(after_help = "Examples:\n  pgvigil next\n  pgvigil next --days 30")]
    Next {
        /// How far to look
        #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=3660))]
        days: u16,
    },
    /// Restore a backup: all of it, single tables or schemas, definitions or rows
    Restore(Box<RestoreArgs>),
    /// Find the last moment at which something held, in a physical backup
    Bisect(Box<BisectArgs>),
    /// Delete what retention does not keep, each with its reason
    #[command(after_help = "Examples:\n  pgvigil prune --dry-run\n  pgvigil prune euem_db")]
    Prune {
        /// Only of this backup
        backup: Option<String>,
        /// Only show what would be deleted
        #[arg(long)]
        dry_run: bool,
        /// The clock is right: prune although it has jumped
        #[arg(long)]
        trust_clock: bool,
    },
    /// Take dumps that another tool left into the store and the catalog; the originals stay
    #[command(
        after_help = "A name must end in the database and the local time of the dump: backup_DB_YYYYmmdd_HHMMSS.sql.gz, .sql, .sql.zst or .dump.\n\nExamples:\n  pgvigil adopt euem_db /backups/backup_euem_db_20240115_020000.sql.gz\n  pgvigil adopt euem_db /backups/backup_euem_db_*.sql.gz"
    )]
    Adopt {
        /// The backup that they belong to: its zone, its store, its retention
        backup: String,
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Make the catalog again from the manifests in a store, and point `latest` anew
    #[command(
        after_help = "Needs nothing but the stores: it works after the loss of state_dir.\n\nExamples:\n  pgvigil rebuild\n  pgvigil rebuild local\n\nExit codes: 0 all manifests were read, 3 some could not be, 1 a store cannot be read."
    )]
    Rebuild {
        /// A [stores.NAME] section; default: all of them
        store: Option<String>,
    },
    /// Show how every backup and store stands, and the open alerts
    #[command(
        after_help = "Examples:\n  pgvigil status\n  pgvigil status --watch\n  pgvigil status --watch --interval 10s\n\nExit codes: 0 healthy, 3 not; with --watch 0 when it is told to end. With --alive: 0 a daemon runs, 1 none does."
    )]
    Status {
        #[command(flatten)]
        watch: WatchArgs,
        /// Only whether a daemon runs, whatever the state of the backups: for health checks of containers
        #[arg(long, conflicts_with = "watch")]
        alive: bool,
    },
    /// Try the channels of alerts
    #[command(subcommand, after_help = "Example:\n  pgvigil alert test")]
    Alert(AlertCommand),
    /// Archive and fetch the log of a cluster
    #[command(subcommand)]
    Wal(WalCommand),
}

#[derive(Debug, Subcommand)]
pub enum WalCommand {
    /// Put a file of the log into every store: for archive_command
    #[command(
        after_help = "In postgresql.conf:\n  archive_command = 'pgvigil --config /etc/postgresql/pgvigil-wal.toml wal push %p'\n\nExit codes: 0 durable in every store, 1 to 125 not: the server keeps the file and tries again."
    )]
    Push {
        /// The file, as %p gives it
        file: PathBuf,
        /// A [backups.NAME] section; default: the only physical one
        #[arg(long, value_name = "NAME")]
        backup: Option<String>,
    },
    /// Fetch a file of the log from a store: for restore_command
    #[command(
        after_help = "In postgresql.conf:\n  restore_command = 'pgvigil wal fetch %f %p'\n\nExit codes: 0 fetched, 1 the archive answered that it has no such file, 255 anything else: recovery stops instead of ending too early."
    )]
    Fetch {
        /// The name, as %f gives it
        name: String,
        /// Where to, as %p gives it
        dest: PathBuf,
        /// A [backups.NAME] section; default: the only physical one
        #[arg(long, value_name = "NAME")]
        backup: Option<String>,
        /// Only from this store
        #[arg(long, value_name = "S")]
        store: Option<String>,
        /// The private key for what is encrypted; default: identity of the backup
        #[arg(long, value_name = "FILE")]
        identity: Option<PathBuf>,
        /// The archive ends with this segment, whatever is behind it
        #[arg(long, hide = true, value_name = "NAME")]
        until: Option<String>,
        /// Fetch what follows the file, so that it waits beside its place
        #[arg(long, hide = true)]
        ahead: bool,
    },
    /// Show what can be restored, what is missing, and how old the newest log in the archive is
    #[command(after_help = "Example:\n  pgvigil wal status\n\nExit codes: 0 nothing is wrong, 3 something is.")]
    Status {
        /// Only of this backup
        #[arg(long, value_name = "NAME")]
        backup: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
pub struct WatchArgs {
    /// Show it again and again until Ctrl-C
    #[arg(long)]
    pub watch: bool,
    /// How often
    #[arg(long, value_name = "SPAN", requires = "watch", default_value = "2s")]
    pub interval: Span,
}

impl WatchArgs {
    /// How often it is shown anew; `None`: once.
    pub fn every(&self) -> Option<Duration> {
        self.watch.then(|| self.interval.0.max(Duration::from_millis(500)))
    }
}

#[derive(Debug, Subcommand)]
pub enum AlertCommand {
    /// Send one message through every channel and say what happened on each
    #[command(after_help = "Example:\n  pgvigil alert test\n\nExit codes: 0 every channel took it, 1 one did not.")]
    Test,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The file appears when it is complete, or not at all. Its name decides how it is packed unless --compression does:\n\
    .gz gzip, .zst zstd, else not at all.\n\n\
    Examples:\n  pgvigil export euem_db --output euem_db.sql.gz\n  pgvigil export euem_db --output - --contents schema | less\n  pgvigil export euem_db --output users.sql --table public.users"
)]
pub struct ExportArgs {
    /// The database
    pub database: String,
    /// Where to: a file, or - for stdout
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// A [servers.NAME] section; default: the only one
    #[arg(long, value_name = "NAME")]
    pub server: Option<String>,
    #[arg(long, value_enum, default_value = "plain")]
    pub format: Format,
    #[arg(long, value_enum, default_value = "all")]
    pub contents: Contents,
    /// Only this table (a pg_dump pattern; repeatable)
    #[arg(long, value_name = "PATTERN")]
    pub table: Vec<String>,
    /// Only this schema (a pg_dump pattern; repeatable)
    #[arg(long, value_name = "PATTERN")]
    pub schema: Vec<String>,
    /// gzip[:1-9], zstd[:1-19] or none
    #[arg(long, value_name = "CODEC")]
    pub compression: Option<Compression>,
    /// Replace the file if it is there
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without an option it goes into the database that it came from, which must be absent or empty. It is loaded under a\n\
    temporary name and takes its own at the end: a failure leaves everything as it was.\n\n\
    Examples:\n  pgvigil restore euem_db/latest --dry-run                         # what would be done, and how long it takes\n  \
    pgvigil restore euem_db/latest --to-database euem_db_look         # beside the live one\n  \
    pgvigil restore euem_db/latest --clean --disconnect --keep-old    # in the place of the live one\n  \
    pgvigil restore euem_db/latest --table orders --into-schema rescued   # one table, beside the live one\n  \
    pgvigil restore euem_db/latest --to-server other --globals        # on another server\n  \
    pgvigil restore cluster/latest --at \"5 minutes ago\" --target-dir /srv/restored/main --start   # a cluster as of then\n  \
    pgvigil restore cluster/latest --at \"5 minutes ago\" --table orders --into-schema rescued   # one table as of then\n\n\
    Exit codes: 0 restored, 1 refused or failed, 2 wrong usage, 3 restored, with something that needs a look."
)]
#[expect(clippy::struct_excessive_bools, reason = "they are the switches of the command line")]
pub struct RestoreArgs {
    /// BACKUP/LABEL or BACKUP/latest
    pub id: String,
    /// Only this database, where the backup holds several (repeatable)
    #[arg(long, value_name = "D")]
    pub database: Vec<String>,
    /// Into a new database of this name
    #[arg(long, value_name = "NAME")]
    pub to_database: Option<String>,
    /// On another server of the file
    #[arg(long, value_name = "NAME")]
    pub to_server: Option<String>,
    /// From the copy in this store
    #[arg(long, value_name = "S")]
    pub store: Option<String>,
    /// Replace the database that is there, when the new one is complete
    #[arg(long)]
    pub clean: bool,
    /// Keep the old one as NAME_before_TIME
    #[arg(long)]
    pub keep_old: bool,
    /// End the open sessions of the old one
    #[arg(long)]
    pub disconnect: bool,
    /// Drop the old one first, where the disk cannot hold both
    #[arg(long)]
    pub in_place: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Only this table, into an existing database (repeatable)
    #[arg(long, value_name = "T")]
    pub table: Vec<String>,
    /// Only this schema, into an existing database (repeatable)
    #[arg(long, value_name = "S")]
    pub schema: Vec<String>,
    /// Put the chosen tables into this schema, beside the live ones
    #[arg(long, value_name = "X")]
    pub into_schema: Option<String>,
    /// Roles and tablespaces first
    #[arg(long)]
    pub globals: bool,
    /// Only the definitions, or only the rows (into existing, empty tables)
    #[arg(long, value_enum)]
    pub contents: Option<Contents>,
    /// Keep what was loaded until a failure, under its temporary name
    #[arg(long)]
    pub keep_failed: bool,
    /// Private keys that open it, in the place of those of the file
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Also what nobody known has signed
    #[arg(long)]
    pub accept_unsigned: bool,
    /// Print the plan and do nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub physical: PhysicalRestoreArgs,
}

/// Of physical backups: the cluster as of a moment, in a folder of its own; or tables of it.
#[derive(Debug, clap::Args)]
pub struct PhysicalRestoreArgs {
    /// Physical: all that was committed by then, such as "2026-01-15 14:30:00 Europe/Vienna" or "5 minutes ago"
    #[arg(long, value_name = "TIME", group = "moment")]
    at: Option<String>,
    /// Physical: up to this place in the log
    #[arg(long, value_name = "L", group = "moment")]
    lsn: Option<String>,
    /// Physical: up to this transaction, with it
    #[arg(long, value_name = "X", group = "moment")]
    xid: Option<String>,
    /// Physical: up to this restore point
    #[arg(long, value_name = "N", group = "moment")]
    name: Option<String>,
    /// Physical: all there is
    #[arg(long, group = "moment")]
    pub latest: bool,
    /// Physical: where to, a folder that is not there yet or empty
    #[arg(long, value_name = "DIR")]
    pub target_dir: Option<PathBuf>,
    /// Physical: lay the log into DIR as well, so that whoever starts it there needs no pgvigil: a container
    #[arg(long, requires = "target_dir")]
    pub with_wal: bool,
    /// Physical: start it, and wait until it is there
    #[arg(long, requires = "target_dir")]
    pub start: bool,
    /// Physical: the port to start it on; default: the first that is free from 5433 on
    #[arg(long, value_name = "P", requires = "start")]
    pub port: Option<u16>,
    /// Physical: along this timeline; default: the newest that comes of the base backup
    #[arg(long, value_name = "N")]
    pub timeline: Option<u32>,
    /// Physical: where a tablespace goes, by its name, OID or old place (repeatable); default: DIR_tablespaces/OID
    #[arg(long, value_name = "NAME=DIR")]
    pub tablespace: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "It reads in the log what was committed in the window, and looks at some of these moments: the cluster is restored to each in a\n\
    folder of spool_dir, asked, and removed. First the ends: it must hold at the beginning and not at the end. If it changed several times, one of the\n\
    changes is found. A table, a column, a schema or a database that is not there counts as not holding; any other error ends the search.\n\n\
    Examples:\n  pgvigil bisect cluster --from \"3 hours ago\" --database shop --check \"select count(*) > 1000 from orders\"\n  \
    pgvigil bisect cluster --from \"2026-01-15 09:00\" --to \"2026-01-15 12:00\" --check \"select exists (select from users where name = 'ada')\"\n\n\
    Exit codes: 0 found, 1 it does not hold at the beginning, holds at the end, or something failed, 2 wrong usage."
)]
pub struct BisectArgs {
    /// A physical [backups.NAME] section
    pub backup: String,
    /// Where the window begins, such as "2026-01-15 14:30:00 Europe/Vienna" or "3 hours ago": there it must hold
    #[arg(long, value_name = "TIME")]
    pub from: String,
    /// Where it ends; default: with the log
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// A query whose one value is true as long as all is well
    #[arg(long, value_name = "SQL")]
    pub check: String,
    /// Where it is asked; default: the only database beside postgres
    #[arg(long, value_name = "D")]
    pub database: Option<String>,
    /// From the copies in this store
    #[arg(long, value_name = "S")]
    pub store: Option<String>,
    /// Along this timeline; default: the newest that comes of the base backup
    #[arg(long, value_name = "N")]
    pub timeline: Option<u32>,
    /// The private key for what is encrypted; default: identity of the backup
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
}

impl PhysicalRestoreArgs {
    /// Whether a cluster is meant and not a dump.
    pub fn are_given(&self) -> bool {
        self.target().is_some() || self.latest || self.target_dir.is_some() || self.timeline.is_some() || !self.tablespace.is_empty()
    }

    /// The option that names a target, with its value.
    pub fn target(&self) -> Option<(&'static str, &str)> {
        let given = [("--at", &self.at), ("--lsn", &self.lsn), ("--xid", &self.xid), ("--name", &self.name)];
        given.into_iter().find_map(|(option, value)| Some((option, value.as_deref()?)))
    }
}
