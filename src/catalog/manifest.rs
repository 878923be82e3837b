//! `manifest.json`: what a backup is. Written last, once, and never changed.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::evidence::Evidence;
use super::id::{Id, Label};
use super::physical::Physical;
use super::signed;
use crate::config::file::{Contents, Format};
use crate::error::{Error, Kind, Result};
use crate::keys::{Recipient, Signed, Signer, Trust};

pub const MANIFEST: &str = "manifest.json";
pub const RESTORE_PAGE: &str = "RESTORE.md";
const FORMAT_VERSION: u32 = 1;

/// A reader ignores keys that it does not know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format_version: u32,
    pub id: String,
    pub backup: String,
    pub label: String,
    pub slot: DateTime<Utc>,
    /// The moment of the (first) snapshot, or just before it.
    pub taken_at: DateTime<Utc>,
    pub started_at: DateTime<Utc>,
    pub finished_at: DateTime<Utc>,
    /// `dump` or `physical`.
    pub kind: String,
    /// The user asked for a part.
    pub narrow: bool,
    /// The server's name in the file.
    pub server: String,
    pub server_version: String,
    pub client_version: String,
    pub format: Format,
    pub contents: Contents,
    /// The patterns of a narrow backup, as given to `pg_dump`.
    #[serde(default)]
    pub tables: Vec<String>,
    #[serde(default)]
    pub exclude_tables: Vec<String>,
    #[serde(default)]
    pub schemas: Vec<String>,
    pub databases: Vec<String>,
    pub files: Vec<FileEntry>,
    /// `None`: no globals beside the dump. Else whether they lack the passwords of the roles.
    pub globals: Option<Globals>,
    pub evidence: Option<Evidence>,
    /// `None`: dumps and globals are as the program wrote them, or packed.
    pub encryption: Option<Encryption>,
    /// Of all the rest, in the form of OpenSSH: see `signed.rs`.
    pub signature: Option<String>,
    /// Program and version.
    pub generator: String,
    /// The names that another tool gave to the dumps; of our own there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adopted_from: Vec<String>,
    /// Of a base backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub physical: Option<Physical>,
}

/// The version of what nobody noted.
pub const UNKNOWN: &str = "unknown";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Globals {
    pub no_role_passwords: bool,
}

/// To whom dumps and globals are encrypted. The files have one more recipient, a key that the run
/// made for itself and forgot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    /// `age`.
    pub method: String,
    pub recipients: Vec<String>,
}

impl Encryption {
    pub fn age(recipients: &[Recipient]) -> Option<Self> {
        (!recipients.is_empty())
            .then(|| Encryption { method: "age".to_owned(), recipients: recipients.iter().map(ToString::to_string).collect() })
    }
}

/// What a file of a backup is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Dump,
    Globals,
    /// The page that says how to restore.
    Notes,
    /// The data directory of a cluster, or a tablespace of it, as a tar archive.
    Base,
    /// PostgreSQL's own list of the files of a base backup.
    BackupManifest,
}

/// A file of a backup as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Relative to the backup's folder; of a directory format with its folder.
    pub name: String,
    pub bytes: u64,
    /// Before it was packed by us.
    pub raw_bytes: u64,
    /// Of the file as stored, in hex.
    pub sha256: String,
    /// Of the file that was adopted, where it was encrypted on its way: by this it is known again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted_sha256: Option<String>,
    pub database: Option<String>,
    pub role: Role,
}

impl FileEntry {
    /// Of the file before anybody encrypted it, as far as it is known.
    pub fn original_sha256(&self) -> &str {
        self.adopted_sha256.as_ref().unwrap_or(&self.sha256)
    }
}

impl Manifest {
    pub fn format_version() -> u32 {
        FORMAT_VERSION
    }

    /// Reads a manifest. Its fields come from a store that others may write to: nothing in it may
    /// lead outside of its folder or pose as another backup.
    ///
    /// # Errors
    /// It is not a manifest, of a newer format, or hostile.
    fn parse(bytes: &[u8], expected: &Id) -> Result<Self> {
        let bad = |why: String| {
            Error::new(Kind::Damaged, format!("manifest of {expected}: {why}"))
                .hint("take another backup, or another store's copy; RESTORE.md beside it says how to restore this one by hand")
        };
        let newer = |version: u64| {
            let why = format!("manifest of {expected}: format version {version} is newer than this program knows");
            Error::new(Kind::Damaged, why).hint("update pgvigil")
        };
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| {
            let version = serde_json::from_slice::<serde_json::Value>(bytes).ok().and_then(|value| value.get("format_version")?.as_u64());
            match version {
                Some(version) if version > u64::from(FORMAT_VERSION) => newer(version),
                _ => bad(error.to_string()),
            }
        })?;
        if manifest.format_version > FORMAT_VERSION {
            return Err(newer(u64::from(manifest.format_version)));
        }
        if manifest.id != expected.to_string() || manifest.backup != expected.backup || manifest.label != expected.label.to_string() {
            return Err(bad(format!("it is the manifest of {:?}", manifest.id)));
        }
        if let Some(file) = manifest.files.iter().find(|file| !is_safe(&file.name)) {
            return Err(bad(format!("it names the file {:?}", file.name)));
        }
        Ok(manifest)
    }

    /// Reads a manifest as it lies in a store, and how it is signed. What is parsed is what was signed.
    ///
    /// # Errors
    /// As of [`Manifest::parse`].
    pub fn read(bytes: &[u8], expected: &Id, trust: &Trust) -> Result<(Self, Signed)> {
        let document = signed::read(bytes).map_err(|why| Error::new(Kind::Damaged, format!("manifest of {expected}: {why}")))?;
        let mut manifest = Manifest::parse(&document.content, expected)?;
        let signed = match &manifest.signature {
            None => trust.judge(signed::MANIFESTS, &document.content, document.signature.as_deref()),
            Some(_) => Signed::Invalid("it stands on no line of its own".to_owned()),
        };
        manifest.signature = document.signature.or(manifest.signature);
        Ok((manifest, signed))
    }

    /// As it is written, signed if there is a key.
    ///
    /// # Errors
    /// Never, in practice.
    pub fn to_bytes(&self, signer: Option<&Signer>) -> Result<Vec<u8>> {
        let json = self.to_json()?;
        match signer {
            Some(signer) => signed::sign(&json, signed::MANIFESTS, signer),
            None => Ok(json),
        }
    }

    /// # Errors
    /// Never, in practice: every field can be written.
    fn to_json(&self) -> Result<Vec<u8>> {
        let mut bytes =
            serde_json::to_vec_pretty(self).map_err(|error| Error::new(Kind::System, format!("cannot write a manifest: {error}")))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    pub fn id(&self) -> Id {
        Id { backup: self.backup.clone(), label: Label::of(self.slot) }
    }

    /// Dumps and globals as stored, in bytes.
    pub fn bytes(&self) -> u64 {
        self.data_files().map(|file| file.bytes).sum()
    }

    /// Dumps and globals before they were packed, in bytes.
    pub fn raw_bytes(&self) -> u64 {
        self.data_files().map(|file| file.raw_bytes).sum()
    }

    /// The dump of one database before it was packed, in bytes.
    pub fn raw_bytes_of(&self, database: &str) -> u64 {
        self.data_files().filter(|file| file.database.as_deref() == Some(database)).map(|file| file.raw_bytes).sum()
    }

    /// Whose keys open it; none: it is not encrypted.
    pub fn recipients(&self) -> &[String] {
        self.encryption.as_ref().map_or(&[], |encryption| &encryption.recipients)
    }

    fn data_files(&self) -> impl Iterator<Item = &FileEntry> {
        self.files.iter().filter(|file| file.role != Role::Notes)
    }
}

/// A relative path of plain components.
fn is_safe(name: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-%".contains(&byte))
    };
    name.split('/').all(plain) && name != MANIFEST && name.split('/').count() <= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_outside() {
        for name in ["a_20240115_020000.sql.gz", "globals.sql", "a_20240115/toc.dat", "a%2Fb.dump"] {
            assert!(is_safe(name), "{name}");
        }
        for name in ["", ".", "..", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "a\\b", "a\nb", "manifest.json", "a/b/c"] {
            assert!(!is_safe(name), "{name}");
        }
    }
}
