//! What the service manager is told, where one listens: systemd's protocol.
//! <https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html>

use std::time::Duration;

use sd_notify::NotifyState;

/// The variable that names its socket. What we start must not have it: PostgreSQL speaks the protocol,
/// too, and the server of a drill would say that we are ready, or that we stop.
pub const SOCKET: &str = "NOTIFY_SOCKET";

/// By how much a stop that is under way is put off at a time.
const STOP_WITHIN: Duration = Duration::from_secs(120);

/// Whether somebody listens.
pub fn is_heard() -> bool {
    std::env::var_os(SOCKET).is_some()
}

/// Within what time it wants to hear that we are alive. `None`: it does not.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|limit| is_heard() && !limit.is_zero())
}

pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Must be followed by [`ready`], also when nothing has changed.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot read the clock for the service manager"),
    }
}

pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Asks for more time to stop: `shutdown_grace` may be longer than what the unit grants.
pub fn still_stopping() {
    let usec = u32::try_from(STOP_WITHIN.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::ExtendTimeoutUsec(usec)]);
}

pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// One line for people.
pub fn status(line: &str) {
    tell(&[NotifyState::Status(&line.replace(char::is_control, " "))]);
}

fn tell(words: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(words) {
        tracing::warn!(%error, "the service manager cannot be told how things stand");
    }
}
