//! Programs: checked once, a graph for each table of buffers, launched by each submit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use hadal_device::{
    Bind, BufferId, Error, Executable, Kept, Program, Result, Step, Ticket, check_table,
    levels_with,
};

use crate::core::Core;
use crate::driver::table::Address;
use crate::gpu::Object;
use crate::graph::Binding;
use crate::kernel::Kernel;
use crate::lanes::Marks;
use crate::lists::Lists;
use crate::memory::{Memory, Piece};
use crate::operands::{check_program, check_ranges};

/// A graph over the buffers of a table.
struct Bound {
    core: Arc<Core>,
    /// What is under way in the buffers of the table, and in `addresses`.
    marks: Vec<Arc<Marks>>,
    /// [`Core::freed`] when all buffers of the table were last seen.
    seen: u64,
    /// `None` for a program without steps.
    graph: Option<Object>,
    /// Lists of addresses and of tensor maps.
    addresses: Option<Piece>,
    /// The last submit.
    ticket: Ticket,
}

impl Drop for Bound {
    fn drop(&mut self) {
        // A graph must not go while it runs, nor lists that are still being written.
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
    program: Program,
    core: Arc<Core>,
}

impl Prepared {
    /// Checks `program` against the device's limits and finds its kernels.
    pub fn new(core: Arc<Core>, program: &Program) -> Result<Prepared> {
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
            program: program.clone(),
            core,
        })
    }

    /// Makes `table` the newest of `bound`, with its graph if it is not known.
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
        let graph = match self.program.steps.is_empty() {
            true => None,
            false => Some(self.graph(table, &memory, &lists)?),
        };
        core.made_bind_groups.fetch_add(1, Ordering::Relaxed);
        let piece = addresses.iter().map(|piece| &piece.memory.marks);
        let marks = memory.iter().map(|memory| &memory.marks).chain(piece);
        let bound = Bound {
            core: core.clone(),
            marks: marks.cloned().collect(),
            seen: freed,
            graph,
            addresses,
            ticket: Ticket(0),
        };
        let lives = |table: &[BufferId]| core.memories(table).is_ok();
        self.bound.keep(table, bound, lives);
        Ok(())
    }

    fn graph(
        &self,
        table: &[BufferId],
        memory: &[Arc<Memory>],
        lists: &[Address],
    ) -> Result<Object> {
        let levels = levels_with(&self.program, table);
        let slots: Vec<Address> = memory.iter().map(|memory| memory.address).collect();
        let binding = Binding {
            program: &self.program,
            kernels: &self.kernels,
            levels: &levels,
            slots: &slots,
            lists,
        };
        // SAFETY: the kernels are kept beside the graphs; buffers live by the promise of
        // `submit`, and lists go after the graph.
        unsafe { binding.graph(&self.core.gpu) }
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
        bound.ticket = unsafe { core.lanes.run(bound.graph.as_ref(), &bound.marks)? };
        core.lanes.cost.add(begin.elapsed());
        Ok(bound.ticket)
    }
}
