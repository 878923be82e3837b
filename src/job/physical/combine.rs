//! A base backup out of its stores into a folder: a whole one as it is, an incremental one combined with all
//! that it holds the changes since.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::catalog::{Entry, Id};
use crate::config::Plan;
use crate::config::plan::Backup;
use crate::error::{Error, Kind, Result};
use crate::host::local::LocalHost;
use crate::host::{Call, Ended, Exit, Host, Tag, failed, words_of_the_engine};
use crate::job::physical::look::Seen;
use crate::job::physical::start;
use crate::job::physical::unpack::{Folders, make_folder, unpack_all};
use crate::pack::packer::Meter;
use crate::pack::tar::BACKUP_MANIFEST;
use crate::physical::chain;
use crate::postgres::programs::parse_version;
use crate::postgres::throwaway::Inside;
use crate::state::{CopyLock, State};
use crate::verify::stored::Stored;

/// From this major version on files need not be copied from a part that is removed anyway.
const LINKS: u32 = 18;

/// What is fetched for a base backup, and how much room that takes.
pub struct Parts<'a> {
    plan: &'a Plan,
    backup: &'a Backup,
    seen: &'a Seen,
    /// The whole one first.
    chain: Vec<&'a Entry>,
}

impl<'a> Parts<'a> {
    /// # Errors
    /// One of them is not there, or bad.
    pub fn of(plan: &'a Plan, backup: &'a Backup, seen: &'a Seen, id: &Id) -> Result<Self> {
        let chain = chain::of(&seen.catalog.entries, id);
        let chain = chain.map_err(|why| {
            Error::new(Kind::Damaged, format!("{id} cannot be combined: {why}"))
                .hint("restore an earlier base backup; the log leads on from it")
        })?;
        Ok(Parts { plan, backup, seen, chain })
    }

    pub fn entries(&self) -> &[&'a Entry] {
        &self.chain
    }

    /// Holds them, so that nobody deletes one.
    ///
    /// # Errors
    /// `state_dir` cannot be written.
    pub async fn hold(&self, state: &State) -> Result<Vec<CopyLock>> {
        let mut held = Vec::new();
        for entry in &self.chain {
            held.extend(state.hold_copy_or_go_on(&entry.id).await?);
        }
        Ok(held)
    }

    /// Unpacked.
    pub fn raw_bytes(&self) -> u64 {
        self.chain.iter().map(|entry| entry.manifest.raw_bytes()).sum()
    }

    /// Room that is needed while it is combined, in bytes; none for a whole one.
    pub fn beside_bytes(&self) -> u64 {
        if self.chain.len() > 1 { self.raw_bytes() } else { 0 }
    }

    /// Lays it out. `last` is the copy that is asked for; the others come from where they are sound. `beside` is
    /// a folder of the same disk that is not there yet, and is gone again afterwards.
    ///
    /// # Errors
    /// Something of it is damaged or missing, or PostgreSQL's own program does not combine it.
    pub async fn lay_out(&self, last: Stored<'_>, into: &Folders<'_>, beside: &Path, meter: &Arc<Meter>) -> Result<()> {
        let seen = self.seen;
        if self.chain.len() < 2 {
            return unpack_all(last, into, meter).await.map(drop);
        }
        let at = if let Some(inside) = into.inside {
            At::Inside(inside)
        } else {
            let bin_dir = start::programs_for(self.plan, self.backup, last.manifest)?;
            make_folder(beside)?;
            At::Here(LocalHost::new(Some(bin_dir)), Removed(beside.to_owned()))
        };
        let mut parts = Vec::new();
        for (n, entry) in self.chain.iter().enumerate() {
            let stored = if entry.id == *last.id {
                last
            } else {
                let (entry, _, store) = seen.copy(&entry.id)?;
                Stored { store: &**store, id: &entry.id, manifest: &entry.manifest, keys: &seen.keys }
            };
            parts.push(part(stored, &beside.join(n.to_string()), into.inside, meter).await?);
        }
        let Some(newest) = parts.last() else { return Ok(()) };
        let mut args = vec![format!("--output={}", into.data.display()), "--no-sync".to_owned(), "--no-manifest".to_owned()];
        if parse_version(&last.manifest.server_version).is_some_and(|(major, _)| major >= LINKS) {
            args.push("--link".to_owned());
        }
        for (oid, place) in into.tablespaces {
            let from = newest.tablespaces.iter().find(|(known, _)| known == oid).map(|(_, from)| from);
            args.extend(from.map(|from| format!("--tablespace-mapping={}={}", mapped(from), mapped(place))));
        }
        args.extend(parts.iter().map(|part| part.data.display().to_string()));
        match at {
            At::Here(host, _removed) => combine(&host, args).await,
            At::Inside(inside) => {
                combine(&inside.host(), args).await?;
                inside.remove_folder(beside).await
            }
        }
    }
}

/// Where the parts lie and are combined.
enum At<'a> {
    Here(LocalHost, Removed),
    /// They go with it, if not before.
    Inside(&'a Inside),
}

/// A path in a mapping, where `=` parts the two.
fn mapped(path: &Path) -> String {
    path.display().to_string().replace('\\', "\\\\").replace('=', "\\=")
}

struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A base backup as PostgreSQL itself lays one out.
struct Part {
    data: PathBuf,
    tablespaces: Vec<(u32, PathBuf)>,
}

async fn part(stored: Stored<'_>, data: &Path, inside: Option<&Inside>, meter: &Arc<Meter>) -> Result<Part> {
    let failed = |error: &std::io::Error| Error::system(format_args!("cannot write into {}", data.display()), error);
    let spaces = stored.manifest.physical.iter().flat_map(|physical| &physical.tablespaces);
    let tablespaces: Vec<(u32, PathBuf)> =
        spaces.map(|space| (space.oid, PathBuf::from(format!("{}_{}", data.display(), space.oid)))).collect();
    let folders = Folders { data, tablespaces: &tablespaces, inside };
    let link_of = |oid: &u32| data.join("pg_tblspc").join(oid.to_string());
    if let Some(inside) = inside {
        let manifest = unpack_all(stored, &folders, meter).await?;
        let mut files = inside.unpack_into(data).await?;
        files.file(BACKUP_MANIFEST, &manifest).await?;
        files.finish().await?;
        for (oid, place) in &tablespaces {
            inside.link(place, &link_of(oid)).await?;
        }
    } else {
        make_folder(data)?;
        for (_, place) in &tablespaces {
            make_folder(place)?;
        }
        let manifest = unpack_all(stored, &folders, meter).await?;
        std::fs::write(data.join(BACKUP_MANIFEST), manifest).map_err(|error| failed(&error))?;
        for (oid, place) in &tablespaces {
            std::os::unix::fs::symlink(place, link_of(oid)).map_err(|error| failed(&error))?;
        }
    }
    Ok(Part { data: data.to_owned(), tablespaces })
}

async fn combine(host: &dyn Host, args: Vec<String>) -> Result<()> {
    const PROGRAM: &str = "pg_combinebackup";
    let call = Call { program: PROGRAM, args, env: Vec::new(), password: None, tag: Tag::random(), stdin: false, input: None };
    let Ended { exit, said, stderr } = host.start(call).await?.ended().await?;
    if exit.is_success() {
        return Ok(());
    }
    if let (Exit::Code(126 | 127), Some(_)) = (exit, words_of_the_engine(&said)) {
        return Err(Error::unverifiable(format_args!("the image of the source has no {PROGRAM}"))
            .hint("drill on = \"local\", with the server's version of PostgreSQL installed here"));
    }
    // Every byte that it reads has been checked: where there is no room the base backups are not to blame.
    if stderr.contains("No space left on device") {
        return Err(failed(Kind::System, PROGRAM, exit, &stderr).hint("it needs room for all of the chain beside the cluster"));
    }
    Err(failed(Kind::Damaged, PROGRAM, exit, &stderr).hint("restore an earlier base backup; the log leads on from it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equals_sign_in_a_path_parts_nothing() {
        assert_eq!(mapped(Path::new("/a=b/c")), "/a\\=b/c");
    }
}
