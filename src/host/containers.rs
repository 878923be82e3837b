//! Containers that are ours: made, watched and removed.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::models::{ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use futures_util::StreamExt;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::docker::{ANSWER_TIMEOUT, DockerHost, answer, engine, refused, status};
use super::{Tag, Tail};
use crate::error::{Error, Kind, Result};

/// To remove the files of a large cluster takes a disk its time.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(300);

/// More processes than any server of ours has, fewer than would hurt the machine.
const PIDS_MAX: i64 = 512;

/// A container that is shut off from everything but its own files.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Name or id of an image that is there.
    pub image: String,
    /// The account of the image that its process runs as.
    pub user: String,
    /// What it runs, in the place of the image's entrypoint.
    pub command: Vec<String>,
    /// Name and value, by which it is found again.
    pub label: (String, String),
    /// The cap on its memory, swap included.
    pub memory_bytes: i64,
    /// Of its /dev/shm.
    pub shared_memory_bytes: i64,
    /// A small folder in memory that everybody in it may write, for a socket.
    pub socket_dir: String,
    /// Whether its process waits for a line of ours; when we die before, it reads the end.
    pub reads: bool,
}

type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// A container that we made. It must come to an end by [`Made::remove`].
pub struct Made {
    docker: Docker,
    pub name: String,
    /// The end of what its process wrote.
    pub log: Tail,
    watched: JoinHandle<()>,
    /// Of one that reads, until it is removed. Nobody locks it: it is there so that this can be shared.
    input: Mutex<Option<Input>>,
}

/// The id of the image that a container is of, whether it runs or not.
///
/// # Errors
/// There is no such container.
pub async fn image_of(address: Option<&str>, container: &str) -> Result<String> {
    let docker = engine(address).await?;
    let found = match tokio::time::timeout(ANSWER_TIMEOUT, docker.inspect_container(container, None)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) if status(&error) == Some(404) => {
            return Err(Error::unverifiable(format_args!("there is no container {container:?}, so its image is not known"))
                .hint("start it, or drill on = \"local\" or on a server"));
        }
        Ok(Err(error)) => return Err(refused(&format!("cannot look at container {container:?}"), &error)),
        Err(_) => return Err(Error::new(Kind::Docker, format!("cannot look at container {container:?}: the Engine did not answer"))),
    };
    found.image.ok_or_else(|| Error::new(Kind::Docker, format!("the Engine does not say of which image container {container:?} is")))
}

/// Makes a container and starts it. Nothing is pulled.
///
/// # Errors
/// The Engine refuses; then there is no container.
pub async fn start(address: Option<&str>, wanted: Wanted) -> Result<Made> {
    let docker = engine(address).await?;
    let name = Tag::random().as_str().replace("pgvigil_", "pgvigil-drill-");
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    let reads = wanted.reads;
    match tokio::time::timeout(REMOVE_TIMEOUT, docker.create_container(Some(options), body(wanted))).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(not_made(&error)),
        Err(_) => return Err(Error::new(Kind::Docker, "cannot make a container: the Engine did not answer")),
    }
    match watch(&docker, &name, reads).await {
        Ok((log, watched, input)) => Ok(Made { docker, name, log, watched, input: Mutex::new(input) }),
        Err(error) => {
            remove(&docker, &name).await?;
            Err(error)
        }
    }
}

/// Attaches to it and starts it: in this order, nothing that it writes is missed.
async fn watch(docker: &Docker, name: &str, reads: bool) -> Result<(Tail, JoinHandle<()>, Option<Input>)> {
    let options = AttachContainerOptionsBuilder::default().stream(true).stdin(reads).stdout(true).stderr(true).build();
    let attached = answer("attach to a container", docker.attach_container(name, Some(options))).await?;
    answer("start a container", docker.start_container(name, None)).await?;
    let log = Tail::default();
    let into = log.clone();
    let (open, input) = if reads { (None, Some(attached.input)) } else { (Some(attached.input), None) };
    let watched = tokio::spawn(async move {
        let _open = open;
        let mut output = attached.output;
        while let Some(Ok(LogOutput::StdOut { message } | LogOutput::StdErr { message } | LogOutput::Console { message })) =
            output.next().await
        {
            into.push(&message);
        }
    });
    Ok((log, watched, input))
}

fn body(wanted: Wanted) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(wanted.image),
        user: Some(wanted.user),
        entrypoint: Some(wanted.command),
        cmd: Some(Vec::new()),
        // Messages that we look for are in English.
        env: Some(vec!["LC_ALL=C".to_owned()]),
        labels: Some(HashMap::from([wanted.label])),
        attach_stdin: Some(wanted.reads),
        open_stdin: Some(wanted.reads),
        stdin_once: Some(wanted.reads),
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            memory: Some(wanted.memory_bytes),
            memory_swap: Some(wanted.memory_bytes),
            pids_limit: Some(PIDS_MAX),
            shm_size: Some(wanted.shared_memory_bytes),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            tmpfs: Some(HashMap::from([(wanted.socket_dir, "mode=1777,size=1m".to_owned())])),
            // Its log may hold rows of the user, and is of no use to anybody but us.
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

fn not_made(error: &bollard::errors::Error) -> Error {
    let failure = refused("cannot make a container", error);
    match status(error) {
        Some(403) => Error { hint: None, ..failure }.hint(
            "drill on = \"local\" or on a server; or let the socket proxy allow POST /containers/create, which is as good as root on that machine",
        ),
        Some(404) => Error::unverifiable("the image of the source's container is no longer there")
            .hint("pull it again, or start the container anew from an image that is there"),
        _ => failure,
    }
}

impl Made {
    /// Where programs run inside it.
    pub fn host(&self) -> DockerHost {
        DockerHost::of(self.docker.clone(), self.name.clone())
    }

    /// Gives its process the line that it waits for.
    ///
    /// # Errors
    /// It waits for none, or is gone.
    pub async fn tell(&mut self, line: &str) -> Result<()> {
        let lost = |why: &str| Error::new(Kind::Docker, format!("container {} does not listen: {why}", self.name));
        let input = self.input.get_mut().unwrap_or_else(PoisonError::into_inner);
        let input = input.as_mut().ok_or_else(|| lost("it reads nothing"))?;
        let told = async {
            input.write_all(format!("{line}\n").as_bytes()).await?;
            input.flush().await
        };
        told.await.map_err(|error| lost(&error.to_string()))
    }

    /// Waits until its process has ended.
    pub async fn ended(&mut self) {
        let _ = (&mut self.watched).await;
    }

    /// Ends and removes it with its anonymous volumes.
    ///
    /// # Errors
    /// It may still be there.
    pub async fn remove(self) -> Result<()> {
        remove(&self.docker, &self.name).await
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        self.watched.abort();
    }
}

/// Removes every container with this label, and returns how many there were.
///
/// # Errors
/// The Engine does not answer, or would not remove one.
pub async fn remove_labelled(address: Option<&str>, (name, value): (&str, &str)) -> Result<usize> {
    let docker = engine(address).await?;
    let filters = HashMap::from([("label", vec![format!("{name}={value}")])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let found = answer("list containers", docker.list_containers(Some(options))).await?;
    let ids: Vec<String> = found.into_iter().filter_map(|container| container.id).collect();
    let mut result = Ok(ids.len());
    for id in &ids {
        // One that stays must not keep the others.
        result = result.and(remove(&docker, id).await.map(|()| ids.len()));
    }
    result
}

async fn remove(docker: &Docker, container: &str) -> Result<()> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    let left = |error: Error| error.hint(format!("docker rm --force --volumes {container}"));
    match tokio::time::timeout(REMOVE_TIMEOUT, docker.remove_container(container, Some(options))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if status(&error) == Some(404) => Ok(()),
        Ok(Err(error)) => Err(left(refused(&format!("container {container} is left"), &error))),
        Err(_) => Err(left(Error::new(Kind::Docker, format!("container {container} is left: the Engine did not remove it in time")))),
    }
}
