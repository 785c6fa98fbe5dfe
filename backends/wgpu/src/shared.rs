//! The application's own device: what it should ask for when it opens one, and Hadal on it.
//!
//! Decides what a device must have; how it is shared from submit to submit is `core`'s.

use std::sync::Arc;

use hadal_device::{Error, Features, Result};

use crate::core::Handles;
use crate::{WgpuDevice, WgpuOptions, adapter};

/// Features that make kernels faster or their times known, of those that `adapter` offers. None
/// is needed.
pub fn required_features(adapter: &wgpu::Adapter) -> wgpu::Features {
    adapter::wanted_features(adapter)
}

/// Limits of a device that takes large models with the fewest cuts: what `adapter` offers where
/// Hadal has a use for it, WebGPU's defaults elsewhere. To have both these and others, use
/// [`wgpu::Limits::or_better_values_from`].
pub fn required_limits(adapter: &wgpu::Adapter) -> wgpu::Limits {
    let offered = adapter.limits();
    wgpu::Limits {
        max_buffer_size: offered.max_buffer_size,
        max_storage_buffer_binding_size: offered.max_storage_buffer_binding_size,
        max_storage_buffers_per_shader_stage: offered.max_storage_buffers_per_shader_stage,
        max_compute_workgroup_storage_size: offered.max_compute_workgroup_storage_size,
        max_compute_invocations_per_workgroup: offered.max_compute_invocations_per_workgroup,
        max_compute_workgroup_size_x: offered.max_compute_workgroup_size_x,
        max_compute_workgroups_per_dimension: offered.max_compute_workgroups_per_dimension,
        ..wgpu::Limits::default().or_worse_values_from(&offered)
    }
}

/// Hadal's device on the application's: `device` and `queue`, which `adapter` of `instance` gave.
/// The crate's opening page says how the two get along.
///
/// Of `options`, `memory_percent` and `hardware_only` say nothing here (the one is set for an
/// instance, the other chooses), and `lose_after_submits` leaves the application's device as
/// it is.
///
/// Make one for each wgpu device and share it between engines: only then do all of them take
/// turns.
///
/// # Errors
/// [`Error::Unsupported`] names each limit below what the kernels need, with what they need.
/// [`Error::Invalid`] where `device` is not of `adapter`, [`Error::Lost`] where it is lost.
pub fn from_wgpu(
    instance: &wgpu::Instance,
    adapter: &wgpu::Adapter,
    device: wgpu::Device,
    queue: wgpu::Queue,
    options: WgpuOptions,
) -> Result<Arc<WgpuDevice>> {
    let offer = adapter::Offer {
        info: device.adapter_info(),
        features: device.features(),
        limits: adapter::used_limits(device.limits(), &options),
    };
    if offer.info != adapter.get_info() {
        return Err(Error::Invalid(format!(
            "the device is of {}, not of the adapter {}",
            offer.info.name,
            adapter.get_info().name
        )));
    }
    let lacks = adapter::missing(&offer.limits, adapter);
    if !lacks.is_empty() {
        return Err(Error::Unsupported {
            what: format!("sharing the device of {}", offer.info.name),
            why: format!(
                "{}; ask for `hadal_wgpu::required_limits` when opening it",
                lacks.join(", ")
            ),
        });
    }
    let ordinal = adapter::ordinal(instance, adapter);
    let mut info = adapter::describe(&offer, ordinal, &options);
    info.features = info.features.with(Features::SHARED);
    let handles = Handles {
        wgpu: device,
        queue,
        shared: true,
    };
    WgpuDevice::new(handles, info, options).map(Arc::new)
}
