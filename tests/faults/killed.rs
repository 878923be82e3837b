//! Dumps that die in the middle: the program here and in the container, its backend, the container.

use std::process::Command;

use nix::sys::signal::{Signal, kill};

use crate::common::{Server, container};
use crate::judge::{Case, End, assert_sound};
use crate::tools::{Container, together, until};

/// Far enough into the dump that rows are on their way, in bytes of PostgreSQL's protocol or of the
/// Engine's stream.
pub const MIDDLE: u64 = 1 << 20;

/// Ends the backends of a run.
pub fn terminate_backends(case: &Case) {
    let name = case.target.name();
    let ended = case.target.ask(&format!(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = '{name}' and application_name like 'pgvigil\\_%'"
    ));
    assert_ne!(ended, "0");
}

/// Signals the program by a shell inside of the container. The Engine does not tell of the shell's
/// end while nobody reads the stream of the dump.
fn signal_inside(case: &Case, signal: &str) {
    let name = case.target.name();
    let script = format!(
        "for p in /proc/[0-9]*; do if grep -qs PGAPPNAME=pgvigil_ $p/environ && grep -qs {name} $p/cmdline; then kill -s {signal} ${{p#/proc/}}; fi; done"
    );
    let mut shell = Command::new("docker").args(["exec", &container(), "sh", "-c", &script]).spawn().unwrap();
    until("the program inside is gone", || case.programs().is_empty().then_some(()));
    case.gate().open();
    shell.wait().unwrap();
}

fn dies(server: Server, backup: &str) {
    let mut case = Case::gated(server, backup);
    for deed in if backup.is_empty() { &["KILL", "TERM", "backend"][..] } else { &["KILL"] } {
        let live = case.begin_to(MIDDLE);
        match (*deed, server) {
            ("backend", _) => terminate_backends(&case),
            (signal, Server::Exec) => signal_inside(&case, signal),
            (signal, _) => kill(case.dumping(), format!("SIG{signal}").parse::<Signal>().unwrap()).unwrap(),
        }
        case.gate().open();
        let ran = live.end().expect(1);
        assert!(ran.stderr.contains("pg_dump"), "{server:?} {backup} {deed}: {ran:#?}");
        assert_sound(&mut case, End::Failed);
    }
}

#[test]
fn here() {
    dies(Server::Pg15, "");
}

#[test]
fn here_as_an_archive() {
    dies(Server::Pg15, "format = \"custom\"");
}

#[test]
fn here_as_a_directory() {
    dies(Server::Pg15, "format = \"directory\"\njobs = 2");
}

#[test]
fn over_the_network() {
    dies(Server::Network, "");
}

#[test]
fn in_the_container() {
    dies(Server::Exec, "");
}

/// The leader of a parallel dump ends when one of its workers does.
#[test]
fn a_worker_of_a_parallel_dump() {
    let mut case = Case::gated(Server::Pg15, "format = \"directory\"\njobs = 2");
    let live = case.begin_to(MIDDLE);
    let leader = case.dumping().as_raw();
    let workers: Vec<i32> = case.programs().into_iter().map(|(pid, _)| pid).filter(|pid| *pid != leader).collect();
    assert!(!workers.is_empty());
    for worker in workers {
        kill(nix::unistd::Pid::from_raw(worker), Signal::SIGKILL).unwrap();
    }
    case.gate().open();
    live.end().expect(1);
    assert_sound(&mut case, End::Failed);
}

fn container_dies(server: Server) {
    let deeds = [(&["kill"][..], "start"), (&["stop", "-t", "1"], "start"), (&["restart", "-t", "1"], ""), (&["pause"], "unpause")];
    together(deeds, |(deed, undo)| {
        let mut case = Case::own(Container::start(""), server, true, "");
        case.hurry("stall_timeout = \"3s\"");
        let live = case.begin_to(MIDDLE);
        let container = case.target.own();
        container.tell(deed);
        case.gate().open();
        live.end().expect(1);
        if !undo.is_empty() {
            container.tell(&[undo]);
        }
        container.ready();
        assert_sound(&mut case, End::FailedOutOfReach);
    });
}

#[test]
fn the_container_by_exec() {
    container_dies(Server::Exec);
}

#[test]
fn the_container_over_the_network() {
    container_dies(Server::Network);
}
