//! What submitting costs the processor, counted from any thread: for backends that measure it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::SubmitCost;

/// Counts submits and their times.
#[derive(Debug, Default)]
pub struct CostCounter {
    submits: AtomicU64,
    total_ns: AtomicU64,
    driver_ns: AtomicU64,
}

impl CostCounter {
    /// Counts a submit that took `total`.
    pub fn add(&self, total: Duration) {
        self.submits.fetch_add(1, Ordering::Relaxed);
        add(&self.total_ns, total);
    }

    /// The part of it inside the driver.
    pub fn add_driver(&self, part: Duration) {
        add(&self.driver_ns, part);
    }

    /// All so far.
    pub fn read(&self) -> SubmitCost {
        let time = |ns: &AtomicU64| Duration::from_nanos(ns.load(Ordering::Relaxed));
        SubmitCost {
            submits: self.submits.load(Ordering::Relaxed),
            total: time(&self.total_ns),
            driver: time(&self.driver_ns),
        }
    }
}

fn add(to: &AtomicU64, time: Duration) {
    to.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
}
