//! What stands behind the rows: indexes and constraints, run in several sessions at a time.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::lane::Lane;
use super::order::{Hold, Schedule};
use super::settings::Settings;
use super::words::Name;
use crate::error::Result;

/// So many wait at most, and so many bytes of them: then they are run.
const WAITING_MAX: usize = 2000;
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Statements that wait until something must come behind them.
#[derive(Default)]
pub struct Behind {
    works: Vec<(Bytes, Settings)>,
    schedule: Schedule,
    /// Comments on what the others make.
    comments: Vec<Bytes>,
    bytes: usize,
}

/// What became of one of them.
pub struct Ended {
    pub statement: Bytes,
    pub done: Result<(), String>,
}

impl Behind {
    pub fn is_empty(&self) -> bool {
        self.works.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.works.len() >= WAITING_MAX || self.bytes >= WAITING_BYTES_MAX
    }

    pub fn push(&mut self, statement: Bytes, touches: Vec<(Name, Hold)>, settings: Settings) {
        self.bytes += statement.len();
        self.schedule.push(self.works.len(), touches);
        self.works.push((statement, settings));
    }

    pub fn comment(&mut self, statement: Bytes) {
        self.bytes += statement.len();
        self.comments.push(statement);
    }

    /// Runs all of them, and returns what became of each and the comments that are still to be made.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn run(mut self, lanes: &mut Vec<Lane<'_>>) -> Result<(Vec<Ended>, Vec<Bytes>)> {
        let mut idle = std::mem::take(lanes);
        let mut running = FuturesUnordered::new();
        let mut ended = Vec::new();
        loop {
            while let Some(mut lane) = idle.pop() {
                let Some(number) = self.schedule.start() else {
                    idle.push(lane);
                    break;
                };
                let (statement, settings) = self.works[number].clone();
                running.push(async move {
                    let done = lane.run(&settings, "", std::slice::from_ref(&statement), "").await;
                    (number, lane, statement, done)
                });
            }
            let Some((number, lane, statement, done)) = running.next().await else {
                break;
            };
            self.schedule.end(number);
            idle.push(lane);
            ended.push(Ended { statement, done: done? });
        }
        *lanes = idle;
        Ok((ended, self.comments))
    }
}
