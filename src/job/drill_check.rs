//! Whether the drills of a backup can be done, as far as it can be told without one.

use std::path::PathBuf;

use tokio::io::AsyncReadExt;

use crate::config::Plan;
use crate::config::drill::DrillOn;
use crate::config::plan::{Backup, Place};
use crate::error::{Error, Kind, Result};
use crate::host::docker::DockerHost;
use crate::host::{Call, Host, Tag};
use crate::job::physical::drill::no_cluster_of_its_own;
use crate::postgres::Server;
use crate::postgres::programs::{self, Found};

/// How they are done.
///
/// # Errors
/// What is missing, and what to install.
pub async fn possible(plan: &Plan, backup: &Backup, server: &Server) -> Result<String> {
    let config = &plan.servers[&backup.server];
    let major = server.facts.major();
    match (backup.drill_on(), &config.place) {
        (DrillOn::Container, Place::Container { container, docker, .. }) => {
            let engine = DockerHost::connect(docker.as_deref(), container).await?;
            engine.inspect().await?;
            if backup.physical.is_some() {
                programs_inside(&engine, container).await?;
            }
            Ok(format!("in a throwaway container of the image of {container}"))
        }
        // The plan allows it for containers only.
        (DrillOn::Container, _) => Err(Error::new(Kind::Config, format!("server {} is no container", backup.server))),
        (DrillOn::Local, place) => {
            let own = config.bin_dir.clone().filter(|_| !matches!(place, Place::Container { .. }));
            let found = tokio::task::spawn_blocking(programs::find).await.unwrap_or_default();
            let dir = initdb(&found, own, major)?;
            Ok(format!("in a throwaway cluster made by {}", dir.join("initdb").display()))
        }
        (DrillOn::Server(name), _) if backup.physical.is_some() => Err(no_cluster_of_its_own(name)),
        // Its own line tells whether it answers.
        (DrillOn::Server(name), _) => Ok(format!("in a new database on server {name}")),
    }
}

/// What the drill of a base backup needs of an image beside the server.
const NEEDED: [&str; 2] = ["tar", "pg_amcheck"];

/// Whether the image of a container has what the drill of a base backup needs.
async fn programs_inside(engine: &DockerHost, container: &str) -> Result<()> {
    let mut args = ["-c", r#"for p in "$@"; do command -v "$p" >/dev/null || echo "$p"; done"#, "pgvigil"].map(str::to_owned).to_vec();
    args.extend(NEEDED.map(str::to_owned));
    let mut process =
        engine.start(Call { program: "sh", args, env: Vec::new(), password: None, tag: Tag::random(), stdin: false, input: None }).await?;
    let mut lacks = String::new();
    let read = process.stdout.read_to_string(&mut lacks).await;
    read.map_err(|error| Error::new(Kind::Docker, format!("lost the answer of container {container}: {error}")))?;
    process.running.wait().await?;
    let lacks = lacks.split_whitespace().collect::<Vec<_>>().join(" and ");
    if lacks.is_empty() {
        return Ok(());
    }
    Err(Error::unverifiable(format_args!("the image of container {container} has no {lacks}"))
        .hint("drill on = \"local\", with the server's version of PostgreSQL installed here"))
}

/// The folder with the `initdb` of a major version: `own`, if that is named, else what packages have
/// installed. Another version would not restore what the server holds as the server does.
fn initdb(found: &Found, own: Option<PathBuf>, major: u32) -> Result<PathBuf> {
    let dirs = found.versioned.iter().filter(|(there, _)| *there == major).map(|(_, dir)| dir.clone());
    own.into_iter().chain(dirs).find(|dir| dir.join("initdb").exists()).ok_or_else(|| {
        Error::new(Kind::Postgres, format!("there is no initdb of PostgreSQL {major} on this machine"))
            .hint(format!("install postgresql-{major} (the server's package: the client's has no initdb), or set drill.on to a server"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_initdb_of_the_same_major() {
        let dir = tempfile::tempdir().unwrap();
        let bin = |name: &str, programs: &[&str]| {
            let bin = dir.path().join(name);
            std::fs::create_dir(&bin).unwrap();
            for program in programs {
                std::fs::write(bin.join(program), "").unwrap();
            }
            bin
        };
        let (whole, client, own) = (bin("15", &["pg_dump", "initdb"]), bin("16", &["pg_dump"]), bin("own", &["pg_dump", "initdb"]));
        let found = Found { versioned: vec![(15, whole.clone()), (16, client.clone())], in_path: None };
        assert_eq!(initdb(&found, None, 15).unwrap(), whole);
        assert_eq!(initdb(&found, Some(own.clone()), 16).unwrap(), own);
        assert_eq!(initdb(&found, Some(client), 15).unwrap(), whole);
        for major in [16, 17] {
            let error = initdb(&found, None, major).unwrap_err();
            assert!(error.hint.unwrap().contains(&format!("install postgresql-{major}")));
        }
    }
}
