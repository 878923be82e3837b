//! outcome -> alerts: what is wrong, who was told, and the ways to tell them.

pub mod copies;
pub mod delivery;
pub mod digest;
pub mod drills;
pub mod email;
pub mod event;
pub mod hook;
pub mod http;
pub mod letter;
pub mod ping;
pub mod policy;
pub mod problems;
pub mod routes;
mod smtp_words;
pub mod template;
pub mod webhook;
