//! folder -> database.

pub mod asked;
mod behind;
pub mod chosen;
mod contain;
mod failures;
pub mod flaws;
pub mod globals;
pub mod lack;
mod lane;
pub mod load;
mod loader;
mod moved;
pub mod names;
mod order;
pub mod page;
pub mod plan;
pub mod properties;
pub mod roles;
mod rows;
pub mod select;
mod settings;
pub mod source;
mod split;
mod subject;
pub mod target;
pub mod told;
mod words;
