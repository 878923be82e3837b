//! Base backups, the log, and moments: what composes their stages.

pub mod archive;
pub mod base;
pub mod fetch;
pub mod push;
