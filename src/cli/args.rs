//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::DEFAULT_PATH;
use crate::config::file::{Contents, Format, LogLevel};
use crate::config::values::Compression;

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
    },
    /// Show the catalog, newest first
    #[command(after_help = "Examples:\n  pgvigil list\n  pgvigil list euem_db\n  pgvigil --json list | jq -r '.[].id'")]
    List {
        /// Only of this backup
        backup: Option<String>,
    },
    /// Show one backup: its manifest, files, evidence and proofs
    #[command(after_help = "Examples:\n  pgvigil show euem_db/latest\n  pgvigil show euem_db/20240115T010000Z")]
    Show {
        /// BACKUP/LABEL or BACKUP/latest
        id: String,
    },
    /// Write a file of a backup to stdout, unpacked
    #[command(
        after_help = "Examples:\n  pgvigil cat euem_db/latest | less\n  pgvigil cat euem_db/latest globals.sql.gz\n  pgvigil cat euem_db/latest RESTORE.md"
    )]
    Cat {
        /// BACKUP/LABEL or BACKUP/latest
        id: String,
        /// A file of the backup; without it the only dump
        file: Option<String>,
    },
    /// Show the runs, also the failed ones, with why
    #[command(after_help = "Examples:\n  pgvigil history\n  pgvigil history euem_db")]
    History {
        /// Only of this backup
        backup: Option<String>,
    },
    /// Dump one database to a file or to stdout, outside of the catalog
    Export(ExportArgs),
    /// Read every byte of a backup back and check it
    #[command(
        after_help = "Examples:\n  pgvigil verify euem_db/latest\n  pgvigil verify euem_db/20240115T010000Z --store local\n\nExit codes: 0 readable, 1 bad or not there, 3 it could not be verified."
    )]
    Verify {
        /// BACKUP/LABEL or BACKUP/latest
        id: String,
        /// Restore it into a throwaway server and compare (not yet)
        #[arg(long)]
        drill: bool,
        /// Only the copy in this store
        #[arg(long, value_name = "S")]
        store: Option<String>,
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
    /// Print the JSON Schema of the configuration file
    #[command(after_help = "Example:\n  pgvigil schema > pgvigil.schema.json")]
    Schema,
    /// Run the schedule in the foreground (not yet)
    Daemon {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        rest: Vec<String>,
    },
    /// Show the coming slots of every schedule (not yet)
    Next {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        rest: Vec<String>,
    },
    /// Restore a backup (not yet; RESTORE.md in every backup says how)
    #[command(
        after_help = "Not yet. Until then every backup says itself how to restore it with stock tools:\n  pgvigil cat euem_db/latest RESTORE.md"
    )]
    Restore {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        rest: Vec<String>,
    },
    /// Delete what retention does not keep (not yet)
    Prune {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        rest: Vec<String>,
    },
    /// Take dumps of another tool into the catalog (not yet)
    Adopt {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        rest: Vec<String>,
    },
    /// Make the catalog again from the manifests in a store (not yet)
    Rebuild {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        rest: Vec<String>,
    },
    /// Show the state of every backup and store (not yet)
    Status {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        rest: Vec<String>,
    },
    /// Try the channels of alerts (not yet)
    Alert {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        rest: Vec<String>,
    },
    /// Archive and fetch WAL (not yet)
    Wal {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        rest: Vec<String>,
    },
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
