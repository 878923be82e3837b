//! To whom a backup is encrypted: public keys of age and of OpenSSH.

use std::fmt;
use std::str::FromStr;

use age::ssh::ParseRecipientKeyError;

/// A public key.
#[derive(Clone)]
pub struct Recipient {
    text: String,
    key: Key,
}

#[derive(Clone)]
enum Key {
    Native(age::x25519::Recipient),
    Ssh(age::ssh::Recipient),
}

impl Recipient {
    pub(super) fn native(key: age::x25519::Recipient) -> Self {
        Recipient { text: key.to_string(), key: Key::Native(key) }
    }

    /// As age knows it.
    pub fn key(&self) -> &dyn age::Recipient {
        match &self.key {
            Key::Native(key) => key,
            Key::Ssh(key) => key,
        }
    }
}

impl FromStr for Recipient {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        // What is secret by its look is not repeated in a message.
        if text.starts_with("AGE-SECRET-KEY-") || text.starts_with("-----BEGIN") {
            return Err("it is a private key, and what is encrypted to needs only the public one".to_owned());
        }
        let key = if text.starts_with("ssh-") {
            text.parse().map(Key::Ssh).map_err(|error| match error {
                ParseRecipientKeyError::RsaModulusTooLarge => {
                    format!("bad recipient {text:?}: the RSA key is too large, at most 16384 bits")
                }
                ParseRecipientKeyError::RsaModulusTooSmall => {
                    format!("bad recipient {text:?}: the RSA key is too small, at least 2048 bits")
                }
                _ => format!("bad recipient {text:?}: it is no ssh-ed25519 and no ssh-rsa public key"),
            })?
        } else {
            text.parse().map(Key::Native).map_err(|why: &str| format!("bad recipient {text:?}: {why}"))?
        };
        Ok(Recipient { text: text.to_owned(), key })
    }
}

/// As it was written.
impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Recipient {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Recipient {}

#[cfg(test)]
mod tests {
    use super::*;

    const NATIVE: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
    const SSH: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN alice@rust";

    #[test]
    fn keys_of_age_and_of_openssh() {
        for text in [NATIVE, SSH, &format!(" {NATIVE}\n")] {
            assert_eq!(text.parse::<Recipient>().unwrap().to_string(), text.trim());
        }
    }

    #[test]
    fn what_is_none_is_refused_and_no_secret_is_repeated() {
        let changed = NATIVE.replace('q', "p");
        for (text, words) in [
            ("", "bad recipient"),
            ("age1x", "bad recipient \"age1x\""),
            (changed.as_str(), "bad recipient"),
            ("ssh-ed25519 AAAA", "no ssh-ed25519"),
            ("ssh-dss AAAAB3NzaC1kc3MAAACB", "no ssh-ed25519"),
            ("ecdsa-sha2-nistp256 AAAA", "bad recipient"),
            ("age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t", "bad recipient"),
        ] {
            let said = text.parse::<Recipient>().unwrap_err();
            assert!(said.contains(words), "{text}: {said}");
        }
        for secret in ["AGE-SECRET-KEY-1QQQ", "-----BEGIN OPENSSH PRIVATE KEY-----"] {
            let said = secret.parse::<Recipient>().unwrap_err();
            assert!(said.contains("private") && !said.contains("QQQ"), "{said}");
        }
    }
}
