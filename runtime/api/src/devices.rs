//! Which device a model runs on.

use std::fmt;
use std::sync::Arc;

use hadal_device::{Device, DeviceInfo, DeviceKind};
use hadal_engine::registry::{self, Options, Survey};

use crate::{Error, ErrorCode, Result};

/// Every backend of this build, each with its devices or the reason why it has none. Touches
/// drivers and may take a moment.
pub fn devices(options: &Options) -> Vec<Survey> {
    registry::survey(options)
}

/// Which device a model is loaded on.
#[derive(Clone, Default)]
pub enum DeviceChoice {
    /// A GPU if there is one, else the processor. A software adapter is never taken.
    #[default]
    Best,
    /// By name: `host`, `wgpu`, `vulkan:1`.
    Named(String),
    /// One that the program opened itself, for example to share it with its interface. It is
    /// not opened again if it is lost.
    ///
    /// ```
    /// # #[cfg(feature = "tiny")]
    /// # fn main() -> hadal::Result<()> {
    /// # use hadal::{LoadOptions, Model};
    /// use hadal_device::Backend;
    ///
    /// let device = hadal_host::HostBackend::new().with_threads(1).open(0).expect("the host opens");
    /// let options = LoadOptions::on_open(device).with_context(256);
    /// let engine = Model::shipped()?.load(options)?;
    /// assert_eq!(engine.device().id(), "host");
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "tiny"))]
    /// # fn main() {}
    /// ```
    Open(Arc<dyn Device>),
}

impl fmt::Debug for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Best => f.write_str("Best"),
            DeviceChoice::Named(name) => write!(f, "Named({name:?})"),
            DeviceChoice::Open(device) => write!(f, "Open({})", device.info().id()),
        }
    }
}

impl DeviceChoice {
    /// The name to ask the registry for.
    pub(crate) fn wanted(&self) -> Option<&str> {
        match self {
            DeviceChoice::Named(name) => Some(name),
            _ => None,
        }
    }

    /// The facts of the device, without opening it.
    pub(crate) fn info(&self, options: &Options) -> Result<DeviceInfo> {
        match self {
            DeviceChoice::Open(device) => Ok(device.info().clone()),
            DeviceChoice::Named(name) => {
                let (backend, ordinal) = registry::find(name, options)?;
                let mut infos = backend.devices()?.into_iter();
                let info = infos.find(|info| info.ordinal == ordinal);
                info.ok_or_else(|| Error::new(ErrorCode::NoDevice, format!("no device {name}")))
            }
            DeviceChoice::Best => best(options),
        }
    }
}

/// The device that the registry would open where none is asked for.
fn best(options: &Options) -> Result<DeviceInfo> {
    let fits = |info: &DeviceInfo| info.kind != DeviceKind::Software;
    for backend in registry::backends(options) {
        // A backend without devices is no reason for anything while there is another.
        let infos = backend.devices().unwrap_or_default();
        if let Some(info) = infos.into_iter().find(fits) {
            return Ok(info);
        }
    }
    let why = "no device can run a model";
    Err(Error::new(ErrorCode::NoDevice, why))
}
