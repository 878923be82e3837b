//! Containers that ask for a backup by their labels, followed as they come and go.

use std::collections::HashMap;
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder};
use futures_util::StreamExt;
use tokio::sync::mpsc::UnboundedSender;

use super::docker::{answer, engine, status, words};
use crate::config::labels::{ENABLE, Labelled, PREFIX};
use crate::error::{Error, Kind, Result};

/// After an event others follow: a container is made, named, connected and started.
const QUIET: Duration = Duration::from_secs(1);

/// Without any event it is looked again so often: one may have been lost.
const AGAIN: Duration = Duration::from_secs(300);

/// The pauses before an Engine that is gone is tried again.
const BACKOFF: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30);

/// What a look at an Engine has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub labelled: Vec<Labelled>,
    /// Names of the containers that ask for nothing.
    pub others: Vec<String>,
}

/// Looks at all containers of an Engine, running or not.
///
/// # Errors
/// It does not answer, or refuses.
pub async fn look(address: &str) -> Result<Seen> {
    look_by(&engine(Some(address)).await?).await
}

async fn look_by(docker: &Docker) -> Result<Seen> {
    let options = ListContainersOptionsBuilder::default().all(true).build();
    let listed = answer("list containers", docker.list_containers(Some(options))).await?;
    let mut seen = Seen { labelled: Vec::new(), others: Vec::new() };
    for container in listed {
        let names = container.names.unwrap_or_default();
        // A link adds names with a second slash.
        let Some(name) = names.iter().map(|name| name.trim_start_matches('/')).find(|name| !name.contains('/')) else { continue };
        let labels = container.labels.unwrap_or_default();
        if !labels.get(ENABLE).is_some_and(|value| is_yes(value)) {
            seen.others.push(name.to_owned());
            continue;
        }
        let id = container.id.unwrap_or_else(|| name.to_owned());
        let found = match tokio::time::timeout(super::docker::ANSWER_TIMEOUT, docker.inspect_container(&id, None)).await {
            Ok(Ok(found)) => found,
            // It went in between.
            Ok(Err(error)) if status(&error) == Some(404) => continue,
            Ok(Err(error)) => return Err(super::docker::refused(&format!("cannot look at container {name:?}"), &error)),
            Err(_) => return Err(Error::new(Kind::Docker, format!("cannot look at container {name:?}: the Engine did not answer"))),
        };
        let env: HashMap<String, String> = found
            .config
            .and_then(|config| config.env)
            .unwrap_or_default()
            .iter()
            .filter_map(|var| var.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())))
            .collect();
        let of_compose = |key: &str| labels.get(&format!("com.docker.compose.{key}")).cloned();
        let compose = match (of_compose("project"), of_compose("service"), of_compose("container-number")) {
            (Some(project), Some(service), Some(number)) => Some([project, service, number]),
            _ => None,
        };
        let value = |name: &str| env.get(name).filter(|value| !value.is_empty()).cloned();
        seen.labelled.push(Labelled {
            container: name.to_owned(),
            compose,
            database: value("POSTGRES_DB").or_else(|| value("POSTGRES_USER")),
            created: container.created.unwrap_or_default(),
            labels: labels.into_iter().filter(|(label, _)| label.starts_with(PREFIX)).collect(),
        });
    }
    seen.labelled.sort_by(|a, b| a.container.cmp(&b.container));
    seen.others.sort();
    Ok(seen)
}

fn is_yes(value: &str) -> bool {
    ["true", "1", "yes"].contains(&value.trim().to_lowercase().as_str())
}

/// Follows the containers of an Engine for ever, and tells of each look that shows something new, and
/// when the Engine is gone. It comes back to an Engine that was started anew.
pub async fn follow(address: String, tell: UnboundedSender<Result<Seen>>) {
    let mut pause = *BACKOFF.start();
    let mut last = None;
    loop {
        let lost = follow_once(&address, &tell, &mut last, &mut pause).await;
        let is_new = !matches!(&last, Some(Err(before)) if *before == lost.message);
        last = Some(Err(lost.message.clone()));
        if is_new && tell.send(Err(lost)).is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(*BACKOFF.end());
    }
}

type Last = Option<Result<Seen, String>>;

/// Until the stream of events ends; why it did.
async fn follow_once(address: &str, tell: &UnboundedSender<Result<Seen>>, last: &mut Last, pause: &mut Duration) -> Error {
    let docker = match engine(Some(address)).await {
        Ok(docker) => docker,
        Err(error) => return error,
    };
    // Heard before it is looked: nothing falls in between.
    let filters = HashMap::from([("type", vec!["container"]), ("event", vec!["create", "start", "rename", "destroy", "update"])]);
    let mut events = docker.events(Some(EventsOptionsBuilder::default().filters(&filters).build()));
    loop {
        match look_by(&docker).await {
            Ok(seen) => {
                *pause = *BACKOFF.start();
                if !matches!(&*last, Some(Ok(before)) if *before == seen) {
                    *last = Some(Ok(seen.clone()));
                    let _ = tell.send(Ok(seen));
                }
            }
            Err(error) => return error,
        }
        let mut wait = AGAIN;
        loop {
            match tokio::time::timeout(wait, events.next()).await {
                Ok(Some(Ok(_))) => wait = QUIET,
                Ok(Some(Err(error))) => {
                    return Error::new(Kind::Docker, format!("lost the events of the Docker Engine at {address}: {}", words(&error)));
                }
                Ok(None) => return Error::new(Kind::Docker, format!("the Docker Engine at {address} has ended its events")),
                Err(_) => break,
            }
        }
    }
}
