//! What is wrong with the log is heard, and how it stands is shown.

use crate::common::daemon::{Daemon, until};
use crate::http::Http;
use crate::listen::{address, body};
use crate::pitr_site::Site;

/// Each segment by itself, as an application would fill it.
fn rows(site: &Site, from: u32, to: u32) {
    site.sql(&format!("insert into t select generate_series({from}, {to})"));
    site.switch();
}

/// The first that was told with some words.
fn heard(chat: &Http, words: &str) -> Option<String> {
    chat.requests().into_iter().map(|request| request.body().to_owned()).find(|body| body.contains(words))
}

#[test]
fn a_gap_is_heard_and_shown_everywhere() {
    let site = Site::archiving(15, "compression = \"zstd\"\n");
    let chat = Http::start(&[]);
    let text = std::fs::read_to_string(site.world.config()).unwrap().replace("[stores.local]\n", "[stores.local]\ncheck_every = \"1s\"\n");
    let more = format!("listen = \"127.0.0.1:0\"\n{text}{}", chat.webhook("chat", ""));
    std::fs::write(site.world.config(), more).unwrap();
    site.sql("create table t (n int)");
    site.world.backup("cluster");
    for n in 0..4 {
        rows(&site, n, n);
    }
    let archived = site.archived();
    let lost = archived[archived.len() - 2].clone();
    let path = site.world.store().join("cluster/wal/00000001").join(&lost);
    std::fs::remove_file(path).unwrap();
    // Written after the last segment, and so on the server only.
    site.sql("insert into t values (-1)");
    let daemon = Daemon::start(&site.world);
    let name = lost.strip_suffix(".zst").unwrap();
    let told = until("the gap is told", || heard(&chat, "the log of backup cluster"));
    assert!(told.contains(name), "{told}");

    let status = site.pgvigil(&["--json", "status"]).expect(3).json();
    assert!(status["alerts"].as_array().unwrap().iter().any(|alert| alert["key"] == "backup/cluster/wal"), "{status:#}");
    let log = &status["backups"][0]["log"];
    assert_eq!(log["gaps"], 1, "{status:#}");
    assert!(log["may_lose_seconds"].as_i64().unwrap() < 600 && log["restorable_from"].is_string(), "{log:#}");
    let table = site.pgvigil(&["status"]).expect(3).stdout;
    assert!(table.contains("MAY BE LOST") && table.contains("the last "), "{table}");
    let address = address(&daemon);
    let metrics = body(&address, "/metrics");
    let documented = std::fs::read_to_string(crate::support::repository("docs/metrics.md")).unwrap();
    let documented: Vec<&str> =
        documented.lines().filter_map(|line| line.strip_prefix("| `pgvigil_backup_wal_")?.split('`').next()).collect();
    assert_eq!(documented.len(), 7);
    for metric in documented.into_iter().filter(|metric| *metric != "slot_held_bytes") {
        assert!(metrics.contains(&format!("pgvigil_backup_wal_{metric}{{backup=\"cluster\"}}")), "{metric}: {metrics}");
    }
    let page = body(&address, "/");
    assert!(page.contains("any moment from") && page.contains("1 gaps"), "{page}");
}

#[test]
fn a_slot_that_nobody_reads_is_heard_until_somebody_does() {
    let site = Site::with(15, "archive_mode = off", "wal = \"stream\"\ncompression = \"zstd\"\n");
    let chat = Http::start(&[]);
    let text = std::fs::read_to_string(site.world.config()).unwrap().replace("[stores.local]\n", "[stores.local]\ncheck_every = \"1s\"\n");
    std::fs::write(site.world.config(), format!("{text}{}", chat.webhook("chat", ""))).unwrap();
    site.sql("create table t (n int)");
    let daemon = Daemon::start(&site.world);
    daemon.wait_for_line("receiving the log");
    site.world.backup("cluster");
    // Sessions go on, and replication does not.
    let hba = std::path::PathBuf::from(site.sql("show hba_file"));
    let lines = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, format!("local replication all reject\nhost replication all all reject\n{lines}")).unwrap();
    site.sql("select pg_reload_conf()");
    site.sql("select pg_terminate_backend(pid) from pg_stat_replication");
    daemon.wait_for_line("the log is not received");
    let told = until("the slot is told", || heard(&chat, "nobody reads from slot pgvigil_cluster"));
    assert!(told.contains("the log of backup cluster") && told.contains("bytes back"), "{told}");
    std::fs::write(&hba, lines).unwrap();
    site.sql("select pg_reload_conf()");
    let is_told = || site.pgvigil(&["--json", "status"]).json()["alerts"].to_string().contains("backup/cluster/wal");
    crate::support::until("it is over", || !is_told());
}

#[test]
fn log_that_waits_on_the_server_is_heard() {
    let site = Site::with(15, "max_wal_size = 4GB", "wal = \"archive_command\"\ncompression = \"zstd\"\n");
    let chat = Http::start(&[]);
    let text = std::fs::read_to_string(site.world.config()).unwrap();
    std::fs::write(site.world.config(), format!("{text}{}", chat.webhook("chat", ""))).unwrap();
    site.sql("create table t (n int)");
    site.world.backup("cluster");
    // A push that hangs fails nothing: only what waits tells.
    site.sql("alter system set archive_command = 'sleep 1000'");
    site.sql("select pg_reload_conf()");
    crate::support::until("the server archives no more", || site.sql("show archive_command") == "sleep 1000");
    site.sql("insert into t values (1)");
    let segment = site.sql("select pg_walfile_name(pg_switch_wal())");
    let ready = std::path::Path::new(&site.sql("show data_directory")).join(format!("pg_wal/archive_status/{segment}.ready"));
    crate::support::until("it waits", || ready.exists());
    let problems = || site.pgvigil(&["--json", "wal", "status"]).json()[0]["problems"].to_string();
    assert!(!problems().contains("waits"), "not yet");
    crate::support::stock("touch", &["-d", "10 minutes ago", ready.to_str().unwrap()], std::path::Path::new("/"));
    assert!(problems().contains("a segment waits in pg_wal since"), "{}", problems());
    let _daemon = Daemon::start(&site.world);
    let told = until("it is told", || heard(&chat, "waits in pg_wal"));
    assert!(told.contains("the log of backup cluster"), "{told}");
    // However fast it writes.
    for n in 0..64 {
        site.sql(&format!("insert into t values ({n})"));
        site.sql("select pg_switch_wal()");
    }
    assert!(problems().contains("segments wait in pg_wal to be archived"), "{}", problems());
}
