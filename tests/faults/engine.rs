//! The Docker Engine and the way to it fail in the middle of a dump.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{Server, World, run, unique, var};
use crate::judge::{Case, End, assert_sound, judge};
use crate::killed::MIDDLE;
use crate::tools::{Container, must, together, until};

fn cut_in_the_middle(backup: &str) {
    let mut case = Case::gated(Server::Exec, backup);
    let whole = case.world.manifest(&format!("shop/{}", case.labels()[0]))["files"][0]["raw_bytes"].as_u64().unwrap();
    // It takes its time to be sure that the program still runs.
    for at in [whole / 20, whole / 2].into_iter().filter(|_| backup.is_empty()) {
        let live = case.begin_to(at);
        case.gate().cut();
        live.end().expect(1);
        assert!(case.programs().is_empty(), "{backup}, cut at {at} of {whole}: {:?}", case.programs());
        case.gate().open();
        assert_sound(&mut case, End::Failed);
    }
    // The end is missing, and the program has ended well: its exit status is 0.
    let mut faults = Vec::new();
    for lost in [20_000, 3_000, 100, 10] {
        case.gate().lose(lost);
        let ran = case.run();
        assert!(case.gate().has_lost(), "{backup}: {ran:#?}");
        case.gate().open();
        let end = if ran.code == Some(0) { End::Done } else { End::Failed };
        faults.extend(judge(&mut case, end).into_iter().map(|fault| format!("{lost} bytes lost: {fault}")));
        if ran.code != Some(1) {
            faults.push(format!("{lost} bytes lost, a success: {ran:#?}"));
        }
    }
    assert!(faults.is_empty(), "{backup}: {}", faults.join("\n"));
}

#[test]
fn the_stream_is_cut() {
    cut_in_the_middle("");
}

#[test]
fn the_stream_of_an_archive_is_cut() {
    cut_in_the_middle("format = \"custom\"");
}

/// The same for the answers to questions, and for the dump of the globals: every early byte.
#[test]
fn the_stream_is_cut_early() {
    let mut case = Case::gated(Server::Exec, "");
    for at in [1, 300, 2_000, 6_000, 20_000] {
        let live = case.begin_to(at);
        case.gate().cut();
        live.end().expect(1);
        case.gate().open();
        assert_sound(&mut case, End::Failed);
    }
}

/// Nothing of the Engine answers any more: what is left waits for the next run.
#[test]
fn the_engine_is_gone() {
    together(["", "format = \"custom\""], |backup| {
        let mut case = Case::gated(Server::Exec, backup);
        let live = case.begin_to(MIDDLE / 4);
        let dump = case.dumping();
        kill(dump, Signal::SIGSTOP).unwrap();
        case.gate().shut();
        live.end().expect(1);
        assert!(!case.programs().is_empty(), "nothing is left to sweep");
        case.gate().open();
        assert_sound(&mut case, End::FailedOutOfReach);
    });
}

/// The network freezes: our side gives up, and the Engine does not hear of it. It keeps back the
/// ends of all other execs in the container then.
#[test]
fn an_engine_that_does_not_hear() {
    let mut case = Case::own(Container::start(""), Server::Exec, true, "");
    case.hurry("stall_timeout = \"3s\"");
    let mut live = case.begin_to(MIDDLE);
    case.gate().deafen();
    live.end_within(3 * crate::tools::PATIENCE).expect(1);
    case.gate().open();
    assert_sound(&mut case, End::FailedOutOfReach);
}

/// A program that is not there: the Engine tells so on stdout, with exit status 126 or 127.
#[test]
fn a_missing_program_inside() {
    let container = Container::start("");
    let bin = "/usr/lib/postgresql/15/bin";
    let mut case = Case::own(container, Server::Exec, false, "");
    // There when asked for its version, and gone, or broken, when it shall dump.
    let scripts = ["rm \"$0\"", "printf '#!/nowhere\\n' >\"$0\"", "printf 'no program' >\"$0\"", "chmod 644 \"$0\""];
    for program in ["pg_dump", "pg_dumpall"] {
        case.target.own().sh(&format!("mv {bin}/{program} {bin}/kept"));
        for script in scripts {
            let text = if program == "pg_dump" {
                format!("#!/bin/sh\n{script}\necho 'pg_dump (PostgreSQL) 15.18'\n")
            } else {
                "#!/nowhere\n".to_owned()
            };
            case.target.own().sh(&format!("cat >{bin}/{program} <<'END'\n{text}END\nchmod 755 {bin}/{program}"));
            let ran = case.run().expect(1);
            assert!(ran.stderr.contains(program), "{ran:#?}");
            if program == "pg_dumpall" {
                break;
            }
            let left = case.world.names("shop").iter().filter(|name| name.starts_with(".partial-")).count();
            assert_eq!((left, case.labels().len()), (0, 1), "{script}");
        }
        case.target.own().sh(&format!("mv {bin}/kept {bin}/{program}"));
    }
    assert!(case.history().iter().filter(|row| row["outcome"] == "failed").count() == scripts.len() + 1);
    case.settle();
    case.run().expect(0);
    case.settle();
    case.target.own().sh(&format!("mv {bin}/pg_dump {bin}/kept"));
    let ran = case.run().expect(1);
    assert!(ran.stderr.contains("pg_dump") && ran.stderr.contains("HINT:"), "{ran:#?}");
    case.target.own().sh(&format!("mv {bin}/kept {bin}/pg_dump"));
    assert_sound(&mut case, End::Failed);
}

/// A Docker Engine of the test's own, which may be killed.
pub struct Engine {
    dir: tempfile::TempDir,
    bridge: String,
    /// In a network of its own, with all that belongs to it; else with a bridge of this machine.
    is_apart: bool,
    daemon: Option<Child>,
}

impl Engine {
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("pgvigil-engine.").tempdir().unwrap();
        // Fifteen letters at most.
        let bridge = format!("pgvt{}", std::process::id() % 100_000);
        must(Command::new("ip").args(["link", "add", &bridge, "type", "bridge"]));
        let mut engine = Engine { dir, bridge, is_apart: false, daemon: None };
        let net = std::process::id() % 250;
        must(Command::new("ip").args(["addr", "add", &format!("10.231.{net}.1/24"), "dev", &engine.bridge]));
        must(Command::new("ip").args(["link", "set", &engine.bridge, "up"]));
        engine.serve(&["--live-restore"]);
        let load = "docker save \"$1\" | docker -H \"$2\" load";
        must(Command::new("bash").args(["-o", "pipefail", "-c", load, "bash", &var("PGVIGIL_TEST_IMAGE"), &engine.address()]));
        engine
    }

    /// With bridges and rules of packets of its own, which touch nothing of this machine. Its containers
    /// reach each other, and nobody else reaches them. It has the images of compose.yaml.
    pub fn apart() -> Self {
        let dir = tempfile::Builder::new().prefix("pgvigil-engine.").tempdir().unwrap();
        let mut engine = Engine { dir, bridge: String::new(), is_apart: true, daemon: None };
        engine.serve(&[]);
        engine.images();
        engine
    }

    /// Makes the images of compose.yaml in it.
    pub fn images(&self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/sidecar-images");
        must(Command::new(script).args([&self.address(), env!("CARGO_BIN_EXE_pgvigil"), &var("PGVIGIL_TEST_IMAGE")]));
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    pub fn address(&self) -> String {
        format!("unix://{}", self.path("docker.sock"))
    }

    pub fn serve(&mut self, more: &[&str]) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let mut daemon = Command::new(if self.is_apart { "unshare" } else { "dockerd" });
        if self.is_apart {
            daemon.args(["--net", "sh", "-c", "ip link set lo up; exec dockerd \"$@\"", "dockerd"]);
        }
        daemon.args(["--data-root", &self.path("data"), "--exec-root", &self.path("exec"), "--pidfile", &self.path("pid")]);
        // The machine's own configuration is not for this one.
        std::fs::write(self.path("daemon.json"), "{}").unwrap();
        daemon.args(["--config-file", &self.path("daemon.json"), "--storage-driver=vfs"]);
        daemon.args(["-H", &self.address()]);
        if !self.is_apart {
            daemon.args(["--iptables=false", "--ip6tables=false", "--ip-masq=false", "--bridge", &self.bridge]);
        }
        daemon.args(more).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        // The processes of a killed one are gone, or nobody's children that nobody waits for.
        for left in ["pid", "exec/containerd/containerd.pid"] {
            let _ = std::fs::remove_file(self.path(left));
        }
        self.daemon = Some(daemon.spawn().unwrap());
        until("the Engine answers", || {
            let ended = self.daemon.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "{}", std::fs::read_to_string(Path::new(&self.path("log"))).unwrap());
            run(Command::new("docker").args(["-H", &self.address(), "version"])).status.success().then_some(())
        });
    }

    /// A script in the network of one that is apart.
    pub fn within(&self, script: &str) -> String {
        let pid = self.daemon.as_ref().unwrap().id();
        must(Command::new("nsenter").args([&format!("--net=/proc/{pid}/ns/net"), "bash", "-c", script]))
    }

    /// In good order: it ends its containers, and starts again those that are to be restarted. After a
    /// kill it does not, for it finds them running and ends them as if somebody had asked it to.
    pub fn stop(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGTERM).unwrap();
        daemon.wait().unwrap();
    }

    pub fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGTERM);
            let _ = daemon.wait();
        }
        // The containerd of a killed one lives on: it is known by its folder.
        let mark = self.path("exec");
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(&mark)
                && let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok())
            {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        for line in std::fs::read_to_string("/proc/self/mounts").unwrap().lines().rev() {
            let path = line.split(' ').nth(1).unwrap();
            if path.starts_with(self.dir.path().to_str().unwrap()) {
                let _ = run(Command::new("umount").args(["--lazy", path]));
            }
        }
        if !self.is_apart {
            let _ = run(Command::new("ip").args(["link", "delete", &self.bridge]));
        }
    }
}

/// The daemon dies and comes back: pg_dump lives on inside (`--live-restore`), or goes with its
/// container.
#[test]
fn the_daemon_is_killed() {
    let mut engine = Engine::start();
    let address = engine.address();
    let container = Container::start(&address);
    let name = unique("db");
    container.sql("postgres", &format!("create database {name} template template0"));
    container.sql(&name, crate::judge::ROWS);
    let gate = crate::gate::Gate::new(crate::gate::Behind::Unix(engine.path("docker.sock").into()));
    let section = format!("container = \"{}\"\ndocker = \"tcp://127.0.0.1:{}\"\n", container.name, gate.port);
    let target = crate::judge::Target::Own(container, name);
    let mut case = Case::build(World::new(), target, Some(gate), &section, "");
    for live_restore in [true, false] {
        let live = case.begin_to(MIDDLE);
        engine.kill();
        case.gate().open();
        live.end().expect(1);
        engine.serve(if live_restore { &["--live-restore"] } else { &[] });
        if live_restore {
            continue_judged(&mut case);
            // From now on without: started anew, so that the next kill takes the container along.
            engine.kill();
            engine.serve(&[]);
        }
        let own = case.target.own();
        let running = || must(own.docker(&["inspect", "--format", "{{.State.Running}}", &own.name])) == "true";
        if !running() {
            own.tell(&["start"]);
        }
        own.ready();
        if !live_restore {
            assert_sound(&mut case, End::FailedOutOfReach);
        }
    }
}

fn continue_judged(case: &mut Case) {
    case.target.own().ready();
    assert_sound(case, End::FailedOutOfReach);
}
