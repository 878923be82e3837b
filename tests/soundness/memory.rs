//! Memory does not grow with the database: the highest resident size of a whole run.

use std::process::Stdio;

use crate::common::{Database, Server, World};
use crate::scale;

const BOUND_KIB: u64 = 100 * 1024;

/// Rows of text that packs about as well as people's, and one row of many blocks.
fn fill(database: &Database, megabytes: usize) {
    database.sql(&format!(
        "create table rows as select n, md5(n::text) || ' ' || repeat('some words of a row ', 8) || md5((n * 7)::text) as t from generate_series(1, {}) n",
        megabytes * 4_000
    ));
    database.sql("create table wide as select string_agg(md5(n::text), '') as t from generate_series(1, 1500000) n");
}

/// Runs a backup and returns the highest resident size of the program itself.
fn peak_kib(world: &World, backup: &str) -> u64 {
    let mut child = world.command(&["run", backup]).stdout(Stdio::null()).spawn().unwrap();
    let path = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let status = std::fs::read_to_string(&path).unwrap_or_default();
        let high =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")).and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = peak.max(high.unwrap_or(0));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{backup}: {status}");
            return peak;
        }
        // Only how often it is looked at; VmHWM itself forgets nothing.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_run_stays_below_its_bound() {
    for server in [Server::Pg15, Server::Exec] {
        let database = Database::empty(server);
        fill(&database, scale(150, 2_000));
        let backup = |name: &str, codec: &str| {
            format!("[backups.{name}]\ndatabase = \"{}\"\nglobals = false\ncompression = \"{codec}\"\n", database.name)
        };
        let mut codecs = vec![("none", "none"), ("gzip", "gzip"), ("zstd", "zstd:3")];
        if std::env::var_os("PGVIGIL_TEST_LONG").is_some() {
            codecs.push(("zstd_high", "zstd:19"));
        }
        let sections: String = codecs.iter().map(|(name, codec)| backup(name, codec)).collect();
        let world = World::with(server, &sections);
        for (name, _) in codecs {
            let peak = peak_kib(&world, name);
            assert!((1..BOUND_KIB).contains(&peak), "{server:?} {name}: {peak} KiB");
        }
    }
}
