//! The one place that reads the clock; everything else is told the time.

use chrono::{DateTime, Utc};

use crate::retain::doubt::Reading;

/// Now, in UTC.
#[expect(clippy::disallowed_methods, reason = "this is the room of the clock")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}

/// Both clocks of the machine; `None` where the kernel does not tell of the second.
pub fn reading() -> Option<Reading> {
    let read = |path| std::fs::read_to_string(path).ok();
    let uptime = read("/proc/uptime")?;
    let uptime_secs = uptime.split(['.', ' ']).next()?.parse().ok()?;
    let boot = read("/proc/sys/kernel/random/boot_id")?;
    // A container that shows an uptime of its own begins it anew with its first process.
    let init = read("/proc/1/stat").and_then(|stat| stat.rsplit(')').next()?.split_whitespace().nth(19).map(str::to_owned));
    Some(Reading { boot: format!("{} {}", boot.trim(), init.unwrap_or_default()), uptime_secs, wall: now() })
}
