//! Lines for journald: each begins with its priority, `<4>` for a warning, so that `journalctl -p warning`
//! finds what it asks for. <https://www.freedesktop.org/software/systemd/man/latest/sd-daemon.html>

use std::io::{self, Write};
use std::os::fd::AsFd;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Whether a stream of ours leads to journald: `JOURNAL_STREAM` names the one that systemd has made,
/// and stays in the environment when somebody redirects it.
pub fn takes(stream: impl AsFd) -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    nix::sys::stat::fstat(stream).is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// A text with the priority in front of each of its lines.
pub fn marked(level: Level, text: &str) -> String {
    let priority = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    };
    text.lines().fold(String::with_capacity(text.len() + 4), |mut marked, line| {
        marked.push_str(&format!("<{priority}>{line}\n"));
        marked
    })
}

/// The same where the stream leads to journald; else the text as it is.
pub fn marked_for(stream: impl AsFd, level: Level, text: String) -> String {
    if takes(stream) { marked(level, &text) } else { text }
}

/// The log on stderr, in journald's form.
#[derive(Debug, Clone, Copy)]
pub struct Lines;

/// One event of it.
#[derive(Debug)]
pub struct Event(Level);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Event;

    fn make_writer(&'a self) -> Event {
        Event(Level::INFO)
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Event {
        Event(*meta.level())
    }
}

impl Write for Event {
    /// An event comes in one piece.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(marked(self.0, &String::from_utf8_lossy(event)).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_its_priority() {
        assert_eq!(marked(Level::ERROR, "a\n  b\n"), "<3>a\n<3>  b\n");
        assert_eq!(marked(Level::WARN, "a"), "<4>a\n");
        assert_eq!(marked(Level::INFO, "a\n"), "<6>a\n");
        assert_eq!(marked(Level::DEBUG, "a\n") + &marked(Level::TRACE, "b\n"), "<7>a\n<7>b\n");
    }
}
