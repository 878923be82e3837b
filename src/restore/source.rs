//! A dump of a backup as SQL, whatever its format. No parser sees a byte of a file whose hash is not
//! the one of the manifest.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::catalog::FileEntry;
use crate::config::file::Format;
use crate::error::{Error, Kind, Result};
use crate::host::{Host, Process};
use crate::postgres::server::explain;
use crate::verify::archive;
use crate::verify::stored::{Stored, Unpacked};

/// How much is read of a program at a time, in bytes.
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
    stored: Stored<'a>,
    first: &'a FileEntry,
    /// How long reading them took.
    pub took: Duration,
}

/// Reads the files of the dump of one database to their ends and holds them against the manifest.
///
/// # Errors
/// The backup holds none of that database, a file is missing or not what was stored (`Damaged`).
pub async fn check<'a>(stored: Stored<'a>, database: &str) -> Result<Checked<'a>> {
    let started = Instant::now();
    let files = stored.dump_of(database);
    let Some(first) = files.first().copied() else {
        return Err(Error::new(Kind::NotFound, format!("backup {} holds no dump of database {database:?}", stored.id))
            .hint(format!("it holds: {}", stored.manifest.databases.join(", "))));
    };
    for file in &files {
        stored.check(file).await?.1.map_err(|why| stored.damaged(file, &why))?;
    }
    Ok(Checked { stored, first, took: started.elapsed() })
}

impl Checked<'_> {
    /// Opens it. `host` has a `pg_restore` that reads its archives.
    ///
    /// # Errors
    /// A file is gone, none of the identities opens it (`Secret`), or the spool has no room for it.
    pub async fn open(&self, host: Arc<dyn Host>, spool_dir: &Path) -> Result<Sql> {
        let Checked { stored, first, .. } = self;
        let what = format!("{}: {}", stored.id, first.name);
        let (out, blocks) = mpsc::channel(BLOCKS);
        let about = what.clone();
        let reading = if stored.manifest.format == Format::Plain {
            let (unpacked, raw_bytes) = (stored.unpacked(first).await?, first.raw_bytes);
            tokio::spawn(async move { plain(unpacked, raw_bytes, out).await.map_err(|error| error.context(about)) })
        } else {
            let source = stored.archive(first.name.split('/').next().unwrap_or_default(), spool_dir).await?;
            tokio::spawn(async move { restored(host, source, out).await.map_err(|error| error.context(about)) })
        };
        Ok(Sql { what, blocks, reading })
    }
}

async fn plain(mut unpacked: Unpacked, raw_bytes: u64, out: mpsc::Sender<Bytes>) -> Result<()> {
    let mut bytes = 0;
    while let Some(block) = unpacked.blocks.recv().await {
        bytes += block.len() as u64;
        pass(&out, block).await?;
    }
    unpacked.end().await?;
    if bytes != raw_bytes {
        return Err(Error::new(Kind::Damaged, format!("it unpacks to {bytes} bytes; {raw_bytes} were packed")));
    }
    Ok(())
}

async fn restored(host: Arc<dyn Host>, source: archive::Source, out: mpsc::Sender<Bytes>) -> Result<()> {
    let (mut process, _feeding) = archive::start(host.as_ref(), "--file=-", source).await?;
    output(&mut process, out).await
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
