//! What `run`, `verify` and `restore` say at their end, in JSON and by their exit code.

use serde::Serialize;

use super::Done;
use super::output::{self, JsonError};
use crate::catalog::{Compared, Rung};
use crate::error::{Error, exit};
use crate::restore::load::Failure;
use crate::restore::plan::RestorePlan;
use crate::state::Outcome;

#[derive(Serialize)]
pub struct Answer<'a> {
    pub id: Option<String>,
    pub outcome: Outcome,
    pub rung: Option<Rung>,
    pub error: Option<JsonError<'a>>,
    pub warnings: &'a [String],
    pub seconds: f64,
    /// After a drill or a restore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared: Option<&'a Compared>,
    /// After a restore: statements that failed, alike ones together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<Vec<FailureRow<'a>>>,
    /// Of a restore that was only looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<&'a RestorePlan>,
}

#[derive(Serialize)]
pub struct FailureRow<'a> {
    message: &'a str,
    statement: &'a str,
    count: u64,
}

impl<'a> From<&'a Failure> for FailureRow<'a> {
    fn from(failure: &'a Failure) -> Self {
        FailureRow { message: &failure.message, statement: &failure.statement, count: failure.count }
    }
}

impl<'a> Answer<'a> {
    pub fn new(outcome: Outcome, error: Option<&'a Error>) -> Self {
        Answer {
            id: None,
            outcome,
            rung: None,
            error: error.map(JsonError::from),
            warnings: &[],
            seconds: 0.0,
            compared: None,
            failures: None,
            plan: None,
        }
    }
}

/// Tells what kept a command from doing anything.
///
/// # Errors
/// stdout cannot be written.
pub fn could_not(json: bool, outcome: Outcome, error: &Error) -> Done {
    output::tell(error);
    if json {
        output::json(&Answer::new(outcome, Some(error)))?;
    }
    Ok(code(outcome, Some(error)))
}

/// The exit code of an outcome.
pub fn code(outcome: Outcome, error: Option<&Error>) -> u8 {
    match (outcome, error) {
        (Outcome::Ok, _) => exit::OK,
        (Outcome::Problems, _) => exit::PROBLEMS,
        (_, Some(error)) => error.kind.exit_code(),
        (_, None) => exit::FAILED,
    }
}
