//! A device that says it has less than it has. A software adapter without
//! [`Features::SOFTWARE`] runs the rows and the lowering that only GPUs take; a GPU without
//! matrix units, those of lesser ones.
//!
//! Changes what the device says of itself and nothing that it does.

use hadal_device::{Device, DeviceInfo, Features};
use std::sync::Arc;

use crate::pass_on;

/// The device under the changed description.
pub struct Lacking {
    device: Arc<dyn Device>,
    info: DeviceInfo,
}

impl Lacking {
    /// `device` without `features`.
    pub fn new(device: Arc<dyn Device>, features: Features) -> Lacking {
        let info = DeviceInfo {
            features: device.info().features.without(features),
            ..device.info().clone()
        };
        Lacking { device, info }
    }
}

impl Device for Lacking {
    pass_on!(device: alloc free write read pipeline prepare wait completed adopt setup_counts
        gpu_time submit_cost notes);

    fn info(&self) -> &DeviceInfo {
        &self.info
    }
}
