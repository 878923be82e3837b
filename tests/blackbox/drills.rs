//! What stands around drills: their slots, their record, who is told, and what they keep from others.
//! Proofs are written into the store by hand here, as a drill writes them.

use std::fs::File;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::common::daemon::{Daemon, alerts, history, now, until};
use crate::common::{Database, Server, World};
use crate::smtp::Smtp;
use crate::support::check_lines;

fn small() -> Database {
    let database = Database::empty(Server::Pg15);
    database.sql("create table a as select 1 as i");
    database
}

/// A world with the backup x of a database. The daemon looks once a second.
fn world(database: &str, keys: &str) -> World {
    let world = World::new();
    configure(&world, "", database, keys);
    world
}

fn configure(world: &World, email: &str, database: &str, keys: &str) {
    let section = format!("[backups.x]\ndatabase = \"{database}\"\nstores = [\"local\"]\n{keys}\n");
    world.configure(&format!("check_every = \"1s\"\n{}{email}\n{section}", Server::Pg15.section()));
}

/// Adds the proof of a drill to a backup.
fn prove(world: &World, id: &str, rung: &str, restore_seconds: f64, mismatches: &Value) {
    // Proofs of one second are told apart by a number.
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let at = now();
    let proof = json!({
        "at": at, "rung": rung, "by": "drill", "bytes": 10, "seconds": restore_seconds + 1.5, "generator": "test",
        "drill": {
            "on": "local", "restore_seconds": restore_seconds, "total_seconds": restore_seconds + 1.5, "bytes": 10, "raw_bytes": 5_000_000,
            "bytes_per_second": 100_000.0, "compared": { "tables": 3, "rows": 1234, "mismatches": mismatches }
        }
    });
    let name = format!("proof-{}-{}.json", at.format("%Y%m%dT%H%M%SZ"), NEXT.fetch_add(1, Ordering::Relaxed));
    std::fs::write(world.folder(id).join(name), proof.to_string()).unwrap();
}

/// The lock of a name, as another process holds it.
fn lock(world: &World, name: &str) -> File {
    let file = lock_file(world, name);
    file.try_lock().unwrap();
    file
}

fn lock_file(world: &World, name: &str) -> File {
    let locks = world.path("state/locks");
    std::fs::create_dir_all(&locks).unwrap();
    File::options().read(true).write(true).create(true).truncate(false).open(locks.join(format!("{name}.lock"))).unwrap()
}

#[test]
fn status_and_show_tell_what_a_drill_measured() {
    let database = small();
    let world = world(&database.name, "drill = { budget = \"1m\" }");
    let id = world.backup("x");
    let of_x = |code| world.pgvigil(&["--json", "status"]).expect(code).json()["backups"][0].clone();
    assert_eq!(of_x(0)["restore_seconds"], Value::Null);
    prove(&world, &id, "matched", 12.5, &json!([]));
    let x = of_x(0);
    assert_eq!((&x["restore_seconds"], &x["rung"]), (&12.5.into(), &"matched".into()), "{x:#}");
    let table = world.pgvigil(&["status"]).expect(0).stdout;
    assert!(table.contains("RESTORE TAKES") && table.contains("12.5 s of 1 min"), "{table}");
    let shown = world.pgvigil(&["show", &id]).expect(0).stdout;
    for words in ["on local: matched", "restored 5.00 MB in 12.5 s, 100 kB/s, 14 s in all", "compared 3 tables, 1234 rows: all as recorded"]
    {
        assert!(shown.contains(words), "no {words:?} in {shown}");
    }

    // It differs, and takes longer than it may.
    prove(&world, &id, "bad", 75.5, &json!([{ "object": "table public.a: rows", "expected": "1", "found": "0\u{1b}[31m" }]));
    let status = world.pgvigil(&["--json", "status"]).expect(3).json();
    assert_eq!(alerts(&status), ["backup/x/unproven", "backup/x/budget"], "{status:#}");
    let summary = status["alerts"][1]["summary"].as_str().unwrap();
    assert_eq!(summary, "a restore of backup x takes 1 min 16 s, and its budget is 1 min");
    let shown = world.pgvigil(&["show", &id]).expect(0).stdout;
    assert!(shown.contains("one difference\n    table public.a: rows: expected 1, found 0"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "{shown}");
    let json = world.pgvigil(&["--json", "show", &id]).expect(0).json();
    let proofs = json["stores"][0]["proofs"].as_array().unwrap();
    assert_eq!(proofs.last().unwrap()["drill"]["compared"]["mismatches"][0]["object"], "table public.a: rows");
    assert!(proofs[0].get("drill").is_none(), "{proofs:#?}");
}

#[test]
fn a_budget_that_is_passed_and_a_rung_that_is_not_reached_are_told_and_their_end_too() {
    let smtp = Smtp::start(&[]);
    let database = small();
    let world = World::new();
    configure(&world, &smtp.section(""), &database.name, "want = \"matched\"\ndrill = { schedule = \"@yearly\", budget = \"10s\" }");
    // A fresh backup may wait for its drill.
    let id = world.backup("x");
    assert_eq!(smtp.alerts(), []);
    let daemon = Daemon::start(&world);
    prove(&world, &id, "restored", 75.5, &json!([]));
    let told = |count: usize, state: &str| {
        let mut told: Vec<_> =
            smtp.wait_for(count)[count - 4..].iter().map(|mail| (mail.alert().0.to_owned(), mail.alert().1.to_owned())).collect();
        told.sort();
        let of = |key: &str| (format!("backup/x/{key}"), state.to_owned());
        assert_eq!(told, [of("budget"), of("budget"), of("unproven"), of("unproven")]);
    };
    told(4, "open");
    let mails = smtp.mails();
    let text = |key: &str| mails.iter().find(|mail| mail.alert().0 == format!("backup/x/{key}")).unwrap().text().to_owned();
    for words in ["takes 1 min 16 s, and its budget is 10 s", "75.5 s, by the drill of", &format!("pgvigil show {id}")] {
        assert!(text("budget").contains(words), "no {words:?}: {}", text("budget"));
    }
    assert!(text("unproven").contains(&format!("the drill of {id} came to restored, and matched is wanted")), "{}", text("unproven"));
    prove(&world, &id, "matched", 9.5, &json!([]));
    told(8, "closed");
    daemon.stop();
}

#[test]
fn a_drill_that_could_not_be_done_is_told_and_is_no_run() {
    let smtp = Smtp::start(&[]);
    let world = World::new();
    configure(&world, &smtp.section(""), "nobody", "drill = { schedule = \"*/2 * * * * *\" }");
    let daemon = Daemon::start(&world);
    let mail = smtp.wait_for(2).remove(0);
    assert_eq!(mail.alert(), ("backup/x/drill", "open"));
    assert!(mail.header("Subject").contains("drill of backup x failed") && mail.text().contains("nothing to drill"), "{}", mail.text());
    daemon.wait_for_lines("drill could not begin", 2);
    let rows = history(&world, "x");
    assert!(rows.len() >= 2, "a slot each: {rows:#?}");
    for row in &rows {
        assert_eq!((&row["kind"], &row["outcome"], &row["id"]), (&"drill".into(), &"failed".into(), &Value::Null), "{row:#}");
    }
    let mut slots: Vec<&str> = rows.iter().map(|row| row["slot"].as_str().unwrap()).collect();
    slots.dedup();
    assert_eq!(slots.len(), rows.len(), "no slot is tried again: {rows:#?}");
    let status = world.pgvigil(&["--json", "status"]).expect(3).json();
    assert_eq!(alerts(&status), ["backup/x/drill"], "{status:#}");
    assert_eq!(status["backups"][0]["last_run"], Value::Null, "{status:#}");
    let table = world.pgvigil(&["history"]).expect(0).stdout;
    assert!(table.contains("KIND") && table.contains("drill"), "{table}");
    daemon.stop();
}

#[test]
fn one_drill_at_a_time_and_a_run_beside_it() {
    let database = small();
    let world = world(&database.name, "drill = { schedule = \"*/2 * * * * *\" }");
    let held = lock(&world, "DRILL");
    let daemon = Daemon::start(&world);
    daemon.wait_for_line("drill waits");
    let id = world.backup("x");
    let rows = history(&world, "x");
    assert_eq!((rows.len(), &rows[0]["kind"], &rows[0]["id"]), (1, &"dump".into(), &id.as_str().into()), "{rows:#?}");
    drop(held);
    let drilled =
        until("the drill has ended", || history(&world, "x").into_iter().find(|row| row["kind"] == "drill" && !row["outcome"].is_null()));
    assert_eq!(drilled["id"], id.as_str(), "{drilled:#}");
    daemon.stop();
    let dumps = history(&world, "x").into_iter().filter(|row| row["kind"] == "dump").count();
    assert_eq!(dumps, 1, "a drill stores nothing");
}

#[test]
fn a_drill_that_was_killed_is_told_at_the_next_start() {
    let smtp = Smtp::start(&[]);
    let database = small();
    let world = World::new();
    configure(&world, &smtp.section(""), &database.name, "drill = { schedule = \"@yearly\" }");
    let id = world.backup("x");
    let db = rusqlite::Connection::open(world.path("state/history.db")).unwrap();
    let row = format!("insert into runs (kind, backup, server, started_at, id) values ('drill', 'x', '', '2026-01-11T04:00:00Z', '{id}')");
    db.execute_batch(&row).unwrap();
    drop(db);
    // While another holds the lock it may be under way; then it is not.
    let outcome = || history(&world, "x").into_iter().find(|row| row["kind"] == "drill").unwrap()["outcome"].clone();
    let held = lock(&world, "DRILL");
    assert_eq!(outcome(), Value::Null);
    drop(held);
    assert_eq!(outcome(), "interrupted");
    let daemon = Daemon::start(&world);
    let mail = smtp.wait_for(2).remove(0);
    assert_eq!(mail.alert(), ("backup/x/drill", "open"));
    assert!(mail.text().contains("drill of backup x was interrupted") && mail.text().contains(&id), "{}", mail.text());
    daemon.stop();
    let db = rusqlite::Connection::open(world.path("state/history.db")).unwrap();
    let noted: String = db.query_row("select outcome from runs where kind = 'drill'", [], |row| row.get(0)).unwrap();
    assert_eq!(noted, "interrupted");
    // It says nothing of the backup.
    let status = world.pgvigil(&["--json", "status"]).expect(3).json();
    assert_eq!(
        (&status["backups"][0]["last_run"]["outcome"], &status["backups"][0]["last_success_id"]),
        (&"ok".into(), &id.as_str().into())
    );
}

#[test]
fn what_is_under_drill_is_not_pruned() {
    let database = small();
    let world = world(&database.name, "keep = { last = 1 }");
    let first = world.backup("x");
    let held = lock_file(&world, &first.replace('/', "."));
    held.try_lock_shared().unwrap();
    // By the run, and by hand.
    let second = world.backup("x");
    let pruned = world.pgvigil(&["--json", "prune", "x"]).expect(0).json();
    let kept = pruned["kept"].as_array().unwrap().iter().find(|kept| kept["id"] == first.as_str()).unwrap();
    assert_eq!((&kept["reasons"], &pruned["deleted"]), (&json!(["in use by a drill or a restore"]), &json!([])), "{pruned:#}");
    assert!(world.folder(&first).exists());
    drop(held);
    let pruned = world.pgvigil(&["--json", "prune", "x"]).expect(0).json();
    assert_eq!(pruned["deleted"][0]["id"], first.as_str(), "{pruned:#}");
    assert!(!world.folder(&first).exists() && world.folder(&second).exists());
    let locks = std::fs::read_dir(world.path("state/locks")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(locks.collect::<Vec<_>>(), ["x.lock"]);
}

#[test]
fn the_history_of_an_earlier_version_is_read() {
    let world = world("nobody", "");
    std::fs::create_dir_all(world.path("state")).unwrap();
    let db = rusqlite::Connection::open(world.path("state/history.db")).unwrap();
    db.execute_batch(
        "create table runs (row integer primary key, backup text not null, server text not null, slot text, started_at text not null,
            finished_at text, outcome text, error text, id text, tag text);
        alter table runs add column scheduled integer not null default 0;
        alter table runs add column may_pass integer not null default 0;
        create table schedules (backup text primary key, schedule text not null, since text not null);
        insert into runs (backup, server, started_at, finished_at, outcome, error) values
            ('x', 'main', '2024-01-15T01:00:00Z', '2024-01-15T01:00:09Z', 'failed', 'no such database');",
    )
    .unwrap();
    drop(db);
    let rows = history(&world, "x");
    assert_eq!((rows.len(), &rows[0]["kind"], &rows[0]["error"]), (1, &"dump".into(), &"no such database".into()), "{rows:#?}");
    let status = world.pgvigil(&["--json", "status"]).expect(3).json();
    assert_eq!(alerts(&status), ["backup/x/failed"], "{status:#}");
}

#[test]
fn check_tells_whether_drills_can_be_done() {
    let database = small();
    let lines = |keys: &str| check_lines(&world(&database.name, keys).pgvigil(&["--json", "check"]).expect(3));
    let one = |keys: &str, words: &[&str]| {
        let lines = lines(keys);
        assert!(lines.iter().any(|line| words.iter().all(|word| line.contains(word))), "{keys}: no {words:?} in {lines:#?}");
    };
    one("drill = { on = \"local\" }", &["drill of x", "initdb"]);
    one("drill = { on = \"main\" }", &["drill of x", "new database on server main"]);
    one("want = \"matched\"", &["no drill has a schedule"]);
    one("want = \"matched\"\nevidence = \"off\"\ndrill = { schedule = \"@daily\" }", &["nothing that a drill could compare"]);
    let quiet = lines("want = \"matched\"\ndrill = { schedule = \"@daily\" }");
    assert!(!quiet.iter().any(|line| line.contains("want")), "{quiet:#?}");

    let faulty = world(&database.name, "drill = { on = \"container\" }").pgvigil(&["check"]).expect(78).stdout;
    assert!(faulty.contains("its server is none") && faulty.contains("write \"local\""), "{faulty}");
    let container = World::with(Server::Exec, "[backups.x]\ndatabase = \"postgres\"\ndrill = {}\n");
    let lines = check_lines(&container.pgvigil(&["--json", "check"]));
    assert!(lines.iter().any(|line| line.contains("drill of x") && line.contains("throwaway container")), "{lines:#?}");
}
