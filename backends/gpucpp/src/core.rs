//! What a device and its executables share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hadal_device::{BufferId, DeviceInfo, Error, PipelineId, Result, Span};
use hadal_shaders::wgsl_operands::check_span;

use crate::gpu::Gpu;
use crate::kernel::{Kernel, Kernels};
use crate::lanes::Lanes;
use crate::memory::{Budget, Memory, Piece, Pool};
use crate::native::Native;
use crate::transfer::{Down, Up};

/// What a device and its executables share.
pub struct Core {
    /// What it is.
    pub info: DeviceInfo,
    /// Tables recorded.
    pub made_bind_groups: AtomicU64,
    /// Programs prepared.
    pub made_programs: AtomicU64,
    buffers: Mutex<HashMap<BufferId, Arc<Memory>>>,
    next_buffer: AtomicU64,
    freed: AtomicU64,
    kernels: Mutex<Kernels>,
    up: Up,
    down: Mutex<Down>,
    pool: Arc<Pool>,
    budget: Arc<Budget>,
    /// A library that products may be done by.
    pub native: Option<Native>,
    /// The order of all work.
    pub lanes: Lanes,
    /// The device itself.
    pub gpu: Arc<Gpu>,
}

/// Locks without a panic: no code of this crate leaves the guarded values half written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Core {
    fn drop(&mut self) {
        // Memory must not go while it is written.
        self.lanes.drain();
    }
}

impl Core {
    /// Of a device that has just been opened.
    pub fn new(
        gpu: Arc<Gpu>,
        lanes: Lanes,
        info: DeviceInfo,
        kernels: Kernels,
        memory_bytes: Option<u64>,
    ) -> Core {
        Core {
            info,
            made_bind_groups: AtomicU64::new(0),
            made_programs: AtomicU64::new(0),
            buffers: Mutex::default(),
            next_buffer: AtomicU64::new(0),
            freed: AtomicU64::new(0),
            kernels: Mutex::new(kernels),
            up: Up::default(),
            down: Mutex::default(),
            pool: Arc::default(),
            budget: Arc::new(Budget::new(memory_bytes)),
            native: None,
            lanes,
            gpu,
        }
    }

    /// The memories of a table.
    pub fn memories(&self, table: &[BufferId]) -> Result<Vec<Arc<Memory>>> {
        let buffers = lock(&self.buffers);
        table.iter().map(|id| find(&buffers, *id)).collect()
    }

    /// How many buffers were freed: while it stays, every buffer seen is still there.
    pub fn freed(&self) -> u64 {
        self.freed.load(Ordering::Acquire)
    }

    /// The memory of a range, if there are `length` bytes of the host for it. `Err` also if
    /// the device is lost: its buffers may be gone then, which is no mistake of the caller's.
    pub fn span(&self, span: Span, length: usize) -> Result<Arc<Memory>> {
        self.gpu.check()?;
        let memory = find(&lock(&self.buffers), span.buffer)?;
        check_span(span, length, memory.bytes)?;
        Ok(memory)
    }

    /// New memory of the backend's own.
    pub fn memory(&self, label: &str, bytes: u64) -> Result<Memory> {
        Memory::new(&self.gpu, &self.budget, label, bytes)
    }

    /// New memory.
    pub fn alloc(&self, label: &str, bytes: u64) -> Result<BufferId> {
        let memory = self.memory(label, bytes)?;
        let id = BufferId(self.next_buffer.fetch_add(1, Ordering::Relaxed));
        lock(&self.buffers).insert(id, Arc::new(memory));
        Ok(id)
    }

    /// Gives memory back.
    pub fn free(&self, buffer: BufferId) {
        let memory = lock(&self.buffers).remove(&buffer);
        // Not before: who sees the new count must not find the buffer.
        self.freed.fetch_add(1, Ordering::AcqRel);
        if let Some(memory) = memory {
            // Writes return before their copies are done.
            self.lanes.settle(&memory.marks);
        }
    }

    /// A short range for the device's own use.
    pub fn piece(&self, bytes: u64) -> Result<Piece> {
        self.pool.piece(&self.gpu, &self.budget, bytes)
    }

    /// Writes a range, which is there.
    pub fn write(&self, to: &Memory, offset: u64, bytes: &[u8]) -> Result<()> {
        self.up.write((&self.gpu, &self.lanes), to, offset, bytes)
    }

    /// Reads a range, which is there.
    pub fn read(&self, from: &Memory, offset: u64, bytes: &mut [u8]) -> Result<()> {
        lock(&self.down).read((&self.gpu, &self.lanes), from, offset, bytes)
    }

    /// The kernels.
    pub fn kernels(&self) -> MutexGuard<'_, Kernels> {
        lock(&self.kernels)
    }

    /// The kernel of `id`.
    pub fn kernel(&self, id: PipelineId) -> Result<Arc<Kernel>> {
        self.kernels().get(id)
    }

    /// One of the kernels that are in no row.
    pub fn memory_kernel(&self, entry: &'static str) -> Result<Arc<Kernel>> {
        self.kernels().memory(&self.gpu, entry)
    }
}

fn find(buffers: &HashMap<BufferId, Arc<Memory>>, id: BufferId) -> Result<Arc<Memory>> {
    let found = buffers.get(&id).cloned();
    found.ok_or_else(|| Error::Invalid(format!("buffer {} does not exist", id.0)))
}
