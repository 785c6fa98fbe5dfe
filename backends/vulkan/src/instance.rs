//! Which devices there are, and their descriptions.

use std::sync::Arc;

use hadal_device::{DeviceInfo, DeviceKind, Error, Features, Limits, MatrixSizes, Result};
use vulkano::device::physical::{PhysicalDevice, PhysicalDeviceType};
use vulkano::instance::debug::ValidationFeatureEnable;
use vulkano::instance::{Instance, InstanceCreateFlags, InstanceCreateInfo};
use vulkano::{LoadingError, Validated, Version, VulkanError, VulkanLibrary};

use crate::fault::plain;
use crate::offer::{Offer, needed_features};
use crate::queues::compute_family;
use crate::validation::{self, Messages};
use crate::{VulkanBackend, VulkanOptions, budget};

/// Lengths of operands and buffers are multiples of this, so that pieces of both meet any
/// alignment.
const GRAIN: u64 = 256;

/// No operand is longer: kernels count bytes of a table in 32 bits.
const MAX_BINDING: u64 = (1 << 32) - GRAIN;

const NO_DRIVER: &str = "no driver with Vulkan 1.2 was found; install the driver of the GPU's \
    vendor (on Debian: mesa-vulkan-drivers for AMD and Intel, which also contains lavapipe, or the \
    NVIDIA driver package)";

fn unavailable(why: String) -> Error {
    Error::Unavailable {
        backend: VulkanBackend::NAME,
        why,
    }
}

/// Physical devices with their descriptions, best first. An error if there are none.
pub fn enumerate(options: &VulkanOptions) -> Result<Vec<(Arc<PhysicalDevice>, DeviceInfo)>> {
    let instance = instance(options)?;
    // vulkano asks drivers about more than an older validation layer knows, which is no
    // mistake of this backend.
    let _unheard = Arc::new(Messages::default()).listen(&instance);
    let found = instance
        .enumerate_physical_devices()
        .map_err(|error| unavailable(format!("the drivers could not be asked: {error}")))?;
    let mut enough: Vec<_> = found.filter(|device| is_enough(device)).collect();
    enough.sort_by_key(|device| kind_rank(device.properties().device_type));
    if enough.is_empty() {
        return Err(unavailable(NO_DRIVER.into()));
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
    let mut info = InstanceCreateInfo {
        flags: InstanceCreateFlags::ENUMERATE_PORTABILITY,
        application_name: Some("hadal".into()),
        max_api_version: Some(Version::V1_3),
        ..Default::default()
    };
    let mut layers = library.layer_properties().into_iter().flatten();
    let has_layer = layers.any(|layer| layer.name() == validation::LAYER);
    if options.validation && !has_layer {
        let layer = validation::LAYER;
        return Err(unavailable(format!(
            "{layer} is not installed; install it (on Debian: vulkan-validationlayers) or leave \
             out the validation"
        )));
    }
    if has_layer && (options.checked || options.validation) {
        info.enabled_layers = vec![validation::LAYER.to_string()];
        // The layer itself has the extension, whatever the driver.
        info.enabled_extensions.ext_debug_utils = true;
        info.enabled_extensions.ext_validation_features = true;
        // Barriers that are missing.
        info.enabled_validation_features = vec![ValidationFeatureEnable::SynchronizationValidation];
    }
    Instance::new(library, info).map_err(|error| {
        unavailable(match error {
            // The loader's word for having none.
            Validated::Error(VulkanError::IncompatibleDriver) => NO_DRIVER.into(),
            error => format!("Vulkan could not be started: {}", plain(error)),
        })
    })
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

/// The least that the kernels are written for.
fn is_enough(device: &PhysicalDevice) -> bool {
    let p = device.properties();
    device.api_version() >= Version::V1_2
        && device.supported_features().contains(&needed_features())
        && compute_family(device).is_some()
        && p.max_per_stage_descriptor_storage_buffers >= 8
        && max_workgroup(device) >= 256
        && p.max_compute_shared_memory_size >= 16 << 10
        && p.max_compute_work_group_count
            .iter()
            .all(|count| *count >= 65_535)
}

/// Invocations that a workgroup may have in a row.
fn max_workgroup(device: &PhysicalDevice) -> u32 {
    let p = device.properties();
    p.max_compute_work_group_invocations
        .min(p.max_compute_work_group_size[0])
}

fn describe(device: &PhysicalDevice, ordinal: usize, options: &VulkanOptions) -> DeviceInfo {
    let p = device.properties();
    let software = p.device_type == PhysicalDeviceType::Cpu;
    let mut features = Features::WGSL.with(Features::SPIRV);
    let offer = Offer::of(device, options);
    let has = |size: fn(MatrixSizes) -> Option<[u32; 3]>| offer.matrix.and_then(size).is_some();
    for (offered, feature) in [
        (software, Features::SOFTWARE),
        (offer.subgroup.is_some(), Features::SUBGROUPS),
        (offer.import_align.is_some(), Features::IN_PLACE),
        (offer.addresses, Features::POINTER_TABLES),
        (has(|sizes| sizes.f16), Features::COOPERATIVE_MATRIX),
        (has(|sizes| sizes.bf16), Features::COOPERATIVE_BF16),
        (has(|sizes| sizes.e4m3), Features::COOPERATIVE_E4M3),
        (has(|sizes| sizes.int8), Features::COOPERATIVE_INT8),
    ] {
        if offered {
            features = features.with(feature);
        }
    }
    let driver = p.driver_name.clone().unwrap_or_default();
    let told = p.driver_info.clone().unwrap_or_default();
    let version = match told.is_empty() {
        true => Version::from(p.driver_version).to_string(),
        false => told,
    };
    DeviceInfo {
        backend: VulkanBackend::NAME,
        ordinal,
        name: p.device_name.clone(),
        // Its own version, not the one that is used.
        driver: format!("Vulkan {} {driver} {version}", p.api_version),
        kind: match p.device_type {
            PhysicalDeviceType::DiscreteGpu => DeviceKind::DiscreteGpu,
            PhysicalDeviceType::IntegratedGpu => DeviceKind::IntegratedGpu,
            PhysicalDeviceType::Cpu => DeviceKind::Software,
            _ => DeviceKind::VirtualGpu,
        },
        features,
        limits: limits(device, &offer, options),
        memory_bytes: budget::device_bytes(device, options.memory_bytes),
        // No WGSL row expands keys and values into memory once for many rows.
        expand_from_tokens: None,
        members: Vec::new(),
    }
}

fn limits(device: &PhysicalDevice, offer: &Offer, options: &VulkanOptions) -> Limits {
    let p = device.properties();
    let wanted = options.binding_bytes.unwrap_or(MAX_BINDING);
    let binding = u64::from(p.max_storage_buffer_range)
        .min(MAX_BINDING)
        .min(wanted.max(GRAIN));
    let buffer = p
        .max_memory_allocation_size
        .unwrap_or(1 << 30)
        .min(p.max_buffer_size.unwrap_or(u64::MAX));
    // Bindings are arrays of words; through addresses kernels read sixteen bytes at a time.
    let least = if offer.addresses { 16 } else { 4 };
    let align = p
        .min_storage_buffer_offset_alignment
        .as_devicesize()
        .max(least);
    Limits {
        max_binding_bytes: binding - binding % GRAIN,
        max_buffer_bytes: buffer - buffer % GRAIN,
        offset_align: align,
        max_operands: p.max_per_stage_descriptor_storage_buffers,
        max_workgroup: max_workgroup(device),
        max_grid: p
            .max_compute_work_group_count
            .into_iter()
            .min()
            .unwrap_or(65_535),
        shared_bytes: p.max_compute_shared_memory_size,
        subgroup: offer.subgroup.map_or((0, 0), |s| (s.size, s.size)),
        matrix: offer.matrix,
    }
}
