//! The daemon as a user sees it: its slots, its signals, its file, and what becomes of what fails.

use std::process::Command;
use std::time::Duration;

use chrono::Timelike;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::daemon::{
    Daemon, alerts, assert_no_slot_twice, history, label, now, once_in, time, until, wait_for_outcome, write_config,
};
use crate::common::{Database, Server, World};
use crate::support::{Psql, rungs};

/// Every other second.
const OFTEN: &str = "schedule = \"*/2 * * * * *\"";

/// A world on PostgreSQL 15, with keys at the top of the file.
fn world(top: &str, sections: &str) -> World {
    let world = World::new();
    write_config(&world, top, sections);
    world
}

fn backup(name: &str, database: &str, keys: &str) -> String {
    format!("[backups.{name}]\ndatabase = \"{database}\"\n{keys}\n")
}

/// A database with a table, and somebody who has locked it.
struct Locked {
    database: Database,
    holder: Psql,
}

impl Locked {
    fn new() -> Self {
        let database = Database::empty(Server::Pg15);
        database.sql("create table t as select 1 as i");
        let mut holder = Psql::connect(Server::Pg15, &database.name);
        holder.done("begin; lock table t in access exclusive mode");
        Locked { database, holder }
    }

    fn dump_waits(&self) {
        let waits = "select count(*) from pg_locks where not granted and relation = 't'::regclass";
        until("the dump waits for the lock", || (self.database.sql(waits) == "1").then_some(()));
    }

    fn release(&mut self) {
        self.holder.done("rollback");
    }

    fn backends(&self) -> String {
        let name = &self.database.name;
        Server::Pg15.sql(
            "postgres",
            &format!("select count(*) from pg_stat_activity where datname = '{name}' and application_name like 'pgvigil\\_%'"),
        )
    }
}

#[test]
fn slots_become_backups_under_their_labels() {
    let database = Database::empty(Server::Pg15);
    database.sql("create table t as select 1 as i");
    let name = &database.name;
    let keys = format!("{OFTEN}\ntimezone = \"America/New_York\"");
    let world = world("", &format!("{}{}", backup("x", name, &keys), backup("by_hand", name, "")));
    let daemon = Daemon::start(&world);
    daemon.wait_for_lines("outcome=\"ok\"", 2);
    let status = world.pgvigil(&["--json", "status"]).expect(0).json();
    assert_eq!((&status["healthy"], &status["daemon"]["running"]), (&true.into(), &true.into()), "{status:#}");
    assert!(status["config"]["loaded_at"].is_string() && status["config"]["error"].is_null(), "{status:#}");
    let x = status["backups"].as_array().unwrap().iter().find(|backup| backup["name"] == "x").unwrap().clone();
    assert_eq!((&x["rung"], &x["last_run"]["outcome"]), (&"readable".into(), &"ok".into()), "{x:#}");
    assert!((time(&x["next_at"]) - now()).num_seconds().abs() <= 3, "{x:#}");
    assert!(x["age_seconds"].as_i64().unwrap() <= 60, "{x:#}");

    // Beside it: a run is safe, and another daemon is not.
    world.backup("by_hand");
    let second = world.pgvigil(&["daemon"]).expect(75);
    assert!(second.stderr.contains("another daemon") && second.stderr.contains("HINT:"), "{second:#?}");
    assert_eq!(world.pgvigil(&["--json", "daemon"]).expect(75).json()["error"]["kind"], "busy");

    daemon.wait_for_lines("outcome=\"ok\"", 3);
    let log = daemon.stop();
    assert!(!log.contains("ERROR") && log.contains("the daemon ends"), "{log}");
    let rows = history(&world, "x");
    assert!(rows.len() >= 3, "{rows:#?}");
    assert_no_slot_twice(&rows);
    for row in rows {
        assert_eq!(row["outcome"], "ok", "{row:#}");
        assert_eq!(row["id"], format!("x/{}", label(&row["slot"])), "{row:#}");
        let slot = time(&row["slot"]);
        assert_eq!(slot.second() % 2, 0, "{row:#}");
        assert!((time(&row["started_at"]) - slot).num_seconds() < 10, "{row:#}");
    }
    assert!(rungs(&world, "x").iter().all(|rung| rung == "readable"));
    for entry in world.pgvigil(&["--json", "list", "x"]).expect(0).json().as_array().unwrap() {
        let manifest = world.manifest(entry["id"].as_str().unwrap());
        let local = time(&manifest["slot"]).with_timezone(&chrono_tz::America::New_York).format("%Y%m%d_%H%M%S").to_string();
        assert_eq!(manifest["files"][0]["name"], format!("{name}_{local}.sql.gz"));
        assert_eq!(label(&manifest["slot"]), entry["label"].as_str().unwrap());
    }
    // Nobody runs any more.
    let status = world.pgvigil(&["--json", "status"]).json();
    assert_eq!(status["daemon"]["running"], false);
}

#[test]
fn told_to_stop() {
    std::thread::scope(|scope| {
        // Nothing runs.
        scope.spawn(|| {
            let world = world("", &backup("x", "x", "schedule = \"@yearly\""));
            for signal in [Signal::SIGTERM, Signal::SIGINT] {
                let mut daemon = Daemon::start(&world);
                daemon.signal(signal);
                let (code, took) = daemon.end();
                assert!(code == Some(0) && took < Duration::from_secs(5), "{code:?} {took:?}: {}", daemon.log());
            }
        });
        // The dump may come to its end; nothing new begins.
        scope.spawn(|| {
            let mut locked = Locked::new();
            let world = world("", &backup("x", &locked.database.name, OFTEN));
            let mut daemon = Daemon::start(&world);
            locked.dump_waits();
            daemon.signal(Signal::SIGTERM);
            daemon.wait_for_line("told to stop");
            locked.release();
            assert_eq!(daemon.end().0, Some(0), "{}", daemon.log());
            let rows = history(&world, "x");
            assert_eq!(rows[0]["outcome"], "ok", "{rows:#?}");
            assert!(rows[1..].iter().all(|row| row["outcome"] == "skipped"), "{rows:#?}");
            assert_eq!(rungs(&world, "x"), ["readable"]);
        });
        // It does not end in time; nor would it in an hour, but a second signal comes, and what
        // else is said in between is heard too.
        for (grace, signals) in [("1s", &[Signal::SIGTERM][..]), ("1h", &[Signal::SIGINT, Signal::SIGHUP, Signal::SIGTERM])] {
            scope.spawn(move || {
                let locked = Locked::new();
                let world = world(&format!("shutdown_grace = \"{grace}\""), &backup("x", &locked.database.name, OFTEN));
                let mut daemon = Daemon::start(&world);
                locked.dump_waits();
                for signal in signals {
                    daemon.signal(*signal);
                    daemon.wait_for_line("told to stop");
                }
                let (code, took) = daemon.end();
                assert!(code == Some(0) && took < Duration::from_secs(20), "{code:?} {took:?}: {}", daemon.log());
                assert_eq!(world.names("x"), Vec::<String>::new());
                until("no backend is left", || (locked.backends() == "0").then_some(()));
                assert_eq!(history(&world, "x")[0]["outcome"], "cancelled");
            });
        }
    });
}

#[test]
fn an_edit_takes_effect_by_itself_and_a_faulty_one_does_not() {
    let database = Database::empty(Server::Pg15);
    let (a, b) = (backup("a", &database.name, OFTEN), backup("b", &database.name, OFTEN));
    let world = world("", &a);
    let daemon = Daemon::start(&world);
    write_config(&world, "", &format!("{a}{b}"));
    daemon.wait_for_line("the file was read again");
    wait_for_outcome(&world, "b", "ok");
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_lines("the file was read again", 2);

    // What is completed at once is nobody's fault.
    let whole = std::fs::read_to_string(world.config()).unwrap();
    std::fs::write(world.config(), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(world.config(), format!("{whole}\n")).unwrap();
    daemon.wait_for_lines("the file was read again", 3);
    assert_eq!(daemon.count("is faulty"), 0, "{}", daemon.log());

    let secret = whole.replace("PGVIGIL_TEST_PASSWORD", "PGVIGIL_TEST_NO_SUCH");
    let faults: [(&str, String, &str); 2] = [
        ("a key that is none, and no TOML", format!("{a}{}[backups.c\n", backup("b", &database.name, "shedule = \"@daily\"")), "shedule"),
        ("a secret that is not there", secret, "PGVIGIL_TEST_NO_SUCH"),
    ];
    for (n, (what, fault, words)) in faults.into_iter().enumerate() {
        if fault.contains("[stores.local]") {
            std::fs::write(world.config(), fault).unwrap();
        } else {
            write_config(&world, "", &fault);
        }
        daemon.wait_for_lines("the file is faulty", n + 1);
        // The old plan goes on.
        assert_eq!(daemon.count("is faulty; the daemon"), n + 1, "{}", daemon.log());
        let before = daemon.count("run ended backup=b");
        daemon.wait_for_lines("run ended backup=b", before + 1);
        daemon.wait_for_lines("alert=config/reload", 2 * n + 1);
        let ran = world.pgvigil(&["--json", "status"]).expect(3);
        let status = ran.json();
        assert_eq!((&status["healthy"], &status["daemon"]["running"]), (&false.into(), &true.into()), "{what}: {status:#}");
        assert!(status["config"]["error"].as_str().unwrap().contains(words), "{what}: {status:#}");
        assert!(alerts(&status).contains(&"config/reload"), "{what}: {status:#}");
        let page = world.pgvigil(&["status"]).expect(3).stdout;
        assert!(page.contains("NOT HEALTHY") && page.contains(words) && page.contains("config/reload"), "{what}: {page}");
        write_config(&world, "", &format!("{a}{b}"));
        daemon.wait_for_lines("over: the file was edited", n + 1);
        let status = world.pgvigil(&["--json", "status"]).expect(0).json();
        assert!(status["config"]["error"].is_null() && status["alerts"] == serde_json::json!([]), "{what}: {status:#}");
    }
    // One daemon, one state_dir.
    let moved = whole.replace("/state\"", "/other\"");
    std::fs::write(world.config(), moved).unwrap();
    daemon.wait_for_line("state_dir cannot change");
    daemon.stop();
    assert!(!world.path("other").exists());
    // Without a daemon a faulty file is what it is for every command.
    write_config(&world, "", "[backups.b\n");
    world.pgvigil(&["status"]).expect(78);
    world.pgvigil(&["daemon"]).expect(78);
}

#[test]
fn no_overlap_and_no_more_at_a_time_than_allowed() {
    let mut locked = Locked::new();
    let free = Database::empty(Server::Pg15);
    let world = world("", &format!("{}{}", backup("x", &locked.database.name, OFTEN), backup("y", &free.name, "")));
    let daemon = Daemon::start(&world);
    locked.dump_waits();
    // There is one place, and x has it.
    write_config(&world, "", &format!("{}{}", backup("x", &locked.database.name, OFTEN), backup("y", &free.name, OFTEN)));
    daemon.wait_for_line("the file was read again");
    let busy = world.pgvigil(&["--json", "run", "x"]).expect(75).json();
    assert_eq!((&busy["outcome"], &busy["error"]["kind"]), (&"skipped".into(), &"busy".into()));
    let held = time(&history(&world, "x")[0]["slot"]);
    until("more slots have passed", || (now() > held + chrono::TimeDelta::seconds(5)).then_some(()));
    assert_eq!(history(&world, "y"), Vec::<Value>::new());
    locked.release();
    wait_for_outcome(&world, "y", "ok");
    until("x goes on", || (history(&world, "x").iter().filter(|row| row["outcome"] == "ok").count() >= 2).then_some(()));
    daemon.stop();
    let rows = history(&world, "x");
    assert_no_slot_twice(&rows);
    assert_eq!((&rows[0]["outcome"], time(&rows[0]["slot"])), (&"ok".into(), held));
    assert_eq!(rows[1]["slot"], Value::Null, "the run by hand: {rows:#?}");
    assert_eq!(rows[2]["outcome"], "skipped", "{rows:#?}");
    assert!(rows[2]["error"].as_str().unwrap().contains("still under way"), "{rows:#?}");
    assert!(time(&rows[2]["slot"]) > held && rows[3]["outcome"] != "skipped", "{rows:#?}");
}

/// A dump that waits for a lock, a server that takes a connection and says nothing, and a store
/// whose disk does not answer.
#[test]
fn what_hangs_holds_up_nothing_else() {
    let locked = Locked::new();
    let free = Database::empty(Server::Pg15);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let world = World::new();
    let dead = world.path("dead/of_dead/20200101T000000Z");
    std::fs::create_dir_all(&dead).unwrap();
    crate::support::stock("mkfifo", &["manifest.json"], &dead);
    let more = format!(
        "[servers.silent]\nhost = \"127.0.0.1\"\nport = {}\nbin_dir = \"{}\"\n[stores.dead]\npath = \"{}\"\n",
        silent.local_addr().unwrap().port(),
        crate::support::programs(15).display(),
        world.path("dead").display()
    );
    let on = |name: &str, database: &str, server: &str, store: &str| {
        backup(name, database, &format!("{OFTEN}\nserver = \"{server}\"\nstores = [\"{store}\"]"))
    };
    write_config(
        &world,
        "max_concurrent_runs = 4\nshutdown_grace = \"1s\"",
        &format!(
            "{more}{}{}{}{}",
            on("locked", &locked.database.name, "main", "local"),
            on("of_silent", "x", "silent", "local"),
            on("of_dead", &free.name, "main", "dead"),
            on("free", &free.name, "main", "local")
        ),
    );
    let mut daemon = Daemon::start(&world);
    for name in ["locked", "of_silent", "of_dead"] {
        daemon.wait_for_line(&format!("run begins backup={name}"));
    }
    let before = daemon.count("run ended backup=free");
    daemon.wait_for_lines("run ended backup=free", before + 3);
    for name in ["locked", "of_silent", "of_dead"] {
        assert_eq!(daemon.count(&format!("run ended backup={name}")), 0, "{}", daemon.log());
    }
    let rows = history(&world, "free");
    assert!(rows.iter().all(|row| row["outcome"] != "skipped" && row["outcome"] != "failed"), "{rows:#?}");
    assert_no_slot_twice(&rows);
    // Killed in the middle of them: the next life is not held up by what they left either.
    daemon.signal(Signal::SIGKILL);
    daemon.end();
    let mut daemon = Daemon::start(&world);
    daemon.wait_for_line("run ended backup=free");
    daemon.wait_for_line("alert=backup/locked/failed");
    daemon.signal(Signal::SIGTERM);
    let (code, took) = daemon.end();
    assert!(code == Some(0) && took < Duration::from_secs(50), "{code:?} {took:?}: {}", daemon.log());
}

#[test]
fn what_fails_is_tried_again_and_told() {
    let locked = Locked::new();
    let name = crate::common::unique("later");
    let (slot, once) = once_in(4);
    let world = world(
        "max_concurrent_runs = 4",
        &format!(
            "{}{}{}{}",
            backup("later", &name, &once),
            backup("never", "no_such_database", &format!("{once}\nretries = 0")),
            backup("slow", &locked.database.name, &format!("{once}\nretries = 0\ndeadline = \"3s\"")),
            backup("stalls", &locked.database.name, &format!("{once}\nretries = 0\nstall_timeout = \"2s\""))
        ),
    );
    let daemon = Daemon::start(&world);
    wait_for_outcome(&world, "later", "failed");
    let _database = Database::create(Server::Pg15, &name, "template0");
    daemon.wait_for_line("alert=backup/never/failed");
    daemon.wait_for_line("alert=backup/slow/failed");
    daemon.wait_for_line("alert=backup/stalls/failed");
    wait_for_outcome(&world, "later", "ok");
    let status = world.pgvigil(&["--json", "status"]).expect(3).json();
    assert_eq!(alerts(&status), ["backup/never/failed", "backup/slow/failed", "backup/stalls/failed"], "{status:#}");
    let log = daemon.stop();
    assert!(!log.contains("alert=backup/later/failed"), "it was tried again before anybody is woken: {log}");
    let rows = history(&world, "later");
    assert_eq!(rows.iter().map(|row| row["outcome"].as_str().unwrap()).collect::<Vec<_>>(), ["failed", "ok"]);
    assert!(rows[0]["error"].as_str().unwrap().contains("no database"), "{rows:#?}");
    assert!(rows.iter().all(|row| time(&row["slot"]) == slot), "{rows:#?}");
    assert_eq!(rows[1]["id"], format!("later/{}", slot.format("%Y%m%dT%H%M%SZ")));
    assert!((time(&rows[1]["started_at"]) - time(&rows[0]["finished_at"])).num_seconds() >= 9, "{rows:#?}");
    for (backup, words) in [("never", "no database"), ("slow", "deadline of 3 s"), ("stalls", "2 s")] {
        let rows = history(&world, backup);
        assert!(rows.len() == 1 && rows[0]["outcome"] == "failed", "{rows:#?}");
        assert!(rows[0]["error"].as_str().unwrap().contains(words), "{rows:#?}");
        assert_eq!(world.names(backup), Vec::<String>::new());
    }
}

#[test]
fn a_failure_is_not_over_while_it_is_tried_again() {
    let smtp = crate::smtp::Smtp::start(&[]);
    let nosuch = backup("x", &crate::common::unique("nosuch"), "schedule = \"*/12 * * * * *\"\nretries = 1");
    let world = world("", &format!("{nosuch}{}", smtp.section("")));
    let daemon = Daemon::start(&world);
    smtp.wait_for(2);
    // The next slot has failed too, and waits for its second try.
    daemon.wait_for_lines("run ended", 3);
    let status = world.pgvigil(&["--json", "status"]).expect(3).json();
    assert_eq!(alerts(&status), ["backup/x/failed"], "{status:#}");
    daemon.wait_for_lines("run ended", 4);
    let told = vec![("backup/x/failed".to_owned(), "open".to_owned()); 2];
    assert_eq!(smtp.alerts(), told, "{}", daemon.stop());
}

/// The daemon is there for the eyes of a person, too.
#[test]
fn a_daemon_that_cannot_begin_says_why() {
    let world = world("", &backup("x", "x", OFTEN));
    let ran = world.pgvigil(&["--json", "daemon", "x"]);
    assert_eq!(ran.code, Some(2), "{ran:#?}");
    let mut command: Command = world.command(&["daemon"]);
    command.env_remove("PGVIGIL_TEST_PASSWORD");
    let ran = crate::common::ran(&mut command).expect(78);
    assert!(ran.stderr.contains("PGVIGIL_TEST_PASSWORD"), "{ran:#?}");
}
