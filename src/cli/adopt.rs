//! `adopt BACKUP FILE...`

use std::path::PathBuf;

use super::session::Session;
use super::{Done, not_yet};

pub fn adopt(_: &Session, _: &str, _: &[PathBuf]) -> Done {
    not_yet("adopt")
}
