//! Stopping: for good, by whoever asked for something, or for a while, by whoever owns the
//! engine. Both are heard between steps.
//!
//! Decides who sleeps and who wakes whom: a request that waits for the end of a pause, or rests,
//! sleeps until it is rung, and a cancel rings it. Must not know what a step is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::{EngineError, Result};

/// Asks a running request to stop; may be shared between threads.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Flag>);

#[derive(Debug, Default)]
struct Flag {
    cancelled: AtomicBool,
    /// Gates that a request with this flag waits at.
    waiting_at: Mutex<Vec<Arc<Bell>>>,
}

impl Cancel {
    /// A request that runs on.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// Stops the request before its next submit to the device, and at once where its engine is
    /// paused.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        // Cloned, since a waiting request takes both locks in the other order.
        let bells = lock(&self.0.waiting_at).clone();
        bells.iter().for_each(|bell| bell.ring());
    }

    /// True once cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// Makes the handle usable for another request.
    pub fn reset(&self) {
        self.0.cancelled.store(false, Ordering::SeqCst);
    }

    /// Sleeps for `time`, to leave the device to others.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`], as soon as it is.
    pub(crate) fn rest(&self, time: Duration) -> Result<()> {
        let gate = Gate::default();
        gate.close();
        self.wait_at(&gate.0, Some(Instant::now() + time));
        self.check()
    }

    /// Sleeps until `bell` opens or it is `until`, and no longer than until cancelled.
    fn wait_at(&self, bell: &Arc<Bell>, until: Option<Instant>) {
        lock(&self.0.waiting_at).push(bell.clone());
        let mut order = lock(&bell.order);
        while bell.closed.load(Ordering::SeqCst) && !self.is_cancelled() {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            order = match left {
                Some(Duration::ZERO) => break,
                Some(left) => {
                    let woken = bell.rung.wait_timeout(order, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let woken = bell.rung.wait(order);
                    woken.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
        drop(order);
        let mut bells = lock(&self.0.waiting_at);
        if let Some(mine) = bells.iter().position(|other| Arc::ptr_eq(other, bell)) {
            bells.swap_remove(mine);
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            Err(EngineError::Cancelled)
        } else {
            Ok(())
        }
    }
}

/// What requests pass between two steps: closed while the engine is paused.
#[derive(Default)]
pub(crate) struct Gate(Arc<Bell>);

#[derive(Debug, Default)]
struct Bell {
    /// A look without the lock, for the steps of an engine that is not paused.
    closed: AtomicBool,
    order: Mutex<()>,
    rung: Condvar,
}

impl Bell {
    fn ring(&self) {
        // Whoever is about to sleep has looked under this lock.
        drop(lock(&self.order));
        self.rung.notify_all();
    }
}

impl Gate {
    /// Requests sleep at it from now on.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
    }

    /// Requests go on.
    pub fn open(&self) {
        self.0.closed.store(false, Ordering::SeqCst);
        self.0.ring();
    }

    /// True while requests sleep at it.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::SeqCst)
    }

    /// Sleeps while the gate is closed.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`], before and after sleeping.
    pub fn pass(&self, cancel: &Cancel) -> Result<()> {
        cancel.check()?;
        if !self.is_closed() {
            return Ok(());
        }
        cancel.wait_at(&self.0, None);
        cancel.check()
    }
}

/// Nothing panics while it holds one of these.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_closed_gate_holds_until_it_opens_or_the_request_is_cancelled() {
        for cancels in [false, true] {
            let (gate, cancel) = (Gate::default(), Cancel::new());
            gate.pass(&cancel).expect("an open gate");
            gate.close();
            let result = thread::scope(|scope| {
                let waiter = scope.spawn(|| gate.pass(&cancel));
                thread::sleep(Duration::from_millis(30));
                assert!(!waiter.is_finished());
                match cancels {
                    true => cancel.cancel(),
                    false => gate.open(),
                }
                waiter.join().expect("no panic")
            });
            assert_eq!(matches!(result, Err(EngineError::Cancelled)), cancels);
            assert!(lock(&cancel.0.waiting_at).is_empty());
        }
    }

    #[test]
    fn a_rest_lasts_its_time_and_ends_with_a_cancel() {
        let (cancel, time) = (Cancel::new(), Duration::from_millis(40));
        let begun = Instant::now();
        cancel.rest(time).expect("nobody cancels");
        assert!(begun.elapsed() >= time);
        let begun = Instant::now();
        let result = thread::scope(|scope| {
            let resting = scope.spawn(|| cancel.rest(Duration::from_secs(60)));
            thread::sleep(time);
            cancel.cancel();
            resting.join().expect("no panic")
        });
        assert!(matches!(result, Err(EngineError::Cancelled)));
        assert!(begun.elapsed() < Duration::from_secs(30));
        assert!(lock(&cancel.0.waiting_at).is_empty());
    }
}
