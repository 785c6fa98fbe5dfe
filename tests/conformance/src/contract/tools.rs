//! What the checks are made of: memory, ranges, programs, all failures as sentences.

use hadal_device::{
    Access, Bind, BufferDesc, BufferId, COUNT_ALL, DType, Device, Dispatch, Error, Executable,
    OpKind, Operand, Params, Problem, Program, Slot, Span, Step, select,
};

use super::Verdict;

/// Ends the check with a sentence unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $($text:tt)*) => {
        if !$holds {
            return Err(format!($($text)*));
        }
    };
}
pub(super) use ensure;

pub type Res<T> = Result<T, String>;

/// A device with memory that goes when the check ends, however it ends.
pub struct Memory<'d> {
    pub device: &'d dyn Device,
    buffers: Vec<BufferId>,
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        self.buffers.iter().for_each(|id| self.device.free(*id));
    }
}

impl<'d> Memory<'d> {
    pub fn of(device: &'d dyn Device) -> Memory<'d> {
        Memory {
            device,
            buffers: Vec::new(),
        }
    }

    pub fn alloc(&mut self, bytes: u64) -> Res<BufferId> {
        let desc = BufferDesc::new("conformance", bytes);
        let id = self
            .device
            .alloc(&desc)
            .map_err(|e| format!("{bytes} bytes: {e}"))?;
        Ok(self.keep(id))
    }

    /// Frees this buffer, too.
    pub fn keep(&mut self, id: BufferId) -> BufferId {
        self.buffers.push(id);
        id
    }

    /// Memory for each length.
    pub fn table<const N: usize>(&mut self, bytes: [u64; N]) -> Res<[BufferId; N]> {
        let mut table = [BufferId(0); N];
        for (id, bytes) in table.iter_mut().zip(bytes) {
            *id = self.alloc(bytes)?;
        }
        Ok(table)
    }

    pub fn write(&self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Verdict {
        let to = span(buffer, offset, bytes.len() as u64);
        self.device
            .write(to, bytes)
            .map_err(|e| format!("writing: {e}"))
    }

    pub fn read(&self, buffer: BufferId, offset: u64, bytes: u64) -> Res<Vec<u8>> {
        let mut data = vec![0xee; bytes as usize];
        let read = self.device.read(span(buffer, offset, bytes), &mut data);
        read.map_err(|e| format!("reading: {e}"))?;
        Ok(data)
    }

    /// Runs a program once and waits for it.
    pub fn run(&self, slots: u16, steps: Vec<Step>, table: &[BufferId]) -> Verdict {
        submit(self.device, &mut prepare(self.device, slots, steps)?, table)
    }
}

pub fn span(buffer: BufferId, offset: u64, bytes: u64) -> Span {
    Span {
        buffer,
        offset,
        bytes,
    }
}

pub fn bind(slot: u16, offset: u64, bytes: u64, access: Access) -> Bind {
    Bind {
        slot: Slot(slot),
        offset,
        bytes,
        access,
    }
}

pub fn fill(slot: u16, offset: u64, bytes: u64, byte: u8) -> Step {
    Step::Fill {
        to: bind(slot, offset, bytes, Access::Write),
        byte,
    }
}

/// `bytes` bytes from `(slot, offset)` to `(slot, offset)`.
pub fn copy(from: (u16, u64), to: (u16, u64), bytes: u64) -> Step {
    Step::Copy {
        from: bind(from.0, from.1, bytes, Access::Read),
        to: bind(to.0, to.1, bytes, Access::Write),
    }
}

pub fn prepare(device: &dyn Device, slots: u16, steps: Vec<Step>) -> Res<Box<dyn Executable>> {
    let program = Program { slots, steps };
    device
        .prepare(&program)
        .map_err(|e| format!("preparing: {e}"))
}

/// Submits and waits.
pub fn submit(
    device: &dyn Device,
    executable: &mut Box<dyn Executable>,
    table: &[BufferId],
) -> Verdict {
    let ticket = executable
        .submit(table)
        .map_err(|e| format!("submitting: {e}"))?;
    device.wait(ticket).map_err(|e| format!("waiting: {e}"))
}

/// `Ok` if the result is the error for a broken contract.
pub fn refused<T>(result: hadal_device::Result<T>, what: &str) -> Verdict {
    match result {
        Err(Error::Invalid(_)) => Ok(()),
        Err(other) => Err(format!(
            "{what}: refused as {other:?}, which is not Invalid"
        )),
        Ok(_) => Err(format!("{what}: accepted")),
    }
}

pub fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// The rows and values of an `add` over slots 0 (inputs) and `a`, `b`, `y`.
pub struct Add {
    pub rows: u32,
    pub n: u32,
    pub slots: [u16; 3],
}

impl Add {
    /// One row of `n` values over slots 1, 2 and 3.
    pub fn values(n: u32) -> Add {
        Add {
            rows: 1,
            n,
            slots: [1, 2, 3],
        }
    }

    /// The dispatch, by whichever row does it.
    pub fn dispatch(&self, device: &dyn Device) -> Res<Dispatch> {
        let params = Params {
            rows: self.rows,
            count_word: COUNT_ALL,
            count_scale: 1,
            n: self.n,
            x_stride: self.n,
            y_stride: self.n,
            b_stride: self.n,
            ..Params::default()
        };
        let problem = Problem {
            op: OpKind::Add,
            weight: DType::F32,
            params,
        };
        let choice = select(hadal_shaders::table(), device.info(), &problem)
            .map_err(|rejected| format!("no row does `add`: {rejected:?}"))?;
        let launch = (choice.row.launch)(&problem, device.info());
        let pipeline = device
            .pipeline(choice.row.name, &choice.row.body, &launch.constants)
            .map_err(|e| format!("compiling {}: {e}", choice.row.name))?;
        let bytes = 4 * u64::from(self.n) * u64::from(self.rows);
        let [a, b, y] = self.slots;
        Ok(Dispatch {
            pipeline,
            groups: launch.groups,
            operands: vec![
                Operand::Range(bind(0, 0, 64, Access::Read)),
                Operand::Range(bind(a, 0, bytes, Access::Read)),
                Operand::Range(bind(b, 0, bytes, Access::Read)),
                Operand::Range(bind(y, 0, bytes, Access::Write)),
            ],
            params: Box::new(params),
            label: "add".into(),
        })
    }

    pub fn step(&self, device: &dyn Device) -> Res<Step> {
        self.dispatch(device).map(Step::Dispatch)
    }
}
