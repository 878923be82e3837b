//! Who is answered: pure.

use std::net::{IpAddr, SocketAddr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::host::secret::Secret;

/// Whether a Host header names this listener. A page of somebody else whose name was made to point here
/// (DNS rebinding) comes with its own name; an address cannot be made to point elsewhere.
pub fn is_addressed(host: &str, address: SocketAddr, names: &[String]) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        // A colon within the name is that of an address of version 6, which stands in brackets.
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return false;
    }
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        // What listens on one address is reached by it, or through a forwarded port of loopback.
        return address.ip().is_unspecified() || ip == address.ip() || ip.is_loopback();
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || names.contains(&name)
}

/// Whether an Authorization header shows the token: as a bearer, or as the password of anybody, which
/// is what a browser asks for.
pub fn shows(authorization: Option<&str>, token: &Secret) -> bool {
    let Some((scheme, given)) = authorization.and_then(|header| header.trim().split_once(' ')) else { return false };
    let given = given.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return is_same(given.as_bytes(), token);
    }
    let Some(decoded) = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(given).ok()).flatten() else { return false };
    let password = decoded.iter().position(|byte| *byte == b':').map(|colon| &decoded[colon + 1..]);
    password.is_some_and(|password| is_same(password, token))
}

/// In a time that tells nothing of the token, nor of its length.
fn is_same(given: &[u8], token: &Secret) -> bool {
    Sha256::digest(given).ct_eq(&Sha256::digest(token.reveal().as_bytes())).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let names = ["backup.example.com".to_owned()];
        let asked = |listen: &str, host: &str| is_addressed(host, listen.parse().unwrap(), &names);
        for host in [
            "127.0.0.1:9847",
            "127.0.0.1",
            "localhost:9847",
            "LOCALHOST",
            "localhost.",
            "localhost:80",
            "[::1]:9847",
            "backup.example.com",
            "Backup.Example.com:443",
        ] {
            assert!(asked("127.0.0.1:9847", host), "{host}");
        }
        for host in [
            "",
            "evil.example.com",
            "evil.example.com:9847",
            "localhost.evil.com",
            "xlocalhost",
            "192.0.2.1:9847",
            "127.0.0.1.evil.com",
            "127.0.0.1:x",
            "127.0.0.1:99999",
            "localhost:9847@evil.com",
            "[::1",
            "127.0.0.1:9847:1",
            "a b",
            "example.com",
        ] {
            assert!(!asked("127.0.0.1:9847", host), "{host}");
        }
        assert!(asked("0.0.0.0:9847", "192.0.2.1:9847") && asked("[::]:1", "[2001:db8::1]:1") && asked("192.0.2.1:1", "192.0.2.1"));
        assert!(!asked("0.0.0.0:9847", "evil.example.com") && !asked("192.0.2.1:1", "192.0.2.2"));
    }

    #[test]
    fn tokens() {
        let token = Secret::new("s3cr:et");
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        for header in ["Bearer s3cr:et".to_owned(), "bearer  s3cr:et ".to_owned(), basic("x:s3cr:et"), basic(":s3cr:et")] {
            assert!(shows(Some(&header), &token), "{header}");
        }
        for header in
            ["", "Bearer", "Bearer ", "Bearer s3cr:e", "Bearer s3cr:ett", "Bearer S3CR:ET", "s3cr:et", "Token s3cr:et", "Basic s3cr:et"]
        {
            assert!(!shows(Some(header), &token), "{header}");
        }
        for text in ["s3cr:et", "s3cr:et:", "x:s3cr", "x:"] {
            assert!(!shows(Some(&basic(text)), &token), "{text}");
        }
        assert!(!shows(None, &token));
    }
}
