//! The ways that lead to somebody: webhooks, hooks and pings beside mail, and what holds for all of
//! them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use chrono_tz::Tz;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use url::Url;

use super::faults::Examined;
use super::file::File;
use super::hours::{Hours, Quiet};
use super::telling::{Alerts, Hook as HookFile, Method, On, Webhook as WebhookFile};
use super::values::{Given, Name, Span};
use crate::alert::template;

/// Default of `remind_every`.
pub const REMIND_EVERY: Duration = Duration::from_secs(24 * 3_600);

/// Default of `timeout` of a hook, and the most that it may be: others wait behind it.
const HOOK_TIMEOUT: Duration = Duration::from_secs(30);
const HOOK_TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// Default of `content_type`.
const CONTENT_TYPE: &str = "application/json";

/// The channel of `[email]`, as others name it.
pub const EMAIL: &str = "email";

/// What holds for every channel.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Of quiet hours and of the digest.
    pub timezone: Tz,
    pub quiet: Option<Hours>,
    pub remind_every: Duration,
    urgent: GlobSet,
    can_wait: GlobSet,
}

/// Whether somebody should be waken up for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    #[default]
    Urgent,
    CanWait,
}

/// What can wait unless the file says otherwise: there is a backup, and it is not lost by tomorrow.
const CAN_WAIT: [&str; 7] =
    ["backup/*/problems", "backup/*/drill", "backup/*/budget", "backup/*/future", "config/reload", "clock/jumped", "ping/*/failed"];

impl Policy {
    pub fn severity(&self, key: &str) -> Severity {
        if self.urgent.is_match(key) {
            Severity::Urgent
        } else if self.can_wait.is_match(key) {
            Severity::CanWait
        } else {
            Severity::Urgent
        }
    }
}

/// When a channel is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// Only of what is open for so long.
    pub escalate_after: Option<Duration>,
    /// Of what these channels did not take.
    pub fallback_for: Vec<String>,
    pub quiet: Option<Hours>,
}

impl Rule {
    /// Whether it is told of every problem from the first.
    pub fn is_first(&self) -> bool {
        self.escalate_after.is_none() && self.fallback_for.is_empty()
    }
}

#[derive(Debug, Clone)]
pub struct Webhook {
    pub name: Name,
    pub url: Given,
    pub body: String,
    pub is_put: bool,
    pub content_type: String,
    pub headers: BTreeMap<String, Given>,
    pub ca_file: Option<PathBuf>,
    pub rule: Rule,
}

impl Webhook {
    /// As other sections, the log and the outbox name it.
    pub fn channel(&self) -> String {
        format!("webhooks.{}", self.name)
    }
}

#[derive(Debug, Clone)]
pub struct Hook {
    pub name: Name,
    /// Never empty.
    pub command: Vec<String>,
    pub on: Vec<On>,
    pub timeout: Duration,
    pub rule: Rule,
}

impl Hook {
    pub fn channel(&self) -> String {
        format!("hooks.{}", self.name)
    }

    pub fn hears_alerts(&self) -> bool {
        On::ALERTS.iter().any(|on| self.on.contains(on))
    }
}

#[derive(Debug, Clone)]
pub struct Ping {
    pub backup: Name,
    pub url: Given,
    pub ca_file: Option<PathBuf>,
}

impl Ping {
    pub fn key(&self) -> String {
        format!("pings.{}", self.backup)
    }
}

/// Every way beside mail.
#[derive(Debug, Clone)]
pub struct Channels {
    pub policy: Policy,
    pub email: Rule,
    pub webhooks: BTreeMap<Name, Webhook>,
    pub hooks: BTreeMap<Name, Hook>,
    pub pings: BTreeMap<Name, Ping>,
}

/// Makes the plan of the sections; their faults are noted.
pub fn plan_channels(file: &File, examined: &mut Examined<'_>) -> Channels {
    let given = file.alerts.clone().unwrap_or_default();
    let policy = plan_policy(&given, file, examined);
    let rule = |after: Option<Span>, fallback_for: &Option<Vec<String>>, quiet: Option<Quiet>| Rule {
        escalate_after: after.map(|span| span.0),
        fallback_for: fallback_for.clone().unwrap_or_default(),
        quiet: quiet.map_or(policy.quiet, Quiet::hours),
    };
    let email = file.email.as_ref().map_or_else(Rule::default, |email| rule(None, &email.fallback_for, email.quiet_hours));
    let mut webhooks = BTreeMap::new();
    for (name, webhook) in &file.webhooks {
        let rule = rule(webhook.escalate_after, &webhook.fallback_for, webhook.quiet_hours);
        webhooks.insert(name.clone(), plan_webhook(name, webhook, rule, examined));
    }
    let mut hooks = BTreeMap::new();
    for (name, hook) in &file.hooks {
        let rule = rule(hook.escalate_after, &hook.fallback_for, hook.quiet_hours);
        hooks.insert(name.clone(), plan_hook(name, hook, rule, examined));
    }
    let mut pings = BTreeMap::new();
    for (name, ping) in &file.pings {
        check_url(&["pings", name.as_str(), "url"], &ping.url, examined);
        pings.insert(name.clone(), Ping { backup: name.clone(), url: ping.url.clone(), ca_file: ping.ca_file.clone() });
    }
    let channels = Channels { policy, email, webhooks, hooks, pings };
    check_rules(file, &channels, examined);
    channels
}

fn plan_policy(given: &Alerts, file: &File, examined: &mut Examined<'_>) -> Policy {
    let mut globs = |key: &str, given: &[String], more: &[&str]| {
        let mut set = GlobSetBuilder::new();
        for pattern in given.iter().map(String::as_str).chain(more.iter().copied()) {
            match GlobBuilder::new(pattern).literal_separator(false).build() {
                Ok(glob) => {
                    set.add(glob);
                }
                Err(error) => {
                    let hint = "write alert keys or shell globs of them, such as \"store/*/disk\"";
                    examined.fault(&["alerts", key], format!("bad pattern {pattern:?}: {}", error.kind()), hint);
                }
            }
        }
        set.build().unwrap_or_default()
    };
    Policy {
        timezone: given.timezone.or(file.timezone).map_or(Tz::UTC, |zone| zone.0),
        quiet: given.quiet_hours.and_then(Quiet::hours),
        remind_every: given.remind_every.map_or(REMIND_EVERY, |span| span.0),
        urgent: globs("urgent", given.urgent.as_deref().unwrap_or_default(), &[]),
        can_wait: globs("can_wait", given.can_wait.as_deref().unwrap_or_default(), &CAN_WAIT),
    }
}

fn plan_webhook(name: &Name, webhook: &WebhookFile, rule: Rule, examined: &mut Examined<'_>) -> Webhook {
    let key = |key| ["webhooks", name.as_str(), key];
    check_url(&key("url"), &webhook.url, examined);
    let content_type = webhook.content_type.clone().unwrap_or_else(|| CONTENT_TYPE.to_owned());
    if !is_header(&content_type) || !content_type.contains('/') {
        examined.fault(&key("content_type"), format!("bad content type {content_type:?}"), "write one such as \"text/plain\"");
    }
    for (header, given) in &webhook.headers {
        let is_name = !header.is_empty() && header.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        let is_ours =
            ["content-type", "content-length", "host", "transfer-encoding", "connection"].contains(&header.to_lowercase().as_str());
        if !is_name || is_ours {
            let hint = if is_ours { "it is set by itself; content_type has a key of its own" } else { "write one such as Authorization" };
            examined.fault(&["webhooks", name.as_str(), "headers", header], format!("bad header {header:?}"), hint);
        }
        if matches!(given, Given::Literal(text) if !is_header(text)) {
            let hint = "write printable ASCII of one line";
            examined.fault(&["webhooks", name.as_str(), "headers", header], format!("bad value of header {header:?}"), hint);
        }
    }
    let body = webhook.body.clone().unwrap_or_else(|| template::SLACK.to_owned());
    if let Err(error) = template::try_out(&body, &content_type) {
        examined.fault(&key("body"), error.message, error.hint.unwrap_or_default());
    }
    Webhook {
        name: name.clone(),
        url: webhook.url.clone(),
        body,
        is_put: webhook.method == Some(Method::Put),
        content_type,
        headers: webhook.headers.clone(),
        ca_file: webhook.ca_file.clone(),
        rule,
    }
}

fn plan_hook(name: &Name, hook: &HookFile, rule: Rule, examined: &mut Examined<'_>) -> Hook {
    let key = |key| ["hooks", name.as_str(), key];
    match hook.command.first() {
        Some(program) if program.starts_with('/') && !hook.command.iter().any(|word| word.contains('\0')) => {}
        _ => examined.fault(
            &key("command"),
            "a hook needs a program by its whole path",
            "write command = [\"/usr/local/bin/on-alert\", \"argument\"]; no shell reads it",
        ),
    }
    let on = hook.on.clone().unwrap_or_else(|| On::ALERTS.to_vec());
    if on.is_empty() {
        examined.fault(&key("on"), "the hook is never run", "write on = [\"alert_open\"], or remove on");
    }
    let timeout = hook.timeout.map_or(HOOK_TIMEOUT, |span| span.0);
    if timeout.is_zero() || timeout > HOOK_TIMEOUT_MAX {
        examined.fault(&key("timeout"), "bad time limit of a hook", "write one from \"1s\" to \"10m\"");
    }
    Hook { name: name.clone(), command: hook.command.clone(), on, timeout, rule }
}

/// Which channel stands in for which: names that are there, and somebody who is told first.
fn check_rules(file: &File, channels: &Channels, examined: &mut Examined<'_>) {
    let mut all: Vec<(String, &Rule)> = Vec::new();
    all.extend(file.email.is_some().then(|| (EMAIL.to_owned(), &channels.email)));
    all.extend(channels.webhooks.values().map(|webhook| (webhook.channel(), &webhook.rule)));
    all.extend(channels.hooks.values().filter(|hook| hook.hears_alerts()).map(|hook| (hook.channel(), &hook.rule)));
    for (name, rule) in &all {
        let mut path: Vec<&str> = name.split('.').collect();
        path.push("fallback_for");
        for other in &rule.fallback_for {
            let known: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).filter(|known| known != name).collect();
            match all.iter().find(|(known, _)| known == other && known != name) {
                None => {
                    let hint = format!("channels: {}", if known.is_empty() { "no other".to_owned() } else { known.join(", ") });
                    examined.fault(&path, format!("fallback_for names no other channel: {other:?}"), hint);
                }
                Some((_, rule)) if !rule.fallback_for.is_empty() => {
                    let hint = "name channels that are told first";
                    examined.fault(&path, format!("{other} is a fallback itself"), hint);
                }
                Some(_) => {}
            }
        }
    }
    if !all.is_empty() && !all.iter().any(|(_, rule)| rule.is_first()) {
        let mut path: Vec<&str> = all[0].0.split('.').collect();
        path.push(if all[0].1.fallback_for.is_empty() { "escalate_after" } else { "fallback_for" });
        examined.fault(&path, "no channel is told of a problem at once", "take escalate_after and fallback_for out of one of them");
    }
}

/// A URL that stands in the file is looked at now; its text is a secret.
fn check_url(path: &[&str], given: &Given, examined: &mut Examined<'_>) {
    if let Given::Literal(text) = given
        && let Err(why) = read_url(text)
    {
        examined.fault(path, why, "write https://HOST/PATH");
    }
}

/// A URL that can be sent to.
///
/// # Errors
/// Why it is none, without a word of it.
pub fn read_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text.trim()).map_err(|_| "it is no URL")?;
    match (url.scheme(), url.host_str()) {
        ("http" | "https", Some(host)) if !host.is_empty() => Ok(url),
        _ => Err("it is no URL of http:// or https://"),
    }
}

/// Whether it can stand in a header.
pub fn is_header(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| (0x20..0x7f).contains(&byte) || byte == b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        let alerts: Alerts = toml::from_str(text).unwrap();
        plan_policy(&alerts, &File::default(), &mut Examined::new(&super::super::overlay::Sources::new("", &[])))
    }

    #[test]
    fn what_can_wait() {
        use Severity::{CanWait, Urgent};
        let usual = policy("");
        for (key, severity) in [
            ("backup/x/failed", Urgent),
            ("backup/x/stale", Urgent),
            ("backup/x/unproven", Urgent),
            ("backup/x/problems", CanWait),
            ("backup/x/drill", CanWait),
            ("backup/x/budget", CanWait),
            ("store/local/disk", Urgent),
            ("store/local/unreadable", Urgent),
            ("state/history", Urgent),
            ("config/reload", CanWait),
            ("ping/x/failed", CanWait),
            ("something/new", Urgent),
        ] {
            assert_eq!(usual.severity(key), severity, "{key}");
        }
        let own = policy("urgent = [\"backup/shop/*\"]\ncan_wait = [\"backup/*\", \"store/scratch/disk\"]");
        for (key, severity) in [
            ("backup/shop/drill", Urgent),
            ("backup/x/failed", CanWait),
            ("store/scratch/disk", CanWait),
            ("store/local/disk", Urgent),
            ("config/reload", CanWait),
        ] {
            assert_eq!(own.severity(key), severity, "{key}");
        }
    }

    #[test]
    fn urls() {
        for text in ["https://x/y", "http://127.0.0.1:1/", " https://u:p@x/?q\n"] {
            assert!(read_url(text).is_ok(), "{text}");
        }
        for text in ["", "x", "ftp://x/", "https://", "mailto:a@b", "file:///etc/passwd"] {
            assert!(read_url(text).is_err(), "{text}");
        }
    }
}
