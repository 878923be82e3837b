//! Roles and tablespaces of a backup: read, looked at, and made where they are missing.

use super::target::tell;
use crate::catalog::Role;
use crate::error::{Error, Kind, Result};
use crate::postgres::Server;
use crate::restore::globals::Globals;
use crate::restore::target::Target;
use crate::verify::read_back::compare;
use crate::verify::stored::Stored;

/// Globals of a hundred thousand roles are smaller, in bytes.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// Reads the globals of a backup; their hash is checked before anybody looks into them.
///
/// # Errors
/// They are not there, not what was stored, hold what does not belong there, or no identity opens them.
pub async fn read(stored: &Stored<'_>) -> Result<Option<Globals>> {
    let Some(file) = stored.manifest.files.iter().find(|file| file.role == Role::Globals) else { return Ok(None) };
    let damaged = |why: &str| {
        let hint = format!("pgvigil verify {} says what is wrong with the backup", stored.id);
        Error::new(Kind::Damaged, format!("{}: {why}", file.name)).hint(hint)
    };
    let mut unpacked = stored.unpacked(file).await?;
    let mut text = Vec::new();
    while let Some(block) = unpacked.blocks.recv().await {
        text.extend_from_slice(&block);
        if text.len() > BYTES_MAX || unpacked.hashed.bytes() > BYTES_MAX as u64 {
            return Err(damaged("it is too large for globals"));
        }
    }
    unpacked.end().await.map_err(|error| if error.kind == Kind::Damaged { damaged(&error.message) } else { error })?;
    compare(file, &unpacked.hashed).map_err(|why| damaged(&why))?;
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
