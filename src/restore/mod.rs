//! folder -> database.

mod behind;
mod contain;
mod failures;
mod lane;
pub mod load;
mod loader;
mod order;
pub mod page;
pub mod properties;
pub mod roles;
pub mod select;
mod settings;
pub mod source;
mod split;
mod words;
