//! The rows of one table into one or two sessions. Many rows keep one backend busy for long, while
//! the other core of the server has nothing to do: behind the first of them, a second session takes
//! every other portion.

use super::lane::{Done, Lane};
use super::settings::Settings;
use super::split::Copy;
use crate::error::Result;
use crate::pack::census::Lines;

/// A table of fewer bytes is not worth a second session.
const SHARED_FROM_BYTES: u64 = 4 * 1024 * 1024;

/// A `COPY` under way.
pub struct Copying {
    pub copy: Copy,
    lines: Lines,
    bytes: u64,
    /// Whether the second session has begun, and whether the row under way is for it.
    shares: bool,
    is_second: bool,
    /// Of the first that failed.
    failed: Option<String>,
}

impl Copying {
    /// Begins in the first session.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn begin(copy: Copy, lane: &mut Lane<'_>, settings: &Settings) -> Result<Self> {
        let failed = lane.begin_copy(settings, &statement(&copy)).await?.err();
        Ok(Copying { copy, lines: Lines::new(false), bytes: 0, shares: false, is_second: false, failed })
    }

    /// Takes rows, in pieces of any length. `second`: a session that has nothing else to do.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn rows<'a>(&mut self, rows: &[u8], first: &mut Lane<'a>, second: Option<&mut Lane<'a>>, settings: &Settings) -> Result<()> {
        if self.failed.is_some() {
            return Ok(());
        }
        self.lines.feed(rows);
        self.bytes += rows.len() as u64;
        let Some(second) = second else {
            return self.send(rows, first).await;
        };
        let Some(end) = memchr::memrchr(b'\n', rows) else {
            return self.send(rows, if self.is_second { second } else { first }).await;
        };
        let (whole, begun) = rows.split_at(end + 1);
        self.send(whole, if self.is_second { &mut *second } else { &mut *first }).await?;
        if !self.shares && self.bytes >= SHARED_FROM_BYTES {
            self.failed = second.begin_copy(settings, &statement(&self.copy)).await?.err();
            self.shares = true;
        }
        self.is_second = self.shares && !self.is_second;
        self.send(begun, if self.is_second { second } else { first }).await
    }

    async fn send(&mut self, rows: &[u8], lane: &mut Lane<'_>) -> Result<()> {
        if self.failed.is_none() && !lane.send(rows).await {
            self.failed = Some(lane.answer().await?.err().unwrap_or_default());
        }
        Ok(())
    }

    /// Ends in both sessions; returns how many rows there were, or why they are not there.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn finish<'a>(mut self, first: &mut Lane<'a>, second: Option<&mut Lane<'a>>) -> Result<(Copy, Result<u64, String>)> {
        let mut ended = vec![first];
        ended.extend(second.filter(|_| self.shares));
        for lane in &mut ended {
            lane.send(b"\\.\n").await;
        }
        for lane in ended {
            // A session that failed before has ended, and has nothing more to say.
            if lane.is_open() {
                let done: Done = lane.answer().await;
                let failed = done?.err();
                self.failed = self.failed.or(failed);
            }
        }
        let rows = self.lines.finish().0;
        Ok((self.copy, self.failed.map_or(Ok(rows), Err)))
    }
}

fn statement(copy: &Copy) -> Vec<u8> {
    [&copy.statement[..], b"\n"].concat()
}
