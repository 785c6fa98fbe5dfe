//! The backends of this build, in order of preference, and the choice of a device.
//!
//! An explicit list: a library inside another program must not depend on what a linker
//! keeps. Backend names appear here and nowhere else above `runtime/device`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hadal_cuda::{CudaBackend, CudaOptions};
use hadal_device::{Backend, Device, DeviceInfo, DeviceKind, Error};
use hadal_group::GroupBackend;
use hadal_host::HostBackend;
pub use hadal_host::Isa;
use hadal_rocm::{RocmBackend, RocmOptions};
use hadal_vulkan::{VulkanBackend, VulkanOptions};
use hadal_wgpu::{WgpuBackend, WgpuOptions};

/// The backend whose devices can be a program's own (`from_wgpu`): what that takes and gives.
pub use hadal_wgpu;

use crate::{EngineError, Recovery, Result};

/// Every backend that can be asked for, available or not.
pub const NAMES: [&str; 5] = ["cuda", "rocm", "vulkan", "wgpu", "host"];

/// Those of one vendor's own driver.
const VENDORS: [&str; 2] = ["cuda", "rocm"];

/// Options of backends, for measuring and tests. The default suits everyone else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Options {
    /// Instruction set of the host; `None`: the best this processor has.
    pub isa: Option<Isa>,
    /// Threads of the host; `None`: one a core.
    pub threads: Option<usize>,
    /// Compile GPU kernels with bounds checks.
    pub checked_shaders: bool,
    /// Run Vulkan under its validation layers.
    pub validation_layers: bool,
    /// Copy weights to GPUs that share the host's memory, instead of reading them in place.
    pub copy_weights: bool,
    /// Fault injection: a GPU is lost after so many submits. [`Reopening`] opens
    /// devices without it.
    pub lose_after_submits: Option<u64>,
}

/// The backends built in, in order of preference.
pub fn backends(options: &Options) -> Vec<Box<dyn Backend>> {
    let mut host = HostBackend::new();
    if let Some(isa) = options.isa {
        host = host.with_isa(isa);
    }
    if let Some(threads) = options.threads {
        host = host.with_threads(threads);
    }
    let wgpu = WgpuBackend::new(WgpuOptions {
        checked: options.checked_shaders,
        lose_after_submits: options.lose_after_submits,
        ..WgpuOptions::default()
    });
    let cache_folder = hadal_vulkan::user_cache_folder();
    let vulkan = VulkanBackend::new(VulkanOptions {
        checked: options.checked_shaders,
        validation: options.validation_layers,
        adopt: options.copy_weights.then_some(false),
        lose_after_submits: options.lose_after_submits,
        cache_folder: cache_folder.clone(),
        ..VulkanOptions::default()
    });
    let cuda = CudaBackend::new(CudaOptions {
        lose_after_submits: options.lose_after_submits,
        cache_folder: cache_folder.clone(),
        ..CudaOptions::default()
    });
    let rocm = RocmBackend::new(RocmOptions {
        lose_after_submits: options.lose_after_submits,
        cache_folder,
        ..RocmOptions::default()
    });
    // CUDA and ROCm stand behind what has run on hardware, until they have.
    vec![
        Box::new(wgpu),
        Box::new(vulkan),
        Box::new(cuda),
        Box::new(rocm),
        Box::new(host),
    ]
}

/// What one backend has to offer on this machine.
pub struct Survey {
    /// Backend name.
    pub backend: &'static str,
    /// Its devices, or why there are none.
    pub devices: hadal_device::Result<Vec<DeviceInfo>>,
}

/// Asks every backend of [`NAMES`] for its devices.
pub fn survey(options: &Options) -> Vec<Survey> {
    let built = backends(options);
    NAMES
        .iter()
        .map(|&name| Survey {
            backend: name,
            devices: match built.iter().find(|backend| backend.name() == name) {
                Some(backend) => backend.devices(),
                None => Err(Error::Unavailable {
                    backend: name,
                    why: "this build has no such backend".to_string(),
                }),
            },
        })
        .collect()
}

/// An open device and why it is this one.
pub struct Opened {
    /// The device.
    pub device: Arc<dyn Device>,
    /// Why it was chosen, as the end of a sentence: `it was asked for`.
    pub why: String,
}

/// Opens the device `wanted` names (`host`, `wgpu`, `wgpu:1`; several together: `cuda:0+cuda:1`,
/// `cuda:all`), or the best one: a GPU if there is one, else the host. A software GPU is taken only
/// when asked for.
pub fn open(wanted: Option<&str>, options: &Options) -> Result<Opened> {
    match wanted {
        Some(name) => Ok(Opened {
            device: open_named(name, options)?,
            why: "it was asked for".to_string(),
        }),
        None => open_best(options),
    }
}

/// Opens the device again that was lost, or where that fails and no device was asked for by
/// name, the best one there is: a [`crate::Recovery`] for devices of this list.
pub struct Reopening {
    wanted: Option<String>,
    options: Options,
    /// Name of the device in use, which is the first to be tried.
    current: Mutex<String>,
}

/// Pauses between attempts to open a device again: a driver that resets its device needs
/// a moment.
const REOPEN_PAUSES: [Duration; 3] = [
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(3),
];

impl Reopening {
    /// For the device that [`open`] gave for the same `wanted` and `options`.
    pub fn of(opened: &Opened, wanted: Option<&str>, options: &Options) -> Reopening {
        Reopening {
            wanted: wanted.map(str::to_string),
            options: Options {
                lose_after_submits: None,
                // Some drivers take a file's pages and fail when they use them.
                copy_weights: true,
                ..*options
            },
            current: Mutex::new(opened.device.info().id()),
        }
    }
}

impl Recovery for Reopening {
    fn reopen(&self, _lost: &Error) -> Result<Arc<dyn Device>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let mut result = open_named(&current, &self.options);
        for pause in REOPEN_PAUSES {
            if result.is_ok() {
                return result;
            }
            std::thread::sleep(pause);
            result = open_named(&current, &self.options);
        }
        if result.is_err() && self.wanted.is_none() {
            let best = open_best(&self.options)?.device;
            *current = best.info().id();
            return Ok(best);
        }
        result
    }
}

fn open_best(options: &Options) -> Result<Opened> {
    let (mut refused, mut software, mut absent) = (Vec::new(), Vec::new(), Vec::new());
    for backend in backends(options) {
        let devices = match backend.devices() {
            Ok(devices) => devices,
            // Most machines lack one vendor's driver or both, which is no reason for anything.
            Err(error @ Error::Unavailable { .. }) if VENDORS.contains(&backend.name()) => {
                absent.push(error.to_string());
                continue;
            }
            Err(error) => {
                refused.push(error.to_string());
                continue;
            }
        };
        for info in devices {
            if info.kind == DeviceKind::Software {
                software.push(info.id());
                continue;
            }
            match backend.open(info.ordinal) {
                Ok(device) => {
                    refused.extend(software_only(&software));
                    let why = match refused.is_empty() {
                        true => "it is the best one here".to_string(),
                        false => refused.join("; "),
                    };
                    return Ok(Opened { device, why });
                }
                Err(error) => refused.push(error.to_string()),
            }
        }
    }
    refused.extend(software_only(&software));
    refused.extend(absent);
    Err(EngineError::NoDevice(format!(
        "no device can run the model: {}",
        refused.join("; ")
    )))
}

/// That these devices are software, as a clause.
fn software_only(ids: &[String]) -> Option<String> {
    match ids {
        [] => None,
        [only] => Some(format!("{only} is a software adapter")),
        _ => Some(format!("{} are software adapters", ids.join(" and "))),
    }
}

fn open_named(name: &str, options: &Options) -> Result<Arc<dyn Device>> {
    let (backend, ordinal) = find(name, options)?;
    Ok(backend.open(ordinal)?)
}

/// The backend and the number of the device that `name` (`host`, `wgpu:1`) means; it is not
/// opened. Of several together (`cuda:0+cuda:1`, or `cuda:all`) a backend of their own.
pub fn find(name: &str, options: &Options) -> Result<(Box<dyn Backend>, usize)> {
    let mut found = Vec::new();
    for part in name.split('+').map(str::trim) {
        if part.is_empty() {
            return Err(EngineError::NoDevice(format!(
                "--device {name} names nothing beside a +; write cuda:0+cuda:1, or cuda:all"
            )));
        }
        match part.strip_suffix(":all") {
            Some(backend) => {
                let all = backend_of(backend, options)?.devices()?;
                for info in all {
                    found.push((backend_of(backend, options)?, info.ordinal));
                }
            }
            None => found.push(find_one(part, options)?),
        }
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        _ => {
            let group = GroupBackend::new(found);
            match group.devices() {
                Err(error @ Error::Unsupported { .. }) => {
                    Err(EngineError::NoDevice(error.to_string()))
                }
                other => Ok(other.map(|_| (Box::new(group) as Box<dyn Backend>, 0))?),
            }
        }
    }
}

fn find_one(name: &str, options: &Options) -> Result<(Box<dyn Backend>, usize)> {
    let (backend_name, number) = name.split_once(':').unwrap_or((name, "0"));
    // Of `abacus:seven` it is the name that is wrong, not the number.
    let backend = backend_of(backend_name, options)?;
    let Ok(ordinal) = number.parse() else {
        return Err(EngineError::NoDevice(format!(
            "{number:?} in --device {name} is no number; write {backend_name}:0, or {backend_name}:all"
        )));
    };
    let devices = backend.devices()?;
    if !devices.iter().any(|d| d.ordinal == ordinal) {
        return Err(EngineError::NoDevice(format!(
            "there is no device {backend_name}:{ordinal}; {backend_name} has {} (see `hadal devices`)",
            devices.len()
        )));
    }
    Ok((backend, ordinal))
}

fn backend_of(name: &str, options: &Options) -> Result<Box<dyn Backend>> {
    let Some(known) = NAMES.into_iter().find(|it| *it == name) else {
        return Err(EngineError::NoDevice(format!(
            "there is no backend {name:?}; choose among {}",
            NAMES.join(", ")
        )));
    };
    let mut built = backends(options).into_iter();
    built.find(|backend| backend.name() == name).ok_or_else(|| {
        let why = "this build has no such backend; `hadal devices` lists what there is";
        let absent = Error::Unavailable {
            backend: known,
            why: why.to_string(),
        };
        absent.into()
    })
}
