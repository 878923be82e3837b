//! outbox -> channels: every message that is due, each until it is taken.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::email::{Mailer, PATIENCE};
use super::letter::Letter;
use crate::config::Plan;
use crate::error::{Error, Result};
use crate::host::clock;
use crate::state::Alerts;

/// What became of the outbox.
#[derive(Debug, Default)]
pub struct Delivered {
    pub sent: usize,
    /// Still to be sent, now or later.
    pub left: usize,
    /// Why the last one was not taken.
    pub error: Option<Error>,
}

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// It comes again and again, and spares a relay that refused.
    Daemon,
    /// It may be the last for long: it tries everything, for so long at most.
    Once(Duration),
}

/// Sends what is due. What a relay refuses is tried again later.
///
/// # Errors
/// The outbox cannot be read or written.
pub async fn deliver(plan: &Plan, alerts: &Alerts, sender: Sender) -> Result<Delivered> {
    let mut delivered = Delivered::default();
    let pending = alerts.pending()?;
    let Some(email) = plan.email.as_ref().filter(|_| !pending.is_empty()) else {
        return Ok(Delivered { left: pending.len(), ..delivered });
    };
    let mailer = Mailer::new(email);
    let started = Instant::now();
    for message in pending {
        let (patience, only_due) = match sender {
            Sender::Daemon => (PATIENCE, true),
            Sender::Once(limit) => (limit.saturating_sub(started.elapsed()).min(PATIENCE), false),
        };
        if patience.is_zero() || !alerts.claim(message.row, clock::now(), only_due)? {
            delivered.left += 1;
            continue;
        }
        let number = number(message.row, message.created_at);
        let sent = match &mailer {
            Ok(mailer) => mailer.send(&message.to, &message.letter, &number, message.created_at, patience).await,
            Err(error) => Err(error.clone()),
        };
        match sent {
            Ok(()) => {
                alerts.sent(message.row)?;
                delivered.sent += 1;
                tracing::info!(alert = %message.letter.key, state = message.letter.state.as_str(), to = %message.to, "mail sent");
            }
            Err(error) => {
                let given_up = alerts.unsent(&message, &error.message, clock::now())?;
                delivered.left += usize::from(!given_up);
                if sender == Sender::Daemon {
                    tracing::warn!(alert = %message.letter.key, %error, given_up, "mail not sent; it stays in the outbox");
                }
                delivered.error = Some(error);
            }
        }
    }
    Ok(delivered)
}

/// Sends a letter to everybody past the outbox, when that cannot be used.
///
/// # Errors
/// Somebody was not reached.
pub async fn at_once(plan: &Plan, letter: &Letter, now: DateTime<Utc>) -> Result<()> {
    let Some(email) = &plan.email else { return Ok(()) };
    let mailer = Mailer::new(email)?;
    let mut result = Ok(());
    for to in &email.to {
        let sent = mailer.send(&to.to_string(), letter, &number(0, now), now, PATIENCE).await;
        result = result.and(sent);
    }
    result
}

/// Tells a message apart, the same in every attempt.
fn number(row: i64, created_at: DateTime<Utc>) -> String {
    format!("pgvigil.{}.{row}", created_at.timestamp_millis())
}
