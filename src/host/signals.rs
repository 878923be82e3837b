//! SIGINT and SIGTERM end what runs, in order.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// A token that is cancelled by the first SIGINT, SIGTERM or SIGHUP.
///
/// # Errors
/// The handlers cannot be set.
pub fn cancelled_by_signals() -> Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut wanted = vec![SIGINT, SIGTERM];
    // nohup: who goes on without a terminal is not told when it closes.
    if !is_ignored(SIGHUP) {
        wanted.push(SIGHUP);
    }
    let mut signals = Signals::new(wanted).map_err(|error| Error::system("cannot listen for signals", &error))?;
    let cancel = token.clone();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                tracing::info!(signal, "told to stop; ending what runs");
                cancel.cancel();
            }
        })
        .map_err(|error| Error::system("cannot start a thread", &error))?;
    Ok(token)
}

/// What a daemon is told by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

/// The signals to a daemon, as they come.
///
/// # Errors
/// The handlers cannot be set.
pub fn of_daemon() -> Result<tokio::sync::mpsc::UnboundedReceiver<Told>> {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(|error| Error::system("cannot listen for signals", &error))?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                let _ = sender.send(if signal == SIGHUP { Told::Reload } else { Told::Stop });
            }
        })
        .map_err(|error| Error::system("cannot start a thread", &error))?;
    Ok(receiver)
}

/// Whether this process was started with a signal ignored.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
