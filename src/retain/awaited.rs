//! What a store still has to receive: copies that others hold, and that it would keep.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::policy::{self, Candidate};
use crate::catalog::{Id, Rung};
use crate::config::plan::Keep;

/// The backups that a store still has to receive, newest first: those with a good copy elsewhere and
/// none here, which retention would keep here. What it has expired already never comes back.
pub fn awaited(keep: &Keep, here: &[Candidate], elsewhere: &[Candidate], zone: Tz, now: DateTime<Utc>) -> Vec<Id> {
    let mut known: BTreeSet<&Id> = here.iter().map(|copy| &copy.id).collect();
    let lacking = elsewhere.iter().filter(|copy| copy.rung.is_good() && copy.taken_at <= now && known.insert(&copy.id));
    // A copy begins at the bottom: what a drill has proven of another one is not proven of it.
    let lacking: Vec<Candidate> = lacking.map(|copy| Candidate { rung: Rung::Readable, ..copy.clone() }).collect();
    if lacking.is_empty() {
        return Vec::new();
    }
    let ids: BTreeSet<&Id> = lacking.iter().map(|copy| &copy.id).collect();
    let all: Vec<Candidate> = here.iter().chain(&lacking).cloned().collect();
    let verdicts = policy::plan(keep, &all, zone, now);
    verdicts.into_iter().filter(|verdict| verdict.keep && ids.contains(&verdict.id)).map(|verdict| verdict.id).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::catalog::Label;
    use crate::config::values::Count;

    fn copy(day: i64, rung: Rung) -> Candidate {
        let taken_at = "2024-01-01T01:00:00Z".parse::<DateTime<Utc>>().unwrap() + chrono::TimeDelta::days(day);
        Candidate {
            id: Id { backup: "x".into(), label: Label::of(taken_at) },
            taken_at,
            rung,
            pinned: false,
            physical: false,
            incremental_of: None,
        }
    }

    fn now() -> DateTime<Utc> {
        "2024-03-01T12:00:00Z".parse().unwrap()
    }

    fn days(ids: &[Id]) -> Vec<i64> {
        ids.iter().map(|id| (id.label.slot() - copy(0, Rung::Bad).taken_at).num_days()).collect()
    }

    #[test]
    fn what_is_lacking_and_would_stay() {
        let last = |count| Keep { last: Count::Number(count), ..Keep::nothing() };
        let good: Vec<_> = (0..5).map(|day| copy(day, Rung::Readable)).collect();
        for (keep, here, elsewhere, expected) in [
            // All of it, newest first.
            (last(9), vec![], good.clone(), vec![4, 3, 2, 1, 0]),
            // Only as much as would stay.
            (last(2), vec![], good.clone(), vec![4, 3]),
            (last(2), good[3..].to_vec(), good.clone(), vec![]),
            // It keeps less than the other, and has received and expired the rest.
            (last(2), good[2..4].to_vec(), good.clone(), vec![4]),
            // What is bad or unread elsewhere is not worth a copy.
            (last(9), vec![], vec![copy(0, Rung::Bad), copy(1, Rung::Written), copy(2, Rung::Matched)], vec![2]),
            // A copy that went bad here is told, not replaced.
            (last(9), vec![copy(4, Rung::Bad)], good[4..].to_vec(), vec![]),
            // Dated in the future.
            (last(9), vec![], vec![copy(400, Rung::Readable)], vec![]),
            // What a drill has proven elsewhere gives no place here.
            (last(1), vec![copy(4, Rung::Readable)], vec![copy(1, Rung::Matched)], vec![]),
        ] {
            assert_eq!(days(&awaited(&keep, &here, &elsewhere, Tz::UTC, now())), expected, "{keep:?} {here:?}");
        }
    }

    proptest! {
        /// Once all of it has come, nothing is awaited, and retention deletes none of it.
        #[test]
        fn a_store_comes_to_rest(
            (last, daily, monthly, within) in (0u32..4, 0u32..5, 0u32..3, 0u64..20),
            here in proptest::collection::btree_set(0i64..60, 0..20),
            elsewhere in proptest::collection::btree_map(0i64..60, 0usize..5, 0..40),
        ) {
            let keep = Keep {
                last: Count::Number(last),
                daily: Count::Number(daily),
                monthly: Count::Number(monthly),
                within: Some(Duration::from_secs(within * 86_400)),
                ..Keep::nothing()
            };
            let rungs = [Rung::Bad, Rung::Written, Rung::Readable, Rung::Restored, Rung::Matched];
            let mut here: Vec<_> = here.into_iter().map(|day| copy(day, Rung::Readable)).collect();
            let elsewhere: Vec<_> = elsewhere.into_iter().map(|(day, rung)| copy(day, rungs[rung])).collect();
            let came = awaited(&keep, &here, &elsewhere, Tz::UTC, now());
            here.extend(elsewhere.iter().filter(|copy| came.contains(&copy.id)).map(|copy| Candidate { rung: Rung::Readable, ..copy.clone() }));
            let kept: Vec<_> = policy::plan(&keep, &here, Tz::UTC, now()).into_iter().filter(|verdict| verdict.keep).map(|verdict| verdict.id).collect();
            prop_assert!(came.iter().all(|id| kept.contains(id)));
            prop_assert!(awaited(&keep, &here, &elsewhere, Tz::UTC, now()).is_empty());
            here.retain(|copy| kept.contains(&copy.id));
            prop_assert!(awaited(&keep, &here, &elsewhere, Tz::UTC, now()).is_empty());
        }
    }
}
