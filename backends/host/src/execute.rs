//! Prepared programs: checks once, addresses once a table, then runs.

use std::sync::Arc;

use hadal_device::{
    BufferId, Error, Executable, Kept, Operand, Program, Result, Step, Ticket, check_table,
};

use crate::args::{Args, Fault};
use crate::core::Scratch;
use crate::device::{Pipeline, Shared};
use crate::memory::Memory;
use crate::resolve::{CHUNK_BYTES, Ready, Resolved, Work, group_count};

/// A program that the host can run.
pub(crate) struct HostExecutable {
    device: Arc<Shared>,
    program: Program,
    /// The pipeline of each step that has one.
    pipelines: Vec<Option<Pipeline>>,
    tables: Kept<Arc<Resolved>>,
    /// Keeps the buffers of the running submit alive; empty otherwise.
    memories: Vec<Arc<Memory>>,
}

impl HostExecutable {
    /// Checks slots, pipelines and operand counts.
    pub fn new(device: Arc<Shared>, program: &Program) -> Result<HostExecutable> {
        let mut pipelines = Vec::with_capacity(program.steps.len());
        for step in &program.steps {
            check_step(step, program.slots, device.info.limits.max_binding_bytes)?;
            pipelines.push(match step {
                Step::Dispatch(dispatch) => {
                    let pipeline = device.pipeline(dispatch.pipeline)?;
                    check_operands(&pipeline, dispatch)?;
                    Some(pipeline)
                }
                _ => None,
            });
        }
        Ok(HostExecutable {
            device,
            program: program.clone(),
            pipelines,
            tables: Kept::default(),
            memories: Vec::new(),
        })
    }

    fn resolved(&mut self, table: &[BufferId]) -> Result<Arc<Resolved>> {
        if let Some(resolved) = self.tables.find(table) {
            return Ok(resolved.clone());
        }
        let resolved = Arc::new(Resolved::new(
            &self.program,
            &self.pipelines,
            table,
            &self.memories,
        )?);
        let device = &self.device;
        let lives = |table: &[BufferId]| table.iter().all(|id| device.memory(*id).is_ok());
        self.tables.keep(table, resolved.clone(), lives);
        Ok(resolved)
    }

    fn run(&mut self, table: &[BufferId]) -> Result<()> {
        for buffer in table {
            self.memories.push(self.device.memory(*buffer)?);
        }
        let resolved = self.resolved(table)?;
        let device = self.device.clone();
        device.pool().run(&resolved)
    }
}

impl Executable for HostExecutable {
    fn submit(&mut self, table: &[BufferId]) -> Result<Ticket> {
        check_table(self.program.slots, table)?;
        let result = self.run(table);
        self.memories.clear();
        result.map(|()| self.device.finish())
    }
}

/// What can be told without buffers: slots, ranges, lengths, grids, tables.
fn check_step(step: &Step, slots: u16, most: u64) -> Result<()> {
    let invalid = |why: String| Err(Error::Invalid(why));
    for bind in step.binds() {
        if bind.slot.0 >= slots || bind.offset.checked_add(bind.bytes).is_none() {
            return invalid(format!("{bind} is no range of a program of {slots} slots"));
        }
        if bind.bytes > most {
            return invalid(format!("{bind} is above the limit of {most} bytes"));
        }
    }
    match step {
        Step::Dispatch(dispatch) => {
            group_count(dispatch.groups)?;
            let empty = |operand: &Operand| operand.binds().is_empty();
            if dispatch.operands.iter().any(empty) {
                return invalid(format!("{}: a table without entries", dispatch.label));
            }
        }
        Step::Copy { from, to } if from.bytes != to.bytes => {
            return invalid(format!("a copy of {} bytes to {}", from.bytes, to.bytes));
        }
        _ => {}
    }
    Ok(())
}

fn check_operands(pipeline: &Pipeline, dispatch: &hadal_device::Dispatch) -> Result<()> {
    let kernel = pipeline.kernel;
    let optional = dispatch.params.flags & kernel.optional != 0;
    let wanted = kernel.operands + usize::from(optional);
    let found = dispatch.operands.len();
    if found != wanted {
        return Err(Error::Invalid(format!(
            "step {}: {} takes {wanted} operands, {found} were given",
            dispatch.label, kernel.name
        )));
    }
    let table_length = |operand: &Operand| match operand {
        Operand::Table(binds) => Some(binds.len()),
        Operand::Range(_) => None,
    };
    let experts = dispatch.params.expert_count as usize;
    match dispatch
        .operands
        .iter()
        .filter_map(table_length)
        .find(|n| *n != experts)
    {
        Some(length) => Err(Error::Invalid(format!(
            "step {}: a table of {length} entries for {experts} experts",
            dispatch.label
        ))),
        None => Ok(()),
    }
}

impl Ready {
    /// Does piece `unit` of the step.
    ///
    /// # Safety
    /// The buffers of the resolved program are alive, no other submit, write or read of the
    /// device is under way, and all steps with lower levels are done.
    pub unsafe fn run(&self, unit: u32, scratch: &mut Scratch) -> std::result::Result<(), Fault> {
        match &self.work {
            Work::Dispatch {
                pipeline,
                groups: [x, y, _],
                params,
                bound,
            } => {
                // SAFETY: ranges were checked when resolved; steps of one level touch no byte
                // that one of them writes, and ranges of this step that overlap what it
                // writes are marked as shared.
                let args = unsafe { Args::new(params, bound, pipeline.outputs, pipeline.rows) };
                (pipeline.kernel.run)(&args, [unit % x, unit / x % y, unit / x / y], scratch)
            }
            Work::Copy { from, to } => {
                let (first, count) = chunk(unit, to.bytes);
                // SAFETY: both ranges were checked, are equally long and do not overlap;
                // chunks are disjoint.
                unsafe {
                    let (from, to) = (from.ptr.add(first), to.ptr.add(first));
                    std::ptr::copy_nonoverlapping(from, to, count);
                }
                Ok(())
            }
            Work::Fill { to, byte } => {
                let (first, count) = chunk(unit, to.bytes);
                // SAFETY: the range was checked; chunks are disjoint.
                unsafe { std::ptr::write_bytes(to.ptr.add(first), *byte, count) };
                Ok(())
            }
        }
    }
}

fn chunk(unit: u32, bytes: usize) -> (usize, usize) {
    let first = (unit as usize * CHUNK_BYTES).min(bytes);
    (first, CHUNK_BYTES.min(bytes - first))
}
