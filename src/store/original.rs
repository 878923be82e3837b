//! A file of somebody else: read, and never touched.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;

use super::Reader;
use super::direct::read_ahead;
use crate::error::{Error, Kind, Result, plain_io};

/// Opened with the rights of whoever named it; what is done with it later may be done with less.
#[derive(Debug)]
pub struct Original {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Original {
    /// # Errors
    /// It is not there, no plain file, or may not be read.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |why: &str| Error::new(Kind::System, format!("cannot read it: {why}"));
        // A pipe of that name would be waited for.
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK).open(path);
        let opened = opened.and_then(|file| Ok((file.metadata()?, file)));
        let (meta, file) = opened.map_err(|error| failed(&plain_io(&error)))?;
        if !meta.is_file() {
            return Err(failed("it is no plain file"));
        }
        Ok(Original { path: path.to_owned(), file, bytes: meta.len() })
    }

    /// The last part of its path, as text.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads it from its beginning. One reader at a time: they share a place in the file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn reader(&self) -> Result<Reader> {
        let again = self.file.try_clone().and_then(|mut file| file.seek(SeekFrom::Start(0)).map(|_| file));
        again.map(read_ahead).map_err(|error| Error::system("cannot read it", &error))
    }
}

/// Lets as many files be open as the system allows this user.
pub fn raise_limit_of_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
