//! Backups in a bucket and on another host: alone or beside a local store, found again without anything
//! but the store, the file and the keys; and by stock tools without us.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::daemon::{Daemon, alerts, until};
use crate::common::{Database, Server, World, unique};
use crate::support::{repository, stock};

/// The section of a store in a bucket of the tests, in a place of its own.
pub fn bucket(name: &str, endpoint: &str, prefix: &str, key: &str) -> String {
    format!(
        "[stores.{name}]\ns3 = {{ bucket = \"pgvigil\", prefix = \"{prefix}\", endpoint = \"{endpoint}\" }}\naccess_key_id = \"{key}\"\nsecret_access_key = \"secret-of-{key}\"\n"
    )
}

/// The address of the S3 server of the tests.
pub fn s3() -> String {
    let answer = stock(repository("tests/support/s3-server").to_str().unwrap(), &[], Path::new("/"));
    String::from_utf8(answer).unwrap().trim().to_owned()
}

/// An sshd of a test's own, and the keys to it.
pub struct Sshd {
    dir: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Sshd {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        for key in ["host_key", "key"] {
            stock("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &at(key)], dir.path());
        }
        std::fs::copy(at("key.pub"), at("authorized_keys")).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host_key = std::fs::read_to_string(at("host_key.pub")).unwrap();
        std::fs::write(at("known_hosts"), format!("[127.0.0.1]:{port} {host_key}")).unwrap();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nPasswordAuthentication no\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n",
            at("host_key"),
            at("authorized_keys")
        );
        std::fs::write(at("config"), config).unwrap();
        std::fs::create_dir_all("/run/sshd").unwrap();
        let child = Command::new("/usr/sbin/sshd").args(["-D", "-e", "-f", &at("config")]).stderr(Stdio::null()).spawn().unwrap();
        let sshd = Sshd { dir, port, child };
        until("sshd listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(()));
        sshd
    }

    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("kept")
    }

    pub fn section(&self, name: &str) -> String {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        format!(
            "[stores.{name}]\nssh = {{ host = \"127.0.0.1\", port = {}, user = \"root\", path = \"{}\", identity = \"{}\", known_hosts = \"{}\" }}\n",
            self.port,
            self.folder().display(),
            at("key"),
            at("known_hosts")
        )
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A world whose file has no store but those given.
fn world(database: &Database, stores: &str, backup: &str) -> World {
    let world = World::new();
    configure(&world, database, stores, backup);
    world
}

fn configure(world: &World, database: &Database, stores: &str, backup: &str) {
    let text = format!(
        "state_dir = \"{}\"\n{}{stores}[backups.x]\ndatabase = \"{}\"\n{backup}\n",
        world.path("state").display(),
        database.server.section(),
        database.name
    );
    std::fs::write(world.config(), text).unwrap();
}

/// Restores a backup into a new database, and says how many orders are in it.
fn restored(world: &World, id: &str, more: &[&str]) -> String {
    let target = unique("again");
    let mut args = vec!["--json", "restore", id, "--to-database", &target];
    args.extend(more);
    let answer = world.pgvigil(&args).expect(0).json();
    assert_eq!(answer["outcome"], "ok", "{answer:#}");
    let count = Server::Pg15.sql(&target, "select count(*) from orders");
    Server::Pg15.sql("postgres", &format!("drop database \"{target}\""));
    count
}

#[test]
fn a_store_elsewhere_may_be_the_only_one() {
    let (endpoint, sshd) = (s3(), Sshd::start());
    let database = Database::sample(Server::Pg15);
    let orders = database.sql("select count(*) from orders");
    for store in [bucket("away", &endpoint, &unique("only"), "admin"), sshd.section("away")] {
        for format in ["plain", "custom", "directory"] {
            let world = world(&database, &store, &format!("format = \"{format}\"\nevidence = \"content\""));
            let check = world.pgvigil(&["check"]);
            assert!(check.stdout.contains("store away") && !check.stdout.contains("FAILED"), "{check:#?}");
            let id = world.backup("x");
            assert_eq!(world.pgvigil(&["--json", "verify", &id]).expect(0).json()["rung"], "readable", "{format}");
            let drilled = world.pgvigil(&["--json", "verify", &id, "--drill"]).expect(0).json();
            assert_eq!(drilled["rung"], "matched", "{format}: {drilled:#}");
            assert_eq!(restored(&world, &id, &[]), orders, "{format}");
            assert!(world.pgvigil(&["cat", &id, "RESTORE.md"]).expect(0).stdout.contains("restore"));
            // A new machine has the file and the keys.
            std::fs::remove_dir_all(world.path("state")).unwrap();
            let rebuilt = world.pgvigil(&["rebuild"]).expect(0);
            assert!(rebuilt.stdout.contains(&id), "{rebuilt:#?}");
            let list = world.pgvigil(&["--json", "list"]).expect(0).json();
            assert_eq!((&list[0]["id"], &list[0]["rung"]), (&id.as_str().into(), &"matched".into()), "{list:#}");
            assert_eq!(restored(&world, "x/latest", &[]), orders, "{format}");
            let pruned = world.pgvigil(&["--json", "prune"]).expect(0).json();
            assert_eq!(pruned["kept"].as_array().unwrap().len(), list.as_array().unwrap().len(), "{pruned:#}");
        }
    }
}

#[test]
fn a_bucket_beside_a_folder_receives_and_gives_back() {
    let endpoint = s3();
    let database = Database::sample(Server::Pg15);
    let orders = database.sql("select count(*) from orders");
    let prefix = unique("beside");
    let world = World::new();
    let local = format!("[stores.local]\npath = \"{}\"\n", world.store().display());
    let keys = "stores = [\"local\", \"away\"]\nkeep = { last = 2 }";
    // An address that nobody answers at: the primary has its backup, and the bucket is behind.
    let dead = bucket("away", "http://127.0.0.1:9", &prefix, "admin");
    configure(&world, &database, &format!("{local}{dead}"), keys);
    let ran = world.pgvigil(&["--json", "run", "x"]).expect(3).json();
    assert_eq!(ran["rung"], "readable", "{ran:#}");
    let status = world.pgvigil(&["--json", "status"]).expect(3).json();
    assert!(alerts(&status).contains(&"store/away/unreadable"), "{status:#}");
    configure(&world, &database, &format!("{local}{}", bucket("away", &endpoint, &prefix, "admin")), keys);
    let id = world.backup("x");
    let list = world.pgvigil(&["--json", "list", "x"]).expect(0).json();
    for entry in list.as_array().unwrap() {
        assert_eq!(entry["stores"].as_array().unwrap().len(), 2, "{entry:#}");
    }
    // The house burns down.
    std::fs::remove_dir_all(world.store()).unwrap();
    assert_eq!(restored(&world, &id, &["--store", "away"]), orders);
    let drilled = world.pgvigil(&["--json", "verify", &id, "--drill", "--store", "away"]).expect(0).json();
    assert_eq!(drilled["rung"], "matched", "{drilled:#}");
}

#[test]
fn keys_that_may_not_delete_are_a_way_of_working() {
    let endpoint = s3();
    let database = Database::empty(Server::Pg15);
    database.sql("create table t as select 1 as i");
    let store = bucket("away", &endpoint, &unique("putonly"), "writer");
    let world = world(&database, &store, "keep = { last = 1 }\nevidence = \"off\"\nglobals = false");
    let check = world.pgvigil(&["check"]);
    assert!(!check.stdout.contains("FAILED"), "{check:#?}");
    let first = world.backup("x");
    world.backup("x");
    // What could not be deleted is reported, and is no failure.
    let pruned = world.pgvigil(&["--json", "prune", "x"]).expect(0).json();
    let kept = pruned["kept"].as_array().unwrap();
    assert!(pruned["deleted"].as_array().unwrap().is_empty() && kept.len() == 2, "{pruned:#}");
    assert_eq!((&kept[1]["id"], &kept[1]["reasons"][0]), (&first.as_str().into(), &"cannot be deleted".into()), "{pruned:#}");
    let status = world.pgvigil(&["--json", "status"]).json();
    assert!(alerts(&status).is_empty(), "{status:#}");
}

/// With nothing of ours: what is in the bucket, and what RESTORE.md says.
#[test]
fn the_bucket_alone_is_enough() {
    let endpoint = s3();
    let database = Database::sample(Server::Pg15);
    let prefix = unique("alone");
    let world = world(&database, &bucket("away", &endpoint, &prefix, "admin"), "");
    let id = world.backup("x");
    let dir = tempfile::tempdir().unwrap();
    let from =
        format!(":s3,provider=Other,endpoint='{endpoint}',access_key_id=admin,secret_access_key=secret-of-admin:pgvigil/{prefix}/{id}");
    // rclone takes no certificates of the environment.
    stock("env", &["-u", "AWS_CA_BUNDLE", "rclone", "--config", "/dev/null", "copy", &from, dir.path().to_str().unwrap()], dir.path());
    let page = std::fs::read_to_string(dir.path().join("RESTORE.md")).unwrap();
    assert!(page.contains("gunzip") && page.contains("psql"), "{page}");
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.path().join("manifest.json")).unwrap()).unwrap();
    let dump = manifest["files"].as_array().unwrap().iter().find(|file| file["role"] == "dump").unwrap();
    let sum = format!("{}  {}\n", dump["sha256"].as_str().unwrap(), dump["name"].as_str().unwrap());
    std::fs::write(dir.path().join("sums"), sum).unwrap();
    stock("sha256sum", &["--check", "sums"], dir.path());
    let target = Database::empty(Server::Pg15);
    let psql = format!(
        "gunzip -c {} | PGPASSWORD='{}' psql -X -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -p {} -U postgres -d {}",
        dump["name"].as_str().unwrap(),
        crate::common::password().replace('\'', "'\\''"),
        crate::common::var("PGVIGIL_TEST_PG15_PORT"),
        target.name
    );
    stock("bash", &["-c", &psql], dir.path());
    assert_eq!(target.sql("select count(*) from orders"), database.sql("select count(*) from orders"));
}

#[test]
fn the_daemon_fills_a_bucket_and_another_host() {
    let (endpoint, sshd) = (s3(), Sshd::start());
    let database = Database::sample(Server::Pg15);
    let world = World::new();
    let stores = format!(
        "[stores.local]\npath = \"{}\"\n{}{}",
        world.store().display(),
        bucket("bucket", &endpoint, &unique("daemon"), "admin"),
        sshd.section("host")
    );
    configure(
        &world,
        &database,
        &stores,
        "stores = [\"local\", \"bucket\", \"host\"]\nschedule = \"*/5 * * * * *\"\nkeep = { last = 9 }\nevidence = \"off\"",
    );
    let daemon = Daemon::start(&world);
    daemon.wait_for_line("store=bucket copied=");
    daemon.wait_for_line("store=host copied=");
    let log = daemon.stop();
    assert!(!log.contains("ERROR"), "{log}");
    let list = world.pgvigil(&["--json", "list", "x"]).json();
    let everywhere = list.as_array().unwrap().iter().filter(|entry| entry["stores"].as_array().unwrap().len() == 3).count();
    assert!(everywhere > 0, "{list:#}");
    assert!(sshd.folder().join("x/latest").is_symlink());
}
