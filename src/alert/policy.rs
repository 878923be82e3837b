//! Who is told what, and when: once per problem, again every so often while it lasts, and its end.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::problems::Problem;
use crate::schedule::due::delta;

/// An open alert as it is on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub key: String,
    pub since: DateTime<Utc>,
    pub summary: String,
    /// `None`: nobody was, for want of a channel.
    pub told_at: Option<DateTime<Utc>>,
}

/// What is to be done about an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Tell of it for the first time.
    Open(Problem),
    Remind(Problem),
    /// It says something else by now; nobody is told again.
    Reword(Problem),
    /// It has ended.
    Close(Known),
}

/// Compares what is wrong now with what is on record. `assessed` tells whether a key was looked at:
/// an alert that nobody looked at is neither open nor closed by it. `remind_every` is `None` where
/// there is no channel to tell by.
pub fn settle(
    known: &[Known],
    problems: &[Problem],
    assessed: &dyn Fn(&str) -> bool,
    remind_every: Option<Duration>,
    now: DateTime<Utc>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    for problem in problems {
        let before = known.iter().find(|known| known.key == problem.key);
        let step = match before {
            None => Some(Step::Open(problem.clone())),
            Some(Known { told_at, since, summary, .. }) => {
                let lasting = Problem { since: *since, ..problem.clone() };
                match (told_at, remind_every) {
                    (None, Some(_)) => Some(Step::Open(lasting)),
                    // Told in the future: the clock has jumped back since.
                    (Some(told_at), Some(every)) if *told_at > now || now - *told_at >= delta(every) => Some(Step::Remind(lasting)),
                    _ => (*summary != problem.summary).then_some(Step::Reword(lasting)),
                }
            }
        };
        steps.extend(step);
    }
    let over = |known: &&Known| assessed(&known.key) && !problems.iter().any(|problem| problem.key == known.key);
    steps.extend(known.iter().filter(over).cloned().map(Step::Close));
    steps
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn at(hour: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + hour * 3_600, 0).unwrap()
    }

    fn problem(key: &str, since: i64) -> Problem {
        Problem { key: key.into(), since: at(since), summary: "it failed".into(), details: String::new(), facts: vec![], commands: vec![] }
    }

    fn known(key: &str, since: i64, told_at: Option<i64>) -> Known {
        Known { key: key.into(), since: at(since), summary: "it failed".into(), told_at: told_at.map(at) }
    }

    #[test]
    fn once_again_and_its_end() {
        let ask = |known: Option<&Known>, problem: Option<&Problem>, hour| {
            settle(known.map_or(&[], std::slice::from_ref), problem.map_or(&[], std::slice::from_ref), &|_| true, Some(DAY), at(hour))
        };
        let (a, told) = (problem("a", 1), known("a", 0, Some(0)));
        assert_eq!(ask(None, Some(&a), 1), [Step::Open(a.clone())]);
        assert_eq!(ask(Some(&told), Some(&a), 23), []);
        assert_eq!(ask(Some(&told), Some(&a), 24), [Step::Remind(problem("a", 0))], "since when it has been so");
        assert_eq!(ask(Some(&told), None, 2), [Step::Close(told.clone())]);
        assert_eq!(ask(Some(&known("a", 0, None)), Some(&a), 2), [Step::Open(problem("a", 0))], "there is a channel now");
        assert_eq!(ask(Some(&known("a", 0, Some(9_000))), Some(&a), 2), [Step::Remind(problem("a", 0))], "the clock jumped back");
        let other = Problem { summary: "it failed otherwise".into(), ..a };
        assert_eq!(ask(Some(&told), Some(&other), 2), [Step::Reword(Problem { since: at(0), ..other })]);
        assert_eq!(settle(&[known("a", 0, None)], &[problem("a", 1)], &|_| true, None, at(2)), [], "there is no channel");
        assert_eq!(settle(&[told], &[], &|key| key != "a", Some(DAY), at(2)), [], "nobody looked");
    }

    proptest! {
        /// Whatever comes and goes: each spell of a problem is opened once and closed once, and is
        /// told at least every so often.
        #[test]
        fn nothing_goes_unheard(present in prop::collection::vec(prop::bool::ANY, 1..200)) {
            let mut on_record: Vec<Known> = Vec::new();
            let (mut opened, mut closed, mut last_told) = (0, 0, 0);
            for (hour, there) in (0_i64..).zip(&present) {
                let problems = if *there { vec![problem("a", hour)] } else { vec![] };
                for step in settle(&on_record, &problems, &|_| true, Some(DAY), at(hour)) {
                    match step {
                        Step::Open(problem) => {
                            opened += 1;
                            last_told = hour;
                            on_record = vec![Known { key: problem.key, since: problem.since, summary: problem.summary, told_at: Some(at(hour)) }];
                        }
                        Step::Remind(_) => {
                            prop_assert_eq!(hour - last_told, 24);
                            last_told = hour;
                            on_record[0].told_at = Some(at(hour));
                        }
                        Step::Close(_) => { closed += 1; on_record.clear(); }
                        Step::Reword(_) => prop_assert!(false),
                    }
                }
                prop_assert_eq!(on_record.len(), usize::from(*there));
                prop_assert!(!there || hour - last_told < 24);
            }
            let spells = std::iter::once(&false).chain(&present).zip(&present).filter(|(before, now)| !**before && **now).count();
            prop_assert_eq!(opened, spells);
            prop_assert_eq!(closed, spells - usize::from(*present.last().unwrap()));
        }
    }
}
