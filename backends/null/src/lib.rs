//! A backend that does everything but compute: copy it to begin a new one.
//!
//! One device; memory is ids and sizes, pipelines are names, a prepared program is the
//! program itself. What a submit can check without hardware is checked. The device says
//! honestly that it runs no kernel language, so no row of the kernel table is ever chosen
//! for it, and reads are refused, because nothing was computed. `README.md` beside this file
//! gives the order of work.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hadal_device::{
    Backend, Bind, Body, BufferDesc, BufferId, Device, DeviceInfo, DeviceKind, Error, Executable,
    Features, Limits, PipelineId, Program, Result, SetupCounts, Span, Step, Ticket, check_table,
};

/// The backend. Its options would be fields here; making one never touches a driver.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullBackend;

impl Backend for NullBackend {
    fn name(&self) -> &'static str {
        "null"
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        // 1. Ask the driver; `Error::Unavailable` with cause and cure where there is none.
        Ok(vec![info()])
    }

    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>> {
        if ordinal != 0 {
            return Err(Error::Unavailable {
                backend: "null",
                why: format!("there is one null device, number 0, and not number {ordinal}"),
            });
        }
        Ok(Arc::new(NullDevice {
            info: info(),
            shared: Arc::default(),
        }))
    }
}

fn info() -> DeviceInfo {
    DeviceInfo {
        backend: "null",
        ordinal: 0,
        name: "no device".to_string(),
        driver: "none".to_string(),
        kind: DeviceKind::Software,
        // A real backend names the kernel languages it runs, and nothing it cannot do.
        features: Features::NONE,
        limits: Limits {
            max_binding_bytes: 128 << 20,
            max_buffer_bytes: 256 << 20,
            offset_align: 256,
            max_operands: 8,
            max_workgroup: 256,
            max_grid: 65535,
            shared_bytes: 16 << 10,
            subgroup: (0, 0),
            matrix: None,
        },
        memory_bytes: Some(0),
        expand_from_tokens: None,
        members: Vec::new(),
    }
}

/// State that executables need too.
#[derive(Default)]
struct Shared {
    /// Sizes of the living buffers.
    buffers: Mutex<HashMap<BufferId, u64>>,
    pipelines: Mutex<Vec<String>>,
    made_buffers: AtomicU64,
    made_programs: AtomicU64,
    submitted: AtomicU64,
}

/// A thread that died under a lock left what it guards whole: every change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn check(&self, span: Span) -> Result<()> {
        let buffers = lock(&self.buffers);
        let size = buffers
            .get(&span.buffer)
            .ok_or_else(|| Error::Invalid(format!("buffer {} does not exist", span.buffer.0)))?;
        match span.offset.checked_add(span.bytes) {
            Some(end) if end <= *size => Ok(()),
            _ => Err(Error::Invalid(format!(
                "bytes {}+{} of a buffer of {size} bytes",
                span.offset, span.bytes
            ))),
        }
    }
}

struct NullDevice {
    info: DeviceInfo,
    shared: Arc<Shared>,
}

impl Device for NullDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    // 2. Memory. On error nothing was allocated and the rest is untouched.
    fn alloc(&self, desc: &BufferDesc) -> Result<BufferId> {
        if desc.bytes == 0 {
            return Err(Error::Invalid(format!("{}: 0 bytes", desc.label)));
        }
        if desc.bytes > self.info.limits.max_buffer_bytes {
            return Err(Error::OutOfMemory {
                what: desc.label.clone(),
                memory: self.info.id(),
                wanted_bytes: desc.bytes,
            });
        }
        let id = BufferId(self.shared.made_buffers.fetch_add(1, Ordering::Relaxed) + 1);
        lock(&self.shared.buffers).insert(id, desc.bytes);
        Ok(id)
    }

    fn free(&self, buffer: BufferId) {
        lock(&self.shared.buffers).remove(&buffer);
    }

    fn write(&self, to: Span, bytes: &[u8]) -> Result<()> {
        check_length(to, bytes.len())?;
        self.shared.check(to)
    }

    fn read(&self, from: Span, bytes: &mut [u8]) -> Result<()> {
        check_length(from, bytes.len())?;
        self.shared.check(from)?;
        Err(Error::Unsupported {
            what: "reading from the null device".to_string(),
            why: "it computes nothing and stores nothing".to_string(),
        })
    }

    // 3. Pipelines: compile once, the same arguments give the same id.
    fn pipeline(
        &self,
        name: &str,
        body: &Body,
        constants: &[(&'static str, u32)],
    ) -> Result<PipelineId> {
        let key = format!("{name} {body:?} {constants:?}");
        let mut pipelines = lock(&self.shared.pipelines);
        let index = pipelines.iter().position(|known| *known == key);
        let index = index.unwrap_or_else(|| {
            pipelines.push(key);
            pipelines.len() - 1
        });
        Ok(PipelineId(index as u32))
    }

    // 4. Prepare: everything that can fail, compile or allocate.
    fn prepare(&self, program: &Program) -> Result<Box<dyn Executable>> {
        let pipelines = lock(&self.shared.pipelines).len();
        for step in &program.steps {
            if let Step::Dispatch(dispatch) = step
                && dispatch.pipeline.0 as usize >= pipelines
            {
                return Err(Error::Invalid(format!(
                    "step {}: pipeline {} does not exist",
                    dispatch.label, dispatch.pipeline.0
                )));
            }
            if let Some(bind) = step.binds().iter().find(|b| b.slot.0 >= program.slots) {
                return Err(Error::Invalid(format!(
                    "slot {} in a program of {} slots",
                    bind.slot.0, program.slots
                )));
            }
        }
        self.shared.made_programs.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(NullExecutable {
            shared: self.shared.clone(),
            slots: program.slots,
            binds: program.steps.iter().flat_map(Step::binds).collect(),
        }))
    }

    fn wait(&self, ticket: Ticket) -> Result<()> {
        if ticket <= self.completed() {
            Ok(())
        } else {
            Err(Error::Invalid(format!(
                "ticket {} was never given out",
                ticket.0
            )))
        }
    }

    fn completed(&self) -> Ticket {
        Ticket(self.shared.submitted.load(Ordering::Acquire))
    }

    fn setup_counts(&self) -> SetupCounts {
        SetupCounts {
            buffers: self.shared.made_buffers.load(Ordering::Relaxed),
            pipelines: lock(&self.shared.pipelines).len() as u64,
            bind_groups: 0,
            programs: self.shared.made_programs.load(Ordering::Relaxed),
        }
    }
}

fn check_length(span: Span, bytes: usize) -> Result<()> {
    if span.bytes == bytes as u64 {
        Ok(())
    } else {
        Err(Error::Invalid(format!(
            "a range of {} bytes and {bytes} bytes of data",
            span.bytes
        )))
    }
}

struct NullExecutable {
    shared: Arc<Shared>,
    slots: u16,
    binds: Vec<Bind>,
}

impl Executable for NullExecutable {
    // 5. Submit: look up the table's buffers, launch, return a ticket.
    fn submit(&mut self, table: &[BufferId]) -> Result<Ticket> {
        check_table(self.slots, table)?;
        for bind in &self.binds {
            self.shared.check(Span {
                buffer: table[usize::from(bind.slot.0)],
                offset: bind.offset,
                bytes: bind.bytes,
            })?;
        }
        Ok(Ticket(
            self.shared.submitted.fetch_add(1, Ordering::AcqRel) + 1,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_device::{Access, Slot};

    fn device() -> Arc<dyn Device> {
        NullBackend.open(0).unwrap()
    }

    fn fill(bytes: u64) -> Program {
        let to = Bind {
            slot: Slot(0),
            offset: 4,
            bytes,
            access: Access::Write,
        };
        Program {
            slots: 1,
            steps: vec![Step::Fill { to, byte: 0 }],
        }
    }

    #[test]
    fn a_program_whose_ranges_fit_is_accepted_and_counted() {
        let device = device();
        let id = device.alloc(&BufferDesc::new("b", 16)).unwrap();
        let mut executable = device.prepare(&fill(12)).unwrap();
        let ticket = executable.submit(&[id]).unwrap();
        device.wait(ticket).unwrap();
        assert_eq!(device.setup_counts().programs, 1);
        assert!(device.wait(Ticket(2)).is_err());
    }

    #[test]
    fn ranges_that_do_not_fit_are_refused() {
        let device = device();
        let id = device.alloc(&BufferDesc::new("b", 16)).unwrap();
        assert!(device.prepare(&fill(13)).unwrap().submit(&[id]).is_err());
        device.free(id);
        assert!(device.prepare(&fill(12)).unwrap().submit(&[id]).is_err());
        assert!(device.alloc(&BufferDesc::new("large", 1 << 40)).is_err());
        let mut program = fill(4);
        program.slots = 0;
        assert!(device.prepare(&program).is_err());
    }

    #[test]
    fn it_claims_no_kernels() {
        let device = device();
        assert_eq!(device.info().features, Features::NONE);
        let id = device.alloc(&BufferDesc::new("b", 16)).unwrap();
        let span = Span {
            buffer: id,
            offset: 0,
            bytes: 4,
        };
        device.write(span, &[0; 4]).unwrap();
        let read = device.read(span, &mut [0; 4]);
        assert!(matches!(read, Err(Error::Unsupported { .. })));
    }
}
