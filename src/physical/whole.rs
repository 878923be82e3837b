//! PostgreSQL's own manifest of a base backup against what is in its archives.
//! <https://www.postgresql.org/docs/current/backup-manifest-format.html>

use std::collections::HashMap;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::pack::packer::hex;
use crate::pack::tar::{Inner, Passed};
use crate::wal::Lsn;

/// `backup_manifest`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServerManifest {
    files: Vec<ServerFile>,
    #[serde(rename = "WAL-Ranges")]
    pub wal_ranges: Vec<WalRange>,
}

#[derive(Debug, Clone, Deserialize)]
struct ServerFile {
    #[serde(rename = "Path")]
    path: Option<String>,
    /// Where the path is not UTF-8, in hex.
    #[serde(rename = "Encoded-Path")]
    encoded: Option<String>,
    #[serde(rename = "Size")]
    bytes: u64,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    #[serde(rename = "Checksum")]
    checksum: Option<String>,
}

/// The log that makes the base backup consistent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct WalRange {
    #[serde(rename = "Timeline")]
    pub timeline: u32,
    #[serde(rename = "Start-LSN")]
    pub start: Lsn,
    #[serde(rename = "End-LSN")]
    pub end: Lsn,
}

/// What PostgreSQL is told to take of each file: its processor's own instruction does it, and so does ours.
pub const CHECKSUMS: &str = "CRC32C";

/// Names at most so many files.
const NAMED_MAX: usize = 20;

impl ServerManifest {
    /// Reads it, after its own checksum.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        const LAST: &[u8] = b"\"Manifest-Checksum\": \"";
        let at = memchr::memmem::rfind(bytes, LAST).ok_or("backup_manifest is cut")?;
        let said = bytes[at + LAST.len()..].split(|byte| *byte == b'"').next().unwrap_or_default();
        if said != hex(&Sha256::digest(&bytes[..at])).as_bytes() {
            return Err("backup_manifest is not as PostgreSQL wrote it: its checksum differs".to_owned());
        }
        serde_json::from_slice(bytes).map_err(|error| format!("backup_manifest cannot be read: {error}"))
    }

    /// The log that makes the base backup whole.
    ///
    /// # Errors
    /// It names none, or one of each of several timelines: a standby that changed to another one meanwhile.
    pub fn range(&self) -> Result<WalRange, String> {
        match self.wal_ranges[..] {
            [range] => Ok(range),
            [] => Err("backup_manifest names no range of the log".to_owned()),
            _ => Err("the standby changed to another timeline while it was copied: run it again".to_owned()),
        }
    }

    /// What is wrong with the files of the archives: the one of the data directory has no `oid`.
    pub fn compare(&self, archives: &[(Option<u32>, Passed)]) -> Vec<String> {
        let mut there: HashMap<String, &Inner> = HashMap::new();
        let mut wrong = Vec::new();
        for (oid, passed) in archives {
            for file in &passed.files {
                let path = match oid {
                    Some(oid) => format!("pg_tblspc/{oid}/{}", file.path),
                    None => file.path.clone(),
                };
                if let Some(twice) = there.insert(path, file) {
                    wrong.push(format!("{} is there twice", twice.path));
                }
            }
        }
        for file in &self.files {
            let path = file.path();
            match there.remove(&path) {
                None => wrong.push(format!("{path} is missing")),
                Some(inner) => wrong.extend(file.differs(inner).map(|how| format!("{path} {how}"))),
            }
        }
        // The log that was packed with it stands in no manifest: it checks itself.
        wrong.extend(there.into_keys().filter(|path| !path.starts_with("pg_wal/")).map(|path| format!("PostgreSQL does not know {path}")));
        if self.files.is_empty() {
            wrong.push("PostgreSQL names no file".to_owned());
        }
        let more = wrong.len().saturating_sub(NAMED_MAX);
        wrong.truncate(NAMED_MAX);
        if more > 0 {
            wrong.push(format!("and {more} more"));
        }
        wrong
    }

    /// Files and their bytes, together.
    pub fn total(&self) -> (u64, u64) {
        (self.files.len() as u64, self.files.iter().map(|file| file.bytes).sum())
    }
}

impl ServerFile {
    fn path(&self) -> String {
        match (&self.path, &self.encoded) {
            (Some(path), _) => path.clone(),
            (None, encoded) => encoded.clone().unwrap_or_default(),
        }
    }

    fn differs(&self, inner: &Inner) -> Option<String> {
        if inner.bytes != self.bytes {
            return Some(format!("has {} bytes; PostgreSQL sent {}", inner.bytes, self.bytes));
        }
        match (self.algorithm.as_deref(), &self.checksum) {
            // PostgreSQL writes the four bytes as they lie in memory.
            (Some(CHECKSUMS), Some(said)) if *said == hex(&inner.crc32c.to_ne_bytes()) => None,
            (Some(CHECKSUMS), Some(_)) => Some("is not what PostgreSQL sent: its checksum differs".to_owned()),
            _ => Some("has no checksum of PostgreSQL".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(files: &str) -> Vec<u8> {
        let head = format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [{files}],\n\"WAL-Ranges\": [\n{{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }}\n],\n"
        );
        let sum = hex(&Sha256::digest(&head));
        format!("{head}\"Manifest-Checksum\": \"{sum}\"}}\n").into_bytes()
    }

    fn file(path: &str, bytes: &[u8]) -> (String, Inner) {
        let crc32c = crc32c::crc32c(bytes);
        let line = format!(
            "{{ \"Path\": \"{path}\", \"Size\": {}, \"Last-Modified\": \"2026-01-01 00:00:00 GMT\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{}\" }}",
            bytes.len(),
            hex(&crc32c.to_ne_bytes())
        );
        (line, Inner { path: path.to_owned(), bytes: bytes.len() as u64, crc32c })
    }

    #[test]
    fn what_differs_is_named() {
        let ((one, a), (two, b)) = (file("base/5/1", b"one"), file("pg_tblspc/16400/PG_15/5/2", b"two"));
        let bytes = manifest(&format!("{one},\n{two}"));
        let parsed = ServerManifest::parse(&bytes).unwrap();
        assert_eq!(parsed.range().unwrap(), WalRange { timeline: 1, start: Lsn(0x200_0028), end: Lsn(0x200_0100) });
        let archives = |inner: Vec<Inner>, of_space: Vec<Inner>| {
            [(None, Passed { files: inner, ..Passed::default() }), (Some(16_400), Passed { files: of_space, ..Passed::default() })]
        };
        let b = Inner { path: "PG_15/5/2".to_owned(), ..b };
        let wal = Inner { path: "pg_wal/000000010000000000000002".to_owned(), bytes: 1, crc32c: 1 };
        assert!(parsed.compare(&archives(vec![a.clone(), wal], vec![b.clone()])).is_empty());
        let flipped = Inner { crc32c: a.crc32c ^ 1, ..a.clone() };
        for (inner, of_space, words) in [
            (vec![], vec![b.clone()], "base/5/1 is missing"),
            (vec![flipped], vec![b.clone()], "base/5/1 is not what PostgreSQL sent"),
            (vec![Inner { bytes: 2, ..a.clone() }], vec![b.clone()], "base/5/1 has 2 bytes"),
            (vec![a.clone(), Inner { path: "x".to_owned(), ..a.clone() }], vec![b.clone()], "does not know x"),
            (vec![a.clone(), a.clone()], vec![b], "twice"),
        ] {
            let wrong = parsed.compare(&archives(inner, of_space));
            assert!(wrong.iter().any(|wrong| wrong.contains(words)), "{words}: {wrong:?}");
        }
    }

    #[test]
    fn a_changed_manifest_is_refused() {
        let bytes = manifest(&file("a", b"a").0);
        for at in [40, bytes.len() / 2, bytes.len() - 10] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(ServerManifest::parse(&flipped).is_err(), "{at}");
            assert!(ServerManifest::parse(&bytes[..at]).is_err(), "{at}");
        }
    }
}
