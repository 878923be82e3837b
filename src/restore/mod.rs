//! folder -> database.

pub mod asked;
pub mod chosen;
pub mod flaws;
pub mod globals;
pub mod lack;
pub mod load;
pub mod names;
pub mod page;
pub mod plan;
pub mod properties;
pub mod select;
pub mod source;
pub mod target;
pub mod told;
