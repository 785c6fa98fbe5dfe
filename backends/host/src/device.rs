//! The host device: buffers, pipelines and the order of work.
//!
//! One lock orders submits, writes and reads; what a submit does is `execute`'s matter.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use hadal_device::{
    Body, BufferDesc, BufferId, Device, DeviceInfo, Error, Executable, Pages, PipelineId, Program,
    Result, SetupCounts, Span, Ticket,
};

use crate::execute::HostExecutable;
use crate::kernels::{self, HostKernel};
use crate::memory::Memory;
use crate::pool::Pool;

/// A kernel with its launch constants.
#[derive(Clone, Copy)]
pub(crate) struct Pipeline {
    pub kernel: &'static HostKernel,
    /// Outputs a group computes.
    pub outputs: usize,
    /// Rows a group computes.
    pub rows: usize,
}

/// What a device shares with its executables.
pub(crate) struct Shared {
    pub info: DeviceInfo,
    buffers: RwLock<HashMap<BufferId, Arc<Memory>>>,
    pipelines: Mutex<Vec<Pipeline>>,
    /// Held while anything reads or writes buffers.
    pool: Mutex<Pool>,
    next_buffer: AtomicU64,
    owned_bytes: AtomicU64,
    made_buffers: AtomicU64,
    made_programs: AtomicU64,
    submitted: AtomicU64,
}

/// Nothing here panics while it holds a lock; if a caller's thread dies there, what it
/// guarded is still whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The buffer called `id`.
    pub fn memory(&self, id: BufferId) -> Result<Arc<Memory>> {
        let buffers = self.buffers.read().unwrap_or_else(PoisonError::into_inner);
        buffers
            .get(&id)
            .cloned()
            .ok_or_else(|| Error::Invalid(format!("buffer {} does not exist", id.0)))
    }

    /// The pool, for one submit at a time.
    pub fn pool(&self) -> MutexGuard<'_, Pool> {
        lock(&self.pool)
    }

    /// The ticket of a submit that is done.
    pub fn finish(&self) -> Ticket {
        Ticket(self.submitted.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// The pipeline called `id`.
    pub fn pipeline(&self, id: PipelineId) -> Result<Pipeline> {
        lock(&self.pipelines)
            .get(id.0 as usize)
            .copied()
            .ok_or_else(|| Error::Invalid(format!("pipeline {} does not exist", id.0)))
    }

    fn insert(&self, memory: Memory) -> BufferId {
        let id = BufferId(self.next_buffer.fetch_add(1, Ordering::Relaxed));
        self.owned_bytes
            .fetch_add(memory.owned_bytes(), Ordering::Relaxed);
        self.made_buffers.fetch_add(1, Ordering::Relaxed);
        self.buffers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, Arc::new(memory));
        id
    }
}

/// The open host device.
pub(crate) struct HostDevice(Arc<Shared>);

impl HostDevice {
    /// A device with a pool of `threads` threads, the caller's included.
    pub fn open(info: DeviceInfo, threads: usize) -> HostDevice {
        HostDevice(Arc::new(Shared {
            info,
            buffers: RwLock::default(),
            pipelines: Mutex::default(),
            pool: Mutex::new(Pool::new(threads)),
            next_buffer: AtomicU64::new(1),
            owned_bytes: AtomicU64::new(0),
            made_buffers: AtomicU64::new(0),
            made_programs: AtomicU64::new(0),
            submitted: AtomicU64::new(0),
        }))
    }
}

impl Device for HostDevice {
    fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    fn alloc(&self, desc: &BufferDesc) -> Result<BufferId> {
        let owned = self.0.owned_bytes.load(Ordering::Relaxed);
        let budget = self
            .0
            .info
            .memory_bytes
            .map(|all| all.saturating_sub(owned));
        let memory = Memory::alloc(&desc.label, desc.bytes, budget)?;
        Ok(self.0.insert(memory))
    }

    fn free(&self, buffer: BufferId) {
        let mut buffers = self
            .0
            .buffers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(memory) = buffers.remove(&buffer) {
            self.0
                .owned_bytes
                .fetch_sub(memory.owned_bytes(), Ordering::Relaxed);
        }
    }

    fn write(&self, to: Span, bytes: &[u8]) -> Result<()> {
        check_length(to, bytes.len())?;
        let memory = self.0.memory(to.buffer)?;
        let ptr = memory.range(to.offset, to.bytes, true)?;
        let _order = self.0.pool();
        // SAFETY: `range` checked the destination, which `memory` keeps alive; the lock keeps
        // submits and reads away. A device's memory is never handed out as a slice, so
        // `bytes` lies elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), ptr, bytes.len()) };
        Ok(())
    }

    fn read(&self, from: Span, bytes: &mut [u8]) -> Result<()> {
        check_length(from, bytes.len())?;
        let memory = self.0.memory(from.buffer)?;
        let ptr = memory.range(from.offset, from.bytes, false)?;
        let _order = self.0.pool();
        // SAFETY: as in `write`; `bytes` is exclusive, so it cannot be adopted pages.
        unsafe { std::ptr::copy_nonoverlapping(ptr, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn pipeline(
        &self,
        name: &str,
        body: &Body,
        constants: &[(&'static str, u32)],
    ) -> Result<PipelineId> {
        let unsupported = |why: String| Error::Unsupported {
            what: format!("kernel {name}"),
            why,
        };
        let Body::Host(function) = body else {
            return Err(unsupported("the host runs host rows only".to_string()));
        };
        let kernel = kernels::find(function)
            .ok_or_else(|| unsupported(format!("there is no host function {function}")))?;
        let missing = kernel.needs.without(self.0.info.features);
        if !missing.names().is_empty() {
            return Err(unsupported(format!("it needs {missing:?}")));
        }
        let mut pipeline = Pipeline {
            kernel,
            outputs: usize::MAX,
            rows: usize::MAX,
        };
        for (constant, value) in constants {
            let value = (*value as usize).max(1);
            match *constant {
                "outputs" => pipeline.outputs = value,
                "rows" => pipeline.rows = value,
                other => {
                    return Err(Error::Invalid(format!(
                        "kernel {name}: host rows have no constant {other}"
                    )));
                }
            }
        }
        let mut pipelines = lock(&self.0.pipelines);
        let known = pipelines.iter().position(|p| {
            std::ptr::eq(p.kernel, kernel)
                && (p.outputs, p.rows) == (pipeline.outputs, pipeline.rows)
        });
        let index = known.unwrap_or_else(|| {
            pipelines.push(pipeline);
            pipelines.len() - 1
        });
        Ok(PipelineId(index as u32))
    }

    fn prepare(&self, program: &Program) -> Result<Box<dyn Executable>> {
        let executable = HostExecutable::new(self.0.clone(), program)?;
        self.0.made_programs.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(executable))
    }

    fn wait(&self, ticket: Ticket) -> Result<()> {
        if ticket <= self.completed() {
            Ok(())
        } else {
            Err(Error::Invalid(format!(
                "ticket {} was never given out",
                ticket.0
            )))
        }
    }

    fn completed(&self) -> Ticket {
        Ticket(self.0.submitted.load(Ordering::Acquire))
    }

    fn set_courteous(&self, courteous: bool) {
        self.0.pool().set_courteous(courteous);
    }

    fn adopt(&self, pages: Pages) -> Option<BufferId> {
        Some(self.0.insert(Memory::adopt(pages)))
    }

    fn setup_counts(&self) -> SetupCounts {
        SetupCounts {
            buffers: self.0.made_buffers.load(Ordering::Relaxed),
            pipelines: lock(&self.0.pipelines).len() as u64,
            bind_groups: 0,
            programs: self.0.made_programs.load(Ordering::Relaxed),
        }
    }
}

fn check_length(span: Span, bytes: usize) -> Result<()> {
    if span.bytes == bytes as u64 {
        Ok(())
    } else {
        Err(Error::Invalid(format!(
            "a range of {} bytes and {bytes} bytes of data",
            span.bytes
        )))
    }
}
