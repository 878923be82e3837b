//! What one word says of a backup, and one line of all of them.

use chrono::{DateTime, Utc};

use super::freshness::{Freshness, freshness};
use super::{Record, Status};
use crate::catalog::Rung;
use crate::config::plan::Plan;
use crate::schedule::due::unproven_at;

/// How a backup stands. The order is that of who is looked at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Word {
    /// An alert about it is open, or it is late.
    Look,
    /// There is none yet, and none is due.
    Waiting,
    /// It is fresh and was read back, but no drill has restored one of late.
    Sound,
    /// It is fresh, and the drills that are wanted have restored one.
    Proven,
}

impl Word {
    pub fn as_str(self) -> &'static str {
        match self {
            Word::Look => "needs a look",
            Word::Waiting => "no backup yet",
            Word::Sound => "sound",
            Word::Proven => "proven",
        }
    }
}

/// The word for one backup.
pub fn of_backup(plan: &Plan, record: &Record, status: &Status, now: DateTime<Utc>) -> Word {
    let Some(backup) = plan.backups.get(&record.name) else { return Word::Look };
    let prefix = format!("backup/{}/", record.name);
    let fresh = freshness(backup, record.fresh, now);
    if !fresh.is_healthy() || status.alerts.iter().any(|alert| alert.key.starts_with(&prefix)) {
        return Word::Look;
    }
    let Some(newest) = record.kept.iter().find(|kept| kept.rung.is_good() && kept.taken_at <= now) else {
        return if matches!(fresh, Freshness::Waited(_)) { Word::Waiting } else { Word::Look };
    };
    // Between two drills the newest backup is only readable; the one that was drilled speaks for it.
    let by_drills = record.proven_at.is_some_and(|at| unproven_at(backup, at).is_some_and(|end| now <= end));
    if newest.rung >= Rung::Restored || by_drills { Word::Proven } else { Word::Sound }
}

/// The line that stands above all: whether it is well, in words.
pub fn headline(words: &[(&str, Word)], status: &Status) -> (bool, String) {
    let looks: Vec<&str> = words.iter().filter(|(_, word)| *word == Word::Look).map(|(name, _)| *name).collect();
    let of = |word| words.iter().filter(|(_, found)| *found == word).count();
    let (total, proven, waiting) = (words.len(), of(Word::Proven), of(Word::Waiting));
    let line = match looks[..] {
        [one] if total == 1 => format!("{one} needs a look"),
        [one] => format!("{one} needs a look, the other {} well", if total == 2 { "is".to_owned() } else { format!("{} are", total - 1) }),
        [] if total == 0 => "no backup is configured".to_owned(),
        [] if waiting == total => "no backup yet, and none is due".to_owned(),
        [] => {
            let what = if proven == total - waiting { "proven" } else { "sound" };
            match total {
                1 => format!("the backup is {what}"),
                _ if waiting > 0 => format!("{} of {total} backups are {what}, {waiting} not due yet", total - waiting),
                2 => format!("both backups are {what}"),
                _ => format!("all {total} backups are {what}"),
            }
        }
        _ => format!("{} of {total} backups need a look", looks.len()),
    };
    let beside = status.alerts.iter().filter(|alert| !alert.key.starts_with("backup/")).count();
    let is_well = looks.is_empty() && status.healthy;
    if looks.is_empty() && !status.healthy {
        let what = match (beside, status.alerts.first()) {
            (1, Some(alert)) => alert.key.split('/').take(2).collect::<Vec<_>>().join(" "),
            (0, _) => "the outbox".to_owned(),
            _ => format!("{beside} other things"),
        };
        let verb = if beside > 1 { "need" } else { "needs" };
        return (false, format!("{line}, but {what} {verb} a look"));
    }
    (is_well, line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Alert, Config, Daemon, Outbox};

    fn status(keys: &[&str], unsent: bool) -> Status {
        let alert = |key: &&str| Alert { key: (*key).to_owned(), since: DateTime::default(), summary: String::new() };
        Status {
            healthy: keys.is_empty() && !unsent,
            daemon: Daemon { running: true },
            config: Config { loaded_at: None, error: None, changed_at: None, changes: Vec::new() },
            backups: vec![],
            stores: vec![],
            alerts: keys.iter().map(alert).collect(),
            outbox: Outbox { pending: 0, held: 0, last_error: unsent.then(|| "no".to_owned()) },
            orphaned: vec![],
            warnings: vec![],
        }
    }

    #[test]
    fn one_line_says_it_all() {
        use Word::{Look, Proven, Sound, Waiting};
        for (words, keys, unsent, expected) in [
            (&[][..], &[][..], false, (true, "no backup is configured")),
            (&[Proven], &[], false, (true, "the backup is proven")),
            (&[Sound], &[], false, (true, "the backup is sound")),
            (&[Proven, Proven], &[], false, (true, "both backups are proven")),
            (&[Proven, Proven, Proven], &[], false, (true, "all 3 backups are proven")),
            (&[Proven, Sound, Proven], &[], false, (true, "all 3 backups are sound")),
            (&[Proven, Waiting, Proven], &[], false, (true, "2 of 3 backups are proven, 1 not due yet")),
            (&[Waiting, Waiting], &[], false, (true, "no backup yet, and none is due")),
            (&[Look], &["backup/a/failed"], false, (false, "a needs a look")),
            (&[Look, Proven], &["backup/a/failed"], false, (false, "a needs a look, the other is well")),
            (&[Proven, Look, Sound], &["backup/b/failed"], false, (false, "b needs a look, the other 2 are well")),
            (&[Look, Look, Sound], &["backup/a/failed", "store/s/disk"], false, (false, "2 of 3 backups need a look")),
            (&[Proven, Proven], &["store/s/disk"], false, (false, "both backups are proven, but store s needs a look")),
            (&[Proven], &["store/s/disk", "config/reload"], false, (false, "the backup is proven, but 2 other things need a look")),
            (&[Proven], &[], true, (false, "the backup is proven, but the outbox needs a look")),
        ] {
            let names = ["a", "b", "c"];
            let words: Vec<(&str, Word)> = names.into_iter().zip(words.iter().copied()).collect();
            let (is_well, line) = headline(&words, &status(keys, unsent));
            assert_eq!((is_well, line.as_str()), expected, "{words:?} {keys:?}");
        }
    }
}
