//! What a command without a daemon tells of, to whom, and how often.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Database, Server, World, run, unique};
use crate::smtp::{AWAY, LOGIN, Mail, Smtp, section};
use crate::support::{Tmpfs, bin_dir, stock};

fn small() -> Database {
    let database = Database::create(Server::Pg15, &unique("small"), "template0");
    database.sql("create table a as select i, md5(i::text) from generate_series(1, 500) i");
    database
}

fn configure(world: &World, email: &str, database: &str) {
    world.configure(&format!("{}{email}\n[backups.x]\ndatabase = \"{database}\"\n", Server::Pg15.section()));
}

/// A world whose backup x fails: there is no such database.
pub fn failing(email: &str) -> World {
    let world = World::new();
    configure(&world, email, &unique("nosuch"));
    world
}

/// Each recipient's mail of one alert.
fn both(key: &str, state: &str) -> Vec<(String, String)> {
    vec![(key.to_owned(), state.to_owned()); 2]
}

#[test]
fn a_failure_is_told_once_and_its_end_too() {
    let smtp = Smtp::usual(&[]);
    let database = small();
    let name = database.name.clone();
    let world = World::new();
    configure(&world, &smtp.usual_section(""), &name);
    let good = world.backup("x");
    assert!(smtp.mails().is_empty());
    drop(database);

    let ran = world.pgvigil(&["run", "x"]).expect(1);
    let mails = smtp.mails();
    assert_eq!(smtp.alerts(), both("backup/x/failed", "open"));
    assert_eq!((mails[0].to(), mails[1].to()), ("dba@example.com", "boss@example.com"));
    let subject = mails[0].header("Subject");
    assert!(subject.starts_with("[pgvigil] PROBLEM: backup x failed: ") && subject.contains(&name), "{subject}");
    for (text, what) in [(mails[0].text(), "text"), (mails[0].html(), "html")] {
        for word in [
            name.as_str(),
            "has no database",
            "Since",
            "Seen on",
            &good,
            "(readable), taken 20",
            " s ago",
            "pgvigil history x",
            "pgvigil run x",
        ] {
            assert!(text.contains(word), "no {word:?} in {what}: {text}");
        }
    }
    assert_eq!(mails[0].get("defects"), &serde_json::json!([]));
    let status = world.pgvigil(&["--json", "status"]).expect(3).json();
    assert_eq!((&status["healthy"], &status["alerts"][0]["key"]), (&false.into(), &"backup/x/failed".into()), "{status:#}");
    assert_eq!(status["outbox"], serde_json::json!({ "pending": 0, "held": 0, "last_error": null }));

    // Once per problem.
    world.pgvigil(&["run", "x"]).expect(1);
    assert_eq!(smtp.mails().len(), 2);

    let _mended = Database::create(Server::Pg15, &name, "template0");
    world.pgvigil(&["run", "x"]).expect(0);
    world.pgvigil(&["run", "x"]).expect(0);
    let mails = smtp.mails();
    assert_eq!(smtp.alerts()[2..], both("backup/x/failed", "closed"));
    assert!(mails[2].header("Subject").starts_with("[pgvigil] OVER: backup x failed"), "{:#?}", mails[2]);
    assert!(mails[2].text().contains("Lasted:") && mails[2].text().contains("It was:"), "{}", mails[2].text());
    world.pgvigil(&["status"]).expect(0);
    // No secret is in a mail, an output or the state.
    let secrets = [LOGIN.1.to_owned(), crate::common::password()];
    for secret in &secrets {
        assert!(mails.iter().all(|mail| !mail.text().contains(secret.as_str()) && !mail.html().contains(secret.as_str())));
        assert!(!ran.stdout.contains(secret.as_str()) && !ran.stderr.contains(secret.as_str()), "{ran:#?}");
        let found = run(Command::new("grep").args(["-rlF", "-e", secret]).arg(world.path("state")));
        assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    }
}

#[test]
fn the_last_lines_of_stderr_go_along() {
    let smtp = Smtp::start(&[]);
    let database = small();
    let world = World::new();
    let long = "x".repeat(1_200);
    let script = format!(
        "printf 'pg_dump: error: the first line\\npg_dump: detail: gr\u{fc}n <b>&\\n.\\n..two\\nFrom me\\n{long}\\n\\033[31mred\\007\\n' >&2; exit 1"
    );
    let bin = bin_dir(&world, 15, &[("pg_dump", &script)]);
    let keys = format!("bin_dir = \"{}\"\n{}", bin.display(), smtp.section(""));
    configure(&world, &keys, &database.name);
    world.pgvigil(&["run", "x"]).expect(1);
    let mail = smtp.mails().remove(0);
    assert!(mail.header("Subject").contains("pg_dump failed with exit status 1"), "{mail:#?}");
    for word in ["pg_dump: error: the first line", "gr\u{fc}n <b>&", "\n  .\n  ..two\n  From me\n", &long, "[31mred"] {
        assert!(mail.text().contains(word), "no {word:?}: {}", mail.text());
    }
    assert!(mail.html().contains("gr\u{fc}n &lt;b&gt;&amp;"), "{}", mail.html());
    assert!(!mail.text().contains(['\u{1b}', '\u{7}']) && !mail.html().contains(['\u{1b}', '\u{7}']));
    assert!(mail.get("data").as_str().unwrap().lines().all(|line| line.len() < 998), "a relay may refuse long lines");
    assert_eq!(mail.get("defects"), &serde_json::json!([]));
    assert!(mail.text().contains("none: there is no good backup"), "{}", mail.text());
}

#[test]
fn names_break_no_header() {
    let smtp = Smtp::start(&[]);
    let world = World::new();
    let evil = "no\\r\\nBcc: evil@example.com\\r\\n\\r\\nbody \\u001b[31m \\u0085 \\u2028 \\u00fc\\u20ac";
    configure(&world, &smtp.section(""), evil);
    world.pgvigil(&["run", "x"]).expect(1);
    let mails = smtp.mails();
    assert_eq!(smtp.alerts(), both("backup/x/failed", "open"));
    for mail in mails {
        let names: Vec<&str> = mail.get("headers").as_array().unwrap().iter().map(|header| header[0].as_str().unwrap()).collect();
        let mut expected = ["From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type"].to_vec();
        expected.extend(["X-Pgvigil-Alert", "X-Pgvigil-State", "Auto-Submitted"]);
        for name in &names {
            assert!(expected.iter().any(|expected| expected.eq_ignore_ascii_case(name)), "{name}: {mail:#?}");
        }
        assert_eq!(names.len(), expected.len(), "{names:?}");
        assert_eq!(mail.get("defects"), &serde_json::json!([]));
        assert_eq!(mail.get("to").as_array().unwrap().len(), 1);
        let data = mail.get("data").as_str().unwrap();
        let (head, _) = data.split_once("\r\n\r\n").unwrap();
        assert!(head.is_ascii() && head.lines().all(|line| line.len() < 998), "{head}");
    }
}

#[test]
fn an_open_problem_is_repeated() {
    let smtp = Smtp::start(&[]);
    let world = failing(&smtp.section("remind_every = \"1s\"\n"));
    world.pgvigil(&["run", "x"]).expect(1);
    // Times have seconds; the next look is a second later.
    let told = Instant::now();
    while told.elapsed() < Duration::from_millis(1_100) {
        std::thread::sleep(Duration::from_millis(50));
    }
    world.pgvigil(&["run", "x"]).expect(1);
    assert_eq!(smtp.alerts()[..2], both("backup/x/failed", "open"));
    assert_eq!(smtp.alerts()[2..], both("backup/x/failed", "reminder"));
    assert!(smtp.mails()[2].header("Subject").starts_with("[pgvigil] STILL: backup x failed"));
}

#[test]
fn a_backup_with_problems_is_told_too() {
    let smtp = Smtp::start(&[]);
    let database = small();
    let world = World::new();
    let script = "exec \"$real\"/pg_dump --exclude-table='*.*' \"$@\"".to_owned();
    let bin = bin_dir(&world, 15, &[("pg_dump", &script)]);
    configure(&world, &format!("bin_dir = \"{}\"\n{}", bin.display(), smtp.section("")), &database.name);
    world.pgvigil(&["run", "x"]).expect(3);
    assert_eq!(smtp.alerts(), both("backup/x/problems", "open"));
    let mail = smtp.mails().remove(0);
    assert!(mail.header("Subject").contains("has problems") && mail.text().contains("holds none of them"), "{mail:#?}");
}

#[test]
fn a_run_that_is_refused_is_no_problem() {
    let smtp = Smtp::start(&[]);
    let database = small();
    let world = World::new();
    stock("mkfifo", &["begun", "gate"], &world.path(""));
    let script = "echo begun > \"$world/begun\"; read -r line < \"$world/gate\"; exec \"$real\"/pg_dump \"$@\"";
    let bin = bin_dir(&world, 15, &[("pg_dump", script)]);
    configure(&world, &format!("bin_dir = \"{}\"\n{}", bin.display(), smtp.section("")), &database.name);
    let mut first = world.command(&["run", "x"]).spawn().unwrap();
    assert_eq!(std::fs::read_to_string(world.path("begun")).unwrap(), "begun\n");
    world.pgvigil(&["run", "x"]).expect(75);
    std::fs::write(world.path("gate"), "go\n").unwrap();
    assert!(first.wait().unwrap().success());
    world.pgvigil(&["run", "nosuch"]).expect(1);
    assert_eq!(smtp.alerts(), []);
}

#[test]
fn a_relay_that_is_away_gets_each_message_later_once_and_in_order() {
    let world = World::new();
    let name = unique("nosuch");
    configure(&world, &section(AWAY, ""), &name);
    let ran = world.pgvigil(&["run", "x"]).expect(1);
    assert!(ran.stderr.contains("mail stays in the outbox") && ran.stderr.contains("connection refused"), "{ran:#?}");
    assert!(ran.stderr.contains("HINT: look at relay of [email]"), "{ran:#?}");
    // It is mended before anybody could be told that it was broken.
    let _mended = Database::create(Server::Pg15, &name, "template0");
    world.pgvigil(&["run", "x"]).expect(0);
    let status = world.pgvigil(&["--json", "status"]).expect(3).json();
    assert_eq!((&status["alerts"], &status["outbox"]["pending"]), (&serde_json::json!([]), &4.into()), "{status:#}");
    assert!(status["outbox"]["last_error"].as_str().unwrap().contains("connection refused"), "{status:#}");
    let page = world.pgvigil(&["status"]).expect(3).stdout;
    assert!(page.contains("NOT HEALTHY") && page.contains("4 in the outbox") && page.contains("mail could not be sent"), "{page}");

    let smtp = Smtp::start(&[]);
    configure(&world, &smtp.section(""), &name);
    world.pgvigil(&["run", "x"]).expect(0);
    world.pgvigil(&["run", "x"]).expect(0);
    let mails = smtp.mails();
    let of = |to: &str| mails.iter().filter(|mail| mail.to() == to).map(|mail| mail.alert().1).collect::<Vec<_>>();
    assert_eq!((of("dba@example.com"), of("boss@example.com")), (vec!["open", "closed"], vec!["open", "closed"]));
    world.pgvigil(&["status"]).expect(0);
}

#[test]
fn a_relay_that_defers_is_asked_again() {
    let smtp = Smtp::start(&["--defer", "2"]);
    let world = failing(&smtp.section(""));
    let ran = world.pgvigil(&["run", "x"]).expect(1);
    assert!(ran.stderr.contains("451 4.7.1 try again later"), "{ran:#?}");
    assert_eq!(world.pgvigil(&["--json", "status"]).expect(3).json()["outbox"]["pending"], 2);
    world.pgvigil(&["run", "x"]).expect(1);
    assert_eq!(smtp.alerts(), both("backup/x/failed", "open"));
    assert_eq!(
        world.pgvigil(&["--json", "status"]).expect(3).json()["outbox"],
        serde_json::json!({ "pending": 0, "held": 0, "last_error": null })
    );
}

#[test]
fn a_daemon_sends_what_a_command_left() {
    let smtp = Smtp::start(&["--defer", "2"]);
    let world = failing(&smtp.section(""));
    world.pgvigil(&["run", "x"]).expect(1);
    let mut daemon = world.command(&["daemon"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    let mails = smtp.wait_for(2);
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).unwrap()), nix::sys::signal::Signal::SIGTERM);
    assert!(daemon.wait().unwrap().success());
    assert_eq!(mails.iter().map(Mail::alert).collect::<Vec<_>>(), [("backup/x/failed", "open"); 2]);
    assert_eq!(smtp.mails().len(), 2);
}

#[test]
fn a_relay_that_hangs_holds_no_run_up() {
    let smtp = Smtp::start(&["--hang", "greeting"]);
    let world = failing(&smtp.section(""));
    let started = Instant::now();
    let ran = world.pgvigil(&["run", "x"]).expect(1);
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    assert!(ran.stderr.contains("mail stays in the outbox") && ran.stderr.contains("no answer within 30 s"), "{ran:#?}");
    let status = world.pgvigil(&["--json", "status"]).expect(3).json();
    assert_eq!(status["outbox"]["pending"], 2);
    assert!(status["outbox"]["last_error"].as_str().unwrap().contains("no answer"), "{status:#}");
}

#[test]
fn a_rung_that_is_lost_is_told() {
    let smtp = Smtp::start(&[]);
    let database = small();
    let world = World::new();
    configure(&world, &smtp.section(""), &database.name);
    let (old, new) = (world.backup("x"), world.backup("x"));
    let dump = |id: &str| world.folder(id).join(world.manifest(id)["files"][0]["name"].as_str().unwrap());
    let whole = std::fs::read(dump(&new)).unwrap();
    let flip = |id: &str| {
        let mut bytes = std::fs::read(dump(id)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        std::fs::write(dump(id), bytes).unwrap();
    };
    flip(&new);
    world.pgvigil(&["verify", &new]).expect(1);
    world.pgvigil(&["verify", &new]).expect(1);
    assert_eq!(smtp.alerts(), both("backup/x/unproven", "open"));
    let mail = smtp.mails().remove(0);
    assert!(mail.header("Subject").contains(&format!("backup {new} is bad")), "{mail:#?}");
    assert!(mail.text().contains(&format!("pgvigil verify {new}")) && mail.text().contains(&old), "{}", mail.text());
    // Healed and verified again.
    std::fs::write(dump(&new), &whole).unwrap();
    world.pgvigil(&["verify", &new]).expect(0);
    assert_eq!(smtp.alerts()[2..], both("backup/x/unproven", "closed"));
    // A manifest that cannot be read, and a backup that is gone.
    std::fs::write(world.folder(&old).join("manifest.json"), "{").unwrap();
    world.pgvigil(&["verify", &old]).expect(1);
    assert_eq!(smtp.alerts()[4..], both("backup/x/unproven", "open"));
    std::fs::remove_dir_all(world.folder(&old)).unwrap();
    world.pgvigil(&["verify", &new]).expect(0);
    assert_eq!(smtp.alerts()[6..], both("backup/x/unproven", "closed"));
}

#[test]
fn a_disk_that_fills_up() {
    let world = World::new();
    let store = world.store();
    let mounted = Tmpfs::mount(&store, "4m");
    world.configure(&format!("alert_above_percent = 30\n{}", Server::Pg15.section()));
    let df = || {
        let output = stock("df", &["--output=pcent,used,size", "-B1", store.to_str().unwrap()], std::path::Path::new("/"));
        let text = String::from_utf8(output).unwrap();
        let fields: Vec<u64> =
            text.lines().last().unwrap().split_whitespace().map(|field| field.trim_end_matches('%').parse().unwrap()).collect();
        (fields[0], fields[1], fields[2])
    };
    let keys = |status: &Value| {
        status["alerts"].as_array().unwrap().iter().map(|alert| alert["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for (bytes, code, alerts) in
        [(0, 0, vec![]), (1_000_000, 0, vec![]), (1_300_001, 3, vec!["store/local/disk"]), (4_194_304, 3, vec!["store/local/disk"])]
    {
        std::fs::write(store.join("ballast"), vec![0; bytes]).unwrap();
        let status = world.pgvigil(&["--json", "status"]).expect(code).json();
        let shown = &status["stores"][0];
        let field = |name: &str| shown[name].as_u64().unwrap();
        assert_eq!((field("used_percent"), field("used_bytes"), field("total_bytes")), df(), "{bytes}");
        assert_eq!(keys(&status), alerts, "{bytes}: {status:#}");
    }
    let page = world.pgvigil(&["status"]).expect(3).stdout;
    assert!(page.contains("store local is 100 % full"), "{page}");
    drop(mounted);
}

/// Without a daemon too, and by a command that makes no backup.
#[test]
fn a_prune_that_refuses_is_told() {
    let relay = Smtp::start(&[]);
    let database = Database::sample(Server::Pg15);
    let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabase = \"{}\"\n{}", database.name, relay.section("tls = \"none\"\n")));
    world.pgvigil(&["run", "x"]).expect(0);
    let away = world.path("away");
    std::fs::rename(world.store(), &away).unwrap();
    world.pgvigil(&["prune"]).expect(1);
    let mails = relay.wait_for(2);
    assert_eq!(mails[0].alert(), ("backup/x/problems", "open"));
    assert!(mails[0].text().contains("nothing is pruned"), "{mails:#?}");
    std::fs::rename(&away, world.store()).unwrap();
    world.pgvigil(&["prune", "--dry-run"]).expect(0);
    world.pgvigil(&["run", "x"]).expect(0);
    assert_eq!(relay.wait_for(4)[3].alert(), ("backup/x/problems", "closed"));
}
