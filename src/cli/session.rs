//! What every command begins with: the log, the file, its secrets, and whose rights it goes on with.

use std::cell::Cell;
use std::io::IsTerminal;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::runtime::Runtime;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use super::args::Args;
use super::output;
use crate::config::file::{LogFormat, LogLevel};
use crate::config::plan::{Sourced, Warning, Which};
use crate::config::values::Given;
use crate::config::{DEFAULT_PATH, Faults, Overlay, Plan, labels, overlay};
use crate::error::{Error, Kind, Result};
use crate::host::labelled::{self, Seen};
use crate::host::{journal, owner, secret};
use crate::state::State;
use crate::state::discovered::Discovered;

pub struct Session {
    pub config: PathBuf,
    pub json: bool,
    log_level: Option<LogLevel>,
    /// There was a file once: that it is gone is a fault.
    had_file: Cell<bool>,
    /// It follows containers by itself.
    is_daemon: Cell<bool>,
}

/// Which secrets a command uses: only those must be there.
#[derive(Debug, Clone, Copy)]
pub enum Uses<'a> {
    None,
    /// Of one server.
    Server(&'a str),
    /// The caller tells about all of them.
    All,
}

/// A file that was read: its plan, and the secrets that were not to be had.
pub struct Opened {
    pub plan: Plan,
    pub missing: Vec<Error>,
}

impl Session {
    pub fn new(args: &Args) -> Self {
        Session {
            config: args.config.clone(),
            json: args.json,
            log_level: args.log_level,
            had_file: Cell::new(false),
            is_daemon: Cell::new(false),
        }
    }

    /// Reads the file, without a word about its warnings.
    pub fn load(&self) -> Result<std::result::Result<Plan, Faults>> {
        let overlays = environment();
        let text = self.text(&overlays)?;
        Ok(crate::config::parse_all(&text, &self.config, &overlays).map(|mut plan| {
            self.add_labelled(&mut plan, &text, &overlays);
            plan.warnings.extend(readable_by_others(&self.config, &plan, &overlays));
            plan
        }))
    }

    /// What says how things are to be: the file, the environment, or both.
    pub fn source(&self) -> String {
        let file = self.config.display();
        match (environment().is_empty(), self.config.exists()) {
            (true, _) => file.to_string(),
            (false, true) => format!("{file} and the environment"),
            (false, false) => "the environment alone".to_owned(),
        }
    }

    /// Where the state is, if the file can be read at all, be it ever so faulty.
    pub fn state_dir(&self) -> Option<PathBuf> {
        let overlays = environment();
        self.text(&overlays).ok().map(|text| crate::config::state_dir(&text, &overlays))
    }

    /// Adds what containers ask for by their labels: as the daemon knows them, else as they are now.
    fn add_labelled(&self, plan: &mut Plan, text: &str, overlays: &[Overlay]) {
        let Some(discovery) = plan.discovery.clone() else { return };
        let known = Discovered::read(&plan.state_dir).containers;
        let mut containers = if self.is_daemon.get() || State::has_daemon(&plan.state_dir) {
            known
        } else {
            match look_now(discovery.docker.clone()) {
                Ok(seen) => labels::merged(&known, &seen.labelled, &seen.others),
                Err(error) => {
                    output::warn(&format!("labels of containers: {}", error.message), error.hint.as_deref());
                    known
                }
            }
        };
        containers.retain(|container| !discovery.forget.contains(&container.container));
        labels::add(plan, text, overlays, &containers);
    }

    /// The file, which need not be there where the environment says it all.
    fn text(&self, overlays: &[Overlay]) -> Result<String> {
        let may_lack = !overlays.is_empty() && self.config == Path::new(DEFAULT_PATH) && !self.had_file.get();
        if may_lack && !self.config.exists() {
            return Ok(String::new());
        }
        let text = read(&self.config)?;
        self.had_file.set(true);
        Ok(text)
    }

    /// Starts the log as the file and the command line say.
    pub fn start_log(&self, plan: Option<&Plan>) {
        let format = plan.map(|plan| plan.log_format).unwrap_or_default();
        start_log(format, self.log_level.unwrap_or(LogLevel::Warn), false);
    }

    /// Starts the log of a daemon: at the level of the file, with times unless journald adds them.
    pub fn start_daemon_log(&self, plan: &Plan) {
        start_log(plan.log_format, self.log_level.unwrap_or(plan.log_level), true);
    }

    /// What most commands begin with: file, log, warnings, secrets, and then the owner's rights.
    ///
    /// # Errors
    /// The file is faulty, or the rights cannot be changed.
    pub fn open(&self, uses: Uses<'_>) -> Result<Opened> {
        let opened = self.open_as_caller(uses)?;
        owner::become_owner_of(&opened.plan.state_dir)?;
        Ok(opened)
    }

    /// What the daemon begins with: every secret must be there.
    ///
    /// # Errors
    /// The file is faulty, a secret is missing, or the rights cannot be changed.
    pub fn open_daemon(&self) -> Result<Plan> {
        self.is_daemon.set(true);
        let plan = self.load_whole()?;
        self.start_daemon_log(&plan);
        owner::become_owner_of(&plan.state_dir)?;
        Ok(plan)
    }

    /// Reads the file with all of its secrets.
    ///
    /// # Errors
    /// The file is faulty, or a secret is missing.
    pub fn load_whole(&self) -> Result<Plan> {
        let mut plan = self.load()?.map_err(|faults| faults_error(&faults))?;
        let missing = settle(&mut plan);
        match missing.split_first() {
            None => Ok(plan),
            Some((first, rest)) => {
                let all: Vec<&str> = [first].into_iter().chain(rest).map(|error| error.message.as_str()).collect();
                let error = Error::new(Kind::Config, all.join("\n"));
                Err(match &first.hint {
                    Some(hint) => error.hint(hint.clone()),
                    None => error,
                })
            }
        }
    }

    /// The same, but with the caller's own rights.
    ///
    /// # Errors
    /// The file is faulty.
    pub fn open_as_caller(&self, uses: Uses<'_>) -> Result<Opened> {
        let mut plan = self.load()?.map_err(|faults| faults_error(&faults))?;
        self.start_log(Some(&plan));
        let missing = settle(&mut plan);
        if !matches!(uses, Uses::All) {
            let used = match uses {
                Uses::Server(server) => format!("servers.{server}."),
                _ => String::from("-"),
            };
            for error in missing.iter().filter(|error| !error.message.starts_with(&used)) {
                output::warn(&error.message, None);
            }
            for warning in plan.warnings.iter().filter(|warning| warning.subject == "secrets") {
                output::warn(&warning.message, Some(&warning.hint));
            }
        }
        Ok(Opened { plan, missing })
    }
}

/// The machine for everything that waits.
///
/// # Errors
/// No threads are to be had.
pub fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| Error::system("cannot start threads", &error))
}

/// What work beside another's runs on, who needs the processors more: one thread waits, and one computes.
/// What blocks on that one must wait for nothing else that does.
///
/// # Errors
/// No threads are to be had.
pub fn modest_runtime() -> Result<Runtime> {
    let built = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build();
    built.map_err(|error| Error::system("cannot start threads", &error))
}

/// Faults as the error that a command ends with.
pub fn faults_error(faults: &Faults) -> Error {
    Error::new(Kind::Config, faults.to_string())
}

fn start_log(format: LogFormat, level: LogLevel, times: bool) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // What libraries think of their inner life is nobody's news below a warning.
    let ours = Targets::new().with_target("pgvigil", level).with_default(level.min(LevelFilter::WARN));
    let is_journal = journal::takes(std::io::stderr());
    let writer = if is_journal { BoxMakeWriter::new(journal::Lines) } else { BoxMakeWriter::new(std::io::stderr) };
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_target(false).with_ansi(std::io::stderr().is_terminal());
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Json => layer.json().boxed(),
        LogFormat::Auto if is_journal => layer.without_time().boxed(),
        LogFormat::Auto | LogFormat::Text if times => layer.boxed(),
        LogFormat::Auto | LogFormat::Text => layer.without_time().boxed(),
    };
    let _ = Registry::default().with(layer.with_filter(ours)).try_init();
}

fn read(path: &Path) -> Result<String> {
    let failed = |why: &str| Error::new(Kind::Config, format!("{}: {why}", path.display()));
    match std::fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|error| {
            let line = 1 + memchr::memchr_iter(b'\n', &error.as_bytes()[..error.utf8_error().valid_up_to()]).count();
            Error::new(Kind::Config, format!("{}:{line}: not UTF-8", path.display())).hint("save the file as UTF-8")
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(failed("there is no such file")
            .hint("pgvigil init prints a starting file; --config FILE or PGVIGIL_CONFIG names another place")),
        Err(error) => Err(failed(&crate::error::plain_io(&error)).hint("it must be readable by the user that pgvigil runs as")),
    }
}

/// The containers as they are now. On a thread of its own: whoever reads a file may be in the middle of
/// something that waits.
fn look_now(address: String) -> Result<Seen> {
    let looked = std::thread::spawn(move || runtime()?.block_on(labelled::look(&address))).join();
    looked.unwrap_or_else(|_| Err(Error::new(Kind::System, "the look at the containers was broken off")))
}

/// What the environment says.
fn environment() -> Vec<Overlay> {
    let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    overlay::of_environment(std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))))
}

fn readable_by_others(path: &Path, plan: &Plan, overlays: &[Overlay]) -> Option<Warning> {
    let in_file = |key: &str| overlays.iter().all(|overlay| overlay.path.join(".") != key);
    let is_literal = |sourced: &&Sourced| sourced.is_secret && matches!(sourced.given, Given::Literal(_)) && in_file(&sourced.key);
    let literal = &plan.givens.iter().find(is_literal)?.key;
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o044 != 0).then(|| Warning {
        subject: "secrets".to_owned(),
        message: format!("{literal} stands in {}, which others can read (mode {:04o})", path.display(), mode & 0o7777),
        hint: format!("chmod 0600 {}, or write {literal} = {{ file = \"PATH\" }}", path.display()),
    })
}

/// Reads every secret that can be read now, before root's rights are given up. What is missing is
/// returned, and left in the plan for the one who needs it to fail on.
fn settle(plan: &mut Plan) -> Vec<Error> {
    let missing = plan.givens.iter().filter_map(|sourced| secret::resolve(&sourced.key, &sourced.given).err()).collect();
    let settle = |given: &mut Given| {
        if let Ok(secret) = secret::resolve("", given) {
            *given = Given::Literal(secret.reveal().to_owned());
        }
    };
    for server in plan.servers.values_mut() {
        server.password.iter_mut().chain(server.user.iter_mut()).for_each(settle);
    }
    plan.signing_key.iter_mut().for_each(settle);
    for backup in plan.backups.values_mut() {
        backup.identity.iter_mut().for_each(settle);
        if let Which::One(given) = &mut backup.which {
            settle(given);
        }
    }
    if let Some(listen) = &mut plan.listen {
        listen.token.iter_mut().for_each(settle);
    }
    if let Some(email) = &mut plan.email {
        email.username.iter_mut().chain(email.password.iter_mut()).for_each(settle);
    }
    for webhook in plan.channels.webhooks.values_mut() {
        std::iter::once(&mut webhook.url).chain(webhook.headers.values_mut()).for_each(settle);
    }
    plan.channels.pings.values_mut().map(|ping| &mut ping.url).for_each(settle);
    missing
}
