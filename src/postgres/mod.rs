//! server -> bytes: PostgreSQL through its own programs.

pub mod basebackup;
pub mod dump;
pub mod lease;
pub mod programs;
pub mod questions;
pub mod quote;
pub mod server;
pub mod session;
pub mod throwaway;
pub mod witness;

pub use server::Server;
