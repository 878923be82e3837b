//! The edge to the outside: processes here and in containers, secrets, signals, the clock.

pub mod arrivals;
pub mod clock;
pub mod containers;
pub mod detached;
pub mod disk;
pub mod docker;
pub mod journal;
pub mod labelled;
pub mod local;
pub mod memory;
pub mod notify;
pub mod openings;
pub mod owner;
pub mod pipe;
pub mod program;
pub mod removal;
pub mod secret;
pub mod signals;
pub mod spool;
pub mod strays;
pub mod unit;
pub mod writeback;

use std::collections::VecDeque;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::Notify;

use crate::error::{Error, Kind, Result};
use secret::Secret;

/// How much of a program's stderr is kept, in bytes: its end says why it failed.
const STDERR_BYTES_MAX: usize = 16 * 1024;

/// A call of one of PostgreSQL's own programs.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its plain name, such as `pg_dump`; the host knows where it is.
    pub program: &'static str,
    pub args: Vec<String>,
    /// libpq's variables: where and as whom to connect.
    pub env: Vec<(String, String)>,
    /// Never in an argument: here in a file that only the process has, in a container in the
    /// environment of the exec.
    pub password: Option<Secret>,
    /// `application_name` of its sessions, and the mark by which its processes are found again.
    pub tag: Tag,
    /// Whether it reads from us.
    pub stdin: bool,
    /// All that it reads, where that is known before it starts. Whoever starts it hands it over.
    pub input: Option<bytes::Bytes>,
}

/// The mark of one run on everything that it starts, unique to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag(String);

impl Tag {
    /// A new mark, of 64 random bits.
    pub fn random() -> Self {
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
        Tag(format!("pgvigil_{random:016x}"))
    }

    /// A mark that was written down; refuses what none of ours could be.
    pub fn parse(text: &str) -> Option<Self> {
        let random = text.strip_prefix("pgvigil_")?;
        (random.len() == 16 && random.bytes().all(|b| b.is_ascii_hexdigit())).then(|| Tag(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part that differs, for names.
    pub fn random_part(&self) -> &str {
        self.0.trim_start_matches("pgvigil_")
    }
}

/// Where PostgreSQL's programs run.
#[async_trait]
pub trait Host: Send + Sync {
    /// Starts a program.
    ///
    /// # Errors
    /// It is not there, or the Engine refuses. A program that starts and fails says so by its exit.
    async fn start(&self, call: Call) -> Result<Process>;

    /// Ends every process that carries the mark, and returns how many there were.
    ///
    /// # Errors
    /// The host does not answer, or a process would not end.
    async fn end_tagged(&self, tag: &Tag) -> Result<usize>;

    /// A pipe that the server beside these programs can read by its name; `None`: there is none.
    ///
    /// # Errors
    /// It cannot be made.
    fn pipe(&self) -> Result<Option<pipe::Pipe>> {
        Ok(None)
    }
}

/// A program that runs. It must come to an end by [`Process::wait`] or [`Process::stop`].
pub struct Process {
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    pub stderr: Tail,
    pub running: Box<dyn Running>,
}

/// What a program left that ran to its end.
pub struct Ended {
    pub exit: Exit,
    /// The beginning of its stdout.
    pub said: Vec<u8>,
    pub stderr: String,
}

/// What is kept of the words of a program, in bytes.
const SAID_BYTES_MAX: u64 = 64 * 1024;

impl Process {
    /// Lets one run to its end that has only a few words to say.
    ///
    /// # Errors
    /// How it ended cannot be known.
    pub async fn ended(&mut self) -> Result<Ended> {
        let mut said = Vec::new();
        // What is lost on the way its exit status tells.
        let _ = (&mut self.stdout).take(SAID_BYTES_MAX).read_to_end(&mut said).await;
        let _ = tokio::io::copy(&mut self.stdout, &mut tokio::io::sink()).await;
        let exit = self.running.wait().await?;
        Ok(Ended { exit, said, stderr: self.stderr.text() })
    }
}

/// The handle on a running program.
#[async_trait]
pub trait Running: Send {
    /// Waits for the end, after stdout has ended.
    ///
    /// # Errors
    /// How it ended cannot be known.
    async fn wait(&mut self) -> Result<Exit>;

    /// Ends it for certain, with all that it started.
    ///
    /// # Errors
    /// It may still run.
    async fn stop(&mut self) -> Result<()>;
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

impl Exit {
    pub fn is_success(self) -> bool {
        self == Exit::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit status {code}"),
            Exit::Signal(signal) => write!(f, "killed by signal {signal}"),
        }
    }
}

/// The last bytes that a program wrote to stderr.
#[derive(Debug, Clone, Default)]
pub struct Tail(Arc<Written>);

#[derive(Debug, Default)]
struct Written {
    bytes: Mutex<VecDeque<u8>>,
    more: Notify,
}

impl Tail {
    pub fn push(&self, bytes: &[u8]) {
        let mut tail = self.0.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend(bytes);
        let excess = tail.len().saturating_sub(STDERR_BYTES_MAX);
        tail.drain(..excess);
        self.0.more.notify_waiters();
    }

    /// The text so far, without control characters that would upset a terminal.
    pub fn text(&self) -> String {
        let mut tail = self.0.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        printable(&String::from_utf8_lossy(tail.make_contiguous()))
    }

    /// Waits until the program has written these words.
    pub async fn until(&self, words: &str) {
        loop {
            let mut more = pin!(self.0.more.notified());
            // Before the look, or what comes between look and wait would be missed.
            more.as_mut().enable();
            if self.text().contains(words) {
                return;
            }
            more.await;
        }
    }
}

/// The Engine says on stdout that it could not run a program. Anything else there is the program's
/// own output, which may be rows of the user and belongs into no error.
pub fn words_of_the_engine(stdout: &[u8]) -> Option<String> {
    let first = [b"OCI runtime exec failed".as_slice(), b"exec failed", b"rpc error"];
    let short = &stdout[..stdout.len().min(512)];
    first.iter().any(|words| short.starts_with(words)).then(|| printable(&String::from_utf8_lossy(short)))
}

/// Text from outside, fit for a terminal, a log or a mail.
pub fn printable(text: &str) -> String {
    text.trim_end().chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// The failure of a program, with the end of its stderr.
pub fn failed(kind: Kind, program: &str, exit: Exit, stderr: &str) -> Error {
    let tail: Vec<&str> = stderr.lines().rev().take(20).collect();
    let mut message = format!("{program} failed with {exit}");
    if exit == Exit::Signal(9) || exit == Exit::Code(137) {
        message = format!("{program} was killed ({exit})");
    }
    for line in tail.iter().rev() {
        message.push_str("\n  ");
        message.push_str(line);
    }
    Error::new(kind, message)
}
