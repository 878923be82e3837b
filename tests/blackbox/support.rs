//! What several subjects need beside the worlds.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::common::{Server, World, password, run, unique, var};

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The folder of PostgreSQL's programs of a major version.
pub fn programs(major: u32) -> PathBuf {
    PathBuf::from(var(&format!("PGVIGIL_TEST_PG{major}_BIN")))
}

/// Whether the campaigns run at full size.
pub fn long() -> bool {
    std::env::var("PGVIGIL_TEST_LONG").is_ok_and(|value| value == "1")
}

/// Of a random campaign: another one each time, unless it is given.
pub fn seed() -> u64 {
    let given = std::env::var("PGVIGIL_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) >> 32)
}

/// What is left in the spool: all but the folder for the files of whoever works just now, where that is empty.
pub fn in_spool(world: &World) -> Vec<PathBuf> {
    let in_folder = |path: &str| std::fs::read_dir(world.path(path)).into_iter().flatten().map(|entry| entry.unwrap().path());
    in_folder("state/spool").filter(|path| !path.ends_with("files")).chain(in_folder("state/spool/files")).collect()
}

/// A folder of programs, some of them replaced by scripts. A script finds the real programs in
/// `$real`, and answers `--version` like the real one.
pub fn bin_dir(world: &World, major: u32, scripts: &[(&str, &str)]) -> PathBuf {
    let dir = world.path("bin");
    std::fs::create_dir(&dir).unwrap();
    for program in ["psql", "pg_dump", "pg_dumpall", "pg_restore"] {
        let path = dir.join(program);
        let real = programs(major);
        match scripts.iter().find(|(name, _)| *name == program) {
            Some((_, script)) => {
                let text = format!(
                    "#!/bin/bash\nreal={}\nworld={}\n[ \"$1\" != --version ] || exec \"$real\"/{program} --version\n{script}\n",
                    real.display(),
                    world.path("").display()
                );
                std::fs::write(&path, text).unwrap();
                std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            }
            None => symlink(real.join(program), &path).unwrap(),
        }
    }
    dir
}

/// A psql that stays connected, to hold a transaction open.
pub struct Psql {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Psql {
    pub fn connect(server: Server, database: &str) -> Self {
        let mut command = server.tool("psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Psql { child, stdin, stdout }
    }

    /// Returns when the statements are done.
    pub fn done(&mut self, sql: &str) {
        writeln!(self.stdin, "{sql};\n\\echo done").unwrap();
        let mut line = String::new();
        while line.trim() != "done" {
            line.clear();
            assert_ne!(self.stdout.read_line(&mut line).unwrap(), 0, "psql has ended: {sql}");
        }
    }
}

impl Drop for Psql {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again until the answer is yes. The bound is only there so that a failure has a name.
#[track_caller]
pub fn until(what: &str, mut yes: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while !yes() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// A small file system of a test's own.
pub struct Tmpfs<'a>(&'a Path);

impl<'a> Tmpfs<'a> {
    /// `size` as `mount` takes it.
    pub fn mount(path: &'a Path, size: &str) -> Self {
        std::fs::create_dir_all(path).unwrap();
        stock("mount", &["-t", "tmpfs", "-o", &format!("size={size},mode=700"), "tmpfs", path.to_str().unwrap()], Path::new("/"));
        Tmpfs(path)
    }
}

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("--lazy").arg(self.0));
    }
}

/// The output of a stock tool, which must succeed.
#[track_caller]
pub fn stock(program: &str, args: &[&str], dir: &Path) -> Vec<u8> {
    let output = Command::new(program).args(args).current_dir(dir).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The rungs of a backup's entries in the catalog, newest first.
pub fn rungs(world: &World, backup: &str) -> Vec<String> {
    let list = world.pgvigil(&["--json", "list", backup]).json();
    list.as_array().unwrap().iter().map(|entry| entry["rung"].as_str().unwrap().to_owned()).collect()
}

/// The lines of `check`, as `subject level message hint`.
pub fn check_lines(ran: &crate::common::Ran) -> Vec<String> {
    let field = |line: &serde_json::Value, key: &str| line[key].as_str().unwrap_or("-").to_owned();
    let lines = ran.json();
    let lines = lines.as_array().unwrap().iter();
    lines.map(|line| ["subject", "level", "message", "hint"].map(|key| field(line, key)).join(" | ")).collect()
}

/// A role of a test's own. It goes with this, so it is declared before what it owns.
pub struct Role {
    server: Server,
    pub name: String,
}

impl Role {
    pub fn create(server: Server, options: &str) -> Self {
        let name = unique("role");
        server.sql("postgres", &format!("create role {name} {options}"));
        Role { server, name }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let drop = format!("drop role if exists {}", self.name);
        let _ = run(self.server.tool("psql").args(["-X", "-q", "-d", "postgres", "-c", &drop]));
    }
}

/// A server of a test's own, over TCP and its socket; for what would disturb the others.
pub struct Cluster {
    major: u32,
    dir: tempfile::TempDir,
    pub port: u16,
}

impl Cluster {
    /// `settings` are lines of postgresql.conf, `files` are copied into the data directory.
    pub fn start(major: u32, settings: &str, files: &[&Path]) -> Self {
        let dir = tempfile::Builder::new().prefix("pgvigil-cluster.").tempdir().unwrap();
        std::fs::write(dir.path().join("password"), format!("{}\n", password())).unwrap();
        own(dir.path());
        let data = dir.path().join("data");
        as_postgres(programs(major).join("initdb").as_os_str(), |initdb| {
            initdb.args(["--no-sync", "--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]);
            initdb.arg(format!("--pgdata={}", data.display())).arg(format!("--pwfile={}", dir.path().join("password").display()));
        });
        for file in files {
            let copy = data.join(file.file_name().unwrap());
            std::fs::copy(file, &copy).unwrap();
            std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o600)).unwrap();
        }
        Cluster::serve(major, dir, settings)
    }

    /// A standby of another, which follows it.
    pub fn standby_of(primary: &Cluster) -> Self {
        let dir = tempfile::Builder::new().prefix("pgvigil-standby.").tempdir().unwrap();
        own(dir.path());
        as_postgres(programs(primary.major).join("pg_basebackup").as_os_str(), |copy| {
            copy.args(["--no-sync", "--checkpoint=fast", "--username=postgres", "--no-password"]);
            copy.arg(format!("--host={}", primary.host())).arg(format!("--port={}", primary.port));
            copy.arg(format!("--pgdata={}", dir.path().join("data").display())).env("PGPASSWORD", password());
        });
        std::fs::write(dir.path().join("data/standby.signal"), "").unwrap();
        // What pg_basebackup would write takes options that an older libpq, which a server may be linked to, knows nothing of.
        let reach = format!("host={} port={} user=postgres", primary.host(), primary.port);
        Cluster::serve(primary.major, dir, &format!("primary_conninfo = '{reach}'"))
    }

    /// Starts the one that lies in a folder, on a port that is free.
    fn serve(major: u32, dir: tempfile::TempDir, settings: &str) -> Self {
        let data = dir.path().join("data");
        let mut conf = std::fs::read_to_string(data.join("postgresql.conf")).unwrap();
        conf += &format!("fsync = off\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\n{settings}\n", dir.path().display());
        for _ in 0..8 {
            // The final word on whether it is free is the server's own bind.
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            std::fs::write(data.join("postgresql.conf"), format!("{conf}port = {port}\n")).unwrap();
            own(dir.path());
            let log = dir.path().join("log");
            let started = postgres_command(programs(major).join("pg_ctl").as_os_str())
                .args(["start", "-s", "-w", "-t", "60", "-D"])
                .arg(&data)
                .arg("-l")
                .arg(&log)
                .env("PGPASSWORD", password())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .status()
                .unwrap();
            if started.success() {
                return Cluster { major, dir, port };
            }
            let log = std::fs::read_to_string(log).unwrap_or_default();
            assert!(log.contains("could not bind"), "{log}");
        }
        panic!("no port is free");
    }

    /// The folder of its socket, with a file for whatever else belongs to it.
    pub fn host(&self) -> String {
        self.dir.path().display().to_string()
    }

    pub fn tool(&self, program: &str) -> Command {
        let mut command = Command::new(programs(self.major).join(program));
        command.env("PGHOST", self.dir.path()).env("PGPORT", self.port.to_string());
        command.env("PGUSER", "postgres").env("PGPASSWORD", password());
        command
    }

    /// What the server answers in its database `postgres`.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        self.sql_in("postgres", sql)
    }

    pub fn sql_in(&self, database: &str, sql: &str) -> String {
        let output = run(self.tool("psql").args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql]));
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }
}

impl Cluster {
    /// A line for whom it lets in, before all others.
    pub fn let_in(&self, line: &str) {
        let file = self.dir.path().join("data/pg_hba.conf");
        let others = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{line}\n{others}")).unwrap();
        let before = self.sql("select pg_conf_load_time()");
        self.sql("select pg_reload_conf()");
        until("it is let in", || self.sql("select pg_conf_load_time()") != before);
    }

    /// Ends it as a loss of its machine would.
    pub fn stop(&self) {
        let data = self.dir.path().join("data");
        let _ = postgres_command(programs(self.major).join("pg_ctl").as_os_str())
            .args(["stop", "-s", "-m", "immediate", "-D"])
            .arg(data)
            .status();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// PostgreSQL refuses to run as root.
pub fn postgres_command(program: &std::ffi::OsStr) -> Command {
    if !nix::unistd::Uid::effective().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program).current_dir("/");
    command
}

fn as_postgres(program: &std::ffi::OsStr, arguments: impl FnOnce(&mut Command)) {
    let mut command = postgres_command(program);
    arguments(&mut command);
    let output = run(&mut command);
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Gives a folder to the user that PostgreSQL runs as.
pub fn own(dir: &Path) {
    if nix::unistd::Uid::effective().is_root() {
        stock("chown", &["-R", "postgres:", &dir.display().to_string()], Path::new("/"));
    }
}

/// The same command as another user.
pub fn as_user(user: &str, command: &Command) -> Command {
    let mut other = Command::new("setpriv");
    other
        .arg(format!("--reuid={user}"))
        .args(["--regid=nogroup", "--clear-groups", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    other.current_dir("/").stdin(Stdio::null());
    other
}
