//! Containers with labels, as they come and go: what is known of them is kept, and the plan is made anew.

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::{Daemon, Load};
use crate::config::labels;
use crate::error::{Error, Result};
use crate::host::clock;
use crate::host::labelled::{self, Seen};
use crate::state::discovered::Discovered;

pub(super) struct Discovery {
    pub heard: UnboundedReceiver<Result<Seen>>,
    tell: UnboundedSender<Result<Seen>>,
    /// Ends with the daemon.
    task: JoinSet<()>,
    /// Which Engine is followed.
    of: Option<String>,
}

impl Default for Discovery {
    fn default() -> Self {
        let (tell, heard) = unbounded_channel();
        Discovery { heard, tell, task: JoinSet::new(), of: None }
    }
}

impl Daemon {
    /// Follows the Engine that the file names.
    pub(super) fn follow(&mut self) {
        let wanted = self.plan.discovery.as_ref().map(|discovery| discovery.docker.clone());
        if self.discovery.of == wanted {
            return;
        }
        // What the former one still says is no news any more.
        self.discovery = Discovery { of: wanted.clone(), ..Discovery::default() };
        if let Some(address) = wanted {
            self.discovery.task.spawn(labelled::follow(address, self.discovery.tell.clone()));
        }
    }

    pub(super) fn discovered(&mut self, seen: Result<Seen>, load: Load<'_>) {
        let known = Discovered::read(&self.plan.state_dir);
        let next = match seen {
            Ok(seen) => {
                let containers = labels::merged(&known.containers, &seen.labelled, &seen.others);
                let here = |container: &str| seen.labelled.iter().any(|labelled| labelled.container == container);
                for gone in containers.iter().filter(|container| !here(&container.container)) {
                    tracing::warn!(container = gone.container, backup = gone.name(), "container is gone; its backup is still expected");
                }
                tracing::info!(containers = seen.labelled.len(), "looked at the labels of containers");
                Discovered { containers, lost: None }
            }
            Err(error) => {
                tracing::warn!(%error, "containers cannot be followed; tried again");
                let since = known.lost.as_ref().map_or_else(clock::now, |(since, _)| *since);
                Discovered { lost: Some((since, told(&error))), ..known.clone() }
            }
        };
        if next == known {
            return;
        }
        let is_other = next.containers != known.containers;
        if let Err(error) = next.write(&self.plan.state_dir) {
            tracing::error!(%error, "cannot keep what containers ask for");
            return;
        }
        if is_other {
            self.reload(load);
            for fault in self.plan.discovery.iter().flat_map(|discovery| &discovery.faults) {
                tracing::error!(container = fault.container, "labels are faulty: {}", fault.told);
            }
        }
        self.look_at = std::time::Instant::now();
    }
}

fn told(error: &Error) -> String {
    match &error.hint {
        Some(hint) => format!("{}\nHINT: {hint}", error.message),
        None => error.message.clone(),
    }
}
