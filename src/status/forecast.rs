//! When a disk will be full under the present retention: the schedules are played forward, with sizes
//! that grow as they grew, and retention takes its part.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::{Gathered, float};
use crate::catalog::{Id, Label, Rung};
use crate::config::plan::{Keep, Plan};
use crate::config::values::{Count, Schedule};
use crate::host::disk::Usage;
use crate::job::prune::keep_in;
use crate::retain::policy::{self, Candidate};
use crate::schedule::slots;

/// How far it is looked.
pub const HORIZON: TimeDelta = TimeDelta::days(3 * 365);

/// Of so many of the newest backups the growth is taken.
const GROWTH_OF: usize = 30;

/// So many slots before a look are played one by one; farther back the first of each day is enough,
/// for `last` and `within` do not reach there.
const SLOTS_MAX: usize = 400;

/// One backup in the store.
#[derive(Debug, Clone)]
pub struct Line<'a> {
    pub keep: &'a Keep,
    pub zone: Tz,
    /// `None`: by hand. Nothing is played forward then.
    pub schedule: Option<&'a Schedule>,
    /// With their bytes.
    pub copies: &'a [(Candidate, u64)],
}

/// The store's file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub used: u64,
    pub available: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    /// `None`: not within [`HORIZON`].
    pub full_at: Option<DateTime<Utc>>,
    /// Used bytes over time, beginning now; up to the first moment past the end of the disk.
    pub curve: Vec<(DateTime<Utc>, f64)>,
}

/// The forecast of each store whose disk is known.
pub fn of_stores(plan: &Plan, gathered: &Gathered) -> Vec<(String, Forecast)> {
    let of = |(store, usage): &(String, Usage)| {
        let lines: Vec<Line<'_>> = gathered
            .records
            .iter()
            .flat_map(|record| record.held.iter().map(move |held| (record, held)))
            .filter(|(_, held)| held.store.as_str() == store)
            .filter_map(|(record, held)| {
                let backup = plan.backups.get(&record.name)?;
                let keep = keep_in(plan, backup, &held.store);
                Some(Line { keep, zone: record.zone, schedule: backup.schedule.as_ref(), copies: &held.copies })
            })
            .collect();
        let space = Space { used: usage.used, available: usage.available };
        Some((store.clone(), forecast(&lines, space, gathered.at)?))
    };
    gathered.disks.iter().filter_map(of).collect()
}

/// Plays it forward. What else is on the disk is taken to stay as it is. `None`: nothing is known of a
/// schedule or of a size.
pub fn forecast(lines: &[Line<'_>], space: Space, now: DateTime<Utc>) -> Option<Forecast> {
    let mut played: Vec<Played<'_>> = lines.iter().filter_map(|line| Played::new(line, now)).collect();
    if played.is_empty() {
        return None;
    }
    let before: f64 = played.iter().map(Played::bytes).sum();
    let used = float(space.used);
    let end = used + float(space.available);
    let mut curve = vec![(now, used)];
    for at in looks(now) {
        for line in &mut played {
            line.advance(at);
        }
        let (last, last_used) = curve[curve.len() - 1];
        let then = (used + played.iter().map(Played::bytes).sum::<f64>() - before).max(0.0);
        curve.push((at, then));
        if then >= end {
            let share = if then > last_used { ((end - last_used) / (then - last_used)).clamp(0.0, 1.0) } else { 0.0 };
            return Some(Forecast { full_at: Some(last + part(at - last, share)), curve });
        }
    }
    Some(Forecast { full_at: None, curve })
}

/// Day by day first, then week by week, then by months.
fn looks(now: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> {
    let days = (1..=14).chain((3..=26).map(|week| week * 7)).chain((7..=36).map(|month| month * 365 / 12));
    days.map(move |days| now + TimeDelta::days(days))
}

fn part(span: TimeDelta, share: f64) -> TimeDelta {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a day is told, not a second")]
    TimeDelta::seconds((span.num_seconds() as f64 * share) as i64)
}

/// One line of work on its way through time.
struct Played<'a> {
    line: Line<'a>,
    schedule: &'a Schedule,
    growth: Growth,
    copies: Vec<(Candidate, f64)>,
    at: DateTime<Utc>,
}

impl<'a> Played<'a> {
    fn new(line: &Line<'a>, now: DateTime<Utc>) -> Option<Self> {
        let growth = Growth::of(line.copies, now)?;
        let copies = line.copies.iter().map(|(copy, bytes)| (copy.clone(), float(*bytes))).collect();
        Some(Played { schedule: line.schedule?, line: line.clone(), growth, copies, at: now })
    }

    fn bytes(&self) -> f64 {
        self.copies.iter().map(|(_, bytes)| bytes).sum()
    }

    fn advance(&mut self, to: DateTime<Utc>) {
        let (schedule, zone) = (self.schedule, self.line.zone);
        let dense = slots::iter(schedule, zone, dense_from(self.line.keep, schedule, zone, to).max(self.at));
        let mut slots: Vec<DateTime<Utc>> = dense.take_while(|slot| *slot <= to).take(SLOTS_MAX).collect();
        // The first of each day, which is all that the tiers ask for.
        let mut day = self.at;
        while let Some(slot) = slots::next(schedule, zone, day).filter(|slot| *slot <= to) {
            slots.push(slot);
            day = slot.max(next_day(slot, zone));
        }
        slots.sort_unstable();
        slots.dedup();
        for slot in slots {
            let id = Id { backup: String::new(), label: Label::of(slot) };
            self.copies.push((
                Candidate { id, taken_at: slot, rung: Rung::Readable, pinned: false, physical: false, incremental_of: None },
                self.growth.at(slot),
            ));
        }
        let candidates: Vec<Candidate> = self.copies.iter().map(|(copy, _)| copy.clone()).collect();
        let verdicts = policy::plan(self.line.keep, &candidates, zone, to);
        let gone: std::collections::BTreeSet<Id> = verdicts.into_iter().filter(|verdict| !verdict.keep).map(|verdict| verdict.id).collect();
        self.copies.retain(|(copy, _)| !gone.contains(&copy.id));
        self.at = to;
    }
}

/// From when on each slot counts by itself, at a moment.
fn dense_from(keep: &Keep, schedule: &Schedule, zone: Tz, to: DateTime<Utc>) -> DateTime<Utc> {
    let within = keep.within.and_then(|span| TimeDelta::from_std(span).ok()).unwrap_or_default();
    let last = match keep.last {
        Count::Number(count) => i32::try_from(count.min(400)).unwrap_or(0),
        Count::Forever => 400,
    };
    let ahead: Vec<DateTime<Utc>> = slots::iter(schedule, zone, to).take(2).collect();
    let apart = if let [one, two] = ahead[..] { two - one } else { TimeDelta::days(1) };
    to - within.max(apart * (last + 1)).min(TimeDelta::days(60))
}

/// The midnight after a moment, or one close to it.
fn next_day(at: DateTime<Utc>, zone: Tz) -> DateTime<Utc> {
    let local = at.with_timezone(&zone);
    let left = TimeDelta::days(1) - (local.time() - chrono::NaiveTime::MIN);
    at + left - TimeDelta::seconds(1)
}

/// How large a backup will be: the line through the newest ones. One that falls is taken to stay.
struct Growth {
    newest: DateTime<Utc>,
    bytes: f64,
    per_day: f64,
}

impl Growth {
    fn of(copies: &[(Candidate, u64)], now: DateTime<Utc>) -> Option<Self> {
        let mut good: Vec<(DateTime<Utc>, f64)> = copies
            .iter()
            .filter(|(copy, _)| copy.rung != Rung::Bad && copy.taken_at <= now)
            .map(|(copy, bytes)| (copy.taken_at, float(*bytes)))
            .collect();
        good.sort_unstable_by_key(|(at, _)| std::cmp::Reverse(*at));
        good.truncate(GROWTH_OF);
        let (newest, bytes) = *good.first()?;
        #[expect(clippy::cast_precision_loss, reason = "a trend, not an account")]
        let points: Vec<(f64, f64)> = good.iter().map(|(at, bytes)| ((*at - newest).num_seconds() as f64 / 86_400.0, *bytes)).collect();
        // Two of one hour say nothing of a year.
        let spread = points.iter().map(|(day, _)| -day).fold(0.0, f64::max);
        let per_day = if points.len() >= 3 && spread >= 2.0 { slope(&points).max(0.0) } else { 0.0 };
        Some(Growth { newest, bytes, per_day })
    }

    fn at(&self, at: DateTime<Utc>) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a trend, not an account")]
        let days = (at - self.newest).num_seconds() as f64 / 86_400.0;
        self.bytes + self.per_day * days.max(0.0)
    }
}

/// Of the line of least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = float(points.len() as u64);
    let (x, y) = (points.iter().map(|p| p.0).sum::<f64>() / count, points.iter().map(|p| p.1).sum::<f64>() / count);
    let (over, under) = points.iter().fold((0.0, 0.0), |(over, under), p| (over + (p.0 - x) * (p.1 - y), under + (p.0 - x).powi(2)));
    if under > 0.0 { over / under } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    fn plan(schedule: &str, keep: &str) -> Plan {
        let text = format!(
            "[servers.main]\nhost = \"x\"\n[stores.local]\npath = \"/x\"\n[backups.x]\ndatabase = \"x\"\nschedule = \"{schedule}\"\nkeep = {keep}\n"
        );
        crate::config::parse(&text, std::path::Path::new("x")).unwrap()
    }

    fn now() -> DateTime<Utc> {
        "2026-01-15T12:00:00Z".parse().unwrap()
    }

    /// Daily backups of the last days, newest first; each so many bytes larger than the one before.
    fn daily(days: u32, newest: u64, more: u64) -> Vec<(Candidate, u64)> {
        let at = |n: u32| "2026-01-15T02:00:00Z".parse::<DateTime<Utc>>().unwrap() - TimeDelta::days(n.into());
        let copy = |n| Candidate {
            id: Id { backup: "x".into(), label: Label::of(at(n)) },
            taken_at: at(n),
            rung: Rung::Readable,
            pinned: false,
            physical: false,
            incremental_of: None,
        };
        (0..days).map(|n| (copy(n), newest - more * u64::from(n))).collect()
    }

    fn ask(plan: &Plan, copies: &[(Candidate, u64)], used: u64, available: u64) -> Option<Forecast> {
        let backup = &plan.backups["x"];
        let line = Line { keep: &backup.keep, zone: backup.timezone, schedule: backup.schedule.as_ref(), copies };
        forecast(&[line], Space { used, available }, now())
    }

    fn days(forecast: &Forecast) -> Option<i64> {
        forecast.full_at.map(|at| (at - now()).num_days())
    }

    #[test]
    fn what_is_kept_for_ever_fills_the_disk_on_a_day() {
        // One of 1 GB a day, none is deleted, and there is room for a hundred.
        let found = ask(&plan("0 2 * * *", "{ daily = \"forever\" }"), &daily(10, GB, 0), 10 * GB, 100 * GB).unwrap();
        assert!((98..=100).contains(&days(&found).unwrap()), "{:?}", days(&found));
        assert!(found.curve.last().unwrap().1 >= 110e9 && found.curve.len() > 14);
    }

    #[test]
    fn what_retention_holds_settles() {
        let seven = plan("0 2 * * *", "{ daily = 7 }");
        let found = ask(&seven, &daily(7, GB, 0), 20 * GB, 5 * GB).unwrap();
        assert_eq!(days(&found), None);
        assert!(found.curve.iter().all(|(_, used)| (19.5e9..=21.5e9).contains(used)), "{:?}", found.curve);
        // Five more are to come before retention takes any, and there is room for three.
        let found = ask(&seven, &daily(2, GB, 0), 2 * GB, 3 * GB).unwrap();
        assert!((2..=3).contains(&days(&found).unwrap()), "{found:?}");
    }

    #[test]
    fn what_grows_fills_it_although_retention_holds_the_count() {
        let found = ask(&plan("0 2 * * *", "{ daily = 7 }"), &daily(7, GB, GB / 100), 10 * GB, 7 * GB).unwrap();
        // Seven of them, each 10 MB larger a day: a GB more each 14 days.
        assert!((95..=105).contains(&days(&found).unwrap()), "{:?}", days(&found));
    }

    #[test]
    fn slots_of_every_hour_count_where_the_last_ones_are_kept() {
        let plan = plan("0 * * * *", "{ within = \"2d\", daily = 3 }");
        let hourly: Vec<_> = daily(3, GB, 0).into_iter().take(1).collect();
        let found = ask(&plan, &hourly, GB, 200 * GB).unwrap();
        let most = found.curve.iter().map(|(_, used)| *used).fold(0.0, f64::max);
        assert!((47e9..=53e9).contains(&most), "{most}");
    }

    #[test]
    fn nothing_is_told_where_nothing_is_known() {
        assert_eq!(ask(&plan("0 2 * * *", "{ daily = 7 }"), &[], GB, GB), None);
        let mut by_hand = plan("0 2 * * *", "{ daily = 7 }");
        by_hand.backups.values_mut().next().unwrap().schedule = None;
        assert_eq!(ask(&by_hand, &daily(7, GB, 0), GB, GB), None);
        // A full disk is full now.
        let found = ask(&plan("0 2 * * *", "{ daily = \"forever\" }"), &daily(3, GB, 0), 3 * GB, 0).unwrap();
        assert_eq!(days(&found), Some(0));
    }
}
