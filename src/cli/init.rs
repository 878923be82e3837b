//! `init`: a starting file made from what is found on this machine.

use std::fmt::Write;
use std::path::Path;

use super::Done;
use super::output;
use super::session::{Session, runtime};
use crate::config::file::{SslMode, Via};
use crate::config::plan::{self, Place};
use crate::config::values::Name;
use crate::error::Result;
use crate::host::Tag;
use crate::host::docker::postgres_containers;
use crate::postgres::Server;
use crate::postgres::server::Database;

/// Where Debian's PostgreSQL has its socket.
const SOCKET_DIR: &str = "/var/run/postgresql";

pub fn init(session: &Session, container: Option<&str>) -> Done {
    session.start_log(None);
    let file = runtime()?.block_on(starting_file(container))?;
    if session.json {
        return output::json(&serde_json::json!({ "file": file }));
    }
    output::text(&file)
}

async fn starting_file(container: Option<&str>) -> Result<String> {
    let mut text = String::from(
        "# Made by `pgvigil init` from what it found on this machine. Change what is not right, put it to\n# /etc/pgvigil/pgvigil.toml (mode 0600), or name it by --config, and try it:\n#   pgvigil check\n\n",
    );
    let found = match container {
        Some(name) => vec![(name.to_owned(), String::new())],
        None => postgres_containers().await.unwrap_or_default(),
    };
    let place = match found.first() {
        Some((name, image)) => {
            if !image.is_empty() {
                let _ = writeln!(text, "# container {name} of image {image}");
            }
            Place::Container { container: name.clone(), docker: None, via: Via::Exec }
        }
        None if Path::new(SOCKET_DIR).is_dir() => Place::Socket(SOCKET_DIR.into()),
        None => {
            text.push_str("# No PostgreSQL was found here: say where it is.\n");
            Place::Host("db.example.com".to_owned())
        }
    };
    for (name, image) in found.iter().skip(1) {
        let _ = writeln!(text, "# also here: container {name} of image {image}");
    }
    if let [(first, _), _, ..] = &found[..] {
        output::warn(
            &format!("several containers look like PostgreSQL; this file is for {first}"),
            Some("pgvigil init --container NAME takes another"),
        );
    }
    let databases = databases(&place, container.is_some()).await?;
    text.push_str("[servers.main]\n");
    match &place {
        Place::Container { container, .. } => {
            let _ = writeln!(text, "container = {}", quoted(container));
            text.push_str("# Inside of the container no password is asked for by the official images; else:\n# password = { env = \"POSTGRES_PASSWORD\" }\n");
        }
        Place::Socket(dir) => {
            let _ = writeln!(text, "socket = {}", quoted(&dir.display().to_string()));
            text.push_str("# user = \"postgres\"\n# password = { file = \"/etc/pgvigil/password\" }\n");
        }
        Place::Host(host) => {
            let _ = writeln!(text, "host = {}\npassword = {{ env = \"PGPASSWORD\" }}", quoted(host));
        }
    }
    text.push_str("\n[stores.local]\npath = \"/srv/postgres/backups\"\n\n");
    let Some(databases) = databases else {
        text.push_str(
            "# The databases could not be listed: name yours, or take all.\n[backups.all]\ndatabases = \"all\"\nschedule = \"0 2 * * *\"\n",
        );
        return Ok(text);
    };
    if databases.is_empty() {
        text.push_str("# There is no database but postgres yet: this takes every one that comes.\n[backups.all]\ndatabases = \"all\"\nschedule = \"0 2 * * *\"\n");
    }
    for (section, database) in sections(&databases) {
        let _ = write!(text, "[backups.{section}]\ndatabase = {}\nschedule = \"0 2 * * *\"\n\n", quoted(&database));
    }
    Ok(text.trim_end().to_owned() + "\n")
}

/// The names of the databases; `None` if the server does not answer without a password. A
/// container that was asked for by name must be there.
async fn databases(place: &Place, must_answer: bool) -> Result<Option<Vec<String>>> {
    let Ok(name) = "main".parse::<Name>() else {
        return Ok(None);
    };
    let server = plan::Server {
        name,
        place: place.clone(),
        bin_dir: None,
        port: None,
        user: None,
        password: None,
        password_of_container: false,
        sslmode: SslMode::default(),
        sslrootcert: None,
        sslcert: None,
        sslkey: None,
        maintenance_database: "postgres".to_owned(),
    };
    if matches!(place, Place::Host(_)) {
        return Ok(None);
    }
    match Server::connect(&server, Tag::random()).await {
        Ok(server) => {
            let usable = server.facts.databases.into_iter().filter(Database::is_usable);
            Ok(Some(usable.map(|database| database.name).filter(|name| name != "postgres").collect()))
        }
        Err(error) if must_answer && error.kind == crate::error::Kind::Docker => Err(error),
        Err(error) => {
            output::warn(&format!("cannot list the databases: {}", error.message), error.hint.as_deref());
            Ok(None)
        }
    }
}

/// A section for each database, named after it as far as the rules of names allow.
fn sections(databases: &[String]) -> Vec<(String, String)> {
    let mut taken: Vec<String> = Vec::new();
    let mut found = Vec::new();
    for database in databases {
        let plain: String =
            database.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).take(50).collect();
        let mut section = plain.clone();
        let mut n = 2;
        while taken.contains(&section) {
            section = format!("{plain}_{n}");
            n += 1;
        }
        taken.push(section.clone());
        found.push((section, database.clone()));
    }
    found
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_have_names_of_their_own() {
        let databases = ["App", "app", "Ä b"].map(str::to_owned);
        let names: Vec<String> = sections(&databases).into_iter().map(|(section, _)| section).collect();
        assert_eq!(names, ["app", "app_2", "__b"]);
        assert!(names.iter().all(|name| name.parse::<Name>().is_ok()));
    }
}
