//! The sections about who is told, as they are written: `[alerts]`, `[webhooks]`, `[pings]`, `[hooks]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::hours::Quiet;
use super::values::{Given, Span, Zone};

/// What holds for every channel.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Alerts {
    /// What can wait is told after them, such as "22:00-07:00". Default: none.
    pub quiet_hours: Option<Quiet>,
    /// Of the quiet hours and of the digest. Default: the one at the top.
    pub timezone: Option<Zone>,
    /// Shell globs of alert keys that never wait for the end of quiet hours.
    pub urgent: Option<Vec<String>>,
    /// Shell globs of alert keys that wait.
    pub can_wait: Option<Vec<String>>,
    /// Default "24h".
    pub remind_every: Option<Span>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    pub url: Given,
    /// A template; the default fits Slack-compatible receivers.
    pub body: Option<String>,
    /// Default "POST".
    pub method: Option<Method>,
    /// Default "application/json".
    pub content_type: Option<String>,
    /// Further headers.
    #[serde(default)]
    pub headers: BTreeMap<String, Given>,
    /// Certificates of a private authority, in PEM.
    pub ca_file: Option<PathBuf>,
    /// Told only of what is open for so long.
    pub escalate_after: Option<Span>,
    /// Told only of what these channels did not take.
    pub fallback_for: Option<Vec<String>>,
    /// In the place of those of [alerts]; "none".
    pub quiet_hours: Option<Quiet>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    #[default]
    Post,
    Put,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ping {
    /// Success; start and failure are URL/start and URL/fail.
    pub url: Given,
    /// Certificates of a private authority, in PEM.
    pub ca_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// The program and its arguments; no shell.
    pub command: Vec<String>,
    /// Default: the three of alerts.
    pub on: Option<Vec<On>>,
    /// The program and what it started is ended past it. Default "30s".
    pub timeout: Option<Span>,
    /// Told only of alerts that are open for so long.
    pub escalate_after: Option<Span>,
    /// Told only of alerts that these channels did not take.
    pub fallback_for: Option<Vec<String>>,
    /// In the place of those of [alerts]; "none".
    pub quiet_hours: Option<Quiet>,
}

/// What a hook is run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum On {
    RunStarted,
    RunSucceeded,
    RunFailed,
    AlertOpen,
    AlertReminder,
    AlertClosed,
}

impl On {
    pub const ALERTS: [On; 3] = [On::AlertOpen, On::AlertReminder, On::AlertClosed];

    pub fn as_str(self) -> &'static str {
        match self {
            On::RunStarted => "run_started",
            On::RunSucceeded => "run_succeeded",
            On::RunFailed => "run_failed",
            On::AlertOpen => "alert_open",
            On::AlertReminder => "alert_reminder",
            On::AlertClosed => "alert_closed",
        }
    }
}
