//! `next`

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::Done;
use super::output;
use super::session::{Session, Uses};
use crate::config::values::Name;
use crate::host::clock;
use crate::schedule::coming::coming;
use crate::schedule::due::Job;
use crate::state::History;

#[derive(Serialize)]
struct Row {
    backup: String,
    kind: Job,
    at: DateTime<Utc>,
    /// In the zone of the backup, with its offset.
    local: String,
    note: Option<String>,
}

pub fn next(session: &Session, days: u16) -> Done {
    let opened = session.open(Uses::None)?;
    let plan = &opened.plan;
    // To look is not to make.
    let history = if plan.state_dir.join("history.db").exists() { Some(History::open(&plan.state_dir)?) } else { None };
    let took = |name: &Name, job| history.as_ref().and_then(|history| history.last_duration(name.as_str(), job).ok().flatten());
    let now = clock::now();
    let places = usize::try_from(plan.max_concurrent_runs).unwrap_or(usize::MAX);
    let rows: Vec<Row> = coming(plan.backups.values(), &took, places, now, now + TimeDelta::days(days.into()))
        .into_iter()
        .map(|slot| {
            let zone = plan.backups[&slot.backup].timezone;
            Row {
                backup: slot.backup.to_string(),
                kind: slot.job,
                at: slot.at,
                local: slot.at.with_timezone(&zone).format("%Y-%m-%dT%H:%M:%S%:z").to_string(),
                note: (!slot.notes.is_empty()).then(|| slot.notes.join("; ")),
            }
        })
        .collect();
    if session.json {
        return output::json(&rows);
    }
    if rows.is_empty() {
        return output::text("no slot comes: no backup of the file has a schedule that fires by then\n");
    }
    let mut table = output::table(&["LOCAL", "ZONE", "BACKUP", "KIND", "NOTE"]);
    for row in rows {
        let zone = plan.backups.get(row.backup.as_str()).map_or("", |backup| backup.timezone.name());
        table.add_row(vec![
            row.local.replace('T', " "),
            zone.to_owned(),
            row.backup,
            row.kind.as_str().to_owned(),
            row.note.unwrap_or_default(),
        ]);
    }
    output::text(&format!("{}\n", table.trim_fmt()))
}
