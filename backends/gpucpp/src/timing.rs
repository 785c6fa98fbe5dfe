//! What a submit takes: on the device by its events, on the processor by its clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hadal_device::Result;

use crate::driver::status;
use crate::driver::table::Handle;
use crate::gpu::{Gpu, Object};

/// Tickets whose time is kept.
const KEPT: u64 = 16;

/// Events at the beginnings of programs; those at their ends are the lane's.
pub struct Clock {
    begin: Vec<Object>,
    /// The ticket that each event was last used for.
    tickets: [AtomicU64; KEPT as usize],
    gpu: Arc<Gpu>,
}

impl Clock {
    /// A clock of the device.
    pub fn new(gpu: &Arc<Gpu>) -> Result<Clock> {
        let begin = (0..KEPT).map(|_| Object::event(gpu, true));
        Ok(Clock {
            begin: begin.collect::<Result<_>>()?,
            tickets: Default::default(),
            gpu: gpu.clone(),
        })
    }

    fn place(ticket: u64) -> usize {
        (ticket % KEPT) as usize
    }

    /// Puts the beginning of `ticket` into its stream.
    pub fn begin(&self, ticket: u64, stream: Handle) -> Result<()> {
        let place = Clock::place(ticket);
        self.tickets[place].store(0, Ordering::Release);
        let entered = self.gpu.enter()?;
        let record = entered.calls().event_record;
        // SAFETY: the events live as long as this value, and the stream is the caller's.
        let status = unsafe { record(self.begin[place].handle(), stream) };
        self.gpu.done(status, "timing")?;
        self.tickets[place].store(ticket, Ordering::Release);
        Ok(())
    }

    /// Time from the beginning of a finished ticket to `end`, if it is still known. Nothing is
    /// put into the stream meanwhile.
    pub fn time(&self, ticket: u64, end: Handle) -> Option<Duration> {
        let place = Clock::place(ticket);
        if ticket == 0 || self.tickets[place].load(Ordering::Acquire) != ticket {
            return None;
        }
        let entered = self.gpu.enter().ok()?;
        let mut milliseconds = 0f32;
        let elapsed = entered.calls().event_elapsed;
        // SAFETY: both events live and were recorded.
        let status = unsafe { elapsed(&mut milliseconds, self.begin[place].handle(), end) };
        let seconds = f64::from(milliseconds) / 1e3;
        match status {
            status::OK => Duration::try_from_secs_f64(seconds).ok(),
            _ => None,
        }
    }
}
