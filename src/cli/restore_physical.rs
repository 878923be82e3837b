//! `restore ID --at TIME --target-dir DIR`: a cluster as of a moment.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::answer::{Answer, code, could_not};
use super::args::{PhysicalRestoreArgs, RestoreArgs};
use super::output;
use super::session::{Session, Uses, runtime};
use super::{Done, bar};
use crate::catalog::Wanted;
use crate::config::Plan;
use crate::error::{Error, Kind, Result};
use crate::host::{clock, printable, signals};
use crate::job::physical::restore::{self as job, Asked, Looked, Restored};
use crate::job::progress::Progress;
use crate::job::run::find;
use crate::physical::plan::Stop;
use crate::physical::recovery::Reached;
use crate::physical::target::{self as moments, Target, in_utc};
use crate::postgres::programs;
use crate::postgres::quote::shell;
use crate::state::Outcome;

/// What was planned, and what came of it.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    answer: Answer<'a>,
    target: String,
    base: String,
    timeline: u32,
    /// Of the log that is needed at least.
    segments: usize,
    target_dir: &'a Path,
    tablespaces: &'a [(u32, String)],
    /// By what drills have measured; `None`: nobody knows.
    expected_seconds: Option<f64>,
    /// Of a cluster that was started.
    reached: Option<&'a Reached>,
    connection: Option<&'a str>,
}

pub fn restore(session: &Session, args: &RestoreArgs) -> Done {
    carry_out(session, args).or_else(|error| {
        let outcome = if error.kind == Kind::Cancelled { Outcome::Cancelled } else { Outcome::Failed };
        could_not(session.json, outcome, &error)
    })
}

fn carry_out(session: &Session, args: &RestoreArgs) -> Done {
    let wanted = Wanted::parse(&args.id)?;
    let opened = session.open(Uses::None)?;
    let asked = asked(session, args, &opened.plan, &wanted)?;
    let cancel = signals::cancelled_by_signals()?;
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        let looked = tokio::select! {
            looked = job::look(&opened.plan, &wanted, &asked) => looked?,
            () = cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "told to stop")),
        };
        if !session.json {
            output::text(&page(&looked, &asked))?;
        }
        if args.dry_run {
            return tell(session, &looked, &asked, None);
        }
        let restored = {
            let progress = Arc::new(Progress::default());
            let _bar = bar::show(&progress, bar::TO_GO);
            job::restore(&opened.plan, &looked, &asked, &progress, &cancel).await?
        };
        tell(session, &looked, &asked, Some(&restored))
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

fn asked(session: &Session, args: &RestoreArgs, plan: &Plan, wanted: &Wanted) -> Result<Asked> {
    let usage = |what: String, hint: &str| Err(Error::new(Kind::Usage, what).hint(hint));
    let backup = find(plan, &wanted.backup)?;
    if backup.physical.is_none() {
        return usage(
            format!("{} is a backup of dumps, which show one moment only", backup.name),
            "leave out --at and its kin, and --target-dir",
        );
    }
    let foreign = [
        ("--database", !args.database.is_empty()),
        ("--to-database", args.to_database.is_some()),
        ("--to-server", args.to_server.is_some()),
        ("--clean", args.clean),
        ("--table", !args.table.is_empty()),
        ("--schema", !args.schema.is_empty()),
        ("--globals", args.globals),
        ("--contents", args.contents.is_some()),
    ];
    if let Some((option, _)) = foreign.iter().find(|(_, given)| *given) {
        return usage(format!("{option} with a physical backup"), "it is restored whole, into a folder of its own: --target-dir DIR");
    }
    let options = &args.physical;
    let Some(data) = &options.target_dir else {
        return usage(
            "a physical backup needs a folder to be restored into".to_owned(),
            "add --target-dir DIR, a folder that is not there yet; or --table T, for some tables beside the live ones",
        );
    };
    let target = target(options, backup.timezone)?;
    let tablespaces = options.tablespace.iter().map(|pair| {
        let split = pair.split_once('=').filter(|(_, place)| Path::new(place).is_absolute());
        let split = split.map(|(name, place)| (name.to_owned(), place.to_owned()));
        split.ok_or_else(|| Error::new(Kind::Usage, format!("--tablespace {pair:?} names no place")).hint("write NAME=/absolute/folder"))
    });
    if !options.with_wal && !session.config.exists() {
        return usage(
            format!("there is no {}: restore_command, which PostgreSQL runs by itself, reads a file", session.config.display()),
            "add --with-wal, so that the log is laid beside the cluster; or write a file, and name it with --config",
        );
    }
    Ok(Asked {
        target,
        data: absolute(data)?,
        with_wal: options.with_wal,
        start: options.start,
        port: options.port,
        store: args.store.clone(),
        timeline: options.timeline,
        tablespaces: tablespaces.collect::<Result<_>>()?,
        config: absolute(&session.config)?,
        identity: args.identity.as_deref().map(absolute).transpose()?,
        accept_unsigned: args.accept_unsigned,
    })
}

/// A cluster that is only looked into: it lies in the spool, and goes again.
pub(super) fn for_a_look(
    session: &Session,
    target: Target,
    store: Option<&str>,
    timeline: Option<u32>,
    identity: Option<&Path>,
) -> Result<Asked> {
    Ok(Asked {
        target,
        data: PathBuf::new(),
        with_wal: false,
        start: false,
        port: None,
        store: store.map(str::to_owned),
        timeline,
        tablespaces: Vec::new(),
        config: absolute(&session.config)?,
        identity: identity.map(absolute).transpose()?,
        accept_unsigned: false,
    })
}

/// The moment that somebody means.
pub(super) fn target(options: &PhysicalRestoreArgs, zone: chrono_tz::Tz) -> Result<Target> {
    let usage = |what: String, hint: &str| Error::new(Kind::Usage, what).hint(hint);
    Ok(match options.target() {
        Some(("--at", text)) => Target::Time(moment(text, zone)?),
        Some(("--lsn", text)) => Target::Lsn(text.parse().map_err(|()| usage(format!("{text:?} is no LSN"), "such as 16/B374D848"))?),
        Some(("--xid", text)) => Target::Xid(text.parse().map_err(|_| usage(format!("{text:?} is no transaction"), "such as 4711"))?),
        Some((_, text)) => Target::Name(text.to_owned()),
        None if options.latest => Target::Latest,
        None => {
            return Err(usage("to which moment?".to_owned(), "add --latest for all there is, or --at TIME, --lsn L, --xid X, --name N"));
        }
    })
}

/// A moment that is not in the future.
pub(super) fn moment(text: &str, zone: chrono_tz::Tz) -> Result<chrono::DateTime<chrono::Utc>> {
    let now = clock::now();
    let at = moments::time(text, zone, now).map_err(|why| Error::new(Kind::Usage, why).hint(moments::FORMS))?;
    if at > now {
        return Err(Error::new(Kind::Refused, format!("{} is in the future", in_utc(at))).hint("--latest restores all there is"));
    }
    Ok(at)
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::system(format_args!("cannot tell where {} is", path.display()), &error))
}

/// The plan for people.
fn page(looked: &Looked<'_>, asked: &Asked) -> String {
    let mut text = way(looked, &asked.target);
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<12}{value}");
    };
    if asked.with_wal && looked.way.reach.is_some() {
        line("", format!("laid beside the cluster, {} at most", output::size(looked.log_bytes())));
    }
    line("into", asked.data.display().to_string());
    let (seconds, how) = looked.expected();
    line("takes", output::about(seconds, &how));
    for (oid, place) in &looked.places {
        line("", format!("tablespace {oid} into {}", printable(place)));
    }
    text
}

/// The moment, and what leads to it.
pub(super) fn way(looked: &Looked<'_>, target: &Target) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<12}{value}");
    };
    line(
        "target",
        match target {
            Target::Time(at) => in_both(*at, looked.backup.timezone),
            other => other.to_string(),
        },
    );
    match &looked.stop {
        Stop::WithTheLog(Some(newest)) => {
            line("", format!("nothing was committed between {} and then: all of the log is replayed", in_utc(*newest)));
        }
        Stop::WithTheLog(None) => line("", "it is the end of the log: all of it is replayed".to_owned()),
        Stop::At(_) => {}
    }
    line("base", format!("{} in store {}, {}", looked.way.base, looked.store, output::size(looked.manifest.raw_bytes())));
    line(
        "log",
        match &looked.way.reach {
            Some(reach) => format!("timeline {}, whole to LSN {} ({} segments)", looked.way.timeline, reach.end, reach.segments.len()),
            None => "in the base backup".to_owned(),
        },
    );
    match looked.received() {
        0 => {}
        1 => line("", "one of them lies here and in no store yet".to_owned()),
        segments => line("", format!("{segments} of them lie here and in no store yet")),
    }
    text
}

/// A moment in UTC and in a zone.
pub(super) fn in_both(at: chrono::DateTime<chrono::Utc>, zone: chrono_tz::Tz) -> String {
    format!("{}, {} in {zone}", in_utc(at), at.with_timezone(&zone).format("%Y-%m-%d %H:%M:%S%.f %z"))
}

/// Where a recovery truly ended.
pub(super) fn reached(reached: &Reached, zone: chrono_tz::Tz) -> String {
    let lsn = reached.lsn.map_or("its end".to_owned(), |lsn| format!("LSN {lsn}"));
    let last = reached.last_transaction.map(|at| format!(", the last transaction was at {}", in_both(at, zone))).unwrap_or_default();
    format!("{lsn}{last}")
}

fn tell(session: &Session, looked: &Looked<'_>, asked: &Asked, restored: Option<&Restored>) -> Done {
    let warnings = restored.map_or(&looked.warnings, |restored| &restored.warnings);
    let started = restored.and_then(|restored| restored.started.as_ref());
    if session.json {
        output::json(&Told {
            answer: Answer {
                id: Some(looked.way.base.to_string()),
                rung: looked.rung,
                warnings,
                seconds: restored.map_or(0.0, |restored| (restored.seconds * 1000.0).round() / 1000.0),
                ..Answer::new(Outcome::Ok, None)
            },
            target: asked.target.to_string(),
            base: looked.way.base.to_string(),
            timeline: looked.way.timeline,
            segments: looked.segments(),
            target_dir: &asked.data,
            tablespaces: &looked.places,
            expected_seconds: looked.expected().0,
            reached: started.map(|started| &started.reached),
            connection: started.map(|started| started.connection.as_str()),
        })?;
        return Ok(code(Outcome::Ok, None));
    }
    for warning in warnings {
        output::warn(warning, None);
    }
    let Some(restored) = restored else { return Ok(code(Outcome::Ok, None)) };
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<12}{value}");
    };
    if let Some(started) = started {
        line("reached", reached(&started.reached, looked.backup.timezone));
        line("runs", format!("psql {}", shell(&started.connection)));
    } else {
        let data = shell(&asked.data.display().to_string());
        line("start it", format!("pg_ctl -D {data} start    # it replays the log and promotes by itself"));
        if asked.with_wal {
            let major = programs::major(&looked.manifest.server_version);
            // From 18 on the official images have it elsewhere.
            let inside = if major >= 18 { format!("/var/lib/postgresql/{major}/docker") } else { "/var/lib/postgresql/data".to_owned() };
            line("", format!("or, IMAGE being of PostgreSQL {major} (docs/pitr.md):"));
            line("", format!("docker run --rm --user root --entrypoint chown -v {data}:/restored IMAGE -R postgres:postgres /restored"));
            line("", format!("docker run -v {data}:{inside} IMAGE"));
        }
    }
    line("archiving", "off: before it takes the place of the live one, give it an archive of its own".to_owned());
    let _ = writeln!(text, "{}  restored in {}", looked.way.base, output::seconds(restored.seconds));
    output::text(&text)?;
    Ok(code(Outcome::Ok, None))
}
