//! Host memory as a buffer, without a copy (VK_EXT_external_memory_host).

use std::sync::Arc;

use ash::vk;
use hadal_device::Pages;
use vulkano::VulkanObject;
use vulkano::device::Device;

use crate::fault::raw;
use crate::gpu::Gpu;

/// Whose memory it is.
const KIND: vk::ExternalMemoryHandleTypeFlags =
    vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;

/// A buffer over pages of the host, read only.
pub struct HostBuffer {
    device: Arc<Device>,
    buffer: vk::Buffer,
    memory: vk::DeviceMemory,
    /// Stay mapped until the device has let go of them.
    _pages: Pages,
}

impl HostBuffer {
    /// The buffer over `pages`, which begin at a multiple of the device's alignment for
    /// imports. `None` if the driver refuses: the caller copies.
    pub fn new(gpu: &Gpu, pages: Pages) -> Option<HostBuffer> {
        let align = gpu.offer.import_align?;
        let bytes = (*pages).as_ref();
        let start = bytes.as_ptr();
        let size = (bytes.len() as u64).checked_next_multiple_of(align)?;
        if size == 0 || !(start as u64).is_multiple_of(align) {
            return None;
        }
        let device = gpu.device.clone();
        let mut made = HostBuffer {
            buffer: vk::Buffer::null(),
            memory: vk::DeviceMemory::null(),
            _pages: pages.clone(),
            device,
        };
        made.create(gpu, size).ok()?;
        made.import(gpu, start, size)?;
        Some(made)
    }

    /// Vulkan's handle.
    pub fn handle(&self) -> vk::Buffer {
        self.buffer
    }

    fn create(&mut self, gpu: &Gpu, size: u64) -> Result<(), vulkano::VulkanError> {
        let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(KIND);
        let mut usage = vk::BufferUsageFlags::STORAGE_BUFFER | vk::BufferUsageFlags::TRANSFER_SRC;
        if gpu.offer.addresses {
            usage |= vk::BufferUsageFlags::SHADER_DEVICE_ADDRESS;
        }
        let families = [gpu.family(), gpu.transfer_family()];
        let mut info = vk::BufferCreateInfo::default()
            .size(size)
            .usage(usage)
            .push_next(&mut external);
        if families[0] != families[1] {
            info = info
                .sharing_mode(vk::SharingMode::CONCURRENT)
                .queue_family_indices(&families);
        }
        let fns = &self.device.fns().v1_0;
        // SAFETY: a plain buffer; the extension is enabled, since the device offers it.
        raw(unsafe {
            (fns.create_buffer)(
                self.device.handle(),
                &info,
                std::ptr::null(),
                &mut self.buffer,
            )
        })
    }

    fn import(&mut self, gpu: &Gpu, start: *const u8, size: u64) -> Option<()> {
        let device = self.device.handle();
        let fns = self.device.fns();
        let mut host = vk::MemoryHostPointerPropertiesEXT::default();
        let mut needs = vk::MemoryRequirements::default();
        // SAFETY: the pages are mapped, the extension is enabled, and the buffer was made.
        raw(unsafe {
            (fns.v1_0.get_buffer_memory_requirements)(device, self.buffer, &mut needs);
            (fns.ext_external_memory_host
                .get_memory_host_pointer_properties_ext)(
                device, KIND, start.cast(), &mut host
            )
        })
        .ok()?;
        let types = needs.memory_type_bits & host.memory_type_bits;
        if types == 0 || needs.size > size {
            return None;
        }
        let mut import = vk::ImportMemoryHostPointerInfoEXT::default().handle_type(KIND);
        import.p_host_pointer = start.cast_mut().cast();
        let mut flags = vk::MemoryAllocateFlagsInfo::default();
        if gpu.offer.addresses {
            flags = flags.flags(vk::MemoryAllocateFlags::DEVICE_ADDRESS);
        }
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(size)
            .memory_type_index(types.trailing_zeros())
            .push_next(&mut import)
            .push_next(&mut flags);
        // SAFETY: the pages are whole: systems map whole pages, and `size` ends with one.
        // They stay mapped as long as the memory, and no kernel writes them: programs that
        // would are refused.
        raw(unsafe {
            (fns.v1_0.allocate_memory)(device, &info, std::ptr::null(), &mut self.memory)
        })
        .ok()?;
        // SAFETY: both were made above for each other, and neither is bound.
        raw(unsafe { (fns.v1_0.bind_buffer_memory)(device, self.buffer, self.memory, 0) }).ok()
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        let fns = &self.device.fns().v1_0;
        // SAFETY: whoever frees a buffer waits until nothing uses it; null is ignored.
        unsafe {
            (fns.destroy_buffer)(self.device.handle(), self.buffer, std::ptr::null());
            (fns.free_memory)(self.device.handle(), self.memory, std::ptr::null());
        }
    }
}
