//! A standby is the server: base backups of it, its log, and what comes when it is promoted.

use crate::common::daemon::Daemon;
use crate::pitr_site::Site;
use crate::support::{Cluster, until};

/// Rows that fill a segment of their own.
fn rows(cluster: &Cluster, from: u32, to: u32) {
    cluster.sql(&format!("insert into t select generate_series({from}, {to})"));
    cluster.sql("select pg_switch_wal()");
}

#[test]
fn one_that_was_promoted_before_it_had_an_archive_is_restored_without_its_history() {
    let site = Site::archiving(15, "compression = \"zstd\"\n");
    let primary = &site.cluster;
    primary.sql("create table t (n int)");
    let standby = Cluster::standby_of(primary);
    let now = primary.sql("select pg_current_wal_lsn()");
    until("the standby is there", || standby.sql(&format!("select pg_last_wal_replay_lsn() >= '{now}'")) == "t");
    primary.stop();
    assert_eq!(standby.sql("select pg_promote()"), "t");
    let history = site.world.store().join("cluster/wal/00000002/00000002.history.zst");
    until("the history is in the archive", || history.exists());
    site.lead_to(&standby.host(), &standby.port.to_string());
    // It went into another archive, and no server brings it twice.
    std::fs::remove_file(&history).unwrap();
    let id = site.world.backup("cluster");
    assert_eq!(site.world.manifest(&id)["physical"]["timeline"], 2);
    rows(&standby, 1, 10);
    let last = standby.sql("select pg_walfile_name(pg_switch_wal() - 1)");
    until("it is archived", || standby.sql("select coalesce(last_archived_wal, '') from pg_stat_archiver") >= last);
    assert_eq!(site.restore(&["--latest"]).sql("select count(*) from t"), "10");
    site.pgvigil(&["verify", &id, "--drill"]).expect(0);
}

#[test]
fn its_promotion_is_followed_while_it_streams() {
    for major in [15, 18] {
        let site = Site::with(major, "archive_mode = off", "wal = \"stream\"\ncompression = \"zstd\"\n");
        let primary = &site.cluster;
        primary.sql("create table t (n int)");
        let standby = Cluster::standby_of(primary);
        site.lead_to(&standby.host(), &standby.port.to_string());
        let daemon = Daemon::start(&site.world);
        daemon.wait_for_line("receiving the log");

        // It begins at the last checkpoint of the primary, before which nothing was received.
        rows(primary, 1, 1);
        rows(primary, 1, 1);
        until("the archive begins", || !site.archived().is_empty());
        let ran = site.pgvigil(&["run", "cluster"]).expect(1);
        assert!(ran.stderr.contains("will not come any more") && ran.stderr.contains("CHECKPOINT on the primary"), "{ran:#?}");
        primary.sql("checkpoint");
        let now = primary.sql("select pg_current_wal_lsn()");
        until("the standby is there", || standby.sql(&format!("select pg_last_wal_replay_lsn() >= '{now}'")) == "t");

        // Its end comes into the archive with the next segment of the primary.
        let id = std::thread::scope(|scope| {
            let run = scope.spawn(|| site.world.backup("cluster"));
            let mut next = 2;
            while !run.is_finished() {
                rows(primary, next, next);
                next += 1;
                std::thread::park_timeout(std::time::Duration::from_millis(200));
            }
            run.join().unwrap()
        });
        let manifest = site.world.manifest(&id);
        assert_eq!((&manifest["physical"]["from_standby"], &manifest["physical"]["timeline"]), (&true.into(), &1.into()), "{manifest}");

        rows(primary, 1001, 1100);
        let before = primary.sql("select count(*) from t");
        until("the standby has it", || standby.sql("select count(*) from t") == before);
        assert_eq!(standby.sql("select pg_promote()"), "t");
        rows(&standby, 2001, 2010);
        rows(&standby, 2011, 2020);
        let last = standby.sql("select pg_walfile_name(pg_switch_wal())");
        assert!(last.starts_with("00000002"), "{last}");
        rows(&standby, 2021, 2021);
        let there = |name: &str| site.world.store().join(format!("cluster/wal/{}/{name}.zst", &name[..8])).exists();
        until("the new timeline is in the archive", || there(&last) && there("00000002.history"));
        // The old primary goes on by itself: that is nothing of ours any more.
        rows(primary, 9001, 9001);

        let status = site.pgvigil(&["--json", "wal", "status"]).expect(0).json();
        assert_eq!((&status[0]["gaps"], &status[0]["problems"]), (&serde_json::json!([]), &serde_json::json!([])), "{status:#}");
        let restored = site.restore(&[&*id, "--latest"]);
        assert_eq!(restored.sql("select count(*) filter (where n > 1000) from t where n <= 2020"), "120");
        assert_eq!(restored.sql("select count(*) from t where n > 9000"), "0");
        assert_eq!(site.pgvigil(&["--json", "verify", &id, "--drill"]).expect(0).json()["rung"], "matched");
    }
}
