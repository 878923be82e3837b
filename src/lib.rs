//! pgvigil: backups of PostgreSQL that are proven to restore.
//!
//! The modules follow the way of the data: [`config`] makes a plan of the file, [`job`] carries it
//! out, [`postgres`] turns a server into bytes, [`pack`] into packed bytes and a hash, [`store`]
//! keeps them, [`catalog`] knows them, [`verify`] proves them, [`restore`] gives them back.

pub mod alert;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod error;
pub mod host;
pub mod job;
pub mod keys;
pub mod listen;
pub mod pack;
pub mod physical;
pub mod postgres;
pub mod restore;
pub mod retain;
pub mod schedule;
pub mod state;
pub mod status;
pub mod store;
pub mod verify;
pub mod wal;

pub use error::{Error, Result};

/// Program and version, as documents name who wrote them.
pub const GENERATOR: &str = concat!("pgvigil ", env!("CARGO_PKG_VERSION"));
