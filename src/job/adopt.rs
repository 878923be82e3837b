//! Dumps that another tool left, copied into a store and so into the catalog: with the bytes that
//! they have, under the time of their name, watched for their end and read back as our own are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::catalog::foreign::ForeignName;
use crate::catalog::{Catalog, FileEntry, Id, Label, Manifest, Role, Rung};
use crate::config::Plan;
use crate::config::plan::{Backup, Which};
use crate::error::{Error, Kind, Result};
use crate::host::{clock, printable, secret};
use crate::job::copy::{Candidate, Copying, Obstacle};
use crate::job::fill::Sealing;
use crate::job::progress::Progress;
use crate::job::verify::Opened;
use crate::job::{keys, run, stores, verify};
use crate::keys::Identities;
use crate::schedule::slots;
use crate::state::{Outcome, State};
use crate::store::original::Original;
use crate::store::{Store, Upload};
use crate::verify::read_back::HashingReader;
use crate::verify::stored::Stored;

/// A file that somebody wants to be adopted.
pub struct Wanted {
    pub path: PathBuf,
    pub original: Result<Original>,
}

/// What became of it.
#[derive(Debug, Clone)]
pub struct Adopted {
    pub path: PathBuf,
    /// `None` if it is not in the store.
    pub id: Option<Id>,
    /// `skipped`: it was there already.
    pub outcome: Outcome,
    pub rung: Option<Rung>,
    pub error: Option<Error>,
    /// What could not be looked at.
    pub notes: Vec<String>,
}

/// Takes files into the primary store of a backup. What is wrong with one is said of it, and the
/// others go on. Retention is not applied.
///
/// # Errors
/// Nothing was begun: there is no such backup, a run of it holds the lock (`Busy`), or the store or
/// `state_dir` cannot be opened.
pub async fn adopt(
    plan: &Plan,
    backup: &str,
    wanted: Vec<Wanted>,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Vec<Adopted>> {
    let backup = run::find(plan, backup)?;
    let databases = Databases::of(plan, backup)?;
    let state = State::open(&plan.state_dir)?;
    let Some(_lock) = state.lock(backup.name.as_str())? else {
        return Err(Error::new(Kind::Busy, format!("a run of {} is under way", backup.name)).hint("wait for it, then adopt again"));
    };
    let store_name = backup.stores[0].as_str();
    let store = stores::open(&plan.stores[store_name], state.owner())?;
    store.sweep(backup.name.as_str()).await?;
    let taken = store.taken(backup.name.as_str()).await?.into_iter().collect();
    let mut adopting = Adopting { plan, backup, store: &*store, taken, progress, cancel, told: BTreeMap::new() };

    let paths: Vec<PathBuf> = wanted.iter().map(|wanted| wanted.path.clone()).collect();
    let now = clock::now();
    let mut candidates = Vec::new();
    for (nth, wanted) in wanted.into_iter().enumerate() {
        match wanted.original.and_then(|original| candidate(nth, original, &databases, backup, now)) {
            Ok(candidate) => candidates.push(candidate),
            Err(error) => adopting.refuse(nth, error),
        }
    }
    for together in in_groups(candidates) {
        Box::pin(adopting.take(together)).await;
    }
    if let Err(error) = verify::point_latest(plan, &*store, store_name, backup.name.as_str()).await {
        tracing::warn!(%error, "cannot point `latest` at the newest backup");
    }
    let Adopting { mut told, .. } = adopting;
    Ok(paths.into_iter().enumerate().filter_map(|(nth, path)| Some(Adopted { path, ..told.remove(&nth)? })).collect())
}

/// Whose dumps a backup takes.
struct Databases {
    /// `None`: whatever a name says.
    own: Option<Vec<String>>,
    /// Also those of the other backups: a longer name that fits is the one that is meant.
    known: Vec<String>,
}

impl Databases {
    fn of(plan: &Plan, backup: &Backup) -> Result<Self> {
        let named = |backup: &Backup| match &backup.which {
            Which::One(given) => {
                let name = secret::resolve(&format!("backups.{}.database", backup.name), given)?;
                Ok(Some(vec![name.reveal().to_owned()]))
            }
            Which::Named(names) => Ok(Some(names.clone())),
            Which::All { .. } => Ok(None),
        };
        let known = plan.backups.values().filter_map(|backup| named(backup).ok()?).flatten().collect();
        Ok(Databases { own: named(backup)?, known })
    }

    fn choose(&self, name: &ForeignName<'_>) -> Result<String> {
        let Some(own) = &self.own else {
            return Ok(name.database().to_owned());
        };
        match name.database_of(self.known.iter().map(String::as_str)) {
            Some(database) if own.iter().any(|own| own == database) => Ok(database.to_owned()),
            found => {
                let other = found.unwrap_or_else(|| name.database());
                Err(Error::new(Kind::Usage, format!("by its name it is of database {:?}", printable(other)))
                    .hint(format!("this backup is of {}; adopt it into a backup of its own database", printable(&own.join(", ")))))
            }
        }
    }
}

fn candidate(nth: usize, original: Original, databases: &Databases, backup: &Backup, now: DateTime<Utc>) -> Result<Candidate> {
    let wrong = |why: String| {
        Error::new(Kind::Usage, why)
            .hint("a name must end like euem_db_20240115_020000.sql.gz: database, date and time, ending; copy it to such a name")
    };
    let text = original.name();
    let name = ForeignName::parse(&text).map_err(wrong)?;
    let database = databases.choose(&name)?;
    let slot = slots::first_reached(backup.timezone, name.local)
        .ok_or_else(|| wrong(format!("{} is no time in {}", name.local, backup.timezone)))?;
    let label = Label::of(slot);
    if label.to_string().parse() != Ok(label) {
        return Err(wrong(format!("{} is no time of a backup", name.local)));
    }
    if slot > now {
        return Err(Error::new(Kind::Usage, format!("by its name it is of the future: {} in {}", name.local, backup.timezone))
            .hint("look at the clock of this machine, and at timezone in the file"));
    }
    let (format, ending) = (name.format, name.ending);
    Ok(Candidate { nth, original, database, label, format, ending })
}

/// Dumps of several databases under one time are one backup.
fn in_groups(candidates: Vec<Candidate>) -> Vec<Vec<Candidate>> {
    let mut groups: Vec<Vec<Candidate>> = Vec::new();
    let mut open: BTreeMap<Label, usize> = BTreeMap::new();
    for candidate in candidates {
        let at = open.get(&candidate.label).copied();
        let fits = |group: &[Candidate]| group.iter().all(|other| other.database != candidate.database && other.format == candidate.format);
        match at {
            Some(at) if fits(&groups[at]) => groups[at].push(candidate),
            // Another dump of the same database: it will find the first one there.
            Some(_) => groups.push(vec![candidate]),
            None => {
                open.insert(candidate.label, groups.len());
                groups.push(vec![candidate]);
            }
        }
    }
    groups
}

/// A backup whose files are durable, under no name yet.
struct Ready {
    upload: Box<dyn Upload>,
    manifest: Manifest,
    opened: Opened,
    /// What opens it again, as long as it lasts.
    keys: Identities,
}

struct Adopting<'a> {
    plan: &'a Plan,
    backup: &'a Backup,
    store: &'a dyn Store,
    /// Labels that are not free.
    taken: BTreeSet<Label>,
    progress: &'a Progress,
    cancel: &'a CancellationToken,
    /// What became of each, by its place.
    told: BTreeMap<usize, Adopted>,
}

impl Adopting<'_> {
    fn tell(&mut self, nth: usize, id: Option<&Id>, outcome: Outcome, rung: Option<Rung>, error: Option<Error>, notes: &[String]) {
        let adopted = Adopted { path: PathBuf::new(), id: id.cloned(), outcome, rung, error, notes: notes.to_vec() };
        self.told.insert(nth, adopted);
    }

    fn refuse(&mut self, nth: usize, error: Error) {
        let outcome = if error.kind == Kind::Cancelled { Outcome::Cancelled } else { Outcome::Failed };
        let error = match error.kind {
            Kind::Dump | Kind::Damaged => error.hint("it is no backup: what it lacks nobody can restore; the original is as it was"),
            _ => error,
        };
        self.tell(nth, None, outcome, None, Some(error.context("not adopted")), &[]);
    }

    /// One backup, of one dump or of several.
    async fn take(&mut self, mut dumps: Vec<Candidate>) {
        let id = Id { backup: self.backup.name.to_string(), label: dumps[0].label };
        if self.taken.contains(&id.label) {
            for dump in dumps {
                match self.cancellable(self.find_there(&id, &dump)).await {
                    Ok(rung) => self.tell(dump.nth, Some(&id), Outcome::Skipped, Some(rung), None, &[]),
                    Err(error) => self.refuse(dump.nth, error),
                }
            }
            return;
        }
        let ready = loop {
            let obstacle = match self.cancellable(Box::pin(self.make(&id, &dumps))).await {
                Ok(ready) => break ready,
                Err(obstacle) => obstacle,
            };
            match obstacle.of {
                // Without the one that is broken the others may be whole.
                Some(at) => {
                    let nth = dumps.remove(at).nth;
                    self.refuse(nth, obstacle.error);
                }
                None => dumps.drain(..).for_each(|dump| self.refuse(dump.nth, obstacle.error.clone())),
            }
            if dumps.is_empty() {
                return;
            }
        };
        let Ready { upload, manifest, opened, keys } = ready;
        // A matter of moments, and whole or not at all: nobody breaks it off.
        let signed = keys::signer(self.plan).and_then(|signer| manifest.to_bytes(signer.as_ref()));
        let committed = match signed {
            Ok(json) => upload.commit(Bytes::from(json)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = committed {
            return dumps.into_iter().for_each(|dump| self.refuse(dump.nth, error.clone()));
        }
        self.taken.insert(id.label);
        let stored = Stored { store: self.store, id: &id, manifest: &manifest, keys: &keys };
        let proven = self.cancellable(verify::verify(self.plan, stored, None, Some(opened), self.progress)).await;
        let (outcome, rung, error, notes) = match proven {
            Ok(proven) if proven.proof.rung == Rung::Bad => {
                let error = Error::new(Kind::Damaged, format!("what was stored does not read back: {}", proven.proof.errors.join("; ")))
                    .hint("look into the kernel's log for errors of the disk; the original is as it was");
                (Outcome::Failed, Rung::Bad, Some(error), Vec::new())
            }
            Ok(proven) if proven.proof.notes.is_empty() => (Outcome::Ok, proven.proof.rung, None, Vec::new()),
            Ok(proven) => (Outcome::Problems, proven.proof.rung, None, proven.proof.notes),
            Err(error) if error.kind == Kind::Cancelled => (Outcome::Cancelled, Rung::Written, Some(error), Vec::new()),
            Err(error) => (Outcome::Failed, Rung::Written, Some(error.context("stored, and not read back")), Vec::new()),
        };
        for dump in dumps {
            self.tell(dump.nth, Some(&id), outcome, Some(rung), error.clone(), &notes);
        }
    }

    async fn cancellable<T, E: From<Error>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        tokio::select! {
            done = work => done,
            () = self.cancel.cancelled() => Err(Error::new(Kind::Cancelled, "told to stop").into()),
        }
    }

    /// The rung of a dump that is in the store already.
    ///
    /// # Errors
    /// What is there is something else.
    async fn find_there(&self, id: &Id, dump: &Candidate) -> Result<Rung> {
        let store = self.backup.stores[0].as_str();
        let mut catalog = Catalog::trusting(keys::trust(self.plan));
        catalog.add(store, id, &self.store.documents(id).await?);
        let other = |what: &str| {
            Error::new(Kind::Store, format!("{id} is there already, {what}"))
                .hint(format!("pgvigil show {id} says what it is; one label is one backup"))
        };
        let entry = catalog.entries.first().ok_or_else(|| other("without a manifest that can be read"))?;
        if !entry.manifest.databases.contains(&dump.database) {
            return Err(other("without this database: dumps of one time are one backup, adopt them together"));
        }
        let (mut reader, hashed) = HashingReader::new(dump.original.reader()?);
        let read = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
        read.map_err(|error| Error::system("cannot read it", &error))?;
        let sha256 = hashed.sha256();
        let same = |file: &&FileEntry| {
            file.role == Role::Dump && file.original_sha256() == sha256 && file.database.as_ref() == Some(&dump.database)
        };
        let there = entry.manifest.files.iter().find(same);
        there.and(entry.rung_in(store)).ok_or_else(|| other("with other bytes"))
    }

    /// Down to the commit.
    async fn make(&self, id: &Id, dumps: &[Candidate]) -> Result<Ready, Obstacle> {
        self.expect_room(dumps).await?;
        let mut upload = self.store.begin(id).await?;
        let sealing = Sealing::of(self.backup);
        let copying = Copying { plan: self.plan, backup: self.backup, sealing: &sealing, progress: self.progress };
        match copying.fill(&mut *upload, id, dumps).await {
            Ok((manifest, opened)) => Ok(Ready { upload, manifest, opened, keys: sealing.keys }),
            Err(obstacle) => {
                upload.discard().await;
                Err(obstacle)
            }
        }
    }

    /// A disk is not filled up to find out that it is too small.
    async fn expect_room(&self, dumps: &[Candidate]) -> Result<()> {
        let bytes: u64 = dumps.iter().map(|dump| dump.original.bytes()).sum();
        let name = &self.backup.stores[0];
        if let Some(Ok(usage)) = stores::usage(&self.plan.stores[name]).await
            && usage.available < bytes
        {
            return Err(Error::new(
                Kind::Store,
                format!("it would not fit: it has {bytes} bytes, and store {name} has {} available", usage.available),
            )
            .hint("free space, or move the store to a larger disk"));
        }
        Ok(())
    }
}
