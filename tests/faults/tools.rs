//! Chance with a seed, waiting for events, scripts in the place of programs, containers and file
//! systems of a test's own.

pub use crate::common::daemon::{PATIENCE, until};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{password, run, unique, var};

/// Whether the campaigns run at full size.
pub fn long() -> bool {
    std::env::var("PGVIGIL_TEST_LONG").is_ok_and(|value| value == "1")
}

/// The size of a campaign.
pub fn scale(short: usize, full: usize) -> usize {
    if long() { full } else { short }
}

/// Random numbers (splitmix64), the same for the same seed.
pub struct Chance(u64);

impl Chance {
    /// Prints the seed, so that a failure can be repeated.
    pub fn new() -> Self {
        let seed = std::env::var("PGVIGIL_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) >> 32);
        println!("PGVIGIL_TEST_SEED={seed} repeats this");
        Chance(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// So many of the numbers 1 to `all`, one out of each of as many even stretches; all of them if
    /// they are no more.
    pub fn spread(&mut self, points: usize, all: usize) -> Vec<usize> {
        if points >= all {
            return (1..=all).collect();
        }
        (0..points).map(|n| (n * all / points, (n + 1) * all / points)).map(|(from, to)| from + 1 + self.below(to - from)).collect()
    }
}

/// Does something with each of several, at the same time: most of it is waiting.
pub fn together<T: Send>(each: impl IntoIterator<Item = T>, work: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        for one in each {
            scope.spawn(|| work(one));
        }
    });
}

/// Runs a command that must succeed, and returns its output.
#[track_caller]
pub fn must(mut command: impl std::borrow::BorrowMut<Command>) -> String {
    let command = command.borrow_mut();
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// A folder of programs for `bin_dir`: PostgreSQL 15's, with scripts in the place of some. In a
/// script `$BIN` is the folder of the true ones.
pub fn programs(dir: &Path, scripts: &[(&str, &str)]) -> PathBuf {
    let bin = dir.join(unique("bin"));
    std::fs::create_dir_all(&bin).unwrap();
    for entry in std::fs::read_dir(var("PGVIGIL_TEST_PG15_BIN")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if !scripts.iter().any(|(script, _)| name == **script) {
            std::os::unix::fs::symlink(entry.path(), bin.join(name)).unwrap();
        }
    }
    for (name, script) in scripts {
        write_script(&bin.join(name), &format!("BIN={}\n{script}", var("PGVIGIL_TEST_PG15_BIN")));
    }
    bin
}

/// By a process of its own: a script that this one has open for writing while another test's
/// thread forks cannot be executed.
fn write_script(path: &Path, text: &str) {
    let script = format!("#!/bin/bash\n{text}\n");
    must(Command::new("sh").args(["-c", "printf %s \"$1\" >\"$2\" && chmod 755 \"$2\"", "sh", &script]).arg(path));
}

/// The socket of the machine's Docker Engine.
pub fn docker_socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    PathBuf::from(host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock"))
}

/// A container with PostgreSQL of a test's own.
pub struct Container {
    pub name: String,
    /// `-H` of the docker program; empty: the machine's own Engine.
    pub engine: String,
}

impl Container {
    pub fn start(engine: &str) -> Self {
        let container = Container { name: unique("pgvigil-test-fault"), engine: engine.to_owned() };
        let owner = format!("pgvigil.test.pid={}", std::process::id());
        let args = ["run", "--detach", "--label", "pgvigil.test=1", "--label", &owner, "--env", "POSTGRES_PASSWORD"];
        must(container.docker(&args).args(["--name", &container.name, &var("PGVIGIL_TEST_IMAGE")]).env("POSTGRES_PASSWORD", password()));
        container.ready();
        container
    }

    pub fn docker(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        if !self.engine.is_empty() {
            command.args(["-H", &self.engine]);
        }
        command.args(args);
        command
    }

    /// A command of the Engine on this container.
    #[track_caller]
    pub fn tell(&self, command: &[&str]) {
        must(self.docker(command).arg(&self.name));
    }

    /// Runs a shell script inside.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        must(self.docker(&["exec", &self.name, "sh", "-c", script]))
    }

    /// Waits until PostgreSQL answers.
    #[track_caller]
    pub fn ready(&self) {
        until("PostgreSQL answers in the container", || {
            let mut ask = self.docker(&[
                "exec",
                "-e",
                "PGPASSWORD",
                &self.name,
                "psql",
                "-XAtq",
                "-h",
                "127.0.0.1",
                "-U",
                "postgres",
                "-c",
                "select 1",
            ]);
            run(ask.env("PGPASSWORD", password())).status.success().then_some(())
        });
    }

    #[track_caller]
    pub fn sql(&self, database: &str, sql: &str) -> String {
        must(self.docker(&["exec", &self.name, "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-c", sql]))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = run(&mut self.docker(&["rm", "--force", "--volumes", &self.name]));
    }
}

/// A file system of a test's own.
pub struct Mounted {
    pub path: PathBuf,
    image: Option<PathBuf>,
}

impl Mounted {
    pub fn tmpfs(path: &Path, size: &str) -> Self {
        std::fs::create_dir_all(path).unwrap();
        must(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size},mode=755"), "tmpfs"]).arg(path));
        Mounted { path: path.to_owned(), image: None }
    }

    /// An ext4 in a file.
    pub fn ext4(path: &Path, megabytes: u32) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let image = path.with_extension("ext4");
        must(Command::new("truncate").arg(format!("--size={megabytes}M")).arg(&image));
        // Its tables are written by mkfs and not by a thread of the kernel later on.
        must(Command::new("mkfs.ext4").args(["-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"]).arg(&image));
        let mounted = Mounted { path: path.to_owned(), image: Some(image) };
        mounted.mount();
        mounted
    }

    fn mount(&self) {
        let options = "loop,errors=remount-ro";
        must(Command::new("mount").args(["-t", "ext4", "-o", options]).arg(self.image.as_ref().unwrap()).arg(&self.path));
    }

    /// Mounts it again, as after a restart of the machine.
    pub fn again(&self) {
        must(Command::new("umount").arg(&self.path));
        self.mount();
    }

    pub fn remount(&self, options: &str) {
        must(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.path));
    }

    /// The kernel finds an error, and makes it read-only at once, whatever is open for writing.
    pub fn find_error(&self) {
        let device = must(Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(&self.path));
        let device = device.trim_start_matches("/dev/");
        std::fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1").unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).stderr(Stdio::null()).status();
    }
}

pub fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
