//! `next`: the coming slots, with what a change of the clocks and other runs do to them.

use std::process::Command;

use serde_json::Value;

use crate::common::{World, ran};

/// `next` at a moment of the test's own.
fn next_at(world: &World, at: &str, args: &[&str]) -> crate::common::Ran {
    let mut command: Command = world.command(args);
    command.env("LD_PRELOAD", "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1").env("FAKETIME", at).env("TZ", "UTC");
    ran(&mut command)
}

fn world(sections: &str) -> World {
    let world = World::new();
    world.configure(&format!("[servers.main]\nhost = \"127.0.0.1\"\n{sections}"));
    world
}

fn rows(json: &Value) -> Vec<(&str, &str, &str, &str)> {
    let field = |row: &'_ Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    json.as_array()
        .unwrap()
        .iter()
        .map(|row| {
            assert_eq!(field(row, "kind"), "dump");
            (
                row["backup"].as_str().unwrap(),
                row["at"].as_str().unwrap(),
                row["local"].as_str().unwrap(),
                row["note"].as_str().map_or("", |note| note.split(':').next().unwrap()),
            )
        })
        .collect()
}

#[test]
fn gaps_and_folds() {
    let world = world(
        "[backups.a]\ndatabase = \"a\"\nschedule = \"30 2 * * *\"\n\
        [backups.b]\ndatabase = \"b\"\nschedule = \"0 23 * * 6\"\ntimezone = \"America/New_York\"\n[backups.c]\ndatabase = \"c\"\n",
    );
    let spring = next_at(&world, "2026-03-28 12:00:00", &["--json", "next", "--days", "1"]).expect(0).json();
    assert_eq!(
        rows(&spring),
        [("a", "2026-03-29T01:00:00Z", "2026-03-29T03:00:00+02:00", "gap"), ("b", "2026-03-29T03:00:00Z", "2026-03-28T23:00:00-04:00", "")]
    );
    let autumn = next_at(&world, "2026-10-24 12:00:00", &["--json", "next", "--days", "2"]).expect(0).json();
    assert_eq!(
        rows(&autumn),
        [
            ("a", "2026-10-25T00:30:00Z", "2026-10-25T02:30:00+02:00", "fold"),
            ("b", "2026-10-25T03:00:00Z", "2026-10-24T23:00:00-04:00", ""),
            ("a", "2026-10-26T01:30:00Z", "2026-10-26T02:30:00+01:00", "")
        ]
    );
    let table = next_at(&world, "2026-03-28 12:00:00", &["next", "--days", "1"]).expect(0).stdout;
    assert!(table.contains("2026-03-29 03:00:00+02:00") && table.contains("Europe/Vienna") && table.contains("gap:"), "{table}");
    assert!(table.contains("2026-03-28 23:00:00-04:00") && table.contains("America/New_York"), "{table}");
    // A week, if nobody says otherwise. To look is not to make.
    assert_eq!(next_at(&world, "2026-06-01 12:00:00", &["--json", "next"]).expect(0).json().as_array().unwrap().len(), 8);
    assert!(!world.path("state").exists());
    assert_eq!(world.pgvigil(&["next", "--days", "0"]).code, Some(2));
}

/// In the zone of the backup, by the rules of every slot; two at once wait for each other.
#[test]
fn drills() {
    let world = world(
        "[backups.a]\ndatabase = \"a\"\nschedule = \"0 1 * * *\"\ndrill = { schedule = \"30 2 * * 0\" }\n\
        [backups.b]\ndatabase = \"b\"\ndrill = { schedule = \"0 3 * * 0\" }\n[backups.c]\ndatabase = \"c\"\ndrill = { budget = \"1h\" }\n",
    );
    let _ = world.pgvigil(&["--json", "status"]);
    let db = rusqlite::Connection::open(world.path("state/history.db")).unwrap();
    db.execute_batch(
        "insert into runs (kind, backup, server, started_at, finished_at, outcome, id) values
            ('drill', 'a', '', '2026-03-22T02:00:00Z', '2026-03-22T02:10:00Z', 'ok', 'a/20260322T010000Z'),
            ('dump', 'a', 'main', '2026-03-22T02:00:00Z', '2026-03-22T03:30:00Z', 'ok', 'a/20260322T010000Z')",
    )
    .unwrap();
    let found = next_at(&world, "2026-03-28 12:00:00", &["--json", "next", "--days", "1"]).expect(0).json();
    let rows: Vec<String> = found
        .as_array()
        .unwrap()
        .iter()
        .map(|row| format!("{} {} {} {}", row["backup"], row["kind"], row["local"], row["note"]).replace('"', ""))
        .collect();
    let gap = "gap: its time does not exist on that day; it runs when the clocks have gone forward";
    assert_eq!(
        rows,
        [
            "a dump 2026-03-29T01:00:00+01:00 null".to_owned(),
            format!("a drill 2026-03-29T03:00:00+02:00 {gap}"),
            "b drill 2026-03-29T03:00:00+02:00 waits for a, about 10 min".to_owned()
        ]
    );
}

#[test]
fn nothing_comes() {
    let world = world("[backups.c]\ndatabase = \"c\"\n");
    assert_eq!(world.pgvigil(&["--json", "next"]).expect(0).json(), serde_json::json!([]));
    assert!(world.pgvigil(&["next"]).expect(0).stdout.contains("no slot comes"));
}

/// By how long the last good runs took.
#[test]
fn collisions() {
    let world = world(
        "[backups.a]\ndatabase = \"a\"\nschedule = \"0 2 * * *\"\ntimezone = \"UTC\"\n\
        [backups.b]\ndatabase = \"b\"\nschedule = \"30 2 * * *\"\ntimezone = \"UTC\"\n",
    );
    let ask = || next_at(&world, "2026-06-01 12:00:00", &["--json", "next", "--days", "1"]).expect(0).json();
    assert_eq!(ask()[1]["note"], Value::Null);
    // The program makes its own history; only what it says of it is promised.
    let _ = world.pgvigil(&["--json", "status"]);
    let db = rusqlite::Connection::open(world.path("state/history.db")).unwrap();
    db.execute_batch(
        "insert into runs (backup, server, started_at, finished_at, outcome, id) values
            ('a', 'main', '2026-05-31T02:00:00Z', '2026-05-31T02:50:00Z', 'ok', 'a/20260531T020000Z'),
            ('a', 'main', '2026-06-01T02:00:00Z', '2026-06-01T08:00:00Z', 'failed', null)",
    )
    .unwrap();
    let found = ask();
    assert_eq!((&found[0]["backup"], &found[0]["note"], &found[1]["backup"]), (&"a".into(), &Value::Null, &"b".into()), "{found:#}");
    assert_eq!(found[1]["note"], "waits for a, about 20 min", "{found:#}");
    let table = next_at(&world, "2026-06-01 12:00:00", &["next", "--days", "1"]).expect(0).stdout;
    assert!(table.contains("waits for a"), "{table}");
}
