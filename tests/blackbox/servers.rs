//! Servers as they are: rights, locks, versions, containers that are not there; each failure with
//! what to do about it, and nothing stored.

use serde_json::Value;

use crate::common::{Database, Ran, Server, World, container, password, ran, run, unique, var};
use crate::support::{Psql, Role, bin_dir, check_lines, programs, stock, until};

/// A run that must fail, store nothing, and say these words.
#[track_caller]
fn refused(world: &World, words: &[&str], hints: &[&str]) -> Ran {
    let ran = world.pgvigil(&["--json", "run", "x"]).expect(1);
    let answer = ran.json();
    assert_eq!((&answer["id"], &answer["outcome"]), (&Value::Null, &"failed".into()), "{ran:#?}");
    let (message, hint) = (answer["error"]["message"].as_str().unwrap(), answer["error"]["hint"].as_str().unwrap_or_default());
    for (text, expected) in [(message, words), (hint, hints)] {
        for word in expected {
            assert!(text.contains(word), "{word} in {ran:#?}");
        }
    }
    assert_eq!(world.names("x"), Vec::<String>::new(), "something was stored");
    let history = world.pgvigil(&["--json", "history", "x"]).expect(0).json();
    assert!(history[0]["outcome"] == "failed" && history[0]["error"].is_string(), "{history:#}");
    ran
}

/// A line of `check` that fails, with these words.
#[track_caller]
fn check_says(world: &World, words: &[&str]) {
    let lines = check_lines(&world.pgvigil(&["--json", "check"]).expect(1));
    let found = lines.iter().any(|line| line.contains("| error |") && words.iter().all(|word| line.contains(word)));
    assert!(found, "{words:?} in {lines:#?}");
}

fn world_of(role: &Role, password: &str, database: &Database, keys: &str) -> World {
    let world = World::new();
    let section = database.server.section().replace("{ env = \"PGVIGIL_TEST_PASSWORD\" }", &format!("\"{password}\""));
    world.configure(&format!("{section}user = \"{}\"\n[backups.x]\ndatabase = \"{}\"\n{keys}", role.name, database.name));
    world
}

#[test]
fn row_level_security_refuses_a_dump_that_would_lack_rows() {
    let role = Role::create(Server::Pg15, "login password 'x' in role pg_read_all_data");
    let database = Database::create(Server::Pg15, &unique("rls"), "template0");
    database.sql("create table mine (owner text); insert into mine values ('me'), ('you'); alter table mine enable row level security; create policy own on mine using (owner = 'me')");
    let world = world_of(&role, "x", &database, "");
    check_says(&world, &["row-level security", "mine", "BYPASSRLS"]);
    refused(&world, &["row-level security"], &["BYPASSRLS"]);
    database.sql(&format!("alter role {} bypassrls", role.name));
    world.pgvigil(&["check"]).expect(3);
    let id = world.backup("x");
    assert!(world.pgvigil(&["cat", &id]).expect(0).stdout.contains("you"));
}

#[test]
fn what_a_role_may_not_read_is_told_before_the_run() {
    let role = Role::create(Server::Pg15, "login password 'x'");
    for (objects, forbidden) in [
        ("create table secret (i int)", "secret"),
        ("create schema closed; create table closed.t (i int); grant select on closed.t to public", "closed"),
        ("create sequence secret_numbers", "secret_numbers"),
        ("select lo_create(4711)", "large object"),
    ] {
        let database = Database::create(Server::Pg15, &unique("rights"), "template0");
        database.sql(objects);
        let world = world_of(&role, "x", &database, "");
        check_says(&world, &[forbidden, "GRANT"]);
        refused(&world, &["permission denied"], &["superuser"]);
    }
}

#[test]
fn a_lock_in_the_way_ends_the_run_after_its_time() {
    let database = Database::sample(Server::Pg15);
    let world = World::new();
    // A minute is the bound; here it passes faster, and only if it was given.
    let hurried = "exec \"$real\"/pg_dump \"${@/--lock-wait-timeout=60000/--lock-wait-timeout=2000}\"";
    let bin = bin_dir(&world, 15, &[("pg_dump", hurried)]);
    world.configure(&format!("{}bin_dir = \"{}\"\n[backups.x]\ndatabase = \"{}\"\n", Server::Pg15.section(), bin.display(), database.name));
    let mut session = Psql::connect(Server::Pg15, &database.name);
    session.done("begin; lock table orders in access exclusive mode");
    refused(&world, &["LOCK TABLE"], &["lock"]);
    session.done("commit");
    world.backup("x");
}

#[test]
fn nothing_of_a_run_is_in_an_argument_of_a_container() {
    let database = Database::sample(Server::Exec);
    let world = World::with(Server::Exec, &format!("[backups.x]\ndatabase = \"{}\"\n", database.name));
    // The lock holds pg_dump while we look at it.
    let mut session = Psql::connect(Server::Exec, &database.name);
    session.done("begin; lock table orders in access exclusive mode");
    let mut child = world.command(&["run", "x"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    let mut seen = String::new();
    until("pg_dump waits for the lock", || {
        seen = String::from_utf8(run(std::process::Command::new("docker").args(["top", &container(), "-eo", "pid,args"])).stdout).unwrap();
        seen.contains("pg_dump --no-password") && seen.contains("LOCK TABLE waiting")
    });
    session.done("commit");
    assert!(child.wait().unwrap().success());
    assert!(!seen.contains(&password()), "{seen}");
}

#[test]
fn an_older_pg_dump_is_refused_before_anything_starts() {
    let database = Database::empty(Server::Pg18);
    let section = Server::Pg18.section();
    let keys = format!("[backups.x]\ndatabase = \"{}\"\n", database.name);
    let world = World::new();
    let bin = bin_dir(&world, 15, &[("pg_dump", "touch \"$world/started\"; exit 1")]);
    let old = section.replace(&programs(18).display().to_string(), &bin.display().to_string());
    let without = section.lines().filter(|line| !line.starts_with("bin_dir")).map(|line| format!("{line}\n")).collect::<String>();
    for section in [old, without] {
        world.configure(&format!("{section}{keys}"));
        check_says(&world, &["18", "15", "postgresql-client-18", "bin_dir"]);
        refused(&world, &["PostgreSQL 18", "15"], &["postgresql-client-18", "bin_dir"]);
    }
    assert!(!world.path("started").exists());
    let ran = world.pgvigil(&["export", &database.name, "--output", "x.sql"]).expect(1);
    assert!(ran.stderr.contains("postgresql-client-18"), "{ran:#?}");
}

#[test]
fn a_server_that_does_not_let_us_in_says_how_it_would() {
    let database = Database::empty(Server::Pg15);
    let good = Server::Pg15.section();
    let port = var("PGVIGIL_TEST_PG15_PORT");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let secret = "{ env = \"PGVIGIL_TEST_PASSWORD\" }";
    for (section, words, hint) in [
        (good.replace(secret, "\"wrong\""), "password authentication failed", "password"),
        (good.replace(&format!("password = {secret}\n"), ""), "no password supplied", "password"),
        (format!("{good}user = \"nosuch\"\n"), "authentication failed", "password"),
        (good.replace(&port, &free), "refused", "port"),
        (good.replace("127.0.0.1", "nosuch.invalid"), "nosuch.invalid", "host"),
        (good.replace("host = \"127.0.0.1\"", "socket = \"/nonexistent\""), "/nonexistent", "PostgreSQL"),
        (format!("{good}sslmode = \"require\"\n"), "SSL", "sslmode"),
        (format!("{good}maintenance_database = \"nosuch\"\n"), "nosuch", "database"),
        (format!("{good}bin_dir = \"/nonexistent\"\n"), "/nonexistent", "bin_dir"),
    ] {
        let world = World::new();
        world.configure(&format!("{section}[backups.x]\ndatabase = \"{}\"\n", database.name));
        check_says(&world, &[words, hint]);
        refused(&world, &[words], &[hint]);
    }
}

#[test]
fn a_database_that_is_not_there_is_told_with_those_that_are() {
    let database = Database::empty(Server::Exec);
    let world = World::with(Server::Exec, "[backups.x]\ndatabase = \"nosuch\"\n");
    check_says(&world, &["nosuch", &database.name]);
    refused(&world, &["nosuch"], &[&database.name]);
    let ran = world.pgvigil(&["export", "nosuch", "--output", "-"]).expect(1);
    assert!(ran.stderr.contains(&database.name), "{ran:#?}");
}

/// A container of a test's own, removed at the end.
struct Container(String);

impl Container {
    fn make(how: &[&str], program: &[&str]) -> Self {
        let name = unique("pgvigil-test");
        let mut args = how.to_vec();
        // The label by which the test support removes what a killed run left.
        let pid = format!("pgvigil.test.pid={}", std::process::id());
        let image = var("PGVIGIL_TEST_IMAGE");
        args.extend(["--name", &name, "--label", "pgvigil.test=1", "--label", &pid, &image]);
        args.extend(program);
        stock("docker", &args, std::path::Path::new("/"));
        Container(name)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = run(std::process::Command::new("docker").args(["rm", "--force", "--volumes", &self.0]));
    }
}

#[test]
fn a_container_that_cannot_be_asked_says_why() {
    let other = container();
    let stopped = Container::make(&["create"], &[]);
    let paused = Container::make(&["run", "--detach", "--entrypoint", "sleep"], &["600"]);
    stock("docker", &["pause", &paused.0], std::path::Path::new("/"));
    let without_programs = Container::make(&["run", "--detach", "--env", "PATH=/bin", "--entrypoint", "/bin/sleep"], &["600"]);
    let without_server = Container::make(&["run", "--detach", "--entrypoint", "sleep"], &["600"]);
    for via in ["exec", "network"] {
        for (name, words, hint) in [
            ("nosuch", "nosuch", other.as_str()),
            (&stopped.0, "does not run", "docker start"),
            (&paused.0, "paused", "docker unpause"),
            (
                &without_programs.0,
                if via == "exec" { "executable file not found" } else { "refused" },
                if via == "exec" { "PATH" } else { "PostgreSQL" },
            ),
            (&without_server.0, if via == "exec" { "No such file" } else { "refused" }, "PostgreSQL"),
        ] {
            let world = World::new();
            world.configure(&format!("[servers.main]\ncontainer = \"{name}\"\nvia = \"{via}\"\n[backups.x]\ndatabase = \"x\"\n"));
            check_says(&world, &[words, hint]);
            refused(&world, &[words], &[hint]);
        }
    }
    for (docker, words) in
        [("unix:///nonexistent/docker.sock", "no Docker Engine answers"), ("tcp://127.0.0.1:1", "no Docker Engine answers")]
    {
        let world = World::new();
        world.configure(&format!("[servers.main]\ncontainer = \"{other}\"\ndocker = \"{docker}\"\n[backups.x]\ndatabase = \"x\"\n"));
        check_says(&world, &[words]);
        refused(&world, &[words], &[]);
        // DOCKER_HOST stands behind the file, and before the usual socket.
        world.configure(&format!("[servers.main]\ncontainer = \"{other}\"\n[backups.x]\ndatabase = \"x\"\n"));
        let mut command = world.command(&["--json", "run", "x"]);
        let answer = ran(command.env("DOCKER_HOST", docker)).expect(1).json();
        assert!(answer["error"]["message"].as_str().unwrap().contains(words), "{answer:#}");
    }
}

#[test]
fn the_environment_and_the_home_of_the_caller_decide_nothing() {
    let database = Database::empty(Server::Pg15);
    database.sql("create table here (i int)");
    let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabase = \"{}\"\n", database.name));
    // libpq would take each of these over what the file says.
    let home = world.path("home");
    std::fs::create_dir_all(home.join(".postgresql")).unwrap();
    for (name, text) in [
        (".pgpass", "*:*:*:*:wrong\n"),
        (".pg_service.conf", "[other]\nhost=127.9.9.9\n"),
        (".psqlrc", "\\! touch psqlrc-was-read\nselect 'noise';\n"),
    ] {
        std::fs::write(home.join(name), text).unwrap();
        std::fs::set_permissions(home.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    let hostile = |args: &[&str]| {
        let mut command = world.command(args);
        command.env("HOME", &home);
        for (name, value) in [
            ("PGHOST", "127.9.9.9"),
            ("PGHOSTADDR", "127.9.9.9"),
            ("PGPORT", "1"),
            ("PGUSER", "nosuch"),
            ("PGDATABASE", "nosuch"),
            ("PGPASSWORD", "wrong"),
            ("PGPASSFILE", "/nonexistent"),
            ("PGSERVICE", "other"),
            ("PGOPTIONS", "-c nosuch=1"),
            ("PGSSLMODE", "verify-full"),
            ("PGCLIENTENCODING", "LATIN1"),
            ("PGAPPNAME", "somebody"),
            ("PSQLRC", "/nonexistent"),
            ("PGTZ", "Asia/Tokyo"),
            ("PGDATESTYLE", "German"),
            ("LC_ALL", "de_DE.UTF-8"),
            ("LANGUAGE", "de"),
        ] {
            command.env(name, value);
        }
        ran(&mut command)
    };
    hostile(&["check"]).expect(3);
    hostile(&["run", "x"]).expect(0);
    assert!(hostile(&["cat", "x/latest"]).expect(0).stdout.contains("CREATE TABLE public.here"));
    assert!(!world.path("psqlrc-was-read").exists());
    // Without a password in the file, none is taken from anywhere.
    let section = Server::Pg15.section().replace("password = { env = \"PGVIGIL_TEST_PASSWORD\" }\n", "");
    world.configure(&format!("{section}[backups.x]\ndatabase = \"{}\"\n", database.name));
    std::fs::write(home.join(".pgpass"), format!("*:*:*:*:{}\n", password().replace('\\', "\\\\").replace(':', "\\:"))).unwrap();
    let mut command = world.command(&["run", "x"]);
    let refused = ran(command.env("HOME", &home).env("PGPASSWORD", password())).expect(1);
    assert!(refused.stderr.contains("no password supplied"), "{refused:#?}");
}

#[test]
fn a_dump_that_holds_none_of_the_tables_needs_a_look() {
    let database = Database::sample(Server::Pg15);
    let world = World::new();
    let script = "exec \"$real\"/pg_dump --exclude-table='*.*' \"$@\"".to_owned();
    let bin = bin_dir(&world, 15, &[("pg_dump", &script)]);
    for keys in ["", "compression = \"zstd\"\n", "format = \"custom\"\n", "format = \"directory\"\n"] {
        let world = World::new();
        world.configure(&format!(
            "{}bin_dir = \"{}\"\n[backups.x]\ndatabase = \"{}\"\n{keys}",
            Server::Pg15.section(),
            bin.display(),
            database.name
        ));
        let answer = world.pgvigil(&["--json", "run", "x"]).expect(3).json();
        assert_eq!((&answer["outcome"], &answer["rung"]), (&"problems".into(), &"readable".into()), "{answer:#}");
        let warnings = answer["warnings"].to_string();
        assert!(warnings.contains("holds none of them"), "{answer:#}");
        // Each of them is named, by the rows that were counted beside the dump.
        assert!(warnings.contains("table public.orders: 10000 rows under the snapshot, none in the dump"), "{answer:#}");
        assert_eq!(world.pgvigil(&["--json", "history"]).expect(0).json()[0]["outcome"], "problems");
        let ran = world.pgvigil(&["run", "x"]).expect(3);
        assert!(ran.stderr.contains("holds none of them"), "{ran:#?}");
    }
}

#[test]
fn a_dump_that_is_not_whole_is_not_stored() {
    let database = Database::sample(Server::Pg15);
    for (script, words) in [
        // The exit status says failed, after a whole dump.
        ("\"$real\"/pg_dump \"$@\"; exit 1", "exit status 1"),
        // The exit status says done, after half of one.
        ("\"$real\"/pg_dump \"$@\" | head -c 500000; exit 0", ""),
        ("\"$real\"/pg_dump \"$@\" | head -n -4; exit 0", ""),
        ("exit 0", ""),
        ("\"$real\"/pg_dump \"$@\" & wait $!; kill -9 $$", "killed"),
        ("echo 'something else' >&2; echo 'not a dump'; exit 0", ""),
    ] {
        for keys in ["compression = \"none\"\n", "format = \"custom\"\n"] {
            let world = World::new();
            let bin = bin_dir(&world, 15, &[("pg_dump", script)]);
            world.configure(&format!(
                "{}bin_dir = \"{}\"\n[backups.x]\ndatabase = \"{}\"\n{keys}",
                Server::Pg15.section(),
                bin.display(),
                database.name
            ));
            if script.contains("head -n") && keys.contains("custom") {
                continue;
            }
            if keys.contains("custom") && script.ends_with("exit 0") {
                // The end of an archive is only seen when it is read back: then it is there, and bad.
                let answer = world.pgvigil(&["--json", "run", "x"]).expect(1).json();
                assert!(answer["outcome"] == "failed" && (answer["rung"].is_null() || answer["rung"] == "bad"), "{script}: {answer:#}");
                world.pgvigil(&["show", "x/latest"]).expect(1);
                continue;
            }
            refused(&world, &[words], &[]);
        }
    }
    // Globals are a part of it.
    let world = World::new();
    let bin = bin_dir(&world, 15, &[("pg_dumpall", "\"$real\"/pg_dumpall \"$@\" | head -n 20; exit 0")]);
    world.configure(&format!("{}bin_dir = \"{}\"\n[backups.x]\ndatabase = \"{}\"\n", Server::Pg15.section(), bin.display(), database.name));
    refused(&world, &["globals"], &[]);
}

#[test]
fn a_run_that_takes_too_long_is_ended() {
    let database = Database::empty(Server::Pg15);
    for (keys, words) in [("deadline = \"5s\"\n", "deadline"), ("stall_timeout = \"3s\"\n", "stall")] {
        let world = World::new();
        let bin = bin_dir(&world, 15, &[("pg_dump", "echo $$ > \"$world/pid\"; sleep 600 & wait")]);
        world.configure(&format!(
            "{}bin_dir = \"{}\"\n[backups.x]\ndatabase = \"{}\"\n{keys}",
            Server::Pg15.section(),
            bin.display(),
            database.name
        ));
        let ran = world.pgvigil(&["--json", "run", "x"]).expect(1);
        let answer = ran.json();
        assert_eq!(answer["error"]["kind"], "timeout", "{ran:#?}");
        let said = format!("{}{}", answer["error"]["message"], answer["error"]["hint"]);
        assert!(said.contains(words), "{ran:#?}");
        let pid = std::fs::read_to_string(world.path("pid")).unwrap();
        assert!(!std::path::Path::new(&format!("/proc/{}", pid.trim())).exists(), "pg_dump still runs");
        assert_eq!(world.names("x"), Vec::<String>::new());
    }
}
