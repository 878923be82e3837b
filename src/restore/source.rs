//! A dump of a backup as SQL, whatever its format. No parser sees a byte of a file whose hash is not
//! the one of the manifest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::catalog::{FileEntry, Id, Manifest, Role};
use crate::config::file::Format;
use crate::error::{Error, Kind, Result};
use crate::host::{Host, Process};
use crate::pack::codec::Codec;
use crate::pack::unpacker::unpack;
use crate::postgres::server::explain;
use crate::store::Store;
use crate::verify::archive;
use crate::verify::read_back::{HashingReader, compare};

/// How much is read of a file or a program at a time, in bytes.
const READ_BYTES: usize = 512 * 1024;

/// How many blocks wait for whoever takes them.
const BLOCKS: usize = 4;

/// SQL that comes block by block; the task says at the end whether all of it came. Whether it is a
/// whole dump is for whoever takes it.
pub struct Sql {
    /// The backup and the file, for errors.
    pub what: String,
    pub blocks: mpsc::Receiver<Bytes>,
    pub reading: JoinHandle<Result<()>>,
}

/// Nobody reads on for nobody.
impl Drop for Sql {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// The dump of one database whose files are those of the manifest, byte by byte.
pub struct Checked<'a> {
    store: &'a dyn Store,
    id: &'a Id,
    manifest: &'a Manifest,
    first: &'a FileEntry,
    /// How long reading them took.
    pub took: Duration,
}

/// Reads the files of the dump of one database to their ends and holds them against the manifest.
///
/// # Errors
/// The backup holds none of that database, a file is missing or not what was stored (`Damaged`).
pub async fn check<'a>(store: &'a dyn Store, id: &'a Id, manifest: &'a Manifest, database: &str) -> Result<Checked<'a>> {
    let started = Instant::now();
    let files: Vec<&FileEntry> =
        manifest.files.iter().filter(|file| file.role == Role::Dump && file.database.as_deref() == Some(database)).collect();
    let Some(first) = files.first().copied() else {
        return Err(Error::new(Kind::NotFound, format!("backup {id} holds no dump of database {database:?}"))
            .hint(format!("it holds: {}", manifest.databases.join(", "))));
    };
    for file in &files {
        check_file(store, id, file).await?;
    }
    Ok(Checked { store, id, manifest, first, took: started.elapsed() })
}

impl Checked<'_> {
    /// Opens it. `host` has a `pg_restore` that reads its archives.
    ///
    /// # Errors
    /// A file is gone.
    pub async fn open(&self, host: Arc<dyn Host>) -> Result<Sql> {
        let Checked { store, id, manifest, first, .. } = *self;
        let what = format!("{id}: {}", first.name);
        let (out, blocks) = mpsc::channel(BLOCKS);
        let about = what.clone();
        let reading = match manifest.format {
            Format::Plain => {
                let reader = store.read(id, &first.name).await?;
                let (codec, raw_bytes) = (Codec::of_name(&first.name), first.raw_bytes);
                tokio::spawn(async move { plain(reader, codec, raw_bytes, out).await.map_err(|error| error.context(about)) })
            }
            Format::Custom => {
                let reader = store.read(id, &first.name).await?;
                tokio::spawn(
                    async move { restored(host, archive::Source::Stream(reader), out).await.map_err(|error| error.context(about)) },
                )
            }
            Format::Directory => {
                let folder = first.name.split('/').next().unwrap_or_default();
                let path = store.folder(id).ok_or_else(|| {
                    Error::new(Kind::Store, format!("the dump of {id} is a folder, and its store is none of this machine"))
                        .hint("copy the backup into a store that is a folder here")
                })?;
                let source = archive::Source::Folder(path.join(folder));
                tokio::spawn(async move { restored(host, source, out).await.map_err(|error| error.context(about)) })
            }
        };
        Ok(Sql { what, blocks, reading })
    }
}

async fn check_file(store: &dyn Store, id: &Id, file: &FileEntry) -> Result<()> {
    let (mut reader, hashed) = HashingReader::new(store.read(id, &file.name).await?);
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    loop {
        buffer.clear();
        let read = reader.read_buf(&mut buffer).await;
        if read.map_err(|error| Error::new(Kind::Store, format!("{id}: {}: cannot read: {error}", file.name)))? == 0 {
            break;
        }
    }
    compare(file, &hashed).map_err(|why| {
        Error::new(Kind::Damaged, format!("{id}: {}: {why}", file.name)).hint("restore from another store or from an older backup")
    })
}

async fn plain(reader: crate::store::Reader, codec: Codec, raw_bytes: u64, out: mpsc::Sender<Bytes>) -> Result<()> {
    let (unpacked, mut blocks) = mpsc::channel(BLOCKS);
    let unpacking = tokio::spawn(unpack(reader, codec, unpacked));
    let mut bytes = 0;
    while let Some(block) = blocks.recv().await {
        bytes += block.len() as u64;
        pass(&out, block).await?;
    }
    unpacking.await.map_err(|error| Error::new(Kind::System, format!("the unpacker failed: {error}")))??;
    if bytes != raw_bytes {
        return Err(Error::new(Kind::Damaged, format!("it unpacks to {bytes} bytes; {raw_bytes} were packed")));
    }
    Ok(())
}

async fn restored(host: Arc<dyn Host>, source: archive::Source, out: mpsc::Sender<Bytes>) -> Result<()> {
    let (mut process, feeding) = archive::start(host.as_ref(), "--file=-", source).await?;
    let read = output(&mut process, out).await;
    if let Some(feeding) = feeding {
        feeding.abort();
    }
    read
}

async fn output(process: &mut Process, out: mpsc::Sender<Bytes>) -> Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_BYTES);
        let read = process.stdout.read_buf(&mut buffer).await;
        if read.map_err(|error| Error::new(Kind::System, format!("lost the output of pg_restore: {error}")))? == 0 {
            break;
        }
        if let Err(gone) = pass(&out, buffer.split().freeze()).await {
            let _ = process.running.stop().await;
            return Err(gone);
        }
    }
    let exit = process.running.wait().await?;
    if !exit.is_success() {
        return Err(explain("pg_restore", exit, &process.stderr.text()));
    }
    Ok(())
}

async fn pass(out: &mpsc::Sender<Bytes>, block: Bytes) -> Result<()> {
    out.send(block).await.map_err(|_| Error::new(Kind::Cancelled, "nobody wants more of the dump"))
}
