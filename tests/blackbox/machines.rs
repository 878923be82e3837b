//! Several installations over one store and one file: a slot is run by one of them, and whoever dies, is
//! paused or cut off over it loses it to another.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::daemon::{Daemon, history, now, once_in, until, write_config};
use crate::common::{Database, Server, World, container, ran};
use crate::support::{Psql, stock};

/// Two installations: the second one has a `state_dir` of its own, and all else in common.
struct Two {
    world: World,
    second: PathBuf,
}

impl Two {
    fn new(top: &str, sections: &str) -> Self {
        let world = World::new();
        write_config(&world, top, sections);
        let text = std::fs::read_to_string(world.config()).unwrap();
        let second = world.path("second.toml");
        let (state, other) = (world.path("state").display().to_string(), world.path("state2").display().to_string());
        std::fs::write(&second, text.replace(&format!("\"{state}\""), &format!("\"{other}\""))).unwrap();
        Two { world, second }
    }

    fn second(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgvigil"));
        command.arg("--config").arg(&self.second).args(args);
        command
    }

    /// The history of the second one, oldest first.
    fn history(&self) -> Vec<Value> {
        let mut rows = ran(&mut self.second(&["--json", "history", "x"])).expect(0).json().as_array().unwrap().clone();
        rows.reverse();
        rows
    }

    fn labels(&self) -> Vec<String> {
        self.world.names("x").into_iter().filter(|name| name != "latest").collect()
    }
}

/// A dump that waits: somebody has locked the table.
fn locked(database: &Database) -> Psql {
    database.sql("create table t as select 1 as i");
    let mut holder = Psql::connect(Server::Pg15, &database.name);
    holder.done("begin; lock table t in access exclusive mode");
    holder
}

fn waits_for_the_lock(database: &Database) {
    let waits = "select count(*) from pg_locks where not granted and relation = 't'::regclass";
    until("a dump waits for the lock", || (database.sql(waits) == "1").then_some(()));
}

fn section(database: &Database, keys: &str) -> String {
    format!("[backups.x]\ndatabase = \"{}\"\nevidence = \"off\"\nglobals = false\n{keys}\n", database.name)
}

fn is_good(world: &World, label: &str) {
    let id = format!("x/{label}");
    assert_eq!(world.pgvigil(&["--json", "verify", &id]).expect(0).json()["rung"], "readable");
}

#[test]
fn a_slot_is_run_by_one_of_two() {
    let database = Database::sample(Server::Pg15);
    let two = Two::new("", &section(&database, "schedule = \"*/2 * * * * *\"\nkeep = { last = 100 }"));
    let first = Daemon::start(&two.world);
    let second = Daemon::of(&mut two.second(&["daemon"]));
    until("six slots have their backups", || (two.labels().iter().filter(|name| !name.starts_with('.')).count() >= 6).then_some(()));
    let (log, other) = (first.stop(), second.stop());
    assert!(!log.contains("ERROR") && !other.contains("ERROR"), "{log}\n{other}");
    let labels = two.labels();
    assert!(!labels.iter().any(|name| name.starts_with('.')), "nothing unfinished: {labels:?}");
    // Every label was made once: what each says it has made itself adds up to what is there.
    let made = |rows: &[Value]| rows.iter().filter(|row| row["outcome"] == "ok" && row["error"].is_null()).count();
    let (mine, theirs) = (history(&two.world, "x"), two.history());
    assert_eq!(made(&mine) + made(&theirs), labels.len(), "{mine:#?}\n{theirs:#?}");
    assert!(mine.iter().chain(&theirs).all(|row| ["ok", "skipped"].contains(&row["outcome"].as_str().unwrap())), "{mine:#?}\n{theirs:#?}");
}

#[test]
fn one_that_waits_takes_over_from_the_dead_and_the_paused() {
    for signal in [Signal::SIGKILL, Signal::SIGSTOP] {
        let database = Database::empty(Server::Pg15);
        let mut holder = locked(&database);
        let (_, keys) = once_in(4);
        let two = Two::new("takeover_after = \"3s\"", &section(&database, &keys));
        // Both see the schedule before its slot comes; whoever is first holds it.
        let (first, second) = (Daemon::start(&two.world), Daemon::of(&mut two.second(&["daemon"])));
        waits_for_the_lock(&database);
        let (one, other) =
            until("one of them waits for the other", || match (first.count("waiting for it"), second.count("waiting for it")) {
                (0, 0) => None,
                (0, _) => Some((&first, &second)),
                (_, _) => Some((&second, &first)),
            });
        one.signal(signal);
        holder.done("rollback");
        other.wait_for_line("run ended");
        assert!(other.log().contains("outcome=\"ok\""), "{signal}: {}", other.log());
        let labels: Vec<String> = two.labels().into_iter().filter(|name| !name.starts_with('.')).collect();
        assert_eq!(labels.len(), 1, "{signal}");
        let manifest = std::fs::read(two.world.store().join("x").join(&labels[0]).join("manifest.json")).unwrap();
        if signal == Signal::SIGSTOP {
            // It wakes, finds that it has lost its slot, and writes nothing over its successor.
            one.signal(Signal::SIGCONT);
            one.wait_for_line("run ended");
            until("nothing unfinished is left", || (!two.labels().iter().any(|name| name.starts_with('.'))).then_some(()));
        }
        assert_eq!(std::fs::read(two.world.store().join("x").join(&labels[0]).join("manifest.json")).unwrap(), manifest);
        is_good(&two.world, &labels[0]);
    }
}

/// Two folders of one machine stand for the same store of two; a path beside it is another store.
#[test]
fn another_store_is_another_lease() {
    let database = Database::sample(Server::Pg15);
    let (_, keys) = once_in(3);
    let two = Two::new("", &section(&database, &keys));
    let text = std::fs::read_to_string(&two.second).unwrap();
    let elsewhere = two.world.path("elsewhere");
    let moved = text.replace(&format!("\"{}\"", two.world.store().display()), &format!("\"{}\"", elsewhere.display()));
    std::fs::write(&two.second, moved).unwrap();
    let (first, second) = (Daemon::start(&two.world), Daemon::of(&mut two.second(&["daemon"])));
    first.wait_for_line("run ended");
    second.wait_for_line("run ended");
    let count =
        |dir: &Path| std::fs::read_dir(dir.join("x")).unwrap().filter(|entry| entry.as_ref().unwrap().file_name() != "latest").count();
    assert_eq!((count(&two.world.store()), count(&elsewhere)), (1, 1), "{}", now());
}

/// A network namespace with an address on the bridge of the Engine; it goes with this.
struct Namespace {
    name: String,
}

impl Namespace {
    fn new() -> Self {
        let name = format!("pgv{}", std::process::id());
        let space = Namespace { name: name.clone() };
        // Nobody else has an address up there.
        let address = format!("172.17.250.{}/16", 1 + std::process::id() % 250);
        for args in [
            format!("netns add {name}"),
            format!("link add {name} type veth peer name eth0 netns {name}"),
            format!("link set {name} master docker0 up"),
            format!("-n {name} addr add {address} dev eth0"),
            format!("-n {name} link set lo up"),
            format!("-n {name} link set eth0 up"),
        ] {
            Self::ip(&args);
        }
        space
    }

    fn ip(args: &str) {
        stock("ip", &args.split(' ').collect::<Vec<_>>(), Path::new("/"));
    }

    fn link(&self, state: &str) {
        Self::ip(&format!("-n {} link set eth0 {state}", self.name));
    }

    /// The program, set up to run in it.
    fn command(&self, world: &World, args: &[&str]) -> Command {
        let plain = world.command(args);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(plain.get_program()).args(plain.get_args());
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The other end of its link goes with it.
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
        let _ = Command::new("ip").args(["link", "delete", &self.name]).stderr(std::process::Stdio::null()).status();
    }
}

#[test]
fn a_holder_that_is_cut_off_is_taken_over() {
    let inspect = ["inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", &container()];
    let address = String::from_utf8(stock("docker", &inspect, Path::new("/"))).unwrap().trim().to_owned();
    let database = Database::empty(Server::Exec);
    database.sql("create table t as select 1 as i");
    let mut holder = Psql::connect(Server::Exec, &database.name);
    holder.done("begin; lock table t in access exclusive mode");
    let (_, keys) = once_in(10);
    let world = World::new();
    let text = |state: &str| {
        format!(
            "takeover_after = \"3s\"\nstate_dir = \"{}\"\n[stores.local]\npath = \"{}\"\n[servers.main]\nhost = \"{address}\"\npassword = {{ env = \"PGVIGIL_TEST_PASSWORD\" }}\n{}stall_timeout = \"20s\"\n",
            world.path(state).display(),
            world.store().display(),
            section(&database, &keys)
        )
    };
    std::fs::write(world.config(), text("state")).unwrap();
    let second = world.path("second.toml");
    std::fs::write(&second, text("state2")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgvigil"));
    let other = Daemon::of(command.arg("--config").arg(&second).arg("daemon"));
    // It has seen its schedule, and sleeps over the slot, so that the first one holds the lease.
    other.wait_for_line("server answers");
    other.signal(Signal::SIGSTOP);
    let space = Namespace::new();
    let cut = Daemon::of(&mut space.command(&world, &["daemon"]));
    let waits = "select count(*) from pg_locks where not granted and relation = 't'::regclass";
    until("a dump waits for the lock", || (database.sql(waits) == "1").then_some(()));
    other.signal(Signal::SIGCONT);
    other.wait_for_line("waiting for it");
    space.link("down");
    holder.done("rollback");
    other.wait_for_line("outcome=\"ok\"");
    let labels = || world.names("x").into_iter().filter(|name| name != "latest" && !name.starts_with('.')).collect::<Vec<_>>();
    let made = labels();
    assert_eq!(made.len(), 1);
    let manifest = || std::fs::read(world.store().join("x").join(&made[0]).join("manifest.json")).unwrap();
    let before = manifest();
    // The one that was cut off comes back, ends what it had, and writes nothing over its successor.
    space.link("up");
    cut.wait_for_line("run ended");
    assert!(labels() == made && manifest() == before, "{}", cut.log());
    is_good(&world, &made[0]);
}
