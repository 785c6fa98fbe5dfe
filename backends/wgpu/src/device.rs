//! An open device: the contract of [`Device`] over what `core` holds.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hadal_device::{
    Body, BufferDesc, BufferId, Device, DeviceInfo, Error, Executable, PipelineId, Program, Result,
    SetupCounts, Span, SubmitCost, Ticket,
};
use hadal_shaders::wgsl::Target;
use hadal_shaders::wgsl_kernels::Kernels;
use hadal_shaders::wgsl_operands::check_write;
use hadal_shaders::wgsl_probe as probe;

use crate::WgpuOptions;
use crate::core::{Core, Handles, Memory, lock};
use crate::fault::Faults;
use crate::kernel::Compiler;
use crate::program::Prepared;
use crate::transfer;

/// An open device: one of our own ([`crate::WgpuBackend`]), or the application's
/// ([`crate::from_wgpu`]).
pub struct WgpuDevice(Arc<Core>);

impl WgpuDevice {
    /// Takes an open device into use.
    pub(crate) fn new(
        handles: Handles,
        info: DeviceInfo,
        options: WgpuOptions,
    ) -> Result<WgpuDevice> {
        let faults = match handles.shared {
            true => Faults::default(),
            false => Faults::of(&handles.wgpu),
        };
        let with = |half_subnormals, options: WgpuOptions| {
            let target = Target {
                format: None,
                half_subnormals,
                #[cfg(feature = "planted-faults")]
                fault: options.fault,
                #[cfg(feature = "planted-faults")]
                subgroup_size: options.subgroup_size,
            };
            let (handles, info, faults) = (handles.clone(), info.clone(), faults.clone());
            let core = Core::new(handles, info, options, faults, Kernels::new(target));
            WgpuDevice(Arc::new(core))
        };
        if options.no_half_conversion {
            return Ok(with(false, options));
        }
        // Submits of the probe are not counted.
        let calm = WgpuOptions {
            lose_after_submits: None,
            ..options
        };
        let hopeful = with(true, calm);
        let half_subnormals = match probe::keeps_half_subnormals(&hopeful) {
            Ok(keeps) => keeps,
            Err(lost @ Error::Lost { .. }) => return Err(lost),
            // A device without the instruction refuses the kernel; the other way always works.
            Err(_) => false,
        };
        Ok(with(half_subnormals, options))
    }

    /// wgpu's handle of a buffer, so that what a program wrote can be used without a way over
    /// the host; `None` if there is no such buffer. It has the usages `STORAGE`, `COPY_SRC` and
    /// `COPY_DST`. It is destroyed when the runtime frees it, whoever holds it: use after that
    /// is a validation error.
    pub fn buffer(&self, id: BufferId) -> Option<wgpu::Buffer> {
        self.0.memory(id).ok().map(|memory| memory.buffer)
    }
}

impl Device for WgpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    fn alloc(&self, desc: &BufferDesc) -> Result<BufferId> {
        let core = &self.0;
        core.probe("allocating")?;
        if desc.bytes > core.info.limits.max_buffer_bytes {
            return Err(Error::OutOfMemory {
                what: desc.label.clone(),
                memory: core.name.clone(),
                wanted_bytes: desc.bytes,
            });
        }
        let usage = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST;
        let buffer = core.make_buffer(&desc.label, desc.bytes, usage)?;
        let id = BufferId(core.next_buffer.fetch_add(1, Ordering::Relaxed));
        let bytes = desc.bytes;
        lock(&core.buffers).insert(id, Memory { buffer, bytes });
        Ok(id)
    }

    fn free(&self, buffer: BufferId) {
        let memory = lock(&self.0.buffers).remove(&buffer);
        if let Some(memory) = memory {
            // Bind groups of executables may still name it; its memory goes all the same.
            memory.buffer.destroy();
            // wgpu frees in polls; an error of this one shows in the next call.
            self.0.tend();
        }
    }

    fn write(&self, to: Span, bytes: &[u8]) -> Result<()> {
        let core = &self.0;
        let memory = core.check_span(to, bytes.len(), "writing a buffer")?;
        check_write(to, memory.bytes)?;
        transfer::write(core, &memory.buffer, to.offset, bytes)
    }

    fn read(&self, from: Span, bytes: &mut [u8]) -> Result<()> {
        let core = &self.0;
        let memory = core.check_span(from, bytes.len(), "reading a buffer")?;
        let made = lock(&core.staging).read(core, &memory.buffer, from.offset, bytes);
        // What the driver said is worth more than that the reading failed.
        core.check("reading a buffer")?;
        core.made_buffers.fetch_add(made?, Ordering::Relaxed);
        Ok(())
    }

    fn pipeline(
        &self,
        name: &str,
        body: &Body,
        constants: &[(&'static str, u32)],
    ) -> Result<PipelineId> {
        let core = &self.0;
        core.probe("compiling")?;
        let compiler = Compiler { core };
        lock(&core.kernels).get_or_compile(name, body, constants, |text| {
            compiler.compile(name, text, constants)
        })
    }

    fn prepare(&self, program: &Program) -> Result<Box<dyn Executable>> {
        self.0.probe("preparing a program")?;
        let prepared = Prepared::new(self.0.clone(), program)?;
        self.0.made_programs.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(prepared))
    }

    fn wait(&self, ticket: Ticket) -> Result<()> {
        self.0.wait(ticket)
    }

    fn completed(&self) -> Ticket {
        self.0.tend();
        self.0.done()
    }

    fn setup_counts(&self) -> SetupCounts {
        let core = &self.0;
        SetupCounts {
            buffers: core.made_buffers.load(Ordering::Relaxed),
            pipelines: lock(&core.kernels).count(),
            bind_groups: core.made_bind_groups.load(Ordering::Relaxed),
            programs: core.made_programs.load(Ordering::Relaxed),
        }
    }

    fn gpu_time(&self, ticket: Ticket) -> Option<Duration> {
        let core = &self.0;
        if self.completed() < ticket {
            return None;
        }
        let mut timer = lock(&core.timer);
        let timer = timer.as_mut()?;
        // A device that fails here says so in the next call that may.
        timer.time(core, ticket).ok()?
    }

    fn submit_cost(&self) -> SubmitCost {
        *lock(&self.0.cost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{WgpuBackend, adapter};

    #[test]
    fn a_lost_device_answers_lost_to_everything() {
        let options = WgpuOptions::default();
        let mut found = match adapter::enumerate(&options) {
            Ok(found) => found,
            Err(e) => {
                eprintln!("a_lost_device_answers_lost_to_everything: not run, {e}");
                return;
            }
        };
        let (adapter, info) = found.swap_remove(0);
        let (wgpu, queue) = adapter::request(&adapter, &info, &options).expect("opens");
        let handles = Handles {
            wgpu: wgpu.clone(),
            queue,
            shared: false,
        };
        let device = WgpuDevice::new(handles, info, options).expect("opens");
        let buffer = device.alloc(&BufferDesc::new("test", 16)).expect("memory");
        let span = Span {
            buffer,
            offset: 0,
            bytes: 16,
        };
        let mut executable = device
            .prepare(&Program {
                slots: 1,
                steps: Vec::new(),
            })
            .expect("an empty program");
        wgpu.destroy();
        let _ = wgpu.poll(wgpu::PollType::Poll);
        let results = [
            device.alloc(&BufferDesc::new("test", 16)).map(|_| ()),
            device.write(span, &[0; 16]),
            device.read(span, &mut [0; 16]),
            device.prepare(&Program::default()).map(|_| ()),
            executable.submit(&[buffer]).map(|_| ()),
        ];
        for result in results {
            assert!(matches!(result, Err(Error::Lost { .. })), "{result:?}");
        }
        device.free(buffer);
        // Another device of the same adapter works.
        use hadal_device::Backend;
        let again = WgpuBackend::new(options).open(0).expect("opens again");
        again.alloc(&BufferDesc::new("test", 16)).expect("memory");
    }
}
