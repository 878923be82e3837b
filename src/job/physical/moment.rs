//! A cluster as of a moment, started in a place of the spool to be asked something. It is reached by its socket
//! only, and goes with its place.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::Plan;
use crate::error::{Error, Kind, Result};
use crate::host::Tag;
use crate::job::physical::combine::Parts;
use crate::job::physical::place::Place;
use crate::job::physical::restore::{Asked, Looked, judge, lay, make_folders};
use crate::job::physical::start;
use crate::job::progress::Progress;
use crate::physical::recovery::{self, ABSENT, BESIDE, Reached, Source, WANTED};
use crate::postgres::Server;
use crate::postgres::programs;
use crate::postgres::throwaway::{Prepared, Throwaway, Wanted};
use crate::state::State;
use crate::wal::Segment;
use crate::wal::name::is_behind;

/// How many segments are laid beside recovery ahead of the one that it asks for.
const AHEAD: usize = 2;

/// How often it is looked whether recovery asks for a file.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// One that runs, with its recovery behind it.
pub struct Moment {
    throwaway: Throwaway,
    /// Where it truly is.
    pub reached: Reached,
}

impl Moment {
    pub fn server(&self) -> &Server {
        &self.throwaway.server
    }

    /// Ends and removes it.
    pub async fn close(self) {
        if let Err(error) = self.throwaway.remove().await {
            tracing::warn!(%error, "something of a cluster as of a moment is left; its place is emptied later");
        }
    }
}

/// Makes one of what was looked for. `asked` and `looked` are told where it lies. Whoever breaks it off empties
/// the place.
///
/// # Errors
/// There are no programs of its version, something is damaged, or recovery does not come to the target.
pub async fn open(plan: &Plan, looked: &mut Looked<'_>, asked: &mut Asked, place: &Place, progress: &Progress) -> Result<Moment> {
    programs(plan, looked)?;
    // Retention leaves the copy alone meanwhile, and what it builds on.
    let _held = Parts::of(plan, looked.backup, &looked.seen, &looked.way.base)?.hold(&State::open(&plan.state_dir)?).await?;
    let physical = looked.physical()?.clone();
    let wanted = Wanted {
        major: programs::major(&looked.manifest.server_version),
        superuser: &physical.superuser,
        preload: physical.settings.get("shared_preload_libraries").map(String::as_str),
        tag: Tag::random(),
        owner: place.owner(),
        folder: place.folder(),
    };
    let prepared = Prepared::here(plan.servers.get(&looked.backup.server), &wanted).await?;
    asked.data = prepared.data();
    let laid = async {
        looked.places =
            recovery::places(&physical.tablespaces, &[], &asked.data.display().to_string()).map_err(|why| Error::new(Kind::Usage, why))?;
        make_folders(&asked.data, &looked.places).await?;
        lay(plan, looked, asked, progress).await.map_err(no_room)?;
        configure(looked, &asked.data, wanted.major)
    };
    if let Err(error) = laid.await {
        return Err(prepared.give_up(error).await);
    }
    progress.begin("replaying the log");
    // Whoever is told to stop drops all of it.
    let never = CancellationToken::new();
    let throwaway = tokio::select! {
        started = prepared.start(&wanted, &physical.settings, &never) => started.map_err(not_reached)?,
        fed = feed(looked, asked.data.join(BESIDE)) => match fed {
            Err(error) => return Err(error),
            Ok(never) => match never {},
        },
    };
    let reached = Reached::parse(&throwaway.log());
    let moment = Moment { throwaway, reached };
    if let Err(error) = judge(looked.way.reach.as_ref(), &looked.stop, looked.seen.archive.segment_bytes, &moment.reached) {
        moment.close().await;
        return Err(Error { hint: Some("pgvigil wal status names gaps of the archive".to_owned()), ..error });
    }
    Ok(moment)
}

/// The programs that it takes.
///
/// # Errors
/// They are not here.
pub fn programs(plan: &Plan, looked: &Looked<'_>) -> Result<PathBuf> {
    start::programs_for(plan, looked.backup, &looked.manifest).map_err(|error| {
        let major = programs::major(&looked.manifest.server_version);
        Error { hint: Some(format!("install postgresql-{major}, or set bin_dir of the server")), ..error }
    })
}

fn no_room(error: Error) -> Error {
    if error.kind == Kind::Refused && error.message.contains("would not fit") {
        return Error { hint: Some("set spool_dir to a larger disk".to_owned()), ..error };
    }
    error
}

/// Writes what PostgreSQL is told. What the live one was told beside its file has no place here.
fn configure(looked: &Looked<'_>, data: &Path, major: u32) -> Result<()> {
    let failed = |error: &io::Error| Error::system(format_args!("cannot write into {}", data.display()), error);
    let write = |name: &str, text: &str| std::fs::write(data.join(name), text).map_err(|error| failed(&error));
    let recovery = looked.recovery(&Source::Fed, major);
    if recovery.is_some() {
        std::fs::create_dir(data.join(BESIDE)).map_err(|error| failed(&error))?;
        write("recovery.signal", "")?;
    }
    write("postgresql.auto.conf", &recovery::auto_conf("", recovery.as_ref()))?;
    let _ = std::fs::remove_file(data.join("standby.signal"));
    if !looked.places.is_empty() {
        write("tablespace_map", &recovery::tablespace_map(&looked.places))?;
    }
    Ok(())
}

/// Lays beside recovery what it asks for, for as long as it is waited for: it needs neither our secrets nor a
/// network, nor all of the log at once.
///
/// # Errors
/// A store does not answer, a file is damaged, or the folder cannot be written.
async fn feed(looked: &Looked<'_>, folder: PathBuf) -> Result<Infallible> {
    loop {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_suffix(WANTED)).map(str::to_owned) else { continue };
            let given = give(looked, &folder, &name).await?;
            let _ = std::fs::remove_file(entry.path());
            if given {
                give_ahead(looked, &folder, &name).await;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Lays one file. False: the archive has none of that name.
async fn give(looked: &Looked<'_>, folder: &Path, name: &str) -> Result<bool> {
    let is_behind = looked.last_segment().is_some_and(|last| is_behind(name, &last));
    let raw = if is_behind { None } else { looked.seen.read(looked.backup.name.as_str(), name).await? };
    let is_needed = |segment: &Segment| looked.way.reach.as_ref().is_some_and(|reach| reach.segments.contains(segment));
    if raw.is_none() && !is_behind && Segment::parse(name, looked.seen.archive.segment_bytes).as_ref().is_some_and(is_needed) {
        // It was there when it was looked for: that is no end of the log.
        return Err(Error::new(Kind::Damaged, format!("{name} is not in the archive any more")));
    }
    let failed = |error: &io::Error| Error::system(format_args!("cannot write into {}", folder.display()), error);
    match &raw {
        Some(raw) => lay_file(folder, name, raw),
        None => lay_file(folder, &format!("{name}{ABSENT}"), &[]),
    }
    .map_err(|error| failed(&error))?;
    Ok(raw.is_some())
}

/// Lays the next ones. What cannot be had behind the target must not stop what needs it not.
async fn give_ahead(looked: &Looked<'_>, folder: &Path, name: &str) {
    let bytes = looked.seen.archive.segment_bytes;
    let Some(reach) = &looked.way.reach else { return };
    let Some(at) = Segment::parse(name, bytes).and_then(|segment| reach.segments.iter().position(|there| *there == segment)) else {
        return;
    };
    for next in reach.segments[at + 1..].iter().take(AHEAD).map(|segment| segment.name(bytes)) {
        if folder.join(&next).exists() {
            continue;
        }
        if folder.join(format!("{next}{WANTED}")).exists() || give(looked, folder, &next).await.is_err() {
            return;
        }
    }
}

/// Whole under its name, and of the account that the server is.
fn lay_file(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let aside = folder.join(format!(".{name}"));
    std::fs::write(&aside, bytes)?;
    let owner = std::fs::metadata(folder)?;
    if owner.uid() != nix::unistd::geteuid().as_raw() {
        std::os::unix::fs::chown(&aside, Some(owner.uid()), Some(owner.gid()))?;
    }
    std::fs::rename(aside, folder.join(name))
}

/// Why it did not come to the target, in the words of a restore.
fn not_reached(error: Error) -> Error {
    if error.message.contains("recovery ended before configured recovery target was reached") {
        let last = Reached::parse(&error.message).last_transaction;
        let last = last.map(|at| format!("; the last transaction was at {}", crate::physical::target::in_utc(at))).unwrap_or_default();
        return Error::new(Kind::Postgres, format!("the log ended before the target was reached{last}")).hint(
            "take an earlier moment, or --latest for all there is; for a restore point or a transaction another base backup may lead there",
        );
    }
    if error.kind != Kind::Unverifiable {
        return error;
    }
    let words = error
        .message
        .replace("cannot verify: the drill's server does not come to the end of its log", "PostgreSQL did not come to the target");
    Error { kind: Kind::Postgres, message: words, hint: error.hint }
}

/// The databases that somebody can mean without saying so: not PostgreSQL's own.
pub fn own_databases<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    names.filter(|name| !["postgres", "template0", "template1"].contains(name)).collect()
}

/// The database that is meant, by what the base backup says. `None`: it was made later, if at all.
///
/// # Errors
/// There are several.
pub fn database(asked: Option<&str>, there: &[String], id: &str) -> Result<Option<String>> {
    if let Some(asked) = asked {
        return Ok(Some(asked.to_owned()));
    }
    match own_databases(there.iter().map(String::as_str)).as_slice() {
        [] => Ok(None),
        [one] => Ok(Some((*one).to_owned())),
        several => Err(which(&format!("{id} holds several databases"), several)),
    }
}

/// The same, by what is there at the moment.
///
/// # Errors
/// There are several, or none beside PostgreSQL's own.
pub fn database_there(known: Option<&str>, server: &Server) -> Result<String> {
    if let Some(known) = known {
        return Ok(known.to_owned());
    }
    let usable: Vec<&str> = server
        .facts
        .databases
        .iter()
        .filter(|database| database.is_usable() && database.is_template != Some(true))
        .map(|database| database.name.as_str())
        .collect();
    match own_databases(usable.iter().copied()).as_slice() {
        [] => Err(which("the cluster has no database of its own at that moment", &usable)),
        [one] => Ok((*one).to_owned()),
        several => Err(which("the cluster has several databases at that moment", several)),
    }
}

fn which(what: &str, names: &[&str]) -> Error {
    let names: Vec<String> = names.iter().map(|name| crate::postgres::quote::identifier_on_one_line(name)).collect();
    Error::new(Kind::Usage, what).hint(format!("add --database NAME; it has: {}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_database_that_is_nobodys_but_the_users() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(database(None, &names(&["postgres", "shop", "template0", "template1"]), "c/1"), Ok(Some("shop".to_owned())));
        assert_eq!(database(None, &names(&["postgres", "template1"]), "c/1"), Ok(None));
        assert_eq!(database(Some("postgres"), &names(&["postgres", "shop"]), "c/1"), Ok(Some("postgres".to_owned())));
        let error = database(None, &names(&["postgres", "a", "B"]), "c/1").unwrap_err();
        assert_eq!(error.hint.as_deref(), Some("add --database NAME; it has: \"a\", \"B\""));
    }

    #[test]
    fn what_recovery_says_in_the_words_of_a_restore() {
        let said = Error::unverifiable(
            "the drill's server does not come to the end of its log\n  FATAL:  recovery ended before configured recovery target was reached",
        );
        assert!(not_reached(said).message.starts_with("the log ended before the target was reached"));
        let said = Error::unverifiable("the drill's server does not come to the end of its log\n  PANIC:  x");
        let error = not_reached(said);
        assert_eq!((error.kind, &*error.message), (Kind::Postgres, "PostgreSQL did not come to the target\n  PANIC:  x"));
    }
}
