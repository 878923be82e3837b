//! Mail, as it leaves for a real mail server: `alert test`, and what the way to a relay can be like.

use serde_json::Value;

use crate::common::{Ran, World};
use crate::smtp::{AWAY, LOGIN, Smtp, ca_file, credentials, pem, section};
use crate::support::check_lines;

/// A world that never gets as far as its server.
fn world(email: &str) -> World {
    let world = World::new();
    world.configure(&format!("[servers.main]\nhost = \"127.0.0.1\"\nport = 1\n{email}"));
    world
}

/// `alert test` with that section.
#[track_caller]
fn alert_test(email: &str, code: i32) -> Ran {
    discreet(world(email).pgvigil(&["alert", "test"]).expect(code))
}

/// No output shows a password.
#[track_caller]
fn discreet(ran: Ran) -> Ran {
    assert!(!ran.stdout.contains(LOGIN.1) && !ran.stderr.contains(LOGIN.1), "{ran:#?}");
    ran
}

#[test]
fn a_message_by_starttls_and_login() {
    let smtp = Smtp::usual(&[]);
    let ran = alert_test(&smtp.usual_section(""), 0);
    assert!(ran.stdout.contains(&format!("ok       email dba@example.com: taken by 127.0.0.1:{}", smtp.port)), "{ran:#?}");
    let mails = smtp.mails();
    assert_eq!(mails.iter().map(crate::smtp::Mail::to).collect::<Vec<_>>(), ["dba@example.com", "boss@example.com"]);
    for mail in &mails {
        assert_eq!(mail.alert(), ("alert/test", "test"));
        assert_eq!((mail.header("From"), mail.header("To")), ("pgvigil@example.com", mail.to()));
        assert_eq!(mail.header("Subject"), "[pgvigil] TEST: alerts reach you");
        assert_eq!(mail.header("Auto-Submitted"), "auto-generated");
        assert!(mail.header("Message-ID").ends_with("@example.com>") && !mail.header("Date").is_empty());
        assert!(mail.text().contains("this is a test") && mail.html().contains("this is a test"), "{mail:#?}");
        assert_eq!((mail.get("tls"), mail.get("user")), (&true.into(), &LOGIN.0.into()));
        assert_eq!(mail.get("defects"), &serde_json::json!([]));
    }
    assert_ne!(mails[0].header("Message-ID"), mails[1].header("Message-ID"));
    assert!(!smtp.clear().contains("AUTH") && !smtp.clear().contains("MAIL"), "{}", smtp.clear());
}

#[test]
fn what_happened_on_each_channel_as_json() {
    let smtp = Smtp::usual(&["--refuse", "dba@example.com"]);
    let world = world(&smtp.usual_section(""));
    let ran = discreet(world.pgvigil(&["--json", "alert", "test"]).expect(1));
    let relay = format!("127.0.0.1:{}", smtp.port);
    let expected = serde_json::json!([
        {
            "channel": "email",
            "to": "dba@example.com",
            "ok": false,
            "message": format!("the relay {relay} did not take a mail to dba@example.com: 550 5.1.1 no such user here"),
            "hint": "look at from and to of [email], and at the relay's log; it may also want a login"
        },
        { "channel": "email", "to": "boss@example.com", "ok": true, "message": format!("taken by {relay}"), "hint": null }
    ]);
    assert_eq!(ran.json(), expected);
    // The other one gets it all the same.
    assert_eq!(smtp.mails().iter().map(crate::smtp::Mail::to).collect::<Vec<_>>(), ["boss@example.com"]);
}

#[test]
fn each_failure_says_what_to_do() {
    let other_tls = "smtps:// is TLS from the start";
    let wrong = || credentials().replace(LOGIN.1, "another secret");
    let usual = Smtp::usual(&[]);
    let wrong_name = Smtp::with_tls("starttls", "wrong_name", &[]);
    let self_signed = Smtp::with_tls("starttls", "self_signed", &[]);
    let wrapped = Smtp::with_tls("start", "wrong_name", &[]);
    let plain = Smtp::start(&[]);
    let plain_login = Smtp::start(&["--login", "backup:mail:pa\\ss w0rd"]);
    let no_login = Smtp::with_tls("starttls", "right", &["--no-login"]);
    let deaf = Smtp::start(&["--defer", "9"]);
    let ca = ca_file();
    let smtps = |smtp: &Smtp, keys: &str| section(&format!("smtps://127.0.0.1:{}", smtp.port), keys);
    for (smtp, email, why, hint) in [
        (&usual, usual.section(&format!("{ca}{}", wrong())), "535 5.7.8", "username, password"),
        (&usual, usual.section(&credentials()), "UnknownIssuer", "ca_file"),
        (&usual, usual.section(&ca), "530 5.7.0", "username, password"),
        (&wrong_name, wrong_name.section(&format!("{ca}{}", credentials())), "not valid for name", "ca_file"),
        (&self_signed, self_signed.section("tls = \"required\"\n"), "certificate", "ca_file"),
        (&wrapped, smtps(&wrapped, &ca), "not valid for name", "ca_file"),
        (&usual, smtps(&usual, &ca), "corrupt message", other_tls),
        (&plain, plain.section("tls = \"required\"\n"), "it offers no TLS", "tls = \"none\""),
        // What is no loopback address is required to speak TLS without being asked to.
        (&plain, section(&format!("smtp://[::ffff:127.0.0.1]:{}", plain.port), ""), "it offers no TLS", "tls = \"none\""),
        // It is asked for the password, in the clear, and does not get it.
        (&plain_login, plain_login.section(&credentials()), "it offers no TLS", "never a password"),
        (&plain_login, plain_login.section(&format!("tls = \"opportunistic\"\n{}", credentials())), "it offers no TLS", "never a password"),
        (&no_login, no_login.section(&format!("{ca}{}", credentials())), "it offers no login", "username, password"),
        (&deaf, deaf.section(""), "451 4.7.1 try again later", "may pass"),
        (&plain, plain.section("").replace("dba@", "d\u{f6}a@"), "beyond ASCII", "from and to"),
        (&plain, section(AWAY, ""), "connection refused", "whether it can be reached"),
        (&plain, section("smtp://no-such-host.invalid", "tls = \"none\""), "failed to lookup address", "relay of [email]"),
    ] {
        let ran = alert_test(&email, 1);
        let line = ran.stdout.lines().find(|line| line.contains(why)).unwrap_or_else(|| panic!("no {why:?}: {email}\n{ran:#?}"));
        assert!(line.starts_with("FAILED   email d"), "{line}");
        assert!(ran.stdout.contains("HINT: ") && ran.stdout.contains(hint), "no {hint:?}: {ran:#?}");
        assert!(!ran.stdout.contains("os error") && !ran.stdout.contains("internal"), "{ran:#?}");
        assert!(smtp.mails().iter().all(|mail| mail.to() == "boss@example.com"), "{email}: it was sent");
        assert!(!smtp.clear().contains("AUTH"), "{email}: {}", smtp.clear());
    }
    // Whoever required TLS did not even name the recipients without it.
    for smtp in [&usual, &wrong_name, &self_signed, &plain_login, &no_login] {
        assert!(!smtp.clear().contains("example.com"), "{}", smtp.clear());
    }
}

#[test]
fn ways_that_a_mail_may_go() {
    let from_start = Smtp::with_tls("start", "right", &["--login", "backup:mail:pa\\ss w0rd"]);
    let self_signed = Smtp::with_tls("starttls", "self_signed", &[]);
    let right = Smtp::with_tls("starttls", "right", &[]);
    let plain = Smtp::start(&[]);
    let ipv6 = Smtp::with_tls("starttls", "right", &["--address", "::1"]);
    for (smtp, email, tls) in [
        (&from_start, section(&format!("smtps://127.0.0.1:{}", from_start.port), &format!("{}{}", ca_file(), credentials())), true),
        // On loopback: whatever the relay has.
        (&self_signed, self_signed.section(""), true),
        (&plain, plain.section(""), false),
        (&plain, plain.section("tls = \"none\""), false),
        (&self_signed, self_signed.section("tls = \"none\""), false),
        (&right, section(&format!("smtp://localhost:{}", right.port), &format!("tls = \"required\"\n{}", ca_file())), true),
        (&ipv6, section(&format!("smtp://[::1]:{}", ipv6.port), &format!("tls = \"required\"\n{}", ca_file())), true),
        // Names, as people write them.
        (&plain, plain.section("").replace("\"dba@example.com\"", "'\"M\u{fc}ller, J\u{f6}rg\" <dba@example.com>'"), false),
    ] {
        let before = smtp.mails().len();
        alert_test(&email, 0);
        let mails = smtp.mails();
        assert_eq!(mails.len(), before + 2, "{email}");
        assert_eq!(mails[before].to(), "dba@example.com");
        assert_eq!(mails[before].get("tls"), &Value::from(tls), "{email}");
        assert_eq!(mails[before].get("defects"), &serde_json::json!([]));
    }
    assert_eq!(plain.mails().iter().rev().nth(1).unwrap().header("To"), "\"M\u{fc}ller, J\u{f6}rg\" <dba@example.com>");
}

#[test]
fn a_slow_relay_is_waited_for() {
    let smtp = Smtp::start(&["--slow", "3"]);
    alert_test(&smtp.section("").replace(", \"boss@example.com\"", ""), 0);
    assert_eq!(smtp.mails().len(), 1);
}

#[test]
fn a_relay_that_hangs_over_its_farewell_gets_the_message_once() {
    let smtp = Smtp::start(&["--hang", "quit"]);
    let world = crate::alerts::failing(&smtp.section(""));
    world.pgvigil(&["run", "x"]).expect(1);
    world.pgvigil(&["run", "x"]).expect(1);
    assert_eq!(smtp.mails().len(), 2);
    assert_eq!(world.pgvigil(&["--json", "status"]).expect(3).json()["outbox"]["pending"], 0);
}

#[test]
fn faults_of_the_section() {
    let good = section("smtp://mail.example.com", "");
    for (email, fault, hint) in [
        (format!("{good}tls = \"none\"\n{}", credentials()), "password with tls = \"none\"", "never sent in the clear"),
        (format!("{good}username = \"x\"\n"), "username without password", "password = {"),
        (format!("{good}password = \"hunter2\"\n"), "password without username", "username ="),
        (good.replace("mail.example.com", "backup:hunter2@mail.example.com"), "bad relay", "keys of their own"),
        (good.replace("smtp://", "smtps://") + "tls = \"none\"\n", "smtps:// without TLS", "remove tls"),
        (good.replace("\"dba@example.com\"", "\"dba\""), "bad address", "NAME@DOMAIN"),
        (good.replace("\"pgvigil@example.com\"", "\"A\\r\\nBcc: x@y <a@b>\""), "bad address", "NAME@DOMAIN"),
        (good.replace("[\"dba@example.com\", \"boss@example.com\"]", "[]"), "mail goes to nobody", "write to"),
    ] {
        let ran = alert_test(&email, 78);
        assert!(ran.stderr.contains(fault) && ran.stderr.contains(hint) && !ran.stderr.contains("hunter2"), "{email}: {ran:#?}");
    }
    let ran = alert_test("", 78);
    assert!(ran.stderr.contains("no [email] section") && ran.stderr.contains("HINT: add [email]"), "{ran:#?}");
}

#[test]
fn secrets_and_certificates_that_are_not_to_be_had() {
    let smtp = Smtp::usual(&[]);
    let missing = "username = \"x\"\npassword = { env = \"PGVIGIL_TEST_NOT_SET\" }\n";
    for (keys, why, hint) in [
        (format!("{}{missing}", ca_file()), "email.password: the environment variable PGVIGIL_TEST_NOT_SET is not set", "set it"),
        (
            "tls = \"required\"\nca_file = \"/nonexistent/ca.pem\"\n".to_owned(),
            "email.ca_file: /nonexistent/ca.pem: no such file",
            "in PEM",
        ),
        (
            format!("tls = \"required\"\nca_file = \"{}\"\n", pem("ca").with_extension("key").display()),
            "no certificate stands in it",
            "in PEM",
        ),
    ] {
        let email = smtp.section(&keys);
        let ran = alert_test(&email, 1);
        assert!(ran.stdout.contains(why) && ran.stdout.contains(hint), "{ran:#?}");
        let lines = check_lines(&world(&email).pgvigil(&["--json", "check"]));
        assert!(lines.iter().any(|line| line.starts_with("email | error") && line.contains(&why[why.len() - 10..])), "{lines:#?}");
    }
    assert!(smtp.mails().is_empty());
}

#[test]
fn check_tries_the_relay() {
    let line = |email: &str| {
        let ran = discreet(world(email).pgvigil(&["--json", "check"]).expect(1));
        check_lines(&ran).into_iter().find(|line| line.starts_with("email | ")).unwrap()
    };
    let usual = Smtp::usual(&[]);
    let plain = Smtp::start(&[]);
    let relay = format!("127.0.0.1:{}", usual.port);
    let ok = line(&usual.usual_section(""));
    assert!(ok.starts_with(&format!("email | ok | {relay} answers with TLS, and takes the login; ")), "{ok}");
    let ok = line(&plain.section(""));
    assert!(ok.starts_with(&format!("email | ok | 127.0.0.1:{} answers, without TLS; ", plain.port)), "{ok}");
    let refused = line(&section(AWAY, ""));
    assert!(refused.starts_with("email | error | 127.0.0.1:1: connection refused | look at relay"), "{refused}");
    let bad = line(&usual.section(&credentials()));
    assert!(bad.contains("error") && bad.contains("UnknownIssuer") && bad.contains("ca_file"), "{bad}");
    let wrong = line(&usual.section(&format!("{}{}", ca_file(), credentials().replace(LOGIN.1, "x"))));
    assert!(wrong.contains("error") && wrong.contains("535") && wrong.contains("username, password"), "{wrong}");
    assert!(usual.mails().is_empty() && plain.mails().is_empty());
    // Without network nothing is tried.
    let ran = world(&section(AWAY, "")).pgvigil(&["--json", "check", "--offline"]);
    assert!(!check_lines(&ran).iter().any(|line| line.starts_with("email | error")), "{ran:#?}");
}
