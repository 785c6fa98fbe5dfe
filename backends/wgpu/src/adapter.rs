//! Which devices there are, what they offer, and how one is opened.

use hadal_device::{DeviceInfo, DeviceKind, Error, Features, Limits, Result};
use wgpu::{Adapter, Backends, DeviceType};

use crate::{WgpuBackend, WgpuLimits, WgpuOptions, timing};

/// Operand offsets are at least this much aligned, so that a program's layout does not
/// depend on the device.
const OFFSET_ALIGN: u64 = 256;

/// No operand is longer: offsets are 32 bits, and Vulkan drivers are bound here by wgpu too.
const MAX_BINDING: u64 = (1 << 31) - OFFSET_ALIGN;

/// Share of the memory the driver reports as free to this process, above which a new
/// buffer is refused instead of pushing others out to host memory.
const BUDGET_PERCENT: u8 = 97;

/// Adapters with their descriptions, best first. An error if there are none.
pub fn enumerate(options: &WgpuOptions) -> Result<Vec<(Adapter, DeviceInfo)>> {
    let mut desc = wgpu::InstanceDescriptor::new_without_display_handle();
    desc.backends = Backends::VULKAN | Backends::METAL | Backends::DX12;
    desc.flags = if options.checked {
        wgpu::InstanceFlags::debugging()
    } else {
        wgpu::InstanceFlags::empty()
    };
    let percent = options.memory_percent.unwrap_or(BUDGET_PERCENT);
    desc.memory_budget_thresholds.for_resource_creation = Some(percent);
    let instance = wgpu::Instance::new(desc);
    let mut adapters = pollster::block_on(instance.enumerate_adapters(Backends::all()));
    adapters.retain(|a| {
        let software = a.get_info().device_type == DeviceType::Cpu;
        is_enough(a) && !(software && options.hardware_only)
    });
    adapters.sort_by_key(|adapter| {
        let info = adapter.get_info();
        (kind_rank(info.device_type), interface_rank(info.backend))
    });
    if adapters.is_empty() {
        return Err(Error::Unavailable {
            backend: WgpuBackend::NAME,
            why: no_adapter(options),
        });
    }
    let describe = |(ordinal, adapter): (usize, Adapter)| {
        let info = describe(&adapter, ordinal, options);
        (adapter, info)
    };
    Ok(adapters.into_iter().enumerate().map(describe).collect())
}

/// Opens `adapter` with the features and limits that `info` states.
pub fn request(
    adapter: &Adapter,
    info: &DeviceInfo,
    options: &WgpuOptions,
) -> Result<(wgpu::Device, wgpu::Queue)> {
    let mut required_features = wgpu::Features::empty();
    if info.features.has(Features::SUBGROUPS) {
        required_features |= wgpu::Features::SUBGROUP;
    }
    if info.features.has(Features::SHADER_F16) {
        required_features |= wgpu::Features::SHADER_F16;
    }
    if adapter.features().contains(timing::NEEDED) {
        required_features |= timing::NEEDED;
    }
    let desc = wgpu::DeviceDescriptor {
        label: Some("hadal"),
        required_features,
        required_limits: used_limits(adapter, options),
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        ..Default::default()
    };
    pollster::block_on(adapter.request_device(&desc)).map_err(|e| Error::Unavailable {
        backend: WgpuBackend::NAME,
        why: format!("{} could not be opened: {e}", info.name),
    })
}

fn kind_rank(kind: DeviceType) -> u8 {
    match kind {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    }
}

/// Where a device is offered through several interfaces, the one whose compiler takes our
/// shaders with the fewest detours goes first.
fn interface_rank(backend: wgpu::Backend) -> u8 {
    match backend {
        wgpu::Backend::Vulkan => 0,
        wgpu::Backend::Metal => 1,
        wgpu::Backend::Dx12 => 2,
        _ => 3,
    }
}

/// The least that the kernels are written for.
fn is_enough(adapter: &Adapter) -> bool {
    let limits = adapter.limits();
    let flags = adapter.get_downlevel_capabilities().flags;
    flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS)
        && limits.max_storage_buffers_per_shader_stage >= 8
        && limits.max_compute_invocations_per_workgroup >= 256
        && limits.max_compute_workgroup_size_x >= 256
        && limits.max_compute_workgroup_storage_size >= 16 << 10
        && limits.max_compute_workgroups_per_dimension >= 65_535
}

fn no_adapter(options: &WgpuOptions) -> String {
    let driver = if cfg!(target_os = "windows") {
        "install the graphics driver of the GPU's vendor"
    } else if cfg!(target_vendor = "apple") {
        "a Mac with Metal is needed"
    } else {
        "install the Vulkan loader and driver (on Debian: libvulkan1, with mesa-vulkan-drivers \
         for AMD and Intel or the NVIDIA driver package; mesa-vulkan-drivers also contains \
         lavapipe, which runs on the processor)"
    };
    let kind = if options.hardware_only {
        "GPU"
    } else {
        "adapter"
    };
    format!("no Vulkan, Metal or Direct3D 12 {kind} was found; {driver}")
}

fn used_limits(adapter: &Adapter, options: &WgpuOptions) -> wgpu::Limits {
    match options.limits {
        WgpuLimits::Offered => adapter.limits(),
        WgpuLimits::WebGpu | WgpuLimits::BindingBytes(_) => {
            wgpu::Limits::default().or_worse_values_from(&adapter.limits())
        }
    }
}

fn describe(adapter: &Adapter, ordinal: usize, options: &WgpuOptions) -> DeviceInfo {
    let info = adapter.get_info();
    let software = info.device_type == DeviceType::Cpu;
    let offered = adapter.features();
    let mut features = Features::WGSL;
    for (is_offered, feature) in [
        (
            offered.contains(wgpu::Features::SUBGROUP) && !options.no_subgroups,
            Features::SUBGROUPS,
        ),
        (
            offered.contains(wgpu::Features::SHADER_F16),
            Features::SHADER_F16,
        ),
        (software, Features::SOFTWARE),
    ] {
        if is_offered {
            features = features.with(feature);
        }
    }
    let subgroup = if features.has(Features::SUBGROUPS) {
        (info.subgroup_min_size, info.subgroup_max_size)
    } else {
        (0, 0)
    };
    #[cfg(feature = "planted-faults")]
    let subgroup = options.subgroup_size.map_or(subgroup, |size| (size, size));
    DeviceInfo {
        backend: WgpuBackend::NAME,
        ordinal,
        name: info.name.clone(),
        driver: format!("{:?} {} {}", info.backend, info.driver, info.driver_info)
            .trim_end()
            .to_string(),
        kind: match info.device_type {
            DeviceType::DiscreteGpu => DeviceKind::DiscreteGpu,
            DeviceType::IntegratedGpu => DeviceKind::IntegratedGpu,
            DeviceType::VirtualGpu | DeviceType::Other => DeviceKind::VirtualGpu,
            DeviceType::Cpu => DeviceKind::Software,
        },
        features,
        limits: limits(&used_limits(adapter, options), options, subgroup),
        memory_bytes: None,
        // No WGSL row expands keys and values into memory once for many rows.
        expand_from_tokens: None,
    }
}

fn limits(used: &wgpu::Limits, options: &WgpuOptions, subgroup: (u32, u32)) -> Limits {
    let wanted = match options.limits {
        WgpuLimits::BindingBytes(bytes) => bytes.max(OFFSET_ALIGN),
        WgpuLimits::Offered | WgpuLimits::WebGpu => MAX_BINDING,
    };
    let binding = used
        .max_storage_buffer_binding_size
        .min(MAX_BINDING)
        .min(wanted);
    Limits {
        max_binding_bytes: binding - binding % OFFSET_ALIGN,
        max_buffer_bytes: used.max_buffer_size - used.max_buffer_size % OFFSET_ALIGN,
        offset_align: OFFSET_ALIGN.max(used.min_storage_buffer_offset_alignment.into()),
        max_operands: used.max_storage_buffers_per_shader_stage,
        max_workgroup: used
            .max_compute_invocations_per_workgroup
            .min(used.max_compute_workgroup_size_x),
        max_grid: used.max_compute_workgroups_per_dimension,
        shared_bytes: used.max_compute_workgroup_storage_size,
        subgroup,
        matrix: None,
    }
}
