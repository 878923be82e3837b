//! Who is told what, and when: once per problem, again every so often while it lasts, and its end.

use chrono::{DateTime, Utc};

use super::event::Event;
use super::letter::State;
use super::problems::Problem;
use super::routes::Route;
use crate::config::channels::Severity;
use crate::schedule::due::delta;

/// An open alert as it is on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub key: String,
    pub since: DateTime<Utc>,
    pub summary: String,
    /// Empty: nobody was, for want of a channel, or not yet.
    pub told: Vec<Told>,
}

/// Who was told that an alert is open, and when last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub channel: String,
    pub to: String,
    pub at: DateTime<Utc>,
}

/// On record of a version that did not write down whom: everybody of the channel.
pub const EVERYBODY: &str = "*";

impl Known {
    /// When a recipient was told last.
    fn told_at(&self, route: &Route) -> Option<DateTime<Utc>> {
        let is = |told: &&Told, to: &str| told.channel == route.channel && told.to == to;
        let own = self.told.iter().find(|told| is(told, &route.to));
        own.or_else(|| self.told.iter().find(|told| is(told, EVERYBODY))).map(|told| told.at)
    }
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

impl Step {
    pub fn key(&self) -> &str {
        match self {
            Step::Open(problem) | Step::Remind(problem) | Step::Reword(problem) => &problem.key,
            Step::Close(known) => &known.key,
        }
    }
}

/// A message to one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tell {
    pub channel: String,
    pub to: String,
    pub state: State,
    /// It waits for the end of quiet hours.
    pub not_before: Option<DateTime<Utc>>,
    /// A hook that is not run on it counts as told.
    pub is_heard: bool,
}

/// Compares what is wrong now with what is on record. `assessed` tells whether a key was looked at:
/// an alert that nobody looked at is neither open nor closed by it.
pub fn settle(
    known: &[Known],
    problems: &[Problem],
    assessed: &dyn Fn(&str) -> bool,
    routes: &[Route],
    severity: &dyn Fn(&str) -> Severity,
    now: DateTime<Utc>,
) -> Vec<(Step, Vec<Tell>)> {
    let mut steps = Vec::new();
    for problem in problems {
        let before = known.iter().find(|known| known.key == problem.key);
        let lasting = Problem { since: before.map_or(problem.since, |known| known.since), ..problem.clone() };
        let told: Vec<Tell> = routes
            .iter()
            .filter_map(|route| {
                let state = news(route, before.and_then(|known| known.told_at(route)), lasting.since, now)?;
                Some(tell(route, state, severity(&problem.key), now))
            })
            .collect();
        let step = match before {
            None => Step::Open(lasting),
            Some(known) if known.told.is_empty() && !told.is_empty() => Step::Open(lasting),
            Some(_) if !told.is_empty() => Step::Remind(lasting),
            Some(known) if known.summary != problem.summary => Step::Reword(lasting),
            Some(_) => continue,
        };
        steps.push((step, told));
    }
    let over = |known: &&Known| assessed(&known.key) && !problems.iter().any(|problem| problem.key == known.key);
    for known in known.iter().filter(over) {
        let told = routes.iter().filter(|route| known.told_at(route).is_some());
        let told = told.map(|route| tell(route, State::Closed, severity(&known.key), now)).collect();
        steps.push((Step::Close(known.clone()), told));
    }
    steps
}

/// What a recipient is told of an open problem, if it is its turn.
fn news(route: &Route, told_at: Option<DateTime<Utc>>, since: DateTime<Utc>, now: DateTime<Utc>) -> Option<State> {
    let is_turn = turn(route, told_at, since).is_some_and(|turn| turn <= now);
    match told_at {
        // Where it is told only of what others did not take, it waits for that; then it is reminded as
        // everybody, for the others may be deaf for long.
        None => (is_turn || route.after.is_some_and(|after| after.is_zero())).then_some(State::Open),
        // Told in the future: the clock has jumped back since.
        Some(told_at) => (is_turn || told_at > now).then_some(State::Reminder),
    }
}

/// When it is a recipient's turn. `None`: only after others were deaf.
fn turn(route: &Route, told_at: Option<DateTime<Utc>>, since: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let (from, after) = match told_at {
        Some(told_at) => (told_at, route.remind_every),
        None => (since, route.after?),
    };
    from.checked_add_signed(delta(after))
}

/// When somebody's turn comes next, of what is open.
pub fn next_turn(known: &[Known], routes: &[Route], now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let turns = known.iter().flat_map(|known| routes.iter().filter_map(|route| turn(route, known.told_at(route), known.since)));
    turns.filter(|turn| *turn > now).min()
}

fn tell(route: &Route, state: State, severity: Severity, now: DateTime<Utc>) -> Tell {
    let is_heard = route.on.is_empty() || Event::on(state).is_none_or(|on| route.on.contains(&on));
    Tell { channel: route.channel.clone(), to: route.to.clone(), state, not_before: route.held_until(severity, now), is_heard }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::config::hours::Quiet;
    use crate::config::telling::On;

    const HOUR: Duration = Duration::from_secs(3_600);
    const DAY: Duration = Duration::from_secs(86_400);

    fn at(hour: i64) -> DateTime<Utc> {
        // A midnight.
        DateTime::from_timestamp(1_800_057_600 + hour * 3_600, 0).unwrap()
    }

    fn problem(key: &str, since: i64) -> Problem {
        Problem { key: key.into(), since: at(since), summary: "it failed".into(), details: String::new(), facts: vec![], commands: vec![] }
    }

    fn route(channel: &str) -> Route {
        Route {
            channel: channel.into(),
            to: String::new(),
            after: Some(Duration::ZERO),
            fallback_for: vec![],
            remind_every: DAY,
            on: vec![],
            quiet: None,
        }
    }

    fn known(key: &str, since: i64, told: &[(&str, i64)]) -> Known {
        let told = told.iter().map(|(channel, hour)| Told { channel: (*channel).into(), to: String::new(), at: at(*hour) });
        Known { key: key.into(), since: at(since), summary: "it failed".into(), told: told.collect() }
    }

    /// Which step, and whom it tells what.
    fn ask(known: Option<&Known>, problem: Option<&Problem>, routes: &[Route], hour: i64) -> Option<(Step, Vec<(String, State)>)> {
        let severity = |key: &str| if key == "wait" { Severity::CanWait } else { Severity::Urgent };
        let known = known.map_or(&[][..], std::slice::from_ref);
        let mut steps = settle(known, problem.map_or(&[][..], std::slice::from_ref), &|_| true, routes, &severity, at(hour));
        assert!(steps.len() <= 1);
        let (step, told) = steps.pop()?;
        Some((step, told.into_iter().filter(|tell| tell.is_heard).map(|tell| (tell.channel, tell.state)).collect()))
    }

    fn to(channels: &[(&str, State)]) -> Vec<(String, State)> {
        channels.iter().map(|(channel, state)| ((*channel).to_owned(), *state)).collect()
    }

    #[test]
    fn once_again_and_its_end() {
        use State::{Closed, Open, Reminder};
        let routes = [route("a")];
        let (a, told) = (problem("x", 1), known("x", 0, &[("a", 0)]));
        assert_eq!(ask(None, Some(&a), &routes, 1), Some((Step::Open(a.clone()), to(&[("a", Open)]))));
        assert_eq!(ask(Some(&told), Some(&a), &routes, 23), None);
        assert_eq!(ask(Some(&told), Some(&a), &routes, 24), Some((Step::Remind(problem("x", 0)), to(&[("a", Reminder)]))), "since when");
        assert_eq!(ask(Some(&told), None, &routes, 2), Some((Step::Close(told.clone()), to(&[("a", Closed)]))));
        let untold = known("x", 0, &[]);
        assert_eq!(
            ask(Some(&untold), Some(&a), &routes, 2),
            Some((Step::Open(problem("x", 0)), to(&[("a", Open)]))),
            "there is a channel now"
        );
        let ahead = known("x", 0, &[("a", 9_000)]);
        assert_eq!(
            ask(Some(&ahead), Some(&a), &routes, 2),
            Some((Step::Remind(problem("x", 0)), to(&[("a", Reminder)]))),
            "a clock jumped back"
        );
        let other = Problem { summary: "it failed otherwise".into(), ..a.clone() };
        assert_eq!(ask(Some(&told), Some(&other), &routes, 2), Some((Step::Reword(Problem { since: at(0), ..other }), vec![])));
        assert_eq!(ask(Some(&untold), Some(&a), &[], 2), None, "there is no channel");
        assert_eq!(ask(Some(&untold), None, &routes, 2), Some((Step::Close(untold.clone()), vec![])), "nobody knew of it");
        assert_eq!(settle(&[told], &[], &|key| key != "x", &routes, &|_| Severity::Urgent, at(2)), [], "nobody looked");
    }

    #[test]
    fn everybody_has_a_time_of_his_own() {
        use State::{Closed, Open, Reminder};
        let boss = Route { after: Some(4 * HOUR), remind_every: HOUR, ..route("boss") };
        let spare = Route { after: None, fallback_for: vec!["a".into()], ..route("spare") };
        let hook = Route { on: vec![On::AlertClosed], ..route("hook") };
        let routes = [route("a"), boss, spare, hook];
        let a = problem("x", 0);
        assert_eq!(
            ask(None, Some(&a), &routes, 0).unwrap().1,
            to(&[("a", Open)]),
            "not the boss, and the hook wants to hear of the end only"
        );
        let told = known("x", 0, &[("a", 0), ("hook", 0)]);
        assert_eq!(ask(Some(&told), Some(&a), &routes, 3), None);
        assert_eq!(ask(Some(&told), Some(&a), &routes, 4).unwrap().1, to(&[("boss", Open)]));
        assert_eq!(ask(Some(&told), None, &routes, 3).unwrap().1, to(&[("a", Closed), ("hook", Closed)]), "who never knew hears of no end");
        let told = known("x", 0, &[("a", 0), ("hook", 0), ("boss", 4), ("spare", 1)]);
        assert_eq!(ask(Some(&told), Some(&a), &routes, 5).unwrap().1, to(&[("boss", Reminder)]));
        let late = known("x", 0, &[("a", 24), ("hook", 24), ("boss", 24), ("spare", 1)]);
        assert_eq!(
            ask(Some(&late), Some(&a), &routes, 25).unwrap().1,
            to(&[("boss", Reminder), ("spare", Reminder)]),
            "who stands in, too"
        );
        let all = [("a", Closed), ("boss", Closed), ("spare", Closed), ("hook", Closed)];
        assert_eq!(ask(Some(&told), None, &routes, 5).unwrap().1, to(&all));
        // One that had lasted before it was found.
        assert_eq!(ask(None, Some(&problem("x", -9)), &routes, 0).unwrap().1, to(&[("a", Open), ("boss", Open)]));
        // A record of an older version: by mail, without a name.
        let mut old = known("x", 0, &[("email", 0)]);
        old.told[0].to = EVERYBODY.into();
        let mail = |to: &str| Route { to: to.into(), ..route("email") };
        assert_eq!(ask(Some(&old), Some(&a), &[mail("b@c"), route("a")], 1).unwrap().1, to(&[("a", Open)]));
        assert_eq!(ask(Some(&old), None, &[mail("b@c"), route("a")], 1).unwrap().1, to(&[("email", Closed)]));
    }

    #[test]
    fn whose_turn_comes_next() {
        let late = Route { after: Some(4 * HOUR), ..route("late") };
        let spare = Route { after: None, ..route("spare") };
        let routes = [route("a"), late, spare];
        for (told, now, expected) in [
            (&[("a", 0)][..], 0, Some(4)),
            // The turn that is there now is told now.
            (&[("a", 0)], 4, Some(24)),
            (&[("a", 0), ("late", 5)], 5, Some(24)),
            (&[("a", 0), ("late", 5)], 24, Some(29)),
            (&[("a", 0), ("late", 5), ("spare", 1)], 24, Some(25)),
            (&[], 9, None),
        ] {
            assert_eq!(next_turn(&[known("x", 0, told)], &routes, at(now)), expected.map(at), "{told:?} {now}");
        }
        assert_eq!(next_turn(&[], &routes, at(0)), None);
        let never = [Route { after: Some(Duration::MAX), ..route("never") }];
        assert_eq!(next_turn(&[known("x", 0, &[])], &never, at(0)), None);
    }

    #[test]
    fn what_can_wait_waits_for_the_morning() {
        let Quiet::Between(hours) = "22:00-07:00".parse().unwrap() else { panic!() };
        let quiet = Some((hours, chrono_tz::Tz::UTC));
        let routes = [Route { quiet, ..route("a") }, route("loud")];
        let told = |key: &str, hour| {
            let problem = problem(key, hour);
            let severity = |key: &str| if key == "wait" { Severity::CanWait } else { Severity::Urgent };
            let steps = settle(&[], &[problem], &|_| true, &routes, &severity, at(hour));
            steps[0].1.iter().map(|tell| tell.not_before).collect::<Vec<_>>()
        };
        assert_eq!(told("wait", 12), [None, None]);
        assert_eq!(told("wait", 23), [Some(at(31)), None]);
        assert_eq!(told("wait", 6), [Some(at(7)), None]);
        assert_eq!(told("wait", 7), [None, None]);
        assert_eq!(told("urgent", 23), [None, None]);
    }

    proptest! {
        /// Whatever comes and goes: each spell of a problem is opened once and closed once to
        /// everybody whose turn it was, and is told at least every so often.
        #[test]
        fn nothing_goes_unheard(present in prop::collection::vec(prop::bool::ANY, 1..200), after in 0_i64..30) {
            let after_secs = u64::try_from(after).unwrap() * 3_600;
            let routes = [route("a"), Route { after: Some(Duration::from_secs(after_secs)), ..route("late") }];
            let mut on_record: Vec<Known> = Vec::new();
            let mut open = std::collections::BTreeMap::new();
            let mut began = 0;
            for (hour, there) in (0_i64..).zip(&present) {
                if *there && on_record.is_empty() {
                    began = hour;
                }
                let problems = if *there { vec![problem("x", hour)] } else { vec![] };
                for (step, told) in settle(&on_record, &problems, &|_| true, &routes, &|_| Severity::Urgent, at(hour)) {
                    if let Step::Open(problem) = &step && on_record.is_empty() {
                        on_record = vec![Known { key: problem.key.clone(), since: problem.since, summary: problem.summary.clone(), told: vec![] }];
                    }
                    for tell in told {
                        let last = open.remove(&tell.channel);
                        match tell.state {
                            State::Open => prop_assert_eq!(last, None),
                            State::Reminder => prop_assert_eq!(hour - last.unwrap(), 24),
                            _ => { prop_assert!(last.is_some()); continue; }
                        }
                        open.insert(tell.channel.clone(), hour);
                        on_record[0].told.retain(|told| told.channel != tell.channel);
                        on_record[0].told.push(Told { channel: tell.channel, to: String::new(), at: at(hour) });
                    }
                    if let Step::Close(_) = step {
                        on_record.clear();
                    }
                }
                prop_assert_eq!(on_record.len(), usize::from(*there));
                prop_assert_eq!(open.contains_key("a"), *there);
                prop_assert_eq!(open.contains_key("late"), *there && hour - began >= after);
                prop_assert!(open.values().all(|last| hour - last < 24));
            }
        }
    }
}
