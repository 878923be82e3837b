//! Which server, stores and databases a backup means: names of the file resolved.

use super::faults::Examined;
use super::file::{self, File};
use super::plan::Which;
use super::values::{Databases, Given, Name};

/// Names for a hint.
pub fn listed<'a>(names: impl Iterator<Item = &'a Name>) -> String {
    let names: Vec<&str> = names.map(Name::as_str).collect();
    if names.is_empty() { "none is there yet".to_owned() } else { names.join(", ") }
}

pub fn choose_server(name: &Name, backup: &file::Backup, file: &File, examined: &mut Examined<'_>) -> Option<Name> {
    let section = ["backups", name.as_str()];
    match &backup.server {
        Some(server) if file.servers.contains_key(server) => Some(server.clone()),
        Some(server) => {
            examined.fault(
                &["backups", name.as_str(), "server"],
                format!("backup {name} names the unknown server {:?}", server.as_str()),
                format!("servers of this file: {}", listed(file.servers.keys())),
            );
            None
        }
        None if file.servers.len() == 1 => file.servers.keys().next().cloned(),
        None if file.servers.is_empty() => {
            examined.lack(
                &section,
                format!("backup {name} has no server: the file has no [servers.NAME] section"),
                "add [servers.main] with container = \"NAME\" or host = \"ADDRESS\"",
            );
            None
        }
        None => {
            examined.lack(
                &section,
                format!("backup {name} does not say which server it is of"),
                format!("add server = \"NAME\", one of: {}", listed(file.servers.keys())),
            );
            None
        }
    }
}

pub fn choose_stores(name: &Name, backup: &file::Backup, file: &File, examined: &mut Examined<'_>) -> Option<Vec<Name>> {
    let section = ["backups", name.as_str()];
    let key = ["backups", name.as_str(), "stores"];
    let Some(stores) = &backup.stores else {
        return match file.stores.len() {
            1 => Some(file.stores.keys().cloned().collect()),
            0 => {
                examined.lack(
                    &section,
                    format!("backup {name} has no store: the file has no [stores.NAME] section"),
                    "add [stores.local] with path = \"/srv/postgres/backups\"",
                );
                None
            }
            _ => {
                examined.lack(
                    &section,
                    format!("backup {name} does not say which stores it goes to"),
                    format!("add stores = [\"NAME\"], out of: {}", listed(file.stores.keys())),
                );
                None
            }
        };
    };
    if stores.is_empty() {
        examined.fault(&key, format!("backup {name} goes to no store"), "name one, or remove the key");
    }
    for (n, store) in stores.iter().enumerate() {
        if !file.stores.contains_key(store) {
            examined.fault(
                &key,
                format!("backup {name} names the unknown store {:?}", store.as_str()),
                format!("stores of this file: {}", listed(file.stores.keys())),
            );
        }
        if stores[..n].contains(store) {
            examined.fault(&key, format!("backup {name} names the store {store} twice"), "name it once");
        }
    }
    Some(stores.clone())
}

pub fn choose_databases(name: &Name, backup: &file::Backup, examined: &mut Examined<'_>) -> Option<Which> {
    let section = ["backups", name.as_str()];
    let key = |key| ["backups", name.as_str(), key];
    let exclude = backup.exclude.clone();
    if exclude.is_some() && backup.databases != Some(Databases::All) {
        examined.fault(&key("exclude"), "exclude without databases = \"all\"", "remove it, or set databases = \"all\"");
    }
    for pattern in exclude.iter().flatten() {
        if let Err(error) = globset::Glob::new(pattern) {
            examined.fault(
                &key("exclude"),
                format!("bad pattern {pattern:?}: {}", error.kind()),
                "write a shell glob, such as \"scratch_*\"",
            );
        }
    }
    match (&backup.database, &backup.databases) {
        (Some(Given::Literal(database)), None) if database.is_empty() => {
            examined.fault(&key("database"), "empty name of a database", "write its name");
            None
        }
        (Some(database), None) => Some(Which::One(database.clone())),
        (None, Some(Databases::All)) => Some(Which::All { exclude: exclude.unwrap_or_default() }),
        (None, Some(Databases::Named(names))) => {
            let mut sorted = names.clone();
            sorted.sort();
            if names.is_empty() || names.iter().any(String::is_empty) {
                examined.fault(&key("databases"), "empty list or name of databases", "write their names, or \"all\"");
            } else if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
                examined.fault(&key("databases"), "a database is named twice", "name it once");
            }
            Some(Which::Named(names.clone()))
        }
        (None, None) => {
            examined.lack(
                &section,
                format!("backup {name} names no database"),
                "add database = \"NAME\", databases = [\"a\", \"b\"] or databases = \"all\"",
            );
            None
        }
        (Some(_), Some(_)) => {
            examined.fault(&key("databases"), "both database and databases", "keep one of them");
            None
        }
    }
}
