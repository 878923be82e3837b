//! Who can be told, by the file: each recipient of each channel, and when it is its turn.

use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use crate::config::Plan;
use crate::config::channels::{EMAIL, Rule, Severity};
use crate::config::hours::Hours;
use crate::config::telling::On;

/// One recipient of one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// `email`, `webhooks.NAME` or `hooks.NAME`.
    pub channel: String,
    /// An address; empty where a channel has only one recipient.
    pub to: String,
    /// From when on in the life of a problem. `None`: only what others did not take.
    pub after: Option<Duration>,
    pub fallback_for: Vec<String>,
    pub remind_every: Duration,
    /// Which news of an alert. Empty: all.
    pub on: Vec<On>,
    pub quiet: Option<(Hours, Tz)>,
}

impl Route {
    /// When a message may go out. `None`: now.
    pub fn held_until(&self, severity: Severity, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let (hours, zone) = self.quiet.filter(|_| severity == Severity::CanWait)?;
        hours.end(zone, now)
    }
}

/// Every recipient of the file.
pub fn routes(plan: &Plan) -> Vec<Route> {
    let channels = &plan.channels;
    let route = |channel: String, to: String, rule: &Rule| Route {
        channel,
        to,
        after: match (rule.escalate_after, rule.fallback_for.is_empty()) {
            (Some(after), _) => Some(after),
            (None, true) => Some(Duration::ZERO),
            (None, false) => None,
        },
        fallback_for: rule.fallback_for.clone(),
        remind_every: channels.policy.remind_every,
        on: Vec::new(),
        quiet: rule.quiet.map(|hours| (hours, channels.policy.timezone)),
    };
    let mut found = Vec::new();
    if let Some(email) = &plan.email {
        let mail = |to: String| Route { remind_every: email.remind_every, ..route(EMAIL.to_owned(), to, &channels.email) };
        found.extend(email.to.iter().map(|to| mail(to.to_string())));
        let further = email.escalate_to.iter().filter(|to| !email.to.contains(to));
        found.extend(further.map(|to| Route { after: Some(email.escalate_after), ..mail(to.to_string()) }));
    }
    found.extend(channels.webhooks.values().map(|webhook| route(webhook.channel(), String::new(), &webhook.rule)));
    for hook in channels.hooks.values().filter(|hook| hook.hears_alerts()) {
        found.push(Route { on: hook.on.clone(), ..route(hook.channel(), String::new(), &hook.rule) });
    }
    found
}

/// How a channel is called in a sentence about a message of it.
pub fn message_by(channel: &str) -> String {
    if channel == EMAIL { "mail".to_owned() } else { format!("a message by {channel}") }
}
