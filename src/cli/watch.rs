//! `--watch`: the same again and again, in place on a terminal, one after another in a pipe.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use terminal_size::{Height, Width, terminal_size};

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
        let (width, height) =
            terminal_size().map_or((usize::MAX, usize::MAX), |(Width(width), Height(height))| (width.into(), height.into()));
        shown = if on_terminal { write(&in_place(&frame, width, height)) } else { write(&format!("{frame}\n")) };
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
fn in_place(frame: &str, width: usize, height: usize) -> String {
    let width = width.max(1);
    let lines: Vec<(&str, usize)> =
        frame.lines().map(|line| (line, anstream::adapter::strip_str(line).to_string().chars().count())).collect();
    // A long line takes several rows.
    let rows = |letters: usize| letters.div_ceil(width).max(1);
    let all: usize = lines.iter().map(|(_, letters)| rows(*letters)).sum();
    let room = if all < height { all } else { height.saturating_sub(2) };
    let mut used = 0;
    let fits = |(_, letters): &&(&str, usize)| {
        used += rows(*letters);
        used <= room
    };
    let shown = lines.iter().take_while(fits).count();
    let mut text = String::from("\x1b[?2026h\x1b[H");
    for (line, letters) in &lines[..shown] {
        text += line;
        text += "\x1b[0m";
        // At the edge it would take the last letter away.
        if *letters == 0 || letters % width != 0 {
            text += "\x1b[K";
        }
        text += "\r\n";
    }
    if shown < lines.len() {
        text += &format!("... {} more lines\x1b[K\r\n", lines.len() - shown);
    }
    text + "\x1b[J\x1b[?2026l"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_overwrites_and_never_scrolls() {
        let text = in_place("a\nb\n", 80, 24);
        assert_eq!(text, "\x1b[?2026h\x1b[Ha\x1b[0m\x1b[K\r\nb\x1b[0m\x1b[K\r\n\x1b[J\x1b[?2026l");
        for (lines, height) in [(10, 10), (100, 10), (9, 10), (3, 1)] {
            let frame = "line\n".repeat(lines);
            let text = in_place(&frame, 80, height);
            assert!(text.matches("\r\n").count() < height.max(2), "{lines} {height}");
            assert_eq!(text.contains("more lines"), lines >= height);
            assert!(!text.contains("\x1b[2J"), "clearing first is what flickers");
        }
        // Three rows each, whatever the colours.
        let frame = "\x1b[31mtwenty-five letters here.\x1b[0m\n".repeat(4);
        assert!(!in_place(&frame, 10, 13).contains("more lines"));
        let text = in_place(&frame, 10, 12);
        assert!(text.matches("letters").count() == 3 && text.contains("... 1 more lines"), "{text}");
        let text = in_place("12345\n\n123456\n", 5, 24);
        assert!(text.contains("12345\x1b[0m\r\n\x1b[0m\x1b[K\r\n123456\x1b[0m\x1b[K\r\n"), "{text:?}");
    }
}
