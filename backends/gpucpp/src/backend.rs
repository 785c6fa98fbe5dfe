//! Finding and opening devices: the same for both vendors, but for what a device can do.

use std::sync::Arc;

use hadal_device::{DeviceInfo, DeviceKind, Features, Limits, Result};

use crate::GpuOptions;
use crate::blaslt::BlasLt;
use crate::code::{Code, Target};
use crate::compile::Compiler;
use crate::core::Core;
use crate::device::GpuDevice;
use crate::driver::{Driver, Found, Vendor};
use crate::fault::Fuse;
use crate::gpu::Gpu;
use crate::kernel::Kernels;
use crate::lanes::Lanes;
use crate::memory;
use crate::native::Native;

/// Blocks along an axis. Only the first axis could have more.
const MAX_GRID: u32 = 65535;

/// Threads of a block.
const MAX_WORKGROUP: u32 = 1024;

/// Shared memory that every block may have without asking.
const SHARED_BYTES: u32 = 48 << 10;

/// What a kernel of the table takes at most.
const MAX_OPERANDS: u32 = 16;

/// What the widest load of a kernel needs.
const OFFSET_ALIGN: u64 = 16;

/// What a vendor's device can do.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// What code it takes.
    pub target: Target,
    /// Features beyond those of every device.
    pub features: Features,
    /// Threads of a wave.
    pub wave: u32,
    /// What else people want to know; may be empty.
    pub note: String,
}

/// A vendor's devices.
#[derive(Clone)]
pub struct GpuBackend {
    vendor: Vendor,
    /// What a device can do, or why it is not used.
    offer: fn(&Found) -> std::result::Result<Offer, String>,
    code: &'static dyn Code,
    options: GpuOptions,
    fuse: Arc<Fuse>,
}

/// Matrix units, whose products a library may do.
const UNITS: Features = Features::HOPPER
    .with(Features::MMA_SYNC)
    .with(Features::MFMA)
    .with(Features::WMMA)
    .with(Features::WMMA_12);

/// A device that can be opened.
struct Usable {
    found: Found,
    info: DeviceInfo,
    compiler: Compiler,
    library: Option<&'static BlasLt>,
}

impl GpuBackend {
    /// The devices of `vendor`, of which `offer` says what they can do. Touches no driver.
    pub fn new(
        vendor: Vendor,
        offer: fn(&Found) -> std::result::Result<Offer, String>,
        code: &'static dyn Code,
        options: GpuOptions,
    ) -> GpuBackend {
        GpuBackend {
            vendor,
            offer,
            code,
            fuse: Arc::new(Fuse::new(options.lose_after_submits)),
            options,
        }
    }

    /// The devices that can be opened; why there are none otherwise.
    pub fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let (usable, _) = self.usable()?;
        Ok(usable.into_iter().map(|usable| usable.info).collect())
    }

    /// Opens device `ordinal` of [`GpuBackend::devices`].
    pub fn open(&self, ordinal: usize) -> Result<Arc<GpuDevice>> {
        let (mut usable, driver) = self.usable()?;
        if ordinal >= usable.len() {
            let name = self.vendor.backend();
            return Err(self.vendor.unavailable(format!(
                "there is no device {name}:{ordinal}; the last one is {name}:{}",
                usable.len() - 1
            )));
        }
        let Usable {
            found,
            mut info,
            compiler,
            library,
        } = usable.swap_remove(ordinal);
        let gpu = Arc::new(Gpu::open(driver, found.ordinal, info.id())?);
        // Others may have some: what is left is what a plan can count on.
        let free = memory::free(&gpu, &gpu.enter()?)? as u64;
        info.memory_bytes = info.memory_bytes.map(|bytes| bytes.min(free));
        let lanes = Lanes::new(&gpu, self.fuse.clone())?;
        let memory_bytes = self.options.memory_bytes;
        let native = match library {
            Some(library) => {
                let about = format!("{}, {}", info.name, compiler.products());
                Native::new(&gpu, library, &about, compiler.cache().clone())?
            }
            None => None,
        };
        let mut core = Core::new(gpu, lanes, info, Kernels::new(compiler), memory_bytes);
        core.native = native;
        Ok(Arc::new(GpuDevice::new(core)))
    }

    /// At least one device.
    fn usable(&self) -> Result<(Vec<Usable>, &'static Driver)> {
        let driver = Driver::open(self.vendor, self.options.library.as_deref())?;
        let (mut usable, mut refused) = (Vec::new(), Vec::new());
        for found in driver.devices()? {
            let found = match found {
                Ok(found) => found,
                Err(why) => {
                    refused.push(why);
                    continue;
                }
            };
            let name = found.name.clone();
            let offer = (self.offer)(&found);
            match offer.and_then(|offer| self.describe(driver, found, offer, usable.len())) {
                Ok(device) => usable.push(device),
                Err(why) => refused.push(format!("{name}: {why}")),
            }
        }
        match usable.is_empty() {
            true => Err(self.vendor.unavailable(refused.join("; "))),
            false => Ok((usable, driver)),
        }
    }

    /// What the device is; why it is not used if no kernel could get there.
    fn describe(
        &self,
        driver: &Driver,
        found: Found,
        mut offer: Offer,
        ordinal: usize,
    ) -> std::result::Result<Usable, String> {
        let options = &self.options;
        let arch = offer.target.arch.clone();
        let folder = options.cache_folder.as_deref();
        let target = offer.target.clone();
        let compiler = Compiler::new(self.code, target, folder, options.no_images);
        let (kernels, lacks) = compiler.describe(driver)?;
        offer.features = offer.features.without(lacks);
        let (library, has_library) = self.library(driver, &offer);
        let notes = [&offer.note, &has_library].into_iter();
        let notes = notes.filter(|note| !note.is_empty());
        let note: String = notes.map(|note| format!(", {note}")).collect();
        let memory = options
            .memory_bytes
            .map_or(found.memory_bytes, |most| most.min(found.memory_bytes));
        let always = Features::GPU_CPP
            .with(Features::POINTER_TABLES)
            .with(Features::BLOCK_POINTER_TABLES)
            .with(Features::SUBGROUPS);
        let info = DeviceInfo {
            backend: self.vendor.backend(),
            ordinal,
            name: found.name.clone(),
            driver: format!(
                "{} {}.{}, {arch}{note}, {kernels}",
                self.vendor.interface(),
                found.version.0,
                found.version.1,
            ),
            kind: match found.is_integrated {
                true => DeviceKind::IntegratedGpu,
                false => DeviceKind::DiscreteGpu,
            },
            features: match library {
                Some(_) => offer.features.with(always).with(Features::LIBRARY),
                None => offer.features.with(always),
            },
            limits: Limits {
                max_binding_bytes: options
                    .binding_bytes
                    .map_or(memory, |most| (most & !255).clamp(256, memory.max(256))),
                max_buffer_bytes: memory,
                offset_align: OFFSET_ALIGN,
                max_operands: MAX_OPERANDS,
                max_workgroup: MAX_WORKGROUP,
                max_grid: MAX_GRID,
                shared_bytes: SHARED_BYTES,
                subgroup: (offer.wave, offer.wave),
                matrix: None,
            },
            memory_bytes: Some(memory),
            expand_from_tokens: None,
            members: Vec::new(),
        };
        Ok(Usable {
            found,
            info,
            compiler,
            library,
        })
    }

    /// The library for products, and what is said of it: something only where it could be used.
    fn library(&self, driver: &Driver, offer: &Offer) -> (Option<&'static BlasLt>, String) {
        if !offer.features.meets(UNITS) {
            return (None, String::new());
        }
        match BlasLt::open(self.vendor, driver.path.as_deref(), driver.version) {
            Ok(library) => (Some(library), library.version.clone()),
            Err(why) => (None, format!("no library for products ({why})")),
        }
    }
}
