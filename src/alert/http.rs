//! HTTP, for webhooks and pings: a receiver, of which nothing is shown but scheme, host and port. The
//! rest of a URL is a secret, as are its headers.

use std::error::Error as _;
use std::path::Path;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, Method, redirect};
use url::Url;

use crate::config::channels::{is_header, read_url};
use crate::config::values::Given;
use crate::error::{Error, Kind, Result, plain_io};
use crate::host::{printable, secret};

/// How long a receiver may take for one message.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// How much of an answer is shown, in bytes.
const ANSWER_BYTES_MAX: usize = 300;

/// Parts of a URL that are shorter are no secrets, and words of any answer.
const SECRET_BYTES_MIN: usize = 6;

/// Where messages are sent to.
pub struct Receiver {
    /// Of `[webhooks]` or `[pings]`, such as `webhooks.chat`.
    key: String,
    client: Client,
    url: Url,
    headers: HeaderMap,
    /// What no message may show.
    secrets: Vec<String>,
}

/// Why something was not taken.
#[derive(Debug)]
pub struct Refused {
    pub error: Error,
    /// The receiver asks for a pause.
    pub pause: Option<Duration>,
    pub status: Option<u16>,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Refused { error, pause: None, status: None }
    }
}

impl Receiver {
    /// Prepares the way to a receiver; nothing is sent yet.
    ///
    /// # Errors
    /// A secret or the certificates are not to be had, or the URL is none.
    pub fn new<'a>(
        key: &str,
        url: &Given,
        headers: impl IntoIterator<Item = (&'a String, &'a Given)>,
        ca_file: Option<&Path>,
    ) -> Result<Self> {
        let text = secret::resolve(&format!("{key}.url"), url)?;
        let url =
            read_url(text.reveal()).map_err(|why| Error::new(Kind::Secret, format!("{key}.url: {why}")).hint("write https://HOST/PATH"))?;
        let mut secrets = secrets(&url);
        let mut map = HeaderMap::new();
        for (name, given) in headers {
            let what = format!("{key}.headers.{name}");
            let value = secret::resolve(&what, given)?;
            let header = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_str(value.reveal()).ok());
            let Some((name, mut header)) = header.filter(|_| is_header(value.reveal())) else {
                return Err(Error::new(Kind::Secret, format!("{what}: its value cannot stand in a header")).hint("write ASCII of one line"));
            };
            header.set_sensitive(true);
            map.insert(name, header);
            secrets.extend(value.reveal().split(' ').filter(|word| word.len() >= SECRET_BYTES_MIN).map(str::to_owned));
        }
        Ok(Receiver { key: key.to_owned(), client: client(key, ca_file)?, url, headers: map, secrets })
    }

    /// What of its URL may be shown.
    pub fn shown(&self) -> String {
        let port = self.url.port().map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}://{}{port}", self.url.scheme(), self.url.host_str().unwrap_or_default())
    }

    /// Sends a body; `below` is put behind the path of the URL. What was taken is taken: the rest of
    /// the answer is not waited for.
    ///
    /// # Errors
    /// It was not taken, or not in time.
    pub async fn send(&self, method: Method, below: &str, headers: HeaderMap, body: String, patience: Duration) -> Result<(), Refused> {
        let mut url = self.url.clone();
        if !below.is_empty() {
            url.set_path(&format!("{}/{below}", self.url.path().trim_end_matches('/')));
        }
        let request = self.client.request(method, url).headers(headers).headers(self.headers.clone()).timeout(patience).body(body);
        let mut response = request.send().await.map_err(|error| self.told(&error, patience))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        if status.is_redirection() {
            let error = self.error(format!("it answers {} and leads to another address, where nothing is sent", status.as_u16()));
            return Err(Refused { status: Some(status.as_u16()), ..error.hint("write the address that it leads to into url").into() });
        }
        let pause = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        let mut answer = Vec::new();
        // Whatever comes of it: the status has said enough.
        while let Ok(Some(chunk)) = response.chunk().await {
            answer.extend_from_slice(&chunk);
            if answer.len() >= ANSWER_BYTES_MAX {
                break;
            }
        }
        answer.truncate(ANSWER_BYTES_MAX);
        let answer = printable(&String::from_utf8_lossy(&answer)).replace('\n', " ");
        let answer = if answer.is_empty() { String::new() } else { format!(": {}", self.discreet(&answer)) };
        let hint = match status.as_u16() {
            401 | 403 | 404 | 405 | 410 => format!("look at url and headers of [{}]: the receiver does not know them", self.key),
            400 | 411..=422 => format!("look at body, method and content_type of [{}]", self.key),
            _ => "the receiver says that this may pass".to_owned(),
        };
        let error = self.error(format!("it answers {status}{answer}")).hint(hint);
        Err(Refused { error, pause, status: Some(status.as_u16()) })
    }

    /// Goes as far as a connection: nothing is sent.
    ///
    /// # Errors
    /// The host is not known, or does not answer.
    pub async fn try_out(&self) -> Result<String> {
        let hint = || format!("look at url of [{}], and whether its host can be reached from here", self.key);
        let host = self.url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = self.url.port_or_known_default().unwrap_or(443);
        let proxies = ["https_proxy", "HTTPS_PROXY", "http_proxy", "all_proxy", "ALL_PROXY"];
        if let Some(proxy) = proxies.iter().find(|name| std::env::var_os(name).is_some()) {
            return Ok(format!("{} is reached through the proxy of {proxy}, and was not tried", self.shown()));
        }
        let connected = tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect((host, port))).await;
        match connected {
            Ok(Ok(_)) => Ok(format!("{} answers", self.shown())),
            Ok(Err(error)) => Err(self.error(plain_io(&error)).hint(hint())),
            Err(_) => Err(self.error(format!("no answer within {} s", PATIENCE.as_secs())).hint(hint())),
        }
    }

    /// Whether what it carries travels in the clear, and not only on this machine.
    pub fn is_in_the_clear(&self) -> bool {
        let is_loopback = match self.url.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        self.url.scheme() == "http" && !is_loopback
    }

    fn error(&self, why: impl std::fmt::Display) -> Error {
        Error::new(Kind::System, format!("{}: {why}", self.shown()))
    }

    fn told(&self, error: &reqwest::Error, patience: Duration) -> Error {
        if error.is_timeout() {
            let why = format!("no answer within {} s", patience.as_secs_f64().round());
            return self.error(why).hint(format!("look at url of [{}], and whether its host can be reached from here", self.key));
        }
        let mut innermost: &(dyn std::error::Error + 'static) = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        // The outermost words hold the URL; the innermost say why.
        let why = match innermost.downcast_ref::<std::io::Error>() {
            Some(error) => plain_io(error),
            None if error.source().is_none() => "it cannot be asked".to_owned(),
            None => innermost.to_string(),
        };
        let hint = if why.contains("certificate") {
            format!("the certificate must be valid for the host; ca_file of [{}] names a private authority", self.key)
        } else {
            format!("look at url of [{}], and whether its host can be reached from here", self.key)
        };
        self.error(self.discreet(&printable(&why).replace('\n', " "))).hint(hint)
    }

    /// A text without our secrets, which a receiver may repeat.
    fn discreet(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
    }
}

/// The parts of a URL that a receiver may know somebody by, the longest first.
fn secrets(url: &Url) -> Vec<String> {
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let mut found = vec![url.path().to_owned(), url.username().to_owned()];
    found.extend(url.password().map(str::to_owned));
    found.extend(url.query().map(str::to_owned));
    found.extend(url.path_segments().into_iter().flatten().map(str::to_owned));
    found.extend(url.query_pairs().map(|(_, value)| value.into_owned()));
    let also: Vec<String> = found.iter().map(|part| decoded(part)).collect();
    found.extend(also);
    found.retain(|part| part.len() >= SECRET_BYTES_MIN);
    found.sort_by_key(|part| std::cmp::Reverse(part.len()));
    found.dedup();
    found
}

fn client(key: &str, ca_file: Option<&Path>) -> Result<Client> {
    // Once for the whole process; mail brings its own.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        // A secret goes to the host that it is for.
        .redirect(redirect::Policy::none())
        .referer(false)
        .pool_max_idle_per_host(0)
        .user_agent(concat!("pgvigil/", env!("CARGO_PKG_VERSION")));
    if let Some(path) = ca_file {
        let unusable = |why: &str| {
            Error::new(Kind::Secret, format!("{key}.ca_file: {}: {why}", path.display()))
                .hint("it must hold the certificates of the authority, in PEM")
        };
        let pem = std::fs::read(path).map_err(|error| unusable(&plain_io(&error)))?;
        let certificates = Certificate::from_pem_bundle(&pem).map_err(|_| unusable("what stands in it is no certificate"))?;
        if certificates.is_empty() {
            return Err(unusable("no certificate stands in it"));
        }
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(|_| {
        Error::new(Kind::System, format!("{key}: TLS cannot be set up here"))
            .hint("are the system's certificates installed (ca-certificates)?")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_of_a_url_is_a_secret() {
        let url = "https://user1234:hunter2@hooks.example.com:8443/services/T000/B%20secret?token=abcdefgh&x=1";
        let receiver = Receiver::new("webhooks.x", &Given::Literal(url.into()), [], None).unwrap();
        assert_eq!(receiver.shown(), "https://hooks.example.com:8443");
        let text = receiver.discreet("no /services/T000/B%20secret, B secret, hunter2, token=abcdefgh&x=1, abcdefgh, user1234 of x");
        assert_eq!(text, "no ***, ***, ***, ***, ***, *** of x");
    }

    #[test]
    fn what_travels_in_the_clear() {
        for (url, clear) in [
            ("https://x/", false),
            ("http://x/", true),
            ("http://127.0.0.1/", false),
            ("http://[::1]:1/", false),
            ("http://localhost/", false),
        ] {
            let receiver = Receiver::new("webhooks.x", &Given::Literal(url.into()), [], None).unwrap();
            assert_eq!(receiver.is_in_the_clear(), clear, "{url}");
        }
    }
}
