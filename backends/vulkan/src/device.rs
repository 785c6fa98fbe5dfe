//! An open device: buffers by number, kernels by number, tickets.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hadal_device::{
    Body, BufferDesc, BufferId, Device, DeviceInfo, Error, Executable, PipelineId, Program, Result,
    SetupCounts, Span, Ticket,
};
use hadal_shaders::wgsl::Target;
use hadal_shaders::wgsl_kernels::{Kernel, Kernels};
use hadal_shaders::wgsl_operands::{check_span, check_write};
use hadal_shaders::wgsl_probe::keeps_half_subnormals;
use vulkano::buffer::BufferUsage;
use vulkano::device::physical::PhysicalDevice;

use crate::VulkanOptions;
use crate::gpu::Gpu;
use crate::kernel::{Compiled, Compiler};
use crate::memory::{Memory, Place, Shared};
use crate::program::Prepared;
use crate::transfer::Staging;

/// What the device and its executables share.
pub struct Core {
    // Staging waits for its copies when it goes, so it stands before the device.
    staging: Mutex<Staging>,
    buffers: Mutex<HashMap<BufferId, Shared>>,
    next_buffer: AtomicU64,
    kernels: Mutex<Kernels<Compiled>>,
    options: VulkanOptions,
    /// What it is.
    pub info: DeviceInfo,
    /// Descriptor sets made.
    pub made_bind_groups: AtomicU64,
    made_programs: AtomicU64,
    /// The device itself.
    pub gpu: Arc<Gpu>,
}

/// Locks without a panic: no code of this crate leaves the guarded values half written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    /// The memory of `id`.
    pub fn memory(&self, id: BufferId) -> Result<Shared> {
        let found = lock(&self.buffers).get(&id).cloned();
        found.ok_or_else(|| Error::Invalid(format!("buffer {} does not exist", id.0)))
    }

    /// The kernel of `id`.
    pub fn kernel(&self, id: PipelineId) -> Result<Arc<Kernel<Compiled>>> {
        lock(&self.kernels).get(id)
    }

    /// The staging memory, for one transfer at a time.
    pub fn staging(&self) -> MutexGuard<'_, Staging> {
        lock(&self.staging)
    }

    fn check_span(&self, span: Span, length: usize) -> Result<Shared> {
        let memory = self.memory(span.buffer)?;
        check_span(span, length, memory.bytes)?;
        Ok(memory)
    }
}

/// An open device.
pub struct VulkanDevice(Arc<Core>);

/// Opens `physical`, and tries out what no limit tells.
pub fn open(
    physical: Arc<PhysicalDevice>,
    info: DeviceInfo,
    options: VulkanOptions,
) -> Result<VulkanDevice> {
    let gpu = Arc::new(Gpu::open(physical, info.id())?);
    let with = |half_subnormals| {
        VulkanDevice(Arc::new(Core {
            staging: Mutex::default(),
            buffers: Mutex::default(),
            next_buffer: AtomicU64::new(0),
            kernels: Mutex::new(Kernels::new(Target { half_subnormals })),
            options,
            info: info.clone(),
            made_bind_groups: AtomicU64::new(0),
            made_programs: AtomicU64::new(0),
            gpu: gpu.clone(),
        }))
    };
    if options.no_half_conversion {
        return Ok(with(false));
    }
    match keeps_half_subnormals(&with(true)) {
        Ok(keeps) => Ok(with(keeps)),
        Err(lost @ Error::Lost { .. }) => Err(lost),
        // A device without the instruction refuses the kernel; the other way always works.
        Err(_) => Ok(with(false)),
    }
}

impl Device for VulkanDevice {
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
        let usage = BufferUsage::STORAGE_BUFFER;
        let memory = Memory::new(&core.gpu, &desc.label, desc.bytes, usage, Place::Device)?;
        let id = BufferId(core.next_buffer.fetch_add(1, Ordering::Relaxed));
        lock(&core.buffers).insert(id, Arc::new(memory));
        Ok(id)
    }

    fn free(&self, buffer: BufferId) {
        let memory = lock(&self.0.buffers).remove(&buffer);
        // Writes return before their copies are done; after a loss nothing runs.
        let _ = self.0.gpu.wait(self.0.gpu.last());
        drop(memory);
    }

    fn write(&self, to: Span, bytes: &[u8]) -> Result<()> {
        let core = &self.0;
        let memory = core.check_span(to, bytes.len())?;
        check_write(to, memory.bytes)?;
        core.staging().write(&core.gpu, &memory, to.offset, bytes)
    }

    fn read(&self, from: Span, bytes: &mut [u8]) -> Result<()> {
        let core = &self.0;
        let memory = core.check_span(from, bytes.len())?;
        core.staging().read(&core.gpu, &memory, from.offset, bytes)
    }

    fn pipeline(
        &self,
        name: &str,
        body: &Body,
        constants: &[(&'static str, u32)],
    ) -> Result<PipelineId> {
        let core = &self.0;
        core.gpu.check()?;
        let compiler = Compiler {
            gpu: &core.gpu,
            checked: core.options.checked,
        };
        lock(&core.kernels).get_or_compile(name, body, constants, |text| {
            compiler.compile(name, text, constants)
        })
    }

    fn prepare(&self, program: &Program) -> Result<Box<dyn Executable>> {
        self.0.gpu.check()?;
        let prepared = Prepared::new(self.0.clone(), program)?;
        self.0.made_programs.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(prepared))
    }

    fn wait(&self, ticket: Ticket) -> Result<()> {
        self.0.gpu.wait(ticket)
    }

    fn completed(&self) -> Ticket {
        self.0.gpu.completed()
    }

    fn setup_counts(&self) -> SetupCounts {
        let core = &self.0;
        SetupCounts {
            buffers: core.gpu.made_buffers.load(Ordering::Relaxed),
            pipelines: lock(&core.kernels).count(),
            bind_groups: core.made_bind_groups.load(Ordering::Relaxed),
            programs: core.made_programs.load(Ordering::Relaxed),
        }
    }
}
