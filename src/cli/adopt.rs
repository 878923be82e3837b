//! `adopt BACKUP FILE...`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::output::{self, JsonError};
use super::session::{Session, Uses, runtime};
use super::{Done, bar};
use crate::catalog::Rung;
use crate::error::exit;
use crate::host::{owner, printable, signals};
use crate::job::adopt::{Adopted, Wanted, adopt as take};
use crate::job::progress::Progress;
use crate::job::run::find;
use crate::state::Outcome;
use crate::store::original::{Original, raise_limit_of_open_files};

#[derive(Serialize)]
struct Row<'a> {
    file: String,
    id: Option<String>,
    outcome: Outcome,
    rung: Option<Rung>,
    error: Option<JsonError<'a>>,
}

pub fn adopt(session: &Session, backup: &str, files: &[PathBuf]) -> Done {
    let opened = session.open_as_caller(Uses::None)?;
    let plan = &opened.plan;
    find(plan, backup)?;
    // Root's own old dumps are opened before root goes on as somebody else.
    raise_limit_of_open_files();
    let wanted = files.iter().map(|path| Wanted { path: path.clone(), original: Original::open(path) }).collect();
    owner::become_owner_of(&plan.state_dir)?;
    let cancel = signals::cancelled_by_signals()?;
    let progress = Arc::new(Progress::default());
    let runtime = runtime()?;
    let adopted = runtime.block_on(async {
        let bar = bar::show(&progress, bar::OF_LAST_RUN);
        let adopted = Box::pin(take(plan, backup, wanted, &progress, &cancel)).await;
        drop(bar);
        adopted
    });
    // A read that hangs on a dead disk is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    tell(session, backup, &adopted?)
}

fn tell(session: &Session, backup: &str, adopted: &[Adopted]) -> Done {
    for one in adopted {
        let name = printable(&one.path.display().to_string());
        for note in &one.notes {
            output::warn(&format!("{name}: {note}"), None);
        }
        if let Some(error) = &one.error {
            output::tell(&error.clone().context(&name));
        }
    }
    if session.json {
        output::json(&adopted.iter().map(row).collect::<Vec<_>>())?;
    } else {
        output::text(&page(backup, adopted))?;
    }
    let has = |outcomes: &[Outcome]| adopted.iter().any(|one| outcomes.contains(&one.outcome));
    Ok(if has(&[Outcome::Failed, Outcome::Cancelled, Outcome::Interrupted]) {
        exit::FAILED
    } else if has(&[Outcome::Problems]) {
        exit::PROBLEMS
    } else {
        exit::OK
    })
}

fn row(one: &Adopted) -> Row<'_> {
    Row {
        file: one.path.display().to_string(),
        id: one.id.as_ref().map(ToString::to_string),
        outcome: one.outcome,
        rung: one.rung,
        error: one.error.as_ref().map(JsonError::from),
    }
}

fn page(backup: &str, adopted: &[Adopted]) -> String {
    let mut table = output::table(&["FILE", "ID", "RUNG", ""]);
    for one in adopted {
        let did = match (&one.id, one.outcome) {
            (None, _) => "not adopted",
            (Some(_), Outcome::Skipped) => "there already",
            (Some(_), _) => "adopted",
        };
        table.add_row(vec![
            printable(&one.path.display().to_string()),
            one.id.as_ref().map(ToString::to_string).unwrap_or_default(),
            one.rung.map(output::rung).unwrap_or_default(),
            did.to_owned(),
        ]);
    }
    let there = adopted.iter().filter(|one| one.outcome == Outcome::Skipped).count();
    let refused = adopted.iter().filter(|one| one.id.is_none()).count();
    let counts = [(adopted.len() - there - refused, "adopted"), (there, "there already"), (refused, "not adopted")];
    let counts: Vec<String> = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    format!(
        "{}\n{}; the originals are as they were\nnothing was pruned: the next run does it, or pgvigil prune {backup}\n",
        table.trim_fmt(),
        counts.join(", ")
    )
}
