//! A target, the base backups, the archive -> what is restored, or why not.

use chrono::{DateTime, Utc};

use super::target::{Target, in_utc};
use crate::catalog::{Id, Physical};
use crate::wal::{Archive, Lsn, Reach};

/// A base backup that may be restored.
#[derive(Debug, Clone)]
pub struct Base {
    pub id: Id,
    pub physical: Physical,
}

/// What can be restored: a base backup, and the log behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    pub base: Id,
    /// The timeline that the recovery follows.
    pub timeline: u32,
    /// `None`: the base backup holds its log, and nothing behind it is wanted.
    pub reach: Option<Reach>,
}

impl Way {
    /// The timeline that PostgreSQL is told to follow: of all but the first it asks for the history. `None`: it is not in
    /// the archive, which a base backup of that very timeline does without.
    pub fn followed(&self, archive: &Archive) -> Option<u32> {
        (self.timeline == 1 || archive.histories.contains_key(&self.timeline)).then_some(self.timeline)
    }
}

/// A span out of which any moment can be restored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Window {
    pub base: String,
    pub timeline: u32,
    pub from: DateTime<Utc>,
    pub from_lsn: Lsn,
    /// Nothing that was committed later is in it.
    pub to: DateTime<Utc>,
    pub to_lsn: Lsn,
}

impl Window {
    pub fn in_words(&self) -> String {
        format!(
            "{} to {} (LSN {} to {}, timeline {}, {})",
            in_utc(self.from),
            in_utc(self.to),
            self.from_lsn,
            self.to_lsn,
            self.timeline,
            self.base
        )
    }
}

/// Where a base backup leads, on a timeline or on the newest that comes of its own.
///
/// # Errors
/// Why nowhere: the log is missing that makes it whole.
pub fn way(base: &Base, archive: Option<&Archive>, timeline: Option<u32>) -> Result<Way, String> {
    let physical = &base.physical;
    let whole = |reach: Reach| {
        if reach.certain_end(physical.wal_segment_bytes) >= physical.stop_lsn {
            return Ok(reach);
        }
        let gap = reach.gaps.first().map(|gap| format!(": {}", gap.in_words(physical.wal_segment_bytes))).unwrap_or_default();
        Err(format!("{}: its log is not whole, it reaches to {} of {}{gap}", base.id, reach.end, physical.stop_lsn))
    };
    let Some(archive) = archive.filter(|archive| !archive.segments.is_empty()) else {
        if physical.with_wal {
            return Ok(Way { base: base.id.clone(), timeline: physical.timeline, reach: None });
        }
        return Err(format!("{}: the archive of its log is empty", base.id));
    };
    if physical.with_wal && archive.missing(physical.timeline, physical.stop_lsn, physical.stop_lsn).len() == 1 {
        // It was made when there was no archive, or the log behind it is no longer there.
        return Ok(Way { base: base.id.clone(), timeline: physical.timeline, reach: None });
    }
    let from = if physical.with_wal { physical.stop_lsn } else { physical.start_lsn };
    let timeline = timeline.unwrap_or_else(|| archive.newest_of(physical.timeline, physical.stop_lsn));
    let reach = archive.reach(physical.timeline, from, timeline).map_err(|no| format!("{}: {no}", base.id))?;
    Ok(Way { base: base.id.clone(), timeline, reach: Some(whole(reach)?) })
}

/// The newest base backup that ends before the target and leads to it.
///
/// # Errors
/// Why there is none: what stands against each, newest first.
pub fn choose(target: &Target, bases: &[Base], archive: Option<&Archive>, timeline: Option<u32>) -> Result<Way, Vec<String>> {
    let mut against = Vec::new();
    let mut newest_first: Vec<&Base> = bases.iter().collect();
    newest_first.sort_by_key(|base| std::cmp::Reverse((base.physical.stopped_at, base.id.clone())));
    for base in newest_first {
        match begins_before(target, base).and_then(|()| way(base, archive, timeline)).and_then(|way| leads_to(target, way, base)) {
            Ok(way) => return Ok(way),
            Err(why) => against.push(why),
        }
    }
    Err(against)
}

/// A target before the end of a base backup: PostgreSQL refuses, or ends later than was asked for.
fn begins_before(target: &Target, base: &Base) -> Result<(), String> {
    let (id, physical) = (&base.id, &base.physical);
    let too_new = match target {
        Target::Time(at) => (*at < physical.stopped_at).then(|| format!("{id} ends at {}, later", in_utc(physical.stopped_at))),
        Target::Lsn(lsn) => (*lsn < physical.stop_lsn).then(|| format!("{id} ends at {}, behind it", physical.stop_lsn)),
        Target::Xid(xid) => (widened(*xid, physical.next_xid) < physical.next_xid)
            .then(|| format!("{id} ends at transaction {}: {xid} may have ended before", physical.next_xid)),
        Target::Name(_) | Target::Latest => None,
    };
    too_new.map_or(Ok(()), Err)
}

/// A transaction number of 32 bits as that of 64 bits nearest to another.
fn widened(xid: u64, near: u64) -> u64 {
    const EPOCH: u64 = 1 << 32;
    if xid >= EPOCH {
        return xid;
    }
    let here = near / EPOCH * EPOCH + xid;
    let candidates = [here.saturating_sub(EPOCH), here, here + EPOCH];
    candidates.into_iter().min_by_key(|candidate| candidate.abs_diff(near)).unwrap_or(here)
}

fn leads_to(target: &Target, way: Way, base: &Base) -> Result<Way, String> {
    let bytes = base.physical.wal_segment_bytes;
    let Some(reach) = &way.reach else {
        return match target {
            Target::Latest => Ok(way),
            _ => Err(format!("{} has no log behind its end", base.id)),
        };
    };
    let gap = reach.gaps.first().map(|gap| gap.in_words(bytes));
    match target {
        Target::Lsn(lsn) if *lsn > reach.end => {
            Err(format!("{} leads to {} only{}", base.id, reach.end, gap.map(|gap| format!(": {gap}")).unwrap_or_default()))
        }
        // All there is must not end at a gap without a word.
        Target::Latest => match gap {
            Some(gap) => Err(format!("{}: {gap}; the log before it leads to LSN {}", base.id, reach.end)),
            None => Ok(way),
        },
        _ => Ok(way),
    }
}

/// What is known of the end of a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Until when the log tells all: when its last segment was last written on the server, as far as that is known; else
    /// when it came.
    pub told_until: DateTime<Utc>,
    /// The newest transaction in the log that is reached; `None`: nobody could look.
    pub newest: Option<DateTime<Utc>>,
}

/// How PostgreSQL is told to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// At the target: there is a transaction behind it.
    At(Target),
    /// With the log: nothing was committed between this moment and the target. `None`: the target is the end of the log.
    WithTheLog(Option<DateTime<Utc>>),
}

/// Holds the target against the end of the way. PostgreSQL gives up where it finds no transaction behind a
/// moment, even if there was none.
///
/// # Errors
/// The moment lies outside.
pub fn stop(target: &Target, way: &Way, end: Option<End>, bytes: u64) -> Result<Stop, String> {
    if let (Target::Lsn(lsn), Some(reach)) = (target, &way.reach)
        && *lsn == reach.certain_end(bytes)
    {
        // PostgreSQL stops behind a record that begins there or later, and there is none.
        return Ok(Stop::WithTheLog(None));
    }
    let (Target::Time(at), Some(reach), Some(end)) = (target, &way.reach, end) else { return Ok(Stop::At(target.clone())) };
    if end.newest.is_some_and(|newest| newest > *at) {
        return Ok(Stop::At(target.clone()));
    }
    let Some(newest) = end.newest else {
        // PostgreSQL ends at the moment, or fails at the end of the log.
        if *at <= end.told_until {
            return Ok(Stop::At(target.clone()));
        }
        let gap = reach.gaps.first().map(|gap| format!(": {}", gap.in_words(bytes))).unwrap_or_default();
        return Err(format!("the log before it ends at {}{gap}", in_utc(end.told_until)));
    };
    if let Some(gap) = reach.gaps.first() {
        return Err(format!(
            "the log of that moment is not whole: {}; before it the newest transaction is of {}",
            gap.in_words(bytes),
            in_utc(newest)
        ));
    }
    if *at > end.told_until {
        return Err(format!(
            "the archive ends before: it tells all until {}, and its newest transaction is of {}",
            in_utc(end.told_until),
            in_utc(newest)
        ));
    }
    Ok(Stop::WithTheLog(Some(newest)))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use chrono::TimeDelta;

    use super::*;
    use crate::wal::History;

    const MB: u64 = 1 << 20;

    fn at(minutes: i64) -> DateTime<Utc> {
        "2026-01-15T00:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::minutes(minutes)
    }

    /// A base backup of a minute, in one segment.
    fn base(minute: i64, segment: u64, timeline: u32) -> Base {
        let label = crate::catalog::Label::of(at(minute));
        Base {
            id: Id { backup: "c".into(), label },
            physical: Physical {
                superuser: "postgres".into(),
                system_identifier: "1".into(),
                timeline,
                start_lsn: Lsn(segment * MB + 40),
                stop_lsn: Lsn(segment * MB + 300),
                started_at: at(minute),
                stopped_at: at(minute),
                next_xid: 700 + segment,
                wal_segment_bytes: MB,
                with_wal: false,
                from_standby: false,
                data_checksums: true,
                cluster_files: 1,
                cluster_bytes: 1,
                tablespaces: Vec::new(),
                settings: BTreeMap::new(),
                incremental_of: None,
            },
        }
    }

    fn archive(numbers: &[u64]) -> Archive {
        Archive {
            segment_bytes: MB,
            segments: BTreeMap::from([(1, numbers.iter().copied().collect::<BTreeSet<u64>>())]),
            histories: BTreeMap::new(),
            open: BTreeSet::new(),
        }
    }

    fn minute(way: &Way) -> i64 {
        (way.base.label.slot() - at(0)).num_minutes()
    }

    #[test]
    fn the_newest_base_that_ends_before() {
        let bases = [base(10, 2, 1), base(20, 5, 1), base(30, 8, 1)];
        let archive = archive(&[2, 3, 4, 5, 6, 7, 8, 9]);
        let chosen = |target: Target| choose(&target, &bases, Some(&archive), None).map(|way| minute(&way));
        assert_eq!(chosen(Target::Time(at(30))), Ok(30));
        assert_eq!(chosen(Target::Time(at(29))), Ok(20));
        assert_eq!(chosen(Target::Time(at(11))), Ok(10));
        assert_eq!(chosen(Target::Latest), Ok(30));
        assert_eq!(chosen(Target::Lsn(Lsn(5 * MB + 299))), Ok(10));
        assert_eq!(chosen(Target::Lsn(Lsn(5 * MB + 300))), Ok(20));
        assert_eq!(chosen(Target::Xid(707)), Ok(20));
        assert_eq!(chosen(Target::Name("x".into())), Ok(30));
        let against = chosen(Target::Time(at(9))).unwrap_err();
        assert!(against.len() == 3 && against[0].contains("ends at 2026-01-15 00:30:00"), "{against:?}");
        let against = chosen(Target::Lsn(Lsn(11 * MB))).unwrap_err();
        assert!(against[0].contains("leads to 0/A00000 only"), "{against:?}");
    }

    #[test]
    fn a_gap_is_never_passed_over() {
        let bases = [base(10, 2, 1), base(20, 5, 1)];
        let archive = archive(&[2, 3, 5, 7, 8]);
        let against = choose(&Target::Latest, &bases, Some(&archive), None).unwrap_err();
        assert!(against[0].contains("segment 000000010000000000000006 is missing"), "{against:?}");
        // Before the gap it may be restored to a place that is named.
        let way = choose(&Target::Lsn(Lsn(6 * MB)), &bases, Some(&archive), None).unwrap();
        assert_eq!(minute(&way), 20);
        let way = choose(&Target::Time(at(25)), &bases, Some(&archive), None).unwrap();
        let stop = |newest| stop(&Target::Time(at(25)), &way, Some(End { told_until: at(40), newest: Some(newest) }), MB);
        assert_eq!(stop(at(26)), Ok(Stop::At(Target::Time(at(25)))));
        assert!(stop(at(24)).unwrap_err().contains("000000010000000000000006 is missing"));
        // The log that makes the base whole is missing: an older one leads there if it can.
        let archive = self::archive(&[2, 3, 4, 6]);
        let against = choose(&Target::Latest, &bases, Some(&archive), None).unwrap_err();
        assert!(against.iter().all(|why| why.contains("000000010000000000000005 is missing")), "{against:?}");
    }

    #[test]
    fn an_idle_server_is_no_refusal_and_the_future_is() {
        let bases = [base(10, 2, 1)];
        let way = choose(&Target::Time(at(50)), &bases, Some(&archive(&[2, 3])), None).unwrap();
        let end = |archived| Some(End { told_until: at(archived), newest: Some(at(20)) });
        assert_eq!(stop(&Target::Time(at(50)), &way, end(60), MB), Ok(Stop::WithTheLog(Some(at(20)))));
        assert!(stop(&Target::Time(at(50)), &way, end(40), MB).unwrap_err().contains("the archive ends before"));
        // Where nobody could look into the log, PostgreSQL has the last word on what may be there.
        let end = |archived| Some(End { told_until: at(archived), newest: None });
        assert_eq!(stop(&Target::Time(at(50)), &way, end(60), MB), Ok(Stop::At(Target::Time(at(50)))));
        assert!(stop(&Target::Time(at(50)), &way, end(40), MB).unwrap_err().contains("the log before it ends at"));
    }

    #[test]
    fn the_newest_timeline_or_the_one_that_is_asked_for() {
        let mut archive = archive(&[2, 3, 4, 5]);
        archive.segments.insert(2, BTreeSet::from([4, 5, 6]));
        archive.histories.insert(2, History(vec![(1, Lsn(4 * MB + 10))]));
        let bases = [base(10, 2, 1)];
        let way = choose(&Target::Latest, &bases, Some(&archive), None).unwrap();
        assert_eq!((way.timeline, way.reach.unwrap().end), (2, Lsn(7 * MB)));
        let way = choose(&Target::Latest, &bases, Some(&archive), Some(1)).unwrap();
        assert_eq!((way.timeline, way.reach.unwrap().end), (1, Lsn(6 * MB)));
        assert!(choose(&Target::Latest, &bases, Some(&archive), Some(9)).unwrap_err()[0].contains("timeline 9"));
    }

    #[test]
    fn a_base_with_its_log_needs_no_archive() {
        let mut with_wal = base(10, 2, 1);
        with_wal.physical.with_wal = true;
        let bases = [with_wal];
        assert_eq!(choose(&Target::Latest, &bases, None, None).unwrap().reach, None);
        assert!(choose(&Target::Time(at(20)), &bases, None, None).unwrap_err()[0].contains("no log behind"));
        assert!(choose(&Target::Latest, &[base(10, 2, 1)], None, None).unwrap_err()[0].contains("is empty"));
    }

    #[test]
    fn transaction_numbers_of_32_bits() {
        assert_eq!(widened(5, 700), 5);
        assert_eq!(widened(5, (1 << 32) - 3), (1 << 32) + 5);
        assert_eq!(widened((1 << 32) - 3, (1 << 32) + 5), (1 << 32) - 3);
    }
}
