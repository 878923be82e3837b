//! Who can open what is encrypted: private keys of age and of OpenSSH.

use std::fmt;
use std::sync::Arc;

use super::recipient::Recipient;
use crate::error::{Error, Kind, Result};

type Key = Box<dyn age::Identity + Send + Sync>;

/// Private keys, and where they come from. They are in memory only.
#[derive(Clone, Default)]
pub struct Identities {
    keys: Arc<Vec<Key>>,
    from: String,
}

impl Identities {
    /// Reads a file of age (a key a line, `#` in front of comments) or a private key of OpenSSH.
    /// `from` names it in messages.
    ///
    /// # Errors
    /// It holds none, or one that cannot be used without asking somebody.
    pub fn parse(from: &str, text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::new(Kind::Secret, format!("{from}: {why}"));
        let keys = if text.trim_start().starts_with("-----BEGIN ") && !text.contains("AGE ENCRYPTED FILE") {
            vec![open_ssh(text).map_err(|(why, hint)| wrong(&why).hint(hint))?]
        } else if text.contains("AGE ENCRYPTED FILE") || text.starts_with("age-encryption.org/") {
            return Err(wrong("the identity is encrypted with a passphrase, and nobody can be asked for it at night")
                .hint("age --decrypt it into a file that only this user can read, and name that"));
        } else {
            natives(text).map_err(|why| wrong(&why).hint("age-keygen -o FILE makes one; its line begins with AGE-SECRET-KEY-1"))?
        };
        Ok(Identities { keys: Arc::new(keys), from: from.to_owned() })
    }

    /// A key of a run's own, which reads back what the run has written. It is gone with the run.
    pub fn ephemeral() -> (Recipient, Self) {
        let key = age::x25519::Identity::generate();
        let recipient = Recipient::native(key.to_public());
        (recipient, Identities { keys: Arc::new(vec![Box::new(key)]), from: "the key of this run".to_owned() })
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Where they come from.
    pub fn from(&self) -> &str {
        &self.from
    }

    /// As age knows them.
    pub fn keys(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.keys.iter().map(|key| &**key as &dyn age::Identity)
    }
}

/// Whether one of the keys opens what is encrypted to these: tried on an empty file.
pub fn opens(identities: &Identities, recipients: &[Recipient]) -> bool {
    let Ok(encryptor) = age::Encryptor::with_recipients(recipients.iter().map(Recipient::key)) else { return false };
    let mut file = Vec::new();
    let written = encryptor.wrap_output(&mut file).and_then(age::stream::StreamWriter::finish);
    written.is_ok() && age::Decryptor::new(file.as_slice()).is_ok_and(|decryptor| decryptor.decrypt(identities.keys()).is_ok())
}

/// Keys are nobody's news.
impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys of {:?}", self.keys.len(), self.from)
    }
}

fn natives(text: &str) -> Result<Vec<Key>, String> {
    let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line.trim()));
    let mut keys: Vec<Key> = Vec::new();
    for (n, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        if line.starts_with("AGE-PLUGIN-") {
            return Err(format!("line {n} is of a plugin of age, which this program does not run"));
        }
        // The line itself may be a secret with a slip of the hand.
        let key = line.parse::<age::x25519::Identity>().map_err(|_| format!("line {n} is no identity of age"))?;
        keys.push(Box::new(key));
    }
    if keys.is_empty() { Err("there is no identity in it".to_owned()) } else { Ok(keys) }
}

/// An error is what is wrong, and what to do.
fn open_ssh(text: &str) -> Result<Key, (String, String)> {
    let unreadable = |_| ("it is no private key of OpenSSH".to_owned(), "ssh-keygen -y -f FILE shows whether it is whole".to_owned());
    // A secret loses its last line end on the way here.
    let text = format!("{}\n", text.trim());
    match age::ssh::Identity::from_buffer(text.as_bytes(), None).map_err(unreadable)? {
        age::ssh::Identity::Unencrypted(key) => Ok(Box::new(age::ssh::Identity::Unencrypted(key))),
        age::ssh::Identity::Encrypted(_) => Err((
            "the key is protected by a passphrase, and nobody can be asked for it at night".to_owned(),
            "ssh-keygen -p -N '' -f COPY takes it off a copy; keep that where only this user can read it".to_owned(),
        )),
        age::ssh::Identity::Unsupported(_) => Err((
            "keys of this kind cannot decrypt".to_owned(),
            "use an ssh-ed25519 or ssh-rsa key that is no agent's and no token's, or age-keygen -o FILE".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        let error = Identities::parse("identity", text).unwrap_err();
        format!("{} {}", error.message, error.hint.unwrap_or_default())
    }

    #[test]
    fn a_file_of_age_may_hold_several() {
        use age::secrecy::ExposeSecret;
        let key = || age::x25519::Identity::generate().to_string().expose_secret().to_owned();
        let text = format!("# created: today\n# public key: age1...\n{}\n\n{}\n", key(), key());
        let identities = Identities::parse("identity", &text).unwrap();
        assert_eq!((identities.keys().count(), identities.is_empty()), (2, false));
        assert!(!format!("{identities:?}").contains("AGE-"));
        assert!(Identities::default().is_empty());
    }

    #[test]
    fn what_is_none_says_why_and_repeats_nothing() {
        for (text, words) in [
            ("", "there is no identity in it"),
            ("# nothing\n", "there is no identity in it"),
            ("\nAGE-SECRET-KEY-1QQQQ", "line 2 is no identity of age"),
            ("AGE-PLUGIN-YUBIKEY-1QQQQ", "plugin"),
            ("age-encryption.org/v1\n-> scrypt", "passphrase"),
            ("-----BEGIN AGE ENCRYPTED FILE-----\nx", "passphrase"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nQQQQ\n-----END OPENSSH PRIVATE KEY-----", "no private key of OpenSSH"),
        ] {
            let said = said(text);
            assert!(said.contains(words) && said.starts_with("identity: ") && !said.contains("QQQQ"), "{text}: {said}");
        }
    }
}
