//! `alert test`, and what commands tell of by themselves.

use std::time::Duration;

use anstyle::AnsiColor;
use serde::Serialize;

use super::Done;
use super::output;
use super::session::{Session, Uses, runtime};
use crate::alert::delivery::{self, Sender};
use crate::alert::email::Mailer;
use crate::alert::letter;
use crate::config::Plan;
use crate::error::{Error, Kind, Result, exit};
use crate::host::clock;
use crate::job::assess::{Assessment, machine};
use crate::state::State;

/// How long a command tries: without a daemon to send its alerts, and to send one test.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Serialize)]
struct Tried {
    channel: &'static str,
    to: String,
    ok: bool,
    message: String,
    hint: Option<String>,
}

pub fn test(session: &Session) -> Done {
    let opened = session.open(Uses::None)?;
    let Some(email) = &opened.plan.email else {
        return Err(
            Error::new(Kind::Config, "there is no channel: the file has no [email] section").hint("add [email] with relay, from and to")
        );
    };
    let letter = letter::of_test(&machine(), clock::now());
    let tried: Vec<Tried> = runtime()?.block_on(async {
        let mailer = Mailer::new(email);
        let mut tried = Vec::new();
        for (nth, to) in email.to.iter().map(ToString::to_string).enumerate() {
            let number = format!("pgvigil.test.{}.{nth}", clock::now().timestamp_millis());
            let sent = match &mailer {
                Ok(mailer) => mailer.send(&to, &letter, &number, clock::now(), PATIENCE).await,
                Err(error) => Err(error.clone()),
            };
            tried.push(match sent {
                Ok(()) => Tried { channel: "email", to, ok: true, message: format!("taken by {}", email.relay()), hint: None },
                Err(error) => Tried { channel: "email", to, ok: false, message: error.message, hint: error.hint },
            });
        }
        tried
    });
    if session.json {
        output::json(&tried)?;
    } else {
        let mut text = String::new();
        for one in &tried {
            let (color, mark) = if one.ok { (AnsiColor::Green, "ok") } else { (AnsiColor::Red, "FAILED") };
            let mark = output::styled(color.on_default(), &format!("{mark:<8}"));
            text.push_str(&format!("{mark} {} {}: {}\n", one.channel, one.to, one.message));
            if let Some(hint) = &one.hint {
                text.push_str(&format!("         HINT: {hint}\n"));
            }
        }
        output::text(&text)?;
    }
    Ok(if tried.iter().all(|one| one.ok) { exit::OK } else { exit::FAILED })
}

/// Tells of what a command did to a backup. Where a daemon runs it sends what stands in the outbox.
pub async fn tell(plan: &Plan, backup: &str) {
    let told = async {
        let state = State::open(&plan.state_dir)?;
        let (history, alerts) = (state.history()?, state.alerts()?);
        let mut assessment = Assessment::default();
        if let Some(backup) = plan.backups.get(backup) {
            assessment.look_at_backup(plan, &history, &alerts, backup, clock::now()).await?;
        }
        assessment.settle(plan, &alerts, clock::now())?;
        if State::has_daemon(&plan.state_dir) || plan.email.is_none() {
            return Ok(());
        }
        let delivered = delivery::deliver(plan, &alerts, Sender::Once(PATIENCE)).await?;
        match delivered.error {
            Some(error) => Err(error.context("mail stays in the outbox, and the next command or daemon sends it")),
            None if delivered.left > 0 => Err(Error::new(Kind::System, "mail stays in the outbox: another command is at it")),
            None => Ok(()),
        }
    };
    let told: Result<()> = told.await;
    if let Err(error) = told {
        output::warn(&error.message, error.hint.as_deref());
    }
}
