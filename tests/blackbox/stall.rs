//! Servers that freeze while a dump is loaded into them: the load is given up, nothing of the old
//! database is touched, and nothing is held against the backup. And a restore that dies in the swap.

use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::daemon::Daemon;
use crate::common::{Database, Ran, Server, World};
use crate::restore::standing_still;
use crate::restore_page::{fingerprint, same};
use crate::support::{Psql, until};

/// Stopped processes, which go on at the end.
struct Frozen(Vec<Pid>);

impl Frozen {
    fn stop(pids: impl IntoIterator<Item = i32>) -> Self {
        let pids: Vec<Pid> = pids.into_iter().map(Pid::from_raw).collect();
        assert!(!pids.is_empty());
        for pid in &pids {
            kill(*pid, Signal::SIGSTOP).unwrap();
        }
        Frozen(pids)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill(*pid, Signal::SIGCONT);
        }
    }
}

fn backed_up(database: &Database, keys: &str) -> (World, String) {
    let keys = format!("stall_timeout = \"3s\"\n{keys}");
    let world = World::with(database.server, &format!("[backups.x]\ndatabase = '''{}'''\n{keys}", database.name));
    let id = world.backup("x");
    (world, id)
}

fn begin(world: &World, args: &[&str]) -> Child {
    world.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn ended(child: Child) -> Ran {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

#[test]
fn a_restore_whose_backend_freezes_is_given_up() {
    let database = standing_still(Server::Pg15);
    let source = fingerprint(Server::Pg15, &database.name, &[]);
    let (world, id) = backed_up(&database, "");
    let child = begin(&world, &["--json", "restore", &id, "--clean", "--yes"]);
    let ours = format!("datname like '{}\\_restoring\\_%'", database.name);
    let sql = format!("select pid from pg_stat_activity where {ours} and query like 'REFRESH%' and state = 'active'");
    let postgres = |sql: &str| Server::Pg15.sql("postgres", sql);
    until("the restore is under way", || !postgres(&sql).is_empty());
    let frozen = Frozen::stop([postgres(&sql).parse().unwrap()]);
    let ran = ended(child).expect(1);
    let answer = ran.json();
    assert_eq!(answer["error"]["kind"], "timeout", "{ran:#?}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("stalled for 3 s") && message.contains("stopped"), "{ran:#?}");
    assert!(answer["error"]["hint"].as_str().unwrap().contains("stall_timeout"), "{ran:#?}");
    same("live", &source, &fingerprint(Server::Pg15, &database.name, &[]));
    // A stopped process cannot be ended from afar: what it holds is removed once it goes on.
    drop(frozen);
    world.backup("x");
    assert_eq!(postgres(&format!("select count(*) from pg_database where {ours}")), "0");
    assert_eq!(postgres(&format!("select count(*) from pg_stat_activity where {ours}")), "0");
}

#[test]
fn a_restore_that_waits_for_a_lock_is_given_up() {
    let database = Database::empty(Server::Pg15);
    database.sql("create table t as select generate_series(1, 3) as i");
    let (world, id) = backed_up(&database, "contents = \"data\"\n");
    database.sql("delete from t");
    let mut holder = Psql::connect(Server::Pg15, &database.name);
    // Others may read it, and not write.
    holder.done("begin; lock table t in share mode");
    let ran = world.pgvigil(&["--json", "restore", &id]).expect(1);
    let answer = ran.json();
    assert_eq!(answer["error"]["kind"], "timeout", "{ran:#?}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("waits for a lock"), "{ran:#?}");
    let waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    assert_eq!(database.sql(waiting), "0");
    holder.done("rollback");
    assert_eq!(database.sql("select count(*) from t"), "0");
    world.pgvigil(&["--json", "restore", &id]).expect(0);
    assert_eq!(database.sql("select count(*) from t"), "3");
}

#[test]
fn one_that_is_killed_while_the_names_change_locks_nobody_out_for_long() {
    let database = Database::sample(Server::Pg15);
    let live = Database::empty(Server::Pg18);
    let other = Server::Pg18.section().replace("servers.main", "servers.other");
    let world =
        World::with(Server::Pg15, &format!("{other}[backups.x]\nserver = \"main\"\ndatabase = '''{}'''\nglobals = false\n", database.name));
    let id = world.backup("x");
    live.sql("create table live as select 1 as i");
    let mut user = Psql::connect(Server::Pg18, &live.name);
    user.done("begin");
    let session = format!("select pid from pg_stat_activity where datname = '{}' and state = 'idle in transaction'", live.name);
    // A session that does not end keeps the restore in the moment between.
    let frozen = Frozen::stop([Server::Pg18.sql("postgres", &session).parse().unwrap()]);
    let args = ["restore", &id, "--to-server", "other", "--to-database", &live.name, "--clean", "--yes", "--disconnect"];
    let mut child = begin(&world, &args);
    let open = format!("select datallowconn from pg_database where datname = '{}'", live.name);
    until("nobody may connect", || Server::Pg18.sql("postgres", &open) == "f");
    child.kill().unwrap();
    child.wait().unwrap();
    drop(frozen);
    assert_eq!(Server::Pg18.sql("postgres", &open), "f");
    // No backup is made of that server: nothing but the daemon's beginning brings it to mind.
    let daemon = Daemon::start(&world);
    until("the database takes connections again", || Server::Pg18.sql("postgres", &open) == "t");
    assert_eq!(live.sql("select i from live"), "1");
    daemon.wait_for_line("a restore was interrupted; removed what it left");
    daemon.stop();
    let left = format!("select count(*) from pg_database where datname like '{}\\_%'", live.name);
    assert_eq!(Server::Pg18.sql("postgres", &left), "0");
}

/// Takes so many seconds in a drill, and nothing on the source.
fn slow_index(database: &Database, secs: u32) {
    database.sql(&format!(
        "create function slow(i int) returns int immutable language plpgsql as $$ begin
            if current_setting('listen_addresses') = '' then perform pg_catalog.pg_sleep({secs}); end if;
            return i; end $$;
        create table t as select 1 as i;
        create index t_slow on t (public.slow(i))"
    ));
}

#[test]
fn a_drill_whose_server_freezes_says_nothing_about_the_backup() {
    for all in [true, false] {
        let database = Database::empty(Server::Pg15);
        slow_index(&database, 600);
        let (world, id) = backed_up(&database, "drill = { on = \"local\" }\n");
        let child = begin(&world, &["--json", "verify", &id, "--drill"]);
        let mut makers = Vec::new();
        let mut everything = Vec::new();
        until("the drill makes its index", || {
            (everything, makers) = cluster(&world);
            !makers.is_empty()
        });
        let _frozen = Frozen::stop(if all { everything } else { makers });
        let ran = ended(child).expect(3);
        assert!(ran.stderr.contains("cannot verify") && ran.stderr.contains("stalled"), "all: {all}: {ran:#?}");
        assert_eq!(ran.json()["outcome"], "problems", "all: {all}: {ran:#?}");
        assert_eq!(world.pgvigil(&["--json", "list", "x"]).json()[0]["rung"], "readable");
        assert_eq!(std::fs::read_dir(world.path("state/spool/drills")).into_iter().flatten().count(), 0, "all: {all}");
        assert!(cluster(&world).0.is_empty());
    }
}

#[test]
fn an_index_that_takes_long_is_no_stall() {
    let database = Database::empty(Server::Pg15);
    slow_index(&database, 10);
    let (world, id) = backed_up(&database, "drill = { on = \"local\" }\n");
    let ran = world.pgvigil(&["--json", "verify", &id, "--drill"]).expect(0);
    assert_eq!(ran.json()["rung"], "matched", "{ran:#?}");
}

/// The processes of a drill's cluster, and those of them that make an index.
fn cluster(world: &World) -> (Vec<i32>, Vec<i32>) {
    let drills = world.path("state/spool/drills");
    let (mut all, mut makers) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&drills)) {
            all.push(pid);
            let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            makers.extend(command.contains("CREATE INDEX").then_some(pid));
        }
    }
    (all, makers)
}
