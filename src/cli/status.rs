//! `status`

use std::collections::BTreeMap;
use std::fmt::Write;

use super::Done;
use super::output;
use super::session::{Session, Uses, runtime};
use crate::alert::drills::span;
use crate::alert::problems::{age, time};
use crate::config::Plan;
use crate::config::plan;
use crate::config::values::Name;
use crate::error::{Error, Kind, Result, exit};
use crate::host::{clock, owner};
use crate::state::{Alerts, State};
use crate::status::{Alert, Config, Daemon, Gathered, Outbox, Status, gather};
use anstyle::AnsiColor;

pub fn status(session: &Session) -> Done {
    let opened = match session.open(Uses::None) {
        Err(error) if error.kind == Kind::Config => return beside_a_faulty_file(session, error),
        opened => opened?,
    };
    let status = runtime()?.block_on(look(&opened.plan))?.status;
    if session.json {
        output::json(&status)?;
    } else {
        output::text(&page(&status, &opened.plan.backups))?;
    }
    Ok(if status.healthy { exit::OK } else { exit::PROBLEMS })
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
    let outbox = Outbox { pending: pending.len(), last_error: pending.into_iter().rev().find_map(|pending| pending.last_error) };
    let status = Status {
        healthy: false,
        daemon: Daemon { running: true },
        config: Config { loaded_at: loaded.at, error: Some(error.message) },
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

async fn look(plan: &Plan) -> Result<Gathered> {
    let state = State::open(&plan.state_dir)?;
    gather(plan, &state.history()?, &state.alerts()?, clock::now()).await
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
    for warning in &status.warnings {
        let _ = writeln!(text, "{} {warning}", output::styled(AnsiColor::Yellow.on_default(), "warning:"));
    }
    text
}
