//! The program as interface and docs describe it, run as its users run it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::format_collect,
    clippy::needless_pass_by_value,
    reason = "a test that cannot go on fails, starts what it needs, and is read more often than it runs"
)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/http.rs"]
mod http;
#[path = "../common/pitr.rs"]
mod pitr_site;
#[path = "../common/smtp.rs"]
mod smtp;
mod support;

mod adopt;
mod alerts;
mod bad_night;
mod bisect;
mod browser;
mod commands;
mod config;
mod copies;
mod daemon;
mod drill;
mod drills;
mod edits;
mod encryption;
mod environment;
mod evidence;
mod export;
mod first_five_minutes;
mod formats;
mod fuzz;
mod hooks;
mod listen;
mod load;
mod locks;
mod machines;
mod mail;
mod manifests;
mod migrate;
mod next;
mod offsite;
mod owner;
mod page;
mod pings;
mod pitr;
mod pitr_batch;
mod pitr_chain;
mod pitr_container;
mod pitr_debian;
mod pitr_encrypted;
mod pitr_pushes;
mod pitr_restore;
mod pitr_standby;
mod pitr_stores;
mod pitr_stream;
mod pitr_tables;
mod pitr_watch;
mod restore;
mod restore_hard;
mod restore_page;
mod retention;
mod servers;
mod signing;
mod stall;
mod systemd;
mod verify;
mod watch;
mod webhooks;
