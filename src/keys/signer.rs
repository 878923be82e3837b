//! Who has written a document: keys of OpenSSH (ed25519) and its format of signatures (SSHSIG), so that
//! stock `ssh-keygen -Y verify` checks what is signed here.

use std::fmt;
use std::str::FromStr;

use ssh_key::{Algorithm, Fingerprint, HashAlg, LineEnding, PrivateKey, PublicKey, SshSig};

use crate::error::{Error, Kind, Result};

/// How to make a key, as a hint.
const MAKE_ONE: &str = "make one: ssh-keygen -t ed25519 -N '' -C pgvigil -f FILE";

/// A public key whose signatures count, with the name that its comment gives it.
#[derive(Clone, PartialEq, Eq)]
pub struct Trusted(PublicKey);

impl Trusted {
    /// Its comment, else its fingerprint.
    pub fn name(&self) -> String {
        match self.0.comment().trim() {
            "" => self.fingerprint(),
            comment => comment.to_owned(),
        }
    }

    /// `SHA256:...`, as `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint(HashAlg::Sha256).to_string()
    }
}

impl FromStr for Trusted {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text.trim_start().starts_with("-----BEGIN") {
            return Err("it is a private key, and the public one is enough to know a signature".to_owned());
        }
        let key = PublicKey::from_openssh(text.trim()).map_err(|_| format!("bad signer {text:?}: it is no public key of OpenSSH"))?;
        match key.algorithm() {
            Algorithm::Ed25519 => Ok(Trusted(key)),
            other => Err(format!("bad signer {text:?}: a key of {other}, where ssh-ed25519 is needed")),
        }
    }
}

/// As in a file of public keys.
impl fmt::Display for Trusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_openssh().unwrap_or_default())
    }
}

impl fmt::Debug for Trusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A private key that signs.
#[derive(Clone)]
pub struct Signer(PrivateKey);

impl Signer {
    /// Reads a private key of OpenSSH. `from` names it in messages.
    ///
    /// # Errors
    /// It is none, of another kind, or needs a passphrase.
    pub fn parse(from: &str, text: &str) -> Result<Self> {
        let wrong = |why: String, hint: &str| Error::new(Kind::Secret, format!("{from}: {why}")).hint(hint);
        // A secret loses its last line end on the way here.
        let key = PrivateKey::from_openssh(format!("{}\n", text.trim()))
            .map_err(|_| wrong("it is no private key of OpenSSH".to_owned(), MAKE_ONE))?;
        match key.algorithm() {
            Algorithm::Ed25519 if key.is_encrypted() => Err(wrong(
                "the key is protected by a passphrase, and nobody can be asked for it at night".to_owned(),
                "ssh-keygen -p -N '' -f COPY takes it off a copy; keep that where only this user can read it",
            )),
            Algorithm::Ed25519 => Ok(Signer(key)),
            other => Err(wrong(format!("a key of {other}, where ssh-ed25519 is needed"), MAKE_ONE)),
        }
    }

    /// By whom a signature is known again.
    pub fn public(&self) -> Trusted {
        Trusted(self.0.public_key().clone())
    }

    /// The signature of a message, as `ssh-keygen -Y sign -n NAMESPACE` writes it.
    ///
    /// # Errors
    /// Never, in practice.
    pub fn sign(&self, namespace: &str, message: &[u8]) -> Result<String> {
        let failed = |error: ssh_key::Error| Error::new(Kind::System, format!("cannot sign: {error}"));
        let signature = self.0.sign(namespace, HashAlg::Sha512, message).map_err(failed)?;
        signature.to_pem(LineEnding::LF).map_err(failed)
    }
}

/// Keys are nobody's news.
impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signer {}", self.public().fingerprint())
    }
}

/// Whose key has made a signature, if it is one of this very message.
///
/// # Errors
/// Why it is none.
pub fn signer_of(namespace: &str, message: &[u8], signature: &str) -> std::result::Result<PublicKey, String> {
    let signature = SshSig::from_pem(signature).map_err(|_| "it is no signature of OpenSSH".to_owned())?;
    if signature.algorithm() != Algorithm::Ed25519 {
        return Err(format!("a signature of {}, where ssh-ed25519 is needed", signature.algorithm()));
    }
    let key = PublicKey::from(signature.public_key().clone());
    key.verify(namespace, message, &signature).map_err(|_| "it is not of these bytes".to_owned())?;
    Ok(key)
}

/// Whose signatures count.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// `None`: nobody asks for signatures.
    signers: Option<Vec<Trusted>>,
}

/// What is known of a signature.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Signed {
    #[default]
    Unsigned,
    /// By a key whose signatures count, of this name.
    By(String),
    /// Rightly, by a key that nobody here knows.
    Unknown(String),
    /// The bytes are not those that were signed. Why.
    Invalid(String),
}

impl fmt::Display for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Signed::Unsigned => f.write_str("unsigned"),
            Signed::By(name) => write!(f, "signed by {}", crate::host::printable(name)),
            Signed::Unknown(fingerprint) => write!(f, "signed by an unknown key {fingerprint}"),
            Signed::Invalid(why) => write!(f, "its signature does not verify: {why}"),
        }
    }
}

impl Trust {
    /// Only these count; without one nothing does.
    pub fn in_signers(signers: Vec<Trusted>) -> Self {
        Trust { signers: Some(signers) }
    }

    /// Whether a signature is asked for.
    pub fn is_on(&self) -> bool {
        self.signers.is_some()
    }

    /// Whether what is signed so counts.
    pub fn counts(&self, signed: &Signed) -> bool {
        match signed {
            Signed::By(_) => true,
            Signed::Unsigned | Signed::Unknown(_) => !self.is_on(),
            Signed::Invalid(_) => false,
        }
    }

    /// Judges the signature of a message.
    pub fn judge(&self, namespace: &str, message: &[u8], signature: Option<&str>) -> Signed {
        let Some(signature) = signature else { return Signed::Unsigned };
        match signer_of(namespace, message, signature) {
            Err(why) => Signed::Invalid(why),
            Ok(key) => {
                let known = self.signers.iter().flatten().find(|trusted| trusted.0.key_data() == key.key_data());
                known.map_or_else(|| Signed::Unknown(fingerprint(&key)), |trusted| Signed::By(trusted.name()))
            }
        }
    }
}

fn fingerprint(key: &PublicKey) -> String {
    Fingerprint::to_string(&key.fingerprint(HashAlg::Sha256))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A key that is made from a number, so that tests see the same one again.
    pub(crate) fn signer(seed: u8, name: &str) -> Signer {
        let pair = ssh_key::private::Ed25519Keypair::from_seed(&[seed; 32]);
        Signer(PrivateKey::new(pair.into(), name).unwrap())
    }

    #[test]
    fn a_signature_is_of_its_bytes_its_namespace_and_its_key() {
        let (one, other) = (signer(1, "one"), signer(2, ""));
        let signature = one.sign("pgvigil-manifest", b"bytes").unwrap();
        let trust = Trust::in_signers(vec![one.public()]);
        let judge = |trust: &Trust, namespace: &str, bytes: &[u8], signature: Option<&str>| trust.judge(namespace, bytes, signature);
        assert_eq!(judge(&trust, "pgvigil-manifest", b"bytes", Some(&signature)), Signed::By("one".into()));
        assert_eq!(judge(&trust, "pgvigil-manifest", b"bytes", None), Signed::Unsigned);
        for (namespace, bytes, signature) in [
            ("pgvigil-proof", &b"bytes"[..], signature.as_str()),
            ("pgvigil-manifest", b"byte", &signature),
            ("pgvigil-manifest", b"bytes", ""),
            ("pgvigil-manifest", b"bytes", &signature[..signature.len() / 2]),
        ] {
            assert!(matches!(judge(&trust, namespace, bytes, Some(signature)), Signed::Invalid(_)));
        }
        let unknown = other.sign("pgvigil-manifest", b"bytes").unwrap();
        let found = judge(&trust, "pgvigil-manifest", b"bytes", Some(&unknown));
        assert_eq!(found, Signed::Unknown(other.public().fingerprint()));
        assert!(found.to_string().starts_with("signed by an unknown key SHA256:"), "{found}");
        // Without a comment it goes by its fingerprint.
        assert_eq!(other.public().name(), other.public().fingerprint());
    }

    #[test]
    fn what_counts() {
        let on = Trust::in_signers(Vec::new());
        let off = Trust::default();
        for (signed, with_trust, without) in [
            (Signed::By("x".into()), true, true),
            (Signed::Unsigned, false, true),
            (Signed::Unknown("x".into()), false, true),
            (Signed::Invalid("x".into()), false, false),
        ] {
            assert_eq!((on.counts(&signed), off.counts(&signed)), (with_trust, without), "{signed:?}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused_and_no_secret_is_shown() {
        let key = signer(7, "someone");
        let text = key.0.to_openssh(LineEnding::LF).unwrap();
        assert_eq!(Signer::parse("x", text.trim_end()).unwrap().public(), key.public());
        assert!(!format!("{key:?}").contains("PRIVATE"));
        for (text, words) in
            [("", "no private key"), ("AGE-SECRET-KEY-1QQQ", "no private key"), (&key.public().to_string(), "no private key")]
        {
            let error = Signer::parse("signing_key", text).unwrap_err();
            assert!(error.message.contains(words) && !error.message.contains("QQQ"), "{error}");
            assert!(error.hint.unwrap().contains("ssh-keygen -t ed25519"));
        }
        for (text, words) in [("", "bad signer"), ("x", "bad signer"), ("ssh-rsa AAAA", "bad signer"), (text.as_str(), "private key")] {
            let said = text.parse::<Trusted>().unwrap_err();
            assert!(said.contains(words) && !said.contains("b3Blbn"), "{said}");
        }
    }
}
