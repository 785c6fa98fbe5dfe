//! One open device: its two lanes, and the order of all that is submitted to them.
//!
//! Programs, short writes and reads go down the compute lane, so their order is that of the
//! queue. Long writes go down the transfer lane beside them, on a queue of its own where the
//! device has one; [`Marks`] say what must wait for what.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ash::vk;
use hadal_device::{CostCounter, Error, Result, SubmitCost, Ticket};
use vulkano::device::Device;
use vulkano::device::physical::PhysicalDevice;
use vulkano::instance::debug::DebugUtilsMessenger;

use crate::budget::Budget;
use crate::fault::{Faults, Fuse};
use crate::lane::Lane;
use crate::offer::Offer;
use crate::queues::open_queues;
use crate::timing::Clock;
use crate::validation::Messages;
use crate::{VulkanBackend, VulkanOptions};

/// How long a wait lasts before it looks whether another thread met a loss.
const WAIT: Duration = Duration::from_millis(100);

/// How long a lost device is given to end its work; drivers promise some finite time.
const DRAIN: Duration = Duration::from_secs(10);

/// What of a buffer is under way.
#[derive(Default)]
pub struct Marks {
    /// Last point of the compute lane that touches it.
    used: AtomicU64,
    /// Last point of the transfer lane that writes it.
    uploaded: AtomicU64,
}

/// An open device.
pub struct Gpu {
    compute: Lane,
    transfer: Lane,
    /// Held while marks are read, work is submitted, and marks are set: whatever runs beside
    /// it then sees all of a submit or nothing.
    order: Mutex<()>,
    /// Last point of the transfer lane that the compute lane has waited for.
    acquired: AtomicU64,
    clock: Option<Clock>,
    /// What submitting cost.
    pub cost: CostCounter,
    /// Memory in use.
    pub budget: Arc<Budget>,
    /// What it offers beyond the least.
    pub offer: Offer,
    /// `vulkan:0`
    pub name: String,
    faults: Faults,
    /// The device is lost and did not end its work in time: nothing waits for it again.
    given_up: AtomicBool,
    fuse: OnceLock<Arc<Fuse>>,
    messages: Arc<Messages>,
    /// Programs submitted since a fuse was put in.
    runs: AtomicU64,
    /// Buffers made.
    pub made_buffers: AtomicU64,
    /// vulkano's device.
    pub device: Arc<Device>,
    /// Hears of what is left when the device goes, so it stands behind it.
    _messenger: Option<DebugUtilsMessenger>,
}

impl Gpu {
    /// Opens `physical`, which is called `name`.
    pub fn open(
        physical: Arc<PhysicalDevice>,
        name: String,
        options: &VulkanOptions,
        messages: Arc<Messages>,
    ) -> Result<Gpu> {
        let unavailable = |why: String| Error::Unavailable {
            backend: VulkanBackend::NAME,
            why: format!("{name} could not be opened: {why}"),
        };
        let messenger = messages.listen(physical.instance());
        let offer = Offer::of(&physical, options);
        let budget = Arc::new(Budget::new(&physical, options.memory_bytes));
        let queues = open_queues(physical, &offer).map_err(unavailable)?;
        let device = queues.device;
        let lane =
            |queue| Lane::new(&device, queue).map_err(|error| unavailable(error.to_string()));
        let (compute, transfer) = (lane(queues.compute)?, lane(queues.transfer)?);
        let clock = Clock::new(&device, compute.family())
            .map_err(|error| unavailable(error.to_string()))?;
        Ok(Gpu {
            compute,
            transfer,
            order: Mutex::default(),
            acquired: AtomicU64::new(0),
            clock,
            cost: CostCounter::default(),
            budget,
            offer,
            name,
            faults: Faults::default(),
            given_up: AtomicBool::new(false),
            fuse: OnceLock::new(),
            messages,
            runs: AtomicU64::new(0),
            made_buffers: AtomicU64::new(0),
            device,
            _messenger: messenger,
        })
    }

    /// From now on the device may be lost on purpose.
    pub fn arm(&self, fuse: Arc<Fuse>) {
        // It is armed once, where it is opened.
        let _ = self.fuse.set(fuse);
    }

    /// The family that programs are recorded for.
    pub fn family(&self) -> u32 {
        self.compute.family()
    }

    /// The family that long writes are recorded for.
    pub fn transfer_family(&self) -> u32 {
        self.transfer.family()
    }

    /// `Err` if the device is lost, or a validation layer found a mistake.
    pub fn check(&self) -> Result<()> {
        self.faults.check(&self.name)?;
        self.messages.check(&self.name)
    }

    /// What `error` is; see [`Faults::error`].
    pub fn error(
        &self,
        error: impl Into<vulkano::Validated<vulkano::VulkanError>>,
        what: &str,
        bytes: u64,
    ) -> Error {
        self.faults.error(error, &self.name, what, bytes)
    }

    /// Counts a buffer.
    pub fn count_buffer(&self) {
        self.made_buffers.fetch_add(1, Ordering::Relaxed);
    }

    /// Runs the commands of a program over the buffers with these marks, and measures it.
    ///
    /// # Safety
    /// As [`Lane::submit`], for [`Gpu::family`].
    pub unsafe fn run(&self, commands: vk::CommandBuffer, marks: &[Arc<Marks>]) -> Result<Ticket> {
        self.check()?;
        if let Some(fuse) = self.fuse.get()
            && fuse.blows(self.runs.fetch_add(1, Ordering::Relaxed))
        {
            return Err(self.error(vulkano::VulkanError::DeviceLost, "an injected fault", 0));
        }
        let marks = || marks.iter().map(Arc::as_ref);
        // SAFETY: the caller's promise.
        unsafe { self.compute(commands, marks, self.clock.as_ref()) }
    }

    /// Runs commands that touch the buffer with these marks.
    ///
    /// # Safety
    /// As [`Lane::submit`], for [`Gpu::family`].
    pub unsafe fn submit(&self, commands: vk::CommandBuffer, marks: &Marks) -> Result<Ticket> {
        self.check()?;
        // SAFETY: the caller's promise.
        unsafe { self.compute(commands, || std::iter::once(marks), None) }
    }

    unsafe fn compute<'m, I: Iterator<Item = &'m Marks>>(
        &self,
        commands: vk::CommandBuffer,
        marks: impl Fn() -> I,
        clock: Option<&Clock>,
    ) -> Result<Ticket> {
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let uploaded = marks()
            .map(|marks| marks.uploaded.load(Ordering::Relaxed))
            .max()
            .unwrap_or(0);
        // Once waited for, an upload is visible to all that comes later in this lane.
        let is_new = uploaded > self.acquired.load(Ordering::Relaxed);
        let after = is_new.then_some((&self.transfer, uploaded));
        let mut list = [
            commands,
            vk::CommandBuffer::null(),
            vk::CommandBuffer::null(),
        ];
        let mut count = 1;
        let next = self.compute.last() + 1;
        if let Some(clock) = clock {
            list = clock.around(commands, next);
            count = 3;
        }
        let before = Instant::now();
        // SAFETY: the caller's promise; the lock gives the lane to this call. The clock's
        // commands live as long as the lane.
        let point = unsafe { self.compute.submit(&list[..count], after) }
            .map_err(|error| self.error(error, "submitting", 0))?;
        if clock.is_some() {
            self.cost.add_driver(before.elapsed());
        }
        self.acquired.fetch_max(uploaded, Ordering::Relaxed);
        for marks in marks() {
            marks.used.store(point, Ordering::Relaxed);
        }
        Ok(Ticket(point))
    }

    /// Runs commands that write the buffer with these marks, beside the compute lane. The
    /// result is a point of the transfer lane.
    ///
    /// # Safety
    /// As [`Lane::submit`], for [`Gpu::transfer_family`].
    pub unsafe fn upload(&self, commands: vk::CommandBuffer, marks: &Marks) -> Result<u64> {
        self.check()?;
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let used = marks.used.load(Ordering::Relaxed);
        let after = (!self.compute.is_reached(used)).then_some((&self.compute, used));
        // SAFETY: the caller's promise; the lock gives the lane to this call.
        let point = unsafe { self.transfer.submit(&[commands], after) }
            .map_err(|error| self.error(error, "uploading", 0))?;
        marks.uploaded.store(point, Ordering::Relaxed);
        Ok(point)
    }

    /// Waits until `ticket` is done.
    pub fn wait(&self, ticket: Ticket) -> Result<()> {
        if ticket.0 > self.compute.last() {
            self.check()?;
            return Err(Error::Invalid(format!(
                "ticket {} was never given",
                ticket.0
            )));
        }
        self.wait_for(&self.compute, ticket.0)
    }

    /// Waits until a point of the transfer lane is reached.
    pub fn wait_upload(&self, point: u64) -> Result<()> {
        self.wait_for(&self.transfer, point)
    }

    fn wait_for(&self, lane: &Lane, point: u64) -> Result<()> {
        loop {
            self.check()?;
            let reached = lane
                .wait(point, WAIT)
                .map_err(|error| self.error(error, "waiting", 0))?;
            if reached {
                return Ok(());
            }
        }
    }

    /// Waits until nothing that was submitted so far can still run, also after a loss.
    pub fn drain(&self) {
        self.finish(&self.compute, self.compute.last());
        self.finish(&self.transfer, self.transfer.last());
    }

    /// Waits until nothing that touches the buffer with these marks can still run, also
    /// after a loss.
    pub fn settle(&self, marks: &Marks) {
        self.finish(&self.compute, marks.used.load(Ordering::Relaxed));
        self.finish(&self.transfer, marks.uploaded.load(Ordering::Relaxed));
    }

    fn finish(&self, lane: &Lane, point: u64) {
        let begin = Instant::now();
        // An error is a loss, after which nothing runs.
        while !self.given_up.load(Ordering::Relaxed)
            && let Ok(false) = lane.wait(point, WAIT)
        {
            if self.faults.check(&self.name).is_err() && begin.elapsed() > DRAIN {
                self.given_up.store(true, Ordering::Relaxed);
            }
        }
    }

    /// The last finished submit. After a loss that is the last one: nothing runs any more.
    pub fn completed(&self) -> Ticket {
        let last = self.compute.last();
        if self.faults.check(&self.name).is_err() {
            return Ticket(last);
        }
        Ticket(self.compute.reached().unwrap_or(last))
    }

    /// Device time of a finished program; see `Device::gpu_time`.
    pub fn time(&self, ticket: Ticket) -> Option<Duration> {
        let clock = self.clock.as_ref()?;
        // There is no submit 0, and its queries may never have been written.
        if ticket.0 == 0 || !self.compute.is_reached(ticket.0) {
            return None;
        }
        clock.time(ticket.0)
    }

    /// What submitting cost so far.
    pub fn submit_cost(&self) -> SubmitCost {
        self.cost.read()
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // Whatever still runs must end before the timelines go.
        self.drain();
    }
}
