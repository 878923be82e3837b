//! A file of the log as it stands in a store: packed, encrypted where that is asked for, with what it is
//! in front.
//!
//! In front stands a skippable frame, which `zstd -d` passes over (RFC 8878, 3.1.2): stock tools unpack
//! the file, and we know its hash and length before we do. It is never encrypted: whoever archives must be
//! able to tell whether the same segment is there already, and has no key to look into it.

use bytes::{BufMut, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Kind, Result};
use crate::keys::{Identities, Recipient};
use crate::pack::codec::{self, Codec};
use crate::pack::packer::hex;
use crate::pack::seal::{seal_all, unseal_all};

/// The first of the magic numbers of skippable frames.
const SKIPPABLE: u32 = 0x184D_2A50;

/// No header of ours is longer, in bytes.
const HEADER_BYTES_MAX: usize = 4096;

/// What stands in front.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// As PostgreSQL names it.
    pub name: String,
    /// Before it was packed.
    pub bytes: u64,
    /// The same, in hex.
    pub sha256: String,
    /// When it was packed, by our clock.
    pub at: DateTime<Utc>,
    /// The log tells all until then: the server had written no further. `None`: nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_at: Option<DateTime<Utc>>,
    /// Of the cluster; of a history file there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<String>,
    /// How what follows is encrypted: `age`. `None`: it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<String>,
    /// The sha256 of what follows, in hex: by it a copy is checked without a key. `None`: packed before there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed_sha256: Option<String>,
}

/// The one way of encryption.
const AGE: &str = "age";

impl Header {
    pub fn of(name: &str, raw: &[u8], at: DateTime<Utc>, written_at: Option<DateTime<Utc>>, system_identifier: Option<u64>) -> Self {
        Header {
            name: name.to_owned(),
            bytes: raw.len() as u64,
            sha256: hex(&Sha256::digest(raw)),
            at,
            written_at,
            system_identifier: system_identifier.map(|id| id.to_string()),
            encryption: None,
            packed_sha256: None,
        }
    }
}

/// Packs a file of the log, for these recipients only if there are any.
///
/// # Errors
/// Memory is out, or a recipient takes no key.
pub fn seal(header: &Header, raw: &Bytes, codec: Codec, recipients: &[Recipient]) -> Result<Bytes> {
    let encryption = (!recipients.is_empty()).then(|| AGE.to_owned());
    let mut packed = BytesMut::with_capacity(raw.len() / 2);
    let mut rest = raw.clone();
    while !rest.is_empty() {
        let block = rest.split_to(codec.block_bytes().min(rest.len()));
        packed.put_slice(&codec.pack(block)?);
    }
    let packed = seal_all(packed.freeze(), recipients)?;
    let packed_sha256 = Some(hex(&Sha256::digest(&packed)));
    let head = serde_json::to_vec(&Header { encryption, packed_sha256, ..header.clone() }).unwrap_or_default();
    let mut object = BytesMut::with_capacity(packed.len() + head.len() + 8);
    object.put_u32_le(SKIPPABLE);
    object.put_u32_le(u32::try_from(head.len()).unwrap_or_default());
    object.put_slice(&head);
    object.put_slice(&packed);
    Ok(object.freeze())
}

/// What stands in front of a packed file.
///
/// # Errors
/// What is wrong with it.
pub fn header(packed: &[u8]) -> Result<(Header, &[u8]), String> {
    let cut = || "it is cut".to_owned();
    let word = |at: usize| Some(u32::from_le_bytes(packed.get(at..at + 4)?.try_into().ok()?));
    if word(0).ok_or_else(cut)? != SKIPPABLE {
        return Err("it does not begin like a file of the log that was packed here".to_owned());
    }
    let bytes = word(4).ok_or_else(cut)? as usize;
    if bytes > HEADER_BYTES_MAX {
        return Err("its header is too long".to_owned());
    }
    let head = packed.get(8..8 + bytes).ok_or_else(cut)?;
    let header = serde_json::from_slice(head).map_err(|error| format!("its header cannot be read: {error}"))?;
    Ok((header, &packed[8 + bytes..]))
}

/// Checks, without a key, that a packed file is the one of that name, and as it was packed.
///
/// # Errors
/// What is wrong with it.
pub fn check(name: &str, packed: &[u8]) -> Result<Header, String> {
    checked(name, packed).map(|(header, _)| header)
}

fn checked<'a>(name: &str, packed: &'a [u8]) -> Result<(Header, &'a [u8]), String> {
    let (header, rest) = header(packed)?;
    if header.name != name {
        return Err(format!("it is {:?} by its header", header.name));
    }
    match &header.packed_sha256 {
        Some(sha256) if *sha256 != hex(&Sha256::digest(rest)) => Err(OTHER_SHA256.to_owned()),
        _ => Ok((header, rest)),
    }
}

const OTHER_SHA256: &str = "its sha256 is not the one that was packed";

/// Unpacks a file of the log and checks that it is the one of that name, whole.
///
/// # Errors
/// It is not (`Damaged`), or none of the identities opens it (`Secret`).
pub fn open(name: &str, packed: &[u8], keys: &Identities) -> Result<(Header, Vec<u8>)> {
    let mut raw = Vec::new();
    let header = unpack(name, packed, keys, &mut |block| {
        raw.extend_from_slice(block);
        Ok(())
    })?;
    Ok((header, raw))
}

/// The same, block by block. What was taken before an error is worth nothing.
///
/// What is packed is hashed, a third of the bytes; zstd keeps a checksum of what is in each block (RFC 8878, 3.1.1).
///
/// # Errors
/// As [`open`], and what `take` fails with.
pub fn unpack(name: &str, packed: &[u8], keys: &Identities, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<Header> {
    let damaged = |why: String| Error::new(Kind::Damaged, why);
    let (header, packed) = checked(name, packed).map_err(damaged)?;
    let unsealed;
    let mut rest = match header.encryption.as_deref() {
        None => packed,
        Some(AGE) => {
            unsealed = unseal_all(packed, keys)?;
            &unsealed[..]
        }
        Some(other) => return Err(damaged(format!("it is encrypted by {other:?}, which this version does not know"))),
    };
    let (mut block, mut bytes) = (Vec::new(), 0);
    let mut sha256 = header.packed_sha256.is_none().then(Sha256::new);
    while !rest.is_empty() {
        let (frame, raw_len) = codec::zstd_frame_bytes(rest).ok_or_else(|| damaged("it is cut, or somebody else packed it".to_owned()))?;
        let (frame, behind) = rest.split_at_checked(frame).ok_or_else(|| damaged("it is cut".to_owned()))?;
        codec::unzstd_frame_into(frame, raw_len, &mut block)?;
        bytes += block.len() as u64;
        if let Some(sha256) = &mut sha256 {
            sha256.update(&block);
        }
        take(&block)?;
        rest = behind;
    }
    if bytes != header.bytes {
        return Err(damaged(format!("it unpacks to {bytes} bytes; {} were packed", header.bytes)));
    }
    if sha256.is_some_and(|sha256| hex(&sha256.finalize()) != header.sha256) {
        return Err(damaged(OTHER_SHA256.to_owned()));
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(recipients: &[Recipient]) -> (Bytes, Bytes) {
        let raw: Bytes = (0..600_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let header = Header::of(NAME, &raw, DateTime::UNIX_EPOCH, Some(DateTime::UNIX_EPOCH), Some(7));
        let packed = seal(&header, &raw, Codec::Zstd(1), recipients).unwrap();
        (raw, packed)
    }

    const NAME: &str = "000000010000000000000003";

    #[test]
    fn there_and_back_and_for_stock_tools() {
        let (raw, packed) = sealed(&[]);
        let nobody = Identities::default();
        let (header, back) = open(NAME, &packed, &nobody).unwrap();
        assert!(back == raw && header.system_identifier.as_deref() == Some("7"));
        assert!(zstd::decode_all(&packed[..]).unwrap() == raw);
        assert!(open("000000010000000000000004", &packed, &nobody).unwrap_err().message.contains("by its header"));
        let empty = seal(&Header::of("x", b"", DateTime::UNIX_EPOCH, None, None), &Bytes::new(), Codec::Zstd(1), &[]).unwrap();
        assert_eq!(open("x", &empty, &nobody).unwrap().1, b"");
    }

    #[test]
    fn what_is_encrypted_shows_its_header_only() {
        let ((to, key), (_, other)) = (Identities::ephemeral(), Identities::ephemeral());
        let (raw, packed) = sealed(&[to]);
        let (head, rest) = header(&packed).unwrap();
        assert_eq!((head.encryption.as_deref(), head.bytes), (Some("age"), raw.len() as u64));
        assert!(rest.starts_with(b"age-encryption.org/v1\n"));
        assert!(open(NAME, &packed, &key).unwrap().1 == raw);
        for keys in [other, Identities::default()] {
            assert_eq!(open(NAME, &packed, &keys).unwrap_err().kind, Kind::Secret);
        }
    }

    /// As files were packed before the hash of what is packed stood in front.
    fn before_its_hash(packed: &[u8]) -> Bytes {
        let (header, rest) = header(packed).unwrap();
        let head = serde_json::to_vec(&Header { packed_sha256: None, ..header }).unwrap();
        [&SKIPPABLE.to_le_bytes()[..], &u32::try_from(head.len()).unwrap().to_le_bytes(), &head, rest].concat().into()
    }

    #[test]
    fn every_cut_and_flip_is_noticed() {
        let (to, key) = Identities::ephemeral();
        let (raw, whole) = sealed(&[]);
        for packed in [whole.clone(), sealed(&[to]).1, before_its_hash(&whole)] {
            assert!(open(NAME, &packed, &key).unwrap().1 == raw);
            for n in 0..100 {
                let at = n * 7_919 % packed.len();
                assert!(open(NAME, &packed[..at], &key).is_err(), "cut at {at}");
                let mut flipped = packed.to_vec();
                flipped[at] ^= 1 << (n % 8);
                // A flip in the time of the header changes no row.
                assert!(open(NAME, &flipped, &key).map_or(true, |(_, back)| back == raw), "flipped at {at}");
            }
        }
    }
}
