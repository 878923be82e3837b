//! How far a job is, for whoever shows it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::pack::packer::Meter;

/// Shared between the job and the one who watches it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Of what the stages are.
    head: Mutex<String>,
    stage: Mutex<String>,
    meter: Mutex<Arc<Meter>>,
    /// Bytes of the files that are done, before packing and as stored.
    done_raw: AtomicU64,
    done_packed: AtomicU64,
    /// What to expect by the last run; 0: not known.
    expected_raw: AtomicU64,
}

/// What a watcher sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub stage: String,
    pub raw_bytes: u64,
    pub packed_bytes: u64,
    pub expected_raw_bytes: Option<u64>,
}

impl Progress {
    /// A new file or a new step begins; returns what counts its bytes.
    pub fn begin(&self, stage: impl Into<String>) -> Arc<Meter> {
        let fresh = Arc::new(Meter::default());
        let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        self.done_raw.fetch_add(meter.raw_bytes(), Ordering::Relaxed);
        self.done_packed.fetch_add(meter.packed_bytes(), Ordering::Relaxed);
        *meter = Arc::clone(&fresh);
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage.into();
        fresh
    }

    /// A step that counts from nothing again, against another sum.
    pub fn restart(&self, stage: impl Into<String>, expected_raw: u64) -> Arc<Meter> {
        let meter = self.begin(stage);
        self.done_raw.store(0, Ordering::Relaxed);
        self.done_packed.store(0, Ordering::Relaxed);
        self.expect(expected_raw);
        meter
    }

    /// Says in front of the stages that follow what they are of.
    pub fn head(&self, head: impl Into<String>) {
        *self.head.lock().unwrap_or_else(PoisonError::into_inner) = head.into();
    }

    pub fn expect(&self, raw_bytes: u64) {
        self.expected_raw.store(raw_bytes, Ordering::Relaxed);
    }

    pub fn look(&self) -> Seen {
        let meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        let expected = self.expected_raw.load(Ordering::Relaxed);
        let head = self.head.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Seen {
            stage: head + &self.stage.lock().unwrap_or_else(PoisonError::into_inner),
            raw_bytes: self.done_raw.load(Ordering::Relaxed) + meter.raw_bytes(),
            packed_bytes: self.done_packed.load(Ordering::Relaxed) + meter.packed_bytes(),
            expected_raw_bytes: (expected > 0).then_some(expected),
        }
    }
}
