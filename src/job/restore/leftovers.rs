//! What a dead or failed restore has left: ended and removed, as far as it is provably ours.

use super::target::{beside, comment, is_barred, is_empty, tell};
use crate::config::Plan;
use crate::error::Result;
use crate::host::Tag;
use crate::job::sweep::{end_on_host, end_tagged};
use crate::postgres::Server;
use crate::postgres::quote::identifier;
use crate::state::State;
use crate::state::restores::Traces;

/// Cleans up after restores that nobody carries out any more, on one server or on all.
///
/// # Errors
/// `state_dir` cannot be read. What cannot be cleaned is logged, and tried again later.
pub async fn sweep(plan: &Plan, state: &State, of_server: Option<&str>) -> Result<()> {
    for dead in state.dead_restores()? {
        let traces = &dead.traces;
        let Some(server) = plan.servers.get(traces.server.as_str()) else {
            // A server that is no longer in the file cannot be asked; it may come back.
            continue;
        };
        if of_server.is_some_and(|name| name != traces.server) {
            continue;
        }
        let cleaned = async {
            if let Some(tag) = Tag::parse(&traces.tag) {
                // First, for a program that hangs may be what holds a connection.
                end_on_host(server, &tag).await?;
            }
            remove(&Server::connect(server, Tag::random()).await?, traces).await
        };
        match cleaned.await {
            Ok(()) => {
                tracing::warn!(server = traces.server, "a restore was interrupted; removed what it left");
                dead.end();
            }
            Err(error) => {
                tracing::warn!(server = traces.server, %error, "cannot remove what an interrupted restore left; tried again later");
            }
        }
    }
    Ok(())
}

/// Ends the sessions of a restore, drops the databases that are still marked as its own, and lets
/// people in again where they were kept out.
///
/// # Errors
/// The server does not answer, or says no.
pub async fn remove(server: &Server, traces: &Traces) -> Result<()> {
    if let Some(tag) = Tag::parse(&traces.tag) {
        end_tagged(server, &tag).await?;
    }
    if let Some(barred) = &traces.barred
        && is_barred(server, barred).await?
    {
        tell(server, beside(server, barred), [format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", identifier(barred))]).await?;
    }
    for database in &traces.databases {
        let ours = match comment(server, database).await? {
            None => false,
            Some(Some(comment)) => comment == traces.mark(),
            // Killed between the making and the mark.
            Some(None) => is_empty(server, database).await?,
        };
        if ours {
            drop_database(server, database).await?;
        }
    }
    Ok(())
}

/// Drops a database, with the sessions in it.
///
/// # Errors
/// The server says no.
pub async fn drop_database(server: &Server, database: &str) -> Result<()> {
    tell(server, beside(server, database), [drop_statement(server, database, true)]).await
}

/// `FORCE` came with 13.
pub fn drop_statement(server: &Server, database: &str, force: bool) -> String {
    let force = if force && server.facts.major() >= 13 { " WITH (FORCE)" } else { "" };
    format!("DROP DATABASE {}{force}", identifier(database))
}
