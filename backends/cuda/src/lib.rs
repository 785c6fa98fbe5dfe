//! The CUDA backend: what NVIDIA's GPUs can do. All else is `hadal-gpucpp`.

use std::sync::Arc;

use hadal_device::{Backend, Device, DeviceInfo, Features, Result};
use hadal_gpucpp::{Arch, Found, GpuBackend, GpuDevice, Offer, ShaderCode, Target, Vendor};

pub use hadal_gpucpp::{GpuOptions as CudaOptions, copy_between};

/// NVIDIA's GPUs of compute capability 7.5 and later.
#[derive(Clone)]
pub struct CudaBackend(GpuBackend);

impl CudaBackend {
    /// Name on the command line.
    pub const NAME: &'static str = "cuda";

    /// The backend with these options. Touches no driver.
    pub fn new(options: CudaOptions) -> CudaBackend {
        CudaBackend(GpuBackend::new(Vendor::Cuda, offer, &ShaderCode, options))
    }

    /// [`Backend::open`] for [`copy_between`], which takes devices of one vendor.
    pub fn open_gpu(&self, ordinal: usize) -> Result<Arc<GpuDevice>> {
        self.0.open(ordinal)
    }
}

impl Default for CudaBackend {
    fn default() -> CudaBackend {
        CudaBackend::new(CudaOptions::default())
    }
}

impl Backend for CudaBackend {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        self.0.devices()
    }

    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>> {
        Ok(self.0.open(ordinal)?)
    }
}

/// Threads of a warp.
const WARP: u32 = 32;

/// The oldest compute capability that compilers of CUDA 13 know.
const OLDEST: (u32, u32) = (7, 5);

/// Architectures whose PTX every later device's driver translates, with their capabilities;
/// the latest first.
const PORTABLE: [((u32, u32), &str); 2] = [((8, 9), "sm_89"), ((8, 0), "sm_80")];

/// The oldest driver that translates PTX with products of E4M3, and that of Hopper's images, for
/// whose own kernels no older image can stand in.
const FP8_DRIVER: (i32, i32) = (12, 4);

/// What a device can do, or why it is not used.
fn offer(found: &Found) -> std::result::Result<Offer, String> {
    let Arch::Cuda { major, minor } = found.arch else {
        return Err("it is no device of NVIDIA's".into());
    };
    let capability = (major, minor);
    if capability < OLDEST {
        return Err(format!(
            "compute capability {major}.{minor} is older than {}.{}; use the vulkan backend for it",
            OLDEST.0, OLDEST.1
        ));
    }
    let arch = arch(capability);
    let mut features = Features::NONE;
    if capability >= (8, 0) {
        features = features.with(Features::MMA_SYNC);
    }
    if capability >= (8, 9) && found.version >= FP8_DRIVER {
        features = features.with(Features::FP8_MMA);
    }
    if capability == (9, 0) && found.version >= FP8_DRIVER {
        features = features.with(Features::HOPPER);
    }
    let older = PORTABLE.iter().filter(|(least, _)| {
        capability >= *least && (*least < (8, 9) || found.version >= FP8_DRIVER)
    });
    Ok(Offer {
        target: Target {
            portable: older.map(|(_, arch)| *arch).collect(),
            options: vec![format!("--gpu-architecture={arch}"), "--std=c++17".into()],
            arch,
            images_from: match capability >= (8, 9) {
                true => FP8_DRIVER,
                false => (12, 0),
            },
            waits: capability >= (9, 0),
        },
        features,
        wave: WARP,
        note: String::new(),
    })
}

/// The name of an architecture; the ones with an `a` have instructions that no later one
/// has.
fn arch((major, minor): (u32, u32)) -> String {
    let own = matches!((major, minor), (9, 0) | (10, 0) | (12, 0));
    format!("sm_{major}{minor}{}", if own { "a" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(major: u32, minor: u32) -> Found {
        Found {
            ordinal: 0,
            name: "a GPU".into(),
            memory_bytes: 1 << 30,
            version: (13, 0),
            arch: Arch::Cuda { major, minor },
            is_integrated: false,
        }
    }

    #[test]
    fn a_capability_says_what_a_device_can_do() {
        let mma = Features::MMA_SYNC;
        let fp8 = mma.with(Features::FP8_MMA);
        let hopper = fp8.with(Features::HOPPER);
        let portable = ["sm_89", "sm_80"].as_slice();
        for (capability, arch, features, older) in [
            ((7, 5), "sm_75", Features::NONE, &portable[2..]),
            ((8, 0), "sm_80", mma, &portable[1..]),
            ((8, 9), "sm_89", fp8, portable),
            ((9, 0), "sm_90a", hopper, portable),
            ((10, 0), "sm_100a", fp8, portable),
            ((10, 3), "sm_103", fp8, portable),
            ((12, 0), "sm_120a", fp8, portable),
        ] {
            let offer = offer(&found(capability.0, capability.1)).expect("it is used");
            assert_eq!(offer.target.arch, arch);
            assert_eq!(offer.target.portable, older);
            assert_eq!(offer.features, features, "{arch}");
            let option = format!("--gpu-architecture={arch}");
            assert!(offer.target.options.contains(&option));
        }
    }

    #[test]
    fn an_old_driver_leaves_fp8_and_hopper_out() {
        let old = Found {
            version: (12, 3),
            ..found(9, 0)
        };
        let offer = offer(&old).expect("it is used");
        assert_eq!(offer.features, Features::MMA_SYNC);
    }

    #[test]
    fn an_old_device_is_refused_with_a_reason() {
        let why = offer(&found(7, 0)).expect_err("it is too old");
        assert!(why.contains("7.0") && why.contains("7.5"), "{why}");
    }
}
