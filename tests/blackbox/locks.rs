//! One run of a backup at a time, also across processes.

use std::io::Write;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::common::{Database, Server, World, run};
use crate::support::{bin_dir, stock};

/// A pg_dump that says when it has begun, and waits until somebody lets it go. A name that is in
/// the file `free` goes through.
const GATED: &str = r#"
for last; do :; done
if [[ $last == *gated* ]]; then echo begun > "$world/begun"; read -r line < "$world/gate"; fi
exec "$real"/pg_dump "$@"
"#;

struct Gate<'a> {
    world: &'a World,
}

impl<'a> Gate<'a> {
    fn new(world: &'a World) -> Self {
        stock("mkfifo", &["begun", "gate"], &world.path(""));
        Gate { world }
    }

    /// Starts a run, and returns when its pg_dump stands at the gate.
    fn start(&self, args: &[&str]) -> Child {
        let child = self.world.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        assert_eq!(std::fs::read_to_string(self.world.path("begun")).unwrap(), "begun\n");
        child
    }

    fn open(&self) {
        std::fs::OpenOptions::new().write(true).open(self.world.path("gate")).unwrap().write_all(b"go\n").unwrap();
    }
}

#[test]
fn a_second_run_of_a_backup_is_skipped_and_another_backup_is_not() {
    let gated = Database::create(Server::Pg15, &crate::common::unique("gated"), "template0");
    let free = Database::empty(Server::Pg15);
    let world = World::new();
    let bin = bin_dir(&world, 15, &[("pg_dump", GATED)]);
    world.configure(&format!(
        "{}bin_dir = \"{}\"\n[backups.x]\ndatabase = \"{}\"\n[backups.xx]\ndatabase = \"{}\"\n",
        Server::Pg15.section(),
        bin.display(),
        gated.name,
        free.name
    ));
    let gate = Gate::new(&world);
    let first = gate.start(&["--json", "run", "x"]);
    let partial = world.names("x");
    assert!(partial.len() == 1 && partial[0].starts_with(".partial-"), "{partial:?}");

    let second = world.pgvigil(&["--json", "run", "x"]).expect(75);
    let answer = second.json();
    assert_eq!((&answer["id"], &answer["outcome"], &answer["error"]["kind"]), (&Value::Null, &"skipped".into(), &"busy".into()));
    assert!(second.stderr.contains("under way"), "{second:#?}");
    world.pgvigil(&["run", "x"]).expect(75);
    // A name that only begins the same, the catalog, the history and a check are not held up.
    world.backup("xx");
    assert_eq!(world.pgvigil(&["--json", "list", "x"]).expect(0).json(), serde_json::json!([]));
    assert_eq!(world.pgvigil(&["--json", "list"]).expect(0).json().as_array().unwrap().len(), 1);
    world.pgvigil(&["check"]).expect(3);
    let runs = world.pgvigil(&["--json", "history", "x"]).expect(0).json();
    let mut outcomes: Vec<&Value> = runs.as_array().unwrap().iter().map(|run| &run["outcome"]).collect();
    outcomes.sort_by_key(ToString::to_string);
    assert_eq!(outcomes, ["skipped", "skipped"].map(Value::from).iter().chain([&Value::Null]).collect::<Vec<_>>().as_slice(), "{runs:#}");
    assert_eq!(world.names("x"), partial, "what is under way is nobody's leftover");

    gate.open();
    let output = first.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(world.pgvigil(&["--json", "list", "x"]).expect(0).json().as_array().unwrap().len(), 1);
    // The lock went with its holder.
    let third = gate.start(&["run", "x"]);
    gate.open();
    assert!(third.wait_with_output().unwrap().status.success());
}

#[test]
fn a_lock_ends_with_its_holder() {
    let gated = Database::create(Server::Pg15, &crate::common::unique("gated"), "template0");
    let world = World::new();
    let bin = bin_dir(&world, 15, &[("pg_dump", GATED)]);
    world.configure(&format!("{}bin_dir = \"{}\"\n[backups.x]\ndatabase = \"{}\"\n", Server::Pg15.section(), bin.display(), gated.name));
    let gate = Gate::new(&world);
    let mut killed = gate.start(&["run", "x"]);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let next = gate.start(&["--json", "run", "x"]);
    gate.open();
    let output = next.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let history = world.pgvigil(&["--json", "history"]).expect(0).json();
    let outcomes: Vec<&str> = history.as_array().unwrap().iter().map(|run| run["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["ok", "interrupted"]);
    assert!(!world.names("x").iter().any(|name| name.starts_with('.')), "{:?}", world.names("x"));
}

#[test]
fn a_run_that_is_told_to_stop_leaves_nothing() {
    let gated = Database::create(Server::Pg15, &crate::common::unique("gated"), "template0");
    for signal in ["TERM", "INT"] {
        let world = World::new();
        let bin = bin_dir(&world, 15, &[("pg_dump", GATED)]);
        world.configure(&format!(
            "{}bin_dir = \"{}\"\n[backups.x]\ndatabase = \"{}\"\n",
            Server::Pg15.section(),
            bin.display(),
            gated.name
        ));
        let gate = Gate::new(&world);
        let child = gate.start(&["--json", "run", "x"]);
        run(std::process::Command::new("kill").args(["-s", signal, &child.id().to_string()]));
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&answer["outcome"], &answer["id"]), (&"cancelled".into(), &Value::Null));
        assert_eq!(world.names("x"), Vec::<String>::new());
        assert_eq!(world.pgvigil(&["--json", "history"]).expect(0).json()[0]["outcome"], "cancelled");
    }
}
