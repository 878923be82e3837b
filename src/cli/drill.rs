//! `verify ID --drill`

use std::path::Path;
use std::sync::Arc;

use super::answer::{Answer, code, could_not};
use super::session::{Session, Uses, runtime};
use super::verify::{copies_of, find_entry};
use super::{Done, alert, bar, output};
use crate::catalog::Wanted;
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::host::signals;
use crate::job::drill::{self, DrillReport};
use crate::job::keys;
use crate::job::progress::Progress;
use crate::state::Outcome;

pub fn drill(session: &Session, id: &str, store: Option<&str>, identity: Option<&Path>) -> Done {
    match made(session, id, store, identity) {
        Ok(report) => tell(session, &report),
        Err(error) => {
            let unknown = error.kind == Kind::Unverifiable || error.kind == Kind::Store;
            could_not(session.json, if unknown { Outcome::Problems } else { Outcome::Failed }, &error)
        }
    }
}

fn made(session: &Session, id: &str, store: Option<&str>, identity: Option<&Path>) -> Result<DrillReport> {
    let wanted = Wanted::parse(id)?;
    let given = identity.map(keys::of_file).transpose()?;
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
        let bar = bar::show(&progress, bar::OF_LAST_RUN);
        let report = drill::one(plan, &entry.id, store, given, &progress, &cancel).await;
        drop(bar);
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
            rung: report.rung,
            warnings: &warnings,
            seconds: report.seconds,
            compared: report.drill.as_ref().and_then(|drill| drill.compared.as_ref()),
            ..Answer::new(report.outcome, report.error.as_ref())
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
    Ok(code(report.outcome, report.error.as_ref()))
}
