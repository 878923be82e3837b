//! A session that holds a snapshot for a dump and says what is to be seen under it; and the same
//! questions to a database that came back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::questions::{CATALOGS, SEQUENCES, SETTINGS, TABLES};
use super::quote::{canonical, literal};
use super::server::Server;
use super::session::Session;
use crate::catalog::evidence::{CheckResult, DatabaseEvidence, RowsDigest, Sequence};
use crate::config::values::Name;
use crate::error::{Error, Kind, Result};
use crate::pack::census::Lines;

/// How many tables are counted by one statement.
const COUNTED_AT_ONCE: usize = 50;

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// A session that keeps a snapshot.
pub struct Witness {
    session: Session,
    /// The name under which others take the same snapshot.
    pub snapshot: String,
    pub taken_at: DateTime<Utc>,
    /// Asked before the dump can read them.
    pub sequences: BTreeMap<String, Sequence>,
}

/// The tables of a database.
#[derive(Debug, Default, Deserialize)]
struct Tables {
    #[serde(rename = "tables")]
    /// Each with the name under which a dump has its rows.
    plain: Vec<(String, String)>,
    foreign: u64,
    materialized: u64,
    configuration: Vec<String>,
}

/// What the catalogs of a database say.
#[derive(Debug, Deserialize)]
struct Catalogs {
    definitions: BTreeMap<String, String>,
    objects: BTreeMap<String, u64>,
    extensions: BTreeMap<String, String>,
    large_objects: u64,
    collations: BTreeMap<String, String>,
    roles: BTreeSet<String>,
    superuser: Option<String>,
    tablespaces: BTreeSet<String>,
    partitions: BTreeMap<String, String>,
    preload: Option<String>,
}

impl Witness {
    /// Begins a transaction whose snapshot others can take; it is open until [`Witness::close`].
    /// Every single answer may take `patience`.
    /// <https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-SNAPSHOT-SYNCHRONIZATION>
    ///
    /// # Errors
    /// The server refuses, or a pooler stands in between.
    pub async fn open(server: &Server, database: &str, now: DateTime<Utc>, patience: Duration) -> Result<Self> {
        let mut session = Session::open(server, database).await?;
        let opened = async {
            session.ask(BEGIN).await?;
            session.ask(SETTINGS).await?;
            let tag = session.ask("SELECT current_setting('pgvigil.tag', true)").await?;
            if tag.trim() != server.tag().as_str() {
                return Err(Error::new(
                    Kind::Refused,
                    "a pooler stands between pgvigil and the server: the session is not the one that was asked for",
                )
                .hint("connect to PostgreSQL itself, not to PgBouncer or its like: set host and port of the server"));
            }
            let snapshot = session.ask("SELECT pg_catalog.pg_export_snapshot()").await?;
            let sequences = session.query(SEQUENCES).await?;
            Ok((snapshot.trim().to_owned(), sequences))
        };
        let (snapshot, sequences) = within(patience, opened).await?;
        Ok(Witness { session, snapshot, taken_at: now, sequences })
    }

    /// Ends the transaction. No dump may still want the snapshot.
    ///
    /// # Errors
    /// The session did not end well: what it said may be worth nothing.
    pub async fn close(mut self) -> Result<()> {
        self.session.ask("COMMIT").await?;
        self.session.close().await
    }
}

/// Nothing may come between the two: a snapshot is taken before the first question, or not at all.
fn begin(snapshot: Option<&str>) -> String {
    match snapshot {
        Some(snapshot) => format!("{BEGIN}; SET TRANSACTION SNAPSHOT {}", literal(snapshot)),
        None => BEGIN.to_owned(),
    }
}

async fn within<T>(patience: Duration, asked: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(patience, asked).await.unwrap_or_else(|_| {
        Err(Error::new(Kind::Timeout, format!("the server gave no answer for {} s", patience.as_secs()))
            .hint("look for locks and long queries on the server; stall_timeout sets the patience"))
    })
}

/// What the database of a session holds, under `snapshot` where there is one: the catalogs, and the rows counted of
/// `only` these tables (canonical names), or of all that a whole dump holds. Without a snapshot its sequences as well.
///
/// # Errors
/// The server refuses, or an answer takes longer than `patience`.
pub async fn look(
    mut session: Session,
    snapshot: Option<&str>,
    only: Option<&BTreeSet<String>>,
    patience: Duration,
) -> Result<DatabaseEvidence> {
    session.ask(SETTINGS).await?;
    let begin = begin(snapshot);
    session.ask(&begin).await?;
    let there: Tables = within(patience, session.query(TABLES)).await?;
    let catalogs: Catalogs = within(patience, session.query(CATALOGS)).await?;
    let sequences = if snapshot.is_none() { within(patience, session.query(SEQUENCES)).await? } else { BTreeMap::new() };
    let wanted: Vec<&(String, String)> =
        there.plain.iter().filter(|(_, under)| only.is_none_or(|only| only.contains(&canonical(under)))).collect();
    let mut rows: BTreeMap<String, u64> = BTreeMap::new();
    for some in wanted.chunks(COUNTED_AT_ONCE) {
        // To plan a count locks the table and its indexes until the transaction ends: all at once
        // could be more locks than the server has room for, and pg_dump has its own.
        session.ask("COMMIT").await?;
        session.ask(&begin).await?;
        let counts: Vec<String> =
            some.iter().map(|(table, under)| format!("SELECT {} AS t, count(*) AS n FROM ONLY {table}", literal(under))).collect();
        let sql =
            format!("SELECT jsonb_object_agg(t, n) FROM (SELECT t, sum(n) AS n FROM ({}) c GROUP BY t) s", counts.join(" UNION ALL "));
        let counted: BTreeMap<String, u64> = within(patience, session.query(&sql)).await?;
        for (table, count) in counted {
            *rows.entry(table).or_default() += count;
        }
    }
    session.close().await?;
    let mut left_out = Vec::new();
    let mut leave = |count: u64, what: &str, why: &str| {
        if count > 0 {
            left_out.push(format!("rows of {what} ({count}): {why}"));
        }
    };
    leave(there.foreign, "foreign tables", "they are elsewhere");
    leave(there.materialized, "materialized views", "computed anew by a restore");
    leave(there.configuration.len() as u64, "configuration tables of extensions", "the dump holds only those of the user");
    Ok(DatabaseEvidence {
        rows,
        sequences,
        definitions: catalogs.definitions,
        objects: catalogs.objects,
        extensions: catalogs.extensions,
        large_objects: catalogs.large_objects,
        collations: catalogs.collations,
        roles: catalogs.roles,
        superuser: catalogs.superuser,
        tablespaces: catalogs.tablespaces,
        partitions: catalogs.partitions,
        preload: catalogs.preload,
        left_out,
        ..DatabaseEvidence::default()
    })
}

/// Runs the user's checks, each in a session of its own so that one that fails ends no other. Under
/// `snapshot` where there is one.
///
/// # Errors
/// No session is to be had at all.
pub async fn checks(
    server: &Server,
    database: &str,
    snapshot: Option<&str>,
    checks: &BTreeMap<Name, String>,
    patience: Duration,
) -> Result<BTreeMap<String, CheckResult>> {
    let mut results = BTreeMap::new();
    for (name, sql) in checks {
        let mut session = Session::open(server, database).await?;
        let answered = within(patience, async {
            session.ask(&begin(snapshot)).await?;
            session.ask(sql.trim().trim_end_matches(';')).await
        })
        .await;
        let result = match answered {
            Ok(value) => {
                session.close().await?;
                CheckResult { value: Some(value.trim_end().to_owned()), error: None }
            }
            Err(error) => {
                session.stop().await?;
                let words = error.message.split_once("ERROR:  ").map_or(error.message.as_str(), |(_, words)| words);
                CheckResult { value: None, error: Some(words.lines().next().unwrap_or_default().to_owned()) }
            }
        };
        results.insert(name.to_string(), result);
    }
    Ok(results)
}

/// A digest of the rows of each table that has one in the evidence, by a `COPY` of the same columns.
///
/// # Errors
/// A table cannot be read: it is not there, or its columns are others.
pub async fn digest(server: &Server, database: &str, table: &str, expected: &RowsDigest) -> Result<String> {
    let mut session = Session::open(server, database).await?;
    session.ask(SETTINGS).await?;
    // A dump is in the encoding of its database, and so is its digest.
    let encoding = session.ask("SELECT pg_catalog.getdatabaseencoding()").await?;
    let copy = format!("COPY {table} {} TO STDOUT (ENCODING {});\n", expected.columns, literal(encoding.trim()));
    let _ = session.send(copy.as_bytes()).await;
    let mut lines = Lines::new(true);
    session
        .answer_into(&mut |line| {
            lines.feed(line);
            true
        })
        .await?;
    session.close().await?;
    Ok(lines.finish().1.unwrap_or_default().to_string())
}
