//! A restored cluster started, and its recovery waited for.

use std::path::{Path, PathBuf};

use crate::catalog::Manifest;
use crate::config::Plan;
use crate::config::plan::Backup;
use crate::error::{Error, Kind, Result};
use crate::host::local::LocalHost;
use crate::host::{Call, Host, Tag};
use crate::physical::recovery::Reached;
use crate::postgres::programs;
use crate::postgres::quote::conninfo_value;

/// The log of the start, in the data directory.
pub const LOG: &str = "pgvigil_recovery.log";

/// A socket's path may have 107 bytes, with its name.
const SOCKET_FOLDER_BYTES_MAX: usize = 80;

/// A recovery may take days; who waits may end it by a signal.
const WAIT_SECS: u32 = 30 * 86_400;

/// Of `postmaster.pid`, counted from 0: `LOCK_FILE_LINE_PM_STATUS` of PostgreSQL.
const STATUS_LINE: usize = 7;

/// How often it is looked at.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(100);

/// The ports that are tried.
const PORTS: std::ops::Range<u16> = 5433..5533;

/// A server that runs, with its recovery behind it.
#[derive(Debug, Clone)]
pub struct Started {
    /// For psql.
    pub connection: String,
    pub port: u16,
    pub reached: Reached,
}

/// Whether one could be started here.
///
/// # Errors
/// Why not.
pub fn check(plan: &Plan, backup: &Backup, manifest: &Manifest) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Err(Error::new(Kind::Refused, "PostgreSQL refuses to run as root").hint(
            "let state_dir belong to a user without rights, who may read the stores: pgvigil goes on as that user; or leave --start out",
        ));
    }
    programs_for(plan, backup, manifest).map(drop)
}

/// The folder of the programs of a cluster's own major version.
///
/// # Errors
/// There are none here.
pub fn programs_for(plan: &Plan, backup: &Backup, manifest: &Manifest) -> Result<PathBuf> {
    let given = plan.servers.get(&backup.server).and_then(|server| server.bin_dir.clone());
    let major = programs::major(&manifest.server_version);
    let dir = programs::of_server(given, major).map_err(|error| Error { kind: Kind::Refused, ..error })?;
    // A cluster runs with the programs of its own major version only.
    let here = programs::major_in(&dir);
    if here == Some(major) {
        return Ok(dir);
    }
    Err(Error::new(Kind::Refused, format!("the cluster is of PostgreSQL {major}, and there are no programs of that version here"))
        .hint(format!("install postgresql-{major}, or set bin_dir of the server; or leave --start out, if the base backup is a whole one")))
}

/// Starts one and waits until it takes sessions, behind its recovery.
///
/// # Errors
/// It does not come to that; the end of its log says why.
pub async fn start(plan: &Plan, backup: &Backup, manifest: &Manifest, data: &Path, port: Option<u16>) -> Result<Started> {
    if let Some(port) = port {
        return start_on(plan, backup, manifest, data, port).await;
    }
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    for port in PORTS.filter(is_free) {
        match start_on(plan, backup, manifest, data, port).await {
            // Another took it in this moment: nothing of the recovery has begun.
            Err(error) if error.message.contains("could not create any TCP/IP sockets") => {}
            started => return started,
        }
    }
    Err(Error::new(Kind::System, "no port from 5433 to 5532 is free").hint("give one with --port"))
}

async fn start_on(plan: &Plan, backup: &Backup, manifest: &Manifest, data: &Path, port: u16) -> Result<Started> {
    let by_socket = data.as_os_str().len() <= SOCKET_FOLDER_BYTES_MAX;
    let sockets = if by_socket { data.display().to_string() } else { String::new() };
    let options = [
        // The files may name the folders of the cluster that it comes of.
        ("data_directory", data.display().to_string()),
        ("port", port.to_string()),
        ("listen_addresses", "127.0.0.1".to_owned()),
        ("unix_socket_directories", sockets.clone()),
        // Sessions come when the recovery is over: only then pg_ctl says that it runs.
        ("hot_standby", "off".to_owned()),
        ("logging_collector", "off".to_owned()),
        ("log_destination", "stderr".to_owned()),
        ("log_min_messages", "warning".to_owned()),
        ("log_timezone", "UTC".to_owned()),
        ("lc_messages", "C".to_owned()),
    ];
    let files = [("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")].map(|(setting, name)| (setting, data.join(name)));
    let files = files.into_iter().filter(|(_, path)| path.exists()).map(|(setting, path)| (setting, path.display().to_string()));
    let options: Vec<String> = options.into_iter().chain(files).map(|(name, value)| format!("-c {name}='{value}'")).collect();
    let log = data.join(LOG);
    // Of a try on another port.
    let _ = std::fs::remove_file(&log);
    let args = [
        "start",
        "-s",
        "-w",
        "-t",
        &WAIT_SECS.to_string(),
        "-D",
        &data.display().to_string(),
        "-l",
        &log.display().to_string(),
        "-o",
        &options.join(" "),
    ];
    let mut ended = pg_ctl(plan, backup, manifest, &args).await;
    if ended.is_ok() {
        ended = until_ready(data).await;
    }
    let text = std::fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    if let Err(error) = ended {
        stop(plan, backup, manifest, data).await;
        return Err(not_started(&text, &log, &error));
    }
    let host = if by_socket { conninfo_value(&sockets) } else { "127.0.0.1".to_owned() };
    let user = manifest.physical.as_ref().map(|physical| format!(" user={}", conninfo_value(&physical.superuser))).unwrap_or_default();
    Ok(Started { connection: format!("host={host} port={port} dbname=postgres{user}"), port, reached: Reached::parse(&text) })
}

/// pg_ctl takes a recovery that has begun for a start. Whether it is over stands in `postmaster.pid`, whose
/// file goes with the server.
async fn until_ready(data: &Path) -> Result<()> {
    loop {
        let Ok(text) = std::fs::read_to_string(data.join("postmaster.pid")) else {
            return Err(Error::new(Kind::Postgres, "the server has ended"));
        };
        if text.lines().nth(STATUS_LINE).is_some_and(|status| status.trim() == "ready") {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn not_started(log: &str, path: &Path, error: &Error) -> Error {
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| ["FATAL", "PANIC", "ERROR", "HINT", "DETAIL", "pgvigil", "error:"].iter().any(|word| line.contains(word)))
        .collect();
    let tail = lines[lines.len().saturating_sub(6)..].join("\n  ");
    let why = if tail.is_empty() { error.message.clone() } else { tail };
    let mut failed = Error::new(Kind::Postgres, format!("PostgreSQL did not come to the target:\n  {why}"));
    if log.contains("recovery ended before configured recovery target was reached") {
        let last =
            Reached::parse(log).last_transaction.map(|at| format!("; the last transaction was at {}", crate::physical::target::in_utc(at)));
        failed.message = format!("the log ended before the target was reached{}", last.unwrap_or_default());
        failed = failed.hint(
            "take an earlier moment, or --latest for all there is; for a restore point or a transaction another base backup may lead there",
        );
    }
    failed.hint(format!("its log is {}", path.display()))
}

/// Stops one, whatever it does.
pub async fn stop(plan: &Plan, backup: &Backup, manifest: &Manifest, data: &Path) {
    if data.join("postmaster.pid").exists() {
        let _ = pg_ctl(plan, backup, manifest, &["stop", "-s", "-m", "immediate", "-w", "-D", &data.display().to_string()]).await;
    }
}

async fn pg_ctl(plan: &Plan, backup: &Backup, manifest: &Manifest, args: &[&str]) -> Result<()> {
    let host = LocalHost::new(Some(programs_for(plan, backup, manifest)?));
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    let mut process = host
        .start(Call { program: "pg_ctl", args, env: Vec::new(), password: None, tag: Tag::random(), stdin: false, input: None })
        .await?;
    let exit = process.running.wait().await?;
    if exit.is_success() { Ok(()) } else { Err(crate::host::failed(Kind::Postgres, "pg_ctl", exit, &process.stderr.text())) }
}
