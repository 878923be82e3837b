//! What is in an archive of the log -> how far it reaches without a gap.
//!
//! At a gap PostgreSQL promotes without a word, and what was committed behind it is missing. So the
//! names are looked at before anything is restored.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::timeline::Leg;
use super::{History, Lsn, Segment};

/// The files of the log of one cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archive {
    pub segment_bytes: u64,
    /// Numbers of whole segments, by timeline.
    pub segments: BTreeMap<u32, BTreeSet<u64>>,
    /// Of every timeline but the first.
    pub histories: BTreeMap<u32, History>,
    /// Segments of which there is a part: how far it tells nobody knows before it is replayed.
    pub open: BTreeSet<Segment>,
}

/// Segments that are missing between others that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub first: Segment,
    pub last: Segment,
}

impl Gap {
    pub fn count(&self) -> u64 {
        self.last.number.saturating_sub(self.first.number) + 1
    }

    /// From the first to the last missing one.
    pub fn in_words(&self, segment_bytes: u64) -> String {
        let first = self.first.name(segment_bytes);
        match self.count() {
            1 => format!("segment {first} is missing"),
            count => format!("{count} segments are missing, from {first} to {}", self.last.name(segment_bytes)),
        }
    }
}

/// How far a replay comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The timeline that it ends on.
    pub timeline: u32,
    /// In their order.
    pub segments: Vec<Segment>,
    /// Just behind the last byte.
    pub end: Lsn,
    /// What is missing before segments that are there.
    pub gaps: Vec<Gap>,
    /// Of the last segment there is a part only.
    pub open: bool,
}

/// The timelines lead nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoWay(pub String);

impl fmt::Display for NoWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Reach {
    /// Up to here it leads for certain.
    pub fn certain_end(&self, segment_bytes: u64) -> Lsn {
        match self.segments.last() {
            Some(open) if self.open => open.start(segment_bytes),
            _ => self.end,
        }
    }

    /// Without the segment of which there is a part only.
    pub fn leave_open_one(&mut self, segment_bytes: u64) {
        if std::mem::take(&mut self.open)
            && let Some(open) = self.segments.pop()
        {
            self.end = open.start(segment_bytes);
        }
    }
}

impl Archive {
    pub fn contains(&self, segment: Segment) -> bool {
        self.segments.get(&segment.timeline).is_some_and(|numbers| numbers.contains(&segment.number))
    }

    /// Where the first segment begins, at a place or behind it, that this one has and another has not.
    pub fn lowest_not_in(&self, other: &Archive, from: Lsn) -> Option<Lsn> {
        let first = from.0 / self.segment_bytes;
        let lacking = self.segments.iter().filter_map(|(timeline, numbers)| {
            numbers.range(first..).find(|number| !other.contains(Segment { timeline: *timeline, number: **number }))
        });
        lacking.min().map(|number| Lsn(number * self.segment_bytes))
    }

    /// The newest timeline that has come of a place of another.
    pub fn newest_of(&self, timeline: u32, at: Lsn) -> u32 {
        let comes_of = |history: &History| history.0.iter().any(|(ancestor, left)| *ancestor == timeline && *left >= at);
        let descendants = self.histories.iter().filter(|(_, history)| comes_of(history)).map(|(timeline, _)| *timeline);
        descendants.max().unwrap_or(timeline)
    }

    /// The segments that are missing between two places of a timeline, the second not included.
    pub fn missing(&self, timeline: u32, from: Lsn, to: Lsn) -> Vec<Segment> {
        let last = Segment::at(timeline, Lsn(to.0.saturating_sub(1).max(from.0)), self.segment_bytes);
        let mut segment = Segment::at(timeline, from, self.segment_bytes);
        let mut missing = Vec::new();
        while segment <= last {
            if !self.contains(segment) {
                missing.push(segment);
            }
            segment = segment.next();
        }
        missing
    }

    /// How far a replay comes that begins at a place of a timeline, on the way to another (or the
    /// same).
    ///
    /// # Errors
    /// The one does not come of the other.
    pub fn reach(&self, timeline: u32, from: Lsn, to_timeline: u32) -> Result<Reach, NoWay> {
        let legs = self.legs(timeline, from, to_timeline)?;
        let first = from.0 / self.segment_bytes;
        let highest = legs.iter().filter_map(|leg| self.highest(leg)).max().unwrap_or(first);
        let mut reach = Reach { timeline, segments: Vec::new(), end: from, gaps: Vec::new(), open: false };
        for number in first..=highest {
            // Where a timeline begins in the middle of a segment, its own file has what came before, too.
            let Some(leg) = legs.iter().rev().find(|leg| leg.from.0 / self.segment_bytes <= number) else { continue };
            let segment = Segment { timeline: leg.timeline, number };
            if self.contains(segment) {
                if reach.gaps.is_empty() {
                    reach.segments.push(segment);
                    (reach.timeline, reach.end) = (leg.timeline, segment.end(self.segment_bytes));
                }
                continue;
            }
            if reach.gaps.is_empty() && self.open.contains(&segment) {
                reach.segments.push(segment);
                (reach.timeline, reach.end, reach.open) = (leg.timeline, segment.end(self.segment_bytes), true);
            }
            match reach.gaps.last_mut() {
                Some(gap) if gap.last.number + 1 == number => gap.last = segment,
                _ => {
                    if reach.gaps.is_empty() && !reach.open {
                        self.end_of_the_one_before(&legs, leg, number, &mut reach);
                    }
                    reach.gaps.push(Gap { first: segment, last: segment });
                }
            }
        }
        // Behind the last one that is there nothing is missing yet.
        reach.gaps.retain(|gap| gap.last.number < highest);
        Ok(reach)
    }

    /// The new timeline's first segment is missing: the old one's still leads to the place where it was left.
    fn end_of_the_one_before(&self, legs: &[Leg], leg: &Leg, number: u64, reach: &mut Reach) {
        let before = legs.iter().rev().find(|before| before.until == Some(leg.from));
        let Some(before) = before.filter(|_| leg.from.0 / self.segment_bytes == number) else { return };
        let segment = Segment { timeline: before.timeline, number };
        if self.contains(segment) {
            reach.segments.push(segment);
            (reach.timeline, reach.end) = (before.timeline, leg.from);
        }
    }

    /// The legs from a place on.
    fn legs(&self, timeline: u32, from: Lsn, to_timeline: u32) -> Result<Vec<Leg>, NoWay> {
        let legs = match self.histories.get(&to_timeline) {
            Some(history) => history.legs(to_timeline),
            None if timeline == to_timeline || to_timeline == 1 => vec![Leg { timeline: to_timeline, from: Lsn(0), until: None }],
            None => return Err(NoWay(format!("the history of timeline {to_timeline} is not in the archive"))),
        };
        let start = legs.iter().position(|leg| leg.timeline == timeline);
        let start = start.ok_or_else(|| NoWay(format!("timeline {to_timeline} does not come of timeline {timeline}")))?;
        if let Some(until) = legs[start].until.filter(|until| *until < from) {
            return Err(NoWay(format!("timeline {to_timeline} left timeline {timeline} at {until}, before {from}")));
        }
        Ok(legs[start..].to_vec())
    }

    /// The highest segment of a leg that is there.
    fn highest(&self, leg: &Leg) -> Option<u64> {
        let to = leg.until.map_or(u64::MAX, |until| until.0 / self.segment_bytes);
        let whole = self.segments.get(&leg.timeline).and_then(|numbers| numbers.range(..=to).next_back().copied());
        let open = self.open.iter().filter(|open| open.timeline == leg.timeline && open.number <= to).map(|open| open.number).max();
        whole.max(open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn archive(segments: &[(u32, &[u64])], histories: &[(u32, &str)]) -> Archive {
        Archive {
            segment_bytes: MB,
            segments: segments.iter().map(|(timeline, numbers)| (*timeline, numbers.iter().copied().collect())).collect(),
            histories: histories.iter().map(|(timeline, text)| (*timeline, History::parse(text, *timeline).unwrap())).collect(),
            open: BTreeSet::new(),
        }
    }

    fn names(reach: &Reach) -> Vec<(u32, u64)> {
        reach.segments.iter().map(|segment| (segment.timeline, segment.number)).collect()
    }

    #[test]
    fn a_gap_ends_the_reach_and_is_named() {
        let archive = archive(&[(1, &[2, 3, 4, 7, 8, 10])], &[]);
        let reach = archive.reach(1, Lsn(3 * MB + 40), 1).unwrap();
        assert_eq!((names(&reach), reach.end), (vec![(1, 3), (1, 4)], Lsn(5 * MB)));
        let gaps: Vec<_> = reach.gaps.iter().map(|gap| (gap.first.number, gap.last.number)).collect();
        assert_eq!(gaps, [(5, 6), (9, 9)]);
        assert_eq!(reach.gaps[0].in_words(MB), "2 segments are missing, from 000000010000000000000005 to 000000010000000000000006");
        // Whole: nothing is missing behind the last.
        assert!(archive.reach(1, Lsn(10 * MB), 1).unwrap().gaps.is_empty());
        // Where the very first is not there, nothing can be replayed.
        let nothing = archive.reach(1, Lsn(5 * MB + 1), 1).unwrap();
        assert_eq!((nothing.segments.len(), nothing.end, nothing.gaps.len()), (0, Lsn(5 * MB + 1), 2));
        assert_eq!(archive.missing(1, Lsn(4 * MB), Lsn(7 * MB)).len(), 2);
        assert_eq!(archive.missing(1, Lsn(4 * MB), Lsn(5 * MB)), []);
    }

    #[test]
    fn what_another_archive_lacks() {
        let ours = archive(&[(1, &[2, 3, 4, 5]), (2, &[4, 5])], &[]);
        let lowest = |theirs: &[(u32, &[u64])], from: u64| ours.lowest_not_in(&archive(theirs, &[]), Lsn(from));
        assert_eq!(lowest(&[(1, &[2, 3, 4, 5]), (2, &[4, 5])], 0), None);
        assert_eq!(lowest(&[(1, &[2, 4, 5]), (2, &[4])], 0), Some(Lsn(3 * MB)));
        // What lies before the place is not asked for, but all of the segment in which it lies.
        assert_eq!(lowest(&[(1, &[2, 4, 5]), (2, &[4])], 3 * MB + 40), Some(Lsn(3 * MB)));
        assert_eq!(lowest(&[(1, &[2, 4, 5]), (2, &[4])], 4 * MB), Some(Lsn(5 * MB)));
        assert_eq!(lowest(&[], 0), Some(Lsn(2 * MB)));
    }

    #[test]
    fn a_promoted_timeline_is_followed() {
        // Left in the middle of segment 4; the old server went on to 6 by itself.
        let fork = format!("1\t{}\tno recovery target specified", Lsn(4 * MB + 100));
        let archive = archive(&[(1, &[2, 3, 4, 5, 6]), (2, &[4, 5])], &[(2, &fork)]);
        assert_eq!(archive.newest_of(1, Lsn(3 * MB)), 2);
        assert_eq!(archive.newest_of(1, Lsn(5 * MB)), 1, "a base behind the fork is of the old timeline only");
        let reach = archive.reach(1, Lsn(2 * MB), 2).unwrap();
        assert_eq!((names(&reach), reach.timeline), (vec![(1, 2), (1, 3), (2, 4), (2, 5)], 2));
        assert_eq!(names(&archive.reach(1, Lsn(2 * MB), 1).unwrap()), [(1, 2), (1, 3), (1, 4), (1, 5), (1, 6)]);
        assert!(archive.reach(1, Lsn(5 * MB), 2).unwrap_err().0.contains("before"));
        assert!(archive.reach(2, Lsn(5 * MB), 1).unwrap_err().0.contains("does not come of"));
        assert!(archive.reach(1, Lsn(5 * MB), 3).unwrap_err().0.contains("history of timeline 3"));
    }

    #[test]
    fn the_old_timeline_leads_to_the_fork_where_the_new_one_lacks_its_first() {
        let fork = format!("1\t{}\t", Lsn(4 * MB + 100));
        let archive = archive(&[(1, &[3, 4]), (2, &[5, 6])], &[(2, &fork)]);
        let reach = archive.reach(1, Lsn(3 * MB), 2).unwrap();
        assert_eq!((names(&reach), reach.end), (vec![(1, 3), (1, 4)], Lsn(4 * MB + 100)));
        assert_eq!(reach.gaps, [Gap { first: Segment { timeline: 2, number: 4 }, last: Segment { timeline: 2, number: 4 } }]);
    }
}
