//! Carries out the pieces of a dump, in their order.

use bytes::Bytes;

use super::behind::{Behind, Ended};
use super::contain::{Verdict, is_delicate, judge};
use super::failures::{Failures, hint};
use super::lane::{Lane, Target};
use super::load::{Load, Loaded};
use super::order::{Class, Families};
use super::rows::Copying;
use super::select::Chooser;
use super::settings::{self, Settings};
use super::split::{Copy, Item, beginning};
use super::stall::Pulse;
use super::words::{find, words};
use crate::error::{Error, Kind, Result};

/// Small statements are run so many at a time, and so many bytes.
const BATCH_MAX: usize = 64;
const BATCH_BYTES_MAX: usize = 256 * 1024;

pub struct Loader<'a> {
    load: Load<'a>,
    lane: Lane<'a>,
    settings: Settings,
    /// Small statements that wait for each other's company.
    batch: Vec<Bytes>,
    batch_bytes: usize,
    /// Between a `BEGIN` of the dump and its `COMMIT`; whether something failed in there.
    transaction: Option<bool>,
    copying: Option<Copying>,
    /// The other sessions; empty: everything is done in the one.
    lanes: Vec<Lane<'a>>,
    families: Families,
    /// Never there while a batch is.
    behind: Behind,
    /// Whether the dump has begun to make things.
    makes: bool,
    /// `None`: all is wanted.
    chooser: Option<Chooser>,
    failures: Failures,
    loaded: Loaded,
}

impl<'a> Loader<'a> {
    pub fn new(load: Load<'a>, pulse: &'a Pulse) -> Result<Self> {
        let target = Target { server: load.server, database: load.database, is_fresh: load.is_fresh, pulse };
        let chooser = load.selection.as_ref().map(|selection| Chooser::new(selection, load.is_fresh)).transpose()?;
        let jobs = if load.atomic || load.jobs < 2 { 0 } else { load.jobs };
        let lanes = (0..jobs).map(|_| Lane::new(target)).collect();
        Ok(Loader {
            lane: Lane::new(target),
            load,
            settings: Settings::default(),
            batch: Vec::new(),
            batch_bytes: 0,
            transaction: None,
            copying: None,
            lanes,
            families: Families::default(),
            behind: Behind::default(),
            makes: false,
            chooser,
            failures: Failures::default(),
            loaded: Loaded::default(),
        })
    }

    /// Whether so much failed that nothing more is tried.
    pub fn gave_up(&self) -> bool {
        self.failures.are_too_many()
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// See [`super::load::load`].
    pub async fn take(&mut self, item: Item) -> Result<()> {
        if self.gave_up() {
            return Ok(());
        }
        match item {
            Item::Statement(text) => self.wanted(text).await,
            Item::Copy(copy) => match &mut self.chooser {
                None => self.copy(copy).await,
                Some(chooser) => match chooser.copy(copy) {
                    Some(copy) => self.copy(copy).await,
                    None => Ok(()),
                },
            },
            Item::Rows(rows) => self.rows(rows).await,
            Item::RowsEnd => self.rows_end().await,
        }
    }

    /// Behind the last piece.
    ///
    /// # Errors
    /// See [`super::load::load`].
    pub async fn finish(mut self) -> Result<Loaded> {
        self.drain().await?;
        if let Some(chooser) = &mut self.chooser {
            if !self.failures.are_too_many() {
                chooser.finish()?;
            }
            self.loaded.left_out.append(&mut chooser.left_out);
        }
        if self.load.atomic && self.lane.is_open() {
            let done = self.lane.run(&self.settings, "COMMIT;\n", &[], "").await?;
            self.judge_atomic(done, "COMMIT;")?;
        }
        self.lane.close().await;
        for mut lane in self.lanes {
            lane.close().await;
        }
        self.loaded.errors = self.failures.finish();
        Ok(self.loaded)
    }

    async fn wanted(&mut self, text: Bytes) -> Result<()> {
        if judge(&text)? == Verdict::Leave {
            self.leave_out(&text, "it names a database");
            return Ok(());
        }
        self.makes |= text.starts_with(b"CREATE ");
        if self.load.is_fresh && !self.makes && clears(&text) {
            return Ok(());
        }
        let Some(chooser) = &mut self.chooser else {
            return self.statement(text).await;
        };
        for statement in chooser.statement(text)? {
            self.statement(statement).await?;
        }
        Ok(())
    }

    async fn statement(&mut self, text: Bytes) -> Result<()> {
        if let Some(name) = settings::name(&text)
            && !settings::is_known(&name, self.load.server.facts.major())
        {
            return Ok(());
        }
        match &text[..] {
            b"BEGIN;" | b"COMMIT;" if self.load.atomic => return Ok(()),
            b"BEGIN;" => {
                self.drain().await?;
                self.transaction = Some(false);
            }
            b"COMMIT;" => {
                let failed = self.transaction.take();
                return if failed == Some(false) { self.one(text).await } else { Ok(()) };
            }
            _ => {}
        }
        if self.load.atomic || self.transaction.is_some() {
            return self.one(text).await;
        }
        if !self.lanes.is_empty() {
            let sets = settings::name(&text).is_some();
            match self.families.classify(&text) {
                Class::Touches(tables) => {
                    self.flush().await?;
                    self.behind.push(text, tables, self.settings.clone());
                    return if self.behind.is_full() { self.drain().await } else { Ok(()) };
                }
                Class::Comment if !self.behind.is_empty() => {
                    self.behind.comment(text);
                    return Ok(());
                }
                // Each of those that wait keeps the settings of its place.
                Class::Barrier if sets && !self.behind.is_empty() => return self.one(text).await,
                Class::Barrier | Class::Comment => self.drain_behind().await?,
            }
        }
        if !is_light(&text) || is_delicate(&text) {
            self.flush().await?;
            return self.one(text).await;
        }
        self.batch_bytes += text.len();
        self.batch.push(text);
        if self.batch.len() >= BATCH_MAX || self.batch_bytes >= BATCH_BYTES_MAX {
            self.flush().await?;
        }
        Ok(())
    }

    fn leave_out(&mut self, statement: &[u8], why: &str) {
        if statement != b";" {
            self.loaded.left_out.push(format!("{}: {why}", beginning(statement)));
        }
    }

    /// Begins the transaction, where there is only one.
    async fn begin(&mut self) -> Result<()> {
        if self.load.atomic && !self.lane.is_open() {
            let done = self.lane.run(&self.settings, "BEGIN;\n", &[], "").await?;
            self.judge_atomic(done, "BEGIN;")?;
        }
        Ok(())
    }

    /// Runs all that waits.
    async fn drain(&mut self) -> Result<()> {
        self.flush().await?;
        self.drain_behind().await?;
        self.flush().await
    }

    /// Runs what waits for the other sessions.
    async fn drain_behind(&mut self) -> Result<()> {
        if self.behind.is_empty() {
            return Ok(());
        }
        let (ended, comments) = std::mem::take(&mut self.behind).run(&mut self.lanes).await?;
        let mut again = Vec::new();
        for Ended { statement, done } in ended {
            match done {
                Ok(()) => self.done(&statement),
                // A function in an index may look at a table that nobody knew of.
                Err(words) if words.starts_with("deadlock detected") => again.push(statement),
                Err(words) => self.failed(&words, &statement)?,
            }
        }
        for statement in again {
            self.one(statement).await?;
        }
        self.batch = comments;
        Ok(())
    }

    /// Runs the batch: together, or, if that fails, one by one to see which.
    async fn flush(&mut self) -> Result<()> {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        let batch = match batch.as_slice() {
            [] => return Ok(()),
            [_] => batch,
            _ => {
                if self.lane.run(&self.settings, "BEGIN;\n", &batch, "COMMIT;\n").await?.is_ok() {
                    for statement in &batch {
                        self.done(statement);
                    }
                    return Ok(());
                }
                batch
            }
        };
        for statement in batch {
            self.one(statement).await?;
        }
        Ok(())
    }

    /// Runs one statement by itself.
    async fn one(&mut self, statement: Bytes) -> Result<()> {
        if self.transaction == Some(true) || self.gave_up() {
            return Ok(());
        }
        self.begin().await?;
        let done = self.lane.run(&self.settings, "", std::slice::from_ref(&statement), "").await?;
        match done {
            Ok(()) => self.done(&statement),
            Err(words) => self.failed(&words, &statement)?,
        }
        Ok(())
    }

    fn done(&mut self, statement: &Bytes) {
        self.loaded.statements += 1;
        if settings::name(statement).is_some() {
            self.settings.note(statement);
            self.lane.has(&self.settings);
        }
        if statement.starts_with(b"CREATE ") || statement.starts_with(b"ALTER TABLE ONLY ") {
            self.learn(statement);
        }
    }

    /// Remembers what is made.
    fn learn(&mut self, statement: &[u8]) {
        if !self.lanes.is_empty() {
            self.families.note(statement);
        }
    }

    fn failed(&mut self, words: &str, statement: &[u8]) -> Result<()> {
        if let Some(failed) = &mut self.transaction {
            *failed = true;
        }
        let statement = beginning(statement);
        self.judge_atomic(Err(words.to_owned()), &statement)?;
        self.failures.note(words, statement);
        Ok(())
    }

    /// In one transaction the first failure is the end.
    fn judge_atomic(&self, done: Result<(), String>, statement: &str) -> Result<()> {
        match done {
            Err(words) if self.load.atomic => {
                let error = Error::new(Kind::Postgres, format!("nothing was restored: {words}\n  statement: {statement}"));
                Err(match hint(&words) {
                    Some(hint) => error.hint(hint),
                    None => error,
                })
            }
            _ => Ok(()),
        }
    }

    async fn copy(&mut self, copy: Copy) -> Result<()> {
        self.drain().await?;
        self.begin().await?;
        self.copying = Some(Copying::new(copy));
        Ok(())
    }

    async fn rows(&mut self, rows: Bytes) -> Result<()> {
        let Some(copying) = &mut self.copying else {
            return Ok(());
        };
        let mut lanes = row_lanes(&mut self.lane, &mut self.lanes, self.load.is_fresh);
        copying.rows(rows, &mut lanes, &self.settings).await
    }

    async fn rows_end(&mut self) -> Result<()> {
        let Some(copying) = self.copying.take() else {
            return Ok(());
        };
        let mut lanes = row_lanes(&mut self.lane, &mut self.lanes, self.load.is_fresh);
        let (copy, done) = copying.finish(&mut lanes, &self.settings).await?;
        match done {
            Ok(rows) => {
                self.loaded.statements += 1;
                self.loaded.rows.push((copy.table, rows));
                Ok(())
            }
            Err(words) => self.failed(&words, &copy.statement),
        }
    }
}

/// The sessions that take rows. In a database that others see too, rows stay in their order.
fn row_lanes<'l, 'a>(first: &'l mut Lane<'a>, others: &'l mut [Lane<'a>], is_fresh: bool) -> Vec<&'l mut Lane<'a>> {
    std::iter::once(first).chain(others.first_mut().filter(|_| is_fresh)).collect()
}

/// Whether a statement takes something away that a fresh database does not have: what `--clean` puts
/// in front of a dump. The schema `public` is there, and made anew behind.
fn clears(statement: &[u8]) -> bool {
    let words = words(statement);
    let takes = find(&words, 0, &["DROP"]) == Some(0) || find(&words, 0, &["ALTER"]) == Some(0) && find(&words, 1, &["DROP"]).is_some();
    let public = find(&words, 0, &["DROP", "SCHEMA"]) == Some(0) && words.iter().any(|word| word.name().as_deref() == Some(b"public"));
    takes && !public
}

/// Whether a statement is done in no time, so that repeating it for a neighbour's sake costs little.
fn is_light(statement: &[u8]) -> bool {
    const HEAVY: [&[u8]; 3] = [b"CREATE INDEX ", b"CREATE UNIQUE INDEX ", b"REFRESH "];
    let alters = statement.starts_with(b"ALTER TABLE ") && memchr::memmem::find(statement, b"ADD CONSTRAINT ").is_some();
    !alters && !HEAVY.iter().any(|heavy| statement.starts_with(heavy))
}
