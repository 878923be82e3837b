//! A backup in the making: from the server into an upload that is ready to be committed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use globset::Glob;

use crate::catalog::id::dump_stem;
use crate::catalog::manifest::{Globals, RESTORE_PAGE};
use crate::catalog::{DatabaseEvidence, Entry, Evidence, FileEntry, Id, Label, Manifest, Role, Rung};
use crate::config::Plan;
use crate::config::file::{EvidenceMode, Format};
use crate::config::plan::{Backup, StoreKind, Which};
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::host::{Call, Tag, clock, secret};
use crate::job::assess;
use crate::job::dump::{self, Way};
use crate::job::evidence::{self, Dumped};
use crate::job::physical;
use crate::job::progress::Progress;
use crate::job::verify::Opened;
use crate::pack::census::TableRows;
use crate::pack::codec::Codec;
use crate::pack::end::EndWatch;
use crate::pack::packer::{Meter, Packed};
use crate::postgres::dump::{arguments, globals_arguments};
use crate::postgres::programs::parse_version;
use crate::postgres::quote::identifier;
use crate::postgres::server::{Database, Server};
use crate::restore::page;
use crate::store::{Store, Upload};
use crate::verify::archive::{self, Source};

/// What was dumped.
pub struct Made {
    pub manifest: Manifest,
    pub warnings: Vec<String>,
    /// What needs a look.
    pub problems: Vec<String>,
    /// Tables of the user in each database, where all of them were asked for.
    pub tables_there: BTreeMap<String, u64>,
    pub opened: Opened,
}

/// A backup whose files are durable, under no name yet.
pub struct Ready {
    upload: Box<dyn Upload>,
    made: Made,
}

impl Ready {
    /// Lets it appear under its name.
    ///
    /// # Errors
    /// The store cannot be written; the backup is not there.
    pub async fn commit(self) -> Result<Made> {
        let manifest = Bytes::from(self.made.manifest.to_json()?);
        self.upload.commit(manifest).await?;
        Ok(self.made)
    }
}

/// A backup in the making.
pub struct Making<'a> {
    pub plan: &'a Plan,
    pub backup: &'a Backup,
    /// The one that the schedule asks for.
    pub slot: Option<DateTime<Utc>>,
    pub store: &'a dyn Store,
    /// Set as soon as the server is reached, so that a cancelled run can be ended there.
    pub server: &'a OnceLock<Server>,
    pub progress: &'a Progress,
    pub tag: &'a Tag,
    pub note_slot: &'a (dyn Fn(DateTime<Utc>) -> Result<()> + Sync),
}

impl Making<'_> {
    /// The way of the data, down to the commit, which is the caller's: it must not be broken off.
    ///
    /// # Errors
    /// Anything on the way; nothing is left in the store.
    pub async fn make(&self) -> Result<Ready> {
        let started_at = clock::now();
        let last = self.expect().await?;
        self.progress.begin("connecting");
        let server = Server::connect(&self.plan.servers[&self.backup.server], self.tag.clone()).await?;
        let server = self.server.get_or_init(|| server);
        server.check_client()?;
        let databases = choose(&self.backup.which, &server.facts.databases, &self.backup.name)?;
        let label = self.free_label(started_at).await?;
        (self.note_slot)(label.slot())?;
        let id = Id { backup: self.backup.name.to_string(), label };
        let mut upload = self.store.begin(&id).await?;
        let filled = if self.backup.physical.is_some() {
            physical::base::fill(self, &mut *upload, server, &id, started_at).await
        } else {
            self.fill(&mut *upload, server, &databases, &id, started_at).await
        };
        match filled {
            Ok(mut made) => {
                made.problems.extend(last.and_then(|last| shrunk(&last, &made.manifest)));
                Ok(Ready { upload, made })
            }
            Err(error) => {
                upload.discard().await;
                Err(error)
            }
        }
    }

    /// The last good backup, as a measure for the progress, for the room that this one needs, and for
    /// its size.
    ///
    /// # Errors
    /// It would not fit on the disk.
    async fn expect(&self) -> Result<Option<Manifest>> {
        let mut catalog = crate::catalog::Catalog::default();
        let name = self.backup.name.as_str();
        let store = &self.backup.stores[0];
        if crate::store::catalog_of(self.store, store.as_str(), Some(name), &mut catalog).await.is_err() {
            return Ok(None);
        }
        let is_good = |entry: &&Entry| entry.rung_in(store.as_str()).is_some_and(Rung::is_good);
        let Some(last) = catalog.entries.iter().find(is_good) else { return Ok(None) };
        self.progress.expect(last.manifest.raw_bytes());
        if let StoreKind::Local(path) = &self.plan.stores[store].kind
            && let Ok(usage) = assess::usage(path.clone()).await
            && usage.available < last.manifest.bytes()
        {
            return Err(Error::new(
                Kind::Store,
                format!(
                    "the backup would not fit into {}: the last one has {} bytes, and {} are available",
                    path.display(),
                    last.manifest.bytes(),
                    usage.available
                ),
            )
            .hint("free space, or move the store to a larger disk; pgvigil prune --dry-run shows what retention would delete"));
        }
        Ok(Some(last.manifest.clone()))
    }

    /// The label of the slot, or by hand the second of the start or the next that is free.
    async fn free_label(&self, now: DateTime<Utc>) -> Result<Label> {
        let taken = self.store.taken(self.backup.name.as_str()).await?;
        if let Some(slot) = self.slot {
            let label = Label::of(slot);
            if taken.contains(&label) {
                let there = format!("{}/{label} is there already: a slot is never run again under its label", self.backup.name);
                return Err(Error::new(Kind::Usage, there).hint("nothing to do; the next slot comes"));
            }
            return Ok(label);
        }
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
        let (mut files, mut tables_there, mut opened) = (Vec::new(), BTreeMap::new(), Opened::default());
        let (mut found, mut problems) = (BTreeMap::new(), Vec::new());
        let mut taken_at = clock::now();
        for database in databases {
            let name = &database.name;
            let about = |error: Error| error.context(format_args!("database {name:?}"));
            if !self.backup.dump.is_narrow() {
                tables_there.insert(name.clone(), count_tables(server, name).await.map_err(about)?);
            }
            let meter = self.progress.begin(format!("dumping {}", crate::host::printable(name)));
            let (upload, passing) = (&mut *upload, Arc::clone(&meter));
            let dump = move |snapshot| self.dump(upload, server, database, id, passing, snapshot);
            let gathered = evidence::beside(self.backup, server, database, &meter, dump).await.map_err(about)?;
            files.extend(gathered.dumped.files);
            opened.tables.extend(gathered.dumped.opened.tables);
            opened.notes.extend(gathered.dumped.opened.notes);
            problems.extend(gathered.problems.into_iter().map(|problem| format!("database {name:?}: {problem}")));
            if let (true, Some(first)) = (found.is_empty(), gathered.evidence.taken_at) {
                taken_at = first;
            }
            found.insert(name.clone(), gathered.evidence);
        }
        let globals = if self.backup.globals {
            files.push(self.globals(upload, server).await.map_err(|error| error.context("globals"))?);
            Some(Globals { no_role_passwords: !server.facts.reads_passwords })
        } else {
            None
        };
        let mut manifest = self.manifest(server, found, id, started_at, taken_at);
        manifest.databases = databases.iter().map(|database| database.name.clone()).collect();
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
        Ok(Made { manifest, warnings, problems, tables_there, opened })
    }

    pub(super) fn codec(&self) -> Codec {
        Codec::from(self.backup.dump.compression)
    }

    async fn dump(
        &self,
        upload: &mut dyn Upload,
        server: &Server,
        database: &Database,
        id: &Id,
        meter: Arc<Meter>,
        snapshot: Option<String>,
    ) -> Result<DumpOf> {
        let spec = &self.backup.dump;
        let digests = self.backup.evidence == EvidenceMode::Content;
        let client_major = parse_version(&server.client_version).map_or(0, |(major, _)| major);
        let stem = dump_stem(&database.name, id.label.slot(), self.backup.timezone);
        let entry = |name: String, packed: Packed| dump::entry(name, packed, Some(database.name.clone()), Role::Dump);
        let call = |folder: Option<&Path>| -> Result<Call> {
            let mut call = server.call("pg_dump", arguments(spec, &database.name, client_major, folder, snapshot.as_deref())?);
            // A role may have another set, which not every row has a form in.
            call.env.push(("PGCLIENTENCODING".to_owned(), database.encoding.clone()));
            Ok(call)
        };
        let mut of = DumpOf::default();
        if spec.format == Format::Directory {
            let folder = upload.create_folder(&stem).await?;
            dump::into_folder(server, call(Some(&folder))?, &folder, self.backup.stall_timeout, &meter).await?;
            upload.seal_folder(&folder).await?;
            let files = dump::hash_folder(&folder).await?;
            of.open(server, Source::Folder(folder), &database.name, digests).await?;
            of.files = files.into_iter().map(|(name, packed)| entry(format!("{stem}/{name}"), packed)).collect();
            return Ok(of);
        }
        let plain = spec.format == Format::Plain;
        let (codec, name) =
            if plain { (self.codec(), format!("{stem}.sql{}", self.codec().suffix())) } else { (Codec::None, format!("{stem}.dump")) };
        let writer = upload.create(&name).await?;
        let watch = if plain { EndWatch::plain(digests) } else { EndWatch::custom() };
        let way = Way { watch, codec, stall_timeout: self.backup.stall_timeout, meter };
        let (packed, seen) = dump::stream(server, call(None)?, way, writer).await?;
        of.rows = seen.rows;
        if !plain {
            self.progress.begin("opening the archive");
            of.open(server, Source::Stream(upload.read(&name).await?), &database.name, digests).await?;
        }
        of.files = vec![entry(name, packed)];
        Ok(of)
    }

    async fn globals(&self, upload: &mut dyn Upload, server: &Server) -> Result<FileEntry> {
        let name = format!("globals.sql{}", self.codec().suffix());
        let writer = upload.create(&name).await?;
        let call = server.call("pg_dumpall", globals_arguments(server.maintenance_database(), server.facts.reads_passwords));
        let way = Way {
            watch: EndWatch::plain(false),
            codec: self.codec(),
            stall_timeout: self.backup.stall_timeout,
            meter: self.progress.begin("dumping globals"),
        };
        let (packed, _) = dump::stream(server, call, way, writer).await?;
        Ok(dump::entry(name, packed, None, Role::Globals))
    }

    fn manifest(
        &self,
        server: &Server,
        found: BTreeMap<String, DatabaseEvidence>,
        id: &Id,
        started_at: DateTime<Utc>,
        taken_at: DateTime<Utc>,
    ) -> Manifest {
        let spec = &self.backup.dump;
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
            databases: Vec::new(),
            files: Vec::new(),
            globals: None,
            evidence: Some(Evidence { databases: found }),
            encryption: None,
            signature: None,
            generator: crate::GENERATOR.to_owned(),
            adopted_from: Vec::new(),
            physical: None,
        }
    }

    async fn page(&self, upload: &mut dyn Upload, server: &Server, databases: &[Database], manifest: &Manifest) -> Result<FileEntry> {
        let text = page::page(&page::Facts {
            manifest,
            databases,
            reached: &server.reached,
            user: &server.facts.user,
            is_superuser: Some(server.facts.is_superuser),
            maintenance_database: server.maintenance_database(),
        });
        let packed = dump::put(upload, RESTORE_PAGE, Bytes::from(text)).await?;
        Ok(dump::entry(RESTORE_PAGE.to_owned(), packed, None, Role::Notes))
    }
}

/// The dump of one database.
#[derive(Default)]
struct DumpOf {
    files: Vec<FileEntry>,
    opened: Opened,
    rows: Option<Vec<TableRows>>,
}

impl Dumped for DumpOf {
    fn rows(&self) -> Option<&[TableRows]> {
        self.rows.as_deref()
    }
}

impl DumpOf {
    /// Turns an archive back into SQL before it gets its name: no end of it can be seen in any other
    /// way, and a cut one is none.
    ///
    /// # Errors
    /// It is not whole.
    async fn open(&mut self, server: &Server, source: Source, database: &str, digests: bool) -> Result<()> {
        match archive::read(&**server.host(), source, digests).await {
            Ok(Ok(seen)) => {
                self.opened.tables.extend(seen.tables.map(|tables| (database.to_owned(), tables)));
                self.rows = seen.rows;
            }
            Ok(Err(wrong)) => return Err(Error::new(Kind::Dump, format!("the archive that pg_dump wrote is not whole: {wrong}"))),
            Err(error) => self.opened.notes.push(format!("the archive was not opened: {}", error.message)),
        }
        Ok(())
    }
}

/// A smaller dump than this is never "much smaller", in bytes.
const SMALL_BYTES: u64 = 64 * 1024;

/// Whether a dump is much smaller than the last good one of the same things: half of it or less.
fn shrunk(last: &Manifest, now: &Manifest) -> Option<String> {
    let shape = |manifest: &Manifest| {
        let patterns = [&manifest.tables, &manifest.exclude_tables, &manifest.schemas].map(Clone::clone);
        (manifest.format, manifest.contents, patterns, manifest.databases.clone(), manifest.adopted_from.is_empty())
    };
    let (before, after) = (last.raw_bytes(), now.raw_bytes());
    (shape(last) == shape(now) && before >= SMALL_BYTES && after <= before / 2).then(|| {
        format!("it is much smaller than the last one: {after} bytes, where {} has {before}; has somebody deleted or truncated?", last.id)
    })
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
