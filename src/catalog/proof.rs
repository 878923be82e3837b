//! What is proven of a backup in a store: `proof-TIME.json`, one a verification.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// How far a backup is proven. The order is the order of the rungs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// Its bytes are not what the manifest says.
    Bad,
    /// Complete, its end seen, durable.
    #[default]
    Written,
    /// Every byte read back from the store, checksum and archive sound.
    Readable,
    /// A throwaway server took it without one error.
    Restored,
    /// What is in there equals the evidence recorded under the dump's snapshot.
    Matched,
}

impl Rung {
    pub fn as_str(self) -> &'static str {
        match self {
            Rung::Bad => "bad",
            Rung::Written => "written",
            Rung::Readable => "readable",
            Rung::Restored => "restored",
            Rung::Matched => "matched",
        }
    }

    /// Good enough to be `latest`.
    pub fn is_good(self) -> bool {
        self >= Rung::Readable
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One verification of a store's copy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    pub at: DateTime<Utc>,
    pub rung: Rung,
    /// How it was found: `read back` or `drill`.
    pub by: String,
    /// Bytes read, as stored.
    pub bytes: u64,
    pub seconds: f64,
    /// Of the manifest as it was read, in hex: another one later is damage, or somebody's hand.
    #[serde(default)]
    pub manifest_sha256: Option<String>,
    /// What was wrong, a line each.
    #[serde(default)]
    pub errors: Vec<String>,
    /// What could not be looked at, and why.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What a drill measured and compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<DrillFacts>,
    pub generator: String,
}

impl Proof {
    /// `by` of a proof that a drill wrote.
    pub const BY_DRILL: &'static str = "drill";

    /// How long a whole restore took. `None`: no drill, or one that did not get so far.
    pub fn restore_seconds(&self) -> Option<f64> {
        let drill = self.drill.as_ref()?;
        let is_whole = self.errors.is_empty() && self.rung >= Rung::Restored;
        (is_whole || drill.compared.is_some()).then_some(drill.restore_seconds)
    }
}

/// A drill in figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillFacts {
    /// Where it restored to: `container`, `local`, or the name of a server.
    pub on: String,
    /// From the first byte that was read to the end of ANALYZE: the measured RTO.
    pub restore_seconds: f64,
    /// With the making and the removal of the server, and the comparison.
    pub total_seconds: f64,
    /// As stored.
    pub bytes: u64,
    pub raw_bytes: u64,
    /// Raw bytes by the seconds of the restore.
    pub bytes_per_second: f64,
    /// `None`: it did not get so far, or there is no evidence to compare with.
    #[serde(default)]
    pub compared: Option<Compared>,
}

/// What is in the restored databases against the evidence.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    pub tables: u64,
    pub rows: u64,
    #[serde(default)]
    pub mismatches: Vec<Mismatch>,
}

/// One thing that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    /// Such as `table public.orders: rows`.
    pub object: String,
    pub expected: String,
    pub found: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, found {}", self.object, self.expected, self.found)
    }
}

/// Whether a backup is held whatever retention says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub pinned: bool,
}

const TIME_FORM: &str = "%Y%m%dT%H%M%SZ";

/// The file name of a document of that moment, such as `proof-20240115T012233Z.json`. `nth` tells
/// those of one second apart, in order.
pub fn document_name(prefix: &str, at: DateTime<Utc>, nth: u32) -> String {
    let time = at.format(TIME_FORM);
    if nth == 0 { format!("{prefix}-{time}.json") } else { format!("{prefix}-{time}-{nth}.json") }
}

/// The file name of a document of that moment that comes after all that are there. One that was
/// named while the clock was ahead must not hide it: it is named after that one then.
pub fn next_document_name<'a>(prefix: &str, at: DateTime<Utc>, there: impl Iterator<Item = &'a str>) -> String {
    let newest = there.filter_map(|name| document_order(prefix, name)).max();
    let time = at.format(TIME_FORM).to_string();
    match newest.filter(|(newest, _)| *newest >= time) {
        Some((newest, nth)) => format!("{prefix}-{newest}-{}.json", nth.saturating_add(1)),
        None => document_name(prefix, at, 0),
    }
}

/// The key by which documents of a kind are in order: time, then number.
pub fn document_order(prefix: &str, name: &str) -> Option<(String, u32)> {
    let rest = name.strip_prefix(prefix)?.strip_prefix('-')?.strip_suffix(".json")?;
    let (time, nth) = match rest.split_once('-') {
        Some((time, nth)) => (time, nth.parse().ok()?),
        None => (rest, 0),
    };
    chrono::NaiveDateTime::parse_from_str(time, TIME_FORM).ok()?;
    Some((time.to_owned(), nth))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_in_the_order_of_their_making() {
        let at = "2024-01-15T01:22:33Z".parse().unwrap();
        let names = [document_name("pin", at, 0), document_name("pin", at, 2), document_name("pin", at, 10)];
        assert_eq!(names[0], "pin-20240115T012233Z.json");
        let orders: Vec<_> = names.iter().map(|name| document_order("pin", name).unwrap()).collect();
        assert!(orders.is_sorted());
        assert_eq!(document_order("proof", &names[0]), None);
        assert_eq!(document_order("pin", "pin-x.json"), None);
    }

    #[test]
    fn what_is_named_next_is_the_newest() {
        let at = "2024-01-15T01:22:33Z".parse().unwrap();
        for (there, expected) in [
            (&[][..], "pin-20240115T012233Z.json"),
            (&["pin-20240115T012232Z-4.json", "proof-20990101T000000Z.json", "manifest.json"], "pin-20240115T012233Z.json"),
            (&["pin-20240115T012233Z-2.json", "pin-20240115T012233Z-10.json"], "pin-20240115T012233Z-11.json"),
            // The clock was ahead.
            (&["pin-20990101T000000Z.json", "pin-20240115T012233Z.json"], "pin-20990101T000000Z-1.json"),
        ] {
            assert_eq!(next_document_name("pin", at, there.iter().copied()), expected);
        }
    }

    #[test]
    fn a_proof_of_an_earlier_version_is_read_and_has_no_drill() {
        let text = r#"{"at": "2024-01-15T01:22:33Z", "rung": "readable", "by": "read back", "bytes": 1, "seconds": 0.1, "generator": "x"}"#;
        let proof: Proof = serde_json::from_str(text).unwrap();
        assert_eq!((proof.drill.clone(), proof.restore_seconds()), (None, None));
        assert!(!serde_json::to_string(&proof).unwrap().contains("\"drill\""));
    }

    #[test]
    fn a_restore_that_broke_off_has_measured_nothing() {
        let drill = |compared| DrillFacts {
            on: "local".into(),
            restore_seconds: 2.5,
            total_seconds: 4.0,
            bytes: 1,
            raw_bytes: 2,
            bytes_per_second: 0.8,
            compared,
        };
        let proof = |rung, compared| Proof {
            at: DateTime::default(),
            rung,
            by: Proof::BY_DRILL.into(),
            bytes: 1,
            seconds: 4.0,
            manifest_sha256: None,
            errors: vec![],
            notes: vec![],
            drill: Some(drill(compared)),
            generator: "x".into(),
        };
        for (rung, compared, expected) in [
            (Rung::Bad, None, None),
            (Rung::Readable, None, None),
            (Rung::Bad, Some(Compared::default()), Some(2.5)),
            (Rung::Restored, None, Some(2.5)),
            (Rung::Matched, Some(Compared::default()), Some(2.5)),
        ] {
            assert_eq!(proof(rung, compared.clone()).restore_seconds(), expected, "{rung} {compared:?}");
        }
    }

    #[test]
    fn rungs_are_in_order() {
        assert!(
            Rung::Bad < Rung::Written
                && Rung::Written < Rung::Readable
                && Rung::Readable < Rung::Restored
                && Rung::Restored < Rung::Matched
        );
        assert!(!Rung::Written.is_good() && Rung::Readable.is_good());
    }
}
