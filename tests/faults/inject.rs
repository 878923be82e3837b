//! Harm at one call of the program out of all that touch files below a folder (`inject.c`).

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tools::must;

/// The calls that change a folder.
pub const CHANGES: &str = "create,write,fsync,truncate,chmod,mkdir,rename,unlink,symlink,link,sync";

/// What is done to the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Only counted.
    None,
    Kill,
    /// The power of the disk is cut, and the program killed.
    Cut,
    /// This errno, once.
    Fail(i32),
    /// This errno, from there on.
    FailOn(i32),
}

/// Sets a command up to be harmed at its `at`-th call (from 1).
pub fn inject(command: &mut Command, under: &Path, calls: &str, at: usize, deed: Deed) {
    let deed = match deed {
        Deed::None => String::new(),
        Deed::Kill => "kill".to_owned(),
        Deed::Cut => "cut".to_owned(),
        Deed::Fail(errno) => errno.to_string(),
        Deed::FailOn(errno) => format!("{errno}+"),
    };
    command
        .env("LD_PRELOAD", library())
        .env("INJECT_UNDER", under.canonicalize().unwrap())
        .env("INJECT_CALLS", calls)
        .env("INJECT_AT", at.to_string())
        .env("INJECT_DEED", deed);
}

/// A call as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub name: String,
    pub path: PathBuf,
}

/// Runs a command to its end and returns its calls in their order; what is at index N-1 is hit by
/// `at` = N.
pub fn calls_of(command: &mut Command, under: &Path, calls: &str, log: &Path) -> Vec<Call> {
    let _ = std::fs::remove_file(log);
    inject(command, under, calls, 0, Deed::None);
    must(command.env("INJECT_LOG", log));
    let text = std::fs::read_to_string(log).unwrap();
    let call = |line: &str| {
        let mut parts = line.splitn(3, ' ').skip(1);
        Call { name: parts.next().unwrap().to_owned(), path: PathBuf::from(parts.next().unwrap()) }
    };
    text.lines().map(call).collect()
}

/// The library, made once a run of the tests.
pub fn library() -> PathBuf {
    let dir = PathBuf::from(crate::common::var("PGVIGIL_TEST_TMP"));
    let made = dir.join("inject.so");
    if !made.exists() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/inject.c");
        let aside = dir.join(format!("inject-{}.so", std::process::id()));
        must(Command::new("gcc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&aside).arg(source).arg("-ldl"));
        std::fs::rename(aside, &made).unwrap();
    }
    made
}
