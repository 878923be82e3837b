//! The program as interface and docs describe it, run as its users run it.

#[path = "../common/mod.rs"]
mod common;
mod support;

mod commands;
mod config;
mod export;
mod first_five_minutes;
mod formats;
mod fuzz;
mod locks;
mod owner;
mod restore_page;
mod servers;
mod verify;
