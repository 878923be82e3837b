//! Statistics for the planner, which no dump holds. One backend reads at the speed of one core, so the
//! tables go through several sessions.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use futures_util::future::try_join_all;

use crate::error::{Error, Result};
use crate::postgres::Server;
use crate::postgres::session::Session;

/// Small tables are analyzed so many by one statement, and so many bytes of them.
const BATCH_MAX: usize = 100;
const BATCH_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Every table and materialized view, the largest first. A partitioned table brings its partitions.
const TABLES: &str = "select coalesce(json_agg(json_build_array(name, bytes) order by bytes desc, name), '[]') from (
    select pg_catalog.format('%I.%I', n.nspname, c.relname) as name, pg_catalog.pg_table_size(c.oid) as bytes
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'm', 'p') and not c.relispartition and not c.relisshared and c.relpersistence <> 't'
        and n.nspname <> 'information_schema') t";

/// Runs ANALYZE over a database, in so many sessions. Returns the server's words for what has no
/// statistics now: a foreign partition, say, that is out of reach.
///
/// # Errors
/// The server does not answer.
pub async fn analyze(server: &Server, database: &str, sessions: usize) -> Result<Vec<String>> {
    let tables: Vec<(String, u64)> = server.query(database, TABLES).await?;
    let waiting = Mutex::new(batches(tables));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let failed = try_join_all((0..sessions.max(1)).map(async |_| {
        let mut failed = Vec::new();
        let mut session: Option<Session> = None;
        while let Some(batch) = next() {
            let mut open = match session.take() {
                Some(session) => session,
                None => Session::open(server, database).await?,
            };
            match open.ask(&format!("ANALYZE {}", batch.join(", "))).await {
                Ok(_) => session = Some(open),
                Err(error) if batch.len() == 1 => failed.push(words(&error)?),
                // One of them kept it from the others.
                Err(error) => {
                    words(&error)?;
                    waiting.lock().unwrap_or_else(PoisonError::into_inner).extend(batch.into_iter().map(|table| vec![table]));
                }
            }
        }
        if let Some(session) = session {
            session.close().await?;
        }
        Ok::<_, Error>(failed)
    }))
    .await?;
    Ok(failed.into_iter().flatten().collect())
}

/// What one statement is to analyze: a large table by itself, small ones together.
fn batches(tables: Vec<(String, u64)>) -> VecDeque<Vec<String>> {
    let mut batches: Vec<(Vec<String>, u64)> = Vec::new();
    for (table, bytes) in tables {
        match batches.last_mut() {
            Some((batch, sum)) if batch.len() < BATCH_MAX && *sum + bytes <= BATCH_BYTES_MAX => {
                batch.push(table);
                *sum += bytes;
            }
            _ => batches.push((vec![table], bytes)),
        }
    }
    batches.into_iter().map(|(batch, _)| batch).collect()
}

/// What PostgreSQL said of one statement; a server that is gone says nothing of it.
fn words(error: &Error) -> Result<String> {
    match error.message.split_once("ERROR:  ") {
        Some((_, words)) => Ok(words.lines().next().unwrap_or_default().to_owned()),
        None => Err(error.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_tables_stand_alone() {
        let mib = 1024 * 1024;
        let tables = [("a", 900 * mib), ("b", 8 * mib), ("c", 5 * mib), ("d", 3 * mib), ("e", 0)];
        let tables = tables.map(|(name, bytes)| (name.to_owned(), bytes)).to_vec();
        assert_eq!(batches(tables), [vec!["a"], vec!["b"], vec!["c", "d", "e"]]);
        assert!(batches(Vec::new()).is_empty());
        let many = (0..250).map(|n| (format!("t{n}"), 0)).collect();
        assert_eq!(batches(many).len(), 3);
    }
}
