//! Roles and tablespaces of a backup: read, looked at, and made where they are missing.

use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::target::tell;
use crate::catalog::{Id, Manifest, Role};
use crate::error::{Error, Kind, Result};
use crate::pack::codec::Codec;
use crate::pack::packer::hex;
use crate::pack::unpacker::unpack;
use crate::postgres::Server;
use crate::restore::globals::Globals;
use crate::restore::target::Target;
use crate::store::Store;

/// Globals of a hundred thousand roles are smaller, in bytes.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// Reads the globals of a backup; its hash is checked before anybody looks into them.
///
/// # Errors
/// They are not there, not what was stored, or hold what does not belong there.
pub async fn read(store: &dyn Store, id: &Id, manifest: &Manifest) -> Result<Option<Globals>> {
    let Some(file) = manifest.files.iter().find(|file| file.role == Role::Globals) else { return Ok(None) };
    let damaged = |why: &str| {
        Error::new(Kind::Damaged, format!("{}: {why}", file.name)).hint(format!("pgvigil verify {id} says what is wrong with the backup"))
    };
    let mut packed = Vec::new();
    let mut reader = store.read(id, &file.name).await?.take(BYTES_MAX as u64 + 1);
    reader.read_to_end(&mut packed).await.map_err(|error| Error::system(format_args!("cannot read {}", file.name), &error))?;
    if packed.len() > BYTES_MAX {
        return Err(damaged("it is too large for globals"));
    }
    if hex(&Sha256::digest(&packed)) != file.sha256 {
        return Err(damaged("its hash is not the one of the manifest"));
    }
    let (out, mut blocks) = mpsc::channel(4);
    let unpacking = tokio::spawn(unpack(std::io::Cursor::new(packed), Codec::of_name(&file.name), out));
    let mut text = Vec::new();
    while let Some(block) = blocks.recv().await {
        text.extend_from_slice(&block);
        if text.len() > BYTES_MAX {
            return Err(damaged("it is too large for globals"));
        }
    }
    unpacking.await.map_err(|error| damaged(&error.to_string()))??;
    Globals::parse(&text).map(Some)
}

/// Makes what is missing; what is there stays as it is. Returns what to say of it.
///
/// # Errors
/// A statement failed; those before it are done.
pub async fn apply(server: &Server, globals: &Globals, target: &Target) -> Result<String> {
    let facts = &target.facts;
    let wanted: Vec<&str> = globals.wanted(&facts.roles, &facts.tablespaces).map(|statement| statement.sql.trim_end_matches(';')).collect();
    tell(server, server.maintenance_database(), wanted).await.map_err(|error| error.context("globals"))?;
    let made = globals.roles().into_iter().filter(|role| !facts.roles.contains(*role)).count();
    let there = globals.roles().len() - made;
    Ok(format!("globals: {made} roles made; {there} were there already and stay as they are"))
}
