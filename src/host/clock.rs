//! The one place that reads the clock; everything else is told the time.

use chrono::{DateTime, Utc};

/// Now, in UTC.
#[expect(clippy::disallowed_methods, reason = "this is the room of the clock")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}
