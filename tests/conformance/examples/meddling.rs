//! A backend with one mistake, for testing what the suite guards: the host, meddled with in
//! programs that do `add`, as the environment variable `HADAL_MEDDLE` says.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hadal_conformance::{Lacking, Suite, pass_on};
use hadal_device::{
    Access, Backend, Bind, BufferId, Device, DeviceInfo, Executable, Features, Program, Result,
    Span, Step, Ticket,
};
use hadal_host::HostBackend;

fn mistake() -> String {
    std::env::var("HADAL_MEDDLE").unwrap_or_default()
}

struct Meddling(HostBackend);

impl Backend for Meddling {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        self.0.devices()
    }

    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>> {
        // One instruction set is enough.
        let others = Features::AVX2.with(Features::AVX512).with(Features::NEON);
        let host = Lacking::new(self.0.open(ordinal)?, others);
        Ok(Arc::new(MeddlingDevice(Arc::new(host))))
    }

    fn complaints(&self) -> Vec<String> {
        match mistake().as_str() {
            "complains" => vec!["a buffer was left behind".to_string()],
            _ => Vec::new(),
        }
    }
}

struct MeddlingDevice(Arc<dyn Device>);

impl Drop for MeddlingDevice {
    fn drop(&mut self) {
        // The suite's own copy of the device opens no program.
        if mistake() == "dies_at_the_end" && std::env::args().any(|a| a == "--child") {
            std::process::abort();
        }
    }
}

impl Device for MeddlingDevice {
    pass_on!(0: info alloc free write read pipeline wait completed setup_counts);

    fn prepare(&self, program: &Program) -> Result<Box<dyn Executable>> {
        let prepared = self.0.prepare(program)?;
        let dispatches = program.steps.iter().filter_map(|step| match step {
            Step::Dispatch(dispatch) if dispatch.label.contains("add") => Some(dispatch),
            _ => None,
        });
        let operands = dispatches.flat_map(|dispatch| &dispatch.operands);
        let binds: Vec<Bind> = operands.flat_map(|o| o.binds().to_vec()).collect();
        if binds.is_empty() {
            return Ok(prepared);
        }
        Ok(Box::new(MeddlingExecutable {
            device: self.0.clone(),
            prepared,
            binds,
            submits: 0,
        }))
    }
}

struct MeddlingExecutable {
    device: Arc<dyn Device>,
    prepared: Box<dyn Executable>,
    binds: Vec<Bind>,
    submits: u32,
}

impl MeddlingExecutable {
    /// Changes the word at `offset` of the first operand with this access.
    fn change(
        &self,
        table: &[BufferId],
        access: Access,
        offset: impl Fn(&Bind) -> u64,
        by: impl Fn(u32) -> u32,
    ) -> Result<()> {
        let Some(bind) = self.binds.iter().rfind(|bind| bind.access == access) else {
            return Ok(());
        };
        let span = Span {
            buffer: table[usize::from(bind.slot.0)],
            offset: offset(bind),
            bytes: 4,
        };
        let mut word = [0; 4];
        self.device.read(span, &mut word)?;
        let changed = by(u32::from_le_bytes(word)).to_le_bytes();
        self.device.write(span, &changed)
    }
}

impl Executable for MeddlingExecutable {
    fn submit(&mut self, table: &[BufferId]) -> Result<Ticket> {
        let ticket = self.prepared.submit(table)?;
        self.submits += 1;
        let flip = |word: u32| word ^ 1;
        match mistake().as_str() {
            "past_the_end" => {
                self.change(table, Access::Write, |b| b.offset + b.bytes, flip)?;
            }
            "before_the_beginning" => {
                self.change(table, Access::Write, |b| b.offset - 4, flip)?;
            }
            "operand_changed" => self.change(table, Access::Read, |b| b.offset, flip)?,
            "a_little_off" => {
                // Some roundings more than one.
                let off = |word: u32| (f32::from_bits(word) * (1.0 + 1e-6)).to_bits();
                let bytes = self.binds.iter().map(|bind| bind.bytes).min();
                for at in (0..bytes.unwrap_or(0)).step_by(4) {
                    self.change(table, Access::Write, |b| b.offset + at, off)?;
                }
            }
            "another_time_different" if self.submits > 1 => {
                self.change(table, Access::Write, |b| b.offset + b.bytes - 4, flip)?;
            }
            "slow" => std::thread::sleep(Duration::from_millis(900)),
            "dies" => std::process::abort(),
            "hangs" => std::thread::sleep(Duration::from_secs(3600)),
            _ => {}
        }
        Ok(ticket)
    }
}

fn main() -> ExitCode {
    let backend = Meddling(HostBackend::new().with_threads(1));
    hadal_conformance::main(Suite::new(Box::new(backend)))
}
