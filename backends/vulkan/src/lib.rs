//! The native Vulkan backend: WGSL rows as SPIR-V and SPIR-V rows, recorded once and replayed.
//!
//! Knows buffers, kernels and programs; must never know a model, an expert or a token.
//! [`VulkanBackend`] is the way in. `instance` finds devices, `offer` is what one can do
//! beyond the least (`matrix`: its matrix units), `queues` opens it, `gpu` owns an open one, `lane` a
//! queue of it;
//! `memory`, `import` and `budget` are bytes, `kernel`, `pipeline` and `cache` compile, `record`
//! writes commands, `program` keeps and submits them (`addresses`: what its tables are),
//! `transfer` moves bytes, `timing` measures, `device` puts it together.

mod addresses;
mod budget;
mod cache;
mod device;
mod fault;
mod gpu;
mod import;
mod instance;
mod kernel;
mod lane;
mod matrix;
mod memory;
mod offer;
mod pipeline;
mod program;
mod queues;
mod record;
mod timing;
mod transfer;
mod validation;

use std::path::PathBuf;
use std::sync::Arc;

use hadal_device::{Backend, Device, DeviceInfo, Error, Result};

pub use crate::cache::user_cache_folder;
use crate::fault::Fuse;
use crate::validation::Messages;

/// How devices are opened.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct VulkanOptions {
    /// Compile kernels with bounds checks and run under the validation layers if they are
    /// installed: a device then refuses everything after their first message, and
    /// [`Backend::complaints`] has them all. Kernels trust lowering otherwise.
    pub checked: bool,
    /// Run under the validation layers, with kernels as people run them; without the layers
    /// there is no device.
    pub validation: bool,
    /// Longest operand in bytes, where less than the device allows is wanted: makes lowering
    /// cut small models into shards. Rounded down to a multiple of 256.
    pub binding_bytes: Option<u64>,
    /// Do as if the device's conversion from half precision lost subnormal numbers, which
    /// is otherwise tried out: takes the other way of decoding F16 and E4M3.
    pub no_half_conversion: bool,
    /// Where compiled kernels are kept for the next process ([`user_cache_folder`] serves
    /// well); `None`: nowhere.
    pub cache_folder: Option<PathBuf>,
    /// Device memory to use at most, where less than the driver's budget is wanted.
    pub memory_bytes: Option<u64>,
    /// Whether host memory is used in place (`Device::adopt`) where the driver can; `None`:
    /// on GPUs that share it.
    pub adopt: Option<bool>,
    /// Size of subgroups on devices that offer a range, brought to the nearest power of two
    /// that they offer; `None`: the device's usual one.
    pub subgroup_size: Option<u32>,
    /// Fault injection, for tests of whoever must survive a lost device: the first device
    /// of this backend value that has submitted so many programs behaves from then on as if
    /// the driver had answered VK_ERROR_DEVICE_LOST. Devices opened afterwards, by the same
    /// value or a clone of it, work.
    pub lose_after_submits: Option<u64>,
}

/// Devices that Vulkan reaches: hardware first, software ones last and marked so.
#[derive(Clone, Default)]
pub struct VulkanBackend {
    options: VulkanOptions,
    fuse: Arc<Fuse>,
    messages: Arc<Messages>,
}

impl VulkanBackend {
    /// Name on the command line.
    pub const NAME: &'static str = "vulkan";

    /// The backend with these options. Touches no driver.
    pub fn new(options: VulkanOptions) -> VulkanBackend {
        VulkanBackend {
            fuse: Arc::new(Fuse::new(options.lose_after_submits)),
            messages: Arc::default(),
            options,
        }
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
        Ok(Arc::new(device::open(
            physical,
            info,
            &self.options,
            self.fuse.clone(),
            self.messages.clone(),
        )?))
    }

    /// Those of the validation layers.
    fn complaints(&self) -> Vec<String> {
        self.messages.all()
    }
}
