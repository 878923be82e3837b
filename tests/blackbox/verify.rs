//! `verify`: every damage is seen, said, and moves `latest`; what is healed is good again.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{Database, Server, World, run, unique};
use crate::support::rungs;

/// A database of two tables, small: what is proven here does not depend on size.
fn small() -> Database {
    let database = Database::create(Server::Pg15, &unique("small"), "template0");
    database.sql("create table a as select i, md5(i::text) from generate_series(1, 500) i; create table b (t text)");
    database
}

type Damage = fn(&Path, &Path);

/// What happens to a file. It gets another file of its kind for the last.
const DAMAGES: [(&str, Damage); 6] = [
    ("missing", |path, _| std::fs::remove_file(path).unwrap()),
    ("cut", |path, _| change(path, |bytes| bytes.truncate(bytes.len() - 1))),
    ("emptied", |path, _| change(path, Vec::clear)),
    ("flipped", |path, _| {
        change(path, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
        });
    }),
    ("longer", |path, _| change(path, |bytes| bytes.push(b'\n'))),
    ("another's", |path, other| assert!(std::fs::copy(other, path).is_ok())),
];

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

fn latest(world: &World) -> Option<String> {
    std::fs::read_link(world.store().join("x/latest")).ok().map(|link| format!("x/{}", link.display()))
}

fn files(world: &World, id: &str) -> Vec<Value> {
    world.manifest(id)["files"].as_array().unwrap().clone()
}

#[test]
fn every_damage_to_every_file_of_every_format_is_seen() {
    for (server, keys) in [
        (Server::Pg15, ""),
        (Server::Pg15, "compression = \"zstd\"\n"),
        (Server::Pg15, "compression = \"none\"\n"),
        (Server::Pg15, "format = \"custom\"\n"),
        (Server::Pg15, "format = \"directory\"\n"),
    ] {
        let database = small();
        let world = World::with(server, &format!("[backups.x]\ndatabase = \"{}\"\n{keys}", database.name));
        let old = world.backup("x");
        database.sql("insert into a values (0, 'new')");
        let new = world.backup("x");
        for (file, former) in files(&world, &new).iter().zip(files(&world, &old)) {
            let name = file["name"].as_str().unwrap();
            let path = world.folder(&new).join(name);
            let whole = std::fs::read(&path).unwrap();
            let other = world.folder(&old).join(former["name"].as_str().unwrap());
            for (damage, apply) in DAMAGES {
                apply(&path, &other);
                if std::fs::read(&path).is_ok_and(|bytes| bytes == whole) {
                    // Table b is the same in both: nothing is damaged.
                    assert!(damage == "another's" && name.contains('/'), "{keys} {name} {damage}");
                    continue;
                }
                let what = format!("{keys} {name} {damage}");
                let ran = world.pgvigil(&["--json", "verify", &new]).expect(1);
                let answer = ran.json();
                assert_eq!(
                    (&answer["id"], &answer["rung"], &answer["outcome"]),
                    (&new.as_str().into(), &"bad".into(), &"failed".into()),
                    "{what}"
                );
                assert_eq!(answer["error"]["kind"], "damaged", "{what}");
                assert!(answer["error"]["message"].as_str().unwrap().contains(name), "{what}: {ran:#?}");
                assert_eq!(latest(&world).as_ref(), Some(&old), "{what}");
                assert_eq!(rungs(&world, "x"), ["bad", "readable"], "{what}");
                // `cat` does not claim that this was whole.
                let cat = world.pgvigil(&["cat", &new, "--", name]).expect(1);
                assert!(cat.stderr.contains("error"), "{what}: {cat:#?}");
                std::fs::write(&path, &whole).unwrap();
            }
            // Back as it was, and not looked at since: it is bad, with its reason, and not `latest`.
            assert!(world.pgvigil(&["list"]).expect(0).stdout.contains("bad"), "{keys} {name}");
            let show = world.pgvigil(&["--json", "show", &new]).expect(0).json();
            let proof = show["stores"][0]["proofs"].as_array().unwrap().last().unwrap();
            assert!(proof["errors"][0].as_str().unwrap().contains(name), "{keys} {name}: {show:#}");
            assert_eq!(world.pgvigil(&["--json", "show", "x/latest"]).expect(0).json()["id"], old.as_str(), "{keys} {name}");
        }
        // What is healed is good again.
        assert_eq!(world.pgvigil(&["--json", "verify", &new]).expect(0).json()["rung"], "readable");
        assert_eq!(rungs(&world, "x"), ["readable", "readable"]);
        assert_eq!(latest(&world), Some(new.clone()));
        world.pgvigil(&["cat", &old, "RESTORE.md"]).expect(0);
    }
}

#[test]
fn a_backup_without_any_good_one_has_no_latest() {
    let database = small();
    let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabase = \"{}\"\n", database.name));
    let id = world.backup("x");
    let dump = world.folder(&id).join(files(&world, &id)[0]["name"].as_str().unwrap());
    let whole = std::fs::read(&dump).unwrap();
    std::fs::remove_file(&dump).unwrap();
    world.pgvigil(&["verify", "x/latest"]).expect(1);
    assert_eq!(latest(&world), None);
    for args in [["verify", "x/latest"], ["cat", "x/latest"], ["show", "x/latest"]] {
        let ran = world.pgvigil(&args).expect(1);
        assert!(ran.stderr.contains("no backup of x is readable"), "{ran:#?}");
    }
    // The next good one takes the place, and a bad one is not in its way. Retention would delete it.
    world.pgvigil(&["pin", &id]).expect(0);
    let next = world.backup("x");
    assert_eq!(latest(&world), Some(next));
    std::fs::write(&dump, whole).unwrap();
    world.pgvigil(&["verify", &id]).expect(0);
    assert_eq!(rungs(&world, "x"), ["readable", "readable"]);
}

#[test]
fn every_verification_leaves_a_proof() {
    let database = small();
    let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabase = \"{}\"\n", database.name));
    let id = world.backup("x");
    let manifest = std::fs::read(world.folder(&id).join("manifest.json")).unwrap();
    for _ in 0..3 {
        world.pgvigil(&["verify", &id]).expect(0);
    }
    let mut proofs: Vec<PathBuf> = std::fs::read_dir(world.folder(&id)).unwrap().map(|entry| entry.unwrap().path()).collect();
    proofs.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with("proof-"));
    assert_eq!(proofs.len(), 4);
    for proof in proofs {
        let proof: Value = serde_json::from_slice(&std::fs::read(proof).unwrap()).unwrap();
        assert!(proof["rung"] == "readable" && proof["seconds"].is_number() && proof["at"].is_string(), "{proof:#}");
    }
    assert_eq!(std::fs::read(world.folder(&id).join("manifest.json")).unwrap(), manifest, "the manifest is never changed");
}

#[test]
fn a_damaged_manifest_is_told_and_leaves_the_others_alone() {
    let database = small();
    let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabase = \"{0}\"\n[backups.y]\ndatabase = \"{0}\"\n", database.name));
    let (old, new, other) = (world.backup("x"), world.backup("x"), world.backup("y"));
    let path = world.folder(&new).join("manifest.json");
    let whole = std::fs::read(&path).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    let dump = files(&world, &new)[0]["name"].as_str().unwrap().to_owned();
    for (what, damaged) in [
        ("cut", text[..text.len() / 2].to_owned()),
        ("empty", String::new()),
        ("not json", "\u{1}".repeat(1000)),
        ("another's", String::from_utf8(std::fs::read(world.folder(&old).join("manifest.json")).unwrap()).unwrap()),
        ("of a newer format", text.replace("\"format_version\": 1", "\"format_version\": 2")),
        ("leading outside", text.replace(&dump, "../../../state/history.db")),
        ("leading to the root", text.replace(&dump, "/etc/passwd")),
        ("deep", "[".repeat(100_000)),
    ] {
        std::fs::write(&path, damaged).unwrap();
        let list = world.pgvigil(&["--json", "list"]).expect(3);
        assert_eq!(list.json().as_array().unwrap().len(), 2, "{what}: {list:#?}");
        assert!(list.stderr.contains(&new), "{what}: {list:#?}");
        let ran = world.pgvigil(&["--json", "verify", &new]).expect(1);
        assert_eq!(ran.json()["error"]["kind"], "damaged", "{what}: {ran:#?}");
        for args in [["cat", &new], ["show", &new]] {
            world.pgvigil(&args).expect(1);
        }
        assert_eq!(world.pgvigil(&["--json", "show", "x/latest"]).expect(0).json()["id"], old.as_str(), "{what}");
        world.pgvigil(&["verify", &other]).expect(0);
        world.pgvigil(&["verify", &old]).expect(0);
        assert_eq!(latest(&world).as_ref(), Some(&old), "{what}");
        assert!(what != "of a newer format" || list.stderr.contains("update pgvigil"), "{list:#?}");
    }
    // One that parses, and is not the one that was proven.
    std::fs::write(&path, text.replace("\"server_version\": \"15", "\"server_version\": \"14")).unwrap();
    world.pgvigil(&["verify", &new]).expect(1);
    // A folder without it is no backup.
    std::fs::remove_file(&path).unwrap();
    assert_eq!(world.pgvigil(&["--json", "list", "x"]).expect(0).json().as_array().unwrap().len(), 1);
    world.pgvigil(&["verify", &new]).expect(1);
    // And with it all is well again: the files were never touched.
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(world.pgvigil(&["--json", "verify", &new]).expect(0).json()["rung"], "readable");
    assert_eq!(latest(&world), Some(new));
}

#[test]
fn what_cannot_be_looked_at_is_neither_good_nor_bad() {
    let database = small();
    let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabase = \"{}\"\n", database.name));
    let id = world.backup("x");
    let dump = world.folder(&id).join(files(&world, &id)[0]["name"].as_str().unwrap());
    // A read fails with an error that says nothing of the bytes: a folder in the file's place.
    let aside = world.path("aside");
    std::fs::rename(&dump, &aside).unwrap();
    std::fs::create_dir(&dump).unwrap();
    let ran = world.pgvigil(&["--json", "verify", &id]);
    assert!(matches!(ran.code, Some(1 | 3)), "{ran:#?}");
    assert_ne!(ran.json()["rung"], "readable");
    std::fs::remove_dir(&dump).unwrap();
    // A link is not followed: it could lead anywhere.
    std::os::unix::fs::symlink(&aside, &dump).unwrap();
    let ran = world.pgvigil(&["--json", "verify", &id]);
    assert!(matches!(ran.code, Some(1 | 3)), "{ran:#?}");
    assert_ne!(ran.json()["rung"], "readable");
    std::fs::remove_file(&dump).unwrap();
    std::fs::rename(&aside, &dump).unwrap();
    world.pgvigil(&["verify", &id]).expect(0);
}

#[test]
fn an_archive_is_opened_by_the_programs_that_made_it() {
    let database = Database::sample(Server::Pg18);
    for format in ["custom", "directory"] {
        let world = World::with(Server::Pg18, &format!("[backups.x]\ndatabase = \"{}\"\nformat = \"{format}\"\n", database.name));
        world.backup("x");
        // bin_dir of the server in the file, whatever else is on this machine.
        let answer = world.pgvigil(&["--json", "verify", "x/latest"]).expect(0).json();
        assert_eq!((&answer["rung"], &answer["warnings"]), (&"readable".into(), &serde_json::json!([])), "{format}: {answer:#}");
    }
    let database = Database::sample(Server::Exec);
    let world = World::with(Server::Exec, &format!("[backups.x]\ndatabase = \"{}\"\nformat = \"custom\"\n", database.name));
    world.backup("x");
    let answer = world.pgvigil(&["--json", "verify", "x/latest"]).expect(0).json();
    assert_eq!(answer["warnings"], serde_json::json!([]), "{answer:#}");
}

#[test]
fn a_dump_that_restores_the_wrong_way_is_not_called_readable() {
    // The bytes are those of the manifest, and the dump in them is cut: a manifest of somebody
    // who knew how to make one.
    let database = small();
    let world =
        World::with(Server::Pg15, &format!("[backups.x]\ndatabase = \"{}\"\ncompression = \"none\"\nglobals = false\n", database.name));
    let id = world.backup("x");
    let name = files(&world, &id)[0]["name"].as_str().unwrap().to_owned();
    let path = world.folder(&id).join(&name);
    change(&path, |bytes| bytes.truncate(bytes.len() / 2));
    let sum = String::from_utf8(run(std::process::Command::new("sha256sum").arg(&path)).stdout).unwrap();
    let mut manifest = world.manifest(&id);
    let length = std::fs::metadata(&path).unwrap().len();
    manifest["files"][0]["bytes"] = length.into();
    manifest["files"][0]["raw_bytes"] = length.into();
    manifest["files"][0]["sha256"] = sum.split(' ').next().unwrap().into();
    std::fs::write(world.folder(&id).join("manifest.json"), manifest.to_string()).unwrap();
    for entry in std::fs::read_dir(world.folder(&id)).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("proof-") {
            std::fs::remove_file(path).unwrap();
        }
    }
    assert_eq!(rungs(&world, "x"), ["written"]);
    let answer = world.pgvigil(&["--json", "verify", &id]).expect(1).json();
    assert_eq!(answer["rung"], "bad", "{answer:#}");
}
