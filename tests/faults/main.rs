//! What must not be lost, or pretended, when something breaks in the middle.
//!
//! Every test does harm to a run and then calls the judge. `PGVIGIL_TEST_LONG=1` runs the campaigns
//! at full size; `PGVIGIL_TEST_SEED=N` repeats the random ones.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "tests fail by panicking, and start processes"
)]

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "the other test binaries use the rest of it")]
mod common;

#[path = "../common/http.rs"]
mod http;
#[path = "../common/smtp.rs"]
#[expect(dead_code, reason = "the other test binaries use the rest of it")]
mod smtp;

mod gate;
mod inject;
mod judge;
mod tools;

mod daemon;
mod damage;
mod disk;
mod drills;
mod engine;
mod killed;
mod labels;
mod liars;
mod memory;
mod patience;
mod sidecar;
mod signals;
mod sweeps;
mod syscalls;
