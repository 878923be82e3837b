//! Programs inside a container, through the Docker Engine API.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::{Stream, StreamExt};
use tokio::io::AsyncReadExt;
use tokio_util::io::StreamReader;

use super::{Call, Exit, Host, Process, Running, Tag, Tail, printable};
use crate::error::{Error, Kind, Result};

/// An Engine that does not answer for so long is not there.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// The Engine's frames are up to 32 KiB; a buffer of several spares system calls.
const STREAM_BUFFER_BYTES: usize = 256 * 1024;

/// After its stream has ended a program has so long to be gone; else the stream was cut.
const END_GRACE: Duration = Duration::from_secs(10);

/// More than any password.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// How long a program may take to obey SIGTERM before it gets SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(5);

/// Sends a signal to every process that carries the mark in its environment, and prints their
/// numbers. Minimal images have no `kill` and no `ps`, but every shell has the one built in, and
/// /proc is always there. The shell sees the mark as an argument only, so it does not find itself.
const SIGNAL_TAGGED: &str = r#"for p in /proc/[0-9]*; do if grep -qsF "PGAPPNAME=$1" "$p/environ"; then kill -s "$2" "${p#/proc/}" 2>/dev/null; echo "${p#/proc/}"; fi; done"#;

/// A container of a Docker Engine.
pub struct DockerHost {
    docker: Docker,
    container: String,
}

/// What the Engine knows of a container.
#[derive(Debug, Clone, Default)]
pub struct Container {
    pub id: String,
    /// The first address that it has in a network.
    pub address: Option<String>,
    pub env: HashMap<String, String>,
}

impl DockerHost {
    /// Connects to the Engine at an address of the form `unix://PATH` or `tcp://HOST:PORT`; without
    /// one to DOCKER_HOST, then to the usual socket. The version of the API is negotiated.
    ///
    /// # Errors
    /// No Engine answers there.
    pub async fn connect(address: Option<&str>, container: &str) -> Result<Self> {
        Ok(DockerHost { docker: engine(address).await?, container: container.to_owned() })
    }

    /// A container of an Engine that answers.
    pub(super) fn of(docker: Docker, container: String) -> Self {
        DockerHost { docker, container }
    }

    /// Looks at the container.
    ///
    /// # Errors
    /// There is none of that name, or it does not run.
    pub async fn inspect(&self) -> Result<Container> {
        let name = &self.container;
        let found = match self.docker.inspect_container(name, None).await {
            Ok(found) => found,
            Err(error) if status(&error) == Some(404) => {
                let running = self.running_names().await;
                return Err(Error::new(Kind::Docker, format!("there is no container {name:?}"))
                    .hint(format!("set container to one that runs: {running}")));
            }
            Err(error) => return Err(refused(&format!("cannot look at container {name:?}"), &error)),
        };
        let state = found.state.unwrap_or_default();
        if state.running != Some(true) || state.paused == Some(true) {
            let is = if state.paused == Some(true) { "is paused" } else { "does not run" };
            let how = if state.paused == Some(true) { "unpause" } else { "start" };
            return Err(Error::new(Kind::Docker, format!("container {name:?} {is}")).hint(format!("docker {how} {name}")));
        }
        let networks = found.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        let mut addresses: Vec<(String, String)> =
            networks.into_iter().filter_map(|(network, end)| Some((network, end.ip_address.filter(|ip| !ip.is_empty())?))).collect();
        addresses.sort();
        let env = found.config.and_then(|config| config.env).unwrap_or_default();
        Ok(Container {
            id: found.id.unwrap_or_default(),
            address: addresses.into_iter().next().map(|(_, ip)| ip),
            env: env.iter().filter_map(|var| var.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        })
    }

    /// Whether the container is there and runs, paused or not.
    ///
    /// # Errors
    /// The Engine does not answer.
    pub async fn is_running(&self) -> Result<bool> {
        match self.docker.inspect_container(&self.container, None).await {
            Ok(found) => Ok(found.state.and_then(|state| state.running) == Some(true)),
            Err(error) if status(&error) == Some(404) => Ok(false),
            Err(error) => Err(refused(&format!("cannot look at container {:?}", self.container), &error)),
        }
    }

    /// The text of a small file inside, with the rights of the container's own user.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn read_file(&self, path: &str) -> Result<String> {
        let started = self.exec(["cat", "--", path].map(str::to_owned).to_vec(), Vec::new(), false).await?;
        let mut process = self.process(started, Tag::random());
        let (mut text, stderr) = (String::new(), process.stderr.clone());
        let failed = |why: &str| {
            Error::new(Kind::Docker, format!("cannot read {path} in container {:?}: {why}", self.container))
                .hint("it names the password; give it by the file of pgvigil, or make it readable there")
        };
        process.stdout.take(FILE_BYTES_MAX).read_to_string(&mut text).await.map_err(|error| failed(&error.to_string()))?;
        match process.running.wait().await? {
            Exit::Code(0) => Ok(text),
            _ => Err(failed(&printable(&stderr.text()))),
        }
    }

    async fn running_names(&self) -> String {
        let names: Vec<String> = running_containers(&self.docker).await.into_iter().map(|(name, _)| name).collect();
        if names.is_empty() { "none does".to_owned() } else { names.join(", ") }
    }

    async fn exec(&self, cmd: Vec<String>, env: Vec<String>, stdin: bool) -> Result<Started> {
        let name = &self.container;
        let options = CreateExecOptions {
            cmd: Some(cmd),
            env: Some(env),
            attach_stdin: Some(stdin),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            // A terminal would turn every line feed of a dump into two bytes.
            tty: Some(false),
            ..CreateExecOptions::default()
        };
        let created = answer("create an exec", self.docker.create_exec(name, options)).await?;
        let start = StartExecOptions { detach: false, tty: false, output_capacity: Some(STREAM_BUFFER_BYTES) };
        let started = answer("start an exec", self.docker.start_exec(&created.id, Some(start))).await.map_err(|error| {
            if error.message.contains("no upgrade available") {
                error.hint("a proxy before the Engine does not pass `Upgrade: tcp` on: haproxy 2.4 to early releases of 3.0 do not, nginx cuts what is half-closed; see docs/sidecar.md")
            } else {
                error
            }
        })?;
        let StartExecResults::Attached { output, input } = started else {
            return Err(Error::new(Kind::Docker, "the Engine did not attach to the exec"));
        };
        Ok(Started { id: created.id, output: Box::pin(output), input: Box::pin(input) })
    }

    /// Bounded in time: an Engine that does not hear any more must not hold up the end of a run.
    async fn signal_tagged(&self, tag: &Tag, signal: &str) -> Result<usize> {
        let signalled = tokio::time::timeout(ANSWER_TIMEOUT, self.signal_and_count(tag, signal)).await;
        signalled.unwrap_or_else(|_| {
            let secs = ANSWER_TIMEOUT.as_secs();
            Err(Error::new(Kind::Docker, format!("cannot signal inside the container: no answer within {secs} s")))
        })
    }

    async fn signal_and_count(&self, tag: &Tag, signal: &str) -> Result<usize> {
        let script = ["sh", "-c", SIGNAL_TAGGED, "pgvigil", tag.as_str(), signal];
        let started = self.exec(script.map(str::to_owned).to_vec(), Vec::new(), false).await?;
        let mut process = self.process(started, tag.clone());
        let mut found = String::new();
        process
            .stdout
            .read_to_string(&mut found)
            .await
            .map_err(|error| Error::new(Kind::Docker, format!("lost the container's answer: {error}")))?;
        let exit = process.running.wait().await?;
        // The status is grep's for the last process; only the shell's own failures count.
        if let Exit::Code(126..) = exit {
            return Err(Error::new(Kind::Docker, format!("cannot signal inside the container: {}", printable(&found))));
        }
        Ok(found.lines().count())
    }

    fn process(&self, started: Started, tag: Tag) -> Process {
        let stderr = Tail::default();
        let into = stderr.clone();
        let stdout = started.output.filter_map(move |item| {
            let item = match item {
                Ok(LogOutput::StdOut { message } | LogOutput::Console { message }) => Some(Ok(message)),
                Ok(LogOutput::StdErr { message }) => {
                    into.push(&message);
                    None
                }
                Ok(LogOutput::StdIn { .. }) => None,
                Err(error) => Some(Err(std::io::Error::other(error.to_string()))),
            };
            std::future::ready(item)
        });
        Process {
            stdin: Some(Box::new(started.input)),
            stdout: Box::new(StreamReader::new(stdout)),
            stderr,
            running: Box::new(Exec {
                host: DockerHost { docker: self.docker.clone(), container: self.container.clone() },
                id: started.id,
                tag,
            }),
        }
    }
}

struct Started {
    id: String,
    output: std::pin::Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>,
    input: std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>,
}

#[async_trait]
impl Host for DockerHost {
    async fn start(&self, call: Call) -> Result<Process> {
        let mut cmd = vec![call.program.to_owned()];
        cmd.extend(call.args);
        let mut env: Vec<String> = call.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        env.push(format!("PGAPPNAME={}", call.tag.as_str()));
        env.push("LC_MESSAGES=C".to_owned());
        if let Some(password) = &call.password {
            // ExecInspect and `docker top` show arguments, not the environment.
            env.push(format!("PGPASSWORD={}", password.reveal()));
        }
        let started = self.exec(cmd, env, call.stdin).await?;
        let mut process = self.process(started, call.tag);
        if !call.stdin {
            process.stdin = None;
        }
        Ok(process)
    }

    async fn end_tagged(&self, tag: &Tag) -> Result<usize> {
        let found = self.signal_tagged(tag, "TERM").await?;
        if found == 0 {
            return Ok(0);
        }
        let deadline = tokio::time::Instant::now() + TERM_GRACE;
        loop {
            let late = deadline.elapsed();
            if late > TERM_GRACE {
                return Err(Error::new(Kind::Docker, "a program inside the container would not end"));
            }
            let signal = if late.is_zero() { "0" } else { "KILL" };
            if self.signal_tagged(tag, signal).await? == 0 {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

struct Exec {
    host: DockerHost,
    id: String,
    tag: Tag,
}

#[async_trait]
impl Running for Exec {
    /// The end of the stream says nothing: a killed program ends it as cleanly as a finished one.
    /// Only the inspected exit code tells.
    async fn wait(&mut self) -> Result<Exit> {
        let deadline = tokio::time::Instant::now() + END_GRACE;
        let mut pause = Duration::from_millis(2);
        loop {
            let state = match answer("look at the exec", self.host.docker.inspect_exec(&self.id)).await {
                Ok(state) => state,
                Err(error) => {
                    return Err(error
                        .context("how the program ended is not known")
                        .hint("was the Docker daemon restarted? run the backup again"));
                }
            };
            match (state.running, state.exit_code) {
                (Some(false), Some(code)) => {
                    return Ok(Exit::Code(i32::try_from(code).unwrap_or(i32::MAX)));
                }
                _ if tokio::time::Instant::now() > deadline => {
                    return Err(Error::new(Kind::Docker, "the Engine's stream was cut while the program still ran"));
                }
                _ => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    async fn stop(&mut self) -> Result<()> {
        self.host.end_tagged(&self.tag).await.map(drop)
    }
}

/// Connects to an Engine and negotiates the version of the API.
pub(super) async fn engine(address: Option<&str>) -> Result<Docker> {
    let from_env = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
    let address = address.map(str::to_owned).or(from_env).unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned());
    let unreachable = |why: &dyn std::fmt::Display| Error::new(Kind::Docker, format!("no Docker Engine answers at {address}: {why}"));
    if let Some(path) = address.strip_prefix("unix://")
        && let Err(error) = std::os::unix::net::UnixStream::connect(path)
    {
        let hint = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "add the user that pgvigil runs as to the group docker, or run as root",
            std::io::ErrorKind::NotFound => "is the Docker Engine installed here? else set docker = \"tcp://HOST:2375\"",
            _ => "start it: systemctl start docker",
        };
        return Err(unreachable(&crate::error::plain_io(&error)).hint(hint));
    }
    // The client's own bound on one request must not end a dump: ours is the stall timeout.
    let docker = match address.strip_prefix("unix://") {
        Some(path) => Docker::connect_with_unix(path, 120, API_DEFAULT_VERSION),
        None => Docker::connect_with_http(&address, 120, API_DEFAULT_VERSION),
    }
    .map_err(|error| unreachable(&error))?;
    match tokio::time::timeout(ANSWER_TIMEOUT, docker.negotiate_version()).await {
        Ok(Ok(docker)) => Ok(docker),
        Ok(Err(error)) => Err(unreachable(&words(&error)).hint("check docker = \"...\" in the file, and that the Engine runs")),
        Err(_) => Err(unreachable(&format_args!("no answer within {} s", ANSWER_TIMEOUT.as_secs())).hint("systemctl status docker")),
    }
}

/// The containers that run here and look like PostgreSQL: name and image, for a first file.
///
/// # Errors
/// No Engine answers.
pub async fn postgres_containers() -> Result<Vec<(String, String)>> {
    let docker = engine(None).await?;
    let mut found = running_containers(&docker).await;
    found.retain(|(name, image)| ["postgres", "pg", "timescale", "postgis"].iter().any(|word| name.contains(word) || image.contains(word)));
    Ok(found)
}

async fn running_containers(docker: &Docker) -> Vec<(String, String)> {
    let listed = answer("list containers", docker.list_containers(None)).await.unwrap_or_default();
    let mut found: Vec<(String, String)> = listed
        .into_iter()
        .filter_map(|container| {
            let name = container.names?.first()?.trim_start_matches('/').to_owned();
            Some((name, container.image.unwrap_or_default()))
        })
        .collect();
    found.sort();
    found
}

pub(super) async fn answer<T>(doing: &str, call: impl Future<Output = Result<T, bollard::errors::Error>>) -> Result<T> {
    match tokio::time::timeout(ANSWER_TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(refused(&format!("cannot {doing}"), &error)),
        Err(_) => Err(Error::new(Kind::Docker, format!("cannot {doing}: the Engine did not answer within {} s", ANSWER_TIMEOUT.as_secs()))),
    }
}

pub(super) fn status(error: &bollard::errors::Error) -> Option<u16> {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

pub(super) fn refused(doing: &str, error: &bollard::errors::Error) -> Error {
    let failure = Error::new(Kind::Docker, format!("{doing}: {}", words(error)));
    match status(error) {
        Some(403) => failure.hint("the socket proxy refuses this call: allow containers, exec and version"),
        _ => failure,
    }
}

pub(super) fn words(error: &bollard::errors::Error) -> String {
    match error {
        bollard::errors::Error::DockerResponseServerError { message, .. } => printable(message),
        // The cause at the bottom says it best: "Connection refused", not "client error (Connect)".
        other => {
            let mut cause: &dyn std::error::Error = other;
            while let Some(deeper) = cause.source() {
                cause = deeper;
            }
            printable(&cause.to_string())
        }
    }
}

/// A host for a container, shared by all calls of a run.
pub fn shared(host: DockerHost) -> Arc<dyn Host> {
    Arc::new(host)
}
