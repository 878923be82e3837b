//! A bucket as the only store: no backup ever lies on this machine.

use std::process::Command;

use crate::common::{Database, Server, World, run, unique};

/// A world whose only store is a bucket, behind a prefix of its own.
fn world(database: &Database, key: &str, backup: &str) -> World {
    let server = run(&mut Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/s3-server")));
    assert!(server.status.success(), "{server:?}");
    let endpoint = String::from_utf8(server.stdout).unwrap();
    let world = World::new();
    let text = format!(
        "state_dir = \"{}\"\n{}[stores.far]\ns3 = {{ bucket = \"pgvigil\", prefix = \"{}\", endpoint = \"{}\" }}\n\
         access_key_id = \"{key}\"\nsecret_access_key = \"secret-of-{key}\"\n[backups.x]\ndatabase = \"{}\"\n{backup}\n",
        world.path("state").display(),
        Server::Pg15.section(),
        unique("blackbox"),
        endpoint.trim(),
        database.name
    );
    std::fs::write(world.config(), text).unwrap();
    world
}

#[test]
fn a_bucket_may_be_the_only_store() {
    for format in ["plain", "custom", "directory"] {
        let database = Database::sample(Server::Pg15);
        let world = world(&database, "admin", &format!("format = \"{format}\""));
        let id = world.backup("x");
        let list = world.pgvigil(&["--json", "list"]).expect(0).json();
        assert_eq!((list[0]["id"].as_str(), list[0]["rung"].as_str()), (Some(id.as_str()), Some("readable")), "{format}: {list:#}");
        let verified = world.pgvigil(&["--json", "verify", &id]).expect(0).json();
        assert_eq!(verified["rung"], "readable", "{format}");

        // The machine burns down; the file and the keys are written anew.
        std::fs::remove_dir_all(world.path("state")).unwrap();
        let orders = database.sql("select count(*), sum(id) from orders");
        let target = format!("{}_again", database.name);
        world.pgvigil(&["restore", &id, "--to-database", &target]).expect(0);
        assert_eq!(Server::Pg15.sql(&target, "select count(*), sum(id) from orders"), orders, "{format}");
        Server::Pg15.sql("postgres", &format!("drop database \"{target}\""));

        // Another one, and retention takes the first.
        let second = world.backup("x");
        world.pgvigil(&["--json", "prune", "x"]).expect(0);
        let list = world.pgvigil(&["--json", "list"]).expect(0).json();
        assert!(list.as_array().unwrap().iter().any(|entry| entry["id"] == second.as_str()), "{format}: {list:#}");
        // Nothing of it went through this machine to stay there.
        let spool = std::fs::read_dir(world.path("state").join("spool")).map_or(0, Iterator::count);
        assert_eq!(spool, 0, "{format}");
    }
}

#[test]
fn keys_that_may_not_delete_make_backups_all_the_same() {
    let database = Database::sample(Server::Pg15);
    let world = world(&database, "writer", "keep = { last = 1 }");
    let first = world.backup("x");
    let second = world.backup("x");
    let pruned = world.pgvigil(&["--json", "prune", "x"]);
    assert!(matches!(pruned.code, Some(0 | 3)), "{pruned:#?}");
    let list = world.pgvigil(&["--json", "list"]).expect(0).json();
    let ids: Vec<&str> = list.as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [second.as_str(), first.as_str()]);
    assert!(list.as_array().unwrap().iter().all(|entry| entry["rung"] == "readable"), "{list:#}");
}

#[test]
fn check_tries_a_bucket_and_says_what_is_wrong() {
    let database = Database::empty(Server::Pg15);
    let of_store = |world: &World| {
        let lines = world.pgvigil(&["--json", "check"]).json();
        let lines = lines.as_array().unwrap().clone();
        let line =
            lines.iter().find(|line| line["subject"].as_str().unwrap().contains("far")).unwrap_or_else(|| panic!("{lines:#?}")).clone();
        (line["ok"].as_bool().unwrap(), format!("{} {}", line["message"].as_str().unwrap(), line["hint"].as_str().unwrap_or_default()))
    };
    let (ok, told) = of_store(&world(&database, "admin", ""));
    assert!(ok && told.contains("s3://pgvigil/") && told.contains("can be deleted"), "{told}");
    let (ok, told) = of_store(&world(&database, "writer", ""));
    assert!(ok && told.contains("nothing can be deleted"), "{told}");
    let (ok, told) = of_store(&world(&database, "nobody", ""));
    assert!(!ok && told.contains("access_key_id of [stores.far]") && !told.contains("secret-of-nobody"), "{told}");
}
