//! The threads of a device, and how they go through the steps of a program together.
//!
//! Every thread walks the list of steps and takes pieces of each. Nobody waits for threads,
//! only for pieces: a step begins when all pieces of the level before are done, so a thread
//! that the system has put aside holds up nothing it has not begun. Waiting is a short spin,
//! then sleep; an idle pool sleeps. Read [`Pool::run`] first.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hadal_device::{Error, Result};

use crate::args::Fault;
use crate::core::Scratch;
use crate::device::lock;
use crate::resolve::{Ready, Resolved};

/// How long a waiting thread spins before it sleeps: about what waking one costs.
const SPIN: Duration = Duration::from_micros(10);

/// The threads of a device; the caller's thread works too.
pub(crate) struct Pool {
    common: Arc<Common>,
    workers: Vec<JoinHandle<()>>,
    scratch: Scratch,
    /// Half of the threads work, others sleep on.
    courteous: bool,
}

#[derive(Default)]
struct Common {
    state: Mutex<State>,
    /// Rung for a new job, for the end of a step, and when the last worker left a job.
    bell: Condvar,
    /// Threads in `bell`'s wait.
    sleepers: AtomicU32,
    /// The running job came to nothing: leave it.
    failed: AtomicBool,
    /// Threads that the running job is shared by.
    threads: AtomicU32,
}

#[derive(Default)]
struct State {
    job: Option<Arc<Resolved>>,
    /// Counts jobs, so that a worker does not enter one twice.
    jobs: u64,
    /// Workers inside the job.
    inside: usize,
    /// Workers that may still enter it.
    vacant: usize,
    fault: Option<(usize, Fault)>,
    stop: bool,
}

impl Pool {
    /// A pool of `threads` threads, the caller's included. Threads that the system refuses
    /// are done without.
    pub fn new(threads: usize) -> Pool {
        let common = Arc::new(Common::default());
        let workers = (1..threads)
            .map_while(|index| {
                let common = common.clone();
                std::thread::Builder::new()
                    .name(format!("hadal-host-{index}"))
                    .spawn(move || common.work())
                    .ok()
            })
            .collect();
        Pool {
            common,
            workers,
            scratch: Scratch::default(),
            courteous: false,
        }
    }

    /// Whether jobs leave half of the threads to others.
    pub fn set_courteous(&mut self, courteous: bool) {
        self.courteous = courteous;
    }

    /// Workers that take part in a job, beside the caller's thread.
    fn crew(&self) -> usize {
        match self.courteous {
            true => self.workers.len().div_ceil(2).saturating_sub(1),
            false => self.workers.len(),
        }
    }

    /// Runs all steps. The caller holds the device's lock and keeps the buffers alive.
    pub fn run(&mut self, job: &Arc<Resolved>) -> Result<()> {
        let common = &*self.common;
        for step in &job.steps {
            step.next.store(0, Ordering::Relaxed);
            step.done.store(0, Ordering::Relaxed);
        }
        common.failed.store(false, Ordering::Relaxed);
        let threads = self.crew() as u32 + 1;
        common.threads.store(threads, Ordering::Relaxed);
        {
            let mut state = lock(&common.state);
            state.fault = None;
            state.jobs += 1;
            state.vacant = self.crew();
            state.job = (state.vacant > 0).then(|| job.clone());
        }
        common.bell.notify_all();
        common.walk(job, &mut self.scratch);
        // A worker inside may still look at the counters, which the next run resets.
        let mut state = lock(&common.state);
        state.job = None;
        while state.inside > 0 {
            state = common
                .bell
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        match state.fault.take() {
            None => Ok(()),
            Some((step, Fault::Memory { bytes })) => Err(Error::OutOfMemory {
                what: format!("scratch of step {}", job.steps[step].label),
                memory: "host".to_string(),
                wanted_bytes: bytes as u64,
            }),
            Some((step, fault)) => Err(Error::Invalid(format!(
                "step {step}, {}: {fault}",
                job.steps[step].label
            ))),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.common.state).stop = true;
        self.common.bell.notify_all();
        for worker in self.workers.drain(..) {
            // A worker's panics are caught and reported by `run`.
            let _ = worker.join();
        }
    }
}

impl Common {
    /// The life of a worker.
    fn work(&self) {
        let mut scratch = Scratch::default();
        let mut seen = 0;
        loop {
            let job = {
                let mut state = lock(&self.state);
                loop {
                    if state.stop {
                        return;
                    }
                    match &state.job {
                        Some(job) if state.jobs != seen && state.vacant > 0 => {
                            let job = job.clone();
                            seen = state.jobs;
                            state.vacant -= 1;
                            state.inside += 1;
                            break Some(job);
                        }
                        _ => {}
                    }
                    state = self
                        .bell
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            };
            if let Some(job) = job {
                self.walk(&job, &mut scratch);
            }
            let mut state = lock(&self.state);
            state.inside -= 1;
            if state.inside == 0 {
                self.bell.notify_all();
            }
        }
    }

    /// Goes through the steps, taking pieces, until all are done or one fails.
    fn walk(&self, job: &Resolved, scratch: &mut Scratch) {
        // First step of the current level.
        let mut first = 0;
        for (index, step) in job.steps.iter().enumerate() {
            if step.level != job.steps[first].level {
                if !self.wait_for(&job.steps[first..index]) {
                    return;
                }
                first = index;
            }
            if !self.take_pieces(index, step, scratch) {
                return;
            }
        }
        self.wait_for(&job.steps[first..]);
    }

    /// Takes pieces of a step until none is left; false if the job failed.
    fn take_pieces(&self, index: usize, step: &Ready, scratch: &mut Scratch) -> bool {
        scratch.panel.digits.forget();
        let mut pieces = self.claim(step);
        while !pieces.is_empty() {
            let taken = pieces.len() as u32;
            for unit in pieces {
                if self.failed.load(Ordering::Relaxed) {
                    return false;
                }
                // SAFETY: `Pool::run` is called under the device's lock with the buffers alive,
                // and `walk` waited for the lower levels.
                let run = || unsafe { step.run(unit, scratch) };
                let result = catch_unwind(AssertUnwindSafe(run)).unwrap_or(Err(Fault::Panic));
                if let Err(fault) = result {
                    self.fail(index, fault);
                    return false;
                }
            }
            // Release: whoever sees the count sees what the pieces wrote.
            if step.done.fetch_add(taken, Ordering::SeqCst) + taken == step.units {
                self.ring();
            }
            pieces = self.claim(step);
        }
        true
    }

    /// Pieces for the calling thread alone: neighbours, which read on where the last one
    /// stopped, and fewer of them towards the end, so that all threads end together.
    fn claim(&self, step: &Ready) -> Range<u32> {
        let threads = self.threads.load(Ordering::Relaxed);
        let some = |next: u32| (step.units - next).div_ceil(2 * threads);
        // The look before the claim keeps late threads from writing to the line.
        let mut first = step.next.load(Ordering::Relaxed);
        while first < step.units {
            let end = first + some(first);
            match step
                .next
                .compare_exchange_weak(first, end, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return first..end,
                Err(next) => first = next,
            }
        }
        first..first
    }

    fn fail(&self, index: usize, fault: Fault) {
        let mut state = lock(&self.state);
        // The first step that failed is the one to tell of.
        if state.fault.as_ref().is_none_or(|(first, _)| index < *first) {
            state.fault = Some((index, fault));
        }
        self.failed.store(true, Ordering::SeqCst);
        drop(state);
        self.bell.notify_all();
    }

    /// Wakes the sleepers. A thread that is about to sleep has counted itself before it
    /// looked at the steps for the last time, so it is not missed.
    fn ring(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.state));
            self.bell.notify_all();
        }
    }

    /// Waits until all `steps` are done; false if the job failed.
    fn wait_for(&self, steps: &[Ready]) -> bool {
        let done = || {
            self.failed.load(Ordering::SeqCst)
                || steps
                    .iter()
                    .all(|step| step.done.load(Ordering::SeqCst) >= step.units)
        };
        let mut started = None;
        while !done() {
            for _ in 0..32 {
                std::hint::spin_loop();
            }
            if started.get_or_insert_with(Instant::now).elapsed() > SPIN {
                self.sleep_until(&done);
            }
        }
        !self.failed.load(Ordering::SeqCst)
    }

    fn sleep_until(&self, done: &dyn Fn() -> bool) {
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let mut state = lock(&self.state);
        while !done() {
            state = self
                .bell
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_courteous_pool_works_with_half_of_its_threads() {
        for (threads, crew, courteous) in [(1, 0, 0), (2, 1, 0), (3, 2, 0), (4, 3, 1), (8, 7, 3)] {
            let mut pool = Pool::new(threads);
            assert_eq!(pool.crew(), crew);
            pool.set_courteous(true);
            assert_eq!(pool.crew(), courteous, "{threads} threads");
            pool.set_courteous(false);
            assert_eq!(pool.crew(), crew);
        }
    }
}
