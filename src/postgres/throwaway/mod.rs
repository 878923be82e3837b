//! Servers that drills restore into, made for one drill and removed after it.
//!
//! A dump may run code with the rights of whoever restores it. So these servers have no network
//! where that can be had, and never anything of value in them.

mod cluster;
mod container;
mod databases;
mod inside;
mod prepared;
mod settings;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use super::Server;
use crate::config::Plan;
use crate::config::plan::Place;
use crate::error::{Error, Result};
use crate::host::containers::{self, Made};
use crate::host::{Tag, Tail};
use cluster::Cluster;
use databases::Databases;
pub use inside::{Inside, Unpacking};
pub use prepared::{Laying, Prepared};

/// The label of our containers; its value is the owner.
const LABEL: &str = "pgvigil.drill";

/// The port that names the socket of a server of ours.
pub(super) const PORT: &str = "5432";

/// A server that does not answer so long after its start never will.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// What a postmaster says when it takes sessions.
const READY: &str = "database system is ready to accept connections";

/// What a drill's server must be like.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// Of the source; 0: not known.
    pub major: u32,
    /// The name of the source's first superuser: objects of a dump may belong to it.
    pub superuser: &'a str,
    /// The source's shared_preload_libraries.
    pub preload: Option<&'a str>,
    /// The mark on the drill's sessions and programs.
    pub tag: Tag,
    /// The name of this installation, by which a sweep knows what is ours.
    pub owner: &'a str,
    /// Where local clusters lie, and what says that a server has databases of a drill.
    pub folder: &'a Path,
}

/// A server for one drill. It must come to an end by [`Throwaway::remove`]; what is not removed,
/// because we were killed, is for [`sweep`].
pub struct Throwaway {
    pub server: Server,
    made: What,
}

enum What {
    Container(Made),
    Cluster(Cluster),
    Databases(Databases),
}

impl Wanted<'_> {
    /// The superuser's name as initdb takes it. Current minors refuse some characters; then the role
    /// is missing, as others are that a drill makes by itself.
    fn superuser(&self) -> &str {
        if self.superuser.contains(['"', '$', '\'', '\\']) { "postgres" } else { self.superuser }
    }
}

impl Throwaway {
    /// The name for a database of this drill, the `nth` of it: on a named server one that a sweep
    /// knows, elsewhere the one it has on the source.
    pub fn database_name(&self, source: &str, nth: usize) -> String {
        match &self.made {
            What::Databases(databases) => databases.name(nth),
            What::Container(_) | What::Cluster(_) => source.to_owned(),
        }
    }

    /// Whether all of the server is of this drill, and not only databases on it.
    pub fn is_ours(&self) -> bool {
        !matches!(self.made, What::Databases(_))
    }

    /// The server with programs that read what only we may read, such as an archive in a store. Only
    /// for `pg_restore`: psql would do what a script tells it, with our rights.
    pub fn with_our_rights(&self) -> Server {
        match &self.made {
            What::Cluster(cluster) => self.server.with_host(cluster.with_our_rights()),
            What::Container(_) | What::Databases(_) => self.server.clone(),
        }
    }

    /// The end of the server's log, where the server is ours: it says why it died.
    pub fn log(&self) -> String {
        match &self.made {
            What::Container(made) => made.log.text(),
            What::Cluster(cluster) => cluster.log(),
            What::Databases(_) => String::new(),
        }
    }

    /// Ends and removes all of it.
    ///
    /// # Errors
    /// Something is left, which is named.
    pub async fn remove(self) -> Result<()> {
        match self.made {
            What::Container(made) => made.remove().await,
            What::Cluster(cluster) => cluster.remove().await,
            What::Databases(databases) => databases.remove(&self.server).await,
        }
    }
}

/// Removes what drills of this installation left that were killed, and returns how many there were.
/// The caller holds the lock of the drills: whatever is there is dead.
///
/// # Errors
/// Something is left; all else was removed nevertheless.
pub async fn sweep(plan: &Plan, owner: &str, folder: &Path) -> Result<usize> {
    let mut engines: Vec<Option<&str>> = plan
        .servers
        .values()
        .filter_map(|server| match &server.place {
            Place::Container { docker, .. } => Some(docker.as_deref()),
            Place::Host(_) | Place::Socket(_) => None,
        })
        .collect();
    engines.sort_unstable();
    engines.dedup();
    let mut results = Vec::new();
    for engine in engines {
        results.push(containers::remove_labelled(engine, (LABEL, owner)).await);
    }
    results.push(cluster::sweep(owner, folder).await);
    results.push(databases::sweep(plan, owner, folder).await);
    all(results)
}

/// The same for one folder of local clusters, which only the caller uses.
///
/// # Errors
/// Something is left; all else was removed nevertheless.
pub async fn sweep_local(owner: &str, folder: &Path) -> Result<usize> {
    cluster::sweep(owner, folder).await
}

/// How many there were together, or the first failure.
fn all(results: Vec<Result<usize>>) -> Result<usize> {
    results.into_iter().try_fold(0, |sum, swept| Ok(sum + swept?))
}

/// The entries of the folder that are ours: what follows `OWNER_` in their names. None where there
/// is no folder.
fn left_in(folder: &Path, owner: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix(&format!("{owner}_")).map(str::to_owned)).collect()
}

/// Waits until a server that was started takes sessions.
async fn ready(log: &Tail, ended: impl Future<Output = ()>, preload: Option<&str>) -> Result<()> {
    tokio::select! {
        biased;
        () = log.until(READY) => Ok(()),
        () = ended => Err(not_started("does not start", &log.text(), preload)),
        () = tokio::time::sleep(START_TIMEOUT) => {
            Err(not_started(&format!("does not answer after {} s", START_TIMEOUT.as_secs()), &log.text(), preload))
        }
    }
}

/// Why a server did not start, by the end of its log.
fn not_started(what: &str, log: &str, preload: Option<&str>) -> Error {
    let lines: Vec<&str> = log.lines().collect();
    let tail = format!("\n  {}", lines[lines.len().saturating_sub(10)..].join("\n  "));
    let libraries = preload.unwrap_or_default().split(',').map(|library| library.trim().trim_matches('"'));
    // The library that its words are about; what it does not speak of is not to blame.
    let Some(library) = libraries.filter(|library| !library.is_empty()).find(|library| log.contains(*library)) else {
        return Error::unverifiable(format_args!("the drill's server {what}{tail}"));
    };
    let preload = preload.unwrap_or_default();
    Error::unverifiable(format_args!("the drill's server {what} with shared_preload_libraries = '{preload}' of the source{tail}"))
        .hint(format!("install what brings the library {library} where the drill runs, or drill on a server that has it"))
}
