//! `restore ID --at TIME --table T`: tables as of a moment, beside the live ones.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::answer::{Answer, code, could_not};
use super::args::RestoreArgs;
use super::restore_physical::{for_a_look, reached, target, way};
use super::session::{Session, Uses, runtime};
use super::{Done, bar, output, restore};
use crate::catalog::Wanted;
use crate::error::{Error, Kind, Result};
use crate::host::{printable, signals};
use crate::job::physical::restore::Asked as AskedCluster;
use crate::job::physical::tables::{self as job, Asked, Looked, Restored};
use crate::job::progress::Progress;
use crate::job::run::find;
use crate::physical::recovery::Reached;
use crate::postgres::quote::identifier_on_one_line;
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
    /// That the tables are of; null: it is known when the cluster is there.
    database: Option<&'a str>,
    server: &'a str,
    tables: &'a [String],
    schemas: &'a [String],
    into_schema: Option<&'a str>,
    reached: Option<&'a Reached>,
}

pub fn restore(session: &Session, args: &RestoreArgs) -> Done {
    carry_out(session, args).or_else(|error| {
        let outcome = if error.kind == Kind::Cancelled { Outcome::Cancelled } else { Outcome::Failed };
        could_not(session.json, outcome, &error)
    })
}

fn carry_out(session: &Session, args: &RestoreArgs) -> Done {
    let wanted = Wanted::parse(&args.id)?;
    let plan = session.load()?.map_err(|faults| super::session::faults_error(&faults))?;
    let backup = find(&plan, &wanted.backup)?;
    if backup.physical.is_none() {
        return Err(Error::new(Kind::Usage, format!("{} is a backup of dumps, which show one moment only", backup.name))
            .hint("leave out --at and its kin"));
    }
    let mut asked = asked(session, args, backup.timezone)?;
    let server = args.to_server.clone().unwrap_or_else(|| backup.server.to_string());
    let opened = session.open(Uses::Server(&server))?;
    let cancel = signals::cancelled_by_signals()?;
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        let mut looked = tokio::select! {
            looked = job::look(&opened.plan, &wanted, &asked) => looked?,
            () = cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "told to stop")),
        };
        if !session.json {
            output::text(&page(&looked, &asked))?;
        }
        job::refuse(&looked.refusals)?;
        if args.dry_run {
            return tell(session, &looked, &asked, None);
        }
        let restored = {
            let progress = Arc::new(Progress::default());
            let _bar = bar::show(&progress, bar::TO_GO);
            Box::pin(job::restore(&opened.plan, &mut looked, &mut asked, &progress, &cancel)).await?
        };
        tell(session, &looked, &asked, Some(&restored))
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

fn asked(session: &Session, args: &RestoreArgs, zone: chrono_tz::Tz) -> Result<Asked> {
    let tables = restore::asked(args);
    tables.check()?;
    let options = &args.physical;
    if !options.tablespace.is_empty() {
        return Err(Error::new(Kind::Usage, "--tablespace with --table or --schema")
            .hint("leave it out: the cluster that they come of lies in spool_dir and is removed"));
    }
    if options.with_wal {
        return Err(Error::new(Kind::Usage, "--with-wal with --table or --schema")
            .hint("leave it out: the log is laid where it is needed, and goes with the cluster"));
    }
    let cluster = for_a_look(session, target(options, zone)?, args.store.as_deref(), options.timeline, args.identity.as_deref())?;
    let cluster = AskedCluster { accept_unsigned: args.accept_unsigned, ..cluster };
    Ok(Asked { cluster, tables })
}

/// The plan for people.
fn page(looked: &Looked<'_>, asked: &Asked) -> String {
    let mut text = way(&looked.cluster, &asked.cluster.target);
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<12}{}", printable(&value));
    };
    let tables = &asked.tables;
    let quoted = |database: &str| format!("database {}", identifier_on_one_line(database));
    let source = looked.database.as_deref().map_or("the only database that there is then".to_owned(), quoted);
    let schemas = tables.schemas.iter().map(|schema| format!("schema {schema}"));
    let what: Vec<String> = tables.tables.iter().cloned().chain(schemas).collect();
    line("tables", format!("{} of {source}", what.join(", ")));
    let into = tables.into_schema.as_ref().map(|schema| format!("schema {schema} of ")).unwrap_or_default();
    let database = tables.to_database.as_deref().or(looked.database.as_deref()).map_or("the one of the same name".to_owned(), quoted);
    line("into", format!("{into}{database} on server {}", looked.server));
    line("by way of", "a cluster in spool_dir, which is removed again".to_owned());
    text
}

fn tell(session: &Session, looked: &Looked<'_>, asked: &Asked, restored: Option<&Restored>) -> Done {
    let warnings = restored.map(|restored| {
        for warning in &restored.plan.warnings {
            output::warn(warning, None);
        }
        restore::warn(&restored.plan, &restored.report)
    });
    let warnings = warnings.unwrap_or_default();
    let (outcome, error) = restored.map_or((Outcome::Ok, None), |restored| (restored.report.outcome, restored.report.error.as_ref()));
    if session.json {
        let base = looked.cluster.way.base.to_string();
        let seconds = restored.map_or(0.0, |restored| (restored.seconds * 1000.0).round() / 1000.0);
        output::json(&Told {
            answer: match restored {
                Some(restored) => Answer { seconds, ..restore::answer(&restored.plan, &restored.report, &warnings) },
                None => Answer { id: Some(base.clone()), rung: looked.cluster.rung, ..Answer::new(outcome, None) },
            },
            target: asked.cluster.target.to_string(),
            base,
            timeline: looked.cluster.way.timeline,
            segments: looked.cluster.segments(),
            database: looked.database.as_deref(),
            server: &looked.server,
            tables: &asked.tables.tables,
            schemas: &asked.tables.schemas,
            into_schema: asked.tables.into_schema.as_deref(),
            reached: restored.map(|restored| &restored.reached),
        })?;
    } else if let Some(restored) = restored {
        let text = format!(
            "{:<12}{}\n{}",
            "reached",
            reached(&restored.reached, looked.cluster.backup.timezone),
            restore::done(&restored.plan, &restored.report, restored.seconds)
        );
        output::text(&text)?;
    }
    Ok(code(outcome, error))
}
