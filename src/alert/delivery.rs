//! outbox -> channels: every message that is due, each until it is taken. Channels do not wait for
//! each other.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures_util::future::join_all;

use super::email::{self, Mailer};
use super::hook;
use super::http::{self, Refused};
use super::letter::{Letter, State};
use super::policy::Tell;
use super::routes::{Route, message_by, routes};
use super::webhook::Poster;
use crate::config::Plan;
use crate::config::channels::{EMAIL, Hook};
use crate::error::{Error, Result};
use crate::host::clock;
use crate::state::Alerts;
use crate::state::outbox::Pending;

/// A daemon gives a message to those who stand in for its channel after so many attempts: a restart
/// of the receiver is over by then.
const FALL_BACK_AFTER: u32 = 3;

/// What became of the outbox.
#[derive(Debug, Default)]
pub struct Delivered {
    pub sent: usize,
    /// Still to be sent, now or later.
    pub left: usize,
    /// Why the last one was not taken, by which channel.
    pub error: Option<(String, Error)>,
}

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// It comes again and again, and spares a receiver that refused.
    Daemon,
    /// It may be the last for long: it tries everything, for so long at most.
    Once(Duration),
}

/// A channel, ready to be used.
pub enum Channel<'a> {
    Email(Box<Mailer>),
    Webhook(Box<Poster>),
    Hook(&'a Hook),
}

impl<'a> Channel<'a> {
    /// The channel of a name. `None`: the file has none of it.
    ///
    /// # Errors
    /// A secret or the certificates are not to be had.
    pub fn of(plan: &'a Plan, name: &str) -> Option<Result<Self>> {
        if name == EMAIL {
            return plan.email.as_ref().map(|email| Mailer::new(email).map(|mailer| Channel::Email(Box::new(mailer))));
        }
        if let Some(name) = name.strip_prefix("webhooks.") {
            return plan.channels.webhooks.get(name).map(|webhook| Poster::new(webhook).map(|poster| Channel::Webhook(Box::new(poster))));
        }
        plan.channels.hooks.get(name.strip_prefix("hooks.")?).map(|hook| Ok(Channel::Hook(hook)))
    }

    /// How long a message may take by it.
    fn patience(&self) -> Duration {
        match self {
            Channel::Email(_) => email::PATIENCE,
            Channel::Webhook(_) => http::PATIENCE,
            Channel::Hook(hook) => hook.timeout,
        }
    }

    /// Sends a letter to one recipient. `number` tells it apart from every other.
    ///
    /// # Errors
    /// It was not taken.
    pub async fn send(&self, to: &str, letter: &Letter, number: &str, at: DateTime<Utc>, patience: Duration) -> Result<(), Refused> {
        match self {
            Channel::Email(mailer) => mailer.send(to, letter, number, at, patience).await.map_err(Refused::from),
            Channel::Webhook(poster) => poster.send(&letter.event, number, patience).await,
            Channel::Hook(hook) => hook::run(hook, &letter.event, patience).await.map_err(Refused::from),
        }
    }
}

/// Sends what is due, by all channels side by side. What a receiver refuses is tried again later.
///
/// # Errors
/// The outbox cannot be read or written.
pub async fn deliver(plan: &Plan, alerts: &Alerts, sender: Sender) -> Result<Delivered> {
    let mut delivered = Delivered::default();
    let started = Instant::now();
    let routes = routes(plan);
    let is_spare = |channel: &str| routes.iter().any(|route| route.channel == channel && !route.fallback_for.is_empty());
    // What the first do not take may go to the others.
    for spares in [false, true] {
        let channels: Vec<String> = alerts.channels_pending()?.into_iter().filter(|channel| is_spare(channel) == spares).collect();
        let sender = match sender {
            Sender::Daemon => sender,
            Sender::Once(limit) => Sender::Once(limit.saturating_sub(started.elapsed())),
        };
        for one in join_all(channels.iter().map(|channel| deliver_by(plan, alerts, channel, sender))).await {
            let one = one?;
            delivered.sent += one.sent;
            delivered.left += one.left;
            delivered.error = one.error.or(delivered.error);
        }
    }
    Ok(delivered)
}

/// Sends what is due by one channel.
///
/// # Errors
/// The outbox cannot be read or written.
pub async fn deliver_by(plan: &Plan, alerts: &Alerts, channel: &str, sender: Sender) -> Result<Delivered> {
    let mut delivered = Delivered::default();
    // A channel that is no longer in the file may come back.
    let Some(opened) = Channel::of(plan, channel) else { return Ok(delivered) };
    let started = Instant::now();
    for message in alerts.pending()?.into_iter().filter(|message| message.channel == channel) {
        let usual = opened.as_ref().map_or(Duration::from_secs(1), Channel::patience);
        let (patience, only_due) = match sender {
            Sender::Daemon => (usual, true),
            Sender::Once(limit) => (limit.saturating_sub(started.elapsed()).min(usual), false),
        };
        if patience.is_zero() || !alerts.claim(&message, clock::now(), only_due)? {
            // What waits for the morning is in nobody's way.
            delivered.left += usize::from(message.not_before.is_none_or(|until| until <= clock::now()));
            continue;
        }
        let number = number(message.row, message.created_at);
        let sent = match &opened {
            Ok(channel) => channel.send(&message.to, &message.letter, &number, message.created_at, patience).await,
            Err(error) => Err(Refused::from(error.clone())),
        };
        match sent {
            Ok(()) => {
                alerts.sent(message.row)?;
                delivered.sent += 1;
                let what = if channel == EMAIL { "mail sent" } else { "message sent" };
                tracing::info!(alert = %message.letter.key, state = message.letter.state.as_str(), channel, to = %message.to, "{what}");
            }
            Err(Refused { error, pause, .. }) => {
                let given_up = alerts.unsent(&message, &error.message, pause, clock::now())?;
                delivered.left += usize::from(!given_up);
                if sender == Sender::Daemon {
                    let what = message_by(channel);
                    tracing::warn!(alert = %message.letter.key, channel, %error, given_up, "{what} not sent; it stays in the outbox");
                }
                if message.attempts + 1 >= FALL_BACK_AFTER || sender != Sender::Daemon {
                    fall_back(plan, alerts, &message)?;
                }
                delivered.error = Some((channel.to_owned(), error));
            }
        }
    }
    Ok(delivered)
}

/// Gives a message to those who stand in for its channel.
fn fall_back(plan: &Plan, alerts: &Alerts, message: &Pending) -> Result<()> {
    // Who was told hears of the end by himself; nobody else needs to.
    let is_news = matches!(message.letter.state, State::Open | State::Reminder);
    if message.fell_back || !is_news {
        return Ok(());
    }
    let (now, severity) = (clock::now(), plan.channels.policy.severity(&message.letter.key));
    let stands_in = |route: &Route| route.fallback_for.contains(&message.channel);
    let tells: Vec<Tell> = routes(plan)
        .into_iter()
        .filter(stands_in)
        .map(|route| Tell {
            not_before: route.held_until(severity, now),
            channel: route.channel,
            to: route.to,
            state: message.letter.state,
            is_heard: true,
        })
        .collect();
    if tells.is_empty() {
        return Ok(());
    }
    let to: Vec<&str> = tells.iter().map(|tell| tell.channel.as_str()).collect();
    if alerts.fall_back(message, &tells, now)? {
        tracing::warn!(alert = %message.letter.key, "what {} does not take goes to {}", message.channel, to.join(", "));
    }
    Ok(())
}

/// Sends a letter to everybody past the outbox, when that cannot be used.
///
/// # Errors
/// Nobody was reached.
pub async fn at_once(plan: &Plan, letter: &Letter, now: DateTime<Utc>) -> Result<()> {
    // Those that stand in for others, too: nobody can keep what they did not take.
    let sent = join_all(routes(plan).into_iter().map(|route| async move {
        let Some(opened) = Channel::of(plan, &route.channel) else { return Ok(()) };
        let channel = opened?;
        channel.send(&route.to, letter, &number(0, now), now, channel.patience()).await.map_err(|refused| refused.error)
    }));
    let sent: Vec<Result<()>> = sent.await;
    for error in sent.iter().filter_map(|sent| sent.as_ref().err()) {
        tracing::warn!(%error, "one channel was not reached past the outbox");
    }
    if sent.iter().any(Result::is_ok) { Ok(()) } else { sent.into_iter().next().unwrap_or(Ok(())) }
}

/// Tells a message apart, the same in every attempt.
fn number(row: i64, created_at: DateTime<Utc>) -> String {
    format!("pgvigil.{}.{row}", created_at.timestamp_millis())
}
