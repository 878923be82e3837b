//! A load that goes nowhere. Silence is no proof: an index may take hours. So the server is asked what
//! the sessions of the load do before one is given up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use crate::error::{Error, Kind, Result};
use crate::postgres::Server;

const HINT: &str = "look for locks, a full disk or a frozen process on the server; stall_timeout sets the patience";

/// When something moved last: a byte was taken, or a statement answered.
pub struct Pulse {
    last: Mutex<Instant>,
    /// Whether we wait for more of the dump.
    is_starved: AtomicBool,
}

impl Default for Pulse {
    fn default() -> Self {
        Pulse { last: Mutex::new(Instant::now()), is_starved: AtomicBool::new(false) }
    }
}

impl Pulse {
    pub fn beat(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Waits for more of the dump. Meanwhile a session that takes rows from a pipe waits as well, and
    /// does not say so to the server.
    pub async fn starve<T>(&self, coming: impl Future<Output = T>) -> T {
        self.is_starved.store(true, Ordering::Relaxed);
        let came = coming.await;
        self.is_starved.store(false, Ordering::Relaxed);
        self.beat();
        came
    }

    fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session of the load, as the server sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct Doing {
    pid: i64,
    state: Option<String>,
    wait: Option<String>,
    /// The letter of its process, where the server may look: Linux, and a superuser.
    process: Option<String>,
}

impl Doing {
    fn works(&self, is_starved: bool) -> bool {
        let sleeps = is_starved && self.process.as_deref() == Some("S");
        let waits = sleeps || matches!(self.wait.as_deref(), Some("Lock" | "Client"));
        self.state.as_deref() == Some("active") && !waits && !self.is_frozen()
    }

    fn is_frozen(&self) -> bool {
        matches!(self.process.as_deref(), Some("T" | "t"))
    }
}

/// Why nobody works on the load; `None`: somebody does.
fn judge(doing: &[Doing], is_starved: bool) -> Option<String> {
    if doing.iter().any(|one| one.works(is_starved)) {
        return None;
    }
    let pids = |wanted: &dyn Fn(&Doing) -> bool| {
        let pids: Vec<String> = doing.iter().filter(|one| wanted(one)).map(|one| one.pid.to_string()).collect();
        (!pids.is_empty()).then(|| pids.join(", "))
    };
    if let Some(pids) = pids(&|one| one.is_frozen()) {
        return Some(format!("the server's process is stopped (pid {pids})"));
    }
    if let Some(pids) = pids(&|one| one.wait.as_deref() == Some("Lock")) {
        return Some(format!("it waits for a lock that another session holds (pid {pids})"));
    }
    Some("no session of it is at work on the server".to_owned())
}

/// Returns once the load has stalled: nothing moved for `patience`, and the server says that nobody
/// works on it, or says nothing.
pub async fn watch(server: &Server, pulse: &Pulse, patience: Duration) -> Error {
    let mut seen = pulse.last();
    loop {
        tokio::time::sleep_until(seen + patience).await;
        if pulse.last() > seen {
            seen = pulse.last();
            continue;
        }
        let asked = tokio::time::timeout(patience, ask(server)).await;
        if pulse.last() > seen {
            seen = pulse.last();
            continue;
        }
        let why = match asked {
            Ok(Ok(doing)) => judge(&doing, pulse.is_starved.load(Ordering::Relaxed)),
            Ok(Err(error)) => Some(format!("the server does not answer: {}", error.message)),
            Err(_) => Some("the server does not answer".to_owned()),
        };
        if let Some(why) = why {
            return Error::new(Kind::Timeout, format!("the load stalled for {} s: {why}", patience.as_secs())).hint(HINT);
        }
        seen = Instant::now();
    }
}

async fn ask(server: &Server) -> Result<Vec<Doing>> {
    server.query(server.maintenance_database(), &question(server.tag().as_str(), server.facts.is_superuser)).await
}

fn question(tag: &str, is_superuser: bool) -> String {
    // Who may not read files may not even name the function.
    let process = if is_superuser {
        "substring(pg_catalog.pg_read_file('/proc/' || pid || '/stat', 0, 1024, true) from '\\) ([A-Za-z]) [0-9]')"
    } else {
        "null"
    };
    format!(
        "select coalesce(json_agg(json_build_object('pid', pid, 'state', state, 'wait', wait_event_type, 'process', {process})), '[]') \
        from pg_catalog.pg_stat_activity where application_name = {} and pid <> pg_catalog.pg_backend_pid()",
        crate::postgres::quote::literal(tag)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doing(state: &str, wait: &str, process: &str) -> Doing {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Doing { pid: 7, state: some(state), wait: some(wait), process: some(process) }
    }

    #[test]
    fn one_that_works_is_enough() {
        let idle = doing("idle", "Client", "S");
        for works in [doing("active", "", "R"), doing("active", "IO", "D"), doing("active", "", ""), doing("active", "LWLock", "S")] {
            assert_eq!(judge(&[idle.clone(), works], false), None);
        }
        let told = |one: Doing| judge(&[idle.clone(), one], false).unwrap();
        assert!(told(doing("active", "", "T")).contains("stopped (pid 7)"));
        assert!(told(doing("active", "Lock", "S")).contains("lock"));
        // It waits for rows, and none come.
        assert!(told(doing("active", "Client", "S")).contains("no session"));
        assert!(judge(&[], false).is_some() && judge(&[idle], false).is_some());
        assert_eq!(judge(&[doing("active", "Lock", "S"), doing("active", "", "R")], false), None, "it holds the lock, perhaps");
        // It reads a pipe into which we have nothing to write.
        assert!(judge(&[doing("active", "", "S")], true).unwrap().contains("no session"));
        assert_eq!(judge(&[doing("active", "", "S")], false), None);
        assert_eq!(judge(&[doing("active", "", "R")], true), None);
    }

    #[test]
    fn no_file_is_named_to_who_may_not_read_it() {
        assert!(!question("x", false).contains("pg_read_file") && question("x", true).contains("pg_read_file"));
    }
}
