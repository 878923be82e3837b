//! `wal push`, `wal fetch`, `wal status`

use std::path::Path;

use super::Done;
use super::args::WalCommand;
use super::session::{Session, Uses, runtime};
use crate::config::Plan;
use crate::config::plan::Backup;
use crate::config::values::Name;
use crate::error::{Error, Kind, Result, exit};
use crate::host::detached;
use crate::job::physical::{fetch, push};
use crate::job::run::{find, refuse_not_yet};

/// "Anything else" to `restore_command`: PostgreSQL takes 1 to 125 for the end of the archive and promotes.
pub const NO_ANSWER: u8 = 255;

pub fn wal(session: &Session, command: &WalCommand) -> Done {
    match command {
        WalCommand::Push { file, backup } => push(session, backup.as_deref(), file),
        WalCommand::Fetch { name, dest, backup, store, ahead } => {
            fetch(session, &Wanted { name, dest, backup: backup.as_deref(), store: store.as_deref() }, *ahead)
        }
    }
}

fn push(session: &Session, backup: Option<&str>, file: &Path) -> Done {
    // Not as the owner of state_dir: who archives is the server's user.
    let opened = session.open_as_caller(Uses::None)?;
    let backup = choose(&opened.plan, backup)?;
    refuse_not_yet(&opened.plan, &backup.name)?;
    runtime()?.block_on(push::push(&opened.plan, backup, file))?;
    Ok(exit::OK)
}

struct Wanted<'a> {
    name: &'a str,
    dest: &'a Path,
    backup: Option<&'a str>,
    store: Option<&'a str>,
}

fn fetch(session: &Session, wanted: &Wanted<'_>, ahead: bool) -> Done {
    let opened = session.open_as_caller(Uses::None)?;
    let backup = choose(&opened.plan, wanted.backup)?;
    let only = wanted.store.map(|store| store_of(backup, store)).transpose()?;
    let stores = fetch::stores(&opened.plan, backup, only)?;
    let name = backup.name.as_str();
    let runtime = runtime()?;
    if ahead {
        runtime.block_on(fetch::ahead(&stores, name, wanted.name, wanted.dest))?;
        return Ok(exit::OK);
    }
    if !runtime.block_on(fetch::fetch(&stores, name, wanted.name, wanted.dest))? {
        return Ok(exit::FAILED);
    }
    if fetch::wants_ahead(wanted.name, wanted.dest) {
        // While recovery replays this one. It is only a matter of speed: what fails is fetched when asked for.
        let _ = detached::start_again("--ahead");
    }
    Ok(exit::OK)
}

fn store_of<'a>(backup: &'a Backup, store: &str) -> Result<&'a Name> {
    backup.stores.iter().find(|name| name.as_str() == store).ok_or_else(|| {
        let names: Vec<&str> = backup.stores.iter().map(Name::as_str).collect();
        Error::new(Kind::NotFound, format!("backup {} is in no store {store:?}", backup.name))
            .hint(format!("it is in {}", names.join(", ")))
    })
}

/// The physical backup that is meant: the one of that name, or the only one.
fn choose<'a>(plan: &'a Plan, name: Option<&str>) -> Result<&'a Backup> {
    let physical: Vec<&Backup> = plan.backups.values().filter(|backup| backup.physical.is_some()).collect();
    let names = || physical.iter().map(|backup| backup.name.as_str()).collect::<Vec<_>>().join(", ");
    match (name, &physical[..]) {
        (Some(name), _) => {
            let backup = find(plan, name)?;
            if backup.physical.is_none() {
                return Err(Error::new(Kind::Usage, format!("backup {name} is one of dumps: it has no log"))
                    .hint(format!("physical ones: {}", names())));
            }
            Ok(backup)
        }
        (None, [only]) => Ok(only),
        (None, []) => Err(Error::new(Kind::Config, "the file has no physical backup").hint("add [backups.NAME] with kind = \"physical\"")),
        (None, _) => {
            Err(Error::new(Kind::Usage, "the file has several physical backups").hint(format!("add --backup NAME, one of: {}", names())))
        }
    }
}

/// Whether a command line is a fetch, even one that cannot be read: it must say "no such file" by nothing
/// but that answer.
pub fn is_fetch(args: impl Iterator<Item = String>) -> bool {
    let mut words = args.skip_while(|word| word != "wal");
    words.next().is_some() && words.any(|word| word == "fetch")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetch_is_known_before_its_arguments_are_read() {
        for (line, is) in [
            ("pgvigil wal fetch", true),
            ("pgvigil --config x wal --backup c fetch a b", true),
            ("pgvigil wal push fetch.history", false),
            ("pgvigil wal status", false),
            ("pgvigil fetch", false),
        ] {
            assert_eq!(is_fetch(line.split(' ').map(str::to_owned)), is, "{line}");
        }
    }
}
