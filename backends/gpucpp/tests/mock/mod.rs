//! The mock drivers, one test at a time.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod session;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{CString, c_char};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hadal_device::Features;
use hadal_gpucpp::{
    Arch, Code, Found, GpuBackend, GpuDevice, GpuOptions, Offer, ShaderCode, Target, Vendor,
};
use libloading::Library;
use tempfile::TempDir;

pub const VENDORS: [Vendor; 2] = [Vendor::Cuda, Vendor::Hip];

/// Both mock drivers, for one test.
pub struct Mock {
    library: Library,
    /// Names of the library: a driver is started once for each.
    names: TempDir,
    configured: Cell<u32>,
    _turn: MutexGuard<'static, ()>,
}

impl Mock {
    /// Drivers that nobody has called yet.
    pub fn new(configuration: &str) -> Mock {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: it is made to be loaded.
        let library = unsafe { Library::new(hadal_gpumock::library()) }.expect("the mock drivers");
        let mock = Mock {
            library,
            names: tempfile::tempdir().expect("a folder"),
            configured: Cell::new(0),
            _turn: turn,
        };
        mock.configure(configuration);
        mock
    }

    /// Calls a function that takes a text.
    fn call<R>(&self, name: &str, text: &str) -> R {
        let text = CString::new(text).expect("a text");
        // SAFETY: the mock's functions have this form.
        unsafe {
            let function = self
                .library
                .get::<unsafe extern "C" fn(*const c_char) -> R>(name)
                .expect("a function");
            function(text.as_ptr())
        }
    }

    /// Drivers that nobody has called yet.
    pub fn configure(&self, configuration: &str) {
        self.call::<()>("hadal_mock_configure", configuration);
        self.configured.set(self.configured.get() + 1);
        std::os::unix::fs::symlink(hadal_gpumock::library(), self.path()).expect("a link");
    }

    /// The library's name since it was last configured.
    pub fn path(&self) -> PathBuf {
        let name = format!("driver-{}.so", self.configured.get());
        self.names.path().join(name)
    }

    /// Calls since the last configuration.
    pub fn calls(&self) -> u64 {
        // SAFETY: as declared.
        unsafe {
            let function = self
                .library
                .get::<extern "C" fn() -> u64>("hadal_mock_calls")
                .expect("a function");
            function()
        }
    }

    /// What is alive in both drivers.
    pub fn live(&self) -> u64 {
        self.count("all")
    }

    /// What of a kind is alive in both drivers.
    pub fn count(&self, kind: &str) -> u64 {
        self.call("hadal_mock_live", kind)
    }

    /// The `nth` call from now on fails.
    pub fn fail_at(&self, nth: u64, code: u32) {
        // SAFETY: as declared.
        unsafe {
            let function = self
                .library
                .get::<extern "C" fn(u64, u32)>("hadal_mock_fail_at")
                .expect("a function");
            function(nth, code);
        }
    }

    /// The next `count` calls of a function fail.
    pub fn fail_calls(&self, name: &str, count: u64, code: u32) {
        (1..=count).for_each(|nth| self.fail_nth(name, nth, code));
    }

    /// The `nth` call of a function from now on fails.
    pub fn fail_nth(&self, name: &str, nth: u64, code: u32) {
        let name = CString::new(name).expect("a text");
        // SAFETY: as declared.
        unsafe {
            let function = self
                .library
                .get::<unsafe extern "C" fn(*const c_char, u64, u32)>("hadal_mock_fail_call")
                .expect("a function");
            function(name.as_ptr(), nth, code);
        }
    }

    /// Makes the second device of `vendor` the calling thread's, as a program around the library may
    /// have, and says what [`Mock::current`] tells then.
    pub fn at_second_device(&self, vendor: Vendor) -> u64 {
        // SAFETY: declared as in the vendors' headers.
        unsafe {
            match vendor {
                Vendor::Cuda => {
                    let retain = self
                        .library
                        .get::<extern "C" fn(*mut u64, i32) -> i32>("cuDevicePrimaryCtxRetain")
                        .expect("a function");
                    let set = self
                        .library
                        .get::<extern "C" fn(u64) -> i32>("cuCtxSetCurrent")
                        .expect("a function");
                    let mut context = 0;
                    assert_eq!((retain(&mut context, 1), set(context)), (0, 0));
                }
                Vendor::Hip => {
                    let set = self
                        .library
                        .get::<extern "C" fn(i32) -> i32>("hipSetDevice")
                        .expect("a function");
                    assert_eq!(set(1), 0);
                }
            }
        }
        self.current(vendor)
    }

    /// Gives it back.
    pub fn leave_second_device(&self, vendor: Vendor) {
        if vendor == Vendor::Cuda {
            // SAFETY: declared as in the vendor's header.
            unsafe {
                let set = self
                    .library
                    .get::<extern "C" fn(u64) -> i32>("cuCtxSetCurrent")
                    .expect("a function");
                let release = self
                    .library
                    .get::<extern "C" fn(i32) -> i32>("cuDevicePrimaryCtxRelease_v2")
                    .expect("a function");
                assert_eq!((set(0), release(1)), (0, 0));
            }
        }
    }

    /// The calling thread's context, or the number of its device.
    pub fn current(&self, vendor: Vendor) -> u64 {
        let mut current = 0;
        // SAFETY: declared as in the vendors' headers; HIP's number has four bytes.
        unsafe {
            let name = match vendor {
                Vendor::Cuda => "cuCtxGetCurrent",
                Vendor::Hip => "hipGetDevice",
            };
            let get = self
                .library
                .get::<extern "C" fn(*mut u64) -> i32>(name)
                .expect("a function");
            assert_eq!(get(&mut current), 0);
        }
        current
    }

    /// What the drivers had to say of their caller.
    pub fn complaints(&self) -> String {
        let mut text = vec![0u8; 1 << 16];
        // SAFETY: as declared.
        let length = unsafe {
            let function = self
                .library
                .get::<unsafe extern "C" fn(*mut c_char, usize) -> usize>("hadal_mock_complaints")
                .expect("a function");
            function(text.as_mut_ptr().cast(), text.len())
        };
        text.truncate(length.min(text.len() - 1));
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The devices of `vendor` with these options.
    pub fn backend(&self, vendor: Vendor, options: GpuOptions) -> GpuBackend {
        self.backend_of(vendor, &Unpacked, options)
    }

    /// The same with other kernels.
    pub fn backend_of(
        &self,
        vendor: Vendor,
        code: &'static dyn Code,
        options: GpuOptions,
    ) -> GpuBackend {
        let library = options.library.clone().or(Some(self.path()));
        GpuBackend::new(vendor, offer, code, GpuOptions { library, ..options })
    }

    /// The first two devices of `vendor`, open, without any options.
    pub fn devices(&self, vendor: Vendor) -> [Arc<GpuDevice>; 2] {
        let backend = self.backend(vendor, GpuOptions::default());
        [0, 1].map(|ordinal| backend.open(ordinal).expect("it opens"))
    }

    /// The first device of `vendor`, open, without any options.
    pub fn device(&self, vendor: Vendor) -> Arc<GpuDevice> {
        let backend = self.backend(vendor, GpuOptions::default());
        backend.open(0).expect("it opens")
    }
}

/// The kernels, whose images are unpacked once: it takes longer than all else in a session.
struct Unpacked;

impl Code for Unpacked {
    fn source(&self, file: &str) -> Option<String> {
        ShaderCode.source(file)
    }

    fn image(&self, arch: &str, file: &str) -> Option<Vec<u8>> {
        static IMAGES: Mutex<BTreeMap<String, Option<Vec<u8>>>> = Mutex::new(BTreeMap::new());
        let mut images = IMAGES.lock().unwrap_or_else(PoisonError::into_inner);
        let image = images.entry(format!("{arch} {file}"));
        image
            .or_insert_with(|| ShaderCode.image(arch, file))
            .clone()
    }

    fn image_archs(&self) -> Vec<&'static str> {
        ShaderCode.image_archs()
    }

    fn image_compiler(&self) -> &str {
        ShaderCode.image_compiler()
    }
}

/// As the vendors' crates have it, in short.
fn offer(found: &Found) -> Result<Offer, String> {
    let (arch, option, wave) = match &found.arch {
        Arch::Cuda { major, minor } => {
            let arch = match (major, minor) {
                (9, 0) => "sm_90a".to_string(),
                _ => format!("sm_{major}{minor}"),
            };
            (arch.clone(), format!("--gpu-architecture={arch}"), 32)
        }
        Arch::Hip(target) => {
            let arch = target.split(':').next().unwrap_or_default().to_string();
            let wave = if arch.starts_with("gfx9") { 64 } else { 32 };
            (arch, format!("--offload-arch={target}"), wave)
        }
    };
    Ok(Offer {
        target: Target {
            portable: match arch.starts_with("sm") && arch != "sm_75" {
                true => vec!["sm_80"],
                false => vec![],
            },
            options: vec![option],
            images_from: match found.arch {
                Arch::Cuda { major: 9, .. } => (12, 4),
                _ => (0, 0),
            },
            waits: matches!(found.arch, Arch::Cuda { major: 9.., .. }),
            arch,
        },
        features: match found.arch {
            Arch::Cuda { major: 9, minor: 0 } => Features::HOPPER,
            Arch::Hip(_) if wave == 64 => Features::MFMA,
            _ => Features::NONE,
        },
        wave,
        note: String::new(),
    })
}
