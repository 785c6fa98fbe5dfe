//! Programs: checked once, their launches recorded for each table of buffers, and replayed by
//! each submit: as a graph of CUDA's, or one by one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use hadal_device::{
    Bind, BufferId, Error, Executable, Kept, Program, Result, Step, Ticket, check_table,
    levels_with,
};

use crate::core::Core;
use crate::driver::table::{Address, Handle};
use crate::gpu::{Gpu, Object};
use crate::graph::graph;
use crate::kernel::Kernel;
use crate::lanes::Marks;
use crate::launch::{Binding, Work};
use crate::lists::Lists;
use crate::memory::{Memory, Piece};
use crate::native::{Native, Uses};
use crate::operands::{check_program, check_ranges};

/// What a submit puts into the stream.
enum Recorded {
    /// A graph of the driver's, where it has such ([`crate::Vendor::has_graphs`]).
    Graph(Object),
    /// Launches one behind the other.
    Launches(Vec<Work>),
}

impl Recorded {
    /// Puts it into `stream`.
    ///
    /// # Safety
    /// All it names lives until it is done; the stream is one of `gpu`.
    unsafe fn push(&self, gpu: &Gpu, native: Option<&Native>, stream: Handle) -> Result<()> {
        let _entered = gpu.enter()?;
        match (self, &gpu.driver.graphs) {
            (Recorded::Graph(graph), Some(calls)) => {
                // SAFETY: the caller's promise.
                let status = unsafe { (calls.launch)(graph.handle(), stream) };
                gpu.done(status, "submitting")
            }
            (Recorded::Graph(_), None) => Err(Error::Invalid("the driver has no graphs".into())),
            (Recorded::Launches(works), _) => works.iter().try_for_each(|work| {
                // SAFETY: the caller's promise.
                unsafe { work.push(gpu, native, stream) }
            }),
        }
    }
}

/// A program over the buffers of a table.
struct Bound {
    core: Arc<Core>,
    /// What is under way in the buffers of the table, and in `addresses`.
    marks: Vec<Arc<Marks>>,
    /// [`Core::freed`] when all buffers of the table were last seen.
    seen: u64,
    recorded: Recorded,
    /// Lists of addresses and of tensor maps.
    addresses: Option<Piece>,
    /// What the library's products use.
    _scratch: Option<Arc<Memory>>,
    /// The last submit.
    ticket: Ticket,
}

impl Drop for Bound {
    fn drop(&mut self) {
        // Nothing recorded must go while it runs, nor lists that are still being written.
        let lanes = &self.core.lanes;
        if lanes.wait(self.ticket).is_err() {
            lanes.drain();
        }
        if let Some(addresses) = &self.addresses {
            lanes.settle(&addresses.memory.marks);
        }
    }
}

/// A program ready to submit.
pub struct Prepared {
    // Waits for its submits when it goes, so it stands before what they use.
    bound: Kept<Bound>,
    /// The kernel of each step.
    kernels: Vec<Arc<Kernel>>,
    /// What a library does of it.
    uses: Option<Uses>,
    program: Program,
    core: Arc<Core>,
}

impl Prepared {
    /// Checks `program` against the device's limits, finds its kernels and what a library does
    /// faster.
    pub fn new(core: Arc<Core>, program: &Program) -> Result<Prepared> {
        let mut made = Prepared::plain(core.clone(), program)?;
        if let Some(native) = &core.native {
            let steps = program.steps.iter().zip(&made.kernels);
            let is_faster = steps.map(|(step, kernel)| match step {
                Step::Dispatch(dispatch) if kernel.is_native => native.is_faster(&core, dispatch),
                _ => Ok(false),
            });
            let is_faster = is_faster.collect::<Result<_>>()?;
            made.take(is_faster, false)?;
        }
        Ok(made)
    }

    /// Lets a library do the steps that `is_used` says; it `must` if its kernels may not.
    pub fn take(&mut self, is_used: Vec<bool>, must: bool) -> Result<()> {
        self.uses = Uses::of(&self.core, &self.program, is_used, must)?;
        Ok(())
    }

    /// The same with kernels alone.
    pub fn plain(core: Arc<Core>, program: &Program) -> Result<Prepared> {
        let kernels: Vec<_> = program
            .steps
            .iter()
            .map(|step| match step {
                Step::Dispatch(dispatch) => core.kernel(dispatch.pipeline),
                Step::Copy { .. } => core.memory_kernel("copy_bytes"),
                Step::Fill { .. } => core.memory_kernel("fill_bytes"),
            })
            .collect::<Result<_>>()?;
        let kernel = |number: usize| kernels.get(number).map(Arc::as_ref);
        check_program(program, &core.info.limits, kernel)?;
        Ok(Prepared {
            bound: Kept::default(),
            kernels,
            uses: None,
            program: program.clone(),
            core,
        })
    }

    /// Makes `table` the newest of `bound`, and records it if it is not known.
    fn bind(&mut self, table: &[BufferId]) -> Result<()> {
        let freed = self.core.freed();
        if let Some(known) = self.bound.find(table) {
            if known.seen != freed {
                self.core.memories(table)?;
                known.seen = freed;
            }
            return Ok(());
        }
        let memory = self.core.memories(table)?;
        // Slots were checked against the length of the table.
        let bytes = |slot: hadal_device::Slot| memory[usize::from(slot.0)].bytes;
        check_ranges(&self.program, bytes)?;
        let core = &self.core;
        let (addresses, lists) = self.lists(&memory)?;
        let scratch = match (&self.uses, &core.native) {
            (Some(uses), Some(native)) => uses.scratch(core, native)?,
            _ => None,
        };
        let recorded = self.record(table, &memory, &lists, scratch.as_deref())?;
        core.made_bind_groups.fetch_add(1, Ordering::Relaxed);
        let piece = addresses.iter().map(|piece| &piece.memory.marks);
        let marks = memory.iter().map(|memory| &memory.marks).chain(piece);
        let bound = Bound {
            core: core.clone(),
            marks: marks.cloned().collect(),
            seen: freed,
            recorded,
            addresses,
            _scratch: scratch,
            ticket: Ticket(0),
        };
        let lives = |table: &[BufferId]| core.memories(table).is_ok();
        self.bound.keep(table, bound, lives);
        Ok(())
    }

    fn record(
        &self,
        table: &[BufferId],
        memory: &[Arc<Memory>],
        lists: &[Address],
        scratch: Option<&Memory>,
    ) -> Result<Recorded> {
        let gpu = &self.core.gpu;
        let native = self.core.native.as_ref();
        let slots: Vec<Address> = memory.iter().map(|memory| memory.address).collect();
        let binding = Binding {
            program: &self.program,
            kernels: &self.kernels,
            slots: &slots,
            lists,
            library: match (&self.uses, native, scratch) {
                (Some(uses), Some(native), Some(scratch)) => Some((uses, native, scratch.address)),
                _ => None,
            },
        };
        let works = binding.works()?;
        let Some(calls) = gpu.driver.graphs.as_ref().filter(|_| !works.is_empty()) else {
            return Ok(Recorded::Launches(works));
        };
        let levels = levels_with(&self.program, table);
        // SAFETY: the kernels are kept beside the graphs; buffers live by the promise of
        // `submit`, and lists go after the graph.
        let graph = unsafe { graph(gpu, calls, native, (&works, &levels))? };
        Ok(Recorded::Graph(graph))
    }

    /// All lists that the kernels take in device memory, and where each begins.
    fn lists(&self, memory: &[Arc<Memory>]) -> Result<(Option<Piece>, Vec<Address>)> {
        let address = |bind: &Bind| memory[usize::from(bind.slot.0)].address + bind.offset;
        let mut lists = Lists::default();
        for (step, kernel) in self.program.steps.iter().zip(&self.kernels) {
            if let Step::Dispatch(dispatch) = step {
                lists.add(&self.core.gpu, dispatch, kernel.operands, address)?;
            }
        }
        let Lists { all, mut begins } = lists;
        if all.is_empty() {
            return Ok((None, begins));
        }
        let piece = self.core.piece(all.len() as u64)?;
        self.core.write(&piece.memory, piece.offset, &all)?;
        let base = piece.address();
        begins.iter_mut().for_each(|begin| *begin += base);
        Ok((Some(piece), begins))
    }
}

impl Executable for Prepared {
    fn submit(&mut self, table: &[BufferId]) -> Result<Ticket> {
        let begin = Instant::now();
        check_table(self.program.slots, table)?;
        let core = self.core.clone();
        // Entered once for all calls below.
        let _entered = core.gpu.enter()?;
        self.bind(table)?;
        let bound = self.bound.find(table);
        let bound = bound.ok_or_else(|| Error::Invalid("a table was not recorded".into()))?;
        // SAFETY: buffers live by the promise of `submit`, the rest by `Bound`, which waits
        // before it goes.
        let push = |stream| unsafe {
            let native = core.native.as_ref();
            bound.recorded.push(&core.gpu, native, stream)
        };
        bound.ticket = core.lanes.run(&bound.marks, push)?;
        core.lanes.cost.add(begin.elapsed());
        Ok(bound.ticket)
    }
}
