//! What is wrong: a pure function of what is on record, what is in the stores, and now. Nothing has
//! to be remembered between two looks, so no crash can make it forgotten.

use std::collections::BTreeMap;
use std::path::Path;

use chrono::{DateTime, Utc};

use super::drills;
use crate::catalog::{Catalog, Entry, Id, Proof, Rung};
use crate::config::file::Want;
use crate::config::labels::LabelFault;
use crate::config::plan::{Backup, Store};
use crate::config::values::Name;
use crate::error::Error;
use crate::host::disk::Usage;
use crate::host::printable;
use crate::schedule::due::stale_at;
use crate::state::pings::FailedPing;
use crate::state::watched::Watched;
use crate::state::{Outcome, Run};

/// One thing that is wrong, as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Such as `backup/euem_db/failed`.
    pub key: String,
    pub since: DateTime<Utc>,
    /// One line.
    pub summary: String,
    /// The last lines of what a program said; may be empty.
    pub details: String,
    /// What a person on call wants to know beside it.
    pub facts: Vec<(&'static str, String)>,
    /// Where to look further.
    pub commands: Vec<String>,
}

/// What is known of a backup.
#[derive(Clone, Copy)]
pub struct BackupFacts<'a> {
    pub backup: &'a Backup,
    pub catalog: &'a Catalog,
    /// The last run that says how things stand.
    pub last: Option<&'a Run>,
    /// Since when its schedule is known.
    pub since: Option<DateTime<Utc>>,
    pub running: bool,
    /// When the run began that is under way.
    pub running_since: Option<DateTime<Utc>>,
    /// The slot that failed will be tried again.
    pub retrying: bool,
    /// A slot on record that is still to come.
    pub future_slot: Option<DateTime<Utc>>,
    /// The last drill that says how things stand.
    pub last_drill: Option<&'a Run>,
    /// Since when the schedule of its drills is known.
    pub drills_since: Option<DateTime<Utc>>,
    /// When the drill of it began that is under way.
    pub drilling_since: Option<DateTime<Utc>>,
}

impl BackupFacts<'_> {
    /// The newest good backup that is not from the future.
    pub fn newest_good(&self, now: DateTime<Utc>) -> Option<&Entry> {
        self.past(now).find(|entry| entry.rung().is_good())
    }

    pub(super) fn past(&self, now: DateTime<Utc>) -> impl Iterator<Item = &Entry> {
        let name = self.backup.name.as_str();
        self.catalog.entries.iter().filter(move |entry| entry.id.backup == name && entry.manifest.taken_at <= now && entry.counts())
    }

    pub(super) fn problem(&self, kind: &str, since: DateTime<Utc>, summary: String, now: DateTime<Utc>) -> Problem {
        let name = &self.backup.name;
        let newest = match self.newest_good(now) {
            Some(entry) => format!(
                "{} ({}), taken {}, {} ago",
                entry.id,
                entry.rung(),
                time(entry.manifest.taken_at, self.backup.timezone),
                age((now - entry.manifest.taken_at).num_seconds())
            ),
            None => "none: there is no good backup".to_owned(),
        };
        Problem {
            key: format!("backup/{name}/{kind}"),
            since,
            summary,
            details: String::new(),
            facts: vec![("Backup", name.to_string()), ("Server", self.backup.server.to_string()), ("Newest good backup", newest)],
            commands: vec![format!("pgvigil history {name}"), format!("pgvigil list {name}")],
        }
    }
}

/// What is wrong with a backup.
pub fn of_backup(facts: &BackupFacts<'_>, now: DateTime<Utc>) -> Vec<Problem> {
    let unproven = unproven(facts, now).or_else(|| drills::unproven(facts, now));
    let found = [
        failed(facts, now),
        stale(facts, now),
        unproven,
        unsigned(facts, now),
        future(facts, now),
        drills::drill(facts, now),
        drills::budget(facts, now),
    ];
    found.into_iter().flatten().collect()
}

/// The log of a physical backup is not whole, or does not come.
pub fn log_of(backup: &Backup, watched: &Watched) -> Option<Problem> {
    let name = &backup.name;
    let first = watched.problems.first()?;
    Some(Problem {
        key: format!("backup/{name}/wal"),
        since: watched.since,
        summary: format!("the log of backup {name}: {first}"),
        details: watched.problems[1..].join("\n"),
        facts: vec![("Backup", name.to_string()), ("Server", backup.server.to_string())],
        commands: vec![format!("pgvigil wal status --backup {name}")],
    })
}

/// Labels of a container that cannot be obeyed.
pub fn faulty_labels(fault: &LabelFault, now: DateTime<Utc>) -> Problem {
    let container = &fault.container;
    Problem {
        key: format!("container/{container}/labels"),
        since: now,
        summary: format!("labels of container {container} are faulty: it asks for a backup and gets none"),
        details: fault.told.clone(),
        facts: vec![("Container", container.clone())],
        commands: vec![format!("docker inspect {container}"), "pgvigil check".to_owned()],
    }
}

/// Key of the alert about an Engine whose containers cannot be followed.
pub const DISCOVERY: &str = "discovery/engine";

/// Nobody hears of new containers.
pub fn lost_engine(docker: &str, since: DateTime<Utc>, why: String) -> Problem {
    Problem {
        key: DISCOVERY.to_owned(),
        since,
        summary: format!("the Docker Engine at {docker} cannot be followed: new containers are not seen"),
        details: why,
        facts: vec![("Engine", docker.to_owned())],
        commands: vec!["pgvigil check".to_owned()],
    }
}

/// An edit of `keep` would delete more than before, and waits for a person.
pub fn held_retention(backup: &Backup, summary: String, held: &BTreeMap<Name, Vec<Id>>, now: DateTime<Utc>) -> Problem {
    let name = &backup.name;
    let lines = held.iter().flat_map(|(store, ids)| ids.iter().map(move |id| format!("{id} in store {store}")));
    Problem {
        key: format!("backup/{name}/retention"),
        since: now,
        summary,
        details: format!("Would go, and was kept before:\n{}", lines.collect::<Vec<_>>().join("\n")),
        facts: vec![("Backup", name.to_string())],
        commands: vec![format!("pgvigil prune {name} --dry-run"), format!("pgvigil prune {name}")],
    }
}

/// What cannot be told yet: it would be wrong, but for a run under way or one that is tried again.
/// An alert of it is no news, and not over either.
pub fn undecided(facts: &BackupFacts<'_>, found: &[Problem], now: DateTime<Utc>) -> Vec<String> {
    let at_rest = BackupFacts { running: false, running_since: None, retrying: false, drilling_since: None, ..*facts };
    let keys = of_backup(&at_rest, now).into_iter().map(|problem| problem.key);
    keys.filter(|key| !found.iter().any(|problem| problem.key == *key)).collect()
}

/// Its last run failed, was broken off, or ended with something that needs a look.
fn failed(facts: &BackupFacts<'_>, now: DateTime<Utc>) -> Option<Problem> {
    let run = facts.last?;
    let outcome = run.outcome.as_deref()?;
    let name = &facts.backup.name;
    let (kind, what) = match outcome {
        _ if outcome == Outcome::Interrupted.as_str() => ("failed", "was interrupted"),
        _ if outcome == Outcome::Ok.as_str() || facts.retrying => return None,
        _ if outcome == Outcome::Problems.as_str() => ("problems", "has problems"),
        _ if outcome == Outcome::Cancelled.as_str() => ("failed", "was cancelled"),
        _ => ("failed", "failed"),
    };
    let error = printable(run.error.as_deref().unwrap_or_default());
    let (first, rest) = error.split_once('\n').unwrap_or((&error, ""));
    let mut problem = facts.problem(kind, run.finished_at.unwrap_or(run.started_at), format!("backup {name} {what}: {first}"), now);
    rest.clone_into(&mut problem.details);
    if let Some(slot) = run.slot {
        problem.facts.push(("Slot", time(slot, facts.backup.timezone)));
    }
    if outcome != Outcome::Problems.as_str() {
        problem.commands.push(format!("pgvigil run {name}"));
    }
    Some(problem)
}

/// Its newest good backup is too old, even if nothing ran.
fn stale(facts: &BackupFacts<'_>, now: DateTime<Utc>) -> Option<Problem> {
    let name = &facts.backup.name;
    let newest = facts.newest_good(now).map(|entry| entry.manifest.taken_at);
    let since = stale_at(facts.backup, newest.or(facts.since)?)?;
    // A run under way may be the cure, unless it lasts as long itself.
    let is_cure = |began| stale_at(facts.backup, began).is_none_or(|hopeless| now <= hopeless);
    if now <= since || facts.backup.max_age.is_none() && facts.running_since.is_some_and(is_cure) {
        return None;
    }
    let summary = match newest {
        Some(taken_at) => format!("backup {name} is too old: the newest good one is {} old", age((now - taken_at).num_seconds())),
        None => format!("backup {name} has no good backup yet"),
    };
    Some(facts.problem("stale", since, summary, now))
}

/// Its newest backup has not reached the rung that is wanted, or one has lost its rung.
fn unproven(facts: &BackupFacts<'_>, now: DateTime<Utc>) -> Option<Problem> {
    let name = &facts.backup.name;
    // What drills prove comes later than the backup, at their slots.
    let is_drilled = facts.backup.drill_schedule().is_some();
    let want = wanted(facts.backup.want).min(if is_drilled { Rung::Readable } else { Rung::Matched });
    let unreadable = facts.catalog.unreadable.iter().find(|(id, _)| id.backup == name.as_str());
    if let Some((id, error)) = unreadable {
        return Some(facts.problem(
            "unproven",
            id.label.slot().min(now),
            format!("backup {id} cannot be read: {}", printable(&error.message)),
            now,
        ));
    }
    let lost = facts.past(now).find_map(|entry| {
        let proof = entry.copies.values().find(|proofs| proofs.last().is_some_and(|last| last.rung == Rung::Bad))?.last()?;
        Some((entry, proof))
    });
    if let Some((entry, proof)) = lost {
        let compared = proof.drill.as_ref().and_then(|drill| drill.compared.as_ref());
        let mismatches: Vec<String> = compared.iter().flat_map(|compared| &compared.mismatches).map(ToString::to_string).collect();
        let (why, looked_by) = match (proof.by == Proof::BY_DRILL, mismatches.is_empty()) {
            (true, false) => ("it restores, and is not what was there", "show"),
            (true, true) => ("it does not restore", "show"),
            (false, _) => ("what is stored is not what was written", "verify"),
        };
        let mut problem = facts.problem("unproven", proof.at.min(now), format!("backup {} is bad: {why}", entry.id), now);
        problem.details = printable(&[proof.errors.clone(), mismatches].concat().join("\n"));
        problem.commands.push(format!("pgvigil {looked_by} {}", entry.id));
        return Some(problem);
    }
    let newest = facts.past(now).next()?;
    // Between its commit and its proof.
    if newest.rung() >= want || facts.running {
        return None;
    }
    let summary = format!("backup {} is only {}, and {} is wanted", newest.id, newest.rung(), want);
    let mut problem = facts.problem("unproven", newest.manifest.finished_at.min(now), summary, now);
    problem.commands.push(format!("pgvigil verify {}", newest.id));
    Some(problem)
}

/// Somebody nobody knows writes to a store. What is from before signing is no news.
fn unsigned(facts: &BackupFacts<'_>, now: DateTime<Utc>) -> Option<Problem> {
    let (name, catalog) = (facts.backup.name.as_str(), facts.catalog);
    let foreign = |entry: &&Entry| entry.id.backup == name && !entry.counts() && !catalog.is_from_before_signing(entry);
    let found: Vec<&Entry> = catalog.entries.iter().filter(foreign).collect();
    let newest = found.first()?;
    let count = if found.len() == 1 { "a backup".to_owned() } else { format!("{} backups", found.len()) };
    let since = found.iter().map(|entry| entry.id.label.slot()).min().unwrap_or(now).min(now);
    let summary = format!("{count} of {name} that nobody known has signed: {} is {}", newest.id, newest.signed());
    let mut problem = facts.problem("unsigned", since, summary, now);
    problem.facts.push(("Meanwhile", "they count for nothing: no latest, no rung, no place in retention".to_owned()));
    problem.commands.push(format!("pgvigil show {}", newest.id));
    Some(problem)
}

/// A dead-man's switch that did not hear of a run.
pub fn of_ping(ping: &FailedPing) -> Problem {
    let name = &ping.backup;
    Problem {
        key: format!("ping/{name}/failed"),
        since: ping.since,
        summary: format!("ping of backup {name} was not taken: {}", printable(&ping.error)),
        details: String::new(),
        facts: vec![("Backup", name.clone())],
        commands: vec![format!("pgvigil history {name}"), "pgvigil check".to_owned()],
    }
}

/// Something of it is dated in the future: a clock was wrong, or is.
fn future(facts: &BackupFacts<'_>, now: DateTime<Utc>) -> Option<Problem> {
    let name = facts.backup.name.as_str();
    let is_ahead = |entry: &&Entry| entry.id.backup == name && entry.manifest.taken_at > now && entry.counts();
    let entry = facts.catalog.entries.iter().find(is_ahead);
    let what = match (entry, facts.future_slot) {
        (Some(entry), _) => format!("backup {} is dated in the future", entry.id),
        (None, Some(slot)) => {
            format!("a run of backup {name} is on record for {}, which is in the future", time(slot, facts.backup.timezone))
        }
        (None, None) => return None,
    };
    let mut problem = facts.problem("future", now, format!("{what}: a clock was wrong, or is"), now);
    problem.facts.push(("This machine's clock", now.format("%Y-%m-%d %H:%M:%S UTC").to_string()));
    problem.facts.push(("Meanwhile", "the schedule goes on; what is dated in the future is neither counted nor deleted".to_owned()));
    Some(problem)
}

/// The rung that is wanted. Rungs above `readable` are earned by drills.
pub fn wanted(want: Want) -> Rung {
    match want {
        Want::Written => Rung::Written,
        Want::Readable => Rung::Readable,
        Want::Restored => Rung::Restored,
        Want::Matched => Rung::Matched,
    }
}

/// How far below its threshold a file system must fall before it counts as mended, in percent, so
/// that it is not told again with every file.
const MENDED_BELOW: u8 = 2;

/// What is wrong with a store's disk. `open`: an alert of it is open.
pub fn of_store(store: &Store, usage: Result<&Usage, &Error>, open: bool, now: DateTime<Utc>) -> Option<Problem> {
    let name = &store.name;
    let limit = store.alert_above_percent;
    let problem = |summary: String, facts| Problem {
        key: format!("store/{name}/disk"),
        since: now,
        summary,
        details: String::new(),
        facts,
        commands: vec!["pgvigil status".to_owned(), "pgvigil prune --dry-run".to_owned(), "df -h".to_owned()],
    };
    match usage {
        Ok(usage) => {
            let percent = usage.percent();
            let is_full = percent > limit || open && percent > limit.saturating_sub(MENDED_BELOW.min(limit / 2));
            is_full.then(|| {
                let mut facts = vec![("Store", name.to_string()), ("Used", format!("{percent} % ({limit} % is the threshold)"))];
                facts.push(("Available", format!("{} MB", usage.available / 1_000_000)));
                if let Some((mount, kind)) = &usage.mount {
                    facts.push(("File system", format!("{kind} on {}", mount.display())));
                }
                problem(format!("store {name} is {percent} % full"), facts)
            })
        }
        Err(error) => Some(problem(
            format!("the disk of store {name} cannot be looked at: {}", printable(&error.message)),
            vec![("Store", name.to_string())],
        )),
    }
}

/// A store that cannot be read.
pub fn unreadable_store(name: &str, error: &Error, now: DateTime<Utc>) -> Problem {
    Problem {
        key: format!("store/{name}/unreadable"),
        since: now,
        summary: format!("store {name} cannot be read: {}", printable(error.message.lines().next().unwrap_or_default())),
        details: String::new(),
        facts: vec![("Store", name.to_owned())],
        commands: vec!["pgvigil check".to_owned()],
    }
}

/// The key of [`unusable_history`].
pub const HISTORY: &str = "state/history";

/// The history cannot be read or written: nothing runs by itself, or its end is forgotten.
pub fn unusable_history(state_dir: &Path, error: &Error, now: DateTime<Utc>) -> Problem {
    Problem {
        key: HISTORY.to_owned(),
        since: now,
        summary: format!("no run can be put on record: {}", printable(error.message.lines().next().unwrap_or_default())),
        details: error.hint.clone().unwrap_or_default(),
        facts: vec![("state_dir", state_dir.display().to_string())],
        commands: vec![format!("df -h {}", state_dir.display()), "pgvigil history".to_owned()],
    }
}

/// The alerts cannot be read or written: whatever else is wrong, nobody would be told.
pub fn unusable_alerts(state_dir: &Path, error: &Error, now: DateTime<Utc>) -> Problem {
    Problem {
        key: "state/alerts".to_owned(),
        since: now,
        summary: format!("no alert can be kept: {}", printable(error.message.lines().next().unwrap_or_default())),
        details: format!("until this is mended nothing else that is wrong is told\n{}", error.hint.as_deref().unwrap_or_default()),
        facts: vec![("state_dir", state_dir.display().to_string())],
        commands: vec![format!("df -h {}", state_dir.display()), "pgvigil status".to_owned()],
    }
}

/// A moment in a zone, with its offset.
pub fn time(time: DateTime<Utc>, zone: chrono_tz::Tz) -> String {
    time.with_timezone(&zone).format("%Y-%m-%d %H:%M:%S %:z").to_string()
}

/// An age for people: its two largest units.
pub fn age(secs: i64) -> String {
    let secs = secs.max(0);
    match secs {
        0..60 => format!("{secs} s"),
        60..3_600 => format!("{} min", secs / 60),
        3_600..86_400 => format!("{} h {} min", secs / 3_600, secs % 3_600 / 60),
        _ => format!("{} d {} h", secs / 86_400, secs % 86_400 / 3_600),
    }
}
