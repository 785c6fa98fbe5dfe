//! An open device, and copies between two.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hadal_device::{
    Body, BufferDesc, BufferId, Device, DeviceInfo, Error, Executable, PipelineId, Program, Result,
    SetupCounts, Span, SubmitCost, Ticket,
};
use hadal_shaders::wgsl_operands::check_write;

use crate::core::Core;
use crate::driver::{Current, Own};
use crate::gpu::Gpu;
use crate::memory::Memory;
use crate::native::Native;
use crate::program::Prepared;

/// An open device.
pub struct GpuDevice(Arc<Core>);

impl GpuDevice {
    /// The device of `core`.
    pub(crate) fn new(core: Core) -> GpuDevice {
        GpuDevice(Arc::new(core))
    }
}

impl Device for GpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    fn alloc(&self, desc: &BufferDesc) -> Result<BufferId> {
        let core = &self.0;
        core.gpu.check()?;
        if desc.bytes > core.info.limits.max_buffer_bytes {
            return Err(Error::OutOfMemory {
                what: desc.label.clone(),
                memory: core.gpu.name.clone(),
                wanted_bytes: desc.bytes,
            });
        }
        core.alloc(&desc.label, desc.bytes)
    }

    fn free(&self, buffer: BufferId) {
        self.0.free(buffer);
    }

    fn write(&self, to: Span, bytes: &[u8]) -> Result<()> {
        let memory = self.0.span(to, bytes.len())?;
        check_write(to, memory.bytes)?;
        self.0.write(&memory, to.offset, bytes)
    }

    fn read(&self, from: Span, bytes: &mut [u8]) -> Result<()> {
        let memory = self.0.span(from, bytes.len())?;
        self.0.read(&memory, from.offset, bytes)
    }

    fn pipeline(
        &self,
        name: &str,
        body: &Body,
        constants: &[(&'static str, u32)],
    ) -> Result<PipelineId> {
        let core = &self.0;
        core.gpu.check()?;
        let limits = &core.info.limits;
        core.kernels()
            .find(&core.gpu, limits, (name, body), constants)
    }

    fn prepare(&self, program: &Program) -> Result<Box<dyn Executable>> {
        self.0.gpu.check()?;
        let prepared = Prepared::new(self.0.clone(), program)?;
        self.0.made_programs.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(prepared))
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn copy_from(&self, peer: &dyn Device, from: Span, to: Span) -> Option<Result<Ticket>> {
        let peer = peer.as_any()?.downcast_ref::<GpuDevice>()?;
        match copy_between(peer, from, self, to) {
            Err(Error::Unsupported { .. }) => None,
            copied => Some(copied),
        }
    }

    fn wait(&self, ticket: Ticket) -> Result<()> {
        self.0.lanes.wait(ticket)
    }

    fn completed(&self) -> Ticket {
        self.0.lanes.completed()
    }

    fn gpu_time(&self, ticket: Ticket) -> Option<Duration> {
        self.0.lanes.time(ticket)
    }

    fn submit_cost(&self) -> SubmitCost {
        self.0.lanes.cost.read()
    }

    fn notes(&self) -> Vec<String> {
        let failed = self.0.gpu.note.get().cloned();
        let measured = self.0.native.as_ref().map(Native::measured);
        failed
            .into_iter()
            .chain(measured.into_iter().flatten())
            .collect()
    }

    fn setup_counts(&self) -> SetupCounts {
        let core = &self.0;
        SetupCounts {
            buffers: core.gpu.made_buffers.load(Ordering::Relaxed),
            pipelines: core.kernels().count(),
            bind_groups: core.made_bind_groups.load(Ordering::Relaxed),
            programs: core.made_programs.load(Ordering::Relaxed),
        }
    }
}

/// Copies a range of one device to a range of another (or of the same one; the ranges must
/// not overlap then), in order with the submits and writes of both. The ticket is `to`'s.
///
/// Both devices are of one vendor's driver, which takes the shortest way there is between
/// them, through the host's memory where there is no other; anything else is
/// [`Error::Unsupported`].
pub fn copy_between(
    from: &GpuDevice,
    source: Span,
    to: &GpuDevice,
    target: Span,
) -> Result<Ticket> {
    let (theirs, own) = (&from.0, &to.0);
    if source.bytes != target.bytes {
        return Err(Error::Invalid(format!(
            "a copy of {} bytes to {}",
            source.bytes, target.bytes
        )));
    }
    let length = usize::try_from(source.bytes).unwrap_or(usize::MAX);
    let read = theirs.span(source, length)?;
    let written = own.span(target, length)?;
    if Arc::ptr_eq(&read, &written) && source.offset.abs_diff(target.offset) < source.bytes {
        return Err(Error::Invalid("a copy between ranges that overlap".into()));
    }
    if !std::ptr::eq(theirs.gpu.driver, own.gpu.driver) {
        return Err(Error::Unsupported {
            what: format!("a copy from {} to {}", theirs.gpu.name, own.gpu.name),
            why: "they are of two drivers".into(),
        });
    }
    if theirs.gpu.current != own.gpu.current {
        own.gpu.reach(&theirs.gpu)?;
    }
    let copy = Copy {
        from: (&theirs.gpu, &read, source.offset),
        to: (&own.gpu, &written, target.offset),
        bytes: length,
    };
    // The caller's buffers live until the ticket is done, by the same promise as a submit's.
    let work = |stream| copy.push(stream);
    let point = match Arc::ptr_eq(theirs, own) {
        true => own.lanes.submit_both(&read.marks, &written.marks, work)?,
        false => {
            let other = (&theirs.lanes, read.marks.as_ref());
            own.lanes.exchange(&written.marks, other, work)?
        }
    };
    Ok(Ticket(point))
}

/// A copy between ranges that are there.
struct Copy<'c> {
    from: (&'c Gpu, &'c Memory, u64),
    to: (&'c Gpu, &'c Memory, u64),
    bytes: usize,
}

impl Copy<'_> {
    /// Puts it into `stream`, which is the target's.
    fn push(&self, stream: crate::driver::table::Handle) -> Result<()> {
        let (theirs, read, source) = self.from;
        let (own, written, target) = self.to;
        let (from, to) = (read.address + source, written.address + target);
        let entered = own.enter()?;
        // SAFETY: both ranges lie in memory of their devices, which are open.
        let status = unsafe {
            match (&own.driver.own, own.current, theirs.current) {
                (Own::Cuda(calls), Current::Context(here), Current::Context(there))
                    if here != there =>
                {
                    (calls.copy_peer)(to, here, from, there, self.bytes, stream)
                }
                (Own::Hip(calls), Current::Number(here), Current::Number(there))
                    if here != there =>
                {
                    (calls.copy_peer)(to, here, from, there, self.bytes, stream)
                }
                _ => (entered.calls().copy_within)(to, from, self.bytes, stream),
            }
        };
        own.done(status, "copying between devices")
    }
}
