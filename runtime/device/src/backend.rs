//! The three traits a backend implements. Read the crate's opening page first: it says who
//! promises what.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use crate::{
    Body, BufferDesc, BufferId, DeviceInfo, Error, Pages, PipelineId, Program, Result, Span, Stage,
};

/// A way to reach devices: `host`, `wgpu`, ...
///
/// A value of this trait holds the backend's options; making one never touches a driver.
pub trait Backend: Send + Sync {
    /// Name on the command line and in reports.
    fn name(&self) -> &'static str;

    /// The devices of this machine, best first. `Error::Unavailable` with the cause and the
    /// cure where there are none. Allocates nothing on a device.
    fn devices(&self) -> Result<Vec<DeviceInfo>>;

    /// Opens device `ordinal` of [`Backend::devices`].
    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>>;

    /// What layers that check this backend's calls said so far of its devices, also while
    /// they were closed. Anything is a mistake of the backend.
    fn complaints(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The moment when everything submitted so far is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Ticket(pub u64);

/// An open device. All methods may be called from any thread.
pub trait Device: Send + Sync {
    /// What it is.
    fn info(&self) -> &DeviceInfo;

    /// Memory of at least `desc.bytes` bytes, its content undefined. On error nothing was
    /// allocated.
    fn alloc(&self, desc: &BufferDesc) -> Result<BufferId>;

    /// Gives the memory back. The caller guarantees that no submit that uses it is
    /// unfinished. An unknown id is ignored.
    fn free(&self, buffer: BufferId);

    /// Writes `bytes` (as long as `to`) in order with submits: later submits see it, earlier
    /// ones do not. Offset and length are multiples of 4, or the range ends the buffer.
    fn write(&self, to: Span, bytes: &[u8]) -> Result<()>;

    /// Waits for everything submitted before, then reads the range.
    fn read(&self, from: Span, bytes: &mut [u8]) -> Result<()>;

    /// The kernel `body` with these pipeline constants, compiled; the same arguments give
    /// the same id. `name` is for messages.
    fn pipeline(
        &self,
        name: &str,
        body: &Body,
        constants: &[(&'static str, u32)],
    ) -> Result<PipelineId>;

    /// Checks the program against the device's limits and makes it ready to submit. All
    /// compiling, recording and allocating happens here or in the first submit.
    fn prepare(&self, program: &Program) -> Result<Box<dyn Executable>>;

    /// [`Device::prepare`] on the member of `stage`: for devices that are made of several, which
    /// others need not know. Touched buffers lie on that member or on each.
    fn prepare_stage(&self, program: &Program, _stage: &Stage) -> Result<Box<dyn Executable>> {
        self.prepare(program)
    }

    /// Copies a range of another device to one of this, in order with the submits and writes of
    /// both; `None` where there is no way but through the host. The ticket is this device's.
    fn copy_from(&self, _peer: &dyn Device, _from: Span, _to: Span) -> Option<Result<Ticket>> {
        None
    }

    /// Itself, where devices of its kind copy from each other ([`Device::copy_from`]).
    fn as_any(&self) -> Option<&dyn Any> {
        None
    }

    /// Waits until `ticket` is done.
    fn wait(&self, ticket: Ticket) -> Result<()>;

    /// The last finished ticket.
    fn completed(&self) -> Ticket;

    /// Uses `pages` in place as a read-only buffer, without a copy; `None` if the device
    /// cannot. The pages stay mapped until the buffer is freed.
    fn adopt(&self, _pages: Pages) -> Option<BufferId> {
        None
    }

    /// Counters of work that a warm decode loop must not do: buffers allocated, pipelines
    /// compiled, bind groups made, programs prepared, in this order, since opening.
    fn setup_counts(&self) -> SetupCounts;

    /// Leaves room for others from now on, or no longer: submits may take longer for it. A
    /// device that has nothing to give up ignores it.
    fn set_courteous(&self, _courteous: bool) {}

    /// Device time of a finished submit, where the device measures it; kept for the last
    /// few tickets.
    fn gpu_time(&self, _ticket: Ticket) -> Option<Duration> {
        None
    }

    /// What [`Executable::submit`] cost the processor since opening; zeros where it is not
    /// measured.
    fn submit_cost(&self) -> SubmitCost {
        SubmitCost::default()
    }

    /// What people should know of the device that only came up while it was used, a sentence each:
    /// first a library that failed, so that slower kernels did its work; then what was measured to
    /// choose between a library and kernels.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Processor time spent in [`Executable::submit`], warm or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SubmitCost {
    /// Calls that were counted.
    pub submits: u64,
    /// Time from entering to leaving them.
    pub total: Duration,
    /// The part of it inside the driver (for Vulkan, `vkQueueSubmit`).
    pub driver: Duration,
}

/// How often a device did what should happen only while warming up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SetupCounts {
    /// Buffers allocated or adopted.
    pub buffers: u64,
    /// Kernels compiled.
    pub pipelines: u64,
    /// Bind groups or the like made.
    pub bind_groups: u64,
    /// Programs prepared.
    pub programs: u64,
}

/// A prepared program.
pub trait Executable: Send {
    /// Runs the program with `table[i]` as the buffer of slot `i`, and returns at once or
    /// when it is done. The buffers stay allocated until the ticket is done. A new table may
    /// cost set-up work, one of the last
    /// [`crate::KEPT_TABLES`] costs none. After an error nothing more of the
    /// program runs; what it wrote so far is undefined.
    fn submit(&mut self, table: &[BufferId]) -> Result<Ticket>;
}

/// Checks that a table fits a program; backends call it first in `submit`.
pub fn check_table(program_slots: u16, table: &[BufferId]) -> Result<()> {
    if table.len() == usize::from(program_slots) {
        Ok(())
    } else {
        Err(Error::Invalid(format!(
            "a program of {program_slots} slots was submitted with {} buffers",
            table.len()
        )))
    }
}
