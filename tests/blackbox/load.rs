//! The engine of restores, by its own interface: dumps of real databases into real databases, and
//! what no dump holds.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use pgvigil::catalog::{Id, Manifest};
use pgvigil::config::file::Contents;
use pgvigil::error::{Error, Kind, Result};
use pgvigil::host::Tag;
use pgvigil::keys::Identities;
use pgvigil::pack::packer::Meter;
use pgvigil::postgres::Server as Connected;
use pgvigil::postgres::throwaway::{Throwaway, Wanted};
use pgvigil::restore::load::{Load, Loaded, load};
use pgvigil::restore::select::Selection;
use pgvigil::restore::source::{Sql, check};
use pgvigil::verify::stored::Stored;

use crate::common::{Database, Server, World, run};

/// A plain dump of a database.
fn dump(database: &Database, args: &[&str]) -> String {
    let output = run(database.server.tool("pg_dump").args(args).args(["-d", &database.name]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

async fn connected(server: Server) -> Connected {
    let text = format!("{}[stores.s]\npath = \"/nonexistent\"\n", server.section());
    let plan = pgvigil::config::parse(&text, Path::new("test.toml")).unwrap();
    Connected::connect(plan.servers.values().next().unwrap(), Tag::random()).await.unwrap()
}

/// How a test loads.
#[derive(Clone)]
struct Way {
    jobs: usize,
    is_fresh: bool,
    atomic: bool,
    selection: Option<Selection>,
    block_bytes: usize,
}

const PLAIN: Way = Way { jobs: 1, is_fresh: false, atomic: false, selection: None, block_bytes: 100_000 };

fn loaded(target: &Database, text: &str, way: &Way) -> Result<Loaded> {
    runtime().block_on(async { loaded_into(&connected(target.server).await, &target.name, text, way).await })
}

async fn loaded_into(server: &Connected, database: &str, text: &str, way: &Way) -> Result<Loaded> {
    let text = Bytes::from(text.to_owned());
    let (out, blocks) = tokio::sync::mpsc::channel(2);
    let block_bytes = way.block_bytes;
    let reading = tokio::spawn(async move {
        let mut rest = text;
        while !rest.is_empty() {
            let block = rest.split_to(block_bytes.min(rest.len()));
            out.send(block).await.map_err(|_| Error::new(Kind::Cancelled, "nobody wants more"))?;
        }
        Ok(())
    });
    let load_way = Load {
        server,
        database,
        jobs: way.jobs,
        is_fresh: way.is_fresh,
        selection: way.selection.clone(),
        atomic: way.atomic,
        meter: Arc::new(Meter::default()),
        stall_timeout: std::time::Duration::from_secs(600),
    };
    load(load_way, Sql { what: "x".to_owned(), blocks, reading }).await
}

/// A dump without what differs from one dump to the next.
fn comparable(dump: &str) -> String {
    let lines = dump.lines().filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"));
    lines.collect::<Vec<_>>().join("\n")
}

/// A whole dump, loaded in every way, is the same database again.
#[test]
fn a_whole_dump_is_the_same_database_again() {
    for server in [Server::Pg15, Server::Pg18, Server::Exec] {
        let source = Database::sample(server);
        let text = dump(&source, &[]);
        for (jobs, is_fresh, atomic) in [(1, false, false), (2, true, false), (1, false, true)] {
            let target = Database::empty(server);
            let done = loaded(&target, &text, &Way { jobs, is_fresh, atomic, ..PLAIN }).unwrap();
            assert_eq!(done.errors, [], "{server:?} jobs {jobs} atomic {atomic}");
            assert_eq!(done.left_out, [""; 0]);
            let events: u64 = done.rows.iter().filter(|(table, _)| table.starts_with("public.events_")).map(|(_, rows)| rows).sum();
            assert_eq!(events, 25_000);
            assert!(comparable(&dump(&target, &[])) == comparable(&text), "{server:?} jobs {jobs} atomic {atomic}");
        }
    }
}

const END: &str = "\n--\n-- PostgreSQL database dump complete\n--\n\n";

const HEAD: &str = "SET client_encoding = 'UTF8';\nSET standard_conforming_strings = on;\n";

/// Nothing of these reaches a shell, a file or another database; nothing behind them is run.
#[test]
fn a_hostile_dump_is_contained() {
    let target = Database::empty(Server::Pg15);
    let touched = std::env::temp_dir().join(crate::common::unique("touched"));
    let touch = format!("touch {}", touched.display());
    for (n, (text, words)) in [
        (format!("\\! {touch}\n"), "a command for psql"),
        (format!("SELECT pg_catalog.setval('s', 1) \\! {touch}\n;\n"), "a command for psql"),
        (format!("\\set x `{touch}`\n"), "a command for psql"),
        ("\\connect postgres\n".to_owned(), "--create"),
        (format!("COPY t FROM PROGRAM '{touch}';\n"), "COPY t FROM PROGRAM"),
        (format!("CREATE TABLE c (a text);\nCOPY c FROM stdin;\n\\.\r\n\\! {touch}\n\\.\n"), "rows that end in the middle"),
        (format!("CREATE VIEW v AS SELECT aE'\\' ; \\! {touch}\n';\n"), "a word right in front of a quote"),
        (format!("CREATE VIEW v AS SELECT E'a'\n'\\' || ' ; \\! {touch}\n ';\n"), "a string in two parts"),
        (
            format!("SET standard_conforming_strings TO off;\nCREATE VIEW v AS SELECT '\\' || ' ; \\! {touch}\n ';\n"),
            "standard_conforming_strings TO off",
        ),
        ("ALTER SYSTEM SET archive_command = 'x';\n".to_owned(), "ALTER SYSTEM"),
        ("DROP DATABASE sample;\n".to_owned(), "DROP DATABASE"),
        ("CREATE ROLE intruder SUPERUSER;\n".to_owned(), "CREATE ROLE"),
    ]
    .into_iter()
    .enumerate()
    {
        for atomic in [false, true] {
            let dump = format!("{HEAD}CREATE SCHEMA s{n}_{atomic};\n{text}CREATE SCHEMA behind;\n");
            let error = loaded(&target, &dump, &Way { atomic, block_bytes: 64, ..PLAIN }).unwrap_err();
            assert!(error.message.contains(words), "{text}: {error}");
            assert!(!touched.exists(), "{text}");
            assert_eq!(target.sql("select count(*) from pg_namespace where nspname = 'behind'"), "0", "{text}");
        }
    }
    assert_eq!(target.sql("select count(*) from pg_roles where rolname = 'intruder'"), "0");
}

/// What no scan of the text can see, our own `\restrict` and the repeated settings still catch: a
/// function that turns the strings around in the session.
#[test]
fn a_function_cannot_change_how_psql_reads() {
    let target = Database::empty(Server::Pg15);
    let touched = std::env::temp_dir().join(crate::common::unique("touched"));
    let dump = format!(
        "{HEAD}CREATE FUNCTION public.f() RETURNS boolean LANGUAGE sql AS $$select set_config('standard_conforming_strings', 'off', false) = 'off'$$;\n\
         CREATE TABLE public.t (a boolean DEFAULT public.f());\nINSERT INTO public.t DEFAULT VALUES;\n\
         INSERT INTO public.t SELECT '\\' = ' ; \\! touch {}\n ';\nCREATE SCHEMA behind;\n{END}",
        touched.display()
    );
    let done = loaded(&target, &dump, &PLAIN).unwrap();
    assert_eq!(done.errors, []);
    assert!(!touched.exists());
    assert_eq!(target.sql("select count(*) from pg_namespace where nspname = 'behind'"), "1");
    assert_eq!(target.sql("select count(*) filter (where a), count(*) from public.t"), "1|2");
}

/// What fails is skipped and counted, its rows are never run, and all else is there.
#[test]
fn failures_are_skipped_and_counted() {
    let target = Database::empty(Server::Pg15);
    let dump = format!(
        "{HEAD}SELECT pg_catalog.set_config('search_path', '', false);\n\
         CREATE TABLE public.a (x integer);\nALTER TABLE public.a OWNER TO nobody_1;\nCREATE TABLE public.b (x integer);\n\
         ALTER TABLE public.b OWNER TO nobody_2;\n\
         COPY public.missing (x) FROM stdin;\nCREATE SCHEMA from_rows;\n\\.\n\n\
         COPY public.a (x) FROM stdin;\n1\n2\n\\.\n\nCOPY public.b (x) FROM stdin;\n1\nx\nCREATE SCHEMA from_rows;\n\\.\n\n\
         COMMENT ON TABLE public.b IS 'ünï \\';\n\
         ALTER TABLE ONLY public.a ADD CONSTRAINT k PRIMARY KEY (x);\nALTER TABLE ONLY public.a ADD CONSTRAINT k2 PRIMARY KEY (x);\n\
         CREATE INDEX i ON public.b USING btree (x);\nCOMMENT ON INDEX public.i IS 'i';\n{END}"
    );
    for (jobs, is_fresh) in [(1, false), (2, true)] {
        let done = loaded(&target, &dump, &Way { jobs, is_fresh, ..PLAIN }).unwrap();
        let errors: Vec<(&str, u64)> = done.errors.iter().map(|failure| (failure.message.lines().next().unwrap(), failure.count)).collect();
        assert_eq!(
            errors,
            [
                ("role \"nobody_1\" does not exist", 2),
                ("relation \"public.missing\" does not exist", 1),
                ("invalid input syntax for type integer: \"x\"", 1),
                ("multiple primary keys for table \"a\" are not allowed", 1),
            ]
        );
        assert_eq!(done.errors[0].statement, "ALTER TABLE public.a OWNER TO nobody_1;");
        assert_eq!(done.rows, [("public.a".to_owned(), 2)]);
        assert_eq!(target.sql("select count(*) from pg_namespace where nspname = 'from_rows'"), "0");
        assert_eq!(target.sql("select obj_description('public.b'::regclass), obj_description('public.i'::regclass)"), "ünï \\|i");
        assert_eq!(target.sql("select sum(x) from public.a"), "3");
        target.sql("drop table public.a, public.b");
    }
}

/// A server of a drill on this machine reads many rows by itself, from pipes. Rows of any length come
/// whole, what fails is told with the server's words, and a role that may name no file goes the other way.
#[test]
fn rows_that_the_server_reads_by_itself() {
    let world = World::new();
    let folder = world.path("clusters");
    runtime().block_on(async {
        let wanted =
            Wanted { major: 15, superuser: "postgres", preload: None, tag: Tag::random(), owner: "test", folder: Path::new(&folder) };
        let drill = Throwaway::local(None, &wanted).await.unwrap();
        let row = |x: &str| format!("{x}\t{}\n", "y".repeat(90));
        let rows = |from: u32, to: u32| (from..to).map(|x| row(&x.to_string())).collect::<String>();
        let long = format!("0\t{}\n", "z".repeat(3_000_000));
        let copy = |table: &str, rows: &str| format!("COPY public.{table} (x, t) FROM stdin;\n{rows}\\.\n\n");
        let tables: String = ["a", "b", "c"].map(|table| format!("CREATE TABLE public.{table} (x integer, t text);\n")).concat();
        let other = "SET SESSION AUTHORIZATION 'somebody';\nCREATE TABLE other.d (x integer, t text);\n";
        let dump = format!(
            "{HEAD}{tables}{}{}{}{}{other}{}{END}",
            copy("a", &[rows(0, 70_000), long.clone(), rows(70_000, 80_000)].concat()),
            copy("b", &[rows(0, 60_000), row("no number"), rows(0, 60_000)].concat()),
            copy("missing", &rows(0, 80_000)),
            copy("c", "1\tx\n"),
            copy("d", &rows(0, 80_000)).replace("public.", "other."),
        );
        for (n, (jobs, block_bytes)) in [(1, 500_000), (2, 500_000), (2, 9_000), (2, 5_000_000)].into_iter().enumerate() {
            let database = format!("d{n}");
            let made = format!("create database {database}; {} select '1'", if n == 0 { "create role somebody;" } else { "" });
            assert_eq!(drill.server.query::<u32>("postgres", &made).await.unwrap(), 1);
            let schema = "create schema other; grant all on schema other to somebody; select '1'";
            assert_eq!(drill.server.query::<u32>(&database, schema).await.unwrap(), 1);
            let done = loaded_into(&drill.server, &database, &dump, &Way { jobs, is_fresh: true, block_bytes, ..PLAIN }).await.unwrap();
            let errors: Vec<&str> = done.errors.iter().map(|failure| failure.message.lines().next().unwrap()).collect();
            let expected = ["invalid input syntax for type integer: \"no number\"", "relation \"public.missing\" does not exist"];
            assert_eq!(errors, expected, "jobs {jobs}, blocks of {block_bytes}");
            let told: Vec<(&str, u64)> = done.rows.iter().map(|(table, rows)| (table.as_str(), *rows)).collect();
            assert_eq!(told, [("public.a", 80_001), ("public.c", 1), ("other.d", 80_000)]);
            let there = "select json_build_array((select count(*) from a), (select sum(x) from a), (select max(length(t)) from a),
                (select count(*) from c), (select count(*) from other.d))";
            let sum: u64 = (0..80_000).sum();
            assert_eq!(drill.server.query::<[u64; 5]>(&database, there).await.unwrap(), [80_001, sum, 3_000_000, 1, 80_000]);
        }
        let cluster = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
        assert_eq!(std::fs::read_dir(cluster.join("pipes")).unwrap().count(), 0);
        drill.remove().await.unwrap();
    });
}

/// In one transaction the first failure is the end of all, and says what to do.
#[test]
fn at_once_or_not_at_all() {
    let target = Database::empty(Server::Pg15);
    let atomic = Way { atomic: true, ..PLAIN };
    let dump = format!(
        "{HEAD}CREATE TABLE public.a (x integer);\nCOPY public.a (x) FROM stdin;\n1\n\\.\n\nCREATE TABLE public.b (x public.mood);\n"
    );
    let error = loaded(&target, &dump, &atomic).unwrap_err();
    assert!(error.message.contains("type \"public.mood\" does not exist"), "{error}");
    assert!(error.message.contains("CREATE TABLE public.b"), "{error}");
    assert!(error.hint.unwrap().contains("--schema"));
    // A text that ends too early is none either.
    let error = loaded(&target, &format!("{HEAD}CREATE TABLE public.a (x integer);\nCREATE TABLE"), &atomic).unwrap_err();
    assert_eq!(error.kind, Kind::Damaged);
    assert_eq!(target.sql("select count(*) from pg_class where relnamespace = 'public'::regnamespace"), "0");
}

fn selection(tables: &[&str]) -> Selection {
    Selection {
        tables: tables.iter().map(|table| (*table).to_owned()).collect(),
        schemas: Vec::new(),
        contents: Contents::All,
        into_schema: None,
    }
}

/// The rows of a table, whatever their order.
fn digest(database: &Database, table: &str) -> String {
    database.sql(&format!("select count(*), md5(coalesce(string_agg(t::text, e'\\n' order by t::text), '')) from {table} t"))
}

/// What the tables of the sample need of the rest.
const NEEDED: &str = "CREATE TYPE order_status AS ENUM ('new', 'paid', 'shipped', 'it''s \"lost\"', 'zurück');
    CREATE DOMAIN email AS text CHECK (VALUE ~ '^[^@ ]+@[^@ ]+$'); CREATE SEQUENCE invoice_number;
    CREATE FUNCTION refresh_total() RETURNS trigger LANGUAGE plpgsql AS $$begin return new; end$$;";

/// Each table by itself, out of a dump of all of them, with its rows, its index, its sequence.
#[test]
fn each_table_of_the_sample_by_itself() {
    let source = Database::sample(Server::Pg15);
    source.sql("create table public.serials (id serial primary key, parent integer references public.serials, v text); insert into public.serials (v) values ('a'), ('b')");
    let text = dump(&source, &[]);
    let tables = source.sql(
        "select quote_ident(nspname) || '.' || quote_ident(relname) from pg_class c join pg_namespace n on n.oid = relnamespace
         where relkind in ('r', 'p') and nspname in ('public', 'Mixed Case') and relname !~ '^we\"ird' order by 1",
    );
    let atomic = Way { atomic: true, ..PLAIN };
    // Its name is too long for lines, and cut where PostgreSQL cuts it.
    let hostile = source.sql("select quote_ident(relname) from pg_class where relname ~ '^we\"ird' and relkind = 'r'");
    for table in tables.lines().chain([hostile.as_str()]) {
        let target = Database::empty(Server::Pg15);
        target.sql(NEEDED);
        target.sql("CREATE SCHEMA \"Mixed Case\"");
        // Whom its foreign keys look at comes with it.
        let chosen: &[&str] = match table {
            "public.orders" => &["public.orders", "customers"],
            "public.order_items" => &["order_items", "orders", "customers", "products"],
            table => &[table],
        };
        let done = loaded(&target, &text, &Way { selection: Some(selection(chosen)), ..atomic.clone() })
            .unwrap_or_else(|error| panic!("{table}: {error}"));
        assert_eq!(digest(&target, table), digest(&source, table), "{table}");
        assert_eq!(done.rows.len(), if table == "public.events" { 3 } else { chosen.len() }, "{table}: {:?}", done.rows);
        // What a dump says of that table is the same again.
        let only = |database: &Database| comparable(&dump(database, &["--strict-names", "-t", table]));
        if table != "public.events" && !table.starts_with("public.events_") && !table.starts_with("\"we") {
            assert_eq!(only(&target), only(&source), "{table}");
        }
    }
}

/// All tables that stand in a schema, with its types and functions.
#[test]
fn a_schema_as_a_whole() {
    let source = Database::sample(Server::Pg15);
    let text = dump(&source, &[]);
    let target = Database::empty(Server::Pg15);
    let wanted = Selection { schemas: vec!["public".to_owned(), "\"Mixed Case\"".to_owned()], ..selection(&[]) };
    loaded(&target, &text, &Way { atomic: true, selection: Some(wanted), ..PLAIN }).unwrap();
    assert!(comparable(&dump(&target, &["--no-blobs"])) == comparable(&dump(&source, &["--no-blobs"])));
    // The rows only, into the tables that are there.
    target.sql("truncate customers, orders, order_items, products restart identity; alter sequence invoice_number restart");
    let rows = Selection { contents: Contents::Data, ..selection(&["customers", "products", "invoice_number", "orders"]) };
    loaded(&target, &text, &Way { atomic: true, selection: Some(rows), ..PLAIN }).unwrap();
    for table in ["customers", "orders"] {
        assert_eq!(digest(&target, table), digest(&source, table), "{table}");
    }
    let sequences = "select sequencename, last_value from pg_sequences order by 1";
    assert_eq!(target.sql(sequences), source.sql(sequences));
}

/// Beside the live ones: in a schema of its own, bound to nothing of theirs.
#[test]
fn tables_beside_the_live_ones() {
    let source = Database::sample(Server::Pg15);
    source.sql("create table serials (id serial primary key, parent integer references serials, v text, check (v <> 'public.serials')); insert into serials (v) values ('a'), ('b')");
    let text = dump(&source, &[]);
    let live = |source: &Database| comparable(&dump(source, &["-n", "public"]));
    let before = live(&source);
    let beside = Selection {
        into_schema: Some("\"As of\"".to_owned()),
        ..selection(&["serials", "orders", "order_items", "events", "\"Mixed Case\".\"Table\""])
    };
    let done = loaded(&source, &text, &Way { atomic: true, selection: Some(beside), ..PLAIN }).unwrap();
    assert!(live(&source) == before);
    for (table, name) in [
        ("public.serials", "serials"),
        ("public.orders", "orders"),
        ("public.order_items", "order_items"),
        ("public.events_2024", "events_2024"),
        ("\"Mixed Case\".\"Table\"", "\"Table\""),
    ] {
        assert_eq!(digest(&source, table), digest(&source, &format!("\"As of\".{name}")), "{table}");
    }
    let left = done.left_out.join("\n");
    for words in ["orders_customer_id_fkey", "table public.customers was not chosen", "order_items_total"] {
        assert!(left.contains(words), "{words} in {left}");
    }
    assert!(!left.contains("serials_parent_fkey"), "{left}");
    // Its own sequence, its own key, its own partition.
    source.sql("insert into \"As of\".serials (v) values ('c')");
    assert_eq!(
        source.sql("select max(id), pg_get_serial_sequence('\"As of\".serials', 'id') from \"As of\".serials"),
        "3|\"As of\".serials_id_seq"
    );
    assert_eq!(source.sql("select last_value from public.serials_id_seq"), "2");
    assert_eq!(
        source.sql("select confrelid::regclass from pg_constraint where conrelid = '\"As of\".serials'::regclass and contype = 'f'"),
        "\"As of\".serials"
    );
    assert_eq!(source.sql("select count(*) from \"As of\".events"), source.sql("select count(*) from events"));
    assert_eq!(
        source.sql("select count(*) from pg_index where indrelid = '\"As of\".orders'::regclass"),
        source.sql("select count(*) from pg_index where indrelid = 'public.orders'::regclass")
    );
}

#[test]
fn names_that_are_not_there_or_twice() {
    let source = Database::sample(Server::Pg15);
    source.sql("create schema other; create table other.customers (x integer)");
    let text = dump(&source, &[]);
    let target = Database::empty(Server::Pg15);
    target.sql(NEEDED);
    for (name, kind, words) in [
        ("nosuch", Kind::NotFound, "no table nosuch"),
        ("customers", Kind::Usage, "other.customers, public.customers"),
        ("a.b.c", Kind::Usage, "a.b.c"),
    ] {
        target.sql("drop schema if exists other; create schema other");
        let error = loaded(&target, &text, &Way { atomic: true, selection: Some(selection(&[name, "products"])), ..PLAIN }).unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.message.contains(words), "{error}");
        assert_eq!(
            target.sql(
                "select count(*) from pg_class where relkind = 'r' and relnamespace in ('public'::regnamespace, 'other'::regnamespace)"
            ),
            "0"
        );
    }
}

/// Every format becomes the same text, and none is opened before its bytes are known.
#[test]
fn a_backup_of_any_format_becomes_sql() {
    let database = Database::sample(Server::Pg15);
    let section = |name: &str, keys: &str| format!("[backups.{name}]\ndatabase = \"{}\"\nglobals = false\n{keys}\n", database.name);
    let world = World::with(
        Server::Pg15,
        &[
            section("gzip", ""),
            section("zstd", "compression = \"zstd\""),
            section("custom", "format = \"custom\""),
            section("folder", "format = \"directory\""),
        ]
        .concat(),
    );
    let read = |id: &str| {
        let plan = pgvigil::config::parse(&std::fs::read_to_string(world.config()).unwrap(), &world.config()).unwrap();
        let (backup, label) = id.split_once('/').unwrap();
        let id = Id { backup: backup.to_owned(), label: label.parse().unwrap() };
        runtime().block_on(async {
            let store = pgvigil::job::stores::open(plan.stores.values().next().unwrap(), "test").unwrap();
            let manifest = std::fs::read(world.folder(&id.to_string()).join("manifest.json")).unwrap();
            let manifest: Manifest = serde_json::from_slice(&manifest).unwrap();
            let host = Arc::clone(connected(Server::Pg15).await.host());
            let keys = Identities::default();
            let stored = Stored { store: &*store, id: &id, manifest: &manifest, keys: &keys };
            let nosuch = check(stored, "nosuch").await.err().unwrap();
            assert_eq!(nosuch.kind, Kind::NotFound);
            let mut sql = check(stored, &database.name).await?.open(host, &plan.spool_dir).await?;
            let mut text = Vec::new();
            while let Some(block) = sql.blocks.recv().await {
                text.extend_from_slice(&block);
            }
            (&mut sql.reading).await.unwrap()?;
            Ok::<_, Error>(String::from_utf8(text).unwrap())
        })
    };
    let expected = dump(&database, &[]);
    for backup in ["gzip", "zstd", "custom", "folder"] {
        let id = world.backup(backup);
        let text = read(&id).unwrap();
        if backup == "gzip" || backup == "zstd" {
            assert!(comparable(&text) == comparable(&expected), "{backup}");
        }
        let target = Database::empty(Server::Pg15);
        assert_eq!(loaded(&target, &text, &PLAIN).unwrap().errors, []);
        assert!(comparable(&dump(&target, &[])) == comparable(&expected), "{backup}");
        // One bit, in any of its files.
        let manifest = world.manifest(&id);
        for name in
            manifest["files"].as_array().unwrap().iter().filter(|file| file["role"] == "dump").map(|file| file["name"].as_str().unwrap())
        {
            let path = world.folder(&id).join(name);
            let sound = std::fs::read(&path).unwrap();
            let mut bytes = sound.clone();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            std::fs::write(&path, &bytes).unwrap();
            let error = read(&id).unwrap_err();
            assert_eq!(error.kind, Kind::Damaged);
            assert!(error.message.contains("sha256"), "{name}: {error}");
            std::fs::write(&path, &sound).unwrap();
        }
    }
}
