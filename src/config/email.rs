//! `[email]`: where mail goes, and how it may travel there.

use std::path::PathBuf;
use std::time::Duration;

use lettre::message::Mailbox;
use url::{Host, Url};

use super::faults::Examined;
use super::file::{self, Tls};
use super::values::{Given, Schedule};

/// Default of `escalate_after`.
const ESCALATE_AFTER: Duration = Duration::from_secs(4 * 3_600);

#[derive(Debug, Clone)]
pub struct Email {
    pub host: String,
    pub port: u16,
    pub security: Security,
    /// Of a private certificate authority.
    pub ca_file: Option<PathBuf>,
    pub username: Option<Given>,
    pub password: Option<Given>,
    pub from: Mailbox,
    pub to: Vec<Mailbox>,
    /// How often an open problem is told again.
    pub remind_every: Duration,
    /// Told too, of what is open for so long.
    pub escalate_to: Vec<Mailbox>,
    pub escalate_after: Duration,
    /// When the state of everything is told.
    pub digest: Option<Schedule>,
}

impl Email {
    /// The relay as people write it.
    pub fn relay(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }
}

/// How the way to the relay is kept from other eyes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// TLS before the first word (RFC 8314).
    Tls,
    /// STARTTLS, or no mail (RFC 3207).
    Starttls,
    /// STARTTLS where the relay offers it, with whatever certificate it has; never with a password.
    Opportunistic,
    /// In the clear; never with a password.
    None,
}

/// Makes the plan of the section; its faults are noted.
pub fn plan_email(email: &file::Email, remind_every: Duration, examined: &mut Examined<'_>) -> Option<Email> {
    let relay = read_relay(&email.relay);
    if relay.is_none() {
        let hint = "write smtp://HOST:587 (STARTTLS) or smtps://HOST:465; username and password have keys of their own";
        examined.fault(&["email", "relay"], format!("bad relay {:?}", without_userinfo(&email.relay)), hint);
    }
    if email.to.is_empty() {
        examined.fault(&["email", "to"], "mail goes to nobody", "write to = [\"dba@example.com\"]");
    }
    let mut mailbox = |key: &str, text: &String| {
        // A line end would begin another header.
        let parsed = text.parse::<Mailbox>().ok().filter(|_| !text.contains(char::is_control));
        if parsed.is_none() {
            examined.fault(&["email", key], format!("bad address {text:?}"), "write NAME@DOMAIN");
        }
        parsed
    };
    let from = mailbox("from", &email.from);
    let to: Vec<Mailbox> = email.to.iter().filter_map(|to| mailbox("to", to)).collect();
    let escalate_to: Vec<Mailbox> = email.escalate_to.iter().flatten().filter_map(|to| mailbox("escalate_to", to)).collect();
    if email.escalate_after.is_some() && escalate_to.is_empty() {
        examined.fault(&["email", "escalate_after"], "escalate_after without escalate_to", "add escalate_to = [\"boss@example.com\"]");
    }
    if email.password.is_some() && email.username.is_none() {
        examined.fault(&["email", "password"], "password without username", "add username = \"NAME\"");
    }
    if email.username.is_some() && email.password.is_none() {
        examined.fault(&["email", "username"], "username without password", "add password = { file = \"PATH\" }");
    }
    let relay = relay?;
    let secret = email.password.is_some();
    let security = match (relay.tls, email.tls.unwrap_or(if relay.loopback { Tls::Opportunistic } else { Tls::Required })) {
        (true, Tls::None) => {
            examined.fault(&["email", "tls"], "smtps:// without TLS", "write smtp://HOST:25, or remove tls");
            return None;
        }
        (true, _) => Security::Tls,
        (false, Tls::None) if secret => {
            let hint = "a password is never sent in the clear: remove password, or set tls = \"required\"";
            examined.fault(&["email", "tls"], "password with tls = \"none\"", hint);
            return None;
        }
        (false, Tls::None) => Security::None,
        // Where a password goes along, an unencrypted way is no way.
        (false, Tls::Opportunistic) if !secret => Security::Opportunistic,
        (false, _) => Security::Starttls,
    };
    Some(Email {
        host: relay.host,
        port: relay.port,
        security,
        ca_file: email.ca_file.clone(),
        username: email.username.clone(),
        password: email.password.clone(),
        from: from?,
        to,
        remind_every: email.remind_every.map_or(remind_every, |span| span.0),
        escalate_to,
        escalate_after: email.escalate_after.map_or(ESCALATE_AFTER, |span| span.0),
        digest: email.digest.clone(),
    })
}

struct Relay {
    host: String,
    port: u16,
    /// From the start.
    tls: bool,
    loopback: bool,
}

fn read_relay(text: &str) -> Option<Relay> {
    let url = Url::parse(text).ok()?;
    let tls = match url.scheme() {
        "smtp" => false,
        "smtps" => true,
        _ => return None,
    };
    let bare = url.username().is_empty() && url.password().is_none() && matches!(url.path(), "" | "/");
    if !bare || url.query().is_some() || url.fragment().is_some() {
        return None;
    }
    // A scheme that browsers do not know keeps an address as a name.
    let (host, loopback) = match Host::parse(url.host_str()?).ok()? {
        Host::Ipv4(address) => (address.to_string(), address.is_loopback()),
        Host::Ipv6(address) => (address.to_string(), address.is_loopback()),
        Host::Domain(name) => (name.clone(), name == "localhost"),
    };
    let port = url.port().unwrap_or(if tls { 465 } else { 587 });
    if port == 0 {
        return None;
    }
    Some(Relay { host, port, tls, loopback })
}

/// Somebody may have written the password there.
fn without_userinfo(text: &str) -> String {
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://***@{host}"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relays() {
        let read = |text| read_relay(text).map(|relay| (relay.host, relay.port, relay.tls, relay.loopback));
        assert_eq!(read("smtp://mail.example.com"), Some(("mail.example.com".into(), 587, false, false)));
        assert_eq!(read("smtps://mail.example.com/"), Some(("mail.example.com".into(), 465, true, false)));
        assert_eq!(read("smtp://127.0.0.1:2525"), Some(("127.0.0.1".into(), 2525, false, true)));
        assert_eq!(read("smtp://[::1]:25"), Some(("::1".into(), 25, false, true)));
        assert_eq!(read("smtp://LocalHost"), Some(("localhost".into(), 587, false, true)));
        assert_eq!(read("smtp://127.1"), Some(("127.0.0.1".into(), 587, false, true)));
        assert_eq!(read("smtp://m\u{fc}ller.example"), Some(("xn--mller-kva.example".into(), 587, false, false)));
        for text in
            ["", "mail.example.com", "http://x", "smtp://", "smtp://u:p@x", "smtp://x/y", "smtp://x:99999", "smtp://x:0", "smtp://x?tls=no"]
        {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(without_userinfo("smtp://u:p@x"), "smtp://***@x");
    }

    /// The outbox keeps a recipient as text.
    #[test]
    fn addresses_survive_the_outbox() {
        for text in [
            "dba@example.com",
            "DBA <dba@example.com>",
            "\"DBA, on call\" <dba@example.com>",
            "J\u{f6}rg M\u{fc}ller <dba@example.com>",
            "\"J\u{f6}rg (DBA) \\\"x\\\" 9\" <dba+9@example.com>",
            "<dba@example.com>",
            "root@localhost",
        ] {
            let mailbox: Mailbox = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(mailbox.to_string().parse(), Ok(mailbox), "{text}");
        }
    }
}
