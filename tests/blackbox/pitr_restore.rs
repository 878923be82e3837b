//! Clusters restored to a moment: exactly what was committed by then, or a refusal that says why.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, TimeDelta, Utc};

use crate::common::Server;
use crate::common::daemon::Daemon;
use crate::pitr_site::Site;
use crate::support::{long, until};

/// Exact moments of commits, and an archive that is switched often.
const LOAD: &str = "track_commit_timestamp = on\nautovacuum = off";

/// Rows, each in a transaction of its own, with the moment of its commit.
fn committed(site: &Site) -> BTreeMap<u64, DateTime<Utc>> {
    let text = site.sql("select n || ' ' || to_char(pg_xact_commit_timestamp(xmin) at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') from t order by n");
    let parsed = text.lines().map(|line| line.split_once(' ').unwrap());
    parsed.map(|(n, at)| (n.parse().unwrap(), at.parse().unwrap())).collect()
}

fn expected(rows: &BTreeMap<u64, DateTime<Utc>>, at: DateTime<Utc>) -> String {
    let there: Vec<u64> = rows.iter().filter(|(_, committed)| **committed <= at).map(|(n, _)| *n).collect();
    format!("{}|{}", there.len(), there.iter().sum::<u64>())
}

const SHOWN: &str = "select count(*), coalesce(sum(n), 0) from t";

/// Some transactions with some log between them.
fn load(site: &Site, from: u64, count: u64) {
    let statements: Vec<String> = (from..from + count)
        .map(|n| {
            format!("insert into t values ({n}); insert into filler select repeat(md5(random()::text), 30) from generate_series(1, 200)")
        })
        .collect();
    for statement in &statements {
        site.sql(statement);
    }
}

/// Transactions from a number on, and segments that end, for as long as something takes; the number of the next one.
fn while_writing<T>(site: &Site, from: u64, work: impl FnOnce() -> T) -> u64 {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut next = from;
            // It writes already when the work begins, and some more.
            while !done.load(Ordering::Relaxed) || next < from + 10 {
                load(site, next, 1);
                if next.is_multiple_of(4) {
                    site.sql("select pg_switch_wal()");
                }
                next += 1;
            }
            next
        });
        work();
        done.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    })
}

fn begin(site: &Site) {
    site.sql("create table t (n bigint primary key)");
    site.sql("create table filler (x text)");
}

fn times(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S%.6f UTC").to_string()
}

#[test]
fn random_moments_show_exactly_what_was_committed_by_then() {
    for major in [15, 17, 18] {
        // Each way that the log can take.
        let is_streamed = major == 17;
        let site = match major {
            15 => Site::with(major, LOAD, "wal = \"archive_command\"\ncompression = \"zstd\"\n"),
            17 => Site::with(major, &format!("{LOAD}\narchive_mode = off"), "wal = \"stream\"\ncompression = \"zstd\"\n"),
            _ => Site::by_folder(major, LOAD, "compression = \"zstd\"\n"),
        };
        let daemon = (major != 15).then(|| Daemon::start(&site.world));
        if let Some(daemon) = daemon.as_ref().filter(|_| is_streamed) {
            daemon.wait_for_line("receiving the log");
        }
        begin(&site);
        let mut n = 1;
        for _ in 0..3 {
            load(&site, n, 10);
            n = while_writing(&site, n + 10, || site.world.backup("cluster"));
            load(&site, n, 10);
            site.switch();
            n += 10;
        }
        load(&site, n, 5);
        site.switch();
        let rows = committed(&site);
        let backups = site.pgvigil(&["--json", "list", "cluster"]).expect(0).json();
        let first: DateTime<Utc> = backups.as_array().unwrap().last().unwrap()["taken_at"].as_str().unwrap().parse().unwrap();
        let last = *rows.values().max().unwrap();
        let count = if long() { 100 } else { 4 };
        let span = (last - first).num_microseconds().unwrap();
        let mut seed = crate::support::seed();
        println!("PGVIGIL_TEST_SEED={seed} repeats this");
        for _ in 0..count {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = first + TimeDelta::microseconds(i64::try_from(seed >> 33).unwrap() * span / (1 << 31));
            let restored = site.restore(&["--at", &times(at)]);
            assert_eq!(restored.sql(SHOWN), expected(&rows, at), "PostgreSQL {major}, {at}");
            assert_eq!(restored.answer["reached"]["timeline"], 2);
            let shown: DateTime<Utc> = restored.answer["reached"]["last_transaction"].as_str().map_or(at, |text| text.parse().unwrap());
            assert!(shown <= at, "{:?}", restored.answer);
            // It takes writes, and archives nothing.
            restored.sql("insert into t values (999999)");
            assert_eq!(restored.sql("show archive_mode"), "off");
        }
        // The very moment of a commit, and the one before it.
        let (number, at) = rows.iter().nth_back(2).map(|(n, at)| (*n, *at)).unwrap();
        for at in [at, at - TimeDelta::microseconds(1)] {
            let restored = site.restore(&["--at", &times(at)]);
            assert_eq!(restored.sql(SHOWN), expected(&rows, at), "around transaction {number}");
        }
        if is_streamed {
            // How far the server was is asked now and then: until when nothing was committed is not known to the second.
            continue;
        }
        // All there is; and a moment behind the last transaction, on a server that has been idle since.
        site.be_idle();
        let all = site.restore(&["--latest"]);
        assert_eq!(all.sql("select count(*) from t"), rows.len().to_string());
        let idle = times(last + TimeDelta::milliseconds(1));
        let restored = site.restore(&["--at", &idle]);
        assert_eq!(restored.sql("select count(*) from t"), rows.len().to_string());
        assert_eq!(restored.answer["reached"]["stopped_before"], serde_json::Value::Null);
    }
}

#[test]
fn an_lsn_a_transaction_and_a_restore_point() {
    let site = Site::with(15, LOAD, "wal = \"archive_command\"\ncompression = \"zstd\"\n");
    begin(&site);
    site.world.backup("cluster");
    load(&site, 1, 3);
    let lsn = site.sql("select pg_current_wal_insert_lsn()");
    let xid = site.sql("with x as (insert into t values (100) returning 1) select pg_current_xact_id()");
    site.sql("select pg_create_restore_point('before the release')");
    load(&site, 4, 3);
    site.switch();
    assert_eq!(site.restore(&["--lsn", &lsn]).sql("select count(*) from t where n < 100"), "3");
    assert_eq!(site.restore(&["--xid", &xid]).sql("select string_agg(n::text, ' ' order by n) from t"), "1 2 3 100");
    assert_eq!(site.restore(&["--name", "before the release"]).sql("select max(n) from t where n < 100"), "3");
    // Of several the newest is meant, and with an older base backup, too.
    site.sql("select pg_create_restore_point('twice')");
    load(&site, 20, 2);
    site.sql("select pg_create_restore_point('twice')");
    load(&site, 22, 2);
    site.switch();
    assert_eq!(site.restore(&["--name", "twice"]).sql("select max(n) from t where n < 100"), "21");
    site.sql("delete from t where n between 20 and 99");
    // A newer base backup does not lead to it.
    let newer = site.world.backup("cluster");
    load(&site, 7, 3);
    site.switch();
    assert_eq!(site.restore(&["--name", "before the release"]).sql("select max(n) from t where n < 100"), "3");
    let nowhere = site.world.path("restored/nowhere");
    let ran = site.pgvigil(&["restore", &newer, "--name", "before the release", "--target-dir", nowhere.to_str().unwrap()]).expect(1);
    assert!(ran.stderr.contains("before the end of the base backup"), "{ran:#?}");
    let dir = site.world.path("restored/none");
    let ran = site.pgvigil(&["restore", "cluster/latest", "--name", "never", "--target-dir", dir.to_str().unwrap(), "--start"]).expect(1);
    assert!(ran.stderr.contains("ended before the target was reached"), "{ran:#?}");
    assert!(!dir.join("postmaster.pid").exists(), "it does not run");
}

#[test]
fn a_moment_outside_and_a_gap_are_refused_with_the_windows() {
    let site = Site::with(15, LOAD, "wal = \"archive_command\"\ncompression = \"zstd\"\n");
    begin(&site);
    let before = Utc::now();
    let id = site.world.backup("cluster");
    for n in 0..4 {
        load(&site, n * 3 + 1, 3);
        site.switch();
    }
    let rows = committed(&site);
    let dir = site.world.path("restored/refused");
    let refused = |target: &[&str]| {
        let mut args = vec!["--json", "restore", "cluster/latest"];
        args.extend(target);
        args.extend(["--start", "--target-dir", dir.to_str().unwrap()]);
        let ran = site.pgvigil(&args).expect(1);
        assert!(!dir.exists(), "{ran:#?}");
        let error = ran.json()["error"].clone();
        format!("{} {}", error["message"].as_str().unwrap(), error["hint"].as_str().unwrap_or_default())
    };
    let why = refused(&["--at", &times(before)]);
    assert!(why.contains("later") && why.contains(&id) && why.contains("any moment can be restored from"), "{why}");
    assert!(refused(&["--at", "2099-01-01 00:00:00"]).contains("in the future"));
    let at = times(*rows.values().nth(4).unwrap());
    for (how, change) in [("removed", 0), ("cut", 1), ("flipped", 2)] {
        // One in the middle: base, two segments, it, one more.
        let archived = site.archived();
        let path = site.world.store().join("cluster/wal/00000001").join(&archived[archived.len() - 2]);
        let bytes = std::fs::read(&path).unwrap();
        match change {
            0 => std::fs::remove_file(&path).unwrap(),
            1 => std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap(),
            _ => {
                let mut flipped = bytes.clone();
                let middle = bytes.len() / 2;
                flipped[middle] ^= 1;
                std::fs::write(&path, flipped).unwrap();
            }
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if change == 0 {
            let why = refused(&["--latest"]);
            assert!(why.contains(&format!("segment {name} is missing")), "{how}: {why}");
        } else {
            // Seen in the replay: the recovery stops there, with an error that names it, and nothing runs.
            let ran = site.pgvigil(&["restore", "cluster/latest", "--latest", "--start", "--target-dir", dir.to_str().unwrap()]).expect(1);
            assert!(ran.stderr.contains(&format!("{name} in the archive of cluster is damaged")), "{how}: {ran:#?}");
            assert!(!dir.join("postmaster.pid").exists());
            std::fs::remove_dir_all(&dir).unwrap();
        }
        // What lies before can be restored all the same.
        let restored = site.restore(&["--at", &at]);
        assert_eq!(restored.sql("select count(*) from t"), "5", "{how}");
        drop(restored);
        std::fs::write(&path, bytes).unwrap();
    }
    // A file of the base backup.
    let base = site.world.folder(&id).join("base.tar.zst");
    let bytes = std::fs::read(&base).unwrap();
    for change in
        [bytes[..bytes.len() / 2].to_vec(), [&bytes[..bytes.len() / 2], &[!bytes[bytes.len() / 2]], &bytes[bytes.len() / 2 + 1..]].concat()]
    {
        std::fs::write(&base, change).unwrap();
        let why = refused(&["--latest"]);
        assert!(why.contains("base.tar.zst"), "{why}");
    }
    std::fs::write(&base, bytes).unwrap();
    assert_eq!(site.restore(&["--latest"]).sql("select count(*) from t"), "12");
}

#[test]
fn tablespaces_are_mapped_and_never_laid_where_the_live_ones_are() {
    let site = Site::archiving(15, "compression = \"zstd\"\n");
    let space = site.world.path("restored/space");
    std::fs::create_dir(&space).unwrap();
    crate::support::stock("chown", &["postgres:", space.to_str().unwrap()], site.world.path("").as_path());
    site.sql(&format!("create tablespace far location '{}'", space.display()));
    site.sql("create table t tablespace far as select generate_series(1, 1000) n");
    site.world.backup("cluster");
    let restored = site.restore(&["--latest"]);
    assert_eq!(restored.sql("select count(*) from t"), "1000");
    // A folder of somebody else is refused, and nothing of it is touched; nor is one that was there and is empty.
    let theirs = site.world.path("restored/theirs");
    std::fs::create_dir(&theirs).unwrap();
    std::fs::write(theirs.join("file"), "").unwrap();
    crate::support::own(&theirs);
    let (target, mapped) = (site.world.path("restored/refused"), format!("far={}", theirs.display()));
    let ran = site
        .pgvigil(&["restore", "cluster/latest", "--latest", "--target-dir", target.to_str().unwrap(), "--tablespace", &mapped])
        .expect(1);
    assert!(ran.stderr.contains("theirs is not empty"), "{ran:#?}");
    assert!(theirs.join("file").exists() && !target.exists());
    let place = restored.sql("select pg_tablespace_location(oid) from pg_tablespace where spcname = 'far'");
    assert!(place.starts_with(&format!("{}_tablespaces/", restored.dir().display())), "{place}");
    let elsewhere = site.world.path("restored/elsewhere");
    let restored = site.restore(&["--latest", "--tablespace", &format!("far={}", elsewhere.display())]);
    assert_eq!(restored.sql("select pg_tablespace_location(oid) from pg_tablespace where spcname = 'far'"), elsewhere.to_str().unwrap());
    assert_eq!(restored.sql("select count(*) from t"), "1000");
    assert_eq!(site.sql("select count(*) from t"), "1000");
}

#[test]
fn an_option_for_the_other_kind_is_refused() {
    let site = Site::archiving(15, "");
    for (args, words) in [
        (&["cluster/latest"][..], "is a physical backup"),
        (&["cluster/latest", "--target-dir", "/tmp/x"], "to which moment"),
        (&["cluster/latest", "--latest"], "needs a folder"),
        (&["cluster/latest", "--latest", "--target-dir", "/tmp/x", "--table", "t"], "--table with a physical backup"),
        (&["cluster/latest", "--at", "2026-10-25 02:30:00", "--target-dir", "/tmp/x"], "came twice"),
    ] {
        let mut all = vec!["restore"];
        all.extend(args);
        let ran = site.pgvigil(&all);
        assert!(ran.code != Some(0) && ran.stderr.contains(words), "{args:?}: {ran:#?}");
    }
    let dump = crate::common::World::with(Server::Pg15, "[backups.x]\ndatabase = \"postgres\"\n");
    let ran = dump.pgvigil(&["restore", "x/latest", "--latest", "--target-dir", "/tmp/x"]).expect(2);
    assert!(ran.stderr.contains("backup of dumps"), "{ran:#?}");
}

#[test]
fn log_that_came_late_says_nothing_of_the_time_until_it_came() {
    let site = Site::archiving(15, "compression = \"zstd\"\n");
    site.sql("create table t (n int)");
    site.world.backup("cluster");
    site.archive_nothing();
    site.sql("insert into t values (1)");
    let segment = site.sql("select pg_walfile_name(pg_current_wal_insert_lsn())");
    site.sql("select pg_switch_wal()");
    // In the segment that is still open when the server is lost.
    site.sql("insert into t values (2)");
    let at = site.now();
    site.archive_again();
    until("the segment is archived", || site.archived().contains(&format!("{segment}.zst")));
    let target = site.world.path("restored/late").display().to_string();
    let ran = site.pgvigil(&["restore", "cluster/latest", "--at", &at, "--target-dir", &target]).expect(1);
    assert!(ran.stderr.contains("the archive ends before"), "{ran:#?}");
}

#[test]
fn a_recovery_that_ends_with_the_log_takes_none_that_came_since() {
    let site = Site::archiving(15, "compression = \"zstd\"\n");
    site.sql("create table t (n int)");
    site.world.backup("cluster");
    site.sql("insert into t values (1)");
    let at = site.now();
    site.be_idle();
    let target = site.world.path("restored/quiet").display().to_string();
    site.pgvigil(&["restore", "cluster/latest", "--at", &at, "--target-dir", &target]).expect(0);
    let settings = std::fs::read_to_string(format!("{target}/postgresql.auto.conf")).unwrap();
    let last = settings.split(" --until ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    // What is committed after the plan comes into the archive before anybody starts it.
    site.sql("insert into t values (2)");
    site.switch();
    let behind = site.archived().pop().unwrap();
    assert!(behind > last);
    let fetch = |name: &str, until: &[&str]| {
        let dest = site.world.path("restored/fetched").display().to_string();
        let config = site.world.path("wal.toml").display().to_string();
        site.pgvigil(&[&["--config", &*config, "wal", "fetch", name, &*dest], until].concat())
    };
    let behind = behind.strip_suffix(".zst").unwrap();
    fetch(behind, &[]).expect(0);
    fetch(behind, &["--until", &last]).expect(1);
    fetch(&last, &["--until", &last]).expect(0);
}
