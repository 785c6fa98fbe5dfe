//! What a mock driver holds: devices, handles of everything made, complaints. Each call goes
//! through [`call`], which counts it and lets tests make it fail.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use crate::codes::*;
use crate::config::{Config, VARIABLE};
use crate::control::control;
use crate::cublaslt::Described;
use crate::graph::{Exec, Graph};
use crate::memory::{Memory, Place};
use crate::module::{Function, Module};
use crate::queue::{Event, Stream};
use crate::random::Random;
use crate::rtc::Program;

/// Objects of one kind by their handles.
pub(crate) struct Table<T> {
    kind: &'static str,
    pub items: BTreeMap<u64, (usize, T)>,
}

impl<T> Table<T> {
    fn new(kind: &'static str) -> Self {
        Table {
            kind,
            items: BTreeMap::new(),
        }
    }

    /// A handle for an object of a device. Handles are never used twice.
    pub fn add(&mut self, device: usize, item: T) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let handle = 0x6d00_0000_0000 + NEXT.fetch_add(1, Ordering::Relaxed) * 64;
        self.items.insert(handle, (device, item));
        handle
    }
}

/// A device as programs find it.
#[derive(Default)]
pub(crate) struct DeviceState {
    /// CUDA: the primary context while it is retained.
    pub context: Option<u64>,
    pub retained: u32,
    /// One of these is the library's own, which it never gives back.
    pub is_of_library: bool,
    /// The error that all calls give from now on.
    pub sticky: Option<u32>,
    /// Devices whose memory this one may read.
    pub peers: Vec<usize>,
}

/// A mock driver.
pub(crate) struct State {
    pub vendor: Vendor,
    pub config: Config,
    pub random: Random,
    pub initialised: bool,
    pub devices: Vec<DeviceState>,
    pub memory: Memory,
    pub contexts: Table<()>,
    pub streams: Table<Stream>,
    pub events: Table<Event>,
    pub modules: Table<Module>,
    pub functions: Table<Function>,
    pub graphs: Table<Graph>,
    pub nodes: Table<u64>,
    pub execs: Table<Exec>,
    pub programs: Table<Program>,
    pub library: Table<Described>,
    pub complaints: Vec<String>,
    /// Milliseconds of the devices' clocks.
    pub clock: f64,
    /// The running call.
    pub call: &'static str,
    generation: u64,
}

impl State {
    fn new(vendor: Vendor, text: &str) -> State {
        static GENERATION: AtomicU64 = AtomicU64::new(1);
        let config = Config::parse(vendor, text);
        let mut state = State {
            vendor,
            random: Random::new(config.seed),
            initialised: vendor == Vendor::Hip,
            devices: config
                .models
                .iter()
                .map(|_| DeviceState::default())
                .collect(),
            memory: Memory::default(),
            contexts: Table::new("context"),
            streams: Table::new("stream"),
            events: Table::new("event"),
            modules: Table::new("module"),
            functions: Table::new("function"),
            graphs: Table::new("graph"),
            nodes: Table::new("graph node"),
            execs: Table::new("graph exec"),
            programs: Table::new("program"),
            library: Table::new("object of a library"),
            complaints: Vec::new(),
            clock: 0.0,
            call: "configuration",
            generation: GENERATION.fetch_add(1, Ordering::Relaxed),
            config,
        };
        static AT_EXIT: Once = Once::new();
        if state.config.log.is_some() {
            AT_EXIT.call_once(|| {
                // SAFETY: the function is there until the process ends: the library is never
                // unloaded. Where it cannot be registered, the log lacks its last line.
                let _ = unsafe { atexit(log_the_end) };
            });
        }
        for error in std::mem::take(&mut state.config.errors) {
            state.complain(error);
        }
        state
    }

    /// Notes a mistake of the program under test.
    pub fn complain(&mut self, what: impl Into<String>) {
        let text = format!("{}: {}", self.call, what.into());
        if let Some(path) = &self.config.log {
            append(path, &text);
        }
        self.complaints.push(text);
    }

    /// Notes a mistake, and the error code that the call returns for it.
    pub fn refuse<T>(&mut self, code: u32, what: impl Into<String>) -> Result<T> {
        self.complain(what);
        Err(code)
    }

    /// The device current on this thread, if it still works.
    pub fn device(&mut self) -> Result<usize> {
        let device = self.device_or_lost()?;
        self.devices[device].sticky.map_or(Ok(device), Err)
    }

    /// The device current on this thread.
    pub fn device_or_lost(&mut self) -> Result<usize> {
        match (self.current(), self.vendor) {
            (Some(device), _) => Ok(device),
            (None, Vendor::Cuda) => {
                self.refuse(INVALID_CONTEXT, "no context is current on this thread")
            }
            (None, Vendor::Hip) if self.devices.is_empty() => Err(NO_DEVICE),
            (None, Vendor::Hip) => {
                // It would be device 0, which is right only by chance.
                self.complain("no device was set on this thread");
                self.make_current(1);
                Ok(0)
            }
        }
    }

    /// The same, and nothing where there is none.
    pub fn current(&self) -> Option<usize> {
        let (generation, current) = CURRENT[self.vendor as usize].with(Cell::get);
        if generation != self.generation || current == 0 {
            return None;
        }
        match self.vendor {
            Vendor::Cuda => self.contexts.items.get(&current).map(|context| context.0),
            Vendor::Hip => Some(current as usize - 1),
        }
    }

    /// Makes a context (CUDA) or the device of this number less one (HIP) current on this thread;
    /// 0 is none.
    pub fn make_current(&self, what: u64) {
        CURRENT[self.vendor as usize].with(|current| current.set((self.generation, what)));
    }

    /// The device of a number.
    pub fn ordinal(&mut self, number: i32) -> Result<usize> {
        match usize::try_from(number) {
            Ok(n) if n < self.devices.len() => Ok(n),
            _ => self.refuse(INVALID_DEVICE, format!("there is no device {number}")),
        }
    }

    /// Makes a device fail all calls from now on, if the code is of that kind.
    pub fn stick(&mut self, device: usize, code: u32) {
        if is_sticky(code) {
            self.devices[device].sticky.get_or_insert(code);
        }
    }

    /// After something was released: a HIP device is well again once nothing is left on it, as
    /// a CUDA device is when its context ends.
    pub fn recover(&mut self, device: usize) {
        if self.vendor == Vendor::Hip && self.objects_of(device) == 0 {
            self.devices[device].sticky = None;
        }
    }

    /// What was made on a device and is still there.
    pub fn objects_of(&self, device: usize) -> usize {
        self.memory.count_of(device)
            + of_device(&self.streams, device)
            + of_device(&self.events, device)
            + of_device(&self.modules, device)
            + of_device(&self.graphs, device)
            + of_device(&self.execs, device)
    }

    /// Forgets all that is left of a program in a CUDA context that it gives back.
    pub fn forget_objects(&mut self, device: usize) {
        let left = self.objects_of(device);
        if left > 0 {
            self.complain(format!("{left} objects are left in the context that ends"));
        }
        self.memory.forget(device);
        forget(&mut self.streams, device);
        forget(&mut self.events, device);
        forget(&mut self.modules, device);
        forget(&mut self.functions, device);
        forget(&mut self.graphs, device);
        forget(&mut self.nodes, device);
        forget(&mut self.execs, device);
    }

    /// Ends a CUDA context with everything in it.
    pub fn end_context(&mut self, device: usize) {
        self.forget_objects(device);
        forget(&mut self.contexts, device);
        self.devices[device] = DeviceState::default();
        for other in &mut self.devices {
            other.peers.retain(|peer| *peer != device);
        }
    }

    /// New memory of the current device or for it.
    pub fn allocate(&mut self, bytes: usize, pinned: bool) -> Result<u64> {
        let device = self.device()?;
        if bytes == 0 {
            return self.refuse(INVALID_VALUE, "an allocation of no bytes");
        }
        let place = match pinned {
            true => Place::Pinned(device),
            false => Place::Device(device),
        };
        if !pinned && self.memory.used(device) + bytes as u64 > self.config.memory {
            return Err(OUT_OF_MEMORY);
        }
        self.memory.allocate(bytes, place).ok_or(OUT_OF_MEMORY)
    }

    /// Frees memory once the device has done all its work, as the drivers do.
    pub fn free(&mut self, address: u64, pinned: bool) -> Result {
        let device = self.device_or_lost()?;
        if address == 0 {
            return Ok(());
        }
        let owner = self.memory.find(address).map(|block| match block.place {
            Place::Device(d) | Place::Pinned(d) => d,
        });
        // Where the device is lost, nothing of them runs any more.
        let runs = |owner: &usize| pinned || self.devices[*owner].sticky.is_none();
        if let Some(owner) = owner.filter(runs) {
            let bytes = self.memory.find(address).map_or(0, |block| block.bytes);
            if self.copies_touch(owner, address, bytes as u64) {
                self.complain(format!(
                    "{address:#x} is freed while copies of it are queued"
                ));
            }
        }
        self.drain(owner.unwrap_or(device));
        match self.memory.free(address, pinned) {
            Ok(complaints) => complaints.into_iter().for_each(|what| self.complain(what)),
            Err(why) => return self.refuse(INVALID_VALUE, why),
        }
        self.recover(device);
        self.devices[device].sticky.map_or(Ok(()), Err)
    }

    /// Contexts that more than the library retains.
    fn retained_contexts(&self) -> usize {
        let is_retained = |device: &&DeviceState| device.retained > u32::from(device.is_of_library);
        self.devices.iter().filter(is_retained).count()
    }

    /// Everything alive of the kind, by the names that `hadal_mock_live` takes.
    pub fn live(&self, kind: &str) -> u64 {
        if kind == "peers" {
            // Nothing that could leak.
            let peers = self.devices.iter().map(|device| device.peers.len());
            return peers.sum::<usize>() as u64;
        }
        if kind == "ahead" {
            let execs = self.execs.items.values();
            return execs.map(|(_, exec)| exec.edges_ahead()).sum();
        }
        let counts = [
            ("allocations", self.memory.count(false)),
            ("pinned", self.memory.count(true)),
            ("contexts", self.retained_contexts()),
            (
                "streams",
                self.streams
                    .items
                    .values()
                    .filter(|s| !s.1.destroyed)
                    .count(),
            ),
            ("events", self.events.items.len()),
            ("modules", self.modules.items.len()),
            ("graphs", self.graphs.items.len()),
            ("execs", self.execs.items.len()),
            ("programs", self.programs.items.len()),
            ("library", self.library.items.len()),
        ];
        let wanted = counts.iter().filter(|c| kind == "all" || kind == c.0);
        wanted.map(|c| c.1 as u64).sum()
    }

    /// Looks for damage everywhere.
    pub fn check_memory(&mut self) {
        for what in self.memory.check() {
            self.complain(what);
        }
    }
}

fn of_device<T>(table: &Table<T>, device: usize) -> usize {
    table.items.values().filter(|item| item.0 == device).count()
}

fn forget<T>(table: &mut Table<T>, device: usize) {
    table.items.retain(|_, item| item.0 != device);
}

/// An object of the current device by its handle, or why there is none.
pub(crate) fn check<T>(table: &Table<T>, handle: u64, device: usize) -> Result<(), String> {
    match table.items.get(&handle) {
        Some((owner, _)) if *owner == device => Ok(()),
        Some((owner, _)) => Err(format!(
            "{} {handle:#x} is of device {owner}, and {device} is current",
            table.kind
        )),
        None => Err(format!("{handle:#x} is no {}", table.kind)),
    }
}

/// Evaluates to the object of a handle, or leaves the function with a complaint.
macro_rules! object {
    ($state:ident . $table:ident [ $handle:expr ], $device:expr) => {{
        let (handle, device) = ($handle, $device);
        if let Err(why) = $crate::state::check(&$state.$table, handle, device) {
            return $state.refuse($crate::codes::INVALID_HANDLE, why);
        }
        match $state.$table.items.get_mut(&handle) {
            Some((_, item)) => item,
            None => return Err($crate::codes::INVALID_HANDLE),
        }
    }};
}
pub(crate) use object;

thread_local! {
    static CURRENT_CUDA: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
    static CURRENT_HIP: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}
type Key = std::thread::LocalKey<Cell<(u64, u64)>>;
static CURRENT: [&Key; 2] = [&CURRENT_CUDA, &CURRENT_HIP];

static DRIVERS: [Mutex<Option<State>>; 2] = [Mutex::new(None), Mutex::new(None)];

/// Works on a vendor's driver, made from the environment when first used.
pub(crate) fn with<T>(vendor: Vendor, work: impl FnOnce(&mut State) -> T) -> T {
    let mut driver = DRIVERS[vendor as usize]
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let state = driver.get_or_insert_with(|| {
        let text = std::env::var(VARIABLE).unwrap_or_default();
        let state = State::new(vendor, &text);
        control()
            .fail_calls
            .extend(state.config.fail.iter().cloned());
        state
    });
    work(state)
}

/// Begins anew, as from this text. What the driver held is gone, and its handles with it.
pub(crate) fn restart(vendor: Vendor, text: &str) {
    let state = State::new(vendor, text);
    control()
        .fail_calls
        .extend(state.config.fail.iter().cloned());
    *DRIVERS[vendor as usize]
        .lock()
        .unwrap_or_else(PoisonError::into_inner) = Some(state);
}

/// A call of a driver: counted, failing where a test wants it to, and otherwise `body`. What
/// releases something does so even where it shall fail, so that leaks remain countable.
pub(crate) fn call(
    vendor: Vendor,
    name: &'static str,
    body: impl FnOnce(&mut State) -> Result,
) -> u32 {
    let injected = with(vendor, |_| control().count(name));
    with(vendor, |state| {
        state.call = name;
        if let Some(code) = injected {
            if is_release(name) {
                let _ = body(state);
            }
            if let Some(device) = state.current() {
                state.stick(device, code);
            }
            return code;
        }
        let needs_none =
            name.starts_with("nvrtc") || matches!(name, "cuInit" | "cuDriverGetVersion");
        if !state.initialised && !needs_none {
            state.complain("called before cuInit");
            return NOT_INITIALIZED;
        }
        body(state).err().unwrap_or(0)
    })
}

fn is_release(name: &str) -> bool {
    ["Free", "Destroy", "Release", "Unload"]
        .iter()
        .any(|word| name.contains(word))
}

/// Writes what is still alive to the logs when the process ends.
extern "C" fn log_the_end() {
    for driver in &DRIVERS {
        // A driver that is in use then is left alone.
        if let Ok(driver) = driver.try_lock()
            && let Some(state) = &*driver
            && let (Some(path), alive @ 1..) = (&state.config.log, state.live("all"))
        {
            append(path, &format!("end: {alive} objects are alive"));
        }
    }
}

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> i32;
}

fn append(path: &str, text: &str) {
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path);
    // A log that cannot be written is missed by whoever reads it.
    if let Ok(mut file) = file {
        let _ = writeln!(file, "{text}");
    }
}
