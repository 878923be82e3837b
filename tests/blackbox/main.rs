//! The program as interface and docs describe it, run as its users run it.

#[path = "../common/mod.rs"]
mod common;

mod first_five_minutes;
