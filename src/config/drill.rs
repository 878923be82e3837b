//! `drill` of a backup: when its newest good one is restored for a trial, and where.

use std::fmt;
use std::time::Duration;

use super::choose::listed;
use super::faults::Examined;
use super::file::{self, File};
use super::values::{Name, Schedule};

/// The drills of a backup.
#[derive(Debug, Clone)]
pub struct Drill {
    /// `None`: only by hand.
    pub schedule: Option<Schedule>,
    pub on: DrillOn,
    /// What a restore may take; a longer one is told.
    pub budget: Option<Duration>,
    /// Whose copy is restored. `None`: the primary's.
    pub store: Option<Name>,
}

/// Where a drill restores to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrillOn {
    /// A throwaway container of the image of the server's own.
    Container,
    /// A throwaway cluster of this machine.
    Local,
    /// A new database on a server of the file.
    Server(Name),
}

impl DrillOn {
    /// Where nothing is said: as the server itself is.
    pub fn default_for(server: Option<&file::Server>) -> Self {
        if server.is_some_and(|server| server.container.is_some()) { DrillOn::Container } else { DrillOn::Local }
    }
}

/// As in the file, and in a proof.
impl fmt::Display for DrillOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DrillOn::Container => f.write_str("container"),
            DrillOn::Local => f.write_str("local"),
            DrillOn::Server(name) => f.write_str(name.as_str()),
        }
    }
}

/// Makes the plan of a backup's drills. `server` is the one that the backup is of.
pub(super) fn plan_drill(
    name: &Name,
    backup: &file::Backup,
    server: Option<&file::Server>,
    file: &File,
    examined: &mut Examined<'_>,
) -> Option<Drill> {
    let drill = backup.drill.as_ref()?;
    let at_on = ["backups", name.as_str(), "drill", "on"];
    let on = match drill.on.as_deref() {
        None => DrillOn::default_for(server),
        Some("container") => {
            if server.is_some_and(|server| server.container.is_none()) {
                examined.fault(
                    &at_on,
                    format!("drill of backup {name} goes into a container, and its server is none: there is no image to take"),
                    "write \"local\", or the name of a server",
                );
            }
            DrillOn::Container
        }
        Some("local") => DrillOn::Local,
        Some(other) => {
            let Some((name, _)) = file.servers.get_key_value(other) else {
                examined.fault(
                    &at_on,
                    format!("drill of backup {name} names the unknown server {other:?}"),
                    format!("write \"container\", \"local\" or a server: {}", listed(file.servers.keys())),
                );
                return None;
            };
            DrillOn::Server(name.clone())
        }
    };
    if drill.budget.is_some_and(|budget| budget.0.is_zero()) {
        examined.fault(
            &["backups", name.as_str(), "drill", "budget"],
            "no restore takes no time",
            "write what it may take, such as \"1h\"",
        );
    }
    if let Some(store) = &drill.store
        && !backup.stores.as_ref().map_or_else(|| file.stores.contains_key(store), |stores| stores.contains(store))
    {
        examined.fault(
            &["backups", name.as_str(), "drill", "store"],
            format!("drill of backup {name} takes the copy in store {store}, which is none of its stores"),
            "name one of `stores`",
        );
    }
    Some(Drill { schedule: drill.schedule.clone(), on, budget: drill.budget.map(|budget| budget.0), store: drill.store.clone() })
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn drilled(server: &str, keys: &str) -> Result<(Option<Drill>, DrillOn), String> {
        let text = format!(
            "[servers.main]\n{server} = \"x\"\n[servers.spare]\nhost = \"y\"\n[stores.local]\npath = \"/x\"\n[backups.x]\nserver = \"main\"\ndatabase = \"x\"\n{keys}\n"
        );
        match parse(&text, std::path::Path::new("x")) {
            Ok(plan) => Ok((plan.backups["x"].drill.clone(), plan.backups["x"].drill_on().clone())),
            Err(faults) => Err(faults.to_string()),
        }
    }

    #[test]
    fn where_it_goes() {
        let spare = DrillOn::Server("spare".parse().unwrap());
        for (server, keys, expected) in [
            ("container", "", DrillOn::Container),
            ("host", "", DrillOn::Local),
            ("socket", "drill = {}", DrillOn::Local),
            ("container", "drill = { schedule = \"@weekly\" }", DrillOn::Container),
            ("container", "drill = { on = \"local\" }", DrillOn::Local),
            ("host", "drill = { on = \"spare\" }", spare),
        ] {
            let (drill, on) = drilled(server, keys).unwrap();
            assert_eq!(on, expected, "{server} {keys}");
            assert_eq!(drill.is_some(), !keys.is_empty());
        }
    }

    #[test]
    fn what_cannot_be() {
        for (server, keys, words) in [
            ("host", "drill = { on = \"container\" }", "\"local\""),
            ("host", "drill = { on = \"nosuch\" }", "main, spare"),
            ("host", "drill = { budget = \"0s\" }", "\"1h\""),
            ("host", "drill = { store = \"nosuch\" }", "name one of"),
            ("host", "drill = { schedule = \"0 0 30 2 *\" }", "never"),
            ("host", "checks = { some = \" \" }", "one value"),
        ] {
            let faults = drilled(server, keys).unwrap_err();
            assert!(faults.contains(words) && faults.starts_with("x:10: "), "{keys}: {faults}");
        }
    }

    #[test]
    fn the_spool_lies_in_the_state_unless_it_is_named() {
        let spool = |top: &str| parse(top, std::path::Path::new("x")).unwrap().spool_dir.display().to_string();
        assert_eq!(spool(""), "/var/lib/pgvigil/spool");
        assert_eq!(spool("state_dir = \"/s\""), "/s/spool");
        assert_eq!(spool("state_dir = \"/s\"\nspool_dir = \"/t\""), "/t");
    }
}
