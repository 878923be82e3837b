//! Base backups and the log of a cluster: made, archived, read back.

use std::collections::BTreeSet;
use std::process::Stdio;

use crate::common::{Server, World};
use crate::offsite::{Sshd, bucket, s3};
use crate::pitr_site::Site;
use crate::support::{self, Tmpfs, stock, until};

#[test]
fn a_base_backup_with_its_log_in_the_archive() {
    for (major, compression) in [(15, "zstd"), (18, "gzip")] {
        let site = Site::archiving(major, &format!("compression = \"{compression}\"\n"));
        site.sql("create table t as select generate_series(1, 1000) n");
        let id = site.world.backup("cluster");
        let manifest = site.world.manifest(&id);
        assert_eq!(manifest["kind"], "physical");
        let physical = &manifest["physical"];
        assert_eq!(physical["timeline"], 1);
        assert_eq!(physical["system_identifier"], site.sql("select system_identifier from pg_control_system()"));
        assert!(physical["cluster_files"].as_u64().unwrap() > 500, "{physical}");
        assert_eq!(physical["settings"]["max_wal_senders"], "10");
        let ending = if compression == "zstd" { "zst" } else { "gz" };
        let names: BTreeSet<&str> = manifest["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
        assert_eq!(names, BTreeSet::from([&*format!("base.tar.{ending}"), "backup_manifest", "RESTORE.md"]));
        let list = site.pgvigil(&["--json", "list", "cluster"]).expect(0).json();
        assert_eq!(list[0]["rung"], "readable", "{list}");
        // The log that it needs is in the archive: PostgreSQL has waited for it, and so have we.
        assert!(!site.archived().is_empty());
        site.pgvigil(&["verify", &id]).expect(0);
        // Stock tools see what PostgreSQL's own manifest promises.
        let target = site.world.path("unpacked");
        std::fs::create_dir(&target).unwrap();
        let unpack = if compression == "zstd" { "zstd -dc" } else { "gunzip -c" };
        stock("sh", &["-c", &format!("{unpack} base.tar.{ending} | tar -x -C {}", target.display())], &site.world.folder(&id));
        assert!(target.join("backup_label").exists() && target.join("global/pg_control").exists());
        let verify = support::programs(major).join("pg_verifybackup");
        stock(verify.to_str().unwrap(), &["--no-parse-wal", target.to_str().unwrap()], site.world.path("").as_path());
    }
}

#[test]
fn one_changed_byte_in_a_file_of_the_cluster_is_named() {
    let site = Site::archiving(15, "compression = \"none\"\n");
    let id = site.world.backup("cluster");
    let path = site.world.folder(&id).join("base.tar");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let ran = site.pgvigil(&["verify", &id]).expect(1);
    assert!(ran.stderr.contains("base.tar: its sha256 is"), "{ran:#?}");
    bytes.truncate(middle);
    std::fs::write(&path, &bytes).unwrap();
    let ran = site.pgvigil(&["verify", &id]).expect(1);
    assert!(ran.stderr.contains("base.tar: "), "{ran:#?}");
}

#[test]
fn several_tablespaces_go_through_the_spool() {
    let site = Site::archiving(15, "compression = \"zstd\"\n");
    let space = site.world.path("restored/space");
    std::fs::create_dir(&space).unwrap();
    stock("chown", &["postgres:", space.to_str().unwrap()], site.world.path("").as_path());
    site.sql(&format!("create tablespace far location '{}'", space.display()));
    site.sql("create table t tablespace far as select generate_series(1, 10000) n");
    let id = site.world.backup("cluster");
    let manifest = site.world.manifest(&id);
    let spaces = &manifest["physical"]["tablespaces"];
    assert_eq!(spaces[0]["location"], space.to_str().unwrap());
    let name = format!("{}.tar.zst", spaces[0]["oid"]);
    assert!(manifest["files"].as_array().unwrap().iter().any(|file| file["name"] == name.as_str()), "{manifest}");
    let spool = site.world.path("state/spool");
    assert_eq!(std::fs::read_dir(spool).unwrap().count(), 0, "nothing is left in the spool");
    site.pgvigil(&["verify", &id]).expect(0);
}

#[test]
fn a_container_by_exec_with_its_log_inside() {
    let world = World::with(Server::Exec, "[backups.cluster]\nkind = \"physical\"\ncompression = \"zstd\"\n");
    let id = world.backup("cluster");
    let manifest = world.manifest(&id);
    assert_eq!(manifest["physical"]["with_wal"], true);
    let listed = stock("sh", &["-c", "zstd -dc base.tar.zst | tar -t"], &world.folder(&id));
    let listed = String::from_utf8(listed).unwrap();
    assert!(listed.lines().any(|line| line.starts_with("pg_wal/0000000")), "{listed}");
    world.pgvigil(&["verify", &id]).expect(0);
}

#[test]
fn without_an_archive_mode_nothing_is_begun() {
    let world = World::with(Server::Pg15, "[backups.cluster]\nkind = \"physical\"\nwal = \"archive_command\"\n");
    let ran = world.pgvigil(&["--json", "run", "cluster"]).expect(1);
    assert!(ran.json()["error"]["message"].as_str().unwrap().contains("archive_mode is off"), "{ran:#?}");
    assert_eq!(world.names("cluster"), [] as [&str; 0]);
}

#[test]
fn a_push_is_durable_whole_and_the_same_or_refused() {
    let site = Site::archiving(15, "");
    site.sql("create table t as select generate_series(1, 1000) n");
    site.switch();
    let archived = site.archived();
    let name = archived[0].strip_suffix(".zst").unwrap();
    let raw = site.unpacked(&archived[0]);
    assert_eq!(raw.len(), 16 << 20);
    let copy = site.world.path("restored").join(name);
    let push = |bytes: &[u8]| {
        std::fs::write(&copy, bytes).unwrap();
        site.pgvigil(&["--config", site.world.path("wal.toml").to_str().unwrap(), "wal", "push", copy.to_str().unwrap()])
    };
    // PostgreSQL asks again after a crash: the same is a success, anything else is not.
    push(&raw).expect(0);
    let mut other = raw.clone();
    other[5_000_000] ^= 1;
    let ran = push(&other).expect(1);
    assert!(ran.stderr.contains("is in the archive already, with other bytes"), "{ran:#?}");
    let ran = push(&raw[..10_000_000]).expect(1);
    assert!(ran.stderr.contains("it has 10000000 bytes"), "{ran:#?}");
    // Another segment under this name, and another cluster.
    let mut other = raw.clone();
    other[8] ^= 1;
    assert!(push(&other).expect(1).stderr.contains("is not what its name says"));
    let mut other = raw.clone();
    other[24] ^= 1;
    let ran = push(&other).expect(1);
    assert!(ran.stderr.contains("the archive of cluster is of cluster"), "{ran:#?}");
    // Whatever was tried, what is in there is what PostgreSQL has archived.
    assert!(site.unpacked(&archived[0]) == raw);
}

#[test]
fn a_fetch_says_not_there_by_nothing_but_that_answer() {
    let site = Site::archiving(15, "");
    site.switch();
    let archived = site.archived();
    let name = archived[0].strip_suffix(".zst").unwrap();
    let dest = site.world.path("restored/RECOVERYXLOG");
    let fetch = |name: &str| site.pgvigil(&["wal", "fetch", name, dest.to_str().unwrap()]);
    fetch(name).expect(0);
    assert!(std::fs::read(&dest).unwrap() == site.unpacked(&archived[0]));
    std::fs::remove_file(&dest).unwrap();
    fetch("0000000100000000000000FF").expect(1);
    fetch("00000002.history").expect(1);
    fetch("000000090000000000000001").expect(1);
    let in_store = site.world.store().join("cluster/wal/00000001").join(&archived[0]);
    let packed = std::fs::read(&in_store).unwrap();
    let broken: [(&str, &dyn Fn() -> Vec<u8>); 2] = [
        ("cut", &|| packed[..packed.len() / 2].to_vec()),
        ("flipped", &|| {
            let mut bytes = packed.clone();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            bytes
        }),
    ];
    for (how, bytes) in broken {
        std::fs::write(&in_store, bytes()).unwrap();
        fetch(name).expect(255);
        assert!(!dest.exists(), "{how}");
    }
    std::fs::write(&in_store, &packed).unwrap();
    // The store is away; the file is faulty; the command line is.
    let away = site.world.path("away");
    std::fs::rename(site.world.store(), &away).unwrap();
    fetch(name).expect(255);
    std::fs::rename(&away, site.world.store()).unwrap();
    site.pgvigil(&["wal", "fetch", name]).expect(255);
    site.pgvigil(&["wal", "fetch", "--no-such-option", name, "x"]).expect(255);
    site.pgvigil(&["wal", "fetch", "--backup", "nobody", name, dest.to_str().unwrap()]).expect(255);
    fetch("no-segment").expect(255);
    std::fs::write(site.world.config(), "nonsense = ").unwrap();
    fetch(name).expect(255);
}

#[test]
fn what_follows_is_fetched_ahead_and_handed_over_whatever_has_become_of_the_store() {
    let site = Site::archiving(15, "");
    for n in 0..2 {
        site.sql(&format!("create table t{n} ()"));
        site.switch();
    }
    let archived = site.archived();
    let names: Vec<&str> = archived.iter().map(|name| name.strip_suffix(".zst").unwrap()).collect();
    let raw = site.unpacked(&archived[1]);
    let dest = site.world.path("restored/RECOVERYXLOG");
    let fetch = |name: &str| site.pgvigil(&["wal", "fetch", name, dest.to_str().unwrap()]);
    fetch(names[0]).expect(0);
    let ahead = site.world.path("restored/pgvigil-ahead");
    until("the next one waits", || ahead.join(names[1]).exists());
    std::fs::rename(site.world.store(), site.world.path("away")).unwrap();
    std::fs::write(site.world.config(), "nonsense = ").unwrap();
    fetch(names[1]).expect(0);
    assert!(std::fs::read(&dest).unwrap() == raw);
    // Once only: what recovery asks for again comes from the store.
    fetch(names[1]).expect(255);
    // To PostgreSQL as the first process of a container its end must not look like a crash.
    site.pgvigil(&["wal", "fetch", names[1], dest.to_str().unwrap(), "--ahead"]).expect(0);
}

#[test]
fn what_is_fetched_at_the_end_is_held_on_the_server_until_then() {
    let site = Site::with(15, "archive_mode = off\nlog_statement = all\nwal_keep_size = 0", "compression = \"zstd\"\n");
    site.world.backup("cluster");
    let log = std::fs::read_to_string(std::path::Path::new(&site.cluster.host()).join("log")).unwrap();
    assert!(log.contains("pg_create_physical_replication_slot('pgvigil_base_"), "{log}");
    assert_eq!(site.sql("select count(*) from pg_replication_slots"), "0");
    // Where there is none to be had, that is told, and it goes on.
    let site = Site::with(15, "archive_mode = off\nmax_replication_slots = 0", "compression = \"zstd\"\n");
    let ran = site.pgvigil(&["run", "cluster"]).expect(0);
    assert!(ran.stderr.contains("no slot holds the log of this base backup"), "{ran:#?}");
}

#[test]
fn never_two_at_once_on_one_server() {
    let site = Site::with(15, "archive_mode = off", "compression = \"zstd\"\n[backups.other]\nkind = \"physical\"\n");
    let locks = site.world.path("state/locks");
    site.world.backup("cluster");
    // One of ours, of whichever backup.
    let held = std::fs::File::create(locks.join("main.BASE.lock")).unwrap();
    held.try_lock().unwrap();
    for backup in ["cluster", "other"] {
        let ran = site.pgvigil(&["--json", "run", backup]).expect(75);
        assert!(ran.stderr.contains("another base backup of server main is under way"), "{ran:#?}");
    }
    drop(held);
    // One of somebody else.
    let mut theirs = site.cluster.tool("pg_basebackup");
    theirs.args(["--pgdata=-", "--format=tar", "--wal-method=none", "--checkpoint=fast", "--max-rate=32k", "--no-password"]);
    let mut theirs = theirs.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("it is under way", || site.sql("select count(*) from pg_stat_progress_basebackup") == "1");
    let ran = site.pgvigil(&["--json", "run", "cluster"]).expect(75);
    assert!(ran.stderr.contains("another base backup of this server is under way"), "{ran:#?}");
    theirs.kill().unwrap();
    theirs.wait().unwrap();
    until("it has ended", || site.sql("select count(*) from pg_stat_progress_basebackup") == "0");
    site.world.backup("other");
}

#[test]
fn a_spool_that_is_too_small_is_refused_before_anything_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let spool = dir.path().join("spool");
    let _mounted = Tmpfs::mount(&spool, "16m");
    support::own(dir.path());
    let site = Site::with(15, "archive_mode = off\nlog_replication_commands = on", "compression = \"zstd\"\n");
    let file = std::fs::read_to_string(site.world.config()).unwrap();
    std::fs::write(site.world.config(), format!("spool_dir = \"{}\"\n{file}", spool.display())).unwrap();
    // Without tablespaces nothing goes through it.
    site.world.backup("cluster");
    let space = site.world.path("restored/space");
    std::fs::create_dir(&space).unwrap();
    support::own(&space);
    site.sql(&format!("create tablespace far location '{}'", space.display()));
    site.sql("create table t tablespace far as select generate_series(1, 1000) n");
    let log = || std::fs::read_to_string(std::path::Path::new(&site.cluster.host()).join("log")).unwrap();
    let before = log().matches("BASE_BACKUP").count();
    let ran = site.pgvigil(&["--json", "run", "cluster"]).expect(1);
    assert!(ran.stderr.contains("would not fit into the spool") && ran.stderr.contains("spool_dir"), "{ran:#?}");
    assert_eq!(log().matches("BASE_BACKUP").count(), before, "the server was not even asked for it");
    assert_eq!(std::fs::read_dir(&spool).unwrap().count(), 0);
    let list = site.pgvigil(&["--json", "list", "cluster"]).expect(0).json();
    assert_eq!(list.as_array().unwrap().len(), 1, "{list:#}");
}

#[test]
fn straight_into_a_bucket_and_to_another_host_with_memory_that_does_not_grow() {
    let sshd = Sshd::start();
    support::own(sshd.folder().parent().unwrap());
    let sections = format!("{}{}", bucket("bucket", &s3(), &crate::common::unique("base"), "admin"), sshd.section("host"));
    let site = Site::with(15, "archive_mode = off\nmax_wal_size = 4GB\nfull_page_writes = off", "compression = \"zstd\"\n");
    // Much more than the bound, and bytes that do not pack, so that as many come out.
    let megabytes = if support::long() { 1200 } else { 400 };
    site.sql("create extension pgcrypto");
    site.sql("create table t (n int, x bytea)");
    site.sql("alter table t alter x set storage external");
    site.sql(&format!("insert into t select n, gen_random_bytes(1024) from generate_series(1, {}) n", megabytes * 1024));
    let spool = site.world.path("state/spool");
    let text = std::fs::read_to_string(site.world.config()).unwrap();
    for store in ["bucket", "host"] {
        let keys = format!("kind = \"physical\"\nstores = [{store:?}]");
        std::fs::write(site.world.config(), format!("{}{sections}", text.replace("kind = \"physical\"", &keys))).unwrap();
        let rss = site.world.path("rss");
        let mut run = std::process::Command::new("/usr/bin/time");
        run.args(["--format=%M", "--output"]).arg(&rss).arg(env!("CARGO_BIN_EXE_pgvigil"));
        run.arg("--config")
            .arg(site.world.config())
            .args(["--json", "run", "cluster"])
            .env("PGVIGIL_TEST_PASSWORD", crate::common::password());
        let answer = crate::common::ran(&mut run).expect(0).json();
        assert_eq!(answer["rung"], "readable", "{answer}");
        let kib: u64 = std::fs::read_to_string(&rss).unwrap().trim().parse().unwrap();
        println!("{store}: {kib} KiB for {megabytes} MB");
        assert!((1024..160 * 1024).contains(&kib), "{store}: {kib} KiB");
        assert_eq!(std::fs::read_dir(&spool).map_or(0, Iterator::count), 0, "nothing waits here");
        assert_eq!(site.world.names("cluster"), [] as [&str; 0], "nor in the folder beside");
        let id = answer["id"].as_str().unwrap();
        let restored = site.restore(&[id, "--latest"]);
        assert_eq!(restored.sql("select count(*), sum(length(x)) / 1024 from t"), format!("{0}|{0}", megabytes * 1024));
    }
}

#[test]
fn a_role_that_may_replicate_is_enough_and_what_it_may_not_read_is_no_fault() {
    let site = Site::with(15, "archive_mode = off", "compression = \"zstd\"\nchecks = { some = \"select count(*) > 0 from public.t\" }\n");
    site.sql("create table t as select 1 as n");
    site.sql(&format!("create role copier login replication password '{}'", crate::common::password().replace('\'', "''")));
    let text = std::fs::read_to_string(site.world.config()).unwrap();
    std::fs::write(site.world.config(), text.replace("[servers.main]\n", "[servers.main]\nuser = \"copier\"\n")).unwrap();
    let ran = site.pgvigil(&["--json", "run", "cluster"]).expect(0);
    assert!(ran.stderr.contains("check some was not asked of the live server") && ran.stderr.contains("permission denied"), "{ran:#?}");
    // The drill asks as the superuser of a cluster of its own.
    let id = ran.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(site.pgvigil(&["--json", "verify", &id, "--drill"]).expect(0).json()["rung"], "matched");
    // Nothing of the live one is written by a check, and nobody waits for it.
    site.sql("create sequence s; grant usage on s to copier");
    let writes = "some = \"select nextval('public.s') = 1\"";
    std::fs::write(site.world.config(), text.replace("some = \"select count(*) > 0 from public.t\"", writes)).unwrap();
    let ran = site.pgvigil(&["--json", "run", "cluster"]).expect(0);
    assert!(ran.stderr.contains("was not asked of the live server"), "{ran:#?}");
    assert_eq!(site.sql("select is_called from s"), "f");
}
