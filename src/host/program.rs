//! A program of the user: it gets a text on stdin and a time, and nothing of it is left behind.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::local::{LocalHost, die_with_parent};
use super::{Exit, Host, Tag, Tail};
use crate::error::{Error, Kind, Result};

/// What it gets of our environment: there are secrets in the rest.
const ENVIRONMENT: [&str; 8] = ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Without a PATH of ours.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How it ended, and the end of what it wrote to stderr.
#[derive(Debug)]
pub struct Ended {
    pub exit: Exit,
    pub stderr: String,
}

/// Runs a program, which is ended past its time with all that it has started. What it leaves behind
/// when it ends by itself is ended as well.
///
/// # Errors
/// It could not be started, or it was not done in time.
#[expect(clippy::disallowed_methods, reason = "this is the room of processes")]
pub async fn run(command: &[String], env: &[(&str, &str)], stdin: &[u8], patience: Duration) -> Result<Ended> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Error::new(Kind::Config, "there is no program to run"));
    };
    let tag = Tag::random();
    let mut starting = Command::new(program);
    starting.args(arguments).current_dir("/").env_clear().env("PATH", PATH);
    starting.envs(ENVIRONMENT.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))));
    // The mark by which whatever leaves the group is found.
    starting.envs(env.iter().copied()).env("PGAPPNAME", tag.as_str());
    starting.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    die_with_parent(&mut starting);
    let mut child = starting.spawn().map_err(|error| {
        Error::system(format!("cannot start {program}"), &error).hint("it must be there, and executable for the user that pgvigil runs as")
    })?;
    let group = Group { id: child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw) };
    let tail = Tail::default();
    let stderr = child.stderr.take();
    let into = tail.clone();
    let drained = tokio::spawn(async move {
        if let Some(mut stderr) = stderr {
            let mut buffer = vec![0; 4096];
            while let Ok(n @ 1..) = stderr.read(&mut buffer).await {
                into.push(&buffer[..n]);
            }
        }
    });
    let fed = child.stdin.take();
    let work = async {
        // Beside the waiting: it need not read it.
        let feed = async {
            if let Some(mut pipe) = fed {
                let _ = pipe.write_all(stdin).await;
            }
            std::future::pending().await
        };
        tokio::select! {
            status = child.wait() => status,
            status = feed => status,
        }
    };
    let ended = tokio::time::timeout(patience, work).await;
    drop(group);
    if ended.is_err() {
        let _ = child.wait().await;
    }
    if let Err(error) = LocalHost::default().end_tagged(&tag).await {
        tracing::warn!(program, %error, "something that it has started is left");
    }
    let _ = tokio::time::timeout(Duration::from_secs(1), drained).await;
    match ended {
        Ok(Ok(status)) => Ok(Ended { exit: super::local::exit_of(status), stderr: tail.text() }),
        Ok(Err(error)) => Err(Error::system(format!("cannot wait for {program}"), &error)),
        Err(_) => {
            let said = tail.text();
            let said = if said.is_empty() { said } else { format!("; it had said: {said}") };
            Err(Error::new(
                Kind::Timeout,
                format!("{program} was not done within {} s, and was ended{said}", patience.as_secs_f64().round()),
            ))
        }
    }
}

/// Whether a program is there and can be started by us.
///
/// # Errors
/// Why it cannot.
pub fn is_executable(command: &[String]) -> Result<()> {
    let program = command.first().map_or("", String::as_str);
    let hint = "it must be there, and executable for the user that pgvigil runs as";
    match std::fs::metadata(program) {
        Err(error) => Err(Error::system(program, &error).hint(hint)),
        Ok(meta) if !meta.is_file() => Err(Error::new(Kind::System, format!("{program} is no file")).hint(hint)),
        Ok(_) => nix::unistd::access(program, nix::unistd::AccessFlags::X_OK)
            .map_err(|error| Error::system(program, &std::io::Error::from(error)).hint(hint)),
    }
}

/// The group of processes, ended whenever this goes, be it in the middle.
struct Group {
    id: Option<Pid>,
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            // ESRCH: nothing of it is left.
            let _ = killpg(id, Signal::SIGKILL);
        }
    }
}
