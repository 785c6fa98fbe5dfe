//! The devices of this machine, and why others are absent.

use std::ffi::CString;
use std::ptr;

use hadal::{DeviceKind, DeviceOptions};

use crate::call::{ask, call, free, handle, invalid, needed, owned_string, put, put_sized};
use crate::{HadalDevice, HadalDeviceKind, HadalError, HadalStatus};

/// A list of devices.
pub struct HadalDevices(Vec<Entry>);

struct Entry {
    kind: HadalDeviceKind,
    backend: CString,
    /// Its id, name and driver; or why there is none.
    device: Result<[CString; 3], CString>,
    memory_bytes: u64,
}

/// Lists the devices of every backend of this build, and the backends that have none. Touches
/// drivers and may take a moment. To be freed by hadal_devices_free.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_devices(
    devices: *mut *mut HadalDevices,
    error: *mut *mut HadalError,
) -> HadalStatus {
    let body = || {
        if devices.is_null() {
            return Err(invalid("devices is NULL"));
        }
        let mut entries = Vec::new();
        for survey in hadal::devices(&DeviceOptions::default()) {
            let backend = owned_string(survey.backend);
            match survey.devices {
                Err(why) => entries.push(Entry {
                    kind: HadalDeviceKind::Absent,
                    backend,
                    device: Err(owned_string(&why.to_string())),
                    memory_bytes: 0,
                }),
                Ok(infos) => entries.extend(infos.iter().map(|info| Entry {
                    kind: kind(info.kind),
                    backend: backend.clone(),
                    device: Ok([&info.id(), &info.name, &info.driver].map(|it| owned_string(it))),
                    memory_bytes: info.memory_bytes.unwrap_or(0),
                })),
            }
        }
        // SAFETY: the caller's promise.
        unsafe { put(devices, "devices", handle(HadalDevices(entries))) }
    };
    // SAFETY: the caller's promise.
    unsafe { call(error, body) }
}

fn kind(kind: DeviceKind) -> HadalDeviceKind {
    match kind {
        DeviceKind::Cpu => HadalDeviceKind::Cpu,
        DeviceKind::DiscreteGpu => HadalDeviceKind::DiscreteGpu,
        DeviceKind::IntegratedGpu => HadalDeviceKind::IntegratedGpu,
        DeviceKind::VirtualGpu => HadalDeviceKind::VirtualGpu,
        DeviceKind::Software => HadalDeviceKind::Software,
    }
}

/// Entries of a list; 0 for NULL.
///
/// # Safety
/// `devices` is NULL or was given out and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_devices_len(devices: *const HadalDevices) -> usize {
    // SAFETY: the caller's promise.
    unsafe { ask(devices, 0, |list| list.0.len()) }
}

/// Describes entry `index`, counted from 0. Its texts belong to the list.
///
/// # Safety
/// Pointers are NULL or valid; `device->size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_devices_get(
    devices: *const HadalDevices,
    index: usize,
    device: *mut HadalDevice,
    error: *mut *mut HadalError,
) -> HadalStatus {
    let body = || {
        // SAFETY: the caller's promise.
        let list = unsafe { needed(devices, "devices") }?;
        let beyond = || invalid(format!("there is no entry {index} of {}", list.0.len()));
        let entry = list.0.get(index).ok_or_else(beyond)?;
        let (texts, why) = match &entry.device {
            Ok(texts) => (texts.each_ref().map(|text| text.as_ptr()), ptr::null()),
            Err(why) => ([ptr::null(); 3], why.as_ptr()),
        };
        let [id, name, driver] = texts;
        let told = HadalDevice {
            size: size_of::<HadalDevice>(),
            kind: entry.kind as u32,
            reserved: 0,
            backend: entry.backend.as_ptr(),
            id,
            name,
            driver,
            memory_bytes: entry.memory_bytes,
            why,
        };
        // SAFETY: the caller's promise.
        unsafe { put_sized(device, "device", told) }
    };
    // SAFETY: the caller's promise.
    unsafe { call(error, body) }
}

/// Frees a list; NULL is allowed.
///
/// # Safety
/// `devices` is NULL or was given out and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_devices_free(devices: *mut HadalDevices) {
    // SAFETY: the caller's promise.
    unsafe { free(devices) };
}
