//! Programs of this machine, each in a process group of its own.

use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Gid, Pid, Uid};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use super::pipe::{Pipe, Pipes};
use super::strays::tagged;
use super::{Call, Exit, Host, Process, Running, Secret, Tag, Tail};
use crate::error::{Error, Kind, Result};

/// A larger pipe spares the dump half of its waits; the kernel allows this much to anybody.
const PIPE_BYTES: i32 = 1024 * 1024;

/// How long a program may take to obey SIGTERM before it gets SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(5);

/// A postmaster ends by it at once with all of its children; at SIGTERM it would wait for sessions.
/// <https://www.postgresql.org/docs/current/server-shutdown.html>
const IMMEDIATE_SHUTDOWN: Signal = Signal::SIGQUIT;

/// This machine.
#[derive(Debug, Clone, Default)]
pub struct LocalHost {
    /// The folder of the programs; `None`: found in PATH.
    pub bin_dir: Option<PathBuf>,
    /// A folder that every program gets opened, as [`LocalHost::folder_for_programs`].
    pub folder: Option<Arc<OwnedFd>>,
    /// Whether the programs do what a stranger's dump tells them.
    pub confined: Option<Confined>,
    /// Where the server beside the programs reads rows.
    pub pipes: Option<Arc<Pipes>>,
}

/// What a program may that does what a stranger tells it: it gets nothing of our environment, and
/// as root it is an account without rights, in a network of its own where the system allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confined {
    /// `None`: this is not root, and who it is stays.
    pub account: Option<(Uid, Gid)>,
}

impl LocalHost {
    /// Programs in a folder; `None`: found in PATH.
    pub fn new(bin_dir: Option<PathBuf>) -> Self {
        LocalHost { bin_dir, ..LocalHost::default() }
    }

    /// The name of `folder` for the programs. It leads there whoever they are and wherever it lies:
    /// no right on the folders above is needed, and a socket in it has a short name.
    pub fn folder_for_programs(&self) -> Option<String> {
        self.folder.as_ref().map(|folder| format!("/proc/self/fd/{}", folder.as_raw_fd()))
    }

    fn path(&self, program: &str) -> PathBuf {
        match &self.bin_dir {
            Some(dir) => dir.join(program),
            None => PathBuf::from(program),
        }
    }
}

#[async_trait]
impl Host for LocalHost {
    #[expect(clippy::disallowed_methods, reason = "this is the room of processes")]
    async fn start(&self, call: Call) -> Result<Process> {
        let path = self.path(call.program);
        let mut command = Command::new(&path);
        command
            .args(&call.args)
            .stdin(if call.stdin { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if self.confined.is_some() {
            command.env_clear();
            // Where we are it may not be allowed to look.
            command.current_dir("/");
            command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        }
        // Of our own environment nothing may reach libpq: PGHOST there would win over the file.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        command.env_remove(super::notify::SOCKET);
        // libpq looks into ~/.postgresql: with the rights of this user it must be the home of this
        // user, not of root who started us.
        let account = self.confined.and_then(|confined| confined.account);
        let user = account.map_or_else(nix::unistd::geteuid, |(uid, _)| uid);
        let home = nix::unistd::User::from_uid(user).ok().flatten().map(|user| user.dir);
        command.env("HOME", home.unwrap_or_else(|| PathBuf::from("/nonexistent")));
        command.envs(call.env).env("PGAPPNAME", call.tag.as_str()).env("LC_MESSAGES", "C");
        let passfile = call.password.as_ref().map(passfile).transpose()?;
        if let Some(file) = &passfile {
            command.env("PGPASSFILE", format!("/proc/self/fd/{}", file.as_raw_fd()));
        } else {
            // The default, ~/.pgpass, must not decide as whom a backup is made.
            command.env("PGPASSFILE", "/nonexistent/pgpass");
        }
        let end = if call.program == "postgres" { IMMEDIATE_SHUTDOWN } else { Signal::SIGTERM };
        let inherited = passfile.iter().map(AsRawFd::as_raw_fd).chain(self.folder.iter().map(AsRawFd::as_raw_fd)).collect();
        in_child(&mut command, inherited, account, end);
        let mut child = command.spawn().map_err(|error| missing(&path, &error))?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);

        let stdin = child.stdin.take();
        let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Error::new(Kind::System, format!("{} has no output", call.program)));
        };
        // Refused where the user's pipes are at their limit: then it is only slower.
        let _ = nix::fcntl::fcntl(stdout.as_fd(), nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        if let Some(stdin) = &stdin {
            let _ = nix::fcntl::fcntl(stdin.as_fd(), nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        }
        let tail = Tail::default();
        let into = tail.clone();
        let drained = tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok(n @ 1..) = stderr.read(&mut buffer).await {
                into.push(&buffer[..n]);
            }
        });
        Ok(Process {
            stdin: stdin.map(|stdin| Box::new(stdin) as _),
            stdout: Box::new(stdout),
            stderr: tail,
            running: Box::new(LocalProcess { child, group, end, drained: Some(drained) }),
        })
    }

    async fn end_tagged(&self, tag: &Tag) -> Result<usize> {
        let found = tagged(tag);
        for pid in &found {
            let _ = kill(*pid, Signal::SIGTERM);
        }
        let deadline = tokio::time::Instant::now() + TERM_GRACE;
        while !tagged(tag).is_empty() {
            if deadline.elapsed() > TERM_GRACE {
                return Err(Error::new(Kind::System, "a program would not end"));
            }
            if tokio::time::Instant::now() > deadline {
                for pid in tagged(tag) {
                    let _ = kill(pid, Signal::SIGKILL);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(found.len())
    }

    fn pipe(&self) -> Result<Option<Pipe>> {
        self.pipes.as_ref().map(Pipes::open).transpose()
    }
}

/// A password file that only has a descriptor, no name: nothing of it is on disk, and it goes with
/// the process. libpq asks that it is a regular file of mode 0600, which a memfd can be.
/// <https://www.postgresql.org/docs/current/libpq-pgpass.html>
fn passfile(password: &Secret) -> Result<OwnedFd> {
    let failed = |error: &io::Error| Error::system("cannot make a password file in memory", error);
    let fd = nix::sys::memfd::memfd_create("pgpass", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).map_err(|error| failed(&error.into()))?;
    nix::sys::stat::fchmod(&fd, nix::sys::stat::Mode::from_bits_truncate(0o600)).map_err(|error| failed(&error.into()))?;
    let mut file = std::fs::File::from(fd);
    file.write_all(passline(password.reveal()).as_bytes()).map_err(|error| failed(&error))?;
    file.rewind().map_err(|error| failed(&error))?;
    Ok(OwnedFd::from(file))
}

/// One line for whatever libpq connects to.
fn passline(password: &str) -> String {
    let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
    format!("*:*:*:*:{escaped}\n")
}

/// What the child does between fork and exec: `inherited` descriptors stay open, and it becomes the
/// account.
#[expect(unsafe_code, reason = "pre_exec is the only way to set what a child inherits")]
fn in_child(command: &mut Command, inherited: Vec<RawFd>, account: Option<(Uid, Gid)>, end: Signal) {
    let parent = nix::unistd::getpid();
    let setup = move || {
        if let Some((uid, gid)) = account {
            // Refused in a container without the right to: then there is that container's network.
            let _ = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET);
            nix::unistd::setgroups(&[])?;
            nix::unistd::setgid(gid)?;
            nix::unistd::setuid(uid)?;
        }
        // A program whose parent was killed ends; pg_dump cancels its query on the server. After
        // the change of user, which forgets it.
        nix::sys::prctl::set_pdeathsig(end)?;
        if nix::unistd::getppid() != parent {
            return Err(io::Error::from(Errno::ESRCH));
        }
        // Past a limit on file sizes it says so, instead of dying without a word.
        ignore(nix::libc::SIGXFSZ);
        for fd in &inherited {
            // SAFETY: the descriptor is open in the parent until spawn returns.
            let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(*fd) };
            nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
        }
        Ok(())
    };
    // SAFETY: these calls are async-signal-safe, and nothing is allocated.
    unsafe {
        command.pre_exec(setup);
    }
}

/// A child that ends when we are killed.
pub(super) fn die_with_parent(command: &mut Command) {
    in_child(command, Vec::new(), None, Signal::SIGKILL);
}

/// Ignores a signal from here on, also behind exec.
#[expect(unsafe_code, reason = "a disposition is set by a call that could also set handlers")]
fn ignore(signal: i32) {
    // SAFETY: SIG_IGN runs no code, and the call is async-signal-safe.
    unsafe {
        nix::libc::signal(signal, nix::libc::SIG_IGN);
    }
}

fn missing(path: &Path, error: &io::Error) -> Error {
    let program = path.display();
    if error.kind() == io::ErrorKind::NotFound {
        Error::new(Kind::Postgres, format!("{program} is not on this machine"))
            .hint("install the client programs (Debian: apt-get install postgresql-client), or set bin_dir")
    } else {
        Error::system(format!("cannot start {program}"), error)
    }
}

/// How a program of this machine ended.
pub(super) fn exit_of(status: std::process::ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    match status.code() {
        Some(code) => Exit::Code(code),
        None => Exit::Signal(status.signal().unwrap_or_default()),
    }
}

struct LocalProcess {
    child: Child,
    group: Option<Pid>,
    /// What it is asked to end by.
    end: Signal,
    /// Reads stderr to its end.
    drained: Option<tokio::task::JoinHandle<()>>,
}

impl LocalProcess {
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // ESRCH: it has ended already.
            let _ = killpg(group, signal);
        }
    }
}

#[async_trait]
impl Running for LocalProcess {
    async fn wait(&mut self) -> Result<Exit> {
        let status = self.child.wait().await.map_err(|error| Error::system("cannot wait for a program", &error))?;
        // A grandchild may hold stderr open; what it has to say is not waited for.
        if let Some(drained) = self.drained.take() {
            let _ = tokio::time::timeout(Duration::from_secs(1), drained).await;
        }
        self.group = None;
        Ok(exit_of(status))
    }

    async fn stop(&mut self) -> Result<()> {
        self.signal(self.end);
        if tokio::time::timeout(TERM_GRACE, self.child.wait()).await.is_err() {
            self.signal(Signal::SIGKILL);
            let _ = self.child.wait().await;
        }
        self.signal(Signal::SIGKILL);
        self.group = None;
        Ok(())
    }
}

/// A run that ends by a panic or a dropped future leaves no process either. A postmaster is told to
/// end all the same: killed, it would leave its children and its shared memory.
impl Drop for LocalProcess {
    fn drop(&mut self) {
        self.signal(if self.end == IMMEDIATE_SHUTDOWN { self.end } else { Signal::SIGKILL });
    }
}

/// Runs a program of this machine outside of any run, and returns what it printed.
///
/// # Errors
/// It is not there, or it failed.
#[expect(clippy::disallowed_methods, reason = "this is the room of processes")]
pub fn output(path: &Path, args: &[&str]) -> Result<String> {
    let output = std::process::Command::new(path).args(args).stdin(Stdio::null()).output().map_err(|error| missing(path, &error))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let stderr = super::printable(&String::from_utf8_lossy(&output.stderr));
        Err(super::failed(Kind::Postgres, &path.display().to_string(), Exit::Code(output.status.code().unwrap_or(-1)), &stderr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_file_escapes_colon_and_backslash() {
        assert_eq!(passline(r"a:b\c"), "*:*:*:*:a\\:b\\\\c\n");
    }

    #[test]
    fn the_password_file_is_regular_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let fd = passfile(&Secret::new("x")).unwrap();
        let meta = std::fs::metadata(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        assert!(meta.is_file());
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    }
}
