//! `run BACKUP`

use std::sync::Arc;
use std::time::Duration;

use super::answer::{Answer, code, could_not};
use super::session::{Session, Uses, runtime};
use super::{Done, alert, bar, output};
use crate::error::{Error, Kind};
use crate::host::signals;
use crate::job::follow::Followers;
use crate::job::progress::Progress;
use crate::job::run::{self, Order, Report};
use crate::state::Outcome;

pub fn run(session: &Session, backup: &str, order: Order) -> Done {
    match make(session, backup, order) {
        Ok(report) => tell(session, &report),
        Err(error) => {
            let outcome = if error.kind == Kind::Busy { Outcome::Skipped } else { Outcome::Failed };
            could_not(session.json, outcome, &error)
        }
    }
}

fn make(session: &Session, backup: &str, order: Order) -> Result<Report, Error> {
    // Which server it is of decides which secrets it needs.
    let plan = session.load()?.map_err(|faults| super::session::faults_error(&faults))?;
    let found = run::find(&plan, backup)?;
    if order == Order::Changes && found.physical.is_none() {
        return Err(
            Error::new(Kind::Usage, format!("{backup} is a backup of dumps: there is no incremental one")).hint("leave --incremental out")
        );
    }
    let server = found.server.clone();
    let opened = session.open(Uses::Server(server.as_str()))?;
    let cancel = signals::cancelled_by_signals()?;
    let (progress, followers) = (Arc::new(Progress::default()), Followers::default());
    let runtime = runtime()?;
    let report = runtime.block_on(async {
        let bar = bar::show(&progress, bar::OF_LAST_RUN);
        let report = run::run(&opened.plan, backup, order, &progress, &followers, &cancel).await;
        drop(bar);
        followers.finish().await;
        alert::tell(&opened.plan, backup).await;
        report
    });
    // Nothing that matters runs any more; a read that hangs on a dead disk is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    report
}

fn tell(session: &Session, report: &Report) -> Done {
    let warnings: Vec<String> = report.warnings.iter().chain(&report.problems).cloned().collect();
    for warning in &warnings {
        output::warn(warning, None);
    }
    if let Some(error) = &report.error {
        output::tell(error);
    }
    let id = report.id.as_ref().map(ToString::to_string);
    if session.json {
        output::json(&Answer {
            id,
            rung: report.rung,
            warnings: &warnings,
            seconds: report.seconds,
            ..Answer::new(report.outcome, report.error.as_ref())
        })?;
    } else if let (Some(id), Some(rung)) = (id, report.rung) {
        let line = format!(
            "{id}  {}  {} out of {} in {}\n",
            output::rung(rung),
            output::size(report.bytes),
            output::size(report.raw_bytes),
            output::seconds(report.seconds)
        );
        output::text(&line)?;
    }
    Ok(code(report.outcome, report.error.as_ref()))
}
