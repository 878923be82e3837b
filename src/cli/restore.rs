//! `restore ID`

use std::fmt::Write;
use std::io::{BufRead, IsTerminal};
use std::sync::Arc;
use std::time::Duration;

use super::answer::{Answer, FailureRow, code, could_not};
use super::args::RestoreArgs;
use super::session::{Session, Uses, runtime};
use super::{Done, bar, output, restore_physical, restore_tables};
use crate::catalog::Wanted;
use crate::config::Plan;
use crate::error::{Error, Kind, Result, exit};
use crate::host::{printable, signals};
use crate::job::keys;
use crate::job::progress::Progress;
use crate::job::restore::{self as job, Looked, Report};
use crate::postgres::quote::identifier_on_one_line;
use crate::restore::asked::Asked;
use crate::restore::load::Failure;
use crate::restore::plan::RestorePlan;
use crate::state::Outcome;

/// How many sorts of failed statements are shown.
const FAILURES_SHOWN: usize = 20;

pub fn restore(session: &Session, args: &RestoreArgs) -> Done {
    if args.physical.are_given() {
        let is_part = !(args.table.is_empty() && args.schema.is_empty());
        if is_part && args.physical.target_dir.is_none() {
            return restore_tables::restore(session, args);
        }
        return restore_physical::restore(session, args);
    }
    match carry_out(session, args) {
        Ok(Did::Looked(looked)) => tell_plan(session, &looked.plan),
        Ok(Did::Restored(looked, report)) => tell(session, &looked.plan, &report),
        Err(error) => {
            let outcome = if error.kind == Kind::Cancelled { Outcome::Cancelled } else { Outcome::Failed };
            could_not(session.json, outcome, &error)
        }
    }
}

enum Did {
    Looked(Box<Looked>),
    Restored(Box<Looked>, Box<Report>),
}

fn carry_out(session: &Session, args: &RestoreArgs) -> Result<Did> {
    let wanted = Wanted::parse(&args.id)?;
    // With the caller's rights, which may end with the next step.
    let given = args.identity.as_deref().map(keys::of_file).transpose()?;
    let asked = asked(args);
    asked.check()?;
    // What cannot be asked is not begun.
    let can_ask = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if asked.clean && !args.yes && !args.dry_run && !can_ask {
        return Err(Error::new(Kind::Usage, "--clean replaces a database, and there is no terminal to ask on")
            .hint("add --yes, or look first with --dry-run"));
    }
    let plan = session.load()?.map_err(|faults| super::session::faults_error(&faults))?;
    if plan.backups.get(wanted.backup.as_str()).is_some_and(|backup| backup.physical.is_some()) {
        return Err(Error::new(
            Kind::Usage,
            format!("{} is a physical backup: it is restored whole, into a folder of its own", wanted.backup),
        )
        .hint("add --target-dir DIR, and --latest or --at TIME; or --table T with them, for some tables beside the live ones"));
    }
    let of_backup = plan.backups.get(wanted.backup.as_str()).map(|backup| backup.server.to_string());
    let server = args.to_server.clone().or(of_backup);
    let opened = session.open(server.as_deref().map_or(Uses::None, Uses::Server))?;
    let cancel = signals::cancelled_by_signals()?;
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        let looked = tokio::select! {
            looked = job::look(&opened.plan, &wanted, &asked, given) => looked?,
            () = cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "told to stop")),
        };
        let looked = Box::new(looked);
        if args.dry_run {
            return Ok(Did::Looked(looked));
        }
        for warning in &looked.plan.warnings {
            output::warn(warning, None);
        }
        if looked.plan.refusals.is_empty() && asked.clean && !args.yes {
            ask(&looked.plan)?;
        }
        let report = with_progress(&opened.plan, &looked, &asked, &cancel).await?;
        Ok(Did::Restored(looked, Box::new(report)))
    });
    // Nothing that matters runs any more; a read that hangs on a dead disk is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

async fn with_progress(plan: &Plan, looked: &Looked, asked: &Asked, cancel: &tokio_util::sync::CancellationToken) -> Result<Report> {
    let progress = Arc::new(Progress::default());
    let _bar = bar::show(&progress, bar::TO_GO);
    job::restore(plan, looked, asked, &progress, cancel).await
}

pub(super) fn asked(args: &RestoreArgs) -> Asked {
    Asked {
        databases: args.database.clone(),
        to_database: args.to_database.clone(),
        to_server: args.to_server.clone(),
        store: args.store.clone(),
        clean: args.clean,
        keep_old: args.keep_old,
        disconnect: args.disconnect,
        in_place: args.in_place,
        tables: args.table.clone(),
        schemas: args.schema.clone(),
        into_schema: args.into_schema.clone(),
        globals: args.globals,
        contents: args.contents,
        keep_failed: args.keep_failed,
        accept_unsigned: args.accept_unsigned,
    }
}

/// Asks on the terminal whether a database may be replaced.
fn ask(plan: &RestorePlan) -> Result<()> {
    let mut question = page(plan);
    let names: Vec<String> = plan.databases.iter().map(|database| identifier_on_one_line(&database.target)).collect();
    let _ = write!(question, "\nReplace {} on server {}? [y/N] ", names.join(", "), plan.server);
    let mut stderr = anstream::AutoStream::auto(std::io::stderr()).lock();
    let _ = std::io::Write::write_all(&mut stderr, question.as_bytes());
    let _ = std::io::Write::flush(&mut stderr);
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    if ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
        return Ok(());
    }
    Err(Error::new(Kind::Cancelled, "not restored: the answer was no").hint("--to-database NAME restores beside the live one"))
}

fn tell_plan(session: &Session, plan: &RestorePlan) -> Done {
    let refused = plan.refused();
    if session.json {
        output::json(&Answer {
            id: Some(plan.id.clone()),
            rung: Some(plan.rung),
            warnings: &plan.warnings,
            plan: Some(plan),
            ..Answer::new(if refused.is_some() { Outcome::Failed } else { Outcome::Ok }, refused.as_ref())
        })?;
    } else {
        output::text(&page(plan))?;
    }
    match &refused {
        None => Ok(exit::OK),
        Some(error) => {
            output::tell(error);
            Ok(error.kind.exit_code())
        }
    }
}

/// The plan for people.
fn page(plan: &RestorePlan) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<10}{value}");
    };
    line("from", format!("{} in store {}, {}", plan.id, plan.store, plan.rung));
    line("files", format!("{}: {} as stored, {} unpacked", plan.files.join(", "), output::size(plan.bytes), output::size(plan.raw_bytes)));
    line("takes", output::about(plan.expected_seconds, &plan.expected));
    if plan.globals {
        line("globals", "roles and tablespaces that are missing are made first".to_owned());
    }
    for database in &plan.databases {
        line("", String::new());
        line("database", format!("{} on server {}", identifier_on_one_line(&database.target), plan.server));
        for (n, step) in database.steps.iter().enumerate() {
            line("", format!("{}. {}", n + 1, printable(step)));
        }
    }
    for warning in &plan.warnings {
        line("", String::new());
        line("note", printable(warning));
    }
    text
}

fn tell(session: &Session, plan: &RestorePlan, report: &Report) -> Done {
    let warnings = warn(plan, report);
    if session.json {
        output::json(&answer(plan, report, &warnings))?;
    } else {
        output::text(&done(plan, report, report.seconds))?;
    }
    Ok(code(report.outcome, report.error.as_ref()))
}

/// Tells on stderr what is worth knowing, what failed, and why; returns the first of these.
pub(super) fn warn(plan: &RestorePlan, report: &Report) -> Vec<String> {
    let warnings: Vec<String> = report.warnings.iter().chain(&report.problems).cloned().collect();
    // Those of the plan were told before it began.
    for warning in warnings.iter().filter(|warning| !plan.warnings.contains(warning)) {
        output::warn(warning, None);
    }
    let more = report.failures.len().saturating_sub(FAILURES_SHOWN);
    for failure in report.failures.iter().take(FAILURES_SHOWN) {
        output::warn(&told(failure), None);
    }
    if more > 0 {
        output::warn(&format!("and {more} more sorts of errors"), None);
    }
    if let Some(error) = &report.error {
        output::tell(error);
    }
    warnings
}

pub(super) fn answer<'a>(plan: &RestorePlan, report: &'a Report, warnings: &'a [String]) -> Answer<'a> {
    Answer {
        id: Some(plan.id.clone()),
        rung: Some(plan.rung),
        warnings,
        seconds: report.seconds,
        compared: report.compared.as_ref(),
        failures: Some(report.failures.iter().take(FAILURES_SHOWN).map(FailureRow::from).collect()),
        ..Answer::new(report.outcome, report.error.as_ref())
    }
}

/// What was done, for people.
pub(super) fn done(plan: &RestorePlan, report: &Report, seconds: f64) -> String {
    let mut text = String::new();
    for line in &report.done {
        let _ = writeln!(text, "{}", printable(line));
    }
    if report.error.is_none() {
        let _ = writeln!(text, "{}  restored to server {} in {}", plan.id, plan.server, output::seconds(seconds));
    }
    text
}

fn told(failure: &Failure) -> String {
    let times = if failure.count == 1 { String::new() } else { format!(" ({} times)", failure.count) };
    let statement = printable(&failure.statement).replace('\n', " ");
    let statement = if statement.is_empty() { statement } else { format!("\n  in: {statement}") };
    format!("{}{times}{statement}", printable(&failure.message))
}
