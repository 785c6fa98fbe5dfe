//! What an open device and its programs share: wgpu's handles, buffers by number, the order
//! of submits.
//!
//! Decides when a submit may go to a queue that the application uses too; must not know what
//! a program does.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hadal_device::{BufferId, DeviceInfo, Error, PipelineId, Result, Span, SubmitCost, Ticket};
use hadal_shaders::wgsl_kernels::{Kernel, Kernels};
use hadal_shaders::wgsl_operands::check_span;

use crate::WgpuOptions;
use crate::fault::{self, Faults};
use crate::kernel::Compiled;
use crate::timing::Timer;
use crate::transfer::ReadStaging;

/// A buffer and its size as asked for; its true size is the next multiple of 16.
#[derive(Clone)]
pub struct Memory {
    /// wgpu's handle.
    pub buffer: wgpu::Buffer,
    /// Bytes asked for.
    pub bytes: u64,
}

/// wgpu's handles of one device.
#[derive(Clone)]
pub struct Handles {
    /// The device.
    pub wgpu: wgpu::Device,
    /// Its only queue.
    pub queue: wgpu::Queue,
    /// They are the application's, which submits too and has its own error handler.
    pub shared: bool,
}

/// Something under way that no ticket stands for.
pub struct Handed {
    index: wgpu::SubmissionIndex,
    is_done: Arc<AtomicBool>,
}

/// What the device and its executables share.
pub struct Core {
    /// wgpu's device.
    pub wgpu: wgpu::Device,
    /// Its only queue.
    pub queue: wgpu::Queue,
    pub(crate) shared: bool,
    /// What it is.
    pub info: DeviceInfo,
    /// `wgpu:0`
    pub name: String,
    pub(crate) faults: Faults,
    pub(crate) buffers: Mutex<HashMap<BufferId, Memory>>,
    pub(crate) next_buffer: AtomicU64,
    pub(crate) kernels: Mutex<Kernels<Compiled>>,
    pub(crate) options: WgpuOptions,
    pub(crate) staging: Mutex<ReadStaging>,
    submits: Mutex<Submits>,
    pub(crate) timer: Mutex<Option<Timer>>,
    pub(crate) cost: Mutex<SubmitCost>,
    done: Arc<AtomicU64>,
    /// Buffers made.
    pub made_buffers: AtomicU64,
    /// Bind groups made.
    pub made_bind_groups: AtomicU64,
    pub(crate) made_programs: AtomicU64,
}

#[derive(Default)]
struct Submits {
    last: u64,
    /// Submits that were not waited for, oldest first.
    open: VecDeque<(Ticket, wgpu::SubmissionIndex)>,
}

/// Locks without a panic: no code of this crate leaves the guarded values half written.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    /// Nothing made yet on the device of `handles`.
    pub fn new(
        handles: Handles,
        info: DeviceInfo,
        options: WgpuOptions,
        faults: Faults,
        kernels: Kernels<Compiled>,
    ) -> Core {
        let Handles {
            wgpu,
            queue,
            shared,
        } = handles;
        let name = info.id();
        let timer = fault::caught(&wgpu, &name, "measuring submits", 0, || {
            Timer::of(&wgpu, &queue)
        });
        Core {
            // Without it times are those of whoever waits.
            timer: Mutex::new(timer.unwrap_or_default()),
            cost: Mutex::default(),
            faults,
            name,
            wgpu,
            queue,
            shared,
            info,
            options,
            buffers: Mutex::default(),
            next_buffer: AtomicU64::new(0),
            kernels: Mutex::new(kernels),
            staging: Mutex::default(),
            submits: Mutex::default(),
            done: Arc::default(),
            made_buffers: AtomicU64::new(0),
            made_bind_groups: AtomicU64::new(0),
            made_programs: AtomicU64::new(0),
        }
    }

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
        let label = label(what);
        let buffer = self.caught(what, bytes, || {
            self.wgpu.create_buffer(&wgpu::BufferDescriptor {
                label: Some(&label),
                size: bytes.max(1).next_multiple_of(16),
                usage,
                mapped_at_creation: false,
            })
        })?;
        self.made_buffers.fetch_add(1, Ordering::Relaxed);
        Ok(buffer)
    }

    /// Runs `body`, which does `what` and wants to allocate `bytes`: its errors are returned
    /// and reach no handler. Nothing in it may wait or poll, which runs callbacks of the
    /// application: their errors are not ours.
    pub fn caught<T>(&self, what: &str, bytes: u64, body: impl FnOnce() -> T) -> Result<T> {
        let result = fault::caught(&self.wgpu, &self.name, what, bytes, body);
        result.map_err(|error| self.blamed(error, what))
    }

    /// The loss of the device where there is one, which is behind `error` then.
    pub fn blamed(&self, error: Error, what: &str) -> Error {
        match self.probe(what) {
            Err(lost @ Error::Lost { .. }) => lost,
            _ => error,
        }
    }

    /// `Err` if the device is lost or something failed while doing `what`. On a device of the
    /// application a loss shows here once something failed because of it.
    pub fn check(&self, what: &str) -> Result<()> {
        self.faults.check(&self.name, what)
    }

    /// As [`Core::check`], and asks a device of the application, whose callback is not ours: one
    /// that is lost or destroyed makes no buffers.
    pub fn probe(&self, what: &str) -> Result<()> {
        self.check(what)?;
        if self.shared {
            // Where there is no memory for sixteen bytes, the next call says so better.
            let lives = fault::caught(&self.wgpu, &self.name, what, 0, || self.makes_buffers());
            if let Ok(false) = lives {
                self.faults
                    .lose("it is the application's and takes no more work");
            }
        }
        self.check(what)
    }

    /// Whether buffers are real: those of a lost device are made too, and cannot be mapped.
    fn makes_buffers(&self) -> bool {
        let buffer = self.wgpu.create_buffer(&wgpu::BufferDescriptor {
            label: Some("hadal probe"),
            size: 16,
            usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: true,
        });
        buffer.get_mapped_range(..).is_ok()
    }

    /// Hands over `commands`, or what was staged so far, outside of any program.
    pub fn hand_over(&self, what: &str, commands: Option<wgpu::CommandBuffer>) -> Result<Handed> {
        let is_done = Arc::new(AtomicBool::new(false));
        let done = is_done.clone();
        let index = self.caught(what, 0, || {
            let index = self.queue.submit(commands);
            self.queue
                .on_submitted_work_done(move || done.store(true, Ordering::Release));
            index
        })?;
        Ok(Handed { index, is_done })
    }

    /// Waits for what was handed over.
    pub fn wait_for(&self, handed: &Handed, what: &str) -> Result<()> {
        self.wait_until(Some(handed.index.clone()), what, || {
            handed.is_done.load(Ordering::Acquire)
        })
    }

    /// Waits until `ticket` is done.
    pub fn wait(&self, ticket: Ticket) -> Result<()> {
        let what = "waiting for a program";
        if self.done.load(Ordering::Acquire) < ticket.0 {
            let submits = lock(&self.submits);
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
            // Otherwise it ended meanwhile.
            if let Some(index) = index {
                self.wait_until(Some(index), what, || {
                    self.done.load(Ordering::Acquire) >= ticket.0
                })?;
                self.done.fetch_max(ticket.0, Ordering::Release);
            }
        }
        self.check(what)
    }

    /// The last finished ticket that is known.
    pub fn done(&self) -> Ticket {
        Ticket(self.done.load(Ordering::Acquire))
    }

    /// Waits until a submit may go to the queue: at once on a device of our own. Between two of
    /// them on the application's, what it submitted meanwhile is before the second one.
    fn turn(&self) -> Result<MutexGuard<'_, Option<Timer>>> {
        loop {
            // Held till the end of the submit, so that timestamps get the ticket that they
            // belong to, and nobody else's submit comes between.
            let timer = lock(&self.timer);
            let newest = Ticket(lock(&self.submits).last);
            if !self.shared || self.done() >= newest {
                return Ok(timer);
            }
            drop(timer);
            self.wait(newest)?;
        }
    }

    /// Hands the commands that `encode` writes to the device; `entered` is when the call
    /// began whose cost is counted.
    pub fn submit(
        &self,
        entered: Instant,
        encode: impl FnOnce(&mut wgpu::CommandEncoder),
    ) -> Result<Ticket> {
        let what = "submitting a program";
        let waiting = Instant::now();
        let mut timer = self.turn()?;
        let waited = waiting.elapsed();
        let commands = self.caught(what, 0, || self.commands(timer.as_ref(), encode))?;
        let (ticket, index, driver) = self.caught(what, 0, || self.submit_counted(commands))?;
        if let Some(timer) = &mut *timer {
            timer.submitted(ticket);
        }
        drop(timer);
        let mut cost = lock(&self.cost);
        cost.submits += 1;
        cost.total += entered.elapsed() - waited;
        cost.driver += driver;
        drop(cost);
        self.probe(what)?;
        if self.options.lose_after_submits == Some(ticket.0) {
            self.lose(index);
        }
        Ok(ticket)
    }

    /// A new encoder of commands for `what`.
    pub fn encoder(&self, what: &str) -> wgpu::CommandEncoder {
        let label = label(what);
        let desc = wgpu::CommandEncoderDescriptor {
            label: Some(&label),
        };
        self.wgpu.create_command_encoder(&desc)
    }

    fn commands(
        &self,
        timer: Option<&Timer>,
        encode: impl FnOnce(&mut wgpu::CommandEncoder),
    ) -> wgpu::CommandBuffer {
        let mut encoder = self.encoder("program");
        if let Some(timer) = timer {
            timer.begin(&mut encoder);
        }
        encode(&mut encoder);
        if let Some(timer) = timer {
            timer.end(&mut encoder);
        }
        encoder.finish()
    }

    /// Submits; also how long that took.
    fn submit_counted(
        &self,
        commands: wgpu::CommandBuffer,
    ) -> (Ticket, wgpu::SubmissionIndex, Duration) {
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
        submits.open.push_back((ticket, index.clone()));
        (ticket, index, driver)
    }

    /// Loses the device on purpose, after the submission of `index`.
    fn lose(&self, index: wgpu::SubmissionIndex) {
        if self.shared {
            self.faults.lose("it was lost on purpose");
            return;
        }
        self.wgpu.destroy();
        // wgpu tells of the loss in a poll, once nothing runs any more.
        let _ = self.wait_until(Some(index), "losing the device", || true);
    }

    /// `Err` also if the device is lost: its buffers may be gone then, which is no mistake of
    /// the caller's.
    pub fn check_span(&self, span: Span, length: usize, what: &str) -> Result<Memory> {
        self.check(what)?;
        let memory = self.memory(span.buffer)?;
        check_span(span, length, memory.bytes)?;
        Ok(memory)
    }
}

/// What the application's tools show for an object of ours.
pub(crate) fn label(what: &str) -> String {
    format!("hadal {what}")
}
