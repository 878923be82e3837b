//! `status` and `list` on a terminal: coloured, aligned, and again and again.

use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::daemon::{now, until, write_config};
use crate::common::scene::Past;
use crate::common::{World, run};
use pgvigil::state::Outcome;

fn world() -> World {
    let world = World::new();
    let section = |name: &str| format!("[backups.{name}]\ndatabase = \"{name}\"\nschedule = \"@yearly\"\nmax_age = \"26h\"\n");
    write_config(&world, "", &format!("{}{}", section("well"), section("a_longer_name")));
    Past { world: &world, name: "well", now: now() }.well(3, 1_000_000, 0.2, &[(0, 8.0)]);
    let failed = Past { world: &world, name: "a_longer_name", now: now() };
    failed.well(3, 20_000_000_000, 2.0, &[]);
    failed.ran(0.1, 3, Outcome::Failed, Some("no"));
    world
}

/// The program on a terminal of its own, so many columns wide.
fn on_terminal(world: &World, columns: u32, command: &str) -> Command {
    let program = world.command(&[]);
    let line = format!(
        "stty cols {columns} rows 24; exec {} --config {} {command}",
        program.get_program().to_str().unwrap(),
        world.config().display()
    );
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-c", &line, "/dev/null"]).env("TERM", "xterm-256color").env_remove("NO_COLOR");
    script
}

fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut chars = text.chars().filter(|c| *c != '\r');
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            chars.find(char::is_ascii_alphabetic);
        } else {
            plain.push(c);
        }
    }
    plain
}

#[test]
fn colours_on_a_terminal_only_and_columns_that_stand() {
    let world = world();
    for command in ["status", "list"] {
        let text = |command: &mut Command| String::from_utf8(run(command).stdout).unwrap();
        let shown = text(&mut on_terminal(&world, 200, command));
        assert!(shown.contains("\x1b["), "{shown}");
        let without = text(on_terminal(&world, 200, command).env("NO_COLOR", "1"));
        assert!(!without.contains("\x1b["), "{without:?}");
        let piped = world.pgvigil(&[command]);
        assert!(!piped.stdout.contains('\x1b'));
        // The disk is everybody's, and moves between the two.
        let words = |text: &str| {
            text.split("STORE ")
                .next()
                .unwrap()
                .split_whitespace()
                .map(str::to_owned)
                .filter(|word| word.parse::<u32>().is_err())
                .collect::<Vec<_>>()
        };
        assert_eq!(words(&plain(&shown)), words(&piped.stdout));
        // Each column begins where its head does, whatever the colours.
        let shown = plain(&shown);
        let head = shown.lines().find(|line| line.contains("RUNG")).unwrap_or_else(|| panic!("{shown}"));
        let at = head.find("RUNG").unwrap();
        let rungs: Vec<&str> =
            shown.lines().filter_map(|line| line.get(at..at + 8)).filter(|word| ["matched ", "readable"].contains(word)).collect();
        assert!(rungs.len() >= 2, "{shown}");
    }
    let status = world.pgvigil(&["status"]).expect(3).stdout;
    assert!(status.starts_with("NOT HEALTHY: a_longer_name needs a look, the other is well\n"), "{status}");
    for words in [" !  a_longer_name  needs a look ", " *  well           proven "] {
        assert!(status.contains(words), "{words}: {status}");
    }
}

/// On a terminal of the usual width nothing is broken over lines: columns that do not fit are left out.
#[test]
fn a_line_a_backup_on_a_narrow_terminal() {
    let world = world();
    let on = |columns, command: &str| {
        let output = run(&mut on_terminal(&world, columns, command));
        plain(&String::from_utf8(output.stdout).unwrap())
    };
    for columns in [80, 100, 120, 160, 200] {
        for (command, head, rows) in [("status", "NEXT SLOT", 2), ("list", "RUNG", 6)] {
            let shown = on(columns, command);
            let table: Vec<&str> = shown.lines().skip_while(|line| !line.contains(head)).take_while(|line| !line.is_empty()).collect();
            assert!(table.iter().all(|line| line.len() <= columns as usize), "{shown}");
            assert_eq!(table.len(), 1 + rows, "{columns} {command}: {shown}");
            assert!(table[1..].iter().all(|line| line.contains("well") || line.contains("a_longer_name")), "{shown}");
        }
    }
    let (narrow, wide) = (on(80, "status"), on(200, "status"));
    for kept in ["STATE", "AGE", "NEXT SLOT", "FULL"] {
        assert!(narrow.contains(kept), "{kept}: {narrow}");
    }
    assert!(wide.contains("NEWEST GOOD") && wide.contains("LAST RUN") && !narrow.contains("NEWEST GOOD"), "{narrow}{wide}");
    assert!(on(80, "list").contains("TIERS"), "{}", on(80, "list"));
}

#[test]
fn watched_until_it_is_told_to_end() {
    let world = world();
    // In a pipe: one after the other, until somebody has seen enough.
    let line =
        format!("{} --config {} status --watch --interval 1s | grep -m 3 HEALTHY", env!("CARGO_BIN_EXE_pgvigil"), world.config().display());
    let seen = run(Command::new("bash").args(["-o", "pipefail", "-c", &line]));
    assert_eq!((seen.status.code(), String::from_utf8_lossy(&seen.stdout).lines().count()), (Some(0), 3), "{seen:?}");
    for command in ["status", "list"] {
        let out = world.path("out");
        let mut child = on_terminal(&world, 200, &format!("{command} --watch --interval 1s"))
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&out).unwrap())
            .spawn()
            .unwrap();
        let text = || String::from_utf8_lossy(&std::fs::read(&out).unwrap()).into_owned();
        until("it has been drawn three times", || (text().matches("\x1b[?2026h\x1b[H").count() >= 3).then_some(()));
        let of_it = format!("--config {} {command}", world.config().display());
        let pid = until("its process is found", || {
            let found = run(Command::new("pgrep").args(["-f", &format!("^{}.*{of_it}", env!("CARGO_BIN_EXE_pgvigil"))]));
            String::from_utf8(found.stdout).unwrap().lines().next().and_then(|pid| pid.parse().ok())
        });
        kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{}", text());
        let text = text();
        assert!(text.starts_with("\x1b[?1049h\x1b[?25l") && text.contains("\x1b[?25h\x1b[?1049l"), "{text:?}");
        assert!(!text.contains("\x1b[2J"), "clearing is what flickers");
        // The last frame stays.
        assert!(text.rsplit("\x1b[?1049l").next().unwrap().contains("a_longer_name"), "{text:?}");
    }
    world.pgvigil(&["status", "--interval", "5s"]).expect(2);
    world.pgvigil(&["--json", "status", "--watch"]).expect(2);
    world.pgvigil(&["status", "--watch", "--interval", "soon"]).expect(2);
}
