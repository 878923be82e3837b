//! Those who follow a run: its dead-man's switch and its hooks. They are told beside the run, which
//! waits for none of them; a switch that does not hear is an alert of its own.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::assess::{self, Assessment, machine};
use super::run::{Order, Report};
use crate::alert::event::{Event, RunEvent};
use crate::alert::hook;
use crate::alert::ping::{Pinger, Signal};
use crate::config::Plan;
use crate::config::channels::Hook;
use crate::config::plan::Backup;
use crate::config::telling::On;
use crate::error::{Error, Kind, Result};
use crate::host::{clock, printable};
use crate::state::{Outcome, State};

/// How long a command or a daemon that ends waits for them.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tells those who follow the runs of a process.
#[derive(Clone, Default)]
pub struct Followers {
    tasks: TaskTracker,
}

impl Followers {
    /// A run that may begin.
    pub fn of(&self, plan: &Plan, backup: &Backup, order: Order) -> Following {
        let hears_runs = |hook: &&Hook| [On::RunStarted, On::RunSucceeded, On::RunFailed].iter().any(|on| hook.on.contains(on));
        let hooks: Vec<Hook> = plan.channels.hooks.values().filter(hears_runs).cloned().collect();
        let has_ping = plan.channels.pings.contains_key(&backup.name);
        Following {
            tasks: self.tasks.clone(),
            // Most runs have none.
            plan: (has_ping || !hooks.is_empty()).then(|| Arc::new(plan.clone())),
            hooks,
            backup: backup.name.to_string(),
            order,
            begun: None,
        }
    }

    /// Waits until everybody has been told, for a while.
    pub async fn finish(&self) {
        self.tasks.close();
        if tokio::time::timeout(PATIENCE, self.tasks.wait()).await.is_err() {
            tracing::warn!("not everybody who follows a run could be told of its end");
        }
        self.tasks.reopen();
    }
}

/// A run that somebody follows.
pub struct Following {
    tasks: TaskTracker,
    plan: Option<Arc<Plan>>,
    hooks: Vec<Hook>,
    backup: String,
    order: Order,
    /// Takes how it ended.
    begun: Option<oneshot::Sender<Ended>>,
}

/// How a run ended, for those who follow it.
#[derive(Debug, Clone)]
struct Ended {
    is_success: bool,
    will_retry: bool,
    text: String,
    run: RunEvent,
}

impl Following {
    /// It has begun.
    pub fn begin(&mut self, slot: Option<DateTime<Utc>>) {
        let Some(plan) = self.plan.clone() else { return };
        let (sender, ended) = oneshot::channel();
        self.begun = Some(sender);
        let (backup, hooks) = (self.backup.clone(), self.hooks.clone());
        let run = RunEvent { slot, by_hand: self.order.slot().is_none(), ..RunEvent::default() };
        let mut ended_too = ended;
        // A hook may be slow where a ping is not: each has a task of its own, and its events in order.
        let mut senders = Vec::new();
        if plan.channels.pings.contains_key(backup.as_str()) {
            let (to_ping, ended) = oneshot::channel();
            senders.push(to_ping);
            self.tasks.spawn(ping(Arc::clone(&plan), backup.clone(), ended));
        }
        for hook in hooks {
            let (to_hook, ended) = oneshot::channel();
            senders.push(to_hook);
            self.tasks.spawn(run_hook(hook, backup.clone(), run.clone(), ended));
        }
        self.tasks.spawn(async move {
            if let Ok(ended) = (&mut ended_too).await {
                for sender in senders {
                    let _ = sender.send(ended.clone());
                }
            }
        });
    }

    /// It has ended, or could not begin. `will_retry`: the same slot is tried again.
    pub fn end(&mut self, result: &Result<Report>, will_retry: bool) {
        let ended = match result {
            Ok(report) if report.outcome == Outcome::Skipped && self.begun.is_none() => return,
            Ok(report) => of_report(&self.backup, self.order, report, will_retry),
            // It did not begin: another is at it, or nobody wants it any more.
            Err(error) if matches!(error.kind, Kind::Busy | Kind::Cancelled) && self.begun.is_none() => return,
            Err(error) => of_error(&self.backup, self.order, self.begun.is_some(), error),
        };
        if self.begun.is_none() {
            self.begin(self.order.slot());
        }
        if let Some(begun) = self.begun.take() {
            let _ = begun.send(ended);
        }
    }
}

fn of_report(backup: &str, order: Order, report: &Report, will_retry: bool) -> Ended {
    // What another installation has made is there.
    let is_success = matches!(report.outcome, Outcome::Ok | Outcome::Skipped);
    let id = report.id.as_ref().map(ToString::to_string);
    let mut text = format!("backup {backup}: {}\n", report.outcome.as_str());
    if let Some(id) = &id {
        let rung = report.rung.map(|rung| format!(" ({rung})")).unwrap_or_default();
        text.push_str(&format!("{id}{rung}: {} bytes in {} s\n", report.bytes, report.seconds));
    }
    for warning in report.warnings.iter().chain(&report.problems) {
        text.push_str(&format!("warning: {}\n", printable(warning)));
    }
    // Its last words stand last: the end of a long text is what is kept.
    if let Some(error) = &report.error {
        text.push_str(&of_words(error));
    }
    let run = RunEvent {
        slot: order.slot(),
        by_hand: order.slot().is_none(),
        id,
        outcome: Some(report.outcome.as_str().to_owned()),
        rung: report.rung.map(|rung| rung.to_string()),
        error: report.why().map(|why| printable(&why)),
        warnings: report.warnings.clone(),
        seconds: Duration::try_from_secs_f64(report.seconds.round()).unwrap_or_default().as_secs(),
        bytes: report.bytes,
        will_retry,
    };
    Ended { is_success, will_retry, text, run }
}

fn of_error(backup: &str, order: Order, has_begun: bool, error: &Error) -> Ended {
    let what = if has_begun { "failed" } else { "could not begin" };
    let run = RunEvent {
        slot: order.slot(),
        by_hand: order.slot().is_none(),
        outcome: Some(Outcome::Failed.as_str().to_owned()),
        error: Some(printable(&error.message)),
        ..RunEvent::default()
    };
    Ended { is_success: false, will_retry: false, text: format!("backup {backup}: {what}\n{}", of_words(error)), run }
}

fn of_words(error: &Error) -> String {
    let hint = error.hint.as_ref().map(|hint| format!("HINT: {hint}\n")).unwrap_or_default();
    format!("error: {}\n{hint}", printable(&error.message))
}

/// Tells the dead-man's switch of a run from its start to its end.
async fn ping(plan: Arc<Plan>, backup: String, mut ended: oneshot::Receiver<Ended>) {
    let Some(ping) = plan.channels.pings.get(backup.as_str()) else { return };
    let pinger = Pinger::new(ping);
    let started = async {
        match &pinger {
            Ok(pinger) => pinger.send(Signal::Start, "").await,
            Err(error) => Err(error.clone()),
        }
    };
    // The end of the run is the greater news: a start that still waits is let go.
    let mut early = None;
    tokio::select! {
        started = started => {
            if let Err(error) = started {
                tracing::warn!(backup, %error, "the start of the run could not be pinged");
            }
        }
        end = &mut ended => early = Some(end),
    }
    let end = match early {
        Some(end) => end,
        None => ended.await,
    };
    // The process ends: silence is what the switch is for.
    let Ok(end) = end else { return };
    let signal = match (end.is_success, end.will_retry) {
        (true, _) => Signal::Success,
        (false, false) => Signal::Fail,
        // It is not over yet.
        (false, true) => return,
    };
    let sent = match &pinger {
        Ok(pinger) => pinger.send(signal, &end.text).await,
        Err(error) => Err(error.clone()),
    };
    if let Err(error) = &sent {
        tracing::warn!(backup, %error, "the end of the run could not be pinged");
    }
    if let Err(error) = note(&plan, &backup, sent.as_ref().err()) {
        tracing::error!(backup, %error, "cannot keep how the ping went");
    }
}

/// Keeps how a ping went, and tells of one that was not taken.
fn note(plan: &Plan, backup: &str, failed: Option<&Error>) -> Result<()> {
    let alerts = State::open(&plan.state_dir)?.alerts()?;
    alerts.set_ping(backup, failed.map_or(Ok(()), |error| Err(error.message.as_str())), clock::now())?;
    let mut assessment = Assessment::default();
    assessment.look_at_pings(plan, &alerts)?;
    assess::log(&assessment.settle(plan, &alerts, clock::now())?);
    Ok(())
}

/// Runs a hook at the start and at the end of a run.
async fn run_hook(hook: Hook, backup: String, run: RunEvent, ended: oneshot::Receiver<Ended>) {
    let event = |on: On, text: &str, run: RunEvent| {
        let (title, summary) = (text.lines().next().unwrap_or_default().to_owned(), text.lines().next().unwrap_or_default().to_owned());
        let about = format!("backup/{backup}");
        let at = clock::now();
        Event {
            event: on.as_str().to_owned(),
            title,
            summary,
            at,
            machine: machine(),
            text: text.to_owned(),
            run: Some(run),
            ..Event::default()
        }
        .about(&about)
    };
    let tell = async |on: On, text: &str, run: RunEvent| {
        if !hook.on.contains(&on) {
            return;
        }
        match hook::run(&hook, &event(on, text, run), hook.timeout).await {
            Ok(()) => tracing::info!(backup, hook = %hook.name, event = on.as_str(), "hook has run"),
            Err(error) => tracing::warn!(backup, hook = %hook.name, event = on.as_str(), %error, "hook failed"),
        }
    };
    tell(On::RunStarted, &format!("backup {backup}: run begins\n"), run).await;
    let Ok(end) = ended.await else { return };
    let on = if end.is_success { On::RunSucceeded } else { On::RunFailed };
    tell(on, &end.text, end.run).await;
}
