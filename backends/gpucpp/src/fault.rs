//! Drivers' codes as values of [`Error`], and losses on purpose.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use hadal_device::{Error, Result};

use crate::Vendor;
use crate::driver::status;
use crate::driver::table::Status;

/// Whether and why a device was lost; for ever.
#[derive(Default)]
pub struct Faults {
    why: OnceLock<String>,
    /// Only in the eyes of this crate.
    on_purpose: AtomicBool,
}

impl Faults {
    /// `Err` if the device is lost.
    pub fn check(&self, device: &str) -> Result<()> {
        match self.why.get() {
            Some(why) => Err(Error::Lost {
                device: device.into(),
                why: why.clone(),
            }),
            None => Ok(()),
        }
    }

    /// The device is lost from now on.
    pub fn lose(&self, device: &str, why: impl FnOnce() -> String) -> Error {
        Error::Lost {
            device: device.into(),
            why: self.why.get_or_init(why).clone(),
        }
    }

    /// The device is lost from now on, though nothing is wrong with it.
    pub fn lose_on_purpose(&self, device: &str) -> Error {
        self.on_purpose.store(true, Ordering::Relaxed);
        self.lose(device, || "an injected fault".into())
    }

    /// Whether the driver's device is lost.
    pub fn is_broken(&self) -> bool {
        self.why.get().is_some() && !self.on_purpose.load(Ordering::Relaxed)
    }

    /// What `status`, met while doing `what` on `device`, is. A loss is remembered. `bytes` is
    /// what it wanted to allocate.
    pub fn error(
        &self,
        (vendor, status): (Vendor, Status),
        device: &str,
        what: &str,
        bytes: u64,
    ) -> Error {
        let name = || status::name(vendor, status);
        match status {
            _ if status::is_loss(status) => self.lose(device, || format!("{what} met {}", name())),
            status::OUT_OF_MEMORY => Error::OutOfMemory {
                what: what.into(),
                memory: device.into(),
                wanted_bytes: bytes,
            },
            status::NOT_SUPPORTED | 701 => Error::Unsupported {
                what: what.into(),
                why: format!("{device} answered {}", name()),
            },
            _ => Error::Invalid(format!("{what} on {device}: {}", name())),
        }
    }
}

/// Loses one device on purpose; see [`crate::GpuOptions::lose_after_submits`].
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

#[cfg(test)]
mod tests {
    use hadal_device::Error;

    use super::Faults;
    use crate::Vendor;

    #[test]
    fn only_a_loss_stays() {
        let faults = Faults::default();
        let error = |code| faults.error((Vendor::Cuda, code), "cuda:0", "copying", 7);
        assert!(matches!(
            error(2),
            Error::OutOfMemory {
                wanted_bytes: 7,
                ..
            }
        ));
        // What a kernel asks of a device that has not as much loses nothing.
        for code in [801, 701] {
            assert!(matches!(error(code), Error::Unsupported { .. }), "{code}");
        }
        assert!(matches!(error(1), Error::Invalid(_)));
        assert_eq!(faults.check("cuda:0"), Ok(()));
        let lost = error(700);
        assert!(lost.to_string().contains("CUDA_ERROR_ILLEGAL_ADDRESS"));
        assert_eq!(faults.check("cuda:0"), Err(lost.clone()));
        // The first reason is the true one.
        assert_eq!(error(719), lost);
        assert!(faults.is_broken());
        let faults = Faults::default();
        faults.lose_on_purpose("cuda:0");
        assert!(faults.check("cuda:0").is_err() && !faults.is_broken());
    }
}
