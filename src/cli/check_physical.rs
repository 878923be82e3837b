//! What would keep a physical backup from being made, and its log from coming.

use super::check::Line;
use crate::config::file::Wal;
use crate::config::plan::{self, Backup};
use crate::error::Error;
use crate::host::{Tag, clock};
use crate::job::physical::{base, folder, stream};
use crate::physical::inbox::Stays;
use crate::postgres::Server;
use crate::postgres::basebackup::Cluster;

/// Tries what a base backup begins with.
pub(super) async fn of_physical(backup: &Backup, configured: &plan::Server, server: &Server) -> Vec<Line> {
    let subject = format!("backup {}", backup.name);
    let wal = backup.physical.as_ref().and_then(|physical| physical.wal);
    let mut lines = of_folder(backup, &subject);
    let cluster = match Cluster::ask(server).await {
        Ok(cluster) => cluster,
        Err(error) => {
            lines.push(Line::bad(subject, &error));
            return lines;
        }
    };
    // Another base backup under way is no fault.
    if let Err(error) = (Cluster { base_backups: 0, ..cluster.clone() }).check(&server.facts.user, wal == Some(Wal::ArchiveCommand)) {
        lines.push(Line::bad(&subject, &error));
    }
    let tried = match wal {
        // It is received over the network, also where dumps go by exec.
        Some(Wal::Stream) => match Server::connect(&stream::over_the_network(configured), Tag::random()).await {
            Ok(server) => server.try_replication().await,
            Err(error) => Err(error.context("wal = \"stream\" goes over the network")),
        },
        _ => server.try_replication().await,
    };
    if let Err(error) = tried {
        lines.push(Line::bad(&subject, &with_the_line(error, &server.facts.user)));
    }
    if configured.place.is_by_exec() && !cluster.tablespaces.is_empty() {
        lines.push(Line::bad(&subject, &base::no_folder(&cluster)));
    }
    if wal == Some(Wal::Stream) && cluster.settings.get("max_slot_wal_keep_size").is_some_and(|size| size == "-1") {
        lines.push(Line::warning(
            &subject,
            "max_slot_wal_keep_size is not set: while nobody receives the log, the slot fills the disk of the server",
            "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB', or what the disk can spare",
        ));
    }
    if wal.is_some() && cluster.settings.get("archive_timeout").is_some_and(|secs| secs == "0") {
        lines.push(Line::warning(
            &subject,
            "archive_timeout is 0: on an idle server what is committed last may wait for hours in an open segment",
            "ALTER SYSTEM SET archive_timeout = '60s', where a minute matters",
        ));
    }
    if wal.is_none() {
        lines.push(Line::warning(
            &subject,
            "no wal is set: only the moments of the base backups can be restored",
            "add wal = \"archive_command\" or wal = \"stream\"; docs/pitr.md",
        ));
    }
    if lines.is_empty() {
        lines.push(Line::good(subject, format!("the cluster {}, with its log", cluster.system_identifier)));
    }
    lines
}

/// What is wrong with the folder that the server lays its log into.
fn of_folder(backup: &Backup, subject: &str) -> Vec<Line> {
    let Some(folder) = backup.physical.as_ref().and_then(|physical| physical.wal_folder.as_deref()) else { return Vec::new() };
    if let Err(error) = folder::check(folder) {
        return vec![Line::bad(subject, &error)];
    }
    let hint = "the daemon takes in what is whole; pgvigil wal status, and docs/pitr.md on what archive_command should do";
    folder::problems(folder, Stays::Nothing, None, clock::now()).into_iter().map(|problem| Line::warning(subject, problem, hint)).collect()
}

/// The line of pg_hba.conf that is missing: the official image has none for replication over the network.
fn with_the_line(error: Error, user: &str) -> Error {
    let Some((_, rest)) = error.message.split_once("no pg_hba.conf entry for replication connection from host \"") else { return error };
    let address = rest.split('"').next().unwrap_or_default();
    let mask = if address.contains(':') { 128 } else { 32 };
    let hint = format!("add to pg_hba.conf of the server, and reload it: host replication {user} {address}/{mask} scram-sha-256");
    Error { hint: None, ..error }.hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn the_line_that_is_missing_is_given() {
        let said = "psql failed with exit status 2\n  FATAL:  no pg_hba.conf entry for replication connection from host \"172.17.0.1\", user \"postgres\", no encryption";
        let error = with_the_line(Error::new(Kind::Postgres, said).hint("x"), "postgres");
        assert!(error.hint.unwrap().ends_with("host replication postgres 172.17.0.1/32 scram-sha-256"));
    }
}
