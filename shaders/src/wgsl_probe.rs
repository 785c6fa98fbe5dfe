//! Finds out by trying what WGSL does not promise and the device does not tell.

use hadal_device::{
    Access, Bind, BufferDesc, COUNT_ALL, DType, Device, Dispatch, Error, Inputs, OpKind, Operand,
    Params, Problem, Program, Result, Slot, Span, Step, select,
};

/// Subnormal halves; the largest is 1023.
const CODES: u32 = 1024;

/// Whether `unpack2x16float` keeps subnormal halves on `device`, whose kernels are compiled
/// as if it did: all of them are looked up in an embedding of one row.
pub fn keeps_half_subnormals(device: &dyn Device) -> Result<bool> {
    let params = Params {
        rows: 1,
        count_word: COUNT_ALL,
        n: CODES,
        row_count: 1,
        ..Params::default()
    };
    let problem = Problem {
        op: OpKind::Embed,
        weight: DType::F16,
        params,
    };
    let choice = select(crate::table(), device.info(), &problem)
        .map_err(|_| Error::Invalid("there is no row for an embedding in f16".into()))?;
    let launch = (choice.row.launch)(&problem, device.info());
    let pipeline = device.pipeline(choice.row.name, &choice.row.body, &launch.constants)?;
    let inputs = vec![0; 4 * Inputs { bucket: 1 }.pages() as usize];
    let codes: Vec<u8> = (0..CODES as u16).flat_map(u16::to_le_bytes).collect();
    let mut values = vec![0; 4 * CODES as usize];
    let sizes = [inputs.len(), codes.len(), values.len()];
    let operand = |(slot, bytes): (u16, usize), access| {
        Operand::Range(Bind {
            slot: Slot(slot),
            offset: 0,
            bytes: bytes as u64,
            access,
        })
    };
    let program = Program {
        slots: 3,
        steps: vec![Step::Dispatch(Dispatch {
            pipeline,
            groups: launch.groups,
            operands: vec![
                operand((0, sizes[0]), Access::Read),
                operand((1, sizes[1]), Access::Read),
                operand((2, sizes[2]), Access::Write),
            ],
            params: Box::new(params),
            label: "probe".into(),
        })],
    };
    let mut buffers = Vec::new();
    for bytes in sizes {
        buffers.push(device.alloc(&BufferDesc::new("probe", bytes as u64))?);
    }
    let whole = |index: usize| Span {
        buffer: buffers[index],
        offset: 0,
        bytes: sizes[index] as u64,
    };
    device.write(whole(0), &inputs)?;
    device.write(whole(1), &codes)?;
    device.prepare(&program)?.submit(&buffers)?;
    device.read(whole(2), &mut values)?;
    buffers.iter().for_each(|buffer| device.free(*buffer));
    // Code m is m 2^-24.
    let exact = (0..CODES).flat_map(|m| (m as f32 * 2f32.powi(-24)).to_le_bytes());
    Ok(values.into_iter().eq(exact))
}
