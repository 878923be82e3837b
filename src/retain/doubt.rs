//! Whether the clock can be trusted to delete by. A clock that has jumped by a year makes a new
//! year, a new month and a new day of one backup, and each pushes an old one out: retention waits
//! until it is clear that the jump was meant.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// A step of the clock beyond this is a jump. A smaller one moves no backup by more than a day.
const JUMP_SECS: i64 = 24 * 3_600;

/// Clocks drift and are slewed by this much without anybody setting them.
const SLEW_SECS: i64 = 60;

/// A jump that nobody took back for so long was meant.
const HOLD_SECS: i64 = 7 * 24 * 3_600;

/// Both clocks at one moment: that of the calendar, which may be set, and that since the start of
/// the machine, which only goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Tells one start of the machine from another.
    pub boot: String,
    pub uptime_secs: i64,
    pub wall: DateTime<Utc>,
}

/// What is remembered of the clocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    boot: String,
    /// The calendar's second at which the machine started, by its own account.
    started: i64,
    pub doubt: Option<Doubt>,
}

/// A jump that may have been a mistake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// When the machine started, as it was before the jump.
    before: i64,
    /// Since the start of the machine.
    since_uptime_secs: i64,
    /// How far it went, in seconds; ahead is positive.
    pub by_secs: i64,
    /// The new clock's account of the jump.
    pub at: DateTime<Utc>,
}

/// What to remember after another look at the clocks.
pub fn observe(before: Option<Watched>, now: &Reading) -> Watched {
    let started = now.wall.timestamp() - now.uptime_secs;
    let fresh = Watched { boot: now.boot.clone(), started, doubt: None };
    let before = match before {
        Some(before) if before.boot == now.boot => before,
        // After another start only the calendar could tell how long the machine was down. It says
        // nothing for a calendar that was doubted already: that is waited for anew.
        other => {
            let doubt = other.and_then(|before| before.doubt).filter(|doubt| !doubt.is_taken_back(now.wall));
            return Watched {
                doubt: doubt.map(|doubt| Doubt { before: started - doubt.by_secs, since_uptime_secs: now.uptime_secs, ..doubt }),
                ..fresh
            };
        }
    };
    let step = started - before.started;
    let doubt = match before.doubt {
        Some(doubt) if (started - doubt.before).abs() <= JUMP_SECS => None,
        Some(doubt) if now.uptime_secs - doubt.since_uptime_secs > HOLD_SECS => None,
        Some(doubt) => Some(doubt),
        None if step.abs() > JUMP_SECS => {
            Some(Doubt { before: before.started, since_uptime_secs: now.uptime_secs, by_secs: step, at: now.wall })
        }
        None => None,
    };
    // What is slewed or rounded is no step, and not worth a write.
    let started = if step.abs() <= SLEW_SECS { before.started } else { started };
    Watched { started, doubt, ..fresh }
}

impl Doubt {
    /// Whether a calendar shows a time that it had left behind, or caught up with.
    fn is_taken_back(&self, wall: DateTime<Utc>) -> bool {
        let since = (wall - self.at).num_seconds();
        if self.by_secs > 0 { since < -JUMP_SECS } else { since > -self.by_secs - JUMP_SECS }
    }

    /// The jump in words.
    pub fn told(&self) -> String {
        let way = if self.by_secs > 0 { "ahead" } else { "back" };
        let days = TimeDelta::seconds(self.by_secs.abs()).num_days();
        format!(
            "the clock of this machine has jumped {days} days {way}: retention deletes nothing until it is back, for a week, or until `pgvigil prune --trust-clock`"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: i64 = 365 * 24 * 3_600;

    fn look(before: &Watched, uptime_secs: i64, ahead_secs: i64) -> Watched {
        observe(Some(before.clone()), &reading("a", uptime_secs, ahead_secs))
    }

    fn reading(boot: &str, uptime_secs: i64, ahead_secs: i64) -> Reading {
        Reading { boot: boot.into(), uptime_secs, wall: DateTime::from_timestamp(1_800_000_000 + uptime_secs + ahead_secs, 0).unwrap() }
    }

    #[test]
    fn a_jump_is_doubted_until_it_is_taken_back_or_lasts() {
        let calm = observe(None, &reading("a", 100, 0));
        assert_eq!(calm.doubt, None);
        assert_eq!(look(&calm, 90_000, 0).doubt, None, "a day has passed");
        assert_eq!(look(&calm, 200, 3_600).doubt, None, "an hour is no jump");
        for way in [YEAR, -YEAR] {
            let jumped = look(&calm, 200, way);
            assert_eq!(jumped.doubt.as_ref().map(|doubt| doubt.by_secs), Some(way));
            let still = look(&look(&jumped, 300, way), 200 + HOLD_SECS, way);
            assert!(still.doubt.is_some());
            assert_eq!(look(&still, 201 + HOLD_SECS, way).doubt, None, "it was meant");
            assert_eq!(look(&jumped, 400, 5).doubt, None, "it was taken back");
            assert!(look(&jumped, 400, 2 * way).doubt.is_some(), "it went on");
            // Another start of the machine, or of the container.
            let again = |uptime_secs, ahead_secs| Reading { wall: reading("b", 700, ahead_secs).wall, ..reading("b", uptime_secs, 0) };
            let started = observe(Some(jumped.clone()), &again(5, way));
            assert_eq!(started.doubt.as_ref().map(|doubt| doubt.by_secs), Some(way), "it is as wrong as before");
            let later = |uptime_secs, ahead_secs| Reading {
                wall: reading("b", 695 + uptime_secs, ahead_secs).wall,
                ..reading("b", uptime_secs, 0)
            };
            assert!(observe(Some(started.clone()), &later(300, way)).doubt.is_some());
            assert_eq!(observe(Some(started.clone()), &later(300, 0)).doubt, None, "it was taken back");
            assert_eq!(observe(Some(started), &later(6 + HOLD_SECS, way)).doubt, None, "it was meant");
            assert_eq!(observe(Some(jumped), &again(5, 0)).doubt, None, "it was taken back meanwhile");
        }
    }
}
