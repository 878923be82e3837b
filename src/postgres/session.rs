//! A conversation with a server through one `psql`: what is asked next may depend on what came, and
//! a transaction stays open in between.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::quote::conninfo;
use super::server::{Server, explain};
use crate::error::{Error, Kind, Result};
use crate::host::{Process, Tag};

/// A `psql` that waits for the next question. Its first error ends it.
pub struct Session {
    process: Process,
    stdin: Box<dyn tokio::io::AsyncWrite + Send + Unpin>,
    stdout: BufReader<Box<dyn tokio::io::AsyncRead + Send + Unpin>>,
    /// Comes behind every answer. Nothing in a database can know it.
    mark: String,
}

impl Session {
    /// Starts a `psql` on a database. Whether it could connect shows with the first answer.
    ///
    /// # Errors
    /// There is no psql, or the Engine refuses.
    pub async fn open(server: &Server, database: &str) -> Result<Self> {
        let args = ["-X", "-w", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", &conninfo(database), "-f", "-"];
        let mut call = server.call("psql", args.map(str::to_owned).to_vec());
        call.env.push(("PGCLIENTENCODING".to_owned(), "UTF8".to_owned()));
        call.stdin = true;
        let mut process = server.host().start(call).await?;
        let stdin = process.stdin.take().ok_or_else(|| Error::new(Kind::System, "psql has no input"))?;
        let stdout = std::mem::replace(&mut process.stdout, Box::new(tokio::io::empty()));
        Ok(Session { process, stdin, stdout: BufReader::with_capacity(64 * 1024, stdout), mark: Tag::random().as_str().to_owned() })
    }

    /// Sends bytes of statements, or of rows behind a `COPY ... FROM stdin`, without waiting for an
    /// answer. A psql that has ended takes no more: [`Session::answer`] says why.
    ///
    /// # Errors
    /// It takes no more.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), std::io::Error> {
        self.stdin.write_all(bytes).await
    }

    /// Waits until the psql ends by itself, where it was asked nothing yet: then something that was
    /// sent has failed.
    pub async fn failed(&mut self) {
        let _ = self.stdout.fill_buf().await;
    }

    /// Waits until all that was sent is done, and returns what it printed.
    ///
    /// # Errors
    /// One of the statements failed; the psql has ended.
    pub async fn answer(&mut self) -> Result<String> {
        let mut answer = Vec::new();
        self.answer_into(&mut |line| {
            answer.extend_from_slice(line);
            true
        })
        .await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// The same, line by line with their ends, for answers of any length; `false` ends the session.
    ///
    /// # Errors
    /// One of the statements failed, or nobody wants more; the psql has ended.
    pub async fn answer_into(&mut self, heard: &mut (dyn FnMut(&[u8]) -> bool + Send)) -> Result<()> {
        let question = format!("SELECT '{}';\n", self.mark);
        let _ = self.stdin.write_all(question.as_bytes()).await;
        let _ = self.stdin.flush().await;
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = self.stdout.read_until(b'\n', &mut line).await;
            match read {
                Ok(1..) => {}
                Ok(0) => return Err(self.ended().await),
                Err(error) => return Err(Error::new(Kind::Postgres, format!("lost the answer of psql: {error}"))),
            }
            if line.strip_suffix(b"\n") == Some(self.mark.as_bytes()) {
                return Ok(());
            }
            if !heard(&line) {
                let _ = self.process.running.stop().await;
                return Err(Error::new(Kind::Cancelled, "nobody wants more of the answer"));
            }
        }
    }

    /// Asks one question, of one statement without its semicolon, and returns what it printed.
    ///
    /// # Errors
    /// It failed; the psql has ended.
    pub async fn ask(&mut self, sql: &str) -> Result<String> {
        let _ = self.send(format!("{sql};\n").as_bytes()).await;
        self.answer().await
    }

    /// Asks one question, whose answer is one JSON document.
    ///
    /// # Errors
    /// It failed, or what came is no such document.
    pub async fn query<T: serde::de::DeserializeOwned>(&mut self, sql: &str) -> Result<T> {
        let text = self.ask(sql).await?;
        serde_json::from_str(text.trim())
            .map_err(|error| Error::new(Kind::Postgres, format!("psql gave no answer that can be read: {error}")))
    }

    /// Ends it in good order.
    ///
    /// # Errors
    /// It did not end well.
    pub async fn close(mut self) -> Result<()> {
        let _ = self.stdin.shutdown().await;
        drop(self.stdin);
        let exit = self.process.running.wait().await?;
        if exit.is_success() { Ok(()) } else { Err(explain("psql", exit, &self.process.stderr.text())) }
    }

    /// Ends it at once.
    ///
    /// # Errors
    /// It may still run.
    pub async fn stop(mut self) -> Result<()> {
        self.process.running.stop().await
    }

    /// What psql has said on stderr so far.
    pub fn stderr(&self) -> String {
        self.process.stderr.text()
    }

    /// Why it has ended by itself.
    async fn ended(&mut self) -> Error {
        match self.process.running.wait().await {
            Ok(exit) => explain("psql", exit, &self.process.stderr.text()),
            Err(error) => error,
        }
    }
}
