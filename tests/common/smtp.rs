//! A real mail server (`tests/support/smtp-server`), and what it took.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{run, unique, var};

/// What the servers ask for.
pub const LOGIN: (&str, &str) = ("backup", "mail:pa\\ss w0rd");

/// A mail server of a test's own; it ends with this.
pub struct Smtp {
    child: Child,
    mailbox: tempfile::TempDir,
    pub port: u16,
}

/// A message that it took.
#[derive(Debug)]
pub struct Mail(Value);

impl Mail {
    /// A header as a mail program shows it.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let mut found =
            self.0["headers"].as_array().unwrap().iter().filter(|header| header[0].as_str().unwrap().eq_ignore_ascii_case(name));
        let value = found.next().unwrap_or_else(|| panic!("no {name}: {self:#?}"))[1].as_str().unwrap();
        assert!(found.next().is_none(), "two of {name}: {self:#?}");
        value
    }

    /// Key and state of the alert.
    pub fn alert(&self) -> (&str, &str) {
        (self.header("X-Pgvigil-Alert"), self.header("X-Pgvigil-State"))
    }

    pub fn text(&self) -> &str {
        self.0["parts"]["text/plain"].as_str().unwrap_or_else(|| panic!("no text: {self:#?}"))
    }

    pub fn html(&self) -> &str {
        self.0["parts"]["text/html"].as_str().unwrap_or_else(|| panic!("no HTML: {self:#?}"))
    }

    /// The one recipient of the envelope.
    pub fn to(&self) -> &str {
        assert_eq!(self.0["to"].as_array().unwrap().len(), 1, "{self:#?}");
        self.0["to"][0].as_str().unwrap()
    }

    /// Its bytes, its envelope and how it came.
    pub fn get(&self, key: &str) -> &Value {
        &self.0[key]
    }
}

impl Smtp {
    /// Listens with the options of `smtp-server`.
    pub fn start(options: &[&str]) -> Self {
        let mailbox = tempfile::Builder::new().prefix("pgvigil-mailbox.").tempdir().unwrap();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/smtp-server");
        let mut command = Command::new(program);
        command.arg(mailbox.path()).args(options).env("PYTHONPATH", var("PGVIGIL_TEST_SMTP")).env("PYTHONDONTWRITEBYTECODE", "1");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap_or_else(|_| panic!("the mail server did not start: {line:?}"));
        Smtp { child, mailbox, port }
    }

    /// With a certificate: `right`, `wrong_name` or `self_signed`; `tls` is `starttls` or `start`.
    pub fn with_tls(tls: &str, certificate: &str, options: &[&str]) -> Self {
        let (certificate, key) = (pem(certificate), certs().join(format!("{certificate}.key")));
        let mut all = vec!["--tls", tls, "--cert", certificate.to_str().unwrap(), "--key", key.to_str().unwrap()];
        all.extend(options);
        Self::start(&all)
    }

    /// The usual relay: STARTTLS, then a login.
    pub fn usual(options: &[&str]) -> Self {
        let login = login();
        let mut all = vec!["--login", login.as_str()];
        all.extend(options);
        Self::with_tls("starttls", "right", &all)
    }

    /// The section `[email]` for it, with further keys.
    pub fn section(&self, keys: &str) -> String {
        section(&format!("smtp://127.0.0.1:{}", self.port), keys)
    }

    /// The same for [`Self::usual`].
    pub fn usual_section(&self, keys: &str) -> String {
        self.section(&format!("{}{}{keys}", ca_file(), credentials()))
    }

    /// What it took, oldest first.
    pub fn mails(&self) -> Vec<Mail> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.mailbox.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| {
            path.extension().is_some_and(|end| end == "json") && !path.file_name().unwrap().to_string_lossy().starts_with('.')
        });
        files.sort();
        files.iter().map(|path| Mail(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())).collect()
    }

    /// Key and state of each mail that it took.
    pub fn alerts(&self) -> Vec<(String, String)> {
        self.mails().iter().map(|mail| (mail.alert().0.to_owned(), mail.alert().1.to_owned())).collect()
    }

    /// Waits until it took so many. The bound is only there so that a failure has a name.
    #[track_caller]
    pub fn wait_for(&self, mails: usize) -> Vec<Mail> {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let there = self.mails();
            if there.len() >= mails {
                return there;
            }
            assert!(Instant::now() < deadline, "never {mails} mails: {there:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// All that came in without TLS.
    pub fn clear(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.mailbox.path().join("clear")).unwrap_or_default()).into_owned()
    }
}

impl Drop for Smtp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A section `[email]` with two recipients.
pub fn section(relay: &str, keys: &str) -> String {
    format!("[email]\nrelay = \"{relay}\"\nfrom = \"pgvigil@example.com\"\nto = [\"dba@example.com\", \"boss@example.com\"]\n{keys}")
}

/// Nobody listens there, and nobody is given the port by chance.
pub const AWAY: &str = "smtp://127.0.0.1:1";

fn login() -> String {
    format!("{}:{}", LOGIN.0, LOGIN.1)
}

pub fn credentials() -> String {
    format!("username = \"{}\"\npassword = '{}'\n", LOGIN.0, LOGIN.1)
}

pub fn ca_file() -> String {
    format!("ca_file = \"{}\"\n", pem("ca").display())
}

/// A certificate: `ca`, `right`, `wrong_name`, `self_signed`.
pub fn pem(name: &str) -> PathBuf {
    certs().join(format!("{name}.pem"))
}

/// The folder of certificates and their keys, made once for all tests of a run.
fn certs() -> PathBuf {
    let dir = Path::new(&var("PGVIGIL_TEST_TMP")).join("certs");
    if dir.exists() {
        return dir;
    }
    let aside = dir.with_file_name(unique("certs"));
    std::fs::create_dir(&aside).unwrap();
    let make = |name: &str, subject: &str, more: &[&str]| {
        let mut command = Command::new("openssl");
        command.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "30",
            "-subj",
            subject,
        ]);
        command.arg("-keyout").arg(format!("{name}.key")).arg("-out").arg(format!("{name}.pem")).args(more);
        let output = run(command.current_dir(&aside));
        assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    };
    let signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:FALSE", "-addext"];
    let names = "subjectAltName=IP:127.0.0.1,IP:::1,DNS:localhost";
    make("ca", "/CN=pgvigil test", &[]);
    make("right", "/CN=relay", &[&signed[..], &[names]].concat());
    make("wrong_name", "/CN=relay", &[&signed[..], &["subjectAltName=DNS:other.example"]].concat());
    make("self_signed", "/CN=relay", &["-addext", names]);
    // Where another test was first, its folder counts.
    if std::fs::rename(&aside, &dir).is_err() {
        std::fs::remove_dir_all(&aside).unwrap();
    }
    dir
}
