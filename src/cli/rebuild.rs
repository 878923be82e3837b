//! `rebuild [STORE]`

use std::collections::BTreeMap;

use serde::Serialize;

use super::Done;
use super::output;
use super::session::{Session, Uses, runtime};
use crate::catalog::Rung;
use crate::config::Plan;
use crate::config::plan::Store;
use crate::config::values::Name;
use crate::error::{Error, Kind, Result, exit};
use crate::job::{stores, verify};
use crate::state::State;

/// What a store holds of a backup.
#[derive(Serialize)]
struct Row {
    store: String,
    backup: String,
    count: usize,
    /// ID and rung of the newest.
    newest: Option<String>,
    rung: Option<Rung>,
    /// Where `latest` points now.
    latest: Option<String>,
    unreadable: Vec<Unreadable>,
}

#[derive(Serialize)]
struct Unreadable {
    id: String,
    why: String,
}

pub fn rebuild(session: &Session, store: Option<&str>) -> Done {
    let opened = session.open(Uses::None)?;
    let plan = &opened.plan;
    let chosen = choose(plan, store)?;
    let state = State::open(&plan.state_dir)?;
    let rows = runtime()?.block_on(async {
        let mut rows = Vec::new();
        for store in chosen {
            rows.extend(read(plan, &state, store).await.map_err(|error| error.context(format_args!("store {}", store.name)))?);
        }
        Result::Ok(rows)
    })?;
    if session.json {
        output::json(&rows)?;
    } else if rows.is_empty() {
        output::text("no backups in the stores\n")?;
    } else {
        let mut table = output::table(&["STORE", "BACKUP", "BACKUPS", "NEWEST", "RUNG", "LATEST", "UNREADABLE"]);
        for row in &rows {
            table.add_row(vec![
                row.store.clone(),
                row.backup.clone(),
                row.count.to_string(),
                row.newest.clone().unwrap_or_default(),
                row.rung.map(output::rung).unwrap_or_default(),
                row.latest.clone().unwrap_or_default(),
                row.unreadable.len().to_string(),
            ]);
        }
        output::text(&format!("{}\n", table.trim_fmt()))?;
    }
    for unreadable in rows.iter().flat_map(|row| &row.unreadable) {
        output::warn(&unreadable.why, Some(&format!("RESTORE.md in the folder of {} may still say how to restore it", unreadable.id)));
    }
    Ok(if rows.iter().all(|row| row.unreadable.is_empty()) { exit::OK } else { exit::PROBLEMS })
}

fn choose<'a>(plan: &'a Plan, store: Option<&str>) -> Result<Vec<&'a Store>> {
    let Some(name) = store else {
        return Ok(plan.stores.values().collect());
    };
    plan.stores.get(name).map(|store| vec![store]).ok_or_else(|| {
        let names: Vec<&str> = plan.stores.keys().map(Name::as_str).collect();
        Error::new(Kind::NotFound, format!("there is no store {name:?} in the file"))
            .hint(format!("stores of the file: {}", names.join(", ")))
    })
}

/// Reads every manifest of a store, and points `latest` at the newest good backup of each.
async fn read(plan: &Plan, state: &State, store: &Store) -> Result<Vec<Row>> {
    let name = store.name.as_str();
    let opened = stores::open(store, state.owner())?;
    let catalog = stores::catalog_of_one(plan, &*opened, name, None).await?;
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for entry in &catalog.entries {
        let row = rows.entry(entry.id.backup.clone()).or_insert_with(|| empty(name, &entry.id.backup));
        row.count += 1;
        let rung = entry.rung_in(name);
        if row.newest.is_none() {
            row.newest = Some(entry.id.to_string());
            row.rung = rung;
        }
        if row.latest.is_none() && rung.is_some_and(Rung::is_good) {
            row.latest = Some(entry.id.to_string());
        }
    }
    for (id, error) in &catalog.unreadable {
        let row = rows.entry(id.backup.clone()).or_insert_with(|| empty(name, &id.backup));
        row.unreadable.push(Unreadable { id: id.to_string(), why: error.message.clone() });
    }
    for backup in rows.keys() {
        verify::point_latest(plan, &*opened, name, backup).await?;
    }
    Ok(rows.into_values().collect())
}

fn empty(store: &str, backup: &str) -> Row {
    Row { store: store.to_owned(), backup: backup.to_owned(), count: 0, newest: None, rung: None, latest: None, unreadable: Vec::new() }
}
