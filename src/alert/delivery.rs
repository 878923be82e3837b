//! outbox -> channels: every message that is due, each until it is taken.

use chrono::{DateTime, Utc};

use super::email::Mailer;
use crate::config::Plan;
use crate::error::Result;
use crate::host::clock;
use crate::state::Alerts;

/// What became of the outbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivered {
    pub sent: usize,
    /// Still to be sent, now or later.
    pub left: usize,
}

/// Sends what is due. What a relay refuses is tried again later.
///
/// # Errors
/// The outbox cannot be read or written, or the way to the relay cannot be prepared.
pub async fn deliver(plan: &Plan, alerts: &Alerts) -> Result<Delivered> {
    let mut delivered = Delivered::default();
    let pending = alerts.pending()?;
    let Some(email) = plan.email.as_ref().filter(|_| !pending.is_empty()) else {
        return Ok(Delivered { left: pending.len(), ..delivered });
    };
    let mailer = Mailer::new(email)?;
    for message in pending {
        if !alerts.claim(message.row, clock::now())? {
            delivered.left += 1;
            continue;
        }
        match mailer.send(&message.to, &message.letter, &number(message.row, message.created_at), message.created_at).await {
            Ok(()) => {
                alerts.sent(message.row)?;
                delivered.sent += 1;
                tracing::info!(alert = %message.letter.key, state = message.letter.state.as_str(), to = %message.to, "mail sent");
            }
            Err(error) => {
                let given_up = alerts.unsent(&message, &error.message, clock::now())?;
                delivered.left += usize::from(!given_up);
                tracing::warn!(alert = %message.letter.key, to = %message.to, %error, given_up, "mail not sent; it stays in the outbox");
            }
        }
    }
    Ok(delivered)
}

/// Tells a message apart, the same in every attempt.
fn number(row: i64, created_at: DateTime<Utc>) -> String {
    format!("pgvigil.{}.{row}", created_at.timestamp_millis())
}
