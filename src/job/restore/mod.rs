//! folder -> database: one restore, from the catalog to a database under its name.

mod globals;
pub mod leftovers;
mod load;
mod swap;
mod target;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::catalog::{Compared, Entry, Id, Manifest, Mismatch, Role, Rung, Wanted};
use crate::config::Plan;
use crate::error::{Error, Kind, Result};
use crate::host::{Tag, clock};
use crate::job::progress::Progress;
use crate::job::{keys, stores, verify};
use crate::keys::{Identities, Signed};
use crate::postgres::Server;
use crate::postgres::quote::identifier_on_one_line;
use crate::restore::asked::Asked;
use crate::restore::chosen::choose;
use crate::restore::globals::Globals;
use crate::restore::load::Failure;
use crate::restore::plan::{self, DatabasePlan, Given, Measured, Refusal, RestorePlan};
use crate::restore::target::Target;
use crate::state::{Lock, Outcome, State};
use crate::store::Store;
use crate::verify::stored::Stored;

/// A restore that was looked into, without a write.
pub struct Looked {
    pub plan: RestorePlan,
    id: Id,
    manifest: Manifest,
    store: Arc<dyn Store>,
    server: Server,
    target: Target,
    globals: Option<Globals>,
    keys: Identities,
}

impl Looked {
    fn stored(&self) -> Stored<'_> {
        Stored { store: &*self.store, id: &self.id, manifest: &self.manifest, keys: &self.keys }
    }
}

/// How a restore ended.
#[derive(Debug)]
pub struct Report {
    pub outcome: Outcome,
    pub error: Option<Error>,
    /// What is worth knowing.
    pub warnings: Vec<String>,
    /// What needs a look.
    pub problems: Vec<String>,
    /// Statements that failed, alike ones together.
    pub failures: Vec<Failure>,
    /// What was done, a line each.
    pub done: Vec<String>,
    pub compared: Option<Compared>,
    pub seconds: f64,
}

/// Looks what would be done. Nothing is written, here or on the server. `given`: who opens what is
/// encrypted, in the place of whom the file names.
///
/// # Errors
/// There is no such backup, store, server or database in it, one of them does not answer, or no
/// identity opens what is encrypted.
pub async fn look(plan: &Plan, wanted: &Wanted, asked: &Asked, given: Option<Identities>) -> Result<Looked> {
    let (entry, store_name, drill) = find(plan, wanted, asked.store.as_deref()).await?;
    let manifest = entry.manifest.clone();
    let unsigned = refuse_unsigned(&entry, &store_name, asked.accept_unsigned)?;
    refuse_another_kind(&manifest)?;
    let databases = plan::databases(asked, &manifest)?;
    let server_name = server_name(plan, &manifest, asked.to_server.as_deref())?;
    let store = stores::open(&plan.stores[store_name.as_str()], "")?;
    let keys = keys::of(plan, &manifest, given)?;
    let stored = Stored { store: &*store, id: &entry.id, manifest: &manifest, keys: &keys };
    if manifest.encryption.is_some()
        && let Some(first) = manifest.files.iter().find(|file| file.role == Role::Dump)
    {
        // A key that is lost is told before anything is begun.
        stored.open(first).await?;
    }
    let globals = if asked.globals { globals::read(&stored).await? } else { None };
    let server = Server::connect(&plan.servers[server_name.as_str()], Tag::random()).await?;
    let targets: Vec<&str> = databases.iter().map(|(_, target)| target.as_str()).collect();
    let effective = plan::effective(asked, &manifest);
    let rows = effective.contents() == crate::config::file::Contents::Data;
    let target = target::look(&server, &server_name, &targets, effective.goes_into_existing(), rows).await?;
    let mut plan = plan::plan(&Given {
        id: &entry.id,
        manifest: &manifest,
        store: &store_name,
        rung: entry.rung_in(&store_name).unwrap_or(Rung::Written),
        asked,
        target: &target,
        drill,
        globals: globals.as_ref(),
        now: clock::now(),
    })?;
    plan.warnings.extend(unsigned);
    Ok(Looked { plan, id: entry.id.clone(), manifest, store, server, target, globals, keys })
}

/// What would keep chosen tables of a database from going into a server, looked at before they are had.
///
/// # Errors
/// The server is not in the file or does not answer, or a name is none.
pub async fn in_the_way(plan: &Plan, server_name: &str, source: &str, asked: &Asked) -> Result<Vec<Refusal>> {
    let server = Server::connect(&plan.servers[server_name], Tag::random()).await?;
    let database = asked.to_database.as_deref().unwrap_or(source);
    let rows = asked.contents() == crate::config::file::Contents::Data;
    let target = target::look(&server, server_name, &[database], asked.goes_into_existing(), rows).await?;
    let asked = plan::as_sql(asked);
    Ok(match choose(&asked, None) {
        Ok(chosen) => plan::way(server_name, &asked, database, target.existing.get(database), &chosen).1,
        Err(refusal) => vec![refusal],
    })
}

/// The backup, the store to take it from, and the newest measured restore of its kin.
async fn find(plan: &Plan, wanted: &Wanted, store: Option<&str>) -> Result<(Entry, String, Option<Measured>)> {
    let catalog = match store {
        None => stores::catalog(plan, "", Some(&wanted.backup)).await?,
        Some(name) => {
            let known = plan.stores.get(name).ok_or_else(|| {
                let names: Vec<&str> = plan.stores.keys().map(crate::config::values::Name::as_str).collect();
                Error::new(Kind::NotFound, format!("there is no store {name:?} in the file"))
                    .hint(format!("stores of the file: {}", names.join(", ")))
            })?;
            stores::catalog_of_one(plan, &*stores::open(known, "")?, name, Some(&wanted.backup)).await?
        }
    };
    for (_, error) in &catalog.silent {
        tracing::warn!(%error, "a copy there is not seen");
    }
    let entry = catalog.find(wanted)?.clone();
    let best = entry.copies.keys().max_by_key(|name| (entry.rung_in(name), std::cmp::Reverse((*name).clone())));
    let store = best.cloned().ok_or_else(|| Error::new(Kind::NotFound, format!("{} is in no store", entry.id)))?;
    let proofs = catalog.entries.iter().flat_map(|entry| entry.copies.values().flatten());
    let measured = proofs.filter_map(|proof| {
        let raw_bytes = proof.drill.as_ref()?.raw_bytes;
        Some(Measured { at: proof.at, seconds: proof.restore_seconds()?, raw_bytes })
    });
    let newest = measured.max_by_key(|measured| measured.at);
    Ok((entry, store, newest))
}

/// Where signatures are asked for, what nobody known has signed is restored by a person's word only;
/// what was changed after it was signed is not. Returns what to say of it.
///
/// # Errors
/// It is refused.
pub fn refuse_unsigned(entry: &Entry, store: &str, accept: bool) -> Result<Option<String>> {
    let Some(standing) = entry.signed.get(store).filter(|standing| !standing.counts) else { return Ok(None) };
    let told = format!("{} is {}", entry.id, standing.signed);
    match standing.signed {
        Signed::Invalid(_) => Err(Error::new(Kind::Damaged, format!("{}: {}", entry.id, standing.signed))
            .hint("its manifest was changed after it was signed: take another store's copy, or another backup")),
        _ if accept => Ok(Some(told)),
        _ => Err(Error::new(Kind::Refused, format!("{told}: anybody who can write to store {store} may have made it"))
            .hint("--accept-unsigned restores it all the same; pgvigil show says when it was made")),
    }
}

fn refuse_another_kind(manifest: &Manifest) -> Result<()> {
    if manifest.physical.is_some() {
        return Err(Error::new(Kind::Usage, format!("{} is a base backup: it is restored whole, into a folder of its own", manifest.id))
            .hint("add --target-dir DIR, and --latest or --at TIME"));
    }
    if manifest.kind == "dump" {
        return Ok(());
    }
    Err(Error::new(
        Kind::Usage,
        format!("{} is of a kind that this version does not know: {}", manifest.id, crate::host::printable(&manifest.kind)),
    )
    .hint("RESTORE.md in its folder says how to restore it with stock tools"))
}

/// The server to restore to: the one that is asked for, else the one that it is of.
///
/// # Errors
/// The file has none of that name.
pub fn server_name(plan: &Plan, manifest: &Manifest, asked: Option<&str>) -> Result<String> {
    let name = asked.unwrap_or(&manifest.server);
    if plan.servers.contains_key(name) {
        return Ok(name.to_owned());
    }
    let names: Vec<&str> = plan.servers.keys().map(crate::config::values::Name::as_str).collect();
    let hint = format!("servers of the file: {}", names.join(", "));
    Err(match asked {
        Some(_) => Error::new(Kind::NotFound, format!("there is no server {name:?} in the file")).hint(hint),
        None => Error::new(Kind::NotFound, format!("{} is of the server {name:?}, which is not in the file", manifest.id))
            .hint(format!("add --to-server NAME; {hint}")),
    })
}

impl Report {
    fn new() -> Self {
        Report {
            outcome: Outcome::Ok,
            error: None,
            warnings: Vec::new(),
            problems: Vec::new(),
            failures: Vec::new(),
            done: Vec::new(),
            compared: None,
            seconds: 0.0,
        }
    }
}

/// Carries a plan out. All that can go wrong with the restore itself is in the report.
///
/// # Errors
/// It did not begin: the plan is refused, or `state_dir` cannot be written.
pub async fn restore(plan: &Plan, looked: &Looked, asked: &Asked, progress: &Progress, cancel: &CancellationToken) -> Result<Report> {
    if let Some(refused) = looked.plan.refused() {
        return Err(refused);
    }
    let started = std::time::Instant::now();
    let state = State::open(&plan.state_dir)?;
    let locks = alone(&state, &looked.plan)?;
    leftovers::sweep(plan, &state, Some(&looked.plan.server)).await?;
    // Retention leaves the copy alone meanwhile.
    let _held = state.hold_copy_or_go_on(&looked.id).await?;
    // It may have gone while somebody read the plan, and before anything is dropped for it.
    if !stores::still_has(&*looked.store, &looked.id).await? {
        return Err(Error::new(Kind::NotFound, format!("{} has been deleted from store {} in the meantime", looked.id, looked.plan.store))
            .hint(format!("pgvigil list {} shows what there is", looked.id.backup)));
    }
    let mut report = Report { warnings: looked.plan.warnings.clone(), ..Report::new() };
    let history = state.history()?;
    let lock = locks.first().map_or("", |(name, _)| name);
    let row = history.begin_restore(&looked.id.backup, &looked.plan.id, &whither(&looked.plan), lock, clock::now())?;
    let carried = carry_out(&state, plan, looked, asked, progress, cancel, &mut report).await;
    if let Err(error) = carried {
        report.outcome = if error.kind == Kind::Cancelled { Outcome::Cancelled } else { Outcome::Failed };
        report.error = Some(error);
    } else {
        let mismatches: &[Mismatch] = report.compared.as_ref().map_or(&[], |compared| &compared.mismatches);
        report.problems.extend(mismatches.iter().map(ToString::to_string));
        if !report.problems.is_empty() {
            report.outcome = Outcome::Problems;
        }
    }
    report.seconds = verify::round(started.elapsed().as_secs_f64());
    let why = report
        .error
        .as_ref()
        .map(|error| error.message.clone())
        .or_else(|| (!report.problems.is_empty()).then(|| report.problems.join("; ")));
    if let Err(error) = history.end(row, clock::now(), report.outcome, why.as_deref(), Some(&looked.plan.id), true) {
        report.warnings.push(format!("the end of the restore is not in the history: {}", error.message));
    }
    Ok(report)
}

/// Where a restore goes to, for the history.
fn whither(plan: &RestorePlan) -> String {
    let targets: Vec<String> = plan.databases.iter().map(|database| identifier_on_one_line(&database.target)).collect();
    format!("{} on server {}", targets.join(", "), plan.server)
}

/// Two restores of one database would take away what the other makes.
fn alone(state: &State, plan: &RestorePlan) -> Result<Vec<(String, Lock)>> {
    let mut targets: Vec<&str> = plan.databases.iter().map(|database| database.target.as_str()).collect();
    targets.sort_unstable();
    targets.dedup();
    let lock = |target: &&str| {
        // No backup can have a name with a colon, and a database may have a name that no file can have.
        let name = xxhash_rust::xxh3::xxh3_128(format!("{}\0{target}", plan.server).as_bytes());
        let name = format!("restore:{name:032x}");
        let lock = state.lock(&name)?.ok_or_else(|| {
            Error::new(Kind::Busy, format!("another restore to database {target:?} on server {} is under way", plan.server))
                .hint("wait for it, or end it")
        })?;
        Ok((name, lock))
    };
    targets.iter().map(lock).collect()
}

async fn carry_out(
    state: &State,
    plan: &Plan,
    looked: &Looked,
    asked: &Asked,
    progress: &Progress,
    cancel: &CancellationToken,
    report: &mut Report,
) -> Result<()> {
    if let Some(globals) = &looked.globals {
        progress.begin("making roles and tablespaces");
        let told = tokio::select! {
            told = globals::apply(&looked.server, globals, &looked.target) => told?,
            () = cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "told to stop")),
        };
        report.done.push(told);
    }
    progress.restart("restoring", looked.plan.raw_bytes);
    for database in &looked.plan.databases {
        let one = load::One { state, plan, looked, database, asked, progress, cancel };
        let done = one.restore(report).await;
        done.map_err(|error| about(looked, database, error))?;
    }
    Ok(())
}

/// Which of several databases an error is about.
fn about(looked: &Looked, database: &DatabasePlan, error: Error) -> Error {
    if looked.plan.databases.len() > 1 { error.context(format_args!("database {:?}", database.source)) } else { error }
}
