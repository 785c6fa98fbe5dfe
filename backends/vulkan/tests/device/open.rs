//! Opens the device that tests run on.

use std::sync::Arc;

use hadal_device::{Backend, Device, Error};
use hadal_vulkan::{VulkanBackend, VulkanOptions};

/// The first device with these options, or `None` and a line that names the test.
pub fn open_with(test: &str, options: VulkanOptions) -> Option<Arc<dyn Device>> {
    open_from(test, &VulkanBackend::new(options))
}

/// The first device of `backend`.
pub fn open_from(test: &str, backend: &VulkanBackend) -> Option<Arc<dyn Device>> {
    match backend.open(0) {
        Ok(device) => Some(device),
        Err(Error::Unavailable { why, .. }) => {
            eprintln!("NOT RUN: {test}, {why}");
            None
        }
        Err(e) => panic!("{test}: {e}"),
    }
}

/// The first device, with bounds checks and under the validation layers.
pub fn checked(test: &str) -> Option<Arc<dyn Device>> {
    let options = VulkanOptions {
        checked: true,
        ..VulkanOptions::default()
    };
    open_with(test, options)
}
