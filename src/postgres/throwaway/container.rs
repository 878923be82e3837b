//! A throwaway server in a container of the image that the source's container is of.

use std::sync::Arc;

use super::{LABEL, Throwaway, Wanted, What, ready, settings};
use crate::config::plan::{self, Place};
use crate::error::{Error, Result};
use crate::host::containers::{self, Made};
use crate::postgres::Server;
use crate::postgres::server::Reached;

/// The account that every image of PostgreSQL has.
const USER: &str = "postgres";

/// Where the socket is: a folder of its own, for an image may lack the usual one.
pub(super) const SOCKET_DIR: &str = "/run/pgvigil";

/// Puts the cluster into the image's volume, where it has one.
pub(super) const FOLDER: &str =
    r#"for d in "${PGDATA:-/var/lib/postgresql/data}" /var/lib/postgresql /tmp; do mkdir -p "$d/pgvigil" 2>/dev/null && break; done"#;

impl Throwaway {
    /// Starts one on the Engine of the source, whose container need not run. Nothing is pulled.
    ///
    /// # Errors
    /// The source is in no container, the Engine refuses, or the server does not start. Nothing is
    /// left then.
    pub async fn in_container(source: &plan::Server, wanted: &Wanted<'_>) -> Result<Throwaway> {
        let mut made = begin(source, |image| recipe(image, wanted)).await?;
        match serve(&mut made, wanted).await {
            Ok(server) => Ok(Throwaway { server, made: What::Container(made) }),
            Err(error) => Err(give_up(made, error).await),
        }
    }
}

/// Starts a container of the image of the source's own.
pub(super) async fn begin(source: &plan::Server, recipe: impl FnOnce(String) -> containers::Wanted) -> Result<Made> {
    let Place::Container { container, docker, .. } = &source.place else {
        return Err(Error::unverifiable(format_args!("server {} is in no container, so there is no image to drill with", source.name))
            .hint("drill on = \"local\" or on a server"));
    };
    let image = containers::image_of(docker.as_deref(), container).await?;
    containers::start(docker.as_deref(), recipe(image)).await.map_err(without_user)
}

/// initdb and postgres are run by us: the image's entrypoint would run what lies in initdb.d, on a
/// server of its own before.
fn recipe(image: String, wanted: &Wanted<'_>) -> containers::Wanted {
    let script = format!(
        "superuser=$1; shift; {FOLDER}; unset PGDATA; \
         initdb -D \"$d/pgvigil\" {} --username=\"$superuser\" && exec postgres -D \"$d/pgvigil\" \"$@\"",
        settings::initdb(wanted.major).join(" ")
    );
    let mut command = ["sh", "-c", &script, "pgvigil", wanted.superuser()].map(str::to_owned).to_vec();
    command.extend(settings::postgres(wanted.major, SOCKET_DIR, wanted.preload));
    shut_off(image, command, wanted)
}

/// Removes it, and hands the reason on.
pub(super) async fn give_up(made: Made, error: Error) -> Error {
    if let Err(left) = made.remove().await {
        tracing::warn!(error = %left, "swept with the next drill");
    }
    error
}

/// What every container of a drill has.
pub(super) fn shut_off(image: String, command: Vec<String>, wanted: &Wanted<'_>) -> containers::Wanted {
    containers::Wanted {
        image,
        user: USER.to_owned(),
        command,
        label: (LABEL.to_owned(), wanted.owner.to_owned()),
        memory_bytes: settings::MEMORY_BYTES,
        shared_memory_bytes: settings::SHARED_MEMORY_BYTES,
        socket_dir: SOCKET_DIR.to_owned(),
        reads: false,
    }
}

async fn serve(made: &mut Made, wanted: &Wanted<'_>) -> Result<Server> {
    let log = made.log.clone();
    ready(&log, made.ended(), wanted.preload).await?;
    reach(made, wanted.superuser(), wanted).await
}

/// A session finds it by its socket, from inside.
pub(super) async fn reach(made: &Made, superuser: &str, wanted: &Wanted<'_>) -> Result<Server> {
    let reached = Reached::Container(made.name.clone());
    Server::throwaway(Arc::new(made.host()), SOCKET_DIR, superuser, wanted.tag.clone(), reached).await
}

fn without_user(error: Error) -> Error {
    if error.message.contains("unable to find user") {
        return Error::unverifiable(format_args!("the image of the source has no account {USER}"))
            .hint("drill on = \"local\" or on a server");
    }
    error
}
