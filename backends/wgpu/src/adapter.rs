//! Which devices there are, what they offer, and how one is opened.

use hadal_device::{DeviceInfo, DeviceKind, Error, Features, Limits, Result};
use wgpu::{Adapter, Backends, DeviceType};

use crate::{WgpuBackend, WgpuLimits, WgpuOptions, timing};

/// Operand offsets are at least this much aligned, so that a program's layout does not
/// depend on the device.
const OFFSET_ALIGN: u64 = 256;

/// No operand is longer: offsets are 32 bits, and Vulkan drivers are bound here by wgpu too.
const MAX_BINDING: u64 = (1 << 31) - OFFSET_ALIGN;

/// The interfaces whose compilers the kernels are written for.
const INTERFACES: Backends = Backends::VULKAN
    .union(Backends::METAL)
    .union(Backends::DX12);

/// Share of the memory the driver reports as free to this process, above which a new
/// buffer is refused instead of pushing others out to host memory.
const BUDGET_PERCENT: u8 = 97;

/// Adapters with their descriptions, best first. An error if there are none.
pub fn enumerate(options: &WgpuOptions) -> Result<Vec<(Adapter, DeviceInfo)>> {
    let mut desc = wgpu::InstanceDescriptor::new_without_display_handle();
    desc.backends = INTERFACES;
    desc.flags = if options.checked {
        wgpu::InstanceFlags::debugging()
    } else {
        wgpu::InstanceFlags::empty()
    };
    let percent = options.memory_percent.unwrap_or(BUDGET_PERCENT);
    desc.memory_budget_thresholds.for_resource_creation = Some(percent);
    let adapters = ranked(&wgpu::Instance::new(desc), options);
    if adapters.is_empty() {
        return Err(Error::Unavailable {
            backend: WgpuBackend::NAME,
            why: no_adapter(options),
        });
    }
    let describe = |(ordinal, adapter): (usize, Adapter)| {
        let offer = Offer {
            info: adapter.get_info(),
            features: adapter.features(),
            limits: used_limits(adapter.limits(), options),
        };
        let info = describe(&offer, ordinal, options);
        (adapter, info)
    };
    Ok(adapters.into_iter().enumerate().map(describe).collect())
}

/// The adapters of `instance` that can be used, best first.
fn ranked(instance: &wgpu::Instance, options: &WgpuOptions) -> Vec<Adapter> {
    let mut adapters = pollster::block_on(instance.enumerate_adapters(INTERFACES));
    adapters.retain(|adapter| {
        let software = adapter.get_info().device_type == DeviceType::Cpu;
        let lacks = missing(&adapter.limits(), adapter);
        lacks.is_empty() && !(software && options.hardware_only)
    });
    adapters.sort_by_key(|adapter| {
        let info = adapter.get_info();
        (kind_rank(info.device_type), interface_rank(info.backend))
    });
    adapters
}

/// What number `adapter` of `instance` has among the devices of [`enumerate`]; the next free
/// one where it is not among them.
pub fn ordinal(instance: &wgpu::Instance, adapter: &Adapter) -> usize {
    let (all, wanted) = (
        ranked(instance, &WgpuOptions::default()),
        adapter.get_info(),
    );
    let found = all.iter().position(|other| other.get_info() == wanted);
    found.unwrap_or(all.len())
}

/// Opens `adapter` with the features and limits that `info` states.
pub fn request(
    adapter: &Adapter,
    info: &DeviceInfo,
    options: &WgpuOptions,
) -> Result<(wgpu::Device, wgpu::Queue)> {
    let mut required_features = wanted_features(adapter);
    if !info.features.has(Features::SUBGROUPS) {
        required_features.remove(wgpu::Features::SUBGROUP);
    }
    let desc = wgpu::DeviceDescriptor {
        label: Some("hadal"),
        required_features,
        required_limits: used_limits(adapter.limits(), options),
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        ..Default::default()
    };
    pollster::block_on(adapter.request_device(&desc)).map_err(|e| Error::Unavailable {
        backend: WgpuBackend::NAME,
        why: format!("{} could not be opened: {e}", info.name),
    })
}

/// What of the features that `adapter` offers is put to use.
pub fn wanted_features(adapter: &Adapter) -> wgpu::Features {
    adapter.features() & (wgpu::Features::SUBGROUP | wgpu::Features::SHADER_F16 | timing::NEEDED)
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

/// Limits with the least value that the kernels are written for.
type Least = (&'static str, u64, fn(&wgpu::Limits) -> u64);

const LEAST: [Least; 9] = [
    ("max_storage_buffers_per_shader_stage", 8, |l| {
        l.max_storage_buffers_per_shader_stage.into()
    }),
    ("max_uniform_buffers_per_shader_stage", 1, |l| {
        l.max_uniform_buffers_per_shader_stage.into()
    }),
    ("max_uniform_buffer_binding_size", 64 << 10, |l| {
        l.max_uniform_buffer_binding_size
    }),
    ("max_storage_buffer_binding_size", 128 << 10, |l| {
        l.max_storage_buffer_binding_size
    }),
    ("max_buffer_size", 1 << 20, |l| l.max_buffer_size),
    ("max_compute_invocations_per_workgroup", 256, |l| {
        l.max_compute_invocations_per_workgroup.into()
    }),
    ("max_compute_workgroup_size_x", 256, |l| {
        l.max_compute_workgroup_size_x.into()
    }),
    ("max_compute_workgroup_storage_size", 16 << 10, |l| {
        l.max_compute_workgroup_storage_size.into()
    }),
    ("max_compute_workgroups_per_dimension", 65_535, |l| {
        l.max_compute_workgroups_per_dimension.into()
    }),
];

/// What a device of `adapter` with `limits` lacks to run the kernels, each with what is needed.
pub fn missing(limits: &wgpu::Limits, adapter: &Adapter) -> Vec<String> {
    let lacks = LEAST.iter().filter_map(|(name, least, value)| {
        let has = value(limits);
        (has < *least).then(|| format!("{name} is {has} and must be at least {least}"))
    });
    let mut lacks: Vec<String> = lacks.collect();
    let flags = adapter.get_downlevel_capabilities().flags;
    if !flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS) {
        lacks.push("the adapter has no compute shaders".to_string());
    }
    let backend = adapter.get_info().backend;
    if !INTERFACES.contains(backend.into()) {
        lacks.push(format!(
            "the adapter is reached through {backend:?} and must be through Vulkan, Metal or Direct3D 12"
        ));
    }
    lacks
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

/// What of the limits `offered` is used.
pub fn used_limits(offered: wgpu::Limits, options: &WgpuOptions) -> wgpu::Limits {
    match options.limits {
        WgpuLimits::Offered => offered,
        WgpuLimits::WebGpu | WgpuLimits::BindingBytes(_) => {
            wgpu::Limits::default().or_worse_values_from(&offered)
        }
    }
}

/// What an adapter, or a device that is open, has to offer.
pub struct Offer {
    /// What it is.
    pub info: wgpu::AdapterInfo,
    /// What it can do.
    pub features: wgpu::Features,
    /// What is used of what it can hold.
    pub limits: wgpu::Limits,
}

/// The device of `offer` in the runtime's terms.
pub fn describe(offer: &Offer, ordinal: usize, options: &WgpuOptions) -> DeviceInfo {
    let info = &offer.info;
    let software = info.device_type == DeviceType::Cpu;
    let offered = offer.features;
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
        limits: limits(&offer.limits, options, subgroup),
        memory_bytes: None,
        // No WGSL row expands keys and values into memory once for many rows.
        expand_from_tokens: None,
        members: Vec::new(),
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
