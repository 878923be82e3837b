//! `list` and `history`

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use comfy_table::{Cell, CellAlignment};
use serde::Serialize;

use super::Done;
use super::output;
use super::session::{Session, Uses, runtime};
use super::watch::watch;
use crate::catalog::{Catalog, Entry, Rung};
use crate::config::Plan;
use crate::error::{Error, Kind, Result, exit};
use crate::host::clock;
use crate::job::prune::{self, Reasons};
use crate::job::stores;
use crate::retain::policy::TIERS;
use crate::state::{History, Run, State};

#[derive(Serialize)]
struct Row<'a> {
    id: String,
    backup: &'a str,
    label: String,
    taken_at: DateTime<Utc>,
    rung: Rung,
    tiers: Vec<&'static str>,
    pinned: bool,
    narrow: bool,
    bytes: u64,
    raw_bytes: u64,
    databases: &'a [String],
    /// In words; null: it is not, and nobody asks for it.
    /// Only where signatures are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    signed: Option<String>,
    stores: Vec<Copy<'a>>,
}

#[derive(Serialize)]
pub struct Copy<'a> {
    pub name: &'a str,
    pub rung: Rung,
}

/// The copies of a backup.
pub fn copies(entry: &Entry) -> Vec<Copy<'_>> {
    entry.copies.keys().filter_map(|name| Some(Copy { name, rung: entry.rung_in(name)? })).collect()
}

/// The catalog of a backup, or of all. A name that nobody knows is a slip of the hand.
///
/// # Errors
/// A store cannot be read, or the name is unknown.
pub fn catalog(plan: &Plan, backup: Option<&str>) -> Result<Catalog> {
    let catalog = runtime()?.block_on(stores::catalog(plan, "", backup))?;
    if let Some(backup) = backup
        && catalog.entries.is_empty()
        && catalog.unreadable.is_empty()
        && !plan.backups.contains_key(backup)
    {
        let names: Vec<&str> = plan.backups.keys().map(crate::config::values::Name::as_str).collect();
        return Err(
            Error::new(Kind::NotFound, format!("there is no backup {backup:?}")).hint(format!("backups of the file: {}", names.join(", ")))
        );
    }
    for (_, error) in &catalog.unreadable {
        output::warn(&error.message, error.hint.as_deref());
    }
    for (_, error) in &catalog.silent {
        output::warn(&error.message, error.hint.as_deref());
    }
    Ok(catalog)
}

pub fn list(session: &Session, backup: Option<&str>, every: Option<Duration>) -> Done {
    let opened = session.open(Uses::None)?;
    let plan = &opened.plan;
    if let Some(every) = every {
        // A name that nobody knows is told at once, not every other second.
        catalog(plan, backup)?;
        return watch(every, || match runtime().and_then(|runtime| runtime.block_on(stores::catalog(plan, "", backup))) {
            Ok(catalog) => table(&catalog, &prune::reasons(plan, &catalog, clock::now())),
            Err(error) => format!("{error}\n"),
        });
    }
    let catalog = catalog(plan, backup)?;
    let reasons = prune::reasons(plan, &catalog, clock::now());
    if session.json {
        let rows: Vec<Row<'_>> = catalog.entries.iter().map(|entry| row(&catalog, entry, tiers(&reasons, entry))).collect();
        output::json(&rows)?;
    } else {
        output::text(&table(&catalog, &reasons))?;
    }
    let is_whole = catalog.unreadable.is_empty() && catalog.silent.is_empty();
    Ok(if is_whole { exit::OK } else { exit::PROBLEMS })
}

fn table(catalog: &Catalog, reasons: &Reasons) -> String {
    if catalog.entries.is_empty() {
        return "no backups yet; pgvigil run BACKUP makes one\n".to_owned();
    }
    let mut table = output::table(&["ID", "TAKEN (UTC)", "RUNG", "SIZE", "RAW", "DATABASES", "STORES", "TIERS", ""]);
    for entry in &catalog.entries {
        let manifest = &entry.manifest;
        let stores: Vec<&str> = entry.copies.keys().map(String::as_str).collect();
        let marks = [(entry.pinned, "pinned"), (manifest.narrow, "narrow")];
        let marks = marks.iter().filter(|(is, _)| *is).map(|(_, mark)| (*mark).to_owned());
        let marks: Vec<String> = marks.chain(catalog.told(entry)).collect();
        let size = |bytes| Cell::new(output::size(bytes)).set_alignment(CellAlignment::Right);
        table.add_row(vec![
            Cell::new(entry.id.to_string()),
            Cell::new(manifest.taken_at.format("%Y-%m-%d %H:%M:%S").to_string()),
            output::rung_cell(entry.rung()),
            size(manifest.bytes()),
            size(manifest.raw_bytes()),
            Cell::new(crate::host::printable(&manifest.databases.join(", "))),
            Cell::new(stores.join(", ")),
            Cell::new(tiers(reasons, entry).join(" ")),
            Cell::new(marks.join(", ")),
        ]);
    }
    // The ID names backup and slot.
    format!("{}\n", output::fitted(table, &[4, 6, 5, 1, 3, 7]).trim_fmt())
}

/// The tiers that a backup fills in any of its stores.
fn tiers(reasons: &Reasons, entry: &Entry) -> Vec<&'static str> {
    let filled = |tier: &&str| {
        let mut all = reasons.get(&entry.id).into_iter().flat_map(BTreeMap::values).flatten();
        all.any(|reason| reason.tier() == Some(tier))
    };
    TIERS.into_iter().filter(filled).collect()
}

fn row<'a>(catalog: &Catalog, entry: &'a Entry, tiers: Vec<&'static str>) -> Row<'a> {
    Row {
        id: entry.id.to_string(),
        backup: &entry.id.backup,
        label: entry.id.label.to_string(),
        taken_at: entry.manifest.taken_at,
        rung: entry.rung(),
        tiers,
        pinned: entry.pinned,
        narrow: entry.manifest.narrow,
        bytes: entry.manifest.bytes(),
        raw_bytes: entry.manifest.raw_bytes(),
        databases: &entry.manifest.databases,
        signed: catalog.told(entry),
        stores: copies(entry),
    }
}

pub fn history(session: &Session, backup: Option<&str>) -> Done {
    let opened = session.open(Uses::None)?;
    let plan = &opened.plan;
    // To look is not to make.
    let history = if plan.state_dir.join("history.db").exists() { Some(History::open(&plan.state_dir)?) } else { None };
    let read = || history.as_ref().map_or_else(|| Ok(Vec::new()), |history| history.runs(backup));
    let is_broken = |run: &Run| run.outcome.is_none() && !State::is_locked(&plan.state_dir, run.lock());
    let mut runs = read()?;
    // One that has ended between the two looks has noted its end by now.
    if runs.iter().any(is_broken) {
        runs = read()?;
    }
    // A killed run could not note its end; the next one will.
    for run in runs.iter_mut().filter(|run| is_broken(run)) {
        run.interrupt();
    }
    if let Some(backup) = backup
        && runs.is_empty()
        && !plan.backups.contains_key(backup)
    {
        return Err(Error::new(Kind::NotFound, format!("there is no backup {backup:?}")).hint("pgvigil history shows the runs of all"));
    }
    if session.json {
        return output::json(&runs);
    }
    if runs.is_empty() {
        return output::text("no runs yet; pgvigil run BACKUP makes one\n");
    }
    let mut table = output::table(&["BACKUP", "KIND", "STARTED (UTC)", "SECONDS", "OUTCOME", "ID", "WHY"]);
    for run in runs {
        let seconds = run.finished_at.map(|end| (end - run.started_at).num_seconds().to_string());
        table.add_row(vec![
            run.backup,
            run.kind.as_str().to_owned(),
            run.started_at.format("%Y-%m-%d %H:%M:%S").to_string(),
            seconds.unwrap_or_default(),
            run.outcome.unwrap_or_else(|| "running".to_owned()),
            match run.target {
                Some(target) => format!("{} to {target}", run.id.unwrap_or_default()),
                None => run.id.unwrap_or_default(),
            },
            run.error.unwrap_or_default().replace('\n', " "),
        ]);
    }
    output::text(&format!("{}\n", table.trim_fmt()))
}
