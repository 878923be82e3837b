//! pgvigil itself told to stop, or killed, in the middle of a dump.

use nix::sys::signal::{Signal, kill};

use crate::common::Server;
use crate::judge::{Case, End, assert_sound};
use crate::killed::MIDDLE;
use crate::tools::{Container, together, until};

fn told_to_stop(server: Server, backup: &str) {
    let mut case = Case::gated(server, backup);
    let all = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
    for signal in if server == Server::Pg15 { &all[..] } else { &all[..2] } {
        let live = case.begin_to(MIDDLE);
        live.signal(*signal);
        // The gate stays closed: nothing ends by itself.
        let ran = live.end().expect(1);
        assert!(ran.json()["outcome"] == "cancelled", "{server:?} {signal}: {ran:#?}");
        assert!(case.programs().is_empty(), "{server:?} {signal}: {:?}", case.programs());
        case.gate().open();
        assert_sound(&mut case, End::Cancelled);
    }
}

#[test]
fn told_to_stop_here() {
    told_to_stop(Server::Pg15, "");
}

#[test]
fn told_to_stop_as_a_directory() {
    told_to_stop(Server::Pg15, "format = \"directory\"");
}

#[test]
fn told_to_stop_in_the_container() {
    told_to_stop(Server::Exec, "");
}

#[test]
fn told_to_stop_over_the_network() {
    told_to_stop(Server::Network, "");
}

/// The program inside does not obey SIGTERM.
#[test]
fn told_to_stop_while_the_program_hangs() {
    together([Server::Pg15, Server::Exec], |server| {
        let mut case = Case::gated(server, "");
        let live = case.begin_to(MIDDLE);
        kill(case.dumping(), Signal::SIGSTOP).unwrap();
        live.signal(Signal::SIGTERM);
        live.end().expect(1);
        case.gate().open();
        assert_sound(&mut case, End::Cancelled);
    });
}

/// Nothing of the server is known yet.
#[test]
fn told_to_stop_while_connecting() {
    for server in [Server::Pg15, Server::Exec] {
        let mut case = Case::gated(server, "");
        let live = case.begin_to(100);
        live.signal(Signal::SIGTERM);
        let ran = live.end().expect(1);
        assert!(ran.json()["outcome"] == "cancelled", "{server:?}: {ran:#?}");
        case.gate().open();
        assert_sound(&mut case, End::Cancelled);
    }
}

/// The first question already hangs inside of the container.
#[test]
fn told_to_stop_while_a_program_inside_hangs() {
    let mut case = Case::own(Container::start(""), Server::Exec, false, "");
    let container = case.target.own();
    container.sh("printf '#!/bin/sh\\nsleep 1000\\n' >/usr/local/bin/psql && chmod 755 /usr/local/bin/psql");
    let live = case.begin();
    // The script has no name of the case in its own arguments; its caller has.
    until("the question hangs", || (!case.programs().is_empty()).then_some(()));
    live.signal(Signal::SIGTERM);
    live.end().expect(1);
    let left = container.sh("for p in /proc/[0-9]*; do grep -qs PGAPPNAME=pgvigil_ $p/environ && tr '\\0' ' ' <$p/cmdline; done; true");
    container.sh("rm /usr/local/bin/psql");
    assert_eq!(left, "", "the program inside lives on");
    assert_sound(&mut case, End::Cancelled);
}

fn killed(server: Server, backup: &str) {
    let mut case = Case::gated(server, backup);
    let live = case.begin_to(MIDDLE);
    let dump = case.dumping();
    if server == Server::Exec {
        // It lives on inside, and does not even obey SIGTERM.
        kill(dump, Signal::SIGSTOP).unwrap();
    }
    live.signal(Signal::SIGKILL);
    assert_eq!(live.end().code, None);
    if server == Server::Exec {
        assert!(!case.programs().is_empty(), "nothing to sweep");
    }
    assert_eq!(case.world.names(crate::judge::BACKUP).iter().filter(|name| name.starts_with(".partial-")).count(), 1);
    case.gate().open();
    assert_sound(&mut case, End::Interrupted);
}

#[test]
fn killed_here() {
    killed(Server::Pg15, "");
}

#[test]
fn killed_as_a_directory() {
    killed(Server::Pg15, "format = \"directory\"\njobs = 2");
}

#[test]
fn killed_while_in_the_container() {
    killed(Server::Exec, "");
}

#[test]
fn killed_while_over_the_network() {
    killed(Server::Network, "");
}
