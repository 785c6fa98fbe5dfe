//! A copy of the null backend that fills itself in with host rows: it keeps its own list of
//! buffers, pipelines and programs, as a new backend would, and lets the host compute.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hadal_device::{
    Backend, Body, BufferDesc, BufferId, Device, DeviceInfo, Error, Executable, PipelineId,
    Program, Result, SetupCounts, Span, Ticket, check_table,
};
use hadal_host::HostBackend;

/// The backend. Its options would be fields here.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExampleBackend;

const NAME: &str = "example";

impl Backend for ExampleBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let devices = HostBackend::new().devices()?;
        Ok(devices.into_iter().map(describe).collect())
    }

    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>> {
        let driver = HostBackend::new().open(ordinal)?;
        Ok(Arc::new(ExampleDevice {
            info: describe(driver.info().clone()),
            shared: Arc::new(Shared {
                driver,
                buffers: Mutex::default(),
                next: AtomicU64::new(0),
            }),
        }))
    }
}

/// What the host can do, under this backend's name.
fn describe(host: DeviceInfo) -> DeviceInfo {
    DeviceInfo {
        backend: NAME,
        name: "example device".to_string(),
        ..host
    }
}

/// What the device and its executables share.
struct Shared {
    /// Does the work: a real backend calls its driver here.
    driver: Arc<dyn Device>,
    /// The driver's buffer for each of ours.
    buffers: Mutex<HashMap<BufferId, BufferId>>,
    next: AtomicU64,
}

impl Shared {
    /// A thread that died under the lock left the list whole: every change is one call.
    fn buffers(&self) -> MutexGuard<'_, HashMap<BufferId, BufferId>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn buffer(&self, id: BufferId) -> Result<BufferId> {
        let found = self.buffers().get(&id).copied();
        found.ok_or_else(|| Error::Invalid(format!("buffer {} does not exist", id.0)))
    }

    fn span(&self, span: Span) -> Result<Span> {
        Ok(Span {
            buffer: self.buffer(span.buffer)?,
            ..span
        })
    }
}

struct ExampleDevice {
    info: DeviceInfo,
    shared: Arc<Shared>,
}

impl Device for ExampleDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, desc: &BufferDesc) -> Result<BufferId> {
        let theirs = self.shared.driver.alloc(desc).map_err(|error| self.own(error))?;
        let ours = BufferId(self.shared.next.fetch_add(1, Ordering::Relaxed) + 1000);
        self.shared.buffers().insert(ours, theirs);
        Ok(ours)
    }

    fn free(&self, buffer: BufferId) {
        if let Some(theirs) = self.shared.buffers().remove(&buffer) {
            self.shared.driver.free(theirs);
        }
    }

    fn write(&self, to: Span, bytes: &[u8]) -> Result<()> {
        self.shared.driver.write(self.shared.span(to)?, bytes)
    }

    fn read(&self, from: Span, bytes: &mut [u8]) -> Result<()> {
        self.shared.driver.read(self.shared.span(from)?, bytes)
    }

    fn pipeline(
        &self,
        name: &str,
        body: &Body,
        constants: &[(&'static str, u32)],
    ) -> Result<PipelineId> {
        self.shared.driver.pipeline(name, body, constants)
    }

    fn prepare(&self, program: &Program) -> Result<Box<dyn Executable>> {
        Ok(Box::new(ExampleExecutable {
            shared: self.shared.clone(),
            slots: program.slots,
            prepared: self.shared.driver.prepare(program)?,
        }))
    }

    fn wait(&self, ticket: Ticket) -> Result<()> {
        self.shared.driver.wait(ticket)
    }

    fn completed(&self) -> Ticket {
        self.shared.driver.completed()
    }

    fn setup_counts(&self) -> SetupCounts {
        self.shared.driver.setup_counts()
    }
}

impl ExampleDevice {
    /// The driver's error with this device's name in it.
    fn own(&self, error: Error) -> Error {
        match error {
            Error::OutOfMemory {
                what, wanted_bytes, ..
            } => Error::OutOfMemory {
                what,
                memory: self.info.id(),
                wanted_bytes,
            },
            other => other,
        }
    }
}

struct ExampleExecutable {
    shared: Arc<Shared>,
    slots: u16,
    prepared: Box<dyn Executable>,
}

impl Executable for ExampleExecutable {
    fn submit(&mut self, table: &[BufferId]) -> Result<Ticket> {
        check_table(self.slots, table)?;
        let theirs = table.iter().map(|id| self.shared.buffer(*id));
        self.prepared.submit(&theirs.collect::<Result<Vec<_>>>()?)
    }
}
