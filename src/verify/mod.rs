//! folder -> rung: what a backup is worth, found by looking at it.

pub mod archive;
pub mod compare;
pub mod read_back;
pub mod rows;
pub mod stored;
