//! A dump that stops, or takes too long, is ended: here, in the container and on the server.

use std::process::Stdio;

use crate::common::Server;
use crate::judge::{Case, End, assert_sound};
use crate::killed::MIDDLE;
use crate::tools::{together, until};

fn too_long(server: Server, backup: &str, bound: &str) {
    let mut case = Case::gated(server, backup);
    case.hurry(bound);
    let live = case.begin_to(MIDDLE);
    let ran = live.end().expect(1);
    assert!(ran.json()["error"]["kind"] == "timeout" && ran.stderr.contains("HINT:"), "{server:?} {backup}: {ran:#?}");
    // The gate is still closed: nothing ended by itself.
    assert!(case.programs().is_empty(), "{server:?} {backup}: {:?}", case.programs());
    case.gate().open();
    assert_sound(&mut case, End::Failed);
}

#[test]
fn a_dump_that_stops_here() {
    together(["plain", "custom", "directory"], |format| {
        too_long(Server::Pg15, &format!("format = \"{format}\""), "stall_timeout = \"3s\"");
    });
}

#[test]
fn a_dump_that_stops_in_the_container() {
    too_long(Server::Exec, "", "stall_timeout = \"3s\"");
}

#[test]
fn a_dump_that_stops_over_the_network() {
    too_long(Server::Network, "", "stall_timeout = \"3s\"");
}

#[test]
fn a_run_past_its_deadline() {
    together([Server::Pg15, Server::Exec], |server| too_long(server, "", "deadline = \"8s\""));
}

/// The dump waits behind somebody's lock, and others would behind the dump: it is ended on the
/// server too, by the stall before its first byte.
#[test]
fn a_lock_in_the_way() {
    together([(Server::Pg15, ""), (Server::Pg15, "format = \"directory\""), (Server::Exec, "")], |(server, backup)| {
        let mut case = Case::new(server, backup);
        case.hurry("stall_timeout = \"3s\"");
        let mut psql = server.tool("psql");
        psql.args(["-X", "-q", "-d", case.target.name()]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut holder = psql.spawn().unwrap();
        let mut into = holder.stdin.take().unwrap();
        std::io::Write::write_all(&mut into, b"begin; lock table orders in access exclusive mode;\n").unwrap();
        let held = "select count(*) from pg_locks where database = (select oid from pg_database where datname = current_database()) \
            and mode = 'AccessExclusiveLock' and relation = 'orders'::regclass and granted";
        until("the lock is held", || (case.target.sql(held) == "1").then_some(()));
        let live = case.begin();
        let waits = "select count(*) from pg_locks where database = (select oid from pg_database where datname = current_database()) \
            and relation = 'orders'::regclass and not granted";
        until("the dump waits for the lock", || (case.target.sql(waits) != "0").then_some(()));
        let ran = live.end().expect(1);
        assert!(ran.json()["error"]["kind"] == "timeout", "{server:?} {backup}: {ran:#?}");
        assert_eq!(case.target.sql(waits), "0", "{server:?} {backup}: a backend still waits: {ran:#?}");
        drop(into);
        holder.wait().unwrap();
        assert_sound(&mut case, End::Failed);
    });
}
