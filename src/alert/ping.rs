//! A dead-man's switch: start, success and failure of a backup, in the way of healthchecks.io. Who
//! hears nothing for too long raises the alarm.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

use super::http::{Receiver, Refused};
use crate::config::channels::Ping;
use crate::error::Result;

/// How much of a text goes along, in bytes: what healthchecks.io keeps.
const TEXT_BYTES_MAX: usize = 10_000;

/// How long a receiver may take for one ping.
const PATIENCE: Duration = Duration::from_secs(10);

/// The pauses between the attempts.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// How long all attempts together may take.
const PATIENCE_ALL: Duration = Duration::from_secs(25);

/// What is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Start,
    Success,
    Fail,
    /// Neither: for the log of the receiver.
    Log,
}

impl Signal {
    fn below(self) -> &'static str {
        match self {
            Signal::Start => "start",
            Signal::Success => "",
            Signal::Fail => "fail",
            Signal::Log => "log",
        }
    }
}

/// A ping, ready to be sent.
pub struct Pinger {
    receiver: Receiver,
}

impl Pinger {
    /// # Errors
    /// A secret or the certificates are not to be had.
    pub fn new(ping: &Ping) -> Result<Self> {
        Ok(Pinger { receiver: Receiver::new(&ping.key(), &ping.url, [], ping.ca_file.as_deref())? })
    }

    pub fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    /// Sends a signal with the end of a text, a few times if need be.
    ///
    /// # Errors
    /// The receiver took none of them.
    pub async fn send(&self, signal: Signal, text: &str) -> Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE_ALL;
        let mut pauses = PAUSES.into_iter();
        loop {
            let patience = PATIENCE.min(deadline.saturating_duration_since(tokio::time::Instant::now()));
            let Err(refused) = self.once(signal, text, patience).await else { return Ok(()) };
            match pauses.next() {
                Some(pause) if tokio::time::Instant::now() + pause + Duration::from_secs(1) < deadline => tokio::time::sleep(pause).await,
                _ => return Err(refused.error),
            }
        }
    }

    /// The same, once.
    ///
    /// # Errors
    /// The receiver did not take it.
    pub async fn once(&self, signal: Signal, text: &str, patience: Duration) -> Result<(), Refused> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        self.receiver.send(Method::POST, signal.below(), headers, tail(text).to_owned(), patience).await
    }
}

/// The end of a text, in whole characters.
fn tail(text: &str) -> &str {
    let mut from = text.len().saturating_sub(TEXT_BYTES_MAX);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_text() {
        assert_eq!(tail("short"), "short");
        let long = format!("{}the end", "\u{20ac}".repeat(5_000));
        let tail = tail(&long);
        assert!(tail.ends_with("the end") && tail.len() <= TEXT_BYTES_MAX && tail.len() > TEXT_BYTES_MAX - 4);
    }
}
