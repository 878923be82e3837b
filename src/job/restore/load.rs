//! One database of a restore: loaded under a name of its own or in one transaction, compared, and
//! then where it belongs; or nothing of it is left.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::target::{beside, tell};
use super::{Looked, Report, leftovers, swap};
use crate::catalog::{Compared, Mismatch};
use crate::config::Plan;
use crate::config::file::Contents;
use crate::config::plan::STALL_TIMEOUT;
use crate::error::{Error, Kind, Result};
use crate::host::{Tag, clock};
use crate::job::progress::Progress;
use crate::job::verify;
use crate::postgres::Server;
use crate::postgres::quote::{identifier, literal};
use crate::restore::analyze::analyze;
use crate::restore::asked::Asked;
use crate::restore::load::{Load, Loaded};
use crate::restore::names::Named;
use crate::restore::plan::{DatabasePlan, Way, effective};
use crate::restore::{load, properties, source};
use crate::state::State;
use crate::state::restores::{Record, Traces};
use crate::verify::read_back::read_back;
use crate::verify::rows;

/// Sessions for indexes and constraints: more would take the disk from each other.
const JOBS_MAX: usize = 4;

/// How many things that are left out are told one by one.
const LEFT_OUT_MAX: usize = 20;

/// One database of a restore.
pub struct One<'a> {
    pub state: &'a State,
    pub plan: &'a Plan,
    pub looked: &'a Looked,
    pub database: &'a DatabasePlan,
    pub asked: &'a Asked,
    pub progress: &'a Progress,
    pub cancel: &'a CancellationToken,
}

impl One<'_> {
    /// Restores it; what is left of a failure is removed.
    ///
    /// # Errors
    /// It is not restored; what was there is as it was.
    pub async fn restore(&self, report: &mut Report) -> Result<()> {
        let server = &self.looked.server;
        let databases = self.database.temporary.iter().chain(&self.database.aside).cloned().collect();
        let tag = server.tag().as_str().to_owned();
        let traces = Traces { server: self.looked.plan.server.clone(), tag, databases, barred: None };
        let mut record = self.state.begin_restore(traces)?;
        match self.make(&mut record, report).await {
            Ok(()) => {
                record.end();
                Ok(())
            }
            Err(error) => {
                self.undo(record, report).await;
                Err(error)
            }
        }
    }

    /// Takes away what a failure has left. What cannot be taken now stays on record.
    async fn undo(&self, record: Record, report: &mut Report) {
        let server = &self.looked.server;
        let undone = async {
            if let Some(temporary) = self.database.temporary.as_deref().filter(|_| self.asked.keep_failed) {
                if let Some(tag) = Tag::parse(&record.traces.tag) {
                    crate::job::sweep::end_tagged(server, &tag).await?;
                }
                let comment = format!("pgvigil: a restore of {} that failed at {}", self.looked.plan.id, clock::now().to_rfc3339());
                let statement = format!("COMMENT ON DATABASE {} IS {}", identifier(temporary), literal(&comment));
                if tell(server, beside(server, temporary), [statement]).await.is_ok() {
                    report.warnings.push(format!(
                        "what was loaded until then is kept as database {}: drop it when you have looked",
                        identifier(temporary)
                    ));
                }
            }
            leftovers::remove(server, &record.traces).await
        };
        match undone.await {
            Ok(()) => record.end(),
            Err(error) => {
                let names: Vec<String> = record.traces.databases.iter().map(|name| identifier(name)).collect();
                report.warnings.push(format!(
                    "what the restore has left could not be removed: {}; the next restore or run tries again ({})",
                    error.message,
                    names.join(", ")
                ));
            }
        }
    }

    async fn make(&self, record: &mut Record, report: &mut Report) -> Result<()> {
        let loading = async {
            if self.database.way == Way::InPlace {
                self.read_back_and_drop().await?;
            }
            let Some(temporary) = &self.database.temporary else {
                return self.load(&self.database.target).await;
            };
            self.create(temporary, &record.traces.mark()).await?;
            self.load(temporary).await
        };
        let loaded = tokio::select! {
            loaded = loading => loaded?,
            () = self.cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "told to stop")),
        };
        report.warnings.extend(loaded.left_out.iter().take(LEFT_OUT_MAX).map(|what| format!("left out: {what}")));
        let more = loaded.left_out.len().saturating_sub(LEFT_OUT_MAX);
        if more > 0 {
            report.warnings.push(format!("left out: {more} more"));
        }
        self.judge(&loaded, report)?;
        self.compare(&loaded, report);
        let analyzing = self.analyze(&loaded);
        tokio::select! {
            failed = analyzing => {
                let told = failed?.into_iter().map(|words| format!("statistics for the planner are not whole: {words}"));
                report.problems.extend(told);
            }
            () = self.cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "told to stop")),
        }
        let target = identifier(&self.database.target);
        let rows: u64 = loaded.rows.iter().map(|(_, rows)| rows).sum();
        let what = format!("rows of {} tables: {rows}", loaded.rows.len());
        if let Some(temporary) = &self.database.temporary {
            self.progress.begin("changing the names");
            let swapped = swap::swap(&self.looked.server, self.database, temporary, self.asked.disconnect, record, self.cancel).await?;
            let kept = swapped.kept.map(|kept| format!("; the old one is kept as {}", identifier(&kept))).unwrap_or_default();
            report.done.push(format!("database {target}: {what}{kept}"));
            report.problems.extend(swapped.problem);
        } else {
            report.done.push(format!("into database {target}: {what}"));
        }
        Ok(())
    }

    /// What is about to be dropped is gone for good: first every byte of the backup is read.
    async fn read_back_and_drop(&self) -> Result<()> {
        let looked = self.looked;
        let meter = self.progress.begin("reading back before the old database is dropped");
        let findings = read_back(&looked.stored(), &meter).await?;
        if let Some(locked) = findings.locked {
            return Err(locked);
        }
        if !findings.errors.is_empty() {
            return Err(Error::new(Kind::Damaged, format!("{} is bad: {}", looked.id, findings.errors.join("; ")))
                .hint("the old database was not touched; take another backup: pgvigil list shows them"));
        }
        self.progress.restart("dropping the old database", looked.plan.raw_bytes);
        let (server, target) = (&looked.server, &self.database.target);
        let connection = beside(server, target);
        if self.asked.disconnect {
            super::target::disconnect(server, target).await?;
        }
        let template = |is: bool| format!("ALTER DATABASE {} IS_TEMPLATE {is}", identifier(target));
        let was_template = super::target::is_template(server, target).await?;
        // A template cannot be dropped.
        let mut statements: Vec<String> = was_template.then(|| template(false)).into_iter().collect();
        statements.push(leftovers::drop_statement(server, target, self.asked.disconnect));
        let dropped = tell(server, connection, statements).await;
        if dropped.is_err() && was_template {
            let _ = tell(server, connection, [template(true)]).await;
        }
        dropped
    }

    async fn create(&self, name: &str, mark: &str) -> Result<()> {
        self.progress.begin(format!("creating {}", crate::host::printable(name)));
        let server = &self.looked.server;
        let create = match &self.database.properties {
            Some(properties) => properties::create(properties, name, server.facts.major()),
            None => properties::create_as_usual(name),
        };
        let comment = format!("COMMENT ON DATABASE {} IS {}", identifier(name), literal(mark));
        tell(server, beside(server, &self.database.target), [create, comment]).await
    }

    async fn load(&self, into: &str) -> Result<Loaded> {
        let looked = self.looked;
        let meter = self.progress.begin(format!("loading {}", crate::host::printable(&self.database.source)));
        let host = verify::archive_host(self.plan, &looked.manifest).await;
        // A plain dump needs no pg_restore.
        let host = host.unwrap_or_else(|_| Arc::clone(looked.server.host()));
        let sql = source::check(looked.stored(), &self.database.source).await?.open(host, &self.plan.spool_dir).await?;
        let is_fresh = self.database.temporary.is_some();
        let asked = effective(self.asked, &looked.manifest);
        let replica = asked.contents() == Contents::Data && looked.server.facts.is_superuser;
        let server: Server =
            if replica { looked.server.with_setting("session_replication_role", "replica") } else { looked.server.clone() };
        let load = Load {
            server: &server,
            database: into,
            jobs: jobs(),
            is_fresh,
            selection: self.database.selection.clone(),
            atomic: !is_fresh,
            meter,
            stall_timeout: self.plan.backups.get(looked.id.backup.as_str()).map_or(STALL_TIMEOUT, |backup| backup.stall_timeout),
        };
        load::load(load, sql).await
    }

    /// Errors of statements are errors of the restore.
    fn judge(&self, loaded: &Loaded, report: &mut Report) -> Result<()> {
        if loaded.errors.is_empty() {
            return Ok(());
        }
        report.failures.extend(loaded.errors.iter().cloned());
        let count: u64 = loaded.errors.iter().map(|failure| failure.count).sum();
        let hint = if self.database.temporary.is_none() {
            "nothing was changed: it goes in as a whole or not at all"
        } else if self.asked.keep_failed {
            "look at what was kept, mend the cause, and restore again"
        } else {
            "nothing was changed; --keep-failed keeps what was loaded, to look at it"
        };
        let statements = if count == 1 { "statement" } else { "statements" };
        Err(Error::new(Kind::Postgres, format!("{count} {statements} failed, so the restore did")).hint(hint))
    }

    /// Rows that were loaded against those that were counted when the dump was made.
    fn compare(&self, loaded: &Loaded, report: &mut Report) {
        let compared = report.compared.get_or_insert_default();
        compared.tables += loaded.rows.len() as u64;
        compared.rows += loaded.rows.iter().map(|(_, rows)| rows).sum::<u64>();
        let manifest = &self.looked.manifest;
        let evidence = manifest.evidence.as_ref().and_then(|evidence| evidence.databases.get(&self.database.source));
        let Some(evidence) = evidence else { return };
        let asked = effective(self.asked, manifest);
        if asked.contents() == Contents::Schema || manifest.contents == Contents::Schema {
            return;
        }
        *compared = std::mem::take(compared).with(mismatches(&evidence.rows, loaded, self.database, &asked));
    }

    /// Statistics for the planner: of a new database all, of a live one only what was loaded.
    /// Returns what could not be had.
    async fn analyze(&self, loaded: &Loaded) -> Result<Vec<String>> {
        self.progress.begin("analyzing");
        let server = &self.looked.server;
        if let Some(temporary) = &self.database.temporary {
            return analyze(server, temporary, jobs()).await;
        }
        let asked = effective(self.asked, &self.looked.manifest);
        let into = asked.into_schema.as_ref();
        let tables = loaded
            .rows
            .iter()
            .filter_map(|(name, _)| Named::parse(name))
            .map(|table| Named { schema: into.cloned().or(table.schema), name: table.name });
        tell(server, &self.database.target, tables.map(|table| format!("ANALYZE {}", table.quoted()))).await?;
        Ok(Vec::new())
    }
}

/// How many sessions are used beside the first.
fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(JOBS_MAX)
}

impl Compared {
    fn with(mut self, mismatches: Vec<Mismatch>) -> Self {
        self.mismatches.extend(mismatches);
        self
    }
}

/// Where the rows that were loaded are not those that the evidence counted.
fn mismatches(expected: &BTreeMap<String, u64>, loaded: &Loaded, database: &DatabasePlan, asked: &Asked) -> Vec<Mismatch> {
    let found = rows::tally(expected.keys(), loaded.rows.iter().map(|(name, rows)| (name.as_str(), *rows)));
    let mut mismatches = Vec::new();
    for (name, expected) in expected {
        let Some(table) = Named::parse(name) else { continue };
        if asked.is_part() && !database.chosen.all.contains(&table) {
            continue;
        }
        let rows = found.get(name).copied().unwrap_or_default();
        if rows != *expected {
            mismatches.push(Mismatch { object: format!("table {name}: rows"), expected: expected.to_string(), found: rows.to_string() });
        }
    }
    mismatches
}
