//! Tables as of a moment, beside the live ones; and nothing left of the cluster that they came by.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::run;
use crate::pitr_site::Site;
use crate::support::until;

const KEYS: &str = "wal = \"archive_command\"\ncompression = \"zstd\"\n";

/// A cluster with the database `shop`, a base backup, and what was written behind it.
struct Shop {
    site: Site,
    /// Behind the good transactions, before the bad ones.
    at: String,
    lsn: String,
    xid: String,
}

impl Shop {
    fn open(major: u32) -> Self {
        let site = Site::with(major, "track_commit_timestamp = on", KEYS);
        site.sql("create database shop");
        let shop = Shop { site, at: String::new(), lsn: String::new(), xid: String::new() };
        shop.sql(
            "create table customers (id int primary key, name text not null);
            create table orders (id bigserial primary key, customer int references customers, total numeric);
            create index on orders (total);
            create table events (at date not null, what text) partition by range (at);
            create table events_old partition of events for values from (minvalue) to ('2026-01-01');
            create table events_new partition of events for values from ('2026-01-01') to (maxvalue);
            create schema audit; create table audit.log (line text);
            create table \"Odd.Name\" (x int)",
        );
        shop.site.world.backup("cluster");
        shop.sql("insert into customers select n, 'customer ' || n from generate_series(1, 50) n");
        shop.sql("insert into orders (customer, total) select 1 + n % 50, n from generate_series(1, 300) n");
        shop.sql("insert into events select '2025-12-01'::date + n, 'event' from generate_series(0, 59) n");
        shop.sql("insert into audit.log values ('one'), ('two')");
        let xid = shop.sql("with x as (insert into \"Odd.Name\" values (1) returning 1) select pg_current_xact_id()");
        let at = shop.sql("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US UTC')");
        let lsn = shop.sql("select pg_current_wal_insert_lsn()");
        shop.sql("select pg_create_restore_point('before the release')");
        shop.sql("delete from orders where id > 7");
        shop.sql("drop table events");
        shop.sql("update audit.log set line = 'spoiled'");
        shop.sql("insert into \"Odd.Name\" values (2)");
        shop.site.switch();
        Shop { at, lsn, xid, ..shop }
    }

    #[track_caller]
    fn sql(&self, sql: &str) -> String {
        self.of("shop", sql)
    }

    #[track_caller]
    fn of(&self, database: &str, sql: &str) -> String {
        let output = run(self.site.cluster.tool("psql").args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql]));
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn restore(&self, args: &[&str]) -> crate::common::Ran {
        let mut all = vec!["--json", "restore", "cluster/latest"];
        all.extend(args);
        self.site.pgvigil(&all)
    }

    fn spool(&self) -> PathBuf {
        self.site.world.path("state/spool")
    }

    #[track_caller]
    fn nothing_left(&self) {
        let left = crate::support::in_spool(&self.site.world);
        assert!(left.is_empty(), "{left:?}");
        let there = servers_in(&self.spool());
        assert!(there.is_empty(), "{there:?}");
    }
}

/// Processes that work below a folder, be it gone by now.
fn servers_in(folder: &std::path::Path) -> Vec<String> {
    let folder = folder.display().to_string();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let works_there = |entry: &std::fs::DirEntry| {
        std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.display().to_string().starts_with(&folder))
    };
    entries.filter(works_there).map(|entry| entry.file_name().into_string().unwrap()).collect()
}

#[test]
fn tables_of_a_moment_come_beside_the_live_ones() {
    for major in [15, 18] {
        let shop = Shop::open(major);
        let page = shop
            .site
            .pgvigil(&["restore", "cluster/latest", "--at", &shop.at, "--table", "orders", "--into-schema", "rescue", "--dry-run"])
            .expect(0);
        for words in ["target", "orders of database \"shop\"", "schema rescue of database \"shop\" on server main"] {
            assert!(page.stdout.contains(words), "{words}: {page:#?}");
        }
        shop.nothing_left();
        let answer =
            shop.restore(&["--at", &shop.at, "--table", "orders", "--table", "customers", "--into-schema", "rescue"]).expect(0).json();
        assert_eq!(shop.sql("select count(*), sum(total) from rescue.orders"), "300|45150");
        assert_eq!(shop.sql("select count(*) from rescue.customers"), "50");
        assert_eq!(shop.sql("select count(*) from orders"), "7", "the live one is as it was");
        assert_eq!(answer["outcome"], "ok", "{answer}");
        assert_eq!(answer["database"], "shop");
        assert!(answer["id"].as_str().unwrap().starts_with("cluster/") && answer["id"] == answer["base"], "{answer}");
        assert!(answer["reached"]["lsn"].is_string() && answer["reached"]["stopped_before"].is_string(), "{answer}");
        assert_eq!(answer["compared"]["rows"], 350, "{answer}");
        // A partitioned table with its partitions, which is gone by now: into its own place.
        shop.restore(&["--lsn", &shop.lsn, "--table", "events"]).expect(0);
        assert_eq!(shop.sql("select count(*), count(distinct tableoid) from events"), "60|2");
        shop.restore(&["--name", "before the release", "--schema", "audit", "--into-schema", "was"]).expect(0);
        assert_eq!(shop.sql("select string_agg(line, ' ' order by line) from was.log"), "one two");
        shop.restore(&["--xid", &shop.xid, "--table", "\"Odd.Name\"", "--to-database", "look"]).expect(0);
        assert_eq!(shop.of("look", "select string_agg(x::text, ' ') from \"Odd.Name\""), "1");
        shop.restore(&["--latest", "--table", "orders", "--schema", "audit", "--into-schema", "last"]).expect(0);
        assert_eq!(shop.sql("select (select count(*) from last.orders), (select min(line) from last.log)"), "7|spoiled");
        shop.nothing_left();
        let history = shop.site.pgvigil(&["--json", "history", "cluster"]).expect(0).json();
        let restores: Vec<_> = history.as_array().unwrap().iter().filter(|row| row["kind"] == "restore").collect();
        assert!(restores.len() == 5 && restores.iter().all(|row| row["outcome"] == "ok" && row["id"] == answer["id"]), "{history}");
    }
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_fetched() {
    let shop = Shop::open(15);
    let at = shop.at.as_str();
    for (args, code, words) in [
        (&["--table", "orders", "--at", at][..], 1, "there is already public.orders"),
        (&["--table", "orders", "--into-schema", "x", "--at", "2001-01-01"], 2, "is no moment"),
        (&["--table", "orders", "--into-schema", "x", "--at", "2001-01-01 00:00:00"], 1, "cannot be restored"),
        (&["--table", "orders", "--into-schema", "x", "--at", at, "--to-server", "nobody"], 1, "there is no server"),
        (&["--table", "orders", "--into-schema", "x", "--at", at, "--database", "nobody"], 1, "is not there"),
        (&["--table", "orders", "--clean", "--at", at], 2, "--clean with --table"),
        (&["--table", "orders", "--at", at, "--tablespace", "x=/y"], 2, "--tablespace"),
        (&["--table", "orders", "--into-schema", "x"], 2, "is a physical backup"),
        // Only the cluster itself can tell.
        (&["--table", "nosuch", "--into-schema", "x", "--at", at], 1, "there was no table nosuch"),
        (&["--lsn", "F/0", "--table", "orders", "--into-schema", "x"], 1, "leads to"),
        (&["--name", "never", "--table", "orders", "--into-schema", "x"], 1, "ended before the target was reached"),
    ] {
        let ran = shop.restore(args);
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:#?}");
        let message = ran.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(words), "{args:?}: {ran:#?}");
        shop.nothing_left();
    }
    // A segment that is damaged is named, and nothing is left.
    let archived = shop.site.archived();
    let path = shop.site.world.store().join("cluster/wal/00000001").join(archived.last().unwrap());
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let ran = shop.restore(&["--table", "orders", "--into-schema", "x", "--latest"]).expect(1);
    assert!(ran.stderr.contains("is damaged"), "{ran:#?}");
    shop.nothing_left();
    std::fs::write(&path, bytes).unwrap();
    // With a second database it must be said which; the base backup knows them.
    shop.site.sql("create database second");
    shop.site.world.backup("cluster");
    let ran = shop.restore(&["--table", "orders", "--into-schema", "x", "--latest"]).expect(2);
    let hint = ran.json()["error"]["hint"].as_str().unwrap().to_owned();
    assert!(hint.contains("--database") && hint.contains("\"second\", \"shop\""), "{hint}");
}

#[test]
fn one_that_is_broken_off_leaves_nothing() {
    let shop = Shop::open(15);
    let args = ["restore", "cluster/latest", "--latest", "--table", "orders", "--into-schema", "x"];
    let place = shop.spool().join("moment.0");
    let has = |name: &str| {
        let clusters = std::fs::read_dir(&place).into_iter().flatten().flatten();
        clusters.map(|entry| entry.path().join("data").join(name)).any(|path| path.exists())
    };
    for (signal, stage) in [(Signal::SIGINT, "PG_VERSION"), (Signal::SIGINT, "postmaster.pid"), (Signal::SIGKILL, "postmaster.pid")] {
        let mut command = shop.site.world.command(&args);
        let mut child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        while !has(stage) && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if signal == Signal::SIGINT {
            assert!(output.status.code() == Some(1) && said.contains("told to stop") && !said.contains("is left"), "{stage}: {said}");
        } else {
            // The server goes with us; the folder stays for the next one.
            until("the server has ended", || servers_in(&shop.spool()).is_empty());
            assert!(place.exists());
            shop.site.world.backup("cluster");
        }
        shop.nothing_left();
        assert_eq!(shop.sql("select count(*) from pg_namespace where nspname = 'x'"), "0");
    }
    // The next one begins anew.
    shop.restore(&args[2..]).expect(0);
    shop.nothing_left();
}
