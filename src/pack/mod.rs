//! bytes -> packed bytes and hash, in one pass, and back.

pub mod census;
pub mod codec;
pub mod end;
pub mod lexer;
pub mod packer;
pub mod seal;
pub mod tar;
pub mod unpacker;
