//! What `pg_waldump` says of the ends of transactions, and those that lie in a window.

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::Serialize;

use crate::wal::Lsn;

/// A transaction that was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Commit {
    pub at: DateTime<Utc>,
    pub xid: u64,
    /// Of its record: a recovery to there ends just behind it.
    pub lsn: Lsn,
}

/// The end of a transaction, good or bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Committed(Commit),
    Aborted(DateTime<Utc>),
}

impl Ended {
    pub fn at(self) -> DateTime<Utc> {
        match self {
            Ended::Committed(commit) => commit.at,
            Ended::Aborted(at) => at,
        }
    }
}

/// Reads a line of `pg_waldump`. `None`: it is not about the end of a transaction.
pub fn ended(line: &str) -> Option<Ended> {
    let (head, rest) = line.split_once("desc: ")?;
    let (what, rest) = rest.split_once(' ')?;
    if !(what.starts_with("COMMIT") || what.starts_with("ABORT")) {
        return None;
    }
    // "COMMIT_PREPARED 745: 2026-..." names the transaction, which its record is not of.
    let prepared = rest.split_once(": ").filter(|(number, _)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()));
    let text = prepared.map_or(rest, |(_, text)| text);
    let end = text.find(" UTC")?;
    let at = NaiveDateTime::parse_from_str(&text[..end], "%Y-%m-%d %H:%M:%S%.f").ok()?.and_utc();
    if what.starts_with("ABORT") {
        return Some(Ended::Aborted(at));
    }
    let field = |name: &str| Some(head.split_once(name)?.1.split(',').next()?.trim());
    let xid = prepared.map(|(number, _)| number).or_else(|| field("tx:"))?.parse().ok()?;
    Some(Ended::Committed(Commit { at, xid, lsn: field("lsn:")?.parse().ok()? }))
}

/// The transactions that were committed in a window, in the order of the log.
#[derive(Debug)]
pub struct Within {
    from: DateTime<Utc>,
    to: Option<DateTime<Utc>>,
    /// Behind the end of the base backup.
    behind: Lsn,
    /// The last one before it.
    pub before: Option<Commit>,
    pub commits: Vec<Commit>,
    /// One behind its end was there: nothing of it is missing.
    pub is_closed: bool,
}

impl Within {
    /// `to`: `None` is the end of the log.
    pub fn new(from: DateTime<Utc>, to: Option<DateTime<Utc>>, behind: Lsn) -> Self {
        Within { from, to, behind, before: None, commits: Vec::new(), is_closed: false }
    }

    /// Hears of the next transaction. False: the window is over.
    ///
    /// Moments need not rise with the log: like PostgreSQL, the window begins and ends at the first
    /// transaction that is later.
    pub fn hear(&mut self, commit: Commit) -> bool {
        if commit.lsn <= self.behind {
            return true;
        }
        if self.commits.is_empty() && commit.at <= self.from {
            self.before = Some(commit);
            return true;
        }
        if self.to.is_some_and(|to| commit.at > to) {
            self.is_closed = true;
            return false;
        }
        self.commits.push(commit);
        true
    }
}

/// Where a line of pg_waldump tells of a restore point of a name.
pub fn restore_point(line: &str, name: &str) -> Option<Lsn> {
    let (record, said) = line.split_once("desc: RESTORE_POINT ")?;
    let lsn = record.split_once("lsn: ")?.1.split(',').next()?.trim();
    (said == name).then(|| lsn.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_pg_waldump() {
        let head = "rmgr: Transaction len (rec/tot):     34/    34, tx:        745, lsn: 0/03000148, prev 0/03000110, desc: ";
        let commit = |at: &str, xid| Some(Ended::Committed(Commit { at: at.parse().unwrap(), xid, lsn: Lsn(0x300_0148) }));
        for (desc, expected) in [
            ("COMMIT 2026-01-15 13:30:00.123456 UTC", commit("2026-01-15T13:30:00.123456Z", 745)),
            ("COMMIT 2026-01-15 13:30:00.000001 UTC; inval msgs: catcache 7 relcache 1249", commit("2026-01-15T13:30:00.000001Z", 745)),
            ("COMMIT_PREPARED 740: 2026-01-15 13:30:00.5 UTC", commit("2026-01-15T13:30:00.5Z", 740)),
            ("ABORT 2026-01-15 13:30:00.5 UTC", Some(Ended::Aborted("2026-01-15T13:30:00.5Z".parse().unwrap()))),
            ("PREPARE gid x: 2026-01-15 13:30:00.5 UTC", None),
            ("INVALIDATION ; inval msgs", None),
        ] {
            assert_eq!(ended(&format!("{head}{desc}")), expected, "{desc}");
        }
    }

    #[test]
    fn a_window_begins_and_ends_at_the_first_that_is_later() {
        let at = |second: i64| DateTime::from_timestamp(second, 0).unwrap();
        let heard = |seconds: &[i64], to: Option<i64>| {
            let mut within = Within::new(at(10), to.map(at), Lsn(1));
            for (n, second) in (0..).zip(seconds) {
                if !within.hear(Commit { at: at(*second), xid: n, lsn: Lsn(n + 1) }) {
                    break;
                }
            }
            (within.before.map(|commit| commit.xid), within.commits.iter().map(|commit| commit.xid).collect::<Vec<_>>(), within.is_closed)
        };
        // The first is in the base backup. One that is written a little late is of the window all the same.
        assert_eq!(heard(&[1, 9, 10, 11, 10, 20, 21, 20], Some(20)), (Some(2), vec![3, 4, 5], true));
        assert_eq!(heard(&[1, 11, 12], Some(20)), (None, vec![1, 2], false));
        assert_eq!(heard(&[1, 11, 99], None), (None, vec![1, 2], false));
        assert_eq!(heard(&[1, 21], Some(20)), (None, vec![], true));
    }

    #[test]
    fn a_restore_point_of_a_name() {
        let line = "rmgr: XLOG        len (rec/tot):     98/    98, tx:          0, lsn: 0/0301A2B8, prev 0/0301A280, desc: RESTORE_POINT before the move";
        assert_eq!(restore_point(line, "before the move"), Some(Lsn(0x0301_A2B8)));
        assert_eq!(restore_point(line, "before"), None);
        assert_eq!(restore_point("rmgr: XLOG lsn: 0/1, desc: SWITCH ", ""), None);
    }
}
