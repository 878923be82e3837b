//! terms, before and now -> whether retention may delete by them: an edit that would delete more than
//! the terms before it waits for a person.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use super::policy::{self, Candidate};
use crate::catalog::Id;
use crate::config::plan::Keep;

/// What retention goes by for a backup in a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    pub keep: Keep,
    /// IANA name: the days and weeks are those of this zone.
    pub zone: String,
}

/// How the terms of the file stand to those that were last obeyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Same,
    /// None were obeyed before, or the new ones delete nothing more.
    Harmless,
    /// These would go that the terms before would keep.
    Held(Vec<Id>),
}

impl Terms {
    pub fn new(keep: &Keep, zone: Tz) -> Self {
        Terms { keep: keep.clone(), zone: zone.name().to_owned() }
    }

    /// What of the copies stays and goes by these terms. A zone that this version does not know is UTC.
    fn deleted(&self, candidates: &[Candidate], now: DateTime<Utc>) -> Vec<Id> {
        let verdicts = policy::plan(&self.keep, candidates, self.zone.parse().unwrap_or(Tz::UTC), now);
        verdicts.into_iter().filter(|verdict| !verdict.keep).map(|verdict| verdict.id).collect()
    }
}

/// Holds the terms of the file against those before, by what lies in the store.
pub fn standing(before: Option<&Terms>, terms: &Terms, candidates: &[Candidate], now: DateTime<Utc>) -> Standing {
    let Some(before) = before else { return Standing::Harmless };
    if before == terms {
        return Standing::Same;
    }
    let went = before.deleted(candidates, now);
    let mut more = terms.deleted(candidates, now);
    more.retain(|id| !went.contains(id));
    if more.is_empty() { Standing::Harmless } else { Standing::Held(more) }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::catalog::{Label, Rung};
    use crate::config::values::Count;

    fn terms(last: u32, daily: u32) -> Terms {
        Terms::new(&Keep { last: Count::Number(last), daily: Count::Number(daily), ..Keep::nothing() }, Tz::UTC)
    }

    /// One a day, at noon.
    fn copies(count: i64) -> (Vec<Candidate>, DateTime<Utc>) {
        let now: DateTime<Utc> = "2026-06-30T13:00:00Z".parse().unwrap();
        let copy = |days| {
            let taken_at = now - TimeDelta::hours(1) - TimeDelta::days(days);
            let id = Id { backup: "x".into(), label: Label::of(taken_at) };
            Candidate { id, taken_at, rung: Rung::Readable, pinned: false, physical: false, incremental_of: None }
        };
        ((0..count).map(copy).collect(), now)
    }

    #[test]
    fn what_deletes_more_is_held_with_what_it_would_delete() {
        let (candidates, now) = copies(10);
        let held = |before: Option<&Terms>, terms: &Terms| match standing(before, terms, &candidates, now) {
            Standing::Same => Some(0),
            Standing::Harmless => None,
            Standing::Held(more) => Some(more.len()),
        };
        let table = [
            (None, terms(1, 0), None, "the first terms are nobody's edit"),
            (Some(terms(5, 0)), terms(5, 0), Some(0), "no edit"),
            (Some(terms(5, 0)), terms(7, 0), None, "keeps more"),
            (Some(terms(5, 0)), terms(3, 0), Some(2), "keeps two less"),
            (Some(terms(5, 0)), terms(0, 5), None, "other units, the same copies"),
            (Some(terms(0, 7)), terms(1, 4), Some(3), "less of one, more of another"),
            (Some(terms(50, 0)), terms(20, 0), None, "less, and there is not as much"),
            (Some(terms(3, 0)), terms(0, 0), Some(2), "the newest is kept by the floor"),
        ];
        for (before, after, expected, what) in table {
            assert_eq!(held(before.as_ref(), &after), expected, "{what}");
        }
        let Standing::Held(more) = standing(Some(&terms(5, 0)), &terms(3, 0), &candidates, now) else { panic!() };
        assert_eq!(more, [candidates[3].id.clone(), candidates[4].id.clone()], "not what both would delete");
    }

    #[test]
    fn another_zone_is_another_day() {
        let now: DateTime<Utc> = "2026-06-30T13:00:00Z".parse().unwrap();
        let copy = |text: &str| {
            let taken_at = text.parse().unwrap();
            Candidate {
                id: Id { backup: "x".into(), label: Label::of(taken_at) },
                taken_at,
                rung: Rung::Readable,
                pinned: false,
                physical: false,
                incremental_of: None,
            }
        };
        // In UTC on two days; in New York on one.
        let candidates = [copy("2026-06-29T02:00:00Z"), copy("2026-06-28T23:00:00Z"), copy("2026-06-29T05:00:00Z")];
        let keep = Keep { daily: Count::Number(7), ..Keep::nothing() };
        let (utc, york) = (Terms::new(&keep, Tz::UTC), Terms::new(&keep, Tz::America__New_York));
        assert_eq!(standing(Some(&utc), &york, &candidates, now), Standing::Held(vec![candidates[0].id.clone()]));
    }

    #[test]
    fn terms_survive_the_state() {
        let terms = Terms::new(&Keep::default(), Tz::Europe__Vienna);
        let text = serde_json::to_string(&terms).unwrap();
        assert_eq!(serde_json::from_str::<Terms>(&text).unwrap(), terms);
    }
}
