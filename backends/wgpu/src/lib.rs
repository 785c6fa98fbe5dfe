//! The wgpu backend: WGSL rows on any GPU that has Vulkan, Metal or Direct3D 12.
//!
//! Knows buffers, kernels and programs; must never know a model, an expert or a token.
//! [`WgpuBackend`] is the way in. `adapter` finds devices, `device` holds memory and
//! kernels, `transfer` moves bytes, `program` records and submits, `timing` says how long that
//! took, `fault` turns wgpu's callbacks into values.
#![deny(unsafe_code)]

mod adapter;
mod device;
mod fault;
mod kernel;
mod program;
mod timing;
mod transfer;

use std::sync::Arc;

use hadal_device::{Backend, Device, DeviceInfo, Error, Result};

/// What of a device's limits is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WgpuLimits {
    /// All that the device offers.
    #[default]
    Offered,
    /// What every WebGPU implementation has: 128 MiB a binding, 8 storage buffers a kernel.
    WebGpu,
    /// As `WebGpu`, and no operand longer than this many bytes: makes lowering cut small
    /// models into shards. Rounded down to a multiple of 256.
    BindingBytes(u64),
}

/// How devices are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct WgpuOptions {
    /// Compile kernels with bounds checks and run under the validation layers of the
    /// driver's interface if they are installed. Kernels trust lowering otherwise.
    pub checked: bool,
    /// What of a device's limits is used.
    pub limits: WgpuLimits,
    /// Do as if the device had no subgroup operations.
    pub no_subgroups: bool,
    /// Do as if the device's conversion from half precision lost subnormal numbers, which
    /// is otherwise tried out: takes the other way of decoding F16 and E4M3.
    pub no_half_conversion: bool,
    /// A mistake in the kernels.
    #[cfg(feature = "planted-faults")]
    pub fault: Option<&'static hadal_shaders::faults::Fault>,
    /// Subgroups of this size instead of the device's own.
    #[cfg(feature = "planted-faults")]
    pub subgroup_size: Option<u32>,
    /// Leave software adapters (lavapipe, SwiftShader, WARP) out of the list.
    pub hardware_only: bool,
    /// Share of the memory that the driver reports as free to this process, in percent, above
    /// which a new buffer is [`Error::OutOfMemory`]; `None`: 97. Metal reports none.
    pub memory_percent: Option<u8>,
    /// Fault injection, for tests and for programs that embed the runtime: after so many
    /// submits of programs the device is destroyed, and answers [`Error::Lost`] from the next
    /// call on. Counted for each device that is opened.
    pub lose_after_submits: Option<u64>,
}

/// Devices that wgpu reaches: hardware first, software adapters last and marked so.
#[derive(Clone, Copy, Debug, Default)]
pub struct WgpuBackend {
    options: WgpuOptions,
}

impl WgpuBackend {
    /// Name on the command line.
    pub const NAME: &'static str = "wgpu";

    /// The backend with these options. Touches no driver.
    pub fn new(options: WgpuOptions) -> WgpuBackend {
        WgpuBackend { options }
    }
}

impl Backend for WgpuBackend {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let found = adapter::enumerate(&self.options)?;
        Ok(found.into_iter().map(|(_, info)| info).collect())
    }

    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>> {
        let mut found = adapter::enumerate(&self.options)?;
        if ordinal >= found.len() {
            return Err(Error::Unavailable {
                backend: Self::NAME,
                why: format!(
                    "there is no device wgpu:{ordinal}; the last one is wgpu:{}",
                    found.len() - 1
                ),
            });
        }
        let (adapter, info) = found.swap_remove(ordinal);
        let (device, queue) = adapter::request(&adapter, &info, &self.options)?;
        Ok(Arc::new(device::WgpuDevice::new(
            device,
            queue,
            info,
            self.options,
        )?))
    }
}
