//! A container with labels -> a server and a backup of it. A fault of its labels is told, and stands in
//! nobody else's way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::drill::DrillOn;
use super::faults::Examined;
use super::overlay::{Overlay, Sources};
use super::values::Name;
use super::{Plan, file, plan};

/// Every label of ours begins so.
pub const PREFIX: &str = "pgvigil.";

/// The label that asks for a backup.
pub const ENABLE: &str = "pgvigil.enable";

/// Keys of a server that a label may set. None of them makes pgvigil read a file or a secret: who may
/// label a container must not choose which.
const OF_SERVER: [&str; 5] = ["via", "port", "user", "sslmode", "maintenance_database"];

/// Keys of a backup that are not for labels: the server is the container, and secrets are not its own.
const NOT_OF_BACKUP: [&str; 3] = ["server", "identity", "kind"];

/// Keys whose value is a table.
const TABLES: [&str; 3] = ["keep", "drill", "checks"];

/// A container that asks for a backup, as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labelled {
    pub container: String,
    /// Those that begin with `pgvigil.`.
    pub labels: BTreeMap<String, String>,
    /// Project, service and number, if docker compose has made it: they stay when it is made anew.
    pub compose: Option<[String; 3]>,
    /// POSTGRES_DB, else POSTGRES_USER.
    pub database: Option<String>,
    /// Seconds of the calendar at which it was made.
    pub created: i64,
}

/// What is wrong with the labels of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelFault {
    pub container: String,
    pub told: String,
}

impl Labelled {
    /// What its backup is called: `pgvigil.name`, else by compose `project_service`, else the container.
    pub fn name(&self) -> String {
        if let Some(name) = self.labels.get("pgvigil.name") {
            return name.clone();
        }
        let name = match &self.compose {
            Some([project, service, number]) if number == "1" => format!("{project}_{service}"),
            Some([project, service, number]) => format!("{project}_{service}_{number}"),
            None => self.container.clone(),
        };
        let fits = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' { c } else { '-' };
        name.to_lowercase().chars().map(fits).take(63).collect()
    }

    fn overlays(&self, name: &str, docker: &str) -> Result<Vec<Overlay>, String> {
        let mut overlays = Vec::new();
        let mut lay = |source: String, path: &[&str], value: &str| {
            overlays.push(Overlay { source, path: path.iter().map(|part| (*part).to_owned()).collect(), value: value.to_owned() });
        };
        let own = format!("container {}", self.container);
        lay(own.clone(), &["servers", name, "container"], &self.container);
        lay(own.clone(), &["servers", name, "docker"], docker);
        lay(own.clone(), &["backups", name, "server"], name);
        if !["pgvigil.database", "pgvigil.databases"].iter().any(|label| self.labels.contains_key(*label)) {
            lay(own, &["backups", name, "database"], self.database.as_deref().unwrap_or("postgres"));
        }
        for (label, value) in &self.labels {
            let source = format!("container {}: label {label}", self.container);
            let parts: Vec<&str> = label.trim_start_matches(PREFIX).split('.').collect();
            match parts.as_slice() {
                ["enable" | "name"] => {}
                ["server", key] if OF_SERVER.contains(key) => lay(source, &["servers", name, key], value),
                ["server", ..] => return Err(format!("{source}: labels of a server are {}", OF_SERVER.join(", "))),
                [key, ..] if NOT_OF_BACKUP.contains(key) => return Err(format!("{source}: {key} is not for labels")),
                // { file = "..." } would have pgvigil read a file for whoever labels a container.
                ["database"] if value.trim_start().starts_with('{') => return Err(format!("{source}: expected the name of a database")),
                [key] => lay(source, &["backups", name, key], value),
                [key, sub] if TABLES.contains(key) => lay(source, &["backups", name, key, sub], value),
                _ => return Err(format!("{source}: names no key: write pgvigil.KEY or pgvigil.keep.daily")),
            }
        }
        Ok(overlays)
    }
}

/// Adds a server and a backup for each container to the plan of a file; what cannot be added is told.
pub fn add(plan: &mut Plan, text: &str, environment: &[Overlay], found: &[Labelled]) {
    let Some(docker) = plan.discovery.as_ref().map(|discovery| discovery.docker.clone()) else { return };
    let mut faults = Vec::new();
    let mut taken: BTreeSet<String> = plan.backups.keys().map(ToString::to_string).collect();
    for labelled in found {
        let name = labelled.name();
        let added = if plan.servers.contains_key(name.as_str()) || !taken.insert(name.clone()) {
            Err(format!("a server or backup called {name} is there already\nHINT: give it another name: pgvigil.name"))
        } else {
            labelled.overlays(&name, &docker).and_then(|overlays| add_one(plan, text, environment, overlays, &name))
        };
        if let Err(told) = added {
            faults.push(LabelFault { container: labelled.container.clone(), told });
        }
    }
    if let Some(discovery) = &mut plan.discovery {
        discovery.faults = faults;
    }
}

fn add_one(plan: &mut Plan, text: &str, environment: &[Overlay], overlays: Vec<Overlay>, name: &str) -> Result<(), String> {
    let name: Name = name.parse()?;
    let mut all = environment.to_vec();
    all.extend(overlays);
    let sources = Sources::new(text, &all);
    let mut examined = Examined::new(&sources);
    let mut file: file::File = examined.typed();
    // The others have been looked at; a second server must not make them ask which one is theirs.
    file.backups.retain(|of, _| *of == name);
    file.pings.clear();
    let made = plan::plan(&file, &mut examined);
    examined.finish(Path::new("")).map_err(|faults| faults.to_string())?;
    let (Some(mut server), Some(backup)) = (made.servers.get(&name).cloned(), made.backups.get(&name).cloned()) else {
        return Err("it makes no backup".to_owned());
    };
    // A restore runs code of the dump: into which server is not for labels to say.
    if !matches!(backup.drill_on(), DrillOn::Container) {
        return Err("a drill of labels goes into a container".to_owned());
    }
    server.password_of_container = true;
    plan.warnings.extend(made.warnings.into_iter().filter(|warning| warning.subject == format!("backup {name}")));
    plan.written.adopt(&made.written, &name);
    plan.servers.insert(name.clone(), server);
    plan.backups.insert(name, backup);
    Ok(())
}

/// The containers that are known, after a look at those that are there. One that is gone stays known: its
/// backup must not fall silent. `others` are containers that ask for nothing; one of them that was known
/// has changed its mind.
pub fn merged(known: &[Labelled], seen: &[Labelled], others: &[String]) -> Vec<Labelled> {
    let mut named: BTreeMap<String, Vec<Labelled>> = BTreeMap::new();
    for labelled in seen {
        named.entry(labelled.name()).or_default().push(labelled.clone());
    }
    for of_name in named.values_mut() {
        of_name.sort_by_key(|labelled| labelled.created);
        // While compose makes a container anew there are two of it.
        let first = of_name.first().and_then(|labelled| labelled.compose.clone());
        if first.is_some() && of_name.iter().all(|labelled| labelled.compose == first) {
            of_name.drain(..of_name.len() - 1);
        }
    }
    let is_there = |container: &String| others.contains(container) || seen.iter().any(|seen| seen.container == *container);
    let gone = known.iter().filter(|known| !named.contains_key(&known.name()) && !is_there(&known.container));
    let mut all: Vec<Labelled> = gone.cloned().collect();
    all.extend(named.into_values().flatten());
    all
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::super::plan::{Place, Which};
    use super::super::values::{Count, Given};
    use super::*;

    const FILE: &str = "[discovery]\ndocker = \"tcp://proxy:2375\"\n[servers.main]\nhost = \"db\"\n[stores.local]\npath = \"/b\"\n[backups.own]\ndatabase = \"own\"\n";

    fn container(name: &str, labels: &[(&str, &str)]) -> Labelled {
        Labelled {
            container: name.to_owned(),
            labels: labels.iter().map(|(label, value)| (format!("pgvigil.{label}"), (*value).to_owned())).collect(),
            compose: None,
            database: Some("shop".to_owned()),
            created: 1,
        }
    }

    fn made_by_compose(name: &str, created: i64) -> Labelled {
        let compose = Some(["proj".to_owned(), "pg".to_owned(), "1".to_owned()]);
        Labelled { compose, created, ..container(name, &[("enable", "true")]) }
    }

    fn plan(found: &[Labelled]) -> Plan {
        let mut plan = parse(FILE, Path::new("x")).unwrap();
        add(&mut plan, FILE, &[], found);
        plan
    }

    #[test]
    fn a_container_makes_a_server_and_a_backup() {
        let labels = [
            ("enable", "true"),
            ("schedule", "0 3 * * *"),
            ("keep", "{ last = 2, daily = 5 }"),
            ("format", "custom"),
            ("retries", "7"),
            ("server.via", "network"),
        ];
        let plan =
            plan(&[container("Shop.DB", &labels), container("plain", &[("enable", "true"), ("keep.last", "4"), ("databases", "all")])]);
        assert!(plan.discovery.as_ref().unwrap().faults.is_empty(), "{:?}", plan.discovery);
        let backup = &plan.backups["shop-db"];
        assert_eq!((backup.server.as_str(), backup.retries, backup.keep.daily), ("shop-db", 7, Count::Number(5)));
        assert_eq!(backup.which, Which::One(Given::Literal("shop".into())));
        let server = &plan.servers["shop-db"];
        assert!(server.password_of_container && !plan.servers["main"].password_of_container);
        let Place::Container { container, docker, .. } = &server.place else { panic!("{server:?}") };
        assert_eq!((container.as_str(), docker.as_deref()), ("Shop.DB", Some("tcp://proxy:2375")));
        assert_eq!(plan.backups["plain"].which, Which::All { exclude: Vec::new() });
        assert_eq!(plan.backups["own"].server.as_str(), "main", "it still has the only server of its file");
        assert_eq!(plan.backups.len(), 3);
    }

    #[test]
    fn faulty_labels_are_told_and_hold_up_nobody() {
        let table: [(&str, &str, &str); 13] = [
            ("schedule", "0 25 * * *", "container bad: label pgvigil.schedule: bad schedule"),
            ("shedule", "@daily", "label pgvigil.shedule: unknown key `shedule`"),
            ("keep", "{ dayly = 1 }", "label pgvigil.keep: unknown key `dayly`"),
            ("keep.dayly", "1", "label pgvigil.keep.dayly: unknown key `dayly`"),
            ("name", "Not A Name", "bad name"),
            ("name", "own", "a server or backup called own is there already"),
            ("name", "main", "a server or backup called main is there already"),
            ("database", "{ file = \"/etc/shadow\" }", "expected the name of a database"),
            ("database.file", "/etc/shadow", "names no key"),
            ("identity", "{ file = \"/etc/shadow\" }", "identity is not for labels"),
            ("server.password", "x", "labels of a server are via"),
            ("drill", "{ on = \"main\" }", "a drill of labels goes into a container"),
            ("drill", "{ on = \"local\" }", "a drill of labels goes into a container"),
        ];
        for (label, value, expected) in table {
            let plan = plan(&[container("bad", &[("enable", "true"), (label, value)]), container("good", &[("enable", "true")])]);
            let faults = &plan.discovery.as_ref().unwrap().faults;
            assert!(faults.len() == 1 && faults[0].container == "bad" && faults[0].told.contains(expected), "{label}: {faults:?}");
            assert!(plan.backups.contains_key("good") && plan.backups.len() == 2, "{label}");
        }
    }

    #[test]
    fn what_is_known_after_another_look() {
        let (a, b) = (container("a", &[("enable", "true")]), container("b", &[("enable", "true")]));
        let names = |all: Vec<Labelled>| all.into_iter().map(|labelled| labelled.container).collect::<Vec<_>>();
        assert_eq!(names(merged(&[], &[a.clone(), b.clone()], &[])), ["a", "b"]);
        assert_eq!(names(merged(&[a.clone(), b.clone()], std::slice::from_ref(&b), &[])), ["a", "b"], "gone, and not forgotten");
        assert_eq!(
            names(merged(&[a.clone(), b.clone()], std::slice::from_ref(&b), &["a".to_owned()])),
            ["b"],
            "it is there and asks for nothing"
        );
        let renamed = container("a", &[("enable", "true"), ("name", "other")]);
        assert_eq!(
            merged(std::slice::from_ref(&a), std::slice::from_ref(&renamed), &[]),
            std::slice::from_ref(&renamed),
            "another name for the same"
        );
        // Compose renames the old one, makes the new one, and removes the old one.
        let (old, aside, new) = (made_by_compose("proj_pg_1", 1), made_by_compose("0123_proj_pg_1", 1), made_by_compose("proj_pg_1", 2));
        assert_eq!(old.name(), "proj_pg");
        assert_eq!(merged(std::slice::from_ref(&old), std::slice::from_ref(&aside), &[]), std::slice::from_ref(&aside));
        assert_eq!(merged(std::slice::from_ref(&aside), &[aside.clone(), new.clone()], &[]), std::slice::from_ref(&new));
        assert_eq!(merged(std::slice::from_ref(&new), &[], &[]), [new]);
        // Two that are not of one service are told, the younger one.
        let (first, second) = (container("a", &[("name", "x")]), Labelled { created: 5, ..container("b", &[("name", "x")]) });
        let plan = plan(&merged(&[], &[second, first], &[]));
        assert_eq!((plan.servers.contains_key("x"), plan.discovery.unwrap().faults[0].container.as_str()), (true, "b"));
    }
}
