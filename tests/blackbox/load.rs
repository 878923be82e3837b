//! The engine of restores, by its own interface: dumps of real databases into real databases, and
//! what no dump holds.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
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

/// `psql` as a person would do it, to hold our failures against its.
#[expect(dead_code, reason = "for the comparison of speeds")]
fn by_hand(target: &Database, text: &str) {
    let mut command = target.server.tool("psql");
    command.args(["-X", "-q", "-d", &target.name]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}
