//! Which devices there are and what they offer.

use std::sync::Arc;

use hadal_device::{DeviceInfo, DeviceKind, Error, Features, Limits, Result};
use vulkano::device::physical::{PhysicalDevice, PhysicalDeviceType};
use vulkano::device::{DeviceFeatures, QueueFlags};
use vulkano::instance::{Instance, InstanceCreateFlags, InstanceCreateInfo};
use vulkano::{LoadingError, Version, VulkanLibrary};

use crate::{VulkanBackend, VulkanOptions};

/// Operand offsets are at least this much aligned, so that a program's layout does not
/// depend on the device.
const OFFSET_ALIGN: u64 = 256;

/// No operand is longer: kernels count bytes of a table in 32 bits.
const MAX_BINDING: u64 = (1 << 32) - OFFSET_ALIGN;

/// The layer that checks the calls.
const VALIDATION: &str = "VK_LAYER_KHRONOS_validation";

/// Features that every device is opened with.
pub fn needed_features() -> DeviceFeatures {
    DeviceFeatures {
        timeline_semaphore: true,
        ..DeviceFeatures::empty()
    }
}

fn unavailable(why: String) -> Error {
    Error::Unavailable {
        backend: VulkanBackend::NAME,
        why,
    }
}

/// Physical devices with their descriptions, best first. An error if there are none.
pub fn enumerate(options: &VulkanOptions) -> Result<Vec<(Arc<PhysicalDevice>, DeviceInfo)>> {
    let instance = instance(options)?;
    let found = instance
        .enumerate_physical_devices()
        .map_err(|error| unavailable(format!("the drivers could not be asked: {error}")))?;
    let mut enough: Vec<_> = found.filter(|device| is_enough(device)).collect();
    enough.sort_by_key(|device| kind_rank(device.properties().device_type));
    if enough.is_empty() {
        return Err(unavailable(
            "no driver with Vulkan 1.2 was found; install the driver of the GPU's vendor (on \
             Debian: mesa-vulkan-drivers for AMD and Intel, which also contains lavapipe, or the \
             NVIDIA driver package)"
                .into(),
        ));
    }
    let describe = |(ordinal, device): (usize, Arc<PhysicalDevice>)| {
        let info = describe(&device, ordinal, options);
        (device, info)
    };
    Ok(enough.into_iter().enumerate().map(describe).collect())
}

fn instance(options: &VulkanOptions) -> Result<Arc<Instance>> {
    let library = VulkanLibrary::new().map_err(|error| {
        unavailable(match error {
            LoadingError::LibraryLoadFailure(error) => format!(
                "the Vulkan loader could not be opened ({error}); install it (on Debian: \
                 libvulkan1), or the driver of the GPU's vendor"
            ),
            LoadingError::VulkanError(error) => format!("the Vulkan loader failed: {error}"),
        })
    })?;
    let mut enabled_layers = Vec::new();
    if options.checked {
        let layers = library.layer_properties().into_iter().flatten();
        enabled_layers.extend(
            layers
                .map(|layer| layer.name().to_string())
                .filter(|name| name == VALIDATION),
        );
    }
    let info = InstanceCreateInfo {
        flags: InstanceCreateFlags::ENUMERATE_PORTABILITY,
        application_name: Some("hadal".into()),
        max_api_version: Some(Version::V1_3),
        enabled_layers,
        ..Default::default()
    };
    Instance::new(library, info)
        .map_err(|error| unavailable(format!("Vulkan could not be started: {error}")))
}

fn kind_rank(kind: PhysicalDeviceType) -> u8 {
    match kind {
        PhysicalDeviceType::DiscreteGpu => 0,
        PhysicalDeviceType::IntegratedGpu => 1,
        PhysicalDeviceType::VirtualGpu => 2,
        PhysicalDeviceType::Cpu => 4,
        _ => 3,
    }
}

/// The family whose queues compute; one that draws too is taken where it is the first, as
/// drivers give it the most units.
pub fn compute_family(device: &PhysicalDevice) -> Option<u32> {
    let families = device.queue_family_properties();
    let place = families
        .iter()
        .position(|family| family.queue_flags.contains(QueueFlags::COMPUTE))?;
    u32::try_from(place).ok()
}

/// The least that the kernels are written for.
fn is_enough(device: &PhysicalDevice) -> bool {
    let p = device.properties();
    device.api_version() >= Version::V1_2
        && device.supported_features().contains(&needed_features())
        && compute_family(device).is_some()
        && p.max_per_stage_descriptor_storage_buffers >= 8
        && p.max_compute_work_group_invocations >= 64
        && p.max_compute_shared_memory_size >= 16 << 10
        && p.max_compute_work_group_count
            .iter()
            .all(|count| *count >= 65_535)
}

fn describe(device: &PhysicalDevice, ordinal: usize, options: &VulkanOptions) -> DeviceInfo {
    let p = device.properties();
    let software = p.device_type == PhysicalDeviceType::Cpu;
    let mut features = Features::WGSL;
    if software {
        features = features.with(Features::SOFTWARE);
    }
    let driver = p.driver_name.clone().unwrap_or_default();
    let version = p.driver_info.clone().unwrap_or_default();
    let heaps = &device.memory_properties().memory_heaps;
    let local = heaps
        .iter()
        .filter(|heap| {
            heap.flags
                .contains(vulkano::memory::MemoryHeapFlags::DEVICE_LOCAL)
        })
        .map(|heap| heap.size)
        .max();
    DeviceInfo {
        backend: VulkanBackend::NAME,
        ordinal,
        name: p.device_name.clone(),
        driver: format!("Vulkan {} {driver} {version}", device.api_version()),
        kind: match p.device_type {
            PhysicalDeviceType::DiscreteGpu => DeviceKind::DiscreteGpu,
            PhysicalDeviceType::IntegratedGpu => DeviceKind::IntegratedGpu,
            PhysicalDeviceType::Cpu => DeviceKind::Software,
            _ => DeviceKind::VirtualGpu,
        },
        features,
        limits: limits(device, options),
        memory_bytes: local,
        // No WGSL row expands keys and values into memory once for many rows.
        expand_from_tokens: None,
    }
}

fn limits(device: &PhysicalDevice, options: &VulkanOptions) -> Limits {
    let p = device.properties();
    let wanted = options.binding_bytes.unwrap_or(MAX_BINDING);
    let binding = u64::from(p.max_storage_buffer_range)
        .min(MAX_BINDING)
        .min(wanted.max(OFFSET_ALIGN));
    let buffer = p
        .max_memory_allocation_size
        .unwrap_or(1 << 30)
        .min(p.max_buffer_size.unwrap_or(u64::MAX));
    let align = p
        .min_storage_buffer_offset_alignment
        .as_devicesize()
        .max(OFFSET_ALIGN);
    Limits {
        max_binding_bytes: binding - binding % align,
        max_buffer_bytes: buffer - buffer % align,
        offset_align: align,
        max_operands: p.max_per_stage_descriptor_storage_buffers,
        max_workgroup: p.max_compute_work_group_invocations,
        max_grid: p
            .max_compute_work_group_count
            .into_iter()
            .min()
            .unwrap_or(65_535),
        shared_bytes: p.max_compute_shared_memory_size,
        subgroup: match p.subgroup_size {
            Some(size) => (
                p.min_subgroup_size.unwrap_or(size),
                p.max_subgroup_size.unwrap_or(size),
            ),
            None => (0, 0),
        },
    }
}
