//! bytes -> packed bytes and hash, in one pass, and back.

pub mod codec;
pub mod end;
pub mod packer;
pub mod unpacker;
