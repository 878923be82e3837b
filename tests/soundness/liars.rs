//! Programs that end well and did not do their work, and programs that flood and linger.

use std::os::unix::fs::PermissionsExt;

use crate::common::{Database, Server, World, var};

/// A world whose `pg_dump` is a script; `$real` is the true one.
fn world(script: &str, program: &str, database: &Database, keys: &str) -> World {
    let world = World::new();
    let bin = world.path("bin");
    std::fs::create_dir(&bin).unwrap();
    let real = var("PGVIGIL_TEST_PG15_BIN");
    for name in ["psql", "pg_dump", "pg_dumpall", "pg_restore"] {
        let path = bin.join(name);
        if name == program {
            let version = "case \"$1\" in --version) exec \"$real\" --version;; esac";
            std::fs::write(&path, format!("#!/bin/bash\nreal={real}/{name}\n{version}\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        } else {
            std::os::unix::fs::symlink(format!("{real}/{name}"), &path).unwrap();
        }
    }
    let server = Server::Pg15.section();
    world.configure(&format!("{server}bin_dir = \"{}\"\n[backups.x]\ndatabase = \"{}\"\n{keys}\n", bin.display(), database.name));
    world
}

#[test]
fn no_lie_is_stored() {
    let database = Database::sample(Server::Pg15);
    let faked =
        r#""$real" "$@" | head -c 2000000 > "$0.out"; cat "$0.out"; printf '\n--\n-- PostgreSQL database dump complete\n--\n\n'; exit 0"#;
    for (what, program, script, keys) in [
        ("a cut dump with status 0", "pg_dump", r#""$real" "$@" | head -c 2000000; exit 0"#, ""),
        ("the same, of zstd", "pg_dump", r#""$real" "$@" | head -c 2000000; exit 0"#, "compression = \"zstd\""),
        ("a cut dump with a faked end", "pg_dump", faked, ""),
        ("a whole dump with status 1", "pg_dump", r#""$real" "$@"; exit 1"#, ""),
        ("a whole archive with status 1", "pg_dump", r#""$real" "$@"; exit 1"#, "format = \"custom\""),
        ("nothing with status 0", "pg_dump", "exit 0", ""),
        ("no archive with status 0", "pg_dump", "exit 0", "format = \"custom\""),
        ("an error text with status 0", "pg_dump", "echo 'OCI runtime exec failed'; exit 0", "format = \"custom\""),
        ("an empty folder with status 0", "pg_dump", "exit 0", "format = \"directory\""),
        ("killed in the middle", "pg_dump", r#""$real" "$@" | head -c 2000000; kill -9 $$"#, ""),
        ("globals that fail", "pg_dumpall", "echo 'no globals today' >&2; exit 1", ""),
        ("globals that are cut", "pg_dumpall", r#""$real" "$@" | head -c 300; exit 0"#, ""),
    ] {
        let world = world(script, program, &database, keys);
        let ran = world.pgvigil(&["--json", "run", "x"]).expect(1);
        let answer = ran.json();
        assert!(answer["id"].is_null() && answer["outcome"] == "failed" && answer["error"]["message"].is_string(), "{what}: {answer}");
        assert_eq!(world.names("x"), Vec::<String>::new(), "{what}");
        let history = world.pgvigil(&["--json", "history"]).expect(0).json();
        assert_eq!(history[0]["outcome"], "failed", "{what}");
    }
}

/// What floods stderr neither blocks the dump nor fills the memory; its end is told.
#[test]
fn a_flood_of_stderr_is_bounded() {
    let database = Database::sample(Server::Pg15);
    let flood = r"yes 'a warning that nobody can read' | head -c 20000000 >&2; echo 'the last words' >&2; exit 1";
    let ran = world(flood, "pg_dump", &database, "").pgvigil(&["run", "x"]).expect(1);
    assert!(ran.stderr.contains("the last words") && ran.stderr.len() < 20_000, "{} bytes", ran.stderr.len());
}
