//! The wgpu backend: WGSL rows on any GPU that has Vulkan, Metal or Direct3D 12.
//!
//! Knows buffers, kernels and programs; must never know a model, an expert or a token.
//! [`WgpuBackend`] is the way in. `adapter` finds devices, `core` holds memory and kernels and
//! hands work over, `device` is the contract over it, `transfer` moves bytes, `program` records,
//! `timing` says how long it took, `wait` waits, `fault` turns wgpu's errors into values.
//!
//! # On the application's device
//!
//! A program that draws with wgpu need not have a second device, and results need not cross the
//! bus: [`from_wgpu`] takes its own. [`wgpu`] is that crate, of the version that is needed.
//!
//! ```
//! use hadal_device::Device;
//! use hadal_wgpu::{WgpuOptions, from_wgpu, required_features, required_limits, wgpu};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let instance = wgpu::Instance::default();
//! let asked = instance.request_adapter(&wgpu::RequestAdapterOptions::default());
//! let Ok(adapter) = pollster::block_on(asked) else {
//!     return Ok(()); // no GPU and no software driver
//! };
//! # if adapter.get_info().backend == wgpu::Backend::Gl { return Ok(()); }
//! let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
//!     // together with what the application needs itself
//!     required_features: required_features(&adapter),
//!     required_limits: required_limits(&adapter),
//!     ..Default::default()
//! }))?;
//! let options = WgpuOptions::default();
//! let shared = from_wgpu(&instance, &adapter, device.clone(), queue.clone(), options)?;
//! println!("{} takes turns", shared.info().name);
//! // `shared` goes to the engine; `device` and `queue` draw on.
//! # Ok(())
//! # }
//! ```
//!
//! * **Less is accepted**: no features, and every limit of WebGPU's defaults. What is below them
//!   is named in an error.
//! * **Turns**: on a shared device never more than one submit of Hadal's is unfinished, and
//!   no lock of wgpu's is held while Hadal waits for it. Whatever the application submits runs
//!   after at most that one submit, whose length is the engine's budget for dispatches. Kernels
//!   that a driver finishes compiling when they first run do so alone, before a program needs
//!   them.
//! * **Waits**: an application that waits itself should do so without a timeout: where one runs
//!   out while another thread polls, wgpu-core 30 can fail an assertion.
//! * **Errors**: the handler of uncaptured errors and the callback for a loss stay the
//!   application's. Hadal's errors are caught by scopes of its own threads and are values. A
//!   device that is lost or destroyed answers [`Error::Lost`]; after a loss the application gives
//!   the engine another device.
//! * **Callbacks**: wgpu calls back from whichever thread polls or submits. That may be one of
//!   Hadal's, so callbacks of the application should be short and must not wait for Hadal.
//! * **Nothing stays**: labels begin with `hadal`; when the last handle of Hadal's goes, so do its
//!   buffers, at the application's next poll or submit. The device itself is never destroyed.
//! * **Results on the device**: [`WgpuDevice::buffer`] is wgpu's handle of a buffer, for passes
//!   of the application.
#![deny(unsafe_code)]

mod adapter;
mod core;
mod device;
mod fault;
mod kernel;
mod program;
mod shared;
mod timing;
mod transfer;
mod wait;

pub use device::WgpuDevice;
pub use shared::{from_wgpu, required_features, required_limits};
pub use wgpu;

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
        let (wgpu, queue) = adapter::request(&adapter, &info, &self.options)?;
        let handles = core::Handles {
            wgpu,
            queue,
            shared: false,
        };
        Ok(Arc::new(WgpuDevice::new(handles, info, self.options)?))
    }
}
