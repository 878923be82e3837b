//! What can be restored of a cluster: its base backups, its archive, and the windows that they make.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::catalog::{Catalog, Entry, Rung, Wanted};
use crate::config::Plan;
use crate::config::plan::Backup;
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::host::local::LocalHost;
use crate::host::spool::Spooled;
use crate::host::{Call, Host, Tag};
use crate::job::keys;
use crate::job::physical::archive::{self, Owner};
use crate::job::physical::fetch;
use crate::job::physical::received::Received;
use crate::keys::Identities;
use crate::physical::chain;
use crate::physical::commits::{Ended, ended, restore_point};
use crate::physical::plan::{Base, End, Way, Window, way};
use crate::postgres::programs;
use crate::postgres::server::explain;
use crate::store::{Store, catalog_of};
use crate::wal::name::PARTIAL;
use crate::wal::object::Header;
use crate::wal::{Archive, Lsn, Reach, Segment, WalName};

/// So many segments are looked through for what they tell. Behind them nobody knows: PostgreSQL is given the moment, and
/// ends at it or fails.
const LOOKED_THROUGH_MAX: usize = 256;

/// So many segments are asked one after the other until when the log tells all; then each is twice as far back.
const HEADERS_NEAR: usize = 4;

/// A cluster as its stores show it.
pub struct Seen {
    pub stores: Vec<(Name, Arc<dyn Store>)>,
    /// Base backups, newest first.
    pub catalog: Catalog,
    /// The log in all of the stores together.
    pub archive: Archive,
    /// And in each of them.
    pub archives: Vec<(Name, Archive)>,
    /// Who opens what is encrypted of it, as far as anybody knows.
    pub keys: Identities,
    /// What lies on this machine and in no store yet, where somebody has taken it along.
    pub received: Option<Received>,
}

/// Looks at the stores of a backup, or at one of them. One that does not answer is told, if another does.
///
/// # Errors
/// None answers, or the identity that the file names is not to be had.
pub async fn look(plan: &Plan, backup: &Backup, only: Option<&Name>) -> Result<Seen> {
    let stores = fetch::stores(plan, backup, only)?;
    let name = backup.name.as_str();
    let keys = keys::of_backup(plan, name)?.unwrap_or_default();
    let catalog = Catalog::trusting(keys::trust(plan));
    let mut seen = Seen { stores: Vec::new(), catalog, archive: Archive::default(), archives: Vec::new(), keys, received: None };
    let mut failed = None;
    for (store_name, store) in stores {
        let looked = async {
            catalog_of(&*store, store_name.as_str(), Some(name), &mut seen.catalog).await?;
            archive::look(&*store, name).await
        };
        match looked.await {
            Ok(archive) => {
                merge(&mut seen.archive, archive.clone());
                seen.archives.push((store_name.clone(), archive));
                seen.stores.push((store_name, store));
            }
            Err(error) => {
                let error = error.context(format_args!("store {store_name}"));
                tracing::warn!(%error, "what is in there is not seen");
                failed = Some(error);
            }
        }
    }
    match failed {
        Some(error) if seen.stores.is_empty() => Err(error),
        _ => Ok(seen),
    }
}

fn merge(all: &mut Archive, one: Archive) {
    // One that is empty does not say.
    if all.segments.values().all(BTreeSet::is_empty) || one.segments.values().any(|numbers| !numbers.is_empty()) {
        all.segment_bytes = one.segment_bytes;
    }
    all.histories.extend(one.histories);
    all.open.extend(one.open);
    for (timeline, numbers) in one.segments {
        all.segments.entry(timeline).or_default().extend(numbers);
    }
}

impl Seen {
    /// The base backups that a restore may begin with: good ones, or the one that is named.
    pub fn bases(&self, wanted: Option<&Wanted>) -> Vec<Base> {
        let label = wanted.and_then(|wanted| wanted.label);
        let fits = |entry: &&Entry| match label {
            Some(label) => entry.id.label == label,
            // One whose chain is broken leads nowhere; an older one may.
            None => entry.rung().is_good() && chain::of(&self.catalog.entries, &entry.id).is_ok(),
        };
        let of = |entry: &Entry| Some(Base { id: entry.id.clone(), physical: entry.manifest.physical.clone()? });
        self.catalog.entries.iter().filter(fits).filter_map(of).collect()
    }

    /// Takes along what lies on this machine and in no store yet. What cannot be read is returned in words.
    ///
    /// # Errors
    /// No store says whose log it is.
    pub async fn take_received(&mut self, plan: &Plan, backup: &Backup) -> Result<Vec<String>> {
        let Some(owner) = self.owner(backup.name.as_str()).await? else { return Ok(Vec::new()) };
        let (mut received, unreadable) = Received::look(plan, backup, &owner);
        received.whole.retain(|segment| !self.archive.contains(*segment));
        received.open.retain(|open| !self.archive.contains(*open));
        for segment in &received.whole {
            self.archive.segments.entry(segment.timeline).or_default().insert(segment.number);
        }
        self.archive.open.extend(&received.open);
        received.histories.retain(|timeline, _| !self.archive.histories.contains_key(timeline));
        self.archive.histories.extend(received.histories.clone());
        self.received = Some(received);
        Ok(unreadable)
    }

    /// The cluster whose log is in the stores.
    ///
    /// # Errors
    /// One cannot be read.
    pub async fn owner(&self, backup: &str) -> Result<Option<Owner>> {
        for (_, store) in &self.stores {
            if let Some(owner) = Owner::read(&**store, backup).await? {
                return Ok(Some(owner));
            }
        }
        Ok(None)
    }

    /// Those of them that are good in a store.
    pub fn bases_in(&self, store: &Name) -> Vec<Base> {
        let is_good = |base: &Base| {
            let entry = self.catalog.entries.iter().find(|entry| entry.id == base.id);
            entry.and_then(|entry| entry.rung_in(store.as_str())).is_some_and(Rung::is_good)
        };
        self.bases(None).into_iter().filter(is_good).collect()
    }

    /// The windows out of which any moment can be restored, newest first; those that another one holds are left out.
    ///
    /// # Errors
    /// A store cannot be read.
    pub async fn windows(&self, backup: &str) -> Result<Vec<Window>> {
        let mut windows: Vec<Window> = Vec::new();
        for base in self.bases(None) {
            let Ok(way) = way(&base, Some(&self.archive), None) else { continue };
            let (to, to_lsn) = match &way.reach {
                Some(reach) => {
                    let to = self.told_until(backup, reach).await?.unwrap_or(base.physical.stopped_at);
                    (to, reach.certain_end(self.archive.segment_bytes))
                }
                None => (base.physical.stopped_at, base.physical.stop_lsn),
            };
            let window = Window {
                base: base.id.to_string(),
                timeline: way.timeline,
                from: base.physical.stopped_at,
                from_lsn: base.physical.stop_lsn,
                to: to.max(base.physical.stopped_at),
                to_lsn,
            };
            match windows.last_mut() {
                // The older base leads as far: one window, which begins earlier.
                Some(newer) if newer.timeline == window.timeline && newer.to_lsn == window.to_lsn => {
                    (newer.from, newer.from_lsn, newer.base) = (window.from, window.from_lsn, window.base);
                }
                _ => windows.push(window),
            }
        }
        Ok(windows)
    }

    /// Up to when the log of a reach tells all, at least. What is damaged does not say, nor what is in no store, nor what
    /// came after an outage; none tells less than the one before. So few of many are asked, for each is had for that.
    async fn told_until(&self, backup: &str, reach: &Reach) -> Result<Option<DateTime<Utc>>> {
        let near = 0..HEADERS_NEAR;
        let far = std::iter::successors(Some(HEADERS_NEAR), |back| back.checked_mul(2));
        for back in near.chain(far).take_while(|back| *back < reach.segments.len()) {
            let segment = reach.segments[reach.segments.len() - 1 - back];
            match self.header(backup, segment).await {
                Ok(header) => {
                    if let Some(at) = header.and_then(|header| header.written_at) {
                        return Ok(Some(at));
                    }
                }
                Err(error) if error.kind == Kind::Damaged => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// When the last segment of a reach came.
    async fn came_at(&self, backup: &str, reach: &Reach) -> Result<Option<DateTime<Utc>>> {
        let Some(last) = reach.segments.last() else { return Ok(None) };
        match self.header(backup, *last).await {
            Ok(header) => Ok(header.map(|header| header.at)),
            Err(error) if error.kind == Kind::Damaged => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What stands in front of a segment in the archive.
    ///
    /// # Errors
    /// A store cannot be read, or the segment is damaged.
    pub async fn header(&self, backup: &str, segment: Segment) -> Result<Option<Header>> {
        let name = segment.name(self.archive.segment_bytes);
        let Some(parsed) = WalName::parse(&name) else { return Ok(None) };
        let mut failed = None;
        for (_, store) in &self.stores {
            match archive::header(&**store, backup, &name, parsed).await {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// A segment of the log, opened and checked.
    ///
    /// # Errors
    /// No store has a sound one, or none of the keys opens it.
    pub async fn read(&self, backup: &str, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(parsed) = WalName::parse(name) else { return Ok(None) };
        let stored = fetch::read(&self.stores, backup, name, parsed, &self.keys).await;
        if let Ok(Some(raw)) = stored {
            return Ok(Some(raw));
        }
        if let Some(received) = &self.received {
            if let Some(raw) = received.read(name) {
                return Ok(Some(raw));
            }
            // It may have gone into the stores between the two looks.
            if let Ok(Some(raw)) = fetch::read(&self.stores, backup, name, parsed, &self.keys).await {
                return Ok(Some(raw));
            }
        }
        let part = format!("{name}{PARTIAL}");
        match WalName::parse(&part) {
            Some(parsed)
                if stored.is_ok()
                    && Segment::parse(name, self.archive.segment_bytes).is_some_and(|part| self.archive.open.contains(&part)) =>
            {
                fetch::read(&self.stores, backup, &part, parsed, &self.keys).await
            }
            _ => stored,
        }
    }

    /// What is known of the end of a way: by `pg_waldump`, in a folder of the spool.
    ///
    /// # Errors
    /// A store cannot be read, or the spool cannot be written.
    pub async fn end_of(&self, plan: &Plan, backup: &Backup, way: &Way, major: u32) -> Result<Option<End>> {
        let Some(reach) = way.reach.as_ref().filter(|reach| !reach.segments.is_empty()) else { return Ok(None) };
        let name = backup.name.as_str();
        let told = self.told_until(name, reach).await?;
        // Where nobody can look, PostgreSQL has the last word on all that is there: it ends at the moment, or fails.
        let received = self.received.as_ref().and_then(|received| received.written_at);
        let there_until = told.max(received).max(self.came_at(name, reach).await?);
        let unknown = there_until.map(|told_until| End { told_until, newest: None });
        let Some(bin_dir) = waldump(plan, backup, major) else { return Ok(unknown) };
        // All until the end of the base backup is told in any case.
        let base = self.bases(None).into_iter().find(|base| base.id == way.base).map(|base| base.physical.stopped_at);
        let Some(told_until) = told.or(base) else { return Ok(unknown) };
        let folder = Spooled::make(&plan.spool_dir, self.archive.segment_bytes)?;
        let mut is_damaged = false;
        for segment in reach.segments.iter().rev().take(LOOKED_THROUGH_MAX) {
            let path = match self.lay(name, *segment, folder.path()).await {
                Ok(Some(path)) => path,
                Ok(None) => return Ok(unknown),
                // It may lie behind the moment; if PostgreSQL needs it, it fails there.
                Err(error) if error.kind == Kind::Damaged => {
                    is_damaged = true;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let newest = newest_transaction(&bin_dir, &path).await;
            let _ = std::fs::remove_file(&path);
            let newest = match newest {
                Ok(newest) => newest,
                Err(error) => {
                    tracing::warn!(%error, "nobody can look into the log");
                    return Ok(unknown);
                }
            };
            if let Some(newest) = newest {
                // What was received tells all until its newest transaction; of that moment there may come another one.
                let told_until = told_until.max(newest - TimeDelta::microseconds(1));
                return Ok(Some(End { told_until, newest: (!is_damaged).then_some(newest) }));
            }
        }
        if is_damaged || reach.segments.len() > LOOKED_THROUGH_MAX {
            return Ok(unknown);
        }
        // Nothing at all behind the base backup: as if its end were the newest.
        Ok(Some(End { told_until, newest: base }))
    }

    /// Lays a segment into a folder, to be looked through there. `None`: it has gone.
    async fn lay(&self, backup: &str, segment: Segment, folder: &Path) -> Result<Option<PathBuf>> {
        let name = segment.name(self.archive.segment_bytes);
        let Some(raw) = self.read(backup, &name).await? else { return Ok(None) };
        let path = folder.join(name);
        std::fs::write(&path, raw).map_err(|error| Error::system(format_args!("cannot write {}", path.display()), &error))?;
        Ok(Some(path))
    }

    /// Where in the log the newest restore point of a name is, behind one of the base backups. `None`: nobody could look
    /// that far; PostgreSQL fails where it finds none.
    ///
    /// # Errors
    /// A store cannot be read, or the spool cannot be written.
    pub async fn restore_point(&self, plan: &Plan, backup: &Backup, timeline: Option<u32>, name: &str) -> Result<Option<(Segment, Lsn)>> {
        let bases = self.bases(None);
        let ways = bases.iter().filter_map(|base| way(base, Some(&self.archive), timeline).ok()?.reach);
        let mut segments: Vec<Segment> = ways.flat_map(|reach| reach.segments).collect();
        segments.sort_by_key(|segment| std::cmp::Reverse((segment.number, segment.timeline)));
        segments.dedup();
        let entry = bases.first().and_then(|base| self.catalog.entries.iter().find(|entry| entry.id == base.id));
        let major = entry.map_or(0, |entry| programs::major(&entry.manifest.server_version));
        let Some(bin_dir) = waldump(plan, backup, major) else { return Ok(None) };
        let folder = Spooled::make(&plan.spool_dir, self.archive.segment_bytes)?;
        for segment in segments.iter().take(LOOKED_THROUGH_MAX) {
            let path = match self.lay(backup.name.as_str(), *segment, folder.path()).await {
                Ok(Some(path)) => path,
                Ok(None) => continue,
                Err(error) if error.kind == Kind::Damaged => continue,
                Err(error) => return Err(error),
            };
            let mut found = None;
            dump(&bin_dir, "XLOG", &path, |line| found = restore_point(line, name).or(found)).await?;
            let _ = std::fs::remove_file(&path);
            if let Some(lsn) = found {
                return Ok(Some((*segment, lsn)));
            }
        }
        Ok(None)
    }

    /// The copy of a base backup that is read: in the store where it has the highest rung, the first of equals.
    ///
    /// # Errors
    /// It is in none of them.
    pub fn copy(&self, id: &crate::catalog::Id) -> Result<(&Entry, &Name, &Arc<dyn Store>)> {
        let entry = self.catalog.entries.iter().find(|entry| entry.id == *id);
        let entry = entry.ok_or_else(|| Error::new(Kind::NotFound, format!("there is no backup {id}")))?;
        let rung = |name: &Name| entry.rung_in(name.as_str()).filter(|rung| *rung > Rung::Bad);
        let best = self.stores.iter().rev().filter(|(name, _)| rung(name).is_some()).max_by_key(|(name, _)| rung(name));
        let (name, store) = best.ok_or_else(|| Error::new(Kind::Damaged, format!("no store has a sound copy of {id}")))?;
        Ok((entry, name, store))
    }
}

/// The folder of the pg_waldump of a major version: that of another takes none of its pages, and says nothing.
fn waldump(plan: &Plan, backup: &Backup, major: u32) -> Option<PathBuf> {
    let given = plan.servers.get(&backup.server).and_then(|server| server.bin_dir.clone());
    programs::of_server(given, major).ok().filter(|dir| programs::major_in(dir) == Some(major))
}

/// The newest end of a transaction in a segment.
///
/// # Errors
/// There is no pg_waldump, or it cannot look.
pub async fn newest_transaction(bin_dir: &Path, segment: &Path) -> Result<Option<DateTime<Utc>>> {
    let mut newest = None;
    dump(bin_dir, "Transaction", segment, |line| newest = newest.max(ended(line).map(Ended::at))).await?;
    Ok(newest)
}

/// What pg_waldump says of the records of one sort in a segment, line by line.
async fn dump(bin_dir: &Path, rmgr: &str, segment: &Path, mut heard: impl FnMut(&str)) -> Result<()> {
    let host = LocalHost::new(Some(bin_dir.to_owned()));
    let call = Call {
        program: "pg_waldump",
        args: vec![format!("--rmgr={rmgr}"), segment.display().to_string()],
        env: vec![("TZ".to_owned(), "UTC".to_owned())],
        password: None,
        tag: Tag::random(),
        stdin: false,
        input: None,
    };
    let mut process = host.start(call).await?;
    // Names in it are in the encoding of the cluster.
    let mut lines = BufReader::new(&mut process.stdout).split(b'\n');
    while let Some(line) = lines.next_segment().await.map_err(|error| Error::system("cannot read from pg_waldump", &error))? {
        heard(&String::from_utf8_lossy(&line));
    }
    let exit = process.running.wait().await?;
    let said = process.stderr.text();
    // At the end of a segment a record goes on in the next one: that is no failure.
    if exit.is_success() || ["WAL record", "valid record"].iter().any(|words| said.contains(words)) {
        return Ok(());
    }
    Err(explain("pg_waldump", exit, &said))
}
