//! The SQL of a dump into a database, in one pass: what is wanted of it, checked for what no dump
//! holds, definitions and rows in their order, and what stands behind the rows in parallel.

use std::sync::Arc;
use std::time::Duration;

use super::loader::Loader;
use super::select::Selection;
use super::source::Sql;
use super::split::Splitter;
use super::stall::{self, Pulse};
use crate::error::{Error, Kind, Result};
use crate::pack::packer::Meter;
use crate::postgres::Server;

/// How a dump is loaded.
pub struct Load<'a> {
    pub server: &'a Server,
    pub database: &'a str,
    /// Sessions for indexes and constraints; at least 1.
    pub jobs: usize,
    /// The database is made for this load and nobody else sees it: its tables may be loaded in ways
    /// that spare the log.
    pub is_fresh: bool,
    /// `None`: all of it.
    pub selection: Option<Selection>,
    /// All in one transaction: done or not begun. Without it what fails is skipped, and counted.
    pub atomic: bool,
    pub meter: Arc<Meter>,
    /// So long nothing may move, and nobody on the server work on it.
    pub stall_timeout: Duration,
}

/// What was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    pub statements: u64,
    /// Rows of each table, named as in the dump.
    pub rows: Vec<(String, u64)>,
    /// What failed, alike ones together. Empty: every statement was done.
    pub errors: Vec<Failure>,
    /// What was left out on purpose, and why.
    pub left_out: Vec<String>,
}

/// Errors of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// PostgreSQL's words of the first of them.
    pub message: String,
    /// The statement that failed first, its beginning.
    pub statement: String,
    pub count: u64,
}

/// Loads a dump whose SQL comes block by block. Dropped in between it ends its sessions here; those
/// in a container the caller ends by their mark.
///
/// # Errors
/// It could not be loaded at all: the server is gone, the text is no whole dump, or it holds what no
/// dump of ours holds (commands for psql, programs), or it stalled (`Timeout`). With `atomic` also the first failed statement:
/// then nothing happened. Else errors of single statements are in [`Loaded`].
pub async fn load(load: Load<'_>, sql: Sql) -> Result<Loaded> {
    let pulse = Pulse::default();
    let (server, patience) = (load.server, load.stall_timeout);
    tokio::select! {
        loaded = carry_out(load, sql, &pulse) => loaded,
        stalled = stall::watch(server, &pulse, patience) => Err(stalled),
    }
}

async fn carry_out(load: Load<'_>, mut sql: Sql, pulse: &Pulse) -> Result<Loaded> {
    let meter = Arc::clone(&load.meter);
    let mut loader = Loader::new(load, pulse)?;
    let mut splitter = Splitter::default();
    while let Some(block) = pulse.starve(sql.blocks.recv()).await {
        let bytes = block.len() as u64;
        for item in splitter.feed(&block)? {
            loader.take(item).await?;
        }
        meter.raw.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        if loader.gave_up() {
            return loader.finish().await;
        }
    }
    (&mut sql.reading).await.map_err(|error| Error::new(Kind::System, format!("the reader of the dump failed: {error}")))??;
    splitter.finish().map_err(|error| error.context(&sql.what))?;
    loader.finish().await
}
