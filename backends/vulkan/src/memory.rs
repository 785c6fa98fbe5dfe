//! Buffers, each with memory of its own.

use std::ptr::NonNull;
use std::sync::Arc;

use ash::vk;
use hadal_device::{Error, Pages, Result};
use vulkano::buffer::sys::{BufferCreateInfo, RawBuffer};
use vulkano::buffer::{Buffer, BufferUsage};
use vulkano::memory::{
    DedicatedAllocation, DeviceMemory, MemoryAllocateFlags, MemoryAllocateInfo, MemoryMapInfo,
    MemoryPropertyFlags, ResourceMemory,
};
use vulkano::sync::Sharing;
use vulkano::{Validated, VulkanObject};

use crate::budget::Taken;
use crate::gpu::{Gpu, Marks};
use crate::import::HostBuffer;

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
    buffer: Bytes,
    /// Bytes asked for; its true size is the next multiple of 16.
    pub bytes: u64,
    /// What of it is under way.
    pub marks: Arc<Marks>,
    mapped: Option<NonNull<u8>>,
    _taken: Option<Taken>,
}

/// Whose the bytes are.
enum Bytes {
    Own(Buffer),
    Host(HostBuffer),
}

// SAFETY: the pointer is to memory that lives as long as the buffer; whoever uses it has the
// value exclusively (`Memory::bytes_mut`).
unsafe impl Send for Memory {}
// SAFETY: a shared value gives out no pointer.
unsafe impl Sync for Memory {}

impl Memory {
    /// The pages themselves, read only, if the driver can use them in place; counted.
    pub fn adopt(gpu: &Gpu, pages: Pages) -> Option<Memory> {
        let bytes = (*pages).as_ref().len() as u64;
        let buffer = HostBuffer::new(gpu, pages)?;
        gpu.count_buffer();
        Some(Memory {
            buffer: Bytes::Host(buffer),
            bytes,
            marks: Arc::default(),
            mapped: None,
            _taken: None,
        })
    }

    /// False for adopted pages.
    pub fn is_writable(&self) -> bool {
        matches!(self.buffer, Bytes::Own(_))
    }

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
        let (info, flags) = buffer_info(gpu, bytes, usage);
        let raw = RawBuffer::new(gpu.device.clone(), info).map_err(fault)?;
        let needs = *raw.memory_requirements();
        let size = needs.layout.size();
        let (memory_type, heap) =
            memory_type(gpu, needs.memory_type_bits, size, place).ok_or_else(full)?;
        let taken = gpu.budget.take(heap, size);
        let taken = taken.map_err(|left| Error::OutOfMemory {
            what: format!("{what}, where the budget leaves {left} bytes"),
            memory: gpu.name.clone(),
            wanted_bytes: bytes,
        })?;
        let info = MemoryAllocateInfo {
            allocation_size: size,
            memory_type_index: memory_type,
            dedicated_allocation: Some(DedicatedAllocation::Buffer(&raw)),
            flags,
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
            buffer: Bytes::Own(buffer),
            bytes,
            marks: Arc::default(),
            mapped,
            _taken: Some(taken),
        })
    }

    /// Vulkan's handle.
    pub fn handle(&self) -> ash::vk::Buffer {
        match &self.buffer {
            Bytes::Own(buffer) => buffer.handle(),
            Bytes::Host(buffer) => buffer.handle(),
        }
    }

    /// Where kernels find its first byte: the device has addresses, and this is no staging
    /// memory.
    pub fn address(&self, gpu: &Gpu) -> u64 {
        let info = vk::BufferDeviceAddressInfo::default().buffer(self.handle());
        let address = gpu.device.fns().v1_2.get_buffer_device_address;
        // SAFETY: the buffer lives and was made for it, where the device has the feature; the
        // function is there from Vulkan 1.2 on, which every device has.
        unsafe { address(gpu.device.handle(), &info) }
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

/// What a buffer is made of, and how its memory is allocated.
fn buffer_info(
    gpu: &Gpu,
    bytes: u64,
    usage: BufferUsage,
) -> (BufferCreateInfo, MemoryAllocateFlags) {
    // Any buffer may hold entries of a table that kernels read through addresses.
    let addressed = gpu.offer.addresses && usage.contains(BufferUsage::STORAGE_BUFFER);
    let (address, flags) = if addressed {
        let flags = MemoryAllocateFlags::DEVICE_ADDRESS;
        (BufferUsage::SHADER_DEVICE_ADDRESS, flags)
    } else {
        (BufferUsage::empty(), MemoryAllocateFlags::empty())
    };
    let families = [gpu.family(), gpu.transfer_family()];
    let info = BufferCreateInfo {
        size: bytes.max(1).next_multiple_of(16),
        usage: usage | address | BufferUsage::TRANSFER_SRC | BufferUsage::TRANSFER_DST,
        // Both families use a buffer without handing it over: buffers lose nothing by that,
        // unlike images.
        sharing: match families[0] == families[1] {
            true => Sharing::Exclusive,
            false => Sharing::Concurrent(families.into_iter().collect()),
        },
        ..Default::default()
    };
    (info, flags)
}

/// The first memory type among `bits` with what `place` wants and a heap of `size` bytes, and
/// its heap.
fn memory_type(gpu: &Gpu, bits: u32, size: u64, place: Place) -> Option<(u32, u32)> {
    let memory = gpu.device.physical_device().memory_properties();
    place.wanted().into_iter().find_map(|wanted| {
        let fits = |(index, kind): &(u32, &vulkano::memory::MemoryType)| {
            let heap = &memory.memory_heaps[kind.heap_index as usize];
            bits >> index & 1 == 1 && kind.property_flags.contains(wanted) && size <= heap.size
        };
        let mut types = (0u32..).zip(&memory.memory_types);
        types
            .find(fits)
            .map(|(index, kind)| (index, kind.heap_index))
    })
}

/// A buffer of the runtime.
pub type Shared = Arc<Memory>;
