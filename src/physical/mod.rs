//! Base backups and moments: what is a whole base backup, which one leads to a moment, what stays.
//! Pure.

pub mod bisect;
pub mod chain;
pub mod commits;
pub mod inbox;
pub mod lag;
pub mod page;
pub mod plan;
pub mod recovery;
pub mod retain;
pub mod target;
pub mod whole;
