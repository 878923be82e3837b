//! What a restore will do, by what is asked for, what the backup is and what the target says: all of
//! it known, and refused where it must be, before anything starts.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::asked::Asked;
use super::chosen::{Chosen, choose, in_the_way, several};
use super::flaws;
use super::globals::Globals;
use super::lack;
use super::names::single;
use super::page::suffixed;
use super::select::Selection;
use super::target::{Existing, Target};
use crate::catalog::{Id, Manifest, Role, Rung};
use crate::config::file::Contents;
use crate::error::{Error, Kind};
use crate::host::printable;
use crate::postgres::quote::{identifier, identifier_on_one_line};
use crate::postgres::server::Database;

/// What a plan is made of.
pub struct Given<'a> {
    pub id: &'a Id,
    pub manifest: &'a Manifest,
    pub store: &'a str,
    /// Of that store's copy.
    pub rung: Rung,
    pub asked: &'a Asked,
    pub target: &'a Target,
    /// The newest that was measured of this backup.
    pub drill: Option<Measured>,
    /// Where `--globals` is asked for and the backup has them.
    pub globals: Option<&'a Globals>,
    pub now: DateTime<Utc>,
}

/// A restore that a drill has measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    pub at: DateTime<Utc>,
    pub seconds: f64,
    pub raw_bytes: u64,
}

impl Measured {
    /// How long a restore of so many bytes takes, and by what that is known. `None`: it had none.
    pub fn expect(&self, raw_bytes: u64) -> Option<(f64, String)> {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let seconds = (self.raw_bytes > 0).then(|| self.seconds * raw_bytes as f64 / self.raw_bytes as f64)?;
        Some((seconds, format!("as measured by the drill of {}", self.at.format("%Y-%m-%d %H:%M:%S UTC"))))
    }
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RestorePlan {
    pub id: String,
    pub store: String,
    pub rung: Rung,
    pub server: String,
    pub databases: Vec<DatabasePlan>,
    pub globals: bool,
    pub files: Vec<String>,
    /// As stored, and unpacked.
    pub bytes: u64,
    pub raw_bytes: u64,
    /// `None`: no drill has measured it.
    pub expected_seconds: Option<f64>,
    /// Where that comes from, or what can be said without.
    pub expected: String,
    pub warnings: Vec<String>,
    /// Why it will not be done; empty: it can be.
    pub refusals: Vec<Refusal>,
}

/// One database of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DatabasePlan {
    pub source: String,
    pub target: String,
    pub way: Way,
    /// The name that it has until it is complete.
    pub temporary: Option<String>,
    /// The name that the old one gets.
    pub aside: Option<String>,
    pub keep_old: bool,
    pub raw_bytes: u64,
    pub steps: Vec<String>,
    #[serde(skip)]
    pub selection: Option<Selection>,
    #[serde(skip)]
    pub chosen: Chosen,
    #[serde(skip)]
    pub properties: Option<Database>,
}

/// How the rows come to stand under the name of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// There is none of that name.
    IntoAbsent,
    /// There is one with nothing in it: it goes at the end.
    IntoEmpty,
    /// The old one goes at the end.
    Replace,
    /// The old one goes first.
    InPlace,
    /// Into the one that is there.
    IntoExisting,
}

/// Why something will not be done, and what to add or do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    pub message: String,
    pub hint: String,
}

impl Refusal {
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Refusal { message: message.into(), hint: hint.into() }
    }
}

impl RestorePlan {
    /// All refusals as the one error that a command ends with.
    pub fn refused(&self) -> Option<Error> {
        let (first, rest) = self.refusals.split_first()?;
        let messages: Vec<&str> = self.refusals.iter().map(|refusal| refusal.message.as_str()).collect();
        let mut hint = first.hint.clone();
        for more in rest.iter().filter(|more| more.hint != first.hint) {
            hint.push_str("\nHINT: ");
            hint.push_str(&more.hint);
        }
        Some(Error::new(Kind::Refused, messages.join("\n")).hint(hint))
    }
}

/// What is asked for, with what the backup itself is.
pub fn effective(asked: &Asked, manifest: &Manifest) -> Asked {
    let contents = if manifest.contents == Contents::Data { asked.contents.or(Some(Contents::Data)) } else { asked.contents };
    Asked { contents, ..as_sql(asked) }
}

/// What is asked for, with the name of a schema as SQL reads it; one that is none is refused later, by whoever
/// uses it.
pub fn as_sql(asked: &Asked) -> Asked {
    let into_schema = asked.into_schema.as_ref().map(|text| single(text).unwrap_or_else(|| text.clone()));
    Asked { into_schema, ..asked.clone() }
}

/// The databases of a backup that are asked for, each with the name that it goes to.
///
/// # Errors
/// The backup has none of that name, or the options need exactly one.
pub fn databases(asked: &Asked, manifest: &Manifest) -> Result<Vec<(String, String)>, Error> {
    let has = || format!("it has: {}", several(manifest.databases.iter().map(|name| identifier_on_one_line(name))));
    for name in &asked.databases {
        if !manifest.databases.contains(name) {
            return Err(Error::new(Kind::NotFound, format!("{} holds no database {name:?}", manifest.id)).hint(has()));
        }
    }
    let mut chosen = if asked.databases.is_empty() { manifest.databases.clone() } else { asked.databases.clone() };
    chosen.dedup();
    if chosen.len() > 1 && (asked.is_part() || asked.to_database.is_some()) {
        return Err(
            Error::new(Kind::Usage, format!("{} holds several databases", manifest.id)).hint(format!("add --database NAME; {}", has()))
        );
    }
    let to = |name: String| (name.clone(), asked.to_database.clone().unwrap_or(name));
    Ok(chosen.into_iter().map(to).collect())
}

/// Makes the plan.
///
/// # Errors
/// The options do not fit the backup (`Usage`, `NotFound`). What is refused stands in the plan.
pub fn plan(given: &Given<'_>) -> Result<RestorePlan, Error> {
    let manifest = given.manifest;
    let asked = &effective(given.asked, manifest);
    asked.check()?;
    let (mut refusals, mut warnings) = lack::versions(manifest, given.target);
    refusals.extend(refuse_the_copy(given, asked));
    warnings.extend(lack::of_backup(manifest));
    warnings.extend(flaws::warnings(&given.target.client_version, manifest.format));
    if given.rung == Rung::Written {
        warnings.push("the backup was not read back yet; its hashes are checked before anything else".to_owned());
    }
    if asked.globals && manifest.globals.is_some_and(|globals| globals.no_role_passwords) {
        warnings.push("the globals of the backup lack the passwords of the roles: set new ones".to_owned());
    }
    if !given.target.is_superuser {
        warnings.push("the user of the server is no superuser: what it may not create fails, and then all of the restore".to_owned());
    }
    if asked.contents() == Contents::Data {
        warnings.push(if given.target.is_superuser {
            "triggers and checks of foreign keys are off while the rows go in".to_owned()
        } else {
            "only a superuser may switch triggers and checks of foreign keys off: they act on every row".to_owned()
        });
    }
    let mut databases = Vec::new();
    for (source, target) in self::databases(asked, manifest)? {
        databases.push(one(given, asked, source, target, &mut refusals));
    }
    for name in databases.iter().map(|database| &database.source) {
        let evidence = manifest.evidence.as_ref().and_then(|evidence| evidence.databases.get(name));
        if let Some(evidence) = evidence {
            for more in lack::missing(evidence, !asked.goes_into_existing(), given.target, given.globals) {
                if !refusals.contains(&more) {
                    refusals.push(more);
                }
            }
        } else {
            warnings.push(format!(
                "nobody noted the properties of {}: it gets the usual encoding, locale and owner",
                identifier_on_one_line(name)
            ));
        }
    }
    let names: Vec<&str> = databases.iter().map(|database| database.source.as_str()).collect();
    let is_used = |file: &&crate::catalog::FileEntry| match file.role {
        Role::Dump => file.database.as_deref().is_some_and(|database| names.contains(&database)),
        Role::Globals => asked.globals,
        Role::Notes | Role::Base | Role::BackupManifest => false,
    };
    let files: Vec<&crate::catalog::FileEntry> = manifest.files.iter().filter(is_used).collect();
    let raw_bytes = files.iter().map(|file| file.raw_bytes).sum();
    let (expected_seconds, expected) = expect(given, raw_bytes);
    Ok(RestorePlan {
        id: given.id.to_string(),
        store: given.store.to_owned(),
        rung: given.rung,
        server: given.target.name.clone(),
        globals: given.globals.is_some(),
        files: files.iter().map(|file| file.name.clone()).collect(),
        bytes: files.iter().map(|file| file.bytes).sum(),
        raw_bytes,
        expected_seconds,
        expected,
        databases,
        warnings,
        refusals,
    })
}

fn refuse_the_copy(given: &Given<'_>, asked: &Asked) -> Vec<Refusal> {
    let manifest = given.manifest;
    let mut refusals = Vec::new();
    if given.rung == Rung::Bad {
        refusals.push(Refusal::new(
            format!("{} is bad in store {}: its bytes are not what the manifest says", given.id, given.store),
            "take another: pgvigil list shows them; pgvigil verify ID reads this one once more",
        ));
    }
    let holds = match (manifest.contents, asked.contents()) {
        (Contents::Schema, Contents::Data) => Some("definitions only, no rows"),
        (Contents::Data, Contents::Schema) => Some("rows only, no definitions"),
        _ => None,
    };
    if let Some(holds) = holds {
        refusals.push(Refusal::new(format!("the backup holds {holds}"), "take a backup of all contents: pgvigil list shows them"));
    }
    if asked.globals && manifest.globals.is_none() {
        refusals.push(Refusal::new("the backup holds no globals", "leave out --globals, and create the roles by hand"));
    }
    refusals
}

fn one(given: &Given<'_>, asked: &Asked, source: String, target: String, refusals: &mut Vec<Refusal>) -> DatabasePlan {
    let evidence = given.manifest.evidence.as_ref().and_then(|evidence| evidence.databases.get(&source));
    let existing = given.target.existing.get(&target);
    let chosen = choose(asked, evidence).unwrap_or_else(|refusal| {
        refusals.push(refusal);
        Chosen::default()
    });
    let (way, more) = way(&given.target.name, asked, &target, existing, &chosen);
    refusals.extend(more);
    let properties = lack::properties_of(evidence);
    refusals.extend(properties.as_ref().and_then(|database| refuse_letters(asked, &database.encoding)));
    // All of a backup of rows is no selection from it.
    let is_all = !asked.is_part() && asked.contents() == given.manifest.contents;
    let tables: Vec<String> = chosen.named.iter().map(super::names::Named::quoted_where_needed).collect();
    let selection = asked.selection().filter(|_| !is_all).map(|selection| Selection {
        tables,
        schemas: chosen.schemas.iter().map(|name| identifier(name)).collect(),
        into_schema: asked.into_schema.as_deref().map(identifier),
        ..selection
    });
    let stamp = given.now.format("%Y%m%dT%H%M%SZ");
    let name = |suffix: &str| free_name(&target, &format!("_{suffix}_{stamp}"), given.target);
    let temporary = (way != Way::IntoExisting).then(|| name("restoring"));
    let aside = matches!(way, Way::Replace | Way::IntoEmpty).then(|| name("before"));
    let files = given.manifest.files.iter().filter(|file| file.role == Role::Dump && file.database.as_deref() == Some(&source));
    let mut made = DatabasePlan {
        raw_bytes: files.map(|file| file.raw_bytes).sum(),
        properties: properties.filter(|_| way != Way::IntoExisting),
        keep_old: asked.keep_old && way == Way::Replace,
        steps: Vec::new(),
        source,
        target,
        way,
        temporary,
        aside,
        selection,
        chosen,
    };
    made.steps = super::told::steps(&made, asked);
    made
}

/// Names are looked for in the bytes of the dump, which is in the encoding of its database.
fn refuse_letters(asked: &Asked, encoding: &str) -> Option<Refusal> {
    let mut names = asked.tables.iter().chain(&asked.schemas).chain(&asked.into_schema);
    let beyond = names.find(|name| !name.is_ascii()).filter(|_| !["UTF8", "SQL_ASCII"].contains(&encoding))?;
    Some(Refusal::new(
        format!("the dump is in {encoding}, where a name such as {:?} cannot be found by its letters beyond ASCII", printable(beyond)),
        "restore all of it beside the live one with --to-database NAME, and take the tables from there",
    ))
}

/// A name of at most 63 bytes that no database has.
fn free_name(name: &str, suffix: &str, target: &Target) -> String {
    let first = suffixed(name, suffix);
    let others = (2..).map(|n| suffixed(name, &format!("{suffix}_{n}")));
    let mut names = std::iter::once(first.clone()).chain(others);
    names.find(|name| !target.facts.databases.contains(name)).unwrap_or(first)
}

/// How it goes into a database of a server, and what stands in the way there.
pub fn way(server: &str, asked: &Asked, target: &str, existing: Option<&Existing>, chosen: &Chosen) -> (Way, Vec<Refusal>) {
    let shown = format!("database {} on server {server}", identifier_on_one_line(target));
    let mut refusals = Vec::new();
    let Some(existing) = existing else {
        if asked.goes_into_existing() && (asked.to_database.is_none() || asked.contents() == Contents::Data) {
            refusals.push(Refusal::new(
                format!("{shown} is not there"),
                "restore all of it, without --table, --schema and --contents; or name a new one for the chosen tables with --to-database NAME",
            ));
            return (Way::IntoExisting, refusals);
        }
        return (Way::IntoAbsent, refusals);
    };
    if !existing.allows_connections && !asked.clean {
        refusals.push(Refusal::new(format!("{shown} allows no connections"), "name another with --to-database NAME"));
    }
    if asked.goes_into_existing() {
        refusals.extend(
            in_the_way(asked, chosen, existing)
                .into_iter()
                .map(|refusal| Refusal { message: format!("in {shown}: {}", refusal.message), hint: refusal.hint }),
        );
        return (Way::IntoExisting, refusals);
    }
    let way = match (asked.clean, asked.in_place) {
        (true, true) => Way::InPlace,
        (true, false) => Way::Replace,
        _ => Way::IntoEmpty,
    };
    if !asked.clean && asked.to_database.is_some() {
        refusals.push(Refusal::new(format!("{shown} is there already"), "choose a name that is free, or add --clean to replace it"));
    } else if !asked.clean && !existing.objects.is_empty() {
        let objects = printable(&several(existing.objects.iter().cloned())).replace('\n', " ");
        refusals.push(Refusal::new(
            format!("{shown} is not empty: it has {objects}"),
            "add --clean to replace it, --to-database NAME to restore beside it, or --table NAME to bring back some tables",
        ));
    } else if !existing.sessions.is_empty() && !asked.disconnect {
        let sessions = several(existing.sessions.iter().map(ToString::to_string));
        refusals.push(Refusal::new(
            format!("{shown} has open sessions: {sessions}"),
            "end them, or add --disconnect to have them ended when the new database is complete",
        ));
    }
    (way, refusals)
}

/// How long it will take, and by what that is known.
fn expect(given: &Given<'_>, raw_bytes: u64) -> (Option<f64>, String) {
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let (raw, whole) = (raw_bytes as f64, given.manifest.raw_bytes().max(1) as f64);
    if let Some((seconds, how)) = given.drill.as_ref().and_then(|drill| drill.expect(raw_bytes)) {
        return (Some(seconds), how);
    }
    let took = given.manifest.finished_at - given.manifest.started_at;
    let dumped = took.as_seconds_f64() * raw / whole;
    if given.manifest.adopted_from.is_empty() && dumped > 0.0 {
        // Measured on ordinary servers: rows go in about three times as slowly as they come out.
        return (None, format!("no drill yet: unknown; by the {dumped:.1} s of the dump about {:.1} s", dumped * 3.0));
    }
    (None, "no drill yet: unknown".to_owned())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
