//! A hook: a program that runs on events, with the event as JSON on its stdin.

use std::time::Duration;

use super::event::Event;
use crate::config::channels::Hook;
use crate::error::{Error, Kind, Result};
use crate::host::{failed, program};

/// Runs the hook and waits for its end.
///
/// # Errors
/// It could not be started, failed, or was not done in time.
pub async fn run(hook: &Hook, event: &Event, patience: Duration) -> Result<()> {
    let name = hook.channel();
    let json = serde_json::to_vec(event).map_err(|error| Error::new(Kind::System, format!("{name}: {error}")))?;
    let env = [("PGVIGIL_EVENT", event.event.as_str()), ("PGVIGIL_KEY", event.key.as_str())];
    let ended = program::run(&hook.command, &env, &json, patience.min(hook.timeout)).await.map_err(|error| {
        let hint = format!("timeout of [{name}] sets the patience");
        if error.kind == Kind::Timeout { error.context(&name).hint(hint) } else { error.context(&name) }
    })?;
    if ended.exit.is_success() {
        if !ended.stderr.is_empty() {
            tracing::info!(channel = name, event = event.event, stderr = ended.stderr, "hook has said something");
        }
        return Ok(());
    }
    let command = hook.command.first().map_or("", String::as_str);
    Err(failed(Kind::System, command, ended.exit, &ended.stderr).context(&name).hint("it must end with 0 when it has told"))
}
