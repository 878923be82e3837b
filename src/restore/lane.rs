//! One place where statements of a dump are run, one after the other. A failed statement costs its
//! `psql`; the next one begins a new `psql` that stands where the dump stood.

use bytes::Bytes;

use super::contain::{is_delicate, knows_restrict};
use super::failures::words;
use super::settings::Settings;
use super::split::Copy;
use super::stall::Pulse;
use crate::error::{Error, Result};
use crate::host::Tag;
use crate::host::pipe::Pipe;
use crate::postgres::Server;
use crate::postgres::quote::literal;
use crate::postgres::session::Session;

/// How the statement of a `COPY` ends whose rows come through its session.
const FROM_SESSION: &[u8] = b"stdin;";

/// Where the lanes lead.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub server: &'a Server,
    pub database: &'a str,
    /// Nobody else sees the database: what it has not flushed yet nobody misses.
    pub is_fresh: bool,
    pub pulse: &'a Pulse,
}

/// What became of statements: the inner error has the server's words.
pub type Done = Result<Result<(), String>>;

pub struct Lane<'a> {
    target: Target<'a>,
    session: Option<Session>,
    /// The settings that the session has.
    version: u64,
    /// The way of the rows of the `COPY` under way, where it is not the session.
    pipe: Option<Pipe>,
}

impl<'a> Lane<'a> {
    pub fn new(target: Target<'a>) -> Self {
        Lane { target, session: None, version: 0, pipe: None }
    }

    /// Begins a `psql` if there is none, and gives it the settings.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn ready(&mut self, settings: &Settings) -> Result<()> {
        if self.session.is_some() && self.version == settings.version() {
            return Ok(());
        }
        let mut text = Vec::new();
        let mut session = if let Some(session) = self.session.take() {
            session
        } else {
            let server = self.target.server;
            // No text of a dump makes this psql run a program, whatever it manages to hide.
            if knows_restrict(&server.client_version) {
                text.extend_from_slice(format!("\\restrict {}\n", Tag::random().as_str().replace('_', "")).as_bytes());
            }
            if self.target.is_fresh {
                text.extend_from_slice(b"SET synchronous_commit = off;\n");
            }
            Session::open(server, self.target.database).await?
        };
        text.extend_from_slice(&settings.replay());
        let _ = session.send(&text).await;
        session.answer().await.map_err(|error| error.context("cannot go on restoring"))?;
        (self.session, self.version) = (Some(session), settings.version());
        Ok(())
    }

    /// Runs statements, with what stands around them. Settings among them are the caller's to note.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn run(&mut self, settings: &Settings, before: &str, statements: &[Bytes], after: &str) -> Done {
        self.ready(settings).await?;
        if statements.iter().any(|statement| is_delicate(statement))
            && let Err(words) = self.reassure(settings).await?
        {
            return Ok(Err(words));
        }
        let mut text = Vec::with_capacity(statements.iter().map(|statement| statement.len() + 1).sum::<usize>() + 64);
        text.extend_from_slice(before.as_bytes());
        for statement in statements {
            text.extend_from_slice(statement);
            text.push(b'\n');
        }
        text.extend_from_slice(after.as_bytes());
        self.send(&text).await;
        self.answer().await
    }

    /// Makes sure that this `psql` reads a text as we read it: no function of the dump may have
    /// changed the settings by which it does.
    async fn reassure(&mut self, settings: &Settings) -> Done {
        self.send(&settings.reading()).await;
        self.answer().await
    }

    /// Begins a `COPY`, whose rows follow by [`Lane::send`]. Where more of them follow than a pipe
    /// holds (`many`), the server may read them by itself.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn begin_copy(&mut self, settings: &Settings, copy: &Copy, many: bool) -> Done {
        self.ready(settings).await?;
        if is_delicate(&copy.statement)
            && let Err(words) = self.reassure(settings).await?
        {
            return Ok(Err(words));
        }
        let mut text = [&copy.statement[..], b"\n"].concat();
        let mut pipe = None;
        if many
            && let Some(statement) = copy.statement.strip_suffix(FROM_SESSION)
            && let Some(made) = self.target.server.host().pipe()?
        {
            match self.may_read_files().await? {
                Err(words) => return Ok(Err(words)),
                Ok(false) => {}
                Ok(true) => {
                    text = [statement, literal(&made.name()).as_bytes(), b";\n"].concat();
                    pipe = Some(made);
                }
            }
        }
        self.send(&text).await;
        self.pipe = pipe;
        Ok(Ok(()))
    }

    /// Whether the role that the dump has chosen may name a file to the server.
    async fn may_read_files(&mut self) -> Result<Result<bool, String>> {
        self.send(b"SELECT pg_catalog.current_setting('is_superuser');\n").await;
        let mut is_superuser = false;
        let answered = self.answer_into(&mut |line| is_superuser = line == b"on\n").await?;
        Ok(answered.map(|()| is_superuser))
    }

    /// Sends bytes; false if they are taken no more.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        let Some(session) = &mut self.session else {
            return false;
        };
        let sent = match &mut self.pipe {
            None => session.send(bytes).await.is_ok(),
            Some(pipe) => tokio::select! {
                written = pipe.write(bytes) => written.is_ok(),
                () = session.failed() => false,
            },
        };
        self.target.pulse.beat();
        sent
    }

    /// Behind the last row.
    pub async fn end_copy(&mut self) {
        if self.pipe.take().is_none() {
            self.send(b"\\.\n").await;
        }
    }

    /// Waits until all that was sent is done.
    ///
    /// # Errors
    /// There are no words of the server: it is gone, or `psql` is.
    pub async fn answer(&mut self) -> Done {
        // What the dump's own questions answer is of no interest, and may be long.
        self.answer_into(&mut |_| {}).await
    }

    async fn answer_into(&mut self, heard: &mut (dyn FnMut(&[u8]) + Send)) -> Done {
        self.pipe = None;
        let Some(session) = &mut self.session else {
            return Ok(Err("the session has ended".to_owned()));
        };
        let answered = session
            .answer_into(&mut |line| {
                heard(line);
                true
            })
            .await;
        self.target.pulse.beat();
        let Err(error) = answered else {
            return Ok(Ok(()));
        };
        let stderr = session.stderr();
        self.session = None;
        match words(&stderr) {
            Some(words) => Ok(Err(words)),
            None => Err(Error { message: format!("lost the session that restores: {}", error.message), ..error }),
        }
    }

    /// Whether there is a session.
    pub fn is_open(&self) -> bool {
        self.session.is_some()
    }

    /// Takes over the settings that were just run here.
    pub fn has(&mut self, settings: &Settings) {
        self.version = settings.version();
    }

    /// Ends it in good order.
    pub async fn close(&mut self) {
        if let Some(session) = self.session.take() {
            let _ = session.close().await;
        }
    }
}
