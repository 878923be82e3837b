//! Webhooks, as they arrive at a real HTTP server.

use std::process::Command;

use serde_json::{Value, json};

use crate::alerts::failing;
use crate::common::daemon::{Daemon, now};
use crate::common::{Database, Ran, Server, World, run};
use crate::http::{Http, SECRET};
use crate::smtp::{AWAY, Smtp, pem, section};
use crate::support::check_lines;

/// Every event of the body, as it is.
const EVENT: &str = "body = '''{\"event\": \"{{ event }}\", \"key\": \"{{ key }}\", \"title\": \"{{ title }}\", \"text\": \"{{ text }}\", \"severity\": \"{{ severity }}\", \"since\": {{ since | tojson }}, \"facts\": {{ facts | tojson }}}'''\n";

/// No output shows the secret part of a URL, and no file of the state holds it.
#[track_caller]
fn discreet(world: &World, ran: Ran) -> Ran {
    assert!(!ran.stdout.contains(SECRET) && !ran.stderr.contains(SECRET), "{ran:#?}");
    let found = run(Command::new("grep").args(["-rlF", "-e", SECRET]).arg(world.path("state")));
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    ran
}

fn events(http: &Http) -> Vec<String> {
    let event = |text: &str| Some(serde_json::from_str::<Value>(text).ok()?["event"].as_str()?.to_owned());
    http.requests().iter().filter_map(|request| event(request.body())).collect()
}

fn outbox(world: &World) -> Value {
    world.pgvigil(&["--json", "status"]).json()["outbox"].clone()
}

#[test]
fn a_failure_and_its_end() {
    let http = Http::start(&[]);
    let (slack, all) = (http.webhook("chat", ""), http.webhook("all", EVENT));
    let world = failing(&format!("{slack}{all}headers = {{ Authorization = \"Bearer {SECRET}\" }}\nmethod = \"PUT\"\n"));
    discreet(&world, world.pgvigil(&["run", "x"]).expect(1));
    world.pgvigil(&["run", "x"]).expect(1);
    let requests = http.requests();
    assert_eq!(requests.len(), 2, "once to each: {requests:#?}");
    let of = |name: &str| requests.iter().find(|request| request.path() == format!("/{SECRET}/{name}")).unwrap().clone();
    let chat = of("chat");
    assert_eq!((chat.method(), chat.header("content-type"), chat.header("authorization")), ("POST", "application/json", ""));
    assert!(chat.header("user-agent").starts_with("pgvigil/") && chat.header("idempotency-key").starts_with("pgvigil."), "{chat:#?}");
    let text = chat.json()["text"].as_str().unwrap().to_owned();
    assert!(text.starts_with("PROBLEM: backup x failed: the server has no database \"nosuch_"), "{text}");
    assert!(text.contains("\nNewest good backup: none"), "{text}");
    let all = of("all");
    assert_eq!((all.method(), all.header("authorization")), ("PUT", format!("Bearer {SECRET}").as_str()));
    let event = all.json();
    assert_eq!((&event["event"], &event["key"], &event["severity"]), (&json!("alert_open"), &json!("backup/x/failed"), &json!("urgent")));
    assert!(event["text"].as_str().unwrap().contains("pgvigil run x") && event["since"].as_str().unwrap().ends_with('Z'), "{event}");
    assert!(event["facts"].as_array().unwrap().contains(&json!({ "name": "Backup", "value": "x" })), "{event}");
    assert_eq!(outbox(&world), json!({ "pending": 0, "held": 0, "last_error": null }));
    let name = world_database(&world);
    let _mended = Database::create(Server::Pg15, &name, "template0");
    world.pgvigil(&["run", "x"]).expect(0);
    let requests = http.requests();
    assert_eq!(requests.len(), 4, "{requests:#?}");
    assert!(requests[2..].iter().any(|request| request.body().contains("OVER: backup x failed")), "{requests:#?}");
    assert!(requests[2..].iter().any(|request| request.body().contains("\"alert_closed\"")), "{requests:#?}");
}

/// The database of the backup x.
fn world_database(world: &World) -> String {
    let text = std::fs::read_to_string(world.config()).unwrap();
    text.rsplit("database = \"").next().unwrap().split('"').next().unwrap().to_owned()
}

#[test]
fn text_from_outside_breaks_no_json() {
    let http = Http::start(&[]);
    let world = World::new();
    let evil = "no\\\"}\\n{{ title }}<!channel> \\\\ \\u001b[31m \\u2028 \\u00fc";
    let channels = format!("{}{}", http.webhook("chat", ""), http.webhook("all", EVENT));
    world.configure(&format!("{}{channels}[backups.x]\ndatabase = \"{evil}\"\n", Server::Pg15.section()));
    world.pgvigil(&["run", "x"]).expect(1);
    let requests = http.requests();
    assert_eq!(requests.len(), 2);
    for request in requests {
        let json = request.json();
        let text = json["text"].as_str().unwrap();
        assert!(text.contains("{{ title }}") && text.contains('\u{fc}') && !text.contains('\u{1b}'), "{text}");
        assert!(!request.path().ends_with("chat") || !text.contains('<'), "{text}");
    }
}

#[test]
fn what_a_receiver_refuses_comes_later_once() {
    for (answers, why) in [
        ("500", "it answers 500 Internal Server Error: ok"),
        ("429", "it answers 429 Too Many Requests"),
        ("cut", "connection"),
        ("404", "it answers 404 Not Found"),
    ] {
        let http = Http::start(&["--answers", answers]);
        let world = failing(&http.webhook("chat", EVENT));
        let ran = discreet(&world, world.pgvigil(&["run", "x"]).expect(1));
        assert!(ran.stderr.contains("a message by webhooks.chat stays in the outbox"), "{ran:#?}");
        assert!(ran.stderr.contains(&format!("http://127.0.0.1:{}: ", http.port)) && ran.stderr.contains(why), "{ran:#?}");
        assert!(ran.stderr.contains("HINT: "), "{ran:#?}");
        let page = discreet(&world, world.pgvigil(&["status"]).expect(3)).stdout;
        assert!(page.contains("a message by webhooks.chat could not be sent") && page.contains("1 in the outbox"), "{page}");
        world.pgvigil(&["run", "x"]).expect(1);
        world.pgvigil(&["run", "x"]).expect(1);
        assert_eq!(events(&http), ["alert_open", "alert_open"], "the first one was not taken");
        assert_eq!(http.requests()[0].header("idempotency-key"), http.requests()[1].header("idempotency-key"));
        assert_eq!(outbox(&world)["pending"], 0);
    }
}

#[test]
fn a_receiver_that_repeats_the_secret() {
    let http = Http::start(&["--status", "403", "--text", "no rights for {path}"]);
    let world = failing(&http.webhook("chat", ""));
    let ran = discreet(&world, world.pgvigil(&["run", "x"]).expect(1));
    assert!(ran.stderr.contains("it answers 403 Forbidden: no rights for ***"), "{ran:#?}");
}

#[test]
fn the_secret_does_not_follow_to_another_address() {
    let other = Http::start(&[]);
    let http = Http::start(&["--status", "302", "--header", &format!("Location: {}", other.url("/elsewhere"))]);
    let world = failing(&http.webhook("chat", "headers = { Authorization = \"Bearer abcdef\" }\n"));
    let ran = discreet(&world, world.pgvigil(&["run", "x"]).expect(1));
    assert!(ran.stderr.contains("it answers 302 and leads to another address, where nothing is sent"), "{ran:#?}");
    assert_eq!((http.requests().len(), other.requests().len()), (1, 0));
}

#[test]
fn over_tls_with_a_certificate_that_is_checked() {
    let (cert, key) = (pem("right"), pem("right").with_extension("key"));
    let http = Http::start(&["--cert", cert.to_str().unwrap(), "--key", key.to_str().unwrap()]);
    let https = |keys: &str| http.webhook("chat", keys).replace("http://", "https://");
    let world = failing(&https(""));
    let ran = discreet(&world, world.pgvigil(&["--json", "alert", "test"]).expect(1)).json();
    assert!(ran[0]["message"].as_str().unwrap().contains("certificate") && ran[0]["hint"].as_str().unwrap().contains("ca_file"), "{ran:#}");
    assert!(http.requests().is_empty());
    let world = failing(&https(&format!("ca_file = \"{}\"\n", pem("ca").display())));
    world.pgvigil(&["alert", "test"]).expect(0);
    assert_eq!(http.requests().len(), 1);
}

#[test]
fn alert_test_goes_through_every_channel() {
    let (good, bad, smtp) = (Http::start(&[]), Http::start(&["--status", "500", "--text", ""]), Smtp::start(&[]));
    let ping = |http: &Http| format!("[pings.x]\nurl = \"{}\"\n", http.url(&format!("/{SECRET}")));
    let hook = "[hooks.log]\ncommand = [\"/bin/cat\"]\n";
    let late = good.webhook("boss", "escalate_after = \"4h\"\n");
    let world = failing(&format!("{}{}{late}{}{hook}", smtp.section(""), good.webhook("chat", EVENT), ping(&good)));
    let ran = discreet(&world, world.pgvigil(&["alert", "test"]).expect(0));
    for line in [
        format!("ok       email dba@example.com: taken by 127.0.0.1:{}", smtp.port),
        format!("ok       webhooks.chat: taken by http://127.0.0.1:{}", good.port),
        format!("ok       webhooks.boss: taken by http://127.0.0.1:{}", good.port),
        "ok       hooks.log: it has run".to_owned(),
        format!("ok       pings.x: taken by http://127.0.0.1:{}, as a line of its log", good.port),
    ] {
        assert!(ran.stdout.contains(&line), "no {line}: {ran:#?}");
    }
    let mut paths: Vec<String> = good.requests().iter().map(|request| request.path().to_owned()).collect();
    paths.sort();
    assert_eq!(paths, [format!("/{SECRET}/boss"), format!("/{SECRET}/chat"), format!("/{SECRET}/log")], "no ping that would be a lie");
    assert_eq!((smtp.mails().len(), events(&good).iter().filter(|event| *event == "test").count()), (2, 1));
    // One that fails keeps none of the others from it.
    let world = failing(&format!("{}{}{}", smtp.section(""), bad.webhook("chat", ""), ping(&bad)));
    let ran = discreet(&world, world.pgvigil(&["--json", "alert", "test"]).expect(1)).json();
    let ok: Vec<(&str, bool)> =
        ran.as_array().unwrap().iter().map(|one| (one["channel"].as_str().unwrap(), one["ok"].as_bool().unwrap())).collect();
    assert_eq!(ok, [("email", true), ("email", true), ("webhooks.chat", false), ("pings.x", false)]);
    assert!(outbox(&world)["pending"] == 0, "a test is past the outbox");
    // A receiver that knows no such path.
    let plain = Http::start(&["--status", "404"]);
    let ran = failing(&ping(&plain)).pgvigil(&["alert", "test"]).expect(0);
    assert!(ran.stdout.contains("answers, and takes no test"), "{ran:#?}");
}

#[test]
fn check_sends_nothing() {
    let http = Http::start(&[]);
    let hook = |program: &str| format!("[hooks.log]\ncommand = [\"{program}\"]\n");
    let channels = format!("{}[pings.x]\nurl = \"{}\"\n{}", http.webhook("chat", ""), http.url(&format!("/{SECRET}")), hook("/bin/cat"));
    let world = failing(&channels);
    let lines = check_lines(&discreet(&world, world.pgvigil(&["--json", "check"])));
    for start in [
        format!("webhooks.chat | ok | http://127.0.0.1:{} answers", http.port),
        format!("pings.x | ok | http://127.0.0.1:{} answers", http.port),
        "hooks.log | ok | /bin/cat can be run".to_owned(),
    ] {
        assert!(lines.iter().any(|line| line.starts_with(&start)), "no {start}: {lines:#?}");
    }
    assert!(http.requests().is_empty());
    let away = format!(
        "[webhooks.chat]\nurl = \"http://127.0.0.1:1/{SECRET}\"\n[pings.x]\nurl = \"https://no-such-host.invalid/{SECRET}\"\n{}",
        hook("/nonexistent")
    );
    let world = failing(&away);
    let lines = check_lines(&discreet(&world, world.pgvigil(&["--json", "check"])));
    for (start, hint) in [
        ("webhooks.chat | error | http://127.0.0.1:1: connection refused", "look at url of [webhooks.chat]"),
        ("pings.x | error | https://no-such-host.invalid: failed to lookup", "look at url of [pings.x]"),
        ("hooks.log | error | /nonexistent: no such file", "executable"),
    ] {
        assert!(lines.iter().any(|line| line.starts_with(start) && line.contains(hint)), "no {start}: {lines:#?}");
    }
    // The secret in the clear.
    let world = failing(&format!("[webhooks.chat]\nurl = \"http://no-such-host.invalid/{SECRET}\"\n"));
    let lines = check_lines(&discreet(&world, world.pgvigil(&["--json", "check"])));
    assert!(lines.iter().any(|line| line.starts_with("webhooks.chat | warning") && line.contains("in the clear")), "{lines:#?}");
}

#[test]
fn faults_of_the_sections() {
    let url = "url = \"https://x/\"\n";
    for (text, fault, hint) in [
        (format!("[webhooks.a]\nurl = \"ftp://x/{SECRET}\"\n"), "it is no URL of http", "https://HOST/PATH"),
        (format!("[pings.x]\nurl = \"{SECRET}\"\n"), "it is no URL", "https://HOST/PATH"),
        (format!("[webhooks.a]\n{url}body = '''{{\"text\": \"{{{{ titel }}}}\"}}'''\n"), "no good template", "docs/alerts.md"),
        (format!("[webhooks.a]\n{url}body = '{{{{ title }}}}'\n"), "becomes no JSON", "between quotes"),
        (format!("[webhooks.a]\n{url}content_type = \"text\"\n"), "bad content type", "text/plain"),
        (format!("[webhooks.a]\n{url}headers = {{ Host = \"x\" }}\n"), "bad header", "set by itself"),
        (format!("[webhooks.a]\n{url}headers = {{ X = \"a\\nb\" }}\n"), "bad value of header", "one line"),
        (format!("[webhooks.a]\n{url}method = \"GET\"\n"), "bad value \"GET\"", ""),
        (format!("[webhooks.a]\n{url}fallback_for = [\"email\"]\n"), "fallback_for names no other channel: \"email\"", "channels: "),
        (format!("[webhooks.a]\n{url}escalate_after = \"4h\"\n"), "no channel is told of a problem at once", "take escalate_after"),
        (
            format!("[webhooks.a]\n{url}fallback_for = [\"webhooks.b\"]\n[webhooks.b]\n{url}fallback_for = [\"webhooks.a\"]\n"),
            "webhooks.b is a fallback itself",
            "told first",
        ),
        ("[hooks.a]\ncommand = [\"cat\"]\n".to_owned(), "whole path", "no shell"),
        ("[hooks.a]\ncommand = []\n".to_owned(), "whole path", "no shell"),
        ("[hooks.a]\ncommand = [\"/bin/cat\"]\non = [\"alert\"]\n".to_owned(), "bad value \"alert\"", ""),
        ("[hooks.a]\ncommand = [\"/bin/cat\"]\ntimeout = \"1h\"\n".to_owned(), "bad time limit", "10m"),
        ("[alerts]\nquiet_hours = \"22-7\"\n".to_owned(), "bad quiet hours", ""),
        ("[alerts]\ncan_wait = [\"backup/[\"]\n".to_owned(), "bad pattern", "store/*/disk"),
    ] {
        let world = failing(&text);
        let ran = world.pgvigil(&["run", "x"]).expect(78);
        assert!(ran.stderr.contains(fault) && ran.stderr.contains(hint) && !ran.stderr.contains(SECRET), "{text}: {ran:#?}");
    }
    // A secret that is not to be had, or is no URL.
    let world = failing("[webhooks.a]\nurl = { env = \"PGVIGIL_TEST_NOT_SET\" }\n");
    world.pgvigil(&["daemon"]).expect(78);
    let ran = world.pgvigil(&["alert", "test"]).expect(1);
    assert!(ran.stdout.contains("webhooks.a.url: the environment variable PGVIGIL_TEST_NOT_SET is not set"), "{ran:#?}");
    let ran = crate::common::ran(world.command(&["alert", "test"]).env("PGVIGIL_TEST_NOT_SET", SECRET)).expect(1);
    assert!(ran.stdout.contains("webhooks.a.url: it is no URL") && !ran.stdout.contains(SECRET), "{ran:#?}");
}

#[test]
fn one_that_stands_in() {
    let http = Http::start(&[]);
    let spare = http.webhook("spare", &format!("fallback_for = [\"email\"]\n{EVENT}"));
    let smtp = Smtp::start(&[]);
    let world = failing(&format!("{}{spare}", smtp.section("")));
    world.pgvigil(&["run", "x"]).expect(1);
    assert_eq!((smtp.mails().len(), http.requests().len()), (2, 0), "mail goes its way");
    // A command may be the last for long: it does not wait.
    let world = failing(&format!("{}{spare}", section(AWAY, "")));
    let ran = world.pgvigil(&["run", "x"]).expect(1);
    assert!(ran.stderr.contains("mail stays in the outbox"), "{ran:#?}");
    assert_eq!(events(&http), ["alert_open"]);
    world.pgvigil(&["run", "x"]).expect(1);
    assert_eq!(events(&http), ["alert_open"], "once");
    let _mended = Database::create(Server::Pg15, &world_database(&world), "template0");
    world.pgvigil(&["run", "x"]).expect(0);
    assert_eq!(events(&http), ["alert_open", "alert_closed"], "who was told hears of the end");
    world.pgvigil(&["run", "x"]).expect(0);
    assert_eq!(outbox(&world)["pending"], 4, "mail still has to be told");
}

#[test]
fn what_is_open_for_long_goes_further() {
    let (http, smtp) = (Http::start(&[]), Smtp::start(&[]));
    let boss = http.webhook("boss", &format!("escalate_after = \"2s\"\n{EVENT}"));
    let email = smtp.section("escalate_to = [\"chief@example.com\"]\nescalate_after = \"2s\"\n").replace(", \"boss@example.com\"", "");
    let world = failing(&format!("{email}{boss}"));
    world.pgvigil(&["run", "x"]).expect(1);
    assert_eq!((smtp.alerts().len(), http.requests().len()), (1, 0));
    let daemon = Daemon::start(&world);
    http.wait_for(1);
    smtp.wait_for(2);
    daemon.stop();
    assert_eq!(events(&http), ["alert_open"]);
    assert_eq!(smtp.mails().iter().map(crate::smtp::Mail::to).collect::<Vec<_>>(), ["dba@example.com", "chief@example.com"]);
    let _mended = Database::create(Server::Pg15, &world_database(&world), "template0");
    world.pgvigil(&["run", "x"]).expect(0);
    assert_eq!(events(&http), ["alert_open", "alert_closed"]);
    assert_eq!(smtp.mails().len(), 4);
}

#[test]
fn what_can_wait_is_held_over_the_night() {
    let http = Http::start(&[]);
    let at = |hours| (now() + chrono::TimeDelta::hours(hours)).format("%H:%M").to_string();
    let keys = format!("[alerts]\nquiet_hours = \"{}-{}\"\ncan_wait = [\"backup/x/failed\"]\ntimezone = \"UTC\"\n", at(-2), at(2));
    let world = failing(&format!("{keys}{}{}", http.webhook("chat", EVENT), http.webhook("loud", "quiet_hours = \"none\"\n")));
    let ran = world.pgvigil(&["run", "x"]).expect(1);
    assert!(!ran.stderr.contains("outbox"), "{ran:#?}");
    assert_eq!(http.requests().iter().map(|request| request.path().ends_with("loud")).collect::<Vec<_>>(), [true]);
    assert_eq!(outbox(&world), json!({ "pending": 0, "held": 1, "last_error": null }));
    let page = world.pgvigil(&["status"]).expect(3).stdout;
    assert!(page.contains("1 in the outbox until the quiet hours end"), "{page}");
    let urgent = failing(&format!("{}{}", keys.replace("can_wait", "urgent"), http.webhook("chat", EVENT)));
    urgent.pgvigil(&["run", "x"]).expect(1);
    assert_eq!(http.requests().len(), 2);
    assert_eq!(outbox(&urgent)["held"], 0);
}

#[test]
fn a_digest_at_its_time() {
    let smtp = Smtp::start(&[]);
    let database = Database::sample(Server::Pg15);
    let world = World::new();
    let configure = |digest: &str| {
        let email = smtp.section(digest).replace(", \"boss@example.com\"", "");
        world.configure(&format!("{}{email}[backups.x]\ndatabase = \"{}\"\n", Server::Pg15.section(), database.name));
    };
    configure("");
    let id = world.backup("x");
    let (slot, _) = crate::common::daemon::once_in(6);
    configure(&format!("digest = \"{} * * * *\"\n", slot.format("%S %M")));
    let daemon = Daemon::start(&world);
    let mails = smtp.wait_for(1);
    daemon.stop();
    assert_eq!(mails[0].alert(), ("digest", "digest"));
    assert_eq!(mails[0].header("Subject"), "[pgvigil] all is well: 1 backup, 1 store");
    for words in [&format!("Newest good backup:  {id} (readable), taken "), "Last run:            ok", "Store local", "%, told above 80 %"]
    {
        assert!(mails[0].text().contains(words), "no {words:?}: {}", mails[0].text());
    }
    assert!(mails[0].html().contains(&id) && mails[0].get("defects") == &json!([]), "{mails:#?}");
    // Once, whoever begins anew.
    let daemon = Daemon::start(&world);
    daemon.wait_for_line("mail relay");
    daemon.stop();
    assert_eq!(smtp.mails().len(), 1);
}

/// Each body of the docs becomes what its receiver takes.
#[test]
fn the_receivers_of_the_docs() {
    let text = std::fs::read_to_string(crate::support::repository("docs/alerts.md")).unwrap();
    let blocks: Vec<&str> = text.split("```toml\n").skip(1).map(|block| block.split("\n```").next().unwrap()).collect();
    let mut found = 0;
    for block in blocks.iter().filter(|block| block.contains("[webhooks.") && !block.contains("[email]")) {
        let http = Http::start(&[]);
        let world = failing(block);
        let file = std::fs::read_to_string(world.config()).unwrap();
        // To our server in the place of theirs.
        let mended: Vec<String> = file
            .lines()
            .map(|line| match line.split_once('=') {
                Some((key, _)) if key.trim() == "url" && block.contains(line) => format!("url = \"{}\"", http.url("/x")),
                Some((key, _)) if key.trim() == "headers" => line.replace("{ file = \"/etc/pgvigil/ntfy_token\" }", "\"Bearer x\""),
                _ => line.to_owned(),
            })
            .collect();
        std::fs::write(world.config(), mended.join("\n")).unwrap();
        world.pgvigil(&["run", "x"]).expect(1);
        for request in http.requests() {
            found += 1;
            assert!(request.body().contains("backup x failed: the server has no database"), "{block}: {request:#?}");
            if request.header("content-type") == "application/json" {
                request.json();
            }
        }
    }
    assert!(found >= 4, "{found} receivers in the docs");
}
