//! `status`

use std::collections::BTreeMap;
use std::fmt::Write;

use anstyle::AnsiColor;
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::Done;
use super::output;
use super::session::{Session, Uses, runtime};
use crate::alert::drills::span;
use crate::alert::problems::{age, time};
use crate::alert::routes::{message_by, routes};
use crate::catalog::Rung;
use crate::config::Plan;
use crate::config::plan::{self, StoreKind};
use crate::config::values::Name;
use crate::error::{Error, Kind, Result, exit};
use crate::host::{clock, owner};
use crate::job::assess::{Assessment, BackupState, StoreState};
use crate::job::stores;
use crate::state::alerts::Loaded;
use crate::state::outbox::Pending;
use crate::state::{Alerts, State};

#[derive(Serialize)]
struct Status {
    healthy: bool,
    daemon: Daemon,
    config: Config,
    backups: Vec<Backup>,
    stores: Vec<Store>,
    alerts: Vec<Alert>,
    outbox: Outbox,
    orphaned: Vec<String>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Daemon {
    running: bool,
}

#[derive(Serialize)]
struct Config {
    loaded_at: Option<DateTime<Utc>>,
    error: Option<String>,
    /// By the last edit that was taken over.
    changed_at: Option<DateTime<Utc>>,
    changes: Vec<String>,
}

impl Config {
    fn of(loaded: Loaded) -> Self {
        let (changed_at, changes) = loaded.changes.map_or((None, Vec::new()), |(at, changes)| (Some(at), changes));
        Config { loaded_at: loaded.at, error: loaded.error.map(|(_, error)| error), changed_at, changes }
    }
}

#[derive(Serialize)]
struct Backup {
    name: String,
    last_success_at: Option<DateTime<Utc>>,
    last_success_id: Option<String>,
    rung: Option<Rung>,
    age_seconds: Option<i64>,
    max_age_seconds: Option<i64>,
    next_at: Option<DateTime<Utc>>,
    running: bool,
    last_run: Option<LastRun>,
    /// Measured by the newest drill.
    restore_seconds: Option<f64>,
}

#[derive(Serialize)]
struct LastRun {
    outcome: Option<String>,
    error: Option<String>,
}

#[derive(Serialize)]
struct Store {
    name: String,
    total_bytes: Option<u64>,
    used_bytes: Option<u64>,
    used_percent: Option<u8>,
    alert_above_percent: u8,
}

#[derive(Serialize)]
struct Alert {
    key: String,
    since: DateTime<Utc>,
    summary: String,
}

#[derive(Serialize)]
struct Outbox {
    pending: usize,
    /// They wait for the end of quiet hours.
    held: usize,
    last_error: Option<String>,
}

pub fn status(session: &Session) -> Done {
    let opened = match session.open(Uses::None) {
        Err(error) if error.kind == Kind::Config => return beside_a_faulty_file(session, error),
        opened => opened?,
    };
    let status = runtime()?.block_on(gather(&opened.plan))?;
    if session.json {
        output::json(&status)?;
    } else {
        output::text(&page(&status, &opened.plan.backups))?;
    }
    Ok(if status.healthy { exit::OK } else { exit::PROBLEMS })
}

/// Whether a daemon runs; for a container's health check, which asks often and wants to know no more. How
/// the backups are is no reason to kill the one who mends them.
pub fn alive(session: &Session) -> Done {
    let runs = session.state_dir().is_some_and(|dir| State::has_daemon(&dir));
    if session.json {
        output::json(&Daemon { running: runs })?;
    } else {
        output::text(if runs { "a daemon is running\n" } else { "no daemon is running\n" })?;
    }
    Ok(if runs { exit::OK } else { exit::FAILED })
}

/// A daemon may go on with the file as it was: what it has on record is all that is known then.
fn beside_a_faulty_file(session: &Session, error: Error) -> Done {
    let Some(dir) = session.state_dir().filter(|dir| State::has_daemon(dir)) else {
        return Err(error);
    };
    owner::become_owner_of(&dir)?;
    let alerts = Alerts::open(&dir)?;
    let (loaded, pending) = (alerts.loaded()?, alerts.pending()?);
    let alerts = alerts.known()?.into_iter().map(|known| Alert { key: known.key, since: known.since, summary: known.summary }).collect();
    let outbox = outbox(pending);
    let status = Status {
        healthy: false,
        daemon: Daemon { running: true },
        config: Config { error: Some(error.message), ..Config::of(loaded) },
        backups: Vec::new(),
        stores: Vec::new(),
        alerts,
        outbox,
        orphaned: Vec::new(),
        warnings: vec!["backups and stores show when the file is mended; these are the alerts of the daemon".to_owned()],
    };
    if session.json {
        output::json(&status)?;
    } else {
        output::text(&page(&status, &BTreeMap::new()))?;
    }
    Ok(exit::PROBLEMS)
}

fn outbox(pending: Vec<Pending>) -> Outbox {
    Outbox { pending: pending.len(), held: 0, last_error: pending.into_iter().rev().find_map(|pending| pending.last_error) }
}

async fn gather(plan: &Plan) -> Result<Status> {
    let now = clock::now();
    let state = State::open(&plan.state_dir)?;
    let (history, alerts) = (state.history()?, state.alerts()?);
    let mut assessment = Assessment::default();
    assessment.look_at_all(plan, &history, &alerts, &|_| true, now).await?;
    let known = alerts.known()?;
    let loaded = alerts.loaded()?;
    let running = State::has_daemon(&plan.state_dir);
    let routes = routes(plan);
    let is_there = |channel: &str| routes.iter().any(|route| route.channel == channel);
    let (mut pending, mut held) = (Vec::new(), 0);
    for message in alerts.pending()?.into_iter().filter(|message| is_there(&message.channel)) {
        if message.not_before.is_some_and(|until| until > now) && message.attempts == 0 {
            held += 1;
        } else {
            pending.push(message);
        }
    }
    let found = assessment.problems.iter().map(|problem| Alert {
        key: problem.key.clone(),
        since: known.iter().find(|known| known.key == problem.key).map_or(problem.since, |known| known.since),
        summary: problem.summary.clone(),
    });
    let mut alerts: Vec<Alert> = found.collect();
    // What nobody can tell just now is as open as it was.
    let open = known.into_iter().filter(|known| assessment.undecided.contains(&known.key));
    alerts.extend(open.map(|known| Alert { key: known.key, since: known.since, summary: known.summary }));
    let failed = pending.iter().rev().find(|pending| pending.last_error.is_some()).map(|pending| pending.channel.clone());
    let outbox = Outbox { held, ..outbox(pending) };
    let mut warnings = Vec::new();
    if !plan.has_channel {
        warnings.push("nobody hears of a failure: there is no [email], [webhooks] or [pings] section".to_owned());
    }
    if !running && plan.backups.values().any(|backup| backup.schedule.is_some()) {
        warnings.push("no daemon is running: nothing begins by itself".to_owned());
    }
    if let (Some(error), Some(channel)) = (&outbox.last_error, failed) {
        warnings.push(format!("{} could not be sent: {error}", message_by(&channel)));
    }
    Ok(Status {
        healthy: alerts.is_empty() && outbox.last_error.is_none(),
        daemon: Daemon { running },
        config: Config::of(loaded),
        backups: assessment.backups.into_iter().map(|backup| of_backup(plan, backup, now)).collect(),
        stores: assessment.stores.into_iter().map(of_store).collect(),
        alerts,
        outbox,
        orphaned: orphaned(plan).await,
        warnings,
    })
}

fn of_backup(plan: &Plan, state: BackupState, now: DateTime<Utc>) -> Backup {
    let (id, taken_at, rung) = match state.newest_good {
        Some((id, taken_at, rung)) => (Some(id.to_string()), Some(taken_at), Some(rung)),
        None => (None, None, None),
    };
    let max_age = plan.backups.get(&state.name).and_then(|backup| backup.max_age).and_then(|age| i64::try_from(age.as_secs()).ok());
    Backup {
        max_age_seconds: max_age.or_else(|| Some((state.stale_at? - taken_at?).num_seconds())),
        name: state.name.to_string(),
        last_success_at: taken_at,
        last_success_id: id,
        rung,
        age_seconds: taken_at.map(|taken_at| (now - taken_at).num_seconds()),
        next_at: state.next_at,
        running: state.running,
        last_run: state.last_run.map(|run| LastRun { outcome: run.outcome, error: run.error }),
        restore_seconds: state.restore_seconds,
    }
}

fn of_store(state: StoreState) -> Store {
    let usage = state.usage.and_then(Result::ok);
    Store {
        name: state.name.to_string(),
        total_bytes: usage.as_ref().map(|usage| usage.total),
        used_bytes: usage.as_ref().map(|usage| usage.used),
        used_percent: usage.as_ref().map(crate::host::disk::Usage::percent),
        alert_above_percent: state.alert_above_percent,
    }
}

/// Backups that lie in a store and that the file does not know: they are never pruned.
async fn orphaned(plan: &Plan) -> Vec<String> {
    let mut found = Vec::new();
    for store in plan.stores.values().filter(|store| matches!(store.kind, StoreKind::Local(_))) {
        let Ok(opened) = stores::open(store, "") else { continue };
        for name in opened.backups().await.unwrap_or_default() {
            let unknown = !plan.backups.contains_key(name.as_str()) && !found.contains(&name);
            if unknown && opened.labels(&name).await.is_ok_and(|labels| !labels.is_empty()) {
                found.push(name);
            }
        }
    }
    found.sort();
    found
}

/// The measured time of a restore, against what it may take.
fn restore(seconds: Option<f64>, plan: Option<&plan::Backup>) -> String {
    let budget = plan.and_then(|plan| plan.drill.as_ref()?.budget);
    match (seconds, budget) {
        (Some(seconds), Some(budget)) => format!("{} of {}", span(seconds), span(budget.as_secs_f64())),
        (Some(seconds), None) => span(seconds),
        (None, _) => String::new(),
    }
}

fn page(status: &Status, plans: &BTreeMap<Name, plan::Backup>) -> String {
    let mut text = String::new();
    let (color, word) = if status.healthy { (AnsiColor::Green, "healthy") } else { (AnsiColor::Red, "NOT HEALTHY") };
    let _ = writeln!(text, "{}\n", output::styled(color.on_default().bold(), word));
    let mut backups = output::table(&["BACKUP", "NEWEST GOOD", "RUNG", "AGE", "TOO OLD AT", "RESTORE TAKES", "NEXT SLOT", "LAST RUN"]);
    for backup in &status.backups {
        let zone = plans.get(backup.name.as_str()).map_or(chrono_tz::Tz::UTC, |backup| backup.timezone);
        let span = |secs: Option<i64>| secs.map(age).unwrap_or_default();
        let last = backup.last_run.as_ref().and_then(|run| run.outcome.clone()).unwrap_or_else(|| "never".to_owned());
        backups.add_row(vec![
            backup.name.clone(),
            backup.last_success_id.clone().unwrap_or_else(|| "none".to_owned()),
            backup.rung.map(output::rung).unwrap_or_default(),
            span(backup.age_seconds),
            span(backup.max_age_seconds),
            restore(backup.restore_seconds, plans.get(backup.name.as_str())),
            backup.next_at.map(|at| time(at, zone)).unwrap_or_default(),
            if backup.running { "running".to_owned() } else { last },
        ]);
    }
    let _ = writeln!(text, "{}\n", backups.trim_fmt());
    let mut stores = output::table(&["STORE", "SIZE", "USED", "PERCENT", "ALERT ABOVE"]);
    for store in &status.stores {
        let size = |bytes: Option<u64>| bytes.map(output::size).unwrap_or_default();
        stores.add_row(vec![
            store.name.clone(),
            size(store.total_bytes),
            size(store.used_bytes),
            store.used_percent.map(|percent| format!("{percent} %")).unwrap_or_default(),
            format!("{} %", store.alert_above_percent),
        ]);
    }
    let _ = writeln!(text, "{}", stores.trim_fmt());
    if !status.alerts.is_empty() {
        let mut alerts = output::table(&["ALERT", "SINCE (UTC)", "WHAT"]);
        for alert in &status.alerts {
            alerts.add_row(vec![alert.key.clone(), alert.since.format("%Y-%m-%d %H:%M:%S").to_string(), alert.summary.clone()]);
        }
        let _ = writeln!(text, "\n{}", alerts.trim_fmt());
    }
    if status.outbox.pending > 0 {
        let _ = writeln!(text, "\n{} in the outbox, still to be sent", status.outbox.pending);
    }
    if status.outbox.held > 0 {
        let _ = writeln!(text, "\n{} in the outbox until the quiet hours end", status.outbox.held);
    }
    if !status.orphaned.is_empty() {
        let _ = writeln!(text, "\norphaned (not in the file; kept, never pruned): {}", status.orphaned.join(", "));
    }
    match (&status.config.error, status.config.loaded_at.filter(|_| status.daemon.running)) {
        (Some(error), _) => {
            let _ = writeln!(text, "\nthe file is faulty; the daemon goes on with what it had:\n{error}");
        }
        (None, Some(at)) => {
            let _ = writeln!(text, "\na daemon is running; it read the file at {}", at.format("%Y-%m-%d %H:%M:%S UTC"));
        }
        (None, None) => {}
    }
    if let Some(at) = status.config.changed_at.filter(|_| status.daemon.running) {
        let _ = writeln!(text, "the last edit that was taken over, at {}:", at.format("%Y-%m-%d %H:%M:%S UTC"));
        for change in &status.config.changes {
            let _ = writeln!(text, "  {}", crate::host::printable(change));
        }
    }
    for warning in &status.warnings {
        let _ = writeln!(text, "{} {warning}", output::styled(AnsiColor::Yellow.on_default(), "warning:"));
    }
    text
}
