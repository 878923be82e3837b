//! Mail by SMTP (RFC 5321), with TLS by rustls.

use std::time::Duration;

use chrono::{DateTime, Utc};
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};

use super::letter::Letter;
use crate::config::email::{Email, Security};
use crate::error::{Error, Kind, Result, plain_io};
use crate::host::secret;

/// How long a relay may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A relay, ready to be asked.
pub struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    relay: String,
}

impl Mailer {
    /// Prepares the way to the relay; nothing is sent yet.
    ///
    /// # Errors
    /// A secret or the certificates are not to be had.
    pub fn new(email: &Email) -> Result<Self> {
        let relay = format!("{}:{}", email.host, email.port);
        let tls = match email.security {
            Security::Tls => Tls::Wrapper(parameters(email, false)?),
            Security::Starttls => Tls::Required(parameters(email, false)?),
            // Whoever would take it in the clear gains nothing by asking for a certificate.
            Security::Opportunistic => Tls::Opportunistic(parameters(email, true)?),
            Security::None => Tls::None,
        };
        let mut builder =
            AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&email.host).port(email.port).tls(tls).timeout(Some(TIMEOUT));
        if let (Some(username), Some(password)) = (&email.username, &email.password) {
            let username = secret::resolve("email.username", username)?;
            let password = secret::resolve("email.password", password)?;
            builder = builder.credentials(Credentials::new(username.reveal().to_owned(), password.reveal().to_owned()));
        }
        Ok(Mailer { transport: builder.build(), from: email.from.clone(), relay })
    }

    /// Sends a letter to one recipient. `number` tells it apart from every other, so that one that
    /// comes twice can be known.
    ///
    /// # Errors
    /// The relay does not take it.
    pub async fn send(&self, to: &str, letter: &Letter, number: &str, at: DateTime<Utc>) -> Result<()> {
        let message = self.message(to, letter, number, at)?;
        // lettre's own limit is for each answer; a relay that drips must not hold the others up.
        let sent = tokio::time::timeout(TIMEOUT * 2, self.transport.send(message)).await;
        let refused = |why: String| Error::new(Kind::System, format!("the relay {} did not take a mail to {to}: {why}", self.relay));
        match sent {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(refused(chain(&error)).hint(hint(&error))),
            Err(_) => Err(refused("no answer in time".to_owned()).hint("look at the relay and the way to it")),
        }
    }

    /// Talks to the relay as far as the login, without sending anything.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub async fn try_out(&self) -> Result<String> {
        let failed = |why: String| Error::new(Kind::System, format!("{}: {why}", self.relay));
        match tokio::time::timeout(TIMEOUT, self.transport.test_connection()).await {
            Ok(Ok(true)) => Ok(self.relay.clone()),
            Ok(Ok(false)) => Err(failed("the relay does not answer".to_owned())),
            Ok(Err(error)) => Err(failed(chain(&error)).hint(hint(&error))),
            Err(_) => Err(failed("no answer in time".to_owned()).hint("look at the relay and the way to it")),
        }
    }

    fn message(&self, to: &str, letter: &Letter, number: &str, at: DateTime<Utc>) -> Result<Message> {
        let wrong = |why: String| Error::new(Kind::System, format!("cannot write a mail to {to}: {why}"));
        let header = |name: &'static str, value: &str| HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned());
        let to: Mailbox = to.parse().map_err(|error| wrong(format!("{error}")))?;
        let part = |kind, text: &str| SinglePart::builder().header(kind).body(text.to_owned());
        let mut message = Message::builder()
            .from(self.from.clone())
            .to(to.clone())
            .subject(letter.subject.clone())
            .date(at.into())
            .message_id(Some(format!("<{number}@{}>", self.from.email.domain())))
            .multipart(
                MultiPart::alternative()
                    .singlepart(part(ContentType::TEXT_PLAIN, &letter.text))
                    .singlepart(part(ContentType::TEXT_HTML, &letter.html)),
            )
            .map_err(|error| wrong(error.to_string()))?;
        let headers = message.headers_mut();
        headers.insert_raw(header("X-Pgvigil-Alert", &letter.key));
        headers.insert_raw(header("X-Pgvigil-State", letter.state.as_str()));
        // No holiday notice in return (RFC 3834).
        headers.insert_raw(header("Auto-Submitted", "auto-generated"));
        Ok(message)
    }
}

fn parameters(email: &Email, any_certificate: bool) -> Result<TlsParameters> {
    let mut builder = TlsParameters::builder(email.host.clone()).dangerous_accept_invalid_certs(any_certificate);
    if let Some(path) = &email.ca_file {
        let unusable = |why: String| {
            Error::new(Kind::Secret, format!("email.ca_file: {}: {why}", path.display()))
                .hint("it must hold the certificates of the authority, in PEM")
        };
        let pem = std::fs::read(path).map_err(|error| unusable(plain_io(&error)))?;
        builder = builder.add_root_certificate(Certificate::from_pem(&pem).map_err(|error| unusable(error.to_string()))?);
    }
    builder.build().map_err(|error| Error::new(Kind::System, format!("email: {}", chain(&error))))
}

/// An error with its causes, for the outermost alone often says nothing.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    crate::host::printable(&text).replace('\n', " ")
}

fn hint(error: &lettre::transport::smtp::Error) -> &'static str {
    let text = chain(error);
    if error.is_tls() || text.contains("certificate") {
        "the certificate of the relay must be valid for its name; ca_file names a private authority"
    } else if text.contains("STARTTLS") || error.is_client() {
        "the relay offers no TLS or no login: tls = \"none\" sends in the clear, and never a password"
    } else if text.contains("535") || text.to_lowercase().contains("authentication") {
        "look at username and password of [email]"
    } else if error.is_permanent() {
        "look at from and to of [email], and at the relay's log"
    } else {
        "look at relay of [email], and whether it can be reached from here; it is tried again"
    }
}
