//! Opening a device: its queues, and what is switched on of what it offers.
//!
//! By a raw call, since some types of matrix elements are younger than vulkano.

use std::ffi::CString;
use std::sync::Arc;

use ash::vk;
use vulkano::device::physical::PhysicalDevice;
use vulkano::device::{
    Device, DeviceCreateInfo, DeviceExtensions, DeviceFeatures, Queue, QueueCreateInfo, QueueFlags,
};
use vulkano::{Version, VulkanObject};

use crate::fault::raw;
use crate::matrix::{BF16, E4M3, Element};
use crate::offer::{Offer, needed_features};

/// Queues of a family at most.
const MOST_QUEUES: usize = 2;

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
    let own = if copies.is_none() && count > 1 {
        MOST_QUEUES
    } else {
        1
    };
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
    let handle = create(&physical, &info, offer).map_err(|error| error.to_string())?;
    // SAFETY: the handle was made of this physical device with what `info` says; the types of
    // elements beside it are nothing to vulkano.
    let (device, mut queues) = unsafe { Device::from_handle(physical, handle, info) };
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
        shader_float16: offer.matrix.is_some_and(|sizes| sizes.f16.is_some()),
        shader_int8: offer.matrix.is_some_and(|sizes| sizes.int8.is_some()),
        vulkan_memory_model: offer.matrix.is_some(),
        ..needed_features()
    };
    let supported = physical.supported_extensions();
    let extensions = DeviceExtensions {
        ext_external_memory_host: offer.import_align.is_some(),
        khr_cooperative_matrix: offer.matrix.is_some(),
        ext_memory_budget: supported.ext_memory_budget,
        // Part of Vulkan from 1.3 on.
        ext_subgroup_size_control: required && physical.api_version() < Version::V1_3,
        // Where there is one it must be enabled.
        khr_portability_subset: supported.khr_portability_subset,
        ..DeviceExtensions::empty()
    };
    (extensions, features)
}

/// Makes the device that `info` describes, with the types of elements in `offer`.
fn create(
    physical: &PhysicalDevice,
    info: &DeviceCreateInfo,
    offer: &Offer,
) -> Result<vk::Device, vulkano::VulkanError> {
    let priorities = [0.5; MOST_QUEUES];
    let queues = info.queue_create_infos.iter().map(|queues| {
        vk::DeviceQueueCreateInfo::default()
            .queue_family_index(queues.queue_family_index)
            .queue_priorities(&priorities[..queues.queues.len()])
    });
    let queues: Vec<_> = queues.collect();
    let sizes = offer.matrix;
    let elements: [(&Element, bool); 2] = [
        (&BF16, sizes.is_some_and(|sizes| sizes.bf16.is_some())),
        (&E4M3, sizes.is_some_and(|sizes| sizes.e4m3.is_some())),
    ];
    let elements: Vec<&Element> = elements
        .into_iter()
        .filter_map(|(element, has)| has.then_some(element))
        .collect();
    let names: Vec<CString> = (&info.enabled_extensions).into();
    let names = names.iter().map(|name| name.as_ptr());
    let names: Vec<_> = names
        .chain(elements.iter().map(|element| element.extension.as_ptr()))
        .collect();
    let f = &info.enabled_features;
    let mut twelve = vk::PhysicalDeviceVulkan12Features::default()
        .timeline_semaphore(f.timeline_semaphore)
        .buffer_device_address(f.buffer_device_address)
        .shader_float16(f.shader_float16)
        .shader_int8(f.shader_int8)
        .vulkan_memory_model(f.vulkan_memory_model);
    let mut sizes = vk::PhysicalDeviceSubgroupSizeControlFeatures::default()
        .subgroup_size_control(f.subgroup_size_control)
        .compute_full_subgroups(f.compute_full_subgroups);
    let mut matrices = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default()
        .cooperative_matrix(f.cooperative_matrix);
    let mut more: Vec<_> = elements.iter().map(|element| element.features()).collect();
    let mut raw_info = vk::DeviceCreateInfo::default()
        .queue_create_infos(&queues)
        .enabled_extension_names(&names)
        .push_next(&mut twelve);
    if f.subgroup_size_control {
        raw_info = raw_info.push_next(&mut sizes);
    }
    if f.cooperative_matrix {
        raw_info = raw_info.push_next(&mut matrices);
    }
    for features in &mut more {
        raw_info = raw_info.push_next(features);
    }
    let create = physical.instance().fns().v1_0.create_device;
    let mut handle = vk::Device::null();
    // SAFETY: all that `raw_info` points to lives, and names nothing that the device was not
    // seen to support.
    raw(unsafe { create(physical.handle(), &raw_info, std::ptr::null(), &mut handle) })?;
    Ok(handle)
}
