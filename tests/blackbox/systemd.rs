//! Under systemd: what it hears, and the package in a Debian that systemd has booted.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::common::daemon::{Daemon, PATIENCE, write_config};
use crate::common::{Database, Server, World, run, unique, var};
use crate::support::{Psql, bin_dir, repository};

/// Every other second.
const OFTEN: &str = "schedule = \"*/2 * * * * *\"";

/// The socket of a service manager.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn listen(world: &World) -> (Self, std::path::PathBuf) {
        let path = world.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        (Manager { socket, heard: Vec::new() }, path)
    }

    /// Waits for the next message that holds some words, and returns it.
    #[track_caller]
    fn hears(&mut self, words: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            let n = self.socket.recv(&mut buffer).unwrap_or_else(|error| panic!("not heard: {words}: {error}\n{:#?}", self.heard));
            let message = String::from_utf8(buffer[..n].to_vec()).unwrap();
            self.heard.push(message.clone());
            if message.contains(words) {
                return message;
            }
        }
    }
}

#[test]
fn what_a_service_manager_hears() {
    let database = Database::empty(Server::Pg15);
    database.sql("create table t as select 1 as i");
    let world = World::new();
    // What we start must not speak in our name.
    let bin = bin_dir(&world, 15, &[("pg_dump", "env > \"$world/environment\"\nexec \"$real/pg_dump\" \"$@\"")]);
    let server = Server::Pg15.section().replace("[servers.main]\n", &format!("[servers.main]\nbin_dir = \"{}\"\n", bin.display()));
    let file = |schedule: &str| {
        format!(
            "timezone = \"UTC\"\nstate_dir = \"{}\"\nshutdown_grace = \"60s\"\n[stores.local]\npath = \"{}\"\n{server}\
             [backups.x]\ndatabase = \"{}\"\nstall_timeout = \"1h\"\n{schedule}\n",
            world.path("state").display(),
            world.store().display(),
            database.name
        )
    };
    std::fs::write(world.config(), file("schedule = \"0 2 1 1 *\"")).unwrap();
    let (mut manager, socket) = Manager::listen(&world);
    let mut command = world.command(&["daemon"]);
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "400000").env_remove("WATCHDOG_PID");
    let mut daemon = Daemon::of(&mut command);

    // It says what is due before it says that it is ready: the schedule runs.
    let status = manager.hears("STATUS=");
    assert!(status.contains("next: x at ") && status.contains("-01-01 02:00:00 +00:00; no run yet"), "{status}");
    assert!(!manager.heard.iter().any(|message| message.contains("READY=1")), "{:#?}", manager.heard);
    manager.hears("READY=1");
    manager.hears("WATCHDOG=1");

    // A reload begins at a moment that the manager can tell, and always ends.
    for text in [file(OFTEN), "nonsense".to_owned(), file(OFTEN)] {
        std::fs::write(world.path("new"), text).unwrap();
        std::fs::rename(world.path("new"), world.config()).unwrap();
        daemon.signal(Signal::SIGHUP);
        let reloading = manager.hears("RELOADING=1");
        let usec = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap_or_else(|| panic!("{reloading}"));
        assert!(usec.parse::<u64>().unwrap() > 0, "{reloading}");
        manager.hears("READY=1");
        // By the signal or, once more, by the edit itself.
        let status = manager.hears("STATUS=");
        let is_faulty = std::fs::read_to_string(world.config()).unwrap() == "nonsense";
        assert_eq!(status.contains("the file is faulty, the one before it holds"), is_faulty, "{status}");
    }
    manager.hears("last: x ok at ");
    let environment = std::fs::read_to_string(world.path("environment")).unwrap();
    assert!(environment.contains("PGAPPNAME=") && !environment.contains("NOTIFY_SOCKET"), "{environment}");

    // A run that stands still is no reason to end the others: the signs of life go on.
    let mut holder = Psql::connect(Server::Pg15, &database.name);
    holder.done("begin; lock table t in access exclusive mode");
    manager.hears("STATUS=running: x; next: ");
    for _ in 0..4 {
        manager.hears("WATCHDOG=1");
    }
    daemon.signal(Signal::SIGTERM);
    manager.hears("STOPPING=1");
    manager.hears("EXTEND_TIMEOUT_USEC=120000000");
    assert!(manager.hears("STATUS=").starts_with("STATUS=waits for: x; stopping; last: x ok at "), "{:#?}", manager.heard);
    for _ in 0..10 {
        manager.hears("WATCHDOG=1");
        manager.hears("EXTEND_TIMEOUT_USEC=120000000");
    }
    holder.done("rollback");
    assert_eq!(daemon.end().0, Some(0), "{}", daemon.log());
}

#[test]
fn the_form_of_the_log_is_that_of_where_it_goes() {
    let world = World::new();
    write_config(&world, "log = { format = \"text\" }", "");
    // The variable stays in the environment when somebody redirects the stream.
    let mut command = world.command(&["daemon"]);
    command.env("JOURNAL_STREAM", "1:1");
    let log = Daemon::of(&mut command).stop();
    assert!(log.contains("INFO the daemon begins") && !log.contains("<6>"), "{log}");

    // Where the stream is the one of the journal, each line has its level.
    let in_journal = |args: &str| {
        let script = format!(
            "exec 2> {1}; export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2); exec {2} --config {0} {args} > {1}.out",
            world.config().display(),
            world.path("journal").display(),
            env!("CARGO_BIN_EXE_pgvigil")
        );
        let code = run(Command::new("bash").args(["-c", &script])).status.code();
        (code, std::fs::read_to_string(world.path("journal")).unwrap())
    };
    std::fs::write(world.config(), "timezone = \"nowhere\"\nnonsense = 1\n").unwrap();
    let (code, text) = in_journal("daemon");
    assert_eq!(code, Some(78));
    assert!(text.lines().count() >= 2 && text.lines().all(|line| line.starts_with("<3>")), "{text}");
    // Stdout is another stream.
    in_journal("check --offline");
    let table = std::fs::read_to_string(world.path("journal.out")).unwrap();
    assert!(table.starts_with("FAILED"), "{table}");
}

/// A Debian whose first process is systemd, with PostgreSQL 15 and the database `shop`, and whose end is
/// ours.
pub struct Machine {
    name: String,
}

impl Machine {
    #[track_caller]
    pub fn boot() -> Self {
        let machine = Machine { name: unique("pgvigil-test-systemd") };
        let pid = format!("pgvigil.test.pid={}", std::process::id());
        let mut docker = Command::new("docker");
        docker.args(["run", "--detach", "--name", &machine.name, "--label", "pgvigil.test=1", "--label", &pid]);
        docker.args(["--cap-add=SYS_ADMIN", "--cap-add=NET_ADMIN", "--cap-add=SYS_PTRACE"]);
        docker.args(["--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined"]);
        docker.args(["--tmpfs=/run", "--tmpfs=/tmp:exec", "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw"]);
        // On a machine of its own systemd shares its mounts with the units, which credentials need.
        docker.args([&var("PGVIGIL_TEST_SYSTEMD"), "sh", "-c", "mount --make-rshared / && exec /lib/systemd/systemd"]);
        let output = run(&mut docker);
        assert!(output.status.success(), "{output:?}");
        machine.wait("the system is up", "[ \"$(systemctl is-system-running --wait)\" = running ]");
        machine.wait("PostgreSQL answers", "runuser -u postgres -- psql -X -c 'select 1' && systemctl is-active postgresql@15-main");
        machine.sql("postgres", "create role pgvigil login bypassrls password 's3cret'");
        machine.sql("postgres", "grant pg_read_all_data to pgvigil");
        machine.sql("postgres", "create database shop");
        machine.sql("shop", "create table t as select i from generate_series(1, 1000) i");
        machine
    }

    /// With version 1 of the package, its file with the comment signs away and the schedule of `keys`, and a
    /// unit that may write the store.
    #[track_caller]
    fn with_package(keys: &str) -> Self {
        let machine = Machine::boot();
        machine.install(1, "");
        machine.configure(keys);
        machine.ok("install -d -o pgvigil -g pgvigil -m 0700 /srv/postgres/backups");
        machine.drop_in("stores");
        machine
    }

    #[track_caller]
    fn copy(&self, from: &str, to: &str) {
        let copied = run(Command::new("docker").args(["cp", from, &format!("{}:{to}", self.name)]));
        assert!(copied.status.success(), "{copied:?}");
    }

    #[track_caller]
    pub fn install(&self, version: u32, options: &str) {
        let made = run(Command::new(repository("tests/support/package")).arg(env!("CARGO_BIN_EXE_pgvigil")));
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let paths = String::from_utf8(made.stdout).unwrap();
        let package = paths.lines().nth(version as usize - 1).unwrap();
        self.copy(package, &format!("/root/{version}.deb"));
        self.ok(&format!("dpkg --install {options} /root/{version}.deb < /dev/null"));
    }

    /// Takes the comment signs of the file away, and gives its backup some keys.
    #[track_caller]
    fn configure(&self, keys: &str) {
        let shipped = std::fs::read_to_string(repository("systemd/pgvigil.toml")).unwrap();
        let lines = shipped.lines().map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line));
        let text: Vec<&str> = lines.map(|line| if line.starts_with("schedule") { keys } else { line }).collect();
        self.write("/etc/pgvigil/pgvigil.toml", &text.join("\n"));
    }

    /// Writes a file in one step, as editors do, with the rights of the one that was there.
    #[track_caller]
    pub fn write(&self, path: &str, text: &str) {
        self.ok(&format!("[ ! -e {path} ] || cp -p {path} {path}.new\ncat > {path}.new <<'TEXT'\n{text}\nTEXT\nmv {path}.new {path}"));
    }

    /// Adds an example of the package to the unit.
    #[track_caller]
    fn drop_in(&self, name: &str) {
        let dir = "/etc/systemd/system/pgvigil.service.d";
        self.ok(&format!("mkdir -p {dir} && cp /usr/share/doc/pgvigil/examples/{name}.conf {dir}/ && systemctl daemon-reload"));
    }

    #[track_caller]
    fn set(&self, lines: &str) {
        self.ok("mkdir -p /etc/systemd/system/pgvigil.service.d");
        self.write("/etc/systemd/system/pgvigil.service.d/test.conf", &format!("[Service]\n{lines}"));
        self.ok("systemctl daemon-reload");
    }

    fn bash(&self, script: &str) -> (Option<i32>, String) {
        let output = run(Command::new("docker").args(["exec", &self.name, "bash", "-c", &format!("exec 2>&1\n{script}")]));
        (output.status.code(), String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    #[track_caller]
    pub fn ok(&self, script: &str) -> String {
        let (code, text) = self.bash(script);
        assert_eq!(code, Some(0), "{script}\n{text}\n{}", self.journal(""));
        text
    }

    #[track_caller]
    pub fn wait(&self, what: &str, script: &str) {
        let secs = PATIENCE.as_secs();
        let waits =
            format!("for ((end = SECONDS + {secs}; SECONDS < end; )); do {{ {script}; }} > /dev/null && exit 0; sleep 0.05; done; exit 1");
        let (code, text) = self.bash(&waits);
        assert_eq!(code, Some(0), "waited in vain until {what}\n{text}\n{}", self.journal(""));
    }

    #[track_caller]
    pub fn sql(&self, database: &str, sql: &str) -> String {
        self.ok(&format!("runuser -u postgres -- psql -X -A -t -q -v ON_ERROR_STOP=1 -d {database} -c \"{sql}\""))
    }

    /// What the daemon has said, as far as the options ask for it.
    fn journal(&self, options: &str) -> String {
        self.bash(&format!("journalctl --unit=pgvigil --no-pager --output=cat {options}")).1
    }

    #[track_caller]
    fn property(&self, name: &str) -> String {
        self.ok(&format!("systemctl show --value --property={name} pgvigil"))
    }

    /// Somebody locks the table of `shop` until [`Machine::unlock`].
    #[track_caller]
    fn lock(&self) {
        self.ok("systemd-run --quiet --collect --unit=locker runuser -u postgres -- psql -X -d shop -c 'begin' -c 'lock table t' -c 'select pg_sleep(600)'");
        self.wait("the dump waits for the lock", &waits_for_lock());
    }

    #[track_caller]
    fn unlock(&self) {
        self.sql(
            "postgres",
            "select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep%' and pid <> pg_backend_pid()",
        );
    }
}

fn waits_for_lock() -> String {
    let sql = "select 1 from pg_locks where not granted";
    format!("[ \"$(runuser -u postgres -- psql -X -A -t -d shop -c '{sql}' | head -1)\" = 1 ]")
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = run(Command::new("docker").args(["rm", "--force", "--volumes", &self.name]));
    }
}

#[test]
fn the_package_is_a_service_that_makes_backups_and_drills() {
    let machine = Machine::boot();
    machine.install(1, "");
    // Nobody is started before somebody has written the file, which others may not read.
    assert_eq!((machine.property("ActiveState"), machine.property("UnitFileState")), ("inactive".into(), "disabled".into()));
    let rights = "stat -c '%U:%G %a' /etc/pgvigil /etc/pgvigil/pgvigil.toml /var/lib/pgvigil";
    assert_eq!(machine.ok(rights), "root:pgvigil 750\nroot:pgvigil 640\npgvigil:pgvigil 700");
    machine.ok("pgvigil check --offline; [ $? = 3 ]");
    for file in
        ["man/man1/pgvigil.1.gz", "man/man1/pgvigil-restore.1.gz", "bash-completion/completions/pgvigil", "zsh/vendor-completions/_pgvigil"]
    {
        machine.ok(&format!("[ -s /usr/share/{file} ]"));
    }
    machine.ok("zcat /usr/share/man/man1/pgvigil-run.1.gz | grep -q 'Make one backup now'");

    // What the unit may write is looked at, whatever root may.
    machine.configure(&format!("{OFTEN}\ndrill = {{ schedule = \"*/5 * * * * *\", on = \"local\" }}"));
    machine.ok("install -d -o pgvigil -g pgvigil -m 0700 /srv/postgres/backups");
    let (_, text) = machine.bash("pgvigil check");
    let lacks = "store local: /srv/postgres/backups: pgvigil.service does not let the daemon write there";
    assert!(text.contains(&format!("warning  {lacks}")) && text.contains("ReadWritePaths=-/srv/postgres/backups"), "{text}");
    machine.ok("systemctl enable pgvigil");
    assert!(machine.bash("pgvigil check").1.contains(&format!("FAILED   {lacks}")));
    machine.drop_in("stores");
    let (_, text) = machine.bash("pgvigil check");
    assert!(text.contains("store local: /srv/postgres/backups: writable") && !text.contains("does not let"), "{text}");

    // By hand, as root: it is the daemon's own.
    machine.ok("pgvigil run shop");

    // The start is over when the schedule runs.
    machine.ok("systemctl start pgvigil");
    assert_eq!((machine.property("Type"), machine.property("ActiveState")), ("notify".into(), "active".into()));
    let status = machine.property("StatusText");
    assert!(status.contains("next: ") && status.contains("; last: shop ok at "), "{status}");
    machine.wait("a backup is there", "pgvigil --json list shop | grep -q readable");
    machine.wait("its drill is done", "pgvigil --json list shop | grep -q matched");
    machine.wait("the status names the result", "systemctl show --property=StatusText pgvigil | grep -q 'last: drill of shop ok at '");
    assert_eq!(machine.ok("stat -c %U:%a /srv/postgres/backups/shop/*/manifest.json | sort -u"), "pgvigil:600");
    assert_eq!(machine.ok("stat -c %U /proc/$(systemctl show --value --property=MainPID pgvigil)"), "pgvigil");

    // The journal knows the levels, and shows none of our marks.
    let (all, warnings) = (machine.journal(""), machine.journal("--priority=warning"));
    assert!(all.contains("the daemon begins") && all.contains("run ended") && !all.contains("<6>"), "{all}");
    // No mail server is there.
    assert!(warnings.contains("mail relay cannot be used") && !warnings.contains("the daemon begins"), "{warnings}");
    assert_eq!(machine.journal("--priority=err"), "", "{all}");

    // The exposure, as it is and with the socket of Docker: at most 2.0.
    let measure = "systemd-analyze security --offline=true --threshold=20 --no-pager pgvigil.service";
    machine.ok(&format!("systemctl cat pgvigil | grep -q ReadWritePaths && {measure}"));
    machine.ok("groupadd --system docker");
    machine.drop_in("docker");
    machine.ok(measure);
    machine.ok("systemctl restart pgvigil");
    let groups = machine.ok("id -g pgvigil; getent group docker | cut -d: -f3");
    let mut groups: Vec<&str> = groups.lines().collect();
    groups.sort_unstable_by_key(|id| id.parse::<u32>().unwrap_or_default());
    let held = machine.ok("grep Groups: /proc/$(systemctl show --value --property=MainPID pgvigil)/status");
    assert_eq!(held.split_whitespace().skip(1).collect::<Vec<_>>(), groups, "{held}");
}

#[test]
fn make_install_does_the_same_without_a_package() {
    let machine = Machine::boot();
    machine.ok("mkdir /root/it");
    for folder in ["systemd", "config"] {
        machine.copy(&repository(folder).display().to_string(), "/root/it/");
    }
    machine.copy(env!("CARGO_BIN_EXE_pgvigil"), "/root/it/pgvigil");
    machine.ok("cd /root/it && umask 077 && systemd/install pgvigil");
    let rights = "stat -c '%U:%G %a' /etc/pgvigil /etc/pgvigil/pgvigil.toml /var/lib/pgvigil /usr/local/share/man/man1/pgvigil.1.gz /usr/local/bin /usr/local/share/doc";
    assert_eq!(machine.ok(rights), "root:pgvigil 750\nroot:pgvigil 640\npgvigil:pgvigil 700\nroot:root 644\nroot:root 755\nroot:root 755");
    // Again, over a file that somebody has edited.
    machine.configure(OFTEN);
    let edited = machine.ok("cat /etc/pgvigil/pgvigil.toml");
    machine.ok("cd /root/it && systemd/install pgvigil");
    assert_eq!(machine.ok("cat /etc/pgvigil/pgvigil.toml"), edited);
    machine.ok("install -d -o pgvigil -g pgvigil -m 0700 /srv/postgres/backups");
    machine.set("ReadWritePaths=/srv/postgres/backups");
    machine.ok("systemctl start pgvigil && systemctl reload pgvigil");
    assert!(machine.property("ExecStart").contains("path=/usr/local/bin/pgvigil "), "{}", machine.property("ExecStart"));
    machine.wait("a backup is there", "pgvigil --json list shop | grep -q readable");
}

#[test]
fn a_reload_takes_a_good_file_and_fails_for_a_faulty_one() {
    let machine = Machine::with_package(OFTEN);
    machine.ok("systemctl start pgvigil");
    let pid = machine.property("MainPID");
    // No edit is needed, and warnings (no [email]) are no faults.
    machine.ok("systemctl reload pgvigil");
    machine.wait("the file is read", "journalctl --unit=pgvigil --output=cat | grep -q 'the file was read again'");
    machine.ok("sed -i '/^\\[email\\]/,$d' /etc/pgvigil/pgvigil.toml; pgvigil check --offline; [ $? = 3 ]");
    machine.ok("systemctl reload pgvigil");

    machine.ok("cp -p /etc/pgvigil/pgvigil.toml /etc/pgvigil/good && sed -i 's/^database/datbase/' /etc/pgvigil/pgvigil.toml");
    let (code, text) = machine.bash("systemctl reload pgvigil");
    assert_ne!(code, Some(0), "{text}");
    let faults = machine.journal("--priority=err");
    assert!(faults.contains("FAILED") && faults.contains("unknown key") && faults.contains("HINT"), "{faults}");
    // The daemon sees the edit by itself, too, and goes on with what it had.
    machine.wait("the status tells", "systemctl show --property=StatusText pgvigil | grep -q 'the file is faulty'");
    assert_eq!((machine.property("ActiveState"), machine.property("MainPID")), ("active".into(), pid.clone()));
    // `list` needs a file that can be read; the store shows it as well.
    machine.wait(
        "the old plan goes on",
        "now=$(date -u +%Y%m%dT%H%M%SZ); sleep 0.1; until [ \"$(ls /srv/postgres/backups/shop | grep -v latest | tail -1)\" \\> \"$now\" ]; do sleep 0.1; done",
    );
    machine.ok("mv /etc/pgvigil/good /etc/pgvigil/pgvigil.toml && systemctl reload pgvigil");
    machine.wait("the status is mended", "! systemctl show --property=StatusText pgvigil | grep -q faulty");
    assert_eq!((machine.property("ActiveState"), machine.property("MainPID")), ("active".into(), pid));
}

#[test]
fn a_daemon_that_stands_still_is_killed_and_started_again() {
    let machine = Machine::with_package(OFTEN);
    machine.set("WatchdogSec=4s\nRestartSec=100ms");
    machine.ok("systemctl start pgvigil");
    let pid = machine.property("MainPID");

    // A run that waits is not what it is for.
    machine.lock();
    let fed = |times: u32| {
        let usec = times * 4_000_000;
        format!(
            "[ $(( $(systemctl show --value --property=WatchdogTimestampMonotonic pgvigil) - $(systemctl show --value --property=ActiveEnterTimestampMonotonic pgvigil) )) -gt {usec} ]"
        )
    };
    machine.wait("three of its times have passed", &fed(3));
    machine.ok(&waits_for_lock());
    assert_eq!((machine.property("MainPID"), machine.property("NRestarts")), (pid.clone(), "0".into()));

    machine.ok(&format!("kill -STOP {pid}"));
    machine.wait("it runs again", "[ $(systemctl show --value --property=NRestarts pgvigil) = 1 ] && systemctl is-active pgvigil");
    let log = machine.journal("");
    assert!(log.contains("Watchdog timeout") && log.matches("the daemon begins").count() == 2, "{log}");
    assert_ne!(machine.property("MainPID"), pid);
    machine.unlock();
    machine.wait("backups go on", "pgvigil --json list shop | grep -q readable");
    // What the watchdog broke off is on record, and nothing of it is left.
    assert!(machine.ok("pgvigil history shop").contains("interrupted"));
    machine.wait("it is swept", "! ls -A /srv/postgres/backups/shop | grep partial");
}

#[test]
fn a_stop_lets_a_dump_come_to_its_end() {
    let machine = Machine::with_package(OFTEN);
    // Slots that came while it ran are on record as skipped.
    let newest = || machine.ok("pgvigil history shop | grep -v skipped | sed -n 2p");
    // Less than the dump takes: the daemon asks for more.
    machine.set("TimeoutStopSec=1s");
    machine.ok("systemctl start pgvigil");
    machine.lock();
    machine.ok("systemctl stop --no-block pgvigil");
    machine.wait("it waits", "systemctl show --property=StatusText pgvigil | grep -q 'waits for: shop'");
    let overdue = "[ $(( $(cut -d. -f1 /proc/uptime) * 1000000 - $(systemctl show --value --property=ActiveExitTimestampMonotonic pgvigil) )) -gt 4000000 ]";
    machine.wait("the unit's own time has passed", overdue);
    assert_eq!(machine.property("ActiveState"), "deactivating");
    machine.ok(&waits_for_lock());
    machine.unlock();
    machine.wait("it has stopped", "[ $(systemctl show --value --property=ActiveState pgvigil) = inactive ]");
    assert_eq!((machine.property("Result"), machine.property("ExecMainStatus")), ("success".into(), "0".into()));
    assert!(newest().contains(" ok "), "{}", newest());

    // Past shutdown_grace the dump is cancelled, and the stop is in time.
    machine.ok("sed -i '1ishutdown_grace = \"1s\"' /etc/pgvigil/pgvigil.toml && systemctl start pgvigil");
    machine.lock();
    machine.ok("systemctl stop pgvigil");
    assert_eq!((machine.property("Result"), machine.property("ActiveState")), ("success".into(), "inactive".into()));
    assert!(newest().contains(" cancelled "), "{}", newest());
    machine.ok("! pgrep pg_dump && ! ls -A /srv/postgres/backups/shop | grep partial");
    assert_eq!(machine.sql("shop", "select count(*) from pg_locks where not granted"), "0");
}

#[test]
fn an_upgrade_keeps_what_was_edited_and_a_removal_keeps_the_backups() {
    let machine = Machine::with_package(OFTEN);
    machine.ok("systemctl enable --now pgvigil");
    let (pid, file) =
        (machine.property("MainPID"), "cat /etc/pgvigil/pgvigil.toml; stat -c '%U:%G %a' /etc/pgvigil/pgvigil.toml /etc/pgvigil");
    let before = machine.ok(file);
    // The new one ships another file: dpkg's own answer without a person is to keep the edited one.
    machine.install(2, "--force-confdef");
    assert_eq!(machine.ok(file), before);
    assert!(machine.ok("cat /etc/pgvigil/pgvigil.toml.dpkg-dist").contains("of version 2"));
    assert!(machine.ok("dpkg-query -W -f '${Version}' pgvigil").starts_with("0.0.2"));
    assert_eq!((machine.property("ActiveState"), machine.property("UnitFileState")), ("active".into(), "enabled".into()));
    assert_ne!(machine.property("MainPID"), pid, "the new program runs");
    machine.wait("it makes backups", "pgvigil --json list shop | grep -q readable");

    machine.ok("dpkg --purge pgvigil");
    machine.ok("! systemctl is-active pgvigil && ls /srv/postgres/backups/shop/latest/manifest.json /var/lib/pgvigil/history.db");
    machine.ok("[ -z \"$(find /etc/systemd -name pgvigil.service)\" ]");
}

#[test]
fn a_secret_comes_as_a_credential() {
    let machine = Machine::with_package(OFTEN);
    machine.ok("sed -i 's|^socket *=.*|host = \"127.0.0.1\"\\npassword = { credential = \"pg\" }|' /etc/pgvigil/pgvigil.toml");
    // Nobody but root may read it where it lies.
    machine.ok("install -m 0600 /dev/null /etc/pgvigil/pg.password && echo s3cret > /etc/pgvigil/pg.password");
    let (code, _) = machine.bash("systemctl start pgvigil");
    assert_ne!(code, Some(0));
    let errors = machine.journal("--priority=err");
    assert!(errors.contains("there is no credential \"pg\"") && errors.contains("LoadCredential=pg:PATH"), "{errors}");

    machine.drop_in("credentials");
    machine.ok("systemctl restart pgvigil");
    machine.wait("a backup is there", "ls /srv/postgres/backups/shop/*/manifest.json");
    // The check of a reload finds it, and so does root beside the daemon.
    machine.ok("systemctl reload pgvigil");
    machine.ok("pgvigil --json check | grep -q 'PostgreSQL 15'");
    // One run at a time: until it finds its place.
    machine.wait("root makes a backup", "pgvigil run shop");
    let (pid, secret) = (machine.property("MainPID"), "s3cret");
    machine.ok(&format!("! grep -q {secret} /proc/{pid}/environ && ! grep -rq {secret} /var/lib/pgvigil"));
    assert!(!machine.journal("").contains(secret));
}

#[test]
fn a_service_manager_that_is_gone_ends_nobody() {
    let world = World::new();
    write_config(&world, "", "");
    let mut command = world.command(&["daemon"]);
    command.env("NOTIFY_SOCKET", world.path("nobody")).env("WATCHDOG_USEC", Duration::from_secs(60).as_micros().to_string());
    let log = Daemon::of(&mut command).stop();
    assert!(log.contains("the service manager cannot be told") && log.contains("the daemon ends"), "{log}");
}
