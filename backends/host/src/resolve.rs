//! A program meets a table: numbered slots become addresses.
//!
//! Decides where threads must wait for each other, and which operands of a dispatch overlap
//! what it writes. Done once for each distinct table; buffer ids are never reused and
//! buffers never move, so the result stays right. Read [`Resolved`] first.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use hadal_device::{
    Access, Bind, BufferId, Error, Operand, Params, Program, Result, Step, levels_with,
};

use crate::args::{Bound, Mem};
use crate::device::Pipeline;
use crate::memory::Memory;

/// Bytes of a copy or a fill that a thread takes at once.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// What a step does, with addresses.
pub(crate) enum Work {
    Dispatch {
        pipeline: Pipeline,
        groups: [u32; 3],
        params: Box<Params>,
        bound: Vec<Bound>,
    },
    Copy {
        from: Mem,
        to: Mem,
    },
    Fill {
        to: Mem,
        byte: u8,
    },
}

/// A step, its division among threads and how far that has come.
pub(crate) struct Ready {
    pub work: Work,
    /// Pieces that can be done in any order.
    pub units: u32,
    /// Steps with lower levels must be done before this one begins.
    pub level: u32,
    /// The next piece nobody took.
    pub next: AtomicU32,
    /// Finished pieces.
    pub done: AtomicU32,
    /// For messages.
    pub label: String,
}

/// A program over addresses.
pub(crate) struct Resolved {
    pub steps: Vec<Ready>,
}

impl Resolved {
    /// Checks every range of `program` against the buffers of `table`.
    pub fn new(
        program: &Program,
        pipelines: &[Option<Pipeline>],
        table: &[BufferId],
        memories: &[Arc<Memory>],
    ) -> Result<Resolved> {
        let levels = levels_with(program, table);
        let mut steps = Vec::with_capacity(program.steps.len());
        for ((step, level), pipeline) in program.steps.iter().zip(levels).zip(pipelines) {
            let label = match step {
                Step::Dispatch(dispatch) => dispatch.label.as_str(),
                Step::Copy { .. } => "copy",
                Step::Fill { .. } => "fill",
            };
            let (work, units) = work(step, *pipeline, memories)
                .map_err(|error| Error::Invalid(format!("step {label}: {error}")))?;
            steps.push(Ready {
                work,
                units,
                level,
                next: AtomicU32::new(0),
                done: AtomicU32::new(0),
                label: label.to_string(),
            });
        }
        Ok(Resolved { steps })
    }
}

fn work(step: &Step, pipeline: Option<Pipeline>, memories: &[Arc<Memory>]) -> Result<(Work, u32)> {
    match step {
        Step::Dispatch(dispatch) => {
            let pipeline = pipeline
                .ok_or_else(|| Error::Invalid("a dispatch without a pipeline".to_string()))?;
            let mut bound = Vec::with_capacity(dispatch.operands.len());
            for operand in &dispatch.operands {
                bound.push(match operand {
                    Operand::Range(bind) => Bound::Range(resolve(bind, memories)?),
                    Operand::Table(binds) => Bound::Table(
                        binds
                            .iter()
                            .map(|bind| resolve(bind, memories))
                            .collect::<Result<_>>()?,
                    ),
                });
            }
            mark_shared(&mut bound);
            let work = Work::Dispatch {
                pipeline,
                groups: dispatch.groups,
                params: dispatch.params.clone(),
                bound,
            };
            Ok((work, group_count(dispatch.groups)?))
        }
        Step::Copy { from, to } => {
            let (from, to) = (resolve(from, memories)?, resolve(to, memories)?);
            if from.bytes != to.bytes || overlap(&from, &to) {
                return Err(Error::Invalid(
                    "a copy between ranges that overlap or differ in length".to_string(),
                ));
            }
            Ok((Work::Copy { from, to }, chunk_count(to.bytes)?))
        }
        Step::Fill { to, byte } => {
            let to = resolve(to, memories)?;
            Ok((Work::Fill { to, byte: *byte }, chunk_count(to.bytes)?))
        }
    }
}

fn resolve(bind: &Bind, memories: &[Arc<Memory>]) -> Result<Mem> {
    let memory = memories
        .get(usize::from(bind.slot.0))
        .ok_or_else(|| Error::Invalid(format!("slot {} of {}", bind.slot.0, memories.len())))?;
    let write = bind.access == Access::Write;
    Ok(Mem {
        ptr: memory.range(bind.offset, bind.bytes, write)?,
        bytes: bind.bytes as usize,
        write,
        shared: false,
    })
}

/// Groups of a grid; none of its axes may be empty.
pub(crate) fn group_count(groups: [u32; 3]) -> Result<u32> {
    groups
        .iter()
        .try_fold(1u32, |product, n| product.checked_mul(*n))
        // Threads count a little past the end, which must not wrap.
        .filter(|count| (1..u32::MAX / 2).contains(count))
        .ok_or_else(|| Error::Invalid(format!("a grid of {groups:?} groups")))
}

fn chunk_count(bytes: usize) -> Result<u32> {
    let chunks = bytes.div_ceil(CHUNK_BYTES);
    group_count([u32::try_from(chunks).unwrap_or(u32::MAX), 1, 1])
}

fn overlap(a: &Mem, b: &Mem) -> bool {
    let (a_first, b_first) = (a.ptr as usize, b.ptr as usize);
    a_first < b_first + b.bytes && b_first < a_first + a.bytes
}

/// Marks ranges that overlap a written one, itself excepted.
fn mark_shared(bound: &mut [Bound]) {
    let written: Vec<(usize, Mem)> = bound
        .iter()
        .enumerate()
        .flat_map(|(operand, bound)| entries(bound).iter().map(move |mem| (operand, *mem)))
        .filter(|(_, mem)| mem.write)
        .collect();
    for (operand, bound) in bound.iter_mut().enumerate() {
        let entries = match bound {
            Bound::Range(mem) => std::slice::from_mut(mem),
            Bound::Table(entries) => entries.as_mut_slice(),
        };
        for mem in entries {
            mem.shared = written
                .iter()
                .any(|(writer, range)| *writer != operand && overlap(mem, range));
        }
    }
}

fn entries(bound: &Bound) -> &[Mem] {
    match bound {
        Bound::Range(mem) => std::slice::from_ref(mem),
        Bound::Table(entries) => entries,
    }
}
