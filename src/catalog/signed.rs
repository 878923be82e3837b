//! Documents that are signed. The signature stands in the document, on a line of its own, and is of its
//! exact bytes with that value replaced by `null`: one line of `sed` makes them again.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::id::Id;
use crate::error::{Error, Kind, Result};
use crate::keys::{Signed, Signer, Trust};

/// What signatures of manifests are for, so that one of another document is none.
pub const MANIFESTS: &str = "pgvigil-manifest";

/// Of proofs and pins.
pub const DOCUMENTS: &str = "pgvigil-document";

/// How the line begins. At the depth of one, so that it is the document's own.
const LINE: &str = "  \"signature\": ";

/// A document as it was read.
pub struct Read<'a> {
    /// What was signed, if it is signed: only this may be parsed.
    pub content: Cow<'a, [u8]>,
    pub signature: Option<String>,
}

/// Takes the signature out of a document. A string of JSON holds no line end, so a line that begins
/// so is a key; which of two would count nobody could say, and then none does.
///
/// # Errors
/// Why it cannot be read for certain.
pub fn read(bytes: &[u8]) -> std::result::Result<Read<'_>, String> {
    let mut found = None;
    let mut start = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(LINE.as_bytes()) && found.replace(start..start + line.len()).is_some() {
            return Err("it has two signatures".to_owned());
        }
        start += line.len();
    }
    let unsigned = Read { content: Cow::Borrowed(bytes), signature: None };
    let Some(line) = found else { return Ok(unsigned) };
    let value = bytes[line.start + LINE.len()..line.end].trim_ascii_end();
    let (value, comma) = value.strip_suffix(b",").map_or((value, &b""[..]), |value| (value, &b","[..]));
    match serde_json::from_slice::<Option<String>>(value) {
        Ok(None) => Ok(unsigned),
        Ok(Some(signature)) => {
            let content = [&bytes[..line.start], LINE.as_bytes(), b"null", comma, b"\n", &bytes[line.end..]].concat();
            Ok(Read { content: Cow::Owned(content), signature: Some(signature) })
        }
        Err(_) => Err("its signature is no text".to_owned()),
    }
}

/// Signs a document that has the line, with `null`.
///
/// # Errors
/// It has not, or cannot be signed.
pub fn sign(content: &[u8], namespace: &str, signer: &Signer) -> Result<Vec<u8>> {
    let unsigned = [LINE.as_bytes(), b"null"].concat();
    let at = memchr::memmem::find(content, &unsigned)
        .filter(|at| *at == 0 || content[at - 1] == b'\n')
        .ok_or_else(|| Error::new(Kind::System, "cannot sign: the document has no place for a signature"))?;
    let signature = signer.sign(namespace, content)?;
    let value = serde_json::to_vec(&signature).map_err(|error| Error::new(Kind::System, format!("cannot sign: {error}")))?;
    Ok([&content[..at], LINE.as_bytes(), &value, &content[at + unsigned.len()..]].concat())
}

/// A proof or a pin as it is written where somebody signs: it says of what it is, and under which name,
/// so that it is nothing anywhere else.
#[derive(Serialize)]
struct Bound<'a, T> {
    #[serde(flatten)]
    content: &'a T,
    of: &'a str,
    signature: Option<String>,
}

#[derive(Deserialize)]
struct Of {
    of: Option<String>,
}

/// The bytes of a proof or a pin under the name that it gets, signed if there is a key.
///
/// # Errors
/// It cannot be written or signed.
pub fn document<T: Serialize>(content: &T, id: &Id, name: &str, signer: Option<&Signer>) -> Result<Vec<u8>> {
    let failed = |error: serde_json::Error| Error::new(Kind::System, format!("cannot write {name}: {error}"));
    let Some(signer) = signer else { return serde_json::to_vec_pretty(content).map_err(failed) };
    let bound = Bound { content, of: &format!("{id}/{name}"), signature: None };
    sign(&serde_json::to_vec_pretty(&bound).map_err(failed)?, DOCUMENTS, signer)
}

/// A proof or a pin, if it counts: where signatures are asked for, only one that somebody known has
/// signed, and for this very place.
pub fn counting<T: serde::de::DeserializeOwned>(bytes: &[u8], id: &Id, name: &str, trust: &Trust) -> Option<T> {
    let read = read(bytes).ok()?;
    let signed = trust.judge(DOCUMENTS, &read.content, read.signature.as_deref());
    let is_bound = || {
        let of = serde_json::from_slice::<Of>(&read.content).ok().and_then(|of| of.of);
        of == Some(format!("{id}/{name}"))
    };
    let counts = match signed {
        Signed::Unsigned => trust.counts(&signed),
        _ => trust.counts(&signed) && is_bound(),
    };
    counts.then(|| serde_json::from_slice(&read.content).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::Pin;
    use crate::keys::signer::tests::signer;

    const DOCUMENT: &[u8] = b"{\n  \"id\": \"x\",\n  \"evidence\": {\n    \"signature\": \"of a function\"\n  },\n  \"signature\": null,\n  \"generator\": \"g\"\n}\n";

    fn judged(bytes: &[u8], trust: &Trust) -> Signed {
        match read(bytes) {
            Ok(read) => trust.judge(MANIFESTS, &read.content, read.signature.as_deref()),
            Err(why) => Signed::Invalid(why),
        }
    }

    #[test]
    fn what_was_signed_is_what_is_parsed() {
        let key = signer(1, "one");
        let signed = sign(DOCUMENT, MANIFESTS, &key).unwrap();
        let lines = |document: &[u8]| document.split(|byte| *byte == b'\n').count();
        assert_eq!(lines(&signed), lines(DOCUMENT));
        let back = read(&signed).unwrap();
        assert_eq!((back.content.as_ref(), back.signature.is_some()), (DOCUMENT, true));
        let trust = Trust::in_signers(vec![key.public()]);
        assert_eq!(judged(&signed, &trust), Signed::By("one".into()));
        assert_eq!(judged(DOCUMENT, &trust), Signed::Unsigned);
        assert!(sign(b"{}", MANIFESTS, &key).is_err());
        // Of another document, on a second line, and none that could be read.
        let line = signed.split(|byte| *byte == b'\n').find(|line| line.starts_with(LINE.as_bytes())).unwrap();
        let twice = [b"{\n", line, b"\n", &signed[2..]].concat();
        assert_eq!(judged(&twice, &trust), Signed::Invalid("it has two signatures".into()));
        assert!(matches!(judged(b"{\n  \"signature\": 7\n}\n", &trust), Signed::Invalid(_)));
        let moved = [b"{\n  \"id\": \"y\",\n", line, b"\n  \"generator\": \"g\"\n}\n"].concat();
        assert!(matches!(judged(&moved, &trust), Signed::Invalid(_)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Whatever is changed, the document is no more what somebody signed, or the same.
        #[test]
        fn a_change_anywhere_is_noticed(at in any::<prop::sample::Index>(), byte in any::<u8>(), what in 0..3) {
            let key = signer(1, "one");
            let signed = sign(DOCUMENT, MANIFESTS, &key).unwrap();
            let at = at.index(signed.len());
            let mut changed = signed.clone();
            match what {
                0 => changed[at] = byte,
                1 => changed.insert(at, byte),
                _ => drop(changed.remove(at)),
            }
            let trust = Trust::in_signers(vec![key.public()]);
            if let Signed::By(_) = judged(&changed, &trust) {
                let now = read(&changed).unwrap();
                prop_assert_eq!(now.content.as_ref(), DOCUMENT);
            }
        }
    }

    #[test]
    fn a_document_counts_only_where_it_was_signed_for() {
        let key = signer(1, "one");
        let trust = Trust::in_signers(vec![key.public()]);
        let id = |label: &str| Id { backup: "x".into(), label: label.parse().unwrap() };
        let (here, elsewhere) = (id("20240115T010000Z"), id("20240116T010000Z"));
        let pin = document(&Pin { pinned: true }, &here, "pin-1.json", Some(&key)).unwrap();
        let counts = |bytes: &[u8], id: &Id, name: &str, trust: &Trust| counting::<Pin>(bytes, id, name, trust).is_some();
        assert!(counts(&pin, &here, "pin-1.json", &trust));
        // Nobody asks for signatures; then it is still held against its place.
        assert!(counts(&pin, &here, "pin-1.json", &Trust::default()));
        assert!(!counts(&pin, &elsewhere, "pin-1.json", &trust) && !counts(&pin, &here, "pin-2.json", &trust));
        assert!(!counts(&pin, &here, "pin-1.json", &Trust::in_signers(Vec::new())));
        let unsigned = document(&Pin { pinned: true }, &here, "pin-1.json", None).unwrap();
        assert_eq!(unsigned, b"{\n  \"pinned\": true\n}");
        assert!(!counts(&unsigned, &here, "pin-1.json", &trust) && counts(&unsigned, &here, "pin-1.json", &Trust::default()));
        let forged = String::from_utf8(pin).unwrap().replace("\"pinned\": true", "\"pinned\": false");
        assert!(!counts(forged.as_bytes(), &here, "pin-1.json", &Trust::default()));
    }
}
