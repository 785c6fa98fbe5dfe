//! wgpu reports errors through callbacks; here they become values of [`Error`]. The callbacks
//! of an application's device are the application's: there, errors come out of scopes alone,
//! and a loss out of what a lost device refuses (`Core::probe`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hadal_device::{Error, Result};

/// What went wrong on a device since it was last asked.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Reason of the loss; for ever.
    lost: Option<String>,
    /// First error nobody has been told of. Calls catch their own errors ([`caught`]), which
    /// are those of their thread; this is for the rest.
    pending: Option<wgpu::Error>,
}

impl Faults {
    /// Listens to `device`, which is not the application's.
    pub fn of(device: &wgpu::Device) -> Faults {
        let faults = Faults::default();
        let errors = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            errors.lock().pending.get_or_insert(error);
        }));
        let loss = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            let why = if message.is_empty() {
                format!("{reason:?}")
            } else {
                message
            };
            loss.lock().lost.get_or_insert(why);
        });
        faults
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A callback cannot leave the state half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device is lost, because of `why`.
    pub fn lose(&self, why: &str) {
        self.lock().lost.get_or_insert_with(|| why.to_string());
    }

    /// `Err` if the device is lost or something failed; `what` was being done on `device`.
    pub fn check(&self, device: &str, what: &str) -> Result<()> {
        let mut state = self.lock();
        if let Some(why) = &state.lost {
            return Err(Error::Lost {
                device: device.into(),
                why: why.clone(),
            });
        }
        match state.pending.take() {
            Some(error) => Err(to_error(error, device, what, 0)),
            None => Ok(()),
        }
    }
}

/// Runs `body`; an error of it, of any kind, is returned and not left to the callback.
/// `bytes` is what it wanted to allocate.
pub fn caught<T>(
    wgpu: &wgpu::Device,
    device: &str,
    what: &str,
    bytes: u64,
    body: impl FnOnce() -> T,
) -> Result<T> {
    let validation = wgpu.push_error_scope(wgpu::ErrorFilter::Validation);
    let memory = wgpu.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let internal = wgpu.push_error_scope(wgpu::ErrorFilter::Internal);
    let value = body();
    // Innermost first, as the scopes demand.
    let errors = [
        pollster::block_on(internal.pop()),
        pollster::block_on(memory.pop()),
        pollster::block_on(validation.pop()),
    ];
    match errors.into_iter().flatten().next() {
        Some(error) => Err(to_error(error, device, what, bytes)),
        None => Ok(value),
    }
}

fn to_error(error: wgpu::Error, device: &str, what: &str, bytes: u64) -> Error {
    match error {
        wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory {
            what: what.into(),
            memory: device.into(),
            wanted_bytes: bytes,
        },
        wgpu::Error::Validation { description, .. } => {
            Error::Invalid(format!("{what} on {device}: {description}"))
        }
        wgpu::Error::Internal { description, .. } => Error::Unsupported {
            what: format!("{what} on {device}"),
            why: description,
        },
    }
}
