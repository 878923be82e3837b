//! One dump: a program's output through the pass into a file of a store.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::catalog::{FileEntry, Role};
use crate::error::{Error, Kind, Result, plain_io};
use crate::host::{Call, Exit, Process, words_of_the_engine};
use crate::pack::codec::Codec;
use crate::pack::end::{EndWatch, Seen};
use crate::pack::packer::{Meter, Packed, Pass, hex, pack, stalled};
use crate::pack::seal::Seal;
use crate::postgres::Server;
use crate::postgres::server::explain;
use crate::store::{FileWriter, Upload};

/// How a stream is treated on its way.
pub struct Way {
    pub watch: EndWatch,
    pub codec: Codec,
    pub seal: Seal,
    pub stall_timeout: Duration,
    pub meter: Arc<Meter>,
}

/// Runs a program and stores what it writes to stdout. The file is durable when this returns, and
/// a whole dump; the order is that of the commit: exit status, end marker, fsync.
///
/// # Errors
/// The program failed or was cut, the output is no whole dump, or the store takes no more.
pub async fn stream(server: &Server, mut call: Call, way: Way, writer: Box<dyn FileWriter>) -> Result<(Packed, Seen)> {
    let program = call.program;
    let input = call.input.take();
    let mut process = server.host().start(call).await?;
    feed(&mut process, input);
    let stdout = std::mem::replace(&mut process.stdout, Box::new(tokio::io::empty()));
    let stall_timeout = way.stall_timeout;
    let (stdout, head) = match first_bytes(stdout, &way.meter, stall_timeout).await {
        Ok(first) => first,
        Err(error) => return Err(stopped(&mut process, error).await),
    };
    let (pass, writer) = match through(stdout, way, writer).await {
        Ok(through) => through,
        Err(error) => return Err(stopped(&mut process, error).await),
    };
    end(program, &mut process, &head, stall_timeout).await?;
    let whole = pass.finish(program)?;
    writer.finish().await?;
    Ok(whole)
}

/// Gives a program its input beside whatever it writes. One that does not take all of it says why by itself.
fn feed(process: &mut Process, input: Option<Bytes>) {
    if let Some((mut stdin, input)) = process.stdin.take().zip(input) {
        tokio::spawn(async move {
            let _ = stdin.write_all(&input).await;
            let _ = stdin.shutdown().await;
        });
    }
}

/// Stores what a program has left in a file. Durable when this returns, and whole.
///
/// # Errors
/// The file cannot be read or is not whole, or the store takes no more.
pub async fn packed(program: &'static str, input: impl AsyncRead + Unpin, way: Way, writer: Box<dyn FileWriter>) -> Result<(Packed, Seen)> {
    let (pass, writer) = through(input, way, writer).await?;
    let whole = pass.finish(program)?;
    writer.finish().await?;
    Ok(whole)
}

/// The pass itself, from a stream into a file that is not durable yet.
async fn through(input: impl AsyncRead + Unpin, way: Way, writer: Box<dyn FileWriter>) -> Result<(Pass, Box<dyn FileWriter>)> {
    let (out, blocks) = mpsc::channel(4);
    let writing = tokio::spawn(write_all(blocks, writer));
    let passed = pack(input, way.watch, way.codec, way.seal, way.stall_timeout, way.meter, out).await;
    let written = writing.await.map_err(|error| Error::new(Kind::Store, format!("a write was broken off: {error}")))?;
    // The store's own words first; that the pass lost its receiver only follows from them.
    let writer = written?;
    Ok((passed?, writer))
}

/// Stores a file that a program wrote. It is durable when this returns.
///
/// # Errors
/// It cannot be read, or the store takes no more.
pub async fn file(path: &Path, way: Way, writer: Box<dyn FileWriter>) -> Result<Packed> {
    let opened = tokio::fs::File::open(path).await;
    let input = opened.map_err(|error| Error::system(format_args!("cannot read {}", path.display()), &error))?;
    let (pass, writer) = through(input, way, writer).await?;
    writer.finish().await?;
    Ok(pass.packed)
}

/// Stores a small file of our own making.
///
/// # Errors
/// The store cannot be written.
pub async fn put(upload: &mut dyn Upload, name: &str, bytes: Bytes) -> Result<Packed> {
    let packed = Packed { raw_bytes: bytes.len() as u64, bytes: bytes.len() as u64, sha256: hex(&Sha256::digest(&bytes)) };
    let mut writer = upload.create(name).await?;
    writer.write(bytes).await?;
    writer.finish().await?;
    Ok(packed)
}

type Stdout = Box<dyn AsyncRead + Send + Unpin>;

/// The Engine says on stdout when a program is missing: its first words are kept for the error.
async fn first_bytes(mut stdout: Stdout, meter: &Meter, stall_timeout: Duration) -> Result<(Stdout, Bytes)> {
    let mut head = vec![0; 512];
    match tokio::time::timeout(stall_timeout, stdout.read(&mut head)).await {
        Ok(Ok(len)) => {
            meter.begun.notify_one();
            head.truncate(len);
            let head = Bytes::from(head);
            Ok((Box::new(std::io::Cursor::new(head.clone()).chain(stdout)), head))
        }
        // The pass meets the same error, and says so.
        Ok(Err(_)) => Ok((stdout, Bytes::new())),
        Err(_) => Err(stalled(stall_timeout)),
    }
}

async fn write_all(mut blocks: mpsc::Receiver<Bytes>, mut writer: Box<dyn FileWriter>) -> Result<Box<dyn FileWriter>> {
    while let Some(block) = blocks.recv().await {
        writer.write(block).await?;
    }
    Ok(writer)
}

/// Ends a program whose output nobody wants any more, and adds what it had to say.
async fn stopped(process: &mut Process, error: Error) -> Error {
    if let Err(stop) = process.running.stop().await {
        tracing::warn!(error = %stop, "cannot end a program; the next run will");
    }
    let stderr = process.stderr.text();
    match stderr.lines().last() {
        Some(last) if error.kind == Kind::Dump => Error { message: format!("{}\n  {last}", error.message), ..error },
        _ => error,
    }
}

/// Waits for the end of a program and judges it.
async fn end(program: &'static str, process: &mut Process, head: &[u8], stall_timeout: Duration) -> Result<()> {
    let exit = match tokio::time::timeout(stall_timeout, process.running.wait()).await {
        Ok(exit) => exit?,
        Err(_) => return Err(stopped(process, stalled(stall_timeout)).await),
    };
    let mut stderr = process.stderr.text();
    if exit.is_success() {
        for line in stderr.lines() {
            tracing::warn!(program, "{line}");
        }
        return Ok(());
    }
    if matches!(exit, Exit::Code(126 | 127)) {
        stderr.push_str(&words_of_the_engine(head).unwrap_or_default());
    }
    Err(explain(program, exit, &stderr))
}

/// Runs a `pg_dump` that writes a folder by itself.
///
/// # Errors
/// It failed, or its folder did not grow for `stall_timeout`.
pub async fn into_folder(server: &Server, mut call: Call, folder: &Path, stall_timeout: Duration, meter: &Meter) -> Result<()> {
    let program = call.program;
    let input = call.input.take();
    let mut process = server.host().start(call).await?;
    feed(&mut process, input);
    let mut stdout = std::mem::replace(&mut process.stdout, Box::new(tokio::io::empty()));
    let mut sink = Vec::new();
    let mut finished = std::pin::pin!(stdout.read_to_end(&mut sink));
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    let mut grown = tokio::time::Instant::now();
    loop {
        tokio::select! {
            _ = &mut finished => {
                meter.begun.notify_one();
                break;
            }
            _ = ticks.tick() => {
                let now = folder_bytes(folder);
                if now > meter.raw_bytes() {
                    // It holds its locks by then.
                    meter.begun.notify_one();
                    grown = tokio::time::Instant::now();
                    meter.raw.store(now, Ordering::Relaxed);
                    meter.packed.store(now, Ordering::Relaxed);
                } else if grown.elapsed() > stall_timeout {
                    let stalled = Error::new(Kind::Timeout, format!("the dump's folder did not grow for {} s", stall_timeout.as_secs()))
                        .hint("look for locks and long queries on the server; stall_timeout sets the patience");
                    return Err(stopped(&mut process, stalled).await);
                }
            }
        }
    }
    end(program, &mut process, &[], stall_timeout).await.map_err(|error| {
        // It writes by itself, and does not say where.
        let disk = ["No space left on device", "File too large", "Input/output error", "Read-only file system", "Disk quota exceeded"];
        if !disk.iter().any(|words| error.message.contains(words)) {
            return error;
        }
        let hint = if error.message.contains("No space left") {
            "the disk is full: free space, or move the store to a larger one; nothing that was stored is lost"
        } else {
            "look at the file system of the store: its limits, its mount and the kernel's log; nothing that was stored is lost"
        };
        Error { hint: None, ..error }.context(format_args!("cannot write {}", folder.display())).hint(hint)
    })
}

/// The names in a folder that a program wrote, in order.
///
/// # Errors
/// It cannot be read.
pub fn names(folder: &Path) -> Result<Vec<String>> {
    let listed = std::fs::read_dir(folder).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned())).collect::<std::io::Result<Vec<_>>>()
    });
    let mut names = listed.map_err(|error| Error::system(format_args!("cannot read {}", folder.display()), &error))?;
    names.sort();
    Ok(names)
}

fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
}

/// Names, lengths and hashes of the files in a folder that a program wrote.
///
/// # Errors
/// A file cannot be read.
pub async fn hash_folder(folder: &Path) -> Result<Vec<(String, Packed)>> {
    let path = folder.display().to_string();
    let folder = folder.to_owned();
    let hashed = tokio::task::spawn_blocking(move || {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let mut file = std::fs::File::open(entry.path())?;
            let mut hash = Sha256::new();
            let mut block = vec![0; 1 << 20];
            let mut bytes = 0;
            loop {
                match std::io::Read::read(&mut file, &mut block)? {
                    0 => break,
                    read => {
                        hash.update(&block[..read]);
                        bytes += read as u64;
                    }
                }
            }
            let packed = Packed { raw_bytes: bytes, bytes, sha256: hex(&hash.finalize()) };
            found.push((entry.file_name().to_string_lossy().into_owned(), packed));
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    });
    let hashed = hashed.await.map_err(|error| Error::new(Kind::Store, format!("a read was broken off: {error}")))?;
    hashed.map_err(|error: std::io::Error| {
        Error::new(Kind::Store, format!("cannot read what pg_dump wrote into {path}: {}", plain_io(&error)))
            .hint("look into the kernel's log: the disk or the way to it may be failing; then run again")
    })
}

/// What the manifest says of a file that was written.
pub fn entry(name: String, packed: Packed, database: Option<String>, role: Role) -> FileEntry {
    FileEntry { name, bytes: packed.bytes, raw_bytes: packed.raw_bytes, sha256: packed.sha256, adopted_sha256: None, database, role }
}
