//! A stream and its points: whatever is put into it makes the next point, in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hadal_device::Result;

use crate::driver::status;
use crate::driver::table::Handle;
use crate::gpu::{Gpu, Object};

/// Points that have an event. Before one is used again its last point is waited for, so that
/// not more than so many are under way.
pub const EVENTS: u64 = 64;

/// A stream and its points.
pub struct Lane {
    stream: Object,
    events: Vec<Object>,
    /// The last point made. Changes only in `push`, whose callers take turns.
    last: AtomicU64,
    /// A point known to be reached, so that the driver need not be asked.
    known: AtomicU64,
    gpu: Arc<Gpu>,
}

impl Lane {
    /// A new stream of the device; its events tell times if they are `timed`.
    pub fn new(gpu: &Arc<Gpu>, timed: bool) -> Result<Lane> {
        // Once for all of them.
        let _entered = gpu.enter()?;
        let events = (0..EVENTS).map(|_| Object::event(gpu, timed));
        Ok(Lane {
            stream: Object::stream(gpu)?,
            events: events.collect::<Result<_>>()?,
            last: AtomicU64::new(0),
            known: AtomicU64::new(0),
            gpu: gpu.clone(),
        })
    }

    /// The event of `point`, until as many more points are made as there are events.
    pub fn event(&self, point: u64) -> Handle {
        self.events[(point % EVENTS) as usize].handle()
    }

    /// The last point made; 0 before the first.
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// Whether `point` is known to be reached; does not ask the driver.
    fn is_known(&self, point: u64) -> bool {
        point <= self.known.load(Ordering::Acquire)
    }

    /// Whether `point` is reached.
    pub fn is_reached(&self, point: u64) -> Result<bool> {
        if self.is_known(point) {
            return Ok(true);
        }
        // An event that was never recorded would answer that it is done.
        if point > self.last() {
            return Ok(false);
        }
        let entered = self.gpu.enter()?;
        // SAFETY: events live as long as this value.
        match unsafe { (entered.calls().event_query)(self.event(point)) } {
            status::OK => {
                self.known.fetch_max(point, Ordering::AcqRel);
                Ok(true)
            }
            status::NOT_READY => Ok(false),
            other => Err(self.gpu.error(other, "asking for progress", 0)),
        }
    }

    /// The last point known to be reached; does not ask the driver.
    pub fn known(&self) -> u64 {
        self.known.load(Ordering::Acquire)
    }

    /// The last point reached.
    pub fn reached(&self) -> Result<u64> {
        let last = self.last();
        if self.is_reached(last)? {
            return Ok(last);
        }
        let mut next = self.known.load(Ordering::Acquire) + 1;
        while next < last && self.is_reached(next)? {
            next += 1;
        }
        Ok(self.known.load(Ordering::Acquire))
    }

    /// Waits until `point`, which was made, is reached.
    pub fn wait(&self, point: u64) -> Result<()> {
        if self.is_known(point) {
            return Ok(());
        }
        let entered = self.gpu.enter()?;
        // An event that was used again since is of a later point, which also does.
        // SAFETY: events live as long as this value.
        let status = unsafe { (entered.calls().event_synchronize)(self.event(point)) };
        self.gpu.done(status, "waiting")?;
        // Another thread may have met a loss, after which no result can be trusted.
        self.gpu.check()?;
        self.known.fetch_max(point, Ordering::AcqRel);
        Ok(())
    }

    /// Waits for all that is in the stream, also after a loss. False if the driver did not.
    pub fn drain(&self) -> bool {
        let (entered, _) = self.gpu.enter_lost();
        // SAFETY: the stream lives as long as this value.
        let status = unsafe { (entered.calls().stream_synchronize)(self.stream.handle()) };
        status == status::OK
    }

    /// Lets what is pushed from now on begin after `point` of `lane`.
    fn after(&self, lane: &Lane, point: u64) -> Result<()> {
        if lane.is_known(point) {
            return Ok(());
        }
        let entered = self.gpu.enter()?;
        let wait = entered.calls().stream_wait;
        // SAFETY: the stream and the event live; the lanes may be of two devices of a driver.
        let status = unsafe { wait(self.stream.handle(), lane.event(point), 0) };
        self.gpu.done(status, "ordering work")
    }

    /// Puts what `work` puts into the stream behind all before and behind these points of
    /// other lanes, and makes a point of it. On error nothing of it runs any more.
    ///
    /// One call of a lane at a time; what `work` names lives until the point is reached.
    pub fn push(
        &self,
        after: &[(&Lane, u64)],
        work: impl FnOnce(Handle) -> Result<()>,
    ) -> Result<u64> {
        let point = self.last() + 1;
        self.wait(point.saturating_sub(EVENTS))?;
        let entered = self.gpu.enter()?;
        let mut pushed = after
            .iter()
            .try_for_each(|(lane, point)| self.after(lane, *point));
        pushed = pushed.and_then(|()| work(self.stream.handle()));
        pushed = pushed.and_then(|()| {
            let record = entered.calls().event_record;
            // SAFETY: the stream and its events live as long as this value.
            let status = unsafe { record(self.event(point), self.stream.handle()) };
            self.gpu.done(status, "marking progress")
        });
        if let Err(error) = pushed {
            // A part of it may be in the stream, and would have no point to be known by.
            if !self.drain() && self.gpu.check().is_ok() {
                let why = || format!("{error}, and then the work before did not end");
                return Err(self.gpu.faults.lose(&self.gpu.name, why));
            }
            return Err(error);
        }
        self.last.store(point, Ordering::Release);
        Ok(point)
    }
}
