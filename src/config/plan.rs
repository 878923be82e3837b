//! The plan: the file with its defaults filled in and its names resolved. What stands here can be
//! carried out; nothing downstream asks again whether it makes sense.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono_tz::Tz;

use super::changes::Written;
use super::channels::{self, Channels};
use super::choose::{choose_databases, choose_server, choose_stores};
use super::drill::{self, Drill, DrillOn};
use super::email::{self, Email};
use super::faults::Examined;
use super::file::{self, BackupKind, Contents, EvidenceMode, File, Format, LogFormat, LogLevel, SslMode, Via, Want};
use super::labels::LabelFault;
use super::listen::{self, Listen};
use super::physical::{self, Physical};
use super::rules;
use super::values::{Compression, Count, Given, Name, Schedule};
use crate::keys::{Recipient, Trusted};

/// Where a debian or systemd installation keeps the daemon's state.
pub const STATE_DIR: &str = "/var/lib/pgvigil";

#[derive(Debug, Clone)]
pub struct Plan {
    pub state_dir: PathBuf,
    /// What cannot be streamed, and local throwaway servers.
    pub spool_dir: PathBuf,
    /// Over all backups.
    pub max_concurrent_runs: u32,
    /// How long one that holds the lease of a backup may give no sign of life.
    pub takeover_after: Duration,
    /// How long a running dump may go on after SIGTERM.
    pub shutdown_grace: Duration,
    /// `None`: no listener.
    pub listen: Option<Listen>,
    pub email: Option<Email>,
    pub discovery: Option<Discovery>,
    pub channels: Channels,
    pub log_level: LogLevel,
    pub log_format: LogFormat,
    pub servers: BTreeMap<Name, Server>,
    pub stores: BTreeMap<Name, Store>,
    pub backups: BTreeMap<Name, Backup>,
    /// Signs manifests, proofs and pins.
    pub signing_key: Option<Given>,
    /// Whose signatures count beside its own.
    pub trusted_signers: Vec<Trusted>,
    /// Whether a failure would reach somebody: [email], a webhook or a ping.
    pub has_channel: bool,
    /// Every value of the file that may come from elsewhere, for `check` and for the warnings.
    pub givens: Vec<Sourced>,
    /// What is right, and probably not what was meant.
    pub warnings: Vec<Warning>,
    /// Every key as it is written, to say what an edit has changed. No secret stands in here.
    pub written: Written,
}

/// Containers that ask for a backup by their labels.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// Address of the Engine.
    pub docker: String,
    /// Gone for good.
    pub forget: Vec<String>,
    /// What is wrong with labels.
    pub faults: Vec<LabelFault>,
}

/// A value with the key that names it, such as `servers.main.password`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced {
    pub key: String,
    pub given: Given,
    /// Not for everybody's eyes.
    pub is_secret: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub subject: String,
    pub message: String,
    pub hint: String,
}

#[derive(Debug, Clone)]
pub struct Server {
    pub name: Name,
    pub place: Place,
    pub bin_dir: Option<PathBuf>,
    pub port: Option<u16>,
    pub user: Option<Given>,
    pub password: Option<Given>,
    /// Without a password of the file: that of the container's own environment.
    pub password_of_container: bool,
    pub sslmode: SslMode,
    pub sslrootcert: Option<PathBuf>,
    pub sslcert: Option<PathBuf>,
    pub sslkey: Option<PathBuf>,
    pub maintenance_database: String,
}

/// Where PostgreSQL is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Container { container: String, docker: Option<String>, via: Via },
    Host(String),
    Socket(PathBuf),
}

impl Place {
    /// Whether programs run in its container: they have no folder of ours.
    pub fn is_by_exec(&self) -> bool {
        matches!(self, Place::Container { via: Via::Exec, .. })
    }
}

#[derive(Debug, Clone)]
pub struct Store {
    pub name: Name,
    pub kind: StoreKind,
    /// Of the file system that holds the folder.
    pub alert_above_percent: u8,
    pub check_every: Duration,
    /// In the place of the backup's.
    pub keep: Option<Keep>,
}

#[derive(Debug, Clone)]
pub enum StoreKind {
    /// A folder of this machine.
    Local(PathBuf),
    S3(S3Place),
    Ssh(SshPlace),
}

impl Store {
    /// Where it is, for people.
    pub fn place(&self) -> String {
        match &self.kind {
            StoreKind::Local(path) => path.display().to_string(),
            StoreKind::S3(place) => format!("s3://{}/{}", place.at.bucket, place.at.prefix.as_deref().unwrap_or_default()),
            StoreKind::Ssh(place) => format!("{}:{}", place.at.host, place.at.path.display()),
        }
    }
}

impl StoreKind {
    /// The folder of this machine that it is. `None`: it is elsewhere.
    pub fn folder(&self) -> Option<&PathBuf> {
        match self {
            StoreKind::Local(path) => Some(path),
            StoreKind::S3(_) | StoreKind::Ssh(_) => None,
        }
    }
}

/// A bucket, and how it is reached.
#[derive(Debug, Clone)]
pub struct S3Place {
    pub at: file::S3,
    pub access_key_id: Option<Given>,
    pub secret_access_key: Option<Given>,
    pub session_token: Option<Given>,
    /// Where large parts wait.
    pub spool: PathBuf,
}

/// A folder of another host, and how it is reached.
#[derive(Debug, Clone)]
pub struct SshPlace {
    pub at: file::Ssh,
}

#[derive(Debug, Clone)]
pub struct Backup {
    pub name: Name,
    pub server: Name,
    pub which: Which,
    pub timezone: Tz,
    /// `None`: only by hand.
    pub schedule: Option<Schedule>,
    /// Up to so long after its slot a run begins, so that many do not begin at once.
    pub jitter: Option<Duration>,
    pub catch_up: bool,
    /// After a failure that may pass.
    pub retries: u32,
    pub keep: Keep,
    /// `None`: two slots in a row that passed without a good backup.
    pub max_age: Option<Duration>,
    pub want: Want,
    pub deadline: Option<Duration>,
    pub stall_timeout: Duration,
    pub dump: DumpSpec,
    /// Base backups and the log, instead of dumps.
    pub physical: Option<Physical>,
    pub globals: bool,
    /// What is recorded under the snapshot of the dump.
    pub evidence: EvidenceMode,
    /// Queries of one value, by name.
    pub checks: BTreeMap<Name, String>,
    /// `None`: drills are only by hand.
    pub drill: Option<Drill>,
    /// Where a drill goes that no section speaks of.
    pub drill_default: DrillOn,
    /// The first is the primary.
    pub stores: Vec<Name>,
    /// None: it is not encrypted.
    pub encrypt_to: Vec<Recipient>,
    /// Private keys that open what is encrypted, for drills.
    pub identity: Option<Given>,
}

impl Backup {
    /// Where its drills restore to, by hand too.
    pub fn drill_on(&self) -> &DrillOn {
        self.drill.as_ref().map_or(&self.drill_default, |drill| &drill.on)
    }

    /// The store whose copy its scheduled drills restore.
    pub fn drill_store(&self) -> &Name {
        self.drill.as_ref().and_then(|drill| drill.store.as_ref()).unwrap_or(&self.stores[0])
    }

    /// `None`: drills are only by hand.
    pub fn drill_schedule(&self) -> Option<&Schedule> {
        self.drill.as_ref()?.schedule.as_ref()
    }
}

/// What retention keeps. A unit that is not named keeps nothing.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Keep {
    pub last: Count,
    pub within: Option<Duration>,
    pub daily: Count,
    pub weekly: Count,
    pub monthly: Count,
    pub yearly: Count,
    /// Of physical backups: the newest that are whole by themselves.
    #[serde(default)]
    pub base_backups: Option<Count>,
    /// Of physical backups: so far back every moment can be restored.
    #[serde(default)]
    pub window: Option<Duration>,
}

impl Default for Keep {
    fn default() -> Self {
        Keep {
            last: Count::Number(3),
            within: None,
            daily: Count::Number(7),
            weekly: Count::Number(4),
            monthly: Count::Number(12),
            yearly: Count::Forever,
            base_backups: None,
            window: None,
        }
    }
}

impl Keep {
    /// No unit is named.
    pub fn nothing() -> Self {
        let none = Count::Number(0);
        Keep { last: none, within: None, daily: none, weekly: none, monthly: none, yearly: none, base_backups: None, window: None }
    }

    /// Whether it names a unit of physical backups.
    pub fn speaks_of_base_backups(&self) -> bool {
        self.base_backups.is_some() || self.window.is_some()
    }

    /// Whether it says what stays of dumps: unless it names units of physical backups alone.
    pub fn speaks_of_dumps(&self) -> bool {
        let units = [self.last, self.daily, self.weekly, self.monthly, self.yearly];
        !self.speaks_of_base_backups() || self.within.is_some() || units.iter().any(|unit| *unit != Count::Number(0))
    }

    fn of(keep: &file::Keep) -> Self {
        let count = |count: Option<Count>| count.unwrap_or(Count::Number(0));
        Keep {
            last: count(keep.last),
            within: keep.within.map(|span| span.0),
            daily: count(keep.daily),
            weekly: count(keep.weekly),
            monthly: count(keep.monthly),
            yearly: count(keep.yearly),
            base_backups: keep.base_backups,
            window: keep.window.map(|span| span.0),
        }
    }
}

/// Which databases a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    One(Given),
    Named(Vec<String>),
    All { exclude: Vec<String> },
}

/// What is dumped of a database, and in which form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpSpec {
    pub format: Format,
    pub jobs: u32,
    pub contents: Contents,
    pub tables: Vec<String>,
    pub exclude_tables: Vec<String>,
    pub schemas: Vec<String>,
    pub compression: Compression,
}

impl DumpSpec {
    /// Whether it is only a part of the database.
    pub fn is_narrow(&self) -> bool {
        self.contents != Contents::All || !(self.tables.is_empty() && self.exclude_tables.is_empty() && self.schemas.is_empty())
    }
}

/// Default of `jobs`.
pub(super) const JOBS: u32 = 2;

/// Default of `stall_timeout`.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(3_600);

/// Default of `shutdown_grace`.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(60);

/// Default of `takeover_after`.
const TAKEOVER_AFTER: Duration = Duration::from_secs(45);

/// Default of `alert_above_percent`.
const ALERT_ABOVE_PERCENT: u8 = 80;

/// Default of `check_every`.
const CHECK_EVERY: Duration = Duration::from_secs(300);

/// Default of `retries`.
const RETRIES: u32 = 2;

/// Makes the plan of a file. Faults are noted at their keys; the plan is only good without any.
pub fn plan(file: &File, examined: &mut Examined<'_>) -> Plan {
    let servers = file
        .servers
        .iter()
        .filter_map(|(name, server)| Some((name.clone(), plan_server(name, server, examined)?)))
        .collect::<BTreeMap<_, _>>();
    let state_dir = file.state_dir.clone().unwrap_or_else(|| PathBuf::from(STATE_DIR));
    let spool_dir = file.spool_dir.clone().unwrap_or_else(|| state_dir.join("spool"));
    let stores = file
        .stores
        .iter()
        .filter_map(|(name, store)| Some((name.clone(), plan_store(name, store, &spool_dir, examined)?)))
        .collect::<BTreeMap<_, _>>();
    let backups = file
        .backups
        .iter()
        .filter_map(|(name, backup)| Some((name.clone(), plan_backup(name, backup, file, examined)?)))
        .collect::<BTreeMap<_, _>>();
    rules::check_rest(file, examined);
    let channels = channels::plan_channels(file, examined);
    let email = file.email.as_ref().and_then(|email| email::plan_email(email, channels.policy.remind_every, examined));
    let listen = listen::plan_listen(file, examined);
    let log = file.log.clone().unwrap_or_default();
    Plan {
        spool_dir,
        state_dir,
        max_concurrent_runs: file.max_concurrent_runs.unwrap_or(1),
        takeover_after: file.takeover_after.map_or(TAKEOVER_AFTER, |span| span.0),
        shutdown_grace: file.shutdown_grace.map_or(SHUTDOWN_GRACE, |span| span.0),
        listen,
        signing_key: file.signing_key.clone(),
        trusted_signers: rules::signers(file, examined),
        has_channel: super::survey::has_channel(file),
        email,
        discovery: file.discovery.as_ref().map(|discovery| Discovery {
            docker: discovery.docker.clone(),
            forget: discovery.forget.clone().unwrap_or_default(),
            faults: Vec::new(),
        }),
        channels,
        log_level: log.level.unwrap_or_default(),
        log_format: log.format.unwrap_or_default(),
        servers,
        stores,
        backups,
        givens: super::survey::givens(file),
        warnings: super::survey::warnings(file),
        written: examined.written(&super::survey::givens(file)),
    }
}

fn plan_server(name: &Name, server: &file::Server, examined: &mut Examined<'_>) -> Option<Server> {
    let section = ["servers", name.as_str()];
    let key = |key| ["servers", name.as_str(), key];
    let places = [("container", server.container.is_some()), ("host", server.host.is_some()), ("socket", server.socket.is_some())];
    let named: Vec<&str> = places.iter().filter(|(_, is)| *is).map(|(key, _)| *key).collect();
    let place = match (&server.container, &server.host, &server.socket) {
        (Some(container), None, None) => {
            Some(Place::Container { container: container.clone(), docker: server.docker.clone(), via: server.via.unwrap_or_default() })
        }
        (None, Some(host), None) => Some(Place::Host(host.clone())),
        (None, None, Some(socket)) => Some(Place::Socket(socket.clone())),
        (None, None, None) => {
            examined.lack(
                &section,
                format!("server {name} says nowhere where PostgreSQL is"),
                "add container = \"NAME\", host = \"ADDRESS\" or socket = \"/var/run/postgresql\"",
            );
            None
        }
        _ => {
            examined.fault(&key(named[1]), format!("server {name} is in two places: {}", named.join(" and ")), "keep one of them");
            None
        }
    };
    if server.container.is_none() {
        for (name, given) in [("docker", server.docker.is_some()), ("via", server.via.is_some())] {
            if given {
                examined.fault(&key(name), format!("{name} without container"), "add container = \"NAME\", or remove it");
            }
        }
    }
    if let Some(docker) = &server.docker {
        rules::check_engine(docker, &key("docker"), examined);
    }
    if server.is_by_exec() {
        let unused = [
            ("bin_dir", server.bin_dir.is_some()),
            ("sslmode", server.sslmode.is_some_and(|mode| mode != SslMode::Prefer)),
            ("sslrootcert", server.sslrootcert.is_some()),
            ("sslcert", server.sslcert.is_some()),
            ("sslkey", server.sslkey.is_some()),
        ];
        for (name, _) in unused.iter().filter(|(_, given)| *given) {
            examined.fault(
                &key(name),
                format!("{name} has no effect with via = \"exec\": the container's own programs run, over its own socket"),
                "remove it, or set via = \"network\"",
            );
        }
    }
    Some(Server {
        name: name.clone(),
        place: place?,
        bin_dir: server.bin_dir.clone(),
        port: server.port.map(std::num::NonZeroU16::get),
        user: server.user.clone(),
        password: server.password.clone(),
        password_of_container: false,
        sslmode: server.sslmode.unwrap_or_default(),
        sslrootcert: server.sslrootcert.clone(),
        sslcert: server.sslcert.clone(),
        sslkey: server.sslkey.clone(),
        maintenance_database: server.maintenance_database.clone().unwrap_or_else(|| "postgres".to_owned()),
    })
}

fn plan_store(name: &Name, store: &file::Store, spool: &Path, examined: &mut Examined<'_>) -> Option<Store> {
    let kinds = [store.path.is_some(), store.s3.is_some(), store.ssh.is_some()];
    if kinds.iter().filter(|is| **is).count() != 1 {
        examined.lack(
            &["stores", name.as_str()],
            format!("store {name} needs exactly one of path, s3 and ssh"),
            "add path = \"/srv/postgres/backups\", or keep one of them",
        );
        return None;
    }
    if let Some(percent) = store.alert_above_percent
        && !(1..=100).contains(&percent)
    {
        examined.fault(
            &["stores", name.as_str(), "alert_above_percent"],
            format!("bad percentage {percent}"),
            "write a whole number from 1 to 100, such as 80",
        );
    }
    if let Some(keep) = &store.keep {
        rules::check_keep(keep, None, &["stores", name.as_str(), "keep"], examined);
    }
    let kind = match (&store.path, &store.s3, &store.ssh) {
        (Some(path), ..) if path.is_absolute() => StoreKind::Local(path.clone()),
        (Some(path), ..) => {
            examined.fault(
                &["stores", name.as_str(), "path"],
                format!("path {:?} is not absolute", path.display().to_string()),
                "write it from the root, such as \"/srv/postgres/backups\"",
            );
            return None;
        }
        (None, Some(at), _) => {
            super::s3::check(name, store, at, examined);
            StoreKind::S3(S3Place {
                at: at.clone(),
                access_key_id: store.access_key_id.clone(),
                secret_access_key: store.secret_access_key.clone(),
                session_token: store.session_token.clone(),
                spool: spool.to_owned(),
            })
        }
        (None, None, at) => {
            let at = at.clone()?;
            super::ssh::check(name, &at, examined);
            StoreKind::Ssh(SshPlace { at })
        }
    };
    Some(Store {
        name: name.clone(),
        kind,
        alert_above_percent: store.alert_above_percent.unwrap_or(ALERT_ABOVE_PERCENT),
        check_every: store.check_every.map_or(CHECK_EVERY, |span| span.0),
        keep: store.keep.as_ref().map(Keep::of),
    })
}

fn plan_backup(name: &Name, backup: &file::Backup, file: &File, examined: &mut Examined<'_>) -> Option<Backup> {
    let kind = backup.kind.unwrap_or_default();
    let server = choose_server(name, backup, file, examined);
    let stores = choose_stores(name, backup, file, examined);
    let which = match kind {
        BackupKind::Dump => choose_databases(name, backup, examined),
        BackupKind::Physical => Some(Which::All { exclude: Vec::new() }),
    };
    rules::check_kind(name, backup, kind, examined);
    rules::check_chain(name, backup, examined);
    physical::check_folder(name, backup, examined);
    rules::check_form(name, backup, server.as_ref().and_then(|server| file.servers.get(server)), examined);
    if let Some(keep) = &backup.keep {
        rules::check_keep(keep, Some(kind), &["backups", name.as_str(), "keep"], examined);
    }
    let served_by = server.as_ref().and_then(|server| file.servers.get(server));
    let drill = drill::plan_drill(name, backup, served_by, file, examined);
    rules::check_checks(name, backup, examined);
    let timezone = backup.timezone.or(file.timezone).map_or(Tz::UTC, |zone| zone.0);
    Some(Backup {
        name: name.clone(),
        server: server?,
        which: which?,
        timezone,
        schedule: physical::schedule(backup),
        jitter: backup.jitter.map(|span| span.0),
        catch_up: backup.catch_up.unwrap_or(true),
        retries: backup.retries.unwrap_or(RETRIES),
        keep: backup.keep.as_ref().map_or_else(|| physical::default_keep(kind), Keep::of),
        max_age: backup.max_age.map(|span| span.0),
        want: backup.want.unwrap_or_default(),
        deadline: backup.deadline.map(|span| span.0),
        stall_timeout: backup.stall_timeout.map_or(STALL_TIMEOUT, |span| span.0),
        dump: DumpSpec {
            format: backup.format.unwrap_or_default(),
            jobs: backup.jobs.unwrap_or(JOBS),
            contents: backup.contents.unwrap_or_default(),
            tables: backup.tables.clone().unwrap_or_default(),
            exclude_tables: backup.exclude_tables.clone().unwrap_or_default(),
            schemas: backup.schemas.clone().unwrap_or_default(),
            compression: backup.compression.unwrap_or_default(),
        },
        physical: physical::plan_physical(backup),
        globals: backup.globals.unwrap_or(true),
        evidence: backup.evidence.unwrap_or_default(),
        checks: backup.checks.clone().unwrap_or_default(),
        drill,
        drill_default: DrillOn::default_for(served_by),
        stores: stores?,
        encrypt_to: rules::recipients(name, backup, examined),
        identity: backup.identity.clone(),
    })
}
