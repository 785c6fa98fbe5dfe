//! One operation on one device, through the device contract alone: the row that selection
//! gives, each operand in a buffer of its own, a program of one step.
//!
//! Knows no operation: the caller brings the operands in the order of the sentence in
//! `OpKind`. A device that fails ends the test.

use hadal_device::{
    Access, Bind, BufferDesc, BufferId, Device, Dispatch, Inputs, Operand, Problem, Program,
    Rejection, Slot, Span, Step, select,
};

/// A NaN that no kernel makes, and no expert's number: what outputs hold before.
const POISON: u32 = 0x7FC0_BEEF;

/// An operand.
#[derive(Clone)]
pub enum Argument {
    /// Bytes as stored.
    In(Vec<u8>),
    /// So many words to be written.
    Out(usize),
}

impl Argument {
    /// Activations, scales or `f32` weights.
    pub fn floats(values: &[f32]) -> Argument {
        Argument::In(values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// The `inputs` buffer of a step of one sequence: a row for each of `positions`, all
    /// real; its cache is `pages`.
    pub fn inputs(positions: &[u32], pages: &[u32]) -> Argument {
        let bucket = positions.len() as u32;
        let layout = Inputs { bucket };
        let mut words = vec![0; layout.pages() as usize];
        for count in [Inputs::TOKENS, Inputs::LOGIT_ROWS, Inputs::BUCKET] {
            words[count as usize] = bucket;
        }
        let first = layout.positions() as usize;
        words[first..first + positions.len()].copy_from_slice(positions);
        words.extend(pages);
        Argument::In(words.into_iter().flat_map(u32::to_le_bytes).collect())
    }
}

/// What a dispatch did.
pub struct Done {
    /// The kernel row that was taken.
    pub row: &'static str,
    /// The words of each output, in order.
    pub outputs: Vec<Vec<u32>>,
}

impl Done {
    /// The words of output `index` as numbers.
    pub fn floats(&self, index: usize) -> Vec<f64> {
        let words = self.outputs[index].iter();
        words.map(|&w| f64::from(f32::from_bits(w))).collect()
    }
}

/// Does `problem` on `device`, or gives every row's reason against it.
pub fn run(
    device: &dyn Device,
    problem: &Problem,
    arguments: &[Argument],
) -> Result<Done, Vec<Rejection>> {
    let row = select(hadal_shaders::table(), device.info(), problem)?.row;
    let launch = (row.launch)(problem, device.info());
    let pipeline = device
        .pipeline(row.name, &row.body, &launch.constants)
        .unwrap_or_else(|e| panic!("{}: {e}", row.name));
    let (table, binds): (Vec<_>, Vec<_>) = (0..)
        .zip(arguments)
        .map(|(slot, argument)| place(device, Slot(slot), argument))
        .unzip();
    let program = Program {
        slots: table.len() as u16,
        steps: vec![Step::Dispatch(Dispatch {
            pipeline,
            groups: launch.groups,
            operands: binds.iter().copied().map(Operand::Range).collect(),
            params: Box::new(problem.params),
            label: row.name.to_string(),
        })],
    };
    let outputs = submit(device, &program, &table, &binds)
        .unwrap_or_else(|e| panic!("{} on {}: {e}", row.name, device.info().name));
    table.iter().for_each(|id| device.free(*id));
    Ok(Done {
        row: row.name,
        outputs,
    })
}

/// A buffer of whole words with the argument at its beginning.
fn place(device: &dyn Device, slot: Slot, argument: &Argument) -> (BufferId, Bind) {
    let (mut content, access) = match argument {
        Argument::In(bytes) => (bytes.clone(), Access::Read),
        Argument::Out(words) => (POISON.to_le_bytes().repeat(*words), Access::Write),
    };
    let bytes = content.len() as u64;
    content.resize(content.len().next_multiple_of(4).max(4), 0xFF);
    let size = content.len() as u64;
    let buffer = device
        .alloc(&BufferDesc::new("operand", size))
        .expect("memory for an operand");
    device
        .write(span(buffer, size), &content)
        .expect("the operand is written");
    let bind = Bind {
        slot,
        offset: 0,
        bytes,
        access,
    };
    (buffer, bind)
}

fn submit(
    device: &dyn Device,
    program: &Program,
    table: &[BufferId],
    binds: &[Bind],
) -> hadal_device::Result<Vec<Vec<u32>>> {
    let mut executable = device.prepare(program)?;
    device.wait(executable.submit(table)?)?;
    let written = binds.iter().zip(table);
    written
        .filter(|(bind, _)| bind.access == Access::Write)
        .map(|(bind, buffer)| {
            let mut bytes = vec![0; bind.bytes as usize];
            device.read(span(*buffer, bind.bytes), &mut bytes)?;
            let words = bytes.chunks_exact(4);
            Ok(words
                .map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]))
                .collect())
        })
        .collect()
}

fn span(buffer: BufferId, bytes: u64) -> Span {
    Span {
        buffer,
        offset: 0,
        bytes,
    }
}
