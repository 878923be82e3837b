//! Drills that die or are fed with harm: nothing of them is left, nothing of anybody else is touched,
//! and what says nothing about a backup is never held against it.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::forge::{change_dump, change_manifest, dump_of, put, replaced};
use crate::common::{Database, Ran, Server, World, run, unique, var};
use crate::tools::{Chance, Container, Mounted, must, programs, scale, together, until};

/// Takes half a second in a drill, and nothing on the source.
const SLOW: &str = "
    create function slow(i int) returns int immutable language plpgsql as $$ begin
        if current_setting('listen_addresses') = '' or current_database() like 'pgvigil_drill%' then perform pg_catalog.pg_sleep(0.05); end if;
        return i; end $$;
    create table t as select generate_series(1, 10) as i;
    create index t_slow on t (public.slow(i));";

/// A drill's backup is held where its index is made, until it is killed.
const HELD: &str = "
    create function held(i int) returns int immutable language plpgsql as $$ begin
        if current_setting('listen_addresses') = '' or current_database() like 'pgvigil_drill%' then perform pg_catalog.pg_sleep(600); end if;
        return i; end $$;
    create table t as select generate_series(1, 10) as i;
    create index t_held on t (public.held(i));";

/// A backup, and where it is drilled.
struct Case {
    world: World,
    database: Database,
    on: &'static str,
    id: String,
}

impl Case {
    fn new(server: Server, on: &'static str, sql: &str) -> Self {
        let database = Database::empty(server);
        database.sql(sql);
        let backup = format!(
            "[backups.x]\ndatabase = \"{}\"\ndrill = {{ on = \"{on}\" }}\nchecks = {{ rows = \"select count(*) from public.t\" }}\n",
            database.name
        );
        let world = World::with(server, &backup);
        let id = world.backup("x");
        Case { world, database, on, id }
    }

    fn each(sql: &str) -> [Self; 3] {
        [Case::new(Server::Pg15, "local", sql), Case::new(Server::Exec, "container", sql), Case::new(Server::Pg18, "main", sql)]
    }

    fn owner(&self) -> String {
        std::fs::read_to_string(self.world.path("state/id")).unwrap().trim().to_owned()
    }

    fn drill(&self) -> Ran {
        self.world.pgvigil(&["--json", "verify", &self.id, "--drill"])
    }

    /// A drill under way, in a group of its own as a terminal has it.
    fn begin(&self) -> Child {
        use std::os::unix::process::CommandExt;
        let mut command = self.world.command(&["--json", "verify", &self.id, "--drill"]);
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn rung(&self) -> String {
        let list = self.world.pgvigil(&["--json", "list", "x"]).json();
        list[0]["rung"].as_str().unwrap().to_owned()
    }

    fn drills(&self) -> PathBuf {
        self.world.path("state/spool/drills")
    }

    fn containers(&self) -> Vec<String> {
        let filter = format!("label=pgvigil.drill={}", self.owner());
        must(Command::new("docker").args(["ps", "--all", "--quiet", "--filter", &filter])).lines().map(str::to_owned).collect()
    }

    fn volumes(&self) -> Vec<String> {
        let format = "{{range .Mounts}}{{.Name}} {{end}}";
        let named = |container: &String| {
            let output = run(Command::new("docker").args(["inspect", "--format", format, container]));
            String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        self.containers().iter().flat_map(named).collect()
    }

    fn databases(&self) -> String {
        let like = format!("pgvigil\\_drill\\_{}\\_%", self.owner());
        self.database.server.sql("postgres", &format!("select string_agg(datname, ' ') from pg_database where datname like '{like}'"))
    }

    /// Processes of clusters in the folder of the drills, and of programs that carry a mark of ours.
    fn processes(&self) -> Vec<String> {
        let drills = self.drills().display().to_string();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let read = |name: &str| {
                std::fs::read(entry.path().join(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
            };
            let cwd = std::fs::read_link(entry.path().join("cwd")).map(|path| path.display().to_string()).unwrap_or_default();
            let command = read("cmdline").replace('\0', " ");
            if [&cwd, &command, &read("environ")]
                .iter()
                .any(|text| text.contains(&drills) || text.contains(&format!("pgvigil_drill_{}", self.owner())))
            {
                found.push(format!("{}: {command} in {cwd}", entry.file_name().to_str().unwrap()));
            }
        }
        found
    }

    /// Whatever a drill has made.
    fn left(&self) -> Vec<String> {
        let folder = std::fs::read_dir(self.drills()).into_iter().flatten().flatten();
        let mut left: Vec<String> = folder.map(|entry| entry.file_name().into_string().unwrap()).collect();
        left.extend(self.processes());
        if self.on == "container" {
            left.extend(self.containers());
        }
        let databases = self.databases();
        left.extend((!databases.is_empty()).then_some(databases));
        left
    }

    /// Waits until a drill is held by a dump's own function.
    fn held(&self) {
        let socket = |folder: PathBuf| folder.join(".s.PGSQL.5432").exists().then_some(folder);
        let held = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
        until("the drill is held", || {
            let answer = match self.on {
                "container" => {
                    let container = self.containers().first()?.clone();
                    String::from_utf8(
                        run(Command::new("docker").args(["exec", &container, "psql", "-XAtq", "-h", "/run/pgvigil", "-c", held])).stdout,
                    )
                    .unwrap()
                }
                "local" => {
                    let folder = std::fs::read_dir(self.drills()).ok()?.flatten().find_map(|entry| socket(entry.path()))?;
                    let mut psql = Command::new(PathBuf::from(var("PGVIGIL_TEST_PG15_BIN")).join("psql"));
                    String::from_utf8(
                        run(psql.args(["-XAtq", "-U", "postgres", "-d", "postgres", "-h"]).arg(folder).args(["-c", held])).stdout,
                    )
                    .unwrap()
                }
                _ => self.database.server.sql("postgres", &format!("{held} and datname like 'pgvigil\\_drill\\_{}%'", self.owner())),
            };
            (answer.trim() == "1").then_some(())
        });
    }
}

fn ended(child: Child) -> Ran {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// What is like ours by its form, and is of another.
struct Stranger {
    container: String,
    database: Database,
    folder: PathBuf,
}

impl Stranger {
    const OWNER: &str = "0123456789abcdef";

    fn beside(case: &Case) -> Self {
        let container = unique("pgvigil-drill-stranger");
        let label = format!("pgvigil.drill={}", Self::OWNER);
        let test = format!("pgvigil.test.pid={}", std::process::id());
        let image = var("PGVIGIL_TEST_IMAGE");
        must(Command::new("docker").args([
            "create",
            "--label",
            &label,
            "--label",
            "pgvigil.test=1",
            "--label",
            &test,
            "--name",
            &container,
            &image,
        ]));
        let folder = case.drills().join(format!("{}_{}", Self::OWNER, Self::OWNER));
        std::fs::create_dir_all(folder.join("data")).unwrap();
        // A pid that is of somebody else by now.
        std::fs::write(folder.join("data/postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
        let name = format!("pgvigil_drill_{}_{}", Self::OWNER, std::process::id());
        Stranger { container, database: Database::create(case.database.server, &name, "template0"), folder }
    }

    fn assert_there(&self) {
        must(Command::new("docker").args(["inspect", "--format", "{{.Id}}", &self.container]));
        assert!(self.folder.join("data/postmaster.pid").exists());
        assert_eq!(self.database.sql("select 1"), "1");
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = run(Command::new("docker").args(["rm", "--force", "--volumes", &self.container]));
    }
}

/// The volumes that are still there.
fn still_there(volumes: &[String]) -> Vec<&String> {
    volumes.iter().filter(|volume| run(Command::new("docker").args(["volume", "inspect", volume])).status.success()).collect()
}

/// Kills drills at moments spread over their length, each sweeping what the one before has left.
fn killed_at_any_moment(case: &Case) {
    let begun = Instant::now();
    case.drill().expect(0);
    let length = usize::try_from(begun.elapsed().as_millis()).unwrap();
    assert_eq!(case.left(), [""; 0]);
    let stranger = Stranger::beside(case);
    let mut volumes = Vec::new();
    for moment in Chance::new().spread(scale(5, 60), length) {
        let mut child = case.begin();
        // The moment itself is what is tried; nothing is waited for.
        std::thread::sleep(Duration::from_millis(moment as u64));
        kill(pid(&child), Signal::SIGKILL).unwrap();
        child.wait().unwrap();
        if case.on == "container" {
            volumes.extend(case.volumes());
        }
    }
    let answer = case.drill().expect(0).json();
    assert_eq!(answer["rung"], "matched", "{answer:#}");
    stranger.assert_there();
    drop(std::fs::remove_dir_all(&stranger.folder));
    assert_eq!(case.left(), [""; 0], "on {}", case.on);
    assert_eq!(still_there(&volumes), [""; 0]);
    let history = case.world.pgvigil(&["--json", "history", "x"]).json();
    let open = history.as_array().unwrap().iter().filter(|row| row["outcome"].is_null()).count();
    assert_eq!(open, 0, "{history:#}");
}

#[test]
fn killed_at_any_moment_here() {
    killed_at_any_moment(&Case::new(Server::Pg15, "local", SLOW));
}

#[test]
fn killed_at_any_moment_in_a_container() {
    killed_at_any_moment(&Case::new(Server::Exec, "container", SLOW));
}

#[test]
fn killed_at_any_moment_on_a_named_server() {
    killed_at_any_moment(&Case::new(Server::Pg18, "main", SLOW));
}

/// The start of a daemon sweeps as well, though none of its drills is due.
#[test]
fn the_daemon_sweeps_what_a_killed_drill_left() {
    let case = Case::new(Server::Pg15, "local", HELD);
    let mut child = case.begin();
    case.held();
    kill(pid(&child), Signal::SIGKILL).unwrap();
    child.wait().unwrap();
    assert_ne!(case.left(), [""; 0], "a kill leaves nothing: this test says nothing");
    let daemon = crate::common::daemon::Daemon::start(&case.world);
    until("nothing is left", || case.left().is_empty().then_some(()));
    daemon.stop();
    let history = case.world.pgvigil(&["--json", "history", "x"]).json();
    assert_eq!((&history[0]["kind"], &history[0]["outcome"]), (&"drill".into(), &"interrupted".into()), "{history:#}");
    assert_eq!(case.rung(), "readable");
}

#[test]
fn told_to_stop_a_drill_leaves_nothing() {
    together(Case::each(HELD), |case| {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let child = case.begin();
            case.held();
            let volumes = case.volumes();
            // A terminal signals the whole group.
            let to = if signal == Signal::SIGINT { Pid::from_raw(-child.id().cast_signed()) } else { pid(&child) };
            kill(to, signal).unwrap();
            let ran = ended(child);
            assert_eq!((ran.code, ran.json()["outcome"].as_str()), (Some(1), Some("cancelled")), "{} {signal}: {ran:#?}", case.on);
            assert_eq!(case.left(), [""; 0], "{} {signal}", case.on);
            assert_eq!(still_there(&volumes), [""; 0]);
        }
        assert_eq!(case.rung(), "readable");
    });
}

/// The drill's server goes away under it, as when the kernel has no memory left.
#[test]
fn a_server_that_dies_says_nothing_about_the_backup() {
    together([("local", "server"), ("local", "backend"), ("container", "server"), ("main", "backend")], |(on, who)| {
        let server = match on {
            "local" => Server::Pg15,
            "container" => Server::Exec,
            _ => Server::Pg18,
        };
        let case = Case::new(server, on, HELD);
        let child = case.begin();
        case.held();
        match (on, who) {
            ("container", _) => drop(must(Command::new("docker").args(["kill", &case.containers()[0]]))),
            ("main", _) => {
                let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity where wait_event = 'PgSleep' and datname like";
                assert_ne!(case.database.server.sql("postgres", &format!("{end} 'pgvigil\\_drill\\_{}%'", case.owner())), "0");
            }
            _ => {
                let folder = std::fs::read_dir(case.drills()).unwrap().flatten().next().unwrap().path();
                let text = std::fs::read_to_string(folder.join("data/postmaster.pid")).unwrap();
                let postmaster: i32 = text.lines().next().unwrap().parse().unwrap();
                let victims = if who == "server" { vec![postmaster] } else { making_an_index(postmaster) };
                assert!(!victims.is_empty());
                for victim in victims {
                    kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
                }
            }
        }
        let ran = ended(child);
        assert_eq!(ran.code, Some(3), "{on} {who}: {ran:#?}");
        assert!(ran.stderr.contains("cannot verify") && ran.json()["outcome"] == "problems", "{on} {who}: {ran:#?}");
        assert_eq!((case.rung().as_str(), case.left()), ("readable", vec![]), "{on} {who}");
    });
}

/// The children of a postmaster that are making an index.
fn making_an_index(postmaster: i32) -> Vec<i32> {
    let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap();
    let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
    children
        .filter(|pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().contains("CREATE INDEX"))
        .collect()
}

/// More than the cap of a drill's container.
#[test]
fn a_server_that_runs_out_of_memory_says_nothing_about_the_backup() {
    let greedy = "
        create function greedy(i int) returns int immutable language plpgsql as $$ declare a text; b text; c text; d text; begin
            if current_setting('listen_addresses') = '' then
                a := repeat('x', 900000000); b := a || 'b'; c := a || 'c'; d := a || 'd';
            end if;
            return i; end $$;
        create table t as select 1 as i;
        create index t_greedy on t (public.greedy(i));";
    let case = Case::new(Server::Exec, "container", greedy);
    let ran = case.drill().expect(3);
    assert!(ran.stderr.contains("cannot verify"), "{ran:#?}");
    assert_eq!((case.rung().as_str(), case.left()), ("readable", vec![]));
}

#[test]
fn a_full_disk_says_nothing_about_the_backup() {
    let database = Database::empty(Server::Pg15);
    database.sql("create table t as select repeat(md5(i::text), 30) as t from generate_series(1, 60000) i");
    let world = World::new();
    // A cluster of its own takes 40 MB, and the rows as much again.
    let spool = Mounted::tmpfs(&world.path("spool"), "72m");
    let text = format!("{}[backups.x]\ndatabase = \"{}\"\ndrill = {{ on = \"local\" }}\n", Server::Pg15.section(), database.name);
    world.configure(&text);
    let config = std::fs::read_to_string(world.config()).unwrap();
    std::fs::write(world.config(), format!("spool_dir = \"{}\"\n{config}", spool.path.display())).unwrap();
    let id = world.backup("x");
    let drill = || world.pgvigil(&["--json", "verify", &id, "--drill"]);
    let ran = drill().expect(3);
    assert!(ran.stderr.contains("cannot verify") && ran.stderr.contains("No space left on device"), "{ran:#?}");
    assert_eq!(std::fs::read_dir(spool.path.join("drills")).unwrap().count(), 0);
    // Not even a cluster.
    must(Command::new("mount").args(["-o", "remount,size=10m"]).arg(&spool.path));
    let ran = drill().expect(3);
    assert!(ran.stderr.contains("cannot verify"), "{ran:#?}");
    assert_eq!(std::fs::read_dir(spool.path.join("drills")).unwrap().count(), 0);
    let list = world.pgvigil(&["--json", "list", "x"]).json();
    assert_eq!(list[0]["rung"], "readable");
    // With room it is as good as it was.
    must(Command::new("mount").args(["-o", "remount,size=900m"]).arg(&spool.path));
    assert_eq!(drill().expect(0).json()["rung"], "matched");
}

/// Programs that write down what they were fed with.
fn listening(world: &World) -> PathBuf {
    let psql = "tee -a \"$0.heard\" | $BIN/psql \"$@\"";
    let restore = "echo started >>\"$0.heard\"; exec $BIN/pg_restore \"$@\"";
    let dir = programs(&world.path(""), &[("psql", psql), ("pg_restore", restore)]);
    for name in ["psql.heard", "pg_restore.heard"] {
        std::fs::write(dir.join(name), "").unwrap();
        std::fs::set_permissions(dir.join(name), PermissionsExt::from_mode(0o666)).unwrap();
    }
    // The account without rights that runs them must get there.
    for dir in [&dir, &world.path("")] {
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    }
    dir
}

#[test]
fn no_parser_sees_a_file_that_is_another_one() {
    let database = Database::empty(Server::Pg15);
    database.sql("create table marker_of_the_dump as select i, md5(i::text) from generate_series(1, 2000) i");
    for format in ["plain", "custom"] {
        let world = World::new();
        let dir = listening(&world);
        world.configure(&format!(
            "{}bin_dir = \"{}\"\n[backups.x]\ndatabase = \"{}\"\nformat = \"{format}\"\ndrill = {{ on = \"local\" }}\n",
            Server::Pg15.section(),
            dir.display(),
            database.name
        ));
        let heard = || {
            let heard = ["psql.heard", "pg_restore.heard"].map(|name| std::fs::read_to_string(dir.join(name)).unwrap());
            for name in ["psql.heard", "pg_restore.heard"] {
                std::fs::write(dir.join(name), "").unwrap();
            }
            (heard[0].contains("CREATE TABLE public.marker_of_the_dump"), !heard[1].is_empty())
        };
        for harm in ["flipped", "cut", "longer", "gone"] {
            let id = world.backup("x");
            let drill = || world.pgvigil(&["--json", "verify", &id, "--drill"]);
            heard();
            if harm == "flipped" {
                // What is whole is heard: else this says nothing.
                drill().expect(0);
                assert_eq!(heard(), (true, format == "custom"));
            }
            let dump = dump_of(&world, &id);
            let mut bytes = std::fs::read(&dump).unwrap();
            let middle = bytes.len() / 2;
            match harm {
                "flipped" => bytes[middle] ^= 1,
                "cut" => bytes.truncate(bytes.len() - 1),
                _ => bytes.push(b'\n'),
            }
            if harm == "gone" {
                std::fs::remove_file(&dump).unwrap();
            } else {
                std::fs::write(&dump, bytes).unwrap();
            }
            let ran = drill();
            assert_eq!((ran.code, ran.json()["rung"].as_str()), (Some(1), Some("bad")), "{format} {harm}: {ran:#?}");
            assert_eq!(heard(), (false, false), "{format} {harm}");
        }
        // A changed manifest is not believed either, once its hash was seen.
        let id = world.backup("x");
        let manifest = world.manifest(&id);
        std::fs::write(world.folder(&id).join("manifest.json"), format!("{manifest} ")).unwrap();
        let ran = world.pgvigil(&["--json", "verify", &id, "--drill"]).expect(1);
        assert!(ran.stderr.contains("manifest"), "{ran:#?}");
    }
}

#[test]
fn a_hostile_dump_is_refused() {
    let case = Case::new(Server::Pg15, "local", "create table t (i text); insert into t values ('row')");
    let aim = case.world.path("aim");
    std::fs::create_dir(&aim).unwrap();
    std::fs::set_permissions(&aim, PermissionsExt::from_mode(0o777)).unwrap();
    let touched = aim.join("touched");
    let file = touched.display();
    let at = "CREATE TABLE public.t";
    let attacks = [
        format!("\\! touch {file}\n"),
        format!("\\setenv x `touch {file}`\n"),
        format!("/* ; */ copy\n(SELECT 1) TO PROGRAM 'touch {file}';\n"),
        format!("COPY public.s FROM PROGRAM 'touch {file}';\n"),
        format!(
            "SET standard_conforming_strings = off;\nSELECT pg_catalog.set_config('search_path', '\\'; COPY (SELECT 1) TO PROGRAM $$touch {file}$$; --', false);\n"
        ),
        format!("SELECT pg_catalog.set_config('search_path', '', false) \\; COPY (SELECT 1) TO PROGRAM 'touch {file}';\n"),
        format!("\\o {file}\n"),
        format!("\\copy (select 1) to '{file}'\n"),
        format!("SELECT pg_catalog.set_config('x.y', '', false) \\g {file}\n"),
        format!("COPY (SELECT 1) TO '{file}';\n"),
        format!("DO $$ BEGIN COPY (SELECT 1) TO PROGRAM 'touch {file}'; END $$;\n"),
        "ALTER SYSTEM SET archive_command = 'true';\n".to_owned(),
        "DROP DATABASE postgres;\n".to_owned(),
        "\\connect postgres\n".to_owned(),
    ];
    let whole = std::fs::read(dump_of(&case.world, &case.id)).unwrap();
    let raw = case.world.manifest(&case.id)["files"][0]["raw_bytes"].as_u64().unwrap();
    // Each costs a drill; the first ones are the kinds that there are.
    for attack in &attacks[..scale(5, attacks.len())] {
        put(&case.world, &case.id, &whole, raw);
        change_dump(&case.world, &case.id, |sql| replaced(&sql, &format!("\n{at}"), &format!("\n{attack}{at}")));
        let ran = case.drill();
        assert_eq!((ran.code, ran.json()["rung"].as_str()), (Some(1), Some("bad")), "{attack}: {ran:#?}");
        assert!(!touched.exists(), "{attack}");
    }
    assert_eq!(case.left(), [""; 0]);
    put(&case.world, &case.id, &whole, raw);
    case.drill().expect(0);
}

/// What runs as a function of the dump has the rights of nobody, and ends with the drill.
#[test]
fn code_of_a_dump_has_no_rights_and_does_not_outlive_it() {
    let case = Case::new(Server::Pg15, "local", "create table t as select 1 as i; create table reach (o text)");
    let (secret, aim) = (case.world.config().display().to_string(), case.world.path("store/aim").display().to_string());
    let mark = unique("outlives");
    let deed = format!("(cat {secret}; touch {aim}; setsid sh -c 'sleep 600; echo {mark}' </dev/null >/dev/null 2>&1 &) 2>&1; true");
    change_dump(&case.world, &case.id, |sql| {
        let function = format!(
            "CREATE FUNCTION public.deed(i integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$BEGIN COPY public.reach FROM PROGRAM $x${deed}$x$; RETURN i; END$$;\n"
        );
        let index = "CREATE INDEX deed ON public.t USING btree (public.deed(i));\n";
        let end = "--\n-- PostgreSQL database dump complete";
        replaced(&sql, end, &format!("{function}{index}{end}"))
    });
    let ran = case.drill();
    // The rows of its loot are more than the evidence has, if it came to any.
    assert_ne!(ran.json()["rung"], "matched", "{ran:#?}");
    assert!(!PathBuf::from(&aim).exists(), "{ran:#?}");
    assert!(!ran.stdout.contains("PGVIGIL_TEST_PASSWORD"), "{ran:#?}");
    assert_eq!(case.left(), [""; 0]);
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&command).contains(&mark), "{:?} lives on", entry.file_name());
    }
}

/// The image of the source is taken from its container, which need not run.
#[test]
fn the_container_of_the_source_is_stopped_and_gone() {
    let source = Container::start("");
    source.sql("postgres", "create table t as select 1 as i");
    let world = World::new();
    world.configure(&format!(
        "[servers.main]\ncontainer = \"{}\"\npassword = {{ env = \"PGVIGIL_TEST_PASSWORD\" }}\n[backups.x]\ndatabase = \"postgres\"\ndrill = {{ on = \"container\" }}\n",
        source.name
    ));
    let id = world.backup("x");
    let drill = || world.pgvigil(&["--json", "verify", &id, "--drill"]);
    source.tell(&["stop", "-t", "0"]);
    assert_eq!(drill().expect(0).json()["rung"], "matched");
    let rung = || world.pgvigil(&["--json", "list", "x"]).json()[0]["rung"].clone();
    source.tell(&["rm", "--force", "--volumes"]);
    let ran = drill().expect(3);
    assert!(ran.stderr.contains("cannot verify") && ran.stderr.contains("there is no container"), "{ran:#?}");
    assert_eq!(rung(), "matched");
    // No Engine at all.
    let text = std::fs::read_to_string(world.config()).unwrap();
    let gone = text.replace("[servers.main]\n", &format!("[servers.main]\ndocker = \"unix://{}\"\n", world.path("no.sock").display()));
    std::fs::write(world.config(), gone).unwrap();
    let ran = drill().expect(3);
    assert!(ran.stderr.contains("cannot verify"), "{ran:#?}");
    assert_eq!(rung(), "matched");
}

/// The Engine goes away in the middle; what it left is swept once it is back.
#[test]
fn an_engine_that_dies_says_nothing_about_the_backup() {
    use crate::common::container;
    use crate::gate::{Behind, Gate};
    let database = Database::empty(Server::Exec);
    database.sql(HELD);
    let gate = Gate::new(Behind::Unix(crate::tools::docker_socket()));
    let world = World::new();
    world.configure(&format!(
        "[servers.main]\ncontainer = \"{}\"\ndocker = \"tcp://127.0.0.1:{}\"\npassword = {{ env = \"PGVIGIL_TEST_PASSWORD\" }}\n[backups.x]\ndatabase = \"{}\"\ndrill = {{ on = \"container\" }}\n",
        container(),
        gate.port,
        database.name
    ));
    let id = world.backup("x");
    let case = Case { world, database, on: "container", id };
    let child = case.begin();
    case.held();
    let volumes = case.volumes();
    gate.shut();
    let ran = ended(child);
    assert_eq!(ran.code, Some(3), "{ran:#?}");
    assert!(ran.stderr.contains("cannot verify"), "{ran:#?}");
    assert_eq!(case.rung(), "readable");
    gate.open();
    // Data of another kind: the next drill need not wait for the sleep.
    change_manifest(&case.world, &case.id, |manifest: &mut Value| manifest["contents"] = "data".into());
    let _ = ran;
    case.drill().expect(3);
    assert_eq!(case.left(), [""; 0]);
    assert_eq!(still_there(&volumes), [""; 0]);
}
