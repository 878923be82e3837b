//! Backups that only who has a key can read: made, read back, verified, drilled, restored, by the
//! program and by stock age.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{Database, Ran, Server, World, run};
use crate::restore_page::{as_it_stands, fingerprint, follow, restored, same};
use crate::support::{check_lines, stock, until};

/// A key pair in the world: the file of the private one, and the public one.
fn age_key(world: &World, name: &str) -> (PathBuf, String) {
    let path = world.path(name);
    stock("age-keygen", &["-o", name], &world.path(""));
    let public = stock("age-keygen", &["-y", name], &world.path(""));
    (path, String::from_utf8(public).unwrap().trim().to_owned())
}

fn ssh_key(world: &World, name: &str, kind: &str, passphrase: &str) -> (PathBuf, String) {
    stock("ssh-keygen", &["-q", "-t", kind, "-N", passphrase, "-C", "somebody", "-f", name], &world.path(""));
    let public = std::fs::read_to_string(world.path(&format!("{name}.pub"))).unwrap();
    (world.path(name), public.trim().to_owned())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A world with one backup `x` that is encrypted to these.
fn world_for(world: World, server: Server, database: &str, to: &[&str], keys: &str) -> World {
    let on = if matches!(server, Server::Exec | Server::Network) { "" } else { "drill = { on = \"local\" }\n" };
    world.configure(&format!("{}[backups.x]\ndatabase = \"{database}\"\n{on}encrypt_to = {to:?}\n{keys}", server.section()));
    world
}

fn files(manifest: &Value, role: &str) -> Vec<String> {
    let files = manifest["files"].as_array().unwrap().iter().filter(|file| file["role"] == role);
    files.map(|file| file["name"].as_str().unwrap().to_owned()).collect()
}

/// What lies in the spool, where nothing may stay.
fn spooled(world: &World) -> usize {
    std::fs::read_dir(world.path("state/spool/files")).into_iter().flatten().count()
}

/// From the run to a restored database, by the program and by hand.
fn whole_way(server: Server, keys: &str) {
    let database = Database::sample(server);
    let world = World::new();
    let (key, public) = age_key(&world, "key.txt");
    let world = world_for(world, server, &database.name, &[&public], keys);
    let answer = world.pgvigil(&["--json", "run", "x"]).expect(0).json();
    assert_eq!(answer["rung"], "readable", "{answer:#}");
    let id = answer["id"].as_str().unwrap();

    // Everything but the page and the manifest is for the keys only.
    let manifest = world.manifest(id);
    assert_eq!(manifest["encryption"], serde_json::json!({"method": "age", "recipients": [public]}));
    for role in ["dump", "globals"] {
        let names = files(&manifest, role);
        assert!(!names.is_empty() && names.iter().all(|name| name.strip_suffix(".age").is_some()), "{names:?}");
        for name in names {
            let stored = std::fs::read(world.folder(id).join(&name)).unwrap();
            assert!(stored.starts_with(b"age-encryption.org/v1\n"), "{name}");
            stock("age", &["-d", "-i", text(&key), "-o", "/dev/null", &name], &world.folder(id));
        }
    }
    assert_eq!(files(&manifest, "notes"), ["RESTORE.md"]);
    assert_eq!(spooled(&world), 0);

    // Without a key the hashes are held against the manifest, and that is said.
    let answer = world.pgvigil(&["--json", "verify", id]).expect(0).json();
    assert_eq!((&answer["rung"], &answer["outcome"]), (&"readable".into(), &"ok".into()));
    assert!(answer["warnings"][0].as_str().unwrap().contains("what is inside was not looked at"), "{answer:#}");
    let answer = world.pgvigil(&["--json", "verify", id, "--identity", text(&key)]).expect(0).json();
    assert_eq!((&answer["rung"], &answer["warnings"]), (&"readable".into(), &serde_json::json!([])));

    let dump = &files(&manifest, "dump")[0];
    let by_hand = stock("age", &["-d", "-i", text(&key), dump], &world.folder(id));
    let shown = run(&mut world.command(&["cat", id, dump, "--identity", text(&key)]));
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    if dump.ends_with(".sql.age") || !dump.contains(".sql") {
        assert!(shown.stdout == by_hand, "{dump}");
    } else {
        assert!(shown.stdout.starts_with(b"--\n-- PostgreSQL database dump"), "{dump}");
    }
    for args in [&["cat", id, dump][..], &["restore", id, "--to-database", "never"]] {
        let ran = world.pgvigil(args).expect(1);
        assert!(ran.stderr.contains("no identity was given; it was encrypted to age1") && ran.stdout.is_empty(), "{ran:#?}");
    }
    world.pgvigil(&["cat", id, "RESTORE.md"]).expect(0);

    let answer = world.pgvigil(&["--json", "verify", id, "--drill"]).expect(3).json();
    assert!(answer["warnings"][0].as_str().unwrap().contains("cannot verify: the backup is encrypted"), "{answer:#}");
    let answer = world.pgvigil(&["--json", "verify", id, "--drill", "--identity", text(&key)]).expect(0).json();
    assert_eq!((&answer["rung"], &answer["outcome"]), (&"matched".into(), &"ok".into()), "{answer:#}");
    // What a drill has proven stays when only the bytes are looked at.
    assert_eq!(world.pgvigil(&["--json", "verify", id]).expect(0).json()["rung"], "matched");

    let before = fingerprint(server, &database.name, &[]);
    let target = Database { server, name: format!("{}_back", database.name) };
    world.pgvigil(&["restore", id, "--to-database", &target.name, "--globals", "--identity", text(&key)]).expect(0);
    same(keys, &before, &fingerprint(server, &target.name, &[]));

    let target = restored(&database);
    let private = format!("key={}\n", key.display());
    let page = |block: String| block.replace("key=$HOME/key.txt\n", &private);
    // The roles are there, and their globals would say so.
    let without_globals = |block: String| if block.contains("globals.sql") && block.contains("psql") { String::new() } else { page(block) };
    follow(&world, id, if server == Server::Pg18 { 18 } else { 15 }, without_globals);
    same(keys, &before, &fingerprint(server, &target.name, &[]));
    assert_eq!(spooled(&world), 0);
}

#[test]
fn a_plain_dump_packed_by_gzip_is_encrypted() {
    whole_way(Server::Pg15, "evidence = \"content\"\n");
}

#[test]
fn a_plain_dump_packed_by_zstd_is_encrypted_in_a_container() {
    whole_way(Server::Exec, "compression = \"zstd\"\n");
}

#[test]
fn a_plain_dump_that_is_not_packed_is_encrypted() {
    whole_way(Server::Pg18, "compression = \"none\"\n");
}

#[test]
fn a_custom_archive_is_encrypted() {
    whole_way(Server::Pg18, "format = \"custom\"\ncompression = \"zstd\"\nevidence = \"content\"\n");
}

#[test]
fn a_custom_archive_is_encrypted_in_a_container() {
    whole_way(Server::Exec, "format = \"custom\"\n");
}

#[test]
fn a_directory_archive_is_encrypted() {
    whole_way(Server::Pg15, "format = \"directory\"\nevidence = \"content\"\n");
}

#[test]
fn every_recipient_opens_it_by_itself_and_a_new_one_counts_from_the_next_run() {
    let database = Database::sample(Server::Pg15);
    let world = World::new();
    let (native, native_public) = age_key(&world, "native.txt");
    let (ed25519, ed25519_public) = ssh_key(&world, "ed25519", "ed25519", "");
    let (rsa, rsa_public) = ssh_key(&world, "rsa", "rsa", "");
    let world = world_for(world, Server::Pg15, &database.name, &[&native_public, &ed25519_public], "");
    let old = world.backup("x");
    let world = world_for(world, Server::Pg15, &database.name, &[&ed25519_public, &rsa_public], "");
    let new = world.backup("x");
    for (id, key, opens) in [
        (&old, &native, true),
        (&old, &ed25519, true),
        (&old, &rsa, false),
        (&new, &native, false),
        (&new, &ed25519, true),
        (&new, &rsa, true),
    ] {
        let ran = world.pgvigil(&["cat", id, "--identity", text(key)]).expect(i32::from(!opens));
        assert_eq!(ran.stdout.contains("PostgreSQL database dump complete"), opens);
        if !opens {
            let words = format!("none of the identities in {} opens it; it was encrypted to ", key.display());
            assert!(ran.stderr.contains(&words) && !ran.stderr.contains("damage"), "{ran:#?}");
        }
    }
    let shown = world.pgvigil(&["show", &new]).expect(0).stdout;
    assert!(shown.contains(&ed25519_public) && shown.contains(&rsa_public) && !shown.contains(&native_public), "{shown}");
}

#[test]
fn a_wrong_key_is_told_apart_from_damage_everywhere() {
    let database = Database::sample(Server::Pg15);
    let world = World::new();
    let (key, public) = age_key(&world, "key.txt");
    let (wrong, _) = age_key(&world, "wrong.txt");
    let world = world_for(world, Server::Pg15, &database.name, &[&public], "format = \"custom\"\n");
    let id = world.backup("x");
    let say = |ran: &Ran| format!("{}{}", ran.stdout, ran.stderr);
    let no_key = format!("none of the identities in {} opens it", wrong.display());
    let ran = world.pgvigil(&["--json", "verify", &id, "--identity", text(&wrong)]).expect(3);
    assert!(say(&ran).contains(&no_key) && ran.json()["rung"] == "readable", "{ran:#?}");
    let ran = world.pgvigil(&["--json", "verify", &id, "--drill", "--identity", text(&wrong)]).expect(3);
    assert!(say(&ran).contains(&no_key) && say(&ran).contains("cannot verify"), "{ran:#?}");
    let ran = world.pgvigil(&["restore", &id, "--to-database", "never", "--identity", text(&wrong)]).expect(1);
    assert!(say(&ran).contains(&no_key), "{ran:#?}");

    // A bit in the header, in the middle, at the end; a cut.
    let dump = world.folder(&id).join(&files(&world.manifest(&id), "dump")[0]);
    let whole = std::fs::read(&dump).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let to_own_stanza = whole.windows(3).position(|w| w == b"-> ").unwrap() + 15;
    for (what, bytes) in [
        ("the header", flipped(to_own_stanza)),
        ("the middle", flipped(whole.len() / 2)),
        ("the end", flipped(whole.len() - 1)),
        ("a cut", whole[..whole.len() - 17].to_vec()),
        ("a cut between pieces", whole[..whole.len() / 2].to_vec()),
        ("nothing", Vec::new()),
    ] {
        std::fs::write(&dump, bytes).unwrap();
        for args in [&["--identity", text(&key)][..], &[]] {
            let ran = world.pgvigil(&[&["--json", "verify", &id][..], args].concat()).expect(1);
            assert_eq!(ran.json()["rung"], "bad", "{what} {args:?}");
            assert!(!say(&ran).contains("none of the identities"), "{what}: {ran:#?}");
        }
        for args in [&["cat", &id][..], &["restore", &id, "--to-database", "never"]] {
            let ran = world.pgvigil(&[args, &["--identity", text(&key)]].concat()).expect(1);
            assert!(!say(&ran).contains("none of the identities"), "{what}: {ran:#?}");
        }
        assert_eq!(Server::Pg15.sql("postgres", "select count(*) from pg_database where datname = 'never'"), "0");
    }
    std::fs::write(&dump, whole).unwrap();
    assert_eq!(world.pgvigil(&["--json", "verify", &id, "--identity", text(&key)]).expect(0).json()["rung"], "readable");
}

#[test]
fn a_key_of_the_file_serves_drills_and_restores() {
    let database = Database::sample(Server::Pg15);
    let world = World::new();
    let (key, public) = age_key(&world, "key.txt");
    let identity = format!("identity = {{ file = \"{}\" }}\n", key.display());
    let world = world_for(world, Server::Pg15, &database.name, &[&public], &identity);
    let id = world.backup("x");
    assert_eq!(world.pgvigil(&["--json", "verify", &id]).expect(0).json()["warnings"], serde_json::json!([]));
    world.pgvigil(&["verify", &id, "--drill"]).expect(0);
    let target = Database { server: Server::Pg15, name: format!("{}_back", database.name) };
    world.pgvigil(&["restore", &id, "--to-database", &target.name]).expect(0);
    // It is read before root's rights are given up, and nowhere else shown.
    let private = std::fs::read_to_string(&key).unwrap();
    let secret = private.lines().find(|line| line.starts_with("AGE-SECRET-KEY")).unwrap();
    for args in [&["show", &id][..], &["--json", "show", &id], &["--json", "check"], &["--log-level", "trace", "verify", &id]] {
        let ran = world.pgvigil(args);
        assert!(!format!("{ran:?}").contains(secret), "{args:?}");
    }
    // Where it is gone, it is said; and a person's own takes its place.
    let moved = world.path("moved.txt");
    std::fs::rename(&key, &moved).unwrap();
    let ran = world.pgvigil(&["cat", &id]).expect(1);
    assert!(ran.stderr.contains("backups.x.identity: cannot read"), "{ran:#?}");
    world.pgvigil(&["cat", &id, "--identity", text(&moved)]).expect(0);
}

#[test]
fn check_tries_the_keys() {
    let world = World::new();
    let (key, public) = age_key(&world, "key.txt");
    let (_, other) = age_key(&world, "other.txt");
    let (locked, locked_public) = ssh_key(&world, "locked", "ed25519", "secret");
    let file = |path: &Path| format!("identity = {{ file = \"{}\" }}\n", path.display());
    let drill = "drill = { schedule = \"0 4 * * 0\" }\n".to_owned();
    for (to, keys, level, words) in [
        (&public, file(&key), "ok", "opens what is encrypted"),
        (&other, file(&key), "warning", "does not open what is encrypted from now on"),
        (&locked_public, file(&locked), "error", "passphrase"),
        (&public, file(&world.path("nosuch")), "error", "cannot read"),
        (&public, drill, "warning", "no drill can open it"),
    ] {
        world.configure(&format!("{}[backups.x]\ndatabase = \"x\"\nencrypt_to = [\"{to}\"]\n{keys}", Server::Pg15.section()));
        let lines = check_lines(&world.pgvigil(&["--json", "check", "--offline"]));
        assert!(lines.iter().any(|line| line.contains(&format!(" | {level} | ")) && line.contains(words)), "{words}: {lines:#?}");
    }
}

#[test]
fn a_recipient_that_is_none_is_a_fault_with_its_line() {
    let world = World::new();
    for (to, words) in [
        ("[\"age1...\"]", "bad recipient \"age1...\""),
        ("[\"ssh-ed25519 AAAA\"]", "bad recipient"),
        ("[]", "names nobody"),
        ("[\"AGE-SECRET-KEY-1QQQQ\"]", "private key"),
    ] {
        world.configure(&format!("{}[backups.x]\ndatabase = \"x\"\nencrypt_to = {to}\n", Server::Pg15.section()));
        let ran = world.pgvigil(&["check", "--offline"]).expect(78);
        let line = 1 + std::fs::read_to_string(world.config()).unwrap().lines().position(|line| line.starts_with("encrypt_to")).unwrap();
        assert!(ran.stdout.contains(words) && ran.stdout.contains(&format!("pgvigil.toml:{line}")), "{to}: {ran:#?}");
        assert!(!ran.stdout.contains("QQQQ"), "{ran:#?}");
    }
}

#[test]
fn what_a_killed_run_left_in_the_spool_is_swept() {
    let database = Database::sample(Server::Pg15);
    let world = World::new();
    let (_, public) = age_key(&world, "key.txt");
    let world = world_for(world, Server::Pg15, &database.name, &[&public], "format = \"directory\"\n");
    // It waits for a lock while its folder is there.
    let mut holder = crate::support::Psql::connect(Server::Pg15, &database.name);
    holder.done("begin; lock table orders in access exclusive mode");
    let mut running = world.command(&["run", "x"]).spawn().unwrap();
    until("the folder in the spool", || spooled(&world) == 1);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(world.path("state/spool/files")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(spooled(&world), 1);
    holder.done("rollback");
    let id = world.backup("x");
    assert_eq!((spooled(&world), world.names("x").len()), (0, 2), "{id}");
}

#[test]
fn an_adopted_dump_is_encrypted_as_the_others_are() {
    let database = Database::sample(Server::Pg15);
    let world = World::new();
    let (key, public) = age_key(&world, "key.txt");
    let world = world_for(world, Server::Pg15, &database.name, &[&public], "");
    for (ending, format) in [("sql.gz", "plain"), ("dump", "custom")] {
        let day = if format == "plain" { "20240115" } else { "20240116" };
        let file = world.path(&format!("backup_{}_{day}_020000.{ending}", database.name));
        world.pgvigil(&["export", &database.name, "--output", text(&file), "--format", format]).expect(0);
        for outcome in ["ok", "skipped"] {
            let answer = world.pgvigil(&["--json", "adopt", "x", text(&file)]).expect(0).json();
            assert_eq!(answer[0]["outcome"], outcome, "{answer:#}");
        }
    }
    for id in ["x/20240115T010000Z", "x/20240116T010000Z"] {
        let names = files(&world.manifest(id), "dump");
        assert!(names.iter().all(|name| name.strip_suffix(".age").is_some()), "{names:?}");
        assert_eq!(world.pgvigil(&["--json", "verify", id, "--identity", text(&key)]).expect(0).json()["rung"], "readable");
    }
}

#[test]
fn the_page_is_read_as_it_stands_where_nothing_is_encrypted() {
    let database = Database::empty(Server::Pg15);
    let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabase = \"{}\"\nglobals = false\n", database.name));
    let id = world.backup("x");
    let page = std::fs::read_to_string(world.folder(&id).join("RESTORE.md")).unwrap();
    assert!(!page.contains("age") || !page.contains("key="), "{page}");
    let _target = restored(&database);
    follow(&world, &id, 15, as_it_stands);
}
