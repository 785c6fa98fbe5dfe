//! cuBLASLt and hipBLASLt, found when the program runs: products of BF16 weights, with activations
//! as sums of three bf16; cuBLASLt also those of E4M3 codes with a scale for each 128 of a row's
//! depth and for each 128 by 128 of a weight.
//!
//! Their answers are never errors of the device: whatever they cannot do, a kernel does.

mod product;

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

use libloading::Library;

use crate::driver::Vendor;
use crate::driver::table::{CudaLtVersion, Handle, HipLtVersion, LtCalls, Status};

pub use self::product::{Product, Ready, Values};

/// The oldest version of cuBLASLt that knows these scales.
const LEAST: (c_int, c_int) = (12, 9);

/// Memory that a product may use beside its operands.
pub const WORKSPACE: u64 = 32 << 20;

/// The library.
pub struct BlasLt {
    calls: LtCalls,
    vendor: Vendor,
    /// For people: `cuBLASLt 13.0.2`; hipBLASLt tells its version to who has a handle.
    pub version: String,
    /// Of cuBLASLt.
    number: (c_int, c_int),
    /// That of hipBLASLt.
    told: Option<HipLtVersion>,
}

/// What was asked for: whose, a path, and the driver's version.
type Asked = (Vendor, Option<PathBuf>, (c_int, c_int));

/// Those that were loaded.
static LOADED: Mutex<BTreeMap<Asked, &BlasLt>> = Mutex::new(BTreeMap::new());

/// Where it may be for a driver of a version `major`, best first. The names of Windows are those
/// that other programs load; none of them was tried there. hipBLASLt needs the HIP that it was
/// built with, of which a process has one.
fn libraries(vendor: Vendor, major: c_int, on_windows: bool) -> &'static [&'static str] {
    match (vendor, on_windows) {
        (Vendor::Hip, true) => &[],
        (Vendor::Hip, false) if major == 6 => {
            &["libhipblaslt.so.0", "/opt/rocm/lib/libhipblaslt.so.0"]
        }
        (Vendor::Hip, false) => &["libhipblaslt.so.1", "/opt/rocm/lib/libhipblaslt.so.1"],
        (Vendor::Cuda, false) => &[
            "libcublasLt.so.13",
            "libcublasLt.so.12",
            "libcublasLt.so",
            "/usr/local/cuda/lib64/libcublasLt.so",
        ],
        (Vendor::Cuda, true) => &["cublasLt64_13.dll", "cublasLt64_12.dll"],
    }
}

impl BlasLt {
    /// The library at `path`, which replaces the driver's, if it is one of these, else in the
    /// usual places. The error says why there is none that serves a driver of version `driver`.
    pub fn open(
        vendor: Vendor,
        path: Option<&Path>,
        driver: (c_int, c_int),
    ) -> std::result::Result<&'static BlasLt, String> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = (vendor, path.map(Path::to_path_buf), driver);
        if let Some(known) = loaded.get(&asked) {
            return Ok(known);
        }
        let usual = libraries(vendor, driver.0, cfg!(windows)).iter();
        let all = path.into_iter().chain(usual.map(Path::new));
        let all = all.filter_map(|name| load(name, vendor));
        // One that is newer than the driver does not start.
        let mut fitting = all.filter(|library| library.number.0 <= driver.0);
        let Some(library) = fitting.next() else {
            return Err(match vendor {
                Vendor::Cuda => "no cuBLASLt was found that is not newer than the driver",
                Vendor::Hip => "no hipBLASLt was found",
            }
            .into());
        };
        if vendor == Vendor::Cuda && library.number < LEAST {
            return Err(format!("{} is older than 12.9", library.version));
        }
        let library: &'static BlasLt = Box::leak(Box::new(library));
        loaded.insert(asked, library);
        Ok(library)
    }

    fn done(&self, status: Status, what: &str) -> std::result::Result<(), String> {
        match status {
            0 => Ok(()),
            _ => Err(format!(
                "{what} with {} failed, code {status}",
                self.version
            )),
        }
    }
}

/// The library called `name`. It stays: its code may have started threads.
fn load(name: &Path, vendor: Vendor) -> Option<BlasLt> {
    // SAFETY: a library of the vendor's may be loaded at any time. A path is trusted as its
    // giver is.
    let library = ManuallyDrop::new(unsafe { Library::new(name) }.ok()?);
    let calls = LtCalls::load(&library, vendor).ok()?;
    if vendor == Vendor::Hip {
        return Some(BlasLt {
            calls,
            vendor,
            version: "hipBLASLt".into(),
            number: (0, 0),
            told: Some(HipLtVersion::load(&library, vendor).ok()?),
        });
    }
    let known = CudaLtVersion::load(&library, vendor).ok()?;
    let mut version = [0; 3];
    for (part, value) in (0..).zip(&mut version) {
        // SAFETY: `value` lives.
        if unsafe { (known.property)(part, value) } != 0 {
            return None;
        }
    }
    let [major, minor, patch] = version;
    Some(BlasLt {
        calls,
        vendor,
        version: format!("cuBLASLt {major}.{minor}.{patch}"),
        number: (major, minor),
        told: None,
    })
}

/// Something of the library's, which goes with this value.
pub struct Made {
    handle: Handle,
    destroy: unsafe extern "C" fn(Handle) -> Status,
}

// SAFETY: the library takes calls with one handle from many threads.
unsafe impl Send for Made {}
// SAFETY: as above.
unsafe impl Sync for Made {}

impl Drop for Made {
    fn drop(&mut self) {
        // SAFETY: made by the call that belongs to this one, and never used again.
        unsafe { (self.destroy)(self.handle) };
    }
}

impl BlasLt {
    fn make(
        &self,
        destroy: unsafe extern "C" fn(Handle) -> Status,
        make: impl FnOnce(*mut Handle) -> Status,
    ) -> std::result::Result<Made, String> {
        let mut handle = null_mut();
        self.done(make(&mut handle), "describing a product")?;
        Ok(Made { handle, destroy })
    }

    /// A handle of the library's, for the device that this thread's calls go to.
    pub fn start(&self) -> std::result::Result<Made, String> {
        // SAFETY: the place lives.
        self.make(self.calls.destroy, |to| unsafe { (self.calls.create)(to) })
    }

    /// What answers measured of it hang on.
    pub fn about(&self, handle: &Made) -> String {
        let mut number = 0;
        if let Some(told) = &self.told {
            // SAFETY: the place lives, and the handle is the library's. What stays 0 is a name, too.
            unsafe { (told.version)(handle.handle, &mut number) };
        }
        format!("{} {number}", self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::libraries;
    use crate::driver::Vendor;

    #[test]
    fn names_are_those_of_the_platform() {
        for vendor in [Vendor::Cuda, Vendor::Hip] {
            let named = |on_windows, ending: &str| {
                let mut names = libraries(vendor, 7, on_windows).iter();
                names.all(|name| name.contains(ending))
            };
            assert!(named(true, ".dll") && named(false, ".so"));
        }
    }
}
