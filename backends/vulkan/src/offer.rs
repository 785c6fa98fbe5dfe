//! What a device offers beyond the least, and how it is opened with it.

use std::sync::Arc;

use vulkano::Version;
use vulkano::device::physical::{PhysicalDevice, PhysicalDeviceType, SubgroupFeatures};
use vulkano::device::{
    Device, DeviceCreateInfo, DeviceExtensions, DeviceFeatures, Queue, QueueCreateInfo, QueueFlags,
};
use vulkano::shader::ShaderStages;

use crate::{VulkanOptions, matrix};

/// What is used of a device where it has it.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// Subgroup operations in compute kernels.
    pub subgroup: Option<Subgroup>,
    /// Host memory can be used in place; addresses and lengths are multiples of this.
    pub import_align: Option<u64>,
    /// Buffers have addresses that kernels can read through.
    pub addresses: bool,
    /// Size of the products of matrix units; see `Limits::matrix`.
    pub matrix: Option<[u32; 3]>,
}

/// How subgroups are.
#[derive(Clone, Copy, Debug)]
pub struct Subgroup {
    /// Invocations of each.
    pub size: u32,
    /// The size must be asked for in every kernel that uses subgroups: the device has a
    /// range.
    pub is_required: bool,
    /// Full subgroups can be asked for.
    pub full: bool,
}

impl Offer {
    /// What of `device` is used under these options.
    pub fn of(device: &PhysicalDevice, options: &VulkanOptions) -> Offer {
        let subgroup = subgroup(device, options.subgroup_size);
        Offer {
            subgroup,
            import_align: import_align(device, options.adopt),
            addresses: device.supported_features().buffer_device_address,
            // Kernels divide their work by the size of a subgroup.
            matrix: subgroup.and_then(|_| matrix::size(device)),
        }
    }
}

/// Operations that kernels take for granted where there are any; the same that wgpu asks for.
fn subgroup_operations() -> SubgroupFeatures {
    SubgroupFeatures::BASIC
        | SubgroupFeatures::VOTE
        | SubgroupFeatures::ARITHMETIC
        | SubgroupFeatures::BALLOT
        | SubgroupFeatures::SHUFFLE
        | SubgroupFeatures::SHUFFLE_RELATIVE
        | SubgroupFeatures::QUAD
}

fn subgroup(device: &PhysicalDevice, wanted: Option<u32>) -> Option<Subgroup> {
    let p = device.properties();
    let stages = p.subgroup_supported_stages.unwrap_or_default();
    let operations = p.subgroup_supported_operations.unwrap_or_default();
    if !stages.contains(ShaderStages::COMPUTE) || !operations.contains(subgroup_operations()) {
        return None;
    }
    let usual = p.subgroup_size?;
    let features = device.supported_features();
    let is_required = features.subgroup_size_control
        && p.required_subgroup_size_stages
            .is_some_and(|stages| stages.contains(ShaderStages::COMPUTE));
    let range = (
        p.min_subgroup_size.unwrap_or(usual),
        p.max_subgroup_size.unwrap_or(usual),
    );
    let size = match wanted {
        Some(wanted) if is_required && range.0 <= range.1 => {
            let wanted = wanted.clamp(1, range.1.max(1));
            wanted.next_power_of_two().clamp(range.0, range.1)
        }
        _ => usual,
    };
    Some(Subgroup {
        size,
        is_required,
        full: is_required && features.compute_full_subgroups,
    })
}

/// Weights are used where they lie only on devices that share the host's memory: a discrete
/// one would fetch them over its bus in every step. The option overrules it, which serves
/// models larger than a discrete device's memory.
fn import_align(device: &PhysicalDevice, wanted: Option<bool>) -> Option<u64> {
    // Behind the last page of a mapping anything or nothing may be mapped, and no system has
    // smaller pages.
    const SMALLEST_PAGE: u64 = 4096;
    let p = device.properties();
    let shares = matches!(
        p.device_type,
        PhysicalDeviceType::IntegratedGpu | PhysicalDeviceType::Cpu
    );
    let can = device.supported_extensions().ext_external_memory_host;
    let align = p.min_imported_host_pointer_alignment?;
    (can && wanted.unwrap_or(shares) && align <= SMALLEST_PAGE).then_some(align.max(1))
}

/// Features that every device is opened with.
pub fn needed_features() -> DeviceFeatures {
    DeviceFeatures {
        timeline_semaphore: true,
        ..DeviceFeatures::empty()
    }
}

/// The family whose queues compute; one that draws too is taken where it is the first, as
/// drivers give it the most units.
pub fn compute_family(device: &PhysicalDevice) -> Option<u32> {
    family(device, |flags| flags.contains(QueueFlags::COMPUTE))
}

fn family(device: &PhysicalDevice, is_wanted: impl Fn(QueueFlags) -> bool) -> Option<u32> {
    let families = device.queue_family_properties();
    let place = families
        .iter()
        .position(|family| is_wanted(family.queue_flags))?;
    u32::try_from(place).ok()
}

/// A family made for copies alone: its queues copy while others compute.
fn transfer_family(device: &PhysicalDevice) -> Option<u32> {
    let others = QueueFlags::COMPUTE | QueueFlags::GRAPHICS;
    family(device, |flags| {
        flags.contains(QueueFlags::TRANSFER) && !flags.intersects(others)
    })
}

/// A device and its queues.
pub struct Queues {
    /// The device.
    pub device: Arc<Device>,
    /// Computes.
    pub compute: Arc<Queue>,
    /// For long writes; may be the same.
    pub transfer: Arc<Queue>,
}

/// The device with a queue that computes and one for long writes: of the family made for
/// copies, else a second one of the same family, else the same.
pub fn open_queues(physical: Arc<PhysicalDevice>, offer: &Offer) -> Result<Queues, String> {
    let family = compute_family(&physical).ok_or("it cannot compute")?;
    let copies = transfer_family(&physical);
    let count = physical.queue_family_properties()[family as usize].queue_count;
    let own = if copies.is_none() && count > 1 { 2 } else { 1 };
    let queues = |family, count| QueueCreateInfo {
        queue_family_index: family,
        queues: vec![0.5; count],
        ..Default::default()
    };
    let mut queue_create_infos = vec![queues(family, own)];
    queue_create_infos.extend(copies.map(|copies| queues(copies, 1)));
    let (enabled_extensions, enabled_features) = enabled(&physical, offer);
    let info = DeviceCreateInfo {
        queue_create_infos,
        enabled_features,
        enabled_extensions,
        ..Default::default()
    };
    let (device, mut queues) = Device::new(physical, info).map_err(|error| error.to_string())?;
    let compute = queues.next().ok_or("it has no queue")?;
    let transfer = queues.next().unwrap_or_else(|| compute.clone());
    Ok(Queues {
        device,
        compute,
        transfer,
    })
}

fn enabled(physical: &PhysicalDevice, offer: &Offer) -> (DeviceExtensions, DeviceFeatures) {
    let required = offer.subgroup.is_some_and(|s| s.is_required);
    let full = offer.subgroup.is_some_and(|s| s.full);
    let features = DeviceFeatures {
        subgroup_size_control: required,
        compute_full_subgroups: full,
        buffer_device_address: offer.addresses,
        cooperative_matrix: offer.matrix.is_some(),
        shader_float16: offer.matrix.is_some(),
        vulkan_memory_model: offer.matrix.is_some(),
        ..needed_features()
    };
    let extensions = DeviceExtensions {
        ext_external_memory_host: offer.import_align.is_some(),
        khr_cooperative_matrix: offer.matrix.is_some(),
        ext_memory_budget: physical.supported_extensions().ext_memory_budget,
        // Part of Vulkan from 1.3 on.
        ext_subgroup_size_control: required && physical.api_version() < Version::V1_3,
        ..DeviceExtensions::empty()
    };
    (extensions, features)
}
