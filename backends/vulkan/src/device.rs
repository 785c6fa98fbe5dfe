//! An open device: buffers by number, kernels by number, tickets.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hadal_device::{
    Body, BufferDesc, BufferId, Device, DeviceInfo, Error, Executable, Pages, PipelineId, Program,
    Result, SetupCounts, Span, SubmitCost, Ticket,
};
use hadal_shaders::wgsl::Target;
use hadal_shaders::wgsl_kernels::{Kernel, Kernels};
use hadal_shaders::wgsl_operands::{check_span, check_write};
use hadal_shaders::wgsl_probe::keeps_half_subnormals;
use vulkano::buffer::BufferUsage;
use vulkano::device::physical::PhysicalDevice;

use crate::VulkanOptions;
use crate::cache::Cache;
use crate::fault::Fuse;
use crate::gpu::Gpu;
use crate::kernel::{Compiled, Compiler};
use crate::memory::{Memory, Place, Shared};
use crate::program::Prepared;
use crate::transfer::Staging;
use crate::validation::Messages;

/// What the device and its executables share.
pub struct Core {
    // Staging waits for its copies when it goes, so it stands before the device.
    staging: Mutex<Staging>,
    buffers: Mutex<HashMap<BufferId, Shared>>,
    next_buffer: AtomicU64,
    freed: AtomicU64,
    kernels: Mutex<Kernels<Compiled>>,
    /// Pipelines of this and earlier processes. Goes before the device does.
    cache: Arc<Cache>,
    checked: bool,
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
    fn memory(&self, id: BufferId) -> Result<Shared> {
        find(&lock(&self.buffers), id)
    }

    /// The memories of a table.
    pub fn memories(&self, table: &[BufferId]) -> Result<Vec<Shared>> {
        let buffers = lock(&self.buffers);
        table.iter().map(|id| find(&buffers, *id)).collect()
    }

    /// How many buffers were freed: while it stays, every buffer seen is still there.
    pub fn freed(&self) -> u64 {
        self.freed.load(Ordering::Acquire)
    }

    /// The kernel of `id`.
    pub fn kernel(&self, id: PipelineId) -> Result<Arc<Kernel<Compiled>>> {
        lock(&self.kernels).get(id)
    }

    /// The staging memory, for one transfer at a time.
    pub fn staging(&self) -> MutexGuard<'_, Staging> {
        lock(&self.staging)
    }

    fn insert(&self, memory: Memory) -> BufferId {
        let id = BufferId(self.next_buffer.fetch_add(1, Ordering::Relaxed));
        lock(&self.buffers).insert(id, Arc::new(memory));
        id
    }

    /// `Err` also if the device is lost: its buffers may be gone then, which is no mistake of
    /// the caller's.
    fn check_span(&self, span: Span, length: usize) -> Result<Shared> {
        self.gpu.check()?;
        let memory = self.memory(span.buffer)?;
        check_span(span, length, memory.bytes)?;
        Ok(memory)
    }
}

fn find(buffers: &HashMap<BufferId, Shared>, id: BufferId) -> Result<Shared> {
    let found = buffers.get(&id).cloned();
    found.ok_or_else(|| Error::Invalid(format!("buffer {} does not exist", id.0)))
}

impl Drop for Core {
    fn drop(&mut self) {
        self.cache.save();
    }
}

/// An open device.
pub struct VulkanDevice(Arc<Core>);

/// Opens `physical`, and tries out what no limit tells.
pub fn open(
    physical: Arc<PhysicalDevice>,
    info: DeviceInfo,
    options: &VulkanOptions,
    fuse: Arc<Fuse>,
    messages: Arc<Messages>,
) -> Result<VulkanDevice> {
    let gpu = Arc::new(Gpu::open(physical, info.id(), options, messages)?);
    let cache = Arc::new(Cache::open(&gpu.device, options.cache_folder.as_deref()));
    let with = |half_subnormals| {
        VulkanDevice(Arc::new(Core {
            staging: Mutex::default(),
            buffers: Mutex::default(),
            next_buffer: AtomicU64::new(0),
            freed: AtomicU64::new(0),
            kernels: Mutex::new(Kernels::new(Target {
                half_subnormals,
                ..Target::default()
            })),
            cache: cache.clone(),
            checked: options.checked,
            info: info.clone(),
            made_bind_groups: AtomicU64::new(0),
            made_programs: AtomicU64::new(0),
            gpu: gpu.clone(),
        }))
    };
    let half_subnormals = !options.no_half_conversion
        && match keeps_half_subnormals(&with(true)) {
            Ok(keeps) => keeps,
            Err(lost @ Error::Lost { .. }) => return Err(lost),
            // A device without the instruction refuses the kernel; the other way always works.
            Err(_) => false,
        };
    gpu.arm(fuse);
    Ok(with(half_subnormals))
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
        Ok(core.insert(memory))
    }

    fn adopt(&self, pages: Pages) -> Option<BufferId> {
        let core = &self.0;
        let within = (*pages).as_ref().len() as u64 <= core.info.limits.max_buffer_bytes;
        let memory = within.then(|| Memory::adopt(&core.gpu, pages))??;
        Some(core.insert(memory))
    }

    fn free(&self, buffer: BufferId) {
        let core = &self.0;
        let memory = lock(&core.buffers).remove(&buffer);
        // Not before: who sees the new count must not find the buffer.
        core.freed.fetch_add(1, Ordering::AcqRel);
        if let Some(memory) = memory {
            // Writes return before their copies are done.
            core.gpu.settle(&memory.marks);
        }
    }

    fn write(&self, to: Span, bytes: &[u8]) -> Result<()> {
        let core = &self.0;
        let memory = core.check_span(to, bytes.len())?;
        check_write(to, memory.bytes)?;
        if !memory.is_writable() {
            return Err(Error::Invalid(
                "a write to adopted pages, which are read only".into(),
            ));
        }
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
            cache: &core.cache,
            checked: core.checked,
        };
        let mut kernels = lock(&core.kernels);
        let target = kernels.target();
        match body {
            Body::Spirv { file } => kernels.get_or_compile_spirv(name, file, constants, |module| {
                compiler.compile_module(name, module, constants, target)
            }),
            _ => kernels.get_or_compile(name, body, constants, |text| {
                compiler.compile(name, text, constants)
            }),
        }
    }

    fn prepare(&self, program: &Program) -> Result<Box<dyn Executable>> {
        self.0.gpu.check()?;
        let prepared = Prepared::new(self.0.clone(), program)?;
        self.0.made_programs.fetch_add(1, Ordering::Relaxed);
        // Its kernels are compiled now; a process that is killed later has lost nothing.
        self.0.cache.save();
        Ok(Box::new(prepared))
    }

    fn wait(&self, ticket: Ticket) -> Result<()> {
        self.0.gpu.wait(ticket)
    }

    fn completed(&self) -> Ticket {
        self.0.gpu.completed()
    }

    fn gpu_time(&self, ticket: Ticket) -> Option<Duration> {
        self.0.gpu.time(ticket)
    }

    fn submit_cost(&self) -> SubmitCost {
        self.0.gpu.submit_cost()
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hadal_device::{
        Access, Bind, Body, BufferDesc, Device, Dispatch, Features, Operand, Params, Program, Slot,
        Span, Step,
    };
    use hadal_shaders::wgsl::Assembled;

    use super::{VulkanDevice, lock};
    use crate::kernel::Compiler;
    use crate::validation::Messages;
    use crate::{VulkanOptions, fault::Fuse, instance};

    const WORDS: u64 = 128;

    /// Every invocation writes the size of its subgroup and how many are in it.
    const KERNEL: &str = "
        @group(0) @binding(3) var<storage, read_write> y: array<u32>;
        @compute @workgroup_size(64)
        fn main(
            @builtin(local_invocation_index) lane: u32,
            @builtin(subgroup_size) size: u32,
        ) {
            y[2u * lane] = size;
            y[2u * lane + 1u] = subgroupAdd(1u);
        }";

    fn open(subgroup_size: Option<u32>) -> Option<VulkanDevice> {
        let options = VulkanOptions {
            checked: true,
            subgroup_size,
            ..VulkanOptions::default()
        };
        let (physical, info) = instance::enumerate(&options).ok()?.into_iter().next()?;
        let (fuse, messages) = (Arc::new(Fuse::default()), Arc::new(Messages::default()));
        Some(super::open(physical, info, &options, fuse, messages).expect("it opens"))
    }

    /// What [`KERNEL`] writes.
    fn run(device: &VulkanDevice) -> hadal_device::Result<Vec<u32>> {
        let core = &device.0;
        let compiler = Compiler {
            gpu: &core.gpu,
            cache: &core.cache,
            checked: true,
        };
        // In the place of a row that binds three operands.
        let body = Body::Wgsl {
            file: "copy",
            defines: &[],
        };
        let kernel = lock(&core.kernels).get_or_compile("subgroups", &body, &[], |copy| {
            let text = Assembled {
                source: KERNEL.into(),
                bindings: copy.bindings.clone(),
            };
            compiler.compile("subgroups", &text, &[])
        })?;
        let y = device.alloc(&BufferDesc::new("y", 4 * WORDS))?;
        let whole = Bind {
            slot: Slot(0),
            offset: 0,
            bytes: 4 * WORDS,
            access: Access::Write,
        };
        let program = Program {
            slots: 1,
            steps: vec![Step::Dispatch(Dispatch {
                pipeline: kernel,
                groups: [1, 1, 1],
                operands: vec![Operand::Range(whole); 3],
                params: Box::new(Params::default()),
                label: "subgroups".into(),
            })],
        };
        device.prepare(&program)?.submit(&[y])?;
        let mut bytes = vec![0; 4 * WORDS as usize];
        let span = Span {
            buffer: y,
            offset: 0,
            bytes: 4 * WORDS,
        };
        device.read(span, &mut bytes)?;
        let word = |w: &[u8]| u32::from_le_bytes([w[0], w[1], w[2], w[3]]);
        Ok(bytes.chunks_exact(4).map(word).collect())
    }

    #[test]
    fn every_subgroup_is_full_and_of_the_size_that_the_limits_say() {
        const TEST: &str = "every_subgroup_is_full_and_of_the_size_that_the_limits_say";
        for wanted in [None, Some(1), Some(8), Some(24), Some(1 << 20)] {
            let Some(device) = open(wanted) else {
                eprintln!("NOT RUN: {TEST}, there is no device");
                return;
            };
            if !device.info().features.has(Features::SUBGROUPS) {
                eprintln!("NOT RUN: {TEST}, the device has no subgroups");
                return;
            }
            let (smallest, largest) = device.info().limits.subgroup;
            assert_eq!(smallest, largest, "a kernel knows the size");
            let words = run(&device).expect("it runs");
            assert_eq!(words, vec![smallest; WORDS as usize], "{wanted:?}");
        }
    }
}
