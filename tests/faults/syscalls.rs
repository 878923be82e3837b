//! SIGKILL at every call of a run that changes a file, and at random times.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::common::Server;
use crate::inject::{CHANGES, Deed, calls_of, inject, library};
use crate::judge::{Case, End, judge};
use crate::tools::{Chance, must, scale};

/// The calls of a run, below the folder of the whole case: store and state.
fn calls(case: &Case) -> usize {
    calls_of(&mut case.run_command(), &case.world.path(""), CHANGES, &case.world.path("calls")).len()
}

/// What strace sees of pgvigil's own changes is what the library numbers, call by call.
#[test]
fn no_call_is_missed() {
    let case = Case::small(Server::Pg15, "");
    let (log, trace) = (case.world.path("calls"), case.world.path("trace"));
    let run = case.run_command();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-qq", "-s", "0", "-o"]).arg(&trace).args(["-e", "trace=%file,%desc"]);
    let mut given = Command::new("true");
    inject(&mut given, &case.world.path(""), CHANGES, 0, Deed::None);
    for (name, value) in given.get_envs().chain(run.get_envs()) {
        strace.arg("-E").arg(format!("{}={}", name.to_str().unwrap(), value.unwrap().to_str().unwrap()));
    }
    strace.arg("-E").arg(format!("INJECT_LOG={}", log.display())).arg(run.get_program()).args(run.get_args());
    must(strace.current_dir(case.world.path("")));

    let mut numbered: BTreeMap<String, usize> = BTreeMap::new();
    for line in std::fs::read_to_string(&log).unwrap().lines() {
        *numbered.entry(line.split(' ').nth(1).unwrap().to_owned()).or_default() += 1;
    }
    let mut traced: BTreeMap<String, usize> = BTreeMap::new();
    let below = case.world.path("").canonicalize().unwrap();
    for line in std::fs::read_to_string(&trace).unwrap().lines() {
        if let Some(kind) = change(line, &below, &log) {
            *traced.entry(kind.to_owned()).or_default() += 1;
        }
    }
    assert_eq!(numbered, traced);
    assert!(numbered.values().sum::<usize>() > 50 && library().exists(), "{numbered:?}");
}

/// The kind of change that a line of strace is, if it is one of ours below the folder.
fn change<'a>(line: &'a str, below: &Path, log: &Path) -> Option<&'a str> {
    let call = line.split_once(' ')?.1.trim_start();
    let (name, args) = call.split_once('(')?;
    if !args.contains(below.to_str().unwrap()) || args.contains(log.to_str().unwrap()) {
        return None;
    }
    match name {
        "open" | "openat" | "creat" => args.contains("O_CREAT").then_some("create"),
        "write" | "pwrite64" | "writev" | "pwritev" | "pwritev2" | "copy_file_range" | "sendfile" | "splice" | "fallocate" => Some("write"),
        "fsync" | "fdatasync" | "syncfs" => Some("fsync"),
        "sync_file_range" => Some("sync"),
        "ftruncate" | "truncate" => Some("truncate"),
        "fchmod" | "chmod" | "fchmodat" | "chown" | "fchown" | "fchownat" | "utimensat" | "setxattr" | "fsetxattr" => Some("chmod"),
        "mkdir" | "mkdirat" | "mknod" | "mknodat" => Some("mkdir"),
        "rename" | "renameat" | "renameat2" => Some("rename"),
        "unlink" | "unlinkat" | "rmdir" => Some("unlink"),
        "symlink" | "symlinkat" => Some("symlink"),
        "link" | "linkat" => Some("link"),
        _ => None,
    }
}

fn killed_at_calls(mut case: Case, points: usize) {
    let mut chance = Chance::new();
    let all = calls(&case);
    case.settle();
    println!("{all} calls change something");
    let mut faults = Vec::new();
    for at in chance.spread(points, all) {
        let mut run = case.run_command();
        inject(&mut run, &case.world.path(""), CHANGES, at, Deed::Kill);
        let ran = case.start(run).end();
        // A run with a call less than the one that was counted comes through.
        let end = if ran.code == Some(0) { End::Done } else { End::Killed };
        assert!(ran.code.is_none_or(|code| code == 0), "killed at call {at}: {ran:#?}");
        let found = judge(&mut case, end);
        if !found.is_empty() {
            faults.push(format!("killed at call {at}: {}", found.join("\n")));
        }
        leftovers_of_state(&case, at, &mut faults);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Nothing heaps up in state_dir either.
fn leftovers_of_state(case: &Case, at: usize, faults: &mut Vec<String>) {
    for entry in std::fs::read_dir(case.world.path("state")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let is_database = ["history.db", "alerts.db"].iter().any(|file| name == *file || name.starts_with(&format!("{file}-")));
        if !["id", "locks"].contains(&name.as_str()) && !is_database {
            faults.push(format!("killed at call {at}: {name} is left in state_dir"));
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[test]
fn killed_at_every_call_that_changes_something() {
    killed_at_calls(Case::small(Server::Pg15, ""), scale(25, usize::MAX));
}

#[test]
fn killed_at_every_call_as_a_directory() {
    killed_at_calls(Case::small(Server::Pg15, "format = \"directory\""), scale(6, usize::MAX));
}

#[test]
fn killed_at_every_call_while_it_encrypts() {
    let to = "encrypt_to = [\"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\"]";
    killed_at_calls(Case::small(Server::Pg15, to), scale(6, usize::MAX));
}

#[test]
fn killed_at_every_call_in_the_container() {
    killed_at_calls(Case::small(Server::Exec, "compression = \"zstd\""), scale(6, usize::MAX));
}

/// The very first run, that makes store and state.
#[test]
fn killed_at_every_call_of_the_first_run() {
    let mut chance = Chance::new();
    let template = Case::small(Server::Pg15, "");
    let fresh = || {
        for dir in ["store", "state"] {
            let _ = std::fs::remove_dir_all(template.world.path(dir));
        }
    };
    fresh();
    let all = calls(&template);
    let mut faults = Vec::new();
    for at in chance.spread(scale(8, usize::MAX), all) {
        fresh();
        let mut run = template.run_command();
        inject(&mut run, &template.world.path(""), CHANGES, at, Deed::Kill);
        let ran = template.start(run).end();
        assert!(ran.code.is_none_or(|code| code == 0), "killed at call {at}: {ran:#?}");
        let before = template.labels();
        let next = template.run();
        if next.code != Some(0) || template.labels().len() != before.len() + 1 {
            faults.push(format!("killed at call {at} of the first run, the next fails: {next:#?}"));
            continue;
        }
        for label in template.labels() {
            let verified = template.pgvigil(&["verify", &format!("shop/{label}")]);
            if verified.code != Some(0) {
                faults.push(format!("killed at call {at} of the first run: {verified:#?}"));
            }
        }
        if template.world.names("shop").iter().any(|name| name.starts_with(".partial-")) {
            faults.push(format!("killed at call {at} of the first run: {:?}", template.world.names("shop")));
        }
        leftovers_of_state(&template, at, &mut faults);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn killed_at_random_times() {
    let mut chance = Chance::new();
    for server in [Server::Pg15, Server::Exec] {
        let mut case = Case::small(server, "");
        let started = std::time::Instant::now();
        case.run().expect(0);
        case.settle();
        let whole = started.elapsed().as_micros() as usize;
        for nth in 0..scale(5, 50) {
            let live = case.begin();
            // The one thing here that is not an event: any moment will do.
            let moment = chance.below(whole);
            std::thread::sleep(Duration::from_micros(moment as u64));
            live.signal(Signal::SIGKILL);
            let code = live.end().code;
            let found = judge(&mut case, if code == Some(0) { End::Done } else { End::Killed });
            assert!(found.is_empty(), "{server:?}, kill {nth} after {moment} µs of {whole}: {}", found.join("\n"));
        }
    }
}
