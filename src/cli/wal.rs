//! `wal push`, `wal fetch`, `wal status`

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::args::WalCommand;
use super::session::{Session, Uses, modest_runtime, runtime};
use super::{Done, output};
use crate::alert::problems::age;
use crate::config::Plan;
use crate::config::plan::Backup;
use crate::config::values::Name;
use crate::error::{Error, Kind, Result, exit};
use crate::host::{detached, memory, printable};
use crate::job::keys;
use crate::job::physical::status::{self, Status};
use crate::job::physical::{fetch, push};
use crate::job::run::find;
use crate::keys::Identities;
use crate::store::Store;
use crate::wal::name::is_behind;

/// "Anything else" to `restore_command`: PostgreSQL takes 1 to 125 for the end of the archive and promotes.
pub const NO_ANSWER: u8 = 255;

pub fn wal(session: &Session, command: &WalCommand) -> Done {
    match command {
        WalCommand::Push { file, backup } => push(session, backup.as_deref(), file),
        WalCommand::Status { backup } => status(session, backup.as_deref()),
        WalCommand::Fetch { name, until: Some(last), .. } if is_behind(name, last) => Ok(exit::FAILED),
        WalCommand::Fetch { name, dest, backup, store, identity, ahead, until: _ } => {
            let wanted = Wanted { name, dest, backup: backup.as_deref(), store: store.as_deref(), identity: identity.as_deref() };
            if *ahead {
                // Whoever started it has gone. Where PostgreSQL is the first process it takes the end of one that it never
                // started for the crash of a server process, unless it is a good one.
                let _ = fetch_ahead(session, &wanted);
                return Ok(exit::OK);
            }
            fetch(session, &wanted)
        }
    }
}

fn push(session: &Session, backup: Option<&str>, file: &Path) -> Done {
    // Not as the owner of state_dir: who archives is the server's user.
    let opened = session.open_as_caller(Uses::None)?;
    let backup = choose(&opened.plan, backup)?;
    let runtime = runtime()?;
    let pushed = runtime.block_on(push::push(&opened.plan, backup, file));
    // A store that hangs over what was not asked for must not keep the server waiting.
    runtime.shutdown_timeout(Duration::from_secs(1));
    pushed?;
    Ok(exit::OK)
}

fn status(session: &Session, backup: Option<&str>) -> Done {
    let opened = session.open(Uses::All)?;
    let plan = &opened.plan;
    let backups: Vec<&Backup> = match backup {
        Some(_) => vec![choose(plan, backup)?],
        None => plan.backups.values().filter(|backup| backup.physical.is_some()).collect(),
    };
    let mut all = Vec::new();
    runtime()?.block_on(async {
        for backup in backups {
            all.push(status::status(plan, backup).await?);
        }
        Result::Ok(())
    })?;
    let is_well = all.iter().all(|status| status.problems.is_empty() && status.error.is_none());
    if session.json {
        output::json(&all)?;
    } else {
        output::text(&all.iter().map(page).collect::<Vec<_>>().join("\n"))?;
    }
    Ok(if is_well { exit::OK } else { exit::PROBLEMS })
}

fn page(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<12}{value}");
    };
    line("backup", status.backup.clone());
    for (n, window) in status.windows.iter().enumerate() {
        line(if n == 0 { "windows" } else { "" }, window.in_words());
    }
    if status.windows.is_empty() {
        line("windows", "none: nothing can be restored to any moment".to_owned());
    }
    for gap in &status.gaps {
        let place = gap.store.as_ref().map(|store| format!(", in store {store}")).unwrap_or_default();
        line("gap", format!("{} to {} ({} segments{place})", gap.first, gap.last, gap.segments));
    }
    if let Some(last) = &status.last {
        line("last log", format!("{}, came {} ago", last.name, age(last.age_seconds)));
    }
    if let (Some(standing), Some(behind)) = (status.standing, status.bytes_behind) {
        line("archive", format!("{standing}; {} are on the server only", output::size(behind)));
    }
    if let Some(server) = &status.server {
        let waiting = server.waiting.map(|waiting| format!(", {waiting} segments wait to be archived")).unwrap_or_default();
        if let Some(bytes) = server.pg_wal_bytes {
            line("pg_wal", format!("{}{waiting}", output::size(u64::try_from(bytes).unwrap_or(0))));
        }
        if server.archive_timeout == 0 {
            line("note", "archive_timeout is 0: on an idle server what is committed last may wait for hours in an open segment".to_owned());
        }
        for slot in &server.slots {
            let held = slot.retained_bytes.map(|bytes| output::size(u64::try_from(bytes).unwrap_or(0))).unwrap_or_default();
            let bound = slot.safe_bytes.map_or("without a bound: set max_slot_wal_keep_size".to_owned(), |bytes| {
                format!("{} more before it is lost", output::size(u64::try_from(bytes).unwrap_or(0)))
            });
            line("slot", format!("{}, {}, holds {held} back; {bound}", slot.name, if slot.active { "read" } else { "nobody reads" }));
        }
    }
    for problem in status.problems.iter().chain(&status.error) {
        line("problem", printable(problem));
    }
    text
}

struct Wanted<'a> {
    name: &'a str,
    dest: &'a Path,
    backup: Option<&'a str>,
    store: Option<&'a str>,
    identity: Option<&'a Path>,
}

fn fetch(session: &Session, wanted: &Wanted<'_>) -> Done {
    let runtime = modest_runtime()?;
    if !runtime.block_on(fetch::take_ahead(wanted.name, wanted.dest))? {
        let from = Sources::open(session, wanted)?;
        if !runtime.block_on(fetch::fetch(&from.stores, &from.backup, wanted.name, wanted.dest, &from.keys))? {
            return Ok(exit::FAILED);
        }
    }
    if let Some(turn) = fetch::turn_ahead(wanted.name, wanted.dest) {
        // While recovery replays this one. It is only a matter of speed: what fails is fetched when asked for.
        let _ = detached::start_again("--ahead", turn);
    }
    Ok(exit::OK)
}

fn fetch_ahead(session: &Session, wanted: &Wanted<'_>) -> Result<()> {
    let from = Sources::open(session, wanted)?;
    modest_runtime()?.block_on(fetch::ahead(&from.stores, &from.backup, wanted.name, wanted.dest, &from.keys))
}

/// Where a file of the log comes from, and who opens it.
struct Sources {
    stores: Vec<(Name, Arc<dyn Store>)>,
    backup: String,
    keys: Identities,
}

impl Sources {
    fn open(session: &Session, wanted: &Wanted<'_>) -> Result<Self> {
        // Recovery computes meanwhile.
        memory::keep_all();
        let opened = session.open_as_caller(Uses::None)?;
        let backup = choose(&opened.plan, wanted.backup)?;
        let only = wanted.store.map(|store| store_of(backup, store)).transpose()?;
        let stores = fetch::stores(&opened.plan, backup, only)?;
        let keys = match wanted.identity {
            Some(path) => keys::of_file(path)?,
            None => keys::of_backup(&opened.plan, backup.name.as_str())?.unwrap_or_default(),
        };
        Ok(Sources { stores, backup: backup.name.to_string(), keys })
    }
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
