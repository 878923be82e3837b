//! `export`: a dump outside of the catalog, whole or not there.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::common::{Database, Server, World, run};
use crate::support::{bin_dir, programs, stock};

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_name_of_the_file_decides_how_it_is_packed() {
    for server in [Server::Pg15, Server::Exec] {
        let database = Database::sample(server);
        let world = World::with(server, "");
        let dir = world.path("out");
        std::fs::create_dir(&dir).unwrap();
        let export = |name: &str, more: &[&str]| {
            let mut args = vec!["export", &database.name, "--output", name];
            args.extend(more);
            let mut command = world.command(&args);
            crate::common::ran(command.current_dir(&dir)).expect(0)
        };
        export("a.sql.gz", &[]);
        export("a.sql.zst", &[]);
        export("a.sql", &[]);
        export("a.txt", &["--compression", "zstd:1"]);
        export("a.dump", &["--format", "custom"]);
        let plain = std::fs::read(dir.join("a.sql")).unwrap();
        // Of one database at rest the dumps differ in nothing but the key of \restrict.
        let body = |bytes: &[u8]| {
            String::from_utf8_lossy(bytes)
                .lines()
                .filter(|line| !line.contains("restrict"))
                .map(|line| format!("{line}\n"))
                .collect::<String>()
        };
        assert!(body(&plain).contains("database dump complete"));
        for (tool, args) in [("gunzip", ["-c", "a.sql.gz"]), ("zstd", ["-dc", "a.sql.zst"]), ("zstd", ["-dc", "a.txt"])] {
            assert_eq!(body(&stock(tool, &args, &dir)), body(&plain), "{args:?}");
        }
        stock(&programs(15).join("pg_restore").display().to_string(), &["--list", "a.dump"], &dir);
        let to_stdout = export("-", &[]).stdout;
        assert_eq!(body(to_stdout.as_bytes()), body(&plain));
        assert_eq!(names(&dir), ["a.dump", "a.sql", "a.sql.gz", "a.sql.zst", "a.txt"]);
        for name in names(&dir) {
            assert_eq!(std::fs::metadata(dir.join(&name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
        // It is in no catalog.
        assert_eq!(world.pgvigil(&["--json", "list"]).expect(0).json(), serde_json::json!([]));
    }
}

#[test]
fn a_folder_is_exported_where_the_programs_are_here() {
    let database = Database::sample(Server::Network);
    let world = World::with(Server::Network, "");
    let args = ["export", &database.name, "--format", "directory", "--output", "folder"];
    world.pgvigil(&args).expect(0);
    let restore = programs(15).join("pg_restore").display().to_string();
    assert!(String::from_utf8(stock(&restore, &["--list", "folder"], &world.path(""))).unwrap().contains("order_items"));
    world.pgvigil(&args).expect(1);
    world.pgvigil(&[&args[..], &["--force"]].concat()).expect(0);
    let mut to_stdout = args;
    to_stdout[5] = "-";
    world.pgvigil(&to_stdout).expect(2);
    let world = World::with(Server::Exec, "");
    let ran = world.pgvigil(&args);
    assert!(ran.code != Some(0) && ran.stderr.contains("network"), "{ran:#?}");
}

#[test]
fn parts_are_exported_by_pattern() {
    let database = Database::sample(Server::Pg15);
    let world = World::with(Server::Pg15, "");
    let export = |more: &[&str]| {
        let args = [&["export", &database.name, "--output", "-"], more].concat();
        world.pgvigil(&args).expect(0).stdout
    };
    let sql = export(&["--contents", "schema", "--table", "tricky", "--table", "\"Mixed Case\".*"]);
    assert!(
        sql.contains("CREATE TABLE public.tricky") && sql.contains("CREATE TABLE \"Mixed Case\".\"Table\"") && !sql.contains("COPY public")
    );
    let sql = export(&["--contents", "data", "--schema", "\"Mixed Case\""]);
    assert!(sql.contains("COPY \"Mixed Case\".\"Table\"") && !sql.contains("CREATE TABLE") && !sql.contains("COPY public"));
    let ran = world.pgvigil(&["export", &database.name, "--output", "x.sql", "--table", "nosuch"]).expect(1);
    assert!(ran.stderr.contains("quoted") && !world.path("x.sql").exists(), "{ran:#?}");
}

#[test]
fn nothing_is_overwritten_without_force_and_nothing_is_left_of_a_failure() {
    let database = Database::sample(Server::Pg15);
    let world = World::new();
    // It fails after most of the dump is written.
    let bin = bin_dir(&world, 15, &[("pg_dump", "\"$real\"/pg_dump \"$@\" | head -c 1000000; exit 1")]);
    let good = Server::Pg15.section();
    world.configure(&good);
    let dir = world.path("out");
    std::fs::create_dir(&dir).unwrap();
    let export = |name: &str, more: &[&str]| {
        let args = [&["export", &database.name, "--output", name], more].concat();
        crate::common::ran(world.command(&args).current_dir(&dir))
    };
    std::fs::write(dir.join("a.sql"), "mine").unwrap();
    let ran = export("a.sql", &[]).expect(1);
    assert!(ran.stderr.contains("--force"), "{ran:#?}");
    assert_eq!(std::fs::read_to_string(dir.join("a.sql")).unwrap(), "mine");
    export("a.sql", &["--force"]).expect(0);
    assert_ne!(std::fs::read_to_string(dir.join("a.sql")).unwrap(), "mine");
    // What stands in the place of a link is the link's own, and a folder is no file.
    std::fs::create_dir(dir.join("folder")).unwrap();
    assert_ne!(export("folder", &["--force"]).code, Some(0));
    std::fs::remove_dir(dir.join("folder")).unwrap();

    world.configure(&format!("{good}bin_dir = \"{}\"\n", bin.display()));
    std::fs::write(dir.join("a.sql"), "mine").unwrap();
    for args in [("a.sql", &["--force"][..]), ("b.sql.gz", &[]), ("b.dump", &["--format", "custom"]), ("nosuch/b.sql", &[])] {
        let ran = export(args.0, args.1).expect(1);
        assert!(ran.stderr.contains("error: "), "{ran:#?}");
    }
    assert_eq!(std::fs::read_to_string(dir.join("a.sql")).unwrap(), "mine");
    assert_eq!(names(&dir), ["a.sql"]);
    // A cut dump on stdout ends in a failure too.
    export("-", &[]).expect(1);
}

#[test]
fn a_reader_of_an_export_that_goes_away_ends_it() {
    let database = Database::sample(Server::Pg15);
    let world = World::with(Server::Pg15, "");
    let script = format!(
        "'{}' --config '{}' export {} --output - | head -1; exit ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_pgvigil"),
        world.config().display(),
        database.name
    );
    let output = run(std::process::Command::new("bash").args(["-c", &script]));
    // A closed stdout ends quietly, as `cat | head` does.
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
