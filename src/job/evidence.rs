//! Evidence gathered beside a dump, under the snapshot of the dump.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalog::DatabaseEvidence;
use crate::catalog::evidence::RowsDigest;
use crate::config::file::{Contents, EvidenceMode};
use crate::config::plan::Backup;
use crate::error::{Error, Kind, Result};
use crate::host::clock;
use crate::pack::census::TableRows;
use crate::pack::packer::Meter;
use crate::postgres::quote::canonical;
use crate::postgres::server::{Database, Server};
use crate::postgres::session::Session;
use crate::postgres::witness::{self, Witness};
use crate::verify::rows;

/// What is known of one database after its dump.
pub struct Gathered<T> {
    pub dumped: T,
    pub evidence: DatabaseEvidence,
    /// What needs a look.
    pub problems: Vec<String>,
}

/// A dump that tells which rows it held, where its format shows them.
pub trait Dumped {
    fn rows(&self) -> Option<&[TableRows]>;
}

/// Runs a dump under a snapshot and records what is to be seen under it. `dump` takes the snapshot
/// by its name, and tells the meter when it has begun: it holds its locks then.
///
/// # Errors
/// The dump fails. Evidence that cannot be had is a problem of the backup, not its end.
pub async fn beside<T: Dumped, F: Future<Output = Result<T>>>(
    backup: &Backup,
    server: &Server,
    database: &Database,
    meter: &Meter,
    dump: impl FnOnce(Option<String>) -> F,
) -> Result<Gathered<T>> {
    if backup.evidence == EvidenceMode::Off {
        let dumped = dump(None).await?;
        return Ok(Gathered { dumped, evidence: DatabaseEvidence::of(database), problems: Vec::new() });
    }
    let patience = backup.stall_timeout;
    let witness = match Witness::open(server, &database.name, clock::now(), patience).await {
        Ok(witness) => witness,
        // The server is not the one of the file: what a dump would hold is anybody's guess.
        Err(error) if error.kind == Kind::Refused => return Err(error),
        // A dump without evidence is better than none.
        Err(error) => {
            let dumped = dump(None).await?;
            return Ok(Gathered { dumped, evidence: DatabaseEvidence::of(database), problems: vec![not_recorded(&error)] });
        }
    };
    let snapshot = Some(witness.snapshot.as_str());
    // Here, and not in the middle of the dump: a container that is paused while a program begins in it
    // locks up its Engine.
    let session = Session::open(server, &database.name).await;
    // Of a part it shows in the end which tables it is of.
    let (dumped, looked) = if backup.dump.is_narrow() {
        let dumped = dump(snapshot.map(str::to_owned)).await?;
        let only = dumped.rows().unwrap_or_default().iter().map(|table| canonical(&table.table)).collect();
        let looked = async { witness::look(session?, snapshot, Some(&only), patience).await }.await;
        (dumped, looked)
    } else {
        let dumping = dump(snapshot.map(str::to_owned));
        let looking = async {
            meter.begun.notified().await;
            witness::look(session?, snapshot, None, patience).await
        };
        tokio::pin!(dumping, looking);
        tokio::select! {
            dumped = &mut dumping => (dumped?, looking.await),
            looked = &mut looking => (dumping.await?, looked),
        }
    };
    let looked = match looked {
        Ok(looked) if backup.checks.is_empty() => Ok(looked),
        Ok(looked) => {
            let checked = witness::checks(server, &database.name, snapshot, &backup.checks, patience).await;
            checked.map(|checks| DatabaseEvidence { checks, ..looked })
        }
        Err(error) => Err(error),
    };
    let (name, taken_at, sequences) = (witness.snapshot.clone(), witness.taken_at, witness.sequences.clone());
    let closed = witness.close().await;
    match looked.and_then(|looked| closed.map(|()| looked)) {
        Ok(looked) => {
            let properties = DatabaseEvidence::of(database).properties;
            let evidence = DatabaseEvidence { snapshot: Some(name), taken_at: Some(taken_at), sequences, properties, ..looked };
            let (evidence, problems) = settle(backup, evidence, dumped.rows());
            Ok(Gathered { dumped, evidence, problems })
        }
        Err(error) => Ok(Gathered { dumped, evidence: DatabaseEvidence::of(database), problems: vec![not_recorded(&error)] }),
    }
}

fn not_recorded(error: &Error) -> String {
    format!("evidence could not be recorded, so that no drill can compare: {}", error.message)
}

/// Holds what was counted against what went by, and takes out what the dump does not hold.
fn settle(backup: &Backup, mut evidence: DatabaseEvidence, passed: Option<&[TableRows]>) -> (DatabaseEvidence, Vec<String>) {
    let spec = &backup.dump;
    let mut problems: Vec<String> = evidence
        .checks
        .iter()
        .filter(|(_, result)| !result.passes())
        .map(|(name, result)| match &result.error {
            Some(error) => format!("check {name} failed: {error}"),
            None => format!("check {name} answers {:?}", result.value.as_deref().unwrap_or_default()),
        })
        .collect();
    match passed {
        Some(passed) if spec.contents != Contents::Schema => {
            problems.extend(rows::differences(&evidence.rows, passed).into_iter().map(|mismatch| {
                format!("{}: {} rows under the snapshot, {} in the dump", mismatch.object, mismatch.expected, mismatch.found)
            }));
            if backup.evidence == EvidenceMode::Content {
                // What goes through a partitioned table cannot be read back by a COPY of that.
                let parents: BTreeSet<&String> = evidence.partitions.values().collect();
                let names: BTreeMap<String, &String> =
                    evidence.rows.keys().filter(|name| !parents.contains(name)).map(|name| (canonical(name), name)).collect();
                for table in passed {
                    if let (Some(digest), Some(name)) = (table.digest, names.get(&canonical(&table.table))) {
                        let digest = RowsDigest { columns: table.columns.clone(), digest: digest.to_string() };
                        evidence.digests.insert((*name).clone(), digest);
                    }
                }
            }
        }
        _ => {}
    }
    if spec.contents != Contents::All {
        evidence.rows.retain(|_, _| spec.contents == Contents::Data);
        evidence.sequences.clear();
    }
    if spec.contents == Contents::Schema {
        evidence.large_objects = 0;
    }
    if !(spec.tables.is_empty() && spec.exclude_tables.is_empty() && spec.schemas.is_empty()) {
        let tables: BTreeSet<&str> = evidence.rows.keys().map(String::as_str).collect();
        evidence.definitions.retain(|key, _| is_of(key, &tables));
        evidence.partitions.retain(|child, _| tables.contains(child.as_str()));
        evidence.objects.clear();
        for key in evidence.definitions.keys() {
            *evidence.objects.entry(kind_of(key).to_owned()).or_default() += 1;
        }
        evidence.sequences.clear();
        evidence.extensions.clear();
        evidence.large_objects = 0;
        evidence.left_out.push("sequences, indexes, and whatever is not of the chosen tables".to_owned());
    }
    (evidence, problems)
}

/// The kinds of objects that are of a table and named by it.
const OF_TABLES: [&str; 6] = ["table", "constraint", "constraint not valid", "trigger", "policy", "rule"];

/// The kind in front of a key of the definitions.
fn kind_of(key: &str) -> &str {
    OF_TABLES
        .iter()
        .filter(|kind| key.strip_prefix(**kind).is_some_and(|rest| rest.starts_with(' ')))
        .max_by_key(|kind| kind.len())
        .unwrap_or(&"")
}

fn is_of(key: &str, tables: &BTreeSet<&str>) -> bool {
    let kind = kind_of(key);
    let Some(name) = (!kind.is_empty()).then(|| key[kind.len()..].trim_start()) else { return false };
    tables.iter().any(|table| name.strip_prefix(table).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}
