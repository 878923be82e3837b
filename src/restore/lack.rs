//! What a backup needs and the target does not have, and what the backup itself does not hold.

use std::collections::BTreeSet;

use super::globals::Globals;
use super::page::newer_client;
use super::plan::Refusal;
use super::properties;
use super::target::Target;
use crate::catalog::DatabaseEvidence;
use crate::catalog::Manifest;
use crate::config::file::Contents;
use crate::postgres::programs;
use crate::postgres::quote::identifier_on_one_line;
use crate::postgres::server::Database;

/// The properties of a database that the manifest has; an adopted dump has none.
pub fn properties_of(evidence: Option<&DatabaseEvidence>) -> Option<Database> {
    serde_json::from_value(evidence?.properties.clone()).ok()
}

/// Roles, tablespaces and extensions that are named and not there. `globals`: are made before.
pub fn missing(evidence: &DatabaseEvidence, with_properties: bool, target: &Target, globals: Option<&Globals>) -> Vec<Refusal> {
    let properties = properties_of(Some(evidence));
    let mut roles: BTreeSet<String> = evidence.roles.iter().cloned().collect();
    let mut tablespaces: BTreeSet<&str> = evidence.tablespaces.iter().map(String::as_str).collect();
    if let Some(properties) = properties.as_ref().filter(|_| with_properties) {
        roles.extend(properties::roles(properties));
    }
    // Every cluster has these two, and no dump makes them.
    tablespaces.retain(|name| !["pg_default", "pg_global"].contains(name));
    let made_roles = globals.map(Globals::roles).unwrap_or_default();
    let made_tablespaces = globals.map(Globals::tablespaces).unwrap_or_default();
    let facts = &target.facts;
    // Predefined roles are PostgreSQL's own: a newer server has them, an older one cannot be given them.
    let roles: Vec<&str> =
        roles.iter().map(String::as_str).filter(|role| !facts.roles.contains(*role) && !made_roles.contains(role)).collect();
    let tablespaces: Vec<&str> =
        tablespaces.into_iter().filter(|name| !facts.tablespaces.contains(*name) && !made_tablespaces.contains(name)).collect();
    let extensions: Vec<&str> = evidence.extensions.keys().map(String::as_str).filter(|name| !facts.extensions.contains(*name)).collect();
    let server = format!("server {}", target.name);
    let mut refusals = Vec::new();
    if !roles.is_empty() {
        refusals.push(Refusal::new(
            format!("{server} lacks the roles {}", listed(&roles)),
            format!("add --globals where the backup has them, or CREATE ROLE {} NOLOGIN and its like", identifier_on_one_line(roles[0])),
        ));
    }
    if !tablespaces.is_empty() {
        refusals.push(Refusal::new(
            format!("{server} lacks the tablespaces {}", listed(&tablespaces)),
            format!(
                "make their folders and add --globals, or CREATE TABLESPACE {} LOCATION '/a/folder/of/postgres'",
                identifier_on_one_line(tablespaces[0])
            ),
        ));
    }
    if !extensions.is_empty() {
        refusals.push(Refusal::new(
            format!("{server} cannot make the extensions {}", listed(&extensions)),
            "install their packages on the machine or in the image of that server",
        ));
    }
    refusals
}

/// Names for a message, each quoted.
pub fn listed(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| identifier_on_one_line(name)).collect();
    names.join(", ")
}

/// What the versions of both sides say.
pub fn versions(manifest: &Manifest, target: &Target) -> (Vec<Refusal>, Vec<String>) {
    let (mut refusals, mut warnings) = (Vec::new(), Vec::new());
    let source = programs::major(&manifest.server_version);
    let client = programs::major(&manifest.client_version);
    if source > target.major {
        refusals.push(Refusal::new(
            format!(
                "the backup is of PostgreSQL {}, and server {} is {}: an older major",
                manifest.server_version, target.name, target.version
            ),
            format!("restore into a server of version {source} or newer: --to-server NAME"),
        ));
    } else if source == 0 && target.major > 0 {
        warnings.push("nobody noted the version of the source: a server older than that may refuse parts of the dump".to_owned());
    }
    if client >= 17 && target.major < 17 && source <= target.major && source > 0 {
        let whose = if newer_client(manifest) { "newer than its server" } else { "newer than this server" };
        warnings.push(format!(
            "the dump was made by pg_dump {}, {whose}: parameters that server {} does not know, such as transaction_timeout, are left out",
            manifest.client_version, target.name
        ));
    }
    (refusals, warnings)
}

/// What a backup does not hold, for whoever restores it.
pub fn of_backup(manifest: &Manifest) -> Vec<String> {
    let mut lacks = Vec::new();
    if manifest.contents == Contents::Schema {
        lacks.push("the backup holds definitions only, no rows".to_owned());
    }
    let patterns = [("only tables", &manifest.tables), ("not tables", &manifest.exclude_tables), ("only schemas", &manifest.schemas)];
    for (what, list) in patterns.iter().filter(|(_, list)| !list.is_empty()) {
        lacks.push(crate::host::printable(&format!("the backup is a part of the database: {what} {}", list.join(", "))));
    }
    if !manifest.tables.is_empty() || !manifest.schemas.is_empty() {
        lacks.push("it lacks large objects, and what its part needs from elsewhere: schemas, types, functions, extensions".to_owned());
    }
    lacks
}
