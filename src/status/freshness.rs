//! /healthz: whether there is a backup that is new enough and proven as far as is wanted.

use chrono::{DateTime, Utc};

use crate::config::plan::Backup;
use crate::schedule::due::stale_at;

/// What freshness is judged by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// When the newest one was taken that has the rung that is wanted.
    pub newest: Option<DateTime<Utc>>,
    /// There are some, though maybe of a lower rung.
    pub any: bool,
    /// The first slot that the daemon has seen, or waits for.
    pub first_slot: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Until that moment; `None`: nothing asks for another.
    Fresh(Option<DateTime<Utc>>),
    /// There is none, and the first is not late yet. `None`: it is made by hand.
    Waited(Option<DateTime<Utc>>),
    /// Since that moment; `None`: what is there has never had the rung.
    Late(Option<DateTime<Utc>>),
}

impl Freshness {
    pub fn is_healthy(self) -> bool {
        !matches!(self, Freshness::Late(_))
    }
}

/// Whether a backup is within `max_age` at the rung of `want`, or has not had its first slot plus
/// `max_age` yet. Where no `max_age` is set, two slots in a row may pass.
pub fn freshness(backup: &Backup, facts: Facts, now: DateTime<Utc>) -> Freshness {
    let newest = facts.newest.filter(|newest| *newest <= now);
    let until = newest.map(|newest| stale_at(backup, newest));
    match until {
        Some(until) if until.is_none_or(|until| now <= until) => return Freshness::Fresh(until),
        _ => {}
    }
    // Its end is told from the first slot on: a file that was edited later gives no new respite.
    match facts.first_slot.map(|slot| stale_at(backup, slot)) {
        Some(Some(end)) if now > end => Freshness::Late(until.flatten().or(Some(end))),
        Some(end) => Freshness::Waited(end),
        None if newest.is_some() || facts.any => Freshness::Late(until.flatten()),
        None => Freshness::Waited(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(keys: &str) -> Backup {
        let text = format!("[servers.main]\nhost = \"x\"\n[stores.local]\npath = \"/x\"\n[backups.x]\ndatabase = \"x\"\n{keys}\n");
        let plan = crate::config::parse(&text, std::path::Path::new("x")).unwrap();
        plan.backups["x"].clone()
    }

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-01-{text}:00Z").parse().unwrap()
    }

    #[test]
    fn a_backup_is_fresh_waited_for_or_late() {
        let daily = "schedule = \"0 2 * * *\"";
        let aged = "schedule = \"0 2 * * *\"\nmax_age = \"26h\"";
        let by_hand = "max_age = \"26h\"";
        let fresh = |text| Freshness::Fresh(Some(at(text)));
        let waited = |text| Freshness::Waited(Some(at(text)));
        let late = |text| Freshness::Late(Some(at(text)));
        for (keys, newest, any, first_slot, now, expected) in [
            // Taken at its slot: good for 26 hours, to the second.
            (aged, Some("10T02:00"), true, Some("01T02:00"), "10T02:00", fresh("11T04:00")),
            (aged, Some("10T02:00"), true, Some("01T02:00"), "11T04:00", fresh("11T04:00")),
            (aged, Some("10T02:00"), true, Some("01T02:00"), "11T04:01", late("11T04:00")),
            // The first slot is to come, is there, has passed, and is late.
            (aged, None, false, Some("11T02:00"), "10T12:00", waited("12T04:00")),
            (aged, None, false, Some("11T02:00"), "11T02:00", waited("12T04:00")),
            (aged, None, false, Some("11T02:00"), "12T04:00", waited("12T04:00")),
            (aged, None, false, Some("11T02:00"), "12T04:01", late("12T04:00")),
            // There is one of a lower rung only: it does not count, for good nor for bad.
            (aged, None, true, Some("11T02:00"), "11T12:00", waited("12T04:00")),
            (aged, None, true, Some("11T02:00"), "12T05:00", late("12T04:00")),
            // Old dumps were adopted before the first slot came.
            (aged, Some("01T02:00"), true, Some("11T02:00"), "10T12:00", waited("12T04:00")),
            (aged, Some("01T02:00"), true, Some("11T02:00"), "12T05:00", late("02T04:00")),
            // Without max_age two slots in a row may pass.
            (daily, Some("10T02:01"), true, Some("01T02:00"), "12T02:00", fresh("12T02:01")),
            (daily, Some("10T02:01"), true, Some("01T02:00"), "12T02:02", late("12T02:01")),
            (daily, None, false, Some("11T02:00"), "13T02:01", waited("13T02:01")),
            (daily, None, false, Some("11T02:00"), "13T02:02", late("13T02:01")),
            // A backup from the future is none.
            (aged, Some("20T02:00"), true, Some("01T02:00"), "10T02:00", late("02T04:00")),
            // By hand: nothing is waited for, but what is there must not grow too old.
            (by_hand, None, false, None, "10T12:00", Freshness::Waited(None)),
            (by_hand, Some("10T02:00"), true, None, "11T03:00", fresh("11T04:00")),
            (by_hand, Some("10T02:00"), true, None, "11T05:00", late("11T04:00")),
            (by_hand, None, true, None, "10T12:00", Freshness::Late(None)),
            ("", Some("10T02:00"), true, None, "30T12:00", Freshness::Fresh(None)),
            ("", None, true, None, "10T12:00", Freshness::Late(None)),
        ] {
            let facts = Facts { newest: newest.map(at), any, first_slot: first_slot.map(at) };
            let found = freshness(&backup(keys), facts, at(now));
            assert_eq!(found, expected, "{keys:?} {newest:?} {first_slot:?} {now}");
            assert_eq!(found.is_healthy(), !matches!(expected, Freshness::Late(_)));
        }
    }
}
