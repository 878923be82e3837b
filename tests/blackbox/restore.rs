//! `restore` and `rebuild` against real servers: what they make, what they refuse, and what is left
//! when they are broken off.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::common::{Database, Ran, Server, World, unique};
use crate::restore_page::{fingerprint, same, with_properties};
use crate::support::{Psql, Role, until};

/// A world with a backup `x` of a database.
fn backed_up(database: &Database, keys: &str) -> (World, String) {
    let world = World::with(database.server, &format!("[backups.x]\ndatabase = '''{}'''\n{keys}", database.name));
    let id = world.backup("x");
    (world, id)
}

fn restore(world: &World, id: &str, args: &[&str]) -> Ran {
    world.pgvigil(&[&["--json", "restore", id], args].concat())
}

/// A name for a new database, which is dropped at the end.
fn new(server: Server) -> Database {
    Database { server, name: unique("new") }
}

/// Databases that a restore of this one has made and not taken away.
fn left(database: &Database) -> String {
    let like = database.name.replace('\'', "''").chars().take(30).collect::<String>();
    database.server.sql(
        "postgres",
        &format!("select datname from pg_database where (datname like '%\\_restoring\\_%' or datname like '%\\_before\\_%') and starts_with(datname, '{like}')"),
    )
}

fn exists(database: &Database) -> bool {
    let name = database.name.replace('\'', "''");
    database.server.sql("postgres", &format!("select count(*) from pg_database where datname = '{name}'")) == "1"
}

#[track_caller]
fn refused(ran: Ran, words: &[&str]) {
    let ran = ran.expect(1);
    let answer = ran.json();
    assert_eq!((&answer["outcome"], &answer["error"]["kind"]), (&"failed".into(), &"refused".into()), "{ran:#?}");
    let told = format!("{} {}", answer["error"]["message"], answer["error"]["hint"]);
    for word in words {
        assert!(told.contains(word), "{word:?} is not in {told}");
    }
}

/// Changes the manifest of a backup.
fn edit(world: &World, id: &str, change: impl Fn(&mut Value)) {
    let mut manifest = world.manifest(id);
    change(&mut manifest);
    std::fs::write(world.folder(id).join("manifest.json"), manifest.to_string()).unwrap();
}

/// Changes the plain dump of a backup, and what the manifest says of it: somebody who may write to
/// the store can do that.
fn forge(world: &World, id: &str, change: impl Fn(String) -> String) {
    edit(world, id, |manifest| {
        let file = &mut manifest["files"][0];
        let path = world.folder(id).join(file["name"].as_str().unwrap());
        let text = change(std::fs::read_to_string(&path).unwrap());
        (file["bytes"], file["raw_bytes"]) = (text.len().into(), text.len().into());
        file["sha256"] = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
        std::fs::write(path, text).unwrap();
    });
}

fn round_trip(server: Server, keys: &str) {
    let (owner, other) = (Role::create(server, "createdb"), Role::create(server, "nologin"));
    let database = Database::sample(server);
    with_properties(&database, &owner, &other);
    let source = fingerprint(server, &database.name, &[]);
    let (world, id) = backed_up(&database, keys);
    let target = new(server);
    let ran = restore(&world, &id, &["--to-database", &target.name]).expect(0);
    let answer = ran.json();
    assert_eq!((&answer["id"], &answer["outcome"], &answer["rung"]), (&id.as_str().into(), &"ok".into(), &"readable".into()), "{ran:#?}");
    assert_eq!(answer["compared"]["mismatches"], Value::Array(Vec::new()));
    assert!(answer["compared"]["tables"].as_u64() > Some(5) && answer["compared"]["rows"].as_u64() > Some(70_000), "{ran:#?}");
    same(keys, &source, &fingerprint(server, &target.name, &[]));
    same("the live one", &source, &fingerprint(server, &database.name, &[]));
    let analyzed = target.sql("select count(*) > 0 from pg_stats where schemaname = 'public'");
    assert_eq!((analyzed.as_str(), left(&target).as_str()), ("t", ""));
    let history = world.pgvigil(&["--json", "history"]).expect(0).json();
    let (newest, before) = (&history[0], &history[1]);
    assert_eq!((&newest["kind"], &newest["outcome"], &newest["id"]), (&"restore".into(), &"ok".into(), &id.as_str().into()));
    assert!(newest["target"].as_str().unwrap().contains(&target.name) && newest["finished_at"].is_string(), "{newest}");
    assert!(before["kind"] == "dump" && before.get("target").is_none(), "{before}");
    assert!(std::fs::read_dir(world.path("state/restores")).unwrap().next().is_none());
}

#[test]
fn a_plain_dump_packed_by_gzip_is_restored() {
    round_trip(Server::Pg15, "");
}

#[test]
fn a_plain_dump_packed_by_zstd_is_restored_over_a_socket() {
    round_trip(Server::Pg18, "compression = \"zstd\"\n");
}

#[test]
fn a_plain_dump_is_restored_in_a_container() {
    round_trip(Server::Exec, "compression = \"none\"\n");
}

#[test]
fn a_plain_dump_is_restored_over_the_network_of_a_container() {
    round_trip(Server::Network, "");
}

#[test]
fn a_custom_archive_is_restored() {
    round_trip(Server::Pg15, "format = \"custom\"\n");
}

#[test]
fn a_custom_archive_is_restored_in_a_container() {
    round_trip(Server::Exec, "format = \"custom\"\n");
}

#[test]
fn a_directory_archive_is_restored() {
    round_trip(Server::Pg18, "format = \"directory\"\ncompression = \"zstd\"\n");
}

#[test]
fn a_hostile_name_is_a_name() {
    let database = Database::create(Server::Pg15, &format!("{} = 'x' \"\\ $(id) ü", unique("host")), "sample");
    let source = fingerprint(Server::Pg15, &database.name, &[]);
    let (world, id) = backed_up(&database, "");
    restore(&world, &id, &["--clean", "--yes"]).expect(0);
    same("replaced", &source, &fingerprint(Server::Pg15, &database.name, &[]));
    let target = Database { server: Server::Pg15, name: format!("{} new", database.name) };
    restore(&world, &id, &["--to-database", &target.name]).expect(0);
    same("new", &source, &fingerprint(Server::Pg15, &target.name, &[]));
    assert_eq!(left(&database), "");
}

#[test]
fn into_its_own_database_only_where_nothing_is_lost() {
    let database = Database::sample(Server::Pg15);
    let source = fingerprint(Server::Pg15, &database.name, &[]);
    let (world, id) = backed_up(&database, "");
    refused(restore(&world, "x/latest", &[]), &["is not empty", "--clean", "--to-database NAME", "--table NAME"]);
    refused(restore(&world, &id, &["--to-database", &database.name]), &["is there already"]);
    same("refused", &source, &fingerprint(Server::Pg15, &database.name, &[]));
    // Absent.
    Server::Pg15.sql("postgres", &format!("drop database {}", database.name));
    restore(&world, &id, &[]).expect(0);
    same("absent", &source, &fingerprint(Server::Pg15, &database.name, &[]));
    // Empty, but for what an extension owns.
    Server::Pg15.sql("postgres", &format!("drop database {}", database.name));
    Server::Pg15.sql("postgres", &format!("create database {} template template0", database.name));
    database.sql("drop extension plpgsql; create extension plpgsql");
    restore(&world, &id, &[]).expect(0);
    same("empty", &source, &fingerprint(Server::Pg15, &database.name, &[]));
    assert_eq!(left(&database), "");
    // A function is something.
    Server::Pg15.sql("postgres", &format!("drop database {}", database.name));
    Server::Pg15.sql("postgres", &format!("create database {} template template0", database.name));
    database.sql("create function precious() returns int language sql as 'select 1'");
    refused(restore(&world, &id, &[]), &["function public.precious"]);
}

#[test]
fn clean_replaces_the_live_one_when_the_new_one_is_complete() {
    let database = Database::sample(Server::Pg15);
    let source = fingerprint(Server::Pg15, &database.name, &[]);
    let (world, id) = backed_up(&database, "");
    database.sql("delete from order_items; create table later (x int)");
    let damaged = fingerprint(Server::Pg15, &database.name, &[]);
    let ran = restore(&world, &id, &["--clean"]).expect(2);
    assert!(ran.json()["error"]["hint"].as_str().unwrap().contains("--yes"), "{ran:#?}");
    // Somebody is at work in there.
    let mut psql = Psql::connect(Server::Pg15, &database.name);
    psql.done("set application_name = 'the shop'");
    refused(restore(&world, &id, &["--clean", "--yes"]), &["the shop", "postgres", "a local socket", "--disconnect"]);
    same("refused", &damaged, &fingerprint(Server::Pg15, &database.name, &[]));
    restore(&world, &id, &["--clean", "--yes", "--disconnect", "--keep-old"]).expect(0);
    same("replaced", &source, &fingerprint(Server::Pg15, &database.name, &[]));
    let kept = Database { server: Server::Pg15, name: left(&database) };
    assert!(kept.name.starts_with(&format!("{}_before_", database.name)), "{}", kept.name);
    same("kept", &damaged, &fingerprint(Server::Pg15, &kept.name, &[]));
    let comments = format!(
        "select count(*) from pg_database where shobj_description(oid, 'pg_database') like 'pgvigil%' and starts_with(datname, '{}')",
        database.name
    );
    assert_eq!(Server::Pg15.sql("postgres", &comments), "0", "no mark of ours stays");
    drop(kept);
    database.sql("drop table customers cascade");
    restore(&world, &id, &["--clean", "--yes", "--in-place"]).expect(0);
    same("in place", &source, &fingerprint(Server::Pg15, &database.name, &[]));
    database.sql("drop table customers cascade");
    restore(&world, &id, &["--clean", "--yes"]).expect(0);
    same("once more", &source, &fingerprint(Server::Pg15, &database.name, &[]));
    assert_eq!(left(&database), "");
}

#[test]
fn what_is_deleted_while_somebody_reads_the_question_replaces_nothing() {
    let database = Database::sample(Server::Pg15);
    let (world, id) = backed_up(&database, "");
    let live = fingerprint(Server::Pg15, &database.name, &[]);
    let line = format!("{} --config {} restore {id} --clean", env!("CARGO_BIN_EXE_pgvigil"), world.config().display());
    // On a terminal, where it asks.
    let mut asked = Command::new("script");
    asked.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut asked = asked.spawn().unwrap();
    let (mut answer, mut screen, mut shown) = (asked.stdin.take().unwrap(), asked.stdout.take().unwrap(), Vec::new());
    while !shown.ends_with(b"[y/N] ") {
        let mut byte = [0];
        screen.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&shown)));
        shown.push(byte[0]);
    }
    std::fs::remove_dir_all(world.folder(&id)).unwrap();
    answer.write_all(b"y\n").unwrap();
    screen.read_to_end(&mut shown).unwrap();
    let shown = String::from_utf8_lossy(&shown);
    assert_eq!(asked.wait().unwrap().code(), Some(1), "{shown}");
    assert!(shown.contains("has been deleted from store local in the meantime"), "{shown}");
    same("nothing was replaced", &live, &fingerprint(Server::Pg15, &database.name, &[]));
    assert_eq!(left(&database), "");
}

#[test]
fn options_that_cannot_be_meant_are_wrong_usage() {
    let world = World::with(Server::Pg15, "[backups.x]\ndatabase = \"nosuch\"\n");
    for args in [
        &["--into-schema", "y"][..],
        &["--clean", "--table", "y"],
        &["--clean", "--contents", "data"],
        &["--keep-old"],
        &["--in-place"],
        &["--contents", "nonsense"],
        &["--table", "y", "--disconnect"],
        &["--to-database", "y", "--database", "a", "--database", "b"],
    ] {
        restore(&world, "x/latest", args).expect(2);
    }
    for (id, args) in
        [("x/latest", &[][..]), ("nosuch/latest", &[]), ("x", &[]), ("x/20240115T010000Z", &[]), ("x/latest", &["--store", "nosuch"])]
    {
        let ran = restore(&world, id, args).expect(1);
        assert_eq!(ran.json()["error"]["kind"], "not_found", "{id}");
    }
    assert!(!world.path("state").exists(), "nothing is written by a wrong name");
}

#[test]
fn a_plan_is_shown_and_nothing_is_touched() {
    let database = Database::sample(Server::Pg15);
    let (world, id) = backed_up(&database, "");
    std::fs::remove_dir_all(world.path("state")).unwrap();
    let databases = || {
        Server::Pg15.sql(
            "postgres",
            &format!("select string_agg(datname, ',' order by datname) from pg_database where datname like '%{}%'", database.name),
        )
    };
    let before = databases();
    let ran = world.pgvigil(&["restore", &id, "--clean", "--dry-run"]).expect(0);
    for words in ["no drill yet: unknown", "as stored", "in one transaction", &format!("drop \"{}_before_", database.name), ".sql.gz"] {
        assert!(ran.stdout.contains(words), "{words} is not in {}", ran.stdout);
    }
    let plan = restore(&world, &id, &["--clean", "--dry-run"]).expect(0).json()["plan"].clone();
    assert_eq!((&plan["expected_seconds"], &plan["databases"][0]["way"]), (&Value::Null, &"replace".into()));
    assert_eq!(plan["raw_bytes"], world.manifest(&id)["files"][0]["raw_bytes"]);
    refused(restore(&world, &id, &["--dry-run"]), &["--clean"]);
    assert_eq!((databases(), world.path("state").exists()), (before, false));
    // A drill has measured it.
    let proof = serde_json::json!({
        "at": "2099-01-01T00:00:00Z", "rung": "matched", "by": "drill", "bytes": 1, "seconds": 80.0, "generator": "x",
        "drill": {"on": "container", "restore_seconds": 60.0, "total_seconds": 80.0, "bytes": 1, "raw_bytes": plan["raw_bytes"], "bytes_per_second": 1.0,
            "compared": {"tables": 1, "rows": 1, "mismatches": []}},
    });
    std::fs::write(world.folder(&id).join("proof-20990101T000000Z.json"), proof.to_string()).unwrap();
    let plan = restore(&world, &id, &["--clean", "--dry-run"]).expect(0).json()["plan"].clone();
    assert_eq!(plan["expected_seconds"], 60.0);
}

#[test]
fn what_the_server_lacks_is_named_before_anything_starts() {
    let database = Database::sample(Server::Pg15);
    let role = unique("owner");
    Server::Pg15.sql(
        "postgres",
        &format!("create role \"{role}; --\" login password 'x'; alter database {} owner to \"{role}; --\"", database.name),
    );
    let (world, id) = backed_up(&database, "");
    Server::Pg15.sql("postgres", &format!("alter database {} owner to postgres; drop role \"{role}; --\"", database.name));
    let target = new(Server::Pg15);
    refused(restore(&world, &id, &["--to-database", &target.name]), &[&format!("lacks the roles \\\"{role}; --"), "--globals"]);
    assert!(!exists(&target));
    let password = Server::Pg15.sql("postgres", "select rolpassword from pg_authid where rolname = 'postgres'");
    restore(&world, &id, &["--to-database", &target.name, "--globals"]).expect(0);
    let owner = Server::Pg15.sql("postgres", &format!("select pg_get_userbyid(datdba) from pg_database where datname = '{}'", target.name));
    assert_eq!(owner, format!("{role}; --"));
    assert_eq!(Server::Pg15.sql("postgres", "select rolpassword from pg_authid where rolname = 'postgres'"), password);
    drop(target);
    Server::Pg15.sql("postgres", &format!("drop role \"{role}; --\""));
}

#[test]
fn rows_alone_go_into_empty_tables() {
    let database = Database::sample(Server::Pg15);
    // A trigger that would refuse every row, were it not off.
    database.sql(
        "create function no() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
        create trigger no before insert on order_items for each row execute function no()",
    );
    let source = fingerprint(Server::Pg15, &database.name, &[]);
    let (world, id) = backed_up(&database, "contents = \"data\"\n");
    refused(restore(&world, &id, &[]), &["there are rows in", "public.customers"]);
    same("refused", &source, &fingerprint(Server::Pg15, &database.name, &[]));
    let tables = "select string_agg(format('%I.%I', nspname, relname), ', ') from pg_class c join pg_namespace n on n.oid = relnamespace where relkind in ('r', 'p') and nspname !~ '^pg_' and nspname <> 'information_schema'";
    let tables = database.sql(tables);
    let empty = format!("truncate {tables}; do $$ begin perform lo_unlink(oid) from pg_largeobject_metadata; end $$");
    database.sql(&empty);
    let ran = restore(&world, &id, &[]).expect(0);
    assert!(ran.stderr.contains("triggers and checks of foreign keys are off"), "{ran:#?}");
    same("filled", &source, &fingerprint(Server::Pg15, &database.name, &[]));
    // All or nothing.
    database.sql(&format!("{empty}; alter table tricky drop column content"));
    restore(&world, &id, &[]).expect(1);
    assert_eq!(database.sql("select count(*) from customers"), "0");
    refused(restore(&world, &id, &["--to-database", "never_made_at_all"]), &["is not there"]);
}

/// Notes in the manifest which tables there are, with their rows and partitions.
fn with_evidence(world: &World, id: &str, database: &Database) {
    let rows = database.sql(
        "select json_object_agg(format('%I.%I', nspname, relname), (xpath('//c/text()', query_to_xml(format('select count(*) as c from only %s', c.oid::regclass), false, true, '')))[1]::text::bigint)
        from pg_class c join pg_namespace n on n.oid = relnamespace where relkind = 'r' and nspname !~ '^pg_' and nspname <> 'information_schema'",
    );
    let partitions = database.sql("select json_object_agg(format('%I.%I', n.nspname, c.relname), format('%I.%I', m.nspname, p.relname)) from pg_inherits join pg_class c on c.oid = inhrelid
        join pg_class p on p.oid = inhparent join pg_namespace n on n.oid = c.relnamespace join pg_namespace m on m.oid = p.relnamespace where c.relispartition and c.relkind = 'r'");
    edit(world, id, |manifest| {
        let evidence = &mut manifest["evidence"]["databases"][&database.name];
        evidence["rows"] = serde_json::from_str(&rows).unwrap();
        evidence["partitions"] = serde_json::from_str(&partitions).unwrap();
    });
}

fn tables_come_back(server: Server, keys: &str, evidence: bool) {
    let database = Database::sample(server);
    let source = fingerprint(server, &database.name, &[]);
    let (world, id) = backed_up(&database, keys);
    if evidence {
        with_evidence(&world, &id, &database);
    }
    // A row is deleted by accident.
    database.sql("delete from order_items where order_id = 7; analyze");
    refused(restore(&world, &id, &["--table", "order_items"]), &["already public.order_items", "--into-schema"]);
    let ran = restore(&world, &id, &["--table", "order_items", "--table", "events", "--into-schema", "\"As of\""]).expect(0);
    let answer = ran.json();
    assert_eq!((&answer["compared"]["rows"], &answer["compared"]["mismatches"]), (&55_000.into(), &Value::Array(Vec::new())), "{ran:#?}");
    assert_eq!(database.sql("select count(*) from \"As of\".order_items"), "30000");
    assert_ne!(database.sql("select count(*) from \"As of\".events_2024"), "0");
    refused(restore(&world, &id, &["--table", "order_items", "--into-schema", "\"As of\""]), &["another schema"]);
    database.sql("insert into order_items select * from \"As of\".order_items where order_id = 7; drop schema \"As of\" cascade");
    same("the row is back", &source, &fingerprint(server, &database.name, &[]));
    // A table is dropped.
    database.sql("drop table order_items");
    restore(&world, &id, &["--table", "order_items"]).expect(0);
    same("the table is back", &source, &fingerprint(server, &database.name, &[]));
    // Its rows are gone.
    refused(restore(&world, &id, &["--table", "public.order_items", "--contents", "data"]), &["rows in public.order_items"]);
    database.sql("truncate order_items");
    restore(&world, &id, &["--table", "public.order_items", "--contents", "data"]).expect(0);
    same("the rows are back", &source, &fingerprint(server, &database.name, &[]));
    // A schema.
    database.sql("drop schema \"Mixed Case\" cascade");
    restore(&world, &id, &["--schema", "\"Mixed Case\""]).expect(0);
    assert_eq!(database.sql("select count(*) > 0 from \"Mixed Case\".\"Table\""), "t");
    let ran = restore(&world, &id, &["--table", "nosuch", "--into-schema", "y"]).expect(1);
    assert!(ran.stderr.contains("no table nosuch"), "{ran:#?}");
    assert_eq!(database.sql("select count(*) from pg_namespace where nspname = 'y'"), "0");
    // Into a new database: what it needs from elsewhere is not there.
    let target = new(server);
    restore(&world, &id, &["--table", "customers", "--to-database", &target.name]).expect(1);
    assert!(!exists(&target));
}

#[test]
fn tables_come_back_from_a_plain_dump() {
    tables_come_back(Server::Pg15, "", true);
}

#[test]
fn tables_come_back_from_a_plain_dump_in_a_container() {
    tables_come_back(Server::Exec, "", false);
}

#[test]
fn tables_come_back_from_an_archive() {
    tables_come_back(Server::Pg18, "format = \"custom\"\n", false);
}

#[test]
fn definitions_alone_make_a_database_without_rows() {
    let database = Database::sample(Server::Pg15);
    let (world, id) = backed_up(&database, "contents = \"schema\"\n");
    let target = new(Server::Pg15);
    let ran = restore(&world, &id, &["--to-database", &target.name]).expect(0);
    assert!(ran.stderr.contains("definitions only"), "{ran:#?}");
    let leave_out = ["rows", "sequences", "large objects", "comments"];
    same("definitions", &fingerprint(Server::Pg15, &database.name, &leave_out), &fingerprint(Server::Pg15, &target.name, &leave_out));
    refused(restore(&world, &id, &["--contents", "data"]), &["definitions only"]);
}

#[test]
fn another_server_takes_it_unless_it_is_older() {
    let database = Database::sample(Server::Pg15);
    let sections = |backup: &str| {
        let newer = Server::Pg18.section().replace("servers.main", "servers.newer");
        format!("{}{newer}[backups.x]\nserver = \"{backup}\"\ndatabase = \"{}\"\nglobals = false\n", Server::Pg15.section(), database.name)
    };
    let world = World::new();
    world.configure(&sections("main"));
    let id = world.backup("x");
    let target = Database { server: Server::Pg18, name: database.name.clone() };
    restore(&world, &id, &["--to-server", "newer"]).expect(0);
    let source = fingerprint(Server::Pg15, &database.name, &["definitions"]);
    same("newer", &source, &fingerprint(Server::Pg18, &target.name, &["definitions"]));
    refused(restore(&world, &id, &["--to-server", "newer"]), &["is not empty", "server newer"]);
    restore(&world, &id, &["--to-server", "nosuch"]).expect(1);
    world.configure(&sections("newer"));
    let newer = world.backup("x");
    refused(restore(&world, &newer, &["--to-server", "main", "--to-database", "never_made"]), &["older major", "18."]);
    assert!(!exists(&Database { server: Server::Pg15, name: "never_made".to_owned() }));
}

#[test]
fn several_databases_come_together_or_one_by_one() {
    let (a, b) = (Database::sample(Server::Pg15), Database::empty(Server::Pg15));
    b.sql("create table t as select 1 as x");
    let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabases = [\"{}\", \"{}\"]\n", a.name, b.name));
    let id = world.backup("x");
    let ran = restore(&world, &id, &["--to-database", "y"]).expect(2);
    assert!(ran.json()["error"]["hint"].as_str().unwrap().contains("--database NAME"), "{ran:#?}");
    restore(&world, &id, &["--database", "nosuch"]).expect(1);
    let one = new(Server::Pg15);
    restore(&world, &id, &["--database", &b.name, "--to-database", &one.name]).expect(0);
    assert_eq!(one.sql("select x from t"), "1");
    for database in [&a, &b] {
        Server::Pg15.sql("postgres", &format!("drop database {}", database.name));
    }
    restore(&world, &id, &[]).expect(0);
    assert_eq!((a.sql("select count(*) from customers"), b.sql("select x from t")), ("4000".to_owned(), "1".to_owned()));
}

#[test]
fn damage_is_found_before_anything_is_made() {
    let database = Database::sample(Server::Pg15);
    let (world, id) = backed_up(&database, "");
    let path = world.folder(&id).join(world.manifest(&id)["files"][0]["name"].as_str().unwrap());
    let whole = std::fs::read(&path).unwrap();
    let source = fingerprint(Server::Pg15, &database.name, &[]);
    let flipped = {
        let mut bytes = whole.clone();
        bytes[whole.len() / 2] ^= 1;
        bytes
    };
    for bytes in [&whole[..whole.len() / 2], &flipped] {
        std::fs::write(&path, bytes).unwrap();
        for args in [&["--clean", "--yes"][..], &["--clean", "--yes", "--in-place"], &["--to-database", "never_made_either"]] {
            let ran = restore(&world, &id, args).expect(1);
            assert_eq!(ran.json()["error"]["kind"], "damaged", "{ran:#?}");
            assert!(!ran.stdout.contains("complete"));
        }
    }
    same("live", &source, &fingerprint(Server::Pg15, &database.name, &[]));
    assert_eq!(left(&database), "");
    world.pgvigil(&["verify", &id]).expect(1);
    refused(restore(&world, &id, &["--clean", "--yes"]), &["is bad"]);
}

#[test]
fn a_hostile_dump_is_contained() {
    let database = Database::sample(Server::Pg15);
    let source = fingerprint(Server::Pg15, &database.name, &[]);
    let (world, id) = backed_up(&database, "compression = \"none\"\n");
    let path = world.folder(&id).join(world.manifest(&id)["files"][0]["name"].as_str().unwrap());
    let whole = std::fs::read_to_string(&path).unwrap();
    let touched = world.path("touched");
    let touch = touched.display();
    for evil in [
        format!("\\! touch {touch}\n"),
        format!("SELECT 1 \\g | touch {touch}\n"),
        format!("\\set x `touch {touch}`\n"),
        format!("COPY public.tricky FROM PROGRAM 'touch {touch}';\n"),
        format!("\\connect {}\nDELETE FROM customers;\n", database.name),
        format!("DROP DATABASE {} WITH (FORCE);\n", database.name),
    ] {
        forge(&world, &id, |_| whole.replacen("CREATE SCHEMA", &format!("{evil}CREATE SCHEMA"), 1));
        let ran = restore(&world, &id, &["--clean", "--yes"]).expect(1);
        assert_eq!(ran.json()["error"]["kind"], "damaged", "{evil}: {ran:#?}");
        assert!(!touched.exists(), "{evil}");
        assert_eq!(left(&database), "", "{evil}");
    }
    same("live", &source, &fingerprint(Server::Pg15, &database.name, &[]));
}

#[test]
fn errors_of_statements_are_grouped_and_end_it() {
    let database = Database::sample(Server::Pg15);
    let source = fingerprint(Server::Pg15, &database.name, &[]);
    let (world, id) = backed_up(&database, "compression = \"none\"\n");
    forge(&world, &id, |text| {
        let bad = "ALTER TABLE public.nosuch OWNER TO postgres;\n".repeat(3);
        text.replacen("CREATE SCHEMA", &format!("{bad}CREATE SCHEMA"), 1)
    });
    let ran = restore(&world, &id, &["--clean", "--yes"]).expect(1);
    let answer = ran.json();
    assert_eq!((&answer["outcome"], &answer["failures"][0]["count"]), (&"failed".into(), &3.into()), "{ran:#?}");
    assert!(answer["failures"][0]["message"].as_str().unwrap().contains("\"public.nosuch\" does not exist"), "{ran:#?}");
    assert!(answer["failures"][0]["statement"].as_str().unwrap().starts_with("ALTER TABLE public.nosuch"), "{ran:#?}");
    assert!(!ran.stdout.contains("complete") && ran.stderr.contains("3 times"), "{ran:#?}");
    same("live", &source, &fingerprint(Server::Pg15, &database.name, &[]));
    assert_eq!(left(&database), "");
    let ran = restore(&world, &id, &["--clean", "--yes", "--keep-failed"]).expect(1);
    let kept = Database { server: Server::Pg15, name: left(&database) };
    assert!(kept.name.contains("_restoring_") && ran.stderr.contains(&kept.name), "{ran:#?}");
    assert_eq!(kept.sql("select count(*) from customers"), "4000");
    world.backup("x");
    assert!(exists(&kept), "what is kept is not swept");
}

#[test]
fn rows_that_are_not_those_of_the_evidence_are_told() {
    let database = Database::sample(Server::Pg15);
    let (world, id) = backed_up(&database, "");
    edit(&world, &id, |manifest| {
        let evidence = &mut manifest["evidence"]["databases"][&database.name];
        evidence["rows"] = serde_json::json!({"public.customers": 4000, "public.orders": 10_001, "\"Mixed Case\".\"Gone\"": 7});
    });
    let target = new(Server::Pg15);
    let ran = restore(&world, &id, &["--to-database", &target.name]).expect(3);
    let answer = ran.json();
    assert_eq!(answer["outcome"], "problems");
    let expected = serde_json::json!([
        {"object": "table \"Mixed Case\".\"Gone\": rows", "expected": "7", "found": "0"},
        {"object": "table public.orders: rows", "expected": "10001", "found": "10000"},
    ]);
    assert_eq!(answer["compared"]["mismatches"], expected);
    assert!(exists(&target));
}

/// A database whose restore stands still when its rows are in.
pub fn standing_still(server: Server) -> Database {
    let database = Database::sample(server);
    database.sql(
        "create function still() returns int language sql as $$
            select 1 from pg_catalog.pg_sleep(case when pg_catalog.current_database() like '%\\_restoring\\_%' then 600 else 0 end) $$;
        create materialized view stands as select public.still() as x",
    );
    database
}

/// A restore of it that stands still.
pub fn under_way(world: &World, database: &Database, id: &str) -> Child {
    let child = world.command(&["restore", id, "--clean", "--yes"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let sql = format!(
        "select count(*) from pg_stat_activity where datname like '{}\\_restoring\\_%' and query like 'REFRESH%' and state = 'active'",
        database.name
    );
    until("the restore is under way", || database.server.sql("postgres", &sql) == "1");
    child
}

fn sessions_left(database: &Database) -> String {
    database
        .server
        .sql("postgres", &format!("select count(*) from pg_stat_activity where datname like '{}\\_restoring\\_%'", database.name))
}

fn told_to_stop(server: Server) {
    let database = standing_still(server);
    let source = fingerprint(server, &database.name, &[]);
    let (world, id) = backed_up(&database, "");
    for signal in [nix::sys::signal::Signal::SIGTERM, nix::sys::signal::Signal::SIGINT] {
        let mut child = under_way(&world, &database, &id);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1));
        assert_eq!(world.pgvigil(&["--json", "history"]).expect(0).json()[0]["outcome"], "cancelled");
        assert_eq!((left(&database), sessions_left(&database)), (String::new(), "0".to_owned()));
    }
    same("live", &source, &fingerprint(server, &database.name, &[]));
}

#[test]
fn what_is_being_restored_is_not_pruned() {
    let database = standing_still(Server::Pg15);
    let (world, id) = backed_up(&database, "keep = { last = 1 }");
    let mut child = under_way(&world, &database, &id);
    // A newer one has its place.
    world.backup("x");
    assert!(world.folder(&id).exists());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().try_into().unwrap()), nix::sys::signal::Signal::SIGTERM).unwrap();
    child.wait().unwrap();
    let pruned = world.pgvigil(&["--json", "prune", "x"]).expect(0).json();
    assert_eq!(pruned["deleted"][0]["id"], id.as_str(), "{pruned:#}");
}

#[test]
fn one_that_is_told_to_stop_leaves_nothing() {
    told_to_stop(Server::Pg15);
}

#[test]
fn one_that_is_told_to_stop_leaves_nothing_in_a_container() {
    told_to_stop(Server::Exec);
}

fn killed(server: Server) {
    let database = standing_still(server);
    let source = fingerprint(server, &database.name, &[]);
    let (world, id) = backed_up(&database, "");
    let mut child = under_way(&world, &database, &id);
    child.kill().unwrap();
    child.wait().unwrap();
    let temporary = left(&database);
    assert!(temporary.contains("_restoring_"), "{temporary}");
    let history = world.pgvigil(&["--json", "history"]).expect(0).json();
    assert_eq!((&history[0]["kind"], &history[0]["outcome"]), (&"restore".into(), &"interrupted".into()));
    same("live", &source, &fingerprint(server, &database.name, &[]));
    // One of the same form that is not ours stays.
    let foreign = Database::create(server, &format!("{}_restoring_20240101T000000Z", database.name), "template0");
    world.backup("x");
    assert_eq!((left(&database), sessions_left(&database)), (foreign.name.clone(), "0".to_owned()));
}

#[test]
fn what_a_killed_one_leaves_is_swept_by_the_next_run() {
    killed(Server::Pg15);
}

#[test]
fn what_a_killed_one_leaves_in_a_container_is_swept_by_the_next_run() {
    killed(Server::Exec);
}

#[test]
fn the_catalog_is_made_again_from_the_manifests_alone() {
    let database = Database::sample(Server::Pg15);
    let (world, first) = backed_up(&database, "");
    let second = world.backup("x");
    std::fs::remove_dir_all(world.path("state")).unwrap();
    std::fs::remove_file(world.store().join("x/latest")).unwrap();
    let rows = world.pgvigil(&["--json", "rebuild"]).expect(0).json();
    let row = &rows[0];
    assert_eq!(
        (&row["backup"], &row["count"], &row["newest"], &row["rung"]),
        (&"x".into(), &2.into(), &second.as_str().into(), &"readable".into())
    );
    let latest = || std::fs::read_link(world.store().join("x/latest")).unwrap();
    assert_eq!(format!("x/{}", latest().display()), second);
    assert_eq!(world.pgvigil(&["--json", "list"]).expect(0).json().as_array().unwrap().len(), 2);
    let target = new(Server::Pg15);
    restore(&world, "x/latest", &["--to-database", &target.name]).expect(0);
    // One that cannot be read is told, and is not `latest`.
    std::fs::write(world.folder(&second).join("manifest.json"), "{").unwrap();
    let rows = world.pgvigil(&["--json", "rebuild", "local"]).expect(3).json();
    assert_eq!((&rows[0]["count"], &rows[0]["latest"]), (&1.into(), &first.as_str().into()), "{rows:#}");
    assert_eq!(rows[0]["unreadable"][0]["id"], second.as_str());
    assert_eq!(format!("x/{}", latest().display()), first);
    world.pgvigil(&["rebuild", "nosuch"]).expect(1);
}
