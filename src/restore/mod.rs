//! folder -> database.

pub mod load;
pub mod page;
pub mod properties;
pub mod roles;
pub mod select;
pub mod source;
