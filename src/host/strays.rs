//! Processes of this machine that are found by what they leave open to see, and ended.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Tag;
use crate::error::{Error, Kind, Result};

/// How long a leader may take to end its children, and the kernel to end what got SIGKILL.
const GRACE: Duration = Duration::from_secs(10);

/// Processes whose environment carries the mark: only we set it.
pub fn tagged(tag: &Tag) -> Vec<Pid> {
    let wanted = format!("PGAPPNAME={}", tag.as_str());
    processes(|pid| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|var| var == wanted.as_bytes())
    })
}

/// Processes of a cluster by the folder that it lies in: a backend writes its title over its
/// environment, but always works in its data folder. Somebody's shell may stand there, too: what is
/// of our own account counts only if it is PostgreSQL's.
fn of_cluster(folder: &Path) -> Vec<Pid> {
    let folder = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let Ok(account) = std::fs::metadata(&folder).map(|meta| meta.uid()) else { return Vec::new() };
    let is_confined = account != nix::unistd::geteuid().as_raw();
    processes(|pid| {
        let link = |name| std::fs::read_link(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let is_postgres = || link("exe").file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"postgres"));
        link("cwd").starts_with(&folder)
            && std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|meta| meta.uid() == account)
            && (is_confined || is_postgres())
    })
}

fn processes(is_wanted: impl Fn(i32) -> bool) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).filter(|pid| is_wanted(*pid)).map(Pid::from_raw).collect()
}

/// Ends every process of the cluster in a folder and all that carries the mark, and returns how many there were: the
/// postmaster, by the number in its file, at once with all of its children; then the rest.
///
/// # Errors
/// Something would not end.
pub async fn end_cluster(folder: &Path, mark: &Tag, postmaster: Option<i32>) -> Result<usize> {
    let found = || {
        let mut found = of_cluster(folder);
        found.extend(tagged(mark));
        found.sort_unstable();
        found.dedup();
        found
    };
    let first = found();
    // The number may be another's by now.
    if let Some(leader) = first.iter().find(|pid| Some(pid.as_raw()) == postmaster) {
        let _ = kill(*leader, Signal::SIGQUIT);
        gone(|| found().contains(leader)).await;
    }
    let ended = gone(|| {
        let left = found();
        for pid in &left {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        !left.is_empty()
    });
    if ended.await {
        return Ok(first.len());
    }
    Err(Error::new(Kind::System, format!("a process in {} would not end", folder.display())))
}

/// Waits until something is no longer there; `false`: it stays.
async fn gone(is_there: impl Fn() -> bool) -> bool {
    let deadline = tokio::time::Instant::now() + GRACE;
    while is_there() {
        if tokio::time::Instant::now() > deadline {
            return false;
        }
        // The kernel tells nobody but a parent of the end of a process, and we are not always that.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}
