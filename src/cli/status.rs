//! `status`

use std::fmt::Write;
use std::time::Duration;

use anstyle::AnsiColor;
use chrono::{DateTime, Utc};
use comfy_table::{Cell, CellAlignment, Color};

use super::Done;
use super::output::{self, size};
use super::session::{Session, Uses, runtime};
use super::watch::watch;
use crate::alert::drills::span;
use crate::alert::problems::{age, time};
use crate::config::Plan;
use crate::error::{Error, Kind, Result, exit};
use crate::host::{clock, owner};
use crate::state::{Alerts, State};
use crate::status::forecast::of_stores;
use crate::status::verdict::{Word, headline, of_backup};
use crate::status::words::roughly;
use crate::status::{Alert, Config, Copies, Daemon, Gathered, Outbox, Record, Status, gather};

pub fn status(session: &Session, every: Option<Duration>) -> Done {
    let opened = match session.open(Uses::None) {
        Err(error) if error.kind == Kind::Config => return beside_a_faulty_file(session, error),
        opened => opened?,
    };
    if let Some(every) = every {
        let mut plan = opened.plan;
        return watch(every, || {
            // A file that is faulty just now is told by what is on record.
            if let Ok(Ok(edited)) = session.load() {
                plan = edited;
            }
            look(&plan).map_or_else(|error| format!("{error}\n"), |seen| page(&seen, &plan))
        });
    }
    let seen = look(&opened.plan)?;
    if session.json {
        output::json(&seen.status)?;
    } else {
        output::text(&page(&seen, &opened.plan))?;
    }
    Ok(if seen.status.healthy { exit::OK } else { exit::PROBLEMS })
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
    let outbox = Outbox::of(pending);
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
        let mut text = verdict(&status, "the file is faulty");
        text += &notes(&status);
        output::text(&text)?;
    }
    Ok(exit::PROBLEMS)
}

fn look(plan: &Plan) -> Result<Gathered> {
    let state = State::open(&plan.state_dir)?;
    runtime()?.block_on(gather(plan, &state.history()?, &state.alerts()?, State::has_daemon(&plan.state_dir), clock::now()))
}

/// The colour and the sign of a word; the sign alone must do.
fn sign(word: Word) -> (Color, &'static str) {
    match word {
        Word::Look => (Color::Red, "!"),
        Word::Waiting => (Color::Blue, "o"),
        Word::Sound => (Color::Green, "+"),
        Word::Proven => (Color::Green, "*"),
    }
}

fn verdict(status: &Status, line: &str) -> String {
    let (color, word) = if status.healthy { (AnsiColor::Green, "healthy") } else { (AnsiColor::Red, "NOT HEALTHY") };
    format!("{}: {line}\n", output::styled(color.on_default().bold(), word))
}

fn page(seen: &Gathered, plan: &Plan) -> String {
    let (status, now) = (&seen.status, seen.at);
    let worded: Vec<(&Record, Word)> = seen.records.iter().map(|record| (record, of_backup(plan, record, status, now))).collect();
    let words: Vec<(&str, Word)> = worded.iter().map(|(record, word)| (record.name.as_str(), *word)).collect();
    let mut text = verdict(status, &headline(&words, status).1);
    if !status.backups.is_empty() {
        let _ = writeln!(text, "\n{}", backups(seen, &worded).trim_fmt());
    }
    if status.backups.iter().any(|backup| backup.log.is_some()) {
        let _ = writeln!(text, "\n{}", logs(seen).trim_fmt());
    }
    let _ = writeln!(text, "\n{}", stores(seen, plan, now).trim_fmt());
    text + &notes(status)
}

/// How much of a limit is used up, in eight places.
fn bar(share: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 8")]
    let full = (share.clamp(0.0, 1.0) * 8.0).round() as usize;
    format!("{}{}", "#".repeat(full), ".".repeat(8 - full))
}

fn backups(seen: &Gathered, worded: &[(&Record, Word)]) -> comfy_table::Table {
    let mut titles = vec!["", "BACKUP", "STATE", "NEWEST GOOD", "RUNG", "AGE", "", "TOO OLD AT", "RESTORE TAKES", "NEXT SLOT", "LAST RUN"];
    let has_copies = seen.status.backups.iter().any(|backup| !backup.copies.is_empty());
    titles.extend(has_copies.then_some("COPIES"));
    let mut table = output::table(&titles);
    for backup in &seen.status.backups {
        let Some((record, word)) = worded.iter().find(|(record, _)| record.name.as_str() == backup.name) else { continue };
        let (color, sign) = sign(*word);
        let last = backup.last_run.as_ref().and_then(|run| run.outcome.clone()).unwrap_or_else(|| "never".to_owned());
        let told = |secs: Option<i64>| secs.map(age).unwrap_or_default();
        let share = backup.age_seconds.zip(backup.max_age_seconds).map(|(age, limit)| seconds(age) / seconds(limit.max(1)));
        let is_over = share.is_some_and(|share| share > 1.0);
        let run_is_bad = ["failed", "interrupted"].contains(&last.as_str());
        let mut row = vec![
            Cell::new(sign).fg(color),
            Cell::new(&backup.name),
            Cell::new(word.as_str()).fg(color),
            Cell::new(backup.last_success_id.as_deref().unwrap_or("none")),
            rung(backup.rung),
            tinted(told(backup.age_seconds), is_over.then_some(Color::Red)).set_alignment(CellAlignment::Right),
            tinted(share.map(bar).unwrap_or_default(), Some(if is_over { Color::Red } else { Color::Green })),
            Cell::new(told(backup.max_age_seconds)),
            restore(record),
            Cell::new(backup.next_at.map(|at| time(at, record.zone)).unwrap_or_default()),
            if backup.running { Cell::new("running").fg(Color::Blue) } else { tinted(last, run_is_bad.then_some(Color::Red)) },
        ];
        row.extend(has_copies.then(|| copies(&backup.copies)));
        table.add_row(row);
    }
    // The bar says what stands beside it, and `list` has the IDs; the state and what comes next stay.
    output::fitted(table, &[6, 3, 8, 10, 7, 11, 4])
}

/// The log of physical backups: what can be restored of it, and what a loss of the server would cost.
fn logs(seen: &Gathered) -> comfy_table::Table {
    let mut table = output::table(&["LOG OF", "ANY MOMENT FROM", "TO", "MAY BE LOST", "ON THE SERVER ONLY", "SLOT HOLDS", "GAPS"]);
    for backup in &seen.status.backups {
        let Some(log) = &backup.log else { continue };
        let zone = seen.records.iter().find(|record| record.name.as_str() == backup.name).map_or(chrono_tz::UTC, |record| record.zone);
        let at = |at: Option<DateTime<Utc>>| Cell::new(at.map_or("never".to_owned(), |at| time(at, zone)));
        let bytes = |bytes: Option<u64>| Cell::new(bytes.map(size).unwrap_or_default()).set_alignment(CellAlignment::Right);
        let gaps = log.figures.gaps;
        table.add_row(vec![
            Cell::new(&backup.name),
            at(log.figures.restorable_from),
            at(log.figures.restorable_to),
            Cell::new(match log.may_lose_seconds {
                Some(0) => "nothing".to_owned(),
                Some(secs) => format!("the last {}", age(secs)),
                None => "all".to_owned(),
            }),
            bytes(log.figures.bytes_behind),
            bytes(log.figures.slot_holds_bytes),
            tinted(if gaps == 0 { "none".to_owned() } else { gaps.to_string() }, (gaps > 0).then_some(Color::Red)),
        ]);
    }
    output::fitted(table, &[5, 4, 1])
}

/// How a backup stands in each of its other stores.
fn copies(copies: &[Copies]) -> Cell {
    let told = copies.iter().map(|copy| match (copy.answers, copy.awaited, copy.rung) {
        (false, ..) => format!("{}: no answer", copy.store),
        (true, 0, Some(rung)) => format!("{}: {rung}", copy.store),
        (true, 0, None) => format!("{}: nothing yet", copy.store),
        (true, awaited, _) => format!("{}: {awaited} behind", copy.store),
    });
    let is_behind = copies.iter().any(|copy| !copy.answers || copy.awaited > 0);
    tinted(told.collect::<Vec<_>>().join(", "), is_behind.then_some(Color::Yellow))
}

#[expect(clippy::cast_precision_loss, reason = "a share is shown")]
fn seconds(secs: i64) -> f64 {
    secs as f64
}

fn tinted(text: String, color: Option<Color>) -> Cell {
    let cell = Cell::new(text);
    match color {
        Some(color) => cell.fg(color),
        None => cell,
    }
}

fn rung(rung: Option<crate::catalog::Rung>) -> Cell {
    rung.map_or_else(|| Cell::new(""), output::rung_cell)
}

/// The measured time of a restore, against what it may take.
fn restore(record: &Record) -> Cell {
    match (record.restore, record.budget_seconds) {
        (Some((took, _)), Some(budget)) => tinted(format!("{} of {}", span(took), span(budget)), (took > budget).then_some(Color::Red)),
        (Some((took, _)), None) => Cell::new(span(took)),
        (None, _) => Cell::new(""),
    }
}

fn stores(seen: &Gathered, plan: &Plan, now: DateTime<Utc>) -> comfy_table::Table {
    let forecasts = of_stores(plan, seen);
    let mut table = output::table(&["STORE", "SIZE", "USED", "PERCENT", "", "ALERT ABOVE", "FULL"]);
    for store in &seen.status.stores {
        let told = |bytes: Option<u64>| Cell::new(bytes.map(size).unwrap_or_default()).set_alignment(CellAlignment::Right);
        let is_over = store.used_percent.is_some_and(|percent| percent > store.alert_above_percent);
        let color = if is_over { Color::Red } else { Color::Green };
        let full = forecasts.iter().find(|(name, _)| *name == store.name).map(|(_, forecast)| match forecast.full_at {
            Some(at) => format!("about {}, in {}", at.format("%Y-%m-%d"), roughly(at - now)),
            None => "not within 3 years".to_owned(),
        });
        table.add_row(vec![
            Cell::new(&store.name),
            told(store.total_bytes),
            told(store.used_bytes),
            tinted(store.used_percent.map(|percent| format!("{percent} %")).unwrap_or_default(), is_over.then_some(Color::Red))
                .set_alignment(CellAlignment::Right),
            tinted(store.used_percent.map(|percent| bar(f64::from(percent) / 100.0)).unwrap_or_default(), Some(color)),
            Cell::new(format!("{} %", store.alert_above_percent)),
            Cell::new(full.unwrap_or_default()),
        ]);
    }
    output::fitted(table, &[4, 1, 2])
}

fn notes(status: &Status) -> String {
    let mut text = String::new();
    if !status.alerts.is_empty() {
        let mut alerts = output::table(&["ALERT", "SINCE (UTC)", "WHAT"]);
        for alert in &status.alerts {
            let since = alert.since.format("%Y-%m-%d %H:%M:%S").to_string();
            alerts.add_row(vec![Cell::new(&alert.key).fg(Color::Red), Cell::new(since), Cell::new(&alert.summary)]);
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
