//! Memory does not grow with the database.

use crate::common::{Database, Server};
use crate::judge::{BACKUP, Case};
use crate::tools::{PATIENCE, long};

const BOUND_KIB: u64 = 100 * 1024;

/// Two tables of text that packs well and so is quickly made, 130 MB as a dump (1.8 GB in the long
/// run), and one row of 200 MB.
fn fill(database: &Database) {
    let rows = if long() { 56_000 } else { 4_000 };
    database.sql(&format!(
        "create table wide as select i, repeat(md5(i::text), 1000) as text from generate_series(1, {rows}) i;
        create table one as select repeat(md5('row'), 6250000) as text"
    ));
}

fn bounded(server: Server, backups: &[&str]) {
    let database = Database::empty(server);
    fill(&database);
    let case = Case::empty(database);
    let mut grown = Vec::new();
    for backup in backups {
        case.configure(&case.server, backup);
        let mut dump = case.begin();
        let (ran, hwm) = (dump.end_within(10 * PATIENCE), dump.hwm_kib);
        assert_eq!(ran.code, Some(0), "{ran:#?}");
        let mut read = case.start(case.command(&["--json", "verify", &format!("{BACKUP}/latest")]));
        let (verified, read_hwm) = (read.end_within(10 * PATIENCE), read.hwm_kib);
        assert_eq!(verified.code, Some(0), "{verified:#?}");
        println!("{server:?} {backup:?}: {hwm} KiB to dump, {read_hwm} KiB to read back");
        assert!(hwm > 1024 && read_hwm > 1024, "not measured");
        if hwm.max(read_hwm) > BOUND_KIB {
            grown.push(format!("{backup:?}: {hwm} KiB to dump, {read_hwm} KiB to read back"));
        }
        std::fs::remove_dir_all(case.world.store()).unwrap();
    }
    assert!(grown.is_empty(), "{server:?}: more than {BOUND_KIB} KiB: {grown:#?}");
}

#[test]
fn of_a_dump_here() {
    bounded(Server::Pg15, &["", "compression = \"zstd:3\"", "compression = \"none\"", "format = \"custom\"\ncompression = \"gzip:1\""]);
}

#[test]
fn of_the_highest_level() {
    bounded(Server::Pg15, &["compression = \"zstd:19\""]);
}

/// To a key that nobody here has.
const ENCRYPTED: &str = "encrypt_to = [\"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\"]";

#[test]
fn of_an_encrypted_dump() {
    bounded(Server::Pg15, &[ENCRYPTED, &format!("compression = \"none\"\n{ENCRYPTED}")]);
}

#[test]
fn of_a_dump_in_the_container() {
    bounded(Server::Exec, &["", "compression = \"none\""]);
}
