//! `wal = "stream"`: pg_receivewal kept at work, and what it receives put into every store.
//!
//! It writes into a folder of the spool and makes it durable there; with a slot the server keeps what has
//! not come. From there each whole segment is packed, put into the stores in its order, and removed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use crate::config::Plan;
use crate::config::file::Via;
use crate::config::plan::{self, Backup};
use crate::error::{Error, Kind, Result};
use crate::host::{Process, Tag};
use crate::job::physical::push::Sealed;
use crate::job::stores;
use crate::postgres::Server;
use crate::postgres::server::explain;
use crate::wal::WalName;

/// How often the spool is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The first wait after a failure; each further one is twice as long.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// The slot of a backup. Names of slots are of lower-case letters, digits and underscores.
pub fn slot_name(backup: &str) -> String {
    format!("pgvigil_{}", backup.replace('-', "_"))
}

/// The lock of whoever receives the log of a backup. No backup can have a dot in its name.
pub fn lock_name(backup: &Backup) -> String {
    format!("{}.STREAM", backup.name)
}

/// Where the log of a backup waits.
pub fn spool(plan: &Plan, backup: &Backup) -> PathBuf {
    plan.spool_dir.join("wal").join(backup.name.as_str())
}

/// Receives the log until it is told to end. Whatever fails is told and tried again.
pub async fn stream(plan: &Plan, backup: &Backup, owner: &str, cancel: &CancellationToken) {
    let mut wait = BACKOFF_FIRST;
    let mut receiver = Receiver { plan, backup, owner, spool: spool(plan, backup), stored: BTreeSet::new() };
    loop {
        let began = tokio::time::Instant::now();
        match receiver.receive(cancel).await {
            Ok(()) => return,
            Err(error) => {
                if began.elapsed() > BACKOFF_MAX {
                    wait = BACKOFF_FIRST;
                }
                let hint = error.hint.as_deref().unwrap_or_default();
                tracing::warn!(backup = %backup.name, %error, hint, again_in_secs = wait.as_secs(), "the log is not received");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = cancel.cancelled() => return,
        }
        wait = (wait * 2).min(BACKOFF_MAX);
    }
}

/// pg_receivewal runs here, also where dumps go by exec: what it has received must outlive the container.
fn over_the_network(server: &plan::Server) -> plan::Server {
    let mut server = server.clone();
    if let plan::Place::Container { via, .. } = &mut server.place {
        *via = Via::Network;
    }
    server
}

struct Receiver<'a> {
    plan: &'a Plan,
    backup: &'a Backup,
    owner: &'a str,
    spool: PathBuf,
    /// What is in every store, and still in the spool: pg_receivewal goes on behind its newest file.
    stored: BTreeSet<String>,
}

impl Receiver<'_> {
    /// One life of pg_receivewal.
    async fn receive(&mut self, cancel: &CancellationToken) -> Result<()> {
        // What came before has its place first: it may be long before the server answers.
        self.put_all().await?;
        let server = Server::connect(&over_the_network(&self.plan.servers[&self.backup.server]), Tag::random()).await?;
        make_spool(&self.spool)?;
        let slot = slot_name(self.backup.name.as_str());
        let mut made = server.host().start(server.call("pg_receivewal", arguments(&self.spool, &slot, true))).await?;
        ended(&mut made).await?;
        let mut process = server.host().start(server.call("pg_receivewal", arguments(&self.spool, &slot, false))).await?;
        tracing::info!(backup = %self.backup.name, slot, "receiving the log");
        let followed = self.follow(&mut process, cancel).await;
        if let Err(error) = process.running.stop().await {
            tracing::warn!(%error, "pg_receivewal would not end");
        }
        // What is whole by now.
        let put = self.put_all().await;
        followed.and(put)
    }

    async fn follow(&mut self, process: &mut Process, cancel: &CancellationToken) -> Result<()> {
        let mut stdout = std::mem::replace(&mut process.stdout, Box::new(tokio::io::empty()));
        let mut sink = Vec::new();
        let mut over = std::pin::pin!(stdout.read_to_end(&mut sink));
        let mut failed: Option<String> = None;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                _ = &mut over => {
                    let exit = process.running.wait().await?;
                    return Err(explain("pg_receivewal", exit, &process.stderr.text()));
                }
                () = tokio::time::sleep(LOOK_EVERY) => {
                    // A store that is away keeps nothing from being received: it waits in the spool.
                    match self.put_all().await {
                        Ok(()) => failed = None,
                        Err(error) if failed.as_ref() != Some(&error.message) => {
                            tracing::warn!(backup = %self.backup.name, %error, "log waits in the spool");
                            failed = Some(error.message);
                        }
                        Err(_) => {}
                    }
                }
            }
        }
    }

    /// Puts every whole file of the spool into every store, in their order, and removes all but the newest.
    async fn put_all(&mut self) -> Result<()> {
        let whole = whole_files(&self.spool)?;
        for (name, parsed) in &whole {
            if self.stored.contains(name) {
                continue;
            }
            let path = self.spool.join(name);
            let raw = std::fs::read(&path).map_err(|error| Error::system(format_args!("cannot read {}", path.display()), &error))?;
            let sealed = Sealed::new(name, *parsed, &Bytes::from(raw), &self.backup.encrypt_to)?;
            for store in &self.backup.stores {
                let opened = stores::open(&self.plan.stores[store], self.owner)?;
                let put = sealed.put(&*opened, self.backup.name.as_str()).await;
                put.map_err(|error| error.context(format_args!("store {store}")))?;
            }
            self.stored.insert(name.clone());
        }
        let newest = whole.iter().rev().find(|(_, parsed)| parsed.is_log()).map(|(name, _)| name.clone());
        for (name, _) in whole.iter().filter(|(name, parsed)| parsed.is_log() && Some(name) != newest.as_ref()) {
            let path = self.spool.join(name);
            std::fs::remove_file(&path).map_err(|error| Error::system(format_args!("cannot remove {}", path.display()), &error))?;
            self.stored.remove(name);
        }
        Ok(())
    }
}

/// The files of the spool that are not written any more, in the order of the log.
fn whole_files(spool: &Path) -> Result<Vec<(String, WalName)>> {
    let entries = match std::fs::read_dir(spool) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::system(format_args!("cannot read {}", spool.display()), &error)),
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    // A partial one is still written, or will be begun again.
    let whole =
        names.filter_map(|name| WalName::parse(&name).filter(|parsed| !matches!(parsed, WalName::Partial(_))).map(|parsed| (name, parsed)));
    let mut whole: Vec<(String, WalName)> = whole.collect();
    whole.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(whole)
}

fn make_spool(spool: &Path) -> Result<()> {
    std::fs::create_dir_all(spool).map_err(|error| {
        Error::system(format_args!("cannot make {}", spool.display()), &error).hint("set spool_dir to a folder of this user")
    })
}

fn arguments(spool: &Path, slot: &str, create: bool) -> Vec<String> {
    let mut args = vec![format!("--slot={slot}"), "--no-password".to_owned()];
    if create {
        args.extend(["--create-slot", "--if-not-exists"].map(str::to_owned));
    } else {
        args.push(format!("--directory={}", spool.display()));
        // The server is told at once what is durable here, and we start it again by ourselves.
        args.extend(["--synchronous", "--no-loop"].map(str::to_owned));
    }
    args
}

async fn ended(process: &mut Process) -> Result<()> {
    let mut said = Vec::new();
    let _ = process.stdout.read_to_end(&mut said).await;
    let exit = process.running.wait().await?;
    if exit.is_success() {
        return Ok(());
    }
    let error = explain("pg_receivewal", exit, &process.stderr.text());
    Err(Error { kind: Kind::Postgres, ..error }.context("no slot for the log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_files_in_the_order_of_the_log() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "000000010000000000000003",
            "000000010000000000000002",
            "000000010000000000000004.partial",
            "00000002.history",
            "x",
            "archive_status",
        ] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let names: Vec<String> = whole_files(dir.path()).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["000000010000000000000002", "000000010000000000000003", "00000002.history"]);
        assert!(whole_files(&dir.path().join("none")).unwrap().is_empty());
        assert_eq!(slot_name("my-cluster"), "pgvigil_my_cluster");
    }
}
