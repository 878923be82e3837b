//! Hooks: programs that run on events.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;

use crate::common::daemon::{Daemon, once_in, until, wait_for_outcome, write_config};
use crate::common::{Database, Server, World, unique};

/// A program of the world that does something with the event.
fn script(world: &World, text: &str) -> PathBuf {
    let path = world.path("hook");
    std::fs::write(&path, format!("#!/bin/bash\ncd {}\n{text}\n", world.path("").display())).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

fn configure(world: &World, program: &std::path::Path, keys: &str, database: &str) {
    let hook = format!("[hooks.log]\ncommand = [\"{}\", \"an argument; $(touch pwned)\"]\n{keys}", program.display());
    world.configure(&format!("{}{hook}[backups.x]\ndatabase = \"{database}\"\n", Server::Pg15.section()));
}

const KEEP: &str = "printf '%s|%s|%s\\n' \"$1\" \"$PGVIGIL_EVENT\" \"$PGVIGIL_KEY\" >> args; cat >> events; echo >> events; env > env";
const ALL: &str = "on = [\"run_started\", \"run_succeeded\", \"run_failed\", \"alert_open\", \"alert_reminder\", \"alert_closed\"]\n";

fn events(world: &World) -> Vec<Value> {
    let text = std::fs::read_to_string(world.path("events")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().unwrap()).collect()
}

#[test]
fn events_of_runs_and_alerts() {
    let world = World::new();
    let name = unique("later");
    let program = script(&world, KEEP);
    configure(&world, &program, ALL, &name);
    let mut command = world.command(&["run", "x"]);
    crate::common::ran(command.env("A_SECRET_OF_OURS", "x")).expect(1);
    let found = events(&world);
    assert_eq!(names(&found), ["run_started", "run_failed", "alert_open"]);
    assert_eq!((&found[0]["key"], &found[0]["backup"], &found[0]["run"]["by_hand"]), (&"backup/x".into(), &"x".into(), &true.into()));
    assert_eq!(
        (&found[1]["run"]["outcome"], &found[1]["run"]["id"], &found[1]["run"]["will_retry"]),
        (&"failed".into(), &Value::Null, &false.into())
    );
    assert!(found[1]["run"]["error"].as_str().unwrap().contains(&name), "{found:#?}");
    assert_eq!(
        (&found[2]["key"], &found[2]["state"], &found[2]["severity"]),
        (&"backup/x/failed".into(), &"open".into(), &"urgent".into())
    );
    let args = std::fs::read_to_string(world.path("args")).unwrap();
    assert!(args.starts_with("an argument; $(touch pwned)|run_started|backup/x\n"), "{args}");
    assert!(!world.path("pwned").exists());
    // Nothing of our environment that is nobody's business, nor the password of the server.
    let env = std::fs::read_to_string(world.path("env")).unwrap();
    assert!(!env.contains("A_SECRET_OF_OURS") && !env.contains("PGVIGIL_TEST") && env.contains("PATH="), "{env}");
    let _mended = Database::create(Server::Pg15, &name, "template0");
    let id = world.backup("x");
    let found = events(&world);
    assert_eq!(names(&found[3..]), ["run_started", "run_succeeded", "alert_closed"]);
    assert_eq!((&found[4]["run"]["id"], &found[4]["run"]["rung"]), (&id.as_str().into(), &"readable".into()));
    world.pgvigil(&["alert", "test"]).expect(0);
    assert_eq!(names(&events(&world)[6..]), ["test"]);
}

#[test]
fn only_what_it_is_run_on() {
    let world = World::new();
    let name = unique("later");
    let program = script(&world, KEEP);
    configure(&world, &program, "on = [\"alert_closed\", \"run_failed\"]\n", &name);
    world.pgvigil(&["run", "x"]).expect(1);
    assert_eq!(names(&events(&world)), ["run_failed"]);
    let _mended = Database::create(Server::Pg15, &name, "template0");
    world.backup("x");
    assert_eq!(names(&events(&world)), ["run_failed", "alert_closed"]);
}

#[test]
fn one_that_fails_is_run_again() {
    let world = World::new();
    let program = script(&world, &format!("{KEEP}\necho 'no \u{1b}[31mway' >&2; [ -e mended ]"));
    configure(&world, &program, "", &unique("nosuch"));
    let ran = world.pgvigil(&["run", "x"]).expect(1);
    assert!(
        ran.stderr.contains("a message by hooks.log stays in the outbox") && ran.stderr.contains("failed with exit status 1"),
        "{ran:#?}"
    );
    assert!(ran.stderr.contains("way") && !ran.stderr.contains('\u{1b}'), "{ran:#?}");
    assert_eq!(world.pgvigil(&["--json", "status"]).expect(3).json()["outbox"]["pending"], 1);
    let ran = world.pgvigil(&["alert", "test"]).expect(1);
    assert!(ran.stdout.contains("FAILED   hooks.log: hooks.log: ") && ran.stdout.contains("HINT: it must end with 0"), "{ran:#?}");
    std::fs::write(world.path("mended"), "").unwrap();
    world.pgvigil(&["run", "x"]).expect(1);
    world.pgvigil(&["run", "x"]).expect(1);
    assert_eq!(names(&events(&world)), ["alert_open", "test", "alert_open"]);
}

/// Processes that have a word in their arguments.
fn running(word: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let has = |entry: &std::fs::DirEntry| {
        std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| line.split(|byte| *byte == 0).any(|arg| arg == word.as_bytes()))
    };
    entries.filter(has).count()
}

/// It hangs, with a child, and one that left its group and session.
#[test]
fn one_that_hangs_is_ended_with_its_children() {
    let world = World::new();
    let secs = format!("9{:05}.5", std::process::id() % 100_000);
    let hang = format!(
        "sleep {secs} & setsid sleep {secs} & (setsid -f sleep {secs}); echo 'I hang' >&2; cat > /dev/null; touch begun; sleep {secs}"
    );
    let program = script(&world, &hang);
    configure(&world, &program, "timeout = \"2s\"\n", &unique("nosuch"));
    let ran = world.pgvigil(&["run", "x"]).expect(1);
    assert!(world.path("begun").exists());
    assert!(ran.stderr.contains("was not done within 2 s, and was ended; it had said: I hang"), "{ran:#?}");
    assert!(ran.stderr.contains("HINT: timeout of [hooks.log]"), "{ran:#?}");
    assert_eq!(running(&secs), 0, "nothing of it is left");
    // One that leaves something behind when it ends.
    std::fs::remove_file(world.path("begun")).unwrap();
    let program = script(&world, &format!("(setsid -f sleep {secs}) > /dev/null 2>&1; sleep {secs} & touch begun"));
    configure(&world, &program, "timeout = \"2s\"\n", &unique("nosuch"));
    world.pgvigil(&["alert", "test"]).expect(0);
    assert!(world.path("begun").exists());
    assert_eq!(running(&secs), 0);
}

/// One that reads nothing of a large event, and closes its stdin.
#[test]
fn one_that_does_not_listen() {
    let world = World::new();
    let program = script(&world, "exec 0<&-; touch begun");
    configure(&world, &program, ALL, &unique("nosuch"));
    world.pgvigil(&["run", "x"]).expect(1);
    assert!(world.path("begun").exists());
    assert_eq!(world.pgvigil(&["--json", "status"]).json()["outbox"]["pending"], 0);
}

#[test]
fn a_hook_holds_no_run_of_the_daemon_up_and_goes_with_it() {
    let world = World::new();
    let database = Database::create(Server::Pg15, &unique("small"), "template0");
    let secs = format!("8{:05}.5", std::process::id() % 100_000);
    let program = script(&world, &format!("sleep {secs}"));
    let (_, once) = once_in(3);
    let hook = format!("[hooks.log]\ncommand = [\"{}\"]\non = [\"run_started\"]\ntimeout = \"10m\"\n", program.display());
    write_config(&world, "", &format!("{hook}[backups.x]\ndatabase = \"{}\"\n{once}\n", database.name));
    let mut daemon = Daemon::start(&world);
    wait_for_outcome(&world, "x", "ok");
    until("it runs still", || (running(&secs) > 0).then_some(()));
    daemon.signal(nix::sys::signal::Signal::SIGKILL);
    daemon.end();
    until("it ends with the daemon", || (running(program.to_str().unwrap()) == 0).then_some(()));
}
