//! Weights that kernels know by tensor maps, under the mock drivers.
#![cfg(unix)]

mod mock;

use hadal_device::{
    Access, Bind, Body, BufferDesc, COUNT_ALL, Device, Dispatch, Error, Operand, Params, Program,
    Result, Slot, Span, Step,
};
use hadal_gpucpp::{GpuDevice, Vendor};

use mock::Mock;

const ROWS: u32 = 64;
const OUTPUTS: u32 = 3;
const DEPTH: u32 = 128;

/// Bytes of inputs, of rows, of a weight of BF16, and of sums.
const fn sizes(rows: u32, outputs: u32) -> [u64; 4] {
    [
        256,
        4 * (rows * DEPTH) as u64,
        2 * (outputs * DEPTH) as u64,
        4 * (rows * outputs) as u64,
    ]
}

const SIZES: [u64; 4] = sizes(ROWS, OUTPUTS);

/// Sums of rows by outputs; the weight begins at `offset` of a buffer with more room.
fn program(device: &GpuDevice, offset: u64, weight: u64) -> Result<Program> {
    program_of(device, (ROWS, OUTPUTS), offset, weight)
}

fn program_of(
    device: &GpuDevice,
    (rows, outputs): (u32, u32),
    offset: u64,
    weight: u64,
) -> Result<Program> {
    let sizes = sizes(rows, outputs);
    let body = Body::Gpu {
        file: "hopper",
        entry: "linear_wgmma_bf16",
        operands: "rrmw",
    };
    let constants = [("THREADS", 384), ("SHARED", 1024 + 3 * (4 * 16384 + 16))];
    let pipeline = device.pipeline("linear", &body, &constants)?;
    let params = Params {
        rows,
        count_word: COUNT_ALL,
        n: outputs,
        k: DEPTH,
        x_stride: DEPTH,
        y_stride: outputs,
        row_count: outputs,
        ..Params::default()
    };
    let operand = |slot: u16, offset, bytes, access| {
        let slot = Slot(slot);
        Operand::Range(Bind {
            slot,
            offset,
            bytes,
            access,
        })
    };
    let dispatch = Dispatch {
        pipeline,
        groups: [1; 3],
        operands: vec![
            operand(0, 0, sizes[0], Access::Read),
            operand(1, 0, sizes[1], Access::Read),
            operand(2, offset, weight, Access::Read),
            operand(3, 0, sizes[3], Access::Write),
        ],
        params: Box::new(params),
        label: "linear".into(),
    };
    Ok(Program {
        slots: 4,
        steps: vec![Step::Dispatch(dispatch)],
    })
}

#[test]
fn a_weight_is_mapped_where_it_is_bound() {
    let mock = Mock::new("arch=sm_90a");
    let device = mock.device(Vendor::Cuda);
    let offset = 256;
    let buffer = |bytes| device.alloc(&BufferDesc::new("a buffer", bytes));
    let table = SIZES.map(|bytes| buffer(bytes + offset).expect("memory"));
    let write = |slot: usize, offset, bytes: &[u8]| {
        let length = bytes.len() as u64;
        let to = Span {
            buffer: table[slot],
            offset,
            bytes: length,
        };
        device.write(to, bytes).expect("written");
    };
    write(1, 0, &1f32.to_le_bytes().repeat((ROWS * DEPTH) as usize));
    for output in 0..OUTPUTS {
        // One, two and four as BF16.
        let number = [0x3f80u16, 0x4000, 0x4080][output as usize];
        let line = number.to_le_bytes().repeat(DEPTH as usize);
        write(2, offset + 2 * u64::from(output * DEPTH), &line);
    }
    let made = program(&device, offset, SIZES[2]).expect("a program");
    let mut executable = device.prepare(&made).expect("prepared");
    mock.fail_calls("cuTensorMapEncodeTiled", 1, 1);
    let why = executable.submit(&table).expect_err("no map");
    assert!(why.to_string().contains("mapping a matrix"), "{why}");
    let ticket = executable.submit(&table).expect("submitted");
    device.wait(ticket).expect("done");
    let mut sums = vec![0; SIZES[3] as usize];
    let from = Span {
        buffer: table[3],
        offset: 0,
        bytes: SIZES[3],
    };
    device.read(from, &mut sums).expect("read");
    let expected: Vec<u8> = [128f32, 256.0, 512.0]
        .iter()
        .flat_map(|sum| sum.to_le_bytes())
        .collect();
    assert_eq!(sums, expected.repeat(ROWS as usize));
    drop((executable, device));
    assert_eq!((mock.live(), mock.complaints().as_str()), (0, ""));
}

#[test]
fn what_no_map_can_be_made_of_is_refused() {
    let mock = Mock::new("arch=sm_90a");
    let device = mock.device(Vendor::Cuda);
    for weight in [SIZES[2] - 16, SIZES[2] + 16] {
        let made = program(&device, 0, weight).expect("a program");
        let why = device.prepare(&made).map(|_| ()).expect_err("refused");
        let is_said = matches!(&why, Error::Invalid(why) if why.contains("lines of"));
        assert!(is_said, "{why}");
    }
}

#[test]
fn rows_of_every_band_of_tiles_are_done() {
    let mock = Mock::new("arch=sm_90a");
    let device = mock.device(Vendor::Cuda);
    // A band is 2048 rows, and two blocks of outputs are a line of it.
    let (rows, outputs) = (2200, 130);
    let sizes = sizes(rows, outputs);
    let buffer = |bytes| device.alloc(&BufferDesc::new("a buffer", bytes));
    let table = sizes.map(|bytes| buffer(bytes).expect("memory"));
    let span = |slot: usize| Span {
        buffer: table[slot],
        offset: 0,
        bytes: sizes[slot],
    };
    // Each row is of a number of its own, and so is each line of the weight.
    let row = |r: u32| (r + 1) as f32;
    let line = |o: u32| (o % 7 + 1) as f32;
    let of_rows = (0..rows).flat_map(|r| row(r).to_le_bytes().repeat(DEPTH as usize));
    let of_lines = (0..outputs).flat_map(|o| line(o).to_le_bytes()[2..].repeat(DEPTH as usize));
    let write = |slot, bytes: Vec<u8>| device.write(span(slot), &bytes).expect("written");
    write(1, of_rows.collect());
    write(2, of_lines.collect());
    let made = program_of(&device, (rows, outputs), 0, sizes[2]).expect("a program");
    let mut executable = device.prepare(&made).expect("prepared");
    let ticket = executable.submit(&table).expect("submitted");
    device.wait(ticket).expect("done");
    let mut sums = vec![0; sizes[3] as usize];
    device.read(span(3), &mut sums).expect("read");
    let expected = (0..rows).flat_map(|r| (0..outputs).map(move |o| 128.0 * row(r) * line(o)));
    for (number, (sum, expected)) in sums.chunks_exact(4).zip(expected).enumerate() {
        let sum = f32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]]);
        assert_eq!(sum, expected, "sum {number}");
    }
}
