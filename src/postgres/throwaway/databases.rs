//! A named server as the place of a drill: databases of ours beside those of others.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Throwaway, Wanted, What, all, left_in};
use crate::config::Plan;
use crate::config::plan;
use crate::error::{Error, Result};
use crate::host::Tag;
use crate::postgres::Server;
use crate::postgres::quote::{identifier, literal};

/// The databases of a drill on a server of the file. A note in the folder says that there may be
/// some, so that a sweep asks no server that never had any.
pub(super) struct Databases {
    owner: String,
    note: PathBuf,
}

impl Throwaway {
    /// Takes a server of the file. What a dump runs there, it runs with the rights of its role.
    ///
    /// # Errors
    /// The server does not answer, is older than the source, or its role may not create databases.
    pub async fn on_server(server: &plan::Server, wanted: &Wanted<'_>) -> Result<Throwaway> {
        let connected = Server::connect(server, wanted.tag.clone()).await?;
        let (name, major) = (&server.name, connected.facts.major());
        if major < wanted.major {
            return Err(Error::unverifiable(format_args!(
                "server {name} is PostgreSQL {major}, older than {} of the source",
                wanted.major
            ))
            .hint("drill on = \"container\", \"local\" or on a newer server"));
        }
        let may: bool = connected
            .query(
                connected.maintenance_database(),
                "select to_json(rolsuper or rolcreatedb) from pg_catalog.pg_roles where rolname = current_user",
            )
            .await?;
        if !may {
            let role = &connected.facts.user;
            return Err(Error::unverifiable(format_args!("role {role} of server {name} may not create databases"))
                .hint(format!("ALTER ROLE {} CREATEDB", identifier(role))));
        }
        let note = wanted.folder.join(format!("{}_{}.on_{name}", wanted.owner, wanted.tag.random_part()));
        write(&note).map_err(|error| Error::system(format_args!("cannot write {}", note.display()), &error))?;
        Ok(Throwaway { server: connected, made: What::Databases(Databases { owner: wanted.owner.to_owned(), note }) })
    }
}

impl Databases {
    pub(super) fn name(&self, nth: usize) -> String {
        format!("{}{nth}", prefix(&self.owner))
    }

    pub(super) async fn remove(self, server: &Server) -> Result<()> {
        drop_all(server, &self.owner).await?;
        std::fs::remove_file(&self.note).map_err(|error| Error::system(format_args!("{} is left", self.note.display()), &error))
    }
}

fn prefix(owner: &str) -> String {
    format!("pgvigil_drill_{owner}_")
}

/// It must be there before any database is.
fn write(note: &Path) -> io::Result<()> {
    let folder = note.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(note)?.sync_all()?;
    File::open(folder)?.sync_all()
}

/// Drops the databases of drills on servers where notes say that there were some.
pub(super) async fn sweep(plan: &Plan, owner: &str, folder: &Path) -> Result<usize> {
    let mut results = Vec::new();
    for name in left_in(folder, owner) {
        if let Some((_, server)) = name.split_once(".on_") {
            results.push(sweep_server(plan, owner, server, &folder.join(format!("{owner}_{name}"))).await);
        }
    }
    all(results)
}

async fn sweep_server(plan: &Plan, owner: &str, server: &str, note: &Path) -> Result<usize> {
    let swept = if let Some(known) = plan.servers.get(server) {
        drop_all(&Server::connect(known, Tag::random()).await?, owner).await?
    } else {
        tracing::warn!(server, "databases of a drill may be left on a server that is no longer in the file");
        0
    };
    std::fs::remove_file(note).map_err(|error| Error::system(format_args!("cannot remove {}", note.display()), &error))?;
    Ok(swept)
}

/// Drops them, sessions in them or not.
async fn drop_all(server: &Server, owner: &str) -> Result<usize> {
    let maintenance = server.maintenance_database();
    // The owner is hexadecimal, nothing in it means anything to a pattern.
    let list = format!(
        "select coalesce(json_agg(datname order by datname), '[]') from pg_catalog.pg_database where datname ~ {}",
        literal(&format!("^{}[0-9]+$", prefix(owner)))
    );
    let names: Vec<String> = server.query(maintenance, &list).await?;
    for name in &names {
        let drop = if server.facts.major() >= 13 {
            format!("drop database if exists {} with (force)", identifier(name))
        } else {
            format!(
                "do $$ begin perform pg_terminate_backend(pid) from pg_stat_activity where datname = {}; end $$; drop database if exists {}",
                literal(name),
                identifier(name)
            )
        };
        let dropped: Result<bool> = server.query(maintenance, &format!("{drop}; select to_json(true)")).await;
        dropped
            .map_err(|error| error.context(format_args!("database {name} is left")).hint(format!("DROP DATABASE {}", identifier(name))))?;
    }
    Ok(names.len())
}
