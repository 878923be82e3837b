//! Progress on a terminal.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use super::output;
use crate::job::progress::Progress;

/// What is shown of a dump: its share of the last run's size.
pub const OF_LAST_RUN: &str = "{spinner} {msg}  [{bar:20}] {percent}% of the last run's size  {elapsed}";

/// What is shown where the end is known: when it will be.
pub const TO_GO: &str = "{spinner} {msg}  [{bar:20}] {percent}%  {elapsed}, about {eta} to go";

/// Shown until it is dropped.
pub struct Bar {
    bar: ProgressBar,
    task: JoinHandle<()>,
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}

/// Shows progress, where stderr is a terminal: bytes, rate, ratio and, in a form of indicatif's, the
/// share of what is expected.
pub fn show(progress: &Arc<Progress>, known: &str) -> Option<Bar> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let progress = Arc::clone(progress);
    let unknown = "{spinner} {msg}  {elapsed}";
    let style =
        |template: &str| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner()).progress_chars("=> ");
    let bar = ProgressBar::new_spinner();
    bar.set_style(style(unknown));
    let shown = bar.clone();
    let (known, unknown) = (style(known), style(unknown));
    let task = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        let mut rate = Rate::default();
        let mut expected = None;
        loop {
            ticks.tick().await;
            let seen = progress.look();
            if seen.expected_raw_bytes != expected {
                expected = seen.expected_raw_bytes;
                shown.set_style(if expected.is_some() { known.clone() } else { unknown.clone() });
            }
            if let Some(expected) = expected {
                shown.set_length(expected.max(seen.raw_bytes));
                shown.set_position(seen.raw_bytes);
            }
            let per_sec = rate.next(seen.raw_bytes);
            let ratio = if seen.packed_bytes == 0 {
                String::new()
            } else {
                format!(", packed {:.1} to 1", ratio(seen.raw_bytes, seen.packed_bytes))
            };
            shown.set_message(format!("{}: {} at {}/s{ratio}", seen.stage, output::size(seen.raw_bytes), output::size(per_sec)));
            shown.tick();
        }
    });
    Some(Bar { bar, task })
}

#[expect(clippy::cast_precision_loss, reason = "one digit is shown")]
fn ratio(raw: u64, packed: u64) -> f64 {
    raw as f64 / packed as f64
}

/// Bytes a second over the last two seconds of ticks.
#[derive(Default)]
struct Rate(std::collections::VecDeque<u64>);

impl Rate {
    const TICKS: usize = 10;

    fn next(&mut self, bytes: u64) -> u64 {
        if self.0.back().is_some_and(|last| *last > bytes) {
            self.0.clear();
        }
        self.0.push_back(bytes);
        if self.0.len() > Self::TICKS + 1 {
            self.0.pop_front();
        }
        let ticks = (self.0.len() - 1).max(1) as u64;
        (bytes - self.0[0]) * 5 / ticks
    }
}
