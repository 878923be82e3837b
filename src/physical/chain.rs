//! An incremental base backup -> the whole one that it begins with, and all in between.

use crate::catalog::{Entry, Id, Rung, Wanted};
use crate::config::plan::Backup;
use crate::schedule::slots::is_slot;

use chrono::{DateTime, Utc};

/// Whether a slot asks for the changes only: where it is time for a whole one, that is made.
pub fn is_incremental(backup: &Backup, slot: DateTime<Utc>) -> bool {
    let Some(incremental) = backup.physical.as_ref().and_then(|physical| physical.incremental.as_ref()) else { return false };
    let Some(schedule) = &backup.schedule else { return false };
    let whole = crate::config::values::Schedule { also: None, ..schedule.clone() };
    is_slot(incremental, backup.timezone, slot) && !is_slot(&whole, backup.timezone, slot)
}

/// What a base backup is combined of, the whole one first.
///
/// # Errors
/// One of them is not there, or bad in every store: which one.
pub fn of<'a>(entries: &'a [Entry], id: &Id) -> Result<Vec<&'a Entry>, String> {
    let find = |id: &Id| entries.iter().find(|entry| entry.id == *id);
    let mut chain: Vec<&Entry> = Vec::new();
    let mut next = Some(id.clone());
    while let Some(id) = next.take() {
        let for_whom = chain.last().map(|entry| format!(", which {} holds the changes since", entry.id)).unwrap_or_default();
        let Some(entry) = find(&id) else { return Err(format!("{id}{for_whom}, is not there")) };
        // Of itself it is for the one who reads its copy to say.
        if entry.rung() == Rung::Bad && !chain.is_empty() {
            return Err(format!("{id}{for_whom}, is bad"));
        }
        if chain.iter().any(|later| later.id == entry.id) {
            return Err(format!("{id} would be older than itself"));
        }
        chain.push(entry);
        next = entry.manifest.physical.as_ref().and_then(|physical| physical.incremental_of.as_deref()).map(parse).transpose()?;
    }
    chain.reverse();
    Ok(chain)
}

fn parse(id: &str) -> Result<Id, String> {
    let wanted = Wanted::parse(id).map_err(|error| error.message)?;
    let label = wanted.label.ok_or_else(|| format!("{id:?} is no ID"))?;
    Ok(Id { backup: wanted.backup, label })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Plan;

    fn plan(keys: &str) -> Plan {
        let text = format!(
            "state_dir = \"/s\"\n[stores.local]\npath = \"/b\"\n[servers.main]\nhost = \"h\"\n[backups.c]\nkind = \"physical\"\ntimezone = \"Europe/Vienna\"\n{keys}"
        );
        crate::config::parse(&text, std::path::Path::new("x.toml")).unwrap()
    }

    #[test]
    fn where_it_is_time_for_a_whole_one_that_is_made() {
        let plan = plan("schedule = \"0 1 * * 0\"\nincremental = \"0 1,13 * * *\"\n");
        let backup = &plan.backups["c"];
        for (slot, expected) in [
            // A Sunday, at one in Vienna.
            ("2026-01-11T00:00:00Z", false),
            ("2026-01-11T12:00:00Z", true),
            ("2026-01-12T00:00:00Z", true),
            // No slot of either.
            ("2026-01-12T03:00:00Z", false),
        ] {
            assert_eq!(is_incremental(backup, slot.parse().unwrap()), expected, "{slot}");
        }
        let from = "2026-01-10T23:00:00Z".parse().unwrap();
        let slots: Vec<String> = crate::schedule::slots::iter(backup.schedule.as_ref().unwrap(), backup.timezone, from)
            .take(3)
            .map(|slot| slot.format("%d %H").to_string())
            .collect();
        assert_eq!(slots, ["11 00", "11 12", "12 00"], "each of them once");
    }
}
