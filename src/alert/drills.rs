//! What is wrong with the drills of a backup, and what they say of it: a pure function, too.

use chrono::{DateTime, Utc};

use super::problems::{BackupFacts, Problem, time, wanted};
use crate::catalog::{Entry, Proof, Rung};
use crate::host::printable;
use crate::schedule::due::unproven_at;
use crate::state::Outcome;

impl BackupFacts<'_> {
    /// The newest drill that restored a backup whole, and how long that took. One that could not verify
    /// it says nothing.
    pub fn measured(&self, now: DateTime<Utc>) -> Option<(&Entry, &Proof, f64)> {
        let proofs = self.past(now).flat_map(|entry| entry.copies.values().flatten().map(move |proof| (entry, proof)));
        let measured = proofs.filter(|(_, proof)| proof.at <= now);
        measured.filter_map(|(entry, proof)| Some((entry, proof, proof.restore_seconds()?))).max_by_key(|(_, proof, _)| proof.at)
    }
}

/// The last drill failed, was broken off, or could not verify the backup. Drills by hand are the
/// business of that hand, unless the file speaks of drills.
pub fn drill(facts: &BackupFacts<'_>, now: DateTime<Utc>) -> Option<Problem> {
    facts.backup.drill.as_ref()?;
    let run = facts.last_drill?;
    let name = &facts.backup.name;
    let what = match run.outcome.as_deref()? {
        outcome if outcome == Outcome::Ok.as_str() => return None,
        // Its words are "cannot verify: ...".
        outcome if outcome == Outcome::Problems.as_str() => "proved nothing",
        outcome if outcome == Outcome::Interrupted.as_str() => "was interrupted",
        outcome if outcome == Outcome::Cancelled.as_str() => "was cancelled",
        _ => "failed",
    };
    let error = printable(run.error.as_deref().unwrap_or_default());
    let (first, rest) = error.split_once('\n').unwrap_or((&error, ""));
    let since = run.finished_at.unwrap_or(run.started_at);
    let mut problem = facts.problem("drill", since, format!("drill of backup {name} {what}: {first}"), now);
    rest.clone_into(&mut problem.details);
    if let Some(id) = &run.id {
        problem.facts.push(("Drilled", id.clone()));
        problem.commands.push(format!("pgvigil show {id}"));
        problem.commands.push(format!("pgvigil verify {id} --drill"));
    }
    if let Some(slot) = run.slot {
        problem.facts.push(("Slot", time(slot, facts.backup.timezone)));
    }
    Some(problem)
}

/// The last restore that was measured took longer than it may.
pub fn budget(facts: &BackupFacts<'_>, now: DateTime<Utc>) -> Option<Problem> {
    let budget = facts.backup.drill.as_ref()?.budget?.as_secs_f64();
    let (entry, proof, took) = facts.measured(now)?;
    if took <= budget {
        return None;
    }
    let name = &facts.backup.name;
    let summary = format!("a restore of backup {name} takes {}, and its budget is {}", span(took), span(budget));
    let mut problem = facts.problem("budget", proof.at, summary, now);
    problem.facts.push(("Measured", format!("{took:.1} s, by the drill of {} at {}", entry.id, time(proof.at, facts.backup.timezone))));
    problem.facts.push(("Budget", format!("{budget:.0} s")));
    problem.commands.push(format!("pgvigil show {}", entry.id));
    Some(problem)
}

/// Drills have not proven what is wanted of them: the newest one reached less, or two slots in a row
/// passed without a proof. A fresh backup is only readable until the next drill, which is no problem.
pub fn unproven(facts: &BackupFacts<'_>, now: DateTime<Utc>) -> Option<Problem> {
    let want = wanted(facts.backup.want);
    if want <= Rung::Readable {
        return None;
    }
    let name = &facts.backup.name;
    let newest = facts.measured(now).map(|(entry, proof, _)| (entry, proof));
    if let Some((entry, proof)) = newest.filter(|(_, proof)| proof.rung < want) {
        let summary = format!("the drill of {} came to {}, and {want} is wanted", entry.id, proof.rung);
        let mut problem = facts.problem("unproven", proof.at, summary, now);
        problem.details = printable(&proof.notes.join("\n"));
        problem.commands.push(format!("pgvigil show {}", entry.id));
        return Some(problem);
    }
    let proven = newest.map(|(_, proof)| proof.at);
    let since = unproven_at(facts.backup, proven.or(facts.drills_since)?)?;
    // A drill under way may be the cure, unless it lasts as long itself.
    let is_cure = |began| unproven_at(facts.backup, began).is_none_or(|hopeless| now <= hopeless);
    if now <= since || facts.drilling_since.is_some_and(is_cure) {
        return None;
    }
    let summary = match proven {
        Some(at) => {
            format!("backup {name} was last proven {want} at {}, and two drills in a row are missing", time(at, facts.backup.timezone))
        }
        None => format!("no backup of {name} is proven {want}, and two drills in a row are missing"),
    };
    let mut problem = facts.problem("unproven", since, summary, now);
    problem.commands.push(format!("pgvigil verify {name}/latest --drill"));
    Some(problem)
}

/// A duration for people, with all units that it has; below a minute with a tenth of a second.
pub fn span(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s").replace(".0 s", " s");
    }
    let whole = std::time::Duration::try_from_secs_f64(seconds.round()).unwrap_or_default().as_secs();
    let units = [(whole / 3_600, "h"), (whole % 3_600 / 60, "min"), (whole % 60, "s")];
    let units: Vec<String> = units.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count} {unit}")).collect();
    units.join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::alert::problems::of_backup;
    use crate::catalog::{Catalog, Compared, DrillFacts, Id, Manifest};
    use crate::config::Plan;
    use crate::schedule::due::Job;
    use crate::state::Run;

    fn plan(keys: &str) -> Plan {
        let text = format!(
            "[servers.main]\nhost = \"x\"\n[stores.local]\npath = \"/x\"\n[backups.x]\ndatabase = \"x\"\nschedule = \"0 2 * * *\"\n{keys}\n"
        );
        crate::config::parse(&text, std::path::Path::new("x")).unwrap()
    }

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-01-{text}:00Z").parse().unwrap()
    }

    fn proof(when: &str, rung: Rung, drill: Option<f64>) -> Proof {
        let drill = drill.map(|restore_seconds| DrillFacts {
            on: "local".into(),
            restore_seconds,
            total_seconds: restore_seconds + 1.0,
            bytes: 1,
            raw_bytes: 1,
            bytes_per_second: 1.0,
            compared: Some(Compared::default()),
        });
        let by = if drill.is_some() { Proof::BY_DRILL } else { "read back" };
        let at = at(when);
        Proof {
            at,
            rung,
            by: by.into(),
            bytes: 1,
            seconds: 1.0,
            manifest_sha256: None,
            errors: vec![],
            notes: vec![],
            drill,
            generator: "x".into(),
        }
    }

    /// Backups of that moments with their proofs, newest first.
    fn catalog(backups: &[(&str, &[Proof])]) -> Catalog {
        let mut catalog = Catalog::default();
        for (taken_at, proofs) in backups {
            let id = Id { backup: "x".into(), label: crate::catalog::Label::of(at(taken_at)) };
            let manifest = manifest(&id, at(taken_at));
            catalog.entries.push(Entry {
                id,
                manifest,
                copies: BTreeMap::from([("local".to_owned(), proofs.to_vec())]),
                signed: BTreeMap::new(),
                pinned: false,
            });
        }
        catalog
    }

    fn manifest(id: &Id, at: DateTime<Utc>) -> Manifest {
        let json = serde_json::json!({
            "format_version": 1, "id": id.to_string(), "backup": "x", "label": id.label.to_string(), "slot": at, "taken_at": at,
            "started_at": at, "finished_at": at, "kind": "dump", "server": "main", "narrow": false, "server_version": "15.1",
            "client_version": "15.1", "format": "plain", "contents": "all", "databases": ["x"], "files": [], "evidence": null,
            "encryption": null, "signature": null, "generator": "x", "timezone": "UTC", "compression": "gzip"
        });
        serde_json::from_value(json).unwrap()
    }

    fn run(outcome: Outcome, error: &str) -> Run {
        Run {
            backup: "x".into(),
            kind: Job::Drill,
            slot: Some(at("11T04:00")),
            started_at: at("11T04:00"),
            finished_at: Some(at("11T04:10")),
            outcome: Some(outcome.as_str().into()),
            error: Some(error.into()),
            id: Some("x/20260111T020000Z".into()),
            target: None,
            lock: None,
        }
    }

    fn ask(keys: &str, catalog: &Catalog, last: Option<&Run>, drilling_since: Option<&str>, now: &str) -> Vec<Problem> {
        let plan = plan(keys);
        let facts = BackupFacts {
            backup: &plan.backups["x"],
            catalog,
            last: None,
            since: Some(at("01T00:00")),
            running: false,
            running_since: None,
            retrying: false,
            future_slot: None,
            last_drill: last,
            drills_since: Some(at("01T00:00")),
            drilling_since: drilling_since.map(at),
        };
        of_backup(&facts, at(now)).into_iter().filter(|problem| problem.key != "backup/x/stale").collect()
    }

    fn told(problems: &[Problem]) -> Vec<(&str, &str)> {
        problems.iter().map(|problem| (problem.key.strip_prefix("backup/x/").unwrap(), problem.summary.as_str())).collect()
    }

    const WEEKLY: &str = "drill = { schedule = \"0 4 * * 0\", budget = \"1m\" }";

    #[test]
    fn the_last_drill() {
        let good = catalog(&[("11T02:00", &[proof("11T02:01", Rung::Readable, None)])]);
        let differs = "x/1 restores, and differs from its evidence in 2 places: table a: expected 1, found 2\ntable b: expected 3, found 4";
        for (outcome, error, expected) in [
            (Outcome::Ok, "", None),
            (
                Outcome::Failed,
                differs,
                Some("failed: x/1 restores, and differs from its evidence in 2 places: table a: expected 1, found 2"),
            ),
            (Outcome::Problems, "cannot verify: install postgis", Some("proved nothing: cannot verify: install postgis")),
            (Outcome::Interrupted, "killed", Some("was interrupted: killed")),
            (Outcome::Cancelled, "told to stop", Some("was cancelled: told to stop")),
        ] {
            let last = run(outcome, error);
            let found = ask(WEEKLY, &good, Some(&last), None, "11T05:00");
            let expected = expected.map(|words| format!("drill of backup x {words}"));
            assert_eq!(told(&found), expected.iter().map(|summary| ("drill", summary.as_str())).collect::<Vec<_>>());
            if outcome == Outcome::Failed {
                assert_eq!(found[0].details, "table b: expected 3, found 4");
                assert!(found[0].commands.contains(&"pgvigil show x/20260111T020000Z".to_owned()));
            }
            assert!(ask("", &good, Some(&last), None, "11T05:00").is_empty(), "nobody drills it but by hand");
        }
    }

    #[test]
    fn the_budget_is_that_of_the_newest_measure() {
        let drilled = |when: &str, secs| proof(when, Rung::Matched, Some(secs));
        let older = |secs| ("04T02:00", vec![drilled("04T04:00", secs)]);
        for (newest, before, expected) in [
            (vec![drilled("11T04:00", 60.0)], older(90.0), None),
            (vec![drilled("11T04:00", 75.5)], older(30.0), Some("a restore of backup x takes 1 min 16 s, and its budget is 1 min")),
            // What broke off has measured nothing.
            (
                vec![Proof { drill: None, ..drilled("11T04:00", 1.0) }],
                older(3_661.0),
                Some("a restore of backup x takes 1 h 1 min 1 s, and its budget is 1 min"),
            ),
            // Written while the clock was ahead.
            (vec![drilled("30T04:00", 75.5)], older(30.0), None),
        ] {
            let catalog = catalog(&[("11T02:00", &newest), (before.0, &before.1)]);
            let found = ask(WEEKLY, &catalog, None, None, "11T05:00");
            assert_eq!(told(&found), expected.map(|summary| ("budget", summary)).into_iter().collect::<Vec<_>>());
            assert!(ask("drill = { schedule = \"0 4 * * 0\" }", &catalog, None, None, "11T05:00").is_empty());
        }
    }

    #[test]
    fn a_fresh_backup_may_wait_for_its_drill_and_a_missing_drill_may_not() {
        let keys = format!("want = \"matched\"\n{WEEKLY}");
        let readable = [proof("05T02:01", Rung::Readable, None)];
        let at_rung = |rung| vec![proof("04T02:01", Rung::Readable, None), proof("04T04:05", rung, Some(9.0))];
        let (matched, restored) = (at_rung(Rung::Matched), at_rung(Rung::Restored));
        let (fresh, both) = (catalog(&[("05T02:00", &readable)]), catalog(&[("05T02:00", &readable), ("04T02:00", &matched)]));
        let less = catalog(&[("05T02:00", &readable), ("04T02:00", &restored)]);
        let missing = "backup x was last proven matched at 2026-01-04 04:05:00 +00:00, and two drills in a row are missing";
        let never = "no backup of x is proven matched, and two drills in a row are missing";
        for (catalog, drilling, now, expected) in [
            // All the week, and after one drill that did not come.
            (&both, None, "05T02:05", None),
            (&both, None, "11T05:00", None),
            (&both, None, "18T04:00", None),
            (&both, None, "18T04:02", Some(missing)),
            (&both, Some("18T04:00"), "18T04:02", None),
            (&both, Some("04T04:06"), "18T04:02", Some(missing)),
            // The slots of 4 and 11 January.
            (&fresh, None, "11T04:00", None),
            (&fresh, None, "11T04:02", Some(never)),
            (&fresh, None, "12T03:00", Some(never)),
            (&less, None, "12T03:00", Some("the drill of x/20260104T020000Z came to restored, and matched is wanted")),
        ] {
            let found = ask(&keys, catalog, None, drilling, now);
            assert_eq!(told(&found), expected.map(|summary| ("unproven", summary)).into_iter().collect::<Vec<_>>(), "{now} {drilling:?}");
        }
        assert!(ask(WEEKLY, &less, None, None, "29T03:00").is_empty(), "readable is wanted");
    }

    #[test]
    fn without_a_schedule_the_newest_must_have_it() {
        let readable = [proof("12T02:01", Rung::Readable, None)];
        let matched = [proof("12T02:01", Rung::Readable, None), proof("12T03:00", Rung::Matched, Some(9.0))];
        let unproven = [("unproven", "backup x/20260112T020000Z is only readable, and matched is wanted")];
        assert_eq!(told(&ask("want = \"matched\"", &catalog(&[("12T02:00", &readable)]), None, None, "12T05:00")), unproven);
        assert_eq!(told(&ask("want = \"matched\"", &catalog(&[("12T02:00", &matched)]), None, None, "12T05:00")), []);
    }

    #[test]
    fn spans() {
        for (seconds, expected) in [
            (0.04, "0 s"),
            (12.0, "12 s"),
            (12.34, "12.3 s"),
            (60.0, "1 min"),
            (75.5, "1 min 16 s"),
            (3_600.0, "1 h"),
            (7_325.0, "2 h 2 min 5 s"),
        ] {
            assert_eq!(span(seconds), expected);
        }
    }
}
