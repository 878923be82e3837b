//! What must not be lost, or pretended, when something breaks in the middle.

#[path = "../common/mod.rs"]
mod common;
