//! Vulkan's results as values of [`Error`], and losses on purpose.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use hadal_device::{Error, Result};
use vulkano::{Validated, VulkanError};

/// Whether and why a device was lost; for ever.
#[derive(Default)]
pub struct Faults(OnceLock<String>);

impl Faults {
    /// `Err` if the device is lost.
    pub fn check(&self, device: &str) -> Result<()> {
        match self.0.get() {
            Some(why) => Err(Error::Lost {
                device: device.into(),
                why: why.clone(),
            }),
            None => Ok(()),
        }
    }

    /// What `error`, met while doing `what` on `device`, is. A loss is remembered.
    /// `bytes` is what it wanted to allocate.
    pub fn error(
        &self,
        error: impl Into<Validated<VulkanError>>,
        device: &str,
        what: &str,
        bytes: u64,
    ) -> Error {
        match error.into() {
            Validated::Error(VulkanError::DeviceLost) => {
                let why = self
                    .0
                    .get_or_init(|| format!("{what} met VK_ERROR_DEVICE_LOST"));
                Error::Lost {
                    device: device.into(),
                    why: why.clone(),
                }
            }
            Validated::Error(
                VulkanError::OutOfDeviceMemory
                | VulkanError::OutOfHostMemory
                | VulkanError::TooManyObjects
                | VulkanError::OutOfPoolMemory,
            ) => Error::OutOfMemory {
                what: what.into(),
                memory: device.into(),
                wanted_bytes: bytes,
            },
            other => Error::Invalid(format!("{what} on {device}: {}", plain(other))),
        }
    }
}

/// What went wrong. vulkano's own words for an error of the driver do not say which.
pub fn plain(error: Validated<VulkanError>) -> String {
    match error {
        Validated::Error(error) => error.to_string(),
        Validated::ValidationError(error) => error.to_string(),
    }
}

/// Loses one device on purpose; see `VulkanOptions::lose_after_submits`.
#[derive(Debug, Default)]
pub struct Fuse {
    after: Option<u64>,
    blown: AtomicBool,
}

impl Fuse {
    /// Blows once, after so many programs.
    pub fn new(after: Option<u64>) -> Fuse {
        Fuse {
            after,
            blown: AtomicBool::new(false),
        }
    }

    /// Whether the device that has submitted `runs` programs is lost now.
    pub fn blows(&self, runs: u64) -> bool {
        self.after.is_some_and(|after| runs >= after) && !self.blown.swap(true, Ordering::Relaxed)
    }
}

/// The error of a raw call.
pub fn raw(result: ash::vk::Result) -> std::result::Result<(), VulkanError> {
    match result.result() {
        Ok(()) => Ok(()),
        Err(error) => Err(VulkanError::from(error)),
    }
}
