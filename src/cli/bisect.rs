//! `bisect BACKUP --from TIME --check SQL`: the last moment at which something held.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono_tz::Tz;
use serde::Serialize;

use super::args::BisectArgs;
use super::restore_physical::{for_a_look, in_both, moment};
use super::session::{Session, Uses, runtime};
use super::{Done, bar, output};
use crate::catalog::Wanted;
use crate::config::DEFAULT_PATH;
use crate::error::{Error, Kind, Result, exit};
use crate::host::{printable, signals};
use crate::job::physical::bisect::{self as job, Asked, Found, Probe};
use crate::job::progress::Progress;
use crate::job::run::find;
use crate::physical::commits::Commit;
use crate::physical::target::{Target, in_utc};
use crate::postgres::quote::shell;

/// What was found, as JSON.
#[derive(Serialize)]
struct Told<'a> {
    backup: &'a str,
    check: &'a str,
    from: chrono::DateTime<chrono::Utc>,
    to: Option<chrono::DateTime<chrono::Utc>>,
    #[serde(flatten)]
    found: &'a Found,
    /// What restores the moment before.
    restore: String,
}

pub fn bisect(session: &Session, args: &BisectArgs) -> Done {
    let opened = session.open(Uses::None)?;
    let backup = find(&opened.plan, &args.backup)?;
    if backup.physical.is_none() {
        return Err(Error::new(Kind::Usage, format!("{} is a backup of dumps, which show one moment only", backup.name))
            .hint("name a backup of kind = \"physical\""));
    }
    let zone = backup.timezone;
    let mut asked = asked(session, args, zone)?;
    let wanted = Wanted { backup: args.backup.clone(), label: None };
    let cancel = signals::cancelled_by_signals()?;
    let runtime = runtime()?;
    let found = runtime.block_on(async {
        let progress = Arc::new(Progress::default());
        let _bar = bar::show(&progress, bar::TO_GO);
        job::bisect(&opened.plan, &wanted, &mut asked, &progress, &cancel).await
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    let mut found = found?;
    found.seconds = (found.seconds * 1000.0).round() / 1000.0;
    let restore = command(&session.config, args, &found);
    if session.json {
        output::json(&Told { backup: &args.backup, check: &args.check, from: asked.from, to: asked.to, found: &found, restore })?;
    } else {
        output::text(&page(&found, zone, &restore))?;
    }
    Ok(exit::OK)
}

fn asked(session: &Session, args: &BisectArgs, zone: Tz) -> Result<Asked> {
    let from = moment(&args.from, zone)?;
    let to = args.to.as_deref().map(|text| moment(text, zone)).transpose()?;
    if to.is_some_and(|to| to <= from) {
        return Err(Error::new(Kind::Usage, "--to is not behind --from").hint("it must hold at --from, and not any more at --to"));
    }
    if args.check.trim().trim_end_matches(';').is_empty() {
        return Err(Error::new(Kind::Usage, "--check is empty").hint("such as --check \"select count(*) > 1000 from orders\""));
    }
    let cluster = for_a_look(session, Target::Time(from), args.store.as_deref(), args.timeline, args.identity.as_deref())?;
    Ok(Asked { from, to, check: args.check.clone(), database: args.database.clone(), cluster })
}

/// What restores a table as of the last good moment, ready to be pasted.
fn command(config: &Path, args: &BisectArgs, found: &Found) -> String {
    let mut command = "pgvigil".to_owned();
    if config != Path::new(DEFAULT_PATH) {
        let _ = write!(command, " --config {}", shell(&config.display().to_string()));
    }
    let _ = write!(command, " restore {}/latest --lsn {} --timeline {}", args.backup, found.good_lsn, found.timeline);
    if let Some(store) = &args.store {
        let _ = write!(command, " --store {}", shell(store));
    }
    let _ = write!(command, " --database {} --table TABLE --into-schema rescued", shell(&found.database));
    command
}

/// What was found, for people.
fn page(found: &Found, zone: Tz, restore: &str) -> String {
    let mut text = String::new();
    for (n, probe) in found.probes.iter().enumerate() {
        let _ = writeln!(text, "probe {:<6}{}", n + 1, told(probe));
    }
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<12}{value}");
    };
    let commit = |commit: &Commit| format!("{}; transaction {}, LSN {}", in_both(commit.at, zone), commit.xid, commit.lsn);
    let good = found.last_good.as_ref().map_or_else(|| format!("LSN {}, where the base backup ends", found.good_lsn), commit);
    line("last good", good);
    line("first bad", commit(&found.first_bad));
    let (probes, transactions) = (found.probes.len(), found.transactions);
    line("found", format!("by {probes} probes of {transactions} transactions in {}", output::seconds(found.seconds)));
    line("restore", printable(restore));
    text
}

fn told(probe: &Probe) -> String {
    let at = probe.after.map_or("the end of the base backup".to_owned(), |commit| in_utc(commit.at));
    let missing = probe.missing.as_ref().map(|what| format!(": {}", printable(what))).unwrap_or_default();
    let holds = if probe.holds { "holds" } else { "does not hold" };
    format!("{at}, LSN {}: {holds}{missing} ({})", probe.lsn, output::seconds(probe.seconds))
}
