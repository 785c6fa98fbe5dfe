//! The ROCm backend: what AMD's GPUs can do. All else is `hadal-gpucpp`.

use std::sync::Arc;

use hadal_device::{Backend, Device, DeviceInfo, Features, Result};
use hadal_gpucpp::{Arch, Found, GpuBackend, GpuDevice, Offer, ShaderCode, Target, Vendor};

pub use hadal_gpucpp::{GpuOptions as RocmOptions, copy_between};

/// AMD's GPUs that ROCm drives.
#[derive(Clone)]
pub struct RocmBackend(GpuBackend);

impl RocmBackend {
    /// Name on the command line.
    pub const NAME: &'static str = "rocm";

    /// The backend with these options. Touches no driver.
    pub fn new(options: RocmOptions) -> RocmBackend {
        RocmBackend(GpuBackend::new(Vendor::Hip, offer, &ShaderCode, options))
    }

    /// [`Backend::open`] for [`copy_between`], which takes devices of one vendor.
    pub fn open_gpu(&self, ordinal: usize) -> Result<Arc<GpuDevice>> {
        self.0.open(ordinal)
    }
}

impl Default for RocmBackend {
    fn default() -> RocmBackend {
        RocmBackend::new(RocmOptions::default())
    }
}

impl Backend for RocmBackend {
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

/// The version of code objects, of which hipRTC makes others by default (up to ROCm 6.3 4, from 6.4
/// on 6). Kernels read how many blocks there are where this one keeps it.
const CODE_OBJECT: &str = "-mcode-object-version=5";

/// A target without its features: `gfx942` of `gfx942:sramecc+:xnack-`.
fn bare(target: &str) -> &str {
    target.split(':').next().unwrap_or_default()
}

/// What a device can do, or why it is not used.
fn offer(found: &Found) -> std::result::Result<Offer, String> {
    let Arch::Hip(target) = &found.arch else {
        return Err("it is no device of AMD's".into());
    };
    let arch = bare(target);
    // GCN and CDNA have three digits, `gfx90a`; RDNA has four.
    let is_gcn = arch.starts_with("gfx9") && arch.len() == 6;
    let is_rdna = ["gfx10", "gfx11", "gfx120"]
        .iter()
        .any(|family| arch.starts_with(family));
    if !is_gcn && !is_rdna {
        return Err(format!(
            "{target:?} is an architecture this build does not know; use the vulkan backend for it"
        ));
    }
    let (features, note) = units(arch);
    Ok(Offer {
        target: Target {
            arch: arch.to_string(),
            portable: Vec::new(),
            options: vec![
                format!("--offload-arch={target}"),
                "-std=c++17".into(),
                CODE_OBJECT.into(),
            ],
            images_from: (6, 0),
            waits: false,
        },
        features,
        wave: if is_gcn { 64 } else { 32 },
        note: note.to_string(),
    })
}

/// RDNA 3 and 3.5, whose matrix units have one layout. Of other targets of this family nothing is
/// known.
const RDNA_3: [&str; 8] = [
    "gfx1100", "gfx1101", "gfx1102", "gfx1103", "gfx1150", "gfx1151", "gfx1152", "gfx1153",
];

/// The matrix units of an architecture, and which E4M3 theirs is: that of stored weights
/// (E4M3FN), or one with another bias, without minus zero (E4M3FNUZ).
fn units(arch: &str) -> (Features, &'static str) {
    let mfma = Features::MFMA;
    match arch {
        "gfx90a" => (mfma, ""),
        "gfx942" => (mfma.with(Features::FP8_MFMA_FNUZ), "E4M3FNUZ"),
        "gfx950" => (mfma.with(Features::FP8_MFMA), "E4M3FN"),
        _ if RDNA_3.contains(&arch) => (Features::WMMA, ""),
        _ if arch.starts_with("gfx120") => (Features::WMMA_12.with(Features::FP8_WMMA), "E4M3FN"),
        _ => (Features::NONE, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(target: &str) -> Found {
        Found {
            ordinal: 0,
            name: "a GPU".into(),
            memory_bytes: 1 << 30,
            version: (7, 0),
            arch: Arch::Hip(target.into()),
            is_integrated: false,
        }
    }

    #[test]
    fn a_target_says_what_a_device_can_do() {
        let (none, mfma, wmma) = (Features::NONE, Features::MFMA, Features::WMMA);
        let wmma12 = Features::WMMA_12.with(Features::FP8_WMMA);
        let fnuz = mfma.with(Features::FP8_MFMA_FNUZ);
        for (target, arch, features, wave, note) in [
            ("gfx906:sramecc+:xnack-", "gfx906", none, 64, ""),
            ("gfx90a:sramecc+:xnack-", "gfx90a", mfma, 64, ""),
            ("gfx942:sramecc+:xnack-", "gfx942", fnuz, 64, "E4M3FNUZ"),
            (
                "gfx950:sramecc+:xnack-",
                "gfx950",
                mfma.with(Features::FP8_MFMA),
                64,
                "E4M3FN",
            ),
            ("gfx1030", "gfx1030", none, 32, ""),
            ("gfx1100", "gfx1100", wmma, 32, ""),
            ("gfx1151", "gfx1151", wmma, 32, ""),
            ("gfx1153", "gfx1153", wmma, 32, ""),
            ("gfx1170", "gfx1170", none, 32, ""),
            ("gfx1201", "gfx1201", wmma12, 32, "E4M3FN"),
        ] {
            let offer = offer(&found(target)).expect("it is used");
            assert_eq!((offer.target.arch.as_str(), offer.wave), (arch, wave));
            assert_eq!(offer.features, features, "{arch}");
            assert_eq!(offer.note, note, "{arch}");
            // The compiler must know the features, which images leave open.
            let option = format!("--offload-arch={target}");
            assert!(offer.target.options.contains(&option));
            let version = "-mcode-object-version=5".to_string();
            assert!(offer.target.options.contains(&version));
        }
    }

    #[test]
    fn what_is_not_known_is_refused_with_a_reason() {
        for target in ["", "gfx803", "gfx9999", "gfx1250"] {
            let why = offer(&found(target)).expect_err("it is not known");
            assert!(why.contains(target), "{why}");
        }
    }
}
