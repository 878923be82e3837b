//! Incremental base backups: only the changes, restored with all that they build on.

use crate::common::daemon::Daemon;
use crate::pitr_site::Site;
use crate::support::{own, stock, until};

/// A server that notes which blocks change.
fn summarizing(major: u32, keys: &str) -> Site {
    let site = Site::with(major, "summarize_wal = on", &format!("wal = \"archive_command\"\ncompression = \"zstd\"\n{keys}"));
    site.sql("create table large as select n, repeat(md5(n::text), 30) as text from generate_series(1, 20000) n");
    site.sql("create table t (n int)");
    site
}

fn run(site: &Site, args: &[&str]) -> String {
    let answer = site.pgvigil(&[&["--json", "run", "cluster"], args].concat()).expect(0).json();
    answer["id"].as_str().unwrap().to_owned()
}

fn names_in(site: &Site, folder: &str) -> Vec<String> {
    std::fs::read_dir(site.world.path(folder)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn bytes(site: &Site, id: &str) -> u64 {
    site.world.manifest(id)["files"].as_array().unwrap().iter().map(|file| file["bytes"].as_u64().unwrap()).sum()
}

#[test]
fn a_chain_is_made_drilled_restored_and_kept_together() {
    for major in [17, 18] {
        chain(major);
    }
}

fn chain(major: u32) {
    let site = summarizing(major, "keep = { base_backups = 1 }\n");
    let whole = run(&site, &[]);
    site.sql("insert into t values (1)");
    let first = run(&site, &["--incremental"]);
    site.sql("insert into t values (2)");
    let second = run(&site, &["--incremental"]);
    site.sql("insert into t values (3)");
    site.switch();
    let of = |id: &str| site.world.manifest(id)["physical"]["incremental_of"].clone();
    assert_eq!((of(&whole), of(&first), of(&second)), (serde_json::Value::Null, whole.as_str().into(), first.as_str().into()));
    assert!(bytes(&site, &second) * 2 < bytes(&site, &whole), "the changes only: {} of {}", bytes(&site, &second), bytes(&site, &whole));
    site.pgvigil(&["verify", &second]).expect(0);

    // The newest one, and all of the log behind it.
    let restored = site.restore(&["--latest"]);
    assert_eq!(restored.answer["base"], second.as_str());
    assert_eq!(restored.sql("select count(*), (select count(*) from large) from t"), "3|20000");
    let beside: Vec<String> = names_in(&site, "restored");
    assert!(!beside.iter().any(|name| name.ends_with("_parts")), "{beside:?}");
    drop(restored);
    let answer = site.pgvigil(&["--json", "verify", &second, "--drill"]).expect(0).json();
    assert_eq!(answer["rung"], "matched", "{answer}");
    assert_eq!(names_in(&site, "state/spool/drills"), [] as [&str; 0]);

    // What it builds on stays with it.
    let plan = site.pgvigil(&["prune", "cluster", "--dry-run"]).expect(0).stdout;
    for id in [&whole, &first, &second] {
        assert!(plan.lines().any(|line| line.contains(id.as_str()) && line.contains(" kept ")), "{plan}");
    }
    // Damage in the first is told before anything is laid out, by name.
    let base = site.world.folder(&first).join("base.tar.zst");
    let whole_bytes = std::fs::read(&base).unwrap();
    std::fs::write(&base, &whole_bytes[..whole_bytes.len() / 2]).unwrap();
    let target = site.world.path("restored/damaged").display().to_string();
    let ran = site.pgvigil(&["restore", &second, "--latest", "--target-dir", &target]).expect(1);
    assert!(ran.stderr.contains(&first) && ran.stderr.contains("is damaged"), "{ran:#?}");
    site.pgvigil(&["verify", &first]).expect(1);
    let ran = site.pgvigil(&["restore", &second, "--latest", "--target-dir", &target]).expect(1);
    assert!(ran.stderr.contains(&format!("{first}, which {second} holds the changes since, is bad")), "{ran:#?}");
    // The whole one leads to the same end.
    assert_eq!(site.restore(&[&whole, "--latest"]).sql("select count(*) from t"), "3");
}

#[test]
fn tablespaces_are_combined_too() {
    let site = summarizing(18, "");
    let space = site.world.path("restored/space");
    std::fs::create_dir(&space).unwrap();
    stock("chown", &["postgres:", space.to_str().unwrap()], site.world.path("").as_path());
    site.sql(&format!("create tablespace far location '{}'", space.display()));
    site.sql("create table f tablespace far as select generate_series(1, 1000) n");
    run(&site, &[]);
    site.sql("insert into f values (0)");
    run(&site, &["--incremental"]);
    let restored = site.restore(&["--latest"]);
    assert_eq!(restored.sql("select count(*) from f"), "1001");
    let place = restored.sql("select pg_tablespace_location(oid) from pg_tablespace where spcname = 'far'");
    assert!(place.starts_with(&format!("{}_tablespaces/", restored.dir().display())), "{place}");
    let id = site.pgvigil(&["--json", "list", "cluster"]).expect(0).json()[0]["id"].as_str().unwrap().to_owned();
    site.pgvigil(&["verify", &id, "--drill"]).expect(0);
}

#[test]
fn where_there_is_nothing_to_build_on() {
    let site = summarizing(18, "");
    let ran = site.pgvigil(&["run", "cluster", "--incremental"]).expect(0);
    assert!(ran.stderr.contains("this one is whole"), "{ran:#?}");
    // An older server, one that notes nothing, and a backup of dumps.
    let old = Site::archiving(15, "");
    let ran = old.pgvigil(&["run", "cluster", "--incremental"]).expect(1);
    assert!(ran.stderr.contains("need PostgreSQL 17"), "{ran:#?}");
    site.sql("alter system set summarize_wal = off");
    site.sql("select pg_reload_conf()");
    let ran = site.pgvigil(&["run", "cluster", "--incremental"]).expect(1);
    assert!(ran.stderr.contains("summarize_wal is off"), "{ran:#?}");
}

#[test]
fn a_chain_goes_whole_or_not_at_all() {
    let site = summarizing(18, "keep = { base_backups = 1 }\n");
    let chain = [run(&site, &[]), run(&site, &["--incremental"]), run(&site, &["--incremental"])];
    // Somebody restores the last of them, or drills it.
    let label = chain[2].split('/').next_back().unwrap();
    let lock = site.world.path("state/locks").join(format!("cluster.{label}.lock"));
    let held = std::fs::File::create(&lock).unwrap();
    own(&lock);
    held.try_lock().unwrap();
    let newer = run(&site, &[]);
    let there = || chain.iter().filter(|id| site.world.folder(id).exists()).count();
    assert_eq!(there(), 3, "what it builds on stays with it");
    drop(held);
    site.pgvigil(&["prune", "cluster"]).expect(0);
    assert!(there() == 0 && site.world.folder(&newer).exists());
}

#[test]
fn the_daemon_makes_incremental_ones_at_their_times() {
    let site = summarizing(18, "schedule = \"0 0 1 1 *\"\nincremental = \"*/2 * * * * *\"\n");
    let whole = run(&site, &[]);
    let _daemon = Daemon::start(&site.world);
    let of = |list: &serde_json::Value| {
        let ids = list.as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap().to_owned());
        ids.filter(|id| *id != whole).map(|id| site.world.manifest(&id)["physical"]["incremental_of"].clone()).collect::<Vec<_>>()
    };
    until("an incremental one is there", || {
        of(&site.pgvigil(&["--json", "list", "cluster"]).json()).contains(&serde_json::Value::from(whole.as_str()))
    });
}
