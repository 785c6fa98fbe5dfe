//! An open device: buffers by number, kernels by number, tickets.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hadal_device::{
    Body, BufferDesc, BufferId, Device, DeviceInfo, Error, Executable, PipelineId, Program, Result,
    SetupCounts, Span, SubmitCost, Ticket,
};
use hadal_shaders::wgsl::Target;
use hadal_shaders::wgsl_kernels::{Kernel, Kernels};
use hadal_shaders::wgsl_operands::{check_span, check_write};
use hadal_shaders::wgsl_probe as probe;

use crate::WgpuOptions;
use crate::fault::{Faults, caught};
use crate::kernel::{Compiled, Compiler};
use crate::program::Prepared;
use crate::timing::Timer;
use crate::transfer::{self, ReadStaging};

/// A buffer and its size as asked for; its true size is the next multiple of 16.
#[derive(Clone)]
pub struct Memory {
    /// wgpu's handle.
    pub buffer: wgpu::Buffer,
    /// Bytes asked for.
    pub bytes: u64,
}

/// What the device and its executables share.
pub struct Core {
    /// wgpu's device.
    pub wgpu: wgpu::Device,
    /// Its only queue.
    pub queue: wgpu::Queue,
    /// What it is.
    pub info: DeviceInfo,
    /// `wgpu:0`
    pub name: String,
    faults: Faults,
    buffers: Mutex<HashMap<BufferId, Memory>>,
    next_buffer: AtomicU64,
    kernels: Mutex<Kernels<Compiled>>,
    options: WgpuOptions,
    staging: Mutex<ReadStaging>,
    submits: Mutex<Submits>,
    timer: Mutex<Option<Timer>>,
    cost: Mutex<SubmitCost>,
    done: Arc<AtomicU64>,
    /// Buffers made.
    pub made_buffers: AtomicU64,
    /// Bind groups made.
    pub made_bind_groups: AtomicU64,
    made_programs: AtomicU64,
}

#[derive(Default)]
struct Submits {
    last: u64,
    /// Submits that were not waited for, oldest first.
    open: VecDeque<(Ticket, wgpu::SubmissionIndex)>,
}

/// Locks without a panic: no code of this crate leaves the guarded values half written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    /// The memory of `id`.
    pub fn memory(&self, id: BufferId) -> Result<Memory> {
        let found = lock(&self.buffers).get(&id).cloned();
        found.ok_or_else(|| Error::Invalid(format!("buffer {} does not exist", id.0)))
    }

    /// The kernel of `id`.
    pub fn kernel(&self, id: PipelineId) -> Result<Arc<Kernel<Compiled>>> {
        lock(&self.kernels).get(id)
    }

    /// Memory for `what`; counted.
    pub fn make_buffer(
        &self,
        what: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer> {
        let buffer = caught(&self.wgpu, &self.name, what, bytes, || {
            self.wgpu.create_buffer(&wgpu::BufferDescriptor {
                label: Some(what),
                size: bytes.max(1).next_multiple_of(16),
                usage,
                mapped_at_creation: false,
            })
        })?;
        self.made_buffers.fetch_add(1, Ordering::Relaxed);
        Ok(buffer)
    }

    /// `Err` if the device is lost or something failed while doing `what`.
    pub fn check(&self, what: &str) -> Result<()> {
        self.faults.check(&self.name, what)
    }

    /// Hands the commands that `encode` writes to the device; `entered` is when the call
    /// began whose cost is counted.
    pub fn submit(
        &self,
        entered: Instant,
        encode: impl FnOnce(&mut wgpu::CommandEncoder),
    ) -> Result<Ticket> {
        // Held till the end, so that timestamps get the ticket that they belong to.
        let mut timer = lock(&self.timer);
        let mut encoder = self.wgpu.create_command_encoder(&Default::default());
        if let Some(timer) = &*timer {
            timer.begin(&mut encoder);
        }
        encode(&mut encoder);
        if let Some(timer) = &*timer {
            timer.end(&mut encoder);
        }
        let commands = encoder.finish();
        let mut submits = lock(&self.submits);
        let handed = Instant::now();
        let index = self.queue.submit([commands]);
        let driver = handed.elapsed();
        submits.last += 1;
        let ticket = Ticket(submits.last);
        let done = self.done.clone();
        self.queue.on_submitted_work_done(move || {
            done.fetch_max(ticket.0, Ordering::Release);
        });
        let finished = self.done.load(Ordering::Acquire);
        submits.open.retain(|(open, _)| open.0 > finished);
        submits.open.push_back((ticket, index));
        drop(submits);
        if let Some(timer) = &mut *timer {
            timer.submitted(ticket);
        }
        drop(timer);
        let mut cost = lock(&self.cost);
        cost.submits += 1;
        cost.total += entered.elapsed();
        cost.driver += driver;
        drop(cost);
        self.check("submitting a program")?;
        if self.options.lose_after_submits == Some(ticket.0) {
            self.wgpu.destroy();
            // wgpu tells of the loss in a poll, once nothing runs any more.
            let _ = transfer::wait(&self.wgpu, None);
        }
        Ok(ticket)
    }

    /// `Err` also if the device is lost: its buffers may be gone then, which is no mistake of
    /// the caller's.
    fn check_span(&self, span: Span, length: usize, what: &str) -> Result<Memory> {
        self.check(what)?;
        let memory = self.memory(span.buffer)?;
        check_span(span, length, memory.bytes)?;
        Ok(memory)
    }
}

/// An open device.
pub struct WgpuDevice(Arc<Core>);

impl WgpuDevice {
    /// Takes over an open device and its queue.
    pub fn new(
        wgpu: wgpu::Device,
        queue: wgpu::Queue,
        info: DeviceInfo,
        options: WgpuOptions,
    ) -> Result<WgpuDevice> {
        let faults = Faults::of(&wgpu);
        let with = |half_subnormals, options: WgpuOptions| {
            let target = Target {
                format: None,
                half_subnormals,
                #[cfg(feature = "planted-faults")]
                fault: options.fault,
                #[cfg(feature = "planted-faults")]
                subgroup_size: options.subgroup_size,
            };
            let (wgpu, queue, info) = (wgpu.clone(), queue.clone(), info.clone());
            WgpuDevice::with_target(wgpu, queue, info, options, faults.clone(), target)
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

    fn with_target(
        wgpu: wgpu::Device,
        queue: wgpu::Queue,
        info: DeviceInfo,
        options: WgpuOptions,
        faults: Faults,
        target: Target,
    ) -> WgpuDevice {
        WgpuDevice(Arc::new(Core {
            timer: Mutex::new(Timer::of(&wgpu, &queue)),
            cost: Mutex::default(),
            faults,
            name: info.id(),
            wgpu,
            queue,
            info,
            options,
            buffers: Mutex::default(),
            next_buffer: AtomicU64::new(0),
            kernels: Mutex::new(Kernels::new(target)),
            staging: Mutex::default(),
            submits: Mutex::default(),
            done: Arc::default(),
            made_buffers: AtomicU64::new(0),
            made_bind_groups: AtomicU64::new(0),
            made_programs: AtomicU64::new(0),
        }))
    }
}

impl Device for WgpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    fn alloc(&self, desc: &BufferDesc) -> Result<BufferId> {
        let core = &self.0;
        core.check("allocating")?;
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
            let _ = self.0.wgpu.poll(wgpu::PollType::Poll);
        }
    }

    fn write(&self, to: Span, bytes: &[u8]) -> Result<()> {
        let core = &self.0;
        let memory = core.check_span(to, bytes.len(), "writing a buffer")?;
        check_write(to, memory.bytes)?;
        caught(&core.wgpu, &core.name, "writing a buffer", to.bytes, || {
            transfer::write(&core.wgpu, &core.queue, &memory.buffer, to.offset, bytes)
        })?
    }

    fn read(&self, from: Span, bytes: &mut [u8]) -> Result<()> {
        let core = &self.0;
        let memory = core.check_span(from, bytes.len(), "reading a buffer")?;
        let mut staging = lock(&core.staging);
        let read = caught(
            &core.wgpu,
            &core.name,
            "reading a buffer",
            from.bytes,
            || staging.read(&core.wgpu, &core.queue, &memory.buffer, from.offset, bytes),
        );
        // What the driver said is worth more than that the reading failed.
        core.check("reading a buffer")?;
        core.made_buffers.fetch_add(read??, Ordering::Relaxed);
        Ok(())
    }

    fn pipeline(
        &self,
        name: &str,
        body: &Body,
        constants: &[(&'static str, u32)],
    ) -> Result<PipelineId> {
        let core = &self.0;
        core.check("compiling")?;
        let compiler = Compiler {
            wgpu: &core.wgpu,
            device: &core.name,
            checked: core.options.checked,
        };
        lock(&core.kernels).get_or_compile(name, body, constants, |text| {
            compiler.compile(name, text, constants)
        })
    }

    fn prepare(&self, program: &Program) -> Result<Box<dyn Executable>> {
        self.0.check("preparing a program")?;
        let prepared = Prepared::new(self.0.clone(), program)?;
        self.0.made_programs.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(prepared))
    }

    fn wait(&self, ticket: Ticket) -> Result<()> {
        let core = &self.0;
        if core.done.load(Ordering::Acquire) < ticket.0 {
            let submits = lock(&core.submits);
            let index = submits.open.iter().find(|(open, _)| *open == ticket);
            let index = index.map(|(_, index)| index.clone());
            let known = submits.last >= ticket.0;
            drop(submits);
            if !known {
                return Err(Error::Invalid(format!(
                    "ticket {} was never given",
                    ticket.0
                )));
            }
            let waited = transfer::wait(&core.wgpu, index);
            core.check("waiting for a program")?;
            waited?;
        }
        core.check("waiting for a program")
    }

    fn completed(&self) -> Ticket {
        // An error of the poll is one of the device and shows in the next call.
        let _ = self.0.wgpu.poll(wgpu::PollType::Poll);
        Ticket(self.0.done.load(Ordering::Acquire))
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
        let time = caught(&core.wgpu, &core.name, "reading submit times", 0, || {
            timer.time(&core.wgpu, ticket)
        });
        // A device that fails here says so in the next call that may.
        time.ok()?.ok()?
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
        let device = WgpuDevice::new(wgpu.clone(), queue, info, options).expect("opens");
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
