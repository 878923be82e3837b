//! keep, copies, now -> verdicts: what stays, what goes, and why.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Datelike, NaiveDate, Offset, TimeZone, Utc};
use chrono_tz::Tz;

use crate::catalog::{Id, Rung};
use crate::config::plan::Keep;
use crate::config::values::Count;
use crate::physical::retain;

/// One copy of a backup in one store, as retention sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: Id,
    pub taken_at: DateTime<Utc>,
    pub rung: Rung,
    pub pinned: bool,
    /// A base backup, of which base_backups and window speak.
    pub physical: bool,
    /// The one that an incremental base backup holds the changes since.
    pub incremental_of: Option<Id>,
}

/// Why a copy stays, or that it goes. The order is the order in which reasons are told, and within
/// a unit that of its periods.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Of its store, or newer than every good one there: it may yet be proven.
    Newest,
    /// The newest of the highest rung, the newest good one, or one of a store where nothing is good.
    Floor,
    Pinned,
    /// Taken after now: some clock was wrong, and nothing is known of its age.
    Future,
    /// 1 is the newest good one.
    Last(u32),
    /// Shown in the largest of d, h, m and s that divides it: a week is `7d`.
    Within(Duration),
    Daily(NaiveDate),
    /// Of the ISO calendar, where a year is that of the week's Thursday.
    Weekly {
        year: i32,
        week: u32,
    },
    Monthly {
        year: i32,
        month: u32,
    },
    Yearly(i32),
    /// Among the base backups that are whole by themselves; 1 is the newest good one.
    BaseBackup(u32),
    /// It leads to moments that can be restored by the file.
    Window(Duration),
    /// An incremental base backup that goes with one that is kept for its number.
    With(Id),
    /// An incremental one that is kept is nothing without it.
    NeededBy(Id),
    /// Complete, and proven by nobody: it would fill a tier if it were good. It takes no good one's place.
    Unproven,
    /// Another store still has to receive it. Only who sees all stores can tell; [`plan`] never does.
    AwaitedBy(String),
    /// Nobody known has signed it: it fills no place, and who deletes it is not retention. Only who knows
    /// the signers can tell; [`plan`] never does.
    Unsigned,
    /// A drill or a restore reads it just now. Only who deletes can tell; [`plan`] never does.
    InUse,
    /// Its store does not let us delete it. Only who deletes can tell; [`plan`] never does.
    Undeletable,
    Expired,
}

/// The tiers, in the order in which they are shown.
pub const TIERS: [&str; 6] = ["last", "within", "daily", "weekly", "monthly", "yearly"];

impl Reason {
    /// The tier that it fills, as `list` names it.
    pub fn tier(&self) -> Option<&'static str> {
        match self {
            Reason::Last(_) => Some("last"),
            Reason::Within(_) => Some("within"),
            Reason::Daily(_) => Some("daily"),
            Reason::Weekly { .. } => Some("weekly"),
            Reason::Monthly { .. } => Some("monthly"),
            Reason::Yearly(_) => Some("yearly"),
            Reason::Newest
            | Reason::Floor
            | Reason::Pinned
            | Reason::Future
            | Reason::Unproven
            | Reason::AwaitedBy(_)
            | Reason::Unsigned
            | Reason::InUse
            | Reason::Undeletable
            | Reason::BaseBackup(_)
            | Reason::Window(_)
            | Reason::With(_)
            | Reason::NeededBy(_)
            | Reason::Expired => None,
        }
    }

    fn daily(date: NaiveDate) -> Self {
        Reason::Daily(date)
    }

    fn weekly(date: NaiveDate) -> Self {
        let week = date.iso_week();
        Reason::Weekly { year: week.year(), week: week.week() }
    }

    fn monthly(date: NaiveDate) -> Self {
        Reason::Monthly { year: date.year(), month: date.month() }
    }

    fn yearly(date: NaiveDate) -> Self {
        Reason::Yearly(date.year())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Newest => f.write_str("newest"),
            Reason::Floor => f.write_str("floor"),
            Reason::Pinned => f.write_str("pinned"),
            Reason::Future => f.write_str("future"),
            Reason::Last(rank) => write!(f, "last {rank}"),
            Reason::Within(span) => write!(f, "within {}", in_largest_unit(*span)),
            Reason::Daily(date) => write!(f, "daily {date}"),
            Reason::Weekly { year, week } => write!(f, "weekly {year:04}-W{week:02}"),
            Reason::Monthly { year, month } => write!(f, "monthly {year:04}-{month:02}"),
            Reason::Yearly(year) => write!(f, "yearly {year:04}"),
            Reason::BaseBackup(rank) => write!(f, "base backup {rank}"),
            Reason::Window(span) => write!(f, "window {}", in_largest_unit(*span)),
            Reason::With(id) => write!(f, "with {id}"),
            Reason::NeededBy(id) => write!(f, "needed by {id}"),
            Reason::Unproven => f.write_str("unproven"),
            Reason::AwaitedBy(store) => write!(f, "awaited by {store}"),
            Reason::Unsigned => f.write_str("unsigned"),
            Reason::InUse => f.write_str("in use by a drill or a restore"),
            Reason::Undeletable => f.write_str("cannot be deleted"),
            Reason::Expired => f.write_str("expired"),
        }
    }
}

/// What becomes of one copy. There is at least one reason, and `expired` only alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub id: Id,
    pub keep: bool,
    pub reasons: Vec<Reason>,
}

/// Judges all copies of one backup in one store, newest first. Each ID stands there once.
///
/// The first good copy of a period is the one that is kept for it. It is also the first of the
/// shorter periods that begin with it, so nothing that a longer tier will want is ever deleted by
/// a shorter one, and pruning often keeps the same as pruning once.
pub fn plan(keep: &Keep, candidates: &[Candidate], zone: Tz, now: DateTime<Utc>) -> Vec<Verdict> {
    let (bases, mut copies): (Vec<&Candidate>, Vec<&Candidate>) = candidates.iter().partition(|copy| copy.physical);
    if copies.is_empty() {
        return retain::plan(keep, &bases, now);
    }
    let of_bases = retain::plan(keep, &bases, now);
    copies.sort_by(|a, b| (b.taken_at, &b.id).cmp(&(a.taken_at, &a.id)));

    // Whatever counts, counts from here: a copy from the future would push real ones out.
    let newest = copies.partition_point(|copy| copy.taken_at > now);
    let good: Vec<usize> = (newest..copies.len()).filter(|&n| copies[n].rung.is_good()).collect();
    let newest_good = good.first().copied();
    let highest = copies[newest..].iter().map(|copy| copy.rung).max();
    let newest_of_highest = (newest..copies.len()).find(|&n| Some(copies[n].rung) == highest);

    let mut reasons: Vec<Vec<Reason>> = vec![Vec::new(); copies.len()];
    for (n, copy) in copies.iter().enumerate() {
        let counts = n >= newest;
        if n == newest || counts && newest_good.is_some_and(|good| n < good) {
            reasons[n].push(Reason::Newest);
        }
        if counts && newest_good.is_none_or(|good| n == good) || Some(n) == newest_of_highest {
            reasons[n].push(Reason::Floor);
        }
        if copy.pinned {
            reasons[n].push(Reason::Pinned);
        }
        if !counts {
            reasons[n].push(Reason::Future);
        }
    }

    for (n, reason) in tiers(keep, &copies, &good, zone, now) {
        reasons[n].push(reason);
    }
    // Judged among themselves, or a single good one would push out all that nobody could look at.
    let unproven: Vec<usize> = (newest..copies.len()).filter(|&n| copies[n].rung == Rung::Written).collect();
    for (n, _) in tiers(keep, &copies, &unproven, zone, now) {
        if !reasons[n].contains(&Reason::Unproven) {
            reasons[n].push(Reason::Unproven);
        }
    }

    copies
        .iter()
        .zip(reasons)
        .map(|(copy, mut reasons)| {
            let keep = !reasons.is_empty();
            if !keep {
                reasons.push(Reason::Expired);
            }
            Verdict { id: copy.id.clone(), keep, reasons }
        })
        .chain(of_bases)
        .collect()
}

/// The tiers that some of the copies fill, which are given newest first.
fn tiers(keep: &Keep, copies: &[&Candidate], some: &[usize], zone: Tz, now: DateTime<Utc>) -> Vec<(usize, Reason)> {
    let mut filled: Vec<(usize, Reason)> = some.iter().zip(1..).take(limit(keep.last)).map(|(&n, rank)| (n, Reason::Last(rank))).collect();
    if let Some(span) = keep.within {
        let is_within = |n: &&usize| (now - copies[**n].taken_at).to_std().is_ok_and(|age| age < span);
        filled.extend(some.iter().filter(is_within).map(|&n| (n, Reason::Within(span))));
    }
    let oldest_first: Vec<(NaiveDate, usize)> = some.iter().rev().map(|&n| (local_date(copies[n].taken_at, zone), n)).collect();
    let units: [(Count, PeriodOf); 4] =
        [(keep.daily, Reason::daily), (keep.weekly, Reason::weekly), (keep.monthly, Reason::monthly), (keep.yearly, Reason::yearly)];
    for (count, period_of) in units {
        let mut periods: Vec<(Reason, usize)> = oldest_first.iter().map(|&(date, n)| (period_of(date), n)).collect();
        // A clock that goes back over midnight, as St. John's did, makes an earlier date come later.
        // The sort is stable: the oldest of a period remains its first.
        periods.sort_by(|(a, _), (b, _)| a.cmp(b));
        periods.dedup_by(|(later, _), (first, _)| later == first);
        filled.extend(periods.into_iter().rev().take(limit(count)).map(|(period, n)| (n, period)));
    }
    filled
}

/// The period of a unit that a date falls into; it is also the reason that is told.
type PeriodOf = fn(NaiveDate) -> Reason;

fn limit(count: Count) -> usize {
    match count {
        Count::Number(number) => usize::try_from(number).unwrap_or(usize::MAX),
        Count::Forever => usize::MAX,
    }
}

/// The date in the zone. Times come from manifests that others may write to: at the end of the
/// calendar, where a zone would lead out of it, the date in UTC must do.
fn local_date(at: DateTime<Utc>, zone: Tz) -> NaiveDate {
    let utc = at.naive_utc();
    let offset = zone.offset_from_utc_datetime(&utc).fix();
    utc.checked_add_offset(offset).unwrap_or(utc).date()
}

fn in_largest_unit(span: Duration) -> String {
    let secs = span.as_secs();
    match [(86_400, 'd'), (3_600, 'h'), (60, 'm')].into_iter().find(|(unit, _)| secs > 0 && secs.is_multiple_of(*unit)) {
        Some((unit, letter)) => format!("{}{letter}", secs / unit),
        None => format!("{secs}s"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use chrono::{Days, TimeDelta, Weekday};
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::Label;

    const RUNGS: [Rung; 5] = [Rung::Bad, Rung::Written, Rung::Readable, Rung::Restored, Rung::Matched];
    const ZONES: [Tz; 6] =
        [Tz::Europe__Vienna, Tz::America__New_York, Tz::Pacific__Apia, Tz::Australia__Lord_Howe, Tz::Africa__Cairo, Tz::America__St_Johns];

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn copy(taken_at: DateTime<Utc>, rung: Rung) -> Candidate {
        Candidate {
            id: Id { backup: "db".into(), label: Label::of(taken_at) },
            taken_at,
            rung,
            pinned: false,
            physical: false,
            incremental_of: None,
        }
    }

    fn copies(of: &[(&str, Rung)]) -> Vec<Candidate> {
        of.iter().map(|(taken_at, rung)| copy(at(taken_at), *rung)).collect()
    }

    fn pinned(mut copy: Candidate) -> Candidate {
        copy.pinned = true;
        copy
    }

    fn told(verdict: &Verdict) -> String {
        verdict.reasons.iter().map(Reason::to_string).collect::<Vec<_>>().join(", ")
    }

    /// The verdicts, oldest first as the tables are.
    fn judged(keep: &Keep, candidates: &[Candidate], zone: Tz, now: &str) -> Vec<String> {
        plan(keep, candidates, zone, at(now)).iter().rev().map(told).collect()
    }

    fn kept(verdicts: &[Verdict]) -> BTreeSet<Id> {
        verdicts.iter().filter(|verdict| verdict.keep).map(|verdict| verdict.id.clone()).collect()
    }

    fn prune(keep: &Keep, candidates: &mut Vec<Candidate>, zone: Tz, now: DateTime<Utc>) {
        let kept = kept(&plan(keep, candidates, zone, now));
        candidates.retain(|candidate| kept.contains(&candidate.id));
    }

    #[test]
    fn reasons_as_they_are_shown() {
        let date = NaiveDate::from_ymd_opt(2024, 1, 15).unwrap();
        for (reason, text, tier) in [
            (Reason::Newest, "newest", None),
            (Reason::Floor, "floor", None),
            (Reason::Pinned, "pinned", None),
            (Reason::Future, "future", None),
            (Reason::Last(2), "last 2", Some("last")),
            (Reason::daily(date), "daily 2024-01-15", Some("daily")),
            (Reason::weekly(date), "weekly 2024-W03", Some("weekly")),
            (Reason::weekly(NaiveDate::from_ymd_opt(2027, 1, 1).unwrap()), "weekly 2026-W53", Some("weekly")),
            (Reason::monthly(date), "monthly 2024-01", Some("monthly")),
            (Reason::yearly(date), "yearly 2024", Some("yearly")),
            (Reason::AwaitedBy("offsite".into()), "awaited by offsite", None),
            (Reason::Expired, "expired", None),
        ] {
            assert_eq!((reason.to_string().as_str(), reason.tier()), (text, tier));
        }
        for (secs, text) in
            [(259_200, "3d"), (129_600, "36h"), (604_800, "7d"), (86_400, "1d"), (5_400, "90m"), (90, "90s"), (1, "1s"), (0, "0s")]
        {
            let reason = Reason::Within(Duration::from_secs(secs));
            assert_eq!((reason.to_string(), reason.tier()), (format!("within {text}"), Some("within")));
        }
    }

    #[test]
    fn every_reason_is_told() {
        let keep = Keep { last: Count::Number(2), within: Some(Duration::from_secs(3 * 86_400)), ..Keep::default() };
        let candidates = copies(&[
            ("2023-12-31T23:30:00Z", Rung::Matched),
            ("2024-01-01T01:00:00Z", Rung::Readable),
            ("2024-01-12T02:00:00Z", Rung::Bad),
            ("2024-01-12T12:00:00Z", Rung::Readable),
            ("2024-01-12T12:00:01Z", Rung::Readable),
            ("2024-01-15T01:00:00Z", Rung::Readable),
        ]);
        assert_eq!(
            judged(&keep, &candidates, Tz::Europe__Vienna, "2024-01-15T12:00:00Z"),
            [
                // In Vienna it is the new year already.
                "floor, daily 2024-01-01, weekly 2024-W01, monthly 2024-01, yearly 2024",
                "expired",
                "expired",
                // The end of `within` is outside of it.
                "daily 2024-01-12, weekly 2024-W02",
                "last 2, within 3d",
                "newest, floor, last 1, within 3d, daily 2024-01-15, weekly 2024-W03",
            ]
        );
    }

    #[test]
    fn floors() {
        use Rung::{Bad, Matched, Readable, Written};
        let days = ["2024-01-01T01:00:00Z", "2024-01-02T01:00:00Z", "2024-01-03T01:00:00Z", "2024-01-04T01:00:00Z"];
        for (rungs, expected) in [
            ([Readable, Readable, Readable, Readable], ["expired", "expired", "expired", "newest, floor"]),
            ([Matched, Readable, Readable, Readable], ["floor", "expired", "expired", "newest, floor"]),
            ([Matched, Matched, Readable, Written], ["expired", "floor", "floor", "newest"]),
            ([Bad, Readable, Written, Bad], ["expired", "floor", "newest", "newest"]),
            ([Readable, Bad, Written, Bad], ["floor", "newest", "newest", "newest"]),
            ([Bad, Written, Bad, Written], ["floor", "floor", "floor", "newest, floor"]),
            ([Bad, Bad, Bad, Bad], ["floor", "floor", "floor", "newest, floor"]),
        ] {
            let candidates: Vec<_> = days.iter().zip(rungs).map(|(day, rung)| copy(at(day), rung)).collect();
            assert_eq!(judged(&Keep::nothing(), &candidates, Tz::UTC, "2024-01-05T00:00:00Z"), expected, "{rungs:?}");
        }
        assert!(plan(&Keep::default(), &[], Tz::UTC, at("2024-01-05T00:00:00Z")).is_empty());
    }

    #[test]
    fn what_is_from_the_future_counts_for_nothing() {
        let keep = Keep { last: Count::Number(1), yearly: Count::Number(1), ..Keep::nothing() };
        let mut candidates = copies(&[
            ("2023-01-01T00:00:00Z", Rung::Readable),
            ("2024-01-01T00:00:00Z", Rung::Readable),
            ("2024-01-01T00:00:01Z", Rung::Matched),
            ("2025-01-01T00:00:00Z", Rung::Written),
        ]);
        assert_eq!(
            judged(&keep, &candidates, Tz::UTC, "2024-01-01T00:00:00Z"),
            ["expired", "newest, floor, last 1, yearly 2024", "future", "future"]
        );
        candidates[3].pinned = true;
        assert_eq!(judged(&keep, &candidates[2..], Tz::UTC, "2024-01-01T00:00:00Z"), ["future", "pinned, future"]);
    }

    #[test]
    fn a_pin_holds_and_fills_what_it_would_fill_anyway() {
        let keep = Keep { last: Count::Number(1), daily: Count::Number(2), ..Keep::nothing() };
        let candidates = vec![
            pinned(copy(at("2024-01-01T01:00:00Z"), Rung::Bad)),
            pinned(copy(at("2024-01-01T02:00:00Z"), Rung::Readable)),
            pinned(copy(at("2024-01-02T01:00:00Z"), Rung::Readable)),
            copy(at("2024-01-02T02:00:00Z"), Rung::Readable),
            copy(at("2024-01-03T01:00:00Z"), Rung::Readable),
        ];
        assert_eq!(
            judged(&keep, &candidates, Tz::UTC, "2024-01-05T00:00:00Z"),
            ["pinned", "pinned", "pinned, daily 2024-01-02", "expired", "newest, floor, last 1, daily 2024-01-03"]
        );
    }

    #[test]
    fn a_period_without_a_good_one_costs_none() {
        let keep = Keep { daily: Count::Number(2), ..Keep::nothing() };
        let mut of = vec![("2023-06-01T01:00:00Z", Rung::Readable), ("2023-06-02T01:00:00Z", Rung::Readable)];
        // Half a year of failures.
        of.extend([("2023-12-01T01:00:00Z", Rung::Bad), ("2024-01-03T01:00:00Z", Rung::Written)]);
        assert_eq!(
            judged(&keep, &copies(&of), Tz::UTC, "2024-01-05T00:00:00Z"),
            ["daily 2023-06-01", "floor, daily 2023-06-02", "newest", "newest, unproven"]
        );
    }

    #[test]
    fn days_of_odd_zones() {
        let keep = Keep { daily: Count::Forever, ..Keep::nothing() };
        for (zone, of, expected) in [
            // No 30th of December 2011.
            (
                Tz::Pacific__Apia,
                ["2011-12-30T09:59:59Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"],
                ["daily 2011-12-29", "daily 2011-12-31", "newest, floor, daily 2012-01-01"],
            ),
            // The clock goes back from 00:01 to 23:01 of the day before.
            (
                Tz::America__St_Johns,
                ["2006-10-29T02:30:30Z", "2006-10-29T02:45:00Z", "2006-10-29T03:45:00Z"],
                ["daily 2006-10-29", "daily 2006-10-28", "newest, floor"],
            ),
            // The day has no midnight.
            (
                Tz::Africa__Cairo,
                ["2026-04-23T21:59:59Z", "2026-04-23T22:00:00Z", "2026-04-24T20:59:59Z"],
                ["daily 2026-04-23", "daily 2026-04-24", "newest, floor"],
            ),
        ] {
            assert_eq!(judged(&keep, &of.map(|text| copy(at(text), Rung::Readable)), zone, "2030-01-01T00:00:00Z"), expected, "{zone}");
        }
    }

    #[test]
    fn the_ends_of_the_calendar_are_judged_too() {
        let ends: Vec<_> =
            [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC].into_iter().map(|taken_at| copy(taken_at, Rung::Readable)).collect();
        for zone in ZONES {
            for now in [DateTime::<Utc>::MIN_UTC, at("2024-01-05T00:00:00Z"), DateTime::<Utc>::MAX_UTC] {
                let keep = Keep { within: Some(Duration::MAX), ..Keep::default() };
                assert_eq!(kept(&plan(&keep, &ends, zone, now)).len(), 2);
            }
        }
    }

    /// 30 years of backups, with outages, second runs and bad ones, pruned after each day that has
    /// some: what stands for a period must be the first good backup that was ever made in it.
    #[test]
    fn thirty_years_of_pruning() {
        let three = Count::Number(3);
        let keep = Keep {
            last: Count::Number(2),
            within: Some(Duration::from_secs(36 * 3_600)),
            daily: three,
            weekly: three,
            monthly: three,
            yearly: three,
            ..Keep::nothing()
        };
        for (nth, zone) in ZONES.into_iter().take(5).enumerate() {
            // Not random, but without a pattern that a calendar would share.
            let mut state = u64::try_from(nth).unwrap() + 1;
            let mut roll = move |sides: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % sides
            };
            let mut firsts: [BTreeMap<NaiveDate, Id>; 4] = Default::default();
            let (mut all, mut stored) = (Vec::new(), Vec::new());
            let (mut day, end) = (at("2000-01-01T00:00:00Z"), at("2030-01-01T00:00:00Z"));
            while day < end {
                let now = day + TimeDelta::days(1);
                let runs = if roll(20) == 0 { 2 } else { 1 };
                let start = roll(43_000);
                for run in 0..runs {
                    let taken_at = day + TimeDelta::seconds(i64::try_from(start + run * 40_000).unwrap());
                    let made = copy(taken_at, RUNGS[[0, 1, 2, 2, 2, 2, 2, 2, 3, 4][usize::try_from(roll(10)).unwrap()]]);
                    if made.rung.is_good() {
                        let date = taken_at.with_timezone(&zone).date_naive();
                        let month = date.with_day(1).unwrap();
                        let starts = [date, date.week(Weekday::Mon).first_day(), month, month.with_month(1).unwrap()];
                        for (firsts, start) in firsts.iter_mut().zip(starts) {
                            firsts.entry(start).or_insert_with(|| made.id.clone());
                        }
                    }
                    all.push(made.clone());
                    stored.push(made);
                }
                prune(&keep, &mut stored, zone, now);
                for firsts in &firsts {
                    for (period, id) in firsts.iter().rev().take(3) {
                        assert!(stored.iter().any(|copy| copy.id == *id), "{zone} {now}: the first of {period} is gone");
                    }
                }
                if roll(2_500) == 0 {
                    assert_eq!(kept(&plan(&keep, &all, zone, now)), stored.iter().map(|copy| copy.id.clone()).collect(), "{zone} {now}");
                }
                // Some days have none, and now and then weeks pass.
                day = day + Days::new(1 + if roll(90) == 0 { roll(60) } else { roll(3) });
            }
        }
    }

    /// The rules once more, a sentence each, without care for time.
    fn oracle(keep: &Keep, all: &[Candidate], zone: Tz, now: DateTime<Utc>) -> BTreeMap<Id, BTreeSet<String>> {
        let newer = |a: &Candidate, b: &Candidate| (a.taken_at, &a.id) > (b.taken_at, &b.id);
        let real: Vec<&Candidate> = all.iter().filter(|c| c.taken_at <= now).collect();
        let good: Vec<&Candidate> =
            real.iter().copied().filter(|c| matches!(c.rung, Rung::Readable | Rung::Restored | Rung::Matched)).collect();
        let holds = |count: Count, before: usize| match count {
            Count::Number(number) => before < usize::try_from(number).unwrap(),
            Count::Forever => true,
        };
        let judge = |c: &Candidate| {
            let mut reasons = BTreeSet::new();
            if c.pinned {
                reasons.insert("pinned".to_owned());
            }
            if c.taken_at > now {
                reasons.insert("future".to_owned());
                return reasons;
            }
            let is_good = good.contains(&c);
            if real.iter().all(|o| !newer(o, c)) || !is_good && !good.is_empty() && good.iter().all(|o| newer(c, o)) {
                reasons.insert("newest".to_owned());
            }
            let highest = real.iter().all(|o| o.rung < c.rung || o.rung == c.rung && !newer(o, c));
            if good.is_empty() || highest || is_good && good.iter().all(|o| !newer(o, c)) {
                reasons.insert("floor".to_owned());
            }
            // Good ones fill tiers; written ones would, among themselves.
            let peers: Vec<&Candidate> =
                if is_good { good.clone() } else { real.iter().copied().filter(|o| o.rung == Rung::Written).collect() };
            if peers.contains(&c) {
                let mut filled = BTreeSet::new();
                let rank = peers.iter().filter(|o| newer(o, c)).count();
                if holds(keep.last, rank) {
                    filled.insert(format!("last {}", rank + 1));
                }
                if keep.within.is_some_and(|within| c.taken_at > now - within) {
                    filled.insert(format!("within {}h", keep.within.unwrap().as_secs() / 3_600));
                }
                for (count, unit, form) in [
                    (keep.daily, "daily", "%Y-%m-%d"),
                    (keep.weekly, "weekly", "%G-W%V"),
                    (keep.monthly, "monthly", "%Y-%m"),
                    (keep.yearly, "yearly", "%Y"),
                ] {
                    let period = |c: &Candidate| c.taken_at.with_timezone(&zone).format(form).to_string();
                    let mine = period(c);
                    let first = peers.iter().all(|o| newer(o, c) || o.id == c.id || period(o) != mine);
                    let later: BTreeSet<String> = peers.iter().map(|o| period(o)).filter(|other| *other > mine).collect();
                    if first && holds(count, later.len()) {
                        filled.insert(format!("{unit} {mine}"));
                    }
                }
                if is_good {
                    reasons.extend(filled);
                } else if !filled.is_empty() {
                    reasons.insert("unproven".to_owned());
                }
            }
            if reasons.is_empty() {
                reasons.insert("expired".to_owned());
            }
            reasons
        };
        all.iter().map(|c| (c.id.clone(), judge(c))).collect()
    }

    fn any_keep() -> impl Strategy<Value = Keep> {
        let count = || prop_oneof![4 => (0u32..6).prop_map(Count::Number), 1 => Just(Count::Forever)];
        // In hours that are no days, as the oracle shows them.
        let within = proptest::option::of((0u64..60).prop_map(|n| Duration::from_secs((24 * n + 1) * 3_600)));
        (count(), within, count(), count(), count(), count()).prop_map(|(last, within, daily, weekly, monthly, yearly)| Keep {
            last,
            within,
            daily,
            weekly,
            monthly,
            yearly,
            ..Keep::nothing()
        })
    }

    /// Times over 30 years, alone, in bunches and equal, and a now that is among them or behind.
    fn any_case() -> impl Strategy<Value = (Keep, Vec<Candidate>, Tz, DateTime<Utc>)> {
        let step = prop_oneof![
            1 => Just(0i64),
            2 => 1i64..3_600,
            3 => 3_600i64..90_000,
            2 => 86_400i64..900_000,
            1 => 86_400i64..40_000_000,
        ];
        let walk = proptest::collection::vec((step, 0usize..RUNGS.len(), proptest::bool::weighted(0.1)), 0..30);
        let scattered = proptest::collection::vec((0i64..946_728_000, 0usize..RUNGS.len(), proptest::bool::weighted(0.1)), 0..30);
        let start = 0i64..915_000_000;
        (any_keep(), start, walk, scattered, proptest::sample::select(ZONES.to_vec()), any::<u64>(), -1i64..100_000).prop_map(
            |(keep, start, walk, scattered, zone, pick, later)| {
                let mut sum = start;
                let walk = walk.into_iter().map(|(step, rung, pinned)| {
                    sum += step;
                    (sum, rung, pinned)
                });
                let origin = at("2000-01-01T00:00:00Z");
                let mut candidates: Vec<Candidate> = walk
                    .chain(scattered)
                    .zip(0i64..)
                    .map(|((secs, rung, pinned), n)| Candidate {
                        // Labels need not be in the order of the times.
                        id: Id { backup: "db".into(), label: Label::of(origin + TimeDelta::seconds(n * 37 % 61)) },
                        taken_at: origin + TimeDelta::seconds(secs),
                        rung: RUNGS[rung],
                        pinned,
                        physical: false,
                        incremental_of: None,
                    })
                    .collect();
                candidates.sort_by(|a, b| (a.taken_at, &a.id).cmp(&(b.taken_at, &b.id)));
                // The last is the likeliest: now is seldom before what there is.
                let among = usize::try_from(pick % 64).unwrap().min(candidates.len().saturating_sub(1));
                let now = candidates.get(among).map_or(origin, |copy| copy.taken_at) + TimeDelta::seconds(later);
                (keep, candidates, zone, now)
            },
        )
    }

    proptest! {
        #[test]
        fn the_rules_hold((keep, candidates, zone, now) in any_case()) {
            let verdicts = plan(&keep, &candidates, zone, now);
            let found: BTreeMap<Id, BTreeSet<String>> =
                verdicts.iter().map(|v| (v.id.clone(), v.reasons.iter().map(Reason::to_string).collect())).collect();
            prop_assert_eq!(found, oracle(&keep, &candidates, zone, now));

            let newest_first: Vec<&Id> = candidates.iter().rev().map(|copy| &copy.id).collect();
            prop_assert_eq!(verdicts.iter().map(|v| &v.id).collect::<Vec<_>>(), newest_first);
            for verdict in &verdicts {
                prop_assert!(verdict.reasons.is_sorted() && !verdict.reasons.is_empty());
                prop_assert_eq!(verdict.keep, verdict.reasons != [Reason::Expired]);
            }
        }

        #[test]
        fn the_order_of_the_input_does_not_matter(
            ((keep, candidates, zone, now), shuffled) in any_case().prop_flat_map(|case| {
                let shuffled = Just(case.1.clone()).prop_shuffle();
                (Just(case), shuffled)
            }),
        ) {
            prop_assert_eq!(plan(&keep, &candidates, zone, now), plan(&keep, &shuffled, zone, now));
        }

        #[test]
        fn the_floors_hold_whatever_the_policy((keep, candidates, zone, now) in any_case()) {
            let kept = kept(&plan(&keep, &candidates, zone, now));
            let real = || candidates.iter().filter(|copy| copy.taken_at <= now);
            if let Some(highest) = real().map(|copy| copy.rung).max() {
                prop_assert!(kept.contains(&real().rfind(|copy| copy.rung == highest).unwrap().id));
                prop_assert!(kept.contains(&real().next_back().unwrap().id));
            }
            if let Some(newest_good) = real().rfind(|copy| copy.rung.is_good()) {
                prop_assert!(kept.contains(&newest_good.id));
            } else {
                prop_assert_eq!(kept.len(), candidates.len());
            }
            prop_assert!(candidates.iter().filter(|copy| copy.pinned || copy.taken_at > now).all(|copy| kept.contains(&copy.id)));
        }

        #[test]
        fn pruning_twice_and_pruning_along_the_way_keep_the_same((keep, candidates, zone, now) in any_case()) {
            let verdicts = plan(&keep, &candidates, zone, now);
            let once: Vec<Verdict> = verdicts.into_iter().filter(|verdict| verdict.keep).collect();

            let mut rest = candidates.clone();
            prune(&keep, &mut rest, zone, now);
            prop_assert_eq!(&plan(&keep, &rest, zone, now), &once);

            let mut stored = Vec::new();
            for copy in &candidates {
                stored.push(copy.clone());
                prune(&keep, &mut stored, zone, copy.taken_at.min(now));
            }
            prune(&keep, &mut stored, zone, now);
            prop_assert_eq!(plan(&keep, &stored, zone, now), once);
        }
    }
}
