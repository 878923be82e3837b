//! Files of the log that lie in a folder here, put into every store of their backup.
//!
//! Each store has a follower of its own, who puts them in the order of the log: one that is away or slow
//! delays nobody else. What is durable in all of them is removed; until then it stays where it is, so nothing
//! is lost however this ends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::Plan;
use crate::config::plan::Backup;
use crate::config::values::Name;
use crate::error::{Error, Kind};
use crate::host::arrivals::Arrivals;
use crate::host::clock;
use crate::job::physical::anew::Anew;
use crate::job::physical::archive::Claimed;
use crate::job::physical::folder::{self, Version};
use crate::job::physical::push::Sealed;
use crate::job::physical::sight::Sight;
use crate::job::physical::stream;
use crate::job::stores;
use crate::physical::inbox::{self, Stays, Whole};
use crate::store::Store;
use crate::wal::page::FirstPage;
use crate::wal::{Lsn, WalName};

/// How often the folder is looked at when nothing comes into it: what another machine does there not every file
/// system tells.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The longest wait after a failure; the first is as long as between two looks, each further one twice as long.
const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// How long a store may take at the end for what has just come.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Brings the log of a backup into its stores until it is told to end, and what has come by then. Whatever fails is
/// told and tried again.
pub async fn bring(plan: &Plan, backup: &Backup, owner: &str, anew: &Anew, cancel: &CancellationToken) {
    let Some((folder, stays)) = folder::of(plan, backup) else { return };
    let server = &plan.servers[&backup.server];
    let sight = Sight::new(if stays == Stays::ForReceiver { stream::over_the_network(server) } else { server.clone() });
    let delivery = Delivery { plan, backup, folder: &folder, owner, sight };
    let delivered = Box::pin(async {
        match stays {
            Stays::Nothing | Stays::Left => delivery.follow(cancel).await,
            Stays::ForReceiver => {
                let received = CancellationToken::new();
                let receive = async {
                    stream::receive(plan, backup, &folder, anew, cancel).await;
                    received.cancel();
                };
                tokio::join!(delivery.follow(&received), receive);
            }
        }
    });
    tokio::select! {
        () = delivered => {}
        never = delivery.sight.keep_looking() => match never {},
    }
}

/// Where files of the log lie, and whose they are.
struct Delivery<'a> {
    plan: &'a Plan,
    backup: &'a Backup,
    folder: &'a Path,
    owner: &'a str,
    sight: Sight,
}

/// What the followers know of each other.
#[derive(Default)]
struct Shared {
    /// Which stores have what still lies there.
    stored: BTreeMap<Version, BTreeSet<Name>>,
    /// What each has told last: what all of them see is told once.
    told: BTreeMap<Name, BTreeSet<String>>,
}

/// What came of a look.
#[derive(Default)]
struct Pass {
    /// Of the folder and of single files, for which nothing else has to wait.
    wrong: Vec<String>,
    /// The store is away.
    away: Option<String>,
}

impl Delivery<'_> {
    async fn follow(&self, cancel: &CancellationToken) {
        let shared = Mutex::default();
        futures_util::future::join_all(self.backup.stores.iter().map(|store| self.follow_for(store, &shared, cancel))).await;
    }

    async fn follow_for(&self, store: &Name, shared: &Mutex<Shared>, cancel: &CancellationToken) {
        let mut ends = std::pin::pin!(async {
            cancel.cancelled().await;
            tokio::time::sleep(END_WITHIN).await;
        });
        let mut wait = LOOK_EVERY;
        loop {
            let is_last = cancel.is_cancelled();
            // From before the look: what comes meanwhile is not missed.
            let arrivals = Arrivals::of(self.folder);
            let Pass { wrong, away } = tokio::select! {
                pass = self.pass(store, shared) => pass,
                () = &mut ends => return,
            };
            let is_away = away.is_some();
            wait = if is_away { (wait * 2).min(BACKOFF_MAX) } else { LOOK_EVERY };
            self.tell(store, wrong.into_iter().chain(away).collect(), shared);
            if is_last {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = arrivals.next(), if !is_away => {}
                () = cancel.cancelled() => {}
            }
        }
    }

    fn tell(&self, store: &Name, problems: BTreeSet<String>, shared: &Mutex<Shared>) {
        let mut shared = lock(shared);
        let is_new = |problem: &&String| !shared.told.values().any(|told| told.contains(*problem));
        for problem in problems.iter().filter(is_new) {
            tracing::warn!(backup = %self.backup.name, problem, "log waits in {}", self.folder.display());
        }
        shared.told.insert(store.clone(), problems);
    }

    async fn pass(&self, name: &Name, shared: &Mutex<Shared>) -> Pass {
        let mut all = Pass::default();
        for (folder, stays) in folder::all(self.plan, self.backup) {
            let Pass { wrong, away } = self.pass_in(&folder, stays, name, shared).await;
            all.wrong.extend(wrong);
            if away.is_some() {
                return Pass { away, ..all };
            }
        }
        all
    }

    async fn pass_in(&self, folder: &Path, stays: Stays, name: &Name, shared: &Mutex<Shared>) -> Pass {
        let sorted = match folder::look(folder, stays) {
            Ok(sorted) if sorted.whole.is_empty() && sorted.foreign.is_empty() => return Pass::default(),
            Ok(sorted) => sorted,
            Err(error) => return Pass { wrong: vec![error.message], away: None },
        };
        let foreign = inbox::foreign(&folder.display().to_string(), &sorted);
        let mut pass = Pass { wrong: foreign.into_iter().collect(), away: None };
        let away = |error: Error| Some(error.context(format_args!("store {name}")).message);
        let store = match stores::open(&self.plan.stores[name], self.owner) {
            Ok(store) => store,
            Err(error) => return Pass { away: away(error), ..pass },
        };
        let mut claimed = Claimed::default();
        for whole in &sorted.whole {
            match self.take(folder, whole, name, &*store, &mut claimed, shared).await {
                Ok(Some(version)) => {
                    let is_everywhere = lock(shared).stored.get(&version).is_some_and(|there| there.len() == self.backup.stores.len());
                    if is_everywhere && !stays.keeps(whole, &sorted) {
                        pass.wrong.extend(folder::remove(folder, &version).err().map(|error| error.message));
                        lock(shared).stored.remove(&version);
                    }
                }
                Err(Hindered::File(why)) if whole.is_settled(clock::now()) => pass.wrong.push(format!("{}: {why}", whole.name)),
                // Another follower has just removed it, or it is still being written.
                Ok(None) | Err(Hindered::File(_)) => {}
                Err(Hindered::Store(error)) => return Pass { away: away(error), ..pass },
            }
        }
        pass
    }

    /// Puts one file into a store, unless it is there. `None`: it has gone.
    async fn take(
        &self,
        folder: &Path,
        whole: &Whole,
        name: &Name,
        store: &dyn Store,
        claimed: &mut Claimed,
        shared: &Mutex<Shared>,
    ) -> Result<Option<Version>, Hindered> {
        let path = folder.join(&whole.name);
        let unreadable = |error: std::io::Error| Hindered::File(folder::unreadable(&error));
        let version = match Version::of(&path) {
            Ok(version) => version,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        if lock(shared).stored.get(&version).is_some_and(|there| there.contains(name)) {
            return Ok(Some(version));
        }
        // It may have become another since.
        let (raw, version) = folder::read(&path).map_err(unreadable)?;
        let told_until = end_of(whole, &raw).and_then(|end| self.sight.told_until(end));
        let sealed = Sealed::new(&version.name, whole.parsed, &raw, told_until, &self.backup.encrypt_to);
        let sealed = sealed.map_err(|error| Hindered::File(error.message))?;
        drop(raw);
        sealed.put(store, self.backup.name.as_str(), claimed).await.map_err(|error| match error.kind {
            Kind::Refused | Kind::Damaged => Hindered::File(error.context(format_args!("store {name}")).message),
            _ => Hindered::Store(error),
        })?;
        lock(shared).stored.entry(version.clone()).or_default().insert(name.clone());
        Ok(Some(version))
    }
}

/// The place just behind a segment.
fn end_of(whole: &Whole, raw: &[u8]) -> Option<Lsn> {
    let WalName::Segment(numbers) = whole.parsed else { return None };
    let bytes = FirstPage::parse(raw).ok()?.segment_bytes;
    Some(numbers.segment(bytes)?.end(bytes))
}

/// Why a file is not in a store.
enum Hindered {
    /// Its own fault: nothing else has to wait for it.
    File(String),
    /// The store is away: what follows waits, too, so that it gets the log in its order.
    Store(Error),
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
