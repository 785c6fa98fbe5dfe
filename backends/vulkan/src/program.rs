//! Programs: checked once, recorded once for each table of buffers, replayed by each submit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ash::vk;
use hadal_device::{
    Access, BufferId, Error, Executable, Kept, Program, Result, Slot, Ticket, check_table,
    levels_with,
};
use hadal_shaders::wgsl_operands::{self, Range, resolve};
use vulkano::buffer::BufferUsage;
use vulkano::descriptor_set::layout::DescriptorType;
use vulkano::descriptor_set::pool::{DescriptorPool, DescriptorPoolCreateInfo};
use vulkano::{VulkanError, VulkanObject};

use crate::addresses::{Addresses, tables};
use crate::device::Core;
use crate::fault::raw;
use crate::gpu::Marks;
use crate::kernel::Compiled;
use crate::memory::{Memory, Place, Shared};
use crate::record::{Commands, Recording};

type Work = wgsl_operands::Work<Compiled>;

/// Commands over the buffers of a table.
struct Bound {
    core: Arc<Core>,
    /// What is under way in the buffers of the table.
    marks: Vec<Arc<Marks>>,
    /// [`Core::freed`] when all buffers of the table were last seen.
    seen: u64,
    commands: Commands,
    /// Operands of the dispatches.
    _sets: Option<DescriptorPool>,
    /// Addresses of their tables.
    _addresses: Option<Addresses>,
    /// The last submit.
    ticket: Ticket,
}

impl Drop for Bound {
    fn drop(&mut self) {
        // The commands must not go while they run.
        if self.core.gpu.wait(self.ticket).is_err() {
            self.core.gpu.drain();
        }
    }
}

/// A program ready to submit.
pub struct Prepared {
    // Waits for its submits when it goes, so it stands before what they use.
    bound: Kept<Bound>,
    params: Option<Memory>,
    work: Vec<Work>,
    program: Program,
    core: Arc<Core>,
}

impl Prepared {
    /// Checks `program` against the device's limits and writes its parameters.
    pub fn new(core: Arc<Core>, program: &Program) -> Result<Prepared> {
        let properties = core.gpu.device.physical_device().properties();
        let align = properties
            .min_uniform_buffer_offset_alignment
            .as_devicesize();
        let kernel = |id| core.kernel(id);
        let (work, params) = resolve(program, &core.info.limits, align, kernel)?;
        let params = core.parameters(&params)?;
        Ok(Prepared {
            bound: Kept::default(),
            params,
            work,
            program: program.clone(),
            core,
        })
    }

    /// Makes `table` the newest of `bound`, with its commands if it is not known.
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
        self.check(&memory)?;
        let addresses = Addresses::new(&self.core, &self.work, &memory)?;
        let sets = self.sets(&memory, addresses.as_ref())?;
        let gpu = &self.core.gpu;
        let fault = |error| gpu.error(error, "recording", 0);
        let mut commands = Commands::new(&gpu.device, gpu.family())
            .map_err(|error| gpu.error(error, "command buffers", 0))?;
        let levels = levels_with(&self.program, table);
        // SAFETY: new commands, which nothing uses yet.
        unsafe {
            commands
                .record(|recording| self.record(recording, &memory, &levels, &sets.1))
                .map_err(fault)?;
        }
        let made = sets.1.len() as u64;
        self.core
            .made_bind_groups
            .fetch_add(made, Ordering::Relaxed);
        let bound = Bound {
            core: self.core.clone(),
            marks: memory.iter().map(|memory| memory.marks.clone()).collect(),
            seen: freed,
            commands,
            _sets: sets.0,
            _addresses: addresses,
            ticket: Ticket(0),
        };
        let core = &self.core;
        let lives = |table: &[BufferId]| core.memories(table).is_ok();
        self.bound.keep(table, bound, lives);
        Ok(())
    }

    /// `Err` unless every range lies in its buffer and none that is written is read only.
    fn check(&self, memory: &[Shared]) -> Result<()> {
        let bytes = |slot: Slot| memory[usize::from(slot.0)].bytes;
        self.work.iter().try_for_each(|work| work.check(bytes))?;
        for (number, step) in self.program.steps.iter().enumerate() {
            let is_broken = |bind: &hadal_device::Bind| {
                bind.access == Access::Write && !memory[usize::from(bind.slot.0)].is_writable()
            };
            if step.binds().iter().any(is_broken) {
                return Err(Error::Invalid(format!(
                    "step {number} ({step}) writes adopted pages, which are read only"
                )));
            }
        }
        Ok(())
    }

    /// A descriptor set for each dispatch, and their pool.
    fn sets(
        &self,
        memory: &[Shared],
        addresses: Option<&Addresses>,
    ) -> Result<(Option<DescriptorPool>, Vec<vk::DescriptorSet>)> {
        let mut layouts = Vec::new();
        let mut storage = 0;
        for work in &self.work {
            if let Work::Dispatch {
                kernel, operands, ..
            } = work
            {
                layouts.push(kernel.compiled.set.handle());
                storage += (operands.len() + tables(work).len()) as u32;
            }
        }
        let Some(params) = self.params.as_ref().filter(|_| !layouts.is_empty()) else {
            return Ok((None, Vec::new()));
        };
        let count = layouts.len() as u32;
        let gpu = &self.core.gpu;
        let mut sizes = vec![(DescriptorType::UniformBuffer, count)];
        if storage > 0 {
            sizes.push((DescriptorType::StorageBuffer, storage));
        }
        let info = DescriptorPoolCreateInfo {
            max_sets: count,
            pool_sizes: sizes.into_iter().collect(),
            ..Default::default()
        };
        let pool = DescriptorPool::new(gpu.device.clone(), info)
            .map_err(|error| gpu.error(error, "binding buffers", 0))?;
        let mut sets = vec![vk::DescriptorSet::null(); layouts.len()];
        let info = vk::DescriptorSetAllocateInfo::default()
            .descriptor_pool(pool.handle())
            .set_layouts(&layouts);
        let fns = &gpu.device.fns().v1_0;
        let device = gpu.device.handle();
        // SAFETY: the pool is new and has room for all of them.
        raw(unsafe { (fns.allocate_descriptor_sets)(device, &info, sets.as_mut_ptr()) })
            .map_err(|error: VulkanError| gpu.error(error, "binding buffers", 0))?;
        let mut next = sets.iter();
        let mut lists = addresses.into_iter().flat_map(Addresses::lists);
        for work in &self.work {
            if let Work::Dispatch {
                kernel,
                operands,
                params_at,
                ..
            } = work
                && let Some(set) = next.next()
            {
                let tables = tables(work).iter().map(|table| table.binding);
                let tables: Vec<_> = tables.zip(lists.by_ref()).collect();
                let uniform = (params, *params_at, kernel.param_bytes());
                self.write_set(*set, uniform, operands, &tables, memory);
            }
        }
        Ok((Some(pool), sets))
    }

    fn write_set(
        &self,
        set: vk::DescriptorSet,
        (params, params_at, param_bytes): (&Memory, u64, u64),
        operands: &[Range],
        tables: &[(u32, (&Memory, u64, u64))],
        memory: &[Shared],
    ) {
        let info = |buffer, offset, range| vk::DescriptorBufferInfo {
            buffer,
            offset,
            range,
        };
        let uniform = [info(params.handle(), params_at, param_bytes)];
        let lists = tables.iter().map(|(binding, (memory, offset, bytes))| {
            (*binding, info(memory.handle(), *offset, *bytes))
        });
        let mut storage: Vec<_> = lists.collect();
        let free = (1u32..).filter(|number| tables.iter().all(|(binding, _)| binding != number));
        storage.extend(free.zip(operands).map(|(number, range)| {
            let buffer = memory[usize::from(range.slot.0)].handle();
            (number, info(buffer, range.offset, range.bytes))
        }));
        let mut writes = vec![
            vk::WriteDescriptorSet::default()
                .dst_set(set)
                .descriptor_type(vk::DescriptorType::UNIFORM_BUFFER)
                .buffer_info(&uniform),
        ];
        for (binding, info) in &storage {
            writes.push(
                vk::WriteDescriptorSet::default()
                    .dst_set(set)
                    .dst_binding(*binding)
                    .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                    .buffer_info(std::slice::from_ref(info)),
            );
        }
        let device = &self.core.gpu.device;
        let update = device.fns().v1_0.update_descriptor_sets;
        // SAFETY: a new set that nothing uses; its layout has these bindings, and the ranges
        // were checked against their buffers.
        unsafe {
            update(
                device.handle(),
                writes.len() as u32,
                writes.as_ptr(),
                0,
                std::ptr::null(),
            );
        }
    }

    fn record(
        &self,
        recording: &Recording<'_>,
        memory: &[Shared],
        levels: &[u32],
        sets: &[vk::DescriptorSet],
    ) {
        let handle = |range: &Range| memory[usize::from(range.slot.0)].handle();
        let mut sets = sets.iter();
        let (mut level, mut current) = (0, std::ptr::null());
        // The first step comes after everything that was submitted before.
        recording.barrier();
        for (work, step_level) in self.work.iter().zip(levels) {
            if *step_level > level {
                recording.barrier();
                level = *step_level;
            }
            // SAFETY: pipelines live in the device's list, sets in the pool that is kept
            // with the commands, and ranges were checked against their buffers.
            unsafe {
                match work {
                    Work::Dispatch { kernel, groups, .. } => {
                        // Neighbours are often the same kernel over another shard.
                        if !std::ptr::eq(current, Arc::as_ptr(kernel)) {
                            recording.pipeline(kernel.compiled.pipeline.handle());
                            current = Arc::as_ptr(kernel);
                        }
                        if let Some(set) = sets.next() {
                            recording.dispatch(kernel.compiled.layout.handle(), *set, *groups);
                        }
                    }
                    Work::Copy { from, to } => {
                        let (source, target) = (handle(from), handle(to));
                        recording.copy((source, from.offset), (target, to.offset), to.bytes);
                    }
                    Work::Fill { to, byte } => {
                        recording.fill((handle(to), to.offset), to.bytes, *byte);
                    }
                }
            }
        }
    }
}

impl Executable for Prepared {
    fn submit(&mut self, table: &[BufferId]) -> Result<Ticket> {
        let begin = Instant::now();
        check_table(self.program.slots, table)?;
        self.core.gpu.check()?;
        self.bind(table)?;
        let bound = self.bound.find(table);
        let bound = bound.ok_or_else(|| Error::Invalid("a table was not recorded".into()))?;
        // SAFETY: recorded; buffers live by the promise of `submit`, the rest by `Bound`,
        // which waits before it goes.
        bound.ticket = unsafe { self.core.gpu.run(bound.commands.handle(), &bound.marks)? };
        self.core.gpu.cost.add(begin.elapsed());
        Ok(bound.ticket)
    }
}

impl Core {
    /// Memory with the parameter blocks of a program; none without dispatches.
    fn parameters(&self, bytes: &[u8]) -> Result<Option<Memory>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let length = bytes.len() as u64;
        let usage = BufferUsage::UNIFORM_BUFFER;
        let memory = Memory::new(&self.gpu, "parameters", length, usage, Place::Device)?;
        self.staging().write(&self.gpu, &memory, 0, bytes)?;
        // A program that runs or is dropped at once must not overtake the copy.
        self.gpu.settle(&memory.marks);
        Ok(Some(memory))
    }
}
