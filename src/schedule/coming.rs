//! The coming slots of all backups, with what is odd about them: a pure function of the schedules,
//! of how long runs took, and now.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::due::{begins, delta};
use super::slots::{self, Note};
use crate::config::plan::Backup;
use crate::config::values::Name;

/// More slots of one backup than this tell nobody anything.
const SLOTS_MAX: usize = 1_000;

/// A slot that is to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coming {
    pub backup: Name,
    pub at: DateTime<Utc>,
    /// What a change of the clocks does to it, and what it must wait for.
    pub notes: Vec<String>,
}

/// The slots after `now` and up to `until`, in order. `took` is how long the last run of a backup
/// took, and `places` how many runs there may be at a time.
pub fn coming<'a>(
    backups: impl Iterator<Item = &'a Backup>,
    took: &dyn Fn(&Name) -> Option<Duration>,
    places: usize,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Vec<Coming> {
    let mut found: Vec<(&Backup, DateTime<Utc>, Option<Note>)> = Vec::new();
    for backup in backups {
        if let Some(schedule) = &backup.schedule {
            let slots = slots::iter(schedule, backup.timezone, now).take_while(|slot| *slot <= until).take(SLOTS_MAX);
            found.extend(slots.map(|slot| (backup, slot, slots::note(schedule, backup.timezone, slot))));
        }
    }
    found.sort_by_key(|(backup, slot, _)| (begins(backup, *slot), backup.name.clone()));
    let mut running: Vec<(DateTime<Utc>, &Name)> = Vec::new();
    let mut coming = Vec::new();
    for (backup, slot, clocks) in found {
        let mut notes: Vec<String> = clocks.map(|note| told(note).to_owned()).into_iter().collect();
        let starts = begins(backup, slot);
        running.retain(|(ends, _)| *ends > starts);
        if running.iter().any(|(_, name)| **name == backup.name) {
            notes.push("skipped: the run before it is still under way by then".to_owned());
        } else {
            let mut free = starts;
            if running.len() >= places.max(1) {
                running.sort();
                let (ends, holder) = running[running.len() - places.max(1)];
                notes.push(format!("waits for {holder}, about {} min", ((ends - starts).num_seconds() + 59) / 60));
                free = ends;
            }
            running.push((free + delta(took(&backup.name).unwrap_or_default()), &backup.name));
        }
        coming.push(Coming { backup: backup.name.clone(), at: slot, notes });
    }
    coming.sort_by(|a, b| (a.at, &a.backup).cmp(&(b.at, &b.backup)));
    coming
}

fn told(note: Note) -> &'static str {
    match note {
        Note::Gap => "gap: its time does not exist on that day; it runs when the clocks have gone forward",
        Note::Fold => "fold: its time comes twice on that day",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::Plan;

    fn plan() -> Plan {
        let text = "timezone = \"Europe/Berlin\"\n[servers.main]\nhost = \"x\"\n[stores.local]\npath = \"/x\"\n
            [backups.a]\ndatabase = \"a\"\nschedule = \"0 2 * * *\"\n[backups.b]\ndatabase = \"b\"\nschedule = \"30 2 * * *\"\n";
        crate::config::parse(text, std::path::Path::new("x")).unwrap()
    }

    fn ask(a_took_mins: u64, places: usize, from: &str, to: &str) -> Vec<(String, String, String)> {
        let took = |name: &Name| (name.as_str() == "a").then(|| Duration::from_secs(a_took_mins * 60));
        coming(plan().backups.values(), &took, places, from.parse().unwrap(), to.parse().unwrap())
            .into_iter()
            .map(|coming| (coming.backup.to_string(), coming.at.format("%d %H:%M").to_string(), coming.notes.join("; ")))
            .collect()
    }

    fn rows(rows: &[(&str, &str, &str)]) -> Vec<(String, String, String)> {
        rows.iter().map(|(a, b, c)| ((*a).to_owned(), (*b).to_owned(), (*c).to_owned())).collect()
    }

    #[test]
    fn changes_of_the_clocks() {
        let gap = told(Note::Gap);
        assert_eq!(ask(1, 2, "2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z"), rows(&[("a", "29 01:00", gap), ("b", "29 01:00", gap)]));
        let fold = told(Note::Fold);
        assert_eq!(ask(1, 2, "2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z"), rows(&[("a", "25 00:00", fold), ("b", "25 00:30", fold)]));
    }

    #[test]
    fn collisions_by_measured_durations() {
        let (from, to) = ("2026-01-10T12:00:00Z", "2026-01-11T12:00:00Z");
        assert_eq!(ask(20, 1, from, to), rows(&[("a", "11 01:00", ""), ("b", "11 01:30", "")]));
        assert_eq!(ask(50, 1, from, to), rows(&[("a", "11 01:00", ""), ("b", "11 01:30", "waits for a, about 20 min")]));
        assert_eq!(ask(50, 2, from, to), rows(&[("a", "11 01:00", ""), ("b", "11 01:30", "")]));
        let day = ask(25 * 60, 2, from, "2026-01-12T12:00:00Z");
        assert_eq!(day[2], ("a".to_owned(), "12 01:00".to_owned(), "skipped: the run before it is still under way by then".to_owned()));
    }
}
