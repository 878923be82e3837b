//! outcome -> alerts: what is wrong, who was told, and the ways to tell them.

pub mod delivery;
pub mod drills;
pub mod email;
pub mod letter;
pub mod policy;
pub mod problems;
mod smtp_words;
