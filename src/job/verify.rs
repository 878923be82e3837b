//! A backup's copy in a store proven again: read back, and the proof kept beside it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::catalog::entry::in_order;
use crate::catalog::manifest::MANIFEST;
use crate::catalog::proof::next_document_name;
use crate::catalog::signed;
use crate::catalog::{Entry, Id, Manifest, Proof, Role, Rung};
use crate::config::Plan;
use crate::config::file::{Format, Via};
use crate::config::plan::Place;
use crate::error::{Error, Kind, Result};
use crate::host::docker::{self, DockerHost};
use crate::host::local::LocalHost;
use crate::host::{Host, clock};
use crate::job::progress::Progress;
use crate::job::{keys, stores};
use crate::pack::packer::hex;
use crate::postgres::programs::{self, parse_version};
use crate::store::{Added, Store};
use crate::verify::archive;
use crate::verify::read_back::read_back;
use crate::verify::stored::Stored;

/// What a verification found.
pub struct Proven {
    pub proof: Proof,
    /// Tables that the dump of a database makes, where they could be seen.
    pub tables: BTreeMap<String, u64>,
}

/// What became of the archives of a backup.
#[derive(Debug, Default)]
pub struct Opened {
    /// Tables that each makes, by database.
    pub tables: BTreeMap<String, u64>,
    /// Why one could not be opened at all, which says nothing of it.
    pub notes: Vec<String>,
}

/// Says that a proof is one of hashes only. It is no fault of anybody, and nothing that needs a look.
pub const NOT_LOOKED_INTO: &str =
    "encrypted, and no identity was given: its bytes are those of the manifest; what is inside was not looked at";

/// Reads a backup back, turns its archives into SQL with `pg_restore`, and writes the proof. The
/// rung that it had by a drill stays: its bytes are the same. `opened`: the archives were looked into
/// already.
///
/// # Errors
/// The store does not answer, so that nothing can be said; or the proof cannot be written.
pub async fn verify(plan: &Plan, stored: Stored<'_>, before: Option<Rung>, opened: Option<Opened>, progress: &Progress) -> Result<Proven> {
    let started = std::time::Instant::now();
    let Stored { store, id, manifest, keys } = stored;
    let meter = progress.restart("reading back", manifest.raw_bytes());
    let (manifest_sha256, changed) = hash_manifest(plan, store, id).await?;
    let mut findings = read_back(&stored, &meter).await?;
    findings.errors.extend(changed);
    let opened = match (opened, &findings.locked) {
        (Some(opened), _) => opened,
        (None, Some(_)) if keys.is_empty() => Opened::default(),
        // A key that does not fit is somebody's mistake.
        (None, Some(locked)) => Opened { notes: vec![locked.message.clone()], ..Opened::default() },
        // Only an archive whose hash is right is given to a parser.
        (None, None) if findings.errors.is_empty() && manifest.format != Format::Plain => {
            progress.begin("opening the archive");
            open_archives(plan, &stored, &mut findings.errors).await
        }
        (None, None) => Opened::default(),
    };
    findings.tables.extend(opened.tables);
    let mut notes = opened.notes;
    let rung = match (findings.errors.is_empty(), notes.is_empty()) {
        (false, _) => Rung::Bad,
        (true, true) => before.unwrap_or(Rung::Readable).max(Rung::Readable),
        // An archive has no end that could be seen but by opening it: nothing new is proven.
        (true, false) => before.unwrap_or(Rung::Written),
    };
    if findings.locked.is_some() && keys.is_empty() {
        notes.push(NOT_LOOKED_INTO.to_owned());
    }
    let proof = Proof {
        at: clock::now(),
        rung,
        by: "read back".to_owned(),
        bytes: findings.bytes,
        seconds: round(started.elapsed().as_secs_f64()),
        manifest_sha256: Some(manifest_sha256),
        errors: findings.errors,
        notes,
        drill: None,
        generator: crate::GENERATOR.to_owned(),
    };
    write(plan, store, id, &proof).await?;
    Ok(Proven { proof, tables: findings.tables })
}

/// The hash of the manifest, and what is wrong if an earlier proof saw another one: it is written
/// once and never changed.
pub async fn hash_manifest(plan: &Plan, store: &dyn Store, id: &Id) -> Result<(String, Option<String>)> {
    let documents = store.documents(id).await?;
    let manifest = documents.iter().find(|(name, _)| name == MANIFEST).map(|(_, bytes)| bytes);
    let sha256 = hex(&Sha256::digest(manifest.map(Bytes::as_ref).unwrap_or_default()));
    let changed = in_order::<Proof>("proof", id, &documents, &keys::trust(plan))
        .into_iter()
        .find(|proof| proof.rung.is_good() && proof.manifest_sha256.as_ref().is_some_and(|then| *then != sha256))
        .map(|proof| format!("{MANIFEST}: it is not the one that was proven at {}", proof.at.format("%Y-%m-%d %H:%M:%S UTC")));
    Ok((sha256, changed))
}

/// To the millisecond.
pub fn round(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// Keeps a proof beside its copy.
///
/// # Errors
/// The store cannot be written, or the key that signs is not to be had.
pub async fn write(plan: &Plan, store: &dyn Store, id: &Id, proof: &Proof) -> Result<()> {
    add(plan, store, id, "proof", proof.at, proof).await
}

/// Adds a document so that it is the newest of its kind, whatever the clock said when the others
/// were added; signed for its place, where the file has a key.
///
/// # Errors
/// The store cannot be written, or the key is not to be had.
pub async fn add<T: Serialize>(
    plan: &Plan,
    store: &dyn Store,
    id: &Id,
    prefix: &str,
    at: chrono::DateTime<chrono::Utc>,
    content: &T,
) -> Result<()> {
    let signer = keys::signer(plan)?;
    // Another may add one at the same time.
    for _ in 0..1000 {
        let there = store.documents(id).await?;
        let name = next_document_name(prefix, at, there.iter().map(|(name, _)| name.as_str()));
        let bytes = signed::document(content, id, &name, signer.as_ref())?;
        if store.add_document(id, &name, Bytes::from(bytes)).await? == Added::Done {
            return Ok(());
        }
    }
    Err(Error::new(Kind::Store, format!("cannot name a {prefix} of {id}: somebody else takes every name")))
}

/// Points `latest` at the newest good backup of a store.
///
/// # Errors
/// The store cannot be written.
pub async fn point_latest(plan: &Plan, store: &dyn Store, name: &str, backup: &str) -> Result<()> {
    let catalog = stores::catalog_of_one(plan, store, name, Some(backup)).await?;
    let good = |entry: &&Entry| entry.rung_in(name).is_some_and(Rung::is_good);
    let newest = catalog.entries.iter().find(good).map(|entry| entry.id.label);
    store.point_latest(backup, newest).await
}

/// The host whose `pg_restore` fits a backup: that of the server it is of, else what is here.
///
/// # Errors
/// Nothing here reads its archives.
pub async fn archive_host(plan: &Plan, manifest: &Manifest) -> Result<Arc<dyn Host>> {
    if let Some(server) = plan.servers.get(manifest.server.as_str()) {
        if let Place::Container { container, docker, via: Via::Exec } = &server.place {
            let host = DockerHost::connect(docker.as_deref(), container).await?;
            host.inspect().await?;
            return Ok(docker::shared(host));
        }
        if server.bin_dir.is_some() {
            return Ok(Arc::new(LocalHost::new(server.bin_dir.clone())));
        }
    }
    let found = tokio::task::spawn_blocking(programs::find).await.unwrap_or_default();
    let bin_dir = match parse_version(&manifest.client_version) {
        Some((major, _)) => programs::choose(&found, major)?,
        // The newest reads what any older one wrote.
        None => programs::any(&found),
    };
    Ok(Arc::new(LocalHost::new(bin_dir)))
}

/// Reads every archive to its end by `pg_restore`; what is wrong with one goes to the errors.
async fn open_archives(plan: &Plan, stored: &Stored<'_>, errors: &mut Vec<String>) -> Opened {
    let mut opened = Opened::default();
    let failed = |error: Error| format!("the archive was not opened: {}", error.message);
    let host = match archive_host(plan, stored.manifest).await {
        Ok(host) => host,
        Err(error) => {
            opened.notes.push(failed(error));
            return opened;
        }
    };
    let mut names: Vec<&str> = Vec::new();
    for file in stored.manifest.files.iter().filter(|file| file.role == Role::Dump) {
        // The files of a directory archive are one archive.
        let name = file.name.split('/').next().unwrap_or_default();
        if names.contains(&name) {
            continue;
        }
        names.push(name);
        let verdict = match stored.archive(name, &plan.spool_dir).await {
            Ok(source) => archive::read(&*host, source, false).await,
            Err(error) => Err(error),
        };
        match verdict {
            Ok(Ok(seen)) => opened.tables.extend(file.database.clone().zip(seen.tables)),
            Ok(Err(wrong)) => errors.push(format!("{name}: {wrong}")),
            Err(error) => opened.notes.push(failed(error)),
        }
    }
    opened
}
