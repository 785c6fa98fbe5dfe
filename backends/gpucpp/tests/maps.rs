//! Weights that kernels know by tensor maps, under the mock drivers.
#![cfg(unix)]

mod mock;

use hadal_device::{
    Access, Bind, Body, BufferDesc, COUNT_ALL, Device, Dispatch, Error, Operand, Params, Program,
    Result, Slot, Span, Step,
};
use hadal_gpucpp::{GpuDevice, GpuOptions, Vendor};

use mock::Mock;

const ROWS: u32 = 64;
const OUTPUTS: u32 = 3;
const DEPTH: u32 = 128;

/// Bytes of inputs, of rows, of a weight of BF16, and of sums.
const SIZES: [u64; 4] = [
    256,
    4 * (ROWS * DEPTH) as u64,
    2 * (OUTPUTS * DEPTH) as u64,
    4 * (ROWS * OUTPUTS) as u64,
];

/// Sums of rows by outputs; the weight begins at `offset` of a buffer with more room.
fn program(device: &GpuDevice, offset: u64, weight: u64) -> Result<Program> {
    let body = Body::Gpu {
        file: "hopper",
        entry: "linear_wgmma_bf16",
        operands: "rrmw",
    };
    let constants = [("THREADS", 384), ("SHARED", 1024 + 3 * (4 * 16384 + 16))];
    let pipeline = device.pipeline("linear", &body, &constants)?;
    let params = Params {
        rows: ROWS,
        count_word: COUNT_ALL,
        n: OUTPUTS,
        k: DEPTH,
        x_stride: DEPTH,
        y_stride: OUTPUTS,
        row_count: OUTPUTS,
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
            operand(0, 0, SIZES[0], Access::Read),
            operand(1, 0, SIZES[1], Access::Read),
            operand(2, offset, weight, Access::Read),
            operand(3, 0, SIZES[3], Access::Write),
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
    let backend = mock.backend(Vendor::Cuda, GpuOptions::default());
    let device = backend.open(0).expect("a device");
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
    let backend = mock.backend(Vendor::Cuda, GpuOptions::default());
    let device = backend.open(0).expect("a device");
    for weight in [SIZES[2] - 16, SIZES[2] + 16] {
        let made = program(&device, 0, weight).expect("a program");
        let why = device.prepare(&made).map(|_| ()).expect_err("refused");
        let is_said = matches!(&why, Error::Invalid(why) if why.contains("lines of"));
        assert!(is_said, "{why}");
    }
}
