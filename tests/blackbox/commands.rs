//! The commands: their JSON, their exit codes, what they say and what they leave.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::common::{Database, Server, World, ran, run};
use crate::support::check_lines;

const WORKING: [&str; 21] = [
    "check",
    "run",
    "list",
    "show",
    "cat",
    "history",
    "export",
    "verify",
    "pin",
    "unpin",
    "init",
    "completions",
    "schema",
    "daemon",
    "next",
    "restore",
    "rebuild",
    "prune",
    "adopt",
    "status",
    "alert",
];

#[track_caller]
fn keys(value: &Value, expected: &[&str]) {
    let mut found: Vec<&str> = value.as_object().unwrap_or_else(|| panic!("{value:#} is no object")).keys().map(String::as_str).collect();
    let mut expected = expected.to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected, "{value:#}");
}

#[track_caller]
fn time(value: &Value) -> DateTime<Utc> {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is no time"));
    assert!(text.ends_with('Z'), "{text} is not in UTC");
    text.parse().unwrap()
}

#[test]
fn every_json_document_has_the_shape_that_is_promised() {
    let database = Database::sample(Server::Pg15);
    let world = World::with(
        Server::Pg15,
        &format!(
            "[backups.a]\ndatabase = \"{0}\"\n[backups.b]\ndatabase = \"nosuch\"\n[backups.c]\ndatabase = \"{0}\"\ncontents = \"schema\"\n",
            database.name
        ),
    );
    let before = Utc::now();
    assert_eq!(world.pgvigil(&["--json", "list"]).expect(0).json(), serde_json::json!([]));
    assert_eq!(world.pgvigil(&["--json", "history"]).expect(0).json(), serde_json::json!([]));

    let made = world.pgvigil(&["--json", "run", "a"]).expect(0).json();
    keys(&made, &["id", "outcome", "rung", "error", "warnings", "seconds"]);
    assert_eq!((&made["outcome"], &made["rung"], &made["error"]), (&"ok".into(), &"readable".into(), &Value::Null));
    assert!(made["warnings"].is_array() && made["seconds"].as_f64().unwrap() > 0.0);
    let failed = world.pgvigil(&["--json", "run", "b"]).expect(1).json();
    keys(&failed, &["id", "outcome", "rung", "error", "warnings", "seconds"]);
    keys(&failed["error"], &["kind", "message", "hint"]);
    assert_eq!((&failed["id"], &failed["outcome"], &failed["rung"]), (&Value::Null, &"failed".into(), &Value::Null));
    let (first, narrow, second) = (made["id"].as_str().unwrap().to_owned(), world.backup("c"), world.backup("a"));

    let list = world.pgvigil(&["--json", "list"]).expect(0).json();
    let ids: Vec<&str> = list.as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [&second, &narrow, &first], "newest first");
    for entry in list.as_array().unwrap() {
        keys(
            entry,
            &["id", "backup", "label", "taken_at", "rung", "tiers", "pinned", "narrow", "bytes", "raw_bytes", "databases", "stores"],
        );
        assert_eq!(entry["id"], format!("{}/{}", entry["backup"].as_str().unwrap(), entry["label"].as_str().unwrap()));
        assert!(time(&entry["taken_at"]) >= before && time(&entry["taken_at"]) <= Utc::now());
        assert_eq!(entry["stores"], serde_json::json!([{ "name": "local", "rung": "readable" }]));
        assert!(entry["tiers"].is_array() && entry["pinned"] == false && entry["narrow"] == (entry["backup"] == "c"));
        assert_eq!(entry["databases"], serde_json::json!([database.name]));
        // Dumps and globals as stored.
        let manifest = world.manifest(entry["id"].as_str().unwrap());
        let files = manifest["files"].as_array().unwrap().iter().filter(|file| file["role"] != "notes");
        assert_eq!(entry["bytes"], files.clone().map(|file| file["bytes"].as_u64().unwrap()).sum::<u64>());
        assert_eq!(entry["raw_bytes"], files.map(|file| file["raw_bytes"].as_u64().unwrap()).sum::<u64>());
    }
    assert_eq!(world.pgvigil(&["--json", "list", "c"]).expect(0).json().as_array().unwrap().len(), 1);

    let history = world.pgvigil(&["--json", "history"]).expect(0).json();
    let history = history.as_array().unwrap();
    let outcomes: Vec<(&str, &str)> =
        history.iter().map(|run| (run["backup"].as_str().unwrap(), run["outcome"].as_str().unwrap())).collect();
    assert_eq!(outcomes, [("a", "ok"), ("c", "ok"), ("b", "failed"), ("a", "ok")], "newest first");
    for run in history {
        keys(run, &["backup", "kind", "slot", "started_at", "finished_at", "outcome", "error", "id"]);
        assert!(time(&run["started_at"]) <= time(&run["finished_at"]));
    }
    assert_eq!(history[0]["id"], second.as_str());
    assert!(history[2]["error"].as_str().unwrap().contains("nosuch") && history[2]["id"].is_null());
    assert_eq!(world.pgvigil(&["--json", "history", "b"]).expect(0).json().as_array().unwrap().len(), 1);
    assert!(world.pgvigil(&["history"]).expect(0).stdout.contains("nosuch"));

    let show = world.pgvigil(&["--json", "show", "a/latest"]).expect(0).json();
    assert_eq!(show["id"], second.as_str());
    assert_eq!(show["files"], world.manifest(&second)["files"]);
    assert_eq!(show["stores"][0]["proofs"].as_array().unwrap().len(), 1);
    let page = world.pgvigil(&["show", &narrow]).expect(0).stdout;
    for word in [narrow.as_str(), "readable", "contents schema", "RESTORE.md", "globals.sql.gz", "local", &database.name] {
        assert!(page.contains(word), "{word} in {page}");
    }

    let verified = world.pgvigil(&["--json", "verify", &first, "--store", "local"]).expect(0).json();
    keys(&verified, &["id", "outcome", "rung", "error", "warnings", "seconds"]);
    assert_eq!((&verified["id"], &verified["outcome"], &verified["rung"]), (&first.as_str().into(), &"ok".into(), &"readable".into()));

    for line in world.pgvigil(&["--json", "check"]).expect(1).json().as_array().unwrap() {
        keys(line, &["subject", "ok", "level", "message", "hint"]);
        assert_eq!(line["ok"] == true, line["level"] == "ok", "{line}");
        assert!(line["ok"] == true || !line["hint"].as_str().unwrap_or_default().is_empty(), "no fix: {line}");
    }
    let pinned = world.pgvigil(&["--json", "pin", &first]).expect(0).json();
    assert_eq!(pinned, serde_json::json!({ "id": first, "pinned": true }));
    let out = world.path("out.sql.gz").display().to_string();
    let exported = world.pgvigil(&["--json", "export", &database.name, "--output", &out]).expect(0).json();
    assert_eq!(exported["bytes"], std::fs::metadata(&out).unwrap().len());
    assert!(world.pgvigil(&["--json", "init"]).expect(0).json()["file"].as_str().unwrap().contains("[stores.local]"));
}

#[test]
fn a_failure_is_one_json_document_and_a_line_on_stderr() {
    let world = World::with(Server::Pg15, "[backups.x]\ndatabase = \"nosuch\"\n");
    for (args, code, kind) in [
        (&["list", "nosuch"][..], 1, "not_found"),
        (&["history", "nosuch"], 1, "not_found"),
        (&["run", "nosuch"], 1, "not_found"),
        (&["run", "x"], 1, "not_found"),
        (&["show", "x/latest"], 1, "not_found"),
        (&["show", "x/20240115T010000Z"], 1, "not_found"),
        (&["show", "x"], 1, "not_found"),
        (&["show", "../etc/latest"], 1, "not_found"),
        (&["verify", "x/latest"], 1, "not_found"),
        (&["verify", "x/nonsense"], 1, "not_found"),
        (&["verify", "x/latest", "--store", "nosuch"], 1, "not_found"),
        (&["pin", "x/latest"], 1, "not_found"),
        (&["unpin", "nosuch/latest"], 1, "not_found"),
        (&["export", "nosuch", "--output", "x.sql"], 1, "not_found"),
        (&["export", "x", "--output", "x.sql", "--server", "nosuch"], 1, "not_found"),
        (&["init", "--container", "nosuch"], 1, "docker"),
        (&["run"], 2, "usage"),
        (&["frobnicate"], 2, "usage"),
        (&["list", "--nosuch"], 2, "usage"),
        (&["export", "x", "--output", "-", "--format", "nosuch"], 2, "usage"),
    ] {
        let mut json = vec!["--json"];
        json.extend(args);
        let ran = world.pgvigil(&json).expect(code);
        let error = &ran.json()["error"];
        keys(error, &["kind", "message", "hint"]);
        assert_eq!(error["kind"], kind, "{args:?}: {ran:#?}");
        assert!(!ran.stderr.is_empty(), "{args:?}");
        let plain = world.pgvigil(args).expect(code);
        assert_eq!(plain.stdout, "", "{args:?}");
        assert!(plain.stderr.contains("error"), "{args:?}: {plain:#?}");
    }
    let ran = world.pgvigil(&["cat", "x/latest"]).expect(1);
    assert!(ran.stderr.contains("error: "), "{ran:#?}");
    // stdout cannot hold both a document and something else.
    let database = Database::empty(Server::Pg15);
    world.configure(&format!("{}[backups.x]\ndatabase = \"{}\"\n", Server::Pg15.section(), database.name));
    world.backup("x");
    for args in [
        &["export", &database.name, "--output", "-"][..],
        &["cat", "x/latest"],
        &["cat", "x/latest", "RESTORE.md"],
        &["completions", "bash"],
    ] {
        let ran = world.pgvigil(&[&["--json"], args].concat()).expect(2);
        assert_eq!(ran.json()["error"]["kind"], "usage", "{args:?}");
    }
}

#[test]
fn every_command_has_help_with_an_example() {
    let world = World::new();
    let all = world.pgvigil(&["--help"]).expect(0).stdout;
    for command in WORKING {
        assert!(all.contains(&format!("\n  {command} ")), "{command} in {all}");
        for help in [&[command, "--help"][..], &["help", command]] {
            let text = world.pgvigil(help).expect(0).stdout;
            assert!(text.contains(&format!("pgvigil {command}")) || text.contains(" check --offline"), "{text}");
            assert!(text.contains("Example"), "{help:?} has no example: {text}");
        }
    }
    world.pgvigil(&[]).expect(2);
    let version = world.pgvigil(&["--version"]).expect(0).stdout;
    assert!(version.starts_with("pgvigil "), "{version}");
}

#[test]
fn completions_know_the_commands() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = world.pgvigil(&["completions", shell]).expect(0).stdout;
        assert!(["verify", "unpin", "export"].iter().all(|command| script.contains(command)), "{shell}");
    }
    let script = world.pgvigil(&["completions", "bash"]).stdout;
    let check = run(Command::new("bash").args(["-n", "-c", &script]));
    assert!(check.status.success());
    world.pgvigil(&["completions", "cmd.exe"]).expect(2);
}

#[test]
fn the_file_is_named_by_an_option_or_by_the_environment() {
    let world = World::with(Server::Pg15, "");
    let program = env!("CARGO_BIN_EXE_pgvigil");
    for mut command in [Command::new(program), Command::new(program), Command::new(program)] {
        let named = ran(command.arg("list").env("PGVIGIL_CONFIG", world.config()));
        assert_eq!(named.expect(0).stdout, "no backups yet; pgvigil run BACKUP makes one\n");
    }
    // The option wins, before and behind the command.
    let config = world.config().display().to_string();
    for args in [["--config", &config, "list"], ["list", "--config", &config]] {
        ran(Command::new(program).args(args).env("PGVIGIL_CONFIG", "/nonexistent")).expect(0);
    }
    ran(Command::new(program).arg("list").env("PGVIGIL_CONFIG", "/nonexistent")).expect(78);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let database = Database::sample(Server::Pg15);
    let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabase = \"{}\"\n", database.name));
    world.backup("x");
    let config = world.config().display().to_string();
    let program = env!("CARGO_BIN_EXE_pgvigil");
    for command in
        ["cat x/latest", "list", "--json list", "show x/latest", "history", "check --offline", "schema", "completions bash", "--help"]
    {
        let ours = format!("'{program}' --config '{config}' {command}; echo $? > code");
        // The reader is gone before the first byte, or after the first line.
        for script in [format!("mkfifo gate; (read x < gate; {ours}) | (exec <&-; echo > gate); rm gate"), format!("({ours}) | head -1")] {
            let output = run(Command::new("bash").args(["-c", &script]).current_dir(world.path("")));
            let code = std::fs::read_to_string(world.path("code")).unwrap();
            let expected = if command.starts_with("check") { "3" } else { "0" };
            assert_eq!(code.trim(), expected, "{script}: {output:?}");
            assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{script}");
        }
    }
}

#[test]
fn cat_writes_the_file_that_is_asked_for() {
    let database = Database::sample(Server::Pg15);
    let world = World::with(
        Server::Pg15,
        &format!("[backups.x]\ndatabase = \"{}\"\n[backups.d]\ndatabase = \"{0}\"\nformat = \"directory\"\n", database.name),
    );
    let id = world.backup("x");
    assert!(world.pgvigil(&["cat", "x/latest"]).expect(0).stdout.contains("PostgreSQL database dump complete"));
    assert!(world.pgvigil(&["cat", &id, "globals.sql.gz"]).expect(0).stdout.contains("cluster dump complete"));
    let page = std::fs::read_to_string(world.folder(&id).join("RESTORE.md")).unwrap();
    assert_eq!(world.pgvigil(&["cat", &id, "RESTORE.md"]).expect(0).stdout, page);
    let manifest: Value = serde_json::from_str(&world.pgvigil(&["cat", &id, "manifest.json"]).expect(0).stdout).unwrap();
    assert_eq!(manifest, world.manifest(&id));
    for name in ["nosuch", "../../../pgvigil.toml", "/etc/passwd", ""] {
        let ran = world.pgvigil(&["cat", &id, name]).expect(1);
        assert!(ran.stderr.contains("globals.sql.gz"), "{name}: {ran:#?}");
    }
    // A directory has many files: each by its name, as it is.
    let id = world.backup("d");
    let ran = world.pgvigil(&["cat", &id]).expect(2);
    assert!(ran.stderr.contains("/toc.dat"), "{ran:#?}");
    let toc = world.manifest(&id)["files"]
        .as_array()
        .unwrap()
        .iter()
        .find_map(|file| file["name"].as_str().filter(|name| name.ends_with("/toc.dat")).map(str::to_owned))
        .unwrap();
    let cat = run(&mut world.command(&["cat", &id, &toc]));
    assert_eq!(cat.stdout, std::fs::read(world.folder(&id).join(&toc)).unwrap());
}

#[test]
fn a_pin_holds_until_it_is_taken_out() {
    let database = Database::empty(Server::Pg15);
    let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabase = \"{}\"\n", database.name));
    let id = world.backup("x");
    let pinned = || world.pgvigil(&["--json", "list"]).expect(0).json()[0]["pinned"] == true;
    assert!(!pinned());
    // Several within a second: the newest counts.
    for (command, expected) in [("pin", true), ("unpin", false), ("pin", true), ("pin", true), ("unpin", false), ("pin", true)] {
        world.pgvigil(&[command, "x/latest"]).expect(0);
        assert_eq!(pinned(), expected, "{command}");
    }
    assert!(world.pgvigil(&["list"]).expect(0).stdout.contains("pinned"));
    let pins: Vec<_> = std::fs::read_dir(world.folder(&id))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("pin-"))
        .collect();
    assert_eq!(pins.len(), 6);
    for pin in pins {
        assert_eq!(std::fs::metadata(&pin).unwrap().permissions().mode() & 0o777, 0o600);
        let document: Value = serde_json::from_slice(&std::fs::read(pin).unwrap()).unwrap();
        keys(&document, &["pinned"]);
    }
}

#[test]
fn a_label_is_used_once() {
    let database = Database::empty(Server::Pg15);
    let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabase = \"{}\"\n", database.name));
    // Whatever second the run starts in, it is taken; one of the next is free.
    let now = Utc::now();
    let label = |seconds: i64| (now + chrono::Duration::seconds(seconds)).format("%Y%m%dT%H%M%SZ").to_string();
    for seconds in (0..120).filter(|seconds| *seconds != 60) {
        std::fs::create_dir_all(world.folder(&format!("x/{}", label(seconds)))).unwrap();
    }
    let id = world.backup("x");
    assert_eq!(id, format!("x/{}", label(60)));
    assert_eq!(world.manifest(&id)["slot"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap().timestamp(), now.timestamp() + 60);
    // And the next one is behind all of them. Folders without a manifest are no backups.
    assert_eq!(world.backup("x"), format!("x/{}", label(120)));
    assert_eq!(world.pgvigil(&["--json", "list"]).expect(0).json().as_array().unwrap().len(), 2);
}

#[test]
fn names_of_the_store_that_are_not_backups_are_passed_over() {
    let database = Database::empty(Server::Pg15);
    let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabase = \"{}\"\n", database.name));
    let id = world.backup("x");
    for junk in ["lost+found", "x/not-a-label", "x/20240115T010000Z", "UPPER/20240115T010000Z", "x/20240115T010000Z.bak"] {
        std::fs::create_dir_all(world.store().join(junk)).unwrap();
    }
    for junk in ["notes.txt", "x/notes.txt", "x/20240115T010001Z", &format!("{id}/notes.txt"), &format!("{id}/proof-garbage.json")] {
        std::fs::write(world.store().join(junk), "{}").unwrap();
    }
    let list = world.pgvigil(&["--json", "list"]).expect(0).json();
    assert_eq!(list.as_array().unwrap().len(), 1, "{list:#}");
    assert_eq!(list[0]["rung"], "readable");
    world.pgvigil(&["verify", "x/latest"]).expect(0);
}

#[test]
fn backups_of_a_section_that_is_gone_stay_readable() {
    let database = Database::empty(Server::Pg15);
    let world = World::with(Server::Pg15, &format!("[backups.old]\ndatabase = \"{}\"\n", database.name));
    let id = world.backup("old");
    world.configure(&Server::Pg15.section());
    assert_eq!(world.pgvigil(&["--json", "list"]).expect(0).json()[0]["id"], id.as_str());
    for args in [
        &["list", "old"][..],
        &["show", "old/latest"],
        &["cat", "old/latest"],
        &["verify", "old/latest"],
        &["history", "old"],
        &["pin", &id],
    ] {
        world.pgvigil(args).expect(0);
    }
    world.pgvigil(&["run", "old"]).expect(1);
}

#[test]
fn init_prints_a_file_that_works() {
    let world = World::new();
    let container = crate::common::container();
    let database = Database::empty(Server::Exec);
    let file = world.pgvigil(&["init", "--container", &container]).expect(0).stdout;
    assert!(file.contains(&format!("container = \"{container}\"")), "{file}");
    assert!(file.contains(&format!("database = \"{}\"", database.name)), "{file}");
    let store = world.store().display().to_string();
    let text = file.replace("/srv/postgres/backups", &store);
    std::fs::write(world.config(), format!("state_dir = \"{}\"\n{text}", world.path("state").display())).unwrap();
    let lines = check_lines(&world.pgvigil(&["--json", "check", "--offline"]).expect(3));
    assert!(!lines.iter().any(|line| line.contains("error")), "{lines:#?}");
    world.backup(&database.name);
    // Whatever is on this machine, it is a file that loads.
    let file = world.pgvigil(&["init"]).expect(0).stdout;
    std::fs::write(world.config(), file).unwrap();
    let code = world.pgvigil(&["check", "--offline"]).code;
    assert!(matches!(code, Some(0 | 3 | 78)), "{code:?}");
    let ran = world.pgvigil(&["init", "--container", "nosuch"]).expect(1);
    assert!(ran.stderr.contains(&container), "{ran:#?}");
}

#[test]
fn the_log_goes_to_stderr_in_the_form_of_the_file() {
    let database = Database::empty(Server::Pg15);
    let world = World::new();
    for format in ["auto", "text", "json"] {
        std::fs::write(
            world.config(),
            format!(
                "state_dir = \"{}\"\nlog = {{ level = \"info\", format = \"{format}\" }}\n[stores.local]\npath = \"{}\"\n{}[backups.x]\ndatabase = \"{}\"\n",
                world.path("state").display(),
                world.store().display(),
                Server::Pg15.section(),
                database.name
            ),
        )
        .unwrap();
        let mut command = world.command(&["--json", "--log-level", "trace", "run", "x"]);
        let ran = ran(command.stdin(Stdio::null())).expect(0);
        assert_eq!(ran.json()["outcome"], "ok");
    }
}
