//! What is wrong with the copies of a backup in its other stores: a pure function of what is on record,
//! what is in the stores, and now.

use chrono::{DateTime, TimeDelta, Utc};

use super::problems::{Problem, time};
use crate::catalog::{Id, Rung};
use crate::config::plan::Backup;
use crate::config::values::Name;
use crate::host::printable;
use crate::state::{Outcome, Run};

/// A copy follows its backup in moments. One that nobody makes for so long is told, also if nothing failed.
const BEHIND_AFTER: TimeDelta = TimeDelta::hours(6);

/// How a backup stands in a store that it is copied to.
#[derive(Debug, Clone)]
pub struct CopyFacts {
    pub store: Name,
    /// The store gives no answer: what it holds is what it held.
    pub silent: bool,
    /// The newest good copy there, the moment that it shows, and its rung there.
    pub newest: Option<(Id, DateTime<Utc>, Rung)>,
    /// How many backups it still has to receive.
    pub awaited: usize,
    /// When the newest of them was finished.
    pub newest_awaited_at: Option<DateTime<Utc>>,
    pub copying: bool,
    /// The last copy that says how things stand.
    pub last: Option<Run>,
}

/// Key of the alert about the copies of a backup in a store.
pub fn key(backup: &str, store: &str) -> String {
    format!("backup/{backup}/copy/{store}")
}

/// What is wrong with the copies of a backup in one store. That the store gives no answer is told by
/// itself.
pub fn of_copies(backup: &Backup, copy: &CopyFacts, now: DateTime<Utc>) -> Option<Problem> {
    let awaited_at = copy.newest_awaited_at.filter(|_| !copy.silent)?;
    let failed = copy.last.as_ref().filter(|last| last.outcome.as_deref() == Some(Outcome::Failed.as_str()));
    let (name, store) = (&backup.name, &copy.store);
    let many = if copy.awaited == 1 { "1 backup".to_owned() } else { format!("{} backups", copy.awaited) };
    let (since, summary, details) = match failed {
        Some(run) => {
            let error = printable(run.error.as_deref().unwrap_or_default());
            let (first, rest) = error.split_once('\n').unwrap_or((&error, ""));
            let since = run.finished_at.unwrap_or(run.started_at);
            (since, format!("backup {name} cannot be copied to store {store}: {first}"), rest.to_owned())
        }
        None if !copy.copying && now - awaited_at > BEHIND_AFTER => {
            (awaited_at, format!("store {store} waits for {many} of {name}, and nobody copies"), String::new())
        }
        None => return None,
    };
    let newest = match &copy.newest {
        Some((id, taken_at, rung)) => format!("{id} ({rung}), taken {}", time(*taken_at, backup.timezone)),
        None => "none: nothing good is there".to_owned(),
    };
    Some(Problem {
        key: key(name.as_str(), store.as_str()),
        since,
        summary,
        details,
        facts: vec![
            ("Backup", name.to_string()),
            ("Store", store.to_string()),
            ("Still to come", many),
            ("Newest there", newest),
            ("Meanwhile", "the copies in the other stores stay until it has what it would keep".to_owned()),
        ],
        commands: vec![format!("pgvigil history {name}"), format!("pgvigil list {name}"), "pgvigil check".to_owned()],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::due::Job;

    #[test]
    fn what_is_told() {
        let text = "[servers.main]\nhost = \"x\"\n[stores.a]\npath = \"/a\"\n[stores.b]\npath = \"/b\"\n[backups.x]\ndatabase = \"x\"\nstores = [\"a\", \"b\"]\n";
        let plan = crate::config::parse(text, std::path::Path::new("x")).unwrap();
        let now: DateTime<Utc> = "2024-01-15T12:00:00Z".parse().unwrap();
        let run = |outcome: &str| Run {
            backup: "x".into(),
            kind: Job::Copy,
            slot: None,
            started_at: now - TimeDelta::minutes(10),
            finished_at: Some(now - TimeDelta::minutes(9)),
            outcome: Some(outcome.into()),
            error: Some("no such bucket\nHINT: make it".into()),
            id: None,
            target: Some("b".into()),
            lock: None,
        };
        let facts = |awaited: usize, hours: i64, copying, silent, outcome: Option<&str>| CopyFacts {
            store: "b".parse().unwrap(),
            silent,
            newest: None,
            awaited,
            newest_awaited_at: (awaited > 0).then(|| now - TimeDelta::hours(hours)),
            copying,
            last: outcome.map(run),
        };
        for (copy, expected) in [
            (facts(0, 0, false, false, None), None),
            // What failed before and has come since is over.
            (facts(0, 0, false, false, Some("failed")), None),
            (facts(1, 1, false, false, None), None),
            (facts(1, 1, false, false, Some("failed")), Some("backup x cannot be copied to store b: no such bucket")),
            // It is tried again just now: told until it is there.
            (facts(1, 1, true, false, Some("failed")), Some("backup x cannot be copied to store b: no such bucket")),
            (facts(1, 1, false, true, Some("failed")), None),
            (facts(2, 7, false, false, Some("ok")), Some("store b waits for 2 backups of x, and nobody copies")),
            (facts(2, 7, true, false, Some("ok")), None),
        ] {
            let problem = of_copies(&plan.backups["x"], &copy, now);
            assert_eq!(problem.as_ref().map(|problem| problem.summary.as_str()), expected, "{copy:?}");
            assert!(problem.is_none_or(|problem| problem.key == "backup/x/copy/b"));
        }
    }
}
