//! Commands: recorded by raw calls, because vulkano's own recorder tracks every buffer and
//! does not let recorded commands be submitted through a timeline.

use std::sync::{Arc, Mutex};

use ash::vk;
use vulkano::command_buffer::CommandBufferLevel;
use vulkano::command_buffer::pool::{
    CommandBufferAllocateInfo, CommandPool, CommandPoolAlloc, CommandPoolCreateFlags,
    CommandPoolCreateInfo,
};
use vulkano::device::Device;
use vulkano::{Validated, VulkanError, VulkanObject};

use crate::fault::raw;

/// What a queue that computes does.
const WORK: vk::PipelineStageFlags = vk::PipelineStageFlags::from_raw(
    vk::PipelineStageFlags::COMPUTE_SHADER.as_raw() | vk::PipelineStageFlags::TRANSFER.as_raw(),
);

/// A command buffer.
pub struct Commands {
    device: Arc<Device>,
    commands: CommandPoolAlloc,
    /// Keeps `commands` alive; locked by nobody.
    _pool: Arc<Mutex<CommandPool>>,
}

/// Commands being recorded.
pub struct Recording<'c> {
    device: &'c Device,
    commands: vk::CommandBuffer,
}

impl Commands {
    /// Empty command buffers for queues of `family`, with a pool of their own: recording one
    /// while another thread records one of the same pool is not allowed.
    pub fn several(
        device: &Arc<Device>,
        family: u32,
        count: u32,
    ) -> Result<Vec<Commands>, Validated<VulkanError>> {
        let info = CommandPoolCreateInfo {
            flags: CommandPoolCreateFlags::RESET_COMMAND_BUFFER,
            queue_family_index: family,
            ..Default::default()
        };
        let pool = CommandPool::new(device.clone(), info)?;
        let info = CommandBufferAllocateInfo {
            level: CommandBufferLevel::Primary,
            command_buffer_count: count,
            ..Default::default()
        };
        let made: Vec<_> = pool.allocate_command_buffers(info)?.collect();
        let pool = Arc::new(Mutex::new(pool));
        let one = |commands| Commands {
            device: device.clone(),
            commands,
            _pool: pool.clone(),
        };
        Ok(made.into_iter().map(one).collect())
    }

    /// An empty command buffer with a pool of its own.
    pub fn new(device: &Arc<Device>, family: u32) -> Result<Commands, Validated<VulkanError>> {
        let mut one = Commands::several(device, family, 1)?;
        one.pop().ok_or(VulkanError::OutOfHostMemory.into())
    }

    /// Vulkan's handle.
    pub fn handle(&self) -> vk::CommandBuffer {
        self.commands.handle()
    }

    /// Records `body` anew, after everything that was submitted to the queue before.
    ///
    /// # Safety
    /// No unfinished submit uses these commands.
    pub unsafe fn record(&mut self, body: impl FnOnce(&Recording<'_>)) -> Result<(), VulkanError> {
        let fns = &self.device.fns().v1_0;
        let commands = self.commands.handle();
        let info = vk::CommandBufferBeginInfo::default()
            .flags(vk::CommandBufferUsageFlags::SIMULTANEOUS_USE);
        // SAFETY: the caller's promise; beginning resets what was recorded before.
        raw(unsafe { (fns.begin_command_buffer)(commands, &info) })?;
        let recording = Recording {
            device: &self.device,
            commands,
        };
        body(&recording);
        // SAFETY: begun above.
        raw(unsafe { (fns.end_command_buffer)(commands) })
    }
}

impl Recording<'_> {
    fn fns(&self) -> &ash::DeviceFnV1_0 {
        &self.device.fns().v1_0
    }

    /// Everything before is done and visible to everything after. For a queue that computes.
    pub fn barrier(&self) {
        self.wait_for(
            WORK,
            WORK,
            vk::AccessFlags::SHADER_READ
                | vk::AccessFlags::SHADER_WRITE
                | vk::AccessFlags::UNIFORM_READ
                | vk::AccessFlags::TRANSFER_READ
                | vk::AccessFlags::TRANSFER_WRITE,
        );
    }

    /// Everything before is done and visible to the host.
    pub fn barrier_to_host(&self) {
        let (host, read) = (vk::PipelineStageFlags::HOST, vk::AccessFlags::HOST_READ);
        self.wait_for(WORK, host, read);
    }

    /// Copies before are done and visible to copies after. For a queue that only copies.
    pub fn barrier_between_copies(&self) {
        let (copies, write) = (
            vk::PipelineStageFlags::TRANSFER,
            vk::AccessFlags::TRANSFER_WRITE,
        );
        self.wait_for(copies, copies, write);
    }

    fn wait_for(
        &self,
        before: vk::PipelineStageFlags,
        stages: vk::PipelineStageFlags,
        access: vk::AccessFlags,
    ) {
        let written = match before.contains(vk::PipelineStageFlags::COMPUTE_SHADER) {
            true => vk::AccessFlags::SHADER_WRITE | vk::AccessFlags::TRANSFER_WRITE,
            false => vk::AccessFlags::TRANSFER_WRITE,
        };
        let barrier = vk::MemoryBarrier::default()
            .src_access_mask(written)
            .dst_access_mask(access);
        let none = vk::DependencyFlags::empty();
        // SAFETY: being recorded; one barrier, no others.
        unsafe {
            (self.fns().cmd_pipeline_barrier)(
                self.commands,
                before,
                stages,
                none,
                1,
                &barrier,
                0,
                std::ptr::null(),
                0,
                std::ptr::null(),
            );
        }
    }

    /// Binds a pipeline.
    ///
    /// # Safety
    /// The pipeline lives as long as the commands are submitted; so in all calls below.
    pub unsafe fn pipeline(&self, pipeline: vk::Pipeline) {
        let point = vk::PipelineBindPoint::COMPUTE;
        // SAFETY: being recorded; the caller's promise.
        unsafe { (self.fns().cmd_bind_pipeline)(self.commands, point, pipeline) };
    }

    /// Runs the bound pipeline over `groups` workgroups with the operands of `set`.
    ///
    /// # Safety
    /// `set` was made for the pipeline's `layout`.
    pub unsafe fn dispatch(
        &self,
        layout: vk::PipelineLayout,
        set: vk::DescriptorSet,
        groups: [u32; 3],
    ) {
        let point = vk::PipelineBindPoint::COMPUTE;
        let fns = self.fns();
        // SAFETY: being recorded; the caller's promise.
        unsafe {
            (fns.cmd_bind_descriptor_sets)(
                self.commands,
                point,
                layout,
                0,
                1,
                &set,
                0,
                std::ptr::null(),
            );
            (fns.cmd_dispatch)(self.commands, groups[0], groups[1], groups[2]);
        }
    }

    /// Copies bytes.
    ///
    /// # Safety
    /// The ranges lie in their buffers and do not overlap.
    pub unsafe fn copy(&self, from: (vk::Buffer, u64), to: (vk::Buffer, u64), bytes: u64) {
        let region = vk::BufferCopy {
            src_offset: from.1,
            dst_offset: to.1,
            size: bytes,
        };
        // SAFETY: being recorded; the caller's promise.
        unsafe { (self.fns().cmd_copy_buffer)(self.commands, from.0, to.0, 1, &region) };
    }

    /// Fills whole words with a byte.
    ///
    /// # Safety
    /// The range lies in the buffer; offset and length are multiples of 4.
    pub unsafe fn fill(&self, to: (vk::Buffer, u64), bytes: u64, byte: u8) {
        let word = u32::from_le_bytes([byte; 4]);
        // SAFETY: being recorded; the caller's promise.
        unsafe { (self.fns().cmd_fill_buffer)(self.commands, to.0, to.1, bytes, word) };
    }

    /// Makes queries new.
    ///
    /// # Safety
    /// The pool has them.
    pub unsafe fn reset_queries(&self, pool: vk::QueryPool, first: u32, count: u32) {
        // SAFETY: being recorded; the caller's promise.
        unsafe { (self.fns().cmd_reset_query_pool)(self.commands, pool, first, count) };
    }

    /// Writes down when everything before is done.
    ///
    /// # Safety
    /// The pool has the query, and it is new.
    pub unsafe fn timestamp(&self, pool: vk::QueryPool, query: u32) {
        let stage = vk::PipelineStageFlags::BOTTOM_OF_PIPE;
        // SAFETY: being recorded; the caller's promise.
        unsafe { (self.fns().cmd_write_timestamp)(self.commands, stage, pool, query) };
    }
}
