//! A tar archive as it goes by: its members, and the checksum of each.
//!
//! Of what pg_basebackup and the walsender write: files, folders and links with short names.
//! <https://www.postgresql.org/docs/current/protocol-replication.html>

use std::io;

use chrono::{DateTime, Utc};

/// Bytes of a header, and what members are filled up to.
pub const BLOCK_BYTES: usize = 512;

/// The end of an archive.
pub const END: [u8; 2 * BLOCK_BYTES] = [0; 2 * BLOCK_BYTES];

/// Small files that say what a base backup is; they are kept as they pass. In bytes.
const KEPT_BYTES_MAX: u64 = 1 << 30;

/// What stands at the head of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Relative, of plain parts.
    pub path: String,
    pub kind: Kind,
    pub bytes: u64,
    /// Rights of a file or folder.
    pub mode: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    Link(String),
}

/// Who is told of the members, each of them whole: its head, its bytes in parts, its end.
pub trait Members {
    /// # Errors
    /// It cannot be taken.
    fn begin(&mut self, member: &Member) -> io::Result<()>;
    /// # Errors
    /// It cannot be taken.
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// # Errors
    /// It cannot be taken.
    fn end(&mut self) -> io::Result<()>;
}

/// Reads an archive that comes in parts.
pub struct TarReader {
    /// Of a header that is not whole yet.
    head: Vec<u8>,
    /// Bytes of the member that are still to come.
    left: u64,
    /// And of what fills it up.
    padding: u64,
    /// Empty blocks behind the last member; two are the end.
    empty: u32,
}

impl Default for TarReader {
    fn default() -> Self {
        TarReader { head: Vec::with_capacity(BLOCK_BYTES), left: 0, padding: 0, empty: 0 }
    }
}

impl TarReader {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// They are not of a tar archive, or who is told does not take it.
    pub fn feed(&mut self, mut bytes: &[u8], members: &mut dyn Members) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let now = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                members.bytes(&bytes[..now])?;
                bytes = &bytes[now..];
                self.left -= now as u64;
                if self.left == 0 {
                    members.end()?;
                }
            } else if self.padding > 0 {
                let now = usize::try_from(self.padding).unwrap_or(usize::MAX).min(bytes.len());
                bytes = &bytes[now..];
                self.padding -= now as u64;
            } else {
                let now = (BLOCK_BYTES - self.head.len()).min(bytes.len());
                self.head.extend_from_slice(&bytes[..now]);
                bytes = &bytes[now..];
                if self.head.len() == BLOCK_BYTES {
                    self.header(members)?;
                    self.head.clear();
                }
            }
        }
        Ok(())
    }

    /// Whether it came to its proper end.
    ///
    /// # Errors
    /// It did not.
    pub fn finish(&self) -> Result<(), String> {
        if self.empty < 2 || self.left > 0 || !self.head.is_empty() {
            return Err("it is cut: the end of the tar archive is missing".to_owned());
        }
        Ok(())
    }

    fn header(&mut self, members: &mut dyn Members) -> io::Result<()> {
        if self.head.iter().all(|byte| *byte == 0) {
            self.empty += 1;
            return Ok(());
        }
        if self.empty > 0 {
            return Err(bad("something follows the end of the tar archive"));
        }
        let member = parse(&self.head)?;
        members.begin(&member)?;
        self.left = member.bytes;
        self.padding = member.bytes.next_multiple_of(BLOCK_BYTES as u64) - member.bytes;
        if member.bytes == 0 {
            members.end()?;
        }
        Ok(())
    }
}

/// The head of a file of ours, whose bytes and padding follow.
///
/// # Errors
/// Its name is too long.
pub fn member(name: &str, bytes: u64, modified: DateTime<Utc>) -> io::Result<[u8; BLOCK_BYTES]> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_mtime(u64::try_from(modified.timestamp()).unwrap_or(0));
    header.set_cksum();
    Ok(*header.as_bytes())
}

/// How many bytes fill a member up.
pub fn padding(bytes: u64) -> usize {
    usize::try_from(bytes.next_multiple_of(BLOCK_BYTES as u64) - bytes).unwrap_or(0)
}

fn bad(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

fn parse(head: &[u8]) -> io::Result<Member> {
    let header = tar::Header::from_byte_slice(head);
    let sum: u32 = head.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    if header.cksum()? != sum {
        return Err(bad("a header of the tar archive is damaged"));
    }
    let path = String::from_utf8(header.path_bytes().into_owned()).map_err(|_| bad("a name in the tar archive is not UTF-8"))?;
    let path = path.trim_start_matches("./").trim_end_matches('/').to_owned();
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    if !path.split('/').all(is_plain) {
        return Err(bad(format!("the tar archive names {path:?}, which leads outside")));
    }
    let entry = header.entry_type();
    let kind = if entry.is_file() {
        Kind::File
    } else if entry.is_dir() {
        Kind::Folder
    } else if entry.is_symlink() {
        let link = header.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
        Kind::Link(link.unwrap_or_default())
    } else {
        return Err(bad(format!("the tar archive holds {path:?}, which is no file, folder or link")));
    };
    let bytes = if kind == Kind::File { header.entry_size()? } else { 0 };
    Ok(Member { path, kind, bytes, mode: header.mode()? & 0o777 })
}

/// A file in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inner {
    pub path: String,
    pub bytes: u64,
    /// CRC-32C, as PostgreSQL's own manifest has it.
    pub crc32c: u32,
}

/// What went by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passed {
    pub files: Vec<Inner>,
    /// `backup_label` and `tablespace_map`: what recovery begins with.
    pub label: Option<Vec<u8>>,
    pub tablespace_map: Option<Vec<u8>>,
    /// PostgreSQL's own list of the files, where it stands in the archive.
    pub manifest: Option<Vec<u8>>,
}

/// Takes the checksum of every file that goes by.
#[derive(Default)]
pub struct Sums {
    pub passed: Passed,
    crc32c: u32,
    in_file: bool,
    kept: Option<Vec<u8>>,
}

/// The names of what is kept.
pub const BACKUP_LABEL: &str = "backup_label";
pub const TABLESPACE_MAP: &str = "tablespace_map";
pub const BACKUP_MANIFEST: &str = "backup_manifest";

impl Members for Sums {
    fn begin(&mut self, member: &Member) -> io::Result<()> {
        self.crc32c = 0;
        self.kept = None;
        self.in_file = member.kind == Kind::File;
        if !self.in_file {
            return Ok(());
        }
        if [BACKUP_LABEL, TABLESPACE_MAP, BACKUP_MANIFEST].contains(&member.path.as_str()) {
            if member.bytes > KEPT_BYTES_MAX {
                return Err(bad(format!("{} is too large", member.path)));
            }
            self.kept = Some(Vec::new());
        }
        self.passed.files.push(Inner { path: member.path.clone(), bytes: member.bytes, crc32c: 0 });
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(file) = self.passed.files.last_mut().filter(|_| self.in_file) else { return Ok(()) };
        file.crc32c = self.crc32c;
        let place = match file.path.as_str() {
            BACKUP_LABEL => &mut self.passed.label,
            TABLESPACE_MAP => &mut self.passed.tablespace_map,
            BACKUP_MANIFEST => &mut self.passed.manifest,
            _ => return Ok(()),
        };
        if let Some(kept) = self.kept.take() {
            *place = Some(kept);
        }
        if file.path == BACKUP_MANIFEST {
            // It cannot stand in itself.
            self.passed.files.pop();
        }
        Ok(())
    }
}

/// Watches an archive go by.
#[derive(Default)]
pub struct TarWatch {
    reader: TarReader,
    sums: Sums,
    wrong: Option<String>,
}

impl TarWatch {
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.wrong.is_none()
            && let Err(error) = self.reader.feed(bytes, &mut self.sums)
        {
            self.wrong = Some(error.to_string());
        }
    }

    /// What went by.
    ///
    /// # Errors
    /// Why this is no whole archive.
    pub fn finish(self) -> Result<Passed, String> {
        match self.wrong {
            Some(wrong) => Err(wrong),
            None => self.reader.finish().map(|()| self.sums.passed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, bytes) in [
            ("backup_label", &b"START WAL LOCATION"[..]),
            ("base/5/1259", &[7; 8192][..]),
            ("base/5/empty", b""),
            ("backup_manifest", b"{}"),
        ] {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o600);
            builder.append_data(&mut header, path, bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn passed(bytes: &[u8], part: usize) -> Result<Passed, String> {
        let mut watch = TarWatch::default();
        bytes.chunks(part).for_each(|part| watch.feed(part));
        watch.finish()
    }

    #[test]
    fn members_in_whatever_parts_they_come() {
        let all = archive();
        for part in [1, 7, 511, 512, 513, 100_000] {
            let passed = passed(&all, part).unwrap();
            let files: Vec<_> = passed.files.iter().map(|file| (file.path.as_str(), file.bytes, file.crc32c)).collect();
            assert_eq!(
                files,
                [
                    ("backup_label", 18, crc32c::crc32c(b"START WAL LOCATION")),
                    ("base/5/1259", 8192, crc32c::crc32c(&[7; 8192])),
                    ("base/5/empty", 0, 0)
                ]
            );
            assert_eq!((passed.label.as_deref(), passed.manifest.as_deref()), (Some(&b"START WAL LOCATION"[..]), Some(&b"{}"[..])));
        }
    }

    #[test]
    fn files_of_ours_are_members_as_any() {
        let mut all = archive();
        all.truncate(all.len() - END.len());
        for bytes in [&b""[..], b"x", &[7; 512]] {
            all.extend(member(&format!("of_{}", bytes.len()), bytes.len() as u64, DateTime::default()).unwrap());
            all.extend(bytes);
            all.extend(&[0; BLOCK_BYTES][..padding(bytes.len() as u64)]);
        }
        all.extend(END);
        let ours = passed(&all, 100).unwrap().files.split_off(3);
        let files: Vec<_> = ours.iter().map(|file| (file.path.as_str(), file.bytes)).collect();
        assert_eq!(files, [("of_0", 0), ("of_1", 1), ("of_512", 512)]);
    }

    #[test]
    fn a_cut_archive_and_a_hostile_one_are_refused() {
        let all = archive();
        for len in (0..all.len() - 512).step_by(97) {
            assert!(passed(&all[..len], 4096).is_err(), "{len}");
        }
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o600);
        header.set_size(0);
        for path in ["../x", "/x", "a/../../x"] {
            let name = &mut header.as_mut_bytes()[..100];
            name.fill(0);
            name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            assert!(parse(header.as_bytes()).is_err_and(|error| error.to_string().contains("outside")), "{path}");
        }
    }
}
