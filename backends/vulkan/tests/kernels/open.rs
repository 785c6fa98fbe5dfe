//! The devices of Vulkan under test. Tests share them.

use std::sync::{Arc, LazyLock};

use hadal_device::{Backend, Device};
use hadal_vulkan::{VulkanBackend, VulkanOptions};

use crate::harness::TRUSTED;

/// With names; none if there is no driver.
pub fn devices() -> &'static [(&'static str, Arc<dyn Device>)] {
    static DEVICES: LazyLock<Vec<(&'static str, Arc<dyn Device>)>> = LazyLock::new(|| {
        let plain = VulkanOptions::default();
        let careful = VulkanOptions {
            checked: true,
            no_half_conversion: true,
            ..plain.clone()
        };
        [(TRUSTED, plain), ("checked", careful)]
            .into_iter()
            .filter_map(
                |(name, options)| match VulkanBackend::new(options).open(0) {
                    Ok(device) => Some((name, device)),
                    Err(hadal_device::Error::Unavailable { .. }) => None,
                    Err(e) => panic!("{name}: {e}"),
                },
            )
            .collect()
    });
    &DEVICES
}
