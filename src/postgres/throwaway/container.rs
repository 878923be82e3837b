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
const SOCKET_DIR: &str = "/run/pgvigil";

/// Puts the cluster into the image's volume, where it has one.
const FOLDER: &str =
    r#"for d in "${PGDATA:-/var/lib/postgresql/data}" /var/lib/postgresql /tmp; do mkdir -p "$d/pgvigil" 2>/dev/null && break; done"#;

impl Throwaway {
    /// Starts one on the Engine of the source, whose container need not run. Nothing is pulled.
    ///
    /// # Errors
    /// The source is in no container, the Engine refuses, or the server does not start. Nothing is
    /// left then.
    pub async fn in_container(source: &plan::Server, wanted: &Wanted<'_>) -> Result<Throwaway> {
        let Place::Container { container, docker, .. } = &source.place else {
            return Err(Error::unverifiable(format_args!("server {} is in no container, so there is no image to drill with", source.name))
                .hint("drill on = \"local\" or on a server"));
        };
        let image = containers::image_of(docker.as_deref(), container).await?;
        let mut made = containers::start(docker.as_deref(), recipe(image, wanted)).await.map_err(without_user)?;
        match serve(&mut made, wanted).await {
            Ok(server) => Ok(Throwaway { server, made: What::Container(made) }),
            Err(error) => {
                if let Err(left) = made.remove().await {
                    tracing::warn!(error = %left, "swept with the next drill");
                }
                Err(error)
            }
        }
    }
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
    containers::Wanted {
        image,
        user: USER.to_owned(),
        command,
        label: (LABEL.to_owned(), wanted.owner.to_owned()),
        memory_bytes: settings::MEMORY_BYTES,
        shared_memory_bytes: settings::SHARED_MEMORY_BYTES,
        socket_dir: SOCKET_DIR.to_owned(),
    }
}

async fn serve(made: &mut Made, wanted: &Wanted<'_>) -> Result<Server> {
    let log = made.log.clone();
    ready(&log, made.ended(), wanted.preload).await?;
    let reached = Reached::Container(made.name.clone());
    Server::throwaway(Arc::new(made.host()), SOCKET_DIR, wanted.superuser(), wanted.tag.clone(), reached).await
}

fn without_user(error: Error) -> Error {
    if error.message.contains("unable to find user") {
        return Error::unverifiable(format_args!("the image of the source has no account {USER}"))
            .hint("drill on = \"local\" or on a server");
    }
    error
}
