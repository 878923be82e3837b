//! An archive of `pg_dump` turned back into SQL, all of it, and its end watched like that of a
//! plain dump. Decompressing proves little and listing nothing: the hash comes first, for only an
//! archive that is what was stored may reach a parser.

use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::error::{Error, Kind, Result};
use crate::host::spool::Spooled;
use crate::host::{Call, Host, Process, Tag};
use crate::pack::end::{EndWatch, Seen};
use crate::postgres::server::explain;
use crate::store::Reader;

/// Where the archive is.
pub enum Source {
    /// A folder that the program opens by itself.
    Folder(PathBuf),
    /// One in the spool, which goes when the program has ended.
    Spooled(Spooled),
    /// A file that is fed to it.
    Stream(Reader),
}

/// How much is read of `pg_restore` at a time, in bytes.
const READ_BYTES: usize = 256 * 1024;

/// How much of a list is its header, in bytes at most.
const HEAD_BYTES: usize = 4 * 1024;

/// Reads an archive to its end by `pg_restore`, with digests of the rows if asked. The inner result says what is wrong with it.
///
/// # Errors
/// There is no `pg_restore`, or it could not be run: nothing is known of the archive.
pub async fn read(host: &dyn Host, source: Source, digests: bool) -> Result<Result<Seen, String>> {
    let (mut process, _feeding) = start(host, "--file=-", source).await?;
    judge(&mut process, digests).await
}

/// What an archive says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    pub database: Option<String>,
    pub server_version: Option<String>,
    pub client_version: Option<String>,
}

/// Reads the first lines of `pg_restore --list`. They prove nothing.
///
/// # Errors
/// There is no `pg_restore`, or it makes nothing of it.
pub async fn header(host: &dyn Host, source: Source) -> Result<Header> {
    let (mut process, _feeding) = start(host, "--list", source).await?;
    let (mut head, mut block) = (Vec::new(), vec![0; READ_BYTES]);
    while let Ok(read @ 1..) = process.stdout.read(&mut block).await {
        let room = HEAD_BYTES.saturating_sub(head.len());
        head.extend_from_slice(&block[..read.min(room)]);
    }
    let exit = process.running.wait().await?;
    if !exit.is_success() {
        return Err(explain("pg_restore", exit, &process.stderr.text()));
    }
    let head = String::from_utf8_lossy(&head);
    let field = |key: &str| head.lines().find_map(|line| line.strip_prefix(&format!(";     {key}: "))).map(str::to_owned);
    Ok(Header {
        database: field("dbname"),
        server_version: field("Dumped from database version"),
        client_version: field("Dumped by pg_dump version"),
    })
}

/// What a `pg_restore` reads from, as long as it runs.
pub(crate) enum Feeding {
    Folder { _spooled: Option<Spooled> },
    Stream(tokio::task::JoinHandle<()>),
}

impl Drop for Feeding {
    fn drop(&mut self) {
        if let Feeding::Stream(task) = self {
            task.abort();
        }
    }
}

/// Starts a `pg_restore` on an archive, and what feeds it.
///
/// # Errors
/// There is no `pg_restore`.
pub(crate) async fn start(host: &dyn Host, way: &str, source: Source) -> Result<(Process, Feeding)> {
    let mut args = vec![way.to_owned()];
    let folder = match &source {
        Source::Folder(folder) => Some(folder.as_path()),
        Source::Spooled(spooled) => Some(spooled.path()),
        Source::Stream(_) => None,
    };
    args.extend(folder.map(|folder| folder.display().to_string()));
    let call =
        Call { program: "pg_restore", args, env: Vec::new(), password: None, tag: Tag::random(), stdin: folder.is_none(), input: None };
    let mut process = host.start(call).await?;
    let mut reader = match source {
        Source::Folder(_) => return Ok((process, Feeding::Folder { _spooled: None })),
        Source::Spooled(spooled) => return Ok((process, Feeding::Folder { _spooled: Some(spooled) })),
        Source::Stream(reader) => reader,
    };
    let stdin = process.stdin.take();
    let feeding = tokio::spawn(async move {
        let Some(mut stdin) = stdin else { return };
        // A pg_restore that found a fault reads no further; its exit tells.
        let _ = tokio::io::copy_buf(&mut tokio::io::BufReader::with_capacity(READ_BYTES, &mut reader), &mut stdin).await;
        let _ = stdin.shutdown().await;
    });
    Ok((process, Feeding::Stream(feeding)))
}

async fn judge(process: &mut Process, digests: bool) -> Result<Result<Seen, String>> {
    let mut watch = EndWatch::plain(digests);
    let mut block = vec![0; READ_BYTES];
    loop {
        match process.stdout.read(&mut block).await {
            Ok(0) => break,
            Ok(read) => watch.feed(&block[..read]),
            Err(error) => return Err(Error::new(Kind::System, format!("lost the output of pg_restore: {error}"))),
        }
    }
    let exit = process.running.wait().await?;
    if exit.is_success() {
        return Ok(watch.finish().map_err(|why| format!("what pg_restore makes of it is not a whole dump: {why}")));
    }
    let error = explain("pg_restore", exit, &process.stderr.text());
    match exit {
        // Missing or not to be run: that is not the archive's fault.
        crate::host::Exit::Code(126 | 127) | crate::host::Exit::Signal(_) => Err(error),
        crate::host::Exit::Code(_) => Ok(Err(error.message)),
    }
}
