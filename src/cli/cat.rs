//! `cat ID [FILE]`

use std::io::Write;

use super::session::{Session, Uses, runtime};
use super::{Done, list};
use crate::catalog::manifest::MANIFEST;
use crate::catalog::{Entry, FileEntry, Role, Wanted};
use crate::config::file::Format;
use crate::error::{Error, Kind, Result, exit, plain_io};
use crate::job::stores;
use crate::pack::codec::Codec;
use crate::pack::unpacker::unpack;
use crate::verify::read_back::{HashingReader, compare};

pub fn cat(session: &Session, id: &str, file: Option<&str>) -> Done {
    let wanted = Wanted::parse(id)?;
    let opened = session.open(Uses::None)?;
    let catalog = list::catalog(&opened.plan, Some(&wanted.backup))?;
    let entry = catalog.find(&wanted)?;
    if file == Some(MANIFEST) {
        return super::output::text(&String::from_utf8_lossy(&entry.manifest.to_json()?));
    }
    let file = choose(entry, file)?;
    // The best copy first.
    let mut copies: Vec<&String> = entry.copies.keys().collect();
    copies.sort_by_key(|name| std::cmp::Reverse(entry.rung_in(name)));
    let store = stores::open(&opened.plan.stores[copies[0].as_str()], "")?;
    runtime()?.block_on(async {
        let reader = store.read(&entry.id, &file.name).await?;
        let (reader, hashed) = HashingReader::new(reader);
        let archive = file.role == Role::Dump && entry.manifest.format != Format::Plain;
        let codec = if archive { Codec::None } else { Codec::of_name(&file.name) };
        let (out, mut blocks) = tokio::sync::mpsc::channel(4);
        let unpacked = tokio::spawn(unpack(reader, codec, out));
        let mut stdout = std::io::stdout().lock();
        while let Some(block) = blocks.recv().await {
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
        match unpacked.await {
            Ok(result) => result.map_err(|error| damaged(error.message))?,
            Err(error) => return Err(damaged(error.to_string())),
        }
        compare(file, &hashed).map_err(damaged)?;
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
