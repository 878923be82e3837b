//! A drill on this machine.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use super::*;

/// The processes that work in a folder.
fn inside(folder: &Path) -> Vec<PathBuf> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    processes.filter(|process| std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder))).collect()
}

/// The number of the shared memory of the one cluster in a folder, which would outlive its processes.
fn shared_memory(folder: &Path) -> String {
    let cluster = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let file = std::fs::read_to_string(cluster.join("data/postmaster.pid")).unwrap();
    file.lines().nth(6).unwrap().split_whitespace().nth(1).unwrap().to_owned()
}

fn has_shared_memory(number: &str) -> bool {
    let segments = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    segments.lines().any(|line| line.split_whitespace().nth(1) == Some(number))
}

#[tokio::test]
async fn on_this_machine() {
    let (plan, place) = (plan(), Place::new());
    let wanted = Wanted { preload: Some("pg_stat_statements"), ..place.wanted() };
    let drill = Throwaway::local(Some(&plan.servers["newer"]), &wanted).await.unwrap();
    assert_eq!(drill.server.facts.major(), 15);
    works(&drill.server, "Chief -x").await;
    assert_eq!(ask(&drill.server, "select current_setting('shared_preload_libraries')").await, "pg_stat_statements");
    assert_eq!(ask(&drill.with_our_rights(), "select 1").await, "1");

    let (uid, folder) = (nix::unistd::geteuid().as_raw(), place.folder.clone());
    let cluster = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap();
    let meta = cluster.metadata().unwrap();
    assert_eq!((meta.mode() & 0o777, meta.uid()), (0o700, if uid == 0 { 65_534 } else { uid }));
    // A program of a hostile dump that outlives its session: without our environment, and as root
    // without our rights and our network.
    let sql = "create table told(line text);
        copy told from program 'env; id -u; cat /proc/self/net/dev; (setsid sleep 1000 >/dev/null 2>&1 &)';
        select json_agg(line) from told";
    let told: Vec<String> = drill.server.query("postgres", sql).await.unwrap();
    assert!(!told.iter().any(|line| line.starts_with("PGVIGIL_TEST_PASSWORD")), "{told:?}");
    if uid == 0 {
        assert!(told.contains(&"65534".to_owned()), "{told:?}");
        let devices: Vec<&String> = told.iter().filter(|line| line.contains(':') && !line.contains('=')).collect();
        assert!(matches!(devices[..], [lo] if lo.trim().starts_with("lo:")), "{devices:?}");
    }
    let memory = shared_memory(&folder);
    assert!(inside(&folder).len() > 3 && has_shared_memory(&memory));
    drill.remove().await.unwrap();
    assert!(inside(&folder).is_empty() && place.is_empty() && !has_shared_memory(&memory));
}

#[tokio::test]
async fn with_the_programs_of_a_newer_version_where_the_own_are_not_here() {
    let (plan, place) = (plan(), Place::new());
    let wanted = Wanted { major: 18, superuser: "o'hara", ..place.wanted() };
    let drill = Throwaway::local(Some(&plan.servers["newer"]), &wanted).await.unwrap();
    // A name that initdb refuses.
    works(&drill.server, "postgres").await;
    assert_eq!(drill.server.facts.major(), 18);
    assert_eq!(ask(&drill.server, "select current_setting('data_checksums')").await, "off");
    drill.remove().await.unwrap();
    let error = Throwaway::local(None, &Wanted { major: 99, ..place.wanted() }).await.err().unwrap();
    assert_eq!(error.kind, Kind::Unverifiable);
    assert!(error.hint.unwrap().starts_with("install postgresql-99"));
    assert!(place.is_empty());
}

/// Set for the process of this test that is killed: its folder and its owner.
const HELD: &str = "PGVIGIL_TEST_HELD";

#[tokio::test]
async fn a_kill_leaves_no_process_and_a_sweep_no_folder() {
    if let Ok(held) = std::env::var(HELD) {
        let (folder, owner) = held.split_once('|').unwrap();
        let wanted = Wanted { major: 0, superuser: "postgres", preload: None, tag: Tag::random(), owner, folder: Path::new(folder) };
        let _drill = Throwaway::local(None, &wanted).await.unwrap();
        println!("held");
        return std::future::pending().await;
    }
    let (plan, place) = (plan(), Place::new());
    #[expect(clippy::disallowed_methods, reason = "a process that can be killed")]
    let mut killed = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "postgres::throwaway::tests::cluster::a_kill_leaves_no_process_and_a_sweep_no_folder"])
        .env(HELD, format!("{}|{}", place.folder.display(), place.owner))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(killed.stdout.take().unwrap()).lines().map_while(Result::ok).any(|line| line.contains("held"));
    assert!(said && inside(&place.folder).len() > 3);
    let memory = shared_memory(&place.folder);
    killed.kill().unwrap();
    killed.wait().unwrap();
    // Without any sweep.
    let patience = tokio::time::timeout(Duration::from_secs(30), async {
        while !inside(&place.folder).is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    patience.await.unwrap();
    assert!(!has_shared_memory(&memory));
    let foreign = place.folder.join("0123456789abcdef_0123456789abcdef");
    std::fs::create_dir(&foreign).unwrap();
    assert_eq!(sweep(&plan, &place.owner, &place.folder).await, Ok(1));
    std::fs::remove_dir(foreign).unwrap();
    assert!(place.is_empty());
}

#[tokio::test]
async fn a_sweep_ends_a_cluster_that_runs_on() {
    let (plan, place) = (plan(), Place::new());
    let drill = Throwaway::local(None, &place.wanted()).await.unwrap();
    let (server, look) = (drill.server.clone(), drill.server.clone());
    std::mem::forget(drill);
    let busy = tokio::spawn(async move { server.query::<bool>("postgres", "select to_json(pg_sleep(1000) is null)").await });
    while ask(&look, "select count(*) from pg_stat_activity where query like 'select to_json(pg_sleep%'").await != "1" {}
    let memory = shared_memory(&place.folder);
    // Of somebody who looks around.
    let cluster = std::fs::read_dir(&place.folder).unwrap().next().unwrap().unwrap().path();
    #[expect(clippy::disallowed_methods, reason = "a process that is not of the cluster")]
    let mut visitor = Command::new("sleep").arg("1000").current_dir(cluster).spawn().unwrap();
    let swept = sweep(&plan, &place.owner, &place.folder).await;
    let is_alive = visitor.try_wait().unwrap().is_none();
    visitor.kill().unwrap();
    visitor.wait().unwrap();
    assert_eq!((swept, is_alive), (Ok(1), true));
    assert!(busy.await.unwrap().is_err());
    assert!(inside(&place.folder).is_empty() && place.is_empty() && !has_shared_memory(&memory));
}

#[tokio::test]
async fn a_drill_that_is_dropped_leaves_a_folder_only() {
    let (plan, place) = (plan(), Place::new());
    let drill = Throwaway::local(None, &place.wanted()).await.unwrap();
    let memory = shared_memory(&place.folder);
    drop(drill);
    assert_eq!(sweep(&plan, &place.owner, &place.folder).await, Ok(1));
    assert!(inside(&place.folder).is_empty() && place.is_empty() && !has_shared_memory(&memory));
}
