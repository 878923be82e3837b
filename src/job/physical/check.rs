//! A query that is true or not, asked in a database of a cluster that is thrown away.

use crate::error::{Error, Kind, Result};
use crate::postgres::Server;
use crate::postgres::session::Session;

/// What a check says.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Holds(bool),
    /// What it asks about is not there.
    Missing(String),
}

/// The tables, columns and schemas that are asked about may come and go within a window. Any other error
/// is one of the check.
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
pub const COMES_AND_GOES: &[&str] = &["42P01", "42703", "3F000"];

/// What is asked about may be in another database, with its functions, operators and types.
const ELSEWHERE: &[&str] = &["42P01", "42703", "3F000", "42883", "42704"];

/// In a cluster that is thrown away it may write, and takes as long as it takes.
pub const NO_BOUNDS: &str = "";

/// A live one must feel nothing of it.
pub const ON_A_LIVE_SERVER: &str = "set default_transaction_read_only = on;\nset statement_timeout = '60s';\nset lock_timeout = '5s';\n";

/// What a check says of a whole cluster.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Holds,
    /// Where not, or that nowhere is what it asks about.
    Fails(String),
    /// Why it could not be asked.
    Unknown(String),
}

/// Asks a check of every database of a cluster: somewhere it must hold, and nowhere not.
pub async fn everywhere(server: &Server, check: &str, bounds: &str) -> Verdict {
    let (mut holds_somewhere, mut missing, mut failed) = (false, None, None);
    for database in server.facts.databases.iter().filter(|database| database.is_usable()) {
        match holds(server, &database.name, check, ELSEWHERE, bounds).await {
            Ok(Answer::Holds(true)) => holds_somewhere = true,
            Ok(Answer::Holds(false)) => return Verdict::Fails(format!("false in database {}, not true", database.name)),
            Ok(Answer::Missing(what)) => missing = Some(format!("in no database can it be asked: {what}")),
            Err(error) => failed = Some(format!("in database {}: {}", database.name, error.message)),
        }
    }
    match (failed, holds_somewhere) {
        (Some(why), _) => Verdict::Unknown(why),
        (None, true) => Verdict::Holds,
        (None, false) => Verdict::Fails(missing.unwrap_or("there is no database to ask".to_owned())),
    }
}

/// Whether a check holds in a database. `missing`: the errors by which what it asks about is not there; `bounds`: one of
/// [`NO_BOUNDS`] and [`ON_A_LIVE_SERVER`].
///
/// # Errors
/// It fails otherwise, or answers neither true nor false.
pub async fn holds(server: &Server, database: &str, check: &str, missing: &[&str], bounds: &str) -> Result<Answer> {
    if !server.facts.databases.iter().any(|there| there.name == database) {
        return Ok(Answer::Missing(format!("there is no database {database:?}")));
    }
    let mut session = Session::open(server, database).await?;
    // With SQLSTATE.
    let _ = session.send(b"\\set VERBOSITY verbose\n").await;
    let _ = session.send(bounds.as_bytes()).await;
    let check = check.trim().trim_end_matches(';');
    match session.ask(&format!("select coalesce(to_json((\n{check}\n))::text, 'null')")).await {
        Ok(text) => {
            let _ = session.close().await;
            judged(text.trim())
        }
        Err(error) => failed(error, missing),
    }
}

fn judged(text: &str) -> Result<Answer> {
    match text {
        "true" => Ok(Answer::Holds(true)),
        "false" | "null" => Ok(Answer::Holds(false)),
        other => {
            let shown: String = crate::host::printable(other).chars().take(100).collect();
            Err(Error::new(Kind::Usage, format!("the check answers {shown}, neither true nor false"))
                .hint("let it compare: --check \"select count(*) > 100 from orders\""))
        }
    }
}

fn failed(error: Error, missing: &[&str]) -> Result<Answer> {
    let said = error.message.split_once("ERROR:  ").and_then(|(_, rest)| rest.split_once(": "));
    let state = said.map(|(state, _)| state).filter(|state| missing.contains(state));
    if let Some((_, (_, rest))) = state.zip(said) {
        return Ok(Answer::Missing(rest.lines().next().unwrap_or_default().to_owned()));
    }
    let lines: Vec<&str> = error.message.lines().filter(|line| !line.trim_start().starts_with("LOCATION:")).collect();
    Err(Error { message: lines.join("\n"), ..error }
        .context("the check fails")
        .hint("mend it; only a table, a column, a schema or a database that is not there counts as not holding"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_check_says() {
        assert_eq!(judged("true"), Ok(Answer::Holds(true)));
        assert_eq!(judged("false"), Ok(Answer::Holds(false)));
        assert_eq!(judged("null"), Ok(Answer::Holds(false)));
        assert_eq!(judged("5").unwrap_err().kind, Kind::Usage);
        let psql =
            |said: &str| Error::new(Kind::Postgres, format!("psql failed with exit 3\n  psql:<stdin>:4: {said}\n  LOCATION:  x.c:1"));
        let missing = "relation \"orders\" does not exist";
        assert_eq!(failed(psql(&format!("ERROR:  42P01: {missing}")), COMES_AND_GOES), Ok(Answer::Missing(missing.to_owned())));
        let error = failed(psql("ERROR:  42601: syntax error at or near \"form\""), ELSEWHERE).unwrap_err();
        assert!(error.message.starts_with("the check fails: ") && !error.message.contains("LOCATION"), "{error}");
        assert!(failed(Error::new(Kind::Postgres, "psql was killed"), ELSEWHERE).is_err());
        let no_function = || psql("ERROR:  42883: function public.f() does not exist");
        assert!(failed(no_function(), COMES_AND_GOES).is_err(), "a slip in the query must not look like the end of the data");
        assert!(matches!(failed(no_function(), ELSEWHERE), Ok(Answer::Missing(_))));
    }
}
