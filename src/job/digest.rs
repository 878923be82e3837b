//! The digest: a mail with the state of everything, at its time, so that silence is never the only
//! sign that all is well.

use chrono::{DateTime, Utc};

use super::assess::{Assessment, BackupState, StoreState, machine};
use crate::alert::digest::{BackupLine, Standing, StoreLine, of_standing};
use crate::alert::letter::State as LetterState;
use crate::alert::policy::Tell;
use crate::config::Plan;
use crate::config::channels::EMAIL;
use crate::error::Result;
use crate::host::clock;
use crate::schedule::slots;
use crate::state::{Alerts, History};

/// When the next digest is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// The file wants none.
    Never,
    At(DateTime<Utc>),
    /// For this slot; several that were missed are one.
    Now(DateTime<Utc>),
}

/// Whether a digest is due.
///
/// # Errors
/// What is on record cannot be read.
pub fn due(plan: &Plan, alerts: &Alerts, now: DateTime<Utc>) -> Result<Due> {
    let Some(schedule) = plan.email.as_ref().and_then(|email| email.digest.as_ref()) else { return Ok(Due::Never) };
    let zone = plan.channels.policy.timezone;
    // A clock that was ahead must not silence it until then.
    let last = alerts.last_digest(now)?.min(now);
    Ok(match slots::latest(schedule, zone, last, now) {
        Some(slot) => Due::Now(slot),
        None => slots::next(schedule, zone, now).map_or(Due::Never, Due::At),
    })
}

/// Looks at everything and puts the digest of a slot into the outbox.
///
/// # Errors
/// What is on record cannot be read or written.
pub async fn write(plan: &Plan, history: &History, alerts: &Alerts, slot: DateTime<Utc>) -> Result<()> {
    let Some(email) = &plan.email else { return Ok(()) };
    let now = clock::now();
    let mut assessment = Assessment::default();
    assessment.look_at_all(plan, history, alerts, &|_| true, now).await?;
    let standing = Standing {
        backups: assessment.backups.iter().map(|backup| of_backup(plan, backup)).collect(),
        stores: assessment.stores.iter().map(of_store).collect(),
        open: alerts.known()?,
    };
    let letter = of_standing(&standing, &machine(), now);
    let tell = |to: String| Tell { channel: EMAIL.to_owned(), to, state: LetterState::Digest, not_before: None, is_heard: true };
    let messages: Vec<_> = email.to.iter().map(|to| (tell(to.to_string()), letter.clone())).collect();
    alerts.put_digest(slot, &messages, now)?;
    tracing::info!(slot = %slot.format("%Y-%m-%dT%H:%M:%SZ"), "digest written");
    Ok(())
}

fn of_backup(plan: &Plan, state: &BackupState) -> BackupLine {
    BackupLine {
        name: state.name.to_string(),
        zone: plan.backups.get(&state.name).map_or(chrono_tz::Tz::UTC, |backup| backup.timezone),
        newest_good: state.newest_good.as_ref().map(|(id, at, rung)| (id.to_string(), *at, *rung)),
        last_outcome: state.last_run.as_ref().and_then(|run| run.outcome.clone()),
        next_at: state.next_at,
        restore_seconds: state.restore_seconds,
    }
}

fn of_store(state: &StoreState) -> StoreLine {
    let used_percent = state.usage.as_ref().and_then(|usage| usage.as_ref().ok()).map(crate::host::disk::Usage::percent);
    StoreLine { name: state.name.to_string(), used_percent, alert_above_percent: state.alert_above_percent }
}
