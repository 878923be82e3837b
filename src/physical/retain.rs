//! keep, base backups, now -> which stay and why; and from which place on the log stays for them.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use crate::catalog::{Id, Physical};
use crate::config::plan::Keep;
use crate::config::values::Count;
use crate::retain::policy::{Candidate, Reason, Verdict};
use crate::wal::Lsn;

/// Judges the base backups of one store, newest first. What a kept one is made of stays with it.
pub fn plan(keep: &Keep, candidates: &[&Candidate], now: DateTime<Utc>) -> Vec<Verdict> {
    let mut copies: Vec<&Candidate> = candidates.to_vec();
    copies.sort_by(|a, b| (b.taken_at, &b.id).cmp(&(a.taken_at, &a.id)));
    let past = copies.partition_point(|copy| copy.taken_at > now);
    let is_good = |n: &usize| leads_back(&copies, *n);
    let good: Vec<usize> = (past..copies.len()).filter(is_good).collect();
    let highest = copies[past..].iter().map(|copy| copy.rung).max();
    let mut reasons: Vec<Vec<Reason>> = vec![Vec::new(); copies.len()];
    for (n, copy) in copies.iter().enumerate() {
        if n < past {
            reasons[n].push(Reason::Future);
        } else if n == past || good.first().is_some_and(|good| n < *good) {
            reasons[n].push(Reason::Newest);
        }
        if copy.pinned {
            reasons[n].push(Reason::Pinned);
        }
    }
    let newest_of_highest = (past..copies.len()).find(|n| Some(copies[*n].rung) == highest);
    for n in good.first().copied().into_iter().chain(newest_of_highest).collect::<BTreeSet<_>>() {
        reasons[n].push(Reason::Floor);
    }
    // Where nothing is good, nothing goes: there may be no other way back.
    if good.is_empty() {
        for reasons in reasons.iter_mut().skip(past).filter(|reasons| !reasons.contains(&Reason::Floor)) {
            reasons.push(Reason::Floor);
        }
    }
    let limit = match keep.base_backups {
        Some(Count::Forever) => usize::MAX,
        Some(Count::Number(number)) => number as usize,
        None => 0,
    };
    let whole: Vec<usize> = good.iter().copied().filter(|n| copies[*n].incremental_of.is_none()).collect();
    for (rank, n) in (1..).zip(&whole).take(limit) {
        reasons[*n].push(Reason::BaseBackup(rank));
    }
    if let Some(window) = keep.window {
        let begin =
            chrono::TimeDelta::from_std(window).ok().and_then(|window| now.checked_sub_signed(window)).unwrap_or(DateTime::<Utc>::MIN_UTC);
        // The newest that ends before the window leads to its first moment.
        let before = good.iter().find(|n| copies[**n].taken_at <= begin);
        for n in good.iter().filter(|n| copies[**n].taken_at > begin).chain(before) {
            reasons[*n].push(Reason::Window(window));
        }
    }
    with_their_chains(&copies, &mut reasons);
    let verdict = |(copy, mut reasons): (&&Candidate, Vec<Reason>)| {
        let keep = !reasons.is_empty();
        if !keep {
            reasons.push(Reason::Expired);
        }
        Verdict { id: copy.id.clone(), keep, reasons }
    };
    copies.iter().zip(reasons).map(verdict).collect()
}

/// Whether a base backup can be restored: it is good, and so is all that it is made of.
fn leads_back(copies: &[&Candidate], n: usize) -> bool {
    let (mut copy, mut left) = (copies[n], copies.len());
    loop {
        if !copy.rung.is_good() || left == 0 {
            return false;
        }
        let Some(of) = &copy.incremental_of else { return true };
        let Some(parent) = copies.iter().find(|copy| copy.id == *of) else { return false };
        (copy, left) = (parent, left - 1);
    }
}

/// An incremental base backup is nothing without those that it holds the changes since; and it goes with a
/// whole one that is kept for its number.
fn with_their_chains(copies: &[&Candidate], reasons: &mut [Vec<Reason>]) {
    let places: BTreeMap<&Id, usize> = copies.iter().enumerate().map(|(n, copy)| (&copy.id, n)).collect();
    let parent = |n: usize| copies[n].incremental_of.as_ref().and_then(|id| places.get(id).copied());
    // Down from the whole ones, which are older.
    for n in (0..copies.len()).rev() {
        let Some(of) = parent(n) else { continue };
        let is_counted = |reason: &Reason| matches!(reason, Reason::BaseBackup(_) | Reason::With(_));
        if leads_back(copies, n) && reasons[of].iter().any(is_counted) {
            reasons[n].push(Reason::With(copies[of].id.clone()));
        }
    }
    // And up to them.
    for n in 0..copies.len() {
        if reasons[n].is_empty() {
            continue;
        }
        if let Some(of) = parent(n)
            && !reasons[of].iter().any(|reason| matches!(reason, Reason::NeededBy(_)))
        {
            reasons[of].push(Reason::NeededBy(copies[n].id.clone()));
        }
    }
}

/// From here on the log is needed by the base backups that are kept. `None`: nothing is known, and nothing
/// of it goes.
pub fn log_from<'a>(kept: impl Iterator<Item = &'a Physical>) -> Option<Lsn> {
    kept.map(|physical| physical.start_lsn).min()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::TimeDelta;

    use super::*;
    use crate::catalog::{Label, Rung};

    fn at(day: i64) -> DateTime<Utc> {
        "2026-01-01T00:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::days(day)
    }

    fn id(day: i64) -> Id {
        Id { backup: "c".into(), label: Label::of(at(day)) }
    }

    fn base(day: i64, rung: Rung, of: Option<i64>) -> Candidate {
        Candidate { id: id(day), taken_at: at(day), rung, pinned: false, incremental_of: of.map(id), physical: true }
    }

    fn kept(keep: &Keep, candidates: &[Candidate], now: i64) -> Vec<i64> {
        let verdicts = plan(keep, &candidates.iter().collect::<Vec<_>>(), at(now));
        let mut days: Vec<i64> =
            verdicts.iter().filter(|verdict| verdict.keep).map(|verdict| (verdict.id.label.slot() - at(0)).num_days()).collect();
        days.sort_unstable();
        days
    }

    fn keep(base_backups: u32, window_days: Option<u64>) -> Keep {
        Keep {
            base_backups: Some(Count::Number(base_backups)),
            window: window_days.map(|days| Duration::from_secs(days * 86_400)),
            ..Keep::nothing()
        }
    }

    #[test]
    fn by_number_and_by_window() {
        let all: Vec<Candidate> = (0..10).map(|day| base(day, Rung::Readable, None)).collect();
        assert_eq!(kept(&keep(3, None), &all, 20), [7, 8, 9]);
        // The one before the window leads to its first moment.
        assert_eq!(kept(&keep(1, Some(13)), &all, 20), [7, 8, 9]);
        assert_eq!(kept(&keep(1, Some(100)), &all, 20), (0..10).collect::<Vec<_>>());
        assert_eq!(kept(&keep(0, None), &all, 20), [9], "the last one never goes");
    }

    #[test]
    fn bad_ones_take_no_place_and_the_last_good_one_stays() {
        let mut all: Vec<Candidate> = (0..3).map(|day| base(day, Rung::Readable, None)).collect();
        all.extend((3..6).map(|day| base(day, Rung::Bad, None)));
        // Newer than every good one: it may yet be proven.
        assert_eq!(kept(&keep(1, None), &all, 20), [2, 3, 4, 5]);
        let bad: Vec<Candidate> = (0..3).map(|day| base(day, Rung::Bad, None)).collect();
        assert_eq!(kept(&keep(1, None), &bad, 20), [0, 1, 2], "where nothing is good nothing goes");
        // From the future: nothing is known of its age.
        all.push(base(30, Rung::Readable, None));
        assert!(kept(&keep(1, None), &all, 20).contains(&30));
    }

    #[test]
    fn what_is_made_of_a_bad_one_is_no_good_one() {
        let mut all: Vec<Candidate> = vec![base(0, Rung::Readable, None), base(1, Rung::Readable, Some(0))];
        all.push(base(7, Rung::Bad, None));
        all.extend((8..14).map(|day| base(day, Rung::Readable, Some(day - 1))));
        all.push(base(14, Rung::Readable, None));
        // The last day that can be restored from before the window is the first.
        assert_eq!(kept(&keep(1, Some(7)), &all, 16), [0, 1, 14]);
        // Nor does one count whose chain is not there.
        all.retain(|copy| copy.id != id(7));
        assert_eq!(kept(&keep(1, Some(7)), &all, 16), [0, 1, 14]);
        all.truncate(all.len() - 1);
        assert!([0, 1].iter().all(|day| kept(&keep(0, None), &all, 16).contains(day)), "the newest that leads back");
    }

    #[test]
    fn chains_are_never_broken() {
        let all = [
            base(0, Rung::Readable, None),
            base(1, Rung::Readable, Some(0)),
            base(2, Rung::Readable, Some(1)),
            base(7, Rung::Readable, None),
            base(8, Rung::Readable, Some(7)),
            base(9, Rung::Readable, Some(8)),
        ];
        assert_eq!(kept(&keep(1, None), &all, 20), [7, 8, 9], "with the whole one that counts");
        assert_eq!(kept(&keep(0, None), &all, 20), [7, 8, 9], "the newest needs both");
        let mut pinned = all.clone();
        pinned[1].pinned = true;
        assert_eq!(kept(&keep(1, None), &pinned, 20), [0, 1, 7, 8, 9]);
        let verdicts = plan(&keep(1, None), &pinned.iter().collect::<Vec<_>>(), at(20));
        let of = |day: i64| {
            verdicts.iter().find(|verdict| verdict.id == id(day)).unwrap().reasons.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of(0), ["needed by c/20260102T000000Z"]);
        assert_eq!(of(7), ["base backup 1", "needed by c/20260109T000000Z"]);
        assert_eq!(of(2), ["expired"]);
    }
}
