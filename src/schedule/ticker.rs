//! What wakes the daemon: once a second, and when that fails too.
//!
//! tokio-cron-scheduler fires jobs of a zone an hour off after a change of the clocks (its issue
//! 107), drops what it missed and can stop repeating (113). It only wakes us, on UTC; what is due
//! is decided by [`super::due`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_cron_scheduler::{Job, JobScheduler};

use crate::error::{Error, Kind, Result};

/// Should the scheduler fall silent, this is how long nobody notices.
const FALLBACK: Duration = Duration::from_secs(5);

pub struct Ticker {
    wake: Arc<Notify>,
    scheduler: JobScheduler,
}

impl Ticker {
    /// Starts the ticks.
    ///
    /// # Errors
    /// The scheduler cannot be started.
    pub async fn start() -> Result<Self> {
        let failed = |error| Error::new(Kind::System, format!("cannot start the scheduler: {error}"));
        let wake = Arc::new(Notify::new());
        let scheduler = JobScheduler::new().await.map_err(failed)?;
        let woken = Arc::clone(&wake);
        let job = Job::new("* * * * * *", move |_, _| woken.notify_one()).map_err(failed)?;
        scheduler.add(job).await.map_err(failed)?;
        scheduler.start().await.map_err(failed)?;
        Ok(Ticker { wake, scheduler })
    }

    /// Waits for the next tick.
    pub async fn tick(&self) {
        let _ = tokio::time::timeout(FALLBACK, self.wake.notified()).await;
    }

    pub async fn stop(mut self) {
        let _ = self.scheduler.shutdown().await;
    }
}
