//! `check`: the friend of the first five minutes. Each line is a thing tried, with the fix when it
//! fails.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anstyle::AnsiColor;
use serde::Serialize;

use super::Done;
use super::check_physical::of_physical;
use super::output;
use super::session::{Session, Uses, runtime};
use crate::alert::email::Mailer;
use crate::alert::http::Receiver;
use crate::alert::ping::Pinger;
use crate::alert::webhook::Poster;
use crate::config::channels::Hook;
use crate::config::email::Email;
use crate::config::plan::{self, Backup, Place};
use crate::config::values::Name;
use crate::config::{DEFAULT_PATH, Faults, Plan};
use crate::error::{Error, Kind, exit};
use crate::host::openings::openings;
use crate::host::unit::{self, Unit};
use crate::host::{Tag, journal, program};
use crate::job::drill_check::possible;
use crate::job::make::choose;
use crate::job::stores;
use crate::postgres::Server;
use crate::postgres::dump::arguments;
use crate::postgres::programs;
use crate::postgres::server::Database;
use crate::state::State;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    Ok,
    Warning,
    Error,
}

/// One thing tried.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Line {
    subject: String,
    ok: bool,
    level: Level,
    message: String,
    hint: Option<String>,
    /// Whether it is a fault of the configuration.
    #[serde(skip)]
    fault: bool,
}

impl Line {
    fn new(level: Level, subject: impl Into<String>, message: impl Into<String>, hint: Option<String>) -> Self {
        Line { subject: subject.into(), ok: level == Level::Ok, level, message: message.into(), hint, fault: false }
    }

    pub(super) fn good(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Line::new(Level::Ok, subject, message, None)
    }

    pub(super) fn bad(subject: impl Into<String>, error: &Error) -> Self {
        let subject = subject.into();
        // What went wrong with a thing often begins with its name.
        let message = error.message.strip_prefix(&format!("{subject}: ")).unwrap_or(&error.message).to_owned();
        Line::new(Level::Error, subject, message, error.hint.clone())
    }

    pub(super) fn warning(subject: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Line::new(Level::Warning, subject, message, Some(hint.into()))
    }
}

pub fn check(session: &Session, offline: bool) -> Done {
    let plan = match session.load() {
        Ok(Ok(plan)) => plan,
        Ok(Err(faults)) => return finish(session, &fault_lines(&faults)),
        Err(error) => return finish(session, &[Line { fault: true, ..Line::bad("file", &error) }]),
    };
    drop(plan);
    let opened = if offline { session.open_as_caller(Uses::All)? } else { session.open(Uses::All)? };
    let plan = &opened.plan;
    let mut lines = vec![Line::good(
        "file",
        format!(
            "{}: {}, {}, {}",
            session.source(),
            count(plan.servers.len(), "server"),
            count(plan.stores.len(), "store"),
            count(plan.backups.len(), "backup")
        ),
    )];
    for fault in plan.discovery.iter().flat_map(|discovery| &discovery.faults) {
        let error = Error::new(Kind::Config, fault.told.clone());
        lines.push(Line::bad(format!("container {}", fault.container), &error));
    }
    lines.extend(plan.warnings.iter().map(|warning| Line::warning(&warning.subject, &warning.message, &warning.hint)));
    lines.extend(opened.missing.iter().map(|error| Line { fault: true, ..Line::bad("secrets", error) }));
    lines.extend(super::check_keys::lines(plan));
    if !offline {
        lines.push(state(plan));
        // The unit reads this file and no other.
        let unit = (session.config == Path::new(DEFAULT_PATH)).then(unit::installed).flatten();
        runtime()?.block_on(online(plan, unit.as_ref(), &mut lines));
    }
    finish(session, &lines)
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn fault_lines(faults: &Faults) -> Vec<Line> {
    faults
        .faults
        .iter()
        .map(|fault| Line { fault: true, ..Line::new(Level::Error, fault.place(&faults.path), &fault.message, fault.hint.clone()) })
        .collect()
}

fn state(plan: &Plan) -> Line {
    let subject = "state_dir";
    match State::open(&plan.state_dir).and_then(|state| state.history()) {
        Ok(_) => Line::good(subject, plan.state_dir.display().to_string()),
        Err(error) => Line::bad(subject, &error),
    }
}

async fn online(plan: &Plan, unit: Option<&Unit>, lines: &mut Vec<Line>) {
    let mut servers = BTreeMap::new();
    for (name, server) in &plan.servers {
        let subject = format!("server {name}");
        let connected = Server::connect(server, Tag::random()).await;
        match connected {
            Ok(connected) => {
                lines.extend(of_server(plan, name, &subject, &connected));
                servers.insert(name.clone(), connected);
            }
            Err(error) => lines.push(Line::bad(subject, &error)),
        }
    }
    for address in engines(plan) {
        lines.extend(of_engine(address).await);
    }
    for backup in plan.backups.values() {
        if let Some(server) = servers.get(&backup.server) {
            of_backup(plan, backup, server, lines).await;
            if backup.drill.is_some() {
                lines.push(of_drill(plan, backup, server).await);
            }
        } else {
            let error =
                Error::new(Kind::Postgres, format!("its server {} does not answer", backup.server)).hint("mend the server's line above");
            lines.push(Line::bad(format!("backup {}", backup.name), &error));
        }
    }
    for store in plan.stores.values() {
        lines.push(of_store(store).await);
        let folder = store.kind.folder().zip(unit);
        lines.extend(folder.and_then(|(path, unit)| of_unit(format!("store {}", store.name), path, unit)));
    }
    for backup in plan.backups.values() {
        let folder = backup.physical.as_ref().and_then(|physical| physical.wal_folder.as_deref()).zip(unit);
        lines.extend(folder.and_then(|(path, unit)| of_unit(format!("backup {}", backup.name), path, unit)));
    }
    if let Some(email) = &plan.email {
        lines.push(of_email(email).await);
    }
    for webhook in plan.channels.webhooks.values() {
        lines.extend(of_receiver(&webhook.channel(), Poster::new(webhook).as_ref().map(Poster::receiver)).await);
    }
    for ping in plan.channels.pings.values() {
        lines.extend(of_receiver(&ping.key(), Pinger::new(ping).as_ref().map(Pinger::receiver)).await);
    }
    lines.extend(plan.channels.hooks.values().map(of_hook));
}

/// Every Engine of the plan, once. `None`: the usual one.
fn engines(plan: &Plan) -> BTreeSet<Option<&str>> {
    let of_servers = plan.servers.values().filter_map(|server| match &server.place {
        Place::Container { docker, .. } => Some(docker.as_deref()),
        Place::Host(_) | Place::Socket(_) => None,
    });
    of_servers.chain(plan.discovery.as_ref().map(|discovery| Some(discovery.docker.as_str()))).collect()
}

/// What is open beyond what backups need. That an Engine does not answer, its servers tell.
async fn of_engine(address: Option<&str>) -> Option<Line> {
    let open = Box::pin(openings(address)).await.ok()?;
    let subject = format!("Docker Engine {}", address.unwrap_or("of this machine"));
    let root = "containers can be made, which is as good as root on that machine";
    let is_proxy = address.is_some_and(|address| !address.starts_with("unix://"));
    Some(match (open.create, open.beyond.is_empty()) {
        (_, false) if is_proxy => Line::warning(
            subject,
            format!(
                "open beyond what pgvigil needs: {}{}",
                open.beyond.join(", "),
                if open.create { format!("; {root}") } else { String::new() }
            ),
            "narrow the socket proxy: docker/proxy-backups.cfg is all that backups need",
        ),
        (_, false) => Line::good(subject, "everything is open: who may use this socket is root on that machine; a socket proxy narrows it"),
        (true, true) => Line::good(subject, format!("no more is open than drills need; {root}")),
        (false, true) => Line::good(subject, "no more is open than backups need; no drills in containers"),
    })
}

fn of_server(plan: &Plan, name: &Name, subject: &str, server: &Server) -> Vec<Line> {
    let facts = &server.facts;
    let mut lines =
        vec![Line::good(subject, format!("PostgreSQL {} as {}, dumped by pg_dump {}", facts.version, facts.user, server.client_version))];
    if let Err(error) = server.check_client() {
        lines.push(Line::bad(subject, &error));
    }
    let wants_globals = plan.backups.values().any(|backup| backup.server == *name && backup.globals);
    if wants_globals && !facts.reads_passwords {
        lines.push(Line::warning(
            subject,
            format!("role {} may not read the passwords of roles: globals are dumped without them", facts.user),
            "dump as superuser to have them, or set globals = false",
        ));
    }
    lines
}

/// What would keep `pg_dump` from a whole dump of a database.
#[derive(serde::Deserialize)]
struct Obstacles {
    unreadable: Vec<String>,
    row_security: Vec<String>,
    large_objects: u64,
}

const OBSTACLES: &str = "select json_build_object(
    'unreadable', (select coalesce(json_agg(t.oid::regclass::text order by t.oid), '[]') from tables t where not has_table_privilege(t.oid, 'select') or not has_schema_privilege(t.relnamespace, 'usage')),
    'row_security', (select coalesce(json_agg(t.oid::regclass::text order by t.oid), '[]') from tables t where row_security_active(t.oid)),
    'large_objects', (select count(*) from pg_largeobject_metadata l where current_setting('is_superuser') = 'off' and current_setting('lo_compat_privileges') = 'off'
        and not pg_has_role(l.lomowner, 'usage')
        and not exists (select from aclexplode(l.lomacl) a where a.privilege_type = 'SELECT' and (a.grantee = 0 or pg_has_role(a.grantee, 'usage')))))
from (select 1) one";

async fn of_backup(plan: &Plan, backup: &Backup, server: &Server, lines: &mut Vec<Line>) {
    if backup.physical.is_some() {
        lines.extend(of_physical(backup, &plan.servers[&backup.server], server).await);
        return;
    }
    let subject = format!("backup {}", backup.name);
    let databases = match choose(&backup.which, &server.facts.databases, &backup.name) {
        Ok(databases) => databases,
        Err(error) => {
            lines.push(Line::bad(subject, &error));
            return;
        }
    };
    let client_major = programs::major(&server.client_version);
    if let Err(error) = arguments(&backup.dump, "x", client_major, None, None) {
        lines.push(Line::bad(&subject, &error));
    }
    let bytes: i64 = databases.iter().filter_map(|database| database.bytes).sum();
    let names: Vec<&str> = databases.iter().map(|database| database.name.as_str()).collect();
    let mut problems = Vec::new();
    for database in &databases {
        problems.extend(of_database(&subject, database, server).await);
    }
    if problems.is_empty() {
        lines.push(Line::good(
            subject,
            format!("{}, {} in the server", crate::host::printable(&names.join(", ")), output::size(bytes.unsigned_abs())),
        ));
    }
    lines.extend(problems);
}

async fn of_database(subject: &str, database: &Database, server: &Server) -> Vec<Line> {
    let tables = "with tables as (select c.oid, c.relnamespace from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p', 'S') and n.nspname <> 'information_schema' and n.nspname !~ '^pg_') ";
    let found: Obstacles = match server.query(&database.name, &format!("{tables}{OBSTACLES}")).await {
        Ok(found) => found,
        Err(error) => return vec![Line::bad(subject, &error.context(format_args!("database {:?}", database.name)))],
    };
    let some = |list: &[String]| {
        let shown: Vec<&str> = list.iter().take(5).map(String::as_str).collect();
        let more = if list.len() > 5 { format!(" and {} more", list.len() - 5) } else { String::new() };
        crate::host::printable(&format!("{}{more}", shown.join(", ")))
    };
    let user = &server.facts.user;
    let mut lines = Vec::new();
    if !found.unreadable.is_empty() {
        let error =
            Error::new(Kind::Postgres, format!("database {:?}: role {user} may not read {}", database.name, some(&found.unreadable)))
                .hint(format!("GRANT pg_read_all_data TO {user} (PostgreSQL 14 and later), or dump as superuser"));
        lines.push(Line::bad(subject, &error));
    }
    if !found.row_security.is_empty() {
        let error = Error::new(
            Kind::Postgres,
            format!("database {:?}: row-level security hides rows of {} from role {user}", database.name, some(&found.row_security)),
        )
        .hint(format!("ALTER ROLE {user} BYPASSRLS, or dump as superuser: pg_dump refuses, for the dump would lack rows"));
        lines.push(Line::bad(subject, &error));
    }
    if found.large_objects > 0 {
        let error = Error::new(
            Kind::Postgres,
            format!("database {:?}: role {user} may not read {} of its large objects", database.name, found.large_objects),
        )
        .hint(format!("GRANT SELECT ON LARGE OBJECT ... TO {user}, make the role a member of their owner, or dump as superuser"));
        lines.push(Line::bad(subject, &error));
    }
    lines
}

/// Whether the drills of a backup can be done at all. A backup is made without them, too.
async fn of_drill(plan: &Plan, backup: &Backup, server: &Server) -> Line {
    let subject = format!("drill of {}", backup.name);
    match possible(plan, backup, server).await {
        Ok(how) => Line::good(subject, how),
        Err(error) => Line::warning(subject, format!("cannot be done: {}", error.message), error.hint.unwrap_or_default()),
    }
}

async fn of_store(store: &plan::Store) -> Line {
    let subject = format!("store {}", store.name);
    match stores::try_out(store).await {
        Ok(how) => Line::good(subject, how),
        Err(error) => Line::bad(subject, &error),
    }
}

/// Whether the unit lets the daemon write a folder, whatever this process may.
fn of_unit(subject: String, path: &Path, unit: &Unit) -> Option<Line> {
    let hint = unit.lacks(path)?;
    let message = format!("{}: {} does not let the daemon write there", path.display(), unit::NAME);
    // It may be there for nothing, as beside a cron job.
    let level = if unit.is_used { Level::Error } else { Level::Warning };
    Some(Line::new(level, subject, message, Some(hint)))
}

async fn of_email(email: &Email) -> Line {
    let tried = match Mailer::new(email) {
        Ok(mailer) => mailer.try_out().await,
        Err(error) => Err(error),
    };
    match tried {
        Ok(how) => Line::good("email", format!("{how}; pgvigil alert test sends a message")),
        Err(error) => Line::bad("email", &error),
    }
}

/// Goes as far as a connection: a webhook would be heard, and a ping would be a lie.
async fn of_receiver(subject: &str, receiver: std::result::Result<&Receiver, &Error>) -> Vec<Line> {
    let receiver = match receiver {
        Ok(receiver) => receiver,
        Err(error) => return vec![Line::bad(subject, error)],
    };
    let mut lines = vec![match receiver.try_out().await {
        Ok(how) => Line::good(subject, format!("{how}; pgvigil alert test sends a message")),
        Err(error) => Line::bad(subject, &error),
    }];
    if receiver.is_in_the_clear() {
        lines.push(Line::warning(subject, "its URL, a secret, travels in the clear", "write https://"));
    }
    lines
}

fn of_hook(hook: &Hook) -> Line {
    let subject = hook.channel();
    match program::is_executable(&hook.command) {
        Ok(()) => Line::good(subject, format!("{} can be run; pgvigil alert test runs it", hook.command[0])),
        Err(error) => Line::bad(subject, &error),
    }
}

fn finish(session: &Session, lines: &[Line]) -> Done {
    if session.json {
        output::json(&lines)?;
    } else {
        let mut text = String::new();
        for line in lines {
            let (color, mark, weight) = match line.level {
                Level::Ok => (AnsiColor::Green, "ok", tracing::Level::INFO),
                Level::Warning => (AnsiColor::Yellow, "warning", tracing::Level::WARN),
                Level::Error => (AnsiColor::Red, "FAILED", tracing::Level::ERROR),
            };
            let mark = output::styled(color.on_default(), &format!("{mark:<8}"));
            let mut told = format!("{mark} {}: {}\n", line.subject, line.message.replace('\n', "\n         "));
            if let Some(hint) = &line.hint {
                told.push_str(&format!("         HINT: {hint}\n"));
            }
            // As `systemctl reload` has it.
            text.push_str(&journal::marked_for(std::io::stdout(), weight, told));
        }
        output::text(&text)?;
    }
    let worst = lines.iter().map(|line| line.level).max().unwrap_or(Level::Ok);
    Ok(match worst {
        _ if lines.iter().any(|line| line.fault) => exit::CONFIG,
        Level::Error => exit::FAILED,
        Level::Warning => exit::PROBLEMS,
        Level::Ok => exit::OK,
    })
}
