//! `cat ID [FILE]`

use std::io::Write;
use std::path::Path;

use super::session::{Session, Uses, runtime};
use super::{Done, list};
use crate::catalog::manifest::MANIFEST;
use crate::catalog::{Entry, FileEntry, Role, Wanted};
use crate::error::{Error, Kind, Result, exit, plain_io};
use crate::job::{keys, stores};
use crate::verify::read_back::compare;
use crate::verify::stored::Stored;

pub fn cat(session: &Session, id: &str, file: Option<&str>, identity: Option<&Path>) -> Done {
    let wanted = Wanted::parse(id)?;
    // With the caller's rights, which may end with the next step.
    let given = identity.map(keys::of_file).transpose()?;
    let opened = session.open(Uses::None)?;
    let catalog = list::catalog(&opened.plan, Some(&wanted.backup))?;
    let entry = catalog.find(&wanted)?;
    if !entry.counts() {
        super::output::warn(&format!("{} is {}: anybody may have written it", entry.id, entry.signed()), None);
    }
    let keys = keys::of(&opened.plan, &entry.manifest, given)?;
    // The best copy first.
    let mut copies: Vec<&String> = entry.copies.keys().collect();
    copies.sort_by_key(|name| std::cmp::Reverse(entry.rung_in(name)));
    let store = stores::open(&opened.plan.stores[copies[0].as_str()], "")?;
    if file == Some(MANIFEST) {
        // As it lies there: a signature is of the very bytes.
        let documents = runtime()?.block_on(store.documents(&entry.id))?;
        let manifest = documents.iter().find(|(name, _)| name == MANIFEST).map(|(_, bytes)| String::from_utf8_lossy(bytes));
        return super::output::text(&manifest.unwrap_or_default());
    }
    let file = choose(entry, file)?;
    runtime()?.block_on(async {
        let stored = Stored { store: &*store, id: &entry.id, manifest: &entry.manifest, keys: &keys };
        let mut unpacked = stored.unpacked(file).await?;
        let mut stdout = std::io::stdout().lock();
        while let Some(block) = unpacked.blocks.recv().await {
            match stdout.write_all(&block) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(exit::OK),
                Err(error) => return Err(Error::new(Kind::System, format!("cannot write to stdout: {}", plain_io(&error)))),
            }
        }
        let damaged = |why: String| {
            Error::new(Kind::Damaged, format!("{}: {why}", file.name))
                .hint(format!("what was written is not whole; pgvigil verify {}", entry.id))
        };
        unpacked.end().await.map_err(|error| damaged(error.message))?;
        compare(file, &unpacked.hashed).map_err(damaged)?;
        stdout.flush().map_err(|error| Error::new(Kind::System, format!("cannot write to stdout: {}", plain_io(&error))))?;
        Ok(exit::OK)
    })
}

fn choose<'a>(entry: &'a Entry, name: Option<&str>) -> Result<&'a FileEntry> {
    let files = &entry.manifest.files;
    let names = || {
        let mut names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        names.push(MANIFEST);
        format!("its files: {}", names.join(" "))
    };
    if let Some(name) = name {
        let found = files.iter().find(|file| file.name == name);
        return found.ok_or_else(|| Error::new(Kind::NotFound, format!("{} has no file {name:?}", entry.id)).hint(names()));
    }
    let mut dumps = files.iter().filter(|file| file.role == Role::Dump);
    match (dumps.next(), dumps.next()) {
        (Some(only), None) => Ok(only),
        _ => Err(Error::new(Kind::Usage, format!("{} has more than one dump: name the file", entry.id)).hint(names())),
    }
}
