//! The way to an account of another host: a connection, its key held against known_hosts, a key of
//! ours, sftp.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use russh::client::{self, AuthResult};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{Algorithm, HashAlg, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{ChannelMsg, MethodSet, Preferred, cipher};
use russh_sftp::client::{Config as SftpConfig, RawSftpSession};
use tokio::net::TcpStream;

use super::known_hosts::{Known, Name, Verdict};
use super::session::{Failure, Session};
use crate::config::file;
use crate::error::{Error, Kind, Result, plain_io};
use crate::host::printable;

/// How long one address may take to answer, and then the handshake with all keys.
const CONNECT: Duration = Duration::from_secs(10);
const HANDSHAKE: Duration = Duration::from_secs(30);

/// A connection is given up when nothing came for so long, a question each time included.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVES_MAX: usize = 3;

/// Bytes that may come before we say that we have taken them: a line of 80 ms is filled at 100 MB/s.
const WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// The largest that the library allows, in bytes.
const PACKET_BYTES: u32 = 65_535;

/// Answers to a request are at most so long, in bytes.
const SFTP_PACKET_BYTES: u32 = 512 * 1024;

/// Keys of an agent that are tried; a server gives up at the sixth.
const AGENT_KEYS_MAX: usize = 6;

/// The variable by which an agent is found.
pub const AGENT: &str = "SSH_AUTH_SOCK";

/// Where the known hosts of a machine stand.
const KNOWN_HOSTS_OF_ALL: &str = "/etc/ssh/ssh_known_hosts";

/// An account of another host.
#[derive(Debug, Clone)]
pub struct Account {
    pub host: String,
    pub port: u16,
    user: Option<String>,
    identity: Option<PathBuf>,
    /// The socket of an agent, where there is no identity.
    agent: Option<PathBuf>,
    known_hosts: Option<PathBuf>,
}

/// Why there is no session.
pub struct Trouble {
    pub error: Error,
    /// Whether the next attempt may succeed: the way is broken, nobody was refused.
    pub may_pass: bool,
}

impl Trouble {
    fn passing(error: Error) -> Self {
        Trouble { error, may_pass: true }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble { error, may_pass: false }
    }
}

impl Account {
    pub fn of(at: &file::Ssh, agent: Option<PathBuf>) -> Self {
        Account {
            host: at.host.clone(),
            port: at.port.map_or(22, std::num::NonZeroU16::get),
            user: at.user.clone(),
            identity: at.identity.clone(),
            agent,
            known_hosts: at.known_hosts.clone(),
        }
    }

    fn name(&self) -> Name {
        Name::new(&self.host, self.port)
    }

    fn user(&self) -> Result<String> {
        let own = || nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name);
        self.user.clone().or_else(own).ok_or_else(|| {
            Error::new(Kind::Store, format!("no user for {}: the one that pgvigil runs as has no name", self.host))
                .hint("write user = \"pgvigil\" into ssh of the store")
        })
    }

    /// Opens a session.
    ///
    /// # Errors
    /// [`Trouble`], in words with what to do.
    pub async fn log_in(&self) -> Result<Session, Trouble> {
        let known = self.known()?;
        // All but RSA with SHA-1.
        let kinds = Preferred::DEFAULT.key.iter().filter(|kind| **kind != Algorithm::Rsa { hash: None });
        let kinds = known.order(kinds.cloned().collect());
        let stream = self.connect().await?;
        let config = client::Config {
            window_size: WINDOW_BYTES,
            maximum_packet_size: PACKET_BYTES,
            keepalive_interval: Some(KEEPALIVE),
            keepalive_max: KEEPALIVES_MAX,
            // Of a peer that takes no byte any more, keepalives are not sent either.
            inactivity_timeout: Some(KEEPALIVE * 6),
            preferred: Preferred { key: kinds.into(), cipher: CIPHERS.into(), ..Preferred::DEFAULT },
            ..client::Config::default()
        };
        let pinned = Pinned { known, host: self.name(), write_to: self.known_hosts_files().swap_remove(0) };
        let shaken = tokio::time::timeout(HANDSHAKE, async {
            let mut ssh = client::connect_stream(Arc::new(config), stream, pinned).await.map_err(|stop| self.stopped(stop))?;
            self.authenticate(&mut ssh).await?;
            self.begin_sftp(ssh).await
        });
        shaken.await.unwrap_or_else(|_| {
            Err(Trouble::passing(self.failed(&format!("no answer for {} s", HANDSHAKE.as_secs())).hint("look at sshd on that host")))
        })
    }

    fn failed(&self, why: &str) -> Error {
        Error::new(Kind::Store, format!("cannot reach {} by ssh: {why}", self.name().as_str()))
    }

    async fn connect(&self) -> Result<TcpStream, Trouble> {
        let found = tokio::time::timeout(CONNECT, tokio::net::lookup_host((self.host.as_str(), self.port))).await;
        let addresses: Vec<_> = match found {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
        let mut last = None;
        for address in addresses {
            match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Small requests, such as a rename, must not wait for company.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => last = Some(plain_io(&error)),
                Err(_) => last = Some(format!("no answer from {address} for {} s", CONNECT.as_secs())),
            }
        }
        let error = match last {
            Some(why) => {
                self.failed(&why).hint(format!("is the host up, does sshd listen on port {}, does a firewall let us through?", self.port))
            }
            None => self.failed("no such host is known").hint("look at the name of the host, and at DNS"),
        };
        Err(Trouble::passing(error))
    }

    /// The files of known hosts; the first one is where a new line belongs.
    fn known_hosts_files(&self) -> Vec<PathBuf> {
        if let Some(path) = &self.known_hosts {
            return vec![path.clone()];
        }
        let home = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.dir);
        home.into_iter().map(|home| home.join(".ssh/known_hosts")).chain([PathBuf::from(KNOWN_HOSTS_OF_ALL)]).collect()
    }

    fn known(&self) -> Result<Known> {
        let mut files = Vec::new();
        for path in self.known_hosts_files() {
            match std::fs::read_to_string(&path) {
                Ok(text) => files.push((path, text)),
                // The file of the configuration must be there; of the usual ones any may be missing.
                Err(error) if self.known_hosts.is_none() && error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    let error = Error::new(Kind::Store, format!("cannot read {}: {}", path.display(), plain_io(&error)));
                    return Err(error.hint(how_to_pin(&self.name(), &path, None)));
                }
            }
        }
        Known::of(&files, &self.name()).map_err(|place| {
            Error::new(Kind::Store, format!("{place}: a line revokes a key and cannot be read"))
                .hint("write it as ssh-keygen does, or remove it")
        })
    }

    fn stopped(&self, stop: Stop) -> Trouble {
        match stop {
            Stop::Key(error) => error.into(),
            Stop::Ssh(russh::Error::NoCommonAlgo { kind, theirs, .. }) => self
                .failed(&format!("no {kind:?} algorithm is known to both; that host has {}", printable(&theirs.join(", "))))
                .hint("its sshd is too old or too strict: look at HostKeyAlgorithms, KexAlgorithms, Ciphers and MACs there")
                .into(),
            Stop::Ssh(error) => Trouble::passing(
                self.failed(&format!("the connection broke while it was made: {error}"))
                    .hint("look at sshd on that host, and whether it is one"),
            ),
        }
    }

    async fn authenticate(&self, ssh: &mut client::Handle<Pinned>) -> Result<(), Trouble> {
        let user = self.user()?;
        let broke = |error: russh::Error| Trouble::passing(self.failed(&error.to_string()));
        let mut tried = Vec::new();
        if let Some(path) = &self.identity {
            let key = load(path)?;
            tried.push(format!("{} ({})", called(key.public_key()), path.display()));
            let hash = hash_for(ssh, &key.algorithm()).await.map_err(broke)?;
            let result = ssh.authenticate_publickey(user.as_str(), PrivateKeyWithHashAlg::new(Arc::new(key), hash)).await;
            if is_in(&result.map_err(broke)?).map_err(broke)? {
                return Ok(());
            }
        } else {
            let mut agent = self.agent(ssh).await?;
            let identities = agent.request_identities().await.map_err(|error| agent_failed(&error.to_string()))?;
            let keys = identities.into_iter().filter_map(|identity| match identity {
                AgentIdentity::PublicKey { key, .. } => Some(key),
                AgentIdentity::Certificate { .. } => None,
            });
            for key in keys.take(AGENT_KEYS_MAX) {
                tried.push(called(&key));
                let hash = hash_for(ssh, &key.algorithm()).await.map_err(broke)?;
                match ssh.authenticate_publickey_with(user.as_str(), key, hash, &mut agent).await {
                    Ok(result) if is_in(&result).map_err(broke)? => return Ok(()),
                    Ok(_) => {}
                    Err(error) => return Err(agent_failed(&error.to_string()).into()),
                }
            }
            if tried.is_empty() {
                return Err(agent_failed("it holds no key").into());
            }
        }
        let refused = format!("{} lets {user} not in with {}", self.name().as_str(), tried.join(", "));
        let hint = match &self.identity {
            Some(path) => format!(
                "add the line that `ssh-keygen -yf {}` prints to authorized_keys of {user} there; sshd's log on that host says why",
                path.display()
            ),
            None => format!("add the line of one that `ssh-add -L` prints to authorized_keys of {user} there, or set identity"),
        };
        Err(Error::new(Kind::Store, refused).hint(hint).into())
    }

    async fn agent(&self, ssh: &client::Handle<Pinned>) -> Result<AgentClient<tokio::net::UnixStream>, Trouble> {
        let Some(socket) = &self.agent else {
            return Err(Error::new(Kind::Secret, format!("no key for {}: neither identity nor {AGENT} is set", self.host))
                .hint("make one, ssh-keygen -t ed25519 -N '' -f FILE, and name it: identity = \"FILE\"")
                .into());
        };
        let mut agent = AgentClient::connect_uds(socket).await.map_err(|error| agent_failed(&error.to_string()))?;
        // Keys may be bound to hosts; an agent that knows nothing of it has none such.
        if let Some(binding) = ssh.agent_session_binding() {
            let _ = agent.bind_session(binding, false).await;
        }
        Ok(agent)
    }

    async fn begin_sftp(&self, ssh: client::Handle<Pinned>) -> Result<Session, Trouble> {
        let broke = |why: &str| {
            Trouble::passing(self.failed(&format!("it lets us in, but sftp does not begin: {why}")).hint(
                "the account must be one for sftp: `Subsystem sftp internal-sftp` in sshd_config, and nothing that its shell prints (docs/stores-ssh.md)",
            ))
        };
        let mut channel = ssh.channel_open_session().await.map_err(|error| broke(&error.to_string()))?;
        channel.request_subsystem(true, "sftp").await.map_err(|error| broke(&error.to_string()))?;
        loop {
            match channel.wait().await {
                Some(ChannelMsg::Success) => break,
                Some(ChannelMsg::Failure) => return Err(Trouble { may_pass: false, ..broke("there is no such subsystem") }),
                Some(_) => {}
                None => return Err(broke("the connection broke")),
            }
        }
        let config = SftpConfig {
            max_packet_len: SFTP_PACKET_BYTES,
            // Each request has a time of its own, which is shorter.
            request_timeout_secs: 24 * 60 * 60,
            ..SftpConfig::default()
        };
        let sftp = RawSftpSession::new_with_config(channel.into_stream(), config);
        Session::begin(sftp, ssh).await.map_err(|failure| match failure {
            Failure::Lost(why) => broke(&why),
            Failure::Refused(refused) => broke(&refused.message),
        })
    }
}

/// Ciphers in the order in which processors are fast at them; all are sound.
const CIPHERS: &[cipher::Name] =
    &[cipher::AES_128_GCM, cipher::AES_256_GCM, cipher::CHACHA20_POLY1305, cipher::AES_256_CTR, cipher::AES_192_CTR, cipher::AES_128_CTR];

/// The hash that a signature by RSA is made with; never SHA-1.
async fn hash_for(ssh: &client::Handle<Pinned>, kind: &Algorithm) -> Result<Option<HashAlg>, russh::Error> {
    if !matches!(kind, Algorithm::Rsa { .. }) {
        return Ok(None);
    }
    Ok(ssh.best_supported_rsa_hash().await?.flatten().or(Some(HashAlg::Sha256)))
}

/// Whether we are let in. The library says of a connection that broke that no way in is left.
fn is_in(result: &AuthResult) -> Result<bool, russh::Error> {
    match result {
        AuthResult::Success => Ok(true),
        AuthResult::Failure { remaining_methods, .. } if *remaining_methods == MethodSet::empty() => Err(russh::Error::HUP),
        AuthResult::Failure { .. } => Ok(false),
    }
}

fn agent_failed(why: &str) -> Error {
    Error::new(Kind::Secret, format!("the ssh agent of {AGENT}: {why}")).hint("ssh-add KEY, or set identity in ssh of the store")
}

/// Reads a private key.
fn load(path: &Path) -> Result<russh::keys::PrivateKey> {
    let failed = |why: &str| Error::new(Kind::Secret, format!("identity {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| {
        failed(&plain_io(&error)).hint("the user that pgvigil runs as must own it, mode 0600; ssh-keygen -t ed25519 makes one")
    })?;
    russh::keys::decode_secret_key(&text, None).map_err(|error| match error {
        russh::keys::Error::KeyIsEncrypted => failed("it has a passphrase, and nobody is there to type it").hint(format!(
            "make one without for this purpose, ssh-keygen -t ed25519 -N '' -f FILE; or give this one to an agent, ssh-add {}, and leave identity out",
            path.display()
        )),
        error => failed(&format!("no private key that can be read: {error}")).hint("ssh-keygen -t ed25519 -N '' -f FILE makes one"),
    })
}

/// A key as ssh names it.
fn called(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm(), key.fingerprint(HashAlg::Sha256))
}

fn how_to_pin(host: &Name, file: &Path, shown: Option<&PublicKey>) -> String {
    let (name, port) = host.parts();
    let kind = shown.map_or("ed25519", |key| match key.algorithm() {
        Algorithm::Rsa { .. } => "rsa",
        Algorithm::Ecdsa { .. } => "ecdsa",
        _ => "ed25519",
    });
    format!(
        "see on that host itself that it is its own: ssh-keygen -lf /etc/ssh/ssh_host_{kind}_key.pub; then: ssh-keyscan -t {kind} -p {port} {name} >> {}",
        file.display()
    )
}

/// Why a handshake ended.
pub enum Stop {
    Key(Error),
    Ssh(russh::Error),
}

impl From<russh::Error> for Stop {
    fn from(error: russh::Error) -> Self {
        Stop::Ssh(error)
    }
}

impl std::fmt::Debug for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stop::Key(error) => error.fmt(f),
            Stop::Ssh(error) => std::fmt::Display::fmt(error, f),
        }
    }
}

/// Holds the key of the host against what is known.
pub struct Pinned {
    known: Known,
    host: Name,
    /// Where a new line belongs.
    write_to: PathBuf,
}

impl client::Handler for Pinned {
    type Error = Stop;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Stop> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else {
            return Ok(false);
        };
        let (host, file) = (self.host.as_str(), self.write_to.display());
        let refused = |why: String| Stop::Key(Error::new(Kind::Refused, why));
        match self.known.judge(key) {
            Verdict::Known => Ok(true),
            Verdict::Unknown => {
                Err(Stop::Key(Error::new(Kind::Refused, format!("the host key of {host} is not known: {}", called(key))).hint(how_to_pin(
                    &self.host,
                    &self.write_to,
                    Some(key),
                ))))
            }
            Verdict::Changed(places) => {
                let why = format!("the host key of {host} is not the one of {}: {}", places.join(", "), called(key));
                Err(Stop::Key(Error::new(Kind::Refused, why).hint(format!(
                    "somebody may stand in between. If the host was set up anew: ssh-keygen -R {host} -f {file}; {}",
                    how_to_pin(&self.host, &self.write_to, Some(key))
                ))))
            }
            Verdict::Revoked(place) => Err(refused(format!("the host key of {host} is revoked by {place}: {}", called(key)))),
        }
    }
}
