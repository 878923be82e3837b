//! `wal push` killed at its system calls, and several at a time.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::offsite::{Sshd, bucket, s3};
use crate::pitr_site::Site;
use crate::support::{self, long};

/// How a process ended that was traced.
#[derive(Debug, PartialEq, Eq)]
enum Traced {
    Killed,
    /// By itself, with its exit status, after so many system calls.
    Ended(i32, u64),
}

/// Runs a command, and kills it where it or one of its threads is about to make the system call of this number. What is
/// there then is what the call before has left.
#[expect(clippy::zombie_processes, reason = "it is waited for here, as a tracer does")]
fn killed_at(command: &[&str], nth: u64) -> Traced {
    let mut begun = Command::new("sh");
    begun.args(["-c", "kill -STOP $$; exec \"$0\" \"$@\""]).args(command).env("PGVIGIL_LOG", "off").stdin(Stdio::null());
    let child = begun.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().unwrap();
    let child = Pid::from_raw(child.id().cast_signed());
    waitpid(child, Some(WaitPidFlag::WUNTRACED)).unwrap();
    ptrace::seize(
        child,
        Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_EXITKILL,
    )
    .unwrap();
    ptrace::interrupt(child).unwrap();
    kill(child, Signal::SIGCONT).unwrap();
    let (mut is_ours, mut calls, mut is_killed) = (false, 0, false);
    loop {
        let status = waitpid(None, Some(WaitPidFlag::__WALL)).unwrap();
        let signal = match status {
            WaitStatus::Exited(pid, code) if pid == child => {
                return if is_killed { Traced::Killed } else { Traced::Ended(code, calls) };
            }
            WaitStatus::Signaled(pid, ..) if pid == child => return Traced::Killed,
            WaitStatus::PtraceSyscall(pid) if is_ours => {
                // One that is being ended tells nothing.
                if ptrace::syscall_info(pid).is_ok_and(|info| info.op == nix::libc::PTRACE_SYSCALL_INFO_ENTRY) {
                    calls += 1;
                    if calls == nth {
                        is_killed = true;
                        kill(child, Signal::SIGKILL).unwrap();
                    }
                }
                None
            }
            WaitStatus::PtraceEvent(_, _, event) => {
                is_ours |= event == nix::libc::PTRACE_EVENT_EXEC;
                None
            }
            WaitStatus::Stopped(_, Signal::SIGTRAP | Signal::SIGSTOP) => None,
            WaitStatus::Stopped(_, signal) => Some(signal),
            _ => None,
        };
        if let Some(pid) = status.pid() {
            // One that has just been killed is not there to go on.
            let _ = ptrace::syscall(pid, signal);
        }
    }
}

/// Three segments in a folder like `pg_wal`: two wait behind the first, so that they are pushed with it.
struct Waiting {
    site: Site,
    log: PathBuf,
    names: Vec<String>,
}

impl Waiting {
    fn new() -> Self {
        let site = Site::archiving(15, "");
        for n in 0..3 {
            site.sql(&format!("create table t{n} ()"));
            site.switch();
        }
        let names: Vec<String> = site.archived()[..3].iter().map(|name| name.strip_suffix(".zst").unwrap().to_owned()).collect();
        let log = site.world.path("restored");
        let marks = log.join("archive_status");
        std::fs::create_dir(&marks).unwrap();
        for name in &names {
            std::fs::write(log.join(name), site.unpacked(&format!("{name}.zst"))).unwrap();
            std::fs::write(marks.join(format!("{name}.ready")), "").unwrap();
        }
        Waiting { site, log, names }
    }

    /// A file with one store.
    fn configured(&self, store: &str) -> String {
        let config = self.site.world.path("one.toml");
        std::fs::write(
            &config,
            format!("[servers.main]\nhost = \"localhost\"\n{store}[backups.cluster]\nkind = \"physical\"\nwal = \"archive_command\"\n"),
        )
        .unwrap();
        let _ = std::fs::remove_dir_all(self.log.join("pgvigil-pushed"));
        config.display().to_string()
    }

    fn push<'a>(config: &'a str, path: &'a str) -> [&'a str; 6] {
        [env!("CARGO_BIN_EXE_pgvigil"), "--config", config, "wal", "push", path]
    }

    fn path(&self, number: usize) -> String {
        self.log.join(&self.names[number]).display().to_string()
    }

    /// The server asks again, and for each: what is there then is whole, whoever put it there.
    #[track_caller]
    fn assert_pushed(&self, config: &str, when: &str) {
        let fetched = self.site.world.path("fetched");
        for (number, name) in self.names.iter().enumerate() {
            let path = self.path(number);
            let ran = self.site.world.pgvigil(&["--config", config, "wal", "push", &path]);
            assert_eq!(ran.code, Some(0), "{when}: {ran:#?}");
            let ran = self.site.world.pgvigil(&["--config", config, "wal", "fetch", name, fetched.to_str().unwrap()]);
            assert_eq!(ran.code, Some(0), "{when}: {ran:#?}");
            assert!(std::fs::read(&fetched).unwrap() == std::fs::read(&path).unwrap(), "{when}: {name}");
        }
    }

    /// Kills pushes at so many of all places, each into a store of its own.
    fn killed(&self, what: &str, places: u64, store: impl Fn(&str) -> String) {
        let path = self.path(0);
        let config = self.configured(&store("whole"));
        let whole = killed_at(&Self::push(&config, &path), u64::MAX);
        let Traced::Ended(0, calls) = whole else { panic!("{what}: {whole:?}") };
        assert!(calls > 200, "{what}: {calls} calls");
        let places = if long() { calls } else { places };
        let seed = crate::support::seed();
        println!("{what}: {places} of {calls} calls, PGVIGIL_TEST_SEED={seed} repeats this");
        let mut killed = 0;
        for place in 0..places {
            // Somewhere in each of equal parts.
            let nth = (calls * place + seed.wrapping_mul(2 * place + 1) % calls) / places + 1;
            let config = self.configured(&store(&place.to_string()));
            killed += u64::from(killed_at(&Self::push(&config, &path), nth) == Traced::Killed);
            self.assert_pushed(&config, &format!("{what}, killed at {nth} of {calls}"));
        }
        // Threads do not share their work alike each time: few of them may have ended before.
        assert!(killed * 10 >= places * 8, "{what}: {killed} of {places} were killed");
    }
}

#[test]
fn killed_anywhere_into_a_folder_it_leaves_nothing_that_blocks_the_next() {
    let waiting = Waiting::new();
    let folder = |name: &str| waiting.site.world.path("stores").join(name);
    std::fs::create_dir(waiting.site.world.path("stores")).unwrap();
    waiting.killed("a folder", 48, |name| {
        std::fs::create_dir(folder(name)).unwrap();
        format!("[stores.one]\npath = \"{}\"\n", folder(name).display())
    });
    // What a dead push left goes with the next.
    let left = |name: &Path| {
        let files = std::fs::read_dir(name.join("cluster/wal/00000001")).unwrap();
        files.filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().starts_with('.')).count()
    };
    let left: usize = std::fs::read_dir(waiting.site.world.path("stores")).unwrap().map(|store| left(&store.unwrap().path())).sum();
    assert_eq!(left, 0);
}

#[test]
fn killed_anywhere_into_a_bucket_it_leaves_nothing_that_blocks_the_next() {
    let waiting = Waiting::new();
    let (endpoint, prefix) = (s3(), crate::common::unique("killed"));
    waiting.killed("a bucket", 16, |name| bucket("one", &endpoint, &format!("{prefix}/{name}"), "admin"));
}

#[test]
fn killed_anywhere_to_another_host_it_leaves_nothing_that_blocks_the_next() {
    let (waiting, sshd) = (Waiting::new(), Sshd::start());
    waiting.killed("another host", 16, |name| {
        let section = sshd.section("one");
        let kept = sshd.folder().display().to_string();
        let at = format!("{kept}/{name}");
        std::fs::create_dir_all(&at).unwrap();
        section.replace(&format!("path = \"{kept}\""), &format!("path = \"{at}\""))
    });
}

#[test]
fn many_at_a_time_are_all_right() {
    let waiting = Waiting::new();
    let (first, second) = (waiting.site.world.path("first"), waiting.site.world.path("second"));
    for folder in [&first, &second] {
        std::fs::create_dir(folder).unwrap();
        support::own(folder);
    }
    let stores = |folder: &Path| format!("path = \"{}\"\n", folder.display());
    let config = waiting.configured(&format!("[stores.first]\n{}[stores.second]\n{}", stores(&first), stores(&second)));
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("kind =", "stores = [\"first\", \"second\"]\nkind =")).unwrap();
    for round in 0..if long() { 20 } else { 3 } {
        for folder in [&first, &second] {
            let _ = std::fs::remove_dir_all(folder.join("cluster"));
        }
        let _ = std::fs::remove_dir_all(waiting.log.join("pgvigil-pushed"));
        // Each of them four times, at once.
        let begun: Vec<_> = (0..12)
            .map(|number| {
                let path = waiting.path(number % 3);
                let [program, args @ ..] = Waiting::push(&config, &path);
                Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for child in begun {
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(0), "round {round}: {output:?}");
        }
        waiting.assert_pushed(&config, &format!("round {round}"));
        for folder in [&first, &second] {
            let names: Vec<String> = std::fs::read_dir(folder.join("cluster/wal/00000001"))
                .unwrap()
                .map(|file| file.unwrap().file_name().into_string().unwrap())
                .collect();
            assert!(names.len() == 3 && names.iter().all(|name| name.len() == 28), "{names:?}");
        }
    }
}
