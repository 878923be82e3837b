//! The last weeks of a backup, a day a place: what was made, what of it is kept, what failed.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, Days, NaiveDate, Utc};
use chrono_tz::Tz;

use super::{Kept, Ran};
use crate::catalog::Rung;

/// What a day shows. The order is that of what covers what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// A run failed, and no other was good.
    Failed,
    /// One was made, and retention has deleted it since.
    Gone,
    /// One is kept, and its best has this rung.
    Kept(Rung),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Day {
    pub date: NaiveDate,
    /// 0 is the oldest.
    pub week: u32,
    /// 0 is Monday.
    pub weekday: u32,
    pub mark: Option<Mark>,
    /// The tiers that its backups fill.
    pub tiers: Vec<&'static str>,
    pub kept: usize,
    pub failed: usize,
}

/// The days of the last `weeks` weeks, this one included, up to today, oldest first.
pub fn calendar(kept: &[Kept], runs: &[Ran], weeks: u32, zone: Tz, now: DateTime<Utc>) -> Vec<Day> {
    let today = now.with_timezone(&zone).date_naive();
    let monday = today - Days::new(today.weekday().num_days_from_monday().into());
    let first = monday - Days::new(7 * u64::from(weeks.saturating_sub(1)));
    let mut days: BTreeMap<NaiveDate, Day> = first
        .iter_days()
        .take_while(|date| *date <= today)
        .zip(0..)
        .map(|(date, n)| (date, Day { date, week: n / 7, weekday: n % 7, mark: None, tiers: Vec::new(), kept: 0, failed: 0 }))
        .collect();
    for run in runs {
        let Some(day) = days.get_mut(&run.started_at.with_timezone(&zone).date_naive()) else { continue };
        let mark = if run.is_good { Mark::Gone } else { Mark::Failed };
        day.failed += usize::from(!run.is_good);
        day.mark = day.mark.max(Some(mark));
    }
    for kept in kept {
        let Some(day) = days.get_mut(&kept.taken_at.with_timezone(&zone).date_naive()) else { continue };
        day.kept += 1;
        day.mark = day.mark.max(Some(Mark::Kept(kept.rung)));
        for tier in &kept.tiers {
            if !day.tiers.contains(tier) {
                day.tiers.push(tier);
            }
        }
    }
    days.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_shows_the_best_of_it() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let kept =
            |taken_at: &str, rung, tiers: &[&'static str]| Kept { taken_at: at(taken_at), rung, tiers: tiers.to_vec(), ..Kept::default() };
        let ran = |started_at: &str, is_good| Ran { started_at: at(started_at), seconds: 1.0, is_good };
        // A Thursday. 23:30 in UTC is the next day in Vienna.
        let now = at("2026-01-15T12:00:00Z");
        let days = calendar(
            &[kept("2026-01-13T23:30:00Z", Rung::Readable, &["last"]), kept("2026-01-14T02:00:00Z", Rung::Matched, &["last", "daily"])],
            &[
                ran("2026-01-05T02:00:00Z", true),
                ran("2026-01-06T02:00:00Z", false),
                ran("2026-01-07T02:00:00Z", false),
                ran("2026-01-07T02:10:00Z", true),
                ran("2026-01-14T01:00:00Z", false),
                ran("2025-01-14T01:00:00Z", false),
            ],
            2,
            Tz::Europe__Vienna,
            now,
        );
        assert_eq!(days.len(), 11);
        assert_eq!((days[0].date.to_string().as_str(), days[0].week, days[0].weekday), ("2026-01-05", 0, 0));
        assert_eq!((days[10].week, days[10].weekday), (1, 3));
        let marks: Vec<Option<Mark>> = days.iter().map(|day| day.mark).collect();
        assert_eq!(marks[..4], [Some(Mark::Gone), Some(Mark::Failed), Some(Mark::Gone), None]);
        let day = &days[9];
        assert_eq!((day.mark, day.kept, day.failed), (Some(Mark::Kept(Rung::Matched)), 2, 1));
        assert_eq!(day.tiers, ["last", "daily"]);
    }
}
