//! pgvigil: backups of PostgreSQL that are proven to restore.
//!
//! The modules follow the way of the data: [`config`] makes a plan of the file, [`job`] carries it
//! out, [`postgres`] turns a server into bytes, [`pack`] into packed bytes and a hash, [`store`]
//! keeps them, [`catalog`] knows them, [`verify`] proves them, [`restore`] gives them back.

pub mod config;
pub mod error;
pub mod host;
pub mod pack;
pub mod postgres;

pub use error::{Error, Result};
