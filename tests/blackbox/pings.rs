//! Dead-man's switches: what a receiver hears of the runs of a backup.

use std::time::{Duration, Instant};

use crate::alerts::failing;
use crate::common::daemon::{Daemon, once_in, until, wait_for_outcome, write_config};
use crate::common::{Database, Server, World, unique};
use crate::http::{Http, Request, SECRET};
use crate::smtp::Smtp;
use crate::support::bin_dir;

fn section(http: &Http) -> String {
    format!("[pings.x]\nurl = \"{}\"\n", http.url(&format!("/{SECRET}/uuid")))
}

/// The database, and a world whose backup x is of it.
fn good(sections: &str) -> (Database, World) {
    let database = Database::create(Server::Pg15, &unique("small"), "template0");
    database.sql("create table a as select i from generate_series(1, 9) i");
    let world = World::with(Server::Pg15, &format!("{sections}[backups.x]\ndatabase = \"{}\"\n", database.name));
    (database, world)
}

/// What was heard, without the common part.
fn heard(requests: &[Request]) -> Vec<&str> {
    requests.iter().map(|request| request.path().strip_prefix(&format!("/{SECRET}/uuid")).unwrap()).collect()
}

#[test]
fn start_success_and_failure() {
    let http = Http::start(&[]);
    let (database, world) = good(&section(&http));
    let id = world.backup("x");
    let requests = http.requests();
    assert_eq!(heard(&requests), ["/start", ""]);
    assert!(requests.iter().all(|request| request.method() == "POST"), "{requests:#?}");
    assert!(requests[1].body().starts_with(&format!("backup x: ok\n{id} (readable): ")), "{requests:#?}");
    let name = database.name.clone();
    drop(database);
    let ran = world.pgvigil(&["run", "x"]).expect(1);
    let requests = http.requests();
    assert_eq!(heard(&requests[2..]), ["/start", "/fail"]);
    let body = requests[3].body();
    assert!(body.starts_with("backup x: failed\n") && body.contains(&format!("the server has no database {name:?}")), "{body}");
    assert!(body.contains("\nHINT: it has: "), "{body}");
    assert!(!ran.stderr.contains(SECRET), "{ran:#?}");
}

#[test]
fn the_log_goes_along_and_has_a_limit() {
    let http = Http::start(&[]);
    let database = Database::create(Server::Pg15, &unique("small"), "template0");
    let world = World::new();
    let script = "for i in $(seq 19); do printf 'pg_dump: error: line %s \u{20ac}%01000d\\n' $i 0 >&2; done; echo 'pg_dump: the last word' >&2; exit 1";
    let bin = bin_dir(&world, 15, &[("pg_dump", script)]);
    let server = format!("{}bin_dir = \"{}\"\n", Server::Pg15.section(), bin.display());
    world.configure(&format!("{server}{}[backups.x]\ndatabase = \"{}\"\n", section(&http), database.name));
    world.pgvigil(&["run", "x"]).expect(1);
    let requests = http.requests();
    assert_eq!(heard(&requests), ["/start", "/fail"]);
    let body = requests[1].body();
    assert!(body.len() <= 10_000 && body.len() > 9_000, "{}", body.len());
    assert!(body.contains("pg_dump: the last word") && body.contains("line 19 \u{20ac}"), "{body}");
}

#[test]
fn a_run_that_is_refused_is_none() {
    let http = Http::start(&[]);
    let (_database, world) = good(&section(&http));
    let lock = world.path("state/locks");
    std::fs::create_dir_all(&lock).unwrap();
    let file = std::fs::File::create(lock.join("x.lock")).unwrap();
    file.lock().unwrap();
    world.pgvigil(&["run", "x"]).expect(75);
    assert!(http.requests().is_empty());
}

#[test]
fn a_slow_receiver_holds_no_run_up() {
    let http = Http::start(&["--hang"]);
    let (database, _) = good("");
    let world = World::new();
    let keys = format!("{}[backups.x]\ndatabase = \"{}\"\nschedule = \"* * * * * *\"\n", section(&http), database.name);
    write_config(&world, "", &keys);
    let daemon = Daemon::start(&world);
    // Three runs one after the other, while nobody hears of the first.
    until("runs go on", || {
        let rows = crate::common::daemon::history(&world, "x");
        (rows.iter().filter(|row| row["outcome"] == "ok").count() >= 3).then_some(())
    });
    assert!(http.requests().iter().all(|request| request.status() == 0));
    drop(daemon);
}

#[test]
fn a_ping_that_is_not_taken_is_an_alert_and_no_failure() {
    let (http, smtp) = (Http::start(&["--status", "500"]), Smtp::start(&[]));
    let (_database, world) = good(&format!("{}{}", section(&http), smtp.section("")));
    let ran = world.pgvigil(&["run", "x"]).expect(0);
    assert!(ran.stderr.contains("the end of the run could not be pinged") && ran.stderr.contains("it answers 500"), "{ran:#?}");
    assert!(!ran.stderr.contains(SECRET), "{ran:#?}");
    let mails = smtp.mails();
    assert_eq!(smtp.alerts(), vec![("ping/x/failed".to_owned(), "open".to_owned()); 2]);
    assert!(mails[0].header("Subject").contains("ping of backup x was not taken") && !mails[0].text().contains(SECRET), "{mails:#?}");
    let status = world.pgvigil(&["--json", "status"]).expect(3).json();
    assert_eq!(crate::common::daemon::alerts(&status), ["ping/x/failed"]);
    // It hears again.
    let better = Http::start(&[]);
    let text = std::fs::read_to_string(world.config()).unwrap().replace(&http.port.to_string(), &better.port.to_string());
    std::fs::write(world.config(), text).unwrap();
    world.pgvigil(&["run", "x"]).expect(0);
    assert_eq!(heard(&better.requests()), ["/start", ""]);
    assert_eq!(smtp.alerts()[2..], vec![("ping/x/failed".to_owned(), "closed".to_owned()); 2]);
    // It is no longer wanted.
    let text = std::fs::read_to_string(world.config()).unwrap().replace(&better.port.to_string(), &http.port.to_string());
    std::fs::write(world.config(), &text).unwrap();
    world.pgvigil(&["run", "x"]).expect(0);
    std::fs::write(world.config(), text.replace(&section(&http), "")).unwrap();
    world.pgvigil(&["run", "x"]).expect(0);
    world.pgvigil(&["status"]).expect(0);
}

#[test]
fn a_receiver_that_stumbles_is_asked_again() {
    let http = Http::start(&["--answers", "200,cut,500"]);
    let (_database, world) = good(&section(&http));
    let ran = world.pgvigil(&["run", "x"]).expect(0);
    assert!(!ran.stderr.contains("pinged"), "{ran:#?}");
    assert_eq!(heard(&http.requests()), ["/start", "", "", ""]);
}

#[test]
fn a_command_ends_beside_a_receiver_that_hangs() {
    let http = Http::start(&["--hang"]);
    let world = failing(&section(&http));
    let began = Instant::now();
    let ran = world.pgvigil(&["run", "x"]).expect(1);
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    assert!(ran.stderr.contains("no answer within 10 s"), "{ran:#?}");
    let requests = http.requests();
    assert!(heard(&requests).contains(&"/fail"), "{requests:#?}");
}

#[test]
fn the_daemon_pings_its_runs_and_none_that_it_tries_again() {
    let http = Http::start(&[]);
    let world = World::new();
    let name = unique("later");
    let (_, once) = once_in(4);
    write_config(&world, "", &format!("{}[backups.x]\ndatabase = \"{name}\"\nretries = 1\n{once}\n", section(&http)));
    let daemon = Daemon::start(&world);
    wait_for_outcome(&world, "x", "failed");
    let _mended = Database::create(Server::Pg15, &name, "template0");
    wait_for_outcome(&world, "x", "ok");
    let requests = http.wait_for(3);
    assert_eq!(heard(&requests), ["/start", "/start", ""], "it was not over when it failed");
    daemon.stop();
    assert_eq!(http.requests().len(), 3);
}

#[test]
fn the_last_attempt_of_the_daemon_is_told() {
    let (http, chat) = (Http::start(&[]), Http::start(&["--answers", "500"]));
    let world = World::new();
    let (_, once) = once_in(3);
    let x = format!("[backups.x]\ndatabase = \"{}\"\nretries = 1\n{once}\n", unique("nosuch"));
    write_config(&world, "", &format!("{}{}{x}", section(&http), chat.webhook("chat", "")));
    let daemon = Daemon::start(&world);
    let requests = http.wait_for(3);
    assert_eq!(heard(&requests), ["/start", "/start", "/fail"]);
    // What was not taken at first comes from the daemon a little later.
    daemon.wait_for_line("a message by webhooks.chat not sent; it stays in the outbox");
    assert_eq!(chat.wait_for(2)[0].body(), chat.requests()[1].body());
    let log = daemon.stop();
    assert!(!log.contains(SECRET), "{log}");
}

/// SIGTERM in the middle of a run: the switch hears that it failed before the daemon ends.
#[test]
fn a_daemon_that_stops_tells_of_the_run_it_ends() {
    let http = Http::start(&[]);
    let database = Database::create(Server::Pg15, &unique("small"), "template0");
    let world = World::new();
    let bin = bin_dir(&world, 15, &[("pg_dump", "touch \"$world/begun\"; exec sleep 600")]);
    let server = format!("{}bin_dir = \"{}\"\n", Server::Pg15.section(), bin.display());
    let (_, once) = once_in(3);
    let x = format!("[backups.x]\ndatabase = \"{}\"\n{once}\n", database.name);
    world.configure(&format!("{server}{}{x}", section(&http)));
    let text = std::fs::read_to_string(world.config()).unwrap();
    std::fs::write(world.config(), format!("shutdown_grace = \"1s\"\n{text}")).unwrap();
    let daemon = Daemon::start(&world);
    until("the dump is under way", || world.path("begun").exists().then_some(()));
    daemon.stop();
    let requests = http.requests();
    assert_eq!(heard(&requests), ["/start", "/fail"]);
    assert!(requests[1].body().starts_with("backup x: cancelled\n"), "{requests:#?}");
}
