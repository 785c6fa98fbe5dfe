//! Programs: checked and resolved once, encoded anew for each submit.
//!
//! wgpu cannot replay commands, so a submit encodes every step again (less than a
//! microsecond each); parameters and bind groups are made before.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use hadal_device::{BufferId, Executable, Kept, Program, Result, Slot, Ticket, check_table};
use hadal_shaders::wgsl_kernels::Kernel;
use hadal_shaders::wgsl_operands::{self, Range, resolve};

use crate::core::{Core, Memory, label};
use crate::kernel::Compiled;

/// Largest piece of a fill with a byte other than 0, and of a copy within one buffer.
const PIECE: u64 = 1 << 20;

type Work = wgsl_operands::Work<Compiled>;

/// What a table is bound as: the buffers of its slots, and the bind group of each dispatch.
struct Bound {
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
    bound: Kept<Bound>,
    is_warm: bool,
}

impl Prepared {
    /// Checks `program` against the device's limits and writes its parameters.
    pub fn new(core: Arc<Core>, program: &Program) -> Result<Prepared> {
        let align = u64::from(core.wgpu.limits().min_uniform_buffer_offset_alignment);
        let kernel = |id| core.kernel(id);
        let (work, params) = resolve(program, &core.info.limits, align, kernel)?;
        let mut prepared = Prepared {
            params: None,
            patterns: Vec::new(),
            core,
            slots: program.slots,
            work,
            bounce: None,
            bound: Kept::default(),
            is_warm: false,
        };
        prepared.make_buffers(&params)?;
        Ok(prepared)
    }

    fn make_buffers(&mut self, params: &[u8]) -> Result<()> {
        let core = &self.core;
        if !params.is_empty() {
            let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
            let buffer = core.make_buffer("parameters", params.len() as u64, usage)?;
            core.caught("parameters", 0, || {
                core.queue.write_buffer(&buffer, 0, params)
            })?;
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
            let bytes = vec![byte; PIECE as usize];
            core.caught("pattern", 0, || core.queue.write_buffer(&buffer, 0, &bytes))?;
            self.patterns.push((byte, buffer));
        }
        core.check("preparing a program")
    }

    /// Makes `table` the newest of `bound`, with its bind groups if it is not known.
    fn bind(&mut self, table: &[BufferId]) -> Result<()> {
        if self.bound.find(table).is_some() {
            return Ok(());
        }
        let memory: Vec<Memory> = table
            .iter()
            .map(|id| self.core.memory(*id))
            .collect::<Result<_>>()?;
        let groups = self
            .core
            .caught("binding buffers", 0, || self.bind_groups(&memory))??;
        let made = groups.iter().flatten().count() as u64;
        self.core
            .made_bind_groups
            .fetch_add(made, Ordering::Relaxed);
        if self.bounce.is_none() && self.copies_within_a_buffer(table) {
            let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
            self.bounce = Some(self.core.make_buffer("copying", PIECE, usage)?);
        }
        let core = &self.core;
        let lives = |table: &[BufferId]| table.iter().all(|id| core.memory(*id).is_ok());
        self.bound.keep(table, Bound { memory, groups }, lives);
        Ok(())
    }

    /// Before the first run on a shared device: runs each kernel with each of its parameters over
    /// no workgroup. Some drivers finish compiling then (llvmpipe, for each set of parameters,
    /// some tenths of a second), which holds up the queue: one at a time, so that the
    /// application's frames come in between.
    fn warm_up(&mut self) -> Result<()> {
        if self.is_warm || !self.core.shared {
            return Ok(());
        }
        let Some(bound) = self.bound.newest() else {
            return Ok(());
        };
        let (core, what) = (&self.core, "running kernels over nothing");
        let mut seen = HashSet::new();
        for (work, group) in self.work.iter().zip(&bound.groups) {
            let Work::Dispatch {
                kernel, params_at, ..
            } = work
            else {
                continue;
            };
            if !seen.insert((Arc::as_ptr(kernel), *params_at)) {
                continue;
            }
            let commands = core.caught(what, 0, || {
                let mut encoder = core.encoder("over nothing");
                let mut pass = encoder.begin_compute_pass(&Default::default());
                pass.set_pipeline(&kernel.compiled.pipeline);
                pass.set_bind_group(0, group.as_ref(), &[]);
                pass.dispatch_workgroups(0, 0, 0);
                drop(pass);
                encoder.finish()
            })?;
            core.wait_for(&core.hand_over(what, Some(commands))?, what)?;
        }
        self.is_warm = true;
        Ok(())
    }

    fn copies_within_a_buffer(&self, table: &[BufferId]) -> bool {
        let id = |range: &Range| table[usize::from(range.slot.0)];
        self.work
            .iter()
            .any(|work| matches!(work, Work::Copy { from, to } if id(from) == id(to)))
    }

    fn bind_groups(&self, memory: &[Memory]) -> Result<Vec<Option<wgpu::BindGroup>>> {
        let bytes = |slot: Slot| memory[usize::from(slot.0)].bytes;
        let group = |work: &Work| {
            work.check(bytes)?;
            Ok(match work {
                Work::Dispatch {
                    kernel,
                    operands,
                    params_at,
                    ..
                } => self.bind_group(kernel, operands, *params_at, memory),
                Work::Copy { .. } | Work::Fill { .. } => None,
            })
        };
        self.work.iter().map(group).collect()
    }

    fn bind_group(
        &self,
        kernel: &Kernel<Compiled>,
        operands: &[Range],
        params_at: u64,
        memory: &[Memory],
    ) -> Option<wgpu::BindGroup> {
        let params = wgpu::BufferBinding {
            buffer: self.params.as_ref()?,
            offset: params_at,
            size: wgpu::BufferSize::new(kernel.param_bytes()),
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
            label: Some(&label(&kernel.name)),
            layout: &kernel.compiled.layout,
            entries: &entries,
        };
        Some(self.core.wgpu.create_bind_group(&desc))
    }

    /// Encodes all steps; neighbouring dispatches share a pass.
    fn encode(&self, encoder: &mut wgpu::CommandEncoder, bound: &Bound) {
        let mut next = 0;
        while next < self.work.len() {
            match &self.work[next] {
                Work::Dispatch { .. } => next = self.encode_pass(encoder, bound, next),
                Work::Copy { from, to } => {
                    self.encode_copy(encoder, bound, *from, *to);
                    next += 1;
                }
                Work::Fill { to, byte } => {
                    self.encode_fill(encoder, bound, *to, *byte);
                    next += 1;
                }
            }
        }
    }

    /// Encodes dispatches from step `first` on; returns the step after the last of them.
    fn encode_pass(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        bound: &Bound,
        first: usize,
    ) -> usize {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("hadal dispatches"),
            timestamp_writes: None,
        });
        let mut current = std::ptr::null();
        for (step, work) in self.work.iter().enumerate().skip(first) {
            let Work::Dispatch { kernel, groups, .. } = work else {
                return step;
            };
            // Neighbours are often the same kernel over another shard.
            if !std::ptr::eq(current, Arc::as_ptr(kernel)) {
                pass.set_pipeline(&kernel.compiled.pipeline);
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
        let entered = Instant::now();
        check_table(self.slots, table)?;
        self.core.check("submitting a program")?;
        self.bind(table)?;
        self.warm_up()?;
        self.core.submit(entered, |encoder| {
            if let Some(bound) = self.bound.newest() {
                self.encode(encoder, bound);
            }
        })
    }
}
