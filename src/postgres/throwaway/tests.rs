//! Against a real Engine and real clusters: run under `tests/support/with-servers`.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::*;
use crate::config::plan;
use crate::config::values::Given;
use crate::error::Kind;

fn var(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run under tests/support/with-servers"))
}

/// A folder for drills below one that nobody else may enter, and the name of an installation.
struct Place {
    _dir: tempfile::TempDir,
    folder: PathBuf,
    owner: String,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Longer than the path of a socket may be.
        let folder = dir.path().join("x".repeat(120)).join("drills");
        Place { folder, _dir: dir, owner: Tag::random().random_part().to_owned() }
    }

    fn wanted(&self) -> Wanted<'_> {
        Wanted { major: 15, superuser: "Chief -x", preload: None, tag: Tag::random(), owner: &self.owner, folder: &self.folder }
    }

    fn is_empty(&self) -> bool {
        std::fs::read_dir(&self.folder).is_ok_and(|mut entries| entries.next().is_none())
    }
}

/// A test that fails leaves no container either.
impl Drop for Place {
    fn drop(&mut self) {
        for container in containers(&self.owner) {
            docker(&["rm", "--force", "--volumes", &container]);
        }
    }
}

fn plan() -> Plan {
    let text = format!(
        "[servers.docker]\ncontainer = \"{}\"\npassword = {{ env = \"PGVIGIL_TEST_PASSWORD\" }}\n\
         [servers.named]\nsocket = \"{}\"\nport = {}\npassword = {{ env = \"PGVIGIL_TEST_PASSWORD\" }}\n\
         [servers.newer]\nsocket = \"/nowhere\"\nbin_dir = \"{}\"\n\
         [stores.local]\npath = \"/nowhere\"\n",
        var("PGVIGIL_TEST_CONTAINER"),
        var("PGVIGIL_TEST_PG15_SOCKET"),
        var("PGVIGIL_TEST_PG15_PORT"),
        var("PGVIGIL_TEST_PG18_BIN"),
    );
    crate::config::parse(&text, Path::new("test.toml")).unwrap_or_else(|faults| panic!("{faults:?}"))
}

async fn ask(server: &Server, sql: &str) -> String {
    server.query(server.maintenance_database(), &format!("select to_json(({sql})::text)")).await.unwrap()
}

/// What every server of a drill can do.
async fn works(server: &Server, superuser: &str) {
    assert!(ask(server, "select version()").await.starts_with(&format!("PostgreSQL {}", server.facts.major())));
    assert_eq!(server.facts.user, superuser);
    assert!(server.facts.is_superuser);
    assert_eq!(ask(server, "select rolname from pg_roles where oid = 10").await, superuser);
    assert_eq!(ask(server, "select application_name from pg_stat_activity where pid = pg_backend_pid()").await, server.tag().as_str());
    assert_eq!(ask(server, "select current_setting('fsync') || current_setting('listen_addresses')").await, "off");
    let made = "create database \"a b\" template template0 encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'; select to_json(true)";
    assert!(server.query::<bool>("postgres", made).await.unwrap());
    assert!(server.query::<bool>("a b", "create table t as select 1; select to_json(true)").await.unwrap());
}

#[expect(clippy::disallowed_methods, reason = "the docker program is who looks independently")]
fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().unwrap();
    assert!(output.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn containers(owner: &str) -> Vec<String> {
    let ids = docker(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &format!("label={LABEL}={owner}")]);
    ids.lines().map(str::to_owned).collect()
}

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

/// The anonymous volumes of a container.
fn volumes(container: &str) -> BTreeSet<String> {
    let format = "{{range .Mounts}}{{if .Name}}{{println .Name}}{{end}}{{end}}";
    docker(&["inspect", "--format", format, container]).lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn are_gone(volumes: &BTreeSet<String>) -> bool {
    let left: BTreeSet<String> = docker(&["volume", "ls", "--quiet"]).lines().map(str::to_owned).collect();
    !volumes.is_empty() && volumes.is_disjoint(&left)
}

#[tokio::test]
async fn in_a_container_of_the_same_image() {
    let (plan, place) = (plan(), Place::new());
    let wanted = Wanted { preload: Some("pg_stat_statements"), ..place.wanted() };
    let drill = Throwaway::in_container(&plan.servers["docker"], &wanted).await.unwrap();
    works(&drill.server, "Chief -x").await;
    assert_eq!(drill.database_name("x", 0), "x");
    assert_eq!(ask(&drill.server, "select current_setting('shared_preload_libraries')").await, "pg_stat_statements");
    assert!(drill.log().contains(READY));

    let found = containers(&place.owner);
    assert_eq!(found.len(), 1);
    let inspect = |name: &str, format: &str| docker(&["inspect", "--format", format, name]);
    assert_eq!(inspect(&found[0], "{{.Image}}"), inspect(&var("PGVIGIL_TEST_CONTAINER"), "{{.Image}}"));
    let limits = "{{.HostConfig.NetworkMode}} {{.HostConfig.Memory}} {{.HostConfig.CapDrop}} {{.Config.User}}";
    assert_eq!(inspect(&found[0], limits), format!("none {} [ALL] postgres", settings::MEMORY_BYTES));
    assert!(!inspect(&found[0], "{{json .Config.Env}}").contains("POSTGRES_PASSWORD"));
    // The last of its processes that may gain a right it does not have yet.
    assert_eq!(docker(&["exec", &found[0], "grep", "NoNewPrivs", "/proc/1/status"]).split_whitespace().last(), Some("1"));

    let volumes = volumes(&found[0]);
    drill.remove().await.unwrap();
    assert!(containers(&place.owner).is_empty() && are_gone(&volumes));
}

#[tokio::test]
async fn what_cannot_be_preloaded_is_named_and_nothing_is_left() {
    let (plan, place) = (plan(), Place::new());
    let wanted = Wanted { preload: Some("nosuch_library"), ..place.wanted() };
    for made in [Throwaway::in_container(&plan.servers["docker"], &wanted).await, Throwaway::local(None, &wanted).await] {
        let error = made.err().unwrap();
        assert_eq!(error.kind, Kind::Unverifiable);
        assert!(error.message.starts_with("cannot verify: "), "{}", error.message);
        assert!(error.message.contains("could not access file \"nosuch_library\""), "{}", error.message);
        assert!(error.hint.unwrap().contains("nosuch_library"));
    }
    assert!(containers(&place.owner).is_empty() && place.is_empty());
}

#[test]
fn only_a_library_that_the_log_speaks_of_is_to_blame() {
    let log = "LOG: x\nFATAL:  could not access file \"b\": No such file";
    let error = not_started("does not start", log, Some("aa, \"b\""));
    assert!(error.hint.unwrap().starts_with("install what brings the library b "));
    let error = not_started("does not start", "FATAL: no space left", Some("aa"));
    assert_eq!((error.message.as_str(), error.hint), ("cannot verify: the drill's server does not start\n  FATAL: no space left", None));
}

#[tokio::test]
async fn a_source_that_is_stopped_or_gone() {
    let (mut plan, place) = (plan(), Place::new());
    let stopped = docker(&["create", "--label", "pgvigil.test=1", &var("PGVIGIL_TEST_IMAGE")]);
    let source = plan.servers.get_mut("docker").unwrap();
    source.place = plan::Place::Container { container: stopped.clone(), docker: None, via: crate::config::file::Via::Exec };
    let drill = Throwaway::in_container(source, &place.wanted()).await;
    docker(&["rm", "--force", "--volumes", &stopped]);
    drill.unwrap().remove().await.unwrap();

    let error = Throwaway::in_container(source, &place.wanted()).await.err().unwrap();
    assert_eq!(error.kind, Kind::Unverifiable);
    assert!(error.message.contains(&stopped), "{}", error.message);
    let error = Throwaway::in_container(&plan.servers["named"], &place.wanted()).await.err().unwrap();
    assert!(error.message.contains("is in no container"), "{}", error.message);
}

#[tokio::test]
async fn a_sweep_removes_our_containers_and_no_others() {
    let (plan, place, other) = (plan(), Place::new(), Place::new());
    let ours = Throwaway::in_container(&plan.servers["docker"], &place.wanted()).await.unwrap();
    // What a kill between the making and the start leaves.
    let label = format!("{LABEL}={}", place.owner);
    docker(&["create", "--label", &label, &var("PGVIGIL_TEST_IMAGE")]);
    let others = format!("{LABEL}={}", other.owner);
    let foreign = docker(&["create", "--label", &others, &var("PGVIGIL_TEST_IMAGE")]);
    let volumes: BTreeSet<String> = containers(&place.owner).iter().flat_map(|id| volumes(id)).collect();
    std::mem::forget(ours);
    let swept = sweep(&plan, &place.owner, &place.folder).await;
    let stayed = containers(&other.owner) == [foreign.clone()];
    docker(&["rm", "--force", "--volumes", &foreign]);
    assert_eq!((swept, stayed), (Ok(2), true));
    assert!(containers(&place.owner).is_empty() && are_gone(&volumes));
}

/// A proxy before the Engine that refuses to make containers, as one for backups alone does.
fn refusing_proxy() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = BufReader::new(client.unwrap());
            // One request on a connection.
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && client.read_line(&mut head).unwrap() > 0 {}
            if head.contains("/containers/create") {
                let refusal = "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 9\r\n\r\nForbidden";
                client.get_mut().write_all(refusal.as_bytes()).unwrap();
                continue;
            }
            let mut engine = UnixStream::connect("/var/run/docker.sock").unwrap();
            engine.write_all(head.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes()).unwrap();
            std::io::copy(&mut engine, client.get_mut()).unwrap();
        }
    });
    address
}

#[tokio::test]
async fn a_proxy_that_refuses_to_make_containers() {
    let (mut plan, place) = (plan(), Place::new());
    let source = plan.servers.get_mut("docker").unwrap();
    let via = crate::config::file::Via::Exec;
    source.place = plan::Place::Container { container: var("PGVIGIL_TEST_CONTAINER"), docker: Some(refusing_proxy()), via };
    let error = Throwaway::in_container(source, &place.wanted()).await.err().unwrap();
    assert_eq!(error.kind, Kind::Docker);
    let hint = error.hint.unwrap();
    assert!(hint.contains("drill on = \"local\"") && hint.contains("as good as root"), "{hint}");
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
        .args(["--exact", "--nocapture", "postgres::throwaway::tests::a_kill_leaves_no_process_and_a_sweep_no_folder"])
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

#[tokio::test]
async fn on_a_named_server() {
    let (plan, place) = (plan(), Place::new());
    let named = &plan.servers["named"];
    let drill = Throwaway::on_server(named, &place.wanted()).await.unwrap();
    let server = drill.server.clone();
    let make =
        async |name: &str| server.query::<bool>("postgres", &format!("create database \"{name}\"; select to_json(true)")).await.unwrap();
    let exists = async |name: &str| ask(&server, &format!("select count(*) from pg_database where datname = '{name}'")).await == "1";
    let (first, second) = (drill.database_name("x", 0), drill.database_name("y", 11));
    let similar = [format!("{first}x"), format!("pgvigil_drill_{}_x", place.owner), format!("x{second}")];
    for name in similar.iter().chain([&first, &second]) {
        make(name).await;
    }
    // A session that is still in there.
    let in_there = server.clone();
    let (busy, name) = (Tag::random(), second.clone());
    let session = Server::connect(named, busy.clone()).await.unwrap();
    let asleep = tokio::spawn(async move { session.query::<bool>(&name, "select to_json(pg_sleep(1000) is null)").await });
    while ask(&in_there, &format!("select count(*) from pg_stat_activity where application_name = '{}'", busy.as_str())).await != "1" {}

    std::mem::forget(drill);
    assert_eq!(sweep(&plan, &place.owner, &place.folder).await, Ok(2));
    assert!(asleep.await.unwrap().is_err());
    assert!(!exists(&first).await && !exists(&second).await && place.is_empty());

    let drill = Throwaway::on_server(named, &place.wanted()).await.unwrap();
    make(&first).await;
    assert!(!place.is_empty());
    drill.remove().await.unwrap();
    assert!(!exists(&first).await && place.is_empty());
    for name in &similar {
        assert!(exists(name).await, "{name}");
        assert!(server.query::<bool>("postgres", &format!("drop database \"{name}\"; select to_json(true)")).await.unwrap());
    }
}

#[tokio::test]
async fn a_named_server_that_will_not_do() {
    let (mut plan, place) = (plan(), Place::new());
    let error = Throwaway::on_server(&plan.servers["named"], &Wanted { major: 16, ..place.wanted() }).await.err().unwrap();
    assert_eq!(error.kind, Kind::Unverifiable);

    let all = Server::connect(&plan.servers["named"], Tag::random()).await.unwrap();
    let role = format!("drill_{}", place.owner);
    let made = format!("create role {role} login password 'x'; select to_json(true)");
    assert!(all.query::<bool>("postgres", &made).await.unwrap());
    let named = plan.servers.get_mut("named").unwrap();
    named.user = Some(Given::Literal(role.clone()));
    named.password = Some(Given::Literal("x".to_owned()));
    let refused = Throwaway::on_server(named, &place.wanted()).await.err();
    assert!(all.query::<bool>("postgres", &format!("drop role {role}; select to_json(true)")).await.unwrap());
    let error = refused.unwrap();
    assert_eq!((error.kind, error.hint), (Kind::Unverifiable, Some(format!("ALTER ROLE \"{role}\" CREATEDB"))));
    assert!(!place.folder.exists());
}
