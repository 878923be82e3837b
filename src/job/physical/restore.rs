//! A cluster as of a moment: looked for, planned, fetched, and started if that is asked for.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::catalog::{Manifest, Physical, Rung, Wanted};
use crate::config::Plan;
use crate::config::plan::Backup;
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::host::removal::remove_folder;
use crate::job::keys;
use crate::job::physical::beside;
use crate::job::physical::combine::Parts;
use crate::job::physical::look::{self, Seen};
use crate::job::physical::start::{self, Started};
use crate::job::physical::unpack::{Folders, make_durable, make_folder};
use crate::job::progress::Progress;
use crate::job::restore::refuse_unsigned;
use crate::job::run::find;
use crate::physical::plan::{Base, Stop, Way, Window, choose, stop, way};
use crate::physical::recovery::{self, BESIDE, Reached, Recovery, Source};
use crate::physical::target::Target;
use crate::postgres::programs::{self, parse_version};
use crate::restore::plan::Measured;
use crate::state::State;
use crate::verify::stored::Stored;
use crate::wal::Reach;

/// What somebody asks for.
#[derive(Debug, Clone)]
pub struct Asked {
    pub target: Target,
    pub data: PathBuf,
    /// Lays the log beside it, so that its recovery needs no pgvigil.
    pub with_wal: bool,
    /// Starts it and waits for the end of its recovery.
    pub start: bool,
    pub port: Option<u16>,
    pub store: Option<String>,
    pub timeline: Option<u32>,
    /// Where tablespaces go, by name, OID or the place where they lay.
    pub tablespaces: Vec<(String, String)>,
    /// The file that `restore_command` reads.
    pub config: PathBuf,
    /// Who opens what is encrypted; else whom the file names.
    pub identity: Option<PathBuf>,
    pub accept_unsigned: bool,
}

/// What was looked at, and the plan.
pub struct Looked<'a> {
    pub backup: &'a Backup,
    pub seen: Seen,
    pub way: Way,
    pub stop: Stop,
    pub places: Vec<(u32, String)>,
    pub manifest: Manifest,
    pub store: Name,
    /// Of the copy there.
    pub rung: Option<Rung>,
    /// Such as what nobody known has signed, and is restored all the same.
    pub warnings: Vec<String>,
}

impl Looked<'_> {
    /// # Errors
    /// It is no base backup.
    pub fn physical(&self) -> Result<&Physical> {
        self.manifest.physical.as_ref().ok_or_else(|| Error::new(Kind::Damaged, format!("{} is no base backup", self.manifest.id)))
    }

    /// The last segment that recovery may have, where the log is what ends it: more may come into the archive meanwhile.
    pub fn last_segment(&self) -> Option<String> {
        let last = self.way.reach.as_ref().filter(|_| matches!(self.stop, Stop::WithTheLog(_)))?.segments.last()?;
        Some(last.name(self.seen.archive.segment_bytes))
    }

    /// What the log takes that is laid beside it, at most.
    pub fn log_bytes(&self) -> u64 {
        let bytes = self.seen.archive.segment_bytes;
        beside::needed(&self.way, &self.stop, bytes).len() as u64 * bytes
    }

    /// What its recovery is told, by a server of this major version. `None`: nothing is to be recovered.
    pub fn recovery<'a>(&'a self, source: &'a Source<'a>, major: u32) -> Option<Recovery<'a>> {
        self.way.reach.as_ref().map(|_| Recovery { source, stop: &self.stop, timeline: self.way.followed(&self.seen.archive), major })
    }

    /// The folder of the programs of its version, where they are here.
    fn programs(&self, plan: &Plan) -> Option<PathBuf> {
        let given = plan.servers.get(&self.backup.server).and_then(|server| server.bin_dir.clone());
        let (major, _) = parse_version(&self.manifest.server_version)?;
        programs::of_server(given, major).ok()
    }

    /// How long it will take, and by what that is known.
    pub fn expected(&self) -> (Option<f64>, String) {
        let bytes = |manifest: &Manifest| manifest.physical.as_ref().map_or(0, |physical| physical.cluster_bytes);
        let drills = self.seen.catalog.entries.iter().flat_map(|entry| {
            let raw_bytes = bytes(&entry.manifest);
            let proofs = entry.copies.values().flatten();
            proofs.filter_map(move |proof| Some(Measured { at: proof.at, seconds: proof.restore_seconds()?, raw_bytes }))
        });
        let expected = drills.max_by_key(|drill| drill.at).and_then(|drill| drill.expect(bytes(&self.manifest)));
        expected.map_or((None, "no drill yet: unknown".to_owned()), |(seconds, how)| (Some(seconds), how))
    }

    /// How many of its segments lie here and in no store.
    pub fn received(&self) -> usize {
        let Some(received) = &self.seen.received else { return 0 };
        let segments = self.way.reach.iter().flat_map(|reach| &reach.segments);
        segments.filter(|segment| received.has(**segment)).count()
    }

    /// Segments of the log that it needs at least.
    pub fn segments(&self) -> usize {
        self.way.reach.as_ref().map_or(0, |reach| reach.segments.len())
    }
}

/// What was restored.
#[derive(Debug, Clone)]
pub struct Restored {
    pub seconds: f64,
    /// Of one that was started.
    pub started: Option<Started>,
    pub warnings: Vec<String>,
}

/// Looks for a way to the target, and plans it.
///
/// # Errors
/// There is none, which is told with the windows that there are; or the stores do not answer.
pub async fn look<'a>(plan: &'a Plan, wanted: &Wanted, asked: &Asked) -> Result<Looked<'a>> {
    let backup = find(plan, &wanted.backup)?;
    let only = asked.store.as_ref().map(|store| store.parse::<Name>().map_err(|_| no_store(backup, store))).transpose()?;
    if let Some(store) = only.as_ref().filter(|store| !backup.stores.contains(store)) {
        return Err(no_store(backup, store.as_str()));
    }
    let mut seen = look::look(plan, backup, only.as_ref()).await?;
    if let Some(path) = &asked.identity {
        seen.keys = keys::of_file(path)?;
    }
    let mut warnings = Vec::new();
    if only.is_none() {
        let unreadable = seen.take_received(plan, backup).await?;
        warnings.extend(unreadable.into_iter().map(|what| format!("it lies here and is not taken along: {what}")));
    }
    let (mut bases, mut target) = (seen.bases(Some(wanted)), asked.target.clone());
    if bases.is_empty() {
        // Says why.
        seen.catalog.find(wanted)?;
        return Err(Error::new(Kind::NotFound, format!("there is no base backup {wanted}")).hint(format!("pgvigil list {}", wanted.backup)));
    }
    if let Target::Name(name) = &asked.target
        && let Some((segment, lsn)) = seen.restore_point(plan, backup, asked.timeline, name).await?
    {
        // It may lie before the newest base backup, and an older one of that name behind it.
        target = Target::Lsn(lsn);
        let leads_there = |base: &Base| {
            let reach = way(base, Some(&seen.archive), asked.timeline).ok().and_then(|way| way.reach);
            base.physical.stop_lsn <= lsn && reach.is_some_and(|reach| reach.segments.contains(&segment))
        };
        bases.retain(leads_there);
        if bases.is_empty() {
            let why = format!("it is at LSN {lsn}, before the end of the base backup, or on another timeline (--timeline)");
            return Err(refused(&asked.target, &why, &seen.windows(&wanted.backup).await?));
        }
    }
    let mut way = match choose(&target, &bases, Some(&seen.archive), asked.timeline) {
        Ok(way) => way,
        Err(against) => return Err(refused(&asked.target, &against.join("\n  "), &seen.windows(&wanted.backup).await?)),
    };
    let (entry, store, _) = seen.copy(&way.base)?;
    for part in Parts::of(plan, backup, &seen, &way.base)?.entries() {
        let (part, store, _) = seen.copy(&part.id)?;
        warnings.extend(refuse_unsigned(part, store.as_str(), asked.accept_unsigned)?);
    }
    let (manifest, store, rung) = (entry.manifest.clone(), store.clone(), entry.rung_in(store.as_str()));
    let major = programs::major(&manifest.server_version);
    // Only a moment has an end that is not known by names.
    let end = match asked.target {
        Target::Time(_) => seen.end_of(plan, backup, &way, major).await?,
        _ => None,
    };
    let stop = match stop(&target, &way, end, seen.archive.segment_bytes) {
        Ok(stop) => stop,
        Err(why) => return Err(refused(&asked.target, &why, &seen.windows(&wanted.backup).await?)),
    };
    if let (Stop::WithTheLog(_), Some(reach)) = (&stop, &mut way.reach) {
        // More may come into it, and nothing of it is needed.
        reach.leave_open_one(seen.archive.segment_bytes);
    }
    let tablespaces = manifest.physical.as_ref().map(|physical| physical.tablespaces.as_slice()).unwrap_or_default();
    let places = recovery::places(tablespaces, &asked.tablespaces, &asked.data.display().to_string());
    let places = places.map_err(|why| Error::new(Kind::Usage, why))?;
    Ok(Looked { backup, seen, way, stop, places, manifest, store, rung, warnings })
}

fn no_store(backup: &Backup, store: &str) -> Error {
    let names: Vec<&str> = backup.stores.iter().map(Name::as_str).collect();
    Error::new(Kind::NotFound, format!("backup {} is in no store {store:?}", backup.name)).hint(format!("it is in {}", names.join(", ")))
}

fn refused(target: &Target, why: &str, windows: &[Window]) -> Error {
    let windows: Vec<String> = windows.iter().map(Window::in_words).collect();
    let hint = if windows.is_empty() {
        "nothing can be restored to any moment yet: make a base backup with pgvigil run".to_owned()
    } else {
        let all = match target {
            Target::Latest => "--lsn with the end of one of them takes all before the gap",
            _ => "--latest takes all there is",
        };
        format!("any moment can be restored from {}; {all}", windows.join(", and from "))
    };
    Error::new(Kind::Refused, format!("{target} cannot be restored: {why}")).hint(hint)
}

/// Carries a plan out. The folder is made for it, and removed again if it fails before it is whole.
///
/// # Errors
/// The folder is not empty or too small, something is damaged, or PostgreSQL does not come to the target.
pub async fn restore(plan: &Plan, looked: &Looked<'_>, asked: &Asked, progress: &Progress, cancel: &CancellationToken) -> Result<Restored> {
    let began = std::time::Instant::now();
    if asked.start {
        start::check(plan, looked.backup, &looked.manifest)?;
    }
    // Retention leaves it alone meanwhile, and what it builds on.
    let _held = Parts::of(plan, looked.backup, &looked.seen, &looked.way.base)?.hold(&State::open(&plan.state_dir)?).await?;
    make_folders(&asked.data, &looked.places).await?;
    let fetched = tokio::select! {
        fetched = fetch(plan, looked, asked, progress) => fetched,
        () = cancel.cancelled() => Err(Error::new(Kind::Cancelled, "told to stop")),
    };
    if let Err(error) = fetched {
        remove(&asked.data, &looked.places).await;
        return Err(error);
    }
    let mut warnings = looked.warnings.clone();
    let started = if asked.start {
        progress.begin("replaying the log");
        let started = tokio::select! {
            started = start::start(plan, looked.backup, &looked.manifest, &asked.data, asked.port) => started?,
            () = cancel.cancelled() => {
                start::stop(plan, looked.backup, &looked.manifest, &asked.data).await;
                return Err(Error::new(Kind::Cancelled, "told to stop; the cluster is there and can be started"));
            }
        };
        if let Err(error) = judge(looked.way.reach.as_ref(), &looked.stop, looked.seen.archive.segment_bytes, &started.reached) {
            start::stop(plan, looked.backup, &looked.manifest, &asked.data).await;
            return Err(error);
        }
        Some(started)
    } else {
        None
    };
    if !asked.data.join("pg_hba.conf").exists() {
        warnings.push("the cluster keeps its configuration elsewhere: it has a bare one here".to_owned());
    }
    Ok(Restored { seconds: began.elapsed().as_secs_f64(), started, warnings })
}

/// Makes the folders of a cluster, each of which must not be there or be empty. Where one cannot be had, those go again
/// that were made, and no other is touched.
///
/// # Errors
/// One of them is not empty, or cannot be made.
pub async fn make_folders(data: &Path, places: &[(u32, String)]) -> Result<()> {
    make_folder(data)?;
    for (number, (_, place)) in places.iter().enumerate() {
        if let Err(error) = make_folder(Path::new(place)) {
            remove(data, &places[..number]).await;
            return Err(error);
        }
    }
    Ok(())
}

/// A folder that is not whole must not be taken for a cluster. They are this restore's: it has made them, or found them
/// empty.
async fn remove(data: &Path, places: &[(u32, String)]) {
    for folder in std::iter::once(data).chain(places.iter().map(|(_, place)| Path::new(place))) {
        // One that is a mount of its own stays, empty.
        if let Ok(folder) = folder.canonicalize() {
            let _ = remove_folder(&folder).await;
        }
    }
}

/// Where an incremental base backup lies in parts.
fn parts_folder(data: &Path) -> PathBuf {
    let mut name = data.file_name().unwrap_or_default().to_owned();
    name.push("_parts");
    data.with_file_name(name)
}

async fn fetch(plan: &Plan, looked: &Looked<'_>, asked: &Asked, progress: &Progress) -> Result<()> {
    let tablespaces = lay(plan, looked, asked, progress).await?;
    if asked.with_wal && looked.way.reach.is_some() {
        progress.begin("fetching the log");
        let bin_dir = looked.programs(plan);
        let folder = asked.data.join(BESIDE);
        beside::lay(looked.backup, &looked.seen, &looked.way, &looked.stop, bin_dir.as_deref(), &folder).await?;
    }
    let is_beside =
        !asked.with_wal && beside::lay_received(looked.backup, &looked.seen, &looked.way, &looked.stop, &asked.data.join(BESIDE)).await?;
    progress.begin("making it durable");
    let program = std::env::current_exe().map_err(|error| Error::system("cannot find this program", &error))?;
    let last = looked.last_segment();
    let source = if asked.with_wal {
        Source::Beside
    } else {
        Source::Fetch {
            program: &program,
            config: &asked.config,
            backup: looked.backup.name.as_str(),
            store: asked.store.as_deref(),
            identity: asked.identity.as_deref(),
            until: last.as_deref(),
            is_beside,
        }
    };
    configure(&asked.data, looked, looked.physical()?, &source)?;
    for folder in std::iter::once(asked.data.as_path()).chain(tablespaces.iter().map(|(_, place)| place.as_path())) {
        make_durable(folder)?;
    }
    Ok(())
}

/// Lays the base backup into its folders, which are there, and returns those of tablespaces.
///
/// # Errors
/// They are too small, something is damaged, or the store does not answer.
pub async fn lay(plan: &Plan, looked: &Looked<'_>, asked: &Asked, progress: &Progress) -> Result<Vec<(u32, PathBuf)>> {
    let parts = Parts::of(plan, looked.backup, &looked.seen, &looked.way.base)?;
    let log_bytes = if asked.with_wal { looked.log_bytes() } else { 0 };
    check_room(&asked.data, looked.physical()?.cluster_bytes + parts.beside_bytes() + log_bytes)?;
    let tablespaces: Vec<(u32, PathBuf)> = looked.places.iter().map(|(oid, place)| (*oid, PathBuf::from(place))).collect();
    let meter = progress.restart("fetching the base backup", parts.raw_bytes());
    let (_, _, store) = looked.seen.copy(&looked.way.base)?;
    let stored = Stored { store: &**store, id: &looked.way.base, manifest: &looked.manifest, keys: &looked.seen.keys };
    let folders = Folders { data: &asked.data, tablespaces: &tablespaces, inside: None };
    parts.lay_out(stored, &folders, &parts_folder(&asked.data), &meter).await?;
    Ok(tablespaces)
}

fn check_room(data: &Path, bytes: u64) -> Result<()> {
    let room = nix::sys::statvfs::statvfs(data)
        .map_err(|error| Error::system(format_args!("cannot look at {}", data.display()), &error.into()))?;
    let available = room.blocks_available() * room.fragment_size();
    if available < bytes {
        return Err(Error::new(
            Kind::Refused,
            format!("the cluster would not fit into {}: it has {bytes} bytes, and {available} are available", data.display()),
        )
        .hint("name a --target-dir on a larger disk"));
    }
    Ok(())
}

/// Writes what PostgreSQL is told.
fn configure(data: &Path, looked: &Looked<'_>, physical: &Physical, source: &Source<'_>) -> Result<()> {
    let failed = |error: &std::io::Error| Error::system(format_args!("cannot write into {}", data.display()), error);
    let before = std::fs::read_to_string(data.join("postgresql.auto.conf")).unwrap_or_default();
    let version = std::fs::read_to_string(data.join("PG_VERSION")).map_err(|error| failed(&error))?;
    let write = |name: &str, text: &str| std::fs::write(data.join(name), text).map_err(|error| failed(&error));
    let recovery = looked.recovery(source, version.trim().parse().unwrap_or_default());
    write("postgresql.auto.conf", &recovery::auto_conf(&before, recovery.as_ref()))?;
    if recovery.is_some() {
        write("recovery.signal", "")?;
    }
    // One from a standby would go on as one.
    let _ = std::fs::remove_file(data.join("standby.signal"));
    if !looked.places.is_empty() {
        write("tablespace_map", &recovery::tablespace_map(&looked.places))?;
    }
    if !data.join("postgresql.conf").exists() {
        write("postgresql.conf", &recovery::bare_conf(&physical.settings))?;
        write("pg_hba.conf", recovery::BARE_HBA)?;
        write("pg_ident.conf", "")?;
    }
    Ok(())
}

/// Whether a recovery came where it should: it may end too early without a word.
///
/// # Errors
/// It ended elsewhere (`Damaged`).
pub fn judge(reach: Option<&Reach>, stop: &Stop, segment_bytes: u64, reached: &Reached) -> Result<()> {
    let short = |why: String| {
        Err(Error::new(Kind::Damaged, format!("the recovery ended elsewhere: {why}"))
            .hint("the cluster is stopped, and there to be looked at; pgvigil wal status names gaps of the archive"))
    };
    let Some(reach) = reach else { return Ok(()) };
    let at = reached.lsn.map_or("an unknown place".to_owned(), |lsn| format!("LSN {lsn}"));
    match stop {
        Stop::At(Target::Latest) | Stop::WithTheLog(_) => {
            if let (Stop::WithTheLog(Some(newest)), Some(last)) = (stop, reached.last_transaction)
                && last > *newest
            {
                return short(format!("behind a transaction of {}, and the last should be of {}", looked_at(last), looked_at(*newest)));
            }
            // Of one that was still being written nobody knows whether a record begins in it.
            let last = reach.segments.iter().rev().nth(usize::from(reach.open)).map(|segment| segment.start(segment_bytes));
            if last.zip(reached.lsn).is_some_and(|(last, lsn)| lsn < last) || reached.lsn.is_none() {
                return short(format!("at {at}, and the log leads to {}", reach.end));
            }
            Ok(())
        }
        Stop::At(Target::Time(time)) => match reached.stopped_before {
            Some(before) if before > *time && reached.last_transaction.is_none_or(|last| last <= *time) => Ok(()),
            Some(before) => short(format!("before the transaction of {}", crate::physical::target::in_utc(before))),
            None => short(format!("at {at}, before any transaction behind {}", looked_at(*time))),
        },
        Stop::At(target) if !reached.at_target => short(format!("at {at}, not at {target}")),
        Stop::At(_) => Ok(()),
    }
}

fn looked_at(time: DateTime<Utc>) -> String {
    crate::physical::target::in_utc(time)
}
