//! A cluster that comes from elsewhere, laid into a container: by its shell and its tar.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::container::{self, FOLDER, SOCKET_DIR, begin, give_up, shut_off};
use super::{READY, Throwaway, Wanted, What, not_started, settings};
use crate::config::plan;
use crate::error::{Error, Kind, Result};
use crate::host::containers::{self, Made};
use crate::host::docker::DockerHost;
use crate::host::{self, Call, Ended, Exit, Host, Process, Running, Tag, Tail, clock, words_of_the_engine};
use crate::pack::tar;

/// A container that waits for a cluster. It must come to an end by [`Inside::start`] or [`Inside::give_up`];
/// when we die before, it ends by itself.
pub struct Inside {
    made: Made,
    /// The folder that is ours in it, on its volume where it has one.
    home: PathBuf,
    tag: Tag,
}

/// Waits for the name of the folder, and then is the server: what the image's entrypoint would do is not wanted.
/// When we die, the line never comes.
const WAITS: &str = r#"umask 077; unset PGDATA; read -r home && cd "$home" && exec postgres -D data "$@" </dev/null"#;

impl Inside {
    /// Makes it on the Engine of the source, of the image of its container. `its` are the settings of the
    /// source.
    ///
    /// # Errors
    /// The source is in no container, or the Engine refuses. Nothing is left then.
    pub async fn make(source: &plan::Server, wanted: &Wanted<'_>, its: &BTreeMap<String, String>) -> Result<Self> {
        let made = begin(source, |image| recipe(image, wanted, its)).await?;
        match home(&made, &wanted.tag).await {
            Ok(home) => Ok(Inside { made, home, tag: wanted.tag.clone() }),
            Err(error) => Err(give_up(made, error).await),
        }
    }

    /// The data directory, not there yet.
    pub fn data(&self) -> PathBuf {
        self.beside("data")
    }

    /// A folder beside it, not there yet.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// Begins to unpack into a folder, which is made.
    ///
    /// # Errors
    /// The Engine refuses.
    pub async fn unpack_into(&self, folder: &Path) -> Result<Unpacking> {
        let script = r#"umask 077; mkdir -p "$1" && exec tar -C "$1" -x -o -f -"#;
        Unpacking::begin(self.made.host().start(shell(script, &[folder], true, &self.tag)).await?)
    }

    /// Where programs start in it.
    pub fn host(&self) -> DockerHost {
        self.made.host()
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// It cannot be made.
    pub async fn link(&self, to: &Path, at: &Path) -> Result<()> {
        say(&self.made, shell(r#"ln -s "$1" "$2""#, &[to, at], false, &self.tag)).await.map(drop)
    }

    /// Removes a folder and all that is in it.
    ///
    /// # Errors
    /// It cannot be removed.
    pub async fn remove_folder(&self, path: &Path) -> Result<()> {
        say(&self.made, shell(r#"rm -rf "$1""#, &[path], false, &self.tag)).await.map(drop)
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// It cannot be removed.
    pub async fn remove_file(&self, path: &Path) -> Result<()> {
        say(&self.made, shell(r#"rm -f "$1""#, &[path], false, &self.tag)).await.map(drop)
    }

    /// Removes it, and hands the reason on.
    pub async fn give_up(self, error: Error) -> Error {
        give_up(self.made, error).await
    }

    /// Starts the server on what was laid there, and waits for the end of its recovery.
    ///
    /// # Errors
    /// It does not come to that, or we are told to stop. Nothing is left then.
    pub async fn start(mut self, wanted: &Wanted<'_>, cancel: &CancellationToken) -> Result<Throwaway> {
        let begun = async {
            let mut files = self.unpack_into(&self.home).await?;
            for (name, text) in [(settings::CONF, ""), (settings::HBA, settings::TRUST), (settings::IDENT, "")] {
                files.file(name, text.as_bytes()).await?;
            }
            files.finish().await
        };
        if let Err(error) = begun.await {
            return Err(self.give_up(error).await);
        }
        match serve(&mut self.made, &self.home, wanted, cancel).await {
            Ok(server) => Ok(Throwaway { server, made: What::Container(self.made) }),
            Err(error) => Err(self.give_up(error).await),
        }
    }
}

fn recipe(image: String, wanted: &Wanted<'_>, its: &BTreeMap<String, String>) -> containers::Wanted {
    let mut command = ["sh", "-c", WAITS, "pgvigil"].map(str::to_owned).to_vec();
    // It stands in the folder of its files when it starts.
    command.extend(settings::of_another(wanted.major, SOCKET_DIR, wanted.preload, its, "."));
    containers::Wanted { reads: true, ..shut_off(image, command, wanted) }
}

async fn serve(made: &mut Made, home: &Path, wanted: &Wanted<'_>, cancel: &CancellationToken) -> Result<crate::postgres::Server> {
    made.tell(&home.display().to_string()).await?;
    let log = made.log.clone();
    tokio::select! {
        biased;
        () = log.until(READY) => {}
        () = made.ended() => return Err(not_started("does not come to the end of its log", &log.text(), wanted.preload)),
        () = cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "told to stop")),
    }
    container::reach(made, wanted.superuser, wanted).await
}

/// The folder that is ours.
async fn home(made: &Made, tag: &Tag) -> Result<PathBuf> {
    let script = format!(r#"{FOLDER}; cd "$d/pgvigil" && pwd"#);
    let said = say(made, shell(&script, &[], false, tag)).await?;
    match said.trim_end_matches('\n') {
        path if path.starts_with('/') && !path.contains('\n') => Ok(PathBuf::from(path)),
        other => Err(Error::unverifiable(format_args!("the image of the source has no folder for a cluster: {other:?}"))),
    }
}

fn shell(script: &str, paths: &[&Path], stdin: bool, tag: &Tag) -> Call {
    let args = ["-c", script, "pgvigil"].map(str::to_owned).into_iter();
    let args = args.chain(paths.iter().map(|path| path.display().to_string())).collect();
    Call { program: "sh", args, env: Vec::new(), password: None, tag: tag.clone(), stdin, input: None }
}

/// What a script says that must succeed.
async fn say(made: &Made, call: Call) -> Result<String> {
    let Ended { exit, said, stderr } = made.host().start(call).await?.ended().await?;
    if exit.is_success() {
        return Ok(String::from_utf8_lossy(&said).into_owned());
    }
    Err(not_done("shell", exit, &stderr, &said))
}

fn not_done(program: &str, exit: Exit, stderr: &str, stdout: &[u8]) -> Error {
    let engine = words_of_the_engine(stdout).unwrap_or_default();
    if matches!(exit, Exit::Code(126 | 127)) {
        return Error::unverifiable(format_args!("the image of the source has no {program}: {stderr}{engine}"))
            .hint("drill on = \"local\", with the server's version of PostgreSQL installed here");
    }
    let failed = host::failed(Kind::Unverifiable, program, exit, &format!("{stderr}{engine}"));
    failed.context("cannot verify: the cluster could not be laid into a container").hint("is there room under Docker's data directory?")
}

/// A tar in a container that unpacks what it is given.
pub struct Unpacking {
    stdin: Box<dyn AsyncWrite + Send + Unpin>,
    running: Box<dyn Running>,
    stderr: Tail,
    /// It takes nothing any more.
    over: CancellationToken,
    /// It is given an archive that has an end of its own.
    is_whole: bool,
}

impl Unpacking {
    fn begin(process: Process) -> Result<Self> {
        let Process { stdin, mut stdout, stderr, running } = process;
        let stdin = stdin.ok_or_else(|| Error::new(Kind::Docker, "the Engine did not attach to the exec"))?;
        let over = CancellationToken::new();
        let ends = over.clone().drop_guard();
        tokio::spawn(async move {
            let _ = tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await;
            drop(ends);
        });
        Ok(Unpacking { stdin, running, stderr, over, is_whole: false })
    }

    /// Gives it the next bytes of an archive.
    ///
    /// # Errors
    /// It does not take them, and says why.
    pub async fn archive(&mut self, bytes: &[u8]) -> Result<()> {
        self.is_whole = true;
        self.write(bytes).await
    }

    /// Gives it a file of ours.
    ///
    /// # Errors
    /// It does not take it, and says why.
    pub async fn file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let count = bytes.len() as u64;
        let head = tar::member(name, count, clock::now());
        self.write(&head.map_err(|error| Error::system(format_args!("no place for {name}"), &error))?).await?;
        self.write(bytes).await?;
        self.write(&[0; tar::BLOCK_BYTES][..tar::padding(count)]).await
    }

    /// Waits until all of it is there.
    ///
    /// # Errors
    /// It is not, and why.
    pub async fn finish(mut self) -> Result<()> {
        if !self.is_whole {
            self.write(&tar::END).await?;
        }
        let _ = self.stdin.shutdown().await;
        self.over.cancelled().await;
        match self.running.wait().await? {
            exit if exit.is_success() => Ok(()),
            exit => Err(not_done("tar", exit, &self.stderr.text(), &[])),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let is_written = tokio::select! {
            written = self.stdin.write_all(bytes) => written.is_ok(),
            () = self.over.cancelled() => false,
        };
        if is_written { Ok(()) } else { Err(self.failure().await) }
    }

    /// Why it takes nothing any more.
    async fn failure(&mut self) -> Error {
        let _ = self.stdin.shutdown().await;
        self.over.cancelled().await;
        match self.running.wait().await {
            Ok(exit) if exit.is_success() => Error::new(Kind::Docker, "tar in a container ended before the end of its archive"),
            Ok(exit) => not_done("tar", exit, &self.stderr.text(), &[]),
            Err(error) => error,
        }
    }
}
