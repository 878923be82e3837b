//! `--watch`: the same again and again, in place on a terminal, one after another in a pipe.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use terminal_size::{Height, terminal_size};

use super::Done;
use super::session::runtime;
use crate::error::{Error, Kind, exit, plain_io};
use crate::host::signals;

/// Another screen, so that what was there comes back; and no cursor that jumps.
const BEGIN: &str = "\x1b[?1049h\x1b[?25l";
const END: &str = "\x1b[?25h\x1b[?1049l";

/// Shows what `look` says until Ctrl-C. The last frame stays on the terminal.
pub fn watch(interval: Duration, mut look: impl FnMut() -> String) -> Done {
    let runtime = runtime()?;
    let told = signals::cancelled_by_signals()?;
    let on_terminal = std::io::stdout().is_terminal();
    let has_color = anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never;
    let write = |text: &str| {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
    };
    let mut frame = String::new();
    let mut shown = if on_terminal { write(BEGIN) } else { Ok(()) };
    while shown.is_ok() && !told.is_cancelled() {
        frame = look();
        if !has_color {
            frame = anstream::adapter::strip_str(&frame).to_string();
        }
        let height = terminal_size().map_or(usize::MAX, |(_, Height(height))| height.into());
        shown = if on_terminal { write(&in_place(&frame, height)) } else { write(&format!("{frame}\n")) };
        let pause = async { tokio::time::timeout(interval, told.cancelled()).await };
        let _ = runtime.block_on(pause);
    }
    if on_terminal {
        let _ = write(END).and_then(|()| write(&frame));
    }
    match shown {
        Ok(()) => Ok(exit::OK),
        // Its reader has gone away.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(exit::OK),
        Err(error) => Err(Error::new(Kind::System, format!("cannot write to stdout: {}", plain_io(&error)))),
    }
}

/// A frame over the one before: each line overwrites, nothing is cleared first, and a terminal that knows
/// how shows it in one go. What does not fit is counted.
fn in_place(frame: &str, height: usize) -> String {
    let lines: Vec<&str> = frame.lines().collect();
    let mut text = String::from("\x1b[?2026h\x1b[H");
    let fits = lines.len() < height;
    let room = if fits { lines.len() } else { height.saturating_sub(2) };
    for line in &lines[..room] {
        text += line;
        text += "\x1b[0m\x1b[K\r\n";
    }
    if !fits {
        text += &format!("... {} more lines\x1b[K\r\n", lines.len() - room);
    }
    text + "\x1b[J\x1b[?2026l"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_overwrites_and_never_scrolls() {
        let text = in_place("a\nb\n", 24);
        assert_eq!(text, "\x1b[?2026h\x1b[Ha\x1b[0m\x1b[K\r\nb\x1b[0m\x1b[K\r\n\x1b[J\x1b[?2026l");
        for (lines, height) in [(10, 10), (100, 10), (9, 10), (3, 1)] {
            let frame = "line\n".repeat(lines);
            let text = in_place(&frame, height);
            assert!(text.matches("\r\n").count() < height.max(2), "{lines} {height}");
            assert_eq!(text.contains("more lines"), lines >= height);
            assert!(!text.contains("\x1b[2J"), "clearing first is what flickers");
        }
    }
}
