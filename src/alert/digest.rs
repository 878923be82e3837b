//! The state of everything as a mail says it.

use std::fmt::Write;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use html_escape::encode_text;

use super::drills::span;
use super::letter::{self, Letter};
use super::policy::Known;
use super::problems::{age, time};
use crate::catalog::Rung;
use crate::host::printable;

/// How a backup stands.
#[derive(Debug, Clone, Default)]
pub struct BackupLine {
    pub name: String,
    pub zone: Tz,
    /// Id, the moment that it shows, and its rung.
    pub newest_good: Option<(String, DateTime<Utc>, Rung)>,
    pub last_outcome: Option<String>,
    pub next_at: Option<DateTime<Utc>>,
    pub restore_seconds: Option<f64>,
}

/// How a store stands.
#[derive(Debug, Clone, Default)]
pub struct StoreLine {
    pub name: String,
    /// `None`: it is not known.
    pub used_percent: Option<u8>,
    pub alert_above_percent: u8,
}

/// Everything.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    pub backups: Vec<BackupLine>,
    pub stores: Vec<StoreLine>,
    pub open: Vec<Known>,
}

/// Writes the mail.
pub fn of_standing(standing: &Standing, machine: &str, now: DateTime<Utc>) -> Letter {
    let what = [count(standing.backups.len(), "backup"), count(standing.stores.len(), "store")].join(", ");
    let headline = match standing.open.len() {
        0 => format!("all is well: {what}"),
        open => format!("{} open: {what}", count(open, "problem")),
    };
    let rows = rows(standing, now);
    let mut text = format!("{headline}\n");
    let mut html = format!("<!DOCTYPE html><html><body style=\"font-family:sans-serif\"><p><b>{}</b></p>", encode_text(&headline));
    for (title, facts) in &rows {
        let _ = write!(text, "\n{title}\n");
        let _ = write!(html, "<p><b>{}</b></p><table>", encode_text(title));
        for (name, value) in facts {
            let label = format!("{name}:");
            let _ = writeln!(text, "  {label:<20} {value}");
            let _ = write!(html, "<tr><td style=\"padding-right:1em\">{name}</td><td>{}</td></tr>", encode_text(value));
        }
        html.push_str("</table>");
    }
    let seen = format!("Seen on {}, {}", printable(machine), now.format("%Y-%m-%d %H:%M:%S UTC"));
    let _ = write!(text, "\n{seen}\n\nLook further:\n\n  pgvigil status\n");
    let _ = write!(html, "<p>{}</p><p>Look further:</p><pre>pgvigil status</pre></body></html>", encode_text(&seen));
    letter::of_digest(&headline, text, html, machine, now)
}

type Row = (String, Vec<(&'static str, String)>);

fn rows(standing: &Standing, now: DateTime<Utc>) -> Vec<Row> {
    let ago = |at: DateTime<Utc>| age((now - at).num_seconds());
    let mut rows: Vec<Row> = Vec::new();
    for known in &standing.open {
        let facts = vec![("What", printable(&known.summary)), ("Since", format!("{} ago", ago(known.since)))];
        rows.push((format!("PROBLEM {}", known.key), facts));
    }
    for backup in &standing.backups {
        let newest = match &backup.newest_good {
            Some((id, at, rung)) => format!("{id} ({rung}), taken {}, {} ago", time(*at, backup.zone), ago(*at)),
            None => "none: there is no good backup".to_owned(),
        };
        let mut facts =
            vec![("Newest good backup", newest), ("Last run", backup.last_outcome.clone().unwrap_or_else(|| "never".to_owned()))];
        facts.extend(backup.restore_seconds.map(|seconds| ("A restore takes", span(seconds))));
        facts.extend(backup.next_at.map(|at| ("Next slot", time(at, backup.zone))));
        rows.push((format!("Backup {}", backup.name), facts));
    }
    for store in &standing.stores {
        let used = store.used_percent.map_or_else(|| "not known".to_owned(), |percent| format!("{percent} %"));
        rows.push((format!("Store {}", store.name), vec![("Used", format!("{used}, told above {} %", store.alert_above_percent))]));
    }
    rows
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_stands_in_it() {
        let now: DateTime<Utc> = "2026-11-22T08:00:00Z".parse().unwrap();
        let taken: DateTime<Utc> = "2026-11-22T01:00:00Z".parse().unwrap();
        let mut standing = Standing {
            backups: vec![
                BackupLine {
                    name: "shop".into(),
                    zone: chrono_tz::Europe::Vienna,
                    newest_good: Some(("shop/20261122T010000Z".into(), taken, Rung::Matched)),
                    last_outcome: Some("ok".into()),
                    next_at: Some("2026-11-23T01:00:00Z".parse().unwrap()),
                    restore_seconds: Some(41.0),
                },
                BackupLine { name: "new".into(), ..BackupLine::default() },
            ],
            stores: vec![StoreLine { name: "local".into(), used_percent: Some(42), alert_above_percent: 80 }],
            open: vec![],
        };
        let letter = of_standing(&standing, "db1", now);
        assert_eq!(
            (letter.subject.as_str(), letter.key.as_str(), letter.state.as_str()),
            ("[pgvigil] all is well: 2 backups, 1 store", "digest", "digest")
        );
        assert_eq!(
            letter.text,
            "all is well: 2 backups, 1 store

Backup shop
  Newest good backup:  shop/20261122T010000Z (matched), taken 2026-11-22 02:00:00 +01:00, 7 h 0 min ago
  Last run:            ok
  A restore takes:     41 s
  Next slot:           2026-11-23 02:00:00 +01:00

Backup new
  Newest good backup:  none: there is no good backup
  Last run:            never

Store local
  Used:                42 %, told above 80 %

Seen on db1, 2026-11-22 08:00:00 UTC

Look further:

  pgvigil status
"
        );
        standing.open = vec![Known { key: "backup/shop/failed".into(), since: taken, summary: "it <failed>".into(), told: vec![] }];
        let letter = of_standing(&standing, "db1", now);
        assert_eq!(letter.subject, "[pgvigil] 1 problem open: 2 backups, 1 store");
        assert!(letter.text.contains("PROBLEM backup/shop/failed\n  What:                it <failed>\n"), "{}", letter.text);
        assert!(letter.html.contains("it &lt;failed&gt;") && !letter.html.contains("<failed>"));
    }
}
