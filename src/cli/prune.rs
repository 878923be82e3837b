//! `prune [BACKUP]`

use anstyle::AnsiColor;
use std::fmt::Write;

use serde::Serialize;

use super::output::{self, JsonError};
use super::session::{Session, Uses, runtime};
use super::{Done, alert};
use crate::config::plan::Backup;
use crate::error::{Error, Kind, Result, exit};
use crate::host::{Tag, clock};
use crate::job::physical::prune::Expired as ExpiredLog;
use crate::job::prune::{self, Judged};
use crate::job::run::find;
use crate::state::{History, Outcome, State};

#[derive(Serialize)]
struct Answer<'a> {
    kept: Vec<Row>,
    deleted: Vec<Row>,
    /// Of physical backups: what goes of their log.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    log: Vec<Log<'a>>,
    dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<JsonError<'a>>,
}

#[derive(Serialize)]
struct Log<'a> {
    store: &'a str,
    #[serde(flatten)]
    expired: &'a ExpiredLog,
}

#[derive(Serialize)]
struct Row {
    id: String,
    reasons: Vec<String>,
}

pub fn prune(session: &Session, backup: Option<&str>, dry_run: bool, trust_clock: bool) -> Done {
    let opened = session.open(Uses::None)?;
    let plan = &opened.plan;
    let backups: Vec<&Backup> = match backup {
        Some(name) => vec![find(plan, name)?],
        None => plan.backups.values().collect(),
    };
    let state = State::open(&plan.state_dir)?;
    let history = state.history()?;
    let alerts = state.alerts()?;
    if trust_clock {
        prune::trust_the_clock(&alerts)?;
    } else if let Some(doubt) = prune::doubt(&alerts)? {
        let doubted = Error::new(Kind::Store, doubt.told()).hint("look at `date`; when it is right: pgvigil prune --trust-clock");
        if !dry_run {
            return Err(doubted);
        }
        output::warn(&doubted.message, doubted.hint.as_deref());
    }
    let mut judged = Vec::new();
    let mut failed: Option<Error> = None;
    let mut passed_over = false;
    runtime()?.block_on(async {
        for backup in &backups {
            let work = async {
                let look = || prune::look(plan, state.owner(), &history, &alerts, backup, clock::now());
                if dry_run {
                    let mut look = look().await?;
                    prune::look_at_log(plan, &state, backup, &mut look.judged).await?;
                    return Ok(look);
                }
                let Some(_lock) = state.lock(backup.name.as_str())? else {
                    return Err(Error::new(Kind::Busy, format!("a run of {} is under way", backup.name))
                        .hint("it prunes by itself when it has ended"));
                };
                let mut look = look().await?;
                prune::apply(plan, &state, backup, &mut look.judged).await?;
                prune::accept_terms(plan, &alerts, backup)?;
                Ok(look)
            };
            match work.await {
                Ok(look) => {
                    judged.extend(look.judged);
                    for (_, error) in look.silent {
                        output::warn(&error.message, error.hint.as_deref());
                        passed_over = true;
                    }
                }
                // What cannot be pruned holds up no other.
                Err(error) => {
                    output::tell(&error);
                    if !dry_run && error.kind != Kind::Busy {
                        note(&history, backup, &error)?;
                    }
                    failed.get_or_insert(error);
                }
            }
            if !dry_run {
                alert::tell(plan, backup.name.as_str()).await;
            }
        }
        Result::Ok(())
    })?;
    answer(session, &judged, dry_run, failed.as_ref())?;
    let done = if passed_over { exit::PROBLEMS } else { exit::OK };
    Ok(failed.map_or(done, |error| error.kind.exit_code()))
}

/// Puts on record that a backup could not be pruned, from where it is told.
fn note(history: &History, backup: &Backup, error: &Error) -> Result<()> {
    let now = clock::now();
    let row = history.begin(backup.name.as_str(), backup.server.as_str(), now, &Tag::random(), None)?;
    history.end(row, now, Outcome::Problems, Some(&format!("prune: {}", error.message)), None, true)
}

fn answer<'a>(session: &Session, judged: &'a [Judged], dry_run: bool, error: Option<&Error>) -> Done {
    let rows = |keep: bool| {
        let verdicts = judged.iter().flat_map(|judged| &judged.verdicts).filter(|verdict| verdict.keep == keep);
        verdicts
            .map(|verdict| Row { id: verdict.id.to_string(), reasons: verdict.reasons.iter().map(ToString::to_string).collect() })
            .collect()
    };
    if session.json {
        let log = |judged: &'a Judged| Some(Log { store: judged.store.as_str(), expired: judged.log.as_ref()? });
        let log = judged.iter().filter_map(log).collect();
        return output::json(&Answer { kept: rows(true), deleted: rows(false), log, dry_run, error: error.map(JsonError::from) });
    }
    if judged.iter().all(|judged| judged.verdicts.is_empty()) {
        return output::text(if error.is_none() { "no backups, nothing to prune\n" } else { "" });
    }
    let mut table = output::table(&["ID", "STORE", "", "WHY"]);
    for judged in judged {
        for verdict in &judged.verdicts {
            let reasons: Vec<String> = verdict.reasons.iter().map(ToString::to_string).collect();
            let (color, word) = match (verdict.keep, dry_run) {
                (true, _) => (AnsiColor::Green, "kept"),
                (false, true) => (AnsiColor::Yellow, "would be deleted"),
                (false, false) => (AnsiColor::Red, "deleted"),
            };
            let word = output::styled(color.on_default(), word);
            table.add_row(vec![verdict.id.to_string(), judged.store.to_string(), word, reasons.join(", ")]);
        }
    }
    let kept: Vec<Row> = rows(true);
    let deleted: Vec<Row> = rows(false);
    let did = if dry_run { "would be deleted" } else { "deleted" };
    let mut text = format!("{}\n{} kept, {} {did}\n", table.trim_fmt(), kept.len(), deleted.len());
    for (store, log) in judged.iter().filter_map(|judged| Some((&judged.store, judged.log.as_ref()?))) {
        let files = if log.files == 1 { "1 file of the log".to_owned() } else { format!("{} files of the log", log.files) };
        let _ = writeln!(text, "{files} in {store} {did}, {} to {}: no base backup that is kept needs them", log.first, log.last);
    }
    output::text(&text)
}
