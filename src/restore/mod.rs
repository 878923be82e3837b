//! folder -> database.

pub mod page;
pub mod properties;
