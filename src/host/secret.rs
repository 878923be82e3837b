//! Secrets: read where the file says, shown nowhere.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::values::Given;
use crate::error::{Error, Kind, Result, plain_io};

/// Where systemd keeps the credentials of a unit of ours, for a command that root runs beside it.
const UNIT_CREDENTIALS: &str = "/run/credentials/pgvigil.service";

/// A secret in memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The secret itself, for the one who must send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Reads a value from where it is given. The line end of a file is not part of it.
///
/// # Errors
/// The variable is not set, or the file cannot be read.
pub fn resolve(key: &str, given: &Given) -> Result<Secret> {
    match given {
        Given::Literal(text) => Ok(Secret::new(text)),
        Given::Env(name) => std::env::var(name).map(Secret).map_err(|_| {
            Error::new(Kind::Secret, format!("{key}: the environment variable {name} is not set"))
                .hint(format!("set it: {name}=... pgvigil ..., or write {key} = {{ file = \"PATH\" }}"))
        }),
        Given::File(path) => read(key, path),
        Given::Credential(name) => match credential_dirs().map(|dir| dir.join(name)).find(|path| path.exists()) {
            Some(path) => read(key, &path),
            None => Err(Error::new(Kind::Secret, format!("{key}: there is no credential {name:?}"))
                .hint(format!("add LoadCredential={name}:PATH to the unit, or write {key} = {{ file = \"PATH\" }}"))),
        },
    }
}

/// Where a credential may lie.
fn credential_dirs() -> impl Iterator<Item = PathBuf> {
    let given = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    // The check of a reload: systemd 252 tells it the folder, and hides what is in it from the first
    // command beside the main process.
    let of_main = std::env::var("MAINPID").ok().filter(|pid| pid.parse::<u32>().is_ok());
    let of_main = of_main.map(|pid| PathBuf::from(format!("/proc/{pid}/root{UNIT_CREDENTIALS}")));
    given.into_iter().chain([PathBuf::from(UNIT_CREDENTIALS)]).chain(of_main)
}

fn read(key: &str, path: &Path) -> Result<Secret> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let text = text.strip_suffix('\n').unwrap_or(&text);
            Ok(Secret::new(text.strip_suffix('\r').unwrap_or(text)))
        }
        Err(error) => Err(Error::new(Kind::Secret, format!("{key}: cannot read {}: {}", path.display(), plain_io(&error)))
            .hint("write the secret into that file, mode 0600, readable by the user that pgvigil runs as")),
    }
}
