//! The devices of wgpu under test. Tests share them.

use std::sync::{Arc, LazyLock};

use hadal_device::{Backend, Device};
use hadal_wgpu::{WgpuBackend, WgpuLimits, WgpuOptions};

use crate::harness::TRUSTED;

/// With names; none if there is no adapter.
pub fn devices() -> &'static [(&'static str, Arc<dyn Device>)] {
    static DEVICES: LazyLock<Vec<(&'static str, Arc<dyn Device>)>> = LazyLock::new(|| {
        let plain = WgpuOptions::default();
        let careful = WgpuOptions {
            checked: true,
            no_subgroups: true,
            no_half_conversion: true,
            limits: WgpuLimits::WebGpu,
            ..plain
        };
        [(TRUSTED, plain), ("checked, no subgroups", careful)]
            .into_iter()
            .filter_map(|(name, options)| match WgpuBackend::new(options).open(0) {
                Ok(device) => Some((name, device)),
                Err(hadal_device::Error::Unavailable { .. }) => None,
                Err(e) => panic!("{name}: {e}"),
            })
            .collect()
    });
    &DEVICES
}
