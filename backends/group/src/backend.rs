//! A group as a backend of one device, for whoever takes backends.

use std::sync::Arc;

use hadal_device::{Backend, Device, DeviceInfo, Error, Result};

use crate::{join, join_info};

/// Devices of backends that are opened together: the one device of this backend.
pub struct GroupBackend(Vec<(Box<dyn Backend>, usize)>);

impl GroupBackend {
    /// Each device as its backend and its number there.
    pub fn new(devices: Vec<(Box<dyn Backend>, usize)>) -> GroupBackend {
        GroupBackend(devices)
    }
}

impl Backend for GroupBackend {
    fn name(&self) -> &'static str {
        self.0
            .first()
            .map_or("group", |(backend, _)| backend.name())
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let infos = self.0.iter().map(|(backend, ordinal)| {
            let missing = || Error::Invalid(format!("{} has no device {ordinal}", backend.name()));
            let devices = backend.devices()?;
            let found = devices.into_iter().find(|info| info.ordinal == *ordinal);
            found.ok_or_else(missing)
        });
        let infos = infos.collect::<Result<Vec<_>>>()?;
        Ok(vec![join_info(&infos.iter().collect::<Vec<_>>())?])
    }

    fn open(&self, _ordinal: usize) -> Result<Arc<dyn Device>> {
        // Before any is opened.
        self.devices()?;
        let devices = self
            .0
            .iter()
            .map(|(backend, ordinal)| backend.open(*ordinal));
        join(devices.collect::<Result<_>>()?)
    }

    fn complaints(&self) -> Vec<String> {
        let said = self.0.iter().map(|(backend, _)| backend.complaints());
        said.flatten().collect()
    }
}
