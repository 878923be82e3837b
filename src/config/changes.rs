//! Two plans -> what an edit has changed, in words.

use std::collections::{BTreeMap, BTreeSet};

use toml::de::{DeTable, DeValue};

use super::Plan;
use super::plan::{Backup, Sourced};
use super::values::{Given, Name, Schedule};

/// Tables whose entries are named by the user.
pub(super) const NAMED: [&str; 6] = ["servers", "stores", "backups", "webhooks", "pings", "hooks"];

/// Keys of a backup that its next slot hangs on.
const OF_SLOTS: [&str; 3] = ["schedule", "timezone", "jitter"];

/// Keys that only a restart obeys.
const AT_START: [&str; 1] = ["log"];

/// Every key of a file by its section, with its value as it is written; of a secret that stands in
/// the file only that it is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written(BTreeMap<Section, BTreeMap<String, String>>);

/// `backups.x`, `email`, or nothing for the keys at the top.
type Section = Vec<String>;

impl Written {
    pub fn of(table: &DeTable<'_>, givens: &[Sourced]) -> Self {
        let is_secret = |path: &str| givens.iter().any(|of| of.key == path && of.is_secret && matches!(of.given, Given::Literal(_)));
        let mut written = Written::default();
        for (key, value) in table {
            let top = key.get_ref().to_string();
            match value.get_ref() {
                DeValue::Table(named) if NAMED.contains(&top.as_str()) => {
                    for (name, section) in named {
                        if let DeValue::Table(keys) = section.get_ref() {
                            written.add(vec![top.clone(), name.get_ref().to_string()], keys, &is_secret);
                        }
                    }
                }
                DeValue::Table(keys) => written.add(vec![top], keys, &is_secret),
                value => {
                    let shown = shown(value, &top, &is_secret);
                    written.0.entry(Vec::new()).or_default().insert(top, shown);
                }
            }
        }
        written
    }

    /// Takes over server and backup of a name.
    pub(super) fn adopt(&mut self, other: &Written, name: &Name) {
        for top in ["servers", "backups"] {
            let section = vec![top.to_owned(), name.to_string()];
            self.0.extend(other.0.get(&section).map(|keys| (section, keys.clone())));
        }
    }

    fn add(&mut self, section: Section, keys: &DeTable<'_>, is_secret: &dyn Fn(&str) -> bool) {
        let path = section.join(".");
        let into = self.0.entry(section).or_default();
        for (key, value) in keys {
            let key = key.get_ref().to_string();
            let shown = shown(value.get_ref(), &format!("{path}.{key}"), is_secret);
            into.insert(key, shown);
        }
    }
}

/// A value as TOML, in one line; of a secret, however deep it stands, only that it is there.
fn shown(value: &DeValue<'_>, path: &str, is_secret: &dyn Fn(&str) -> bool) -> String {
    if is_secret(path) {
        return "(a secret)".to_owned();
    }
    match value {
        // A receiver's token may stand in it; whether it is another one can be told all the same.
        DeValue::String(text) if path.starts_with("webhooks.") && path.rsplit('.').next() == Some("body") => {
            format!("(template {:08x})", xxhash_rust::xxh3::xxh3_64(text.as_bytes()) >> 32)
        }
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(is) => is.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(values) => {
            let values = values.iter().map(|value| shown(value.get_ref(), path, is_secret));
            format!("[{}]", values.collect::<Vec<_>>().join(", "))
        }
        DeValue::Table(table) => {
            let entry = |key: &str, value| format!("{key} = {}", shown(value, &format!("{path}.{key}"), is_secret));
            let entries = table.iter().map(|(key, value)| entry(key.get_ref(), value.get_ref()));
            format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}

/// What is other in the new plan, a line each. `next` tells the next slot of a backup.
pub fn changes(old: &Plan, new: &Plan, next: &dyn Fn(&Backup) -> Option<String>) -> Vec<String> {
    let sections: BTreeSet<&Section> = old.written.0.keys().chain(new.written.0.keys()).collect();
    let mut lines = Vec::new();
    let nothing = BTreeMap::new();
    for section in sections {
        let (before, after) = (old.written.0.get(section), new.written.0.get(section));
        let is_named = section.len() == 2;
        match (before, after) {
            (None, Some(_)) if is_named => lines.push(format!("{}: added{}", called(section), of_next(section, new, next))),
            (Some(_), None) if is_named && section[0] == "backups" => {
                lines.push(format!("{}: taken out; its backups stay and are not pruned", called(section)));
            }
            (Some(_), None) if is_named => lines.push(format!("{}: taken out", called(section))),
            _ => {
                let (before, after) = (before.unwrap_or(&nothing), after.unwrap_or(&nothing));
                lines.extend(of_keys(section, (before, after), (old, new), next));
            }
        }
    }
    // What a key at the top changes for those below it.
    for (name, backup) in &new.backups {
        let Some(earlier) = old.backups.get(name) else { continue };
        let written =
            |plan: &Plan| plan.written.0.get(&vec!["backups".to_owned(), name.to_string()]).and_then(|keys| keys.get("timezone")).cloned();
        if earlier.timezone != backup.timezone && written(old) == written(new) {
            let next = next(backup).map(|next| format!("; next at {next}")).unwrap_or_default();
            lines.push(format!("{name}: timezone {} -> {}{next}", earlier.timezone, backup.timezone));
        }
    }
    lines
}

fn of_keys(
    section: &Section,
    (before, after): (&BTreeMap<String, String>, &BTreeMap<String, String>),
    (old, new): (&Plan, &Plan),
    next: &dyn Fn(&Backup) -> Option<String>,
) -> Option<String> {
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let mut parts = Vec::new();
    let mut moves_slots = false;
    for key in keys {
        let (was, is) = (before.get(key), after.get(key));
        if was != is {
            let word = |value: Option<&String>, plan: &Plan| match value {
                None => if key == "schedule" { "none" } else { "default" }.to_owned(),
                Some(text) if key == "schedule" => schedule_of(section, plan).map_or_else(|| text.clone(), in_words),
                Some(text) => text.clone(),
            };
            parts.push(format!("{key} {} -> {}", word(was, old), word(is, new)));
        } else if givens(section, key, old) != givens(section, key, new) {
            parts.push(format!("{key}: another secret"));
        } else {
            continue;
        }
        moves_slots |= section.first().is_some_and(|top| top == "backups") && OF_SLOTS.contains(&key.as_str());
    }
    let late = section.first().is_some_and(|top| AT_START.contains(&top.as_str()));
    let end = match (moves_slots, late) {
        (true, _) => of_next(section, new, next),
        (_, true) => "; obeyed from the next start on".to_owned(),
        _ => String::new(),
    };
    let called = if section.is_empty() { String::new() } else { format!("{}: ", called(section)) };
    (!parts.is_empty()).then(|| format!("{called}{}{end}", parts.join(", ")))
}

/// What is given at a key, and below it.
fn givens<'a>(section: &Section, key: &str, plan: &'a Plan) -> Vec<&'a Given> {
    let path = section.iter().map(String::as_str).chain([key]).collect::<Vec<_>>().join(".");
    let is_there = |of: &&Sourced| of.key.strip_prefix(&path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    plan.givens.iter().filter(is_there).map(|of| &of.given).collect()
}

/// Backups by their names alone: they are what the file is about.
fn called(section: &Section) -> String {
    match section.as_slice() {
        [top, name] if top == "backups" => name.clone(),
        [top, name] => format!("{} {name}", top.trim_end_matches('s')),
        other => other.join("."),
    }
}

fn of_next(section: &Section, plan: &Plan, next: &dyn Fn(&Backup) -> Option<String>) -> String {
    let backup = section.get(1).filter(|_| section[0] == "backups").and_then(|name| plan.backups.get(name.as_str()));
    backup.and_then(next).map(|next| format!("; next at {next}")).unwrap_or_default()
}

fn schedule_of<'a>(section: &Section, plan: &'a Plan) -> Option<&'a Schedule> {
    plan.backups.get(section.get(1)?.as_str())?.schedule.as_ref()
}

/// `02:00` for what fires once a day, else as it is written.
fn in_words(schedule: &Schedule) -> String {
    let fields: Vec<&str> = schedule.text.split_whitespace().collect();
    let number = |text: &str| text.parse::<u8>().ok();
    match fields[..] {
        [minute, hour, "*", "*", "*"] => match (number(hour), number(minute)) {
            (Some(hour), Some(minute)) => format!("{hour:02}:{minute:02}"),
            _ => format!("{:?}", schedule.text),
        },
        _ => format!("{:?}", schedule.text),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::parse;
    use super::*;

    const FILE: &str = "[servers.main]\ncontainer = \"pg\"\npassword = \"old\"\n[stores.local]\npath = \"/b\"\n[backups.euem_db]\ndatabase = \"e\"\nschedule = \"0 2 * * *\"\n";

    fn said(old: &str, new: &str) -> Vec<String> {
        let plan = |text: &str| parse(text, Path::new("x")).unwrap_or_else(|faults| panic!("{faults}"));
        changes(&plan(old), &plan(new), &|backup| backup.schedule.as_ref().map(|_| format!("SLOT {}", backup.timezone)))
    }

    #[test]
    fn an_edit_in_words() {
        let edit = |from: &str, to: &str| said(FILE, &FILE.replace(from, to));
        let table: [(&str, &str, &[&str]); 15] = [
            ("", "", &[]),
            ("[servers", "# a comment\n[servers", &[]),
            ("0 2 *", "0 3 *", &["euem_db: schedule 02:00 -> 03:00; next at SLOT UTC"]),
            ("0 2 * * *", "30 2 * * 1", &["euem_db: schedule 02:00 -> \"30 2 * * 1\"; next at SLOT UTC"]),
            ("schedule = \"0 2 * * *\"", "", &["euem_db: schedule 02:00 -> none"]),
            ("schedule = \"0 2 * * *\"", "schedule = \"0 2 * * *\"\nformat = \"custom\"", &["euem_db: format default -> \"custom\""]),
            (
                "schedule = \"0 2 * * *\"",
                "schedule = \"@daily\"\nkeep = { last = 2 }\nretries = 3",
                &["euem_db: keep default -> { last = 2 }, retries default -> 3, schedule 02:00 -> \"@daily\"; next at SLOT UTC"],
            ),
            (
                "\"e\"\n",
                "\"e\"\ntimezone = \"Europe/Vienna\"\n",
                &["euem_db: timezone default -> \"Europe/Vienna\"; next at SLOT Europe/Vienna"],
            ),
            (
                "[servers",
                "timezone = \"Europe/Vienna\"\n[servers",
                &["timezone default -> \"Europe/Vienna\"", "euem_db: timezone UTC -> Europe/Vienna; next at SLOT Europe/Vienna"],
            ),
            ("\"pg\"", "\"pg17\"", &["server main: container \"pg\" -> \"pg17\""]),
            ("\"/b\"", "\"/c\"\nalert_above_percent = 90", &["store local: alert_above_percent default -> 90, path \"/b\" -> \"/c\""]),
            ("\"old\"", "\"new\"", &["server main: password: another secret"]),
            ("\"old\"", "{ file = \"/run/s\" }", &["server main: password (a secret) -> { file = \"/run/s\" }"]),
            ("[servers", "log.level = \"debug\"\n[servers", &["log: level default -> \"debug\"; obeyed from the next start on"]),
            (
                "backups.euem_db",
                "backups.shop",
                &["euem_db: taken out; its backups stay and are not pruned", "shop: added; next at SLOT UTC"],
            ),
        ];
        for (from, to, expected) in table {
            assert_eq!(edit(from, to), expected, "{from} -> {to}");
        }
        let more = format!("{FILE}[stores.other]\npath = \"/o\"\n[email]\nrelay = \"smtp://h\"\nfrom = \"a@b\"\nto = [\"a@b\"]\n");
        let found =
            said(&FILE.replace("\"e\"\n", "\"e\"\nstores = [\"local\"]\n"), &more.replace("\"e\"\n", "\"e\"\nstores = [\"local\"]\n"));
        assert_eq!(found, ["email: from default -> \"a@b\", relay default -> \"smtp://h\", to default -> [\"a@b\"]", "store other: added"]);
        assert!(said(&more.replace("\"e\"\n", "\"e\"\nstores = [\"local\"]\n"), FILE).contains(&"store other: taken out".to_owned()));
    }

    #[test]
    fn no_secret_is_shown() {
        for (from, to) in [("\"old\"", "\"new\""), ("password = \"old\"", ""), ("\"old\"", "{ env = \"X\" }")] {
            for line in said(FILE, &FILE.replace(from, to)).into_iter().chain(said(&FILE.replace(from, to), FILE)) {
                assert!(!line.contains("old") && !line.contains("\"new\""), "{line}");
            }
        }
        let chat = |token: &str| {
            format!(
                "{FILE}[webhooks.chat]\nurl = \"https://x/{token}\"\nbody = '{{\"to\": \"{token}\"}}'\nheaders = {{ Authorization = \"{token}\" }}\n"
            )
        };
        let lines = said(&chat("tok-one"), &chat("tok-two"));
        assert!(lines.len() == 1 && lines[0].contains("body (template ") && !lines[0].contains("tok-"), "{lines:?}");
        assert!(lines[0].ends_with("headers: another secret, url: another secret"), "{lines:?}");
    }
}
