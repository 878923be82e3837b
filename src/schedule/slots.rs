//! When a schedule fires. A cron expression speaks of local time, and croner is asked in local
//! time only: what a change of the clocks means is decided here, in one of two ways.
//!
//! A schedule with fixed hours fires when the local clock first reaches its time or passes it: at
//! the end of a gap, and only once in a fold. A schedule whose hour is `*` or `*/n` fires whenever
//! the local clock shows its time: never in a gap, twice in a fold.

use chrono::{DateTime, FixedOffset, MappedLocalTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::{GapInfo, Tz};
use croner::Cron;

use crate::config::values::Schedule;

/// No zone's offsets lie further apart, from 12 hours west to 14 hours east.
const OFFSETS_APART_MAX: TimeDelta = TimeDelta::hours(26);

/// No zone changes its offset and changes it back in less.
const BETWEEN_CHANGES_MIN: TimeDelta = TimeDelta::hours(1);

const SECOND: TimeDelta = TimeDelta::seconds(1);

/// What a change of the clocks did to a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// A local time of the schedule does not exist that day: it runs here, at the gap's end.
    Gap,
    /// The local time comes twice. With fixed hours this is the first, else one of the two.
    Fold,
}

/// The first slot after a moment; none when the schedule never fires again.
pub fn next(schedule: &Schedule, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    // Slots are whole seconds, so the first one after a part of a second is the first after its start.
    let after = DateTime::from_timestamp(after.timestamp(), 0)?;
    let own = if follows_real_time(schedule) { next_real(&schedule.cron, zone, after) } else { next_fixed(&schedule.cron, zone, after) };
    let other = schedule.also.as_ref().and_then(|also| next(also, zone, after));
    own.into_iter().chain(other).min()
}

/// Whether a moment is one of its slots.
pub fn is_slot(schedule: &Schedule, zone: Tz, at: DateTime<Utc>) -> bool {
    at.checked_sub_signed(SECOND).is_some_and(|before| next(schedule, zone, before) == Some(at))
}

/// The slots after a moment, in order.
pub fn iter(schedule: &Schedule, zone: Tz, after: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> {
    std::iter::successors(next(schedule, zone, after), move |slot| next(schedule, zone, *slot))
}

/// The latest slot after a moment and until another, which is included.
pub fn latest(schedule: &Schedule, zone: Tz, after: DateTime<Utc>, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let mut found = next(schedule, zone, after).filter(|slot| *slot <= until)?;
    // Halving asks for some thirty slots at most, where a year of seconds has thirty million.
    let mut end = until;
    while found < end {
        let middle = halfway(found, end);
        match next(schedule, zone, middle) {
            Some(slot) if slot <= end => found = slot,
            _ => end = middle,
        }
    }
    Some(found)
}

/// What a change of the clocks did to this slot, if anything.
pub fn note(schedule: &Schedule, zone: Tz, slot: DateTime<Utc>) -> Option<Note> {
    if let Some(also) = schedule.also.as_ref().filter(|also| is_slot(also, zone, slot)) {
        return note(also, zone, slot);
    }
    let fixed = !follows_real_time(schedule);
    let offset = offset_at(zone, slot);
    let local = slot.naive_utc().checked_add_offset(offset)?;
    if fixed {
        let offset_before = offset_at(zone, slot.checked_sub_signed(SECOND)?);
        // Where the clock would be had it not been put forward just now.
        let unchanged = slot.naive_utc().checked_add_offset(offset_before)?;
        if unchanged < local && cron_from(&schedule.cron, unchanged)? < local {
            return Some(Note::Gap);
        }
    }
    if !schedule.cron.is_time_matching(&local).ok()? {
        return None;
    }
    match zone.offset_from_local_datetime(&local) {
        MappedLocalTime::Ambiguous(first, _) if !fixed || first.fix() == offset => Some(Note::Fold),
        _ => None,
    }
}

/// Whether the hour is `*` or `*/n`. The text tells, since `0-23` are fixed hours with the same meaning to croner.
fn follows_real_time(schedule: &Schedule) -> bool {
    let text = schedule.text.trim();
    if text.starts_with('@') {
        return text.eq_ignore_ascii_case("@hourly");
    }
    // Counted from the end: the seconds, which may be absent, come first.
    let hour = text.split_whitespace().rev().nth(3).unwrap_or_default();
    hour == "*" || hour.strip_prefix("*/").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
}

fn next_fixed(cron: &Cron, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    // A local time that the clock has shown by now was reached by now. The others may have been
    // too, in the second pass of a fold, so the loop runs through the rest of a fold at most.
    let mut local = after.naive_utc().checked_add_offset(offset_at(zone, after))?;
    loop {
        local = cron.find_next_occurrence(&local, false).ok()?;
        let slot = first_reached(zone, local)?;
        if slot > after {
            return Some(slot);
        }
    }
}

/// The first moment at which the local clock shows this time or a later one.
pub fn first_reached(zone: Tz, local: NaiveDateTime) -> Option<DateTime<Utc>> {
    let (local, offset) = match zone.offset_from_local_datetime(&local) {
        MappedLocalTime::Single(offset) | MappedLocalTime::Ambiguous(offset, _) => (local, offset),
        // A gap begins and ends at the same moment.
        MappedLocalTime::None => GapInfo::new(&local, &zone)?.begin?,
    };
    Some(local.checked_sub_offset(offset.fix())?.and_utc())
}

fn next_real(cron: &Cron, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let mut from = after.checked_add_signed(SECOND)?;
    loop {
        let offset = offset_at(zone, from);
        let local = cron_from(cron, from.naive_utc().checked_add_offset(offset)?)?;
        let slot = local.checked_sub_offset(offset)?.and_utc();
        let horizon = slot.min(from.checked_add_signed(OFFSETS_APART_MAX)?);
        from = match first_change(zone, from, horizon) {
            // Up to here there was no slot; from here the local clock shows other times.
            Some(change) => change,
            None if slot == horizon => return Some(slot),
            // Past the horizon no change can bring back a local time from before `from`, so
            // another offset can only move this slot, by so much at most.
            None => horizon.max(slot.checked_sub_signed(OFFSETS_APART_MAX)?),
        };
    }
}

/// The first moment after `from` and until `until` at which the zone has another offset.
fn first_change(zone: Tz, from: DateTime<Utc>, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let offset = offset_at(zone, from);
    let mut same = from;
    while same < until {
        let mut other = same + (until - same).min(BETWEEN_CHANGES_MIN);
        if offset_at(zone, other) == offset {
            same = other;
            continue;
        }
        while other - same > SECOND {
            let middle = halfway(same, other);
            if offset_at(zone, middle) == offset {
                same = middle;
            } else {
                other = middle;
            }
        }
        return Some(other);
    }
    None
}

/// The first local time of the expression that is not before `local`.
fn cron_from(cron: &Cron, local: NaiveDateTime) -> Option<NaiveDateTime> {
    cron.find_next_occurrence(&local, true).ok()
}

fn offset_at(zone: Tz, moment: DateTime<Utc>) -> FixedOffset {
    zone.offset_from_utc_datetime(&moment.naive_utc()).fix()
}

/// The whole second in the middle, or `from` when there is none between.
fn halfway(from: DateTime<Utc>, to: DateTime<Utc>) -> DateTime<Utc> {
    from + TimeDelta::seconds((to - from).num_seconds() / 2)
}

#[cfg(test)]
mod tests {
    use chrono::Timelike as _;
    use chrono_tz::Africa::{Cairo, Casablanca};
    use chrono_tz::America::{New_York, Santiago, St_Johns};
    use chrono_tz::Antarctica::Troll;
    use chrono_tz::Asia::Kathmandu;
    use chrono_tz::Australia::Lord_Howe;
    use chrono_tz::Europe::Berlin;
    use chrono_tz::Pacific::Apia;
    use proptest::prelude::*;

    use super::*;

    fn schedule(text: &str) -> Schedule {
        text.parse().unwrap()
    }

    fn utc(text: &str) -> DateTime<Utc> {
        let seconds = if text.len() == "2026-01-01 00:00".len() { ":00" } else { "" };
        format!("{text}{seconds}Z").parse().unwrap()
    }

    fn slots(text: &str, zone: Tz, after: &str, count: usize) -> Vec<String> {
        iter(&schedule(text), zone, utc(after)).take(count).map(|slot| slot.format("%Y-%m-%d %H:%M").to_string()).collect()
    }

    /// Slots on a local day.
    fn count(text: &str, zone: Tz, day: &str) -> usize {
        let first = utc(&format!("{day} 00:00"));
        let day = first.date_naive();
        iter(&schedule(text), zone, first - TimeDelta::hours(30))
            .map(|slot| slot.with_timezone(&zone).date_naive())
            .skip_while(|local| *local < day)
            .take_while(|local| *local == day)
            .count()
    }

    #[test]
    fn fixed_hours() {
        let table: &[(&str, Tz, &str, &[&str])] = &[
            // 02:00 to 03:00 is missing.
            ("0 2 * * *", Berlin, "2026-03-28 00:00", &["2026-03-28 01:00", "2026-03-29 01:00", "2026-03-30 00:00"]),
            ("30 2 * * *", Berlin, "2026-03-28 00:00", &["2026-03-28 01:30", "2026-03-29 01:00", "2026-03-30 00:30"]),
            ("59 1 * * *", Berlin, "2026-03-28 00:00", &["2026-03-28 00:59", "2026-03-29 00:59", "2026-03-29 23:59"]),
            ("0 3 * * *", Berlin, "2026-03-28 12:00", &["2026-03-29 01:00", "2026-03-30 01:00"]),
            // Several in the gap, and the one at its end: once.
            ("10,50 2 * * *", Berlin, "2026-03-28 12:00", &["2026-03-29 01:00", "2026-03-30 00:10"]),
            ("0 2,3 * * *", Berlin, "2026-03-28 12:00", &["2026-03-29 01:00", "2026-03-30 00:00"]),
            ("30 2,3 * * *", Berlin, "2026-03-28 12:00", &["2026-03-29 01:00", "2026-03-29 01:30", "2026-03-30 00:30"]),
            ("30 2 29 3 *", Berlin, "2026-01-01 00:00", &["2026-03-29 01:00", "2027-03-29 00:30"]),
            (
                "*/30 1-3 * * *",
                Berlin,
                "2026-03-29 00:15",
                &["2026-03-29 00:30", "2026-03-29 01:00", "2026-03-29 01:30", "2026-03-29 23:00"],
            ),
            // 02:00 to 03:00 comes twice.
            ("0 2 * * *", Berlin, "2026-10-24 12:00", &["2026-10-25 00:00", "2026-10-26 01:00"]),
            ("30 2 * * *", Berlin, "2026-10-24 12:00", &["2026-10-25 00:30", "2026-10-26 01:30"]),
            ("30 2 * * *", Berlin, "2026-10-25 00:30", &["2026-10-26 01:30"]),
            ("30 2 * * *", Berlin, "2026-10-25 01:10", &["2026-10-26 01:30"]),
            ("0 3 * * *", Berlin, "2026-10-24 12:00", &["2026-10-25 02:00", "2026-10-26 02:00"]),
            ("*/30 2-3 * * *", Berlin, "2026-10-25 00:00", &["2026-10-25 00:30", "2026-10-25 02:00", "2026-10-25 02:30"]),
            ("0 0-23 * * *", Berlin, "2026-10-24 23:30", &["2026-10-25 00:00", "2026-10-25 02:00"]),
            // The gap at midnight, and the fold before it.
            ("15 0 * * *", Cairo, "2026-04-22 12:00", &["2026-04-22 22:15", "2026-04-23 22:00", "2026-04-24 21:15"]),
            ("@daily", Cairo, "2026-04-22 12:00", &["2026-04-22 22:00", "2026-04-23 22:00", "2026-04-24 21:00"]),
            ("15 0 24 4 *", Cairo, "2026-01-01 00:00", &["2026-04-23 22:00", "2027-04-23 22:15"]),
            ("30 23 * * *", Cairo, "2026-10-29 12:00", &["2026-10-29 20:30", "2026-10-30 21:30"]),
            ("@daily", Cairo, "2026-10-29 12:00", &["2026-10-29 22:00", "2026-10-30 22:00"]),
            ("10 0 * * *", Santiago, "2026-09-05 00:00", &["2026-09-05 04:10", "2026-09-06 04:00", "2026-09-07 03:10"]),
            ("@weekly", Santiago, "2026-09-01 00:00", &["2026-09-06 04:00", "2026-09-13 03:00"]),
            ("30 23 * * *", Santiago, "2026-04-04 12:00", &["2026-04-05 02:30", "2026-04-06 03:30"]),
            // Half an hour.
            ("10 2 * * *", Lord_Howe, "2026-10-02 12:00", &["2026-10-02 15:40", "2026-10-03 15:30", "2026-10-04 15:10"]),
            ("40 2 * * *", Lord_Howe, "2026-10-03 12:00", &["2026-10-03 15:40", "2026-10-04 15:40"]),
            ("45 1 * * *", Lord_Howe, "2026-04-04 12:00", &["2026-04-04 14:45", "2026-04-05 15:15"]),
            // The whole of 2011-12-30.
            ("0 2 * * *", Apia, "2011-12-29 00:00", &["2011-12-29 12:00", "2011-12-30 10:00", "2011-12-30 12:00"]),
            ("0 2 30 12 *", Apia, "2011-01-01 00:00", &["2011-12-30 10:00", "2012-12-29 12:00"]),
            ("0 2,14 30 12 *", Apia, "2011-06-01 00:00", &["2011-12-30 10:00", "2012-12-29 12:00"]),
            ("0 0 31 12 *", Apia, "2011-06-01 00:00", &["2011-12-30 10:00", "2012-12-30 10:00"]),
            // One minute after midnight.
            ("0 0 * * *", St_Johns, "2011-03-12 12:00", &["2011-03-13 03:30", "2011-03-14 02:30"]),
            ("30 0 * * *", St_Johns, "2011-03-12 12:00", &["2011-03-13 03:31", "2011-03-14 03:00"]),
        ];
        for (text, zone, after, expected) in table {
            assert_eq!(slots(text, *zone, after, expected.len()), *expected, "{text} in {zone} after {after}");
        }
    }

    #[test]
    fn real_time() {
        let table: &[(&str, Tz, &str, &[&str])] = &[
            ("30 * * * *", Berlin, "2026-03-29 00:00", &["2026-03-29 00:30", "2026-03-29 01:30", "2026-03-29 02:30"]),
            ("@hourly", Berlin, "2026-10-25 00:00", &["2026-10-25 01:00", "2026-10-25 02:00"]),
            ("*/30 * * * *", Berlin, "2026-03-29 00:15", &["2026-03-29 00:30", "2026-03-29 01:00", "2026-03-29 01:30"]),
            (
                "*/30 * * * *",
                Berlin,
                "2026-10-25 00:00",
                &["2026-10-25 00:30", "2026-10-25 01:00", "2026-10-25 01:30", "2026-10-25 02:00", "2026-10-25 02:30"],
            ),
            // An even hour that does not exist does not run, one that comes twice runs twice.
            ("0 */2 * * *", Berlin, "2026-03-28 22:00", &["2026-03-28 23:00", "2026-03-29 02:00", "2026-03-29 04:00"]),
            ("0 */2 * * *", Berlin, "2026-10-24 21:00", &["2026-10-24 22:00", "2026-10-25 00:00", "2026-10-25 01:00", "2026-10-25 03:00"]),
            ("15 * 24 4 *", Cairo, "2026-01-01 00:00", &["2026-04-23 22:15", "2026-04-23 23:15"]),
            ("15 */24 * * *", Cairo, "2026-04-22 12:00", &["2026-04-22 22:15", "2026-04-24 21:15"]),
            ("30 * * * *", Cairo, "2026-10-29 20:00", &["2026-10-29 20:30", "2026-10-29 21:30", "2026-10-29 22:30"]),
            ("10 * * * *", Santiago, "2026-09-06 03:00", &["2026-09-06 03:10", "2026-09-06 04:10"]),
            ("10 * * * *", Lord_Howe, "2026-10-03 14:00", &["2026-10-03 14:40", "2026-10-03 16:10"]),
            ("45 * * * *", Lord_Howe, "2026-04-04 14:00", &["2026-04-04 14:45", "2026-04-04 15:15", "2026-04-04 16:15"]),
            ("0 * * * *", Apia, "2011-12-30 08:30", &["2011-12-30 09:00", "2011-12-30 10:00", "2011-12-30 11:00"]),
            ("0 * 30 12 *", Apia, "2011-01-01 00:00", &["2012-12-29 10:00"]),
            // Across many changes at once.
            ("0 */12 29 2 *", Berlin, "2024-03-01 00:00", &["2028-02-28 23:00", "2028-02-29 11:00", "2032-02-28 23:00"]),
            (
                "30 */2 25 10 *",
                Berlin,
                "2026-01-01 00:00",
                &["2026-10-24 22:30", "2026-10-25 00:30", "2026-10-25 01:30", "2026-10-25 03:30"],
            ),
            ("30 */23 1 7 *", New_York, "2026-01-01 00:00", &["2026-07-01 04:30", "2026-07-02 03:30"]),
        ];
        for (text, zone, after, expected) in table {
            assert_eq!(slots(text, *zone, after, expected.len()), *expected, "{text} in {zone} after {after}");
        }
    }

    #[test]
    fn runs_on_a_day() {
        for (text, zone, day, runs) in [
            ("0 * * * *", Berlin, "2026-03-28", 24),
            ("0 * * * *", Berlin, "2026-03-29", 23),
            ("0 * * * *", Berlin, "2026-10-25", 25),
            ("30 */1 * * *", Berlin, "2026-10-25", 25),
            ("0 0-23 * * *", Berlin, "2026-03-29", 23),
            ("0 0-23 * * *", Berlin, "2026-10-25", 24),
            ("@hourly", Cairo, "2026-04-24", 23),
            ("@hourly", Cairo, "2026-10-29", 25),
            ("@hourly", Santiago, "2026-09-06", 23),
            ("@hourly", Santiago, "2026-04-04", 25),
            ("@hourly", Lord_Howe, "2026-10-04", 23),
            ("@hourly", Lord_Howe, "2026-04-05", 24),
            ("*/30 * * * *", Lord_Howe, "2026-10-04", 47),
            ("*/30 * * * *", Lord_Howe, "2026-04-05", 49),
            ("@hourly", Troll, "2026-03-29", 22),
            ("@hourly", Troll, "2026-10-25", 26),
            ("@hourly", Apia, "2011-12-29", 24),
            ("@hourly", Apia, "2011-12-30", 0),
            ("@hourly", Apia, "2011-12-31", 24),
            ("@daily", Apia, "2011-12-30", 0),
            ("@daily", Cairo, "2026-04-24", 1),
        ] {
            assert_eq!(count(text, zone, day), runs, "{text} in {zone} on {day}");
        }
    }

    #[test]
    fn every_second() {
        for change in ["2026-03-29 01:00", "2026-10-25 01:00"] {
            let start = utc(change) - TimeDelta::minutes(2);
            let real = schedule("* * * * * *");
            for (n, slot) in (1..=240).zip(iter(&real, Berlin, start)) {
                assert_eq!(slot, start + TimeDelta::seconds(n));
            }
        }
        let fixed = schedule("* * 1-3 * * *");
        let fold = utc("2026-10-25 01:00");
        assert_eq!(next(&fixed, Berlin, fold - SECOND), Some(fold + TimeDelta::hours(1)));
        assert_eq!(next(&fixed, Berlin, fold + TimeDelta::milliseconds(1)), Some(fold + TimeDelta::hours(1)));
        let gap = utc("2026-03-29 01:00");
        assert_eq!(iter(&fixed, Berlin, gap - SECOND).take(3).collect::<Vec<_>>(), [gap, gap + SECOND, gap + SECOND * 2]);
        assert_eq!(next(&schedule("15 30 2 * * *"), Berlin, gap - SECOND), Some(gap));
    }

    #[test]
    fn parts_of_a_second() {
        let every = schedule("* * * * * *");
        let slot = utc("2026-01-01 00:00");
        for (after_millis, expected) in [(-1, 0), (0, 1), (1, 1), (999, 1), (1_000, 2)] {
            let after = slot + TimeDelta::milliseconds(after_millis);
            assert_eq!(next(&every, Berlin, after), Some(slot + TimeDelta::seconds(expected)), "{after_millis}");
        }
        let leap_second = utc("2016-12-31 23:59:59").with_nanosecond(1_500_000_000).unwrap();
        assert_eq!(next(&every, Berlin, leap_second), Some(utc("2017-01-01 00:00")));
    }

    #[test]
    fn days() {
        let table: &[(&str, &[&str])] = &[
            // From Thursday, 2026-01-01. Both given: either.
            ("0 0 13 * 5", &["2026-01-02 00:00", "2026-01-09 00:00", "2026-01-13 00:00", "2026-01-16 00:00"]),
            ("0 0 1,15 * MON", &["2026-01-05 00:00", "2026-01-12 00:00", "2026-01-15 00:00", "2026-01-19 00:00"]),
            ("0 0 30 2 5", &["2026-02-06 00:00", "2026-02-13 00:00"]),
            ("0 0 10-11 2 5", &["2026-02-06 00:00", "2026-02-10 00:00", "2026-02-11 00:00", "2026-02-13 00:00"]),
            // One of them is a star: the other.
            ("0 0 13 * *", &["2026-01-13 00:00", "2026-02-13 00:00"]),
            ("0 0 * * 5", &["2026-01-02 00:00", "2026-01-09 00:00"]),
            ("0 0 */10 * *", &["2026-01-11 00:00", "2026-01-21 00:00", "2026-01-31 00:00", "2026-02-01 00:00"]),
            ("0 0 * * */3", &["2026-01-03 00:00", "2026-01-04 00:00", "2026-01-07 00:00"]),
            // Sunday is 0 and 7.
            ("0 0 * * 0", &["2026-01-04 00:00", "2026-01-11 00:00"]),
            ("0 0 * * 7", &["2026-01-04 00:00", "2026-01-11 00:00"]),
            ("0 0 * * sun", &["2026-01-04 00:00", "2026-01-11 00:00"]),
            ("0 0 * * 6-7", &["2026-01-03 00:00", "2026-01-04 00:00", "2026-01-10 00:00"]),
            ("0 0 * * SAT-SUN", &["2026-01-03 00:00", "2026-01-04 00:00", "2026-01-10 00:00"]),
            ("0 0 * * 0-1", &["2026-01-04 00:00", "2026-01-05 00:00", "2026-01-11 00:00"]),
            ("0 0 * * 0,7", &["2026-01-04 00:00", "2026-01-11 00:00"]),
            ("0 0 6 * 7", &["2026-01-04 00:00", "2026-01-06 00:00", "2026-01-11 00:00"]),
            ("@hourly", &["2026-01-01 01:00", "2026-01-01 02:00"]),
            ("@daily", &["2026-01-02 00:00", "2026-01-03 00:00"]),
            ("@weekly", &["2026-01-04 00:00", "2026-01-11 00:00"]),
            ("@monthly", &["2026-02-01 00:00", "2026-03-01 00:00"]),
            ("@yearly", &["2027-01-01 00:00", "2028-01-01 00:00"]),
            ("@Annually", &["2027-01-01 00:00"]),
            ("0 12 29 2 *", &["2028-02-29 12:00", "2032-02-29 12:00"]),
            ("0 12 31 * *", &["2026-01-31 12:00", "2026-03-31 12:00", "2026-05-31 12:00"]),
            ("0 30 4 1 JAN *", &["2026-01-01 04:30", "2027-01-01 04:30"]),
        ];
        for (text, expected) in table {
            assert_eq!(slots(text, Tz::UTC, "2026-01-01 00:00", expected.len()), *expected, "{text}");
        }
        assert_eq!(slots("0 12 29 2 *", Berlin, "2096-03-01 00:00", 1), ["2104-02-29 11:00"], "2100 is no leap year");
    }

    #[test]
    fn the_hour_tells_fixed_from_real() {
        for text in ["@hourly", "@HOURLY", "0 * * * *", "*/5 */2 * * *", "0 0 * * * *", "0 0 */6 1 1 *"] {
            assert!(follows_real_time(&schedule(text)), "{text}");
        }
        for text in [
            "@daily",
            "@weekly",
            "@monthly",
            "@yearly",
            "0 2 * * *",
            "* 2 * * *",
            "0 0-23 * * *",
            "0 0-23/2 * * *",
            "* * 2 * * *",
            "0 1,*/6 * * *",
        ] {
            assert!(!follows_real_time(&schedule(text)), "{text}");
        }
    }

    #[test]
    fn never() {
        let start = utc("2026-01-01 00:00");
        // The file refuses them; here they must not hang.
        let never =
            |text: &str| Schedule { text: text.to_owned(), cron: croner::parser::CronParser::new().parse(text).unwrap(), also: None };
        for text in ["0 0 30 2 *", "0 * 31 4,6,9,11 *"] {
            assert_eq!(next(&never(text), Berlin, start), None, "{text}");
        }
        assert_eq!(latest(&never("0 0 30 2 *"), Berlin, start, utc("2035-01-01 00:00")), None);
    }

    #[test]
    fn the_ends_of_time() {
        let (first, last) = (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
        for text in ["0 2 * * *", "@hourly", "* * * * * *", "0 0 29 2 *"] {
            let schedule = schedule(text);
            for zone in [Tz::UTC, Berlin, Apia, Santiago] {
                for hours in [0, 1, 13, 27, 53] {
                    let (early, late) = (first + TimeDelta::hours(hours), last - TimeDelta::hours(hours));
                    assert_eq!(next(&schedule, zone, late), None, "{text} in {zone}");
                    for moment in [early, late] {
                        assert_eq!(note(&schedule, zone, moment), None, "{text} in {zone}");
                    }
                }
            }
            assert_eq!(latest(&schedule, Berlin, last, first), None, "{text}");
        }
        let until = utc("2026-03-01 00:00");
        for (text, zone) in [("0 2 * * *", Apia), ("@hourly", Santiago)] {
            assert!(next(&schedule(text), zone, first).is_none_or(|slot| slot > first), "{text}");
            assert!(latest(&schedule(text), zone, first, until).is_none_or(|slot| slot <= until), "{text}");
        }
    }

    #[test]
    fn the_latest() {
        for (text, after, until, expected) in [
            ("* * * * * *", "2025-10-25 00:00", "2026-10-25 01:00", Some("2026-10-25 01:00")),
            ("* * 2 * * *", "2025-10-25 00:00", "2026-10-26 00:00", Some("2026-10-25 00:59:59")),
            ("0 2 * * *", "2020-01-01 00:00", "2026-03-29 12:00", Some("2026-03-29 01:00")),
            ("0 2 * * *", "2026-03-29 01:00", "2026-03-30 00:00", Some("2026-03-30 00:00")),
            ("0 2 * * *", "2026-03-29 01:00", "2026-03-29 23:59:59", None),
            ("0 2 * * *", "2026-03-30 00:00", "2026-03-29 00:00", None),
            ("0 2 29 2 *", "2020-01-01 00:00", "2026-03-29 12:00", Some("2024-02-29 01:00")),
            ("@hourly", "2026-10-25 00:00", "2026-10-25 01:59:59", Some("2026-10-25 01:00")),
        ] {
            assert_eq!(latest(&schedule(text), Berlin, utc(after), utc(until)), expected.map(utc), "{text}, {after} to {until}");
        }
    }

    #[test]
    fn notes() {
        for (text, zone, slot, expected) in [
            ("30 2 * * *", Berlin, "2026-03-29 01:00", Some(Note::Gap)),
            ("0 2 * * *", Berlin, "2026-03-29 01:00", Some(Note::Gap)),
            ("30 2 * * *", Berlin, "2026-03-28 01:30", None),
            ("0 3 * * *", Berlin, "2026-03-29 01:00", None),
            ("0 * * * *", Berlin, "2026-03-29 01:00", None),
            ("30 2 * * *", Berlin, "2026-10-25 00:30", Some(Note::Fold)),
            ("30 2 * * *", Berlin, "2026-10-25 01:30", None),
            ("30 2 * * *", Berlin, "2026-10-26 01:30", None),
            ("0 3 * * *", Berlin, "2026-10-25 02:00", None),
            ("30 * * * *", Berlin, "2026-10-25 00:30", Some(Note::Fold)),
            ("30 * * * *", Berlin, "2026-10-25 01:30", Some(Note::Fold)),
            ("30 * * * *", Berlin, "2026-10-25 02:30", None),
            ("15 0 * * *", Cairo, "2026-04-23 22:00", Some(Note::Gap)),
            ("10 0 * * *", Santiago, "2026-09-06 04:00", Some(Note::Gap)),
            ("10 2 * * *", Lord_Howe, "2026-10-03 15:30", Some(Note::Gap)),
            ("0 2 * * *", Apia, "2011-12-30 10:00", Some(Note::Gap)),
            ("0 2 * * *", Apia, "2011-12-30 12:00", None),
        ] {
            assert_eq!(note(&schedule(text), zone, utc(slot)), expected, "{text} in {zone} at {slot}");
        }
    }

    const ZONES: [Tz; 10] = [Tz::UTC, Berlin, Cairo, Casablanca, Santiago, Lord_Howe, Apia, St_Johns, Troll, Kathmandu];

    const SCHEDULES: [&str; 22] = [
        "0 2 * * *",
        "30 2 * * *",
        "15 0 * * *",
        "10,50 1-3 * * *",
        "0 0-23 * * *",
        "45 1 * * 0",
        "30 23 30 * 6",
        "*/20 23,0,1,2 * * *",
        "@daily",
        "@weekly",
        "59 23 31 12 *",
        "@hourly",
        "*/30 * * * *",
        "7 */2 * * *",
        "* * * * *",
        "15 */3 1-7 * 7",
        "0 */24 * * *",
        "* * * * * *",
        "*/7 */5 * * * *",
        "* * 0-3 * * *",
        "30 30 1,2 * * *",
        "59 59 * * * *",
    ];

    /// What the rules say, by a walk over real time. A schedule with fixed hours is due when one of
    /// its times lies between the furthest that the local clock has been and where it is now.
    fn walk(schedule: &Schedule, zone: Tz, after: DateTime<Utc>, until: DateTime<Utc>, step: TimeDelta) -> Vec<DateTime<Utc>> {
        let shown = |moment: DateTime<Utc>| moment.with_timezone(&zone).naive_local();
        let is_due = |local: NaiveDateTime| schedule.cron.is_time_matching(&local.and_utc()).unwrap();
        let real = {
            let fields: Vec<&str> = schedule.text.split(' ').collect();
            schedule.text == "@hourly" || (fields.len() >= 5 && fields[fields.len() - 4].starts_with('*'))
        };
        // Clocks change on whole minutes in these years, so all of a minute has one offset.
        let minutes = (0..180).map(|n| shown(after - TimeDelta::minutes(n)) + TimeDelta::seconds(if n == 0 { 0 } else { 59 }));
        let mut furthest = minutes.max().unwrap();
        let mut found = Vec::new();
        let mut moment = after + step;
        while moment <= until {
            let local = shown(moment);
            let due = if real {
                is_due(local)
            } else {
                let mut due = false;
                while furthest < local {
                    // What is left of a step after a fold.
                    furthest = (furthest + step).min(local);
                    due |= is_due(furthest);
                }
                due
            };
            if due {
                found.push(moment);
            }
            moment += step;
        }
        found
    }

    proptest! {
        #[test]
        fn agrees_with_a_walk_over_real_time(
            zone in proptest::sample::select(&ZONES[..]),
            text in proptest::sample::select(&SCHEDULES[..]),
            // Whole minutes of 2010 to 2035.
            minute in 21_038_400_i64..34_714_080,
            at_change in proptest::bool::weighted(0.7),
            before_minutes in 0_i64..180,
        ) {
            let schedule = schedule(text);
            let fine = text.split(' ').count() == 6;
            let mut after = DateTime::from_timestamp(minute * 60, 0).unwrap();
            if at_change && let Some(change) = (0..200).find_map(|day| {
                let from = after + TimeDelta::days(day);
                let until = from + TimeDelta::days(1);
                if offset_at(zone, from) == offset_at(zone, until) { None } else { first_change(zone, from, until) }
            }) {
                after = change - TimeDelta::minutes(if fine { before_minutes / 9 - 3 } else { before_minutes - 60 });
            }
            let (step, until) = if fine { (SECOND, after + TimeDelta::minutes(25)) } else { (TimeDelta::minutes(1), after + TimeDelta::hours(12)) };

            let expected = walk(&schedule, zone, after, until, step);
            let found: Vec<_> = iter(&schedule, zone, after).take_while(|slot| *slot <= until).collect();
            prop_assert!(found.is_sorted_by(|a, b| a < b));
            prop_assert!(found.first().is_none_or(|slot| *slot > after));
            prop_assert_eq!(latest(&schedule, zone, after, until), found.last().copied());
            prop_assert_eq!(found, expected);
        }
    }
}
