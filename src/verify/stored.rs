//! The one door to what is stored: a file of a backup, decrypted and unpacked, and hashed as it lies
//! in the store.

use std::path::Path;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::archive::Source;
use super::read_back::{Hashed, HashingReader, compare};
use crate::catalog::{FileEntry, Id, Manifest, Role};
use crate::config::file::Format;
use crate::error::{Error, Kind, Result, plain_io};
use crate::host::spool::Spooled;
use crate::keys::Identities;
use crate::pack::codec::Codec;
use crate::pack::seal::{inner_name, undecryptable, unseal};
use crate::pack::unpacker::unpack;
use crate::store::{Reader, Store};

/// How much is read at a time, in bytes.
const READ_BYTES: usize = 512 * 1024;

/// How many blocks wait for whoever takes them.
const BLOCKS: usize = 4;

/// The files of a backup in a store, and who opens what is encrypted of them.
#[derive(Clone, Copy)]
pub struct Stored<'a> {
    pub store: &'a dyn Store,
    pub id: &'a Id,
    pub manifest: &'a Manifest,
    pub keys: &'a Identities,
}

/// What comes of a file, block by block.
pub struct Unpacked {
    pub blocks: mpsc::Receiver<Bytes>,
    reading: JoinHandle<Result<()>>,
    /// The file as stored: all of it when the blocks have ended.
    pub hashed: Hashed,
}

/// Nobody reads on for nobody.
impl Drop for Unpacked {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Unpacked {
    /// How the reading ended, when no block is left.
    ///
    /// # Errors
    /// The store does not answer, or what came is damaged (`Damaged`).
    pub async fn end(&mut self) -> Result<()> {
        (&mut self.reading).await.map_err(|error| Error::new(Kind::System, format!("the unpacker failed: {error}")))?
    }
}

impl<'a> Stored<'a> {
    /// The files of the dump of one database.
    pub fn dump_of(&self, database: &str) -> Vec<&'a FileEntry> {
        let files = self.manifest.files.iter();
        files.filter(|file| file.role == Role::Dump && file.database.as_deref() == Some(database)).collect()
    }

    /// Opens a file, decrypted. A key that does not fit is told apart from a header that was damaged:
    /// the hash of the file decides.
    ///
    /// # Errors
    /// It is not there, none of the identities opens it (`Secret`), or what is encrypted is damaged
    /// (`Damaged`).
    pub async fn open(&self, file: &FileEntry) -> Result<(Reader, Hashed)> {
        let (reader, hashed) = HashingReader::new(self.store.read(self.id, &file.name).await?);
        if inner_name(&file.name).is_none() {
            return Ok((Box::new(reader), hashed));
        }
        if self.keys.is_empty() {
            return Err(self.locked("it is encrypted, and no identity was given"));
        }
        let error = match unseal(reader, self.keys).await {
            Ok(opened) => return Ok((Box::new(opened), hashed)),
            Err(error) => error,
        };
        if !matches!(error.kind, Kind::Secret | Kind::Damaged) {
            return Err(error.context(format_args!("{}: {}", self.id, file.name)));
        }
        match self.check(file).await? {
            (_, Err(why)) => Err(self.damaged(file, &why)),
            (_, Ok(())) if error.kind == Kind::Damaged => Err(self.damaged(file, &error.message)),
            (_, Ok(())) => Err(self.locked(&error.message)),
        }
    }

    /// Opens a file, decrypted and unpacked. An archive of `pg_dump` is packed by itself, and comes as it is.
    ///
    /// # Errors
    /// As of [`Stored::open`].
    pub async fn unpacked(&self, file: &FileEntry) -> Result<Unpacked> {
        let (reader, hashed) = self.open(file).await?;
        let is_archive = file.role == Role::Dump && self.manifest.format != Format::Plain;
        let name = inner_name(&file.name).unwrap_or(&file.name);
        let codec = if is_archive || file.role == Role::Notes { Codec::None } else { Codec::of_name(name) };
        let (out, blocks) = mpsc::channel(BLOCKS);
        Ok(Unpacked { blocks, reading: tokio::spawn(unpack(reader, codec, out)), hashed })
    }

    /// Reads a file as it lies in the store and holds it against the manifest: how many bytes it has,
    /// and what is wrong with it.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub async fn check(&self, file: &FileEntry) -> Result<(u64, Result<(), String>)> {
        let (mut reader, hashed) = HashingReader::new(self.store.read(self.id, &file.name).await?);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match reader.read(&mut buffer).await {
                Ok(0) => return Ok((hashed.bytes(), compare(file, &hashed))),
                Ok(_) => {}
                Err(error) => return Err(self.unreadable(file, &error)),
            }
        }
    }

    /// An archive of `pg_dump` for `pg_restore`. `name` is its file, or its folder: one that is no
    /// folder of this machine, or encrypted, is laid out in the spool. Its hashes were checked.
    ///
    /// # Errors
    /// As of [`Stored::open`]; or the spool has no room.
    pub async fn archive(&self, name: &str, spool_dir: &Path) -> Result<Source> {
        let within = format!("{name}/");
        let files: Vec<&FileEntry> = self.manifest.files.iter().filter(|file| file.name.starts_with(&within)).collect();
        if files.is_empty() {
            let file = self.manifest.files.iter().find(|file| file.name == name);
            let file = file.ok_or_else(|| Error::new(Kind::NotFound, format!("{} has no file {name:?}", self.id)))?;
            return Ok(Source::Stream(self.open(file).await?.0));
        }
        if let Some(folder) = self.store.folder(self.id)
            && files.iter().all(|file| inner_name(&file.name).is_none())
        {
            return Ok(Source::Folder(folder.join(name)));
        }
        let spooled = Spooled::make(spool_dir, files.iter().map(|file| file.raw_bytes).sum())?;
        for file in files {
            let name = &file.name[within.len()..];
            let target = spooled.path().join(inner_name(name).unwrap_or(name));
            self.lay_out(file, &target).await?;
        }
        Ok(Source::Spooled(spooled))
    }

    async fn lay_out(&self, file: &FileEntry, target: &Path) -> Result<()> {
        let unwritable = |error: &std::io::Error| Error::system(format_args!("cannot write {}", target.display()), error);
        let (mut reader, hashed) = self.open(file).await?;
        let mut to = tokio::fs::File::create_new(target).await.map_err(|error| unwritable(&error))?;
        let mut block = vec![0; READ_BYTES];
        loop {
            match reader.read(&mut block).await {
                Ok(0) => break,
                Ok(read) => {
                    let written = tokio::io::AsyncWriteExt::write_all(&mut to, &block[..read]).await;
                    written.map_err(|error| unwritable(&error))?;
                }
                Err(error) => return Err(self.unreadable(file, &error)),
            }
        }
        tokio::io::AsyncWriteExt::flush(&mut to).await.map_err(|error| unwritable(&error))?;
        compare(file, &hashed).map_err(|why| self.damaged(file, &why))
    }

    /// What is wrong with a file.
    pub fn damaged(&self, file: &FileEntry, why: &str) -> Error {
        Error::new(Kind::Damaged, format!("{}: {}: {why}", self.id, file.name)).hint("restore from another store or from an older backup")
    }

    fn unreadable(&self, file: &FileEntry, error: &std::io::Error) -> Error {
        match undecryptable(error) {
            Some(why) => self.damaged(file, &why),
            None => Error::new(Kind::Store, format!("{}: {}: cannot read: {}", self.id, file.name, plain_io(error))),
        }
    }

    /// Says to whom it was encrypted: whose key is needed.
    fn locked(&self, why: &str) -> Error {
        let to = match self.manifest.recipients() {
            [] => "recipients that nobody noted".to_owned(),
            all => crate::host::printable(&all.join(", ")),
        };
        Error::new(Kind::Secret, format!("{}: {why}; it was encrypted to {to}", self.id))
            .hint("give the private key of one of them: --identity FILE, or identity of the backup in the file")
    }
}
