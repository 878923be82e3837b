//! Backups, proofs and runs of many weeks, written as the program writes them, so that what shows them
//! has something to show.

use std::path::Path;

use chrono::{DateTime, Duration, Utc};
use pgvigil::catalog::Label;
use pgvigil::host::Tag;
use pgvigil::state::{History, Outcome, State};
use serde_json::json;

use super::World;

/// A backup's past. Moments are days before now.
pub struct Past<'a> {
    pub world: &'a World,
    pub name: &'a str,
    pub now: DateTime<Utc>,
}

fn write(path: &Path, value: &serde_json::Value) {
    std::fs::write(path, value.to_string()).unwrap();
}

impl Past<'_> {
    fn at(&self, days: f64) -> DateTime<Utc> {
        let ago = std::time::Duration::from_secs_f64(days * 86_400.0);
        Label::of(self.now - Duration::from_std(ago).unwrap()).slot()
    }

    fn history(&self) -> History {
        State::open(&self.world.path("state")).unwrap().history().unwrap()
    }

    /// A run that ended so.
    pub fn ran(&self, days: f64, seconds: i64, outcome: Outcome, error: Option<&str>) {
        let (history, at) = (self.history(), self.at(days));
        let row = history.begin(self.name, "main", at, &Tag::random(), Some(at)).unwrap();
        let id = matches!(outcome, Outcome::Ok | Outcome::Problems).then(|| format!("{}/{}", self.name, Label::of(at)));
        history.end(row, at + Duration::seconds(seconds), outcome, error, id.as_deref(), true).unwrap();
    }

    /// A backup that is kept, with a proof of its rung; of a drill with the seconds of its restore.
    pub fn kept(&self, days: f64, bytes: u64, rung: &str, restore_seconds: Option<f64>) {
        let at = self.at(days);
        let label = Label::of(at).to_string();
        let folder = self.world.store().join(self.name).join(&label);
        std::fs::create_dir_all(&folder).unwrap();
        let file =
            json!({"name": "x.sql.gz", "bytes": bytes, "raw_bytes": bytes * 7, "sha256": "0".repeat(64), "database": "x", "role": "dump"});
        let manifest = json!({
            "format_version": 1, "id": format!("{}/{label}", self.name), "backup": self.name, "label": label, "slot": at, "taken_at": at,
            "started_at": at, "finished_at": at + Duration::seconds(40), "kind": "dump", "narrow": false, "server": "main",
            "server_version": "15.18", "client_version": "15.18", "format": "plain", "contents": "all", "databases": ["x"],
            "globals": null, "evidence": null, "encryption": null, "signature": null, "files": [file], "generator": "scene",
        });
        write(&folder.join("manifest.json"), &manifest);
        if rung == "written" {
            return;
        }
        let proof = |at: DateTime<Utc>, rung: &str, drill: serde_json::Value| {
            let by = if drill.is_null() { "read back" } else { "drill" };
            let proof = json!({"at": at, "rung": rung, "by": by, "bytes": bytes, "seconds": 1.0, "drill": drill, "generator": "scene"});
            write(&folder.join(format!("proof-{}.json", Label::of(at))), &proof);
        };
        let drill = restore_seconds.map(|seconds| {
            json!({"on": "local", "restore_seconds": seconds, "total_seconds": seconds + 9.0, "bytes": bytes, "raw_bytes": bytes * 7,
                "bytes_per_second": 1.0, "compared": {"tables": 12, "rows": 70_223}})
        });
        if drill.is_some() && rung != "bad" {
            proof(at + Duration::seconds(41), "readable", serde_json::Value::Null);
        }
        proof(at + Duration::seconds(60), rung, drill.into());
    }

    /// Daily runs of `days` days with what the default retention has left of them. `drilled`: those of
    /// so many days ago were drilled, and their restore took so many seconds.
    pub fn well(&self, days: u32, bytes: u64, age_days: f64, drilled: &[(u32, f64)]) {
        for n in 0..days {
            let ago = age_days + f64::from(n);
            self.ran(ago, 40 + i64::from(n * 7 % 13), Outcome::Ok, None);
            let is_kept = n < 7 || n < 28 && n % 7 == 3 || n % 30 == 5;
            if is_kept {
                let size = bytes - bytes / 300 * u64::from(n);
                match drilled.iter().find(|(day, _)| *day == n) {
                    Some((_, seconds)) => self.kept(ago, size, "matched", Some(*seconds)),
                    None => self.kept(ago, size, "readable", None),
                }
            }
        }
    }
}
