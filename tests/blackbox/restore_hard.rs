//! Databases that are hard to bring back: odd names, odd encodings, rows that a dump holds elsewhere.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{Database, Ran, Server, World, password, unique, var};
use crate::restore::{standing_still, under_way};
use crate::support::{Role, stock};

const DRILL: &str = "evidence = \"content\"\ndrill = { on = \"local\" }\n";

fn backed_up(database: &Database) -> (World, String) {
    let world = World::with(database.server, &format!("[backups.x]\ndatabase = '''{}'''\n{DRILL}", database.name));
    let id = world.backup("x");
    (world, id)
}

fn restore(world: &World, id: &str, args: &[&str]) -> Ran {
    world.pgvigil(&[&["--json", "restore", id], args].concat())
}

#[track_caller]
fn matched(world: &World, id: &str) {
    let answer = world.pgvigil(&["--json", "verify", id, "--drill"]).expect(0).json();
    assert_eq!((&answer["rung"], &answer["compared"]["mismatches"]), (&"matched".into(), &Value::Array(Vec::new())), "{answer:#}");
}

#[track_caller]
fn refused(ran: Ran, word: &str) {
    let answer = ran.expect(1).json();
    assert_eq!(answer["error"]["kind"], "refused", "{answer:#}");
    assert!(answer["error"]["message"].as_str().unwrap().contains(word), "{answer:#}");
    assert!(answer["error"]["hint"].is_string(), "{answer:#}");
}

#[test]
fn rows_of_partitions_by_the_hash_of_an_enum_are_those_of_the_topmost_table() {
    let database = Database::empty(Server::Pg18);
    database.sql(
        "create type c as enum ('r', 'g', 'b');
        create table hp (k c, v int) partition by hash (k);
        create table hp0 partition of hp for values with (modulus 2, remainder 0);
        create table hp1 partition of hp for values with (modulus 2, remainder 1) partition by range (v);
        create table hp1a partition of hp1 default;
        insert into hp select (array['r', 'g', 'b'])[1 + i % 3]::c, i from generate_series(1, 900) i",
    );
    let (world, id) = backed_up(&database);
    assert_eq!(world.manifest(&id)["evidence"]["databases"][&database.name]["rows"], serde_json::json!({"public.hp": 900}));
    matched(&world, &id);
    let target = Database { server: database.server, name: unique("new") };
    let compared = restore(&world, &id, &["--to-database", &target.name]).expect(0).json()["compared"].clone();
    assert_eq!(compared["rows"], 900);
    assert_eq!(target.sql("select count(*) from hp"), "900");
    refused(restore(&world, &id, &["--table", "hp1a", "--into-schema", "y"]), "among those of public.hp");
}

/// Whether its letters are UTF-8 or not, a name is a name and a row is a row.
fn in_latin(encoding: &str) -> Database {
    let name = unique("db");
    let sql = format!("create database {name} template template0 encoding '{encoding}' lc_collate 'C' lc_ctype 'C'");
    Server::Pg15.sql("postgres", &sql);
    Database { server: Server::Pg15, name }
}

#[test]
fn a_database_in_latin1_is_compared() {
    let database = in_latin("LATIN1");
    database.sql(
        "create table t (a text); insert into t values (chr(233) || chr(255));
        do $$ begin execute format('create table %I as select 1 as %I union all select 2', 't' || chr(233), 'a' || chr(232)); end $$",
    );
    // Bytes that look like UTF-8: a client said LATIN1 and sent that.
    database.sql("set client_encoding = 'LATIN1'; create table \"m\u{e9}\" as select 1 as \"a\u{e8}\"");
    let (world, id) = backed_up(&database);
    matched(&world, &id);
    let target = Database { server: database.server, name: unique("new") };
    let compared = restore(&world, &id, &["--to-database", &target.name]).expect(0).json()["compared"].clone();
    assert_eq!(compared["rows"], 4);
    assert_eq!(target.sql("select a = chr(233) || chr(255) from t"), "t");
    for args in [["--table", "t\u{e9}"], ["--into-schema", "z\u{fc}"]] {
        refused(restore(&world, &id, &[&["--table", "t", "--to-database", &target.name], &args[..]].concat()), "LATIN1");
    }
    assert_eq!(target.sql("select count(*) from pg_namespace where nspname like 'z%'"), "0");
}

#[test]
fn a_role_that_may_make_no_database_is_told_so() {
    let role = Role::create(Server::Pg15, "login password 'x'");
    let database = Database::empty(Server::Pg15);
    database.sql(&format!(
        "alter database {} owner to {}; create table t as select 1 as a; alter table t owner to {1}",
        database.name, role.name
    ));
    let (world, id) = backed_up(&database);
    let target = Database { server: database.server, name: unique("new") };
    let section = Server::Pg15
        .section()
        .replace("password = { env = \"PGVIGIL_TEST_PASSWORD\" }", &format!("user = \"{}\"\npassword = \"x\"", role.name));
    world.configure(&format!("{section}[backups.x]\ndatabase = \"{}\"\n", database.name));
    let error = restore(&world, &id, &["--to-database", &target.name]).expect(1).json()["error"].clone();
    assert!(error["hint"].as_str().unwrap().contains("CREATEDB"), "{error:#}");
    // A manifest that cannot be read is told with what to do.
    std::fs::write(world.folder(&id).join("manifest.json"), "{").unwrap();
    let error = restore(&world, &id, &[]).expect(1).json()["error"].clone();
    assert!(error["hint"].as_str().unwrap().contains("RESTORE.md"), "{error:#}");
}

#[test]
fn a_template_is_replaced_by_a_template() {
    let database = Database::sample(Server::Pg15);
    let (world, id) = backed_up(&database);
    database.sql(&format!("alter database {} is_template true", database.name));
    restore(&world, &id, &["--clean", "--yes"]).expect(0);
    let there = format!("select string_agg(datname || datistemplate, ',') from pg_database where datname like '{}%'", database.name);
    assert_eq!(Server::Pg15.sql("postgres", &there), format!("{}true", database.name));
    Server::Pg15.sql("postgres", &format!("alter database {} is_template false", database.name));
}

#[test]
fn a_template_is_restored_as_a_template() {
    let database = Database::sample(Server::Pg15);
    let is_template = |name: &str, is: bool| Server::Pg15.sql("postgres", &format!("alter database {name} is_template {is}"));
    is_template(&database.name, true);
    let (world, id) = backed_up(&database);
    is_template(&database.name, false);
    let page = std::fs::read_to_string(world.folder(&id).join("RESTORE.md")).unwrap();
    assert!(page.contains("IS_TEMPLATE true") && page.contains("_old\" IS_TEMPLATE false"), "{page}");
    // The old one goes, the new one is what the dump's was.
    restore(&world, &id, &["--clean", "--yes"]).expect(0);
    restore(&world, &id, &["--clean", "--yes", "--in-place"]).expect(0);
    let new = Database { server: Server::Pg15, name: unique("new") };
    restore(&world, &id, &["--to-database", &new.name]).expect(0);
    let templates = |name: &str| {
        Server::Pg15.sql("postgres", &format!("select datname, datistemplate from pg_database where starts_with(datname, '{name}')"))
    };
    let found = [&database.name, &new.name].map(|name| templates(name));
    // Or they could not be dropped.
    for name in [&database.name, &new.name] {
        is_template(name, false);
    }
    assert_eq!(found, [format!("{}|t", database.name), format!("{}|t", new.name)]);
}

/// The program on a terminal of its own, which somebody types `typed` on and leaves.
fn on_terminal(world: &World, arguments: &str, typed: &str) -> Ran {
    let program = world.command(&[]);
    let line = format!("stty cols 200; exec {} --config {} {arguments}", program.get_program().to_str().unwrap(), world.config().display());
    let mut script = Command::new("script");
    let mut child = script
        .args(["-q", "-e", "-c", &line, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Script passes the end of what is typed on, as the terminal's own end of input.
    child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

#[test]
fn a_live_database_is_replaced_only_by_a_yes_on_the_terminal() {
    let database = Database::sample(Server::Pg15);
    let (world, id) = backed_up(&database);
    database.sql("create table later (x int)");
    let is_old = || database.sql("select to_regclass('later') is not null");
    for typed in ["n\n", "\n", "yes please\n", ""] {
        let ran = on_terminal(&world, &format!("restore {id} --clean"), typed).expect(1);
        let question = format!("Replace \"{}\" on server", database.name);
        assert!(ran.stdout.contains(&question) && ran.stdout.contains("not restored: the answer was no"), "{typed:?}: {ran:#?}");
        assert_eq!(is_old(), "t", "{typed:?}");
    }
    for typed in ["y\n", "YES\n"] {
        let ran = on_terminal(&world, &format!("restore {id} --clean"), typed).expect(0);
        assert!(ran.stdout.contains("to go"), "progress with a prediction: {ran:#?}");
        assert_eq!(is_old(), "f", "{typed:?}");
        database.sql("create table later (x int)");
    }
    let run = on_terminal(&world, "run x", "").expect(0);
    assert!(run.stdout.contains("\x1b[") && run.stdout.contains("/s"), "progress with its rate: {run:#?}");
    let quiet = world.pgvigil(&["restore", &id, "--clean", "--yes"]).expect(0);
    assert!(!quiet.stdout.contains('\x1b') && !quiet.stderr.contains('\x1b') && !quiet.stderr.contains("to go"), "{quiet:#?}");
}

#[test]
fn foreign_tables_are_restored_as_what_they_are() {
    let far = Database::sample(Server::Pg15);
    let near = Database::empty(Server::Pg15);
    let literal = |text: &str| text.replace('\'', "''");
    near.sql(&format!(
        "create extension postgres_fdw;
        create server far foreign data wrapper postgres_fdw options (host '127.0.0.1', port '{}', dbname '{}');
        create user mapping for postgres server far options (user 'postgres', password '{}');
        create foreign table orders (id bigint) server far options (schema_name 'public', table_name 'orders');
        create table own as select id from orders",
        var("PGVIGIL_TEST_PG15_PORT"),
        literal(&far.name),
        literal(&password())
    ));
    let (world, id) = backed_up(&near);
    // The drill reaches nothing outside, and need not: the rows are elsewhere.
    matched(&world, &id);
    let target = Database { server: Server::Pg15, name: unique("new") };
    restore(&world, &id, &["--to-database", &target.name]).expect(0);
    assert_eq!(target.sql("select count(*) > 0 and count(*) = (select count(*) from orders) from own"), "t");
}

#[test]
fn a_tablespace_that_the_server_lacks_is_named() {
    let other = Server::Pg18.section().replace("[servers.main]", "[servers.other]");
    let (name, place, place_too) = (unique("space"), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for place in [&place, &place_too] {
        if nix::unistd::Uid::effective().is_root() {
            stock("chown", &["postgres:", &place.path().display().to_string()], std::path::Path::new("/"));
        }
    }
    let create = |place: &tempfile::TempDir| format!("create tablespace {name} location '{}'", place.path().display());
    Server::Pg15.sql("postgres", &create(&place));
    let database = Database::empty(Server::Pg15);
    database.sql(&format!("create table t tablespace {name} as select 1 as i"));
    let world = World::with(Server::Pg15, &format!("{other}[backups.x]\nserver = \"main\"\ndatabase = '''{}'''\n", database.name));
    let id = world.backup("x");
    let target = Database { server: Server::Pg18, name: unique("new") };
    let there = ["--to-server", "other", "--to-database", &target.name];
    refused(restore(&world, &id, &there), &format!("lacks the tablespaces \"{name}\""));
    Server::Pg18.sql("postgres", &create(&place_too));
    restore(&world, &id, &there).expect(0);
    assert_eq!(target.sql("select tablespace from pg_tables where tablename = 't'"), name);
    drop((target, database));
    for server in [Server::Pg15, Server::Pg18] {
        server.sql("postgres", &format!("drop tablespace {name}"));
    }
}

#[test]
fn template1_is_drilled_like_any_other() {
    let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabase = \"template1\"\n{DRILL}"));
    let id = world.backup("x");
    matched(&world, &id);
}

#[test]
fn a_table_comes_into_a_new_database_with_its_schema() {
    let database = Database::empty(Server::Pg15);
    database.sql("create schema \"B b\"; create table \"B b\".t as select 1 as a; create table \"B b\".u (a int); create schema other");
    let (world, id) = backed_up(&database);
    let target = Database { server: database.server, name: unique("new") };
    restore(&world, &id, &["--table", "\"B b\".t", "--to-database", &target.name]).expect(0);
    assert_eq!(target.sql("select a from \"B b\".t"), "1");
    assert_eq!(target.sql("select count(*) from pg_class where relname = 'u'"), "0");
    assert_eq!(target.sql("select count(*) from pg_namespace where nspname = 'other'"), "0");
}

#[test]
fn two_at_once_do_not_take_each_others_database() {
    let database = standing_still(Server::Pg15);
    let world = World::with(database.server, &format!("[backups.x]\ndatabase = \"{}\"\n", database.name));
    let id = world.backup("x");
    let mut first = under_way(&world, &database, &id);
    for args in [&["--clean", "--yes"][..], &["--clean", "--yes", "--in-place"]] {
        let error = restore(&world, &id, args).expect(75).json()["error"].clone();
        assert!(error["message"].as_str().unwrap().contains("under way"), "{error:#}");
    }
    let there = format!("select count(*) from pg_database where datname like '{}\\_restoring\\_%'", database.name);
    assert_eq!(Server::Pg15.sql("postgres", &there), "1");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first.id().try_into().unwrap()), nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(1));
    assert_eq!(Server::Pg15.sql("postgres", &there), "0");
}
