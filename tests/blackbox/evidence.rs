//! What is recorded of a database under the snapshot of its dump: what the server says, no more and
//! no less, whatever is written meanwhile.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::common::forge::dump_of;
use crate::common::{Database, Ran, Server, World, password, run, unique, var};
use crate::drill::everything;
use crate::smtp::Smtp;
use crate::support::{Cluster, Psql, Role, stock, until};

fn of(world: &World, id: &str, database: &str) -> Value {
    world.manifest(id)["evidence"]["databases"][database].clone()
}

fn run_of(world: &World, backup: &str) -> Ran {
    world.pgvigil(&["--json", "run", backup])
}

/// The answer of a query as JSON.
fn asked(database: &Database, sql: &str) -> Value {
    serde_json::from_str(&database.sql(sql)).unwrap()
}

/// Rows of the tables that hold some, as the server counts them.
const COUNTED: &str = "select json_object_agg(format('%I.%I', nspname, relname), (xpath('//n/text()', query_to_xml(
        format('select count(*) as n from only %I.%I', nspname, relname), false, true, '')))[1]::text::bigint)
    from pg_class c join pg_namespace n on n.oid = relnamespace
    where relkind = 'r' and relpersistence <> 't' and nspname !~ '^pg_' and nspname <> 'information_schema'";

#[test]
fn what_the_server_says_is_recorded() {
    for (server, keys) in [
        (Server::Pg15, "evidence = \"content\""),
        (Server::Pg15, "format = \"directory\"\njobs = 2"),
        (Server::Pg18, "format = \"custom\"\nevidence = \"content\""),
        (Server::Exec, ""),
    ] {
        let database = everything(server);
        // Of another session: it is of no dump.
        let mut other = Psql::connect(server, &database.name);
        other.done("create temporary table temporary as select 1 as i");
        let checks = "checks = { orders = \"select count(*) from app.orders\", fine = \"select count(*) = 50 from app.lines\" }";
        let world = World::with(server, &format!("[backups.x]\ndatabase = \"{}\"\n{checks}\n{keys}\n", database.name));
        let id = world.backup("x");
        let evidence = of(&world, &id, &database.name);
        let same = |key: &str, sql: &str| assert_eq!(evidence[key], asked(&database, sql), "{server:?} {keys}: {key}");
        same("rows", COUNTED);
        same("extensions", "select json_object_agg(extname, extversion) from pg_extension");
        same("large_objects", "select count(*) from pg_largeobject_metadata");
        same(
            "sequences",
            "select json_object_agg(format('%I.%I', schemaname, sequencename), json_build_object('value', last_value, 'increment', increment_by)) from pg_sequences",
        );
        same(
            "partitions",
            "select json_object_agg(inhrelid::regclass::text, inhparent::regclass::text) from pg_inherits i join pg_class c on c.oid = inhrelid
                where c.relispartition and c.relkind in ('r', 'p')",
        );
        let objects = "with ns as (select oid from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'),
            own as (select * from pg_class c where relnamespace in (select oid from ns) and relpersistence <> 't' and not exists (select from pg_depend where objid = c.oid and deptype = 'e'))
            select json_build_object(
                'table', (select count(*) from own where relkind in ('r', 'p')), 'view', (select count(*) from own where relkind = 'v'),
                'materialized view', (select count(*) from own where relkind = 'm'), 'foreign table', (select count(*) from own where relkind = 'f'),
                'sequence', (select count(*) from own where relkind = 'S'), 'index', (select count(*) from own where relkind in ('i', 'I')),
                'trigger', (select count(*) from pg_trigger where not tgisinternal and tgparentid = 0), 'policy', (select count(*) from pg_policy),
                'rule', (select count(*) from pg_rules where rulename <> '_RETURN' and schemaname !~ '^pg_'),
                'enum', (select count(*) from pg_type t where typtype = 'e' and typnamespace in (select oid from ns)),
                'event trigger', (select count(*) from pg_event_trigger), 'publication', (select count(*) from pg_publication),
                'constraint not valid', (select count(*) from pg_constraint where not convalidated and conparentid = 0),
                'aggregate', (select count(*) from pg_aggregate a join pg_proc p on p.oid = a.aggfnoid where pronamespace in (select oid from ns)
                    and not exists (select from pg_depend where objid = p.oid and deptype = 'e')),
                'statistics', (select count(*) from pg_statistic_ext))";
        for (kind, count) in asked(&database, objects).as_object().unwrap() {
            assert_eq!(&evidence["objects"][kind], count, "{server:?} {keys}: {kind}");
        }
        let names: Vec<&str> = evidence["roles"].as_array().unwrap().iter().map(|role| role.as_str().unwrap()).collect();
        assert_eq!(names, ["Every \"thing\"", "everything_owner", "everything_reader", "postgres"]);
        assert_eq!((&evidence["superuser"], evidence["snapshot"].is_string()), (&"postgres".into(), true));
        assert_eq!(evidence["properties"]["encoding"], "UTF8");
        if server == Server::Pg15 {
            let german = database.sql("select collversion from pg_collation where collname = 'german'");
            assert_eq!(evidence["collations"]["app.german"], german.as_str(), "{evidence:#}");
        }
        assert_eq!(evidence["checks"], json!({ "orders": { "value": "302" }, "fine": { "value": "t" } }));
        let left_out = evidence["left_out"].to_string();
        assert!(left_out.contains("foreign tables (3)") && left_out.contains("materialized views (2)"), "{left_out}");
        let digests = evidence["digests"].as_object().map_or(0, serde_json::Map::len);
        assert_eq!(digests, if keys.contains("content") { evidence["rows"].as_object().unwrap().len() } else { 0 }, "{keys}");
    }
}

/// Rows of the `COPY`s of a plain dump that is packed with gzip.
fn rows_in(world: &World, id: &str) -> BTreeMap<String, u64> {
    let dump = dump_of(world, id);
    let sql = String::from_utf8(stock("gzip", &["-dc", dump.to_str().unwrap()], Path::new("/"))).unwrap();
    let mut rows = BTreeMap::new();
    let mut table = None;
    for line in sql.lines() {
        match (&table, line) {
            (Some(_), "\\.") => table = None,
            (Some(name), _) => *rows.entry(String::clone(name)).or_default() += 1,
            (None, _) if line.starts_with("COPY ") => table = Some(line.split(' ').nth(1).unwrap().to_owned()),
            _ => {}
        }
    }
    rows
}

/// Every transaction leaves both tables with the same number of rows.
const WRITER: &str = "do $$ begin loop
        insert into left_one select 1 from generate_series(1, 1 + (random() * 5)::int);
        delete from right_one; insert into right_one select 1 from left_one;
        commit;
        if (select count(*) from left_one) > 300 then delete from left_one; delete from right_one; commit; end if;
        perform nextval('writes'); commit;
    end loop; end $$";

#[test]
fn evidence_under_load_is_exact() {
    let database = Database::empty(Server::Pg15);
    database.sql("create table left_one (i int); create table right_one (i int); create sequence writes; create table filler as select i from generate_series(1, 20000) i");
    let section = |name: &str, keys: &str| {
        format!("[backups.{name}]\ndatabase = \"{}\"\nevidence = \"content\"\ndrill = {{ on = \"local\" }}\n{keys}\n", database.name)
    };
    let world = World::with(Server::Pg15, &format!("{}{}", section("plain", ""), section("custom", "format = \"custom\"")));
    let writer = Server::Pg15.tool("psql").args(["-X", "-q", "-d", &database.name, "-c", WRITER]).stdin(Stdio::null()).spawn().unwrap();
    let writer = Killed(writer);
    let writes = || database.sql("select coalesce(pg_sequence_last_value('writes'), 0)").parse::<u64>().unwrap();
    let mut counts = Vec::new();
    let mut ids = Vec::new();
    for backup in ["plain", "custom", "plain", "custom", "plain", "custom", "plain", "custom"] {
        let before = writes();
        until("somebody writes", || writes() > before);
        let id = world.backup(backup);
        let evidence = of(&world, &id, &database.name);
        let rows = evidence["rows"].clone();
        assert_eq!(rows["public.left_one"], rows["public.right_one"], "{rows:#}");
        if backup == "plain" {
            let there = rows_in(&world, &id);
            assert_eq!(rows, json!(there), "{id}");
        }
        assert!(evidence["sequences"]["public.writes"]["value"].as_u64().unwrap() > before);
        counts.push(rows["public.left_one"].as_u64().unwrap());
        ids.push(id);
    }
    counts.dedup();
    assert!(counts.len() > 2, "nobody wrote: {counts:?}");
    for id in &ids[6..] {
        let answer = world.pgvigil(&["--json", "verify", id, "--drill"]).expect(0).json();
        assert_eq!(answer["rung"], "matched", "{answer:#}");
    }
    drop(writer);
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Tables that are locked after others are changed before pg_dump gets to them.
#[test]
fn what_is_truncated_or_dropped_under_a_dump_is_no_lie() {
    for deed in ["truncate later", "drop table later", "alter table later alter column i type bigint"] {
        let database = Database::empty(Server::Pg15);
        database.sql("create table first (i int); create table later as select generate_series(1, 1000) as i");
        let world = World::with(
            Server::Pg15,
            &format!("[backups.x]\ndatabase = \"{}\"\nretries = 0\nevidence = \"content\"\ndrill = {{ on = \"local\" }}\n", database.name),
        );
        let mut lock = Psql::connect(Server::Pg15, &database.name);
        lock.done("begin; lock table first in access exclusive mode");
        let running = world.command(&["--json", "run", "x"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let waiting = format!(
            "select count(*) from pg_locks l join pg_database d on d.oid = l.database where not granted and datname = '{}'",
            database.name
        );
        until("the dump waits", || database.sql(&waiting) != "0");
        database.sql(deed);
        lock.done("commit");
        let output = running.wait_with_output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        let Some(id) = answer["id"].as_str() else {
            assert!(output.status.code() == Some(1) && !deed.starts_with("truncate"), "{deed}: {answer:#}");
            continue;
        };
        let rows = of(&world, id, &database.name)["rows"].clone();
        let mut there = rows_in(&world, id);
        there.entry("public.first".to_owned()).or_default();
        if rows["public.later"] == 0 {
            there.entry("public.later".to_owned()).or_default();
        }
        if output.status.code() == Some(0) {
            assert_eq!(rows, json!(there), "{deed}: {answer:#}");
            let drilled = world.pgvigil(&["--json", "verify", id, "--drill"]).json();
            assert!(drilled["rung"] == "matched" || deed.starts_with("alter"), "{deed}: {drilled:#}");
        } else {
            assert_eq!(output.status.code(), Some(3), "{deed}: {answer:#}");
        }
    }
}

#[test]
fn a_narrow_backup_has_no_evidence_of_what_it_leaves_out() {
    let database = Database::empty(Server::Pg15);
    database.sql(
        "create schema other; create table other.t as select 1 as i; create table \"We ird\" as select generate_series(1, 3) as i;
        create table plain as select generate_series(1, 5) as i; create index plain_i on plain (i); create view v as select 1; create function f() returns int language sql as 'select 1';
        create sequence s; select nextval('s'); create extension hstore; select lo_create(1); alter table plain add constraint c check (i > 0)",
    );
    let section =
        |name: &str, keys: &str| format!("[backups.{name}]\ndatabase = \"{}\"\ndrill = {{ on = \"local\" }}\n{keys}\n", database.name);
    let world = World::with(
        Server::Pg15,
        &[
            section("tables", "tables = ['public.\"We ird\"', 'public.plain']"),
            section("without", "exclude_tables = [\"public.plain\"]"),
            section("schemas", "schemas = [\"other\"]"),
            section("definitions", "contents = \"schema\""),
            section("data", "contents = \"data\""),
            section("off", "evidence = \"off\""),
            section("custom", "format = \"custom\"\ntables = [\"public.plain\"]"),
        ]
        .concat(),
    );
    let made = |backup: &str| {
        let id = world.backup(backup);
        let evidence = of(&world, &id, &database.name);
        (id, evidence)
    };
    for (backup, rows) in [
        ("tables", json!({ "public.\"We ird\"": 3, "public.plain": 5 })),
        ("without", json!({ "public.\"We ird\"": 3, "other.t": 1 })),
        ("schemas", json!({ "other.t": 1 })),
        ("custom", json!({ "public.plain": 5 })),
    ] {
        let (id, evidence) = made(backup);
        assert_eq!(evidence["rows"], rows, "{backup}");
        let definitions = evidence["definitions"].as_object().unwrap();
        for left_out in ["view public.v", "function public.f()", "sequence public.s"] {
            assert!(!definitions.contains_key(left_out), "{backup}: {definitions:#?}");
        }
        let of_plain = definitions.keys().any(|key| key.starts_with("table public.plain"));
        assert_eq!(of_plain, rows.get("public.plain").is_some(), "{backup}: {definitions:#?}");
        assert_eq!(
            (&evidence["sequences"], &evidence["extensions"], &evidence["large_objects"]),
            (&json!({}), &json!({}), &0.into()),
            "{backup}"
        );
        let answer = world.pgvigil(&["--json", "verify", &id, "--drill"]).json();
        assert_eq!(answer["rung"], "matched", "{backup}: {answer:#}");
    }
    let (_, evidence) = made("definitions");
    assert_eq!((&evidence["rows"], &evidence["large_objects"]), (&json!({}), &0.into()));
    assert!(evidence["definitions"]["view public.v"].is_string(), "{evidence:#}");
    let (_, evidence) = made("data");
    assert_eq!(evidence["rows"].as_object().unwrap().len(), 3);
    let (_, evidence) = made("off");
    assert_eq!((&evidence["rows"], &evidence["definitions"], &evidence["snapshot"]), (&json!({}), &Value::Null, &Value::Null));
}

#[test]
fn checks_are_answered_under_the_snapshot() {
    let smtp = Smtp::start(&[]);
    let database = Database::empty(Server::Pg15);
    database.sql("create table t as select generate_series(1, 7) as i");
    let world = World::new();
    let checks = |checks: &str| {
        let section = format!("[backups.x]\ndatabase = \"{}\"\ndrill = {{ on = \"local\" }}\nchecks = {{ {checks} }}\n", database.name);
        world.configure(&format!("{}{}{section}", Server::Pg15.section(), smtp.section("")));
    };
    checks("yes = \"select true\", number = \"select count(*) from t\", semicolon = \"select ';' || count(*) from t;\"");
    let id = world.backup("x");
    let evidence = of(&world, &id, &database.name);
    assert_eq!(evidence["checks"], json!({ "yes": { "value": "t" }, "number": { "value": "7" }, "semicolon": { "value": ";7" } }));
    assert_eq!(smtp.alerts(), []);
    assert_eq!(world.pgvigil(&["--json", "verify", &id, "--drill"]).expect(0).json()["rung"], "matched");

    checks(
        "no = \"select count(*) > 100 from t\", fails = \"select 1 / (count(*) - 7) from t\", writes = \"delete from t\", none = \"select 1 where false\"",
    );
    let ran = run_of(&world, "x").expect(3);
    let id = ran.json()["id"].as_str().unwrap().to_owned();
    for words in [
        "check no answers \"f\"",
        "check fails failed: division by zero",
        "check writes failed: cannot execute DELETE in a read-only transaction",
        "check none answers",
    ] {
        assert!(ran.stderr.contains(words), "no {words:?} in {}", ran.stderr);
        assert!(smtp.wait_for(1)[0].text().contains(words), "no {words:?} in {}", smtp.mails()[0].text());
    }
    assert_eq!(database.sql("select count(*) from t"), "7");
    // It is a whole backup nevertheless.
    assert_eq!(of(&world, &id, &database.name)["rows"], json!({ "public.t": 7 }));
    let list = world.pgvigil(&["--json", "list", "x"]).expect(0).json();
    assert_eq!(list[0]["rung"], "readable");
}

#[test]
fn a_dump_much_smaller_than_the_last_is_told_once() {
    let smtp = Smtp::start(&[]);
    let database = Database::empty(Server::Pg15);
    database.sql("create table t as select i, md5(i::text) as t from generate_series(1, 6000) i");
    let world = World::new();
    let section = format!("[backups.x]\ndatabase = \"{}\"\n", database.name);
    world.configure(&format!("{}{}{section}", Server::Pg15.section(), smtp.section("")));
    world.backup("x");
    database.sql("delete from t where i > 5900");
    world.backup("x");
    assert_eq!(smtp.alerts(), []);
    database.sql("delete from t where i > 10");
    let ran = run_of(&world, "x").expect(3);
    assert!(ran.stderr.contains("much smaller than the last"), "{ran:#?}");
    let told = || smtp.mails().iter().filter(|mail| mail.alert().1 == "open" && mail.text().contains("much smaller")).count();
    smtp.wait_for(2);
    assert_eq!(told(), 2, "one for each who is told");
    run_of(&world, "x").expect(0);
    assert_eq!(told(), 2);
    // And no table at all.
    database.sql("drop table t");
    run_of(&world, "x").expect(0);
}

fn as_role(role: &str) -> String {
    format!("{}user = \"{role}\"\n", Server::Pg15.section())
}

#[test]
fn row_security_never_hides_rows_in_silence() {
    let secret = password().replace('\'', "''");
    let reader = Role::create(Server::Pg15, &format!("login password '{secret}'"));
    let all = Role::create(Server::Pg15, &format!("login password '{secret}' in role pg_read_all_data"));
    let database = Database::empty(Server::Pg15);
    database.sql(&format!(
        "create table seen as select generate_series(1, 3) as i; create table hidden as select generate_series(1, 9) as i;
        grant select on all tables in schema public to {}; create sequence s; select nextval('s'); grant select on s to {}",
        reader.name, reader.name
    ));
    for role in [&reader, &all] {
        let world = World::new();
        world.configure(&format!(
            "{}[backups.x]\ndatabase = \"{}\"\nglobals = false\nretries = 0\nchecks = {{ all = \"select count(*) = 9 from hidden\" }}\n",
            as_role(&role.name),
            database.name
        ));
        // Before there is a policy it may read all.
        let id = world.backup("x");
        let evidence = of(&world, &id, &database.name);
        assert_eq!(evidence["rows"], json!({ "public.seen": 3, "public.hidden": 9 }));
        assert_eq!(evidence["sequences"]["public.s"]["value"], 1);
        database.sql("alter table hidden enable row level security; create policy p on hidden using (i < 3)");
        let ran = run_of(&world, "x");
        assert_eq!((ran.code, ran.json()["id"].clone()), (Some(1), Value::Null), "{ran:#?}");
        assert!(ran.stderr.contains("row-level security") && ran.stderr.contains("BYPASSRLS"), "{ran:#?}");
        database.sql("drop policy p on hidden; alter table hidden disable row level security");
    }
}

/// Settings of the role and the database that put every value into other words.
#[test]
fn odd_settings_of_the_server_change_no_evidence() {
    let secret = password().replace('\'', "''");
    let role = Role::create(Server::Pg15, &format!("superuser login password '{secret}'"));
    let database = Database::empty(Server::Pg15);
    database.sql(
        "create table t as select now() - i * interval '1 day 1 second' as at, i * 0.1::float8 as f, i / 3.0::real as r, decode(md5(i::text), 'hex') as b, interval '1 year 2 days 3.5 seconds' * i as p,
            '2024-01-31'::date + i as d, i * 1.10::money as m, E'Grüße\\\\' || i as t, xmlelement(name x, i) as x from generate_series(1, 50) i;
        create table \"select\" (\"order\" int default 1, constraint \"check\" check (\"order\" > 0)); insert into \"select\" values (1);
        create function public.f(\"table\" int) returns timestamptz language sql as 'select now()'; create index on t (d, lower(t)); create view v as select at, \"order\" from t, \"select\"",
    );
    for (name, value) in [
        ("timezone", "'Asia/Kathmandu'"),
        ("datestyle", "'SQL, DMY'"),
        ("intervalstyle", "'iso_8601'"),
        ("bytea_output", "'escape'"),
        ("extra_float_digits", "-10"),
        ("search_path", "'nowhere'"),
        ("statement_timeout", "1"),
        ("default_transaction_read_only", "on"),
        ("default_transaction_isolation", "'serializable'"),
        ("client_min_messages", "'debug1'"),
        ("quote_all_identifiers", "on"),
        ("client_encoding", "'LATIN1'"),
        ("xmloption", "'document'"),
        ("standard_conforming_strings", "off"),
        ("enable_seqscan", "off"),
    ] {
        Server::Pg15.sql(
            "postgres",
            &format!("alter role {} set {name} = {value}; alter database {} set {name} = {value}", role.name, database.name),
        );
    }
    let section = |name: &str, keys: &str| {
        format!("[backups.{name}]\nserver = \"main\"\ndatabase = \"{}\"\nevidence = \"content\"\n{keys}\n", database.name)
    };
    let world = World::new();
    world.configure(&format!(
        "{}{}{}",
        as_role(&role.name),
        section("plain", "drill = { on = \"local\" }"),
        section("custom", "format = \"custom\"\ndrill = { on = \"main\" }")
    ));
    for backup in ["plain", "custom"] {
        let id = world.backup(backup);
        let evidence = of(&world, &id, &database.name);
        assert_eq!(evidence["rows"], json!({ "public.t": 50, "public.\"select\"": 1 }), "{evidence:#}");
        let ran = world.pgvigil(&["--json", "verify", &id, "--drill"]);
        assert_eq!((ran.code, ran.json()["rung"].as_str()), (Some(0), Some("matched")), "{backup}: {ran:#?}");
    }
}

/// Rows are held against each other in the encoding of the database.
#[test]
fn a_database_of_another_encoding_matches() {
    let database = Database::create(Server::Pg15, &unique("latin"), "template0 encoding 'LATIN1' locale 'C'");
    database.sql("create table t as select 'Gr' || chr(252) || chr(223) || i as t from generate_series(1, 9) i");
    let world = World::with(
        Server::Pg15,
        &format!("[backups.x]\ndatabase = \"{}\"\nevidence = \"content\"\ndrill = {{ on = \"local\" }}\n", database.name),
    );
    let id = world.backup("x");
    let answer = world.pgvigil(&["--json", "verify", &id, "--drill"]).json();
    assert_eq!((&answer["rung"], &answer["compared"]["rows"]), (&"matched".into(), &9.into()), "{answer:#}");
}

/// A table counts with its indexes when it is counted: all in one transaction were too many.
#[test]
fn more_tables_than_locks_are_counted() {
    let cluster = Cluster::start(
        15,
        "max_connections = 12\nmax_wal_senders = 0\nmax_worker_processes = 0\nautovacuum = off\nmax_locks_per_transaction = 40",
        &[],
    );
    let ask = |sql: &str| run(cluster.tool("psql").args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", sql]));
    let made = ask("do $$ begin for n in 1..400 loop
            execute format('create table t%s (i int primary key, j int unique)', n); execute format('insert into t%s values (1, 1)', n);
            if n % 20 = 0 then commit; end if;
        end loop; end $$");
    assert!(made.status.success(), "{made:?}");
    let all = ask("select string_agg(format('select count(*) from t%s', n), ' union all ') from generate_series(1, 400) n");
    let at_once = ask(&String::from_utf8(all.stdout).unwrap());
    assert!(String::from_utf8_lossy(&at_once.stderr).contains("out of shared memory"), "this test says nothing: {at_once:?}");
    let world = World::new();
    world.configure(&format!(
        "[servers.main]\nsocket = \"{}\"\nport = {}\npassword = {{ env = \"PGVIGIL_TEST_PASSWORD\" }}\n[backups.x]\ndatabase = \"postgres\"\n",
        cluster.host(),
        cluster.port
    ));
    let id = world.backup("x");
    assert_eq!(of(&world, &id, "postgres")["rows"].as_object().unwrap().len(), 400);
}

/// Rows of the configuration tables of extensions are in a dump in part, and counted by nobody.
#[test]
fn tables_of_extensions_are_not_counted() {
    let dir = tempfile::tempdir().unwrap();
    let extension = dir.path().join("extension");
    std::fs::create_dir(&extension).unwrap();
    std::fs::write(extension.join("keeper.control"), "default_version = '1.0'\nrelocatable = false\nschema = public\n").unwrap();
    std::fs::write(
        extension.join("keeper--1.0.sql"),
        "create table keeper_config (i int); insert into keeper_config values (1); select pg_catalog.pg_extension_config_dump('keeper_config', 'where i > 1');
        create table keeper_fixed as select 1 as i; create sequence keeper_s; create function keeper_f() returns int language sql as 'select 1';",
    )
    .unwrap();
    stock("chmod", &["-R", "a+rX", &dir.path().display().to_string()], Path::new("/"));
    let cluster = Cluster::start(18, &format!("extension_control_path = '$system:{}'", dir.path().display()), &[]);
    let made = run(cluster
        .tool("psql")
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c"])
        .arg("create extension keeper; insert into keeper_config values (2), (3); create table mine as select 1 as i"));
    assert!(made.status.success(), "{made:?}");
    let world = World::new();
    world.configure(&format!(
        "[servers.main]\nsocket = \"{}\"\nport = {}\nbin_dir = \"{}\"\npassword = {{ env = \"PGVIGIL_TEST_PASSWORD\" }}\n[backups.x]\ndatabase = \"postgres\"\nevidence = \"content\"\ndrill = {{ on = \"local\" }}\n",
        cluster.host(),
        cluster.port,
        var("PGVIGIL_TEST_PG18_BIN")
    ));
    let id = world.backup("x");
    let evidence = of(&world, &id, "postgres");
    assert_eq!((&evidence["rows"], &evidence["sequences"]), (&json!({ "public.mine": 1 }), &json!({})));
    assert_eq!((&evidence["extensions"]["keeper"], evidence["digests"].as_object().unwrap().len()), (&"1.0".into(), 1));
    assert!(evidence["left_out"].to_string().contains("configuration tables of extensions (1)"), "{}", evidence["left_out"]);
    assert_eq!(evidence["objects"], json!({ "table": 1 }));
    let ran = world.pgvigil(&["verify", &id, "--drill"]).expect(3);
    assert!(ran.stderr.contains("install extension keeper"), "{ran:#?}");
}

#[test]
fn a_pooler_in_between_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::sample(Server::Pg15);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (users, config) = (dir.path().join("users.txt"), dir.path().join("pgbouncer.ini"));
    std::fs::write(&users, format!("\"postgres\" \"{}\"\n", password().replace('"', "\"\""))).unwrap();
    for ignored in ["extra_float_digits,options", "extra_float_digits"] {
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\n\
             pool_mode = transaction\nignore_startup_parameters = {ignored}\n",
            var("PGVIGIL_TEST_PG15_PORT"),
            users.display()
        );
        std::fs::write(&config, text).unwrap();
        stock("chmod", &["-R", "a+rX", &dir.path().display().to_string()], Path::new("/"));
        let mut pgbouncer = if nix::unistd::Uid::effective().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "/usr/sbin/pgbouncer"]);
            command
        } else {
            Command::new("/usr/sbin/pgbouncer")
        };
        let pooler = Killed(pgbouncer.arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        until("the pooler listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        let world = World::new();
        world.configure(&format!(
            "[servers.main]\nhost = \"127.0.0.1\"\nport = {port}\npassword = {{ env = \"PGVIGIL_TEST_PASSWORD\" }}\n[backups.x]\ndatabase = \"{}\"\nretries = 0\n",
            database.name
        ));
        let ran = run_of(&world, "x");
        assert_eq!((ran.code, ran.json()["id"].clone()), (Some(1), Value::Null), "{ignored}: {ran:#?}");
        let words = ran.stderr.to_lowercase();
        assert!(words.contains("pooler") && words.contains("pgbouncer"), "{ignored}: {}", ran.stderr);
        assert_eq!(world.names("x").iter().filter(|name| !name.starts_with('.')).count(), 0);
        drop(pooler);
    }
}
