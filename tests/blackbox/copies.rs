//! A backup in several stores: each has its copies, its rungs and its retention, and one that is down
//! holds up nobody.

use std::path::PathBuf;

use crate::common::daemon::{Daemon, alerts, history, until};
use crate::common::{Database, Server, World};
use crate::support::stock;

/// A world with the stores `local` and `other`, and the keys of the second one.
fn world(other: &str, backup: &str) -> (World, Database) {
    let database = Database::sample(Server::Pg15);
    let world = World::new();
    configure(&world, &database, other, backup);
    (world, database)
}

fn configure(world: &World, database: &Database, other: &str, backup: &str) {
    let sections = format!(
        "{}[stores.other]\npath = \"{}\"\n{other}\n[backups.x]\ndatabase = \"{}\"\nstores = [\"local\", \"other\"]\n{backup}\n",
        Server::Pg15.section(),
        world.path("other").display(),
        database.name
    );
    world.configure(&sections);
}

fn labels_in(world: &World, store: &str) -> Vec<String> {
    let entries = std::fs::read_dir(world.path(store).join("x")).into_iter().flatten();
    let mut labels: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    labels.retain(|name| name != "latest");
    labels.sort();
    labels
}

/// Where the copies of a backup are, as `store rung`.
fn copies(world: &World, id: &str) -> Vec<String> {
    let list = world.pgvigil(&["--json", "list", "x"]).json();
    let entry = list.as_array().unwrap().iter().find(|entry| entry["id"] == id).unwrap().clone();
    let copies = entry["stores"].as_array().unwrap().iter();
    copies.map(|copy| format!("{} {}", copy["name"].as_str().unwrap(), copy["rung"].as_str().unwrap())).collect()
}

/// Nothing can be stored there until `up`.
fn down(world: &World) -> PathBuf {
    let path = world.path("other");
    let _ = std::fs::rename(&path, world.path("unplugged"));
    std::fs::write(&path, "no folder").unwrap();
    path
}

fn up(world: &World) {
    std::fs::remove_file(world.path("other")).unwrap();
    let _ = std::fs::rename(world.path("unplugged"), world.path("other"));
}

#[test]
fn a_run_by_hand_fills_every_store() {
    for format in ["plain", "custom", "directory"] {
        let (world, database) = world("", &format!("format = \"{format}\""));
        let id = world.backup("x");
        assert_eq!(copies(&world, &id), ["local readable", "other readable"], "{format}");
        let (here, there) = (world.folder(&id), world.path("other").join(&id));
        // The same bytes, file by file; proofs are of each copy.
        let files = |dir: &PathBuf| stock("bash", &["-c", "find . -type f ! -name 'proof-*' -exec sha256sum {} + | sort"], dir);
        assert_eq!(files(&here), files(&there), "{format}");
        assert_eq!(std::fs::read_link(world.path("other/x/latest")).unwrap(), PathBuf::from(id.strip_prefix("x/").unwrap()));
        let verified = world.pgvigil(&["--json", "verify", &id, "--store", "other"]).expect(0).json();
        assert_eq!(verified["rung"], "readable");
        // The primary burns down.
        std::fs::remove_dir_all(world.store()).unwrap();
        database.sql("delete from orders");
        let target = format!("{}_again", database.name);
        let restored = world.pgvigil(&["--json", "restore", &id, "--store", "other", "--to-database", &target]).expect(0).json();
        assert_eq!(restored["outcome"], "ok", "{restored:#}");
        let count = |database: &str| Server::Pg15.sql(database, "select count(*) from orders");
        assert_eq!((count(&database.name).as_str(), count(&target) == "0"), ("0", false));
        Server::Pg15.sql("postgres", &format!("drop database \"{target}\""));
        let rows = history(&world, "x");
        let copy = rows.iter().find(|row| row["kind"] == "copy").unwrap();
        assert_eq!((&copy["outcome"], &copy["target"], &copy["id"]), (&"ok".into(), &"other".into(), &id.as_str().into()));
    }
}

#[test]
fn a_store_that_is_down_delays_and_holds_what_it_waits_for() {
    let (world, database) = world("keep = { last = 2 }", "keep = { last = 1 }\nevidence = \"off\"\nglobals = false");
    let first = world.backup("x");
    down(&world);
    let ran = world.pgvigil(&["--json", "run", "x"]).expect(3);
    let answer = ran.json();
    assert_eq!((&answer["outcome"], &answer["rung"]), (&"problems".into(), &"readable".into()), "{answer:#}");
    assert!(answer["warnings"][0].as_str().unwrap().contains("store other"), "{answer:#}");
    let second = answer["id"].as_str().unwrap().to_owned();
    let third = world.pgvigil(&["--json", "run", "x"]).expect(3).json()["id"].as_str().unwrap().to_owned();
    // The primary keeps one, and what the other store still has to receive: it would keep two.
    let plan = world.pgvigil(&["--json", "prune", "x", "--dry-run"]).expect(3).json();
    let kept: Vec<String> = plan["kept"].as_array().unwrap().iter().map(|row| format!("{} {}", row["id"], row["reasons"])).collect();
    assert!(kept.len() == 2 && kept[1].contains(&second) && kept[1].contains("awaited by other"), "{kept:#?}");
    assert!(!world.folder(&first).exists(), "it has been received");
    let list = world.pgvigil(&["list"]).expect(3);
    assert!(list.stderr.contains("store other") && list.stdout.contains(&third), "{list:#?}");
    let status = world.pgvigil(&["--json", "status"]).expect(3).json();
    let copy = &status["backups"][0]["copies"][0];
    assert_eq!((&copy["answers"], &copy["awaited"], &copy["store"]), (&false.into(), &2.into(), &"other".into()), "{copy:#}");
    assert!(alerts(&status).contains(&"store/other/unreadable"), "{status:#}");
    assert!(!alerts(&status).iter().any(|key| key.starts_with("backup/x/copy")), "told once: {status:#}");

    up(&world);
    let fourth = world.backup("x");
    assert_eq!(copies(&world, &fourth), ["local readable", "other readable"]);
    let label = |id: &str| id.strip_prefix("x/").unwrap().to_owned();
    // Of the two that were missed the newer one still has a place there.
    assert_eq!(labels_in(&world, "other"), [label(&first), label(&third), label(&fourth)]);
    world.pgvigil(&["prune", "x"]).expect(0);
    assert_eq!(labels_in(&world, "store"), [label(&fourth)]);
    assert_eq!(labels_in(&world, "other"), [label(&third), label(&fourth)], "each has its own retention");
    world.pgvigil(&["run", "x"]).expect(0);
    drop(database);
}

#[test]
fn nothing_is_remembered_and_the_store_is_down() {
    let keys = |last: u32| format!("keep = {{ last = {last} }}\nevidence = \"off\"\nglobals = false");
    let (world, database) = world("keep = { last = 9 }", &keys(2));
    let first = world.backup("x");
    world.backup("x");
    down(&world);
    std::fs::remove_dir_all(world.path("state")).unwrap();
    configure(&world, &database, "keep = { last = 9 }", &keys(1));
    let plan = world.pgvigil(&["--json", "prune", "x"]).expect(3).json();
    assert!(plan["deleted"].as_array().unwrap().is_empty(), "{plan:#}");
    assert_eq!(plan["kept"][1]["reasons"], serde_json::json!(["awaited by other"]));
    assert_eq!(plan["kept"][1]["id"], first.as_str());
}

#[test]
fn a_damaged_copy_is_not_copied_on() {
    let (world, _database) = world("", "evidence = \"off\"\nglobals = false");
    down(&world);
    let id = world.pgvigil(&["--json", "run", "x"]).expect(3).json()["id"].as_str().unwrap().to_owned();
    up(&world);
    let manifest = world.manifest(&id);
    let name =
        manifest["files"].as_array().unwrap().iter().find(|file| file["role"] == "dump").unwrap()["name"].as_str().unwrap().to_owned();
    let path = world.folder(&id).join(name);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let answer = world.pgvigil(&["--json", "run", "x"]).expect(3).json();
    assert!(answer["warnings"].to_string().contains("not what the manifest says"), "{answer:#}");
    // The good one came first; of the damaged one nothing is there, and its rung is lost.
    assert_eq!(labels_in(&world, "other"), [answer["id"].as_str().unwrap().strip_prefix("x/").unwrap()]);
    assert_eq!(copies(&world, &id), ["local bad"]);
    world.pgvigil(&["run", "x"]).expect(0);
}

#[test]
fn a_pin_goes_along_and_unfinished_work_is_swept() {
    let (world, database) = world("keep = { last = 1 }", "keep = { last = 1 }\nevidence = \"off\"\nglobals = false");
    down(&world);
    let pinned = world.pgvigil(&["--json", "run", "x"]).expect(3).json()["id"].as_str().unwrap().to_owned();
    world.pgvigil(&["pin", &pinned]).expect(0);
    up(&world);
    let owner = std::fs::read_to_string(world.path("state/id")).unwrap();
    let left = world.path("other/x").join(format!(".partial-20240101T000000Z-{}", owner.trim()));
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("x.sql.gz"), "half").unwrap();
    let newest = world.backup("x");
    assert!(!left.exists());
    world.pgvigil(&["prune"]).expect(0);
    let label = |id: &str| id.strip_prefix("x/").unwrap().to_owned();
    for store in ["store", "other"] {
        assert_eq!(labels_in(&world, store), [label(&pinned), label(&newest)], "{store}");
    }
    world.pgvigil(&["unpin", &pinned]).expect(0);
    world.pgvigil(&["prune"]).expect(0);
    for store in ["store", "other"] {
        assert_eq!(labels_in(&world, store), [label(&newest)], "{store}");
    }
    // A store that joins later gets what it would keep of the past.
    std::fs::remove_dir_all(world.path("other")).unwrap();
    configure(&world, &database, "", "keep = { last = 1 }\nevidence = \"off\"\nglobals = false");
    world.backup("x");
    assert_eq!(labels_in(&world, "other").len(), 1);
}

#[test]
fn the_daemon_copies_beside_its_runs_and_catches_up() {
    let keys = "schedule = \"*/2 * * * * *\"\nevidence = \"off\"\nglobals = false\nkeep = { last = 100 }";
    let (world, _database) = world("", keys);
    down(&world);
    let daemon = Daemon::start(&world);
    daemon.wait_for_lines("outcome=\"ok\"", 2);
    daemon.wait_for_line("alert=store/other/unreadable");
    daemon.wait_for_line("cannot copy");
    up(&world);
    daemon.wait_for_line("the store has what it keeps");
    until("the alert is over", || (daemon.count("over: ") > 0).then_some(()));
    let log = daemon.stop();
    assert!(!log.contains("run ended") || !log.contains("outcome=\"failed\""), "{log}");
    let rows = history(&world, "x");
    let copied = rows.iter().filter(|row| row["kind"] == "copy" && row["outcome"] == "ok").count();
    assert!(copied >= 2, "{rows:#?}");
    let status = world.pgvigil(&["--json", "status"]).json();
    assert!(status["backups"][0]["copies"][0]["last_success_id"].is_string(), "{status:#}");
    assert!(world.pgvigil(&["status"]).stdout.contains("COPIES"));
}
