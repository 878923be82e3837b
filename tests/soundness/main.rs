//! Every damage is noticed, no lie of a program is believed, and memory stays bounded.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and starts what it needs"
)]

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "the other test binaries use the rest of it")]
mod common;

mod damage;
mod liars;
mod memory;

/// The size of a campaign: small by default, full under PGVIGIL_TEST_LONG.
fn scale(small: usize, full: usize) -> usize {
    if std::env::var_os("PGVIGIL_TEST_LONG").is_some() { full } else { small }
}
