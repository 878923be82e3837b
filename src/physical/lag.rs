//! What the server has written, what has been archived, now -> how much a loss of the server would cost.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::wal::Lsn;

/// What a server says of its log.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct ServerLog {
    /// Up to here it has written, by its clock at that moment.
    pub lsn: Lsn,
    pub now: DateTime<Utc>,
    /// Of `pg_stat_archiver`, where the server archives by itself.
    pub last_archived: Option<String>,
    pub last_archived_at: Option<DateTime<Utc>>,
    pub failed_count: i64,
    pub last_failed: Option<String>,
    pub last_failed_at: Option<DateTime<Utc>>,
    /// Whether it archives, where it should: a primary whose log comes by `archive_command`.
    #[serde(default)]
    pub archives: Option<bool>,
    #[serde(default)]
    pub in_recovery: bool,
    /// Seconds after which a segment ends by itself; 0: never.
    pub archive_timeout: i64,
    /// In `pg_wal`; `None`: this role may not look.
    pub pg_wal_bytes: Option<i64>,
    /// Segments that wait for `archive_command`; `None`: this role may not look.
    pub waiting: Option<i64>,
    /// Since when the oldest of them waits.
    #[serde(default)]
    pub waiting_since: Option<DateTime<Utc>>,
    pub slots: Vec<Slot>,
}

/// A replication slot, and what it holds back.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Slot {
    pub name: String,
    pub active: bool,
    pub restart_lsn: Option<Lsn>,
    pub retained_bytes: Option<i64>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// What may still be written before it is lost; `None`: there is no bound, and the disk fills.
    pub safe_bytes: Option<i64>,
}

/// How the archive stands to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// All whole segments are archived; the one that is being written is not.
    Following,
    /// Whole segments are not archived.
    Behind,
    /// Nothing is archived at all.
    Empty,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Standing::Following => "follows",
            Standing::Behind => "is behind",
            Standing::Empty => "is empty",
        })
    }
}

/// How the log of a backup stands, in figures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Figures {
    /// Any moment of this span can be restored.
    pub restorable_from: Option<DateTime<Utc>>,
    pub restorable_to: Option<DateTime<Utc>>,
    /// When the last segment came into the archive.
    pub last_segment_at: Option<DateTime<Utc>>,
    /// Log that is on the server only, in bytes.
    pub bytes_behind: Option<u64>,
    /// What a slot of ours holds back on the server, in bytes.
    pub slot_holds_bytes: Option<u64>,
    /// Places where log is missing.
    pub gaps: usize,
}

impl Figures {
    /// The age of what a loss of the server would leave, in seconds (RPO); 0 where the archive holds all that
    /// was written. `None`: nothing has ever come.
    pub fn may_lose_seconds(&self, now: DateTime<Utc>) -> Option<i64> {
        let last = self.last_segment_at?;
        Some(if self.bytes_behind == Some(0) { 0 } else { (now - last).num_seconds().max(0) })
    }
}

/// Whole segments that may be under way without anybody being behind.
const UNDER_WAY: u64 = 2;

/// So many segments that wait in `pg_wal` are told, whatever goes on: 1 GiB of the usual ones.
const WAITING_MAX: i64 = 64;

/// A server that writes is taken for stuck when nothing came for so long.
pub const PATIENCE: TimeDelta = TimeDelta::minutes(5);

/// Log that is not in the archive, in bytes.
pub fn bytes_behind(archived_to: Option<Lsn>, written_to: Lsn) -> u64 {
    written_to.0.saturating_sub(archived_to.unwrap_or_default().0)
}

/// Whether the archive leads further than its server has ever written: that goes another way now.
pub fn is_left(archived_to: Lsn, server: &ServerLog) -> bool {
    // A standby may be behind its primary.
    !server.in_recovery && server.lsn < archived_to
}

/// Tells an idle server from a stuck archive.
pub fn standing(archived_to: Option<Lsn>, written_to: Lsn, segment_bytes: u64) -> Standing {
    match archived_to {
        None => Standing::Empty,
        Some(archived) if bytes_behind(Some(archived), written_to) > segment_bytes.saturating_mul(UNDER_WAY) => Standing::Behind,
        Some(_) => Standing::Following,
    }
}

/// What is told when server or stores do not answer: for a moment, nothing.
pub fn unseen(since: DateTime<Utc>, why: &str, now: DateTime<Utc>) -> Option<String> {
    (now - since >= PATIENCE).then(|| format!("nobody can tell how the log stands since {}: {why}", since.format("%Y-%m-%d %H:%M:%S UTC")))
}

/// What is wrong. `archived_to`: where the archive ends; `last_at`: when its last segment came, by our clock.
pub fn problems(
    server: &ServerLog,
    archived_to: Option<Lsn>,
    segment_bytes: u64,
    last_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Vec<String> {
    let mut found = Vec::new();
    let standing = standing(archived_to, server.lsn, segment_bytes);
    let is_old = last_at.is_none_or(|at| now - at > PATIENCE);
    match standing {
        Standing::Behind if is_old => {
            let since = last_at.map_or("ever".to_owned(), |at| format!("since {}", at.format("%Y-%m-%d %H:%M:%S UTC")));
            let failed = server.last_failed.as_ref().map(|name| format!("; the server failed to archive {name}")).unwrap_or_default();
            found.push(format!("the server writes, and nothing came into the archive {since}{failed}"));
        }
        Standing::Empty => {
            let failed = server.last_failed.as_ref().map(|name| format!("; the server failed to archive {name}: its own log says why"));
            found.push(format!("the archive is empty{}", failed.unwrap_or_default()));
        }
        Standing::Behind | Standing::Following => {}
    }
    if server.archives == Some(false) {
        found.push("archive_mode is off on the server: nothing of its log comes into the archive".to_owned());
    }
    // On its new way it may be idle for hours, and no segment of that is whole.
    let comes = server.slots.iter().any(|slot| slot.active) || server.last_archived_at > last_at;
    if let Some(end) = archived_to.filter(|end| is_old && !comes && is_left(*end, server)) {
        found.push(format!(
            "the server writes at {}, and the archive leads to {end}: it was restored, and its log does not come",
            server.lsn
        ));
    }
    if let Some((name, at)) = server.last_failed.as_ref().zip(server.last_failed_at)
        && server.last_archived_at.is_some_and(|archived| at > archived && server.now - archived > PATIENCE)
    {
        found.push(format!("the server fails to archive {name}, last at {}", at.format("%Y-%m-%d %H:%M:%S UTC")));
    }
    if let Some(since) = server.waiting_since.filter(|since| server.now - *since > PATIENCE && found.is_empty()) {
        found.push(format!("a segment waits in pg_wal since {} to be archived", since.format("%Y-%m-%d %H:%M:%S UTC")));
    }
    let behind = bytes_behind(archived_to, server.lsn) / segment_bytes.max(1);
    if let Some(waiting) = server.waiting.filter(|waiting| *waiting >= WAITING_MAX) {
        found.push(format!("{waiting} segments wait in pg_wal to be archived: the server writes faster than they are pushed"));
    } else if standing == Standing::Behind && !is_old && behind >= WAITING_MAX.unsigned_abs() {
        found.push(format!("{behind} segments are on the server only: it writes faster than its log comes into the archive"));
    }
    for slot in &server.slots {
        match slot.wal_status.as_deref() {
            Some("lost") => found.push(format!(
                "slot {} has lost log that it needs: the daemon makes it anew, and a base backup leads over the gap",
                slot.name
            )),
            Some("unreserved") => found.push(format!("slot {} is about to lose log that it needs", slot.name)),
            _ => {}
        }
        if !slot.active {
            let bytes = slot.retained_bytes.unwrap_or_default();
            found.push(format!("nobody reads from slot {}, which holds {bytes} bytes back", slot.name));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn server() -> ServerLog {
        serde_json::from_value(serde_json::json!({
            "lsn": "0/5000000", "now": "2026-01-15T12:00:00Z", "last_archived": null, "last_archived_at": null, "failed_count": 0,
            "last_failed": "000000010000000000000005", "last_failed_at": null, "archive_timeout": 0, "pg_wal_bytes": null, "waiting": null, "slots": []
        }))
        .unwrap()
    }

    #[test]
    fn what_a_loss_of_the_server_would_cost() {
        let now: DateTime<Utc> = "2026-01-15T12:00:00Z".parse().unwrap();
        let last_segment_at = Some(now - TimeDelta::seconds(90));
        for (last_segment_at, bytes_behind, expected) in [
            (last_segment_at, Some(40), Some(90)),
            (last_segment_at, None, Some(90)),
            (last_segment_at, Some(0), Some(0)),
            (None, Some(40), None),
        ] {
            let figures = Figures { last_segment_at, bytes_behind, ..Figures::default() };
            assert_eq!(figures.may_lose_seconds(now), expected, "{figures:?}");
        }
    }

    #[test]
    fn a_server_that_has_left_its_archive_is_told() {
        let end = Some(Lsn(0x600_0000));
        let now: DateTime<Utc> = "2026-01-15T12:00:00Z".parse().unwrap();
        let told = |server: &ServerLog, minutes| problems(server, end, 16 * MB, Some(now - TimeDelta::minutes(minutes)), now).join("\n");
        assert!(told(&server(), 6).contains("it was restored"));
        assert!(!told(&server(), 4).contains("it was restored"), "the first segment is under way");
        assert!(!told(&ServerLog { in_recovery: true, ..server() }, 6).contains("it was restored"));
        assert!(!told(&ServerLog { lsn: Lsn(0x600_0000), ..server() }, 6).contains("it was restored"));
        assert!(!told(&ServerLog { last_archived_at: Some(now), ..server() }, 6).contains("it was restored"), "its history came");
        for (archives, is_told) in [(None, false), (Some(true), false), (Some(false), true)] {
            assert_eq!(told(&ServerLog { archives, ..server() }, 4).contains("archive_mode is off"), is_told);
        }
    }

    #[test]
    fn what_nobody_can_tell_is_told() {
        let since: DateTime<Utc> = "2026-01-15T12:00:00Z".parse().unwrap();
        let told = |seconds| unseen(since, "refused", since + TimeDelta::seconds(seconds));
        assert_eq!(told(299), None);
        assert_eq!(told(300).as_deref(), Some("nobody can tell how the log stands since 2026-01-15 12:00:00 UTC: refused"));
    }

    #[test]
    fn an_idle_server_is_not_a_stuck_archive() {
        let now: DateTime<Utc> = "2026-01-15T12:00:00Z".parse().unwrap();
        let (long_ago, just_now) = (Some(now - TimeDelta::hours(9)), Some(now - TimeDelta::seconds(5)));
        // Idle for hours: the open segment is all that is not there.
        let idle = standing(Some(Lsn(5 * MB)), Lsn(5 * MB + 40), MB);
        assert_eq!(idle, Standing::Following);
        let problems = |written: Lsn, archived, last_at| problems(&ServerLog { lsn: written, ..server() }, archived, MB, last_at, now);
        let archived = Some(Lsn(5 * MB));
        assert_eq!(problems(Lsn(5 * MB + 40), archived, long_ago), [] as [String; 0]);
        let stuck = standing(Some(Lsn(5 * MB)), Lsn(8 * MB + 40), MB);
        assert_eq!(stuck, Standing::Behind);
        assert!(problems(Lsn(8 * MB + 40), archived, long_ago)[0].contains("failed to archive 000000010000000000000005"));
        assert_eq!(problems(Lsn(8 * MB + 40), archived, just_now), [] as [String; 0], "a burst is on its way");
        assert_eq!(problems(Lsn(68 * MB), archived, just_now), [] as [String; 0]);
        // A role that may not look how many wait sees that, too.
        assert!(problems(Lsn(69 * MB), archived, just_now)[0].contains("64 segments are on the server only"));
        assert_eq!(
            problems(Lsn(MB), None, None),
            ["the archive is empty; the server failed to archive 000000010000000000000005: its own log says why"]
        );
    }

    #[test]
    fn what_waits_on_the_server_and_what_it_cannot_archive() {
        let now: DateTime<Utc> = "2026-01-15T12:00:00Z".parse().unwrap();
        let ago = |minutes| Some(now - TimeDelta::minutes(minutes));
        let of = |server: ServerLog| problems(&server, Some(server.lsn), MB, Some(now), now);
        for (archived, failed, expected) in
            [(ago(6), ago(1), true), (ago(4), ago(1), false), (ago(1), ago(6), false), (None, ago(1), false)]
        {
            let told = of(ServerLog { last_archived_at: archived, last_failed_at: failed, ..server() });
            assert_eq!(told.first().is_some_and(|told| told.contains("fails to archive 000000010000000000000005")), expected, "{told:?}");
        }
        assert_eq!(of(ServerLog { waiting: Some(63), ..server() }), [] as [String; 0]);
        // A push that hangs fails nothing.
        assert_eq!(of(ServerLog { waiting_since: ago(4), ..server() }), [] as [String; 0]);
        assert!(of(ServerLog { waiting_since: ago(6), ..server() })[0].contains("a segment waits in pg_wal since 2026-01-15 11:54:00 UTC"));
        assert!(of(ServerLog { waiting: Some(64), ..server() })[0].contains("64 segments wait in pg_wal"));
    }

    #[test]
    fn slots_that_nobody_reads_or_that_have_lost_log() {
        let now: DateTime<Utc> = "2026-01-15T12:00:00Z".parse().unwrap();
        let slot = |active, status: &str| Slot {
            name: "pgvigil_c".into(),
            active,
            restart_lsn: None,
            retained_bytes: Some(77),
            wal_status: Some(status.into()),
            safe_bytes: None,
        };
        let of = |slot| problems(&ServerLog { slots: vec![slot], ..server() }, Some(server().lsn), MB, Some(now), now);
        assert_eq!(of(slot(true, "reserved")), [] as [String; 0]);
        assert!(of(slot(false, "extended"))[0].contains("holds 77 bytes back"));
        assert!(of(slot(true, "lost"))[0].contains("has lost log that it needs"));
    }
}
