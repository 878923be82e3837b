//! What can go wrong, in the words that a person reads, and the exit code that it ends in.

use std::fmt;

use serde::Serialize;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure this is; it decides the exit code and is `error.kind` of the JSON output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The command line asks for something that cannot be.
    Usage,
    /// The configuration file is faulty.
    Config,
    /// A secret that the configuration names is not to be had.
    Secret,
    /// Another process holds the lock.
    Busy,
    /// No such backup, database or file.
    NotFound,
    /// PostgreSQL, or one of its programs, refused or failed.
    Postgres,
    /// The Docker Engine or its container refused or failed.
    Docker,
    /// A dump did not come to its proper end.
    Dump,
    /// A store refused or failed.
    Store,
    /// A store does not let us delete: the keys may not, or a lock holds the object.
    Undeletable,
    /// A backup's bytes are not what its manifest says.
    Damaged,
    /// What is needed to prove a backup is not to be had: no verdict on the backup.
    Unverifiable,
    /// The run was told to stop.
    Cancelled,
    /// No byte came for too long, or the deadline passed.
    Timeout,
    /// What is asked for would destroy something, or could not be done in the end.
    Refused,
    /// Something on this machine: a file, a folder, a process.
    System,
}

/// Exit codes of the program; `docs/exit-codes.md` describes them.
pub mod exit {
    /// Done.
    pub const OK: u8 = 0;
    /// Failed.
    pub const FAILED: u8 = 1;
    /// Wrong usage.
    pub const USAGE: u8 = 2;
    /// Done, with problems that need a look.
    pub const PROBLEMS: u8 = 3;
    /// Another run of the same backup, or another daemon, holds the lock (EX_TEMPFAIL of sysexits.h).
    pub const BUSY: u8 = 75;
    /// The configuration is faulty (EX_CONFIG of sysexits.h).
    pub const CONFIG: u8 = 78;
}

impl Kind {
    /// The exit code of a command that ends with this failure.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Usage => exit::USAGE,
            Kind::Config => exit::CONFIG,
            Kind::Unverifiable => exit::PROBLEMS,
            Kind::Busy => exit::BUSY,
            Kind::Secret
            | Kind::NotFound
            | Kind::Postgres
            | Kind::Docker
            | Kind::Dump
            | Kind::Store
            | Kind::Undeletable
            | Kind::Damaged
            | Kind::Cancelled
            | Kind::Timeout
            | Kind::Refused
            | Kind::System => exit::FAILED,
        }
    }
}

impl Kind {
    /// Whether the same run may succeed a little later.
    pub fn may_pass(self) -> bool {
        match self {
            Kind::Busy
            | Kind::Postgres
            | Kind::Docker
            | Kind::Dump
            | Kind::Store
            | Kind::Damaged
            | Kind::Timeout
            | Kind::System
            | Kind::Cancelled
            // A restore takes a database away for a moment.
            | Kind::NotFound => true,
            // Somebody has to install or to change something first.
            Kind::Usage | Kind::Config | Kind::Secret | Kind::Undeletable | Kind::Refused | Kind::Unverifiable => false,
        }
    }
}

/// A failure: what failed and why, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    pub kind: Kind,
    /// Lower case, no full stop, no secret.
    pub message: String,
    /// What to do next, as an imperative.
    pub hint: Option<String>,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), hint: None }
    }

    /// Why a backup cannot be proven here, although it may be a good one.
    pub fn unverifiable(why: impl fmt::Display) -> Self {
        Error::new(Kind::Unverifiable, format!("cannot verify: {why}"))
    }

    /// Adds what to do next; a hint that is there already stays, it was nearer to the cause.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        if self.hint.is_none() {
            self.hint = Some(hint.into());
        }
        self
    }

    /// Says in front what was being done.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    /// A failed call of the operating system.
    pub fn system(doing: impl fmt::Display, error: &std::io::Error) -> Self {
        Error::new(Kind::System, format!("{doing}: {}", plain_io(error)))
    }
}

/// The operating system's own words, without the number that Rust puts behind them.
pub fn plain_io(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => lower_first(&text[..end]),
        None => text,
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
