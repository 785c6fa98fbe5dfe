//! The order of all that is put into a device's two lanes.
//!
//! Programs, short writes and reads go down the compute lane, so their order is that of its
//! stream. Long writes go down the transfer lane beside them; [`Marks`] say what must wait
//! for what.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hadal_device::{CostCounter, Error, Result, Ticket};

use crate::driver::table::Handle;
use crate::fault::Fuse;
use crate::gpu::Gpu;
use crate::lane::{EVENTS, Lane};
use crate::timing::Clock;

/// What of a buffer is under way.
#[derive(Debug, Default)]
pub struct Marks {
    /// Last point of the compute lane that touches it.
    used: AtomicU64,
    /// Last point of the transfer lane that writes it.
    uploaded: AtomicU64,
}

/// Both lanes of a device.
pub struct Lanes {
    compute: Lane,
    transfer: Lane,
    clock: Clock,
    /// Held while marks are read, work is pushed, and marks are set: whatever runs beside it
    /// then sees all of it or nothing.
    order: Mutex<()>,
    /// Last point of the transfer lane that the compute lane has waited for.
    acquired: AtomicU64,
    fuse: Arc<Fuse>,
    /// Programs submitted.
    runs: AtomicU64,
    /// What submitting cost.
    pub cost: CostCounter,
    gpu: Arc<Gpu>,
}

impl Lanes {
    /// The lanes of a device, which is lost when the fuse blows.
    pub fn new(gpu: &Arc<Gpu>, fuse: Arc<Fuse>) -> Result<Lanes> {
        Ok(Lanes {
            compute: Lane::new(gpu, true)?,
            transfer: Lane::new(gpu, false)?,
            clock: Clock::new(gpu)?,
            order: Mutex::default(),
            acquired: AtomicU64::new(0),
            fuse,
            runs: AtomicU64::new(0),
            cost: CostCounter::default(),
            gpu: gpu.clone(),
        })
    }

    fn order(&self) -> MutexGuard<'_, ()> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the `work` of a program over the buffers with these marks into the compute lane, and
    /// measures it. What it names lives until the ticket is done.
    pub fn run(
        &self,
        marks: &[Arc<Marks>],
        work: impl FnOnce(Handle) -> Result<()>,
    ) -> Result<Ticket> {
        self.gpu.check()?;
        if self.fuse.blows(self.runs.fetch_add(1, Ordering::Relaxed)) {
            return Err(self.gpu.faults.lose_on_purpose(&self.gpu.name));
        }
        let _order = self.order();
        let before = Instant::now();
        let ticket = self.compute.last() + 1;
        let marks = || marks.iter().map(Arc::as_ref);
        let point = self.compute(marks, |stream| {
            self.clock.begin(ticket, stream)?;
            work(stream)
        })?;
        self.cost.add_driver(before.elapsed());
        Ok(Ticket(point))
    }

    /// Puts `work`, which touches the buffer with these marks, into the compute lane. What it
    /// names lives until the point is reached.
    pub fn submit(&self, marks: &Marks, work: impl FnOnce(Handle) -> Result<()>) -> Result<u64> {
        let _order = self.order();
        self.compute(|| std::iter::once(marks), work)
    }

    /// The same for work that touches two buffers.
    pub fn submit_both(
        &self,
        one: &Marks,
        two: &Marks,
        work: impl FnOnce(Handle) -> Result<()>,
    ) -> Result<u64> {
        let _order = self.order();
        self.compute(|| [one, two].into_iter(), work)
    }

    /// The callers hold the order.
    fn compute<'m, I: Iterator<Item = &'m Marks>>(
        &self,
        marks: impl Fn() -> I,
        work: impl FnOnce(Handle) -> Result<()>,
    ) -> Result<u64> {
        let uploads = marks().map(|marks| marks.uploaded.load(Ordering::Relaxed));
        let uploaded = uploads.max().unwrap_or(0);
        // Once waited for, an upload is visible to all that comes later in this lane.
        let is_new = uploaded > self.acquired.load(Ordering::Relaxed);
        let after = [(&self.transfer, uploaded)];
        let point = self.compute.push(&after[..usize::from(is_new)], work)?;
        self.acquired.fetch_max(uploaded, Ordering::Relaxed);
        for marks in marks() {
            marks.used.store(point, Ordering::Relaxed);
        }
        Ok(point)
    }

    /// Puts `work`, which writes the buffer with these marks, into the transfer lane.
    pub fn upload(&self, marks: &Marks, work: impl FnOnce(Handle) -> Result<()>) -> Result<u64> {
        let _order = self.order();
        let used = marks.used.load(Ordering::Relaxed);
        let point = self.transfer.push(&[(&self.compute, used)], work)?;
        marks.uploaded.store(point, Ordering::Relaxed);
        Ok(point)
    }

    /// Puts `work`, which reads a buffer of `other` and writes one of this device, into this
    /// compute lane: behind all before in both compute lanes, before all that follows there.
    pub fn exchange(
        &self,
        own: &Marks,
        (other, theirs): (&Lanes, &Marks),
        work: impl FnOnce(Handle) -> Result<()>,
    ) -> Result<u64> {
        // Always in the same order, so that two calls never wait for each other.
        let is_first = std::ptr::from_ref(self) < std::ptr::from_ref(other);
        let (one, two) = if is_first {
            (self, other)
        } else {
            (other, self)
        };
        let (_one, _two) = (one.order(), two.order());
        let after = [
            (&self.transfer, own.uploaded.load(Ordering::Relaxed)),
            (&other.transfer, theirs.uploaded.load(Ordering::Relaxed)),
            (&other.compute, other.compute.last()),
        ];
        let point = self.compute.push(&after, work)?;
        own.used.store(point, Ordering::Relaxed);
        match other.compute.push(&[(&self.compute, point)], |_| Ok(())) {
            Ok(theirs_point) => theirs.used.store(theirs_point, Ordering::Relaxed),
            Err(error) => {
                // Nothing of the other device would wait for the copy.
                self.compute.drain();
                return Err(error);
            }
        }
        Ok(point)
    }

    /// Waits until `ticket` is done.
    pub fn wait(&self, ticket: Ticket) -> Result<()> {
        self.gpu.check()?;
        if ticket.0 > self.compute.last() {
            return Err(Error::Invalid(format!(
                "ticket {} was never given",
                ticket.0
            )));
        }
        self.compute.wait(ticket.0)
    }

    /// Waits until a point of the transfer lane is reached.
    pub fn wait_upload(&self, point: u64) -> Result<()> {
        self.transfer.wait(point)
    }

    /// Waits until nothing that was put into the lanes so far can still run, also after a
    /// loss.
    pub fn drain(&self) {
        // A driver that refuses has lost the device, and nothing runs there.
        self.compute.drain();
        self.transfer.drain();
    }

    /// Waits until nothing that touches the buffer with these marks can still run, also
    /// after a loss.
    pub fn settle(&self, marks: &Marks) {
        let used = marks.used.load(Ordering::Relaxed);
        let uploaded = marks.uploaded.load(Ordering::Relaxed);
        if self.compute.wait(used).is_err() || self.transfer.wait(uploaded).is_err() {
            self.drain();
        }
    }

    /// The last finished submit. After a loss that is the last one: nothing runs any more.
    pub fn completed(&self) -> Ticket {
        Ticket(match self.compute.reached() {
            Ok(point) => point,
            // Nothing runs on a lost device any more.
            Err(_) if self.gpu.check().is_err() => self.compute.last(),
            Err(_) => self.compute.known(),
        })
    }

    /// Device time of a finished program; see `Device::gpu_time`.
    pub fn time(&self, ticket: Ticket) -> Option<Duration> {
        let _order = self.order();
        let last = self.compute.last();
        let is_kept = ticket.0 <= last && last < ticket.0.saturating_add(EVENTS);
        if !is_kept || !self.compute.is_reached(ticket.0).ok()? {
            return None;
        }
        self.clock.time(ticket.0, self.compute.event(ticket.0))
    }
}
