//! One open device of a driver, and what the driver makes on it: everything goes as it came.

use std::collections::BTreeMap;
use std::ffi::{CString, c_int, c_uint};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use hadal_device::{Error, Result};

use crate::driver::status::{self, is_loss, is_refusal};
use crate::driver::table::{Calls, GraphCalls, Handle, Status};
use crate::driver::{Current, Driver, Opened, Own, Vendor};
use crate::fault::Faults;

/// An open device.
pub struct Gpu {
    /// Its driver.
    pub driver: &'static Driver,
    /// `cuda:0`
    pub name: String,
    /// The driver's number of it.
    pub ordinal: c_int,
    /// What threads must set before they call.
    pub current: Current,
    /// Whether it is lost.
    pub faults: Faults,
    /// Buffers made.
    pub made_buffers: AtomicU64,
    /// The first thing that a library for products failed at, a sentence.
    pub note: OnceLock<String>,
    /// Devices whose memory this one was to reach.
    peers: Mutex<Vec<Weak<Gpu>>>,
}

// SAFETY: the context is the driver's, which takes calls from any thread; nothing here points
// into memory of this process.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

/// While it lives, this thread's calls go to the device.
pub struct Entered<'g> {
    gpu: &'g Gpu,
    before: Option<Current>,
}

impl Entered<'_> {
    /// The driver's calls.
    pub fn calls(&self) -> &'static Calls {
        &self.gpu.driver.calls
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        // The program around this library may have set it.
        if let Some(before) = self.before
            && before != self.gpu.current
        {
            self.gpu.driver.own.set(before);
        }
    }
}

impl Gpu {
    /// Opens the driver's device `ordinal`, which is called `name`.
    pub fn open(driver: &'static Driver, ordinal: usize, name: String) -> Result<Gpu> {
        let ordinal = c_int::try_from(ordinal)
            .map_err(|_| driver.vendor.unavailable(format!("there is no {name}")))?;
        // Held meanwhile, so that nobody resets the device.
        let mut all = opened(driver);
        let opened_before = all.entry(ordinal).or_default();
        let was_lost = opened_before.is_lost;
        // Who has it open may have lost it and not given it back yet.
        let is_shared = opened_before.now > 0;
        let unavailable = |status: Status| {
            let code = status::told(driver.vendor, status);
            driver.vendor.unavailable(match was_lost || is_shared {
                true => format!(
                    "{name} was lost and does not work again, {code}: close whatever else of this \
                     process uses it, or restart the process"
                ),
                false => format!("{name} could not be opened: {code}"),
            })
        };
        let current = match &driver.own {
            Own::Cuda(own) => {
                let mut context = null_mut();
                // SAFETY: `context` lives. It is released when the device goes.
                let status = unsafe { (own.context_retain)(&mut context, ordinal) };
                if status != status::OK {
                    return Err(unavailable(status));
                }
                Current::Context(context)
            }
            Own::Hip(_) => Current::Number(ordinal),
        };
        opened_before.now += 1;
        drop(all);
        let gpu = Gpu {
            driver,
            name: name.clone(),
            ordinal,
            current,
            faults: Faults::default(),
            made_buffers: AtomicU64::new(0),
            note: OnceLock::new(),
            peers: Mutex::default(),
        };
        if was_lost || is_shared {
            let status = gpu.probe();
            if status != status::OK {
                // It is given back as one that is lost, if that is what it is.
                gpu.error(status, "using it again", 0);
                return Err(unavailable(status));
            }
            opened(driver).entry(ordinal).or_default().is_lost = false;
        }
        gpu.enter()?;
        Ok(gpu)
    }

    /// Whether the device does anything.
    fn probe(&self) -> Status {
        const BYTES: usize = 256;
        let (entered, status) = self.enter_lost();
        if status != status::OK {
            return status;
        }
        let (calls, mut address) = (entered.calls(), 0);
        // SAFETY: the place lives, and what was allocated is freed.
        unsafe {
            match (calls.mem_alloc)(&mut address, BYTES) {
                status::OK => (calls.mem_free)(address),
                status => status,
            }
        }
    }

    /// Whose it is.
    pub fn vendor(&self) -> Vendor {
        self.driver.vendor
    }

    /// `Err` if the device is lost.
    pub fn check(&self) -> Result<()> {
        self.faults.check(&self.name)
    }

    /// What `status`, met while doing `what`, is.
    pub fn error(&self, status: Status, what: &str, bytes: u64) -> Error {
        let status = (self.vendor(), status);
        self.faults.error(status, &self.name, what, bytes)
    }

    /// `Err` unless `status` says that `what` was done.
    pub fn done(&self, status: Status, what: &str) -> Result<()> {
        match status {
            status::OK => Ok(()),
            _ => Err(self.error(status, what, 0)),
        }
    }

    /// `Err` unless `status` says that `kernel` was put into a stream. Whether the device is lost
    /// where HIP refuses a launch, the next wait tells.
    pub fn launched(&self, status: Status, kernel: &str) -> Result<()> {
        match (self.vendor(), status) {
            (Vendor::Hip, status::LAUNCH_FAILED) => Err(Error::Invalid(format!(
                "launching {kernel} on {}: {}",
                self.name,
                status::name(Vendor::Hip, status)
            ))),
            _ => self.done(status, "launching"),
        }
    }

    /// Lets this thread's calls go to the device, unless it is lost.
    pub fn enter(&self) -> Result<Entered<'_>> {
        self.check()?;
        let (entered, status) = self.enter_lost();
        self.done(status, "choosing the device")?;
        Ok(entered)
    }

    /// The same for what must be undone in any case.
    pub fn enter_lost(&self) -> (Entered<'_>, Status) {
        let before = self.driver.own.current();
        let status = match before == Some(self.current) {
            true => status::OK,
            false => self.driver.own.set(self.current),
        };
        (Entered { gpu: self, before }, status)
    }

    /// Asks once for the short way to the memory of `other`, another device of this driver.
    /// Where there is none, copies go through the host; that is no error.
    pub fn reach(&self, other: &Arc<Gpu>) -> Result<()> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        // A way ends with the device that it leads to.
        peers.retain(|peer| peer.strong_count() > 0);
        if peers.iter().any(|peer| peer.as_ptr() == Arc::as_ptr(other)) {
            return Ok(());
        }
        let _entered = self.enter()?;
        let memory = (other.ordinal, other.current);
        let status = self.driver.reach(self.ordinal, memory);
        if is_loss(status) {
            return Err(self.error(status, "asking for a way to another device", 0));
        }
        peers.push(Arc::downgrade(other));
        Ok(())
    }

    /// Counts a buffer.
    pub fn count_buffer(&self) {
        self.made_buffers.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        let mut all = opened(self.driver);
        let opened = all.entry(self.ordinal).or_default();
        opened.now = opened.now.saturating_sub(1);
        opened.is_lost |= self.faults.is_broken();
        let Own::Cuda(own) = &self.driver.own else {
            return;
        };
        // SAFETY: it was retained once, and everything made in it is gone.
        unsafe {
            // Others than this crate may have retained the context, too, as the runtime in
            // cuBLASLt does, and so would keep it as it is. Nobody can use it any more.
            if opened.is_lost && opened.now == 0 {
                (own.context_reset)(self.ordinal);
            }
            (own.context_release)(self.ordinal);
        }
    }
}

/// The devices that a driver opened.
fn opened(driver: &Driver) -> MutexGuard<'_, BTreeMap<c_int, Opened>> {
    driver.opened.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The version of a code object of AMD's that is too old. The driver would take it, but kernels
/// read arguments that the driver adds at places of version 5.
fn old_code_object(vendor: Vendor, image: &[u8]) -> Option<u8> {
    // The header counts from version 2 on.
    const ABI_VERSION: usize = 8;
    let is_elf = vendor == Vendor::Hip && image.starts_with(b"\x7fELF");
    let version = is_elf.then(|| image.get(ABI_VERSION)).flatten()?;
    (*version < 3).then(|| version + 2)
}

/// How an object goes.
type Destroy = unsafe extern "C" fn(Handle) -> Status;

/// Something of the driver's on a device, which goes with this value.
pub struct Object {
    handle: Handle,
    destroy: Destroy,
    gpu: Arc<Gpu>,
}

// SAFETY: a handle of the driver's, which takes calls from any thread. Pinned memory is written
// by whoever has the value for itself.
unsafe impl Send for Object {}
// SAFETY: as above.
unsafe impl Sync for Object {}

impl Drop for Object {
    fn drop(&mut self) {
        let (_entered, _) = self.gpu.enter_lost();
        // SAFETY: made by the call that belongs to this one, and never used again. What can
        // be done about a refusal is nothing.
        unsafe { (self.destroy)(self.handle) };
    }
}

/// Why an image was not loaded.
pub enum NotLoaded {
    /// It cannot be used, as this clause says; another may do.
    Refused(String),
    /// Something else.
    Failed(Error),
}

impl Object {
    /// The driver's handle.
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// What `make` makes and `destroy` ends.
    fn new(
        gpu: &Arc<Gpu>,
        (what, bytes): (&str, u64),
        destroy: Destroy,
        make: impl FnOnce(&Calls, &mut Handle) -> Status,
    ) -> Result<Object> {
        let entered = gpu.enter()?;
        let mut handle = null_mut();
        match make(entered.calls(), &mut handle) {
            status::OK => Ok(Object {
                handle,
                destroy,
                gpu: gpu.clone(),
            }),
            status => Err(gpu.error(status, what, bytes)),
        }
    }

    /// A stream that waits for no other.
    pub fn stream(gpu: &Arc<Gpu>) -> Result<Object> {
        const NON_BLOCKING: c_uint = 1;
        let destroy = gpu.driver.calls.stream_destroy;
        // SAFETY: `handle` lives.
        Object::new(gpu, ("streams", 0), destroy, |calls, handle| unsafe {
            (calls.stream_create)(handle, NON_BLOCKING)
        })
    }

    /// An event, with a clock if it `is_timed`.
    pub fn event(gpu: &Arc<Gpu>, is_timed: bool) -> Result<Object> {
        const DISABLE_TIMING: c_uint = 2;
        let flags = if is_timed { 0 } else { DISABLE_TIMING };
        let destroy = gpu.driver.calls.event_destroy;
        // SAFETY: `handle` lives.
        Object::new(gpu, ("events", 0), destroy, |calls, handle| unsafe {
            (calls.event_create)(handle, flags)
        })
    }

    /// Memory of the host that devices copy from and to; its handle is its address.
    pub fn pinned(gpu: &Arc<Gpu>, bytes: usize) -> Result<Object> {
        const PORTABLE: c_uint = 1;
        let destroy = gpu.driver.calls.host_free;
        let what = ("staging memory", bytes as u64);
        // SAFETY: `handle` lives.
        let made = Object::new(gpu, what, destroy, |calls, handle| unsafe {
            (calls.host_alloc)(handle, bytes, PORTABLE)
        })
        .map_err(|error| match error {
            Error::OutOfMemory {
                what, wanted_bytes, ..
            } => Error::OutOfMemory {
                what,
                memory: "pinned host".into(),
                wanted_bytes,
            },
            other => other,
        })?;
        gpu.count_buffer();
        Ok(made)
    }

    /// A graph without nodes.
    pub fn graph(gpu: &Arc<Gpu>, calls: &GraphCalls) -> Result<Object> {
        let what = ("a graph", 0);
        // SAFETY: `handle` lives; no flags are defined.
        Object::new(gpu, what, calls.destroy, |_, handle| unsafe {
            (calls.create)(handle, 0)
        })
    }

    /// The graph with this handle of the driver's, which nobody else has.
    pub fn graph_of(gpu: &Arc<Gpu>, calls: &GraphCalls, handle: Handle) -> Object {
        Object {
            handle,
            destroy: calls.destroy,
            gpu: gpu.clone(),
        }
    }

    /// What of a graph can be launched. It does not need the graph any more.
    pub fn executable(gpu: &Arc<Gpu>, calls: &GraphCalls, graph: &Object) -> Result<Object> {
        let what = ("a graph", 0);
        // SAFETY: `handle` and the graph live.
        Object::new(gpu, what, calls.exec_destroy, |_, handle| unsafe {
            (calls.instantiate)(handle, graph.handle, 0)
        })
    }

    /// The module in `image`: PTX or an object file for the device.
    pub fn module(gpu: &Arc<Gpu>, image: &[u8]) -> std::result::Result<Object, NotLoaded> {
        let is_elf = image.starts_with(b"\x7fELF");
        if let Some(version) = old_code_object(gpu.vendor(), image) {
            return Err(NotLoaded::Refused(format!(
                "its code object version {version} is older than 5"
            )));
        }
        let text;
        // The driver is not told a length: an object file says its own, a text must end.
        let image = match is_elf || image.ends_with(&[0]) {
            true => image,
            false => {
                text = [image, &[0]].concat();
                &text
            }
        };
        let destroy = gpu.driver.calls.module_unload;
        let (mut code, mut log) = (status::OK, Vec::new());
        Object::new(gpu, ("loading kernels", 0), destroy, |_, handle| {
            // SAFETY: the image ends as it must: images are made by this project or by a compiler
            // of the vendor's, and kept with a checksum.
            code = unsafe { gpu.driver.own.load(handle, image.as_ptr().cast(), &mut log) };
            code
        })
        .map_err(|error| match is_refusal(code) {
            true => {
                let log = String::from_utf8_lossy(&log);
                let log = log.split('\0').next().unwrap_or_default().trim();
                let colon = if log.is_empty() { "" } else { ": " };
                let name = status::name(gpu.vendor(), code);
                NotLoaded::Refused(format!("the driver answered {name}{colon}{log}"))
            }
            false => NotLoaded::Failed(error),
        })
    }

    /// Kernel `entry` of this module. It lives as long as the module.
    pub fn function(&self, entry: &str) -> Result<Handle> {
        let entered = self.gpu.enter()?;
        let name = CString::new(entry)
            .map_err(|_| Error::Invalid(format!("{entry:?} is no name of a kernel")))?;
        let mut function = null_mut();
        let find = entered.calls().module_function;
        // SAFETY: the module is one, and the places live.
        let status = unsafe { find(&mut function, self.handle, name.as_ptr()) };
        let what = format!("finding kernel {entry}");
        self.gpu.done(status, &what).map(|()| function)
    }
}
