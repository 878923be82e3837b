//! The log received by the daemon or by a run, kept as long as a base backup needs it, and looked at.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::common::daemon::Daemon;
use crate::common::ran;
use crate::pitr_site::Site;
use crate::support::{Cluster, as_user, until};

const STREAM: &str = "wal = \"stream\"\ncompression = \"zstd\"\n";

/// A site whose server does not archive by itself.
fn streaming(major: u32, keys: &str) -> Site {
    Site::with(major, "archive_mode = off", &format!("{STREAM}{keys}"))
}

fn rows(site: &Site, from: u32, to: u32) {
    site.sql(&format!("insert into t select generate_series({from}, {to})"));
    site.sql("select pg_switch_wal()");
}

#[test]
fn the_daemon_receives_across_restarts_of_the_server_and_of_itself() {
    for major in [15, 17, 18] {
        let site = streaming(major, "");
        site.sql("create table t (n int)");
        let daemon = Daemon::start(&site.world);
        daemon.wait_for_line("receiving the log");
        let id = site.world.backup("cluster");
        rows(&site, 1, 1000);
        // pg_receivewal dies: it is begun again, and nothing is lost.
        site.sql("select pg_terminate_backend(pid) from pg_stat_replication");
        rows(&site, 1001, 2000);
        daemon.wait_for_line("the log is not received");
        drop(daemon);
        rows(&site, 2001, 3000);
        let _daemon = Daemon::start(&site.world);
        let last = site.sql("select pg_walfile_name(pg_switch_wal())");
        rows(&site, 3001, 3001);
        until("all of it has come", || site.archived().iter().any(|name| name.starts_with(&last)));
        let status = site.pgvigil(&["--json", "wal", "status"]).expect(0).json();
        assert_eq!(status[0]["windows"].as_array().unwrap().len(), 1, "{status}");
        assert_eq!(status[0]["gaps"], serde_json::json!([]), "{status}");
        assert_eq!(status[0]["server"]["slots"][0]["active"], true, "{status}");
        let restored = site.restore(&[&*id, "--latest"]);
        assert!(restored.sql("select count(*) from t").parse::<u32>().unwrap() >= 3000);
        // Only the newest whole one waits in the spool; pg_receivewal goes on behind it.
        let spool = site.world.path("state/spool/wal/cluster");
        until("the spool is empty", || {
            let names = std::fs::read_dir(&spool).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name.len() == 24).count() <= 1
        });
    }
}

#[test]
fn a_slot_that_is_lost_is_made_anew_and_a_base_backup_leads_over_the_gap() {
    let site = Site::with(
        15,
        "archive_mode = off\nmax_wal_size = 32MB\nwal_keep_size = 0",
        "wal = \"stream\"\ncompression = \"zstd\"\nschedule = \"0 0 1 1 *\"\ncatch_up = false\n",
    );
    site.sql("create table t (n int)");
    let daemon = Daemon::start(&site.world);
    daemon.wait_for_line("receiving the log");
    let first = site.world.backup("cluster");
    rows(&site, 1, 10);
    let before = site.now();
    site.sql("insert into t select generate_series(11, 20)");
    let last = site.sql("select pg_walfile_name(pg_switch_wal())");
    rows(&site, 21, 30);
    until("it was received", || site.archived().iter().any(|name| name.starts_with(&last)));
    // And a part of the one behind it.
    site.sql("insert into t values (101)");
    let in_part = site.now();
    site.sql("insert into t values (102)");
    until("it was received", || {
        site.sql("select coalesce(bool_and(flush_lsn >= pg_current_wal_flush_lsn()), false) from pg_stat_replication") == "t"
    });
    drop(daemon);
    // The server writes on, and lets go of what nobody has received.
    site.sql("alter system set max_slot_wal_keep_size = '16MB'");
    site.sql("select pg_reload_conf()");
    until("the slot is lost", || {
        site.sql("insert into t select -n from generate_series(1, 1000) n");
        site.sql("select pg_switch_wal()");
        site.sql("checkpoint");
        site.sql("select wal_status from pg_replication_slots") == "lost"
    });
    site.sql("alter system reset max_slot_wal_keep_size");
    site.sql("select pg_reload_conf()");
    let daemon = Daemon::start(&site.world);
    daemon.wait_for_line("it is made anew");
    daemon.wait_for_line("receiving begins anew");
    daemon.wait_for_line("run ended");
    assert_eq!(site.sql("select string_agg(wal_status, ',') from pg_replication_slots"), "reserved");
    rows(&site, 31, 40);
    site.sql("select pg_switch_wal()");
    rows(&site, 41, 50);
    let list = site.pgvigil(&["--json", "list", "cluster"]).expect(0).json();
    assert_eq!(list.as_array().unwrap().len(), 2, "one that nobody asked for: {list:#}");
    let gap = site.pgvigil(&["--json", "wal", "status"]).expect(3).json();
    assert_eq!(gap[0]["gaps"][0]["base"], first, "{gap:#}");
    // What had been received before is there, and all since.
    assert_eq!(site.restore(&["--at", &before]).sql("select count(*) from t where n > 0"), "10");
    assert_eq!(site.restore(&["--at", &in_part, "--store", "local"]).sql("select count(*), max(n) from t where n > 0"), "31|101");
    until("what came since is in the archive", || {
        site.pgvigil(&["--json", "wal", "status"]).json()[0]["bytes_behind"].as_u64().is_some_and(|bytes| bytes < 32 << 20)
    });
    let rows_there = site.restore(&["--latest"]).sql("select count(*) from t where n between 1 and 40");
    assert_eq!(rows_there, "40");
}

/// What pg_receivewal does when it goes on from what it has. The server takes its word for where the slot is, if that
/// comes before the server sees that it has removed the log: so here it comes with the command.
fn lead_back(site: &Site, slot: &str, lsn: u64) {
    let mut said = Vec::new();
    let mut message = |kind: &[u8], body: &[u8]| {
        let bytes = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        said.extend([kind, &bytes, body].concat());
    };
    // https://www.postgresql.org/docs/current/protocol-message-formats.html and protocol-replication.html
    message(b"", &[&(3u32 << 16).to_be_bytes()[..], b"user\0postgres\0replication\0true\0\0"].concat());
    let start = format!("START_REPLICATION SLOT {slot} PHYSICAL {:X}/{:X}\0", lsn >> 32, lsn & 0xFFFF_FFFF);
    message(b"Q", start.as_bytes());
    // Written, flushed and applied until there; the clock; no answer is asked for.
    message(b"d", &[b"r", &[lsn.to_be_bytes(), lsn.to_be_bytes(), [0; 8], [0; 8]].concat()[..], b"\0"].concat());
    message(b"X", b"");
    // In one go: the server has all of it before it looks at any.
    let mut server = UnixStream::connect(format!("{}/.s.PGSQL.{}", site.cluster.host(), site.cluster.port)).unwrap();
    server.write_all(&said).unwrap();
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).unwrap();
    let now = site.sql(&format!("select restart_lsn - '0/0' from pg_replication_slots where slot_name = '{slot}'"));
    assert_eq!(now, lsn.to_string(), "{}", String::from_utf8_lossy(&answer));
}

#[test]
fn a_slot_that_leads_to_log_that_is_gone_is_made_anew() {
    for major in [15, 18] {
        let settings = "archive_mode = off\nmax_wal_size = 32MB\nwal_keep_size = 0";
        let site = Site::with(major, settings, &format!("{STREAM}schedule = \"0 0 1 1 *\"\ncatch_up = false\n"));
        site.cluster.let_in("local replication postgres trust");
        let daemon = Daemon::start(&site.world);
        daemon.wait_for_line("receiving the log");
        site.sql("create table t (n int)");
        until("it was received", || site.sql("select count(*) from pg_stat_replication where flush_lsn > '0/0'") == "1");
        drop(daemon);
        until("nobody receives", || site.sql("select bool_or(active) from pg_replication_slots") == "f");
        let first = site.sql("select pg_walfile_name(pg_current_wal_lsn())");
        let lsn = u64::from_str_radix(&first[16..], 16).unwrap() << 24;
        site.sql("select pg_drop_replication_slot('pgvigil_cluster')");
        until("the server has removed it", || {
            rows(&site, 1, 1000);
            site.sql("checkpoint");
            site.sql(&format!("select count(*) from pg_ls_waldir() where name <= '{first}'")) == "0"
        });
        site.sql("select pg_create_physical_replication_slot('pgvigil_cluster', true)");
        lead_back(&site, "pgvigil_cluster", lsn);
        let daemon = Daemon::start(&site.world);
        daemon.wait_for_line("the slot leads to log that the server has removed: it is made anew");
        // The base backup that leads over the gap: it waits for the log that makes it whole.
        daemon.wait_for_line("run ended");
        assert_eq!(site.sql("select string_agg(wal_status, ',') from pg_replication_slots"), "reserved");
        rows(&site, 1001, 2000);
        let received = "select coalesce(bool_and(flush_lsn >= pg_current_wal_flush_lsn()), false) from pg_stat_replication";
        until("all of it is received", || site.sql(received) == "t");
        let count = site.sql("select count(*) from t");
        assert_eq!(site.restore(&["--latest"]).sql("select count(*) from t"), count);
    }
}

#[test]
fn a_server_that_was_restored_to_an_earlier_moment_is_received_on_its_new_way() {
    for major in [15, 18] {
        let site = streaming(major, "");
        site.sql("create table t (n int)");
        let daemon = Daemon::start(&site.world);
        daemon.wait_for_line("receiving the log");
        site.world.backup("cluster");
        rows(&site, 1, 10);
        let moment = site.now();
        for n in 0..3 {
            rows(&site, 100 + n, 100 + n);
        }
        let received = "select coalesce(bool_and(flush_lsn >= pg_current_wal_flush_lsn()), false) from pg_stat_replication";
        until("all of it is received", || site.sql(received) == "t");
        let restored = site.restore(&["--at", &moment]);
        assert_eq!(restored.sql("select count(*) from t"), "10");
        drop(daemon);
        let connection = restored.answer["connection"].as_str().unwrap().to_owned();
        let of = |key: &str| {
            let value = connection.split_whitespace().find_map(|word| word.strip_prefix(key)).unwrap();
            value.trim_matches('\'').to_owned()
        };
        site.lead_to(&of("host="), &of("port="));
        let daemon = Daemon::start(&site.world);
        daemon.wait_for_line("receiving begins anew");
        until("it is received", || restored.sql(received) == "t" && restored.sql("select count(*) from pg_stat_replication") == "1");
        // Without a schedule nobody makes the one that leads over the gap by itself.
        site.world.backup("cluster");
        restored.sql("insert into t select generate_series(11, 20)");
        until("it is received", || restored.sql(received) == "t");
        assert_eq!(site.restore(&["--latest"]).sql("select count(*), max(n) from t"), "20|20");
        // What had been received before is there, too.
        assert_eq!(site.restore(&["--latest", "--timeline", "1"]).sql("select max(n) from t"), "102");
    }
}

#[test]
fn what_was_received_of_one_cluster_is_never_touched_by_another() {
    let (site, other) = (streaming(15, ""), Cluster::start(15, "max_wal_senders = 10\n", &[]));
    let daemon = Daemon::start(&site.world);
    daemon.wait_for_line("receiving the log");
    site.sql("create table t (n int)");
    rows(&site, 1, 10);
    drop(daemon);
    let spool = site.world.path("state/spool/wal/cluster");
    let lying = || {
        let files = std::fs::read_dir(&spool).unwrap().map(|entry| entry.unwrap());
        files.map(|file| (file.file_name(), std::fs::read(file.path()).unwrap())).collect::<std::collections::BTreeMap<_, _>>()
    };
    let before = lying();
    site.lead_to(&other.host(), &other.port.to_string());
    let daemon = Daemon::start(&site.world);
    daemon.wait_for_line("holds log of cluster");
    assert!(lying() == before && !before.is_empty());
    assert_eq!(other.sql("select count(*) from pg_replication_slots"), "0");
}

#[test]
fn what_was_received_and_is_in_no_store_is_restored_too() {
    for major in [15, 18] {
        let site = streaming(major, "");
        site.sql("create table t (n int)");
        let daemon = Daemon::start(&site.world);
        daemon.wait_for_line("receiving the log");
        site.world.backup("cluster");
        rows(&site, 1, 10);
        site.sql("insert into t values (11)");
        let moment = site.now();
        site.sql("insert into t values (12)");
        // Into the segment that is being written: nothing of it is in a store.
        until("it was received", || {
            site.sql("select coalesce(bool_and(flush_lsn >= pg_current_wal_flush_lsn()), false) from pg_stat_replication") == "t"
        });
        let rows_of = |args: &[&str]| site.restore(args).sql("select count(*) from t");
        assert_eq!(rows_of(&["--at", &moment]), "11", "while the server runs");
        drop(daemon);
        // The server is lost.
        site.cluster.stop();
        for args in [&["--latest"][..], &["--latest", "--with-wal"]] {
            assert_eq!(rows_of(args), "12", "{args:?}");
        }
        assert_eq!(rows_of(&["--at", &moment]), "11");
        let ran = site.pgvigil(&["restore", "cluster/latest", "--latest", "--target-dir", "/tmp/not-there", "--dry-run"]).expect(0);
        assert!(ran.stdout.contains("in no store yet") && ran.stdout.contains("no drill yet: unknown"), "{ran:#?}");
        // By the store alone.
        assert_eq!(rows_of(&["--latest", "--store", "local"]), "10");
    }
}

#[test]
fn a_run_without_a_daemon_receives_what_it_needs() {
    let site = streaming(15, "");
    let id = site.world.backup("cluster");
    assert_eq!(site.world.manifest(&id)["physical"]["with_wal"], false);
    assert!(!site.archived().is_empty());
    site.restore(&["--latest"]).sql("select 1");
}

#[test]
fn a_store_that_is_away_lets_the_log_wait() {
    let site = Site::archiving(15, "compression = \"zstd\"\n");
    site.sql("create table t (n int)");
    site.world.backup("cluster");
    let (store, away) = (site.world.store(), site.world.path("away"));
    std::fs::rename(&store, &away).unwrap();
    // Nobody but the owner of the world may make it anew.
    for n in 0..4 {
        rows(&site, n * 100, n * 100 + 99);
    }
    until("the server has failed to archive", || site.sql("select failed_count > 0 from pg_stat_archiver") == "t");
    std::fs::rename(&away, &store).unwrap();
    site.switch();
    let status = site.pgvigil(&["--json", "wal", "status"]).json();
    assert_eq!(status[0]["gaps"], serde_json::json!([]), "{status}");
    assert_eq!(site.restore(&["--latest"]).sql("select count(*) from t"), "400");
}

#[test]
fn a_gap_is_shown_with_its_bounds() {
    let site = Site::archiving(15, "compression = \"zstd\"\n");
    site.sql("create table t (n int)");
    site.world.backup("cluster");
    for n in 0..5 {
        rows(&site, n, n);
        site.switch();
    }
    let archived = site.archived();
    let lost = &archived[archived.len() - 3];
    std::fs::remove_file(site.world.store().join("cluster/wal/00000001").join(lost)).unwrap();
    let ran = site.pgvigil(&["--json", "wal", "status"]).expect(3);
    let gap = &ran.json()[0]["gaps"][0];
    assert_eq!((gap["first"].as_str(), gap["segments"].as_u64()), (lost.strip_suffix(".zst"), Some(1)));
    assert!(site.pgvigil(&["wal", "status"]).expect(3).stdout.contains(lost.strip_suffix(".zst").unwrap()));
    // What the hint of the refusal names does what it says: all before the gap.
    let refused = site.pgvigil(&["restore", "cluster/latest", "--latest", "--target-dir", "/tmp/not-there"]).expect(1);
    assert!(refused.stderr.contains("--lsn with the end of one of them"), "{refused:#?}");
    let end = ran.json()[0]["windows"][0]["to_lsn"].as_str().unwrap().to_owned();
    assert_eq!(site.restore(&["--lsn", &end]).sql("select count(*) from t"), "2");
}

#[test]
fn a_base_backup_that_has_lost_its_own_log_is_told() {
    let site = Site::archiving(15, "compression = \"zstd\"\n");
    let id = site.world.backup("cluster");
    site.switch();
    let start = site.world.manifest(&id)["physical"]["start_lsn"].as_str().unwrap().to_owned();
    let segment = site.sql(&format!("select pg_walfile_name('{start}'::pg_lsn + 1)"));
    site.pgvigil(&["wal", "status"]).expect(0);
    std::fs::remove_file(site.world.store().join("cluster/wal/00000001").join(format!("{segment}.zst"))).unwrap();
    let ran = site.pgvigil(&["--json", "wal", "status"]).expect(3);
    assert_eq!(ran.json()[0]["windows"], serde_json::json!([]), "{ran:#?}");
    assert!(ran.json()[0]["problems"][0].as_str().unwrap().contains(&*id), "{ran:#?}");
}

#[test]
fn no_setting_of_the_live_one_leads_a_restore_elsewhere() {
    let site = Site::archiving(15, "compression = \"zstd\"\n");
    // What an earlier recovery by hand has left behind, and where the live one lies.
    let data = site.sql("show data_directory");
    let conf = std::path::Path::new(&data).join("postgresql.conf");
    let lines = format!(
        "recovery_target_time = '2020-01-01'\nrecovery_target_inclusive = off\ndata_directory = '{data}'\nhba_file = '{data}/pg_hba.conf'\n"
    );
    std::fs::write(&conf, std::fs::read_to_string(&conf).unwrap() + &lines).unwrap();
    site.sql("create table t (n int)");
    site.world.backup("cluster");
    let xid = site.sql("insert into t values (1) returning xmin");
    rows(&site, 2, 10);
    site.switch();
    for (args, expected) in [(vec!["--latest"], "10"), (vec!["--xid", &xid], "1")] {
        let restored = site.restore(&args);
        assert_eq!(restored.sql("select count(*) from t"), expected, "{args:?}");
        assert_eq!(restored.sql("show data_directory"), restored.dir().to_str().unwrap());
    }
}

#[test]
fn the_log_goes_with_the_last_base_backup_that_needs_it() {
    let site = Site::archiving(15, "compression = \"zstd\"\nkeep = { base_backups = 2 }\n");
    site.sql("create table t (n int)");
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(site.world.backup("cluster"));
        rows(&site, n, n);
        site.switch();
    }
    let list = site.pgvigil(&["--json", "list", "cluster"]).expect(0).json();
    let left: Vec<&str> = list.as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap()).collect();
    assert_eq!(left, [&*ids[3], &*ids[2]]);
    let first = site.archived()[0].clone();
    let needed = site.world.manifest(&ids[2])["physical"]["start_lsn"].as_str().unwrap().to_owned();
    assert_eq!(first.strip_suffix(".zst"), Some(site.sql(&format!("select pg_walfile_name('{needed}')")).as_str()));
    let plan = site.pgvigil(&["--json", "prune", "cluster", "--dry-run"]).expect(0).json();
    assert_eq!(plan["kept"][1]["reasons"], serde_json::json!(["base backup 2"]), "{plan}");
    // Of the log goes what leads to none of the kept: told before, and done then.
    let config = std::fs::read_to_string(site.world.config()).unwrap();
    std::fs::write(site.world.config(), config.replace("base_backups = 2", "base_backups = 1")).unwrap();
    let plan = site.pgvigil(&["--json", "prune", "cluster", "--dry-run"]).expect(0).json();
    let (log, before) = (&plan["log"][0], site.archived());
    assert_eq!((log["store"].as_str(), log["first"].as_str()), (Some("local"), first.strip_suffix(".zst")), "{plan:#}");
    let told = site.pgvigil(&["prune", "cluster", "--dry-run"]).expect(0).stdout;
    assert!(told.contains("files of the log in local would be deleted"), "{told}");
    assert_eq!(site.archived(), before);
    std::fs::write(site.world.config(), config).unwrap();
    // Both can still be restored.
    assert_eq!(site.restore(&[&*ids[2], "--latest"]).sql("select count(*) from t"), "4");
}

#[test]
fn a_promoted_timeline_is_followed_and_the_old_one_can_be_asked_for() {
    let site = Site::archiving(15, "compression = \"zstd\"\n");
    site.sql("create table t (n int)");
    site.world.backup("cluster");
    rows(&site, 1, 10);
    site.switch();
    // The cluster itself, from its archive, goes on as its successor: on timeline 2, into the same archive.
    let restored = site.restore(&["--latest"]);
    let wal = restored.dir().join("pg_wal");
    restored.sql("insert into t select generate_series(11, 30)");
    let segment = restored.sql("select pg_walfile_name(pg_switch_wal())");
    assert!(segment.starts_with("00000002"), "{segment}");
    let push = |name: &str| {
        let path = wal.join(name);
        let push = site.world.command(&["--config", site.world.path("wal.toml").to_str().unwrap(), "wal", "push", path.to_str().unwrap()]);
        ran(&mut as_user("postgres", &push)).expect(0);
    };
    push("00000002.history");
    push(&segment);
    // The old one has gone on by itself.
    rows(&site, 101, 105);
    site.switch();
    // How far the archive is is a matter of the newest timeline, however far the one that was left has gone on.
    let status = site.pgvigil(&["--json", "wal", "status"]).json();
    assert_eq!(status[0]["last"]["name"], segment.as_str(), "{status:#}");
    assert_eq!(site.restore(&["--latest"]).sql("select count(*) from t"), "30");
    assert_eq!(site.restore(&["--latest", "--timeline", "1"]).sql("select count(*) from t"), "15");
    // What says whose log it is and which way it goes is cut: that is named, and nothing is restored by guessing.
    for name in ["00000002/00000002.history.zst", "cluster.json"] {
        let path = site.world.store().join("cluster/wal").join(name);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let dir = site.world.path("restored/cut");
        let ran = site.pgvigil(&["restore", "cluster/latest", "--latest", "--target-dir", dir.to_str().unwrap()]).expect(1);
        let (_, file) = name.rsplit_once('/').unwrap_or(("", name));
        assert!(ran.stderr.contains(file.trim_end_matches(".zst")), "{ran:#?}");
        assert!(!dir.exists(), "{name}");
        let ran = site.pgvigil(&["wal", "status"]);
        assert!(ran.code != Some(0) && format!("{ran:?}").contains(file.trim_end_matches(".zst")), "{ran:#?}");
        std::fs::write(&path, whole).unwrap();
    }
}

#[test]
fn a_drill_replays_all_and_looks_through_it() {
    for major in [15, 17, 18] {
        // The table of the check is not in the database that sessions begin with.
        let site = Site::archiving(major, "compression = \"zstd\"\n");
        site.sql("create database shop");
        let shop = |sql: &str| site.cluster.sql_in("shop", sql);
        shop("create table t (n int primary key)");
        let id = site.world.backup("cluster");
        let text = std::fs::read_to_string(site.world.config()).unwrap();
        std::fs::write(site.world.config(), format!("{text}checks = {{ ten = \"select count(*) = 10 from public.t\" }}\n")).unwrap();
        // It is asked of the live one as well.
        let ran = site.pgvigil(&["--json", "run", "cluster"]).expect(3);
        assert!(ran.stderr.contains("check ten: false in database shop"), "{ran:#?}");
        shop("insert into t select generate_series(1, 10)");
        site.switch();
        let answer = site.pgvigil(&["--json", "verify", &id, "--drill"]).expect(0).json();
        assert_eq!(answer["rung"], "matched", "{answer}");
        // What is wrong at the end of the log is told, and is no word about the base backup: it leads to the moments before.
        let before = site.now();
        shop("insert into t values (11)");
        site.switch();
        let wrong = |expected: &str| {
            let ran = site.pgvigil(&["--json", "verify", &id, "--drill"]).expect(1);
            assert!(ran.json()["error"]["message"].as_str().unwrap().contains(expected), "{ran:#?}");
            assert_eq!(ran.json()["rung"], "matched", "{ran:#?}");
        };
        wrong("check ten: false in database shop");
        // A segment that is cut is named.
        shop("delete from t where n = 11");
        site.switch();
        let last = site.archived().pop().unwrap();
        let path = site.world.store().join("cluster/wal/00000001").join(&last);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        wrong(last.strip_suffix(".zst").unwrap());
        let restored = site.restore(&["--at", &before]);
        assert_eq!(restored.sql_in("shop", "select count(*) from t"), "10");
        drop(restored);
        // One of its own files is.
        let base = site.world.store().join("cluster").join(id.split('/').next_back().unwrap());
        let base = std::fs::read_dir(base).unwrap().map(|entry| entry.unwrap().path());
        let base = base.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "zst")).unwrap();
        let bytes = std::fs::read(&base).unwrap();
        std::fs::write(&base, &bytes[..bytes.len() / 2]).unwrap();
        let ran = site.pgvigil(&["--json", "verify", &id, "--drill"]).expect(1);
        assert_eq!(ran.json()["rung"], "bad", "{ran:#?}");
        assert_eq!(std::fs::read_dir(site.world.path("state/spool/drills")).unwrap().count(), 0);
    }
}

#[test]
fn check_tells_what_a_physical_backup_lacks() {
    let world = crate::common::World::with(crate::common::Server::Network, "[backups.cluster]\nkind = \"physical\"\nwal = \"stream\"\n");
    let lines = crate::support::check_lines(&world.pgvigil(&["--json", "check"]));
    let of = |words: &str| lines.iter().any(|line| line.starts_with("backup cluster") && line.contains(words));
    // The official image has no line for replication over the network.
    assert!(of("host replication postgres 172."), "{lines:#?}");
    assert!(of("max_slot_wal_keep_size is not set"), "{lines:#?}");
    assert!(of("archive_timeout is 0"), "{lines:#?}");
}
