//! Measured bandwidths in a file, with the day they were measured.
//!
//! Decides when a figure is too old. A file that cannot be read is as none, and one that
//! cannot be written is no failure: measuring again costs a fraction of a second.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use hadal_device::Device;
use serde::{Deserialize, Serialize};

use super::{Effort, of_device};

/// Name of the file.
const FILE: &str = "bandwidth.json";

/// Largest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// Seconds after which it is measured again: others may have read meanwhile, memory is added,
/// drivers change their clocks.
const MAX_AGE: u64 = 86_400;

/// A bandwidth and when it was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Bytes a second.
    pub bytes_per_second: f64,
    /// Seconds since 1970 began; `None`: it was given.
    pub at: Option<u64>,
}

impl Measured {
    /// Not measured: somebody says so.
    pub fn given(bytes_per_second: f64) -> Measured {
        Measured {
            bytes_per_second,
            at: None,
        }
    }
}

/// Where bandwidths are kept.
#[derive(Clone, Debug)]
pub struct Store {
    folder: Option<PathBuf>,
}

impl Store {
    /// Kept in `folder`, which is made when it is needed; `None`: nowhere.
    pub fn new(folder: Option<PathBuf>) -> Store {
        Store { folder }
    }

    /// Kept in the user's cache folder, as compiled kernels are.
    pub fn of_the_user() -> Store {
        Store::new(hadal_vulkan::user_cache_folder())
    }

    /// The bandwidth of `device`, as kept or by a short measurement.
    ///
    /// # Errors
    /// Those of the device.
    pub fn measured(
        &self,
        device: &dyn Device,
        threads: Option<usize>,
    ) -> hadal_device::Result<Measured> {
        let effort = Effort::short(device.info().kind);
        let kept = self.read().remove(&key(device, threads, effort));
        let fresh = |found: &Measured| {
            let age = found.at.and_then(|at| now().checked_sub(at));
            age.is_some_and(|age| age < MAX_AGE) && found.bytes_per_second > 0.0
        };
        match kept.filter(fresh) {
            Some(found) => Ok(found),
            None => self.measure(device, threads),
        }
    }

    /// The bandwidth of `device` as it is now, which is kept.
    ///
    /// # Errors
    /// Those of the device.
    pub fn measure(
        &self,
        device: &dyn Device,
        threads: Option<usize>,
    ) -> hadal_device::Result<Measured> {
        let effort = Effort::short(device.info().kind);
        let bandwidth = of_device(device, threads, effort)?;
        let found = Measured {
            // Whole, so that it is the same after it was text.
            bytes_per_second: bandwidth.bytes_per_second.round(),
            at: Some(now()),
        };
        let mut all = self.read();
        all.insert(key(device, threads, effort), found);
        self.write(&all);
        Ok(found)
    }

    fn read(&self) -> BTreeMap<String, Measured> {
        let file = self.folder.as_ref().map(|folder| folder.join(FILE));
        let text = file.and_then(|file| hadal_weights::read_text(&file, MAX_BYTES).ok());
        text.and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default()
    }

    /// Beside the file first, so that a reader never meets half of it.
    fn write(&self, all: &BTreeMap<String, Measured>) {
        let Some(folder) = &self.folder else { return };
        let Ok(text) = serde_json::to_string_pretty(all) else {
            return;
        };
        let partial = folder.join(format!("{FILE}.{}.partial", std::process::id()));
        let written = std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&partial, text))
            .and_then(|()| std::fs::rename(&partial, folder.join(FILE)));
        if written.is_err() {
            let _ = std::fs::remove_file(&partial);
        }
    }
}

/// What a figure belongs to: another driver, number of threads or amount that is read has its own.
fn key(device: &dyn Device, threads: Option<usize>, effort: Effort) -> String {
    let info = device.info();
    let threads = match info.backend {
        "host" => threads
            .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
            .map_or(String::new(), |n| format!(", {n} threads")),
        _ => String::new(),
    };
    format!(
        "{}: {}, {}{threads}, over {} bytes",
        info.id(),
        info.name,
        info.driver,
        effort.bytes
    )
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bandwidth_is_measured_once_and_again_when_it_is_old_or_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(Some(folder.path().join("cache")));
        let host = hadal_host::HostBackend::new();
        let device = hadal_device::Backend::open(&host, 0).unwrap();
        let first = store.measured(device.as_ref(), Some(1)).unwrap();
        assert!(first.bytes_per_second > 0.0 && first.at.is_some());
        assert_eq!(store.measured(device.as_ref(), Some(1)).unwrap(), first);
        let file = folder.path().join("cache").join(FILE);
        let mut all = store.read();
        assert_eq!(all.len(), 1);
        let yesterday = Some(now() - MAX_AGE);
        all.values_mut().for_each(|found| found.at = yesterday);
        store.write(&all);
        let again = store.measured(device.as_ref(), Some(1)).unwrap();
        assert!(again.at > yesterday);
        // Asked for, it is measured although one is kept; other threads have a figure of their own.
        all.values_mut().for_each(|found| found.at = Some(now()));
        store.write(&all);
        let renewed = store.measure(device.as_ref(), Some(1)).unwrap();
        assert_eq!(store.measured(device.as_ref(), Some(1)).unwrap(), renewed);
        store.measured(device.as_ref(), Some(2)).unwrap();
        let keys: Vec<String> = store.read().into_keys().collect();
        assert_eq!(keys.len(), 2, "{keys:?}");
        assert!(
            keys[0].contains("1 threads, over ") && keys[1].contains("2 threads, over "),
            "{keys:?}"
        );
        std::fs::write(&file, "{").unwrap();
        assert!(store.measured(device.as_ref(), Some(1)).is_ok());
        let none = Store::new(None);
        assert!(none.measured(device.as_ref(), Some(1)).is_ok());
    }
}
