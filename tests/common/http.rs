//! A real HTTP server (`tests/support/http-server`), and what it was sent.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::common::daemon::until;

/// An HTTP server of a test's own; it ends with this.
pub struct Http {
    child: Child,
    requests: tempfile::TempDir,
    pub port: u16,
}

/// A request that it got.
#[derive(Debug, Clone)]
pub struct Request(Value);

impl Request {
    pub fn method(&self) -> &str {
        self.0["method"].as_str().unwrap()
    }

    pub fn path(&self) -> &str {
        self.0["path"].as_str().unwrap()
    }

    pub fn body(&self) -> &str {
        self.0["body"].as_str().unwrap()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(self.body()).unwrap_or_else(|error| panic!("{error}: {}", self.body()))
    }

    /// Empty: there is none.
    pub fn header(&self, name: &str) -> &str {
        self.0["headers"][name].as_str().unwrap_or_default()
    }

    /// Of the answer; 0: it got none.
    pub fn status(&self) -> u64 {
        self.0["status"].as_u64().unwrap()
    }
}

impl Http {
    /// Listens with the options of `http-server`.
    pub fn start(options: &[&str]) -> Self {
        let requests = tempfile::Builder::new().prefix("pgvigil-requests.").tempdir().unwrap();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/http-server");
        let mut command = Command::new(program);
        command.arg(requests.path()).args(options);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap_or_else(|_| panic!("the HTTP server did not start: {line:?}"));
        Http { child, requests, port }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The section of a webhook to it, with further keys.
    pub fn webhook(&self, name: &str, keys: &str) -> String {
        format!("[webhooks.{name}]\nurl = \"{}\"\n{keys}", self.url(&format!("/{SECRET}/{name}")))
    }

    /// What it got, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.requests.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|end| end == "json"));
        files.sort();
        files.iter().map(|path| Request(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())).collect()
    }

    /// Waits until it got so many.
    #[track_caller]
    pub fn wait_for(&self, requests: usize) -> Vec<Request> {
        until(&format!("{requests} requests"), || Some(self.requests()).filter(|there| there.len() >= requests))
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What nobody may see who sees an output of the program.
pub const SECRET: &str = "T0K3N-of-the-channel";
