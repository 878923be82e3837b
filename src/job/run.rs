//! One run of a backup, from the lock to the proof.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use globset::Glob;
use tokio_util::sync::CancellationToken;

use crate::catalog::id::dump_stem;
use crate::catalog::manifest::{DatabaseEvidence, Evidence, Globals, RESTORE_PAGE};
use crate::catalog::{FileEntry, Id, Label, Manifest, Role, Rung};
use crate::config::Plan;
use crate::config::file::Format;
use crate::config::plan::{Backup, Which};
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::host::{Tag, clock, secret};
use crate::job::dump::{self, Way};
use crate::job::progress::Progress;
use crate::job::verify::Proven;
use crate::job::{stores, sweep, verify};
use crate::pack::codec::Codec;
use crate::pack::end::EndWatch;
use crate::pack::packer::Packed;
use crate::postgres::dump::{arguments, globals_arguments};
use crate::postgres::programs::parse_version;
use crate::postgres::quote::identifier;
use crate::postgres::server::{Database, Server};
use crate::restore::page;
use crate::state::{Outcome, State};
use crate::store::{Store, Upload};

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Report {
    /// `None` if nothing was stored.
    pub id: Option<Id>,
    pub outcome: Outcome,
    pub rung: Option<Rung>,
    pub error: Option<Error>,
    /// What is worth knowing; `problems` among them need a look.
    pub warnings: Vec<String>,
    pub seconds: f64,
    pub bytes: u64,
    pub raw_bytes: u64,
}

/// Makes one backup now. All that can go wrong with the backup itself is in the report.
///
/// # Errors
/// The run did not begin: there is no such backup, another run of it holds the lock (`Busy`), the
/// plan asks for what this version cannot do, or `state_dir` cannot be written.
pub async fn run(plan: &Plan, backup: &str, progress: &Progress, cancel: &CancellationToken) -> Result<Report> {
    let backup = find(plan, backup)?;
    refuse_not_yet(plan, &backup.name)?;
    let state = State::open(&plan.state_dir)?;
    let history = state.history()?;
    let Some(_lock) = state.lock(backup.name.as_str())? else {
        let busy =
            Error::new(Kind::Busy, format!("another run of {} is under way", backup.name)).hint("wait for it; pgvigil history shows it");
        let row = history.begin(backup.name.as_str(), backup.server.as_str(), clock::now(), &Tag::random())?;
        history.end(row, clock::now(), Outcome::Skipped, Some(&busy.message), None, true)?;
        return Err(busy);
    };
    sweep::sweep(plan, &state, &history, backup).await?;

    let started = std::time::Instant::now();
    let tag = Tag::random();
    let row = history.begin(backup.name.as_str(), backup.server.as_str(), clock::now(), &tag)?;
    let store_name = &backup.stores[0];
    let store = stores::open(&plan.stores[store_name], state.owner())?;
    let server = OnceLock::new();
    let making =
        Making { plan, backup, store: &*store, server: &server, progress, tag: &tag, note_slot: &|slot| history.set_slot(row, slot) };
    let made = tokio::select! {
        made = making.make() => made,
        () = cancel.cancelled() => Err(Error::new(Kind::Cancelled, "told to stop")),
        () = passed(backup.deadline) => Err(Error::new(Kind::Timeout, format!("the deadline of {} s has passed", backup.deadline.unwrap_or_default().as_secs()))
            .hint("look at what slowed the dump; deadline sets the patience")),
    };
    let mut clean = true;
    let mut report = match made {
        Ok(made) => {
            let proven = tokio::select! {
                proven = prove(plan, &*store, store_name, &made.manifest, progress) => proven,
                () = cancel.cancelled() => Err(Error::new(Kind::Cancelled, "told to stop while reading back; the backup is written")),
            };
            reported(made, proven)
        }
        Err(error) => {
            clean = end_leftovers(&server, &tag, &error).await;
            Report {
                id: None,
                outcome: if error.kind == Kind::Cancelled { Outcome::Cancelled } else { Outcome::Failed },
                rung: None,
                error: Some(error),
                warnings: Vec::new(),
                seconds: 0.0,
                bytes: 0,
                raw_bytes: 0,
            }
        }
    };
    report.seconds = verify::round(started.elapsed().as_secs_f64());
    let error = report.error.as_ref().map(|error| error.message.as_str());
    let id = report.id.as_ref().map(ToString::to_string);
    history.end(row, clock::now(), report.outcome, error, id.as_deref(), clean)?;
    Ok(report)
}

/// The backup of a name.
///
/// # Errors
/// The file has none.
pub fn find<'a>(plan: &'a Plan, name: &str) -> Result<&'a Backup> {
    plan.backups.get(name).ok_or_else(|| {
        let names: Vec<&str> = plan.backups.keys().map(Name::as_str).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        Error::new(Kind::NotFound, format!("there is no backup {name:?} in the file")).hint(format!("backups of the file: {names}"))
    })
}

fn refuse_not_yet(plan: &Plan, backup: &Name) -> Result<()> {
    match plan.not_yet.iter().find(|key| key.blocks(backup)) {
        Some(key) => Err(Error::new(
            Kind::NotYet,
            format!("{}: not yet: this version cannot do what line {} of the file asks for", key.key, key.line),
        )
        .hint("take the key out for now; a backup without it would not be what the file promises")),
        None => Ok(()),
    }
}

async fn passed(deadline: Option<std::time::Duration>) {
    match deadline {
        Some(deadline) => tokio::time::sleep(deadline).await,
        None => std::future::pending().await,
    }
}

/// Ends what a failed run may have left on the server. False: something may be left.
async fn end_leftovers(server: &OnceLock<Server>, tag: &Tag, error: &Error) -> bool {
    let Some(server) = server.get() else {
        // Told to stop while it still connected: a question of ours may wait there.
        return !matches!(error.kind, Kind::Cancelled | Kind::Timeout);
    };
    match sweep::end_tagged(server, tag).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "cannot make sure that nothing of the run is left on the server; the next run tries again");
            false
        }
    }
}

/// What was stored.
struct Made {
    manifest: Manifest,
    warnings: Vec<String>,
    /// Tables of the user in each database, where all of them were asked for.
    tables_there: BTreeMap<String, u64>,
}

fn reported(made: Made, proven: Result<Proven>) -> Report {
    let Made { manifest, mut warnings, tables_there } = made;
    let mut problems = Vec::new();
    let (rung, error) = match proven {
        Ok(Proven { proof, .. }) if proof.rung == Rung::Bad => (
            Rung::Bad,
            Some(
                Error::new(Kind::Damaged, format!("what was stored does not read back: {}", proof.errors.join("; ")))
                    .hint("look into the kernel's log for errors of the disk, and run again"),
            ),
        ),
        Ok(Proven { proof, tables }) => {
            warnings.extend(proof.notes);
            // A valid header and no tables is a dump too.
            problems.extend(
                tables_there
                    .iter()
                    .filter(|(database, there)| **there > 0 && tables.get(*database) == Some(&0))
                    .map(|(database, there)| format!("database {database:?} has {there} tables, and the dump holds none of them")),
            );
            (proof.rung, None)
        }
        Err(error) => (Rung::Written, Some(error)),
    };
    let outcome = match &error {
        Some(error) if error.kind == Kind::Cancelled => Outcome::Cancelled,
        Some(_) => Outcome::Failed,
        None if problems.is_empty() => Outcome::Ok,
        None => Outcome::Problems,
    };
    warnings.extend(problems);
    Report {
        id: Some(manifest.id()),
        outcome,
        rung: Some(rung),
        error,
        warnings,
        seconds: 0.0,
        bytes: manifest.bytes(),
        raw_bytes: manifest.raw_bytes(),
    }
}

/// From `written` to `readable`.
async fn prove(plan: &Plan, store: &dyn Store, name: &Name, manifest: &Manifest, progress: &Progress) -> Result<Proven> {
    let id = manifest.id();
    let proven = verify::verify(plan, store, &id, manifest, None, progress).await?;
    if let Err(error) = verify::point_latest(store, name.as_str(), &id.backup).await {
        tracing::warn!(%error, "cannot point `latest` at the newest backup");
    }
    Ok(proven)
}

/// A backup in the making.
struct Making<'a> {
    plan: &'a Plan,
    backup: &'a Backup,
    store: &'a dyn Store,
    /// Set as soon as the server is reached, so that a cancelled run can be ended there.
    server: &'a OnceLock<Server>,
    progress: &'a Progress,
    tag: &'a Tag,
    note_slot: &'a (dyn Fn(DateTime<Utc>) -> Result<()> + Sync),
}

impl Making<'_> {
    /// The way of the data, down to the commit.
    async fn make(&self) -> Result<Made> {
        let started_at = clock::now();
        self.progress.begin("connecting");
        let server = Server::connect(&self.plan.servers[&self.backup.server], self.tag.clone()).await?;
        let server = self.server.get_or_init(|| server);
        server.check_client()?;
        let databases = choose(&self.backup.which, &server.facts.databases, &self.backup.name)?;
        self.expect().await;

        let label = self.free_label(started_at).await?;
        (self.note_slot)(label.slot())?;
        let id = Id { backup: self.backup.name.to_string(), label };
        let mut upload = self.store.begin(&id).await?;
        match self.fill(&mut *upload, server, &databases, &id, started_at).await {
            Ok(made) => {
                upload.commit(Bytes::from(made.manifest.to_json()?)).await?;
                Ok(made)
            }
            Err(error) => {
                upload.discard().await;
                Err(error)
            }
        }
    }

    /// What the last run was, as a measure for the progress.
    async fn expect(&self) {
        let mut catalog = crate::catalog::Catalog::default();
        let name = self.backup.name.as_str();
        if crate::store::catalog_of(self.store, self.backup.stores[0].as_str(), Some(name), &mut catalog).await.is_ok()
            && let Some(last) = catalog.entries.first()
        {
            self.progress.expect(last.manifest.raw_bytes());
        }
    }

    /// The second of the start, or the next that is free.
    async fn free_label(&self, now: DateTime<Utc>) -> Result<Label> {
        let taken = self.store.labels(self.backup.name.as_str()).await?;
        let mut label = Label::of(now);
        while taken.contains(&label) {
            label = label.next();
        }
        Ok(label)
    }

    async fn fill(
        &self,
        upload: &mut dyn Upload,
        server: &Server,
        databases: &[Database],
        id: &Id,
        started_at: DateTime<Utc>,
    ) -> Result<Made> {
        let (mut files, mut tables_there) = (Vec::new(), BTreeMap::new());
        let taken_at = clock::now();
        for database in databases {
            let about = |error: Error| error.context(format_args!("database {:?}", database.name));
            if !self.backup.dump.is_narrow() {
                tables_there.insert(database.name.clone(), count_tables(server, &database.name).await.map_err(about)?);
            }
            files.extend(self.dump(upload, server, database, id).await.map_err(about)?);
        }
        let globals = if self.backup.globals {
            files.push(self.globals(upload, server).await.map_err(|error| error.context("globals"))?);
            Some(Globals { no_role_passwords: !server.facts.reads_passwords })
        } else {
            None
        };
        let mut manifest = self.manifest(server, databases, id, started_at, taken_at);
        manifest.files = files;
        manifest.globals = globals;
        let page = self.page(upload, server, databases, &manifest).await?;
        manifest.files.push(page);
        manifest.finished_at = clock::now();
        let mut warnings = Vec::new();
        if page::newer_client(&manifest) {
            warnings.push(format!(
                "pg_dump {} is newer than the server {}: the dump restores into PostgreSQL 17 and later; RESTORE.md says how else",
                manifest.client_version, manifest.server_version
            ));
        }
        Ok(Made { manifest, warnings, tables_there })
    }

    fn codec(&self) -> Codec {
        Codec::from(self.backup.dump.compression)
    }

    async fn dump(&self, upload: &mut dyn Upload, server: &Server, database: &Database, id: &Id) -> Result<Vec<FileEntry>> {
        let spec = &self.backup.dump;
        let client_major = parse_version(&server.client_version).map_or(0, |(major, _)| major);
        let stem = dump_stem(&database.name, id.label.slot(), self.backup.timezone);
        let meter = self.progress.begin(format!("dumping {}", crate::host::printable(&database.name)));
        let entry = |name: String, packed: Packed| FileEntry {
            name,
            bytes: packed.bytes,
            raw_bytes: packed.raw_bytes,
            sha256: packed.sha256,
            database: Some(database.name.clone()),
            role: Role::Dump,
        };
        if spec.format == Format::Directory {
            let folder = upload.create_folder(&stem).await?;
            let call = server.call("pg_dump", arguments(spec, &database.name, client_major, Some(&folder))?);
            dump::into_folder(server, call, &folder, self.backup.stall_timeout, &meter).await?;
            upload.seal_folder(&folder).await?;
            let files = dump::hash_folder(&folder).await?;
            if !files.iter().any(|(name, _)| name == "toc.dat") {
                return Err(Error::new(Kind::Dump, "pg_dump wrote no toc.dat"));
            }
            return Ok(files.into_iter().map(|(name, packed)| entry(format!("{stem}/{name}"), packed)).collect());
        }
        let plain = spec.format == Format::Plain;
        let (codec, name) =
            if plain { (self.codec(), format!("{stem}.sql{}", self.codec().suffix())) } else { (Codec::None, format!("{stem}.dump")) };
        let writer = upload.create(&name).await?;
        let call = server.call("pg_dump", arguments(spec, &database.name, client_major, None)?);
        let way = Way {
            watch: if plain { EndWatch::plain() } else { EndWatch::custom() },
            codec,
            stall_timeout: self.backup.stall_timeout,
            meter,
        };
        let (packed, _) = dump::stream(server, call, way, writer).await?;
        Ok(vec![entry(name, packed)])
    }

    async fn globals(&self, upload: &mut dyn Upload, server: &Server) -> Result<FileEntry> {
        let name = format!("globals.sql{}", self.codec().suffix());
        let writer = upload.create(&name).await?;
        let call = server.call("pg_dumpall", globals_arguments(server.maintenance_database(), server.facts.reads_passwords));
        let way = Way {
            watch: EndWatch::plain(),
            codec: self.codec(),
            stall_timeout: self.backup.stall_timeout,
            meter: self.progress.begin("dumping globals"),
        };
        let (packed, _) = dump::stream(server, call, way, writer).await?;
        Ok(FileEntry { name, bytes: packed.bytes, raw_bytes: packed.raw_bytes, sha256: packed.sha256, database: None, role: Role::Globals })
    }

    fn manifest(&self, server: &Server, databases: &[Database], id: &Id, started_at: DateTime<Utc>, taken_at: DateTime<Utc>) -> Manifest {
        let spec = &self.backup.dump;
        let evidence = databases.iter().map(|database| (database.name.clone(), DatabaseEvidence::of(database))).collect::<BTreeMap<_, _>>();
        Manifest {
            format_version: Manifest::format_version(),
            id: id.to_string(),
            backup: id.backup.clone(),
            label: id.label.to_string(),
            slot: id.label.slot(),
            taken_at,
            started_at,
            finished_at: taken_at,
            kind: "dump".to_owned(),
            narrow: spec.is_narrow(),
            server: self.backup.server.to_string(),
            server_version: server.facts.version.clone(),
            client_version: server.client_version.clone(),
            format: spec.format,
            contents: spec.contents,
            tables: spec.tables.clone(),
            exclude_tables: spec.exclude_tables.clone(),
            schemas: spec.schemas.clone(),
            databases: databases.iter().map(|database| database.name.clone()).collect(),
            files: Vec::new(),
            globals: None,
            evidence: Some(Evidence { databases: evidence }),
            encryption: None,
            signature: None,
            generator: crate::GENERATOR.to_owned(),
        }
    }

    async fn page(&self, upload: &mut dyn Upload, server: &Server, databases: &[Database], manifest: &Manifest) -> Result<FileEntry> {
        let text = page::page(&page::Facts {
            manifest,
            databases,
            reached: &server.reached,
            user: &server.facts.user,
            is_superuser: server.facts.is_superuser,
            maintenance_database: server.maintenance_database(),
        });
        let packed = dump::put(upload, RESTORE_PAGE, Bytes::from(text)).await?;
        Ok(FileEntry {
            name: RESTORE_PAGE.to_owned(),
            bytes: packed.bytes,
            raw_bytes: packed.raw_bytes,
            sha256: packed.sha256,
            database: None,
            role: Role::Notes,
        })
    }
}

/// The databases of a backup, out of those that the server has.
///
/// # Errors
/// One that is named is not there, or none is left.
pub fn choose(which: &Which, there: &[Database], backup: &Name) -> Result<Vec<Database>> {
    let usable = || there.iter().filter(|database| database.is_usable());
    let named = |name: &str| {
        there.iter().find(|database| database.name == name && database.allows_connections).cloned().ok_or_else(|| {
            let names: Vec<String> = usable().map(|database| identifier(&database.name)).collect();
            Error::new(Kind::NotFound, format!("the server has no database {name:?} that allows connections"))
                .hint(format!("it has: {}", crate::host::printable(&names.join(", "))))
        })
    };
    match which {
        Which::One(given) => Ok(vec![named(secret::resolve(&format!("backups.{backup}.database"), given)?.reveal())?]),
        Which::Named(names) => names.iter().map(|name| named(name)).collect(),
        Which::All { exclude } => {
            let globs: Vec<_> = exclude.iter().filter_map(|pattern| Glob::new(pattern).ok()).map(|glob| glob.compile_matcher()).collect();
            let chosen: Vec<Database> =
                usable().filter(|database| !globs.iter().any(|glob| glob.is_match(&database.name))).cloned().collect();
            if chosen.is_empty() {
                return Err(Error::new(Kind::NotFound, "exclude leaves no database of the server").hint("look at exclude in the file"));
            }
            Ok(chosen)
        }
    }
}

/// Tables of the user, which a whole dump holds.
async fn count_tables(server: &Server, database: &str) -> Result<u64> {
    server
        .query(
            database,
            "select to_json(count(*)) from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
            where c.relkind in ('r', 'p') and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
            and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = c.oid and d.deptype = 'e')",
        )
        .await
}
