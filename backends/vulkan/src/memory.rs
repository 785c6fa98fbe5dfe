//! Buffers, each with memory of its own.

use std::ptr::NonNull;
use std::sync::Arc;

use hadal_device::{Error, Result};
use vulkano::buffer::sys::{BufferCreateInfo, RawBuffer};
use vulkano::buffer::{Buffer, BufferUsage};
use vulkano::memory::{
    DedicatedAllocation, DeviceMemory, MemoryAllocateInfo, MemoryMapInfo, MemoryPropertyFlags,
    ResourceMemory,
};
use vulkano::{Validated, VulkanObject};

use crate::gpu::Gpu;

/// Where memory lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where the device reads fastest.
    Device,
    /// Mapped for writing.
    Upload,
    /// Mapped for reading.
    Download,
}

impl Place {
    /// Properties in order of preference; the last must exist.
    fn wanted(self) -> [MemoryPropertyFlags; 2] {
        let mapped = MemoryPropertyFlags::HOST_VISIBLE | MemoryPropertyFlags::HOST_COHERENT;
        match self {
            Place::Device => [
                MemoryPropertyFlags::DEVICE_LOCAL,
                MemoryPropertyFlags::empty(),
            ],
            Place::Upload => [mapped, mapped],
            Place::Download => [mapped | MemoryPropertyFlags::HOST_CACHED, mapped],
        }
    }
}

/// A buffer and its memory.
pub struct Memory {
    buffer: Buffer,
    /// Bytes asked for; its true size is the next multiple of 16.
    pub bytes: u64,
    mapped: Option<NonNull<u8>>,
}

// SAFETY: the pointer is to memory that lives as long as the buffer; whoever uses it has the
// value exclusively (`Memory::bytes_mut`).
unsafe impl Send for Memory {}
// SAFETY: a shared value gives out no pointer.
unsafe impl Sync for Memory {}

impl Memory {
    /// Memory for `what`; counted.
    pub fn new(
        gpu: &Gpu,
        what: &str,
        bytes: u64,
        usage: BufferUsage,
        place: Place,
    ) -> Result<Memory> {
        let fault = |error: Validated<vulkano::VulkanError>| gpu.error(error, what, bytes);
        let full = || Error::OutOfMemory {
            what: what.into(),
            memory: gpu.name.clone(),
            wanted_bytes: bytes,
        };
        let info = BufferCreateInfo {
            size: bytes.max(1).next_multiple_of(16),
            usage: usage | BufferUsage::TRANSFER_SRC | BufferUsage::TRANSFER_DST,
            ..Default::default()
        };
        let raw = RawBuffer::new(gpu.device.clone(), info).map_err(fault)?;
        let needs = *raw.memory_requirements();
        let size = needs.layout.size();
        let memory_type = memory_type(gpu, needs.memory_type_bits, size, place).ok_or_else(full)?;
        let info = MemoryAllocateInfo {
            allocation_size: size,
            memory_type_index: memory_type,
            dedicated_allocation: Some(DedicatedAllocation::Buffer(&raw)),
            ..Default::default()
        };
        let mut memory = DeviceMemory::allocate(gpu.device.clone(), info).map_err(fault)?;
        let mut mapped = None;
        if place != Place::Device {
            let whole = MemoryMapInfo {
                size,
                ..Default::default()
            };
            memory.map(whole).map_err(fault)?;
            mapped = memory.mapping_state().map(|state| state.ptr().cast());
        }
        let buffer = raw
            .bind_memory(ResourceMemory::new_dedicated(memory))
            .map_err(|(error, _, _)| fault(error))?;
        gpu.count_buffer();
        Ok(Memory {
            buffer,
            bytes,
            mapped,
        })
    }

    /// Vulkan's handle.
    pub fn handle(&self) -> ash::vk::Buffer {
        self.buffer.handle()
    }

    /// The mapped bytes; empty for memory of the device.
    ///
    /// # Safety
    /// No unfinished submit uses the buffer.
    pub unsafe fn bytes_mut(&mut self) -> &mut [u8] {
        match self.mapped {
            // SAFETY: mapped from its beginning, at least `bytes` long, for as long as
            // `self` lives; the caller's promise.
            Some(ptr) => unsafe {
                std::slice::from_raw_parts_mut(ptr.as_ptr(), self.bytes as usize)
            },
            None => &mut [],
        }
    }
}

/// The first memory type among `bits` with what `place` wants and a heap of `size` bytes.
fn memory_type(gpu: &Gpu, bits: u32, size: u64, place: Place) -> Option<u32> {
    let memory = gpu.device.physical_device().memory_properties();
    place.wanted().into_iter().find_map(|wanted| {
        let fits = |(index, kind): &(u32, &vulkano::memory::MemoryType)| {
            let heap = &memory.memory_heaps[kind.heap_index as usize];
            bits >> index & 1 == 1 && kind.property_flags.contains(wanted) && size <= heap.size
        };
        let mut types = (0u32..).zip(&memory.memory_types);
        types.find(fits).map(|(index, _)| index)
    })
}

/// A buffer of the runtime.
pub type Shared = Arc<Memory>;
