//! This very program once more, for what need not be waited for.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use crate::error::{Error, Result};

/// Starts this command line again with one argument more, with nothing of ours but its folder and a lock, which it holds
/// from the first moment until it ends, and does not wait for it. It must come to an end by itself.
///
/// # Errors
/// It cannot be started.
#[expect(clippy::disallowed_methods, reason = "this is the room of processes")]
pub fn start_again(argument: &str, lock: File) -> Result<()> {
    let failed = |error: &std::io::Error| Error::system("cannot start this program again", error);
    let program = std::env::current_exe().map_err(|error| failed(&error))?;
    let mut command = std::process::Command::new(program);
    command.args(std::env::args_os().skip(1)).arg(argument);
    // A group of its own: a signal that ends a recovery is not meant for it, and it holds no pipe open.
    command.stdin(lock).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().map(drop).map_err(|error| failed(&error))
}
