//! Restores under way: what each has made that must not outlive it. Whoever comes later can tell
//! the dead ones by their lock, and knows what was theirs.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{State, unwritable};
use crate::error::Result;

/// What a restore of one database may leave on a server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traces {
    /// The server's name in the file.
    pub server: String,
    pub tag: String,
    /// Databases that are ours while they carry [`Traces::mark`].
    #[serde(default)]
    pub databases: Vec<String>,
    /// A database that nobody may connect to while the names are changed.
    #[serde(default)]
    pub barred: Option<String>,
}

impl Traces {
    /// The comment on a database that is ours to remove.
    pub fn mark(&self) -> String {
        format!("pgvigil restore {}: not complete, or no longer needed; removed by the next run", self.tag)
    }
}

/// A restore on record, under lock as long as it lives.
#[derive(Debug)]
pub struct Record {
    file: File,
    path: PathBuf,
    pub traces: Traces,
}

impl Record {
    /// Puts down what is about to be there; durable when this returns.
    ///
    /// # Errors
    /// The disk takes no more.
    pub fn note(&mut self, traces: Traces) -> Result<()> {
        let mut line = serde_json::to_vec(&traces).unwrap_or_default();
        line.push(b'\n');
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_all());
        written.map_err(|error| unwritable(&self.path, &error))?;
        self.traces = traces;
        Ok(())
    }

    /// Nothing is left of it.
    pub fn end(self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot take a restore off the record");
        }
    }
}

impl State {
    fn restores(&self) -> PathBuf {
        self.dir.join("restores")
    }

    /// Puts a restore on record.
    ///
    /// # Errors
    /// `state_dir` cannot be written.
    pub fn begin_restore(&self, traces: Traces) -> Result<Record> {
        let dir = self.restores();
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|error| unwritable(&dir, &error))?;
        let path = dir.join(format!("{}.json", traces.tag));
        let opened = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path);
        let file = opened.map_err(|error| unwritable(&path, &error))?;
        file.lock().map_err(|error| unwritable(&path, &error))?;
        let mut record = Record { file, path, traces: Traces::default() };
        record.note(traces)?;
        Ok(record)
    }

    /// The restores on record that nobody carries out any more; each is the caller's now.
    ///
    /// # Errors
    /// `state_dir` cannot be read.
    pub fn dead_restores(&self) -> Result<Vec<Record>> {
        let dir = self.restores();
        let mut dead = Vec::new();
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(mut file) = OpenOptions::new().read(true).append(true).open(&path) else { continue };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(unwritable(&path, &error)),
            }
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(|error| unwritable(&path, &error))?;
            // A line that was cut was not acted upon.
            let last = text.lines().rev().find_map(|line| serde_json::from_str::<Traces>(line).ok());
            match last {
                Some(traces) => dead.push(Record { file, path, traces }),
                None => Record { file, path, traces: Traces::default() }.end(),
            }
        }
        Ok(dead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dead_are_told_from_the_living() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        assert!(state.dead_restores().unwrap().is_empty());
        let traces = Traces { server: "main".into(), tag: "pgvigil_0".into(), ..Traces::default() };
        let mut record = state.begin_restore(traces.clone()).unwrap();
        record.note(Traces { databases: vec!["x".into()], ..traces.clone() }).unwrap();
        assert!(state.dead_restores().unwrap().is_empty());
        record.file.write_all(b"{\"server\": \"ma").unwrap();
        drop(record);
        let dead = state.dead_restores().unwrap();
        assert_eq!(dead.len(), 1);
        assert_eq!(dead[0].traces.databases, ["x"]);
        assert!(state.dead_restores().unwrap().is_empty(), "each is one's own");
        dead.into_iter().for_each(Record::end);
        assert!(state.dead_restores().unwrap().is_empty());
        std::fs::write(dir.path().join("restores/pgvigil_1.json"), "").unwrap();
        assert!(state.dead_restores().unwrap().is_empty());
        assert!(!dir.path().join("restores/pgvigil_1.json").exists());
    }
}
