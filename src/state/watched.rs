//! What the daemon saw last of the log of a backup.

use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::physical::lag::Figures;

/// What was seen longer ago says nothing any more.
const FRESH_FOR: TimeDelta = TimeDelta::minutes(10);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    pub at: DateTime<Utc>,
    /// Since when something is wrong; now, where nothing is.
    pub since: DateTime<Utc>,
    /// One line each.
    pub problems: Vec<String>,
    #[serde(default)]
    pub figures: Figures,
}

impl Watched {
    fn path(state_dir: &Path, backup: &str) -> PathBuf {
        state_dir.join(format!("wal-{backup}.json"))
    }

    /// What was seen. `None`: nobody has looked, or not for long.
    pub fn read(state_dir: &Path, backup: &str, now: DateTime<Utc>) -> Option<Self> {
        let watched: Watched = serde_json::from_slice(&std::fs::read(Self::path(state_dir, backup)).ok()?).ok()?;
        (now - watched.at <= FRESH_FOR).then_some(watched)
    }

    /// Notes what is seen now.
    ///
    /// # Errors
    /// `state_dir` cannot be written.
    pub fn note(state_dir: &Path, backup: &str, problems: Vec<String>, figures: Figures, now: DateTime<Utc>) -> Result<()> {
        let before = Self::read(state_dir, backup, now).filter(|before| !before.problems.is_empty() && !problems.is_empty());
        let watched = Watched { at: now, since: before.map_or(now, |before| before.since), problems, figures };
        let (path, bytes) = (Self::path(state_dir, backup), serde_json::to_vec(&watched).unwrap_or_default());
        let aside = path.with_extension("new");
        let written = std::fs::write(&aside, bytes).and_then(|()| std::fs::rename(&aside, &path));
        written.map_err(|error| Error::system(format_args!("cannot write {}", path.display()), &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_wrong_since_it_was_seen_first() {
        let dir = tempfile::tempdir().unwrap();
        let at = |minute: i64| DateTime::UNIX_EPOCH + TimeDelta::minutes(minute);
        let note = |problems: &[&str], minute| {
            let problems = problems.iter().map(|problem| (*problem).to_owned()).collect();
            Watched::note(dir.path(), "c", problems, Figures::default(), at(minute)).unwrap();
            Watched::read(dir.path(), "c", at(minute)).unwrap().since
        };
        assert_eq!(note(&["a"], 1), at(1));
        assert_eq!(note(&["a", "b"], 2), at(1));
        assert_eq!(note(&[], 3), at(3));
        assert_eq!(note(&["a"], 4), at(4));
        assert_eq!(Watched::read(dir.path(), "c", at(60)), None);
        assert_eq!(Watched::read(dir.path(), "d", at(4)), None);
    }
}
