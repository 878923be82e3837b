//! The log in several stores: each gets all of it in its order, whatever the others do.

use std::collections::BTreeSet;
use std::path::Path;

use crate::common::daemon::Daemon;
use crate::offsite::{Sshd, bucket, s3};
use crate::pitr_site::Site;
use crate::support::{Tmpfs, own, stock, until};

/// A site whose log is streamed into `local` and what else is given, by keys of the file's beginning too.
fn streaming(beginning: &str, stores: &[&str], sections: &str) -> Site {
    let stores: Vec<String> = std::iter::once(&"local").chain(stores).map(|name| format!("{name:?}")).collect();
    let keys = format!("wal = \"stream\"\ncompression = \"zstd\"\nstores = [{}]\n", stores.join(", "));
    let site = Site::with(15, "archive_mode = off\nmax_wal_size = 2GB", &format!("{keys}{sections}"));
    let file = std::fs::read_to_string(site.world.config()).unwrap();
    std::fs::write(site.world.config(), format!("{beginning}{file}")).unwrap();
    site
}

fn rows(site: &Site, n: u32) -> String {
    site.sql(&format!("insert into t values ({n})"));
    site.sql("select pg_walfile_name(pg_switch_wal())")
}

fn segments(store: &Path) -> BTreeSet<String> {
    let folder = std::fs::read_dir(store.join("cluster/wal/00000001"));
    let names = folder.into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(".zst").map(str::to_owned)).filter(|name| !name.starts_with('.')).collect()
}

#[test]
fn a_bucket_and_another_host_lead_to_any_moment_by_themselves() {
    let sshd = Sshd::start();
    // The daemon goes on as the owner of state_dir.
    own(sshd.folder().parent().unwrap());
    let prefix = crate::common::unique("wal");
    let sections = format!("{}{}", bucket("bucket", &s3(), &prefix, "admin"), sshd.section("host"));
    let site = streaming("", &["bucket", "host"], &sections);
    site.sql("create table t (n int)");
    let daemon = Daemon::start(&site.world);
    daemon.wait_for_line("receiving the log");
    let id = site.world.backup("cluster");
    for n in 0..4 {
        rows(&site, n);
    }
    let last = rows(&site, 4);
    rows(&site, 5);
    // It goes from the spool when each of them has it.
    let spool = site.world.path("state/spool/wal/cluster");
    until("all have it", || {
        let names = std::fs::read_dir(&spool).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let whole: BTreeSet<String> = names.filter(|name| name.len() == 24).collect();
        !whole.contains(&last) && whole.last() > Some(&last)
    });
    drop(daemon);
    // The local one burns down, and each of the others is enough.
    std::fs::remove_dir_all(site.world.store()).unwrap();
    for store in ["bucket", "host"] {
        let restored = site.restore(&[&*id, "--latest", "--store", store]);
        assert_eq!(restored.sql("select count(*) from t where n <= 4"), "5", "{store}");
    }
}

#[test]
fn one_that_is_away_delays_itself_alone_until_the_spool_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let (second, away, spool) = (dir.path().join("second"), dir.path().join("away"), dir.path().join("spool"));
    std::fs::create_dir(&second).unwrap();
    // Room for five segments.
    let _mounted = Tmpfs::mount(&spool, "84m");
    // The daemon goes on as the owner of state_dir.
    own(dir.path());
    let beginning = format!("spool_dir = \"{}\"\n", spool.display());
    let site = streaming(&beginning, &["second"], &format!("[stores.second]\npath = \"{}\"\n", second.display()));
    site.sql("create table t (n int)");
    let daemon = Daemon::start(&site.world);
    daemon.wait_for_line("receiving the log");
    site.world.backup("cluster");

    std::fs::rename(&second, &away).unwrap();
    // Nobody may make it anew meanwhile.
    std::fs::write(&second, "").unwrap();
    let mut written = vec![rows(&site, 0), rows(&site, 1)];
    until("the first store has them", || written.iter().all(|name| segments(&site.world.store()).contains(name)));
    daemon.wait_for_line("log waits in");
    for n in 2..9 {
        written.push(rows(&site, n));
    }
    daemon.wait_for_line("the log is not received");
    daemon.wait_for_line("No space left on device");
    // What waits for a minute on such a disk is told, and so is that the server keeps what is not received.
    for entry in std::fs::read_dir(spool.join("wal/cluster")).unwrap() {
        stock("touch", &["-d", "2 minutes ago", entry.unwrap().path().to_str().unwrap()], Path::new("/"));
    }
    let status = site.pgvigil(&["--json", "wal", "status"]).expect(3).json();
    let problems = status[0]["problems"].to_string();
    assert!(problems.contains("% full, and log waits there"), "{status:#}");

    std::fs::remove_file(&second).unwrap();
    std::fs::rename(&away, &second).unwrap();
    // The newest is whole when the next one begins.
    let last = rows(&site, 9);
    rows(&site, 10);
    written.push(last);
    for store in [&site.world.store(), &second] {
        until("all of it has come", || written.iter().all(|name| segments(store).contains(name)));
    }
    until("the spool is empty", || {
        let names = std::fs::read_dir(spool.join("wal/cluster")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.len() == 24).count() <= 1
    });
    let status = site.pgvigil(&["--json", "wal", "status"]).json();
    assert_eq!(status[0]["gaps"], serde_json::json!([]), "{status:#}");
    assert_eq!(site.restore(&["--latest", "--store", "second"]).sql("select count(*) from t where n <= 9"), "10");
}

#[test]
fn log_that_another_store_has_yet_to_get_stays() {
    let site = Site::archiving(15, "compression = \"zstd\"\n");
    let second = site.world.path("second");
    std::fs::create_dir(&second).unwrap();
    own(&second);
    for file in [site.world.config(), site.world.path("wal.toml")] {
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.replacen(
            "wal = \"archive_command\"",
            "wal = \"archive_command\"\nkeep = { base_backups = 1 }\nstores = [\"local\", \"second\"]",
            1,
        );
        std::fs::write(file, format!("{text}\n[stores.second]\npath = \"{}\"\nkeep = {{ base_backups = 9 }}\n", second.display())).unwrap();
    }
    site.sql("create table t (n int)");
    let first = site.world.backup("cluster");
    rows(&site, 1);
    let middle = rows(&site, 2);
    site.switch();
    site.pgvigil(&["pin", &first]).expect(0);
    site.world.backup("cluster");
    let lost = second.join(format!("cluster/wal/00000001/{middle}.zst"));
    std::fs::remove_file(&lost).unwrap();
    site.pgvigil(&["unpin", &first]).expect(0);
    site.pgvigil(&["prune", "cluster"]).expect(0);
    let list = site.pgvigil(&["--json", "list", "cluster"]).expect(0).json();
    let copies = list.as_array().unwrap().iter().find(|entry| entry["id"] == *first).unwrap()["copies"].to_string();
    assert!(!copies.contains("local"), "{list:#}");
    assert!(segments(&site.world.store()).contains(&middle), "it is gone for ever");
    // Once it is there, it goes here.
    std::fs::copy(site.world.store().join(format!("cluster/wal/00000001/{middle}.zst")), &lost).unwrap();
    own(&second);
    site.pgvigil(&["prune", "cluster"]).expect(0);
    assert!(!segments(&site.world.store()).contains(&middle));
    assert_eq!(site.restore(&[&*first, "--latest"]).sql("select count(*) from t"), "2");
}

#[test]
fn one_that_joins_later_gets_the_log_too_and_a_gap_of_one_alone_is_told() {
    let site = Site::archiving(15, "compression = \"zstd\"\n");
    site.sql("create table t (n int)");
    let id = site.world.backup("cluster");
    let second = site.world.path("second");
    std::fs::create_dir(&second).unwrap();
    own(&second);
    let write = |n: u32| {
        site.sql(&format!("insert into t values ({n})"));
        site.switch();
    };
    for n in 0..4 {
        write(n);
    }
    // It joins in the one file, and in that of the server a little later.
    let joins = |file: &Path| {
        let text = std::fs::read_to_string(file).unwrap();
        let text = text.replacen("wal = \"archive_command\"", "wal = \"archive_command\"\nstores = [\"local\", \"second\"]", 1);
        std::fs::write(file, format!("{text}\n[stores.second]\npath = \"{}\"\n", second.display())).unwrap();
    };
    joins(&site.world.config());
    let newer = site.world.backup("cluster");
    write(4);
    let of_first = segments(&site.world.store());
    let missing: Vec<&String> = of_first.iter().filter(|name| !segments(&second).contains(*name)).collect();
    assert!(missing.len() <= 3, "only what has come since: {missing:?}");
    joins(&site.world.path("wal.toml"));
    write(5);
    // Between what was copied and what is pushed there is a gap, in this store alone.
    let status = site.pgvigil(&["--json", "wal", "status"]).expect(3).json();
    assert_eq!(status[0]["gaps"][0]["store"], "second", "{status:#}");
    assert!(status[0]["problems"].to_string().contains("in store second (another has them)"), "{status:#}");
    // The next run copies what is missing.
    site.world.backup("cluster");
    let status = site.pgvigil(&["--json", "wal", "status"]).expect(0).json();
    assert_eq!(status[0]["gaps"], serde_json::json!([]), "{status:#}");
    let whole = |store: &Path| segments(store).into_iter().filter(|name| name.len() == 24).collect::<Vec<_>>();
    assert_eq!(whole(&second), whole(&site.world.store()));
    // The primary gets what it lacks, too.
    let of_first = whole(&site.world.store());
    std::fs::remove_file(site.world.store().join(format!("cluster/wal/00000001/{}.zst", of_first[of_first.len() - 2]))).unwrap();
    site.pgvigil(&["wal", "status"]).expect(3);
    site.world.backup("cluster");
    site.pgvigil(&["wal", "status"]).expect(0);
    // And all of it is proven there, and enough by itself.
    std::fs::rename(site.world.store(), site.world.path("burnt")).unwrap();
    for id in [&id, &newer] {
        let answer = site.pgvigil(&["--json", "verify", id, "--drill", "--store", "second"]).expect(0).json();
        assert_eq!(answer["rung"], "matched", "{answer}");
        assert_eq!(site.restore(&[id, "--latest", "--store", "second"]).sql("select count(*) from t"), "6");
    }
}
