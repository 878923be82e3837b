//! Base backups and moments: what is a whole base backup, which one leads to a moment, what stays.
//! Pure.

pub mod page;
pub mod whole;
