//! Asks everybody how things stand: the stores, what is on record, the disks.

use chrono::{DateTime, Utc};

use super::record::{RUNS_SINCE, Record, record};
use super::{Alert, Backup, Config, Copies, Daemon, LastRun, Log, Outbox, Status, Store};
use crate::alert::copies::CopyFacts;
use crate::alert::routes::{message_by, routes};
use crate::config::Plan;
use crate::error::Result;
use crate::host::disk::Usage;
use crate::job::assess::{Assessment, BackupState, StoreState};
use crate::job::stores;
use crate::schedule::due::Job;
use crate::state::{Alerts, History};

/// How everything stands, as a document and for pictures.
#[derive(Debug, Clone)]
pub struct Gathered {
    pub at: DateTime<Utc>,
    pub status: Status,
    pub records: Vec<Record>,
    /// Those of this machine, with what their disks say.
    pub disks: Vec<(String, Usage)>,
}

/// Looks at everything. `running`: a daemon runs, as far as who asks can tell; it knows of itself for
/// certain.
///
/// # Errors
/// What is on record cannot be read.
pub async fn gather(plan: &Plan, history: &History, alerts: &Alerts, running: bool, now: DateTime<Utc>) -> Result<Gathered> {
    let mut assessment = Assessment::default();
    let mut records = Vec::new();
    let mut show = |facts: &crate::alert::problems::BackupFacts<'_>, stale_at| {
        let name = facts.backup.name.as_str();
        let mut runs = history.runs_since(name, now - RUNS_SINCE)?;
        runs.retain(|run| run.kind == Job::Dump);
        records.push(record(plan, facts, &runs, history.first_slot(name)?, stale_at, now));
        Ok(())
    };
    assessment.look_at_all_for(plan, history, alerts, &|_| true, now, &mut show).await?;
    let known = alerts.known()?;
    let loaded = alerts.loaded()?;
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
    let outbox = Outbox { held, ..Outbox::of(pending) };
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
    for record in &mut records {
        record.log = assessment.backups.iter().find(|state| state.name == record.name).and_then(|state| state.log.clone());
    }
    let usage = |store: &StoreState| Some((store.name.to_string(), store.usage.as_ref()?.as_ref().ok()?.clone()));
    let disks = assessment.stores.iter().filter_map(usage).collect();
    let status = Status {
        healthy: alerts.is_empty() && outbox.last_error.is_none(),
        daemon: Daemon { running },
        config: Config::of(loaded),
        backups: assessment.backups.into_iter().map(|backup| of_backup(plan, backup, now)).collect(),
        stores: assessment.stores.into_iter().map(of_store).collect(),
        alerts,
        outbox,
        orphaned: orphaned(plan).await,
        warnings,
    };
    Ok(Gathered { at: now, status, records, disks })
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
        log: state.log.map(|figures| Log { may_lose_seconds: figures.may_lose_seconds(now), figures }),
        copies: state.copies.into_iter().map(of_copies).collect(),
    }
}

fn of_copies(copy: CopyFacts) -> Copies {
    let (id, taken_at, rung) = match copy.newest {
        Some((id, taken_at, rung)) => (Some(id.to_string()), Some(taken_at), Some(rung)),
        None => (None, None, None),
    };
    Copies {
        store: copy.store.to_string(),
        answers: !copy.silent,
        last_success_at: taken_at,
        last_success_id: id,
        rung,
        awaited: copy.awaited,
    }
}

fn of_store(state: StoreState) -> Store {
    let usage = state.usage.and_then(Result::ok);
    Store {
        name: state.name.to_string(),
        total_bytes: usage.as_ref().map(|usage| usage.total),
        used_bytes: usage.as_ref().map(|usage| usage.used),
        used_percent: usage.as_ref().map(Usage::percent),
        alert_above_percent: state.alert_above_percent,
    }
}

/// Backups that lie in a store and that the file does not know: they are never pruned.
async fn orphaned(plan: &Plan) -> Vec<String> {
    let mut found = Vec::new();
    for store in plan.stores.values() {
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
