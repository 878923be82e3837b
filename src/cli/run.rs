//! `run BACKUP`

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::output::{self, JsonError};
use super::session::{Session, Uses, runtime};
use super::{Done, alert};
use crate::catalog::{Compared, Rung};
use crate::error::{Error, Kind, exit};
use crate::host::signals;
use crate::job::progress::Progress;
use crate::job::run::{self, Order, Report};
use crate::state::Outcome;

/// What `run`, `verify` and `restore` say in JSON.
#[derive(Serialize)]
pub struct Answer<'a> {
    pub id: Option<String>,
    pub outcome: Outcome,
    pub rung: Option<Rung>,
    pub error: Option<JsonError<'a>>,
    pub warnings: &'a [String],
    pub seconds: f64,
    /// After a drill or a restore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared: Option<&'a Compared>,
}

pub fn run(session: &Session, backup: &str) -> Done {
    match make(session, backup) {
        Ok(report) => tell(session, &report),
        Err(error) => {
            output::tell(&error);
            if session.json {
                let outcome = if error.kind == Kind::Busy { Outcome::Skipped } else { Outcome::Failed };
                output::json(&Answer {
                    id: None,
                    outcome,
                    rung: None,
                    error: Some(JsonError::from(&error)),
                    warnings: &[],
                    seconds: 0.0,
                    compared: None,
                })?;
            }
            Ok(error.kind.exit_code())
        }
    }
}

fn make(session: &Session, backup: &str) -> Result<Report, Error> {
    // Which server it is of decides which secrets it needs.
    let plan = session.load()?.map_err(|faults| super::session::faults_error(&faults))?;
    let server = run::find(&plan, backup)?.server.clone();
    let opened = session.open(Uses::Server(server.as_str()))?;
    let passed_over = opened.plan.not_yet.iter().filter(|key| key.blocks.is_none() && ["webhooks", "pings"].contains(&key.key.as_str()));
    for key in passed_over {
        output::warn(&format!("{}: not yet: nobody is told by this way", key.key), None);
    }
    let cancel = signals::cancelled_by_signals()?;
    let progress = Arc::new(Progress::default());
    let runtime = runtime()?;
    let report = runtime.block_on(async {
        let bar = show(Arc::clone(&progress));
        let report = run::run(&opened.plan, backup, Order::ByHand, &progress, &cancel).await;
        if let Some((bar, task)) = bar {
            task.abort();
            bar.finish_and_clear();
        }
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
            outcome: report.outcome,
            rung: report.rung,
            error: report.error.as_ref().map(JsonError::from),
            warnings: &warnings,
            seconds: report.seconds,
            compared: None,
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
    Ok(match (report.outcome, &report.error) {
        (Outcome::Ok, _) => exit::OK,
        (Outcome::Problems, _) => exit::PROBLEMS,
        (_, Some(error)) => error.kind.exit_code(),
        (_, None) => exit::FAILED,
    })
}

/// Progress on a terminal: bytes, rate, ratio, and the share of the last run's size.
pub fn show(progress: Arc<Progress>) -> Option<(ProgressBar, tokio::task::JoinHandle<()>)> {
    show_by(progress, "{spinner} {msg}  [{bar:20}] {percent}% of the last run's size  {elapsed}")
}

/// The same, in a form of indicatif's for what is expected.
pub fn show_by(progress: Arc<Progress>, known: &'static str) -> Option<(ProgressBar, tokio::task::JoinHandle<()>)> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let unknown = "{spinner} {msg}  {elapsed}";
    let style =
        |template: &str| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner()).progress_chars("=> ");
    let bar = ProgressBar::new_spinner();
    bar.set_style(style(unknown));
    let shown = bar.clone();
    let (known, unknown) = (style(known), style(unknown));
    let task = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        let mut rate = Rate::default();
        let mut expected = None;
        loop {
            ticks.tick().await;
            let seen = progress.look();
            if seen.expected_raw_bytes != expected {
                expected = seen.expected_raw_bytes;
                shown.set_style(if expected.is_some() { known.clone() } else { unknown.clone() });
            }
            if let Some(expected) = expected {
                shown.set_length(expected.max(seen.raw_bytes));
                shown.set_position(seen.raw_bytes);
            }
            let per_sec = rate.next(seen.raw_bytes);
            let ratio = if seen.packed_bytes == 0 {
                String::new()
            } else {
                format!(", packed {:.1} to 1", ratio(seen.raw_bytes, seen.packed_bytes))
            };
            shown.set_message(format!("{}: {} at {}/s{ratio}", seen.stage, output::size(seen.raw_bytes), output::size(per_sec)));
            shown.tick();
        }
    });
    Some((bar, task))
}

#[expect(clippy::cast_precision_loss, reason = "one digit is shown")]
fn ratio(raw: u64, packed: u64) -> f64 {
    raw as f64 / packed as f64
}

/// Bytes a second over the last two seconds of ticks.
#[derive(Default)]
struct Rate(std::collections::VecDeque<u64>);

impl Rate {
    const TICKS: usize = 10;

    fn next(&mut self, bytes: u64) -> u64 {
        if self.0.back().is_some_and(|last| *last > bytes) {
            self.0.clear();
        }
        self.0.push_back(bytes);
        if self.0.len() > Self::TICKS + 1 {
            self.0.pop_front();
        }
        let ticks = (self.0.len() - 1).max(1) as u64;
        (bytes - self.0[0]) * 5 / ticks
    }
}
