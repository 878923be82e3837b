//! What went wrong on the way to a relay, in the words of a person, with what to do.

use std::io;
use std::time::Duration;

use lettre::transport::smtp;

use crate::error::{Error, Kind, plain_io};
use crate::host::printable;

/// Why a relay could not be used.
#[derive(Debug)]
pub enum Failure {
    Smtp(smtp::Error),
    /// No answer for so long.
    Silence(Duration),
    /// A password would have travelled in the clear.
    InTheClear,
}

impl From<smtp::Error> for Failure {
    fn from(error: smtp::Error) -> Self {
        Failure::Smtp(error)
    }
}

const LOGIN: &str = "look at username, password and tls of [email]";
const REACH: &str = "look at relay of [email], and whether it can be reached from here";
const CERTIFICATE: &str = "the certificate must be valid for the name in relay; ca_file of [email] names a private authority";
const OTHER_TLS: &str = "smtps:// is TLS from the start (port 465), smtp:// is STARTTLS (port 587)";
const SILENCE: &str = "can it be reached from here? smtps:// is TLS from the start (port 465), smtp:// is STARTTLS (port 587)";

impl Failure {
    pub fn told(&self) -> Error {
        let (message, hint) = match self {
            Failure::Smtp(error) => of_smtp(error),
            Failure::Silence(waited) => (format!("no answer within {} s", waited.as_secs_f64().round()), SILENCE),
            Failure::InTheClear => ("the connection is not encrypted, and a password is never sent in the clear".to_owned(), LOGIN),
        };
        Error::new(Kind::System, printable(&message).replace('\n', " ")).hint(hint)
    }
}

fn of_smtp(error: &smtp::Error) -> (String, &'static str) {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    if let Some(code) = error.status() {
        let hint = match u16::from(code) {
            // RFC 4954: a login is wanted, or was not taken.
            432 | 454 | 530 | 534 | 535 | 538 => LOGIN,
            400..500 => "the relay says that this may pass; its log says more",
            _ => "look at from and to of [email], and at the relay's log; it may also want a login",
        };
        return (format!("{code} {cause}"), hint);
    }
    if let Some(error) = io_error(error) {
        let hint = match error.kind() {
            io::ErrorKind::InvalidData if cause.contains("certificate") => CERTIFICATE,
            io::ErrorKind::InvalidData => OTHER_TLS,
            _ => REACH,
        };
        return (plain_io(error), hint);
    }
    // Words of lettre; a test of each sees to it that they are still these.
    if cause.contains("STARTTLS") {
        return ("it offers no TLS".to_owned(), "tls = \"none\" sends in the clear, and never a password");
    }
    if cause.contains("authentication mechanism") {
        return ("it offers no login that is known here (PLAIN, LOGIN)".to_owned(), LOGIN);
    }
    if cause.contains("SMTPUTF8") {
        return ("it takes no addresses beyond ASCII".to_owned(), "look at from and to of [email]");
    }
    if error.is_response() {
        return (format!("its answer is no SMTP, or it hung up ({cause})"), OTHER_TLS);
    }
    (if cause.is_empty() { error.to_string() } else { cause }, REACH)
}

fn io_error(error: &smtp::Error) -> Option<&io::Error> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(found) = cause.downcast_ref() {
            return Some(found);
        }
        source = cause.source();
    }
    None
}
