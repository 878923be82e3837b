//! A backup's copy in a store proven again: read back, and the proof kept beside it.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::catalog::entry::in_order;
use crate::catalog::manifest::MANIFEST;
use crate::catalog::proof::document_name;
use crate::catalog::{Catalog, Entry, Id, Manifest, Proof, Role, Rung};
use crate::config::file::Format;
use crate::error::{Error, Kind, Result};
use crate::host::local::LocalHost;
use crate::host::{Call, Host, Tag, clock};
use crate::job::progress::Progress;
use crate::pack::codec::Codec;
use crate::pack::packer::hex;
use crate::pack::unpacker::unpack;
use crate::postgres::programs::{self, parse_version};
use crate::postgres::server::explain;
use crate::store::{Added, Store};
use crate::verify::read_back::read_back;

/// Reads a backup back, looks into its archives with `pg_restore`, and writes the proof. The rung
/// that it had by a drill stays: its bytes are the same.
///
/// # Errors
/// The store does not answer, so that nothing can be said; or the proof cannot be written.
pub async fn verify(
    store: &dyn Store,
    id: &Id,
    manifest: &Manifest,
    before: Option<Rung>,
    host: Option<&Arc<dyn Host>>,
    progress: &Progress,
) -> Result<Proof> {
    let started = std::time::Instant::now();
    let meter = progress.restart("reading back", manifest.raw_bytes());
    let (manifest_sha256, changed) = hash_manifest(store, id).await?;
    let findings = read_back(store, id, manifest, &meter).await?;
    let (mut errors, mut notes) = (findings.errors, Vec::new());
    errors.extend(changed);
    // Only an archive whose hash is right is given to a parser.
    if errors.is_empty() && manifest.format != Format::Plain {
        progress.begin("opening the archive");
        match open_archives(store, id, manifest, host).await {
            Ok(wrong) => errors.extend(wrong),
            Err(error) => notes.push(format!("the archive was not opened: {}", error.message)),
        }
    }
    let rung = if errors.is_empty() { before.unwrap_or(Rung::Readable).max(Rung::Readable) } else { Rung::Bad };
    let proof = Proof {
        at: clock::now(),
        rung,
        by: "read back".to_owned(),
        bytes: findings.bytes,
        manifest_sha256: Some(manifest_sha256),
        seconds: round(started.elapsed().as_secs_f64()),
        errors,
        notes,
        generator: crate::GENERATOR.to_owned(),
    };
    write(store, id, &proof).await?;
    Ok(proof)
}

/// The hash of the manifest, and what is wrong if an earlier proof saw another one: it is written
/// once and never changed.
async fn hash_manifest(store: &dyn Store, id: &Id) -> Result<(String, Option<String>)> {
    let documents = store.documents(id).await?;
    let manifest = documents.iter().find(|(name, _)| name == MANIFEST).map(|(_, bytes)| bytes);
    let sha256 = hex(&Sha256::digest(manifest.map(Bytes::as_ref).unwrap_or_default()));
    let changed = in_order::<Proof>("proof", &documents)
        .into_iter()
        .find(|proof| proof.manifest_sha256.as_ref().is_some_and(|then| *then != sha256))
        .map(|proof| format!("{MANIFEST}: it is not the one that was proven at {}", proof.at.format("%Y-%m-%d %H:%M:%S UTC")));
    Ok((sha256, changed))
}

/// To the millisecond.
pub fn round(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

async fn write(store: &dyn Store, id: &Id, proof: &Proof) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(proof).map_err(|error| Error::new(Kind::System, format!("cannot write a proof: {error}")))?;
    add(store, id, "proof", proof.at, Bytes::from(bytes)).await
}

/// Adds a document under the first name of its second that is free.
///
/// # Errors
/// The store cannot be written.
pub async fn add(store: &dyn Store, id: &Id, prefix: &str, at: chrono::DateTime<chrono::Utc>, bytes: Bytes) -> Result<()> {
    for nth in 0..1000 {
        if store.add_document(id, &document_name(prefix, at, nth), bytes.clone()).await? == Added::Done {
            return Ok(());
        }
    }
    Err(Error::new(Kind::Store, format!("cannot name a {prefix} of {id}: a thousand of this second are there")))
}

/// Points `latest` at the newest good backup of a store.
///
/// # Errors
/// The store cannot be written.
pub async fn point_latest(store: &dyn Store, name: &str, backup: &str) -> Result<()> {
    let mut catalog = Catalog::default();
    crate::store::catalog_of(store, name, Some(backup), &mut catalog).await?;
    let good = |entry: &&Entry| entry.rung_in(name).is_some_and(Rung::is_good);
    let newest = catalog.entries.iter().find(good).map(|entry| entry.id.label);
    store.point_latest(backup, newest).await
}

/// Lets `pg_restore` read every archive to its end; returns what it found wrong.
async fn open_archives(store: &dyn Store, id: &Id, manifest: &Manifest, host: Option<&Arc<dyn Host>>) -> Result<Vec<String>> {
    let host: Arc<dyn Host> = if let Some(host) = host {
        Arc::clone(host)
    } else {
        let major = parse_version(&manifest.client_version).map_or(0, |(major, _)| major);
        let found = tokio::task::spawn_blocking(programs::find).await.unwrap_or_default();
        Arc::new(LocalHost { bin_dir: programs::choose(&found, major)? })
    };
    let mut wrong = Vec::new();
    let mut opened: Vec<&str> = Vec::new();
    for file in manifest.files.iter().filter(|file| file.role == Role::Dump) {
        let name = file.name.split('/').next().unwrap_or_default();
        if opened.contains(&name) {
            continue;
        }
        opened.push(name);
        let verdict = match manifest.format {
            Format::Directory => {
                let folder = store.folder(id).ok_or_else(|| Error::new(Kind::NotYet, "a directory archive of another machine's store"))?;
                open_archive(&*host, Some(&folder.join(name)), None).await
            }
            _ => open_archive(&*host, None, Some((store, id, name))).await,
        };
        match verdict {
            Ok(()) => {}
            Err(error) if error.kind == Kind::Postgres && error.message.starts_with("pg_restore failed") => {
                wrong.push(format!("{name}: {}", error.message));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(wrong)
}

/// Unpacks one archive to nowhere.
async fn open_archive(host: &dyn Host, folder: Option<&Path>, stream: Option<(&dyn Store, &Id, &str)>) -> Result<()> {
    let mut args = vec!["--file=/dev/null".to_owned()];
    args.extend(folder.map(|folder| folder.display().to_string()));
    let call = Call { program: "pg_restore", args, env: Vec::new(), password: None, tag: Tag::random(), stdin: stream.is_some() };
    let mut process = host.start(call).await?;
    if let (Some((store, id, name)), Some(mut stdin)) = (stream, process.stdin.take()) {
        let reader = store.read(id, name).await?;
        let (out, mut blocks) = tokio::sync::mpsc::channel(4);
        let reading = tokio::spawn(unpack(reader, Codec::None, out));
        while let Some(block) = blocks.recv().await {
            // A pg_restore that found a fault reads no further; its exit tells.
            if tokio::io::AsyncWriteExt::write_all(&mut stdin, &block).await.is_err() {
                break;
            }
        }
        drop(blocks);
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut stdin).await;
        reading.await.map_err(|error| Error::new(Kind::System, format!("the reader failed: {error}")))??;
    }
    let mut rest = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut process.stdout, &mut rest).await;
    let exit = process.running.wait().await?;
    if exit.is_success() {
        return Ok(());
    }
    Err(explain("pg_restore", exit, &process.stderr.text()))
}
