//! What is due for one backup: a pure function of its schedule, the slots that are on record, and now.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use serde::Serialize;

use super::slots;
use crate::config::plan::Backup;
use crate::config::values::Schedule;

/// The first pause before a failed run is tried again; each further one is three times as long.
const BACKOFF: Duration = Duration::from_secs(10);

/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(900);

/// A slot that begins later than this after its time was missed: nobody was there to begin it.
const LATE: Duration = Duration::from_secs(60);

/// What the slot of a schedule asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// A new backup.
    Dump,
    /// A restore of the newest good one, for a trial.
    Drill,
    /// A restore that somebody asked for; it has no schedule.
    Restore,
    /// Backups copied on to another store; it follows the runs.
    Copy,
}

impl Job {
    pub fn as_str(self) -> &'static str {
        match self {
            Job::Dump => "dump",
            Job::Drill => "drill",
            Job::Restore => "restore",
            Job::Copy => "copy",
        }
    }
}

/// How long to wait before a store is tried again that did not take a copy, after so many failures in
/// a row: from a minute to an hour.
pub fn copy_again_after(failures: u32) -> TimeDelta {
    TimeDelta::minutes((1 << failures.saturating_sub(1).min(6)).min(60))
}

/// What is on record of a backup's schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Slots count from here: when this schedule was seen first.
    pub since: DateTime<Utc>,
    /// The latest slot on record that is not in the future.
    pub last: Option<Attempted>,
}

/// A slot that was begun, maybe more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempted {
    pub slot: DateTime<Utc>,
    pub attempts: u32,
    /// When the last attempt ended in a failure that may pass.
    pub may_pass: Option<DateTime<Utc>>,
}

/// What to do for a backup now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Begin the run of a slot.
    Run { slot: DateTime<Utc>, attempt: u32 },
    /// Put on record that a slot was missed, and go on.
    Skip { slot: DateTime<Utc> },
    /// Nothing before that moment; `None`: never.
    At(Option<DateTime<Utc>>),
}

/// What is due for a backup that no run is under way of.
pub fn due(backup: &Backup, record: &Record, now: DateTime<Utc>) -> Due {
    let Some(schedule) = &backup.schedule else {
        return Due::At(None);
    };
    let from = watermark(record, now);
    if let Some(slot) = slots::latest(schedule, backup.timezone, from, now) {
        return come(backup, slot, begins(backup, slot), now);
    }
    let next = slots::next(schedule, backup.timezone, from.max(now)).map(|slot| begins(backup, slot));
    match retry(backup, record, now) {
        Some((last, at)) if at <= now => Due::Run { slot: last.slot, attempt: last.attempts + 1 },
        Some((_, at)) => Due::At(Some(next.map_or(at, |next| next.min(at)))),
        None => Due::At(next),
    }
}

/// What is due of a backup's drills while none of it is under way. One that could not be done is not
/// tried again before its next slot: it has been told, and the backup is as good as it was.
pub fn drill_due(backup: &Backup, record: &Record, now: DateTime<Utc>) -> Due {
    let Some(schedule) = backup.drill_schedule() else {
        return Due::At(None);
    };
    let from = watermark(record, now);
    match slots::latest(schedule, backup.timezone, from, now) {
        // Drills come one at a time anyway: no jitter.
        Some(slot) => come(backup, slot, slot, now),
        None => Due::At(slots::next(schedule, backup.timezone, from.max(now))),
    }
}

/// Slots after that moment are still to be done.
fn watermark(record: &Record, now: DateTime<Utc>) -> DateTime<Utc> {
    // What lies in the future was written under another clock.
    let since = if record.since > now { now } else { record.since };
    record.last.filter(|last| last.slot <= now).map_or(since, |last| last.slot.max(since))
}

/// What to do about a slot that has come, and begins at `start`.
fn come(backup: &Backup, slot: DateTime<Utc>, start: DateTime<Utc>, now: DateTime<Utc>) -> Due {
    match now - start {
        early if early < TimeDelta::zero() => Due::At(Some(start)),
        late if !backup.catch_up && late > delta(LATE) => Due::Skip { slot },
        _ => Due::Run { slot, attempt: 1 },
    }
}

/// The slot that failed and is to be tried again, and when.
fn retry(backup: &Backup, record: &Record, now: DateTime<Utc>) -> Option<(Attempted, DateTime<Utc>)> {
    let last = record.last.filter(|last| last.slot <= now && last.attempts <= backup.retries && last.slot >= record.since.min(now))?;
    let ended = last.may_pass?;
    // Ended in the future: the clock has jumped back, and nobody waits until it is there again.
    Some((last, if ended > now { now } else { ended + delta(backoff(last.attempts)) }))
}

/// Whether a failed slot will be tried again. It will not when another slot comes first and takes
/// its place, and when its time has passed without a try: nobody is there.
pub fn will_retry(backup: &Backup, record: &Record, now: DateTime<Utc>) -> bool {
    let Some(schedule) = &backup.schedule else { return false };
    retry(backup, record, now)
        .is_some_and(|(last, at)| now <= at + delta(LATE) && slots::next(schedule, backup.timezone, last.slot).is_none_or(|slot| slot > at))
}

/// When the run of a slot begins: at its time, or up to `jitter` later, the same for every attempt.
/// It is always before the next slot, which would take its place: else a long jitter would let one
/// slot after the other pass.
pub fn begins(backup: &Backup, slot: DateTime<Utc>) -> DateTime<Utc> {
    let Some(jitter) = backup.jitter.filter(|jitter| !jitter.is_zero()) else {
        return slot;
    };
    let mut hasher = std::hash::DefaultHasher::new();
    (backup.name.as_str(), slot.timestamp()).hash(&mut hasher);
    let next = backup.schedule.as_ref().and_then(|schedule| slots::next(schedule, backup.timezone, slot));
    let room = next.map_or(u64::MAX, |next| u64::try_from((next - slot).num_seconds() - 1).unwrap_or(0));
    slot + delta(Duration::from_secs(hasher.finish() % (jitter.as_secs().min(room) + 1)))
}

/// From when on the newest good backup is too old: `max_age` after it, or when two slots in a row
/// have passed without one. `newest` is when it was taken, or since when one is waited for. `None`: never.
pub fn stale_at(backup: &Backup, newest: DateTime<Utc>) -> Option<DateTime<Utc>> {
    match (backup.max_age, &backup.schedule) {
        (Some(max_age), _) => Some(newest + delta(max_age)),
        (None, Some(schedule)) => {
            second_slot(schedule, backup.timezone, newest).map(|slot| slot + delta(backup.jitter.unwrap_or_default()) + delta(LATE))
        }
        (None, None) => None,
    }
}

/// From when on a proof is missing: two slots of the drills in a row have passed since the newest one
/// at `proven`, or since they are waited for. One alone may be under way, or meet a server that is down.
/// `None`: no drill has a schedule.
pub fn unproven_at(backup: &Backup, proven: DateTime<Utc>) -> Option<DateTime<Utc>> {
    second_slot(backup.drill_schedule()?, backup.timezone, proven).map(|slot| slot + delta(LATE))
}

fn second_slot(schedule: &Schedule, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    slots::next(schedule, zone, slots::next(schedule, zone, after)?)
}

/// How long to wait after so many failed attempts.
fn backoff(attempts: u32) -> Duration {
    BACKOFF.saturating_mul(3_u32.saturating_pow(attempts.saturating_sub(1))).min(BACKOFF_MAX)
}

pub fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::Plan;

    fn plan(keys: &str) -> Plan {
        let text = format!(
            "[servers.main]\nhost = \"x\"\n[stores.local]\npath = \"/x\"\n[backups.x]\ndatabase = \"x\"\nschedule = \"0 2 * * *\"\n{keys}\n"
        );
        crate::config::parse(&text, std::path::Path::new("x")).unwrap()
    }

    fn at(text: &str) -> DateTime<Utc> {
        format!("{text}:00Z").parse().unwrap()
    }

    fn ask(keys: &str, record: Record, now: &str) -> Due {
        due(&plan(keys).backups["x"], &record, at(now))
    }

    fn attempted(slot: &str, attempts: u32, may_pass: Option<&str>) -> Attempted {
        Attempted { slot: at(slot), attempts, may_pass: may_pass.map(at) }
    }

    #[test]
    fn slots_come_and_are_missed() {
        let fresh = Record { since: at("2026-01-10T12:00"), last: None };
        let done = Record { last: Some(attempted("2026-01-11T02:00", 1, None)), ..fresh };
        let run = |slot: &str| Due::Run { slot: at(slot), attempt: 1 };
        for (keys, record, now, expected) in [
            ("", fresh, "2026-01-10T12:00", Due::At(Some(at("2026-01-11T02:00")))),
            ("", fresh, "2026-01-11T02:00", run("2026-01-11T02:00")),
            // Five were missed: one run, for the latest of them.
            ("", done, "2026-01-16T13:00", run("2026-01-16T02:00")),
            ("catch_up = false", done, "2026-01-16T13:00", Due::Skip { slot: at("2026-01-16T02:00") }),
            ("catch_up = false", done, "2026-01-16T02:01", run("2026-01-16T02:00")),
            ("", done, "2026-01-11T02:00", Due::At(Some(at("2026-01-12T02:00")))),
        ] {
            assert_eq!(ask(keys, record, now), expected, "{keys} {now}");
        }
    }

    #[test]
    fn drills_have_slots_of_their_own() {
        let fresh = Record { since: at("2026-01-10T12:00"), last: None };
        // It failed, or was broken off: the next slot is the next try.
        let done = Record { last: Some(attempted("2026-01-11T04:00", 1, Some("2026-01-11T04:01"))), ..fresh };
        let run = |slot: &str| Due::Run { slot: at(slot), attempt: 1 };
        let weekly = "drill = { schedule = \"0 4 * * 0\" }\njitter = \"50m\"";
        for (keys, record, now, expected) in [
            ("", fresh, "2026-01-11T04:00", Due::At(None)),
            ("drill = {}", fresh, "2026-01-11T04:00", Due::At(None)),
            (weekly, fresh, "2026-01-10T12:00", Due::At(Some(at("2026-01-11T04:00")))),
            (weekly, fresh, "2026-01-11T04:00", run("2026-01-11T04:00")),
            (weekly, done, "2026-01-11T05:00", Due::At(Some(at("2026-01-18T04:00")))),
            // Two were missed: one drill, for the latest of them.
            (weekly, done, "2026-01-26T05:00", run("2026-01-25T04:00")),
            (&format!("{weekly}\ncatch_up = false"), done, "2026-01-26T05:00", Due::Skip { slot: at("2026-01-25T04:00") }),
            // The gap of Berlin on 29 March.
            (
                "timezone = \"Europe/Berlin\"\ndrill = { schedule = \"30 2 * * *\" }",
                Record { since: at("2026-03-28T12:00"), last: None },
                "2026-03-29T00:30",
                Due::At(Some(at("2026-03-29T01:00"))),
            ),
        ] {
            assert_eq!(drill_due(&plan(keys).backups["x"], &record, at(now)), expected, "{keys} {now}");
        }
    }

    #[test]
    fn one_drill_may_fail() {
        let ask = |keys: &str| unproven_at(&plan(keys).backups["x"], at("2026-01-11T04:05"));
        assert_eq!(ask(""), None);
        assert_eq!(ask("drill = { schedule = \"0 4 * * 0\" }"), Some(at("2026-01-25T04:01")));
    }

    #[test]
    fn a_failure_that_may_pass_is_tried_again() {
        let since = at("2026-01-10T12:00");
        let failed = |attempts, ended: &str| Record { since, last: Some(attempted("2026-01-11T02:00", attempts, Some(ended))) };
        let again = |attempt| Due::Run { slot: at("2026-01-11T02:00"), attempt };
        assert_eq!(
            ask("", failed(1, "2026-01-11T02:05"), "2026-01-11T02:05"),
            Due::At(Some(at("2026-01-11T02:05") + TimeDelta::seconds(10)))
        );
        assert_eq!(ask("", failed(1, "2026-01-11T02:05"), "2026-01-11T02:06"), again(2));
        assert_eq!(ask("", failed(2, "2026-01-11T02:05"), "2026-01-11T02:06"), again(3));
        assert_eq!(ask("", failed(3, "2026-01-11T02:05"), "2026-01-11T02:06"), Due::At(Some(at("2026-01-12T02:00"))));
        assert_eq!(ask("retries = 0", failed(1, "2026-01-11T02:05"), "2026-01-11T02:06"), Due::At(Some(at("2026-01-12T02:00"))));
        // The next slot takes the place of the one that failed.
        assert_eq!(ask("", failed(1, "2026-01-12T01:59"), "2026-01-12T02:00"), Due::Run { slot: at("2026-01-12T02:00"), attempt: 1 });
    }

    #[test]
    fn a_failure_that_nobody_tries_again_is_none_that_will_pass() {
        let since = at("2026-01-10T12:00");
        let record = |since, slot: &str| Record { since, last: Some(attempted(slot, 1, Some(slot))) };
        let ask = |schedule: &str, record: Record, now: DateTime<Utc>| {
            let mut plan = plan("");
            let backup = plan.backups.values_mut().next().unwrap();
            backup.schedule = Some(schedule.parse().unwrap());
            will_retry(backup, &record, now)
        };
        let (slot, failed) = ("2026-01-11T02:00", at("2026-01-11T02:00"));
        assert!(ask("0 2 * * *", record(since, slot), failed + TimeDelta::seconds(9)));
        assert!(ask("0 2 * * *", record(since, slot), failed + TimeDelta::seconds(60)));
        assert!(!ask("0 2 * * *", record(since, slot), failed + TimeDelta::seconds(71)), "no daemon is there");
        assert!(!ask("*/10 * * * * *", record(since, slot), failed + TimeDelta::seconds(1)), "the next slot comes first");
        assert!(ask("*/11 * * * * *", record(since, slot), failed + TimeDelta::seconds(1)));
        assert!(!ask("0 2 * * *", record(failed + TimeDelta::seconds(5), slot), failed + TimeDelta::seconds(9)), "of another schedule");
    }

    #[test]
    fn a_clock_that_jumps_stops_nothing() {
        let future = Record { since: at("2027-01-10T12:00"), last: Some(attempted("2027-01-11T02:00", 1, None)) };
        assert_eq!(ask("", future, "2026-01-10T12:00"), Due::At(Some(at("2026-01-11T02:00"))));
        let since = at("2026-01-10T12:00");
        let ended_in_the_future = Record { since, last: Some(attempted("2026-01-11T02:00", 1, Some("2027-01-11T02:00"))) };
        assert_eq!(ask("", ended_in_the_future, "2026-01-11T12:00"), Due::Run { slot: at("2026-01-11T02:00"), attempt: 2 });
    }

    #[test]
    fn jitter_is_bounded_and_the_same_for_every_attempt() {
        let plan = plan("jitter = \"10m\"");
        let backup = &plan.backups["x"];
        let starts: Vec<_> = (1..28).map(|day| begins(backup, at(&format!("2026-01-{day:02}T02:00")))).collect();
        assert!(starts.iter().all(|start| (start.timestamp() - at("2026-01-01T02:00").timestamp()) % 86_400 <= 600));
        assert!(starts.windows(2).any(|pair| pair[1] - pair[0] != TimeDelta::days(1)));
        assert_eq!(begins(backup, at("2026-01-01T02:00")), starts[0]);
    }

    #[test]
    fn a_jitter_longer_than_the_time_between_slots_lets_none_pass() {
        let mut plan = plan("jitter = \"3h\"");
        let backup = plan.backups.values_mut().next().unwrap();
        backup.schedule = Some("0 * * * *".parse().unwrap());
        let mut record = Record { since: at("2026-01-10T00:30"), last: None };
        for hour in 1..24 {
            let slot = at(&format!("2026-01-10T{hour:02}:00"));
            let begins = begins(backup, slot);
            assert!(slot <= begins && begins < slot + TimeDelta::hours(1), "{begins}");
            assert_eq!(due(backup, &record, begins), Due::Run { slot, attempt: 1 });
            record.last = Some(Attempted { slot, attempts: 1, may_pass: None });
        }
    }

    #[test]
    fn too_old() {
        let newest = at("2026-01-10T02:00");
        let ask = |keys: &str| stale_at(&plan(keys).backups["x"], newest);
        assert_eq!(ask("max_age = \"26h\""), Some(at("2026-01-11T04:00")));
        assert_eq!(ask(""), Some(at("2026-01-12T02:01")));
        assert_eq!(ask("jitter = \"10m\""), Some(at("2026-01-12T02:11")));
    }
}
