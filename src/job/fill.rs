//! The files of a backup: dumps and globals through the pass into an upload, and what is said of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::catalog::id::dump_stem;
use crate::catalog::manifest::{Encryption, Globals, RESTORE_PAGE};
use crate::catalog::{DatabaseEvidence, Evidence, FileEntry, Id, Manifest, Role};
use crate::config::file::{EvidenceMode, Format};
use crate::config::plan::Backup;
use crate::error::{Error, Kind, Result};
use crate::host::spool::Spooled;
use crate::host::{Call, clock};
use crate::job::dump::{self, Way};
use crate::job::evidence::{self, Dumped};
use crate::job::make::{Made, Making};
use crate::job::verify::Opened;
use crate::keys::{Identities, Recipient};
use crate::pack::census::TableRows;
use crate::pack::codec::Codec;
use crate::pack::end::EndWatch;
use crate::pack::packer::{Meter, Packed};
use crate::pack::seal::{SUFFIX, Seal, unseal};
use crate::postgres::Server;
use crate::postgres::dump::{arguments, globals_arguments};
use crate::postgres::programs;
use crate::postgres::server::Database;
use crate::restore::page;
use crate::store::Upload;
use crate::verify::archive::{self, Source};

/// To whom a run encrypts: those of the file, and a key of its own that is never written down, so that
/// it can read back what it has written.
pub struct Sealing {
    recipients: Vec<Recipient>,
    pub keys: Identities,
}

impl Sealing {
    pub fn of(backup: &Backup) -> Self {
        if backup.encrypt_to.is_empty() {
            return Sealing { recipients: Vec::new(), keys: Identities::default() };
        }
        let (own, keys) = Identities::ephemeral();
        Sealing { recipients: backup.encrypt_to.iter().cloned().chain([own]).collect(), keys }
    }

    /// Nothing is encrypted.
    pub fn is_open(&self) -> bool {
        self.recipients.is_empty()
    }

    /// The name of a file as it is stored.
    pub fn name(&self, name: &str) -> String {
        if self.is_open() { name.to_owned() } else { format!("{name}{SUFFIX}") }
    }

    /// The step of the pass, for one file.
    ///
    /// # Errors
    /// A recipient takes no key.
    pub fn seal(&self) -> Result<Seal> {
        Seal::to(&self.recipients)
    }

    /// An archive that was just written, as `pg_restore` reads it.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn read_back(&self, upload: &mut dyn Upload, name: &str) -> Result<Source> {
        let stored = upload.read(name).await?;
        Ok(Source::Stream(if self.is_open() { stored } else { Box::new(unseal(stored, &self.keys).await?) }))
    }
}

/// The way of a backup's files into an upload.
pub struct Filling<'a> {
    pub making: &'a Making<'a>,
    pub server: &'a Server,
    pub id: &'a Id,
    pub sealing: &'a Sealing,
    /// The last good backup, as a measure.
    pub last: Option<&'a Manifest>,
}

impl Filling<'_> {
    fn backup(&self) -> &Backup {
        self.making.backup
    }

    /// Makes all of them; the manifest is returned.
    ///
    /// # Errors
    /// A dump failed, or the store cannot be written.
    pub async fn fill(&self, upload: &mut dyn Upload, databases: &[Database], started_at: DateTime<Utc>) -> Result<Made> {
        let server = self.server;
        let (mut files, mut tables_there, mut opened) = (Vec::new(), BTreeMap::new(), Opened::default());
        let (mut found, mut problems) = (BTreeMap::new(), Vec::new());
        let mut taken_at = clock::now();
        for database in databases {
            let name = &database.name;
            let about = |error: Error| error.context(format_args!("database {name:?}"));
            if !self.backup().dump.is_narrow() {
                tables_there.insert(name.clone(), count_tables(server, name).await.map_err(about)?);
            }
            let meter = self.making.progress.begin(format!("dumping {}", crate::host::printable(name)));
            let (upload, passing) = (&mut *upload, Arc::clone(&meter));
            let dump = move |snapshot| self.dump(upload, database, passing, snapshot);
            let gathered = evidence::beside(self.backup(), server, database, &meter, dump).await.map_err(about)?;
            files.extend(gathered.dumped.files);
            opened.tables.extend(gathered.dumped.opened.tables);
            opened.notes.extend(gathered.dumped.opened.notes);
            problems.extend(gathered.problems.into_iter().map(|problem| format!("database {name:?}: {problem}")));
            if let (true, Some(first)) = (found.is_empty(), gathered.evidence.taken_at) {
                taken_at = first;
            }
            found.insert(name.clone(), gathered.evidence);
        }
        let globals = if self.backup().globals {
            files.push(self.globals(upload).await.map_err(|error| error.context("globals"))?);
            Some(Globals { no_role_passwords: !server.facts.reads_passwords })
        } else {
            None
        };
        let mut manifest = self.manifest(found, started_at, taken_at);
        manifest.databases = databases.iter().map(|database| database.name.clone()).collect();
        manifest.files = files;
        manifest.globals = globals;
        let page = self.page(upload, databases, &manifest).await?;
        manifest.files.push(page);
        manifest.finished_at = clock::now();
        let mut warnings = Vec::new();
        if page::newer_client(&manifest) {
            warnings.push(format!(
                "pg_dump {} is newer than the server {}: the dump restores into PostgreSQL 17 and later; RESTORE.md says how else",
                manifest.client_version, manifest.server_version
            ));
        }
        Ok(Made { manifest, warnings, problems, tables_there, opened, keys: Identities::default() })
    }

    fn codec(&self) -> Codec {
        Codec::from(self.backup().dump.compression)
    }

    /// How a stream passes.
    fn way(&self, watch: EndWatch, codec: Codec, meter: Arc<Meter>) -> Result<Way> {
        Ok(Way { watch, codec, seal: self.sealing.seal()?, stall_timeout: self.backup().stall_timeout, meter })
    }

    async fn dump(&self, upload: &mut dyn Upload, database: &Database, meter: Arc<Meter>, snapshot: Option<String>) -> Result<DumpOf> {
        let (server, spec) = (self.server, &self.backup().dump);
        let digests = self.backup().evidence == EvidenceMode::Content;
        let client_major = programs::major(&server.client_version);
        let stem = dump_stem(&database.name, self.id.label.slot(), self.backup().timezone);
        let call = |folder: Option<&Path>| -> Result<Call> {
            let mut call = server.call("pg_dump", arguments(spec, &database.name, client_major, folder, snapshot.as_deref())?);
            // A role may have another set, which not every row has a form in.
            call.env.push(("PGCLIENTENCODING".to_owned(), database.encoding.clone()));
            Ok(call)
        };
        let mut of = DumpOf::default();
        if spec.format == Format::Directory {
            let files = if self.sealing.is_open() && self.making.store.folder(self.id).is_some() {
                let folder = upload.create_folder(&stem).await?;
                dump::into_folder(server, call(Some(&folder))?, &folder, self.backup().stall_timeout, &meter).await?;
                upload.seal_folder(&folder).await?;
                let files = dump::hash_folder(&folder).await?;
                of.open(server, Source::Folder(folder), &database.name, digests).await?;
                files
            } else {
                let spooled = Spooled::make(&self.making.plan.spool_dir, self.last.map_or(0, |last| last.raw_bytes_of(&database.name)))?;
                dump::into_folder(server, call(Some(spooled.path()))?, spooled.path(), self.backup().stall_timeout, &meter).await?;
                let files = self.send_folder(upload, &stem, spooled.path(), &meter).await?;
                of.open(server, Source::Spooled(spooled), &database.name, digests).await?;
                files
            };
            let entry = |(name, packed)| dump::entry(format!("{stem}/{name}"), packed, Some(database.name.clone()), Role::Dump);
            of.files = files.into_iter().map(entry).collect();
            return Ok(of);
        }
        let plain = spec.format == Format::Plain;
        let (codec, name) =
            if plain { (self.codec(), format!("{stem}.sql{}", self.codec().suffix())) } else { (Codec::None, format!("{stem}.dump")) };
        let name = self.sealing.name(&name);
        let writer = upload.create(&name).await?;
        let watch = if plain { EndWatch::plain(digests) } else { EndWatch::custom() };
        let (packed, seen) = dump::stream(server, call(None)?, self.way(watch, codec, meter)?, writer).await?;
        of.rows = seen.rows;
        if !plain {
            self.making.progress.begin("opening the archive");
            of.open(server, self.sealing.read_back(upload, &name).await?, &database.name, digests).await?;
        }
        of.files = vec![dump::entry(name, packed, Some(database.name.clone()), Role::Dump)];
        Ok(of)
    }

    /// Sends the files of a folder into the upload, each through the pass. Returns their names in the
    /// folder as stored.
    async fn send_folder(&self, upload: &mut dyn Upload, stem: &str, folder: &Path, meter: &Meter) -> Result<Vec<(String, Packed)>> {
        // A store that is a folder of this machine makes its folders by this.
        let made = match self.making.store.folder(self.id) {
            Some(_) => Some(upload.create_folder(stem).await?),
            None => None,
        };
        let mut sent = Vec::new();
        for name in dump::names(folder)? {
            let stored = self.sealing.name(&name);
            let writer = upload.create(&format!("{stem}/{stored}")).await?;
            // Its bytes were counted as they came.
            let way = self.way(EndWatch::custom(), Codec::None, Arc::default())?;
            let packed = dump::file(&folder.join(&name), way, writer).await?;
            meter.packed.fetch_add(packed.bytes, std::sync::atomic::Ordering::Relaxed);
            sent.push((stored, packed));
        }
        if let Some(made) = made {
            upload.seal_folder(&made).await?;
        }
        Ok(sent)
    }

    async fn globals(&self, upload: &mut dyn Upload) -> Result<FileEntry> {
        let server = self.server;
        let name = self.sealing.name(&format!("globals.sql{}", self.codec().suffix()));
        let writer = upload.create(&name).await?;
        let call = server.call("pg_dumpall", globals_arguments(server.maintenance_database(), server.facts.reads_passwords));
        let way = self.way(EndWatch::plain(false), self.codec(), self.making.progress.begin("dumping globals"))?;
        let (packed, _) = dump::stream(server, call, way, writer).await?;
        Ok(dump::entry(name, packed, None, Role::Globals))
    }

    fn manifest(&self, found: BTreeMap<String, DatabaseEvidence>, started_at: DateTime<Utc>, taken_at: DateTime<Utc>) -> Manifest {
        let (server, id, spec) = (self.server, self.id, &self.backup().dump);
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
            server: self.backup().server.to_string(),
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
            encryption: Encryption::age(&self.backup().encrypt_to),
            signature: None,
            generator: crate::GENERATOR.to_owned(),
            adopted_from: Vec::new(),
            physical: None,
        }
    }

    async fn page(&self, upload: &mut dyn Upload, databases: &[Database], manifest: &Manifest) -> Result<FileEntry> {
        let server = self.server;
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
