//! Programs that lie: they exit 0 without having written all, or fail after all is written.

use crate::common::{Database, Server, World, var};
use crate::judge::{Case, End, FEW_ROWS, Target, assert_sound, judge};
use crate::tools::programs;

/// A script in the place of a program; `dump` runs the true one.
struct Lie {
    program: &'static str,
    format: &'static str,
    script: &'static str,
    /// What the error must say.
    says: &'static str,
}

const LIES: &[Lie] = &[
    Lie { program: "pg_dump", format: "plain", script: "dump | head -c 50000; exit 0", says: "not a whole dump" },
    Lie { program: "pg_dump", format: "plain", script: "dump | head -c -1000; exit 0", says: "not a whole dump" },
    // Without the last line: the key of \restrict is missing.
    Lie { program: "pg_dump", format: "plain", script: "dump | grep -v '^.unrestrict'; exit 0", says: "not a whole dump" },
    Lie { program: "pg_dump", format: "plain", script: "dump | sed '/^.unrestrict/s/$/x/'; exit 0", says: "not a whole dump" },
    // Cut right behind rows that read like the end.
    Lie { program: "pg_dump", format: "plain", script: "dump | sed '/^its last row$/,$d'; exit 0", says: "middle of the rows" },
    // The same, and somebody closed it with the key of the dump.
    Lie {
        program: "pg_dump",
        format: "plain",
        script: "dump >$0.whole; sed '/^its last row$/,$d' $0.whole; grep '^.unrestrict' $0.whole; exit 0",
        says: "middle of the rows",
    },
    Lie { program: "pg_dump", format: "plain", script: "dump; exit 1", says: "exit status 1" },
    Lie { program: "pg_dump", format: "plain", script: "dump; kill -9 $$", says: "signal 9" },
    Lie { program: "pg_dump", format: "plain", script: "exit 0", says: "empty" },
    Lie { program: "pg_dump", format: "plain", script: "echo 'pg_dump: error: no'; exit 0", says: "not a whole dump" },
    Lie { program: "pg_dump", format: "plain", script: "dump | tr -d '\\n'; exit 0", says: "not a whole dump" },
    // Two dumps in one, of which the second is cut.
    Lie { program: "pg_dump", format: "plain", script: "dump; dump | head -c 50000; exit 0", says: "not a whole dump" },
    Lie { program: "pg_dump", format: "plain", script: "yes 'it fails' | head -c 10000000 >&2; dump; exit 1", says: "it fails" },
    // A child of it holds stdout open: no end of the output comes.
    Lie { program: "pg_dump", format: "plain", script: "dump; sleep 1000 & exit 0", says: "no byte came" },
    Lie { program: "pg_dumpall", format: "plain", script: "dump; exit 1", says: "globals" },
    Lie { program: "pg_dumpall", format: "plain", script: "dump | head -c 500; exit 0", says: "not a whole dump" },
    Lie { program: "pg_dumpall", format: "custom", script: "exit 0", says: "empty" },
    Lie { program: "pg_dump", format: "custom", script: "exit 0", says: "empty" },
    Lie { program: "pg_dump", format: "custom", script: "dump; exit 1", says: "exit status 1" },
    Lie { program: "pg_dump", format: "custom", script: "head -c 1000000 /dev/zero; exit 0", says: "archive" },
    Lie { program: "pg_dump", format: "custom", script: "dump | head -c 20000; exit 0", says: "" },
    Lie { program: "pg_dump", format: "custom", script: "dump | head -c -1; exit 0", says: "" },
    Lie { program: "pg_dump", format: "custom", script: "dump | head -c -5000; exit 0", says: "" },
    Lie { program: "pg_dump", format: "directory", script: "exit 0", says: "toc.dat" },
    Lie { program: "pg_dump", format: "directory", script: "dump; exit 1", says: "exit status 1" },
    Lie { program: "pg_dump", format: "directory", script: "dump; rm \"$DIR/toc.dat\"; exit 0", says: "toc.dat" },
    Lie { program: "pg_dump", format: "directory", script: "dump; rm $(ls -S \"$DIR\"/*.dat.gz | head -1); exit 0", says: "" },
    Lie { program: "pg_dump", format: "directory", script: "dump; truncate -s -9 $(ls -S \"$DIR\"/*.dat.gz | head -1); exit 0", says: "" },
    // Where nothing of the folder is the program's business.
    Lie { program: "pg_dump", format: "directory", script: "dump; ln -s /etc/passwd \"$DIR/link\"; mkdir \"$DIR/more\"; exit 0", says: "" },
];

/// A database whose last rows of a table read like the end of a dump.
fn database() -> Database {
    let database = Database::empty(Server::Pg15);
    database.sql(FEW_ROWS);
    database.sql(
        "create table zz_last (line text);
        insert into zz_last values ('--'), ('-- PostgreSQL database dump complete'), ('--'), (''), ('its last row')",
    );
    database
}

fn lies(format: &str) {
    let keys = |bin: &std::path::Path| {
        let port = var("PGVIGIL_TEST_PG15_PORT");
        format!("host = \"127.0.0.1\"\nport = {port}\nbin_dir = \"{}\"\n", bin.display())
    };
    let backup = format!("format = \"{format}\"\n");
    let world = World::new();
    let honest = programs(&world.path(""), &[]);
    let mut case = Case::build(world, Target::Shared(database()), None, &keys(&honest), &backup);
    let mut faults = Vec::new();
    for lie in LIES.iter().filter(|lie| lie.format == format) {
        let script = format!(
            "case \"$*\" in *--version*|*' -V'*|-V) exec $BIN/{0} \"$@\";; esac\n\
            for arg; do case $arg in --file=*) DIR=${{arg#--file=}};; esac; done\n\
            args=(\"$@\")\ndump() {{ $BIN/{0} \"${{args[@]}}\"; }}\n{1}",
            lie.program, lie.script
        );
        let lying = programs(&case.world.path(""), &[(lie.program, &script)]);
        case.configure(&keys(&lying), &format!("{backup}stall_timeout = \"3s\"\n"));
        let ran = case.run();
        case.configure(&keys(&honest), &backup);
        if ran.code != Some(1) || !ran.stderr.contains(lie.says) {
            faults.push(format!("{}: {ran:#?}", lie.script));
        }
        let end = if ran.code == Some(0) { End::Done } else { End::Failed };
        faults.extend(judge(&mut case, end).into_iter().map(|fault| format!("{}: {fault}", lie.script)));
    }
    assert!(faults.is_empty(), "{format}: {}", faults.join("\n"));
}

#[test]
fn plain() {
    lies("plain");
}

#[test]
fn custom() {
    lies("custom");
}

#[test]
fn directory() {
    lies("directory");
}

/// It has much to say, and then it is well.
#[test]
fn a_flood_of_warnings_is_no_failure() {
    let script = "case \"$*\" in *--version*) ;; *) yes 'a word of warning' | head -c 10000000 >&2;; esac\nexec $BIN/pg_dump \"$@\"";
    let world = World::new();
    let bin = programs(&world.path(""), &[("pg_dump", script)]);
    let keys = format!("host = \"127.0.0.1\"\nport = {}\nbin_dir = \"{}\"\n", var("PGVIGIL_TEST_PG15_PORT"), bin.display());
    let mut case = Case::build(world, Target::Shared(database()), None, &keys, "");
    let ran = case.run().expect(0);
    assert!(ran.stderr.len() < 100_000, "{} bytes of stderr", ran.stderr.len());
    assert_sound(&mut case, End::Done);
}

/// Not a program at all.
#[test]
fn a_program_that_cannot_be_started() {
    let world = World::new();
    let honest = programs(&world.path(""), &[]);
    let keys = |bin: &std::path::Path| {
        format!("host = \"127.0.0.1\"\nport = {}\nbin_dir = \"{}\"\n", var("PGVIGIL_TEST_PG15_PORT"), bin.display())
    };
    let mut case = Case::build(world, Target::Shared(database()), None, &keys(&honest), "");
    for program in ["pg_dump", "pg_dumpall", "psql"] {
        let broken = programs(&case.world.path(""), &[(program, "")]);
        for how in ["no permission", "no program", "nothing"] {
            let path = broken.join(program);
            match how {
                "no permission" => crate::tools::chmod(&path, 0o644),
                "no program" => {
                    std::fs::remove_file(&path).unwrap();
                    crate::tools::must(std::process::Command::new("cp").arg("/etc/hostname").arg(&path));
                    crate::tools::chmod(&path, 0o755);
                }
                _ => std::fs::remove_file(&path).unwrap(),
            }
            case.configure(&keys(&broken), "");
            let ran = case.run();
            case.configure(&keys(&honest), "");
            assert!(ran.code == Some(1) && ran.stderr.contains(program), "{program}, {how}: {ran:#?}");
            assert_sound(&mut case, End::Failed);
        }
    }
}
