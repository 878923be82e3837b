//! What the tests stand on: real servers (started by `tests/support/with-servers`), a world of
//! their own for each test, and the program as its users run it.

pub mod daemon;
pub mod forge;
pub mod scene;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

/// A variable of `tests/support/with-servers`.
pub fn var(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests by `make test`, or under tests/support/with-servers"))
}

pub fn password() -> String {
    var("PGVIGIL_TEST_PASSWORD")
}

pub fn container() -> String {
    var("PGVIGIL_TEST_CONTAINER")
}

/// The servers at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// PostgreSQL 15 on this machine, over TCP.
    Pg15,
    /// PostgreSQL 18 on this machine, over its socket.
    Pg18,
    /// PostgreSQL 15 in the container, by exec.
    Exec,
    /// The same, over the network.
    Network,
}

impl Server {
    /// Its section of the configuration, under the name `main`.
    pub fn section(self) -> String {
        let password = "password = { env = \"PGVIGIL_TEST_PASSWORD\" }";
        match self {
            Server::Pg15 => format!("[servers.main]\nhost = \"127.0.0.1\"\nport = {}\n{password}\n", var("PGVIGIL_TEST_PG15_PORT")),
            Server::Pg18 => format!(
                "[servers.main]\nsocket = \"{}\"\nport = {}\nbin_dir = \"{}\"\n{password}\n",
                var("PGVIGIL_TEST_PG18_SOCKET"),
                var("PGVIGIL_TEST_PG18_PORT"),
                var("PGVIGIL_TEST_PG18_BIN")
            ),
            Server::Exec => format!("[servers.main]\ncontainer = \"{}\"\n{password}\n", container()),
            Server::Network => format!("[servers.main]\ncontainer = \"{}\"\nvia = \"network\"\n{password}\n", container()),
        }
    }

    /// A program of PostgreSQL connected to it as superuser.
    pub fn tool(self, program: &str) -> Command {
        let mut command = match self {
            Server::Exec | Server::Network => {
                let mut command = Command::new("docker");
                command.args(["exec", "-i", "-e", "PGUSER=postgres", &container(), program]);
                command
            }
            Server::Pg15 | Server::Pg18 => {
                let n = if self == Server::Pg15 { "15" } else { "18" };
                let mut command = Command::new(Path::new(&var(&format!("PGVIGIL_TEST_PG{n}_BIN"))).join(program));
                command.env("PGHOST", var(&format!("PGVIGIL_TEST_PG{n}_SOCKET"))).env("PGPORT", var(&format!("PGVIGIL_TEST_PG{n}_PORT")));
                command
            }
        };
        command.env("PGUSER", "postgres").env("PGPASSWORD", password());
        command
    }

    /// The answer of psql, unaligned, without headers.
    pub fn sql(self, database: &str, sql: &str) -> String {
        let conninfo = format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"));
        let output = run(self.tool("psql").args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", &conninfo, "-c", sql]));
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }
}

/// A database of a test's own, a copy of the sample; dropped at the end.
pub struct Database {
    pub server: Server,
    pub name: String,
}

impl Database {
    /// A copy of the sample.
    pub fn sample(server: Server) -> Self {
        Self::create(server, &unique("db"), "sample")
    }

    pub fn empty(server: Server) -> Self {
        Self::create(server, &unique("db"), "template0")
    }

    pub fn create(server: Server, name: &str, template: &str) -> Self {
        let quoted = name.replace('"', "\"\"");
        server.sql("postgres", &format!("create database \"{quoted}\" template {template} strategy file_copy"));
        Database { server, name: name.to_owned() }
    }

    pub fn sql(&self, sql: &str) -> String {
        self.server.sql(&self.name, sql)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let quoted = self.name.replace('"', "\"\"");
        let drop = format!("drop database if exists \"{quoted}\" with (force)");
        let _ = run(self.server.tool("psql").args(["-X", "-q", "-d", "postgres", "-c", &drop]));
    }
}

/// A name that no other test of this run has.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Folders and a configuration of a test's own.
pub struct World {
    dir: tempfile::TempDir,
}

/// What a command of the program did.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// The one JSON document that stdout must hold.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }
}

impl World {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("pgvigil-world.").tempdir().unwrap();
        World { dir }
    }

    /// A world with the server, a local store and the sections given.
    pub fn with(server: Server, sections: &str) -> Self {
        let world = World::new();
        world.configure(&format!("{}{sections}", server.section()));
        world
    }

    /// Writes the configuration: state_dir, the store `local`, and the sections given.
    pub fn configure(&self, sections: &str) {
        std::fs::write(self.config(), self.text(sections)).unwrap();
    }

    fn text(&self, sections: &str) -> String {
        format!(
            "timezone = \"Europe/Vienna\"\nstate_dir = \"{}\"\n[stores.local]\npath = \"{}\"\n{sections}",
            self.path("state").display(),
            self.store().display()
        )
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn config(&self) -> PathBuf {
        self.path("pgvigil.toml")
    }

    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// The folder of a backup by its ID.
    pub fn folder(&self, id: &str) -> PathBuf {
        self.store().join(id)
    }

    /// The program, set up to run here.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgvigil"));
        command.arg("--config").arg(self.config()).args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    pub fn pgvigil(&self, args: &[&str]) -> Ran {
        ran(&mut self.command(args))
    }

    /// Runs a backup that must succeed, and returns its ID.
    #[track_caller]
    pub fn backup(&self, name: &str) -> String {
        let answer = self.pgvigil(&["--json", "run", name]).expect(0).json();
        answer["id"].as_str().unwrap().to_owned()
    }

    pub fn manifest(&self, id: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.folder(id).join("manifest.json")).unwrap()).unwrap()
    }

    /// Names in the folder of a backup in the store, hidden ones too, sorted.
    pub fn names(&self, backup: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.store().join(backup))
            .map(|entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
            .unwrap_or_default();
        names.sort();
        names
    }
}

/// Runs a command of the program to its end.
pub fn ran(command: &mut Command) -> Ran {
    let output = run(command);
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
