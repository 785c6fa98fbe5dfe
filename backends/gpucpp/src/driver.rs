//! The vendors' drivers: found, opened and asked when the program runs.
//!
//! [`Driver::open`] is the way in. `table` is the list of calls, `own` those of one driver alone,
//! `nodes` a structure of CUDA's, `status` what codes mean. Everything that is missing is a value
//! that says how to get it.

pub mod nodes;
mod own;
pub mod status;
pub mod table;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::{CStr, c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use hadal_device::{Error, Result};
use libloading::Library;

pub use self::own::{Current, Own};
use self::table::{
    Calls, CudaCalls, CudaPeers, EdgeCalls, GraphCalls, HipCalls, HipPeers, Start, Status,
};

/// Whose driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Vendor {
    /// NVIDIA: `libcuda`.
    Cuda,
    /// AMD: `libamdhip64`.
    Hip,
}

impl Vendor {
    /// The backend's name on the command line.
    pub fn backend(self) -> &'static str {
        match self {
            Vendor::Cuda => "cuda",
            Vendor::Hip => "rocm",
        }
    }

    /// What the interface is called.
    pub fn interface(self) -> &'static str {
        match self {
            Vendor::Cuda => "CUDA",
            Vendor::Hip => "HIP",
        }
    }

    /// Whether programs become graphs of the driver's.
    ///
    /// Those of HIP are left alone. Up to ROCm 7.2 replays give wrong data (ROCm/clr#279,
    /// ROCm/hip#3902, ROCm/hip#3887) and graphs in graphs are scheduled wrongly or crash
    /// (ROCm/rocm-systems#658, #5687, #5276). Those of ROCm 6.0 to 6.2 lose edges where each node
    /// of a level waits for all of the level before, and are launched node by node, with barriers
    /// between queues. So nothing would be won: launches one behind the other in a stream need
    /// no barriers, and their order is certain.
    pub fn has_graphs(self) -> bool {
        self == Vendor::Cuda
    }

    /// That the backend is not available, because `why`.
    pub fn unavailable(self, why: impl Into<String>) -> Error {
        Error::Unavailable {
            backend: self.backend(),
            why: why.into(),
        }
    }

    /// Names of the driver's library, newest first. Those of Windows were never tried there.
    fn libraries(self, on_windows: bool) -> &'static [&'static str] {
        match (self, on_windows) {
            (Vendor::Cuda, false) => &["libcuda.so.1"],
            (Vendor::Cuda, true) => &["nvcuda.dll"],
            (Vendor::Hip, false) => &[
                "libamdhip64.so.7",
                "libamdhip64.so.6",
                "libamdhip64.so",
                "/opt/rocm/lib/libamdhip64.so",
                // Too old, but it says what is there.
                "libamdhip64.so.5",
            ],
            (Vendor::Hip, true) => &["amdhip64_7.dll", "amdhip64_6.dll", "amdhip64.dll"],
        }
    }

    fn cure(self) -> &'static str {
        match self {
            Vendor::Cuda => "install NVIDIA's driver, version 525 or later",
            Vendor::Hip => "install AMD's ROCm, version 6.0 or later",
        }
    }

    /// A version number as people write it.
    fn version(self, number: c_int) -> (c_int, c_int) {
        match self {
            Vendor::Cuda => (number / 1000, number % 1000 / 10),
            Vendor::Hip => (number / 10_000_000, number / 100_000 % 100),
        }
    }

    /// The oldest one that has all that is called.
    fn least(self) -> (c_int, c_int) {
        match self {
            Vendor::Cuda => (12, 0),
            Vendor::Hip => (6, 0),
        }
    }
}

/// What is said about a device before it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The driver's number of it.
    pub ordinal: usize,
    /// The vendor's name of it.
    pub name: String,
    /// Its memory.
    pub memory_bytes: u64,
    /// The driver's version: (12, 4) of CUDA 12.4.
    pub version: (i32, i32),
    /// What code it runs.
    pub arch: Arch,
    /// Shares memory with the processor.
    pub is_integrated: bool,
}

/// What code a device runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arch {
    /// NVIDIA's compute capability.
    Cuda {
        /// Before the point.
        major: u32,
        /// After it.
        minor: u32,
    },
    /// AMD's target with its features: `gfx942:sramecc+:xnack-`.
    Hip(String),
}

/// Short ways between devices.
enum Peers {
    Cuda(CudaPeers),
    Hip(HipPeers),
}

/// What became of a device of a driver in this process.
#[derive(Default)]
pub struct Opened {
    /// How many have it open.
    pub now: u32,
    /// It was lost and did not work again yet.
    pub is_lost: bool,
}

/// A driver that answers.
pub struct Driver {
    /// Whose it is.
    pub vendor: Vendor,
    /// What both have.
    pub calls: Calls,
    /// What only this one has.
    pub own: Own,
    /// Its version: (12, 4) of CUDA 12.4.
    pub version: (c_int, c_int),
    /// The library that was asked for instead of the usual one.
    pub path: Option<PathBuf>,
    start: Start,
    /// Devices that this process opened, by number.
    pub opened: Mutex<BTreeMap<c_int, Opened>>,
    /// `None` if the driver knows no such ways.
    peers: Option<Peers>,
    /// Where there are none, programs are replayed launch by launch.
    pub graphs: Option<GraphCalls>,
    /// Where there are none, each kernel of a graph begins when those before it have ended.
    pub edges: Option<EdgeCalls>,
}

/// A library that was loaded. It stays for the process: drivers start threads, and their code
/// must not go from under these.
struct Loaded {
    name: String,
    library: &'static Library,
    driver: Option<&'static Driver>,
}

/// By vendor, and by the path that was asked for.
static LOADED: Mutex<BTreeMap<(Vendor, Option<PathBuf>), Loaded>> = Mutex::new(BTreeMap::new());

impl Driver {
    /// The driver of `vendor`, from the library at `path` or the usual one.
    pub fn open(vendor: Vendor, path: Option<&Path>) -> Result<&'static Driver> {
        if cfg!(not(target_pointer_width = "64")) {
            return Err(vendor.unavailable("it takes a 64-bit build"));
        }
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match loaded.entry((vendor, path.map(Path::to_path_buf))) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let (name, library) = load(vendor, path)?;
                place.insert(Loaded {
                    name,
                    library: Box::leak(Box::new(library)),
                    driver: None,
                })
            }
        };
        if let Some(driver) = known.driver {
            return Ok(driver);
        }
        let made = start(vendor, known.library, &known.name, path)?;
        Ok(known.driver.insert(Box::leak(Box::new(made))))
    }

    /// Whether `status` says that all is well, else that `what` failed, as a clause.
    fn ask(&self, status: Status, what: &str) -> std::result::Result<(), String> {
        match status {
            status::OK => Ok(()),
            _ => Err(format!(
                "{what} failed with {}",
                status::told(self.vendor, status)
            )),
        }
    }

    /// The devices there are; of one that does not answer, why.
    pub fn devices(&self) -> Result<Vec<std::result::Result<Found, String>>> {
        let mut count = 0;
        // SAFETY: `count` lives.
        let status = unsafe { (self.start.device_count)(&mut count) };
        if status == status::NO_DEVICE || (status == status::OK && count <= 0) {
            return Err(no_device(self.vendor));
        }
        self.ask(status, "counting devices")
            .map_err(|why| self.vendor.unavailable(why))?;
        let found = |ordinal| {
            let name = |why| format!("device {ordinal} of the driver: {why}");
            self.found(ordinal).map_err(name)
        };
        Ok((0..count).map(found).collect())
    }

    fn found(&self, ordinal: c_int) -> std::result::Result<Found, String> {
        let calls = &self.calls;
        let (mut device, mut bytes, mut name) = (0, 0, [0 as c_char; 256]);
        // SAFETY: places for the answers live, and the name's length is told.
        unsafe {
            self.ask((calls.device_get)(&mut device, ordinal), "naming a device")?;
            self.ask(
                (calls.device_memory)(&mut bytes, device),
                "asking for memory",
            )?;
            let length = name.len() as c_int - 1;
            self.ask(
                (calls.device_name)(name.as_mut_ptr(), length, device),
                "asking for a name",
            )?;
        }
        let (arch, is_integrated) = match &self.own {
            Own::Cuda(own) => self.capability(own, device)?,
            Own::Hip(own) => self.target(own, device)?,
        };
        // SAFETY: the last byte was out of the driver's reach and is zero.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) };
        Ok(Found {
            ordinal: ordinal.unsigned_abs() as usize,
            name: name.to_string_lossy().into_owned(),
            memory_bytes: bytes as u64,
            version: self.version,
            arch,
            is_integrated,
        })
    }

    fn capability(
        &self,
        own: &CudaCalls,
        device: c_int,
    ) -> std::result::Result<(Arch, bool), String> {
        const INTEGRATED: c_int = 18;
        const MAJOR: c_int = 75;
        const MINOR: c_int = 76;
        let attribute = |number| {
            let mut value = 0;
            // SAFETY: `value` lives.
            let status = unsafe { (own.device_attribute)(&mut value, number, device) };
            self.ask(status, "asking for an attribute").map(|()| value)
        };
        let number = |value: c_int| u32::try_from(value).unwrap_or(0);
        let arch = Arch::Cuda {
            major: number(attribute(MAJOR)?),
            minor: number(attribute(MINOR)?),
        };
        // For the name of its kind only.
        Ok((arch, attribute(INTEGRATED).is_ok_and(|value| value != 0)))
    }

    fn target(&self, own: &HipCalls, device: c_int) -> std::result::Result<(Arch, bool), String> {
        // `hipDeviceProp_tR0600` has 1472 bytes; versions to come may add to it.
        const INTEGRATED: usize = 396;
        const NAME: usize = 1160;
        const NAME_BYTES: usize = 256;
        let mut words = [0u64; 512];
        // SAFETY: there is room for the structure and more.
        let status = unsafe { (own.properties)(words.as_mut_ptr().cast(), device) };
        self.ask(status, "asking for properties")?;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let name = bytes[NAME..NAME + NAME_BYTES].split(|byte| *byte == 0);
        let name = name.into_iter().next().unwrap_or_default();
        let is_integrated = bytes[INTEGRATED..INTEGRATED + 4].iter().any(|b| *b != 0);
        Ok((
            Arch::Hip(String::from_utf8_lossy(name).into_owned()),
            is_integrated,
        ))
    }
}

fn no_device(vendor: Vendor) -> Error {
    vendor.unavailable(match vendor {
        Vendor::Cuda => {
            "the driver knows no device; check `nvidia-smi` and that CUDA_VISIBLE_DEVICES names one"
        }
        Vendor::Hip => {
            "the driver knows no device; check `rocminfo`, that the user may open /dev/kfd and that HIP_VISIBLE_DEVICES names one"
        }
    })
}

/// The library at `path`, or the first of the usual ones, and its name.
fn load(vendor: Vendor, path: Option<&Path>) -> Result<(String, Library)> {
    let usual = vendor.libraries(cfg!(windows));
    let names: Vec<PathBuf> = match path {
        Some(path) => vec![path.to_path_buf()],
        None => usual.iter().map(PathBuf::from).collect(),
    };
    let mut why = String::new();
    for name in &names {
        // SAFETY: a driver's library may be loaded at any time. A path is trusted as its
        // giver is.
        match unsafe { Library::new(name) } {
            Ok(library) => return Ok((name.display().to_string(), library)),
            // The first one says most: the others are older names.
            Err(error) if why.is_empty() => why = detail(&error, name),
            Err(_) => {}
        }
    }
    let first = names.first().map(|name| name.display().to_string());
    Err(vendor.unavailable(format!(
        "{} was not found ({why}): {}",
        first.unwrap_or_default(),
        vendor.cure()
    )))
}

/// What the system's loader said of `name`, which it often repeats.
fn detail(error: &libloading::Error, name: &Path) -> String {
    let source = std::error::Error::source(error);
    let said = source.map_or_else(|| error.to_string(), |source| source.to_string());
    let repeated = format!("{}: ", name.display());
    said.strip_prefix(&repeated).unwrap_or(&said).to_string()
}

/// Starts the driver in `library`, which is called `name`.
fn start(vendor: Vendor, library: &Library, name: &str, path: Option<&Path>) -> Result<Driver> {
    let lacks = |symbol: &str| {
        let why = format!("{name} lacks {symbol}: {}", vendor.cure());
        vendor.unavailable(why)
    };
    let start = Start::load(library, vendor).map_err(lacks)?;
    // SAFETY: no flags are defined.
    match unsafe { (start.init)(0) } {
        status::OK => {}
        // HIP says of a machine without devices that a device is invalid.
        status::NO_DEVICE | 101 => return Err(no_device(vendor)),
        other => {
            return Err(vendor.unavailable(format!(
                "{name} could not be started, {}; restart the machine if the driver was updated, else {}",
                status::told(vendor, other),
                vendor.cure()
            )));
        }
    }
    let mut number = 0;
    // SAFETY: `number` lives.
    let status = unsafe { (start.driver_version)(&mut number) };
    let (major, minor) = vendor.version(number);
    if status != status::OK || (major, minor) < vendor.least() {
        return Err(vendor.unavailable(format!(
            "{name} is too old ({} {major}.{minor}): {}",
            vendor.interface(),
            vendor.cure()
        )));
    }
    let own = match vendor {
        Vendor::Cuda => Own::Cuda(CudaCalls::load(library, vendor).map_err(lacks)?),
        Vendor::Hip => Own::Hip(HipCalls::load(library, vendor).map_err(lacks)?),
    };
    let peers = match vendor {
        Vendor::Cuda => CudaPeers::load(library, vendor).map(Peers::Cuda),
        Vendor::Hip => HipPeers::load(library, vendor).map(Peers::Hip),
    };
    Ok(Driver {
        vendor,
        peers: peers.ok(),
        graphs: match vendor.has_graphs() {
            true => Some(GraphCalls::load(library, vendor).map_err(lacks)?),
            false => None,
        },
        edges: match vendor.has_graphs() {
            true => EdgeCalls::load(library, vendor).ok(),
            false => None,
        },
        calls: Calls::load(library, vendor).map_err(lacks)?,
        own,
        version: (major, minor),
        path: path.map(Path::to_path_buf),
        start,
        opened: Mutex::default(),
    })
}

impl Driver {
    /// Lets device `own`, which is the current one, use the memory of device `other` without
    /// the host between them, if there is such a way.
    pub fn reach(&self, own: c_int, (other, memory): (c_int, Current)) -> Status {
        let Some(peers) = &self.peers else {
            return status::NOT_SUPPORTED;
        };
        let can = match peers {
            Peers::Cuda(peers) => peers.can_reach,
            Peers::Hip(peers) => peers.can_reach,
        };
        let mut answer = 0;
        // SAFETY: `answer` lives.
        match unsafe { can(&mut answer, own, other) } {
            status::OK if answer == 0 => return status::NOT_SUPPORTED,
            status::OK => {}
            other => return other,
        }
        match (peers, memory) {
            // SAFETY: the context is of an open device; no flags are defined.
            (Peers::Cuda(peers), Current::Context(context)) => unsafe { (peers.reach)(context, 0) },
            // SAFETY: a number that is no device is an error; no flags are defined.
            (Peers::Hip(peers), Current::Number(number)) => unsafe { (peers.reach)(number, 0) },
            _ => status::NOT_SUPPORTED,
        }
    }
}
