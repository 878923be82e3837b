//! A base backup in the making: the folder of a cluster as a tar archive through the one pass, and the
//! log that makes it whole.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::catalog::manifest::{Encryption, RESTORE_PAGE};
use crate::catalog::{Entry, FileEntry, Id, Manifest, PHYSICAL, Physical, Role, Rung};
use crate::config::file::{Contents, Format, Wal};
use crate::config::plan;
use crate::config::values::Compression;
use crate::error::{Error, Kind, Result};
use crate::host::{Call, Tag, clock};
use crate::job::dump::{self, Way};
use crate::job::fill::Sealing;
use crate::job::make::{Made, Making};
use crate::job::physical::anew::Anew;
use crate::job::physical::check::{self, Verdict};
use crate::job::physical::{archive, deliver, folder, stream, unpack};
use crate::job::stores;
use crate::job::verify::Opened;
use crate::keys::Identities;
use crate::pack::codec::Codec;
use crate::pack::end::EndWatch;
use crate::pack::tar::{BACKUP_MANIFEST, Passed};
use crate::physical::inbox::Stays;
use crate::physical::whole::{ServerManifest, WalRange};
use crate::physical::{chain, page};
use crate::postgres::Server;
use crate::postgres::basebackup::{Cluster, Standing, arguments};
use crate::postgres::quote::literal;
use crate::postgres::session::Session;
use crate::state::{Lock, State};
use crate::store::Upload;
use crate::store::original::Original;
use crate::verify::stored::Stored;

/// The level behind "zstd": of pages it makes files that are 8 % larger than those of level 3, in three fifths of its time.
const ZSTD_LEVEL: u8 = 1;

/// What is waited for comes in a moment, or it may take long: the next look is after an eighth of the time that it has
/// been waited for.
fn look_after(waited: Duration) -> Duration {
    (waited / 8).clamp(Duration::from_millis(20), Duration::from_secs(1))
}

/// Segments that are pushed side by side come in any order: an archive that begins later for so long will stay so.
const SURELY_LATER: Duration = Duration::from_secs(5);

/// A receiver that cannot begin by then is told by itself, and by what is missing in the end.
const WAIT_FOR_RECEIVER: Duration = Duration::from_secs(30);

/// What the spool keeps free beside the base backup itself, in percent: a cluster grows meanwhile.
const SPOOL_RESERVE_PERCENT: u64 = 10;

/// The archives of a base backup as they were stored, before they are held against each other.
struct Archives {
    files: Vec<FileEntry>,
    /// With the tablespace that each is of.
    passed: Vec<(Option<u32>, Passed)>,
    manifest: Vec<u8>,
}

/// The base backup that an incremental one holds the changes since.
struct Parent {
    id: Id,
    /// PostgreSQL's own manifest of it, by which it finds out what has changed.
    manifest: Vec<u8>,
}

/// One in the making.
pub struct Basing<'a> {
    pub making: &'a Making<'a>,
    pub server: &'a Server,
    pub id: &'a Id,
    pub sealing: &'a Sealing,
}

impl Basing<'_> {
    /// Makes it.
    ///
    /// # Errors
    /// Anything on the way.
    pub async fn fill(&self, upload: &mut dyn Upload, started_at: DateTime<Utc>) -> Result<Made> {
        let (making, server) = (self.making, self.server);
        let spec = making.backup.physical.as_ref().ok_or_else(|| Error::new(Kind::Usage, "it is no physical backup"))?;
        let state = State::open(&making.plan.state_dir)?;
        // No backup can have a dot in its name.
        let Some(_alone) = state.lock(&format!("{}.BASE", making.backup.server))? else {
            return Err(
                Error::new(Kind::Busy, format!("another base backup of server {} is under way", making.backup.server)).hint("wait for it")
            );
        };
        let cluster = Cluster::ask(server).await?;
        cluster.check(&server.facts.user, spec.wal == Some(Wal::ArchiveCommand))?;
        let with_wal = spec.wal.is_none();
        let mut warnings = Vec::new();
        let parent = if making.incremental { self.parent(&cluster, &mut warnings).await? } else { None };
        making.progress.expect(cluster.bytes);
        let from = folder::of(making.plan, making.backup);
        if let Some((folder, Stays::Nothing)) = &from {
            folder::check(folder)?;
        }
        // With a daemon it is received already; else for as long as this takes.
        let receiver = if from.is_some() { Receiving::begin(making, &state)? } else { None };
        if receiver.is_some() && spec.wal == Some(Wal::Stream) {
            let slot = stream::slot_name(making.backup.name.as_str());
            warnings.push(format!(
                "no daemon receives the log: slot {slot} holds it on the server from now on, and with nobody who receives its disk fills"
            ));
        }
        if let Some((_, Stays::ForReceiver)) = from {
            self.wait_for_receiver().await?;
        }
        let held = if with_wal { self.hold_log(&mut warnings).await } else { None };
        let archives = self.take(upload, &cluster, with_wal, parent.as_ref()).await?;
        if let Some(session) = held {
            let _ = session.close().await;
        }
        let manifest = ServerManifest::parse(&archives.manifest).map_err(not_whole)?;
        let range = manifest.range().map_err(not_whole)?;
        let wrong = manifest.compare(&archives.passed);
        if !wrong.is_empty() {
            return Err(not_whole(wrong.join("\n  ")));
        }
        let stood = Standing::ask(server).await?;
        let mut problems = Vec::new();
        for (name, query) in &making.backup.checks {
            match check::everywhere(server, query, check::ON_A_LIVE_SERVER).await {
                Verdict::Holds => {}
                Verdict::Fails(why) => problems.push(format!("check {name}: {why}")),
                // Whoever makes base backups need not be one who may read; a drill is.
                Verdict::Unknown(why) => warnings.push(format!("check {name} was not asked of the live server: {why}")),
            }
        }
        if !with_wal {
            wait_for_wal(making, range).await?;
        }
        let (cluster_files, cluster_bytes) = manifest.total();
        let physical = Physical {
            superuser: cluster.superuser,
            system_identifier: cluster.system_identifier,
            timeline: range.timeline,
            start_lsn: range.start,
            stop_lsn: range.end,
            started_at: cluster.now,
            stopped_at: stood.now,
            next_xid: stood.next_xid,
            wal_segment_bytes: cluster.wal_segment_bytes,
            with_wal,
            from_standby: cluster.in_recovery,
            data_checksums: cluster.data_checksums,
            cluster_files,
            // Of an incremental one these are the changes: what it restores to is as large as the cluster.
            cluster_bytes: if parent.is_some() { cluster.bytes.max(cluster_bytes) } else { cluster_bytes },
            tablespaces: cluster.tablespaces,
            settings: cluster.settings,
            incremental_of: parent.map(|parent| parent.id.to_string()),
        };
        let mut files = archives.files;
        let mut manifest = describe(making, server, self.id, started_at, physical);
        // Names, sizes and checksums, as in our own manifest: the next incremental one needs it, and nobody may
        // have a key here.
        files.push(put(upload, BACKUP_MANIFEST, archives.manifest, Role::BackupManifest).await?);
        manifest.files = files;
        let text = page::page(&manifest);
        manifest.files.push(put(upload, RESTORE_PAGE, text.into_bytes(), Role::Notes).await?);
        manifest.finished_at = clock::now();
        Ok(Made {
            manifest,
            warnings,
            problems,
            tables_there: std::collections::BTreeMap::new(),
            opened: Opened::default(),
            keys: Identities::default(),
        })
    }

    /// What is written before somebody receives never comes: a slot that `pg_receivewal` makes keeps the log from then on.
    async fn wait_for_receiver(&self) -> Result<()> {
        let slot = literal(&stream::slot_name(self.making.backup.name.as_str()));
        let sql = format!("select to_json(exists (select from pg_replication_slots where slot_name = {slot} and active))");
        let began = tokio::time::Instant::now();
        while !self.server.query::<bool>(self.server.maintenance_database(), &sql).await? && began.elapsed() < WAIT_FOR_RECEIVER {
            tokio::time::sleep(look_after(began.elapsed())).await;
        }
        Ok(())
    }

    /// The log that is taken along is fetched at the end: until then a slot of this session keeps the server from removing
    /// it. Where there is none to be had, the run fails in the end if it was removed.
    async fn hold_log(&self, warnings: &mut Vec<String>) -> Option<Session> {
        let slot = literal(&format!("pgvigil_base_{}", Tag::random().random_part()));
        let held = async {
            let mut session = Session::open(self.server, self.server.maintenance_database()).await?;
            session.ask("select set_config(name, '0', false) from pg_catalog.pg_settings where name = 'idle_session_timeout'").await?;
            session.ask(&format!("select slot_name from pg_create_physical_replication_slot({slot}, true, true)")).await?;
            Ok::<_, Error>(session)
        };
        match held.await {
            Ok(session) => Some(session),
            Err(error) => {
                let why = error.message.lines().last().unwrap_or_default().trim().to_owned();
                warnings.push(format!("no slot holds the log of this base backup on the server meanwhile: {why}"));
                None
            }
        }
    }

    /// The newest good base backup of the cluster. `None`: there is none yet, and a whole one is made.
    async fn parent(&self, cluster: &Cluster, warnings: &mut Vec<String>) -> Result<Option<Parent>> {
        cluster.check_summaries()?;
        let (making, name) = (self.making, self.making.backup.name.as_str());
        let store = making.backup.stores[0].as_str();
        let catalog = stores::catalog_of_one(making.plan, making.store, store, Some(name)).await?;
        let is_parent = |entry: &&Entry| {
            let of_it = entry.manifest.physical.as_ref().is_some_and(|physical| physical.system_identifier == cluster.system_identifier);
            of_it && entry.counts() && entry.rung_in(store).is_some_and(Rung::is_good) && chain::of(&catalog.entries, &entry.id).is_ok()
        };
        let Some(entry) = catalog.entries.iter().find(is_parent) else {
            warnings.push("there is no good base backup to hold the changes since: this one is whole".to_owned());
            return Ok(None);
        };
        let keys = Identities::default();
        let stored = Stored { store: making.store, id: &entry.id, manifest: &entry.manifest, keys: &keys };
        let manifest = unpack::server_manifest(stored).await?;
        let manifest = manifest.map_err(|why| Error::new(Kind::Damaged, format!("{} is damaged: {why}", entry.id)))?;
        Ok(Some(Parent { id: entry.id.clone(), manifest }))
    }

    /// Lets pg_basebackup run: to stdout, or, where there are tablespaces, by way of the spool.
    async fn take(&self, upload: &mut dyn Upload, cluster: &Cluster, with_wal: bool, parent: Option<&Parent>) -> Result<Archives> {
        if !cluster.tablespaces.is_empty() {
            return self.by_spool(upload, cluster, with_wal, parent).await;
        }
        let name = self.file_name(None);
        let writer = upload.create(&name).await?;
        let call = self.call(with_wal, None, parent);
        let (packed, seen) = dump::stream(self.server, call, self.way("copying the cluster")?, writer).await?;
        let mut passed = *seen.tar.unwrap_or_default();
        let manifest = passed.manifest.take().ok_or_else(|| not_whole(format!("{BACKUP_MANIFEST} is missing")))?;
        Ok(Archives { files: vec![dump::entry(name, packed, None, Role::Base)], passed: vec![(None, passed)], manifest })
    }

    fn call(&self, with_wal: bool, folder: Option<&Path>, parent: Option<&Parent>) -> Call {
        let arguments = arguments(&format!("pgvigil {}", self.id), with_wal, folder, parent.is_some());
        // That all of the log was archived is no news.
        let server = self.server.with_setting("client_min_messages", "warning");
        let input = parent.map(|parent| Bytes::from(parent.manifest.clone()));
        Call { stdin: input.is_some(), input, ..server.call("pg_basebackup", arguments) }
    }

    fn way(&self, stage: &str) -> Result<Way> {
        Ok(Way {
            watch: EndWatch::tar(),
            codec: self.codec(),
            seal: self.sealing.seal()?,
            stall_timeout: self.making.backup.stall_timeout,
            meter: self.making.progress.begin(stage),
        })
    }

    fn codec(&self) -> Codec {
        match self.making.backup.dump.compression {
            Compression::Zstd(None) => Codec::Zstd(ZSTD_LEVEL),
            compression => Codec::from(compression),
        }
    }

    fn file_name(&self, oid: Option<u32>) -> String {
        let stem = oid.map_or("base".to_owned(), |oid| oid.to_string());
        self.sealing.name(&format!("{stem}.tar{}", self.codec().suffix()))
    }

    /// pg_basebackup sends several archives into a folder only: there they wait for the pass.
    async fn by_spool(&self, upload: &mut dyn Upload, cluster: &Cluster, with_wal: bool, parent: Option<&Parent>) -> Result<Archives> {
        let making = self.making;
        if making.plan.servers[&making.backup.server].place.is_by_exec() {
            return Err(no_folder(cluster));
        }
        let spool = Spool::make(&making.plan.spool_dir, making.tag, cluster)?;
        let call = self.call(with_wal, Some(&spool.0), parent);
        let meter = making.progress.begin("copying the cluster into the spool");
        dump::into_folder(self.server, call, &spool.0, making.backup.stall_timeout, &meter).await?;
        let manifest = std::fs::read(spool.0.join(BACKUP_MANIFEST)).map_err(|error| spool.unreadable(BACKUP_MANIFEST, &error))?;
        let mut archives = Archives { files: Vec::new(), passed: Vec::new(), manifest };
        let spaces = cluster.tablespaces.iter().map(|space| Some(space.oid));
        for oid in std::iter::once(None).chain(spaces) {
            let from = oid.map_or("base.tar".to_owned(), |oid| format!("{oid}.tar"));
            let file = Original::open(&spool.0.join(&from)).and_then(|file| file.reader())?;
            let name = self.file_name(oid);
            let writer = upload.create(&name).await?;
            let what = oid.map_or("packing the data directory".to_owned(), |oid| format!("packing tablespace {oid}"));
            let (packed, seen) = dump::packed("pg_basebackup", file, self.way(&what)?, writer).await?;
            let _ = std::fs::remove_file(spool.0.join(&from));
            archives.files.push(dump::entry(name, packed, None, Role::Base));
            archives.passed.push((oid, *seen.tar.unwrap_or_default()));
        }
        Ok(archives)
    }
}

/// A cluster with tablespaces does not go through an exec.
pub fn no_folder(cluster: &Cluster) -> Error {
    let names: Vec<&str> = cluster.tablespaces.iter().map(|space| space.name.as_str()).collect();
    let what = "and pg_basebackup writes several archives into a folder only, which an exec has not";
    Error::new(Kind::Refused, format!("the cluster has tablespaces ({}), {what}", names.join(", ")))
        .hint("set via = \"network\" on the server, so that pg_basebackup runs here")
}

fn not_whole(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Dump, format!("what pg_basebackup sent is no whole base backup: {why}"))
        .hint("run it again; if it stays so, look into the log of the server and the kernel's log of its disk")
}

async fn put(upload: &mut dyn Upload, name: &str, bytes: Vec<u8>, role: Role) -> Result<FileEntry> {
    let packed = dump::put(upload, name, Bytes::from(bytes)).await?;
    Ok(dump::entry(name.to_owned(), packed, None, role))
}

/// A folder of the spool, which goes with this.
struct Spool(PathBuf);

impl Spool {
    fn make(dir: &Path, tag: &Tag, cluster: &Cluster) -> Result<Self> {
        let path = spool_of(dir, tag);
        let unmade = |error: &std::io::Error| {
            Error::system(format_args!("cannot make {}", path.display()), error).hint("set spool_dir to a folder of this user")
        };
        std::fs::create_dir_all(dir).map_err(|error| unmade(&error))?;
        let needed = cluster.bytes.max(cluster.tablespaces.iter().map(|space| space.bytes).sum());
        let needed = needed + needed / 100 * SPOOL_RESERVE_PERCENT;
        let room = nix::sys::statvfs::statvfs(dir).map_err(|error| unmade(&error.into()))?;
        let available = room.blocks_available() * room.fragment_size();
        if available < needed {
            return Err(Error::new(
                Kind::Refused,
                format!(
                    "the base backup would not fit into the spool {}: it needs about {needed} bytes, and {available} are available",
                    dir.display()
                ),
            )
            .hint("set spool_dir to a larger disk: a cluster with tablespaces cannot be streamed"));
        }
        std::fs::create_dir(&path).map_err(|error| unmade(&error))?;
        Ok(Spool(path))
    }

    fn unreadable(&self, name: &str, error: &std::io::Error) -> Error {
        Error::system(format_args!("cannot read {}", self.0.join(name).display()), error)
    }
}

/// Removes what a dead run left in the spool.
pub fn remove_spool(plan: &plan::Plan, tag: &Tag) {
    let _ = std::fs::remove_dir_all(spool_of(&plan.spool_dir, tag));
}

fn spool_of(dir: &Path, tag: &Tag) -> PathBuf {
    dir.join(format!("base.{}", tag.as_str()))
}

impl Drop for Spool {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The log is received while this lives.
struct Receiving(CancellationToken);

impl Receiving {
    /// `None`: another process receives it.
    fn begin(making: &Making<'_>, state: &State) -> Result<Option<Self>> {
        let Some(lock) = state.lock(&stream::lock_name(making.backup))? else { return Ok(None) };
        let cancel = CancellationToken::new();
        let (plan, backup, owner, ends) = (making.plan.clone(), making.backup.clone(), state.owner().to_owned(), cancel.clone());
        tokio::spawn(async move {
            // This very run leads over a gap.
            deliver::bring(&plan, &backup, &owner, &Anew::default(), &ends).await;
            drop::<Lock>(lock);
        });
        Ok(Some(Receiving(cancel)))
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// A base backup is none without the log from its beginning to its end.
async fn wait_for_wal(making: &Making<'_>, range: WalRange) -> Result<()> {
    making.progress.begin("waiting for its log in the archive");
    let started = tokio::time::Instant::now();
    let mut later_since: Option<tokio::time::Instant> = None;
    loop {
        let archive = archive::look(making.store, making.backup.name.as_str()).await?;
        let missing = archive.missing(range.timeline, range.start, range.end);
        let Some(first) = missing.first() else { return Ok(()) };
        let begins_later =
            archive.segments.get(&range.timeline).and_then(|numbers| numbers.first()).is_some_and(|there| first.number < *there);
        later_since = begins_later.then(|| later_since.unwrap_or_else(tokio::time::Instant::now));
        if later_since.is_some_and(|since| since.elapsed() > SURELY_LATER) {
            let first = first.name(archive.segment_bytes);
            return Err(Error::new(
                Kind::Postgres,
                format!("the base backup begins at {}, and its archive later: segment {first} will not come any more", range.start),
            )
            .hint("a standby begins at its last restartpoint: CHECKPOINT on the primary, and run it again; else look why the server has archived it elsewhere"));
        }
        if started.elapsed() > making.backup.stall_timeout {
            return Err(Error::new(
                Kind::Timeout,
                format!(
                    "the log of the base backup did not come into the archive for {} s: segment {} is missing",
                    making.backup.stall_timeout.as_secs(),
                    first.name(archive.segment_bytes)
                ),
            )
            .hint("look at archive_command in the log of the server and at pg_stat_archiver, or whether the daemon streams; pgvigil wal status"));
        }
        tokio::time::sleep(look_after(started.elapsed())).await;
    }
}

fn describe(making: &Making<'_>, server: &Server, id: &Id, started_at: DateTime<Utc>, physical: Physical) -> Manifest {
    Manifest {
        format_version: Manifest::format_version(),
        id: id.to_string(),
        backup: id.backup.clone(),
        label: id.label.to_string(),
        slot: id.label.slot(),
        taken_at: physical.stopped_at,
        started_at,
        finished_at: started_at,
        kind: PHYSICAL.to_owned(),
        narrow: false,
        server: making.backup.server.to_string(),
        server_version: server.facts.version.clone(),
        client_version: server.client_version.clone(),
        format: Format::Plain,
        contents: Contents::All,
        tables: Vec::new(),
        exclude_tables: Vec::new(),
        schemas: Vec::new(),
        databases: server.facts.databases.iter().map(|database| database.name.clone()).collect(),
        files: Vec::new(),
        globals: None,
        evidence: None,
        encryption: Encryption::age(&making.backup.encrypt_to),
        signature: None,
        generator: crate::GENERATOR.to_owned(),
        adopted_from: Vec::new(),
        physical: Some(physical),
    }
}
