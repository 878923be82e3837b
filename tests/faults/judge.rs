//! The judge: what must hold after every fault, and the case that it looks at.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::common::{Database, Ran, Server, World, container, password, unique, var};
use crate::gate::{Behind, Gate, address};
use crate::tools::{Container, PATIENCE, docker_socket, must, programs};

/// The name of the backup that every case makes.
pub const BACKUP: &str = "shop";

/// How the faulty run must have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// `failed` with a reason; nothing stored, and nothing left anywhere already now.
    Failed,
    /// The same, but the place of the leftovers was out of reach: the next run sweeps them.
    FailedOutOfReach,
    /// `failed`, but not before the backup was stored: it is as sound as any.
    FailedStored,
    /// `failed`, unless the state could not even take that.
    FailedState,
    /// As `Failed`, by a signal.
    Cancelled,
    /// Killed in the middle.
    Interrupted,
    /// Killed at any point, before it began or after its end too.
    Killed,
    /// It came through.
    Done,
}

/// The database of a case.
pub enum Target {
    Shared(Database),
    Own(Container, String),
}

impl Target {
    pub fn name(&self) -> &str {
        match self {
            Target::Shared(database) => &database.name,
            Target::Own(_, name) => name,
        }
    }

    /// Asks the server, not in the database of the case.
    pub fn ask(&self, sql: &str) -> String {
        match self {
            Target::Shared(database) if database.server == Server::Pg15 => database.server.sql("postgres", sql),
            // Many times quicker than a program inside.
            Target::Shared(_) => {
                static ADDRESS: OnceLock<String> = OnceLock::new();
                let psql = Path::new(&var("PGVIGIL_TEST_PG15_BIN")).join("psql");
                let mut psql = Command::new(psql);
                psql.env("PGHOST", ADDRESS.get_or_init(|| address(&container()))).env("PGPORT", "5432").env("PGPASSWORD", password());
                must(psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-c", sql]))
            }
            Target::Own(container, _) => container.sql("postgres", sql),
        }
    }

    pub fn sql(&self, sql: &str) -> String {
        match self {
            Target::Shared(database) => database.sql(sql),
            Target::Own(container, name) => container.sql(name, sql),
        }
    }

    pub fn own(&self) -> &Container {
        match self {
            Target::Own(container, _) => container,
            Target::Shared(_) => panic!("the container is everybody's"),
        }
    }
}

/// A database, a configuration with one backup of it, and one backup made before the fault.
pub struct Case {
    pub world: World,
    pub target: Target,
    pub gate: Option<Gate>,
    /// What else may lie in the folder of the backup.
    pub others: Vec<String>,
    /// Where its server is, and what else the file says of the backup.
    pub server: String,
    pub backup: String,
    hurried: bool,
    mark: String,
    /// Files of the backups that were there before the fault, with their hashes.
    kept: BTreeMap<PathBuf, String>,
    labels: Vec<String>,
    rows: usize,
}

/// Some megabytes of rows: they and their dump take a moment.
pub const ROWS: &str =
    "create table rows as select i, md5(i::text) as a, repeat(md5((i * 7)::text), 3) as b from generate_series(1, 50000) i";

/// The smallest database with something in it, where only the run itself matters.
pub const FEW_ROWS: &str = "create table rows as select i, md5(i::text) as a from generate_series(1, 2000) i";

impl Case {
    /// A copy of the sample, on a way to a server.
    pub fn new(server: Server, backup: &str) -> Self {
        Self::on(Target::Shared(Database::sample(server)), false, backup)
    }

    /// The same, through a gate, by which a dump can be held in its middle.
    pub fn gated(server: Server, backup: &str) -> Self {
        Self::on(Target::Shared(Database::sample(server)), true, backup)
    }

    /// A few rows.
    pub fn small(server: Server, backup: &str) -> Self {
        let database = Database::empty(server);
        database.sql(FEW_ROWS);
        Self::on(Target::Shared(database), false, backup)
    }

    /// In folders of the test's own; the server is this machine's, and the gate open.
    pub fn in_world(world: World, database: Database, backup: &str) -> Self {
        let target = Target::Shared(database);
        let (section, gate) = section(&world, &target, Server::Pg15, true);
        Self::build(world, target, gate, &section, backup)
    }

    /// A container of its own, by exec or over the network.
    pub fn own(container: Container, server: Server, gated: bool, backup: &str) -> Self {
        let name = unique("db");
        container.sql("postgres", &format!("create database {name} template template0"));
        container.sql(&name, ROWS);
        let world = World::new();
        let target = Target::Own(container, name);
        let (section, gate) = section(&world, &target, server, gated);
        Self::build(world, target, gate, &section, backup)
    }

    fn on(target: Target, gated: bool, backup: &str) -> Self {
        let Target::Shared(Database { server, .. }) = target else { panic!("a shared server") };
        let world = World::new();
        let (section, gate) = section(&world, &target, server, gated);
        Self::build(world, target, gate, &section, backup)
    }

    /// Writes the file and makes the first backup.
    pub fn build(world: World, target: Target, gate: Option<Gate>, server: &str, backup: &str) -> Self {
        let mut case = Self::bare(world, target, gate, server, backup);
        case.configure(server, backup);
        case.run().expect(0);
        case.settle();
        case
    }

    fn bare(world: World, target: Target, gate: Option<Gate>, server: &str, backup: &str) -> Self {
        Case {
            world,
            target,
            gate,
            others: Vec::new(),
            server: server.to_owned(),
            backup: backup.to_owned(),
            hurried: false,
            mark: unique("mark"),
            kept: BTreeMap::new(),
            labels: Vec::new(),
            rows: 0,
        }
    }

    /// Without a first backup.
    pub fn empty(database: Database) -> Self {
        let (world, server) = (World::new(), database.server);
        let target = Target::Shared(database);
        let (section, _) = section(&world, &target, server, false);
        Self::bare(world, target, None, &section, "")
    }

    /// Every session of a run goes to the database of the case, so that the judge knows them.
    pub fn configure(&self, server: &str, backup: &str) {
        let name = self.target.name();
        // What is stored stays, but where retention is the matter.
        let keep = if backup.contains("keep = ") { "" } else { "keep = { last = \"forever\" }\n" };
        self.world.configure(&format!(
            "[servers.main]\npassword = {{ env = \"PGVIGIL_TEST_PASSWORD\" }}\nmaintenance_database = \"{name}\"\n{server}\n\
            [backups.{BACKUP}]\ndatabase = \"{name}\"\n{keep}{backup}\n"
        ));
    }

    /// Bounds on the time of the faulty run only: the runs of the judge may take what they need.
    pub fn hurry(&mut self, bound: &str) {
        self.configure(&self.server, &format!("{}\n{bound}", self.backup));
        self.hurried = true;
    }

    pub fn gate(&self) -> &Gate {
        self.gate.as_ref().unwrap()
    }

    pub fn folder(&self) -> PathBuf {
        self.world.store().join(BACKUP)
    }

    /// The program, so that all it starts can be found again.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.world.command(args);
        command.env("PGVIGIL_TEST_MARK", &self.mark);
        command
    }

    pub fn pgvigil(&self, args: &[&str]) -> Ran {
        self.start(self.command(args)).end()
    }

    pub fn run(&self) -> Ran {
        self.pgvigil(&["--json", "run", BACKUP])
    }

    /// A command under another configuration.
    pub fn command_of(&self, config: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgvigil"));
        command.env("PGVIGIL_TEST_MARK", &self.mark).arg("--config").arg(config).args(args).stdin(std::process::Stdio::null());
        command
    }

    pub fn run_command(&self) -> Command {
        self.command(&["--json", "run", BACKUP])
    }

    /// Starts a run.
    pub fn begin(&self) -> Live {
        self.start(self.run_command())
    }

    /// Starts a run, and waits until the gate holds its dump.
    pub fn begin_to(&self, bytes: u64) -> Live {
        self.gate().arm(bytes);
        let live = self.begin();
        self.gate().reached();
        live
    }

    pub fn start(&self, mut command: Command) -> Live {
        let (out, err) = (self.world.path(&unique("out")), self.world.path(&unique("err")));
        command.stdout(std::fs::File::create(&out).unwrap()).stderr(std::fs::File::create(&err).unwrap());
        Live { child: command.spawn().unwrap(), out, err, hwm_kib: 0 }
    }

    /// Programs of runs of this case, here and in containers: (process, command line).
    pub fn programs(&self) -> Vec<(i32, String)> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let text = |name: &str| String::from_utf8_lossy(&std::fs::read(entry.path().join(name)).unwrap_or_default()).replace('\0', " ");
            let (environ, line) = (text("environ"), text("cmdline"));
            if environ.contains("PGAPPNAME=pgvigil_") && (environ.contains(&self.mark) || line.contains(self.target.name())) {
                found.push((pid, line));
            }
        }
        found
    }

    /// The one that dumps.
    pub fn dumping(&self) -> Pid {
        let found: Vec<_> = self.programs().into_iter().filter(|(_, line)| line.contains("pg_dump ")).collect();
        // A directory format has a process a job: the first is the leader.
        Pid::from_raw(found.iter().map(|(pid, _)| *pid).min().unwrap_or_else(|| panic!("no pg_dump runs")))
    }

    fn backends(&self) -> String {
        self.target.ask(&format!(
            "select coalesce(string_agg(pid || ' ' || state || ' ' || query, '; '), '') from pg_stat_activity \
            where datname = '{}' and application_name like 'pgvigil\\_%'",
            self.target.name()
        ))
    }

    pub fn labels(&self) -> Vec<String> {
        let mut names = self.world.names(BACKUP);
        names.retain(|name| is_label(name));
        names
    }

    pub fn history(&self) -> Vec<Value> {
        self.pgvigil(&["--json", "history", BACKUP]).expect(0).json().as_array().unwrap().clone()
    }

    /// Takes what is there for what was there before the next fault; of old backups only the
    /// newest stays.
    pub fn settle(&mut self) {
        self.settle_after(self.history().len());
    }

    fn settle_after(&mut self, rows: usize) {
        self.rows = rows;
        // Labels of one second run ahead of the clock: the newest is not always the last.
        let latest = std::fs::read_link(self.folder().join("latest")).ok().map(|latest| latest.display().to_string());
        let mut labels = self.labels();
        let newest = latest.filter(|latest| labels.contains(latest)).unwrap_or_else(|| labels.last().unwrap().clone());
        labels.retain(|label| *label != newest);
        for label in labels {
            std::fs::remove_dir_all(self.folder().join(label)).unwrap();
        }
        self.labels = vec![newest];
        self.kept.clear();
        for label in &self.labels {
            for path in files_below(&self.folder().join(label)) {
                self.kept.insert(path.clone(), sha256(&path));
            }
        }
    }
}

/// Where the server of a case is, and the gate on the way to it.
fn section(world: &World, target: &Target, server: Server, gated: bool) -> (String, Option<Gate>) {
    let gate = |behind| gated.then(|| Gate::new(behind));
    let in_container = match target {
        Target::Shared(_) => format!("container = \"{}\"\n", container()),
        Target::Own(container, _) if container.engine.is_empty() => format!("container = \"{}\"\n", container.name),
        Target::Own(container, _) => format!("container = \"{}\"\ndocker = \"{}\"\n", container.name, container.engine),
    };
    match server {
        Server::Pg15 => {
            let port = var("PGVIGIL_TEST_PG15_PORT").parse().unwrap();
            let gate = gate(Behind::Tcp(port));
            let bin = var("PGVIGIL_TEST_PG15_BIN");
            (format!("host = \"127.0.0.1\"\nport = {}\nbin_dir = \"{bin}\"\n", gate.as_ref().map_or(port, |gate| gate.port)), gate)
        }
        Server::Exec => {
            let gate = gate(Behind::Unix(docker_socket()));
            let docker = gate.as_ref().map_or(String::new(), |gate| format!("docker = \"tcp://127.0.0.1:{}\"\n", gate.port));
            (format!("{in_container}{docker}"), gate)
        }
        Server::Network => {
            let name = match target {
                Target::Shared(_) => container(),
                Target::Own(container, _) => container.name.clone(),
            };
            let gate = gate(Behind::Container(name));
            // The address is the container's own: pg_dump is sent to the gate instead.
            let bin = gate.as_ref().map_or(String::new(), |gate| {
                let script = format!("export PGHOST=127.0.0.1 PGPORT={}\nexec $BIN/pg_dump \"$@\"", gate.port);
                format!("bin_dir = \"{}\"\n", programs(&world.path(""), &[("pg_dump", &script)]).display())
            });
            (format!("{in_container}via = \"network\"\n{bin}"), gate)
        }
        Server::Pg18 => panic!("no case of it"),
    }
}

/// A run under way.
pub struct Live {
    child: Child,
    out: PathBuf,
    err: PathBuf,
    /// Most resident memory that was seen.
    pub hwm_kib: u64,
}

impl Live {
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.err).unwrap()
    }

    /// Waits for the end.
    #[track_caller]
    pub fn end(mut self) -> Ran {
        self.end_within(PATIENCE)
    }

    /// The same, and watches the memory meanwhile.
    #[track_caller]
    pub fn end_within(&mut self, patience: Duration) -> Ran {
        let deadline = Instant::now() + patience;
        let status = loop {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
            let hwm = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
            self.hwm_kib = self.hwm_kib.max(hwm.unwrap_or(0));
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "pgvigil does not end; so far: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(5));
        };
        Ran { code: status.code(), stdout: std::fs::read_to_string(&self.out).unwrap(), stderr: self.stderr() }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn is_label(name: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    name.len() == 16 && digits(&name[..8]) && &name[8..9] == "T" && digits(&name[9..15]) && name.ends_with('Z')
}

/// All files below a folder.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

pub fn sha256(path: &Path) -> String {
    Sha256::digest(std::fs::read(path).unwrap()).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The judge. Afterwards the case is ready for another fault.
#[track_caller]
pub fn assert_sound(case: &mut Case, end: End) {
    let faults = judge(case, end);
    assert!(faults.is_empty(), "{end:?}: {}", faults.join("\n"));
}

/// The same, for campaigns that go on: everything that does not hold, a line each.
pub fn judge(case: &mut Case, end: End) -> Vec<String> {
    let mut faults = Vec::new();
    if std::mem::take(&mut case.hurried) {
        case.configure(&case.server, &case.backup);
    }
    let rows = case.history();
    let stored: Vec<String> = case.labels().into_iter().filter(|label| !case.labels.contains(label)).collect();
    let clean = matches!(end, End::Failed | End::FailedStored | End::Cancelled | End::Done);
    look_at_store(case, clean, &mut faults);
    verify(case, &case.labels(), &mut faults);
    look_at_list(case, &mut faults);
    if clean {
        look_for_leftovers(case, "after the fault", &mut faults);
    }
    let row = rows.len().checked_sub(case.rows + 1).map(|_| &rows[0]);
    let outcome = row.map(|row| row["outcome"].as_str());
    let wanted = match end {
        End::Failed | End::FailedOutOfReach | End::FailedStored => outcome == Some(Some("failed")),
        End::FailedState => matches!(outcome, None | Some(Some("failed" | "interrupted"))),
        End::Cancelled => outcome == Some(Some("cancelled")),
        End::Interrupted => outcome == Some(Some("interrupted")),
        End::Killed => matches!(outcome, None | Some(Some("interrupted" | "ok"))),
        End::Done => matches!(outcome, Some(Some("ok" | "problems"))),
    };
    if !wanted {
        faults.push(format!("the history says {rows:#?}"));
    }
    if matches!(end, End::Failed | End::FailedOutOfReach | End::Cancelled) {
        if row.is_none_or(|row| row["error"].as_str().is_none_or(str::is_empty) || !row["id"].is_null()) {
            faults.push(format!("a failure without a reason, or with an ID: {row:?}"));
        }
        if !stored.is_empty() {
            faults.push(format!("it failed, and stored {stored:?}"));
        }
    }

    // The next run.
    let before_next = case.labels();
    let next = case.run();
    if next.code != Some(0) {
        faults.push(format!("the next run fails: {next:?}"));
    }
    look_at_store(case, true, &mut faults);
    look_for_leftovers(case, "after the next run", &mut faults);
    let fresh: Vec<String> = case.labels().into_iter().filter(|label| !before_next.contains(label)).collect();
    verify(case, &fresh, &mut faults);
    if fresh.len() != 1 || before_next.iter().any(|label| !case.labels().contains(label)) {
        faults.push(format!("the next run made {fresh:?} beside {before_next:?}"));
    }
    let latest = std::fs::read_link(case.folder().join("latest")).ok();
    if latest != fresh.first().map(PathBuf::from) {
        faults.push(format!("latest points to {latest:?}, and the newest is {fresh:?}"));
    }
    let after = case.history();
    if after.first().is_none_or(|row| row["outcome"] != "ok") || after.len() != rows.len() + 1 {
        faults.push(format!("after the next run the history says {after:#?}"));
    } else if let Some(row) = row {
        let now = &after[1];
        let id = stored.first().map(|label| format!("{BACKUP}/{label}"));
        if now["outcome"] != row["outcome"] || (now["outcome"] == "interrupted" && now["error"].as_str().is_none_or(str::is_empty)) {
            faults.push(format!("the faulty run was {row}, and is {now}"));
        }
        if now["id"].as_str() != id.as_deref() {
            faults.push(format!("the faulty run stored {id:?}: {now}"));
        }
    }
    for (path, hash) in &case.kept {
        if !path.is_file() || sha256(path) != *hash {
            faults.push(format!("{} is not what it was before", path.display()));
        }
    }
    case.settle_after(after.len());
    faults
}

/// Under a label is a whole backup, and nothing else is under a final name.
fn look_at_store(case: &Case, clean: bool, faults: &mut Vec<String>) {
    for entry in std::fs::read_dir(case.world.store()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name != BACKUP && name != "lost+found" && !case.others.contains(&name) {
            faults.push(format!("{name} in the store"));
        }
    }
    for name in case.world.names(BACKUP) {
        let path = case.folder().join(&name);
        if is_label(&name) {
            look_at_backup(&path, faults);
        } else if name == "latest" {
            let target = std::fs::read_link(&path).unwrap();
            if !is_label(&target.display().to_string()) || !path.is_dir() {
                faults.push(format!("latest points to {}", target.display()));
            }
        } else if !case.others.contains(&name) && (clean || !name.starts_with(".partial-")) {
            faults.push(format!("{name} beside the backups"));
        }
    }
}

fn look_at_backup(dir: &Path, faults: &mut Vec<String>) {
    let read = std::fs::read(dir.join("manifest.json")).map_err(|error| error.to_string());
    let manifest: Value = match read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string())) {
        Ok(manifest) => manifest,
        Err(error) => {
            faults.push(format!("{}: no manifest: {error}", dir.display()));
            return;
        }
    };
    let mut known = vec![dir.join("manifest.json")];
    for file in manifest["files"].as_array().unwrap() {
        let path = dir.join(file["name"].as_str().unwrap());
        let len = std::fs::metadata(&path).map(|meta| meta.len()).ok();
        if len != file["bytes"].as_u64() || len.is_none() || file["sha256"] != sha256(&path).as_str() {
            faults.push(format!("{} is not what the manifest says: {len:?} bytes; {file}", path.display()));
        }
        known.push(path);
    }
    for path in files_below(dir) {
        let name = path.file_name().unwrap().to_string_lossy();
        if !known.contains(&path) && !name.starts_with("proof-") && !name.starts_with("pin-") {
            faults.push(format!("{} is in no manifest", path.display()));
        }
    }
}

fn verify(case: &Case, labels: &[String], faults: &mut Vec<String>) {
    for label in labels {
        let verified = case.pgvigil(&["verify", &format!("{BACKUP}/{label}")]);
        if verified.code != Some(0) {
            faults.push(format!("{label} does not verify: {verified:?}"));
        }
    }
}

fn look_at_list(case: &Case, faults: &mut Vec<String>) {
    let list = case.pgvigil(&["--json", "list", BACKUP]);
    let listed: Vec<Value> = serde_json::from_str(&list.stdout).unwrap_or_default();
    let mut listed: Vec<&str> = listed.iter().filter_map(|row| row["label"].as_str()).collect();
    listed.sort_unstable();
    if list.code != Some(0) || listed != case.labels() {
        faults.push(format!("list says {listed:?}, there is {:?}: {list:?}", case.labels()));
    }
}

/// No process and no backend. A backend takes a moment to see that its client has left.
fn look_for_leftovers(case: &Case, when: &str, faults: &mut Vec<String>) {
    let programs = case.programs();
    if !programs.is_empty() {
        faults.push(format!("{when} these still run: {programs:?}"));
    }
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        let backends = case.backends();
        if backends.is_empty() {
            return;
        }
        if Instant::now() > deadline {
            faults.push(format!("{when} the server still has {backends}"));
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
