//! One database of a backup, restored for a trial and looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;

use crate::catalog::evidence::RowsDigest;
use crate::catalog::{DatabaseEvidence, Entry};
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::host::{Host, printable};
use crate::job::progress::Progress;
use crate::pack::lexer::Lexer;
use crate::postgres::Server;
use crate::postgres::quote::{canonical, identifier, literal};
use crate::postgres::server::Database;
use crate::postgres::session::Session;
use crate::postgres::witness;
use crate::restore::analyze::analyze;
use crate::restore::load::{Failure, Load, Loaded, load};
use crate::restore::roles::Roles;
use crate::restore::{properties, source};
use crate::verify::compare::Found;

/// How many tables are read at a time for their digests.
const DIGESTS_AT_ONCE: usize = 2;

/// How many sessions make indexes and constraints, at most.
const JOBS_MAX: usize = 8;

/// Failures of one kind are told with so many characters of their statement.
const STATEMENT_CHARS: usize = 120;

/// The words of the system for a full disk.
const NO_SPACE: &str = "No space left on device";

pub struct Trial<'a> {
    pub dump: &'a source::Checked<'a>,
    pub entry: &'a Entry,
    pub database: &'a str,
    pub expected: &'a DatabaseEvidence,
    pub server: &'a Server,
    /// All of the server is of the drill, and not only databases on it.
    pub is_ours: bool,
    /// Nothing is restored behind it: what was made goes with the drill.
    pub is_last: bool,
    /// The name on that server.
    pub target: &'a str,
    /// Where archives are read.
    pub archives: &'a Arc<dyn Host>,
    /// Where one is laid out that is a folder.
    pub spool_dir: &'a Path,
    pub patience: Duration,
    pub checks: &'a BTreeMap<Name, String>,
    pub progress: &'a Progress,
}

/// What became of a trial.
#[derive(Default)]
pub struct Tried {
    /// Why the copy is bad.
    pub errors: Vec<String>,
    /// Why nothing is known of it: what the surroundings lack.
    pub unverified: Vec<String>,
    pub notes: Vec<String>,
    /// From the first byte that was read to the end of ANALYZE.
    pub restore_seconds: Option<f64>,
    /// `None`: it was not restored whole.
    pub found: Option<Found>,
}

impl Trial<'_> {
    /// Restores and looks.
    ///
    /// # Errors
    /// Nothing was found out, or the copy is `Damaged` or no dump.
    pub async fn run(&self) -> Result<Tried> {
        let mut tried = Tried { unverified: self.missing_extensions().await?, ..Tried::default() };
        if !tried.unverified.is_empty() {
            return Ok(tried);
        }
        tried.unverified = self.prepare().await?;
        if !tried.unverified.is_empty() {
            return Ok(tried);
        }
        let name = printable(self.database);
        let meter = self.progress.restart(format!("restoring {name}"), self.entry.manifest.raw_bytes());
        let started = Instant::now();
        let sql = self.dump.open(Arc::clone(self.archives), self.spool_dir).await?;
        let server = self.server;
        let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(JOBS_MAX);
        let what = Load {
            server,
            database: self.target,
            jobs,
            is_fresh: true,
            selection: None,
            atomic: false,
            meter,
            stall_timeout: self.patience,
        };
        let loaded = load(what, sql).await?;
        if !loaded.errors.is_empty() {
            self.judge(&loaded, &mut tried);
            return Ok(tried);
        }
        // It asks foreign partitions for rows, and they are where a drill must not reach.
        let failed = analyze(server, self.target, jobs).await?;
        tried.notes.extend(failed.into_iter().map(|words| format!("statistics are not whole: {words}")));
        tried.restore_seconds = Some((self.dump.took + started.elapsed()).as_secs_f64());
        self.progress.begin(format!("comparing {name}"));
        tried.found = Some(self.look().await?);
        if !self.is_last {
            self.drop_database().await?;
        }
        Ok(tried)
    }

    /// Extensions of the source that cannot be installed here.
    async fn missing_extensions(&self) -> Result<Vec<String>> {
        let server = self.server;
        let available: BTreeSet<String> = server
            .query(server.maintenance_database(), "select coalesce(json_agg(name), '[]') from pg_catalog.pg_available_extensions")
            .await?;
        let missing = self.expected.extensions.keys().filter(|name| !available.contains(*name));
        Ok(missing.map(|name| format!("install extension {name} where the drill runs")).collect())
    }

    /// Roles, tablespaces and the empty database. Returns what cannot be had.
    async fn prepare(&self) -> Result<Vec<String>> {
        let server = self.server;
        let known: BTreeSet<String> =
            server.query(server.maintenance_database(), "select coalesce(json_agg(rolname), '[]') from pg_catalog.pg_roles").await?;
        let roles: BTreeSet<String> =
            if self.expected.is_recorded() { self.expected.roles.clone() } else { self.roles_of_the_dump().await? };
        let missing: Vec<&String> = roles.iter().filter(|role| !known.contains(*role)).collect();
        let mut session = Session::open(server, server.maintenance_database()).await?;
        if self.is_ours {
            // It takes less than half of the time of pglz, and nobody sees how a value is stored.
            let has_lz4 = "SELECT count(*) FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY(enumvals)";
            if session.ask(has_lz4).await?.trim() == "1" {
                session.ask("ALTER SYSTEM SET default_toast_compression = lz4").await?;
                session.ask("SELECT pg_reload_conf()").await?;
            }
            // Names that begin with pg_ are the server's own, of whatever version.
            for role in missing.into_iter().filter(|role| !role.starts_with("pg_")) {
                session.ask(&format!("CREATE ROLE {} NOLOGIN", identifier(role))).await?;
            }
            for tablespace in &self.expected.tablespaces {
                let there = session.ask(&format!("SELECT count(*) FROM pg_tablespace WHERE spcname = {}", literal(tablespace))).await?;
                if there.trim() == "0" {
                    session.ask("SET allow_in_place_tablespaces = on").await?;
                    session.ask(&format!("CREATE TABLESPACE {} LOCATION ''", identifier(tablespace))).await?;
                }
            }
        } else if !missing.is_empty() {
            session.close().await?;
            return Ok(missing.into_iter().map(|role| format!("create role {} on the drill's server", identifier(role))).collect());
        }
        let made = match serde_json::from_value::<Database>(self.expected.properties.clone()) {
            Ok(database) => properties::create(&database, self.target, server.facts.major()),
            Err(_) => properties::create_as_usual(self.target),
        };
        match session.ask(&made).await {
            Ok(_) => {
                session.close().await?;
                Ok(Vec::new())
            }
            Err(error) => Ok(vec![format!("the drill's server cannot have such a database: {}", words(&error.message))]),
        }
    }

    /// Those that a dump of another tool names.
    async fn roles_of_the_dump(&self) -> Result<BTreeSet<String>> {
        let mut sql = self.dump.open(Arc::clone(self.archives), self.spool_dir).await?;
        let (mut lexer, mut roles) = (Lexer::default(), Roles::default());
        while let Some(block) = sql.blocks.recv().await {
            lexer.feed(&block, &mut roles);
        }
        (&mut sql.reading).await.map_err(|error| Error::new(Kind::System, format!("the reader failed: {error}")))??;
        Ok(roles.found)
    }

    /// What the failures of a restore say: of the copy, or of the surroundings.
    fn judge(&self, loaded: &Loaded, tried: &mut Tried) {
        let part = !(self.entry.manifest.tables.is_empty()
            && self.entry.manifest.schemas.is_empty()
            && self.entry.manifest.exclude_tables.is_empty());
        for failure in &loaded.errors {
            let told = tell(failure);
            if part || lacks_surroundings(&failure.message) {
                tried.unverified.push(told);
            } else {
                tried.errors.push(told);
            }
        }
        // What follows from something that lacks says nothing.
        if !tried.unverified.is_empty() {
            tried.notes.append(&mut tried.errors);
        }
    }

    async fn look(&self) -> Result<Found> {
        let server = self.server;
        let only = self.entry.manifest.narrow.then(|| self.expected.rows.keys().map(|table| canonical(table)).collect::<BTreeSet<_>>());
        let evidence = witness::look(Session::open(server, self.target).await?, None, only.as_ref(), self.patience).await?;
        let mut reads = Vec::new();
        for (table, expected) in &self.expected.digests {
            reads.push(self.digest(table, expected));
        }
        let digests = futures_util::stream::iter(reads).buffer_unordered(DIGESTS_AT_ONCE).collect().await;
        // A check that the file has now and the backup has not is nothing to compare with.
        let checks: BTreeMap<Name, String> = self
            .checks
            .iter()
            .filter(|(name, _)| self.expected.checks.contains_key(name.as_str()))
            .map(|(name, sql)| (name.clone(), sql.clone()))
            .collect();
        let checks = witness::checks(server, self.target, None, &checks, self.patience).await?;
        Ok(Found { evidence, digests, checks })
    }

    async fn digest(&self, table: &str, expected: &RowsDigest) -> (String, Result<String, String>) {
        let digest = witness::digest(self.server, self.target, table, expected).await;
        (table.to_owned(), digest.map_err(|error| words(&error.message).to_owned()))
    }

    /// Makes room for the next one.
    async fn drop_database(&self) -> Result<()> {
        let server = self.server;
        let mut session = Session::open(server, server.maintenance_database()).await?;
        session.ask(&format!("DROP DATABASE IF EXISTS {}", identifier(self.target))).await?;
        session.close().await
    }
}

fn tell(failure: &Failure) -> String {
    let statement: String = failure.statement.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(STATEMENT_CHARS).collect();
    let times = if failure.count > 1 { format!(" ({} times)", failure.count) } else { String::new() };
    // PostgreSQL says so only where not even a part of the page found room.
    let full = if failure.message.contains("could not extend file") && !failure.message.contains(NO_SPACE) { NO_SPACE } else { "" };
    let why =
        [printable(words(&failure.message)), full.to_owned()].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
    format!("{why}{times}: {}", printable(&statement))
}

/// The server's own words.
fn words(message: &str) -> &str {
    let words = message.split_once("ERROR:  ").map_or(message, |(_, words)| words);
    words.lines().next().unwrap_or_default()
}

/// Whether the server lacks something that the source had, so that nothing is said of the backup.
fn lacks_surroundings(message: &str) -> bool {
    [
        "is not available",
        "could not open extension control file",
        "could not access file",
        "could not load library",
        "must be loaded via",
        NO_SPACE,
        // A disk that fills up may take a part of a page first.
        "could not extend file",
        "could not write",
        "could not create file",
        "could not open file",
        "could not read",
        "could not fsync",
        "Disk quota exceeded",
        "out of memory",
        "out of shared memory",
        "the database system is",
        "terminating connection",
        "server closed the connection",
        "unrecognized configuration parameter",
        "invalid locale name",
        "encoding conversion",
    ]
    .iter()
    .any(|lack| message.contains(lack))
}
