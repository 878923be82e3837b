//! The engine of restores, by its own interface: dumps of real databases into real databases, and
//! what no dump holds.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use pgvigil::error::{Error, Kind, Result};
use pgvigil::host::Tag;
use pgvigil::pack::packer::Meter;
use pgvigil::postgres::Server as Connected;
use pgvigil::restore::load::{Load, Loaded, load};
use pgvigil::restore::select::Selection;
use pgvigil::restore::source::Sql;

use crate::common::{Database, Server, run};

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
    let text = Bytes::from(text.to_owned());
    runtime().block_on(async {
        let server = connected(target.server).await;
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
        let meter = Arc::new(Meter::default());
        let load_way = Load {
            server: &server,
            database: &target.name,
            jobs: way.jobs,
            is_fresh: way.is_fresh,
            selection: way.selection.clone(),
            atomic: way.atomic,
            meter,
        };
        load(load_way, Sql { blocks, reading }).await
    })
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
         INSERT INTO public.t SELECT '\\' = ' ; \\! touch {}\n ';\nCREATE SCHEMA behind;\n",
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
         CREATE INDEX i ON public.b USING btree (x);\nCOMMENT ON INDEX public.i IS 'i';\n"
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
