//! A backup in the making: from the server into an upload that is ready to be committed.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use globset::Glob;

use crate::catalog::{Entry, Id, Label, Manifest, Rung};
use crate::config::Plan;
use crate::config::plan::{Backup, Which};
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::host::{Tag, clock, secret};
use crate::job::fill::{Filling, Sealing};
use crate::job::physical;
use crate::job::progress::Progress;
use crate::job::verify::Opened;
use crate::job::{keys, stores};
use crate::keys::{Identities, Signer};
use crate::postgres::lease::Lease;
use crate::postgres::quote::identifier;
use crate::postgres::server::{Database, Server};
use crate::store::{Store, Upload};

/// What was dumped.
pub struct Made {
    pub manifest: Manifest,
    pub warnings: Vec<String>,
    /// What needs a look.
    pub problems: Vec<String>,
    /// Tables of the user in each database, where all of them were asked for.
    pub tables_there: BTreeMap<String, u64>,
    pub opened: Opened,
    /// What opens it again, as long as the run lasts.
    pub keys: Identities,
}

/// A backup whose files are durable, under no name yet.
pub struct Ready {
    upload: Box<dyn Upload>,
    made: Made,
    lease: Option<(Lease, Server)>,
    signer: Option<Signer>,
}

impl Ready {
    /// Lets it appear under its name.
    ///
    /// # Errors
    /// Another installation has taken the slot over, or the store cannot be written; the backup is not
    /// there.
    pub async fn commit(mut self) -> Result<Made> {
        if let Some((lease, server)) = &mut self.lease
            && let Err(error) = lease.assure(server).await
        {
            self.upload.discard().await;
            return Err(error);
        }
        let manifest = Bytes::from(self.made.manifest.to_bytes(self.signer.as_ref())?);
        self.upload.commit(manifest).await?;
        Ok(self.made)
    }
}

/// A backup in the making.
pub struct Making<'a> {
    pub plan: &'a Plan,
    pub backup: &'a Backup,
    /// The one that the schedule asks for.
    pub slot: Option<DateTime<Utc>>,
    /// Only the changes since the newest base backup.
    pub incremental: bool,
    pub store: &'a dyn Store,
    /// Set as soon as the server is reached, so that a cancelled run can be ended there. One that is there
    /// already is taken, in the place of the backup's.
    pub server: &'a OnceLock<Server>,
    pub progress: &'a Progress,
    pub tag: &'a Tag,
    pub note_slot: &'a (dyn Fn(DateTime<Utc>) -> Result<()> + Sync),
}

impl Making<'_> {
    /// The way of the data, down to the commit, which is the caller's: it must not be broken off. `None`:
    /// another installation has made the backup of this slot.
    ///
    /// # Errors
    /// Anything on the way; nothing is left in the store.
    pub async fn make(&self) -> Result<Option<Ready>> {
        let started_at = clock::now();
        let signer = keys::signer(self.plan)?;
        let last = self.expect().await?;
        self.progress.begin("connecting");
        let server = if let Some(server) = self.server.get() {
            server
        } else {
            let server = Server::connect(&self.plan.servers[&self.backup.server], self.tag.clone()).await?;
            self.server.get_or_init(|| server)
        };
        server.check_client()?;
        let databases = choose(&self.backup.which, &server.facts.databases, &self.backup.name)?;
        let lease = self.lease(server).await;
        let Some(label) = self.free_label(started_at).await? else { return Ok(None) };
        (self.note_slot)(label.slot())?;
        let id = Id { backup: self.backup.name.to_string(), label };
        if lease.is_ok() && self.slot.is_some() {
            self.store.clear(&id).await?;
        }
        let sealing = Sealing::of(self.backup);
        let filling = Filling { making: self, server, id: &id, sealing: &sealing, last: last.as_ref() };
        let mut upload = self.store.begin(&id).await?;
        let filled = if self.backup.physical.is_some() {
            physical::base::Basing { making: self, server, id: &id, sealing: &sealing }.fill(&mut *upload, started_at).await
        } else {
            filling.fill(&mut *upload, &databases, started_at).await
        };
        match filled {
            Ok(mut made) => {
                made.problems.extend(last.as_ref().and_then(|last| shrunk(last, &made.manifest)));
                let lease = match lease {
                    Ok(lease) => lease.map(|lease| (lease, server.clone())),
                    Err(error) => {
                        made.warnings.push(format!("no lease of the slot: {}; two installations might both run it", error.message));
                        None
                    }
                };
                Ok(Some(Ready { upload, made: Made { keys: sealing.keys, ..made }, lease, signer }))
            }
            Err(error) => {
                upload.discard().await;
                Err(error)
            }
        }
    }

    /// The last good backup, as a measure for the progress, for the room that this one needs, and for
    /// its size.
    ///
    /// # Errors
    /// It would not fit on the disk.
    async fn expect(&self) -> Result<Option<Manifest>> {
        let store = &self.backup.stores[0];
        let Ok(catalog) = stores::catalog_of_one(self.plan, self.store, store.as_str(), Some(self.backup.name.as_str())).await else {
            return Ok(None);
        };
        let is_good = |entry: &&Entry| entry.rung_in(store.as_str()).is_some_and(Rung::is_good);
        let Some(last) = catalog.entries.iter().find(is_good) else { return Ok(None) };
        self.progress.expect(last.manifest.raw_bytes());
        if let Some(Ok(usage)) = stores::usage(&self.plan.stores[store]).await
            && usage.available < last.manifest.bytes()
        {
            return Err(Error::new(
                Kind::Store,
                format!(
                    "the backup would not fit into {}: the last one has {} bytes, and {} are available",
                    self.plan.stores[store].place(),
                    last.manifest.bytes(),
                    usage.available
                ),
            )
            .hint("free space, or move the store to a larger disk; pgvigil prune --dry-run shows what retention would delete"));
        }
        Ok(Some(last.manifest.clone()))
    }

    /// The lease of the backup: of installations that share its store, one at a time runs a slot. By
    /// hand there is no slot that another could run.
    async fn lease(&self, server: &Server) -> Result<Option<Lease>> {
        if self.slot.is_none() {
            return Ok(None);
        }
        let (backup, store) = (&self.backup.name, &self.plan.stores[&self.backup.stores[0]]);
        let heard = || {
            tracing::info!(%backup, "another installation holds the lease of this backup; waiting for it");
            self.progress.begin("waiting for another installation");
        };
        Lease::take(server, &format!("{} {backup}", store.place()), self.plan.takeover_after, heard).await.map(Some)
    }

    /// The label of the slot, or by hand the second of the start or the next that is free. `None`: the
    /// slot has its backup.
    async fn free_label(&self, now: DateTime<Utc>) -> Result<Option<Label>> {
        let backup = self.backup.name.as_str();
        if let Some(slot) = self.slot {
            let label = Label::of(slot);
            // What another left unfinished is in nobody's way who holds the lease.
            if !self.store.labels(backup).await?.contains(&label) {
                return Ok(Some(label));
            }
            let id = Id { backup: backup.to_owned(), label };
            if stores::is_ours(self.plan, self.store, &id).await? {
                return Ok(None);
            }
            tracing::warn!(%id, "somebody else put it there: this run takes another label");
        }
        let taken = self.store.taken(backup).await?;
        let mut label = Label::of(self.slot.unwrap_or(now));
        while taken.contains(&label) {
            label = label.next();
        }
        Ok(Some(label))
    }
}

/// A smaller dump than this is never "much smaller", in bytes.
const SMALL_BYTES: u64 = 64 * 1024;

/// Whether a dump is much smaller than the last good one of the same things: half of it or less. What has changed
/// since another base backup has no size that could be expected.
fn shrunk(last: &Manifest, now: &Manifest) -> Option<String> {
    let is_incremental = |manifest: &Manifest| manifest.physical.as_ref().is_some_and(|physical| physical.incremental_of.is_some());
    if is_incremental(last) || is_incremental(now) {
        return None;
    }
    let shape = |manifest: &Manifest| {
        let patterns = [&manifest.tables, &manifest.exclude_tables, &manifest.schemas].map(Clone::clone);
        (manifest.format, manifest.contents, patterns, manifest.databases.clone(), manifest.adopted_from.is_empty())
    };
    let (before, after) = (last.raw_bytes(), now.raw_bytes());
    (shape(last) == shape(now) && before >= SMALL_BYTES && after <= before / 2).then(|| {
        format!("it is much smaller than the last one: {after} bytes, where {} has {before}; has somebody deleted or truncated?", last.id)
    })
}

/// The databases of a backup, out of those that the server has.
///
/// # Errors
/// One that is named is not there, or none is left.
pub fn choose(which: &Which, there: &[Database], backup: &Name) -> Result<Vec<Database>> {
    let usable = || there.iter().filter(|database| database.is_usable());
    let named = |name: &str| {
        there.iter().find(|database| database.name == name && database.allows_connections).cloned().ok_or_else(|| {
            let names: Vec<String> = usable().map(|database| identifier(&database.name)).collect();
            Error::new(Kind::NotFound, format!("the server has no database {name:?} that allows connections"))
                .hint(format!("it has: {}", crate::host::printable(&names.join(", "))))
        })
    };
    match which {
        Which::One(given) => Ok(vec![named(secret::resolve(&format!("backups.{backup}.database"), given)?.reveal())?]),
        Which::Named(names) => names.iter().map(|name| named(name)).collect(),
        Which::All { exclude } => {
            let globs: Vec<_> = exclude.iter().filter_map(|pattern| Glob::new(pattern).ok()).map(|glob| glob.compile_matcher()).collect();
            let chosen: Vec<Database> =
                usable().filter(|database| !globs.iter().any(|glob| glob.is_match(&database.name))).cloned().collect();
            if chosen.is_empty() {
                return Err(Error::new(Kind::NotFound, "exclude leaves no database of the server").hint("look at exclude in the file"));
            }
            Ok(chosen)
        }
    }
}
