//! A complete database takes its name, in one transaction with all that belongs to it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::leftovers::drop_statement;
use super::target::{beside, disconnect, is_empty, is_template, sessions, tell};
use crate::error::{Error, Kind, Result};
use crate::postgres::Server;
use crate::postgres::quote::{identifier, literal};
use crate::restore::chosen::several;
use crate::restore::plan::{DatabasePlan, Way};
use crate::restore::properties;
use crate::state::restores::{Record, Traces};

/// How long a session in the way is waited for: it may be a question of a monitor.
const PATIENCE: Duration = Duration::from_secs(30);
const BETWEEN: Duration = Duration::from_millis(250);

/// What became of the old database.
#[derive(Debug, Default)]
pub struct Swapped {
    /// It is kept under this name.
    pub kept: Option<String>,
    /// It could not be dropped.
    pub problem: Option<String>,
}

/// Gives the complete database its name. Until the one transaction is over all is as it was.
///
/// # Errors
/// The names could not be changed; the old database is there as before.
pub async fn swap(
    server: &Server,
    plan: &DatabasePlan,
    temporary: &str,
    may_disconnect: bool,
    record: &mut Record,
    cancel: &CancellationToken,
) -> Result<Swapped> {
    let target = &plan.target;
    let connection = beside(server, target);
    let mark = record.traces.mark();
    let mut statements = vec!["BEGIN".to_owned()];
    if let Some(properties) = &plan.properties {
        statements.extend(properties::apply(properties, temporary));
    }
    let comment = plan.properties.as_ref().and_then(|properties| properties.comment.as_deref());
    if comment.is_none() {
        statements.push(format!("COMMENT ON DATABASE {} IS NULL", identifier(temporary)));
    }
    let replaced = plan.aside.as_deref().filter(|_| matches!(plan.way, Way::Replace | Way::IntoEmpty));
    if let Some(aside) = replaced {
        statements.push(format!("ALTER DATABASE {} RENAME TO {}", identifier(target), identifier(aside)));
        if plan.keep_old && may_disconnect {
            statements.push(format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", identifier(aside)));
        } else if !plan.keep_old {
            // A template cannot be dropped.
            statements.push(format!("ALTER DATABASE {} IS_TEMPLATE false", identifier(aside)));
            statements.push(format!("COMMENT ON DATABASE {} IS {}", identifier(aside), literal(&mark)));
        }
    }
    if replaced.is_some() && is_template(server, target).await? {
        statements.push(format!("ALTER DATABASE {} IS_TEMPLATE true", identifier(temporary)));
    }
    statements.push(format!("ALTER DATABASE {} RENAME TO {}", identifier(temporary), identifier(target)));
    statements.push("COMMIT".to_owned());
    if replaced.is_some() {
        if plan.way == Way::IntoEmpty && !is_empty(server, target).await? {
            return Err(Error::new(
                Kind::Refused,
                format!("database {} is no longer empty: somebody filled it meanwhile", identifier(target)),
            )
            .hint("add --clean to replace it, or --to-database NAME to restore beside it"));
        }
        if may_disconnect {
            record.note(Traces { barred: Some(target.clone()), ..record.traces.clone() })?;
            tell(server, connection, [format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", identifier(target))]).await?;
        }
    }
    rename(server, target, connection, &statements, replaced.is_some() && may_disconnect, cancel).await?;
    let Some(aside) = replaced else { return Ok(Swapped::default()) };
    if plan.keep_old {
        return Ok(Swapped { kept: Some(aside.to_owned()), problem: None });
    }
    let dropped = tell(server, connection, [drop_statement(server, aside, true)]).await;
    let problem =
        dropped.err().map(|error| format!("the old database is now {} and could not be dropped: {}", identifier(aside), error.message));
    Ok(Swapped { kept: None, problem })
}

/// Changes the names as soon as nobody is in the way.
async fn rename(
    server: &Server,
    target: &str,
    connection: &str,
    statements: &[String],
    may_disconnect: bool,
    cancel: &CancellationToken,
) -> Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if may_disconnect {
            disconnect(server, target).await?;
        }
        match tell(server, connection, statements).await {
            Err(error) if error.message.contains("is being accessed by other users") && tokio::time::Instant::now() < deadline => {
                if cancel.is_cancelled() {
                    return Err(Error::new(Kind::Cancelled, "told to stop"));
                }
                tokio::time::sleep(BETWEEN).await;
            }
            Err(error) if error.message.contains("is being accessed by other users") => {
                let there = sessions(server, target).await.unwrap_or_default();
                let there = several(there.iter().map(ToString::to_string));
                return Err(Error::new(Kind::Refused, format!("database {} has open sessions: {there}", identifier(target)))
                    .hint("end them, or add --disconnect to have them ended when the new database is complete"));
            }
            done => return done,
        }
    }
}
