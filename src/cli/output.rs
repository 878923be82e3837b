//! Tables, sizes, JSON and errors on a terminal or in a pipe.

use std::io::{IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::{Cell, Color, ColumnConstraint, ContentArrangement, Table};
use serde::Serialize;
use tracing::Level;

use super::Done;
use crate::catalog::Rung;
use crate::error::{Error, Kind, exit, plain_io};
use crate::host::journal;

pub use crate::status::words::size;

/// Prints a text to stdout. A reader that has gone away is no failure.
pub fn text(text: &str) -> Done {
    let mut stdout = anstream::AutoStream::auto(std::io::stdout()).lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(exit::OK),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(exit::OK),
        Err(error) => Err(Error::new(Kind::System, format!("cannot write to stdout: {}", plain_io(&error)))),
    }
}

/// Prints the one JSON document of a command.
pub fn json(value: &impl Serialize) -> Done {
    let mut document =
        serde_json::to_string_pretty(value).map_err(|error| Error::new(Kind::System, format!("cannot write JSON: {error}")))?;
    document.push('\n');
    text(&document)
}

/// An error as JSON.
#[derive(Debug, Serialize)]
pub struct JsonError<'a> {
    kind: Kind,
    message: &'a str,
    hint: Option<&'a str>,
}

impl<'a> From<&'a Error> for JsonError<'a> {
    fn from(error: &'a Error) -> Self {
        JsonError { kind: error.kind, message: &error.message, hint: error.hint.as_deref() }
    }
}

/// Tells a failure that has no output of its own.
pub fn failure(as_json: bool, error: &Error) {
    tell(error);
    if as_json {
        json_failure(error);
    }
}

/// The JSON document of a failure.
pub fn json_failure(error: &Error) {
    let _ = json(&serde_json::json!({ "error": JsonError::from(error) }));
}

/// Tells a failure on stderr.
pub fn tell(error: &Error) {
    let red = AnsiColor::Red.on_default().bold();
    // A message that begins with the place in a file stands by itself.
    let mut text = if error.kind == Kind::Config { error.message.clone() } else { format!("{red}error:{red:#} {}", error.message) };
    if let Some(hint) = &error.hint {
        text.push_str(&format!("\nHINT: {hint}"));
    }
    say(Level::ERROR, &text);
}

/// Tells something that is worth a look on stderr.
pub fn warn(message: &str, hint: Option<&str>) {
    let yellow = AnsiColor::Yellow.on_default().bold();
    let hint = hint.map_or_else(String::new, |hint| format!("\nHINT: {hint}"));
    say(Level::WARN, &format!("{yellow}warning:{yellow:#} {message}{hint}"));
}

fn say(level: Level, text: &str) {
    let text = journal::marked_for(std::io::stderr(), level, format!("{text}\n"));
    let _ = anstream::AutoStream::auto(std::io::stderr()).lock().write_all(text.as_bytes());
}

/// A table without lines, as wide as the terminal; in a pipe as wide as it needs, a line a row.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::TableStyle::default());
    table.set_header(header.to_vec());
    if std::io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table
}

/// Leaves columns out while a table is wider than the terminal, the first of `spare` first: a name that
/// is broken over lines can be neither read at a glance nor copied.
pub fn fitted(mut table: Table, spare: &[usize]) -> Table {
    let Some(room) = table.width() else { return table };
    // With a blank on each side.
    let mut widths: Vec<usize> = table.column_max_content_widths().into_iter().map(|width| usize::from(width) + 2).collect();
    for &n in spare {
        if widths.iter().sum::<usize>() <= usize::from(room) {
            break;
        }
        if let (Some(width), Some(column)) = (widths.get_mut(n), table.column_mut(n)) {
            *width = 0;
            column.set_constraint(ColumnConstraint::Hidden);
        }
    }
    table
}

/// A duration for people.
pub fn seconds(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is positive and small")]
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3_600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3_600, whole % 3_600 / 60),
    }
}

/// How long something takes, where it is known, and by what.
pub fn about(takes: Option<f64>, by: &str) -> String {
    takes.map_or_else(|| by.to_owned(), |takes| format!("about {}, {by}", seconds(takes)))
}

/// How a rung looks: good green, bad red, in between yellow.
pub fn rung(rung: Rung) -> String {
    let color = match rung {
        Rung::Bad => AnsiColor::Red,
        Rung::Written => AnsiColor::Yellow,
        Rung::Readable | Rung::Restored | Rung::Matched => AnsiColor::Green,
    };
    styled(color.on_default(), rung.as_str())
}

/// The same in a table, which counts the letters without the colour.
pub fn rung_cell(rung: Rung) -> Cell {
    let color = match rung {
        Rung::Bad => Color::Red,
        Rung::Written => Color::Yellow,
        Rung::Readable | Rung::Restored | Rung::Matched => Color::Green,
    };
    Cell::new(rung.as_str()).fg(color)
}

/// A text in a style, where stdout shows styles.
pub fn styled(style: Style, text: &str) -> String {
    if std::io::stdout().is_terminal() { format!("{style}{text}{style:#}") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (secs, expected) in [(0.04, "0.0 s"), (12.34, "12.3 s"), (60.0, "1 min 0 s"), (3_725.0, "1 h 2 min")] {
            assert_eq!(seconds(secs), expected);
        }
    }
}
