//! Requests to a bucket: signed, watched, and asked again where that may help.

use std::error::Error as _;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::RETRY_AFTER;
use reqwest::{Certificate, Client, Method, Response, redirect};

use super::answers::{Failure, Refusal};
use super::payload::Payload;
use crate::error::{Error, Kind, Result, plain_io};
use crate::host::clock;

/// All but the unreserved of RFC 3986, and what parts the folders of a key.
const IN_PATH: &AsciiSet = &IN_QUERY.remove(b'/');
const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How much of an answer is read, in bytes. A page of a listing has half a megabyte.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How much of an object that is read as a whole: the largest segment of the log, and what packing adds where it
/// cannot pack.
const OBJECT_BYTES_MAX: usize = (1 << 30) + (1 << 25);

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// How often a server is tried that has not given one answer yet: who looks at a store that is down
/// must not wait for it as a dump would.
const TRIES_OF_A_STRANGER: u32 = 3;

/// How long and how often something is tried.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pub tries: u32,
    /// The first pause, which doubles each time.
    pub pause: Duration,
    pub pause_max: Duration,
    /// Nothing moved for so long: the try has failed.
    pub stall: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { tries: 9, pause: Duration::from_millis(250), pause_max: Duration::from_secs(20), stall: Duration::from_secs(60) }
    }
}

impl Patience {
    /// The pause after the n-th try, counted from 1: between half and all of what doubles each time,
    /// so that many who were refused together do not come back together.
    pub fn pause_after(self, tries: u32, asked: Option<Duration>, random: u64) -> Duration {
        let whole = self.pause.saturating_mul(1 << (tries - 1).min(20)).min(self.pause_max);
        let half = whole / 2;
        let jitter = half.mul_f64(f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX));
        (half + jitter).max(asked.unwrap_or_default().min(self.pause_max))
    }
}

/// A request. What it is about is a key of the bucket; empty: the bucket itself.
#[derive(Debug, Clone)]
pub struct Ask {
    method: Method,
    key: String,
    query: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
    payload: Payload,
    /// The answer may take so many times the patience.
    slowly: u32,
}

impl Ask {
    pub fn new(method: Method, key: &str) -> Self {
        Ask { method, key: key.to_owned(), query: Vec::new(), headers: Vec::new(), payload: Payload::of(Vec::new()), slowly: 1 }
    }

    pub fn get(key: &str) -> Self {
        Ask::new(Method::GET, key)
    }

    #[must_use]
    pub fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    #[must_use]
    pub fn headers(mut self, headers: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        self.headers.extend(headers);
        self
    }

    /// The server has much to do before it answers.
    #[must_use]
    pub fn slowly(mut self) -> Self {
        self.slowly = 10;
        self
    }

    #[must_use]
    pub fn payload(mut self, payload: Payload) -> Self {
        self.payload = payload;
        self
    }
}

/// Where a bucket is.
#[derive(Debug, Clone)]
pub struct Address {
    /// Scheme, host, port and what stands before the keys; without a slash at its end.
    pub base: String,
    pub bucket: String,
    pub region: String,
}

/// A bucket that can be asked.
pub struct Bucket {
    client: Client,
    address: Address,
    credentials: Credentials,
    patience: Patience,
    /// The section of the file, for hints.
    section: String,
    /// It has given an answer, whichever.
    is_known: AtomicBool,
}

impl Bucket {
    /// Prepares the way to a bucket; nothing is sent yet.
    ///
    /// # Errors
    /// The certificates are not to be had.
    pub fn new(section: String, address: Address, credentials: Credentials, ca_file: Option<&Path>, patience: Patience) -> Result<Self> {
        // Once for the whole process.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            // What is signed is for one host.
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT.min(patience.stall))
            .user_agent(concat!("pgvigil/", env!("CARGO_PKG_VERSION")));
        // Not every system knows the names below localhost.
        #[cfg(test)]
        {
            builder = builder.resolve("pgvigil.localhost", ([127, 0, 0, 1], 0).into());
        }
        if let Some(path) = ca_file {
            let unusable = |why: &str| {
                Error::new(Kind::Store, format!("{section}.s3.ca_file: {}: {why}", path.display()))
                    .hint("it must hold the certificates of the authority, in PEM")
            };
            let pem = std::fs::read(path).map_err(|error| unusable(&plain_io(&error)))?;
            let certificates = Certificate::from_pem_bundle(&pem).map_err(|_| unusable("what stands in it is no certificate"))?;
            if certificates.is_empty() {
                return Err(unusable("no certificate stands in it"));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        let client = builder.build().map_err(|_| {
            Error::new(Kind::System, format!("{section}: TLS cannot be set up here"))
                .hint("are the system's certificates installed (ca-certificates)?")
        })?;
        Ok(Bucket { client, address, credentials, patience, section, is_known: AtomicBool::new(false) })
    }

    pub fn patience(&self) -> Patience {
        self.patience
    }

    /// A key as people write it.
    pub fn place(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.address.bucket)
    }

    /// A failure in the words of a person.
    pub fn error(&self, doing: &str, key: &str, failure: &Failure) -> Error {
        failure.error(doing, &self.place(key), &self.section)
    }

    /// Asks until there is an answer that is meant; its body is still to come.
    ///
    /// # Errors
    /// The server refuses, or does not answer.
    pub async fn ask(&self, ask: &Ask) -> Result<Response, Failure> {
        self.insist(|| self.once(ask)).await
    }

    /// The same, with the whole body as text.
    ///
    /// # Errors
    /// The server refuses, or does not answer.
    pub async fn text(&self, ask: &Ask) -> Result<String, Failure> {
        let text = |body: Vec<u8>| String::from_utf8(body).map_err(|_| Failure::NoAnswer("what it answers is no text".to_owned()));
        self.insist(|| async {
            let text = text(self.collect(self.once(ask).await?, ANSWER_BYTES_MAX).await?)?;
            match Failure::in_body(&text) {
                Some(failure) => Err(failure),
                None => Ok(text),
            }
        })
        .await
    }

    /// An object, as a whole.
    ///
    /// # Errors
    /// The server refuses, or does not answer.
    pub async fn bytes(&self, ask: &Ask) -> Result<Vec<u8>, Failure> {
        self.insist(|| async { self.collect(self.once(ask).await?, OBJECT_BYTES_MAX).await }).await
    }

    async fn insist<T, F: Future<Output = Result<T, Failure>>>(&self, mut once: impl FnMut() -> F) -> Result<T, Failure> {
        let mut tries = 0;
        loop {
            let failure = match once().await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            tries += 1;
            let tries_max = if self.is_known.load(Ordering::Relaxed) { self.patience.tries } else { TRIES_OF_A_STRANGER };
            if tries >= tries_max || !failure.may_pass() {
                return Err(failure);
            }
            let pause = self.patience.pause_after(tries, failure.pause(), random());
            tracing::debug!(store = %self.section, tries, pause_ms = pause.as_millis(), ?failure, "a request failed, and is sent again");
            tokio::time::sleep(pause).await;
        }
    }

    /// One try.
    ///
    /// # Errors
    /// The server refuses, or does not answer.
    pub async fn once(&self, ask: &Ask) -> Result<Response, Failure> {
        let sent = Arc::new(AtomicU64::new(0));
        let mut request =
            self.client.request(ask.method.clone(), self.url(ask)).body(reqwest::Body::wrap(ask.payload.body(Arc::clone(&sent))));
        for (name, value) in self.signed(ask)? {
            request = request.header(name, value);
        }
        let mut sending = Box::pin(request.send());
        let mut seen = 0;
        let response = loop {
            tokio::select! {
                answered = &mut sending => break answered.map_err(|error| no_answer(&error))?,
                () = tokio::time::sleep(self.patience.stall * ask.slowly) => {
                    let now = sent.load(Ordering::Relaxed);
                    if now == seen {
                        return Err(self.stalled());
                    }
                    seen = now;
                }
            }
        };
        self.is_known.store(true, Ordering::Relaxed);
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let region = header("x-amz-bucket-region");
        let pause = header(RETRY_AFTER.as_str()).and_then(|secs| secs.parse().ok()).map(Duration::from_secs);
        // Whatever comes of it: the status has said enough.
        let body = self.collect(response, ANSWER_BYTES_MAX).await.unwrap_or_default();
        Err(Failure::Refused(Refusal::new(status.as_u16(), &String::from_utf8_lossy(&body), region, pause)))
    }

    /// The next bytes of an answer; `None`: its end.
    ///
    /// # Errors
    /// It was cut, or nothing comes any more.
    pub async fn next(&self, response: &mut Response) -> Result<Option<bytes::Bytes>, Failure> {
        match tokio::time::timeout(self.patience.stall, response.chunk()).await {
            Ok(chunk) => chunk.map_err(|error| no_answer(&error)),
            Err(_) => Err(self.stalled()),
        }
    }

    fn stalled(&self) -> Failure {
        Failure::NoAnswer(format!("nothing moved for {} s", self.patience.stall.as_secs_f64()))
    }

    async fn collect(&self, mut response: Response, bytes_max: usize) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = self.next(&mut response).await? {
            body.extend_from_slice(&chunk);
            if body.len() > bytes_max {
                return Err(Failure::NoTrust("it answers more than can be meant".to_owned()));
            }
        }
        Ok(body)
    }

    fn url(&self, ask: &Ask) -> String {
        let mut url = format!("{}/{}", self.address.base, utf8_percent_encode(&ask.key, IN_PATH));
        for (at, (name, value)) in ask.query.iter().enumerate() {
            url.push(if at == 0 { '?' } else { '&' });
            url.push_str(&format!("{name}={}", utf8_percent_encode(value, IN_QUERY)));
        }
        url
    }

    /// The headers of a request, with its signature.
    fn signed(&self, ask: &Ask) -> Result<Vec<(String, String)>, Failure> {
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let unsigned = |error: &dyn std::fmt::Display| Failure::NoTrust(format!("the request cannot be signed: {error}"));
        let identity = self.credentials.clone().into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.address.region)
            .name("s3")
            .time(clock::now().into())
            .settings(settings)
            .build()
            .map_err(|error| unsigned(&error))?
            .into();
        let headers = ask.headers.iter().map(|(name, value)| (*name, value.as_str()));
        let body = SignableBody::Precomputed(crate::pack::packer::hex(&ask.payload.sha256));
        let request = SignableRequest::new(ask.method.as_str(), self.url(ask), headers, body).map_err(|error| unsigned(&error))?;
        let (signature, _) = sign(request, &params).map_err(|error| unsigned(&error))?.into_parts();
        let signature = signature.headers().map(|(name, value)| (name.to_owned(), value.to_owned()));
        Ok(ask.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).chain(signature).collect())
    }
}

/// Why no answer came, in the innermost words: the outermost hold the URL.
fn no_answer(error: &reqwest::Error) -> Failure {
    let mut innermost: &(dyn std::error::Error + 'static) = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let why = match innermost.downcast_ref::<std::io::Error>() {
        Some(error) => plain_io(error),
        None if error.source().is_none() => "it cannot be asked".to_owned(),
        None => innermost.to_string(),
    };
    let why = crate::host::printable(&why).replace('\n', " ");
    if why.contains("certificate") || error.is_builder() { Failure::NoTrust(why) } else { Failure::NoAnswer(why) }
}

/// 64 random bits, for pauses.
fn random() -> u64 {
    std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_are_bounded() {
        let patience = Patience::default();
        let millis = |tries, asked: Option<u64>, random| patience.pause_after(tries, asked.map(Duration::from_secs), random).as_millis();
        assert_eq!((millis(1, None, 0), millis(1, None, u64::MAX)), (125, 250));
        assert_eq!((millis(4, None, 0), millis(4, None, u64::MAX)), (1_000, 2_000));
        assert_eq!(millis(40, None, u64::MAX), 20_000);
        // A server may ask for more, but not for the night.
        assert_eq!((millis(1, Some(3), 0), millis(1, Some(86_400), 0)), (3_000, 20_000));
    }

    #[test]
    fn names_are_encoded_once() {
        let address = Address { base: "http://h/b".into(), bucket: "b".into(), region: "r".into() };
        let credentials = Credentials::new("k", "s", None, None, "file");
        let bucket = Bucket::new("stores.x".into(), address, credentials, None, Patience::default()).unwrap();
        let ask = Ask::get("p/a%20b c+d/é~").query("prefix", "a/b c").query("list-type", "2");
        assert_eq!(bucket.url(&ask), "http://h/b/p/a%2520b%20c%2Bd/%C3%A9~?prefix=a%2Fb%20c&list-type=2");
        assert_eq!(bucket.place("p/x"), "s3://b/p/x");
    }
}
