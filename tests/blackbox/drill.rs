//! Drills of real backups: what is restored and equal is `matched`, and what is not is named. What
//! stands around drills is in `drills.rs`, what is done against them in the faults.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::common::daemon::{Daemon, history, until as found};
use crate::common::forge::{change_dump, change_manifest, put, replaced, without};
use crate::common::{Database, Ran, Server, World, password, run, unique};
use crate::smtp::Smtp;
use crate::support::{Cluster, Role, repository, rungs, stock};

fn drill(world: &World, id: &str) -> Ran {
    world.pgvigil(&["--json", "verify", id, "--drill"])
}

/// A drill that must find all as it was.
#[track_caller]
fn matched(world: &World, id: &str) -> Value {
    let answer = drill(world, id).expect(0).json();
    assert_eq!((&answer["outcome"], &answer["rung"], &answer["compared"]["mismatches"]), (&"ok".into(), &"matched".into(), &json!([])));
    answer
}

/// Object, expected and found of each mismatch.
fn mismatches(answer: &Value) -> Vec<String> {
    let field = |mismatch: &Value, key: &str| mismatch[key].as_str().unwrap().to_owned();
    let mismatches = answer["compared"]["mismatches"].as_array().unwrap_or_else(|| panic!("{answer:#}"));
    mismatches.iter().map(|mismatch| ["object", "expected", "found"].map(|key| field(mismatch, key)).join(" | ")).collect()
}

fn psql(server: Server, database: &str, file: PathBuf) {
    let mut command = server.tool("psql");
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database]);
    let output = command.stdin(std::fs::File::open(file).unwrap()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A database of all that a restore makes anew in other words, and that is none the worse for it.
pub fn everything(server: Server) -> Database {
    let database = Database::empty(server);
    psql(server, &database.name, repository("tests/support/everything.sql"));
    database
}

fn everything_matches(server: Server, backups: &[&str]) {
    let database = everything(server);
    let on = if server == Server::Exec { "" } else { "drill = { on = \"local\" }\n" };
    let section = |(n, keys): (usize, &&str)| format!("[backups.b{n}]\ndatabase = \"{}\"\n{on}{keys}\n", database.name);
    let world = World::with(server, &backups.iter().enumerate().map(section).collect::<String>());
    for n in 0..backups.len() {
        let answer = matched(&world, &world.backup(&format!("b{n}")));
        assert_eq!(answer["compared"]["tables"], 23, "{answer:#}");
    }
}

#[test]
fn everything_of_postgresql_15_matches() {
    everything_matches(Server::Pg15, &["evidence = \"content\"", "format = \"directory\"\njobs = 2\nevidence = \"content\""]);
}

#[test]
fn everything_of_postgresql_18_matches() {
    everything_matches(Server::Pg18, &["evidence = \"content\"", "format = \"custom\""]);
}

#[test]
fn everything_in_a_container_matches() {
    everything_matches(Server::Exec, &["evidence = \"content\""]);
}

#[test]
fn every_compression_matches_on_every_place() {
    let database = Database::sample(Server::Pg15);
    let other = Server::Pg18.section().replace("[servers.main]", "[servers.other]");
    let backup = |name: &str, keys: &str| {
        format!("[backups.{name}]\nserver = \"main\"\ndatabase = \"{}\"\nevidence = \"content\"\n{keys}\n", database.name)
    };
    let sections = [
        backup("zstd", "compression = \"zstd:1\"\ndrill = { on = \"local\" }"),
        backup("none", "compression = \"none\"\ndrill = { on = \"other\" }"),
        backup("custom", "format = \"custom\"\ndrill = { on = \"main\" }"),
    ];
    let world = World::with(Server::Pg15, &format!("{other}{}", sections.concat()));
    let answer = matched(&world, &world.backup("zstd"));
    assert_eq!(answer["compared"]["rows"], database.sql(SAMPLE_ROWS).parse::<u64>().unwrap());
    // On a newer server, into a database beside those of others.
    let databases =
        |server: Server| server.sql("postgres", "select string_agg(datname, ' ') from pg_database where datname like 'pgvigil%'");
    for (name, server) in [("none", Server::Pg18), ("custom", Server::Pg15)] {
        matched(&world, &world.backup(name));
        let owner = std::fs::read_to_string(world.path("state/id")).unwrap_or_default();
        assert!(owner.is_empty() || !databases(server).contains(owner.trim()), "{}", databases(server));
    }
    assert_eq!(std::fs::read_dir(world.path("state/spool/drills")).unwrap().count(), 0);
}

/// Of what a whole dump holds.
const SAMPLE_ROWS: &str = "select sum((xpath('/row/n/text()', query_to_xml(format('select count(*) as n from only %s', c.oid::regclass), false, true, '')))[1]::text::bigint)
    from pg_class c where relkind = 'r' and relpersistence <> 't' and relnamespace::regnamespace::text not in ('pg_catalog', 'information_schema') and relnamespace::regnamespace::text !~ '^pg_toast'";

#[test]
fn several_databases_and_the_definitions_alone() {
    let (one, two) = (Database::empty(Server::Pg15), Database::empty(Server::Pg15));
    one.sql("create table a (i int primary key); insert into a values (1), (2); create view v as select * from a");
    two.sql("create table b as select generate_series(1, 5) as i");
    let world = World::with(
        Server::Pg15,
        &format!(
            "[backups.both]\ndatabases = [\"{0}\", \"{1}\"]\ndrill = {{ on = \"local\" }}\n\
             [backups.schema]\ndatabase = \"{0}\"\ncontents = \"schema\"\ndrill = {{ on = \"local\" }}\n\
             [backups.rows]\ndatabase = \"{0}\"\ncontents = \"data\"\ndrill = {{ on = \"local\" }}\n",
            one.name, two.name
        ),
    );
    let both = world.backup("both");
    let answer = matched(&world, &both);
    assert_eq!((&answer["compared"]["tables"], &answer["compared"]["rows"]), (&2.into(), &7.into()), "{answer:#}");
    let schema = world.backup("schema");
    let answer = matched(&world, &schema);
    assert_eq!(answer["compared"]["rows"], 0, "{answer:#}");

    // Rows without definitions: nothing is said against them.
    let rows = world.backup("rows");
    let ran = drill(&world, &rows).expect(3);
    assert!(ran.stderr.contains("cannot verify") && ran.stderr.contains("rows only"), "{ran:#?}");
    assert_eq!((ran.json()["outcome"].as_str(), rungs(&world, "rows")), (Some("problems"), vec!["readable".to_owned()]));

    // The second of two is the one that differs, and it is named with its database.
    change_manifest(&world, &both, |manifest| manifest["evidence"]["databases"][&two.name]["rows"]["public.b"] = 6.into());
    let answer = drill(&world, &both).expect(1).json();
    assert_eq!(mismatches(&answer), [format!("database {:?}: table public.b: rows | 6 | 5", two.name)]);
    // And where definitions alone are held, they count as well.
    change_manifest(&world, &schema, |manifest| {
        let definitions = manifest["evidence"]["databases"][&one.name]["definitions"].as_object_mut().unwrap();
        definitions.insert("view public.lost".to_owned(), "0".into());
    });
    assert_eq!(mismatches(&drill(&world, &schema).expect(1).json()), ["view public.lost | there | missing"]);
}

/// What each of the differences is made in.
const SOURCE: &str = "
    create extension citext; create extension hstore;
    create table removed as select generate_series(1001, 1010) as i;
    create table added as select generate_series(2001, 2010) as i;
    create table changed as select 'value ' || generate_series(3001, 3010) as t;
    create table emptied as select generate_series(4001, 4003) as i;
    create table same (i int primary key, r int); insert into same select n, n from generate_series(5001, 5010) n;
    create sequence behind; select nextval('behind') from generate_series(1, 40);
    create index lost_index on same (r);
    create function altered() returns int language sql as 'select 4711';
    create function touched() returns trigger language plpgsql as 'begin return new; end';
    create trigger lost_trigger before update on same for each row execute function touched();
    create view lost_view as select * from same;
    create type kind as enum ('one', 'two');
    create table refers (i int constraint refers_same references same, constraint positive check (i > 0));
    create policy lost_policy on same using (i > 0);
    alter table same enable row level security;
    select lo_from_bytea(4711, 'large');
";

/// The differences by name, without digests; those are in `CONTENTS`.
const DIFFERENCES: [&str; 16] = [
    "table public.added: rows | 10 | 11",
    "table public.emptied: rows | 3 | 0",
    "table public.removed: rows | 10 | 8",
    "constraint public.refers.positive | there | missing",
    "constraint public.refers.refers_same | there | missing",
    "enum public.kind | definition | definition",
    "function public.altered() | definition | definition",
    "index public.lost_index | there | missing",
    "policy public.same.lost_policy | there | missing",
    "trigger public.same.lost_trigger | there | missing",
    "view public.lost_view | there | missing",
    "constraint not valid public.refers.refers_same | missing | there",
    "sequence public.behind: value | at least 40 | 3",
    "extension hstore | 1.8 | missing",
    "large objects | 1 | 0",
    "check sum | 50",
];

const CONTENTS: [&str; 4] = ["added", "changed", "emptied", "removed"];

#[track_caller]
fn assert_all_named(answer: &Value, with_contents: bool) {
    let named = mismatches(answer);
    let mut left: Vec<&String> = named.iter().collect();
    let mut take = |object: &str, rest: &str| {
        let place = left.iter().position(|line| line.starts_with(&format!("{object} | ")) && line.contains(rest));
        left.remove(place.unwrap_or_else(|| panic!("{object} {rest} is not in {named:#?}")));
    };
    for difference in DIFFERENCES {
        let fields: Vec<&str> = difference.split(" | ").collect();
        match fields[..] {
            // The version of an extension is of the server.
            [object, "1.8", found] => take(object, found),
            [object, "definition", "definition"] => take(object, "definition "),
            _ => take(fields[0], &fields[1..].join(" | ")),
        }
    }
    for table in if with_contents { &CONTENTS[..] } else { &[] } {
        take(&format!("table public.{table}: content"), "xxh3-128:");
    }
    assert!(left.is_empty(), "more than was changed: {left:#?}");
}

fn of_source(server: Server, keys: &str) -> (Database, World, Smtp) {
    let database = Database::empty(server);
    database.sql(SOURCE);
    let smtp = Smtp::start(&[]);
    let on = if server == Server::Exec { "container" } else { "local" };
    let section = format!(
        "[backups.x]\ndatabase = \"{}\"\ndrill = {{ on = \"{on}\" }}\nchecks = {{ sum = \"select sum(r - 5000) - 5 from public.same where i <= 5010\" }}\n{keys}\n",
        database.name
    );
    let world = World::with(server, &format!("{}{section}", smtp.section("")));
    (database, world, smtp)
}

/// What is told of a bad backup, and where `latest` points then.
fn assert_told_as_bad(world: &World, smtp: &Smtp, good: &str, bad: &str, ran: &Ran) {
    let answer = ran.json();
    assert_eq!((&answer["outcome"], &answer["rung"]), (&"failed".into(), &"bad".into()), "{answer:#}");
    assert!(ran.stderr.contains("table public.removed: rows: expected 10, found 8"), "{}", ran.stderr);
    assert_eq!(rungs(world, "x"), ["bad", "readable"]);
    let latest = std::fs::read_link(world.store().join("x/latest")).unwrap();
    assert_eq!(format!("x/{}", latest.display()), good);
    let mails = smtp.wait_for(1);
    let mail = mails.iter().find(|mail| mail.text().contains("table public.removed: rows: expected 10, found 8"));
    let mail = mail.unwrap_or_else(|| panic!("nothing was told: {:?}", smtp.alerts()));
    assert!(mail.alert().1 == "open" && mail.text().contains(bad), "{}", mail.text());
}

#[test]
fn what_is_changed_in_a_plain_dump_is_named() {
    for server in [Server::Pg15, Server::Exec] {
        let (_database, world, smtp) = of_source(server, "evidence = \"content\"");
        let good = world.backup("x");
        let bad = world.backup("x");
        change_dump(&world, &bad, |sql| {
            let sql = replaced(&sql, "\n1003\n1004\n", "\n");
            let sql = replaced(&sql, "\n2005\n", "\n2005\n2005\n");
            let sql = replaced(&sql, "value 3007\n", "value 3008\n");
            let sql = replaced(&sql, "4001\n4002\n4003\n", "");
            let sql = replaced(&sql, "setval('public.behind', 40, true)", "setval('public.behind', 3, true)");
            let sql = replaced(&sql, "select 4711", "select 4712");
            let sql = replaced(&sql, "'two'", "'too'");
            let sql =
                replaced(&sql, "5007\t5007\n", "5007\t5008\n").replace("REFERENCES public.same(i)", "REFERENCES public.same(i) NOT VALID");
            let sql = replaced(&sql, ",\n    CONSTRAINT positive CHECK ((i > 0))", "");
            let sql = [
                "CREATE INDEX lost_index",
                "CREATE TRIGGER lost_trigger",
                "CREATE VIEW public.lost_view",
                "ALTER VIEW public.lost_view",
                "ALTER TABLE public.lost_view",
                "CREATE POLICY lost_policy",
                "CREATE EXTENSION IF NOT EXISTS hstore",
                "COMMENT ON EXTENSION hstore",
            ]
            .iter()
            .fold(sql, |sql, statement| if sql.contains(statement) { without(&sql, statement) } else { sql });
            // The large object with its bytes.
            let from = sql.find("SELECT pg_catalog.lo_create").unwrap();
            let to = from + sql[from..].find("COMMIT;\n").unwrap() + "COMMIT;\n".len();
            let large: String = sql[from..to]
                .lines()
                .filter(|line| !line.contains("lo_") && !line.contains("lowrite") && !line.contains("LARGE"))
                .map(|line| format!("{line}\n"))
                .collect();
            format!("{}{large}{}", &sql[..from], &sql[to..])
        });
        let ran = drill(&world, &bad).expect(1);
        let mut answer = ran.json();
        // That one value is in a table that is otherwise the same, and its check.
        let named = answer["compared"]["mismatches"].as_array_mut().unwrap_or_else(|| panic!("{ran:#?}"));
        let of_same = named.iter().position(|mismatch| mismatch["object"] == "table public.same: content");
        named.remove(of_same.unwrap_or_else(|| panic!("the changed value is not named: {named:#?}")));
        assert_all_named(&answer, true);
        assert_told_as_bad(&world, &smtp, &good, &bad, &ran);
    }
}

#[test]
fn what_is_changed_in_an_archive_is_named() {
    let (database, world, smtp) = of_source(Server::Pg18, "format = \"custom\"");
    let good = world.backup("x");
    let bad = world.backup("x");
    let copy = Database::create(Server::Pg18, &unique("changed"), &database.name);
    copy.sql(
        "delete from removed where i in (1003, 1004); insert into added values (2005); update changed set t = 'value 3008' where t = 'value 3007';
        truncate emptied; select setval('behind', 3); create or replace function altered() returns int language sql as 'select 4712';
        alter type kind rename value 'two' to 'too'; update same set r = 5008 where i = 5007; alter table refers drop constraint positive,
        drop constraint refers_same, add constraint refers_same foreign key (i) references same not valid; drop index lost_index;
        drop trigger lost_trigger on same; drop view lost_view; drop policy lost_policy on same; drop extension hstore; select lo_unlink(4711)",
    );
    let archive = world.path("changed.dump");
    let output = run(Server::Pg18.tool("pg_dump").args(["-Fc", "-d", &copy.name, "-f"]).arg(&archive));
    assert!(output.status.success(), "{output:?}");
    let bytes = std::fs::read(&archive).unwrap();
    put(&world, &bad, &bytes, bytes.len() as u64);
    let ran = drill(&world, &bad).expect(1);
    assert_all_named(&ran.json(), false);
    assert_told_as_bad(&world, &smtp, &good, &bad, &ran);
}

#[test]
fn a_statement_that_fails_is_a_bad_backup() {
    let (_database, world, _smtp) = of_source(Server::Pg15, "");
    let id = world.backup("x");
    change_dump(&world, &id, |sql| {
        replaced(&sql, "CREATE INDEX lost_index ON public.same USING btree (r)", "CREATE INDEX lost_index ON public.same USING btree (q)")
    });
    let ran = drill(&world, &id).expect(1);
    assert!(ran.stderr.contains("column \"q\" does not exist") && ran.stderr.contains("lost_index"), "{}", ran.stderr);
    assert_eq!((ran.json()["rung"].as_str(), rungs(&world, "x")), (Some("bad"), vec!["bad".to_owned()]));
}

#[test]
fn what_the_drills_server_lacks_is_told_apart() {
    let database = Database::empty(Server::Pg15);
    database.sql("create table t as select 1 as i");
    let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabase = \"{}\"\ndrill = {{ on = \"local\" }}\n", database.name));
    let id = world.backup("x");
    let name = &database.name;
    change_manifest(&world, &id, |manifest| manifest["evidence"]["databases"][name]["extensions"]["postgis"] = "3.3".into());
    let ran = drill(&world, &id).expect(3);
    assert!(ran.stderr.contains("cannot verify: install extension postgis"), "{ran:#?}");
    assert_eq!((ran.json()["outcome"].as_str(), ran.json()["compared"].clone()), (Some("problems"), Value::Null));
    assert_eq!(rungs(&world, "x"), ["written"]);
    // What was proven stays.
    world.pgvigil(&["verify", &id]).expect(0);
    drill(&world, &id).expect(3);
    assert_eq!(rungs(&world, "x"), ["readable"]);

    // Nothing that could be preloaded.
    let preload = |library: &str| {
        change_manifest(&world, &id, |manifest| {
            let evidence = &mut manifest["evidence"]["databases"][name];
            evidence["extensions"].as_object_mut().unwrap().remove("postgis");
            evidence["preload"] = library.into();
        });
    };
    preload("timescaledb");
    let ran = drill(&world, &id).expect(3);
    assert!(ran.stderr.contains("cannot verify") && ran.stderr.contains("library timescaledb"), "{ran:#?}");
    assert_eq!(rungs(&world, "x"), ["written"]);
    preload("pg_stat_statements");
    matched(&world, &id);
}

/// Roles, tablespaces, the name of the first superuser and the preloaded libraries are of the source
/// alone.
#[test]
fn what_a_cluster_of_its_own_has_is_made_for_the_drill() {
    let cluster = Cluster::start(15, "shared_preload_libraries = 'pg_stat_statements'", &[]);
    let place = tempfile::tempdir().unwrap();
    if nix::unistd::Uid::effective().is_root() {
        stock("chown", &["postgres:", &place.path().display().to_string()], std::path::Path::new("/"));
    }
    let sql = |user: &str, database: &str, sql: &str| {
        let output = run(cluster.tool("psql").env("PGUSER", user).args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql]));
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let secret = password().replace('\'', "''");
    sql("postgres", "postgres", &format!("create role boss superuser login password '{secret}'"));
    sql("boss", "postgres", "alter role postgres rename to \"First admin\"");
    sql("boss", "postgres", "create role \"Own'er\" nologin");
    sql("boss", "postgres", "create role reader nologin");
    sql("boss", "postgres", &format!("create tablespace \"Fast disk\" location '{}'", place.path().display()));
    sql("boss", "postgres", "create database app owner \"Own'er\"");
    sql("boss", "app", "create extension pg_stat_statements");
    sql(
        "boss",
        "app",
        "create table t (i int) tablespace \"Fast disk\"; insert into t values (1); alter table t owner to \"Own'er\"; grant select on t to reader;
        create index t_i on t (i) tablespace \"Fast disk\"; create table of_first (i int); alter table of_first owner to \"First admin\";
        create policy p on t to reader, \"Own'er\" using (true)",
    );
    let world = World::new();
    world.configure(&format!(
        "[servers.main]\nsocket = \"{}\"\nport = {}\nuser = \"boss\"\npassword = {{ env = \"PGVIGIL_TEST_PASSWORD\" }}\n\
         [backups.x]\ndatabase = \"app\"\nevidence = \"content\"\ndrill = {{ on = \"local\" }}\n",
        cluster.host(),
        cluster.port
    ));
    let id = world.backup("x");
    let evidence = world.manifest(&id)["evidence"]["databases"]["app"].clone();
    assert_eq!((&evidence["superuser"], &evidence["preload"]), (&"First admin".into(), &"pg_stat_statements".into()), "{evidence:#}");
    assert_eq!(evidence["tablespaces"], json!(["Fast disk"]), "{evidence:#}");
    matched(&world, &id);
}

#[test]
fn dumps_of_other_tools_are_restored() {
    let role = Role::create(Server::Pg15, "");
    let database = Database::empty(Server::Pg15);
    database.sql(&format!(
        "create table t (i int primary key, t text); insert into t values (1, 'a;b'), (2, E'x\\ny'); alter table t owner to {0};
        create table u as select generate_series(1, 50) as i; grant select on u to {0}; create view v as select * from t; create sequence s; select nextval('s')",
        role.name
    ));
    let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabase = \"{}\"\ndrill = {{ on = \"local\" }}\n", database.name));
    let gone = Role::create(Server::Pg15, "");
    for (n, args) in [
        &["--clean", "--inserts"][..],
        &["--clean", "--if-exists"],
        &["--column-inserts", "--no-comments"],
        &["-Fc", "--clean", "--if-exists"],
    ]
    .iter()
    .enumerate()
    {
        let name =
            world.path(&format!("backup_{}_2024010{}_020000.{}", database.name, n + 1, if args[0] == "-Fc" { "dump" } else { "sql" }));
        let output = run(Server::Pg15.tool("pg_dump").args(*args).args(["-d", &database.name, "-f"]).arg(&name));
        assert!(output.status.success(), "{output:?}");
        let adopted = world.pgvigil(&["--json", "adopt", "x", name.to_str().unwrap()]);
        assert!(adopted.code == Some(0) || adopted.code == Some(3), "{adopted:#?}");
        let ran = drill(&world, "x/latest");
        let answer = ran.json();
        assert_eq!((ran.code, answer["rung"].as_str()), (Some(0), Some("restored")), "{args:?}: {ran:#?}");
        assert!(answer["compared"].is_null() && ran.stderr.contains("nothing to compare with"), "{args:?}: {ran:#?}");
    }
    drop(gone);
}

/// Rows of many lengths, more of them than one session is given.
#[test]
fn rows_of_a_large_table_come_through_two_sessions_and_all_of_them() {
    let database = Database::empty(Server::Pg15);
    database.sql(
        "create table large as select i, repeat(md5(i::text), i % 9) as t from generate_series(1, 100000) as i;
        insert into large values (0, repeat('x', 3000000)), (-1, E'\\\\.\\n\\t'); alter table large add primary key (i)",
    );
    let keys = format!("[backups.x]\ndatabase = \"{}\"\nevidence = \"content\"\ndrill = {{ on = \"local\" }}\n", database.name);
    let world = World::with(Server::Pg15, &keys);
    world.backup("x");
    let ran = drill(&world, "x/latest");
    assert_eq!((ran.code, ran.json()["rung"].as_str()), (Some(0), Some("matched")), "{ran:#?}");
    assert_eq!(ran.json()["compared"]["rows"], 100_002);
    let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabase = \"{}\"\ndrill = {{ on = \"local\" }}\n", database.name));
    let id = world.backup("x");
    let ran = world.pgvigil(&["--json", "restore", &id, "--to-database", &format!("{}_again", database.name)]);
    let again = Database { server: Server::Pg15, name: format!("{}_again", database.name) };
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let digest = "select md5(string_agg(t, ',' order by i)) from large";
    assert_eq!(again.sql(digest), database.sql(digest));
}

/// A restore takes a second and a half, whatever the machine.
const SLOW: &str =
    "create function slow(i int) returns int immutable language plpgsql as 'begin perform pg_catalog.pg_sleep(0.05); return i; end';
    create table t as select generate_series(1, 30) as i; create index t_slow on t (public.slow(i))";

#[test]
fn what_a_drill_measures_is_told_and_held_against_the_budget() {
    let smtp = Smtp::start(&[]);
    let database = Database::empty(Server::Pg15);
    database.sql(SLOW);
    let world = World::new();
    let keys = |budget: &str| {
        let section = format!("[backups.x]\ndatabase = \"{}\"\ndrill = {{ on = \"local\", budget = \"{budget}\" }}\n", database.name);
        world.configure(&format!("{}{}{section}", Server::Pg15.section(), smtp.section("")));
    };
    keys("1s");
    let id = world.backup("x");
    assert!(smtp.alerts().is_empty(), "{:?}", smtp.alerts());
    matched(&world, &id);
    let status = world.pgvigil(&["--json", "status"]).expect(3).json();
    let restore_seconds = status["backups"][0]["restore_seconds"].as_f64().unwrap();
    assert!(restore_seconds >= 1.5, "{status:#}");
    // One for each who is told.
    assert_eq!(smtp.wait_for(2)[1].alert(), ("backup/x/budget", "open"));
    let row = history(&world, "x").into_iter().find(|row| row["kind"] == "drill").unwrap();
    assert_eq!((&row["outcome"], &row["id"]), (&"ok".into(), &id.as_str().into()), "{row:#}");
    assert!(row["slot"].is_null() && row["finished_at"].is_string(), "{row:#}");
    assert_eq!(rungs(&world, "x"), ["matched"]);
    let shown = world.pgvigil(&["--json", "show", &id]).expect(0).json();
    let proofs = shown["stores"][0]["proofs"].as_array().unwrap();
    let drill_of = &proofs.iter().find(|proof| proof["by"] == "drill").unwrap()["drill"];
    assert_eq!(
        (&drill_of["on"], &drill_of["restore_seconds"], &drill_of["compared"]["rows"]),
        (&"local".into(), &restore_seconds.into(), &30.into())
    );
    assert!(drill_of["total_seconds"].as_f64().unwrap() > restore_seconds && drill_of["bytes_per_second"].as_f64().unwrap() > 0.0);
    // With room again, it is over.
    keys("1h");
    matched(&world, &id);
    assert_eq!(smtp.wait_for(4)[3].alert(), ("backup/x/budget", "closed"));
    world.pgvigil(&["status"]).expect(0);
}

#[test]
fn the_daemon_drills_by_schedule() {
    let smtp = Smtp::start(&[]);
    let database = Database::empty(Server::Pg15);
    database.sql("create table t as select 1 as i");
    let world = World::new();
    world.configure(&format!(
        "check_every = \"1s\"\n{}{}[backups.x]\ndatabase = \"{}\"\nwant = \"matched\"\ndrill = {{ on = \"local\", schedule = \"*/2 * * * * *\" }}\n",
        Server::Pg15.section(),
        smtp.section(""),
        database.name
    ));
    let id = world.backup("x");
    let daemon = Daemon::start(&world);
    let drilled = found("a drill", || history(&world, "x").into_iter().find(|row| row["kind"] == "drill" && row["outcome"] == "ok"));
    assert!(drilled["slot"].is_string() && drilled["id"] == id.as_str(), "{drilled:#}");
    assert_eq!(rungs(&world, "x"), ["matched"]);
    world.pgvigil(&["status"]).expect(0);
    // What it holds turns out to be another than it should; a drill under way would be of the former.
    daemon.stop();
    change_manifest(&world, &id, |manifest| manifest["evidence"]["databases"][&database.name]["rows"]["public.t"] = 2.into());
    world.pgvigil(&["verify", &id]).expect(0);
    let daemon = Daemon::start(&world);
    let mail =
        found("a mail of it", || smtp.mails().into_iter().find(|mail| mail.text().contains("table public.t: rows: expected 2, found 1")));
    assert_eq!(mail.alert().1, "open", "{}", mail.text());
    daemon.stop();
    assert_eq!(rungs(&world, "x"), ["bad"]);
    assert_eq!(std::fs::read_dir(world.path("state/spool/drills")).unwrap().count(), 0);
}

#[test]
fn a_drill_proves_nothing_where_there_is_nothing_to_compare() {
    let database = Database::empty(Server::Pg15);
    database.sql("create table t as select 1 as i");
    let world = World::with(
        Server::Pg15,
        &format!("[backups.x]\ndatabase = \"{}\"\nevidence = \"off\"\ndrill = {{ on = \"local\" }}\n", database.name),
    );
    let id = world.backup("x");
    let answer = drill(&world, &id).expect(0).json();
    assert_eq!((answer["rung"].as_str(), &answer["compared"]), (Some("restored"), &Value::Null), "{answer:#}");
}
