//! The compilers that come with the drivers: NVRTC and hipRTC.
//!
//! They need no device. Nothing is lost without them where images made ahead serve.

use std::ffi::{CStr, CString, c_char, c_int};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};
use std::sync::{Mutex, PoisonError};

use hadal_device::Features;
use libloading::Library;

use crate::driver::Vendor;
use crate::driver::table::{Handle, RtcCalls, Status};

/// The oldest NVRTC that compiles all kernels.
const FP8_NVRTC: (c_int, c_int) = (12, 4);

/// Bytes of a log that are shown.
const LOG: usize = 4000;

/// A compiler.
pub struct Rtc {
    calls: RtcCalls,
    /// For people and for names of what it made: `NVRTC 12.9`.
    pub version: String,
    vendor: Vendor,
    number: (c_int, c_int),
}

struct Loaded {
    vendor: Vendor,
    path: Option<PathBuf>,
    driver: (c_int, c_int),
    rtc: &'static Rtc,
}

static LOADED: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());

/// Where the compiler of `vendor` may be, best first. The names of Windows are those that other
/// programs load; none of them was tried there.
fn libraries(vendor: Vendor, on_windows: bool, driver: (c_int, c_int)) -> Vec<String> {
    let known: &[&str] = match (vendor, on_windows) {
        (Vendor::Cuda, false) => &[
            "libnvrtc.so.13",
            "libnvrtc.so.12",
            "libnvrtc.so",
            "/usr/local/cuda/lib64/libnvrtc.so",
        ],
        (Vendor::Cuda, true) => &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"],
        (Vendor::Hip, false) => &[
            "libhiprtc.so.7",
            "libhiprtc.so.6",
            "libhiprtc.so",
            "/opt/rocm/lib/libhiprtc.so",
            // Part of the driver in some versions.
            "libamdhip64.so.7",
            "libamdhip64.so.6",
            "libamdhip64.so",
            "/opt/rocm/lib/libamdhip64.so",
        ],
        (Vendor::Hip, true) => &[
            "hiprtc0702.dll",
            "hiprtc0701.dll",
            "hiprtc0700.dll",
            "hiprtc0604.dll",
            "hiprtc0603.dll",
            "hiprtc0602.dll",
            "hiprtc0601.dll",
            "hiprtc0600.dll",
            "amdhip64_7.dll",
            "amdhip64_6.dll",
        ],
    };
    // Each version of HIP has a name of its own there.
    let own = (vendor == Vendor::Hip && on_windows)
        .then(|| format!("hiprtc{:02}{:02}.dll", driver.0, driver.1));
    let names = own
        .into_iter()
        .chain(known.iter().map(|name| name.to_string()));
    let mut names: Vec<String> = names.collect();
    // What another major version makes the driver may not know.
    let same = format!(".so.{}", driver.0);
    names.sort_by_key(|name| vendor == Vendor::Hip && !on_windows && !name.ends_with(&same));
    names
}

impl Rtc {
    /// The compiler of `vendor`: in the library at `path`, which replaces the driver's, if it
    /// has one, else in the usual places. The error says why there is none.
    ///
    /// What NVRTC makes runs on drivers of its own major version and later, so one that is newer
    /// than `driver` is passed over.
    pub fn open(
        vendor: Vendor,
        path: Option<&Path>,
        driver: (c_int, c_int),
    ) -> Result<&'static Rtc, String> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |known: &&Loaded| {
            known.vendor == vendor && known.path.as_deref() == path && known.driver == driver
        };
        if let Some(known) = loaded.iter().find(is_it) {
            return Ok(known.rtc);
        }
        let usual = libraries(vendor, cfg!(windows), driver);
        let found = path
            .into_iter()
            .chain(usual.iter().map(Path::new))
            .filter_map(|name| load(vendor, name))
            .find(|rtc| vendor == Vendor::Hip || rtc.number.0 <= driver.0);
        let Some(rtc) = found else {
            return Err(match vendor {
                Vendor::Cuda => {
                    "no NVRTC was found that is not newer than the driver: install the CUDA \
                     toolkit's libnvrtc of the driver's version"
                }
                Vendor::Hip => "hipRTC was not found: install ROCm's libhiprtc",
            }
            .into());
        };
        let rtc: &'static Rtc = Box::leak(Box::new(rtc));
        loaded.push(Loaded {
            vendor,
            path: path.map(Path::to_path_buf),
            driver,
            rtc,
        });
        Ok(rtc)
    }

    /// Features whose kernels it cannot compile: older ones know neither products of E4M3 nor the
    /// instructions of Hopper's.
    pub fn lacks(&self) -> Features {
        match self.vendor == Vendor::Cuda && self.number < FP8_NVRTC {
            true => Features::HOPPER.with(Features::FP8_MMA),
            false => Features::NONE,
        }
    }

    /// Compiles `source`, which messages call `file`, to a module for the device. The error
    /// has the beginning of the compiler's log.
    pub fn compile(&self, file: &str, source: &str, options: &[String]) -> Result<Vec<u8>, String> {
        let text = |text: &str| CString::new(text).map_err(|_| format!("{file} has a zero in it"));
        let (source, name) = (text(source)?, text(&format!("{file}.cu"))?);
        let options: Vec<CString> = options
            .iter()
            .map(|option| text(option))
            .collect::<Result<_, _>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).map_err(|error| error.to_string())?;
        let mut program = Program {
            rtc: self,
            handle: null_mut(),
        };
        let calls = &self.calls;
        // SAFETY: all texts live and end with a zero; no headers are given.
        let status = unsafe {
            let (source, name) = (source.as_ptr(), name.as_ptr());
            (calls.create)(&mut program.handle, source, name, 0, null(), null())
        };
        self.done(status, "taking the source")?;
        // SAFETY: the program was made, and `pointers` are to `count` texts.
        let status = unsafe { (calls.compile)(program.handle, count, pointers.as_ptr()) };
        self.done(status, "compiling")
            .map_err(|error| format!("{error}: {}", program.log()))?;
        program.module()
    }

    fn done(&self, status: Status, what: &str) -> Result<(), String> {
        match status {
            0 => Ok(()),
            _ => Err(format!(
                "{what} with {} failed, code {status}",
                self.version
            )),
        }
    }
}

/// The compiler in library `name`. The library stays: its code may have started threads.
fn load(vendor: Vendor, name: &Path) -> Option<Rtc> {
    // SAFETY: a compiler of the vendor's may be loaded at any time. A path is trusted as its
    // giver is.
    let library = ManuallyDrop::new(unsafe { Library::new(name) }.ok()?);
    let calls = RtcCalls::load(&library, vendor).ok()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the places live.
    let status = unsafe { (calls.version)(&mut major, &mut minor) };
    let title = match vendor {
        Vendor::Cuda => "NVRTC",
        Vendor::Hip => "hipRTC",
    };
    if vendor == Vendor::Cuda {
        load_builtins(name, (major, minor));
    }
    (status == 0).then(|| Rtc {
        calls,
        version: format!("{title} {major}.{minor}"),
        vendor,
        number: (major, minor),
    })
}

/// NVRTC loads a second library by its name alone, when it first compiles. That does not find the
/// one beside it in a folder that the loader does not know, such as a Python package's, unless it
/// is there already.
fn load_builtins(name: &Path, (major, minor): (c_int, c_int)) {
    let folder = name
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let Some(folder) = folder.filter(|_| !cfg!(windows)) else {
        return;
    };
    let path = folder.join(format!("libnvrtc-builtins.so.{major}.{minor}"));
    // SAFETY: as for the compiler itself, which may use it for as long as the process lives. Where
    // there is none, the compiler says what it misses.
    let _stays = unsafe { Library::new(path) }.map(ManuallyDrop::new);
}

/// A program of the compiler's.
struct Program<'r> {
    rtc: &'r Rtc,
    handle: Handle,
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: it was made once and is not used again.
            unsafe { (self.rtc.calls.destroy)(&mut self.handle) };
        }
    }
}

impl Program<'_> {
    /// What the compiler said, as much of it as people read.
    fn log(&self) -> String {
        let calls = &self.rtc.calls;
        let mut length = 0;
        // SAFETY: the program was made, and `length` lives.
        if unsafe { (calls.log_size)(self.handle, &mut length) } != 0 {
            return String::new();
        }
        // One more, so that it ends whatever the compiler writes.
        let mut log = vec![0u8; length + 1];
        // SAFETY: as above; there is room for `length` bytes.
        if unsafe { (calls.log)(self.handle, log.as_mut_ptr().cast()) } != 0 {
            return String::new();
        }
        let text = CStr::from_bytes_until_nul(&log).unwrap_or_default();
        let text = text.to_string_lossy();
        match text.char_indices().nth(LOG) {
            Some((end, _)) => format!("{} ...", &text[..end]),
            None => text.trim().to_string(),
        }
    }

    fn module(&self) -> Result<Vec<u8>, String> {
        let calls = &self.rtc.calls;
        let mut length = 0;
        // SAFETY: the program was compiled, and `length` lives.
        let status = unsafe { (calls.code_size)(self.handle, &mut length) };
        self.rtc.done(status, "asking for the module's size")?;
        if length == 0 {
            return Err(format!("{} made an empty module", self.rtc.version));
        }
        let mut module = vec![0u8; length];
        // SAFETY: as above; there is room for `length` bytes.
        let status = unsafe { (calls.code)(self.handle, module.as_mut_ptr().cast()) };
        self.rtc.done(status, "taking the module")?;
        Ok(module)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{Rtc, libraries};
    use crate::Vendor;

    #[test]
    fn names_are_those_of_the_platform_and_the_driver_s_own_comes_first() {
        for vendor in [Vendor::Cuda, Vendor::Hip] {
            for on_windows in [false, true] {
                let names = libraries(vendor, on_windows, (6, 2));
                let fits = |name: &&String| match on_windows {
                    true => name.ends_with(".dll") && !name.contains(['/', '\\']),
                    false => name.contains(".so"),
                };
                assert!(!names.is_empty());
                assert_eq!(names.iter().find(|name| !fits(name)), None);
            }
        }
        let windows = |driver| libraries(Vendor::Hip, true, driver).swap_remove(0);
        assert_eq!(windows((6, 2)), "hiprtc0602.dll");
        assert_eq!(windows((7, 15)), "hiprtc0715.dll");
        let linux = |driver| libraries(Vendor::Hip, false, driver);
        assert_eq!(linux((6, 2))[..2], ["libhiprtc.so.6", "libamdhip64.so.6"]);
        assert_eq!(linux((7, 0))[..2], ["libhiprtc.so.7", "libamdhip64.so.7"]);
    }

    #[test]
    fn nvrtc_compiles_every_file_of_kernels() {
        let own = std::env::var_os("HADAL_NVRTC").map(PathBuf::from);
        let rtc = match Rtc::open(Vendor::Cuda, own.as_deref(), (i32::MAX, 0)) {
            Ok(rtc) => rtc,
            Err(why) => {
                eprintln!(
                    "NOT RUN: nvrtc_compiles_every_file_of_kernels, {why}, or name it in HADAL_NVRTC"
                );
                return;
            }
        };
        for (name, _) in hadal_shaders::gpu::KERNELS {
            let file = name.trim_end_matches(".cu");
            // For the oldest architecture, which has no images, unless the file has nothing for it.
            let on_units = ["attend_units", "matrix", "matrix8"];
            let arch = if file.starts_with("hopper") || on_units.contains(&file) {
                "sm_90a"
            } else {
                "sm_75"
            };
            let options = [
                format!("--gpu-architecture={arch}"),
                "--std=c++17".to_string(),
            ];
            let source = hadal_shaders::gpu::source(file).expect("a source");
            let module = rtc.compile(file, &source, &options).expect(arch);
            assert!(module.starts_with(b"\x7fELF"), "{file} for {arch}");
        }
        let log = rtc
            .compile("broken", "int x = ;", &[])
            .expect_err("no source");
        assert!(log.contains("broken.cu(1)"), "{log}");
    }
}
