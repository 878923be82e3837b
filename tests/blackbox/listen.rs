//! The listener as probes, scrapers and strangers meet it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use base64::Engine;
use chrono::Timelike;
use nix::sys::signal::Signal;
use pgvigil::state::Outcome;
use serde_json::{Value, json};

use crate::common::daemon::{Daemon, PATIENCE, now, until, write_config};
use crate::common::scene::Past;
use crate::common::{Database, Server, World, run};

/// Where a daemon listens, by its log.
#[track_caller]
pub fn address(daemon: &Daemon) -> String {
    nth_address(daemon, 1)
}

#[track_caller]
fn nth_address(daemon: &Daemon, nth: usize) -> String {
    let line = daemon.wait_for_lines("listening", nth);
    let address = line.split("address=").nth(1).unwrap_or_else(|| panic!("{line}"));
    address.split_whitespace().next().unwrap().to_owned()
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

/// Sends a request as it is written, and reads the answer to its end.
#[track_caller]
fn send(address: &str, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{request:?}: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

fn request(method: &str, path: &str, host: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n")
}

#[track_caller]
fn get(address: &str, path: &str, headers: &str) -> Answer {
    send(address, &request("GET", path, address, headers))
}

/// What is answered to whoever may ask.
#[track_caller]
pub fn body(address: &str, path: &str) -> String {
    get(address, path, "").body
}

const OPEN: [&str; 2] = ["/livez", "/healthz"];
const GUARDED: [&str; 4] = ["/", "/metrics", "/api/v1/status", "/nothing"];

fn quiet(name: &str) -> String {
    format!("[backups.{name}]\ndatabase = \"{name}\"\nschedule = \"@yearly\"\n")
}

#[test]
fn who_is_answered() {
    let world = World::new();
    let token = "listen_token = \"s3cr:et\"\nlisten_names = [\"Backup.example.com\"]";
    write_config(&world, &format!("listen = \"127.0.0.1:0\"\n{token}"), &quiet("x"));
    let daemon = Daemon::start(&world);
    let address = &address(&daemon);
    let basic = |text: &str| format!("Authorization: Basic {}\r\n", base64::engine::general_purpose::STANDARD.encode(text));
    for path in OPEN {
        assert_eq!(get(address, path, "").status, 200, "{path}");
    }
    for path in GUARDED {
        let found = if path == "/nothing" { 404 } else { 200 };
        for (headers, status) in [
            (String::new(), 401),
            ("Authorization: Bearer s3cr:e\r\n".to_owned(), 401),
            ("Authorization: Bearer \r\n".to_owned(), 401),
            (basic("x:wrong"), 401),
            ("Authorization: Bearer s3cr:et\r\n".to_owned(), found),
            (basic("anybody:s3cr:et"), found),
        ] {
            let answer = get(address, path, &headers);
            assert_eq!(answer.status, status, "{path} {headers}: {}", answer.head);
            assert_eq!(status == 401, answer.head.contains("www-authenticate: basic"), "{}", answer.head);
        }
    }
    // Addressed to another: not even the probes answer.
    let port = address.rsplit(':').next().unwrap();
    let bearer = "Authorization: Bearer s3cr:et\r\n";
    for path in OPEN.iter().chain(&GUARDED[..3]) {
        for host in ["evil.example.com", "evil.example.com:80", "127.0.0.1.evil.com", "192.0.2.1"] {
            assert_eq!(send(address, &request("GET", path, host, bearer)).status, 403, "{path} {host}");
        }
        for host in [format!("localhost:{port}"), "backup.example.com".to_owned()] {
            assert_eq!(send(address, &request("GET", path, &host, bearer)).status, 200, "{path} {host}");
        }
    }
    let twice = request("GET", "/", address, &format!("Host: evil.example.com\r\n{bearer}"));
    assert!([400, 403].contains(&send(address, &twice).status));
    assert_eq!(send(address, &request("GET", "http://evil.example.com/metrics", address, bearer)).status, 403);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        for path in OPEN.iter().chain(&GUARDED) {
            assert_eq!(send(address, &request(method, path, address, bearer)).status, 405, "{method} {path}");
        }
    }
    let answer = get(address, "/", bearer);
    for header in [
        "content-security-policy: default-src 'none'",
        "x-content-type-options: nosniff",
        "cache-control: no-store",
        "x-frame-options: deny",
    ] {
        assert!(answer.head.contains(header), "{header}: {}", answer.head);
    }
    assert_eq!(send(address, &request("HEAD", "/metrics", address, bearer)).body, "");
    assert_eq!(get(address, "/", &format!("X: {}\r\n", "x".repeat(40_000))).status, 431);
    let log = daemon.stop();
    assert!(!log.contains("s3cr"), "{log}");
}

#[test]
fn the_status_is_that_of_the_command() {
    let database = Database::sample(Server::Pg15);
    let world = World::new();
    write_config(&world, "listen = \"127.0.0.1:0\"", &quiet(&database.name));
    world.backup(&database.name);
    let daemon = Daemon::start(&world);
    let address = address(&daemon);
    // Age grows between the two.
    let ageless = |mut status: Value| {
        status["backups"][0]["age_seconds"].take();
        status
    };
    until("both say the same", || {
        let answer = get(&address, "/api/v1/status", "");
        assert!(answer.status == 200 && answer.head.contains("content-type: application/json"), "{}", answer.head);
        let command = world.pgvigil(&["--json", "status"]).expect(0).json();
        let (ours, theirs) = (ageless(serde_json::from_str(&answer.body).unwrap()), ageless(command));
        (ours == theirs && ours["backups"][0]["rung"] == "readable").then_some(())
    });
    // What a run changes is seen at once.
    let before = get(&address, "/api/v1/status", "").body;
    let id = world.backup(&database.name);
    let after = get(&address, "/api/v1/status", "").body;
    assert!(!before.contains(&id) && after.contains(&id), "{after}");
}

/// Freshness over time is decided by a table of its own; here are its ends.
#[test]
fn healthy_is_who_has_a_fresh_backup() {
    let now = now();
    let keys = |name: &str, want: &str| format!("{}max_age = \"26h\"\nwant = \"{want}\"\n", quiet(name));
    for (days, want, expected) in [(0.5, "readable", 200), (0.5, "matched", 503), (2.0, "readable", 503)] {
        let world = World::new();
        write_config(
            &world,
            "listen = \"127.0.0.1:0\"\nlisten_token = \"x\"",
            &format!("{}{}", keys("late_one", want), keys("new", "readable")),
        );
        let past = Past { world: &world, name: "late_one", now };
        past.ran(40.0, 9, Outcome::Ok, None);
        past.kept(days, 1_000, "readable", None);
        let daemon = Daemon::start(&world);
        let address = address(&daemon);
        let answer = get(&address, "/healthz", "");
        assert_eq!(answer.status, expected, "{days} {want}: {}", answer.body);
        assert!(!answer.body.contains("late_one"), "a stranger is told no names: {}", answer.body);
        let told = get(&address, "/healthz", "Authorization: Bearer x\r\n").body;
        assert_eq!(told.contains("late_one: no backup at"), expected == 503, "{told}");
        assert!(!told.contains("new"), "{told}");
        assert_eq!(get(&address, "/livez", "").status, 200);
    }
}

#[test]
fn many_at_once_and_some_who_never_finish() {
    let now = now();
    let world = World::new();
    let names: Vec<String> = (0..10).map(|n| format!("b{n}")).collect();
    write_config(&world, "listen = \"127.0.0.1:0\"", &names.iter().map(|name| quiet(name)).collect::<String>());
    for name in &names {
        Past { world: &world, name, now }.well(20, 1_000_000, 0.2, &[]);
    }
    let daemon = Daemon::start(&world);
    let address = address(&daemon);
    // More than there are places: silent ones, half a request, and one byte after the other.
    let mut slow: Vec<TcpStream> = (0..300)
        .map(|n| {
            let mut stream = TcpStream::connect(&address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let half = ["", "G", "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n", "GET /livez HTTP/1.1\r\nX: "][n % 4];
            stream.write_all(half.as_bytes()).unwrap();
            stream
        })
        .collect();
    let scrapes: Vec<Answer> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..200).map(|_| scope.spawn(|| get(&address, "/metrics", ""))).collect();
        asking.into_iter().map(|asking| asking.join().unwrap()).collect()
    });
    for scrape in &scrapes {
        assert_eq!(scrape.status, 200, "{}", scrape.head);
        assert!(scrape.body.contains("pgvigil_backup_kept{backup=\"b9\"}") && scrape.body.ends_with("# EOF\n"), "{}", scrape.body);
    }
    // Who drips is cut off as well: the time is of the whole head.
    for stream in &mut slow {
        let mut rest = Vec::new();
        let _ = stream.write_all(b"x");
        let _ = stream.read_to_end(&mut rest);
        assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));
    }
    // Whoever goes away in the middle takes nothing along.
    for _ in 0..50 {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(request("GET", "/", &address, "").as_bytes()).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    }
    assert_eq!(get(&address, "/livez", "").status, 200);
    let log = daemon.stop();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
}

#[test]
fn edits_of_the_file() {
    let world = World::new();
    let configure = |top: &str| write_config(&world, top, &quiet("x"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    // A port that is taken: told at once, before anything begins.
    configure(&format!("listen = \"127.0.0.1:{taken_port}\""));
    let ran = world.pgvigil(&["daemon"]).expect(1);
    assert!(ran.stderr.contains(&format!("cannot listen on 127.0.0.1:{taken_port}: address already in use")), "{}", ran.stderr);
    assert!(ran.stderr.to_lowercase().contains("hint: another program listens there"), "{}", ran.stderr);
    std::fs::write(world.path("empty"), "\n").unwrap();
    configure(&format!("listen = \"127.0.0.1:0\"\nlisten_token = {{ file = \"{}\" }}", world.path("empty").display()));
    assert!(world.pgvigil(&["daemon"]).expect(78).stderr.contains("listen_token is empty"));

    configure("listen = \"127.0.0.1:0\"");
    let daemon = Daemon::start(&world);
    let first = address(&daemon);
    assert_eq!(get(&first, "/metrics", "").status, 200);
    // The same address with a token: nobody is cut off, and strangers are refused.
    configure("listen = \"127.0.0.1:0\"\nlisten_token = \"x\"");
    until("the token is asked for", || (get(&first, "/metrics", "").status == 401).then_some(()));
    assert_eq!(get(&first, "/metrics", "Authorization: Bearer x\r\n").status, 200);
    // An address that is not to be had: the daemon goes on with what it had, and says so.
    configure(&format!("listen = \"127.0.0.1:{taken_port}\""));
    daemon.wait_for_line("goes on with what it had");
    assert_eq!(get(&first, "/metrics", "").status, 401);
    let error = until("the fault is on record", || {
        let status = world.pgvigil(&["--json", "status"]).json();
        status["config"]["error"].as_str().map(str::to_owned)
    });
    assert!(error.contains("cannot listen on"), "{error}");
    // Elsewhere.
    drop(taken);
    configure(&format!("listen = \"127.0.0.1:{taken_port}\""));
    let second = nth_address(&daemon, 2);
    assert_eq!(second, format!("127.0.0.1:{taken_port}"));
    assert_eq!(get(&second, "/metrics", "").status, 200);
    until("the first is gone", || TcpStream::connect(&first).is_err().then_some(()));
    // No more at all.
    configure("");
    until("nothing listens", || TcpStream::connect(&second).is_err().then_some(()));
    assert!(world.pgvigil(&["--json", "status"]).json()["config"]["error"].is_null());
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_lines("read again", 4);
    daemon.stop();
}

/// The names of the metrics in a text: pgvigil_ and what follows.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit();
    let found = text.match_indices("pgvigil_").filter(|(at, _)| !text[..*at].ends_with(is_part));
    found.map(|(at, _)| text[at..].chars().take_while(|c| is_part(*c)).collect()).collect()
}

fn promtool(args: &[&str], stdin: &str) {
    let mut child =
        Command::new("promtool").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {args:?}: {said}");
}

#[test]
fn metrics_are_as_they_are_documented() {
    let now = now();
    let database = Database::sample(Server::Pg15);
    let name = &database.name;
    let world = World::new();
    let drill = "drill = { schedule = \"0 4 * * 0\", budget = \"1h\" }";
    let schedule = format!("schedule = \"0 {} * * *\"\n{drill}", (now.hour() + 12) % 24);
    let sections = format!(
        "[backups.{name}]\ndatabase = \"{name}\"\n{schedule}\n[backups.large]\ndatabase = \"x\"\n{schedule}\nkeep = {{ daily = \"forever\" }}\n"
    );
    write_config(&world, "listen = \"127.0.0.1:0\"", &sections);
    Past { world: &world, name, now }.well(6, 1_000_000, 0.5, &[(1, 8.0)]);
    // So large that the disk is full one day, and with something to tell.
    let large = Past { world: &world, name: "large", now };
    large.well(6, 40_000_000_000, 0.5, &[(1, 8.0)]);
    large.ran(0.1, 3, Outcome::Failed, Some("no"));
    world.backup(name);
    let daemon = Daemon::start(&world);
    let address = address(&daemon);
    let text = get(&address, "/metrics", "").body;
    promtool(&["check", "metrics"], &text);
    let given: BTreeSet<String> = text.lines().filter(|line| !line.starts_with('#')).flat_map(names).collect();
    let docs = |file: &str| std::fs::read_to_string(format!("{}/docs/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let mut documented: BTreeSet<String> =
        docs("metrics.md").lines().filter(|line| line.starts_with("| `pgvigil_")).filter_map(|line| names(line).pop_first()).collect();
    // Those of the log are only given where there is one: pitr_watch.rs.
    documented.retain(|name| !name.starts_with("pgvigil_backup_wal_"));
    assert_eq!(given, documented, "{text}");
    for (line, value) in [
        (format!("pgvigil_backup_rung{{backup=\"{name}\",rung=\"readable\"}}"), "1"),
        (format!("pgvigil_backup_rung{{backup=\"{name}\",rung=\"matched\"}}"), "0"),
        (format!("pgvigil_backup_restore_seconds{{backup=\"{name}\"}}"), "8"),
        (format!("pgvigil_backup_restore_budget_seconds{{backup=\"{name}\"}}"), "3600"),
        (format!("pgvigil_backup_fresh{{backup=\"{name}\"}}"), "1"),
        (format!("pgvigil_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), "1"),
    ] {
        let found = text.lines().find_map(|given| given.strip_prefix(line.as_str())).unwrap_or_else(|| panic!("{line}: {text}"));
        let found = found.split_whitespace().next().unwrap().trim_end_matches(".0");
        assert_eq!(found, value, "{line}");
    }
    let open = get(&address, "/metrics", "Accept: application/openmetrics-text; version=1.0.0\r\n");
    assert!(open.head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{}", open.head);

    // The dashboard and the rules ask for nothing else.
    let dashboard: Value = serde_json::from_str(&docs("grafana-dashboard.json")).unwrap();
    let rules = docs("prometheus-rules.yml");
    for (file, asked) in [("dashboard", names(&dashboard.to_string())), ("rules", names(&rules))] {
        assert!(asked.len() >= 8, "{file}: {asked:?}");
        let unknown: Vec<_> = asked.difference(&given).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.iter().all(|panel| panel["title"].is_string() && panel["gridPos"].is_object()), "{dashboard:#}");
    let rules_file = format!("{}/docs/prometheus-rules.yml", env!("CARGO_MANIFEST_DIR"));
    promtool(&["check", "rules", &rules_file], "");
    // What the panels ask is read as rules are; JSON is YAML.
    let asked: Vec<&Value> = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap()).map(|target| &target["expr"]).collect();
    let as_rules: Vec<Value> = (0..).zip(&asked).map(|(n, expr)| json!({ "record": format!("panel:{n}"), "expr": expr })).collect();
    std::fs::write(world.path("panels.yml"), json!({ "groups": [{ "name": "panels", "rules": as_rules }] }).to_string()).unwrap();
    promtool(&["check", "rules", world.path("panels.yml").to_str().unwrap()], "");
    assert!(asked.len() >= panels.len(), "{dashboard:#}");
    let output = run(Command::new("promtool")
        .args(["test", "rules"])
        .arg(format!("{}/tests/support/prometheus-rules-test.yml", env!("CARGO_MANIFEST_DIR"))));
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}
