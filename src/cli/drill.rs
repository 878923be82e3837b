//! `verify ID --drill`

use std::sync::Arc;

use super::output::{self, JsonError};
use super::run::{Answer, show};
use super::session::{Session, Uses, runtime};
use super::verify::{copies_of, find_entry};
use super::{Done, alert};
use crate::catalog::Wanted;
use crate::config::values::Name;
use crate::error::{Error, Kind, Result, exit};
use crate::host::signals;
use crate::job::drill::{self, DrillReport};
use crate::job::progress::Progress;
use crate::state::Outcome;

pub fn drill(session: &Session, id: &str, store: Option<&str>) -> Done {
    match made(session, id, store) {
        Ok(report) => tell(session, &report),
        Err(error) => {
            output::tell(&error);
            let could_not = error.kind == Kind::Unverifiable || error.kind == Kind::Store;
            let outcome = if could_not { Outcome::Problems } else { Outcome::Failed };
            if session.json {
                let error = Some(JsonError::from(&error));
                output::json(&Answer { id: None, outcome, rung: None, error, warnings: &[], seconds: 0.0, compared: None })?;
            }
            Ok(if could_not { exit::PROBLEMS } else { error.kind.exit_code() })
        }
    }
}

fn made(session: &Session, id: &str, store: Option<&str>) -> Result<DrillReport> {
    let wanted = Wanted::parse(id)?;
    let opened = session.open(Uses::None)?;
    let plan = &opened.plan;
    let entry = find_entry(plan, &wanted, store)?;
    let copies = copies_of(&entry, store)?;
    let backup = plan.backups.get(entry.id.backup.as_str()).ok_or_else(|| {
        Error::new(Kind::NotFound, format!("the file has no backup {:?} any more, which would say where to drill", entry.id.backup))
            .hint("add its section again, without a schedule; or restore it into another database")
    })?;
    // The primary, where it is among them.
    let primary = copies.iter().find(|copy| **copy == backup.stores[0].as_str()).or(copies.first());
    let store: &Name = plan
        .stores
        .keys()
        .find(|name| primary.is_some_and(|copy| *copy == name.as_str()))
        .ok_or_else(|| Error::new(Kind::NotFound, format!("{} is in no store of the file", entry.id)))?;
    let cancel = signals::cancelled_by_signals()?;
    let progress = Arc::new(Progress::default());
    runtime()?.block_on(async {
        let bar = show(Arc::clone(&progress));
        let report = drill::one(plan, &entry.id, store, &progress, &cancel).await;
        if let Some((bar, task)) = bar {
            task.abort();
            bar.finish_and_clear();
        }
        alert::tell(plan, &wanted.backup).await;
        report
    })
}

fn tell(session: &Session, report: &DrillReport) -> Done {
    let warnings: Vec<String> = report.problems.iter().chain(&report.warnings).cloned().collect();
    for warning in &warnings {
        output::warn(warning, None);
    }
    if let Some(error) = &report.error {
        output::tell(error);
    }
    if session.json {
        output::json(&Answer {
            id: Some(report.id.to_string()),
            outcome: report.outcome,
            rung: report.rung,
            error: report.error.as_ref().map(JsonError::from),
            warnings: &warnings,
            seconds: report.seconds,
            compared: report.drill.as_ref().and_then(|drill| drill.compared.as_ref()),
        })?;
    } else if let (None, Some(rung), Some(drill)) = (&report.error, report.rung, &report.drill) {
        let compared = drill
            .compared
            .as_ref()
            .map_or(String::new(), |compared| format!(", {} tables and {} rows compared", compared.tables, compared.rows));
        let line = format!(
            "{}  {}  restored on {} in {}{compared}, {} in all\n",
            report.id,
            output::rung(rung),
            drill.on,
            output::seconds(drill.restore_seconds),
            output::seconds(report.seconds)
        );
        output::text(&line)?;
    }
    Ok(match (report.outcome, &report.error) {
        (Outcome::Ok, _) => exit::OK,
        (Outcome::Problems, _) => exit::PROBLEMS,
        (_, Some(error)) => error.kind.exit_code(),
        (_, None) => exit::FAILED,
    })
}
