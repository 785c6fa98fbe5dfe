//! Programs: checked and resolved once, encoded anew for each submit.
//!
//! wgpu cannot replay commands, so a submit encodes every step again (less than a
//! microsecond each); parameters and bind groups are made before.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hadal_device::{
    Bind, BufferId, Dispatch, Error, Executable, KEPT_TABLES, Operand, Program, Result, Slot, Step,
    Ticket, check_table,
};
use hadal_shaders::wgsl::{Binding, PARAM_BYTES, TABLES};

use crate::device::{Core, Memory};
use crate::fault::caught;
use crate::kernel::Kernel;
use crate::transfer::WORD;

/// Largest piece of a fill with a byte other than 0, and of a copy within one buffer.
const PIECE: u64 = 1 << 20;

/// A byte range of a slot.
#[derive(Clone, Copy)]
struct Range {
    slot: Slot,
    offset: u64,
    bytes: u64,
}

enum Work {
    Dispatch {
        kernel: Arc<Kernel>,
        groups: [u32; 3],
        /// Operands that are bound, in order.
        operands: Vec<Range>,
        /// Where its parameters begin.
        params_at: u64,
        label: String,
    },
    Copy {
        from: Range,
        to: Range,
    },
    Fill {
        to: Range,
        byte: u8,
    },
}

/// A submit table seen before: the buffers of its slots, and the bind group of each dispatch.
struct Bound {
    table: Vec<BufferId>,
    memory: Vec<Memory>,
    /// One for each step; none for copies and fills.
    groups: Vec<Option<wgpu::BindGroup>>,
}

/// A program ready to submit.
pub struct Prepared {
    core: Arc<Core>,
    slots: u16,
    work: Vec<Work>,
    params: Option<wgpu::Buffer>,
    /// For each byte value that is filled with and is not 0: a buffer full of it.
    patterns: Vec<(u8, wgpu::Buffer)>,
    /// For copies within one buffer, which wgpu does not do; made when first needed.
    bounce: Option<wgpu::Buffer>,
    bound: Vec<Bound>,
}

impl Prepared {
    /// Checks `program` against the device's limits and writes its parameters.
    pub fn new(core: Arc<Core>, program: &Program) -> Result<Prepared> {
        let align = u64::from(core.wgpu.limits().min_uniform_buffer_offset_alignment);
        let block = PARAM_BYTES.next_multiple_of(align);
        let mut words = Vec::new();
        let mut work = Vec::new();
        for (number, step) in program.steps.iter().enumerate() {
            let blame = |e: Error| match e {
                Error::Invalid(why) => Error::Invalid(format!("step {number} ({step}): {why}")),
                other => other,
            };
            for bind in step.binds() {
                check_bind(&bind, program.slots).map_err(blame)?;
            }
            work.push(match step {
                Step::Dispatch(dispatch) => {
                    let params_at = words.len() as u64;
                    words.resize(words.len() + block as usize, 0);
                    let at = params_at as usize;
                    resolve(&core, dispatch, params_at, &mut words[at..]).map_err(blame)?
                }
                Step::Copy { from, to } if from.bytes == to.bytes => Work::Copy {
                    from: words_of(from).map_err(blame)?,
                    to: words_of(to).map_err(blame)?,
                },
                Step::Copy { .. } => {
                    return Err(blame(Error::Invalid("lengths of a copy differ".into())));
                }
                Step::Fill { to, byte } => Work::Fill {
                    to: words_of(to).map_err(blame)?,
                    byte: *byte,
                },
            });
        }
        let mut prepared = Prepared {
            params: None,
            patterns: Vec::new(),
            core,
            slots: program.slots,
            work,
            bounce: None,
            bound: Vec::new(),
        };
        prepared.make_buffers(&words)?;
        Ok(prepared)
    }

    fn make_buffers(&mut self, params: &[u8]) -> Result<()> {
        let core = &self.core;
        if !params.is_empty() {
            let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
            let buffer = core.make_buffer("parameters", params.len() as u64, usage)?;
            core.queue.write_buffer(&buffer, 0, params);
            self.params = Some(buffer);
        }
        for work in &self.work {
            let Work::Fill { byte, .. } = *work else {
                continue;
            };
            if byte == 0 || self.patterns.iter().any(|(known, _)| *known == byte) {
                continue;
            }
            let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
            let buffer = core.make_buffer("pattern", PIECE, usage)?;
            core.queue
                .write_buffer(&buffer, 0, &vec![byte; PIECE as usize]);
            self.patterns.push((byte, buffer));
        }
        core.check("preparing a program")
    }

    /// The place in `bound` of `table`, whose bind groups are made if it is new.
    fn bind(&mut self, table: &[BufferId]) -> Result<usize> {
        if let Some(known) = self.bound.iter().position(|b| b.table == table) {
            return Ok(known);
        }
        let memory: Vec<Memory> = table
            .iter()
            .map(|id| self.core.memory(*id))
            .collect::<Result<_>>()?;
        let groups = caught(
            &self.core.wgpu,
            &self.core.name,
            "binding buffers",
            0,
            || self.bind_groups(&memory),
        )??;
        let made = groups.iter().flatten().count() as u64;
        self.core
            .made_bind_groups
            .fetch_add(made, Ordering::Relaxed);
        if self.bounce.is_none() && self.copies_within_a_buffer(table) {
            let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
            self.bounce = Some(self.core.make_buffer("copying", PIECE, usage)?);
        }
        // Tables of buffers that are gone must not pile up; the oldest goes first.
        let core = &self.core;
        self.bound
            .retain(|known| known.table.iter().all(|id| core.memory(*id).is_ok()));
        if self.bound.len() == KEPT_TABLES {
            self.bound.remove(0);
        }
        self.bound.push(Bound {
            table: table.to_vec(),
            memory,
            groups,
        });
        Ok(self.bound.len() - 1)
    }

    fn copies_within_a_buffer(&self, table: &[BufferId]) -> bool {
        let id = |range: &Range| table[usize::from(range.slot.0)];
        self.work
            .iter()
            .any(|work| matches!(work, Work::Copy { from, to } if id(from) == id(to)))
    }

    fn bind_groups(&self, memory: &[Memory]) -> Result<Vec<Option<wgpu::BindGroup>>> {
        let mut groups = Vec::with_capacity(self.work.len());
        for work in &self.work {
            match work {
                Work::Dispatch {
                    kernel,
                    operands,
                    params_at,
                    label,
                    ..
                } => {
                    for range in operands {
                        check_range(range, memory, label)?;
                    }
                    groups.push(self.bind_group(kernel, operands, *params_at, memory));
                }
                Work::Copy { from, to } => {
                    check_range(from, memory, "copy")?;
                    check_range(to, memory, "copy")?;
                    groups.push(None);
                }
                Work::Fill { to, .. } => {
                    check_range(to, memory, "fill")?;
                    groups.push(None);
                }
            }
        }
        Ok(groups)
    }

    fn bind_group(
        &self,
        kernel: &Kernel,
        operands: &[Range],
        params_at: u64,
        memory: &[Memory],
    ) -> Option<wgpu::BindGroup> {
        let params = wgpu::BufferBinding {
            buffer: self.params.as_ref()?,
            offset: params_at,
            size: wgpu::BufferSize::new(PARAM_BYTES),
        };
        let ranges = operands.iter().map(|range| wgpu::BufferBinding {
            buffer: &memory[usize::from(range.slot.0)].buffer,
            offset: range.offset,
            size: wgpu::BufferSize::new(range.bytes),
        });
        let entries: Vec<_> = std::iter::once(params)
            .chain(ranges)
            .zip(0u32..)
            .map(|(buffer, binding)| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::Buffer(buffer),
            })
            .collect();
        let desc = wgpu::BindGroupDescriptor {
            label: Some(&kernel.name),
            layout: &kernel.layout,
            entries: &entries,
        };
        Some(self.core.wgpu.create_bind_group(&desc))
    }

    /// Encodes all steps; neighbouring dispatches share a pass.
    fn encode(&self, bound: &Bound) -> wgpu::CommandBuffer {
        let mut encoder = self.core.wgpu.create_command_encoder(&Default::default());
        let mut next = 0;
        while next < self.work.len() {
            match &self.work[next] {
                Work::Dispatch { .. } => next = self.encode_pass(&mut encoder, bound, next),
                Work::Copy { from, to } => {
                    self.encode_copy(&mut encoder, bound, *from, *to);
                    next += 1;
                }
                Work::Fill { to, byte } => {
                    self.encode_fill(&mut encoder, bound, *to, *byte);
                    next += 1;
                }
            }
        }
        encoder.finish()
    }

    /// Encodes dispatches from step `first` on; returns the step after the last of them.
    fn encode_pass(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        bound: &Bound,
        first: usize,
    ) -> usize {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        let mut current = std::ptr::null();
        for (step, work) in self.work.iter().enumerate().skip(first) {
            let Work::Dispatch { kernel, groups, .. } = work else {
                return step;
            };
            // Neighbours are often the same kernel over another shard.
            if !std::ptr::eq(current, Arc::as_ptr(kernel)) {
                pass.set_pipeline(&kernel.pipeline);
                current = Arc::as_ptr(kernel);
            }
            pass.set_bind_group(0, bound.groups[step].as_ref(), &[]);
            pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
        }
        self.work.len()
    }

    fn encode_copy(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        bound: &Bound,
        from: Range,
        to: Range,
    ) {
        let source = &bound.memory[usize::from(from.slot.0)].buffer;
        let target = &bound.memory[usize::from(to.slot.0)].buffer;
        if source != target {
            encoder.copy_buffer_to_buffer(source, from.offset, target, to.offset, to.bytes);
            return;
        }
        let Some(bounce) = &self.bounce else { return };
        let mut done = 0;
        while done < to.bytes {
            let piece = PIECE.min(to.bytes - done);
            encoder.copy_buffer_to_buffer(source, from.offset + done, bounce, 0, piece);
            encoder.copy_buffer_to_buffer(bounce, 0, target, to.offset + done, piece);
            done += piece;
        }
    }

    fn encode_fill(&self, encoder: &mut wgpu::CommandEncoder, bound: &Bound, to: Range, byte: u8) {
        let target = &bound.memory[usize::from(to.slot.0)].buffer;
        let Some((_, pattern)) = self.patterns.iter().find(|(known, _)| *known == byte) else {
            encoder.clear_buffer(target, to.offset, Some(to.bytes));
            return;
        };
        let mut done = 0;
        while done < to.bytes {
            let piece = PIECE.min(to.bytes - done);
            encoder.copy_buffer_to_buffer(pattern, 0, target, to.offset + done, piece);
            done += piece;
        }
    }
}

impl Executable for Prepared {
    fn submit(&mut self, table: &[BufferId]) -> Result<Ticket> {
        check_table(self.slots, table)?;
        self.core.check("submitting a program")?;
        let bound = self.bind(table)?;
        let core = &self.core;
        caught(&core.wgpu, &core.name, "submitting a program", 0, || {
            core.submit(self.encode(&self.bound[bound]))
        })?
    }
}

fn check_bind(bind: &Bind, slots: u16) -> Result<()> {
    let end = bind.offset.checked_add(bind.bytes);
    if bind.slot.0 >= slots || bind.bytes == 0 || end.is_none() {
        return Err(Error::Invalid(format!("{bind} is no range of a slot")));
    }
    Ok(())
}

/// The range in whole words. One that ends a buffer may be odd; the buffer's true end is
/// not.
fn words_of(bind: &Bind) -> Result<Range> {
    if !bind.offset.is_multiple_of(WORD) {
        return Err(Error::Invalid(format!("{bind} does not begin with a word")));
    }
    Ok(Range {
        slot: bind.slot,
        offset: bind.offset,
        bytes: bind.bytes.next_multiple_of(WORD),
    })
}

fn check_range(range: &Range, memory: &[Memory], what: &str) -> Result<()> {
    let bytes = memory[usize::from(range.slot.0)].bytes;
    if range.offset + range.bytes > bytes.next_multiple_of(WORD) {
        return Err(Error::Invalid(format!(
            "{what}: bytes {} .. +{} of slot {}, whose buffer has {bytes}",
            range.offset, range.bytes, range.slot.0
        )));
    }
    Ok(())
}

/// Checks a dispatch and writes its parameter block to `block`.
fn resolve(core: &Core, dispatch: &Dispatch, params_at: u64, block: &mut [u8]) -> Result<Work> {
    let limits = &core.info.limits;
    let kernel = core.kernel(dispatch.pipeline)?;
    // The parameters are no operand.
    let bindings = &kernel.bindings[1..];
    if bindings.len() != dispatch.operands.len() {
        return Err(Error::Invalid(format!(
            "{} takes {} operands, not {}",
            kernel.name,
            bindings.len(),
            dispatch.operands.len()
        )));
    }
    if dispatch
        .groups
        .iter()
        .any(|g| *g == 0 || *g > limits.max_grid)
    {
        return Err(Error::Invalid(format!(
            "grid {:?} is empty or above {} workgroups along an axis",
            dispatch.groups, limits.max_grid
        )));
    }
    let mut strides = Vec::new();
    let mut operands = Vec::new();
    for (operand, binding) in dispatch.operands.iter().zip(bindings) {
        let range = match operand {
            Operand::Range(bind) => words_of(bind)?,
            Operand::Table(entries) => {
                let (range, stride) = table_range(entries)?;
                strides.push(stride);
                range
            }
        };
        if *binding == Binding::Unused {
            continue;
        }
        if !range.offset.is_multiple_of(limits.offset_align) {
            return Err(Error::Invalid(format!(
                "offset {} is no multiple of {}",
                range.offset, limits.offset_align
            )));
        }
        if range.bytes > limits.max_binding_bytes {
            return Err(Error::Invalid(format!(
                "an operand of {} bytes is above the limit of {}",
                range.bytes, limits.max_binding_bytes
            )));
        }
        operands.push(range);
    }
    if strides.len() > TABLES {
        return Err(Error::Invalid(format!("more than {TABLES} tables")));
    }
    let words = dispatch.params.words().into_iter().chain(strides);
    for (place, word) in block.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    Ok(Work::Dispatch {
        kernel,
        groups: dispatch.groups,
        operands,
        params_at,
        label: dispatch.label.clone(),
    })
}

/// The range of a table from its first entry to its last, and the stride in bytes.
fn table_range(entries: &[Bind]) -> Result<(Range, u32)> {
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
        return Err(Error::Invalid("a table without entries".into()));
    };
    let stride = match entries {
        [first, second, ..] => second.offset.checked_sub(first.offset),
        _ => Some(0),
    };
    let stride = stride.and_then(|stride| u32::try_from(stride).ok());
    let even = |stride: u32| {
        entries.iter().zip(0u64..).all(|(entry, number)| {
            entry.slot == first.slot
                && entry.bytes == first.bytes
                && entry.offset == first.offset + number * u64::from(stride)
        })
    };
    match stride {
        Some(stride) if u64::from(stride).is_multiple_of(WORD) && even(stride) => {
            let range = Bind {
                bytes: last.offset + last.bytes - first.offset,
                ..*first
            };
            Ok((words_of(&range)?, stride))
        }
        _ => Err(Error::Invalid(
            "entries of a table do not lie in one slot at a constant stride".into(),
        )),
    }
}
