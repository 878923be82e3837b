//! The coming slots of all backups, with what is odd about them: a pure function of the schedules,
//! of how long runs took, and now.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::due::{Job, begins, delta};
use super::slots::{self, Note};
use crate::config::plan::Backup;
use crate::config::values::Name;

/// More slots of one backup than this tell nobody anything.
const SLOTS_MAX: usize = 1_000;

/// A slot that is to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coming {
    pub backup: Name,
    pub job: Job,
    pub at: DateTime<Utc>,
    /// What a change of the clocks does to it, and what it must wait for.
    pub notes: Vec<String>,
}

/// One that was found, and when its work begins.
struct Found<'a> {
    backup: &'a Backup,
    job: Job,
    slot: DateTime<Utc>,
    starts: DateTime<Utc>,
    clocks: Option<Note>,
}

/// The slots after `now` and up to `until`, in order. `took` is how long the last run or drill of a
/// backup took, and `places` how many runs there may be at a time; of drills there is one.
pub fn coming<'a>(
    backups: impl Iterator<Item = &'a Backup>,
    took: &dyn Fn(&Name, Job) -> Option<Duration>,
    places: usize,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Vec<Coming> {
    let mut found: Vec<Found<'_>> = Vec::new();
    for backup in backups {
        for (job, schedule) in [(Job::Dump, backup.schedule.as_ref()), (Job::Drill, backup.drill_schedule())] {
            let Some(schedule) = schedule else { continue };
            let slots = slots::iter(schedule, backup.timezone, now).take_while(|slot| *slot <= until).take(SLOTS_MAX);
            found.extend(slots.map(|slot| Found {
                backup,
                job,
                slot,
                starts: if job == Job::Dump { begins(backup, slot) } else { slot },
                clocks: slots::note(schedule, backup.timezone, slot),
            }));
        }
    }
    found.sort_by_key(|found| (found.starts, found.backup.name.clone(), found.job));
    let (mut runs, mut drills) = (Lane::new(places), Lane::new(1));
    let mut coming = Vec::new();
    for Found { backup, job, slot, starts, clocks } in found {
        let mut notes: Vec<String> = clocks.map(|note| told(note).to_owned()).into_iter().collect();
        let lane = if job == Job::Dump { &mut runs } else { &mut drills };
        notes.extend(lane.take(&backup.name, job, starts, took(&backup.name, job).unwrap_or_default()));
        coming.push(Coming { backup: backup.name.clone(), job, at: slot, notes });
    }
    coming.sort_by(|a, b| (a.at, &a.backup, a.job).cmp(&(b.at, &b.backup, b.job)));
    coming
}

/// The places for one kind of work, and until when they are taken.
struct Lane<'a> {
    places: usize,
    busy: Vec<(DateTime<Utc>, &'a Name)>,
}

impl<'a> Lane<'a> {
    fn new(places: usize) -> Self {
        Lane { places: places.max(1), busy: Vec::new() }
    }

    /// Takes a place, and says what is odd about it.
    fn take(&mut self, name: &'a Name, job: Job, starts: DateTime<Utc>, took: Duration) -> Option<String> {
        let what = if job == Job::Dump { "run" } else { "drill" };
        self.busy.retain(|(ends, _)| *ends > starts);
        if self.busy.iter().any(|(_, holder)| *holder == name) {
            return Some(format!("skipped: the {what} before it is still under way by then"));
        }
        let mut note = None;
        let mut free = starts;
        if self.busy.len() >= self.places {
            self.busy.sort();
            let (ends, holder) = self.busy[self.busy.len() - self.places];
            note = Some(format!("waits for {holder}, about {} min", ((ends - starts).num_seconds() + 59) / 60));
            free = ends;
        }
        self.busy.push((free + delta(took), name));
        note
    }
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
        let took = |name: &Name, _| (name.as_str() == "a").then(|| Duration::from_secs(a_took_mins * 60));
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

    #[test]
    fn drills_wait_for_drills_only() {
        let mut plan = plan();
        for (name, drill) in [("a", "0 2 * * *"), ("b", "40 2 * * *")] {
            let backup = plan.backups.get_mut(name).unwrap();
            backup.drill = Some(crate::config::drill::Drill {
                schedule: Some(drill.parse().unwrap()),
                on: backup.drill_default.clone(),
                budget: None,
                store: None,
            });
        }
        let took = |_: &Name, job| Some(Duration::from_secs(if job == Job::Drill { 3_000 } else { 60 }));
        let (from, to) = ("2026-01-10T12:00:00Z".parse().unwrap(), "2026-01-11T12:00:00Z".parse().unwrap());
        let found: Vec<_> = coming(plan.backups.values(), &took, 1, from, to)
            .into_iter()
            .map(|coming| (coming.backup.to_string(), coming.job, coming.at.format("%H:%M").to_string(), coming.notes.join("; ")))
            .collect();
        let row = |name: &str, job, at: &str, note: &str| (name.to_owned(), job, at.to_owned(), note.to_owned());
        assert_eq!(
            found,
            [
                row("a", Job::Dump, "01:00", ""),
                row("a", Job::Drill, "01:00", ""),
                row("b", Job::Dump, "01:30", ""),
                row("b", Job::Drill, "01:40", "waits for a, about 10 min")
            ]
        );
    }
}
