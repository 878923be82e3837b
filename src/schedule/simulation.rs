//! A year of a daemon's life with jumps of the clock, downtimes and slow runs, played through
//! against the pure decisions.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;

use super::due::{Attempted, Due, Record, begins, due};
use super::slots;
use crate::config::plan::Backup;

/// What befalls the daemon, in its turn.
#[derive(Debug, Clone)]
enum Event {
    /// Nothing for so many hours.
    Calm(u16),
    /// It is down for so many hours.
    Down(u16),
    /// The clock goes ahead or back by so many days, and is right again so many hours later.
    Jump { days: i16, hours: u8 },
}

#[derive(Debug, Clone, Copy)]
struct Run {
    minutes: u16,
    fails: bool,
}

struct World<'a> {
    backup: &'a Backup,
    /// The time that it truly is, and what the clock of the machine says.
    truly: DateTime<Utc>,
    ahead: TimeDelta,
    since: DateTime<Utc>,
    /// Attempts and the failure that may pass, by slot: the history.
    slots: BTreeMap<DateTime<Utc>, (u32, Option<DateTime<Utc>>)>,
    /// By the right clock: when a slot was begun.
    begun: Vec<(DateTime<Utc>, DateTime<Utc>)>,
    /// From when to when runs were under way, by the right clock.
    busy: Vec<(DateTime<Utc>, DateTime<Utc>)>,
    runs: std::iter::Cycle<std::vec::IntoIter<Run>>,
}

impl World<'_> {
    fn now(&self) -> DateTime<Utc> {
        self.truly + self.ahead
    }

    fn record(&mut self) -> Record {
        let now = self.now();
        // As the history does: a beginning in the future is none.
        self.since = self.since.min(now);
        let last = self.slots.range(..=now).next_back();
        Record {
            since: self.since,
            last: last.map(|(slot, (attempts, may_pass))| Attempted { slot: *slot, attempts: *attempts, may_pass: *may_pass }),
        }
    }

    /// Lives on until a moment, by the true time.
    fn live(&mut self, until: DateTime<Utc>) -> Result<(), TestCaseError> {
        while self.truly < until {
            let (now, record) = (self.now(), self.record());
            match due(self.backup, &record, now) {
                Due::Run { slot, attempt } => self.run(slot, attempt, now)?,
                Due::Skip { slot } => {
                    prop_assert!(self.slots.insert(slot, (0, None)).is_none(), "{slot} skipped twice");
                }
                Due::At(next) => {
                    let next = next.unwrap_or(now + TimeDelta::days(1));
                    prop_assert!(next > now, "at {now} it waits for {next}");
                    self.truly += (next - now).min(until - self.truly);
                }
            }
        }
        Ok(())
    }

    fn run(&mut self, slot: DateTime<Utc>, attempt: u32, now: DateTime<Utc>) -> Result<(), TestCaseError> {
        prop_assert!(slot <= now, "{slot} at {now}");
        prop_assert!(attempt <= self.backup.retries + 1, "attempt {attempt} of {slot}");
        let before = self.slots.get(&slot).map_or(0, |(attempts, _)| *attempts);
        prop_assert_eq!(attempt, before + 1, "{} is run twice", slot);
        if self.ahead.is_zero() && attempt == 1 {
            self.begun.push((slot, self.truly));
        }
        let run = self.runs.next().unwrap_or(Run { minutes: 1, fails: false });
        let from = self.truly;
        self.truly += TimeDelta::minutes(run.minutes.into());
        self.busy.push((from, self.truly));
        let ended = self.now();
        self.slots.insert(slot, (attempt, run.fails.then_some(ended)));
        // No overlap: what came meanwhile is put on record as skipped.
        let schedule = self.backup.schedule.as_ref().unwrap();
        if let Some(missed) = slots::latest(schedule, self.backup.timezone, slot, ended - TimeDelta::seconds(1)) {
            self.slots.entry(missed).or_insert((0, None));
        }
        Ok(())
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (1..400_u16).prop_map(Event::Calm),
        2 => (1..200_u16).prop_map(Event::Down),
        1 => (prop_oneof![Just(365_i16), Just(-365), -400..400_i16], 1..72_u8).prop_map(|(days, hours)| Event::Jump { days, hours }),
    ];
    prop::collection::vec(event, 30..60)
}

fn runs() -> impl Strategy<Value = Vec<Run>> {
    let run =
        (prop_oneof![5 => 1..50_u16, 1 => 50..4_000_u16], prop::bool::weighted(0.2)).prop_map(|(minutes, fails)| Run { minutes, fails });
    prop::collection::vec(run, 1..40)
}

proptest! {
    // Each case is a year. PROPTEST_CASES, where it is set, is what counts.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 8, ..ProptestConfig::default() })]

    #[test]
    fn a_year(
        events in events(),
        runs in runs(),
        schedule in prop::sample::select(vec!["0 2 * * *", "30 2 * * *", "0 */6 * * *", "15 * * * *", "0 3 * * 0"]),
        zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/Santiago", "Australia/Lord_Howe", "Africa/Cairo"]),
        keys in prop::sample::select(vec!["", "jitter = \"10m\"", "catch_up = false", "retries = 0"]),
    ) {
        let text = format!(
            "timezone = \"{zone}\"\n[servers.main]\nhost = \"x\"\n[stores.local]\npath = \"/x\"\n[backups.x]\ndatabase = \"x\"\nschedule = \"{schedule}\"\n{keys}\n"
        );
        let plan = crate::config::parse(&text, std::path::Path::new("x")).unwrap();
        let backup = &plan.backups["x"];
        let start: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut world = World {
            backup,
            truly: start,
            ahead: TimeDelta::zero(),
            since: start,
            slots: BTreeMap::new(),
            begun: Vec::new(),
            busy: Vec::new(),
            runs: runs.into_iter().cycle(),
        };
        let mut calm = Vec::new();
        for event in events {
            match event {
                Event::Calm(hours) => {
                    let from = world.truly;
                    world.live(from + TimeDelta::hours(hours.into()))?;
                    calm.push((from, world.truly));
                }
                Event::Down(hours) => world.truly += TimeDelta::hours(hours.into()),
                Event::Jump { days, hours } => {
                    world.ahead = TimeDelta::days(days.into());
                    world.live(world.truly + TimeDelta::hours(hours.into()))?;
                    world.ahead = TimeDelta::zero();
                }
            }
        }
        // In every calm spell the schedule went on at once: each of its slots is on record, or came
        // while a run was under way.
        for (from, to) in calm {
            let expected = slots::iter(backup.schedule.as_ref().unwrap(), backup.timezone, from).take_while(|slot| *slot < to - TimeDelta::hours(1));
            for slot in expected {
                let is_busy = world.busy.iter().any(|(begun, ended)| *begun <= slot && slot <= *ended);
                prop_assert!(is_busy || world.slots.contains_key(&slot), "{} of the spell from {} to {}", slot, from, to);
            }
        }
        for (slot, at) in &world.begun {
            prop_assert!(*at >= begins(backup, *slot), "{} begun at {}", slot, at);
        }
    }
}
