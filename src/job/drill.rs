//! One drill, from the lock to the record. What is done to the copy is in `drill_copy.rs`.

use tokio_util::sync::CancellationToken;

use crate::catalog::{Catalog, DrillFacts, Entry, Id, Proof, Rung};
use crate::config::Plan;
use crate::config::plan::Backup;
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::host::clock;
use crate::job::drill_copy::{self, drill_copy};
use crate::job::progress::Progress;
use crate::job::run::{Order, find};
use crate::job::{keys, physical, stores, verify};
use crate::keys::Identities;
use crate::state::{CopyLock, DRILL, History, Lock, Outcome, State};
use crate::store::Store;
use crate::verify::stored::Stored;

/// What a drill found.
#[derive(Debug, Clone)]
pub struct Drilled {
    pub id: Id,
    /// With the rung in it.
    pub proof: Proof,
    /// Why it could not be verified, such as `install postgis`: nothing was found against the backup,
    /// and its rung stays as it was.
    pub unverified: Vec<String>,
}

/// How a drill ended.
#[derive(Debug, Clone)]
pub struct DrillReport {
    pub id: Id,
    /// `failed`: the backup is bad or differs. `problems`: it could not be verified.
    pub outcome: Outcome,
    /// Of the copy, now. `None`: the drill has proven nothing.
    pub rung: Option<Rung>,
    pub drill: Option<DrillFacts>,
    pub error: Option<Error>,
    /// What is worth knowing.
    pub warnings: Vec<String>,
    /// Why it could not be verified.
    pub problems: Vec<String>,
    pub seconds: f64,
}

impl DrillReport {
    /// Why it did not end well, as the history keeps it.
    pub fn why(&self) -> Option<String> {
        match &self.error {
            Some(error) => Some(error.message.clone()),
            None if self.problems.is_empty() => None,
            None => Some(self.problems.join("\n")),
        }
    }
}

/// One drill of the newest good backup, from the lock to the record.
///
/// # Errors
/// It did not begin: another drill holds the lock (`Busy`), there is no good backup, the plan asks for
/// what this version cannot do, or `state_dir` or the store cannot be used.
pub async fn run(plan: &Plan, backup: &str, order: Order, progress: &Progress, cancel: &CancellationToken) -> Result<DrillReport> {
    let backup = find(plan, backup)?;
    drill(plan, backup, backup.drill_store(), None, None, order, progress, cancel).await
}

/// One drill by hand, of the copy of a certain backup in a store. `given`: who opens what is
/// encrypted, in the place of whom the file names.
///
/// # Errors
/// As of [`run`].
pub async fn one(
    plan: &Plan,
    id: &Id,
    store: &Name,
    given: Option<Identities>,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<DrillReport> {
    drill(plan, find(plan, &id.backup)?, store, Some(id), given, Order::ByHand, progress, cancel).await
}

#[expect(clippy::too_many_arguments, reason = "what is drilled, by whom, and who looks on")]
async fn drill(
    plan: &Plan,
    backup: &Backup,
    store_name: &Name,
    wanted: Option<&Id>,
    given: Option<Identities>,
    order: Order,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<DrillReport> {
    let state = State::open(&plan.state_dir)?;
    let history = state.history()?;
    let Some(lock) = state.lock(DRILL)? else {
        return Err(Error::new(Kind::Busy, "another drill is under way").hint("wait for it; pgvigil history shows it"));
    };
    note_broken(&history, &lock)?;
    if let Err(error) = drill_copy::sweep(plan, &state).await {
        // What is left of another need not keep this one from its work.
        tracing::warn!(%error, "cannot remove what a former drill left; the next one tries again");
    }
    let store = stores::open(&plan.stores[store_name], state.owner())?;
    let (entry, _held) = pick(plan, &state, &*store, store_name, backup, wanted).await?;
    let before = entry.rung_in(store_name.as_str()).unwrap_or(Rung::Written);
    let started = std::time::Instant::now();
    let id = entry.id.to_string();
    let row = history.begin_drill(backup.name.as_str(), &id, clock::now(), order.slot())?;
    let found = async {
        let keys = keys::of(plan, &entry.manifest, given)?;
        let stored = Stored { store: &*store, id: &entry.id, manifest: &entry.manifest, keys: &keys };
        let found = if entry.manifest.physical.is_some() {
            physical::drill::drill(plan, backup, store_name, stored, &entry, before, progress, cancel).await?
        } else {
            drill_copy(plan, backup, stored, &entry, before, progress, cancel).await?
        };
        record(plan, &*store, store_name, found).await
    };
    let found = found.await;
    let mut report = reported(&entry.id, found);
    report.seconds = verify::round(started.elapsed().as_secs_f64());
    history.end(row, clock::now(), report.outcome, report.why().as_deref(), Some(&id), true)?;
    Ok(report)
}

/// So often a drill looks for a copy that is there; one that is being deleted is waited for.
const LOOKS: usize = 5;

/// The copy to drill, which nobody deletes while the lock lives.
async fn pick(
    plan: &Plan,
    state: &State,
    store: &dyn Store,
    store_name: &Name,
    backup: &Backup,
    wanted: Option<&Id>,
) -> Result<(Entry, CopyLock)> {
    // What is being deleted just now is gone at the next look.
    for _ in 0..LOOKS {
        let catalog = stores::catalog_of_one(plan, store, store_name.as_str(), Some(backup.name.as_str())).await?;
        let entry = newest(&catalog, store_name, wanted, clock::now()).ok_or_else(|| nothing_to_drill(backup, store_name, wanted))?;
        if !entry.counts_in(store_name.as_str()) {
            return Err(Error::unverifiable(format_args!(
                "{} is {}: it counts for nothing, whatever a drill finds",
                entry.id,
                entry.signed()
            ))
            .hint("add the public key of who has signed it to trusted_signers, if you know it"));
        }
        if let Some(held) = state.hold_copy_or_go_on(&entry.id).await?
            && stores::still_has(store, &entry.id).await?
        {
            return Ok((entry.clone(), held));
        }
    }
    Err(Error::new(Kind::Busy, format!("what would be drilled of {} is being deleted just now", backup.name)).hint("try again"))
}

/// The newest good copy that is not from the future, or the one that is asked for, be it good or not.
fn newest<'a>(catalog: &'a Catalog, store: &Name, wanted: Option<&Id>, now: chrono::DateTime<chrono::Utc>) -> Option<&'a Entry> {
    catalog.entries.iter().find(|entry| match wanted {
        Some(id) => entry.id == *id,
        None => entry.manifest.taken_at <= now && entry.rung_in(store.as_str()).is_some_and(Rung::is_good),
    })
}

fn nothing_to_drill(backup: &Backup, store: &Name, wanted: Option<&Id>) -> Error {
    let name = &backup.name;
    let error = match wanted {
        Some(id) => Error::new(Kind::NotFound, format!("{id} is not in store {store}")),
        None => Error::new(Kind::NotFound, format!("no backup of {name} in store {store} is readable: there is nothing to drill")),
    };
    error.hint(format!("pgvigil list {name} shows what there is"))
}

/// Keeps what was found beside the copy.
async fn record(plan: &Plan, store: &dyn Store, store_name: &Name, found: Drilled) -> Result<Drilled> {
    verify::write(plan, store, &found.id, &found.proof).await?;
    // It may have lost its rung.
    verify::point_latest(plan, store, store_name.as_str(), &found.id.backup).await?;
    Ok(found)
}

/// More mismatches than this are counted; the proof names all.
const NAMED_MAX: usize = 50;

fn reported(id: &Id, found: Result<Drilled>) -> DrillReport {
    let mut report = DrillReport {
        id: id.clone(),
        outcome: Outcome::Ok,
        rung: None,
        drill: None,
        error: None,
        warnings: Vec::new(),
        problems: Vec::new(),
        seconds: 0.0,
    };
    let Drilled { proof, unverified, .. } = match found {
        Ok(found) => found,
        Err(error) => {
            match error.kind {
                Kind::Cancelled => report.outcome = Outcome::Cancelled,
                // What was asked for cannot be: that is no word about the backup, and no bad luck either.
                Kind::Damaged | Kind::Usage | Kind::Config | Kind::NotFound => report.outcome = Outcome::Failed,
                _ => {
                    let hint = error.hint.map(|hint| format!("\nHINT: {hint}")).unwrap_or_default();
                    report.problems.push(cannot_verify(&format!("{}{hint}", error.message)));
                    report.outcome = Outcome::Problems;
                    return report;
                }
            }
            report.error = Some(error);
            return report;
        }
    };
    report.rung = Some(proof.rung);
    let mismatches: Vec<String> = proof
        .drill
        .iter()
        .filter_map(|drill| drill.compared.as_ref())
        .flat_map(|compared| &compared.mismatches)
        .map(ToString::to_string)
        .collect();
    if !mismatches.is_empty() {
        let places = if mismatches.len() == 1 { "one place".to_owned() } else { format!("{} places", mismatches.len()) };
        let more = mismatches.len().saturating_sub(NAMED_MAX);
        let more = if more > 0 { format!("\nand {more} more, in its proof") } else { String::new() };
        let named = mismatches[..mismatches.len().min(NAMED_MAX)].join("\n");
        report.error = Some(
            Error::new(Kind::Damaged, format!("{id} restores, and differs from its evidence in {places}: {named}{more}"))
                .hint(format!("pgvigil show {id} names all; make a new backup and drill that")),
        );
    } else if proof.rung != Rung::Bad && !proof.errors.is_empty() {
        report.error =
            Some(Error::new(Kind::Damaged, format!("{id} restores, and what came of it is wrong: {}", proof.errors.join("\n"))).hint(
                "its own files are sound, and it keeps its rung; pgvigil wal status names gaps, and restore --at leads to a moment before",
            ));
    } else if proof.rung == Rung::Bad {
        report.error =
            Some(Error::new(Kind::Damaged, format!("{id} is bad: {}", proof.errors.join("\n"))).hint("make a new backup and drill that"));
    } else if unverified.is_empty() && proof.rung < Rung::Restored {
        report.problems.push(cannot_verify("it was not restored"));
    } else {
        report.problems = unverified.iter().map(|why| cannot_verify(why)).collect();
    }
    report.warnings = proof.notes.into_iter().filter(|note| !unverified.contains(note)).collect();
    report.outcome = match (&report.error, report.problems.is_empty()) {
        (Some(_), _) => Outcome::Failed,
        (None, false) => Outcome::Problems,
        (None, true) => Outcome::Ok,
    };
    report.drill = proof.drill;
    report
}

/// The words by which a drill that says nothing is told from a bad backup.
fn cannot_verify(why: &str) -> String {
    if why.starts_with("cannot verify") { why.to_owned() } else { format!("cannot verify: {why}") }
}

/// Notes which drills were broken off, and returns of which backups. Whoever holds the lock of drills
/// is the only one there is.
///
/// # Errors
/// The history cannot be read or written.
fn note_broken(history: &History, _lock: &Lock) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for (row, backup) in history.broken_drills()? {
        tracing::warn!(backup, "a drill was interrupted");
        history.interrupted(row, None, true)?;
        broken.push(backup);
    }
    Ok(broken)
}

/// Cleans up after drills that were broken off, if none is under way, and returns of which backups
/// they were. `told` hears of them before anything is removed, which may take its time.
///
/// # Errors
/// The history cannot be used, or something cannot be removed.
pub async fn sweep_idle<F: Future<Output = Result<()>>>(
    plan: &Plan,
    state: &State,
    history: &History,
    told: impl Fn(String) -> F,
) -> Result<()> {
    let Some(lock) = state.lock(DRILL)? else { return Ok(()) };
    for backup in note_broken(history, &lock)? {
        told(backup).await?;
    }
    drill_copy::sweep(plan, state).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Compared, Mismatch};

    fn id() -> Id {
        Id { backup: "x".into(), label: "20240115T010000Z".parse().unwrap() }
    }

    fn mismatch(n: usize) -> Mismatch {
        Mismatch { object: format!("table public.t{n}: rows"), expected: "10".into(), found: "9".into() }
    }

    fn found(rung: Rung, mismatches: usize, errors: &[&str], unverified: &[&str]) -> Drilled {
        let compared = Compared { tables: 1, rows: 10, mismatches: (0..mismatches).map(mismatch).collect() };
        let drill = DrillFacts {
            on: "local".into(),
            restore_seconds: 1.0,
            total_seconds: 2.0,
            bytes: 1,
            raw_bytes: 1,
            bytes_per_second: 1.0,
            compared: Some(compared),
        };
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        let proof = Proof {
            at: chrono::DateTime::default(),
            rung,
            by: Proof::BY_DRILL.into(),
            bytes: 1,
            seconds: 2.0,
            manifest_sha256: None,
            errors: lines(errors),
            notes: lines(&[unverified, &["a view was left out"]].concat()),
            drill: Some(drill),
            generator: "x".into(),
        };
        Drilled { id: id(), proof, unverified: lines(unverified) }
    }

    #[test]
    fn what_a_drill_comes_to() {
        let refused = |kind| Err(Error::new(kind, "no answer").hint("start it"));
        for (found, outcome, rung, why) in [
            (Ok(found(Rung::Matched, 0, &[], &[])), Outcome::Ok, Some(Rung::Matched), None),
            (Ok(found(Rung::Restored, 0, &[], &[])), Outcome::Ok, Some(Rung::Restored), None),
            (
                Ok(found(Rung::Bad, 1, &[], &[])),
                Outcome::Failed,
                Some(Rung::Bad),
                Some(
                    "x/20240115T010000Z restores, and differs from its evidence in one place: table public.t0: rows: expected 10, found 9",
                ),
            ),
            (
                Ok(found(Rung::Bad, 0, &["psql: no such type"], &[])),
                Outcome::Failed,
                Some(Rung::Bad),
                Some("x/20240115T010000Z is bad: psql: no such type"),
            ),
            (
                Ok(found(Rung::Readable, 0, &[], &["install postgis"])),
                Outcome::Problems,
                Some(Rung::Readable),
                Some("cannot verify: install postgis"),
            ),
            // It stays what an earlier drill has proven.
            (
                Ok(found(Rung::Matched, 0, &[], &["install postgis"])),
                Outcome::Problems,
                Some(Rung::Matched),
                Some("cannot verify: install postgis"),
            ),
            (Ok(found(Rung::Readable, 0, &[], &[])), Outcome::Problems, Some(Rung::Readable), Some("cannot verify: it was not restored")),
            (refused(Kind::Docker), Outcome::Problems, None, Some("cannot verify: no answer\nHINT: start it")),
            (refused(Kind::Cancelled), Outcome::Cancelled, None, Some("no answer")),
            (refused(Kind::Damaged), Outcome::Failed, None, Some("no answer")),
            (refused(Kind::Usage), Outcome::Failed, None, Some("no answer")),
        ] {
            let report = reported(&id(), found);
            let proven = report.rung.is_some();
            assert_eq!(report.warnings, if proven { vec!["a view was left out"] } else { vec![] });
            assert_eq!((report.outcome, report.rung, report.why().as_deref()), (outcome, rung, why));
        }
    }

    #[test]
    fn what_differs_is_named_a_line_each_up_to_a_bound() {
        let why = reported(&id(), Ok(found(Rung::Restored, 52, &[], &[]))).why().unwrap();
        assert_eq!(why.lines().count(), 51);
        assert!(why.contains("in 52 places: table public.t0") && why.ends_with("\nand 2 more, in its proof"), "{why}");
    }
}
