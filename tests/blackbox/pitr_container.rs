//! Clusters in containers whose image has no pgvigil: their log by way of a folder, drills in a container of
//! the same image, and what was restored started in one.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::daemon::Daemon;
use crate::common::{Ran, World, container, password, run, unique};
use crate::pitr_site::documented;
use crate::support::{check_lines, programs, rungs, stock, until};

fn docker(args: &[&str]) -> String {
    String::from_utf8(stock("docker", args, Path::new("/"))).unwrap().trim_end().to_owned()
}

/// The image that this run of the tests has, whatever its tag says by now.
fn image() -> String {
    docker(&["inspect", "--format", "{{.Image}}", &container()])
}

/// A container of a test's own, removed at the end.
struct Container(String);

impl Container {
    fn run(how: &[&str], image: &str, program: &[&str]) -> Self {
        let name = unique("pgvigil-test-pitr");
        let pid = format!("pgvigil.test.pid={}", std::process::id());
        let mut args = vec!["run", "--detach", "--name", &name, "--label", "pgvigil.test=1", "--label", &pid];
        args.extend(how.iter().chain(&[image]).chain(program));
        let output = run(Command::new("docker").args(args).env("POSTGRES_PASSWORD", password()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Container(name)
    }

    fn sh(&self, user: &str, script: &str) -> String {
        docker(&["exec", "--user", user, &self.0, "sh", "-c", script])
    }

    /// Waits until it takes sessions.
    fn ready(&self) {
        until("PostgreSQL answers in the container", || run(self.psql().args(["-c", "select 1"])).status.success());
    }

    fn psql(&self) -> Command {
        let mut psql = Command::new("docker");
        psql.args(["exec", "--user", "postgres", &self.0, "psql", "-XAtq", "-v", "ON_ERROR_STOP=1"]);
        psql
    }

    #[track_caller]
    fn sql(&self, sql: &str) -> String {
        let output = run(self.psql().args(["-c", sql]));
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn log(&self) -> String {
        let output = run(Command::new("docker").args(["logs", &self.0]));
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = run(Command::new("docker").args(["rm", "--force", "--volumes", &self.0]));
    }
}

/// The group of pgvigil in its own image.
const GROUP: u32 = 10_001;

/// A server in a container that lays its log into a folder, and a world with a backup of it.
struct Site {
    server: Container,
    world: World,
    folder: PathBuf,
}

impl Site {
    fn new(keys: &str) -> Self {
        Self::of(&image(), "", keys)
    }

    /// `keys` are those of the server and of the backup `cluster`.
    fn of(image: &str, server_keys: &str, keys: &str) -> Self {
        let world = World::new();
        let folder = world.path("archive");
        std::fs::create_dir(&folder).unwrap();
        let shell = |script: &str| {
            let mut sh = Command::new("sh");
            sh.args(["-ec", script]).env("IMAGE", image).env("ARCHIVE", &folder).env("GROUP", GROUP.to_string());
            let output = run(&mut sh);
            assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        };
        shell(&documented("docker run --rm --user root --entrypoint sh"));
        let command = documented("archive_command").replacen(" = '", "=", 1);
        let command = command.strip_suffix('\'').unwrap();
        let server = Container::run(
            &["--env", "POSTGRES_PASSWORD", "--volume", &format!("{}:/archive", folder.display())],
            image,
            &["postgres", "-c", "archive_mode=on", "-c", command, "-c", "max_wal_senders=10"],
        );
        server.ready();
        world.configure(&format!(
            "[servers.main]\ncontainer = \"{}\"\npassword = {{ env = \"PGVIGIL_TEST_PASSWORD\" }}\n{server_keys}\
             [backups.cluster]\nkind = \"physical\"\nwal = \"archive_command\"\nwal_folder = \"{}\"\ncompression = \"zstd\"\n{keys}",
            server.0,
            folder.display()
        ));
        Site { server, world, folder }
    }

    fn pgvigil(&self, args: &[&str]) -> Ran {
        self.world.pgvigil(args)
    }

    /// What must be true from now on.
    fn check(&self, checks: &str) {
        let text = std::fs::read_to_string(self.world.config()).unwrap();
        std::fs::write(self.world.config(), format!("{text}checks = {{ {checks} }}\n")).unwrap();
    }

    /// Some rows, and the segment that holds them, which is whole then.
    fn rows(&self, from: u32, to: u32) -> String {
        self.server.sql(&format!("insert into t select generate_series({from}, {to})"));
        self.server.sql("select pg_walfile_name(pg_switch_wal())")
    }

    /// Whole segments in the archive, sorted, as PostgreSQL names them.
    fn archived(&self) -> Vec<String> {
        let folder = self.world.store().join("cluster/wal/00000001");
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter_map(|name| Some(name.strip_suffix(".zst")?.to_owned())).collect();
        names.retain(|name| name.len() == 24);
        names.sort();
        names
    }

    /// What lies in the folder.
    fn lying(&self) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn owner(&self) -> String {
        std::fs::read_to_string(self.world.path("state/id")).unwrap().trim().to_owned()
    }

    /// Containers of drills of this installation.
    fn drills(&self) -> Vec<String> {
        let label = format!("label=pgvigil.drill={}", self.owner());
        docker(&["ps", "--all", "--quiet", "--filter", &label]).lines().map(str::to_owned).collect()
    }

    fn drill(&self, id: &str) -> Ran {
        self.pgvigil(&["--json", "verify", id, "--drill"])
    }

    fn begin_drill(&self, id: &str) -> Child {
        let mut command = self.world.command(&["--json", "verify", id, "--drill"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn proofs(&self, id: &str) -> Vec<Value> {
        let mut names: Vec<PathBuf> = std::fs::read_dir(self.world.folder(id)).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("proof-"));
        names.sort();
        names.iter().map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()).collect()
    }
}

fn message(ran: &Ran) -> String {
    ran.json()["error"]["message"].as_str().unwrap_or_else(|| panic!("{ran:#?}")).to_owned()
}

/// Volumes of a container.
fn volumes(container: &str) -> Vec<String> {
    let format = "{{range .Mounts}}{{if .Name}}{{println .Name}}{{end}}{{end}}";
    let inspect = run(Command::new("docker").args(["inspect", "--format", format, container]));
    String::from_utf8(inspect.stdout).unwrap().lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn a_drill_in_a_container_replays_all_and_looks_through_it() {
    let site = Site::new("");
    site.server.sql("create table t (n int primary key)");
    let id = site.world.backup("cluster");
    site.check("ten = \"select count(*) = 10 from t\"");
    // The run has taken in what it needed, without a daemon.
    assert!(!site.archived().is_empty() && site.world.manifest(&id)["physical"]["with_wal"] == false);
    let _daemon = Daemon::start(&site.world);
    let last = site.rows(1, 10);
    until("the segment is archived", || site.archived().contains(&last));

    // Nothing is said of where: it goes where the server is.
    let mut child = site.begin_drill(&id);
    let mut seen = Vec::new();
    while child.try_wait().unwrap().is_none() {
        for container in site.drills() {
            seen.extend(volumes(&container));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["rung"], "matched", "{answer} {}", String::from_utf8_lossy(&output.stderr));
    let left = docker(&["volume", "ls", "--quiet"]);
    assert!(!seen.is_empty() && seen.iter().all(|volume| !left.contains(volume.as_str())), "{seen:?}");
    assert_eq!(site.drills(), [] as [String; 0]);
    let proof = site.proofs(&id).pop().unwrap();
    assert_eq!((&proof["drill"]["on"], &proof["rung"]), (&"container".into(), &"matched".into()), "{proof:#}");
    let status = site.pgvigil(&["--json", "status"]).json();
    assert!(status["backups"][0]["restore_seconds"].as_f64().unwrap() > 0.0, "{status:#}");

    // What came behind the base backup is seen, too.
    let last = site.rows(11, 11);
    until("the segment is archived", || site.archived().contains(&last));
    let ran = site.drill(&id).expect(1);
    assert!(message(&ran).contains("check ten: false"), "{ran:#?}");
    // A segment that is cut is named, and a file of the base backup.
    let segment = site.world.store().join(format!("cluster/wal/00000001/{last}.zst"));
    let base = site.world.folder(&id).join("base.tar.zst");
    for (path, name) in [(segment, last.as_str()), (base, "base.tar.zst")] {
        let bytes = std::fs::read(&path).unwrap();
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 1;
        for damaged in [&bytes[..bytes.len() / 2], &flipped] {
            std::fs::write(&path, damaged).unwrap();
            let ran = site.drill(&id).expect(1);
            assert!(message(&ran).contains(name), "{ran:#?}");
            assert_eq!(site.drills(), [] as [String; 0]);
        }
        std::fs::write(&path, bytes).unwrap();
    }
    site.server.sql("delete from t where n = 11");
    let last = site.server.sql("select pg_walfile_name(pg_switch_wal())");
    until("the segment is archived", || site.archived().contains(&last));
    assert_eq!(site.drill(&id).expect(0).json()["rung"], "matched");
}

#[test]
fn a_base_backup_with_its_log_inside_is_drilled_in_a_container() {
    let world = World::with(crate::common::Server::Exec, "[backups.cluster]\nkind = \"physical\"\ndrill = {}\n");
    let id = world.backup("cluster");
    assert_eq!(world.manifest(&id)["physical"]["with_wal"], true);
    let answer = world.pgvigil(&["--json", "verify", &id, "--drill"]).expect(0).json();
    assert_eq!(answer["rung"], "matched", "{answer}");
    let lines = check_lines(&world.pgvigil(&["--json", "check"]));
    assert!(lines.iter().any(|line| line.contains("drill of cluster") && line.contains("throwaway container")), "{lines:#?}");
}

#[test]
fn tablespaces_are_drilled_in_a_container() {
    let site = Site::of(&image(), "via = \"network\"\n", "");
    site.server.sh("postgres", "echo 'host replication all all scram-sha-256' >>\"$PGDATA/pg_hba.conf\"; mkdir /var/lib/postgresql/far");
    site.server.sql("select pg_reload_conf()");
    site.server.sql("create tablespace far location '/var/lib/postgresql/far'");
    site.server.sql("create table t tablespace far as select generate_series(1, 1000) n");
    let id = site.world.backup("cluster");
    let far = "far = \"select pg_tablespace_location(oid) like '%pgvigil%' from pg_tablespace where spcname = 'far'\"";
    site.check(&format!("all = \"select count(*) = 1000 from t\", {far}"));
    assert_eq!(site.drill(&id).expect(0).json()["rung"], "matched");
    assert_eq!(site.drills(), [] as [String; 0]);
}

#[test]
fn a_chain_is_drilled_in_a_container() {
    let server_keys = format!("via = \"network\"\nbin_dir = \"{}\"\n", programs(18).display());
    let site = Site::of("pgvigil-test/postgres:18", &server_keys, "");
    site.server.sh("postgres", "echo 'host replication all all scram-sha-256' >>\"$PGDATA/pg_hba.conf\"; mkdir /var/lib/postgresql/far");
    for sql in
        ["alter system set summarize_wal = on", "select pg_reload_conf()", "create tablespace far location '/var/lib/postgresql/far'"]
    {
        site.server.sql(sql);
    }
    site.server.sql("create table t (n int) tablespace far");
    let run = |args: &[&str]| {
        site.server.sql("insert into t select count(*) from t");
        let answer = site.pgvigil(&[&["--json", "run", "cluster"], args].concat()).expect(0).json();
        answer["id"].as_str().unwrap().to_owned()
    };
    let whole = run(&[]);
    let first = run(&["--incremental"]);
    let second = run(&["--incremental"]);
    assert_eq!(site.world.manifest(&second)["physical"]["incremental_of"], first.as_str());
    site.check("all = \"select count(*) = 3 from t\"");
    assert_eq!(site.drill(&second).expect(0).json()["rung"], "matched");
    assert_eq!(site.drills(), [] as [String; 0]);
    // What it builds on is looked at as well.
    let base = site.world.folder(&whole).join("base.tar.zst");
    let bytes = std::fs::read(&base).unwrap();
    std::fs::write(&base, &bytes[..bytes.len() / 2]).unwrap();
    let ran = site.drill(&second).expect(1);
    assert!(message(&ran).contains(&whole), "{ran:#?}");
    assert_eq!(site.drills(), [] as [String; 0]);
}

/// An image that lacks a program; it goes with this.
struct Lacking(String);

impl Lacking {
    fn of(program: &str) -> Self {
        let made = Container::run(&["--entrypoint", "sleep"], &image(), &["600"]);
        made.sh("root", &format!("rm \"$(command -v {program})\""));
        let name = format!("pgvigil-test/{}", unique("without"));
        docker(&["commit", "--change", "ENTRYPOINT [\"docker-entrypoint.sh\"]", "--change", "CMD [\"postgres\"]", &made.0, &name]);
        Lacking(name)
    }
}

impl Drop for Lacking {
    fn drop(&mut self) {
        let _ = run(Command::new("docker").args(["image", "rm", "--force", &self.0]));
    }
}

#[test]
fn what_an_image_lacks_is_told_apart() {
    for program in ["pg_amcheck", "tar"] {
        let image = Lacking::of(program);
        let site = Site::of(&image.0, "", "drill = { on = \"container\" }\n");
        site.server.sql("create table t (n int)");
        let id = site.world.backup("cluster");
        let ran = site.drill(&id).expect(3);
        let why = ran.json();
        assert!(ran.stderr.contains("cannot verify") && ran.stderr.contains(&format!("has no {program}")), "{ran:#?}");
        assert_eq!((why["outcome"].as_str(), rungs(&site.world, "cluster")), (Some("problems"), vec!["readable".to_owned()]));
        assert_eq!(site.drills(), [] as [String; 0]);
        let lines = check_lines(&site.pgvigil(&["--json", "check"]));
        assert!(lines.iter().any(|line| line.contains(&format!("has no {program}"))), "{lines:#?}");
    }
}

#[test]
fn a_drill_that_is_told_to_stop_or_killed_leaves_nothing() {
    let site = Site::new("");
    site.server.sql("create table t as select n, repeat(md5(n::text), 10) from generate_series(1, 300000) n");
    let id = site.world.backup("cluster");
    let whole = {
        let began = Instant::now();
        site.drill(&id).expect(0);
        began.elapsed()
    };
    for n in 1..6 {
        let child = site.begin_drill(&id);
        std::thread::sleep(whole * n / 6);
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        let output = child.wait_with_output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        // It may have been quicker.
        assert!(["cancelled", "ok"].contains(&answer["outcome"].as_str().unwrap()), "{answer}");
        assert_eq!(site.drills(), [] as [String; 0], "after {n} sixths");
    }
    for n in 1..6 {
        let mut child = site.begin_drill(&id);
        std::thread::sleep(whole * n / 6);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // A container that was killed before it was a server has ended by itself; the next drill sweeps it.
    assert_eq!(site.drill(&id).expect(0).json()["rung"], "matched");
    assert_eq!(site.drills(), [] as [String; 0]);
    assert_eq!(rungs(&site.world, "cluster"), ["matched"]);
}

fn set_old(path: &Path) {
    stock("touch", &["-d", "10 minutes ago", path.to_str().unwrap()], Path::new("/"));
}

#[test]
fn the_log_is_taken_in_from_a_folder() {
    let site = Site::new("");
    site.server.sql("create table t (n int)");
    let id = site.world.backup("cluster");
    let daemon = Daemon::start(&site.world);
    for n in 0..5 {
        site.rows(n * 100, n * 100 + 99);
    }
    let last = site.rows(500, 500);
    until("all of it is archived", || site.archived().contains(&last));
    until("the folder is empty", || site.lying().is_empty());
    let status = site.pgvigil(&["--json", "wal", "status"]).expect(0).json();
    assert_eq!((&status[0]["gaps"], &status[0]["problems"]), (&serde_json::json!([]), &serde_json::json!([])), "{status}");

    // A store that is away: it waits here, and nothing is lost.
    let (store, away) = (site.world.store(), site.world.path("away"));
    std::fs::rename(&store, &away).unwrap();
    // Nobody may make it anew meanwhile.
    std::fs::write(&store, "").unwrap();
    let first = site.rows(501, 501);
    let last = site.rows(502, 502);
    until("it lies in the folder", || site.lying().contains(&last));
    // PostgreSQL's own are its alone; these are for the group of pgvigil.
    let meta = std::fs::metadata(site.folder.join(&last)).unwrap();
    assert_eq!((meta.mode() & 0o777, meta.gid()), (0o640, GROUP));
    daemon.wait_for_line("log waits in");
    assert!(site.lying().contains(&first));
    std::fs::remove_file(&store).unwrap();
    std::fs::rename(&away, &store).unwrap();
    until("all of it is archived", || site.archived().contains(&first) && site.archived().contains(&last));
    until("the folder is empty", || site.lying().is_empty());

    // The same again, as after a crash of the server; and another under its name.
    let unpacked = stock("zstd", &["-dc", &format!("cluster/wal/00000001/{last}.zst")], &store);
    std::fs::write(site.folder.join(&last), &unpacked).unwrap();
    until("the same is taken", || site.lying().is_empty());
    let mut other = unpacked.clone();
    other[5_000_000] ^= 1;
    std::fs::write(site.folder.join(&last), &other).unwrap();
    set_old(&site.folder.join(&last));
    assert!(daemon.wait_for_line("with other bytes").contains(&last));
    std::fs::remove_file(site.folder.join(&last)).unwrap();

    // What is no file of the log, or none of this cluster, stays, is told, and blocks nothing.
    let mut foreign = unpacked.clone();
    foreign[24] ^= 1;
    let (cut, of_another) = ("000000010000000000000001", "000000010000000000000002");
    for (name, bytes) in [
        ("notes.txt", &b"x"[..]),
        (".0000000100000000000000AA.tmp", b"x"),
        ("0000000100000000000000AB.partial", &unpacked),
        (cut, &unpacked[..1_000_000]),
    ] {
        std::fs::write(site.folder.join(name), bytes).unwrap();
    }
    // Its place must be the one of its name.
    foreign[8..16].copy_from_slice(&(2u64 * (16 << 20)).to_ne_bytes());
    std::fs::write(site.folder.join(of_another), &foreign).unwrap();
    std::os::unix::fs::symlink(site.folder.join("notes.txt"), site.folder.join("0000000100000000000000AC")).unwrap();
    for name in [cut, of_another] {
        set_old(&site.folder.join(name));
    }
    let last = site.rows(503, 510);
    until("what comes behind is archived", || site.archived().contains(&last));
    let ran = site.pgvigil(&["--json", "wal", "status"]).expect(3);
    let problems = ran.json()[0]["problems"].to_string();
    for words in [
        "notes.txt",
        "0000000100000000000000AC",
        &format!("{cut} in "),
        "it has 1000000 bytes",
        &format!("{of_another} in "),
        "it is of cluster",
    ] {
        assert!(problems.contains(words), "{words}: {problems}");
    }
    assert!(!problems.contains(".tmp") && !problems.contains("partial"), "{problems}");
    daemon.wait_for_line("the archive of cluster is of cluster");
    let left =
        ["0000000100000000000000AB.partial", "0000000100000000000000AC", "notes.txt", ".0000000100000000000000AA.tmp", cut, of_another];
    assert!(left.iter().all(|name| site.lying().contains(&(*name).to_owned())), "{:?}", site.lying());
    for name in left {
        std::fs::remove_file(site.folder.join(name)).unwrap();
    }
    assert_eq!(site.drill(&id).expect(0).json()["rung"], "matched");
}

#[test]
fn a_folder_that_is_not_there_is_told() {
    let site = Site::new("");
    site.server.sql("create table t (n int)");
    site.world.backup("cluster");
    let daemon = Daemon::start(&site.world);
    let away = site.world.path("elsewhere");
    std::fs::rename(&site.folder, &away).unwrap();
    let lines = check_lines(&site.pgvigil(&["--json", "check"]).expect(1));
    assert!(lines.iter().any(|line| line.starts_with("backup cluster | error | cannot use the folder of the log")), "{lines:#?}");
    let ran = site.pgvigil(&["--json", "run", "cluster"]).expect(1);
    assert!(message(&ran).contains("cannot use the folder of the log"), "{ran:#?}");
    daemon.wait_for_line("log waits in");
    // The daemon looks every minute.
    let deadline = Instant::now() + Duration::from_secs(100);
    let alert = loop {
        let status = site.pgvigil(&["--json", "status"]).json();
        let alert = status["alerts"].as_array().unwrap().iter().find(|alert| alert["key"] == "backup/cluster/wal").cloned();
        if let Some(alert) = alert {
            break alert;
        }
        assert!(Instant::now() < deadline, "{status:#}");
        std::thread::sleep(Duration::from_millis(500));
    };
    assert!(alert["summary"].as_str().unwrap().contains("cannot use the folder of the log"), "{alert}");
    std::fs::rename(&away, &site.folder).unwrap();
    let last = site.rows(1, 1);
    until("it is taken in", || site.archived().contains(&last));
}

#[test]
fn faults_of_the_file() {
    for (keys, words) in [
        ("kind = \"physical\"\nwal = \"stream\"\nwal_folder = \"/srv/archive\"", "set wal = \"archive_command\""),
        ("kind = \"physical\"\nwal_folder = \"/srv/archive\"", "set wal = \"archive_command\""),
        ("kind = \"physical\"\nwal = \"archive_command\"\nwal_folder = \"archive\"", "absolute"),
        ("database = \"x\"\nwal_folder = \"/srv/archive\"", "physical"),
    ] {
        let world = World::new();
        world.configure(&format!("[servers.main]\nhost = \"127.0.0.1\"\n[backups.x]\n{keys}\n"));
        let told = world.pgvigil(&["check", "--offline"]).expect(78).stdout;
        assert!(told.contains(words), "{keys}: {told}");
    }
}

/// What docs/pitr.md says to be typed for a folder as a container.
fn as_a_container(dir: &Path, image: &str) -> Container {
    let name = unique("pgvigil-test-restored");
    let labels = format!("--label pgvigil.test=1 --label pgvigil.test.pid={}", std::process::id());
    let start = documented("docker run --detach --name restored").replacen(
        "--name restored",
        &format!("--name {name} {labels} --user postgres"),
        1,
    );
    for line in [documented("docker run --rm --user root --entrypoint chown"), start] {
        let output = run(Command::new("sh").args(["-ec", &line]).env("IMAGE", image).env("DIR", dir));
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Container(name)
}

#[test]
fn a_moment_restored_with_its_log_recovers_in_a_container() {
    let site = Site::new("");
    site.server.sql("create table t (n int)");
    site.world.backup("cluster");
    let _daemon = Daemon::start(&site.world);
    site.rows(1, 100);
    let at = site.server.sql("select clock_timestamp() at time zone 'UTC' || ' UTC'");
    for n in 2..6 {
        site.rows(n * 100, n * 100 + 9);
    }
    let last = site.rows(1000, 1000);
    until("all of it is archived", || site.archived().contains(&last));
    let dir = site.world.path("moment");
    let ran = site.pgvigil(&["restore", "cluster/latest", "--at", &at, "--target-dir", dir.to_str().unwrap(), "--with-wal"]).expect(0);
    assert!(ran.stdout.contains("docker run -v"), "{ran:#?}");
    // No more of the log than the moment needs.
    let laid = std::fs::read_dir(dir.join("pgvigil_wal")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let laid: Vec<String> = laid.collect();
    assert!(!laid.is_empty() && !laid.contains(&last) && laid.len() < site.archived().len(), "{laid:?}");
    let restored = as_a_container(&dir, &image());
    restored.ready();
    until("it is promoted", || restored.sql("select pg_is_in_recovery()") == "f");
    assert_eq!(restored.sql("select count(*) from t"), "100", "{}", restored.log());
    assert!(restored.log().contains("recovery stopping before commit"), "{}", restored.log());
    assert_eq!(restored.sql("show archive_mode"), "off");
    restored.sql("insert into t values (0)");
    until("the log beside it is gone", || !dir.join("pgvigil_wal").exists());

    // All there is.
    let dir = site.world.path("latest");
    site.pgvigil(&["restore", "cluster/latest", "--latest", "--target-dir", dir.to_str().unwrap(), "--with-wal"]).expect(0);
    let restored = as_a_container(&dir, &image());
    restored.ready();
    until("it is promoted", || restored.sql("select pg_is_in_recovery()") == "f");
    assert_eq!(restored.sql("select count(*) from t"), "141", "{}", restored.log());
    assert_eq!(site.server.sql("select count(*) from t"), "141");
}

#[test]
fn a_container_is_streamed_from_with_the_line_that_check_prints() {
    let world = World::new();
    let server = Container::run(&["--env", "POSTGRES_PASSWORD"], &image(), &["postgres", "-c", "max_wal_senders=10"]);
    server.ready();
    // By exec, as is the default: the log goes over the network all the same.
    world.configure(&format!(
        "[servers.main]\ncontainer = \"{}\"\npassword = {{ env = \"PGVIGIL_TEST_PASSWORD\" }}\n\
         [backups.cluster]\nkind = \"physical\"\nwal = \"stream\"\ncompression = \"zstd\"\n",
        server.0
    ));
    let check = || check_lines(&world.pgvigil(&["--json", "check"]));
    let lines = check();
    let line = lines.iter().find_map(|line| line.split_once("add to pg_hba.conf of the server, and reload it: "));
    let (_, line) = line.unwrap_or_else(|| panic!("{lines:#?}"));
    let line = line.lines().next().unwrap().trim();
    server.sh("postgres", &format!("echo '{line}' >> \"$PGDATA/pg_hba.conf\""));
    server.sql("select pg_reload_conf()");
    until("the line is enough", || !check().iter().any(|line| line.contains("pg_hba.conf")));
    server.sql("create table t (n int)");
    let daemon = Daemon::start(&world);
    daemon.wait_for_line("receiving the log");
    let id = world.backup("cluster");
    server.sql("insert into t values (1)");
    let last = server.sql("select pg_walfile_name(pg_switch_wal())");
    server.sql("insert into t values (2)");
    let folder = world.store().join("cluster/wal/00000001");
    until("all of it is archived", || folder.join(format!("{last}.zst")).exists());
    let answer = world.pgvigil(&["--json", "verify", &id, "--drill"]).expect(0).json();
    assert_eq!(answer["rung"], "matched", "{answer}");
}
