//! What a device offers beyond the least.

use hadal_device::MatrixSizes;
use vulkano::device::DeviceFeatures;
use vulkano::device::physical::{PhysicalDevice, PhysicalDeviceType, SubgroupFeatures};
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
    /// What matrix units multiply; see `Limits::matrix`.
    pub matrix: Option<MatrixSizes>,
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
            matrix: subgroup.and_then(|_| matrix::sizes(device)),
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

/// Weights are used where they lie only on GPUs that share the host's memory: a discrete one would
/// fetch them over its bus in every step, and of a file that shrinks, a software driver's threads,
/// which block the signal that says so, would end the process. The option overrules it, which
/// serves models larger than a discrete device's memory.
fn import_align(device: &PhysicalDevice, wanted: Option<bool>) -> Option<u64> {
    // Behind the last page of a mapping anything or nothing may be mapped, and no system has
    // smaller pages.
    const SMALLEST_PAGE: u64 = 4096;
    let p = device.properties();
    let shares = p.device_type == PhysicalDeviceType::IntegratedGpu;
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
