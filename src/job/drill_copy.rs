//! The drill of one copy: restored into a throwaway server, and compared with its evidence.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::catalog::evidence::Evidence;
use crate::catalog::{Compared, DatabaseEvidence, DrillFacts, Entry, Manifest, Mismatch, Proof, Rung};
use crate::config::Plan;
use crate::config::drill::DrillOn;
use crate::config::file::{Contents, Format};
use crate::config::plan::Backup;
use crate::error::{Error, Kind, Result};
use crate::host::{Host, Tag, clock, printable};
use crate::job::drill::Drilled;
use crate::job::physical::place;
use crate::job::progress::Progress;
use crate::job::trial::{Trial, Tried};
use crate::job::verify::{archive_host, hash_manifest, round};
use crate::postgres::Server;
use crate::postgres::programs::{self, parse_version};
use crate::postgres::throwaway::{self, Throwaway, Wanted};
use crate::restore::source::{self, Checked};
use crate::state::State;
use crate::verify::compare::{Comparison, Terms, compare};
use crate::verify::stored::Stored;

/// Restores a copy for a trial and says what it found; the caller writes the proof. The caller holds
/// the lock of drills and the copy. `before` is the rung that the copy has.
///
/// # Errors
/// Nothing was found out about the backup. What is wrong with the backup itself is in the proof.
pub async fn drill_copy(
    plan: &Plan,
    backup: &Backup,
    stored: Stored<'_>,
    entry: &Entry,
    before: Rung,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Drilled> {
    let started = Instant::now();
    let Stored { store, manifest, keys, .. } = stored;
    if manifest.encryption.is_some() && keys.is_empty() {
        return Err(Error::unverifiable("the backup is encrypted, and no identity was given")
            .hint("give the private key of one of its recipients: identity of the backup in the file, or verify --drill --identity FILE"));
    }
    if manifest.contents == Contents::Data {
        return Err(Error::unverifiable("the backup holds rows only, and a drill needs the definitions as well")
            .hint("drill a backup with contents = \"all\"; this one is proven as far as reading it back goes"));
    }
    let (manifest_sha256, changed) = hash_manifest(plan, store, &entry.id).await?;
    let mut drilled = Findings { errors: changed.into_iter().collect(), ..Findings::default() };
    if drilled.errors.is_empty() {
        let state = State::open(&plan.state_dir)?;
        progress.begin("starting a throwaway server");
        let tag = Tag::random();
        // The server begins while the files are read.
        let checking = until_told(cancel, check_all(stored));
        let (throwaway, checked) = tokio::join!(start(plan, backup, entry, state.owner(), &tag), checking);
        let throwaway = throwaway?;
        let place = Place::of(&throwaway, &manifest.databases);
        let trying = Box::pin(async { try_all(plan, backup, &checked?, entry, place, progress).await });
        let tried = until_told(cancel, trying).await;
        progress.begin("removing the throwaway server");
        let log = throwaway.log();
        let removed = remove(throwaway, &tag).await;
        drilled = match tried {
            Ok(tried) => tried,
            // The copy is to blame.
            Err(error) if matches!(error.kind, Kind::Damaged | Kind::Dump) => {
                Findings { errors: vec![error.message], ..Findings::default() }
            }
            Err(error) => return Err(with_log(error, &log)),
        };
        if let Err(left) = removed {
            drilled.notes.push(format!("something of the drill is left, and is swept before the next: {}", left.message));
        }
    }
    let rung = rung(&drilled, before);
    let total_seconds = round(started.elapsed().as_secs_f64());
    let drill = drilled.restore_seconds.map(|seconds| facts(backup, manifest, seconds, total_seconds, drilled.compared));
    drilled.notes.extend(drilled.unverified.iter().cloned());
    let proof = Proof {
        at: clock::now(),
        rung,
        by: Proof::BY_DRILL.to_owned(),
        bytes: manifest.bytes(),
        seconds: total_seconds,
        manifest_sha256: Some(manifest_sha256),
        errors: drilled.errors,
        notes: drilled.notes,
        drill,
        generator: crate::GENERATOR.to_owned(),
    };
    Ok(Drilled { id: entry.id.clone(), proof, unverified: drilled.unverified })
}

/// What a drill has measured, of dumps and of base backups alike.
pub fn facts(backup: &Backup, manifest: &Manifest, seconds: f64, total_seconds: f64, compared: Option<Compared>) -> DrillFacts {
    DrillFacts {
        on: backup.drill_on().to_string(),
        restore_seconds: round(seconds),
        total_seconds,
        bytes: manifest.bytes(),
        raw_bytes: manifest.raw_bytes(),
        #[expect(clippy::cast_precision_loss, reason = "a rate is read by people")]
        bytes_per_second: round(manifest.raw_bytes() as f64 / seconds.max(0.001)),
        compared,
    }
}

/// Removes what drills left that were broken off. The caller holds the lock of drills, so whatever
/// carries the mark of this `state_dir` is of a dead one.
///
/// # Errors
/// Something cannot be removed; it is tried again before the next drill.
pub async fn sweep(plan: &Plan, state: &State) -> Result<()> {
    place::sweep(plan, state).await;
    let swept = throwaway::sweep(plan, state.owner(), &plan.spool_dir.join(FOLDER)).await?;
    if swept > 0 {
        tracing::warn!(swept, "a drill was broken off; swept what it left");
    }
    Ok(())
}

/// Where local clusters lie, in the spool.
pub const FOLDER: &str = "drills";

/// What was found out about a copy.
#[derive(Default)]
struct Findings {
    errors: Vec<String>,
    notes: Vec<String>,
    unverified: Vec<String>,
    /// `None`: nothing was loaded.
    restore_seconds: Option<f64>,
    /// `None`: there was nothing to compare with.
    compared: Option<Compared>,
    /// Whether every database of the backup could be compared.
    all_compared: bool,
}

/// Every rung is earned: restored without one error, then equal to the evidence.
fn rung(found: &Findings, before: Rung) -> Rung {
    let differs = found.compared.as_ref().is_some_and(|compared| !compared.mismatches.is_empty());
    if !found.errors.is_empty() || differs {
        Rung::Bad
    } else if !found.unverified.is_empty() || found.restore_seconds.is_none() {
        before
    } else if found.all_compared {
        Rung::Matched
    } else {
        Rung::Restored
    }
}

async fn start(plan: &Plan, backup: &Backup, entry: &Entry, owner: &str, tag: &Tag) -> Result<Throwaway> {
    let first = entry.manifest.evidence.iter().flat_map(|evidence| evidence.databases.values()).next();
    let folder = plan.spool_dir.join(FOLDER);
    let wanted = Wanted {
        major: programs::major(&entry.manifest.server_version),
        superuser: first.and_then(|evidence| evidence.superuser.as_deref()).unwrap_or("postgres"),
        preload: first.and_then(|evidence| evidence.preload.as_deref()),
        tag: tag.clone(),
        owner,
        folder: &folder,
    };
    let source = &plan.servers[&backup.server];
    match backup.drill_on() {
        DrillOn::Container => Throwaway::in_container(source, &wanted).await,
        DrillOn::Local => Throwaway::local(Some(source), &wanted).await,
        DrillOn::Server(name) => Throwaway::on_server(&plan.servers[name], &wanted).await,
    }
}

/// What comes, unless we are told to stop first.
pub(super) async fn until_told<T>(cancel: &CancellationToken, coming: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        came = coming => came,
        () = cancel.cancelled() => Err(Error::new(Kind::Cancelled, "told to stop")),
    }
}

/// The dumps of all databases, in their order.
async fn check_all(stored: Stored<'_>) -> Result<Vec<Checked<'_>>> {
    let mut all = Vec::new();
    for database in &stored.manifest.databases {
        let checked = source::check(stored, database).await;
        // The manifest beside it was read: a file that is gone is a fault of the copy, as when it is read back.
        all.push(checked.map_err(|error| {
            let is_gone = error.kind == Kind::Store && error.message.ends_with("no such file or directory");
            let error = if is_gone { Error { kind: Kind::Damaged, ..error } } else { error };
            error.context(format_args!("database {:?}", printable(database)))
        })?);
    }
    Ok(all)
}

/// Sessions of a named server outlive what was cut off; those of our own servers go with them.
pub(super) async fn remove(throwaway: Throwaway, tag: &Tag) -> Result<()> {
    let programs = throwaway.server.host().end_tagged(tag).await.map(drop);
    throwaway.remove().await.and(programs)
}

/// A server of ours that died in the middle says why in its log.
fn with_log(error: Error, log: &str) -> Error {
    let lost = ["server closed the connection", "terminating connection", "connection to server", "the database system is"];
    if log.is_empty() || !lost.iter().any(|words| error.message.contains(words)) {
        return error;
    }
    let last: Vec<&str> = log.lines().rev().take(5).collect();
    let last = last.into_iter().rev().collect::<Vec<_>>().join("\n  ");
    Error { message: format!("{}\n  the throwaway server said:\n  {last}", error.message), ..error }
}

async fn try_all(
    plan: &Plan,
    backup: &Backup,
    dumps: &[Checked<'_>],
    entry: &Entry,
    place: Place,
    progress: &Progress,
) -> Result<Findings> {
    let manifest = &entry.manifest;
    let none = Evidence { databases: BTreeMap::new() };
    let evidence = manifest.evidence.as_ref().unwrap_or(&none);
    let archives: Arc<dyn Host> = match manifest.format {
        Format::Directory => archive_host(plan, manifest).await?,
        // An archive that was made to do harm must not reach a pg_restore beside the live server.
        Format::Plain | Format::Custom => Arc::clone(place.reader.host()),
    };
    let major = parse_version(&manifest.server_version).map(|(major, _)| major);
    let terms = Terms { narrow: manifest.narrow, same_major: major == Some(place.server.facts.major()) };
    let mut found = Findings { all_compared: true, ..Findings::default() };
    for ((database, target), dump) in manifest.databases.iter().zip(&place.targets).zip(dumps) {
        let unknown = DatabaseEvidence::default();
        let expected = evidence.databases.get(database).unwrap_or(&unknown);
        let trial = Trial {
            dump,
            entry,
            database,
            expected,
            server: &place.server,
            is_ours: place.is_ours,
            is_last: Some(target) == place.targets.last(),
            target,
            archives: &archives,
            spool_dir: &plan.spool_dir,
            patience: backup.stall_timeout,
            checks: &backup.checks,
            progress,
        };
        let tried = trial.run().await.map_err(|error| error.context(format_args!("database {:?}", printable(database))))?;
        found.add(database, manifest.databases.len() > 1, expected, tried, terms);
    }
    Ok(found)
}

/// What a trial needs to know of a throwaway server.
struct Place {
    server: Server,
    /// With programs that may read what only we may.
    reader: Server,
    is_ours: bool,
    /// The names for the databases of the backup, in their order.
    targets: Vec<String>,
}

impl Place {
    fn of(throwaway: &Throwaway, databases: &[String]) -> Self {
        let (server, is_ours) = (throwaway.server.clone(), throwaway.is_ours());
        // A server of ours has these already.
        let target = |(nth, database): (usize, &String)| {
            let name = throwaway.database_name(database, nth);
            if is_ours && (name == server.maintenance_database() || ["template0", "template1"].contains(&name.as_str())) {
                format!("{name}_drilled")
            } else {
                name
            }
        };
        let targets = databases.iter().enumerate().map(target).collect();
        Place { reader: throwaway.with_our_rights(), is_ours, targets, server }
    }
}

impl Findings {
    /// Takes in what became of one database.
    fn add(&mut self, database: &str, one_of_several: bool, expected: &DatabaseEvidence, tried: Tried, terms: Terms) {
        let of = if one_of_several { format!("database {database:?}: ") } else { String::new() };
        let about = |text: String| format!("{of}{text}");
        self.errors.extend(tried.errors.into_iter().map(about));
        self.unverified.extend(tried.unverified.into_iter().map(about));
        self.notes.extend(tried.notes.into_iter().map(about));
        if let Some(seconds) = tried.restore_seconds {
            *self.restore_seconds.get_or_insert(0.0) += seconds;
        }
        let Some(back) = tried.found else {
            self.all_compared = false;
            return;
        };
        if !expected.is_recorded() {
            self.all_compared = false;
            self.notes.push(about("no evidence was recorded under its snapshot: there is nothing to compare with".to_owned()));
            return;
        }
        let Comparison { compared, others, notes } = compare(expected, &back, terms);
        self.notes.extend(notes.into_iter().map(about));
        let sum = self.compared.get_or_insert_default();
        sum.tables += compared.tables;
        sum.rows += compared.rows;
        sum.mismatches
            .extend(compared.mismatches.into_iter().map(|mismatch| Mismatch { object: format!("{of}{}", mismatch.object), ..mismatch }));
        // Nothing held against nothing proves nothing.
        if compared.tables == 0 && others == 0 {
            self.all_compared = false;
            self.notes.push(about("the evidence names no table and no other object: there is nothing to compare with".to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::compare::Found;

    const TERMS: Terms = Terms { narrow: false, same_major: true };

    fn recorded() -> DatabaseEvidence {
        DatabaseEvidence { snapshot: Some("1-1".to_owned()), rows: [("public.t".to_owned(), 3)].into(), ..DatabaseEvidence::default() }
    }

    fn tried(rows: u64) -> Tried {
        let evidence = DatabaseEvidence { rows: [("public.t".to_owned(), rows)].into(), ..DatabaseEvidence::default() };
        Tried { restore_seconds: Some(2.0), found: Some(Found { evidence, ..Found::default() }), ..Tried::default() }
    }

    fn reached(expected: &DatabaseEvidence, tried: Vec<Tried>) -> Rung {
        let mut found = Findings { all_compared: true, ..Findings::default() };
        for tried in tried {
            found.add("x", true, expected, tried, TERMS);
        }
        rung(&found, Rung::Readable)
    }

    #[test]
    fn every_rung_is_earned() {
        assert_eq!(reached(&recorded(), vec![tried(3)]), Rung::Matched);
        assert_eq!(reached(&recorded(), vec![tried(3), tried(2)]), Rung::Bad);
        assert_eq!(reached(&recorded(), vec![tried(3), Tried { errors: vec!["e".into()], ..Tried::default() }]), Rung::Bad);
        assert_eq!(reached(&recorded(), vec![tried(3), Tried { unverified: vec!["u".into()], ..Tried::default() }]), Rung::Readable);
        // Adopted, or recorded by an older program.
        assert_eq!(reached(&DatabaseEvidence::default(), vec![tried(3)]), Rung::Restored);
        let nothing = DatabaseEvidence { snapshot: Some("1-1".to_owned()), ..DatabaseEvidence::default() };
        let empty = || Tried { found: Some(Found::default()), ..tried(0) };
        assert_eq!(reached(&nothing, vec![empty()]), Rung::Restored);
        assert_eq!(reached(&recorded(), vec![]), Rung::Readable);
    }
}
