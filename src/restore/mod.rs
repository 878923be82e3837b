//! folder -> database.

mod behind;
mod contain;
mod failures;
mod lane;
pub mod load;
mod loader;
mod moved;
mod order;
pub mod page;
pub mod properties;
pub mod select;
mod settings;
pub mod source;
mod split;
mod subject;
mod words;
