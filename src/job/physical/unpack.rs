//! A base backup out of its store into a folder, here or in a container, every file of it checked.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use nix::libc;
use tokio::sync::mpsc;

use crate::catalog::{FileEntry, Role};
use crate::error::{Error, Kind, Result};
use crate::pack::packer::Meter;
use crate::pack::tar::{self, BACKUP_MANIFEST, Member, Members, Passed, Sums, TarReader};
use crate::physical::whole::ServerManifest;
use crate::postgres::throwaway::{Inside, Unpacking};
use crate::verify::read_back::compare;
use crate::verify::stored::Stored;

/// A folder for the data directory, and one for each tablespace by its OID.
pub struct Folders<'a> {
    pub data: &'a Path,
    pub tablespaces: &'a [(u32, PathBuf)],
    /// The container that they are in. `None`: they are of this machine, and there already.
    pub inside: Option<&'a Inside>,
}

/// Unpacks all archives of a base backup, and returns PostgreSQL's own manifest of it. Each is checked against the hash of its manifest, and each file
/// in it against PostgreSQL's own manifest.
///
/// # Errors
/// A file is missing, damaged or cut, which is named; the store does not answer; or a folder cannot be
/// written. What is there then is no cluster.
pub async fn unpack_all(stored: Stored<'_>, into: &Folders<'_>, meter: &Arc<Meter>) -> Result<Vec<u8>> {
    let (id, manifest) = (stored.id, stored.manifest);
    let damaged = |why: String| {
        Error::new(Kind::Damaged, format!("{id} is damaged: {why}"))
            .hint("take another base backup, or another store's copy; pgvigil verify looks at all of it")
    };
    let mut archives = Vec::new();
    for file in manifest.files.iter().filter(|file| file.role == Role::Base) {
        let oid: Option<u32> = file.name.split('.').next().and_then(|stem| stem.parse().ok());
        let folder = match oid {
            None => into.data,
            Some(oid) => match into.tablespaces.iter().find(|(known, _)| *known == oid) {
                Some((_, folder)) => folder,
                None => return Err(damaged(format!("{} is of a tablespace that its manifest does not name", file.name))),
            },
        };
        let passed = unpack_one(stored, file, folder, into.inside, meter).await?.map_err(damaged)?;
        archives.push((oid, passed));
    }
    let server_manifest = server_manifest(stored).await?.map_err(damaged)?;
    let wrong = ServerManifest::parse(&server_manifest).map_or_else(|wrong| vec![wrong], |manifest| manifest.compare(&archives));
    if !wrong.is_empty() {
        return Err(damaged(wrong.join("\n  ")));
    }
    Ok(server_manifest)
}

/// PostgreSQL's own manifest of a base backup, its hash checked. `Err` inside: it is damaged.
///
/// # Errors
/// The store does not answer.
pub async fn server_manifest(stored: Stored<'_>) -> Result<Result<Vec<u8>, String>> {
    let Some(file) = stored.manifest.files.iter().find(|file| file.role == Role::BackupManifest) else {
        return Ok(Err(format!("{BACKUP_MANIFEST} is missing")));
    };
    let mut unpacked = stored.unpacked(file).await?;
    let mut bytes = Vec::new();
    while let Some(block) = unpacked.blocks.recv().await {
        bytes.extend_from_slice(&block);
    }
    let sound = match unpacked.end().await {
        Err(error) if error.kind == Kind::Damaged => Err(error.message),
        ended => {
            ended?;
            compare(file, &unpacked.hashed)
        }
    };
    Ok(sound.map_err(|why| format!("{}: {why}", file.name)).map(|()| bytes))
}

/// `Err` inside: the archive is damaged.
async fn unpack_one(
    stored: Stored<'_>,
    file: &FileEntry,
    folder: &Path,
    inside: Option<&Inside>,
    meter: &Arc<Meter>,
) -> Result<Result<Passed, String>> {
    let mut unpacked = stored.unpacked(file).await?;
    // Whoever writes takes them elsewhere.
    let (_, nothing) = mpsc::channel(1);
    let blocks = std::mem::replace(&mut unpacked.blocks, nothing);
    let (meter, before) = (Arc::clone(meter), (meter.raw_bytes(), meter.packed_bytes()));
    let counted = unpacked.hashed.clone();
    let gauge = move |raw: u64| {
        meter.raw.store(before.0 + raw, Ordering::Relaxed);
        meter.packed.store(before.1 + counted.bytes(), Ordering::Relaxed);
    };
    let written = if let Some(inside) = inside {
        pass_on(blocks, inside.unpack_into(folder).await?, gauge).await?
    } else {
        let files = Files { folder: folder.to_owned(), file: None, sums: Sums::default() };
        let written = tokio::task::spawn_blocking(move || write_all(blocks, files, gauge));
        written.await.map_err(|error| Error::new(Kind::System, format!("the unpacking was broken off: {error}")))?
    };
    let named = |why: String| format!("{}: {why}", file.name);
    // What the codec says comes first: a damaged block ends the archive early.
    match unpacked.end().await {
        Ok(()) => {}
        Err(error) if error.kind == Kind::Damaged => return Ok(Err(named(error.message))),
        Err(error) => return Err(error),
    }
    let (end, passed) = match written {
        Ok(written) => written,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(Err(named(error.to_string()))),
        Err(error) => return Err(Error::system(format_args!("cannot write into {}", folder.display()), &error)),
    };
    Ok(end.and_then(|()| compare(file, &unpacked.hashed)).map_err(named).map(|()| passed))
}

/// How an archive ended, and what was in it.
type Written = (Result<(), String>, Passed);

fn write_all(mut blocks: mpsc::Receiver<Bytes>, mut files: Files, gauge: impl Fn(u64)) -> io::Result<Written> {
    let mut reader = TarReader::default();
    let mut raw = 0;
    while let Some(block) = blocks.blocking_recv() {
        reader.feed(&block, &mut files)?;
        raw += block.len() as u64;
        gauge(raw);
    }
    Ok((reader.finish(), files.sums.passed))
}

/// The same in a container: what has been looked at goes to the tar there.
async fn pass_on(mut blocks: mpsc::Receiver<Bytes>, mut to: Unpacking, gauge: impl Fn(u64)) -> Result<io::Result<Written>> {
    let (mut reader, mut seen) = (TarReader::default(), Seen::default());
    let mut raw = 0;
    while let Some(block) = blocks.recv().await {
        if let Err(error) = reader.feed(&block, &mut seen) {
            return Ok(Err(error));
        }
        to.archive(&block).await?;
        raw += block.len() as u64;
        gauge(raw);
    }
    let end = reader.finish();
    if end.is_ok() {
        to.finish().await?;
    }
    Ok(Ok((end, seen.0.passed)))
}

/// Takes the checksums of members that go elsewhere.
#[derive(Default)]
struct Seen(Sums);

impl Members for Seen {
    fn begin(&mut self, member: &Member) -> io::Result<()> {
        no_link(member)?;
        self.0.begin(member)
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.bytes(bytes)
    }

    fn end(&mut self) -> io::Result<()> {
        self.0.end()
    }
}

/// Nothing is written through a link, and PostgreSQL makes those of tablespaces by itself.
fn no_link(member: &Member) -> io::Result<()> {
    match &member.kind {
        tar::Kind::Link(to) => Err(io::Error::new(io::ErrorKind::InvalidData, format!("it holds a link, {} to {to}", member.path))),
        tar::Kind::File | tar::Kind::Folder => Ok(()),
    }
}

/// Writes members below a folder, and takes their checksums.
struct Files {
    folder: PathBuf,
    file: Option<File>,
    sums: Sums,
}

impl Members for Files {
    fn begin(&mut self, member: &Member) -> io::Result<()> {
        self.sums.begin(member)?;
        let path = self.folder.join(&member.path);
        match &member.kind {
            tar::Kind::Folder => match DirBuilder::new().mode(member.mode | 0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
                made => made,
            },
            tar::Kind::File => {
                let file =
                    OpenOptions::new().write(true).create_new(true).mode(member.mode | 0o600).custom_flags(libc::O_NOFOLLOW).open(&path)?;
                self.file = Some(file);
                Ok(())
            }
            tar::Kind::Link(_) => no_link(member),
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sums.bytes(bytes)?;
        match &mut self.file {
            Some(file) => file.write_all(bytes),
            None => Ok(()),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        self.file = None;
        self.sums.end()
    }
}

/// Makes a folder for a cluster, which must not be there or be empty.
///
/// # Errors
/// It is not empty, or cannot be made.
pub fn make_folder(path: &Path) -> Result<()> {
    let failed = |error: &io::Error| {
        Error::system(format_args!("cannot make {}", path.display()), error)
            .hint("let the owner of state_dir write into the folder above, or name another --target-dir")
    };
    match std::fs::read_dir(path) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(Error::new(Kind::Refused, format!("{} is not empty", path.display()))
                    .hint("name a folder that is not there yet: nothing is ever restored over another cluster"));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| failed(&error))?;
        }
        Err(error) => return Err(failed(&error)),
    }
    // PostgreSQL does not start in a folder that others can read.
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)).map_err(|error| failed(&error))
}

/// Makes all that was written below a folder durable.
///
/// # Errors
/// It is not.
pub fn make_durable(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|folder| nix::unistd::syncfs(&folder).map_err(Into::into));
    synced.map_err(|error| Error::system(format_args!("cannot make {} durable", path.display()), &error))
}
