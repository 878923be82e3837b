//! What a run stores: formats, contents, patterns, several databases, globals; and that stock
//! tools read all of it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use chrono::{DateTime, NaiveDateTime, TimeZone, Utc};
use serde_json::Value;

use crate::common::{Database, Server, World, run, unique};
use crate::support::{Role, check_lines, programs, stock};

/// The files of a backup as its manifest has them, each opened with the tool it is made for.
#[track_caller]
fn stock_tools_read(world: &World, id: &str, major: u32) -> Vec<String> {
    let manifest = world.manifest(id);
    let folder = world.folder(id);
    let mut names = Vec::new();
    for file in manifest["files"].as_array().unwrap() {
        let name = file["name"].as_str().unwrap();
        let path = folder.join(name);
        let sum = String::from_utf8(stock("sha256sum", &["--", name], &folder)).unwrap();
        assert_eq!(sum.split(' ').next().unwrap(), file["sha256"].as_str().unwrap(), "{name}");
        let length = std::fs::metadata(&path).unwrap().len();
        assert_eq!(file["bytes"].as_u64(), Some(length), "{name}");
        let raw = match Path::new(name).extension().and_then(|end| end.to_str()) {
            _ if name.contains('/') => length,
            Some("gz") => stock("gunzip", &["-c", name], &folder).len() as u64,
            Some("zst") => stock("zstd", &["-dc", name], &folder).len() as u64,
            _ => length,
        };
        assert_eq!(file["raw_bytes"].as_u64(), Some(raw), "{name}");
        match Path::new(name).extension().and_then(|end| end.to_str()) {
            Some("gz") if !name.contains('/') => drop(stock("gzip", &["-t", name], &folder)),
            Some("zst") if !name.contains('/') => {
                stock("zstd", &["-tq", name], &folder);
                // Only a frame with a checksum notices a flipped bit.
                let listed = String::from_utf8(stock("zstd", &["-lv", name], &folder)).unwrap();
                assert!(listed.contains("XXH64"), "{listed}");
            }
            Some("dump") => drop(stock(&programs(major).join("pg_restore").display().to_string(), &["--list", name], &folder)),
            _ => {}
        }
        if let Some(archive) = name.strip_suffix("/toc.dat") {
            stock(&programs(major).join("pg_restore").display().to_string(), &["--list", archive], &folder);
        }
        names.push(name.to_owned());
    }
    // What is there beside the manifest's files are the documents of the store.
    for (dir, mode) in [(world.store(), 0o700), (folder.parent().unwrap().to_owned(), 0o700), (folder.clone(), 0o700)] {
        assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, mode, "{}", dir.display());
    }
    let mut todo = vec![folder.clone()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&folder).unwrap().display().to_string();
            let mode = std::fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777;
            assert!(!path.file_name().unwrap().to_string_lossy().starts_with("backup_"), "clean-up scripts delete {name}");
            if path.is_dir() {
                assert_eq!(mode, 0o700, "{name}");
                todo.push(path);
                continue;
            }
            assert_eq!(mode, 0o600, "{name}");
            let document = name == "manifest.json" || name.starts_with("proof-");
            assert!(document || names.contains(&name), "{name} is in no manifest");
        }
    }
    names
}

/// The documented shape of a manifest.
#[track_caller]
fn is_manifest(manifest: &Value, id: &str) {
    assert_eq!(manifest["format_version"], 1);
    assert_eq!(manifest["id"], id);
    let (backup, label) = id.split_once('/').unwrap();
    assert_eq!((&manifest["backup"], &manifest["label"]), (&backup.into(), &label.into()));
    let time = |key: &str| manifest[key].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    let slot = NaiveDateTime::parse_from_str(label, "%Y%m%dT%H%M%SZ").unwrap().and_utc();
    assert_eq!(time("slot"), slot);
    assert!(time("started_at") <= time("taken_at") && time("taken_at") <= time("finished_at"), "{manifest:#}");
    assert_eq!(slot.timestamp(), time("started_at").timestamp(), "the slot of a run by hand is the second of its start");
    for key in ["slot", "taken_at", "started_at", "finished_at"] {
        assert!(manifest[key].as_str().unwrap().ends_with('Z'), "{key} is not in UTC");
    }
    assert_eq!(manifest["kind"], "dump");
    for key in ["server_version", "client_version", "generator"] {
        assert!(!manifest[key].as_str().unwrap().is_empty(), "{key}");
    }
    for key in ["evidence", "encryption", "signature"] {
        assert!(manifest.get(key).is_some(), "{key}");
    }
    for file in manifest["files"].as_array().unwrap() {
        for key in ["name", "bytes", "raw_bytes", "sha256", "database", "role"] {
            assert!(file.get(key).is_some(), "{key} of {file}");
        }
        assert!(["dump", "globals", "notes"].contains(&file["role"].as_str().unwrap()), "{file}");
    }
}

#[test]
fn stock_tools_read_every_format() {
    let databases = [Server::Pg15, Server::Pg18, Server::Exec, Server::Network].map(Database::sample);
    for (server, major, keys, ending) in [
        (Server::Pg15, 15, "", ".sql.gz"),
        (Server::Pg15, 15, "compression = \"gzip:9\"\n", ".sql.gz"),
        (Server::Pg15, 15, "compression = \"zstd\"\n", ".sql.zst"),
        (Server::Pg15, 15, "compression = \"zstd:9\"\n", ".sql.zst"),
        (Server::Pg15, 15, "compression = \"none\"\n", ".sql"),
        (Server::Exec, 15, "compression = \"zstd:1\"\n", ".sql.zst"),
        (Server::Pg15, 15, "format = \"custom\"\n", ".dump"),
        (Server::Exec, 15, "format = \"custom\"\ncompression = \"none\"\n", ".dump"),
        (Server::Network, 15, "format = \"custom\"\ncompression = \"gzip:1\"\n", ".dump"),
        (Server::Pg18, 18, "format = \"custom\"\ncompression = \"zstd\"\n", ".dump"),
        (Server::Pg18, 18, "", ".sql.gz"),
        (Server::Pg15, 15, "format = \"directory\"\n", "/toc.dat"),
        (Server::Pg18, 18, "format = \"directory\"\njobs = 3\ncompression = \"zstd:3\"\n", "/toc.dat"),
        (Server::Network, 15, "format = \"directory\"\njobs = 1\ncompression = \"none\"\n", "/toc.dat"),
    ] {
        let database = databases.iter().find(|database| database.server == server).unwrap();
        let world = World::with(server, &format!("[backups.x]\ndatabase = \"{}\"\n{keys}", database.name));
        let id = world.backup("x");
        let manifest = world.manifest(&id);
        is_manifest(&manifest, &id);
        assert_eq!(manifest["narrow"], false);
        let names = stock_tools_read(&world, &id, major);
        // The slot in the backup's zone, which is the file's here.
        let slot = NaiveDateTime::parse_from_str(&id[2..], "%Y%m%dT%H%M%SZ").unwrap();
        let local = chrono_tz::Europe::Vienna.from_utc_datetime(&slot).format("%Y%m%d_%H%M%S");
        let expected = format!("{}_{local}{ending}", database.name);
        assert!(names.contains(&expected), "{expected} in {names:?}");
        let packing = if ending == ".sql.zst" || keys.contains("zstd") {
            ".zst"
        } else if keys.contains("none") {
            ""
        } else {
            ".gz"
        };
        assert!(names.contains(&format!("globals.sql{packing}")), "{keys}: {names:?}");
        // The oldest dump made this way is the newest one, which is good: `latest`.
        let latest = std::fs::read_link(world.store().join("x/latest")).unwrap();
        assert_eq!(latest.to_str(), Some(&id[2..]));
        if !ending.starts_with('/') {
            let cat = run(&mut world.command(&["cat", "x/latest"]));
            let stored = std::fs::read(world.folder(&id).join(&expected)).unwrap();
            let unpacked = match ending {
                ".sql.gz" => stock("gunzip", &["-c", &expected], &world.folder(&id)),
                ".sql.zst" => stock("zstd", &["-dc", &expected], &world.folder(&id)),
                _ => stored,
            };
            assert!(cat.status.success() && cat.stdout == unpacked, "{keys}");
        }
    }
}

#[test]
fn zstd_inside_an_archive_needs_pg_dump_16() {
    let database = Database::empty(Server::Pg15);
    for format in ["custom", "directory"] {
        let keys = format!("[backups.x]\ndatabase = \"{}\"\nformat = \"{format}\"\ncompression = \"zstd\"\n", database.name);
        let world = World::with(Server::Pg15, &keys);
        let said = check_lines(&world.pgvigil(&["--json", "check"]).expect(1));
        assert!(said.iter().any(|line| line.contains("that needs 16") && line.contains("gzip")), "{said:#?}");
        let ran = world.pgvigil(&["run", "x"]).expect(1);
        assert!(ran.stderr.contains("that needs 16") && ran.stderr.contains("HINT"), "{ran:#?}");
        assert_eq!(world.names("x"), Vec::<String>::new());
    }
}

/// The tables that a plain dump creates, and those that it fills.
fn tables(sql: &str) -> (Vec<&str>, Vec<&str>) {
    let of = |begin: &str| {
        let mut found: Vec<&str> = sql
            .lines()
            .filter_map(|line| line.strip_prefix(begin))
            .map(|rest| rest.split(" (").next().unwrap())
            .map(|name| name.split(" FROM stdin").next().unwrap())
            .collect();
        found.sort_unstable();
        found
    };
    (of("CREATE TABLE "), of("COPY "))
}

#[test]
fn a_part_of_a_database_is_narrow() {
    let database = Database::create(Server::Pg15, &unique("narrow"), "template0");
    database.sql("create table a (i int); create table axb (i int); create table \"a*b\" (i int); create schema \"S 1\"; create table \"S 1\".t (i int); create table logs_1 (i int); create table logs_2 (i int)");
    let everything = ["\"S 1\".t", "public.\"a*b\"", "public.a", "public.axb", "public.logs_1", "public.logs_2"];
    for (keys, created, filled) in [
        ("contents = \"schema\"", &everything[..], &[][..]),
        ("contents = \"data\"", &[], &everything),
        ("tables = [\"a\"]", &["public.a"], &["public.a"]),
        ("tables = [\"logs_*\"]", &["public.logs_1", "public.logs_2"], &["public.logs_1", "public.logs_2"]),
        // Unquoted, a star is a wildcard: the name needs its quotes.
        ("tables = ['\"a*b\"']", &["public.\"a*b\""], &["public.\"a*b\""]),
        ("tables = ['\"S 1\".t', \"a\"]", &["\"S 1\".t", "public.a"], &["\"S 1\".t", "public.a"]),
        ("schemas = ['\"S 1\"']", &["\"S 1\".t"], &["\"S 1\".t"]),
        ("exclude_tables = [\"logs_*\", \"a*\"]", &["\"S 1\".t"], &["\"S 1\".t"]),
        ("tables = [\"logs_*\"]\nexclude_tables = [\"logs_1\"]\ncontents = \"schema\"", &["public.logs_2"], &[]),
    ] {
        let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabase = \"{}\"\nglobals = false\n{keys}\n", database.name));
        let id = world.backup("x");
        assert_eq!(world.manifest(&id)["narrow"], true, "{keys}");
        assert_eq!(world.pgvigil(&["--json", "list"]).expect(0).json()[0]["narrow"], true, "{keys}");
        assert!(world.pgvigil(&["list"]).expect(0).stdout.contains("narrow"), "{keys}");
        let sql = world.pgvigil(&["cat", &id]).expect(0).stdout;
        assert_eq!(tables(&sql), (created.to_vec(), filled.to_vec()), "{keys}");
    }
}

#[test]
fn a_pattern_that_matches_nothing_fails_the_run() {
    let database = Database::create(Server::Pg15, &unique("strict"), "template0");
    database.sql("create table a (i int); create table \"Order\" (i int)");
    for keys in ["tables = [\"a\", \"nosuch\"]", "schemas = [\"public\", \"nosuch\"]", "tables = [\"Order\"]"] {
        let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabase = \"{}\"\n{keys}\n", database.name));
        let ran = world.pgvigil(&["--json", "run", "x"]).expect(1);
        assert_eq!(ran.json()["id"], Value::Null);
        assert!(ran.json()["error"]["hint"].as_str().unwrap().contains("quoted"), "{ran:#?}");
        assert_eq!(world.names("x"), Vec::<String>::new(), "{keys}");
    }
}

#[test]
fn several_databases_are_one_backup() {
    let databases = [Database::sample(Server::Pg15), Database::empty(Server::Pg15)];
    let [a, b] = databases.each_ref().map(|database| database.name.as_str());
    for (keys, endings) in [("", ".sql.gz"), ("format = \"custom\"\n", ".dump"), ("format = \"directory\"\n", "/toc.dat")] {
        let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabases = [\"{b}\", \"{a}\"]\n{keys}"));
        let id = world.backup("x");
        let manifest = world.manifest(&id);
        assert_eq!(manifest["databases"], serde_json::json!([b, a]));
        let names = stock_tools_read(&world, &id, 15);
        let dumps: Vec<&String> = names.iter().filter(|name| name.ends_with(endings) && !name.starts_with("globals")).collect();
        assert_eq!(dumps.len(), 2, "{names:?}");
        let ran = world.pgvigil(&["cat", "x/latest"]).expect(2);
        assert!(dumps.iter().all(|name| ran.stderr.contains(name.as_str())), "{ran:#?}");
        assert_eq!(ran.stdout, "");
        for file in manifest["files"].as_array().unwrap().iter().filter(|file| file["role"] == "dump") {
            assert!(file["name"].as_str().unwrap().starts_with(file["database"].as_str().unwrap()));
        }
    }
}

#[test]
fn all_databases_are_those_that_nobody_excludes() {
    // Other tests come and go beside this one: only names with a z are looked at.
    let stem = unique("zz");
    let databases: Vec<Database> = ["b", "a", "scratch_1", "closed"]
        .iter()
        .map(|name| Database::create(Server::Pg15, &format!("{stem}_{name}"), "template0"))
        .collect();
    databases[0].server.sql("postgres", &format!("alter database {} allow_connections false", databases[3].name));
    let world = World::new();
    let configure = |exclude: &str| {
        world.configure(&format!("{}[backups.x]\ndatabases = \"all\"\nexclude = {exclude}\n", Server::Pg15.section()));
    };
    configure("[\"[!z]*\", \"*scratch_?\"]");
    let id = world.backup("x");
    assert_eq!(world.manifest(&id)["databases"], serde_json::json!([format!("{stem}_a"), format!("{stem}_b")]));
    configure("[\"*\"]");
    let ran = world.pgvigil(&["--json", "run", "x"]).expect(1);
    assert!(ran.json()["error"]["hint"].as_str().unwrap().contains("exclude"), "{ran:#?}");
    // One that is named must be there, and allow connections.
    for named in [databases[3].name.as_str(), "nosuch"] {
        world.configure(&format!("{}[backups.x]\ndatabases = [\"{}\", \"{named}\"]\n", Server::Pg15.section(), databases[0].name));
        let ran = world.pgvigil(&["run", "x"]).expect(1);
        assert!(ran.stderr.contains(named) && ran.stderr.contains(&databases[1].name), "{ran:#?}");
    }
}

#[test]
fn globals_are_beside_the_dump_unless_they_are_off() {
    let role = Role::create(Server::Pg15, "login password 'x'");
    let database = Database::empty(Server::Pg15);
    let world = World::new();
    let configure =
        |keys: &str| world.configure(&format!("{}[backups.x]\ndatabase = \"{}\"\n{keys}", Server::Pg15.section(), database.name));
    configure("");
    let id = world.backup("x");
    let globals = world.pgvigil(&["cat", &id, "globals.sql.gz"]).expect(0).stdout;
    assert!(globals.contains(&format!("CREATE ROLE {}", role.name)) && globals.contains("PASSWORD 'SCRAM-SHA-256$"), "{globals}");
    assert_eq!(world.manifest(&id)["globals"]["no_role_passwords"], false);
    configure("globals = false\n");
    let id = world.backup("x");
    assert!(world.manifest(&id)["files"].as_array().unwrap().iter().all(|file| file["role"] != "globals"));
    let page = world.pgvigil(&["cat", &id, "RESTORE.md"]).expect(0).stdout;
    assert!(page.contains("roles and tablespaces: "), "{page}");
}

#[test]
fn a_role_that_may_not_read_passwords_gets_the_rest() {
    let role = Role::create(Server::Pg15, "login password 'reader'");
    // pg_read_all_data reads the passwords too.
    let database = Database::sample(Server::Pg15);
    let name = &role.name;
    database.sql(&format!(
        "grant select on large object 424242 to {name}; grant usage on schema \"Mixed Case\" to {name};
        grant select on all tables in schema public, \"Mixed Case\" to {name}; grant select on all sequences in schema public, \"Mixed Case\" to {name}"
    ));
    let section = Server::Pg15.section().replace("{ env = \"PGVIGIL_TEST_PASSWORD\" }", "\"reader\"");
    let world = World::new();
    world.configure(&format!("{section}user = \"{}\"\n[backups.x]\ndatabase = \"{}\"\n", role.name, database.name));
    let said = check_lines(&world.pgvigil(&["--json", "check"]).expect(3));
    assert!(said.iter().any(|line| line.contains("warning") && line.contains("passwords of roles")), "{said:#?}");
    let id = world.backup("x");
    assert_eq!(world.manifest(&id)["globals"]["no_role_passwords"], true);
    let globals = world.pgvigil(&["cat", &id, "globals.sql.gz"]).expect(0).stdout;
    assert!(globals.contains(&format!("CREATE ROLE {}", role.name)) && !globals.contains("PASSWORD"), "{globals}");
    let page = world.pgvigil(&["cat", &id, "RESTORE.md"]).expect(0).stdout;
    assert!(page.contains("the passwords of the roles"), "{page}");
    assert!(world.pgvigil(&["show", &id]).expect(0).stdout.contains("without the passwords"));
}
