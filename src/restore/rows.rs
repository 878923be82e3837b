//! The rows of one table into one or two sessions. Many rows keep one backend busy for long, while
//! the other core of the server has nothing to do: behind the first of them, a second session takes
//! every other portion.

use bytes::Bytes;

use super::lane::Lane;
use super::settings::Settings;
use super::split::Copy;
use crate::error::Result;
use crate::host::pipe;
use crate::pack::census::Lines;

/// A table of fewer bytes is not worth a second session.
const SHARED_FROM_BYTES: u64 = 4 * 1024 * 1024;

/// Rows go to a session so many bytes at a time. The first portion is more than a pipe holds: once it
/// is written, the server is known to read.
const PORTION_BYTES: usize = 1024 * 1024;
const _: () = assert!(PORTION_BYTES > pipe::HOLDS_BYTES_MAX);

/// What is done with a piece of rows.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// What waits and so many bytes of it are a portion of whole rows; the other session takes the next.
    Turn(usize),
    /// A row that is longer than a portion goes on where it began.
    GoOn,
    /// It waits for more.
    Wait,
}

/// `whole`: so many bytes of the piece are whole rows.
fn next(waiting: usize, piece: usize, whole: Option<usize>) -> Next {
    if waiting + piece < PORTION_BYTES {
        return Next::Wait;
    }
    match whole {
        Some(whole) if waiting + whole > pipe::HOLDS_BYTES_MAX => Next::Turn(whole),
        _ => Next::GoOn,
    }
}

/// A `COPY` under way.
pub struct Copying {
    copy: Copy,
    lines: Lines,
    bytes: u64,
    /// Rows that are not a portion yet.
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    /// Which of the sessions have begun, and whose turn it is.
    begun: [bool; 2],
    turn: usize,
    /// Of the first that failed.
    failed: Option<String>,
}

impl Copying {
    pub fn new(copy: Copy) -> Self {
        Copying {
            copy,
            lines: Lines::new(false),
            bytes: 0,
            waiting: Vec::new(),
            waiting_bytes: 0,
            begun: [false; 2],
            turn: 0,
            failed: None,
        }
    }

    /// Takes rows, in pieces of any length. `lanes`: one or two sessions that have nothing else to do.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn rows(&mut self, mut rows: Bytes, lanes: &mut [&mut Lane<'_>], settings: &Settings) -> Result<()> {
        self.lines.feed(&rows);
        self.bytes += rows.len() as u64;
        let whole = memchr::memrchr(b'\n', &rows).map(|end| end + 1);
        match next(self.waiting_bytes, rows.len(), whole) {
            Next::Turn(whole) => {
                let begun = rows.split_off(whole);
                self.wait(rows);
                self.pass(lanes, settings, true).await?;
                if self.bytes >= SHARED_FROM_BYTES {
                    self.turn = (self.turn + 1) % lanes.len();
                }
                self.wait(begun);
            }
            Next::GoOn => {
                self.wait(rows);
                self.pass(lanes, settings, true).await?;
            }
            Next::Wait => self.wait(rows),
        }
        Ok(())
    }

    fn wait(&mut self, rows: Bytes) {
        if self.failed.is_none() && !rows.is_empty() {
            self.waiting_bytes += rows.len();
            self.waiting.push(rows);
        }
    }

    /// Hands what waits to the session whose turn it is.
    async fn pass(&mut self, lanes: &mut [&mut Lane<'_>], settings: &Settings, many: bool) -> Result<()> {
        let lane = &mut *lanes[self.turn];
        if !std::mem::replace(&mut self.begun[self.turn], true) {
            self.failed = lane.begin_copy(settings, &self.copy, many).await?.err();
        }
        self.waiting_bytes = 0;
        for rows in std::mem::take(&mut self.waiting) {
            if self.failed.is_none() && !lane.send(&rows).await {
                self.failed = Some(lane.answer().await?.err().unwrap_or_default());
            }
        }
        Ok(())
    }

    /// Ends in all sessions; returns how many rows there were, or why they are not there.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn finish(mut self, lanes: &mut [&mut Lane<'_>], settings: &Settings) -> Result<(Copy, Result<u64, String>)> {
        if self.failed.is_none() {
            if !self.begun[self.turn] {
                self.turn = 0;
            }
            self.pass(lanes, settings, false).await?;
        }
        let mut ended = Vec::new();
        for (lane, _) in lanes.iter_mut().zip(self.begun).filter(|(_, begun)| *begun) {
            lane.end_copy().await;
            ended.push(lane);
        }
        for lane in ended {
            // A session that failed before has ended, and has nothing more to say.
            if lane.is_open() {
                let failed = lane.answer().await?.err();
                self.failed = self.failed.or(failed);
            }
        }
        let rows = self.lines.finish().0;
        Ok((self.copy, self.failed.map_or(Ok(rows), Err)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KB: usize = 1024;

    #[test]
    fn pieces_of_any_length_make_portions_of_whole_rows() {
        for (waiting, piece, whole, expected) in [
            (0, 64 * KB, Some(64 * KB), Next::Wait),
            (980 * KB, 64 * KB, Some(63 * KB), Next::Turn(63 * KB)),
            // As long as a portion, or longer, with a row that ends in the next one: it is the other's turn all the same.
            (0, 1024 * KB, Some(1024 * KB - 7), Next::Turn(1024 * KB - 7)),
            (7, 4096 * KB, Some(4000 * KB), Next::Turn(4000 * KB)),
            // One long row.
            (512 * KB, 512 * KB, None, Next::GoOn),
            // A portion that is no more than a pipe holds says nothing of who reads it.
            (0, 1024 * KB, Some(100 * KB), Next::GoOn),
            (450 * KB, 700 * KB, Some(100 * KB), Next::Turn(100 * KB)),
        ] {
            assert_eq!(next(waiting, piece, whole), expected, "{waiting} {piece} {whole:?}");
        }
    }
}
