//! One backup out of dumps of another tool: copied as they are, or encrypted, watched for their ends,
//! opened, described.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

use crate::catalog::id::dump_stem;
use crate::catalog::manifest::{Encryption, RESTORE_PAGE, UNKNOWN};
use crate::catalog::{FileEntry, Id, Label, Manifest, Role};
use crate::config::Plan;
use crate::config::file::Format;
use crate::config::plan::{Backup, Place};
use crate::error::{Error, Kind, Result};
use crate::host::{clock, printable, secret};
use crate::job::fill::Sealing;
use crate::job::progress::Progress;
use crate::job::verify::Opened;
use crate::job::{dump, verify};
use crate::pack::codec::Codec;
use crate::pack::end::EndWatch;
use crate::pack::packer::{Meter, Packed, hex};
use crate::pack::seal::Seal;
use crate::pack::unpacker::unpack;
use crate::postgres::programs::parse_version;
use crate::postgres::server::Reached;
use crate::restore::page;
use crate::store::original::Original;
use crate::store::{FileWriter, Reader, Upload};
use crate::verify::archive;

/// How much is read at a time, in bytes.
const READ_BYTES: usize = 512 * 1024;

/// How far the beginning of a dump is looked at for its versions, in bytes.
const HEAD_BYTES: usize = 4 * 1024;

/// A file whose name fits.
pub struct Candidate {
    /// Of the files that were named.
    pub nth: usize,
    pub original: Original,
    pub database: String,
    pub label: Label,
    pub format: Format,
    pub ending: &'static str,
}

/// What keeps a backup from being made: of one of its files, or of all.
pub struct Obstacle {
    pub of: Option<usize>,
    pub error: Error,
}

impl From<Error> for Obstacle {
    fn from(error: Error) -> Self {
        Obstacle { of: None, error }
    }
}

/// The way of one backup's dumps into an upload.
pub struct Copying<'a> {
    pub plan: &'a Plan,
    pub backup: &'a Backup,
    pub sealing: &'a Sealing,
    pub progress: &'a Progress,
}

impl Copying<'_> {
    /// Fills an upload, and returns its manifest and what its archives showed.
    ///
    /// # Errors
    /// One of the dumps is broken or of something else, or the store cannot be written.
    pub async fn fill(&self, upload: &mut dyn Upload, id: &Id, dumps: &[Candidate]) -> Result<(Manifest, Opened), Obstacle> {
        let mut manifest = self.manifest(id, dumps);
        let mut opened = Opened::default();
        for (at, dump) in dumps.iter().enumerate() {
            let of = |error| Obstacle { of: Some(at), error };
            let name = format!("{}{}", dump_stem(&dump.database, id.label.slot(), self.backup.timezone), dump.ending);
            let name = self.sealing.name(&name);
            let (packed, original, versions) = self.copy(upload, &name, dump).await.map_err(of)?;
            let versions = match dump.format {
                Format::Plain => versions,
                Format::Custom | Format::Directory => self.open(upload, &name, &manifest, dump, &mut opened).await.map_err(of)?,
            };
            // Those of the first dump count, as those of the one server do.
            if at == 0 {
                manifest.server_version = versions.server.unwrap_or_else(|| UNKNOWN.to_owned());
                manifest.client_version = versions.client.unwrap_or_else(|| UNKNOWN.to_owned());
            }
            let adopted_sha256 = (!self.sealing.is_open()).then_some(original);
            let entry = dump::entry(name, packed, Some(dump.database.clone()), Role::Dump);
            manifest.files.push(FileEntry { adopted_sha256, ..entry });
        }
        let text = self.page(&manifest)?;
        let packed = dump::put(upload, RESTORE_PAGE, Bytes::from(text)).await?;
        manifest.files.push(dump::entry(RESTORE_PAGE.to_owned(), packed, None, Role::Notes));
        manifest.finished_at = clock::now();
        Ok((manifest, opened))
    }

    /// Copies a dump as it is, encrypted where the backup asks for it, and watches what is in it go by.
    /// The file is durable when this returns, and its end was seen. Returns the hash of the original, too.
    async fn copy(&self, upload: &mut dyn Upload, name: &str, dump: &Candidate) -> Result<(Packed, String, Versions)> {
        let meter = self.progress.restart(format!("adopting {}", printable(&dump.original.name())), 0);
        let (codec, watch) = match dump.format {
            Format::Plain => (Codec::of_name(dump.ending), EndWatch::plain(false)),
            Format::Custom | Format::Directory => (Codec::None, EndWatch::custom()),
        };
        let mut writer = upload.create(name).await?;
        let (packed, blocks) = mpsc::channel::<std::io::Result<Bytes>>(2);
        let blocks = futures_util::stream::unfold(blocks, |mut blocks| async move { Some((blocks.recv().await?, blocks)) });
        let (out, raw) = mpsc::channel(4);
        let unpacking = tokio::spawn(unpack(StreamReader::new(Box::pin(blocks)), codec, out));
        let watching = tokio::spawn(watch_all(raw, watch, Arc::clone(&meter)));
        let copied = copy_all(dump.original.reader()?, self.sealing.seal()?, &mut *writer, packed, &meter).await;
        let broken = |error: tokio::task::JoinError| Error::new(Kind::System, format!("the reader failed: {error}"));
        let unpacked = unpacking.await.map_err(broken)?;
        let (watch, head, raw_bytes) = watching.await.map_err(broken)?;
        // A copy that was broken off leaves the unpacker with a cut.
        let Copied { bytes, sha256, original_sha256 } = copied?;
        unpacked?;
        if watch.connects() {
            return Err(Error::new(Kind::Dump, "it goes to a database by itself (\\connect): made with --create, or of a whole cluster")
                .hint("restored like any other it would end in the live database; keep it where it is"));
        }
        watch.finish().map_err(|why| Error::new(Kind::Dump, format!("it is not a whole dump: {why}")))?;
        writer.finish().await?;
        Ok((Packed { raw_bytes, bytes, sha256 }, original_sha256, Versions::of_head(&head)))
    }

    /// Has an archive opened by `pg_restore`, all of it.
    async fn open(
        &self,
        upload: &mut dyn Upload,
        name: &str,
        manifest: &Manifest,
        dump: &Candidate,
        opened: &mut Opened,
    ) -> Result<Versions> {
        self.progress.begin("opening the archive");
        let host = match verify::archive_host(self.plan, manifest).await {
            Ok(host) => host,
            Err(error) => {
                opened.notes.push(format!("the archive was not opened: {}", error.message));
                return Ok(Versions::default());
            }
        };
        match archive::read(&*host, self.sealing.read_back(upload, name).await?, false).await {
            Ok(Ok(seen)) => opened.tables.extend(seen.tables.map(|tables| (dump.database.clone(), tables))),
            Ok(Err(wrong)) => return Err(Error::new(Kind::Dump, format!("it is not a whole archive: {wrong}"))),
            Err(error) => {
                opened.notes.push(format!("the archive was not opened: {}", error.message));
                return Ok(Versions::default());
            }
        }
        let header = archive::header(&*host, self.sealing.read_back(upload, name).await?).await?;
        match header.database {
            Some(database) if database != dump.database => {
                Err(Error::new(Kind::Usage, format!("the archive itself says that it is of database {:?}", printable(&database)))
                    .hint("adopt it into a backup of that database, under a name that says so"))
            }
            _ => Ok(Versions::of(header.server_version, header.client_version)),
        }
    }

    fn manifest(&self, id: &Id, dumps: &[Candidate]) -> Manifest {
        let spec = &self.backup.dump;
        let now = clock::now();
        Manifest {
            format_version: Manifest::format_version(),
            id: id.to_string(),
            backup: id.backup.clone(),
            label: id.label.to_string(),
            slot: id.label.slot(),
            taken_at: id.label.slot(),
            started_at: now,
            finished_at: now,
            kind: "dump".to_owned(),
            narrow: spec.is_narrow(),
            server: self.backup.server.to_string(),
            server_version: UNKNOWN.to_owned(),
            client_version: UNKNOWN.to_owned(),
            format: dumps[0].format,
            contents: spec.contents,
            tables: spec.tables.clone(),
            exclude_tables: spec.exclude_tables.clone(),
            schemas: spec.schemas.clone(),
            databases: dumps.iter().map(|dump| dump.database.clone()).collect(),
            files: Vec::new(),
            globals: None,
            evidence: None,
            encryption: Encryption::age(&self.backup.encrypt_to),
            signature: None,
            generator: crate::GENERATOR.to_owned(),
            adopted_from: dumps.iter().map(|dump| dump.original.name()).collect(),
            physical: None,
        }
    }

    /// The server is not asked: it may be another one than the dump is of, or gone.
    fn page(&self, manifest: &Manifest) -> Result<String> {
        let server = &self.plan.servers[&self.backup.server];
        let port = server.port.unwrap_or(5432);
        let reached = match &server.place {
            Place::Container { container, .. } => Reached::Container(container.clone()),
            Place::Host(host) => Reached::Address(format!("{host}:{port}")),
            Place::Socket(dir) => Reached::Address(format!("{}:{port}", dir.display())),
        };
        let user = server.user.as_ref().map(|given| secret::resolve(&format!("servers.{}.user", server.name), given)).transpose()?;
        Ok(page::page(&page::Facts {
            manifest,
            databases: &[],
            reached: &reached,
            user: user.as_ref().map_or("postgres", |user| user.reveal()),
            is_superuser: None,
            maintenance_database: &server.maintenance_database,
        }))
    }
}

/// What was copied: as stored, and as it was.
struct Copied {
    bytes: u64,
    sha256: String,
    original_sha256: String,
}

/// Copies all of a file through the seal, and hands its own bytes on.
async fn copy_all(
    mut reader: Reader,
    mut seal: Seal,
    writer: &mut dyn FileWriter,
    packed: mpsc::Sender<std::io::Result<Bytes>>,
    meter: &Meter,
) -> Result<Copied> {
    let (mut original, mut stored, mut bytes) = (Sha256::new(), Sha256::new(), 0u64);
    let mut is_wanted = true;
    while is_wanted {
        let mut block = BytesMut::with_capacity(READ_BYTES);
        while block.len() < READ_BYTES {
            match reader.read_buf(&mut block).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Err(Error::system("cannot read it", &error)),
            }
        }
        if block.is_empty() {
            break;
        }
        let block = block.freeze();
        original.update(&block);
        let sealed = seal.pass(block.clone())?;
        stored.update(&sealed);
        bytes += sealed.len() as u64;
        meter.packed.store(bytes, Ordering::Relaxed);
        writer.write(sealed).await?;
        // An unpacker that has ended says why.
        is_wanted = packed.send(Ok(block)).await.is_ok();
    }
    let last = seal.finish()?;
    stored.update(&last);
    bytes += last.len() as u64;
    writer.write(last).await?;
    Ok(Copied { bytes, sha256: hex(&stored.finalize()), original_sha256: hex(&original.finalize()) })
}

async fn watch_all(mut raw: mpsc::Receiver<Bytes>, mut watch: EndWatch, meter: Arc<Meter>) -> (EndWatch, Vec<u8>, u64) {
    let (mut head, mut bytes) = (Vec::new(), 0u64);
    while let Some(block) = raw.recv().await {
        let room = HEAD_BYTES.saturating_sub(head.len());
        head.extend_from_slice(&block[..room.min(block.len())]);
        watch.feed(&block);
        bytes += block.len() as u64;
        meter.raw.store(bytes, Ordering::Relaxed);
    }
    (watch, head, bytes)
}

/// What a dump says of who made it.
#[derive(Debug, Default)]
struct Versions {
    server: Option<String>,
    client: Option<String>,
}

impl Versions {
    /// Out of the comments at the top of a plain dump.
    fn of_head(head: &[u8]) -> Self {
        let head = String::from_utf8_lossy(head);
        let said = |what: &str| head.lines().find_map(|line| line.strip_prefix(what)).map(str::to_owned);
        Versions::of(said("-- Dumped from database version "), said("-- Dumped by pg_dump version "))
    }

    /// As our own manifests say them. Text of others: only what looks like a version is one.
    fn of(server: Option<String>, client: Option<String>) -> Self {
        let server = server.filter(|text| text.len() <= 100 && parse_version(text).is_some());
        let client = client.filter(|text| text.len() <= 100).and_then(|text| parse_version(&text));
        Versions { server: server.map(|text| printable(&text)), client: client.map(|(_, version)| version) }
    }
}
