//! A throwaway server on this machine: a cluster in a folder of its own, reached by its socket only.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::{Gid, Uid, User};
use tokio_util::sync::CancellationToken;

use super::{READY, START_TIMEOUT, Throwaway, Wanted, What, all, left_in, not_started, ready, settings};
use crate::config::plan;
use crate::error::{Error, Kind, Result};
use crate::host::local::{Confined, LocalHost};
use crate::host::pipe::Pipes;
use crate::host::removal::remove_folder;
use crate::host::{self, Call, Ended, Host, Process, Tag, strays};
use crate::postgres::server::Reached;
use crate::postgres::{Server, programs};

/// PostgreSQL refuses root; this account owns nothing.
const ACCOUNT: &str = "nobody";

/// The account where the system does not know its name.
const ACCOUNT_ID: u32 = 65_534;

/// Where rows come in, beside its data.
const PIPES: &str = "pipes";

/// A cluster with its postmaster, a child of ours.
pub(super) struct Cluster {
    process: Process,
    place: Folder,
}

/// The folder of a cluster. Its name holds the mark of what runs in it.
struct Folder {
    path: PathBuf,
    mark: Tag,
    host: LocalHost,
}

impl Throwaway {
    /// Starts one on this machine, with the programs of the source's major version or the next
    /// newer one; the `bin_dir` of the source is one of the places where they are looked for.
    ///
    /// # Errors
    /// The programs are not there, or the server does not start. Nothing is left then.
    pub async fn local(source: Option<&plan::Server>, wanted: &Wanted<'_>) -> Result<Throwaway> {
        let given = source.and_then(|source| source.bin_dir.clone());
        let major = wanted.major;
        let chosen = tokio::task::spawn_blocking(move || programs::of_server(given, major)).await;
        let bin_dir = chosen.map_err(|error| Error::new(Kind::System, error.to_string()))??;
        let place = Folder::make(wanted, bin_dir)?;
        let mut process = match start(&place, wanted).await {
            Ok(process) => process,
            Err(error) => return Err(place.give_up(error).await),
        };
        match serve(&mut process, &place, wanted).await {
            Ok(server) => Ok(Throwaway { server, made: What::Cluster(Cluster { process, place }) }),
            Err(error) => {
                let _ = process.running.stop().await;
                Err(place.give_up(error).await)
            }
        }
    }
}

/// A folder for a cluster that comes from elsewhere, before its server is started. It must come to an end by
/// [`Here::start`] or [`Here::give_up`].
pub struct Here {
    place: Folder,
}

impl Here {
    /// Makes the folder, and finds the programs: of the very major version of the source.
    ///
    /// # Errors
    /// The programs are not there, or the folder cannot be made.
    pub async fn make(source: Option<&plan::Server>, wanted: &Wanted<'_>) -> Result<Self> {
        let given = source.and_then(|source| source.bin_dir.clone());
        let major = wanted.major;
        let chosen = tokio::task::spawn_blocking(move || {
            let dir = programs::of_server(given, major)?;
            if programs::major_in(&dir) == Some(major) {
                return Ok(dir);
            }
            Err(Error::unverifiable(format_args!("the cluster is of PostgreSQL {major}, and there are no programs of that version here"))
                .hint(format!("install postgresql-{major}, or set bin_dir of the server")))
        });
        let bin_dir = chosen.await.map_err(|error| Error::new(Kind::System, error.to_string()))??;
        Ok(Here { place: Folder::make(wanted, bin_dir)? })
    }

    /// The data directory, not there yet.
    pub fn data(&self) -> PathBuf {
        self.beside("data")
    }

    /// A folder beside it, not there yet.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.place.path.join(name)
    }

    /// Removes it, and hands the reason on.
    pub async fn give_up(self, error: Error) -> Error {
        self.place.give_up(error).await
    }

    /// Starts a server on what was laid there, and waits for the end of its recovery. `its` are the settings
    /// of the source.
    ///
    /// # Errors
    /// It does not come to that, or we are told to stop. Nothing is left then.
    pub async fn start(
        self,
        wanted: &Wanted<'_>,
        its: &std::collections::BTreeMap<String, String>,
        cancel: &CancellationToken,
    ) -> Result<Throwaway> {
        let place = self.place;
        let mut process = match begin(&place, wanted, its).await {
            Ok(process) => process,
            Err(error) => return Err(place.give_up(error).await),
        };
        let log = process.stderr.clone();
        let not_ready = tokio::select! {
            biased;
            () = log.until(READY) => None,
            _ = process.running.wait() => Some(not_started("does not come to the end of its log", &log.text(), wanted.preload)),
            () = cancel.cancelled() => Some(Error::new(Kind::Cancelled, "told to stop")),
        };
        if let Some(error) = not_ready {
            let _ = process.running.stop().await;
            return Err(place.give_up(error).await);
        }
        let reached = Reached::Address(place.path.display().to_string());
        let host = Arc::new(place.host.clone());
        match Server::throwaway(host, &place.name(), wanted.superuser, wanted.tag.clone(), reached).await {
            Ok(server) => Ok(Throwaway { server, made: What::Cluster(Cluster { process, place }) }),
            Err(error) => {
                let _ = process.running.stop().await;
                Err(place.give_up(error).await)
            }
        }
    }
}

async fn begin(place: &Folder, wanted: &Wanted<'_>, its: &std::collections::BTreeMap<String, String>) -> Result<Process> {
    let failed = |error: &io::Error| Error::system(format_args!("cannot prepare {}", place.path.display()), error);
    for (name, text) in [(settings::CONF, ""), (settings::HBA, settings::TRUST), (settings::IDENT, "")] {
        std::fs::write(place.path.join(name), text).map_err(|error| failed(&error))?;
    }
    if let Some((uid, gid)) = place.host.confined.and_then(|confined| confined.account) {
        give(&place.path, uid, gid).map_err(|error| failed(&error))?;
    }
    let mut args = settings::of_another(wanted.major, &place.name(), wanted.preload, its, &place.name());
    args.extend(["-c".to_owned(), "dynamic_shared_memory_type=mmap".to_owned()]);
    place.host.start(place.call("postgres", args)).await
}

/// Gives all of a folder to the account that the server is.
fn give(path: &Path, uid: Uid, gid: Gid) -> io::Result<()> {
    std::os::unix::fs::lchown(path, Some(uid.as_raw()), Some(gid.as_raw()))?;
    if std::fs::symlink_metadata(path)?.is_dir() {
        for entry in std::fs::read_dir(path)? {
            give(&entry?.path(), uid, gid)?;
        }
    }
    Ok(())
}

impl Folder {
    fn make(wanted: &Wanted<'_>, bin_dir: PathBuf) -> Result<Folder> {
        let mark = Tag::random();
        let path = wanted.folder.join(format!("{}_{}", wanted.owner, mark.random_part()));
        let account = nix::unistd::geteuid().is_root().then(account);
        let made = (|| -> io::Result<(OwnedFd, OwnedFd)> {
            DirBuilder::new().recursive(true).mode(0o700).create(wanted.folder)?;
            DirBuilder::new().mode(0o700).create(&path)?;
            std::fs::create_dir(path.join(PIPES))?;
            let pipes = File::open(path.join(PIPES))?;
            // Whatever our umask says.
            pipes.set_permissions(Permissions::from_mode(0o711))?;
            if let Some((uid, gid)) = account {
                std::os::unix::fs::chown(&path, Some(uid.as_raw()), Some(gid.as_raw()))?;
            }
            Ok((File::open(&path)?.into(), pipes.into()))
        })();
        let (folder, pipes) = made.map_err(|error| {
            let _ = std::fs::remove_dir_all(&path);
            Error::system(format_args!("cannot make {}", path.display()), &error)
        })?;
        // The server works in its data.
        let pipes = Pipes::new(pipes, format!("../{PIPES}"));
        let host =
            LocalHost { bin_dir: Some(bin_dir), folder: Some(Arc::new(folder)), confined: Some(Confined { account }), pipes: Some(pipes) };
        Ok(Folder { path, mark, host })
    }

    /// Its name for the programs, which may not be allowed to pass through the folders above.
    fn name(&self) -> String {
        self.host.folder_for_programs().unwrap_or_default()
    }

    fn call(&self, program: &'static str, args: impl IntoIterator<Item = String>) -> Call {
        let mut all = vec!["-D".to_owned(), format!("{}/data", self.name())];
        all.extend(args);
        Call { program, args: all, env: Vec::new(), password: None, tag: self.mark.clone(), stdin: false, input: None }
    }

    async fn remove(self) -> Result<()> {
        remove(self.path, &self.mark).await
    }

    async fn give_up(self, error: Error) -> Error {
        if let Err(left) = self.remove().await {
            tracing::warn!(error = %left, "swept with the next drill");
        }
        error
    }
}

impl Cluster {
    pub(super) fn with_our_rights(&self) -> Arc<dyn Host> {
        Arc::new(LocalHost { confined: None, ..self.place.host.clone() })
    }

    pub(super) fn log(&self) -> String {
        self.process.stderr.text()
    }

    pub(super) async fn remove(mut self) -> Result<()> {
        self.process.running.stop().await?;
        self.place.remove().await
    }
}

async fn start(place: &Folder, wanted: &Wanted<'_>) -> Result<Process> {
    let mut args = settings::initdb(wanted.major);
    args.push(format!("--username={}", wanted.superuser()));
    let made = tokio::time::timeout(START_TIMEOUT, initdb(place, args)).await;
    made.map_err(|_| Error::unverifiable(format_args!("initdb did not end within {} s", START_TIMEOUT.as_secs())))??;
    let mut args = settings::postgres(wanted.major, &place.name(), wanted.preload);
    // In its folder, so that it goes with the folder however it ends.
    args.extend(["-c".to_owned(), "dynamic_shared_memory_type=mmap".to_owned()]);
    place.host.start(place.call("postgres", args)).await
}

async fn initdb(place: &Folder, args: Vec<String>) -> Result<()> {
    let Ended { exit, stderr, .. } = place.host.start(place.call("initdb", args)).await?.ended().await?;
    if exit.is_success() {
        return Ok(());
    }
    let failed = host::failed(Kind::Unverifiable, "initdb", exit, &stderr);
    Err(failed.context("cannot verify: no cluster for the drill"))
}

async fn serve(process: &mut Process, place: &Folder, wanted: &Wanted<'_>) -> Result<Server> {
    let log = process.stderr.clone();
    let ended = async {
        let _ = process.running.wait().await;
    };
    ready(&log, ended, wanted.preload).await?;
    let reached = Reached::Address(place.path.display().to_string());
    Server::throwaway(Arc::new(place.host.clone()), &place.name(), wanted.superuser(), wanted.tag.clone(), reached).await
}

fn account() -> (Uid, Gid) {
    match User::from_name(ACCOUNT) {
        Ok(Some(user)) => (user.uid, user.gid),
        _ => (Uid::from_raw(ACCOUNT_ID), Gid::from_raw(ACCOUNT_ID)),
    }
}

/// Removes the clusters that were left, after whatever still runs in them.
pub(super) async fn sweep(owner: &str, folder: &Path) -> Result<usize> {
    let mut results = Vec::new();
    for name in left_in(folder, owner) {
        if let Some(mark) = Tag::parse(&format!("pgvigil_{name}")) {
            results.push(remove(folder.join(format!("{owner}_{name}")), &mark).await.map(|()| 1));
        }
    }
    all(results)
}

/// With what still runs there, be it what a COPY FROM PROGRAM has started.
async fn remove(path: PathBuf, mark: &Tag) -> Result<()> {
    let postmaster = std::fs::read_to_string(path.join("data/postmaster.pid")).ok();
    let postmaster = postmaster.and_then(|text| text.lines().next()?.parse().ok());
    strays::end_cluster(&path, mark, postmaster)
        .await
        .map_err(|error| error.context(format_args!("a server in {} is left", path.display())))?;
    remove_folder(&path)
        .await
        .map_err(|error| Error::system(format_args!("{} is left", path.display()), &error).hint(format!("rm -r {}", path.display())))
}
