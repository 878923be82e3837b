//! The daemon killed at any moment, under a clock that jumps, with files that are edited badly, and
//! with a state that cannot be written.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Timelike, Utc};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::daemon::{
    Daemon, alerts, assert_no_slot_twice, history, label, now, once_in, time, until, wait_for_outcome, write_config,
};
use crate::common::{Database, Server, World, unique};
use crate::http::{Http, Request};
use crate::judge::{BACKUP, Case, FEW_ROWS, is_label};
use crate::killed::MIDDLE;
use crate::smtp::Smtp;
use crate::tools::{Chance, Mounted, scale, together};

/// Every second.
const ALWAYS: &str = "schedule = \"* * * * * *\"";

fn small() -> Database {
    let database = Database::empty(Server::Pg15);
    database.sql(FEW_ROWS);
    database
}

fn world(top: &str, backups: &[(&str, &str, &str)]) -> World {
    let world = World::new();
    write_config(&world, top, &sections(backups));
    world
}

fn sections(backups: &[(&str, &str, &str)]) -> String {
    let one = |(name, database, keys): &(&str, &str, &str)| format!("[backups.{name}]\ndatabase = \"{database}\"\n{keys}\n");
    backups.iter().map(one).collect::<Vec<_>>().concat()
}

/// No session of a run is left in a database.
fn no_backend(database: &str) {
    let ask = format!("select count(*) from pg_stat_activity where datname = '{database}' and application_name like 'pgvigil\\_%'");
    until("no backend is left", || (Server::Pg15.sql("postgres", &ask) == "0").then_some(()));
}

/// A command under another clock.
fn under_clock(world: &World, args: &[&str], clock: &[(&str, &str)]) -> Command {
    let mut command = world.command(args);
    command.env("LD_PRELOAD", "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1");
    // Only what the time of day is: waiting goes on as ever, and files keep their stamps.
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1").env("NO_FAKE_STAT", "1");
    command.envs(clock.iter().copied());
    command
}

#[test]
fn killed_in_the_middle_of_a_dump() {
    together([Server::Pg15, Server::Exec], |server| {
        let case = Case::gated(server, "");
        let (slot, once) = once_in(4);
        case.configure(&case.server, &once);
        case.gate().arm(MIDDLE);
        let mut daemon = Daemon::of(&mut case.command(&["daemon"]));
        case.gate().reached();
        daemon.signal(Signal::SIGKILL);
        daemon.end();
        assert_eq!(case.world.names(BACKUP).iter().filter(|name| name.starts_with(".partial-")).count(), 1);
        case.gate().open();

        let daemon = Daemon::of(&mut case.command(&["daemon"]));
        daemon.wait_for_line("alert=backup/shop/failed");
        until("the slot is run again", || {
            history(&case.world, BACKUP).into_iter().find(|row| row["outcome"] == "ok" && time(&row["slot"]) == slot)
        });
        daemon.wait_for_line("over: backup shop was interrupted");
        daemon.stop();
        let rows = history(&case.world, BACKUP);
        let outcomes: Vec<&str> = rows.iter().map(|row| row["outcome"].as_str().unwrap()).collect();
        assert_eq!(outcomes, ["ok", "interrupted", "ok"], "{rows:#?}");
        assert_eq!((time(&rows[1]["slot"]), &rows[1]["id"]), (slot, &Value::Null));
        assert_eq!(rows[2]["id"], format!("{BACKUP}/{}", label(&rows[2]["slot"])));
        case.pgvigil(&["verify", rows[2]["id"].as_str().unwrap()]).expect(0);
        assert!(case.programs().is_empty(), "{:?}", case.programs());
        assert!(!case.world.names(BACKUP).iter().any(|name| name.starts_with('.')), "{:?}", case.world.names(BACKUP));
        if server == Server::Pg15 {
            no_backend(case.target.name());
        }
    });
}

/// With runs and deletions under way.
#[test]
fn killed_at_random() {
    let mut chance = Chance::new();
    let databases = [small(), small()];
    let keys = format!("{ALWAYS}\nkeep = {{ last = 2 }}");
    let backups = [("a", databases[0].name.as_str(), keys.as_str()), ("b", databases[1].name.as_str(), keys.as_str())];
    let world = world("max_concurrent_runs = 2", &backups);
    for round in 0..scale(10, 100) {
        let mut daemon = Daemon::start(&world);
        // Any moment is as good: there is no event to wait for.
        std::thread::sleep(Duration::from_millis(chance.next() % 2_500));
        daemon.signal(Signal::SIGKILL);
        daemon.end();
        for (name, _, _) in &backups {
            whole(&world, name, round);
        }
    }
    let daemon = Daemon::start(&world);
    for (name, _, _) in &backups {
        let before = history(&world, name).iter().filter(|row| row["outcome"] == "ok").count();
        until("it goes on", || (history(&world, name).iter().filter(|row| row["outcome"] == "ok").count() > before).then_some(()));
    }
    daemon.stop();
    for (name, database, _) in &backups {
        whole(&world, name, usize::MAX);
        assert!(!world.names(name).iter().any(|name| name.starts_with('.')), "{:?}", world.names(name));
        assert!(world.names(name).iter().filter(|name| is_label(name)).count() <= 2, "{:?}", world.names(name));
        no_backend(database);
    }
    // Whatever was said of it is over.
    let status = world.pgvigil(&["--json", "status"]).expect(0).json();
    assert_eq!(alerts(&status), Vec::<&str>::new());
}

/// With messages under way by two channels and a hook: each of them hears everything in order, and at
/// most one message of each channel comes twice for a kill.
#[test]
fn killed_with_messages_pending() {
    let mut chance = Chance::new();
    let absent = unique("absent");
    let (chat, other) = (Http::start(&["--slow", "0.3"]), Http::start(&["--slow", "0.1"]));
    let world = World::new();
    let hook = world.path("hook");
    let script = format!("#!/bin/bash\nsleep 0.1\ngrep -o '\"state\":\"[a-z]*\"' >> {}\n", world.path("heard").display());
    std::fs::write(&hook, script).unwrap();
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let body = "body = '{\"key\": \"{{ key }}\", \"state\": \"{{ state }}\"}'\n";
    let channels = format!(
        "[alerts]\nremind_every = \"1s\"\n{}{}[hooks.log]\ncommand = [\"{}\"]\n",
        chat.webhook("chat", body),
        other.webhook("other", body),
        hook.display()
    );
    let backups = [("x", absent.as_str(), "schedule = \"*/2 * * * * *\"\nretries = 0")];
    write_config(&world, "", &format!("{channels}{}", sections(&backups)));
    let rounds = scale(6, 60);
    for _ in 0..rounds {
        let mut daemon = Daemon::start(&world);
        std::thread::sleep(Duration::from_millis(chance.next() % 3_500));
        daemon.signal(Signal::SIGKILL);
        daemon.end();
    }
    let daemon = Daemon::start(&world);
    // At least once it is told, if no life before was long enough.
    until("it is told", || {
        let there = |http: &Http| http.requests().iter().any(|request| request.body().contains("backup/x/failed"));
        (there(&chat) && there(&other)).then_some(())
    });
    let database = Database::create(Server::Pg15, &absent, "template0");
    until("everything is told", || {
        let status = world.pgvigil(&["--json", "status"]).json();
        (status["outbox"]["pending"] == 0 && status["healthy"] == true).then_some(())
    });
    daemon.stop();
    drop(database);
    for http in [&chat, &other] {
        let requests = http.requests();
        let mut times: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
        for request in &requests {
            *times.entry(request.header("idempotency-key")).or_default() += 1;
        }
        // Each kill may double what was on its way, and the same twice.
        assert!(times.values().map(|times| times - 1).sum::<usize>() <= rounds, "{times:#?}");
        let of_failed: Vec<Value> = requests.iter().map(Request::json).filter(|json| json["key"] == "backup/x/failed").collect();
        let states: Vec<&str> = of_failed.iter().map(|json| json["state"].as_str().unwrap()).collect();
        assert_eq!((states.first(), states.last()), (Some(&"open"), Some(&"closed")), "{states:?}");
        // No reminder of what is over, and no end of what was not told.
        let mut is_open = false;
        for (nth, state) in states.iter().enumerate() {
            let again = nth > 0 && states[nth - 1] == *state;
            assert!(again || is_open == (*state != "open"), "{states:?}");
            is_open = *state != "closed";
        }
    }
    let heard = std::fs::read_to_string(world.path("heard")).unwrap();
    assert!(heard.contains("open") && heard.lines().last().unwrap().contains("closed"), "{heard}");
}

/// A channel that hangs holds up no other, and what one does not take goes to the one that stands in
/// for it.
#[test]
fn channels_that_are_deaf() {
    let (deaf, chat, spare) = (Http::start(&["--status", "503"]), Http::start(&[]), Http::start(&[]));
    let hang = Smtp::start(&["--hang", "greeting"]);
    let world = World::new();
    let channels = [
        hang.section(""),
        deaf.webhook("deaf", ""),
        chat.webhook("chat", ""),
        spare.webhook("spare", "fallback_for = [\"webhooks.deaf\"]\n"),
    ];
    let (x, y) = (unique("absent"), unique("absent"));
    let keys = "schedule = \"* * * * * *\"\nretries = 0";
    write_config(&world, "", &format!("{}{}", channels.concat(), sections(&[("x", &x, keys), ("y", &y, keys)])));
    let daemon = Daemon::start(&world);
    chat.wait_for(2);
    assert!(spare.requests().is_empty());
    // The relay hangs for a minute; the third attempt of the other is after 45 s.
    daemon.wait_for_line("what webhooks.deaf does not take goes to webhooks.spare");
    spare.wait_for(1);
    assert!(hang.mails().is_empty());
    let refused = |request: &Request| request.status() == 503 && request.method() == "POST" && request.path().ends_with("/deaf");
    assert!(deaf.requests().len() >= 3 && deaf.requests().iter().all(refused), "{:#?}", deaf.requests());
}

/// With mail under way: every message arrives, in order, and at most one of each kill comes twice.
#[test]
fn killed_with_mail_pending() {
    let mut chance = Chance::new();
    let (good, absent) = (small(), unique("absent"));
    let relay = Smtp::start(&["--slow", "0.2"]);
    let backups = [("good", good.name.as_str(), ALWAYS), ("x", absent.as_str(), "schedule = \"*/2 * * * * *\"\nretries = 0")];
    let world = World::new();
    write_config(&world, "max_concurrent_runs = 2", &format!("{}{}", sections(&backups), relay.section("remind_every = \"1s\"\n")));
    let rounds = scale(8, 60);
    for _ in 0..rounds {
        let mut daemon = Daemon::start(&world);
        std::thread::sleep(Duration::from_millis(chance.next() % 3_500));
        daemon.signal(Signal::SIGKILL);
        daemon.end();
    }
    let daemon = Daemon::start(&world);
    let database = Database::create(Server::Pg15, &absent, "template0");
    let is = |key: &str, state: &str| relay.alerts().iter().filter(|mail| **mail == (key.to_owned(), state.to_owned())).count();
    // To both recipients, and for good.
    until("its end is told", || (is("backup/x/failed", "closed") >= 2).then_some(()));
    until("nothing is left to tell", || {
        let status = world.pgvigil(&["--json", "status"]).json();
        (status["outbox"]["pending"] == 0 && status["healthy"] == true).then_some(())
    });
    daemon.stop();
    drop(database);
    let mails = relay.mails();
    let mut seen: std::collections::BTreeMap<(&str, &str), usize> = std::collections::BTreeMap::new();
    for mail in &mails {
        *seen.entry((mail.header("Message-ID"), mail.to())).or_default() += 1;
    }
    assert!(seen.values().all(|times| *times <= 2), "{seen:#?}");
    let twice = seen.values().filter(|times| **times == 2).count();
    assert!(twice <= rounds, "{twice} of {rounds} kills");
    for to in ["dba@example.com", "boss@example.com"] {
        let states: Vec<&str> =
            mails.iter().filter(|mail| mail.to() == to && mail.alert().0 == "backup/x/failed").map(|mail| mail.alert().1).collect();
        assert_eq!((states.first(), states.last()), (Some(&"open"), Some(&"closed")), "{to}: {states:?}");
    }
    // Every spell that was opened has an end.
    let keys: std::collections::BTreeSet<&str> = mails.iter().map(|mail| mail.alert().0).collect();
    for key in keys {
        let last = mails.iter().rev().find(|mail| mail.alert().0 == key).map(|mail| mail.alert().1);
        assert_eq!(last, Some("closed"), "{key}");
    }
}

/// What is under a label is a whole backup, every run has an end, and no slot was stored twice.
fn whole(world: &World, backup: &str, round: usize) {
    let list = world.pgvigil(&["--json", "list", backup]).expect(0).json();
    let mut listed: Vec<&str> = list.as_array().unwrap().iter().map(|entry| entry["label"].as_str().unwrap()).collect();
    listed.sort_unstable();
    let mut there = world.names(backup);
    there.retain(|name| is_label(name));
    assert_eq!(listed, there, "round {round}");
    for label in listed {
        world.pgvigil(&["verify", &format!("{backup}/{label}")]).expect(0);
    }
    let rows = history(world, backup);
    assert!(rows.iter().all(|row| row["outcome"].is_string()), "round {round}: {rows:#?}");
    assert_no_slot_twice(&rows);
}

#[test]
fn files_that_are_edited_badly() {
    let mut chance = Chance::new();
    let database = small();
    let world = world("", &[("a", &database.name, ALWAYS), ("b", &database.name, "jitter = \"1s\"\nschedule = \"*/2 * * * * *\"")]);
    let good = std::fs::read_to_string(world.config()).unwrap();
    let daemon = Daemon::start(&world);
    let answered = || daemon.count("the file was read again") + daemon.count("the file is faulty");
    // Behind the paths: nobody may write anywhere else.
    let from = good.find("[servers.main]").unwrap();
    for _ in 0..scale(12, 300) {
        let mut text = good.clone().into_bytes();
        for _ in 0..=chance.below(3) {
            let at = from + chance.below(text.len() - from);
            match chance.below(4) {
                0 => text.truncate(at),
                1 => drop(text.remove(at)),
                2 => text[at] = 32 + (chance.next() % 95) as u8,
                _ => text.insert(at, *chance.pick(b"\"'[]{}=\n#.\\\xff")),
            }
            if text.len() <= from {
                break;
            }
        }
        let before = answered();
        std::fs::write(world.config(), &text).unwrap();
        daemon.signal(Signal::SIGHUP);
        until("the daemon has read the file", || (answered() > before).then_some(()));
    }
    std::fs::write(world.config(), &good).unwrap();
    let before = daemon.count("the file was read again");
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_lines("the file was read again", before + 1);
    for name in ["a", "b"] {
        let words = format!("run ended backup={name}");
        let before = daemon.count(&words);
        daemon.wait_for_lines(&words, before + 2);
        assert_no_slot_twice(&history(&world, name));
    }
    until("nothing is wrong any more", || {
        let status = world.pgvigil(&["--json", "status"]).json();
        (status["config"]["error"].is_null() && !alerts(&status).contains(&"config/reload")).then_some(())
    });
    daemon.stop();
}

/// One run for the latest slot of those that nobody was there for; or none.
#[test]
fn missed_slots() {
    let database = small();
    let name = &database.name;
    // Hourly, the last time five minutes ago.
    let minute = |ago: i64| (now() - TimeDelta::minutes(ago)).minute();
    let (hourly, other) = (format!("schedule = \"{} * * * *\"", minute(5)), format!("schedule = \"{} * * * *\"", minute(6)));
    let none = format!("{hourly}\ncatch_up = false");
    let before = [("a", name.as_str(), hourly.as_str()), ("b", name, &none), ("c", name, &other)];
    let world = world("", &before);
    let daemon = Daemon::of(&mut under_clock(&world, &["daemon"], &[("FAKETIME", "-3h")]));
    let db = rusqlite::Connection::open(world.path("state/history.db")).unwrap();
    let seen = || db.query_row("select count(*) from schedules", [], |row| row.get::<_, i64>(0)).unwrap();
    until("the daemon has seen the schedules", || (seen() == 3).then_some(()));
    daemon.stop();
    for backup in ["a", "b", "c"] {
        assert_eq!(history(&world, backup), Vec::<Value>::new());
    }
    // c has another schedule now, and d is new.
    write_config(&world, "", &sections(&[("a", name, &hourly), ("b", name, &none), ("c", name, &hourly), ("d", name, &hourly)]));
    let daemon = Daemon::start(&world);
    let ran = wait_for_outcome(&world, "a", "ok");
    let skipped = wait_for_outcome(&world, "b", "skipped");
    // Whatever else was due would have begun by now.
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_line("the file was read again");
    daemon.stop();
    let latest = |row: &Value| now() - time(&row["slot"]);
    assert!(latest(&ran) >= TimeDelta::minutes(5) && latest(&ran) < TimeDelta::minutes(7), "{ran:#}");
    assert_eq!(time(&ran["slot"]).second(), 0);
    assert_eq!(ran["id"], format!("a/{}", label(&ran["slot"])));
    assert_eq!((&skipped["slot"], &skipped["id"]), (&ran["slot"], &Value::Null));
    assert!(skipped["error"].as_str().unwrap().contains("catch_up = false"), "{skipped:#}");
    for (backup, rows) in [("a", 1), ("b", 1), ("c", 0), ("d", 0)] {
        assert_eq!(history(&world, backup).len(), rows, "{backup}");
    }
}

/// A slot that came in time and waited for a place was not missed, whatever catch_up says. The clock
/// runs twenty times as fast.
#[test]
fn late_is_not_missed() {
    let (held, free) = (small(), small());
    let keys = "timezone = \"UTC\"\nschedule = \"*/5 * * * *\"\ncatch_up = false";
    let case_world = world("", &[("a", &held.name, keys), ("b", &free.name, keys)]);
    let mut holder = hold(&held);
    let daemon = Daemon::of(&mut under_clock(&case_world, &["daemon"], &[("FAKETIME", "@2026-06-01 11:59:50 x20"), ("TZ", "UTC")]));
    daemon.wait_for_line("run begins backup=a");
    let begun = std::time::Instant::now();
    until("it is more than a minute late", || (begun.elapsed() > Duration::from_secs(5)).then_some(()));
    release(&held);
    holder.wait().unwrap();
    wait_for_outcome(&case_world, "b", "ok");
    daemon.stop();
    let rows = history(&case_world, "b");
    assert!(rows.iter().all(|row| row["outcome"] != "skipped"), "{rows:#?}");
    assert_eq!(time(&rows[0]["slot"]).minute() % 5, 0);
    assert!(time(&rows[0]["started_at"]) - time(&rows[0]["slot"]) > TimeDelta::seconds(61), "{rows:#?}");
}

/// A run that does not end is no excuse for ever.
#[test]
fn a_run_that_hangs_is_told() {
    let database = small();
    let world = world("shutdown_grace = \"1s\"", &[("x", &database.name, "schedule = \"*/10 * * * * *\"")]);
    let mut holder = hold(&database);
    let daemon = Daemon::of(&mut under_clock(&world, &["daemon"], &[("FAKETIME", "+0 x20")]));
    daemon.wait_for_line("run begins backup=x");
    let mut looks = 0;
    until("it is told", || {
        looks += 1;
        daemon.signal(Signal::SIGHUP);
        daemon.wait_for_lines("the file was read again", looks);
        (daemon.count("alert=backup/x/stale") > 0).then_some(())
    });
    assert_eq!(daemon.count("run ended"), 0, "{}", daemon.log());
    daemon.stop();
    release(&database);
    holder.wait().unwrap();
}

/// Somebody who holds the table for a minute.
fn hold(database: &Database) -> std::process::Child {
    let mut psql = database.server.tool("psql");
    psql.args([
        "-X",
        "-q",
        "-d",
        &database.name,
        "-c",
        "begin",
        "-c",
        "lock table rows in access exclusive mode",
        "-c",
        "select pg_sleep(60)",
    ]);
    let child = psql.stdout(std::process::Stdio::null()).spawn().unwrap();
    let held = "select count(*) from pg_locks where relation = 'rows'::regclass and mode = 'AccessExclusiveLock' and granted";
    until("the lock is held", || (database.sql(held) == "1").then_some(()));
    child
}

fn release(database: &Database) {
    database.sql("select pg_terminate_backend(pid) from pg_locks where relation = 'rows'::regclass and mode = 'AccessExclusiveLock'");
}

/// The lock of a backup held by one who is no run of it: the slot waits.
#[test]
fn a_lock_without_a_run() {
    let database = small();
    let (slot, once) = once_in(3);
    let world = world("", &[("x", &database.name, &format!("{once}\ncatch_up = false"))]);
    std::fs::create_dir_all(world.path("state/locks")).unwrap();
    let daemon = Daemon::start(&world);
    until("the daemon has swept", || world.path("state/locks/x.lock").exists().then_some(()));
    let lock = std::fs::File::create(world.path("state/locks/x.lock")).unwrap();
    until("the lock is free", || lock.try_lock().ok());
    daemon.wait_for_line("run did not begin");
    drop(lock);
    let row = wait_for_outcome(&world, "x", "ok");
    assert_eq!(time(&row["slot"]), slot);
    assert_eq!(history(&world, "x").len(), 1);
    daemon.stop();
}

fn set_clock(file: &Path, offset: &str) {
    let aside = file.with_extension("new");
    std::fs::write(&aside, offset).unwrap();
    std::fs::rename(aside, file).unwrap();
}

#[test]
fn a_clock_that_jumps_by_a_year() {
    let database = small();
    let world = world("", &[("x", &database.name, "schedule = \"*/2 * * * * *\"\nkeep = { last = 2 }\nretries = 0")]);
    let clock = world.path("clock");
    set_clock(&clock, "+0");
    let clock_text = clock.display().to_string();
    let daemon = Daemon::of(&mut under_clock(&world, &["daemon"], &[("FAKETIME_TIMESTAMP_FILE", &clock_text), ("FAKETIME_NO_CACHE", "1")]));
    let good_near = |moment: DateTime<Utc>| {
        let rows = history(&world, "x").into_iter().filter(|row| row["outcome"] == "ok");
        rows.filter(|row| (time(&row["slot"]) - moment).abs() < TimeDelta::hours(1)).count()
    };
    let year = TimeDelta::days(365);
    let two_more_near = |moment: DateTime<Utc>, what: &str| {
        let before = good_near(moment);
        let since = std::time::Instant::now();
        until(what, || (good_near(moment) >= before + 2).then_some(()));
        assert!(since.elapsed() < Duration::from_secs(25), "{what} {:?}: {}", since.elapsed(), daemon.log());
    };
    two_more_near(now(), "the schedule goes on");
    set_clock(&clock, "+365d");
    two_more_near(now() + year, "it goes on a year ahead");
    let ahead: Vec<String> = world
        .names("x")
        .into_iter()
        .filter(|name| is_label(name) && *name > label(&(now() + TimeDelta::days(9)).to_rfc3339().into()))
        .collect();
    assert!(!ahead.is_empty(), "{:?}", world.names("x"));
    set_clock(&clock, "+0");
    two_more_near(now(), "it goes on when the clock is back");
    daemon.wait_for_line("alert=backup/x/future");
    let status = world.pgvigil(&["--json", "status"]).expect(3).json();
    assert!(alerts(&status).contains(&"backup/x/future"), "{status:#}");
    let last = time(&status["backups"][0]["last_success_at"]);
    assert!(last <= now() && now() - last < TimeDelta::minutes(1), "what is to come does not count: {status:#}");
    set_clock(&clock, "-365d");
    two_more_near(now() - year, "it goes on a year behind");
    daemon.stop();
    let rows = history(&world, "x");
    assert_no_slot_twice(&rows);
    assert!(rows.iter().all(|row| row["outcome"] == "ok" || row["outcome"] == "skipped"), "{rows:#?}");
    for label in ahead {
        assert!(world.names("x").contains(&label), "{label} is gone: {:?}", world.names("x"));
    }
}

/// A year ahead for one night costs no old backup; a person may say that the clock is right.
#[test]
fn a_clock_that_has_jumped_deletes_nothing() {
    let database = small();
    let world = world("", &[("x", &database.name, "keep = { daily = 2 }")]);
    let at = |clock: &str, args: &[&str]| crate::common::ran(&mut under_clock(&world, args, &[("FAKETIME", clock)]));
    let count = || world.names("x").iter().filter(|name| is_label(name)).count();
    at("-86390s", &["run", "x"]).expect(0);
    at("+0", &["run", "x"]).expect(0);
    assert_eq!(count(), 2);
    at("+365d", &["run", "x"]).expect(0);
    assert_eq!(count(), 3, "the oldest of three days would go");
    let status = at("+365d", &["--json", "status"]).expect(3).json();
    assert!(alerts(&status).contains(&"clock/jumped"), "{status:#}");
    // It is right again: what is to come is told, and counts nowhere.
    at("+0", &["run", "x"]).expect(0);
    assert_eq!(count(), 4);
    let status = at("+0", &["--json", "status"]).expect(3).json();
    assert_eq!(alerts(&status), ["backup/x/future"]);
    // Ahead again, and this time it is meant.
    at("+365d", &["run", "x"]).expect(0);
    assert_eq!(count(), 5);
    let refused = at("+365d", &["prune", "x"]).expect(1);
    assert!(refused.stderr.contains("--trust-clock") && count() == 5, "{refused:#?}");
    let pruned = at("+365d", &["--json", "prune", "x", "--trust-clock"]).expect(0).json();
    assert_eq!((pruned["deleted"].as_array().unwrap().len(), count()), (2, 3), "{pruned:#}");
}

/// Another daemon may begin in its place: the first one ends, and is heard.
#[test]
fn a_state_that_is_removed() {
    let database = small();
    let relay = Smtp::start(&[]);
    let world = World::new();
    write_config(&world, "", &format!("{}{}", sections(&[("x", &database.name, ALWAYS)]), relay.section("tls = \"none\"\n")));
    let mut daemon = Daemon::start(&world);
    daemon.wait_for_line("outcome=\"ok\"");
    std::fs::remove_dir_all(world.path("state")).unwrap();
    let (code, _) = daemon.end();
    assert_eq!(code, Some(1), "{}", daemon.log());
    assert_eq!(relay.wait_for(1)[0].alert(), ("state/alerts", "open"));
    let daemon = Daemon::start(&world);
    daemon.wait_for_line("outcome=\"ok\"");
    daemon.stop();
    for label in world.names("x").iter().filter(|name| is_label(name)) {
        world.pgvigil(&["verify", &format!("x/{label}")]).expect(0);
    }
}

/// A run that cannot be put on record is tried again, but not all the time; and it is told.
#[test]
fn a_state_that_is_full() {
    let database = small();
    let world = World::new();
    let relay = Smtp::start(&[]);
    let email = relay.section("tls = \"none\"\n");
    write_config(&world, "", &format!("{}{email}", sections(&[("x", &database.name, ALWAYS)])));
    let state = Mounted::tmpfs(&world.path("state"), "1m");
    let daemon = Daemon::start(&world);
    daemon.wait_for_line("outcome=\"ok\"");
    let filler = state.path.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);
    let before = daemon.count("run could not begin");
    daemon.wait_for_line("cannot be noted");
    let since = std::time::Instant::now();
    daemon.wait_for_lines("cannot be noted", 3);
    assert!(since.elapsed() > Duration::from_secs(5), "it goes round and round: {}", daemon.log());
    assert!(daemon.count("run could not begin") - before < 6, "{}", daemon.log());
    // The alert cannot be kept, and somebody hears of it all the same.
    assert_eq!(relay.wait_for(2)[0].alert(), ("state/alerts", "open"));
    std::fs::remove_file(&filler).unwrap();
    let ok = daemon.count("outcome=\"ok\"");
    daemon.wait_for_lines("outcome=\"ok\"", ok + 2);
    daemon.stop();
}

/// Nothing runs without it, and that is told.
#[test]
fn a_history_that_cannot_be_used() {
    let world = world("", &[("x", "x", "schedule = \"@yearly\"")]);
    let daemon = Daemon::start(&world);
    let path = world.path("state/history.db");
    until("the backup is known", || (daemon.count("begins") > 0 && world.path("state/locks/x.lock").exists()).then_some(()));
    let good = std::fs::read(&path).unwrap();
    std::fs::write(&path, vec![b'x'; good.len()]).unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_line("alert=state/history");
    std::fs::write(&path, good).unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_line("over: no run can be put on record");
    daemon.stop();
}
