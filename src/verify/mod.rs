//! folder -> rung: what a backup is worth, found by looking at it.

pub mod read_back;
