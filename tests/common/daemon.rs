//! A daemon under test: started in a world, heard by its log, stopped at the end.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Timelike, Utc};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{Server, World};

/// An event that takes longer will not come.
pub const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
struct Heard {
    lines: Vec<String>,
    is_over: bool,
}

/// A daemon that runs; killed when it is dropped.
pub struct Daemon {
    child: Child,
    heard: Arc<(Mutex<Heard>, Condvar)>,
}

impl Daemon {
    /// Starts it, and waits until it has begun.
    #[track_caller]
    pub fn start(world: &World) -> Self {
        Self::of(&mut world.command(&["daemon"]))
    }

    /// The same, with a command of the caller's.
    #[track_caller]
    pub fn of(command: &mut Command) -> Self {
        let daemon = Self::spawn(command);
        daemon.wait_for_line("the daemon begins");
        daemon
    }

    /// The same, without waiting for anything.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let heard = Arc::new((Mutex::new(Heard::default()), Condvar::new()));
        let into = Arc::clone(&heard);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                into.0.lock().unwrap().lines.push(line);
                into.1.notify_all();
            }
            into.0.lock().unwrap().is_over = true;
            into.1.notify_all();
        });
        Daemon { child, heard }
    }

    /// Everything that it has logged so far.
    pub fn log(&self) -> String {
        self.heard.0.lock().unwrap().lines.join("\n")
    }

    /// How many lines of the log hold some words.
    pub fn count(&self, words: &str) -> usize {
        self.heard.0.lock().unwrap().lines.iter().filter(|line| line.contains(words)).count()
    }

    /// Waits for a line of the log that holds some words, from its beginning on.
    #[track_caller]
    pub fn wait_for_line(&self, words: &str) -> String {
        self.wait_for_lines(words, 1)
    }

    /// Waits for so many of them, and returns the last.
    #[track_caller]
    pub fn wait_for_lines(&self, words: &str, count: usize) -> String {
        let found = |heard: &Heard| heard.lines.iter().filter(|line| line.contains(words)).nth(count - 1).cloned();
        let heard = self.heard.0.lock().unwrap();
        let (heard, _) = self.heard.1.wait_timeout_while(heard, PATIENCE, |heard| found(heard).is_none() && !heard.is_over).unwrap();
        found(&heard).unwrap_or_else(|| panic!("not heard {count} times: {words}\n{}", heard.lines.join("\n")))
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits for its end, and returns the exit code and how long that took.
    #[track_caller]
    pub fn end(&mut self) -> (Option<i32>, Duration) {
        let started = Instant::now();
        let status = until("the daemon ends", || self.child.try_wait().unwrap());
        (status.code(), started.elapsed())
    }

    /// Stops it, which must go well, and returns its log.
    #[track_caller]
    pub fn stop(mut self) -> String {
        self.signal(Signal::SIGTERM);
        let (code, _) = self.end();
        assert_eq!(code, Some(0), "{}", self.log());
        self.log()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something is there.
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Writes the file of a world on PostgreSQL 15, in one step as editors do; `top` stands before its
/// sections.
pub fn write_config(world: &World, top: &str, sections: &str) {
    let text = format!("{top}\n{}", world.text(&format!("{}{sections}", Server::Pg15.section())));
    std::fs::write(world.path("new.toml"), text).unwrap();
    std::fs::rename(world.path("new.toml"), world.config()).unwrap();
}

#[expect(clippy::disallowed_methods, reason = "a test has no other clock")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}

/// A schedule that fires once a day, in so many seconds.
pub fn once_in(secs: i64) -> (DateTime<Utc>, String) {
    let slot = (now() + TimeDelta::seconds(secs)).with_nanosecond(0).unwrap();
    (slot, format!("timezone = \"UTC\"\nschedule = \"{} {} {} * * *\"", slot.second(), slot.minute(), slot.hour()))
}

pub fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap_or_else(|| panic!("{value}")).parse().unwrap()
}

/// The rows of the history of a backup, oldest first.
#[track_caller]
pub fn history(world: &World, backup: &str) -> Vec<Value> {
    let mut rows = world.pgvigil(&["--json", "history", backup]).expect(0).json().as_array().unwrap().clone();
    rows.reverse();
    rows
}

/// Waits for the first row of a backup that has an outcome, and returns it.
#[track_caller]
pub fn wait_for_outcome(world: &World, backup: &str, outcome: &str) -> Value {
    until(&format!("{backup} has a run that is {outcome}"), || history(world, backup).into_iter().find(|row| row["outcome"] == outcome))
}

/// The keys of the open alerts by `status`.
pub fn alerts(status: &Value) -> Vec<&str> {
    status["alerts"].as_array().unwrap().iter().map(|alert| alert["key"].as_str().unwrap()).collect()
}

/// The label of a slot, as in `history --json`.
pub fn label(slot: &Value) -> String {
    slot.as_str().unwrap().replace(['-', ':'], "")
}

/// No slot was stored twice, and none begun again after it was.
#[track_caller]
pub fn assert_no_slot_twice(rows: &[Value]) {
    let mut done: Vec<&str> = rows.iter().filter(|row| !row["id"].is_null()).map(|row| row["slot"].as_str().unwrap()).collect();
    let all = done.len();
    done.sort_unstable();
    done.dedup();
    assert_eq!(done.len(), all, "{rows:#?}");
}
