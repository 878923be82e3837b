//! The containers that asked for a backup by their labels, as a daemon last knew them. A file that a
//! person can read, and remove: the next look makes it anew, but for what is gone.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::config::labels::Labelled;
use crate::error::{Error, Kind, Result, plain_io};

const FILE: &str = "discovered.json";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discovered {
    pub containers: Vec<Labelled>,
    /// Since when the Engine does not answer, and what it says.
    pub lost: Option<(DateTime<Utc>, String)>,
}

impl Discovered {
    /// What is known; nothing, if there is no such file or it is damaged.
    pub fn read(state_dir: &Path) -> Self {
        let text = std::fs::read(state_dir.join(FILE)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// # Errors
    /// The file cannot be written; the one before stays.
    pub fn write(&self, state_dir: &Path) -> Result<()> {
        let (path, aside) = (state_dir.join(FILE), state_dir.join(format!("{FILE}.new")));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
            file.write_all(&serde_json::to_vec_pretty(self).unwrap_or_default())?;
            file.sync_all()?;
            std::fs::rename(&aside, &path)
        })();
        written.map_err(|error| Error::new(Kind::System, format!("cannot write {}: {}", path.display(), plain_io(&error))))
    }
}
