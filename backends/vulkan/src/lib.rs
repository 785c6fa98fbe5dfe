//! The native Vulkan backend: the WGSL rows as SPIR-V, recorded once and replayed.
//!
//! Knows buffers, kernels and programs; must never know a model, an expert or a token.
//! [`VulkanBackend`] is the way in. `instance` finds devices, `gpu` owns one and its queue,
//! `memory` is bytes, `kernel` compiles, `record` writes commands, `program` keeps and
//! submits them, `transfer` moves bytes, `device` puts it together.

mod device;
mod fault;
mod gpu;
mod instance;
mod kernel;
mod memory;
mod program;
mod record;
mod transfer;

use std::sync::Arc;

use hadal_device::{Backend, Device, DeviceInfo, Error, Result};

/// How devices are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct VulkanOptions {
    /// Compile kernels with bounds checks and run under the validation layers if they are
    /// installed. Kernels trust lowering otherwise.
    pub checked: bool,
    /// Longest operand in bytes, where less than the device allows is wanted: makes lowering
    /// cut small models into shards. Rounded down to a multiple of 256.
    pub binding_bytes: Option<u64>,
    /// Do as if the device's conversion from half precision lost subnormal numbers, which
    /// is otherwise tried out: takes the other way of decoding F16 and E4M3.
    pub no_half_conversion: bool,
}

/// Devices that Vulkan reaches: hardware first, software ones last and marked so.
#[derive(Clone, Copy, Debug, Default)]
pub struct VulkanBackend {
    options: VulkanOptions,
}

impl VulkanBackend {
    /// Name on the command line.
    pub const NAME: &'static str = "vulkan";

    /// The backend with these options. Touches no driver.
    pub fn new(options: VulkanOptions) -> VulkanBackend {
        VulkanBackend { options }
    }
}

impl Backend for VulkanBackend {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let found = instance::enumerate(&self.options)?;
        Ok(found.into_iter().map(|(_, info)| info).collect())
    }

    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>> {
        let mut found = instance::enumerate(&self.options)?;
        if ordinal >= found.len() {
            return Err(Error::Unavailable {
                backend: Self::NAME,
                why: format!(
                    "there is no device vulkan:{ordinal}; the last one is vulkan:{}",
                    found.len() - 1
                ),
            });
        }
        let (physical, info) = found.swap_remove(ordinal);
        Ok(Arc::new(device::open(physical, info, self.options)?))
    }
}
