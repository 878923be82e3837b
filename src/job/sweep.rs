//! What dead runs left: ended and removed, and noted in the history. Only what carries our own
//! mark is touched.

use crate::catalog::{Id, Label};
use crate::config::Plan;
use crate::config::plan::{Backup, Place};
use crate::error::Result;
use crate::host::docker::DockerHost;
use crate::host::local::LocalHost;
use crate::host::{Host, Tag, spool};
use crate::job::assess::within_patience;
use crate::job::physical::place;
use crate::job::{restore, stores};
use crate::postgres::Server;
use crate::state::history::Unfinished;
use crate::state::{History, State};

/// Looks for runs that have not ended although nobody holds their lock, and cleans up after them:
/// those of the backup whose lock the caller has, of others on the same server, and of those that
/// the file no longer knows. A server that is down must not hold up the backups of another.
///
/// # Errors
/// The history cannot be read or written. What cannot be cleaned is logged, and tried again later.
pub async fn sweep(plan: &Plan, state: &State, history: &History, held: &Backup) -> Result<()> {
    let name = held.name.as_str();
    for dead in history.unfinished()?.into_iter().filter(|dead| {
        let known = plan.servers.contains_key(dead.server.as_str()) && plan.backups.contains_key(dead.backup.as_str());
        dead.backup == name || dead.server == held.server.as_str() || !known
    }) {
        let lock = if dead.backup == name { None } else { state.lock(&dead.backup)? };
        if dead.backup != name && lock.is_none() {
            continue;
        }
        let clean = clean_up(plan, state, &dead).await;
        let id = stored(plan, state, history, &dead).await;
        tracing::warn!(backup = %dead.backup, clean, "a run was interrupted; swept what it left");
        history.interrupted(dead.row, id.as_deref(), clean)?;
    }
    restore::leftovers::sweep(plan, state, Some(held.server.as_str())).await?;
    spool::sweep(&plan.spool_dir);
    place::sweep(plan, state).await;
    // Without a history too: it may have been lost with what was in it.
    sweep_stores(plan, state, name).await;
    Ok(())
}

/// Notes which runs of a backup were interrupted, without touching what they left: their end is
/// known at once, however long it takes to clean up after them.
///
/// # Errors
/// The history cannot be read or written.
pub async fn note_interrupted(plan: &Plan, state: &State, history: &History, backup: &Backup) -> Result<()> {
    for dead in history.unfinished()?.into_iter().filter(|dead| dead.backup == backup.name.as_str()) {
        // Held for a moment only: nobody may begin a run in between.
        if let Some(_lock) = state.lock(&dead.backup)? {
            let id = stored(plan, state, history, &dead).await;
            history.interrupted(dead.row, id.as_deref(), false)?;
        }
    }
    Ok(())
}

/// Cleans up after dead runs of a backup, if no run of it is under way.
///
/// # Errors
/// The history cannot be read or written.
pub async fn sweep_idle(plan: &Plan, state: &State, history: &History, backup: &Backup) -> Result<()> {
    match state.lock(backup.name.as_str())? {
        Some(_lock) => sweep(plan, state, history, backup).await,
        None => Ok(()),
    }
}

async fn clean_up(plan: &Plan, state: &State, dead: &Unfinished) -> bool {
    let stores = sweep_stores(plan, state, &dead.backup).await;
    if let Some(tag) = &dead.tag {
        crate::job::physical::base::remove_spool(plan, tag);
    }
    let processes = match (&dead.tag, plan.servers.get(dead.server.as_str())) {
        (Some(tag), Some(server)) => match end_everything(server, tag).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(backup = %dead.backup, %error, "cannot end what an interrupted run left on the server; tried again later");
                false
            }
        },
        // A server that is no longer in the file cannot be asked.
        _ => true,
    };
    stores && processes
}

/// Ends the processes and the backends that carry a mark.
async fn end_everything(server: &crate::config::plan::Server, tag: &Tag) -> Result<()> {
    // First, for a program that hangs may be what holds a connection.
    end_on_host(server, tag).await?;
    end_tagged(&Server::connect(server, Tag::random()).await?, tag).await
}

/// Ends the processes that carry a mark, here and in the server's container, without the server's
/// help. In a container that does not run there are none.
///
/// # Errors
/// The Engine does not answer, or a process would not end.
pub async fn end_on_host(server: &crate::config::plan::Server, tag: &Tag) -> Result<()> {
    LocalHost::new(None).end_tagged(tag).await?;
    if let Place::Container { container, docker, .. } = &server.place {
        let engine = DockerHost::connect(docker.as_deref(), container).await?;
        if engine.is_running().await? {
            engine.end_tagged(tag).await?;
        }
    }
    Ok(())
}

/// Ends the processes and the backends of a run, until none is left.
///
/// # Errors
/// The server or its host does not answer, or a backend would not end.
pub async fn end_tagged(server: &Server, tag: &Tag) -> Result<()> {
    server.host().end_tagged(tag).await?;
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while server.terminate_backends(tag).await? > 0 {
        if tokio::time::Instant::now() > deadline {
            return Err(crate::Error::new(crate::error::Kind::Postgres, "a backend of the dump would not end"));
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn sweep_stores(plan: &Plan, state: &State, backup: &str) -> bool {
    let mut clean = true;
    // What was copied on is swept by whoever copies; a store that is away holds up no run.
    let primary = plan.backups.get(backup).map(|backup| &backup.stores[0]);
    for store in plan.stores.values().filter(|store| primary.is_none_or(|primary| *primary == store.name)) {
        let Ok(opened) = stores::open(store, state.owner()) else { continue };
        match opened.sweep(backup).await {
            Ok(0) => {}
            Ok(swept) => tracing::info!(backup, store = %store.name, swept, "removed unfinished work of an interrupted run"),
            Err(error) => {
                tracing::warn!(backup, store = %store.name, %error, "cannot remove unfinished work; tried again later");
                clean = false;
            }
        }
    }
    clean
}

/// The backup that an interrupted run had finished before it was killed, if it came so far.
async fn stored(plan: &Plan, state: &State, history: &History, dead: &Unfinished) -> Option<String> {
    let slot = history.slot(dead.row).ok()??;
    let id = Id { backup: dead.backup.clone(), label: Label::of(slot) };
    let catalog = within_patience(stores::catalog(plan, state.owner(), Some(&dead.backup))).await.ok()?;
    catalog.entries.iter().find(|entry| entry.id == id).map(|entry| entry.id.to_string())
}
