//! `wal = "stream"`: pg_receivewal kept at work.
//!
//! It writes into a folder of the spool and makes it durable there; with a slot the server keeps what has
//! not come. From there it is delivered.

use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use crate::config::Plan;
use crate::config::file::Via;
use crate::config::plan::{self, Backup};
use crate::error::{Error, Kind, Result};
use crate::host::Tag;
use crate::job::physical::anew::{self, Anew};
use crate::job::physical::folder;
use crate::postgres::Server;
use crate::postgres::server::explain;

/// The first wait after a failure; each further one is twice as long.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(15);

const SEGMENT_BYTES: &str = "select to_json(setting::bigint) from pg_settings where name = 'wal_segment_size'";

/// The slot of a backup. Names of slots are of lower-case letters, digits and underscores.
pub fn slot_name(backup: &str) -> String {
    format!("pgvigil_{}", backup.replace('-', "_"))
}

/// The lock of whoever receives the log of a backup. No backup can have a dot in its name.
pub fn lock_name(backup: &Backup) -> String {
    format!("{}.STREAM", backup.name)
}

/// Keeps pg_receivewal at work until it is told to end. Whatever fails is told and tried again.
/// `anew`: who is told of a gap that only a base backup leads over.
pub async fn receive(plan: &Plan, backup: &Backup, spool: &Path, anew: &Anew, cancel: &CancellationToken) {
    let (mut wait, mut told) = (BACKOFF_FIRST, None);
    loop {
        let began = tokio::time::Instant::now();
        match receive_once(plan, backup, spool, anew, cancel).await {
            Ok(()) => return,
            Err(error) => {
                if began.elapsed() > BACKOFF_MAX {
                    (wait, told) = (BACKOFF_FIRST, None);
                }
                if told.as_ref() != Some(&error.message) {
                    let hint = error.hint.as_deref().unwrap_or_default();
                    tracing::warn!(backup = %backup.name, %error, hint, again_in_secs = wait.as_secs(), "the log is not received");
                    told = Some(error.message);
                }
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
pub fn over_the_network(server: &plan::Server) -> plan::Server {
    let mut server = server.clone();
    if let plan::Place::Container { via, .. } = &mut server.place {
        *via = Via::Network;
    }
    server
}

/// One life of pg_receivewal.
async fn receive_once(plan: &Plan, backup: &Backup, spool: &Path, anew: &Anew, cancel: &CancellationToken) -> Result<()> {
    make_spool(spool)?;
    let server = Server::connect(&over_the_network(&plan.servers[&backup.server]), Tag::random()).await?;
    let slot = slot_name(backup.name.as_str());
    refuse_another(&server, spool).await?;
    if anew::is_lost(&server, &slot).await? {
        anew::drop_slot(&server, &slot).await?;
        tracing::error!(backup = %backup.name, slot, "the slot was lost: it is made anew");
    }
    let made = server.host().start(server.call("pg_receivewal", arguments(spool, &slot, true))).await?.ended().await?;
    if !made.exit.is_success() {
        let error = explain("pg_receivewal", made.exit, &made.stderr);
        return Err(Error { kind: Kind::Postgres, ..error }.context("no slot for the log"));
    }
    let segment_bytes: u64 = server.query(server.maintenance_database(), SEGMENT_BYTES).await?;
    remove_cut(spool, segment_bytes)?;
    let place = anew::place(&server, &slot).await?;
    let mut process = server.host().start(server.call("pg_receivewal", arguments(spool, &slot, false))).await?;
    tracing::info!(backup = %backup.name, slot, "receiving the log");
    let mut stdout = std::mem::replace(&mut process.stdout, Box::new(tokio::io::empty()));
    let mut sink = Vec::new();
    tokio::select! {
        () = cancel.cancelled() => {
            if let Err(error) = process.running.stop().await {
                tracing::warn!(%error, "pg_receivewal would not end");
            }
            Ok(())
        }
        _ = stdout.read_to_end(&mut sink) => {
            let exit = process.running.wait().await?;
            let error = explain("pg_receivewal", exit, &process.stderr.text());
            // A slot that is lost is made anew first: what the server still has then, it has to give.
            let is_gone = anew::is_gone(&error.message) && !anew::is_lost(&server, &slot).await?;
            if is_gone || anew::has_left(&server, spool, &error.message).await? {
                let now = anew::place(&server, &slot).await?;
                let set_back = place.filter(|place| now < Some(*place));
                if let Some(place) = set_back {
                    anew::put_back(&server, &slot, place).await?;
                }
                if anew::begin(spool)? {
                    anew.tell(backup);
                } else if is_gone && set_back.is_none() {
                    anew::drop_slot(&server, &slot).await?;
                    tracing::error!(backup = %backup.name, slot, "the slot leads to log that the server has removed: it is made anew");
                    anew.note(&backup.name, false);
                }
            }
            Err(error)
        }
    }
}

/// What was received of one cluster must not be written over, nor passed over, by the log of another.
async fn refuse_another(server: &Server, spool: &Path) -> Result<()> {
    let Some(owner) = folder::newest(spool)?.map(|(owner, _)| owner) else { return Ok(()) };
    let its: String =
        server.query(server.maintenance_database(), "select to_json(system_identifier::text) from pg_control_system()").await?;
    if its == owner.system_identifier {
        return Ok(());
    }
    Err(Error::new(
        Kind::Refused,
        format!("{} holds log of cluster {}, and this is cluster {its}", spool.display(), owner.system_identifier),
    )
    .hint("does the address lead to another server? if the cluster was replaced for good: give it a [backups.NAME] section of its own"))
}

/// pg_receivewal lays out each segment in full before it receives into it, and refuses for ever to go on with one
/// whose layout a full disk has ended. Nothing has been received into such a one.
fn remove_cut(spool: &Path, segment_bytes: u64) -> Result<()> {
    let failed = |error: &std::io::Error| Error::system(format_args!("cannot tidy {}", spool.display()), error);
    for entry in std::fs::read_dir(spool).map_err(|error| failed(&error))? {
        let entry = entry.map_err(|error| failed(&error))?;
        let bytes = entry.metadata().map_err(|error| failed(&error))?.len();
        let is_partial = entry.path().extension().is_some_and(|extension| extension == "partial");
        if is_partial && bytes != 0 && bytes != segment_bytes {
            std::fs::remove_file(entry.path()).map_err(|error| failed(&error))?;
            tracing::info!(file = %entry.path().display(), bytes, "a segment that a full disk has cut is begun again");
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_full_disk_has_cut_goes() {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in [("1.partial", 0), ("2.partial", 16), ("3.partial", 4), ("4", 4)] {
            std::fs::write(dir.path().join(name), vec![0; bytes]).unwrap();
        }
        remove_cut(dir.path(), 16).unwrap();
        let there = |name: &str| dir.path().join(name).exists();
        assert_eq!(["1.partial", "2.partial", "3.partial", "4"].map(there), [true, true, false, true]);
    }

    #[test]
    fn a_slot_has_no_hyphen() {
        assert_eq!(slot_name("my-cluster"), "pgvigil_my_cluster");
    }
}
