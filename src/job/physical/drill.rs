//! The drill of a base backup: restored into a throwaway cluster of this machine or a container, its log
//! replayed to the end, its tables and indexes looked through, its checks asked.

use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::catalog::{Entry, Physical, Proof, Rung};
use crate::config::Plan;
use crate::config::drill::DrillOn;
use crate::config::plan::Backup;
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::host::{Ended, Tag, clock, failed, words_of_the_engine};
use crate::job::drill::Drilled;
use crate::job::drill_copy::{FOLDER, facts, remove, until_told};
use crate::job::physical::beside;
use crate::job::physical::check::{self, Verdict};
use crate::job::physical::combine::Parts;
use crate::job::physical::look::{self, Seen};
use crate::job::physical::restore::judge;
use crate::job::physical::unpack::{Folders, make_folder};
use crate::job::progress::Progress;
use crate::job::verify::{hash_manifest, round};
use crate::physical::plan::{Base, Stop, Way, way};
use crate::physical::recovery::{self, BESIDE, Reached, Recovery, Source};
use crate::physical::target::Target;
use crate::postgres::Server;
use crate::postgres::programs;
use crate::postgres::throwaway::{Prepared, Wanted};
use crate::state::State;
use crate::verify::stored::Stored;
use crate::wal::Segment;

/// What was found out.
#[derive(Default)]
struct Findings {
    /// Damage of its own files or of its chain, or of the log that makes it whole.
    damage: Vec<String>,
    /// What is wrong with what it restores to, or with the log behind it: that is no word about the base backup itself,
    /// which may be the only one that leads to a moment before.
    wrong: Vec<String>,
    notes: Vec<String>,
    /// Why something could not be looked at.
    unverified: Vec<String>,
    restore_seconds: Option<f64>,
    /// Tables and indexes were looked through.
    looked_through: bool,
}

impl Findings {
    /// Nothing stands against it, and all was looked at that it asks for.
    fn is_proof(&self) -> bool {
        self.damage.is_empty() && self.wrong.is_empty() && self.unverified.is_empty()
    }

    fn rung(&self, before: Rung) -> Rung {
        if !self.damage.is_empty() {
            Rung::Bad
        } else if !self.is_proof() {
            before
        } else if self.looked_through {
            Rung::Matched
        } else {
            Rung::Restored
        }
    }
}

/// Drills a base backup. The caller holds the lock of drills and the copy, and writes the proof.
///
/// # Errors
/// Nothing was found out about it.
#[expect(clippy::too_many_arguments, reason = "what is drilled, and who looks on")]
pub async fn drill(
    plan: &Plan,
    backup: &Backup,
    store: &Name,
    stored: Stored<'_>,
    entry: &Entry,
    before: Rung,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Drilled> {
    let started = Instant::now();
    if entry.manifest.encryption.is_some() && stored.keys.is_empty() {
        return Err(Error::unverifiable("the base backup is encrypted, and no identity was given")
            .hint("give the private key of one of its recipients: identity of the backup in the file, or verify --drill --identity FILE"));
    }
    let (manifest_sha256, changed) = hash_manifest(plan, stored.store, &entry.id).await?;
    let mut found = Findings { damage: changed.into_iter().collect(), ..Findings::default() };
    if found.damage.is_empty() {
        match tried(plan, backup, store, stored, entry, &mut found, progress, cancel).await {
            Ok(()) => {}
            Err(error) if error.kind == Kind::Damaged => found.damage.push(error.message),
            Err(error) => return Err(error),
        }
    }
    let rung = found.rung(before);
    let total_seconds = round(started.elapsed().as_secs_f64());
    let manifest = &entry.manifest;
    // One that did not come to its end, or says nothing, has measured nothing.
    let drill = found.restore_seconds.filter(|_| found.is_proof()).map(|seconds| facts(backup, manifest, seconds, total_seconds, None));
    found.notes.extend(found.unverified.iter().cloned());
    let proof = Proof {
        at: clock::now(),
        rung,
        by: Proof::BY_DRILL.to_owned(),
        bytes: manifest.bytes(),
        seconds: total_seconds,
        manifest_sha256: Some(manifest_sha256),
        errors: [found.damage, found.wrong].concat(),
        notes: found.notes,
        drill,
        generator: crate::GENERATOR.to_owned(),
    };
    Ok(Drilled { id: entry.id.clone(), proof, unverified: found.unverified })
}

#[expect(clippy::too_many_arguments, reason = "what is drilled, and who looks on")]
async fn tried(
    plan: &Plan,
    backup: &Backup,
    store: &Name,
    stored: Stored<'_>,
    entry: &Entry,
    found: &mut Findings,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<()> {
    let physical = entry.manifest.physical.as_ref().ok_or_else(|| Error::new(Kind::Damaged, format!("{} is no base backup", entry.id)))?;
    let state = State::open(&plan.state_dir)?;
    let tag = Tag::random();
    let folder = plan.spool_dir.join(FOLDER);
    let wanted = Wanted {
        major: programs::major(&entry.manifest.server_version),
        superuser: &physical.superuser,
        preload: physical.settings.get("shared_preload_libraries").map(String::as_str),
        tag: tag.clone(),
        owner: state.owner(),
        folder: &folder,
    };
    let began = Instant::now();
    // The log of this store alone: what would be needed after a fire is what is proven.
    let mut seen = until_told(cancel, look::look(plan, backup, Some(store))).await.map_err(not_its_fault)?;
    if !stored.keys.is_empty() {
        seen.keys = stored.keys.clone();
    }
    let base = Base { id: entry.id.clone(), physical: physical.clone() };
    let way = match way(&base, Some(&seen.archive), None) {
        Ok(way) => way,
        Err(why) => {
            let missing = Error::new(Kind::Damaged, format!("{why} in store {store}"));
            return Err(elsewhere(plan, backup, missing, |all| way(&base, Some(&all.archive), None).is_ok()).await);
        }
    };
    let prepared = prepare(plan, backup, &wanted, physical).await?;
    let filled = until_told(cancel, fill(plan, backup, &seen, stored, &base, way, &prepared, found, progress)).await;
    let way = match filled {
        Ok(way) => way,
        Err(error) => return Err(prepared.give_up(error).await),
    };
    progress.begin("replaying the log");
    let throwaway = prepared.start(&wanted, &physical.settings, cancel).await?;
    found.restore_seconds = Some(began.elapsed().as_secs_f64());
    let (server, log) = (throwaway.server.clone(), throwaway.log());
    let looked = until_told(cancel, look_through(backup, &server, &log, &way, &seen, found, progress)).await;
    progress.begin("removing the throwaway server");
    if let Err(left) = remove(throwaway, &tag).await {
        found.notes.push(format!("something of the drill is left, and is swept before the next: {}", left.message));
    }
    looked
}

async fn prepare(plan: &Plan, backup: &Backup, wanted: &Wanted<'_>, physical: &Physical) -> Result<Prepared> {
    match backup.drill_on() {
        DrillOn::Local => Prepared::here(plan.servers.get(&backup.server), wanted).await,
        DrillOn::Container => Prepared::inside(&plan.servers[&backup.server], wanted, &physical.settings).await,
        DrillOn::Server(name) => Err(no_cluster_of_its_own(name)),
    }
}

/// A base backup is a cluster: there is no place for it on a server that runs.
pub fn no_cluster_of_its_own(server: &Name) -> Error {
    Error::unverifiable(format_args!("a base backup is a whole cluster, which cannot be restored into server {server}"))
        .hint("drill on = \"container\" or \"local\"")
}

/// The cluster, its log beside it, and what PostgreSQL is told.
#[expect(clippy::too_many_arguments, reason = "what is laid out, of what, and who looks on")]
async fn fill(
    plan: &Plan,
    backup: &Backup,
    seen: &Seen,
    stored: Stored<'_>,
    base: &Base,
    mut way: Way,
    prepared: &Prepared,
    found: &mut Findings,
    progress: &Progress,
) -> Result<Way> {
    let physical = &base.physical;
    let data = prepared.data();
    let places: Vec<(u32, std::path::PathBuf)> =
        physical.tablespaces.iter().map(|space| (space.oid, prepared.beside(&space.oid.to_string()))).collect();
    let inside = prepared.container();
    if inside.is_none() {
        make_folder(&data)?;
        for (_, place) in &places {
            make_folder(place)?;
        }
    }
    let parts = match Parts::of(plan, backup, seen, &base.id) {
        Ok(parts) => parts,
        Err(error) => return Err(elsewhere(plan, backup, error, |all| Parts::of(plan, backup, all, &base.id).is_ok()).await),
    };
    let _held = parts.hold(&State::open(&plan.state_dir)?).await?;
    let meter = progress.restart("fetching the base backup", parts.raw_bytes());
    let folders = Folders { data: &data, tablespaces: &places, inside };
    parts.lay_out(stored, &folders, &prepared.beside("parts"), &meter).await?;
    if way.reach.is_some() {
        progress.begin("fetching its log");
        let mut log = prepared.lay_into(&data.join(BESIDE)).await?;
        for name in beside::names(&way, &seen.archive) {
            match beside::read(backup, seen, &name).await {
                Ok(raw) => log.file(&name, &raw).await?,
                Err(error) => {
                    let segment = Segment::parse(&name, seen.archive.segment_bytes);
                    found.wrong.push(behind_it(&mut way, segment, physical, seen.archive.segment_bytes, error)?);
                }
            }
        }
        log.finish().await?;
    }
    let major = programs::major(&stored.manifest.server_version);
    let all = Recovery { source: &Source::Beside, stop: &Stop::At(Target::Latest), timeline: way.followed(&seen.archive), major };
    let mut files = prepared.lay_into(&data).await?;
    // What the live one was told beside its file has no place here.
    files.file("postgresql.auto.conf", recovery::auto_conf("", way.reach.as_ref().map(|_| &all)).as_bytes()).await?;
    if way.reach.is_some() {
        files.file("recovery.signal", b"").await?;
    }
    if !places.is_empty() {
        let places: Vec<(u32, String)> = places.iter().map(|(oid, place)| (*oid, place.display().to_string())).collect();
        files.file("tablespace_map", recovery::tablespace_map(&places).as_bytes()).await?;
    }
    files.finish().await?;
    prepared.remove_file(&data.join("standby.signal")).await?;
    Ok(way)
}

/// Damage of what says how timelines fork: nothing is known of the base backup by that.
fn not_its_fault(error: Error) -> Error {
    if error.kind == Kind::Damaged { Error { kind: Kind::Unverifiable, ..error } } else { error }
}

/// Something is missing in the store of the drill. It is damage only if no other store has it, and each has said so: what
/// is being copied there comes.
async fn elsewhere(plan: &Plan, backup: &Backup, missing: Error, is_there: impl Fn(&Seen) -> bool) -> Error {
    let why = &missing.message;
    match look::look(plan, backup, None).await.map_err(not_its_fault) {
        Ok(all) if is_there(&all) => Error::unverifiable(format_args!("{why}; another store has it"))
            .hint("the daemon copies it from there, and so does the next pgvigil run"),
        Ok(all) if all.stores.len() < backup.stores.len() => {
            Error::unverifiable(format_args!("{why}; whether another store has it cannot be seen now"))
        }
        Ok(_) => missing,
        Err(error) => error,
    }
}

/// A segment cannot be had: the log ends before it. What is wrong, unless the base backup itself needs it.
fn behind_it(way: &mut Way, segment: Option<Segment>, physical: &Physical, bytes: u64, error: Error) -> Result<String> {
    let (Some(reach), Some(segment)) = (&mut way.reach, segment) else { return Err(not_its_fault(error)) };
    if error.kind != Kind::Damaged || segment.start(bytes) < physical.stop_lsn {
        return Err(error);
    }
    if reach.end > segment.start(bytes) {
        reach.segments.retain(|there| there.number < segment.number);
        (reach.end, reach.open) = (segment.start(bytes), false);
    }
    Ok(format!("the log behind it: {}", error.message))
}

/// Whether it came to the end of the log, and is sound.
async fn look_through(
    backup: &Backup,
    server: &Server,
    log: &str,
    way: &Way,
    seen: &Seen,
    found: &mut Findings,
    progress: &Progress,
) -> Result<()> {
    let reached = Reached::parse(log);
    if let Err(elsewhere) = judge(way.reach.as_ref(), &Stop::At(Target::Latest), seen.archive.segment_bytes, &reached) {
        found.wrong.push(elsewhere.message);
    }
    if let Some(lsn) = reached.lsn {
        found.notes.push(format!("replayed to LSN {lsn}"));
    }
    for gap in way.reach.iter().flat_map(|reach| &reach.gaps) {
        found.unverified.push(format!("the log behind it is not whole: {}", gap.in_words(seen.archive.segment_bytes)));
    }
    progress.begin("looking through tables and indexes");
    match amcheck(server).await {
        Ok(None) => found.looked_through = true,
        Ok(Some(wrong)) => found.wrong.push(wrong),
        Err(error) => found.unverified.push(error.message),
    }
    for (name, query) in &backup.checks {
        match check::everywhere(server, query, check::NO_BOUNDS).await {
            Verdict::Holds => {}
            Verdict::Fails(why) | Verdict::Unknown(why) => found.wrong.push(format!("check {name}: {why}")),
        }
    }
    Ok(())
}

/// What pg_amcheck finds. `None`: nothing.
async fn amcheck(server: &Server) -> Result<Option<String>> {
    let args = ["--all", "--install-missing", "--no-password"].map(str::to_owned).to_vec();
    let Ended { exit, said, stderr } = server.host().start(server.call("pg_amcheck", args)).await?.ended().await?;
    if let (crate::host::Exit::Code(126 | 127), Some(_)) = (exit, words_of_the_engine(&said)) {
        return Err(Error::unverifiable("the image of the source has no pg_amcheck: tables and indexes are not looked through"));
    }
    match exit {
        crate::host::Exit::Code(0) => Ok(None),
        // It ran, and found something.
        crate::host::Exit::Code(2) => {
            let said = crate::host::printable(&String::from_utf8_lossy(&said));
            let first: Vec<&str> = said.lines().take(6).collect();
            Ok(Some(format!("pg_amcheck finds corruption:\n  {}", first.join("\n  "))))
        }
        exit => Err(failed(Kind::Unverifiable, "pg_amcheck", exit, &stderr).context("cannot look through tables and indexes")),
    }
}
