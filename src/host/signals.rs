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
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(|error| Error::system("cannot listen for signals", &error))?;
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
