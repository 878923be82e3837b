//! `verify ID`

use std::path::Path;
use std::sync::Arc;

use super::answer::Answer;
use super::session::{Session, Uses, runtime};
use super::{Done, alert, bar, list, output};
use crate::catalog::{Entry, Proof, Rung, Standing, Wanted};
use crate::config::Plan;
use crate::error::{Error, Kind, Result, exit};
use crate::host::signals;
use crate::job::progress::Progress;
use crate::job::{keys, stores, verify as job};
use crate::keys::{Identities, Signed};
use crate::state::{Outcome, State};
use crate::verify::stored::Stored;

pub fn verify(session: &Session, id: &str, store: Option<&str>, identity: Option<&Path>) -> Done {
    let started = std::time::Instant::now();
    let result = prove(session, id, store, identity);
    let (found, error) = match &result {
        Ok((id, proofs)) => {
            let errors: Vec<String> = proofs
                .iter()
                .flat_map(|(store, proof, _)| proof.errors.iter().map(move |error| format!("store {store}: {error}")))
                .collect();
            let bad = (!errors.is_empty()).then(|| {
                Error::new(Kind::Damaged, format!("{id} is bad: {}", errors.join("; ")))
                    .hint("it is no longer `latest`; look into the kernel's log for errors of the disk, and make a new backup")
            });
            (Some((id, proofs)), bad)
        }
        Err(error) => (None, Some(error.clone())),
    };
    let warnings: Vec<String> = found.iter().flat_map(|(_, proofs)| proofs.iter().flat_map(|(_, proof, _)| proof.notes.clone())).collect();
    // The copies are proven one by one; together they are as good as the worst of them.
    let rung = found.and_then(|(_, proofs)| proofs.iter().map(|(_, proof, _)| proof.rung).min());
    for warning in &warnings {
        output::warn(warning, None);
    }
    if let Some(error) = &error {
        output::tell(error);
    }
    let (outcome, code) = match &error {
        None if warnings.iter().all(|warning| warning == job::NOT_LOOKED_INTO) => (Outcome::Ok, exit::OK),
        None => (Outcome::Problems, exit::PROBLEMS),
        // Nothing is known of the backup: neither good nor bad.
        Some(error) if matches!(error.kind, Kind::Store | Kind::Secret) => (Outcome::Problems, exit::PROBLEMS),
        Some(error) if error.kind == Kind::Cancelled => (Outcome::Cancelled, exit::FAILED),
        Some(error) => (Outcome::Failed, error.kind.exit_code()),
    };
    let seconds = job::round(started.elapsed().as_secs_f64());
    if session.json {
        output::json(&Answer {
            id: found.map(|(id, _)| id.clone()),
            rung,
            warnings: &warnings,
            seconds,
            ..Answer::new(outcome, error.as_ref())
        })?;
    } else if let (Some((id, proofs)), None) = (found, &error) {
        for (store, proof, signed) in proofs {
            let by = if let Signed::By(_) = signed { format!(", {signed}") } else { String::new() };
            let line = format!(
                "{id}  {}  {} read back from {store} in {}{by}\n",
                output::rung(proof.rung),
                output::size(proof.bytes),
                output::seconds(proof.seconds)
            );
            output::text(&line)?;
        }
    }
    Ok(code)
}

/// Store, what was found there, and how it is signed.
type Proofs = Vec<(String, Proof, Signed)>;

fn prove(session: &Session, id: &str, store: Option<&str>, identity: Option<&Path>) -> Result<(String, Proofs)> {
    let wanted = Wanted::parse(id)?;
    let given = identity.map(keys::of_file).transpose()?;
    let opened = session.open(Uses::None)?;
    let plan = &opened.plan;
    let entry = find_entry(plan, &wanted, store)?;
    let copies = copies_of(&entry, store)?;
    let keys = keys::of(plan, &entry.manifest, given)?;
    let cancel = signals::cancelled_by_signals()?;
    let progress = Arc::new(Progress::default());
    runtime()?.block_on(async {
        let bar = bar::show(&progress, bar::OF_LAST_RUN);
        let proofs = tokio::select! {
            proofs = prove_copies(plan, &entry, &copies, &keys, &progress) => proofs,
            () = cancel.cancelled() => Err(Error::new(Kind::Cancelled, "told to stop")),
        };
        drop(bar);
        // A rung may be lost, or won back.
        alert::tell(plan, &wanted.backup).await;
        Ok((entry.id.to_string(), proofs?))
    })
}

/// The backup that is asked for, from the stores. `store` must be one of the file.
///
/// # Errors
/// There is none, or its manifest is damaged.
pub fn find_entry(plan: &Plan, wanted: &Wanted, store: Option<&str>) -> Result<Entry> {
    if let Some(store) = store
        && !plan.stores.contains_key(store)
    {
        let names: Vec<&str> = plan.stores.keys().map(crate::config::values::Name::as_str).collect();
        return Err(Error::new(Kind::NotFound, format!("there is no store {store:?} in the file"))
            .hint(format!("stores of the file: {}", names.join(", "))));
    }
    let catalog = list::catalog(plan, Some(&wanted.backup))?;
    match catalog.find(wanted) {
        Ok(entry) => Ok(entry.clone()),
        Err(error) => {
            // A manifest that cannot be read must not stay `latest`.
            if error.kind == Kind::Damaged {
                runtime()?.block_on(async {
                    let repointed = repoint(plan, &wanted.backup).await;
                    alert::tell(plan, &wanted.backup).await;
                    repointed
                })?;
            }
            Err(error)
        }
    }
}

/// The stores that have a copy of it, or the one that is asked for.
///
/// # Errors
/// It is not there.
pub fn copies_of<'a>(entry: &'a Entry, store: Option<&str>) -> Result<Vec<&'a str>> {
    let copies: Vec<&str> = entry.copies.keys().map(String::as_str).filter(|name| store.is_none_or(|store| store == *name)).collect();
    if copies.is_empty() {
        return Err(Error::new(Kind::NotFound, format!("{} is not in store {}", entry.id, store.unwrap_or_default())));
    }
    Ok(copies)
}

async fn repoint(plan: &Plan, backup: &str) -> Result<()> {
    let state = State::open(&plan.state_dir)?;
    for store in plan.stores.values() {
        if let Ok(opened) = stores::open(store, state.owner()) {
            job::point_latest(plan, &*opened, store.name.as_str(), backup).await?;
        }
    }
    Ok(())
}

async fn prove_copies(plan: &Plan, entry: &Entry, copies: &[&str], keys: &Identities, progress: &Progress) -> Result<Proofs> {
    let state = State::open(&plan.state_dir)?;
    let mut proofs = Vec::new();
    for name in copies {
        let store = stores::open(&plan.stores[*name], state.owner())?;
        // A copy that was bad and reads well again is only readable: a drill must prove the rest.
        let before = entry.rung_in(name).filter(|rung| *rung != Rung::Bad);
        let stored = Stored { store: &*store, id: &entry.id, manifest: &entry.manifest, keys };
        let mut proof = job::verify(plan, stored, before, None, progress).await?.proof;
        let standing = entry.signed.get(*name).cloned().unwrap_or(Standing { signed: Signed::Unsigned, counts: true });
        match &standing.signed {
            Signed::Invalid(_) => {
                proof.errors.push(standing.signed.to_string());
                proof.rung = Rung::Bad;
            }
            signed if !standing.counts => {
                proof.notes.push(format!("{} is {signed}: it counts for nothing here, whatever is in it", entry.id));
                proof.rung = Rung::Written;
            }
            _ => {}
        }
        job::point_latest(plan, &*store, name, &entry.id.backup).await?;
        proofs.push(((*name).to_owned(), proof, standing.signed));
    }
    Ok(proofs)
}
