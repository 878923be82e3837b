//! Mail by SMTP (RFC 5321), with TLS by rustls. Where TLS is required it is there or nothing is
//! sent: no way leads back to the clear.

use std::time::Duration;

use chrono::{DateTime, Utc};
use lettre::Message;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters};
use lettre::transport::smtp::extension::ClientId;

use super::letter::Letter;
use super::smtp_words;
use crate::config::email::{Email, Security};
use crate::error::{Error, Kind, Result, plain_io};
use crate::host::secret;

/// How long a relay may take for one message; a slow one asks for tens of seconds.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a relay may take for its farewell.
const FAREWELL: Duration = Duration::from_secs(2);

/// A relay, ready to be asked.
pub struct Mailer {
    email: Email,
    tls: Option<TlsParameters>,
    credentials: Option<Credentials>,
}

impl Mailer {
    /// Prepares the way to the relay; nothing is sent yet.
    ///
    /// # Errors
    /// A secret or the certificates are not to be had.
    pub fn new(email: &Email) -> Result<Self> {
        let tls = match email.security {
            Security::None => None,
            // Whoever would take it in the clear gains nothing by asking for a certificate.
            Security::Opportunistic => Some(parameters(email, false)?),
            Security::Tls | Security::Starttls => Some(parameters(email, true)?),
        };
        let credentials = match (&email.username, &email.password) {
            (Some(username), Some(password)) => {
                let username = secret::resolve("email.username", username)?;
                let password = secret::resolve("email.password", password)?;
                Some(Credentials::new(username.reveal().to_owned(), password.reveal().to_owned()))
            }
            _ => None,
        };
        Ok(Mailer { email: email.clone(), tls, credentials })
    }

    /// Sends a letter to one recipient. `number` tells it apart from every other, so that one that
    /// comes twice can be known.
    ///
    /// # Errors
    /// The relay does not take it, or not in time.
    pub async fn send(&self, to: &str, letter: &Letter, number: &str, at: DateTime<Utc>, patience: Duration) -> Result<()> {
        let message = self.message(to, letter, number, at)?;
        let send = async {
            let mut connection = self.connect().await?;
            connection.send(message.envelope(), &message.formatted()).await?;
            Ok(connection)
        };
        let doing = format!("the relay {} did not take a mail to {to}", self.email.relay());
        let connection = within(patience, send).await.map_err(|error| error.context(doing))?;
        leave(connection).await;
        Ok(())
    }

    /// Talks to the relay as far as the login, without sending anything, and says how it went.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub async fn try_out(&self) -> Result<String> {
        let relay = self.email.relay();
        let connection = within(PATIENCE / 2, self.connect()).await.map_err(|error| error.context(&relay))?;
        let how = match (connection.is_encrypted(), self.credentials.is_some()) {
            (true, true) => "answers with TLS, and takes the login",
            (true, false) => "answers with TLS",
            (false, _) => "answers, without TLS",
        };
        leave(connection).await;
        Ok(format!("{relay} {how}"))
    }

    async fn connect(&self) -> std::result::Result<AsyncSmtpConnection, smtp_words::Failure> {
        let (hello, tls) = (ClientId::default(), self.tls.clone());
        let from_start = tls.clone().filter(|_| self.email.security == Security::Tls);
        let server = (self.email.host.as_str(), self.email.port);
        let mut connection = AsyncSmtpConnection::connect_tokio1(server, None, &hello, from_start, None).await?;
        let is_asked_for = match self.email.security {
            Security::Starttls => true,
            Security::Opportunistic => connection.can_starttls(),
            Security::Tls | Security::None => false,
        };
        if let Some(tls) = tls.filter(|_| is_asked_for) {
            connection.starttls(tls, &hello).await?;
        }
        if let Some(credentials) = &self.credentials {
            // The plan sees to it; a password is worth a second look.
            if !connection.is_encrypted() {
                return Err(smtp_words::Failure::InTheClear);
            }
            connection.auth(DEFAULT_MECHANISMS, credentials).await?;
        }
        Ok(connection)
    }

    fn message(&self, to: &str, letter: &Letter, number: &str, at: DateTime<Utc>) -> Result<Message> {
        let wrong = |why: String| Error::new(Kind::System, format!("cannot write a mail to {to}: {why}"));
        let header = |name: &'static str, value: &str| HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned());
        let from = &self.email.from;
        let to: Mailbox = to.parse().map_err(|error| wrong(format!("{error}")))?;
        let part = |kind, text: &str| SinglePart::builder().header(kind).body(text.to_owned());
        let mut message = Message::builder()
            .from(from.clone())
            .to(to.clone())
            .subject(letter.subject.clone())
            .date(at.into())
            .message_id(Some(format!("<{number}@{}>", from.email.domain())))
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

/// lettre bounds the connecting only; whatever waits for an answer is bounded here.
async fn within<T>(patience: Duration, work: impl Future<Output = std::result::Result<T, smtp_words::Failure>>) -> Result<T> {
    let done = tokio::time::timeout(patience, work).await;
    done.unwrap_or(Err(smtp_words::Failure::Silence(patience))).map_err(|failure| failure.told())
}

/// What was taken is taken: a relay that hangs over its farewell must not make it come twice.
async fn leave(mut connection: AsyncSmtpConnection) {
    let _ = tokio::time::timeout(FAREWELL, connection.abort()).await;
}

fn parameters(email: &Email, verified: bool) -> Result<TlsParameters> {
    let mut builder = TlsParameters::builder(email.host.clone());
    if !verified {
        builder = builder.dangerous_accept_invalid_certs(true).dangerous_accept_invalid_hostnames(true);
        builder = builder.certificate_store(CertificateStore::None);
    } else if let Some(path) = &email.ca_file {
        let unusable = |why: &str| {
            Error::new(Kind::Secret, format!("email.ca_file: {}: {why}", path.display()))
                .hint("it must hold the certificates of the authority, in PEM")
        };
        let pem = std::fs::read(path).map_err(|error| unusable(&plain_io(&error)))?;
        if memchr::memmem::find(&pem, b"-----BEGIN CERTIFICATE-----").is_none() {
            return Err(unusable("no certificate stands in it"));
        }
        let certificate = Certificate::from_pem(&pem).map_err(|_| unusable("what stands in it is no certificate"))?;
        builder = builder.add_root_certificate(certificate);
    }
    builder.build().map_err(|error| smtp_words::Failure::from(error).told().context("email"))
}
