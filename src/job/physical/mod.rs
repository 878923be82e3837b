//! Base backups, the log, and moments: what composes their stages.

pub mod anew;
pub mod archive;
pub mod base;
mod batch;
pub mod beside;
pub mod bisect;
pub mod check;
pub mod combine;
pub mod commits;
pub mod deliver;
pub mod drill;
pub mod fetch;
pub mod folder;
pub mod look;
pub mod moment;
pub mod place;
pub mod prune;
pub mod push;
mod received;
pub mod restore;
mod sight;
pub mod spread;
pub mod start;
pub mod status;
pub mod stream;
pub mod tables;
pub mod unpack;
