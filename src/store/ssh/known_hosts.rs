//! Whether a host is the one that is meant, by the lines of known_hosts files. Pure.
//!
//! The format: <https://man.openbsd.org/sshd.8#SSH_KNOWN_HOSTS_FILE_FORMAT>

use std::path::PathBuf;

use ring::hmac;
use russh::keys::ssh_key::known_hosts::{Entry, HostPatterns, Marker};
use russh::keys::{Algorithm, PublicKey};

/// The port without brackets.
const USUAL_PORT: u16 = 22;

/// A host as it stands in these files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// `host`, or `[host]:port` where the port is another than 22.
    with_port: String,
    host: String,
    port: u16,
}

impl Name {
    pub fn new(host: &str, port: u16) -> Self {
        let host = host.to_lowercase();
        let with_port = if port == USUAL_PORT { host.clone() } else { format!("[{host}]:{port}") };
        Name { with_port, host, port }
    }

    pub fn as_str(&self) -> &str {
        &self.with_port
    }

    /// Host and port, as programs take them.
    pub fn parts(&self) -> (&str, u16) {
        (&self.host, self.port)
    }
}

/// What the files say of a key that a host shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Known,
    /// The key itself is called bad, at this place.
    Revoked(String),
    /// The host is known by other keys, at these places.
    Changed(Vec<String>),
    Unknown,
}

/// The lines of known_hosts files that speak of one host.
#[derive(Debug, Clone)]
pub struct Known {
    entries: Vec<(String, Entry, OfWhom)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OfWhom {
    /// Of the name with its port.
    Exactly,
    /// Of the host whatever the port: as good as ssh takes it, if the key is the same.
    TheHost,
}

impl Known {
    /// The lines of files that speak of a host. A line that cannot be read is passed over, as ssh does it.
    ///
    /// # Errors
    /// The place of a line that revokes and cannot be read: it could mean this key.
    pub fn of(files: &[(PathBuf, String)], name: &Name) -> Result<Self, String> {
        let mut entries = Vec::new();
        for (path, text) in files {
            for (number, line) in text.lines().enumerate() {
                let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                let place = format!("{}:{}", path.display(), number + 1);
                match line.parse::<Entry>() {
                    Ok(entry) => {
                        let of_whom = if is_of(entry.host_patterns(), &name.with_port) {
                            OfWhom::Exactly
                        } else if is_of(entry.host_patterns(), &name.host) {
                            OfWhom::TheHost
                        } else {
                            continue;
                        };
                        entries.push((place, entry, of_whom));
                    }
                    Err(_) if line.starts_with("@revoked") => return Err(place),
                    Err(_) => {}
                }
            }
        }
        Ok(Known { entries })
    }

    fn keys(&self) -> impl Iterator<Item = &(String, Entry, OfWhom)> {
        // An authority vouches for certificates of hosts, which are not asked for.
        self.entries.iter().filter(|(_, entry, _)| entry.marker().is_none())
    }

    pub fn judge(&self, shown: &PublicKey) -> Verdict {
        let is_shown = |entry: &Entry| entry.public_key().key_data() == shown.key_data();
        let revoked = self.entries.iter().find(|(_, entry, _)| entry.marker() == Some(&Marker::Revoked) && is_shown(entry));
        if let Some((place, ..)) = revoked {
            return Verdict::Revoked(place.clone());
        }
        if self.keys().any(|(_, entry, _)| is_shown(entry)) {
            return Verdict::Known;
        }
        let others: Vec<String> =
            self.keys().filter(|(_, _, of_whom)| *of_whom == OfWhom::Exactly).map(|(place, ..)| place.clone()).collect();
        if others.is_empty() { Verdict::Unknown } else { Verdict::Changed(others) }
    }

    /// Kinds of keys, those first by which the host is known: it would show another one, which is as
    /// good as none.
    pub fn order(&self, mut kinds: Vec<Algorithm>) -> Vec<Algorithm> {
        let known: Vec<Algorithm> = self.keys().map(|(_, entry, _)| entry.public_key().algorithm()).collect();
        // One key of RSA serves signatures with several hashes.
        let is_rsa = |kind: &Algorithm| matches!(kind, Algorithm::Rsa { .. });
        let is_known = |kind: &Algorithm| known.iter().any(|known| known == kind || (is_rsa(known) && is_rsa(kind)));
        kinds.sort_by_key(|kind| !is_known(kind));
        kinds
    }
}

/// Whether the host field of a line means a name. A `!` in front of a pattern shuts names out.
fn is_of(patterns: &HostPatterns, name: &str) -> bool {
    match patterns {
        HostPatterns::HashedName { salt, hash } => {
            let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, salt);
            hmac::verify(&key, name.as_bytes(), hash).is_ok()
        }
        HostPatterns::Patterns(patterns) => {
            let shuts_out = |pattern: &String| pattern.strip_prefix('!').is_some_and(|pattern| fits(pattern, name));
            !patterns.iter().any(shuts_out) && patterns.iter().any(|pattern| fits(pattern, name))
        }
    }
}

/// `*` is any text, `?` any one character; brackets are what they are, unlike in globs of a shell.
fn fits(pattern: &str, name: &str) -> bool {
    let pattern = pattern.to_lowercase();
    let mut rests = vec![(pattern.as_str(), name)];
    while let Some((pattern, name)) = rests.pop() {
        let mut left = pattern.chars();
        match (left.next(), name.chars().next()) {
            (None, None) => return true,
            (Some('*'), _) => {
                let behind = pattern.trim_start_matches('*');
                rests.extend(name.char_indices().map(|(at, _)| (behind, &name[at..])).chain([(behind, "")]));
            }
            (Some(wanted), Some(there)) if wanted == '?' || wanted == there => rests.push((left.as_str(), &name[there.len_utf8()..])),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHx1qpNXYO+LF03HWPvnP3Qra3wojkvYTijgUIcklyA/";
    const B: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINKPumZpi9IpAYFaafbAp7vLwHZOifrvV7XW8KelhX/0";
    const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBH3SjiIG+EWCLpOguohlVQR0WgfJODxBA+8+nvrFMzHUcXgwt/f4yRP7hAmnJBOQo5oxtqjqTOwemAxs+iDpC1w=";

    fn judge(text: &str, host: &str, port: u16, shown: &str) -> Verdict {
        let known = Known::of(&[(PathBuf::from("f"), text.to_owned())], &Name::new(host, port)).unwrap();
        known.judge(&shown.parse().unwrap())
    }

    #[test]
    fn a_key_is_known_by_name_port_pattern_and_hash() {
        for (hosts, host, port) in [
            ("h.example.com", "h.example.com", 22),
            ("H.Example.com", "h.EXAMPLE.com", 22),
            ("other,h.example.com", "h.example.com", 22),
            ("[h.example.com]:2222", "h.example.com", 2222),
            // As ssh does it: a line without port serves every port.
            ("h.example.com", "h.example.com", 2222),
            ("*.example.com", "h.example.com", 22),
            ("h.exam???.com", "h.example.com", 22),
            ("[*.example.com]:2222", "h.example.com", 2222),
            // ssh-keygen -H of `h.example.com` and of `[h.example.com]:2222`.
            ("|1|9G3boBg74aRvOnWsdyXNH69seqY=|yl7T5qXmUW7CTDB7ps1MprPh8mw=", "h.example.com", 22),
            ("|1|FUSUCxSSyxq31WM2PZVk63VOmb0=|R84z/uQwDdFJ4MgBCaBaBPSsLJ4=", "h.example.com", 2222),
        ] {
            assert_eq!(judge(&format!("{hosts} {A}\n"), host, port, A), Verdict::Known, "{hosts}");
        }
        // Several keys, comments, tabs and lines that nobody can read.
        let text = format!("# {A}\nnonsense\nh ssh-unheard AAAA\nh\t{B}  a comment\nh {A} root@h\n");
        assert_eq!(judge(&text, "h", 22, A), Verdict::Known);
    }

    #[test]
    fn another_host_is_not_meant() {
        for (hosts, host, port) in [
            ("h", "hh", 22),
            ("[h]:2222", "h", 22),
            ("[h]:2222", "h", 2223),
            ("*.example.com,!h.example.com", "h.example.com", 22),
            ("?", "hh", 22),
            ("|1|9G3boBg74aRvOnWsdyXNH69seqY=|yl7T5qXmUW7CTDB7ps1MprPh8mw=", "h.example.org", 22),
            ("|1|FUSUCxSSyxq31WM2PZVk63VOmb0=|R84z/uQwDdFJ4MgBCaBaBPSsLJ4=", "h.example.com", 22),
        ] {
            assert_eq!(judge(&format!("{hosts} {A}\n"), host, port, A), Verdict::Unknown, "{hosts}");
        }
        assert_eq!(judge("", "h", 22, A), Verdict::Unknown);
    }

    #[test]
    fn another_key_of_the_host_is_a_change() {
        assert_eq!(judge(&format!("\nh {B}\n"), "h", 22, A), Verdict::Changed(vec!["f:2".to_owned()]));
        // Also one of another kind: a host that is known is asked for that.
        assert_eq!(judge(&format!("h {ECDSA}\n"), "h", 22, A), Verdict::Changed(vec!["f:1".to_owned()]));
        // What answers on another port may be another.
        assert_eq!(judge(&format!("h {B}\n"), "h", 2222, A), Verdict::Unknown);
    }

    #[test]
    fn a_revoked_key_is_refused_whatever_else_is_said() {
        assert_eq!(judge(&format!("h {A}\n@revoked * {A}\n"), "h", 22, A), Verdict::Revoked("f:2".to_owned()));
        assert_eq!(judge(&format!("h {A}\n@revoked h {B}\n"), "h", 22, A), Verdict::Known);
        // An authority is not a key of the host.
        assert_eq!(judge(&format!("@cert-authority h {A}\n"), "h", 22, A), Verdict::Unknown);
        let unreadable = Known::of(&[(PathBuf::from("f"), "@revoked h ssh-unheard\n".to_owned())], &Name::new("h", 22));
        assert_eq!(unreadable.unwrap_err(), "f:1");
    }

    #[test]
    fn kinds_by_which_the_host_is_known_come_first() {
        let kinds = || vec![Algorithm::Ed25519, ECDSA.parse::<PublicKey>().unwrap().algorithm()];
        let known = |text: &str| Known::of(&[(PathBuf::from("f"), text.to_owned())], &Name::new("h", 22)).unwrap();
        assert_eq!(known("").order(kinds()), kinds());
        assert_eq!(known(&format!("h {ECDSA}\n")).order(kinds()), kinds().into_iter().rev().collect::<Vec<_>>());
    }
}
