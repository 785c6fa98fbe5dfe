//! What a program does with a device, in short.

use std::sync::Arc;

use hadal_device::{
    Access, Bind, Body, BufferDesc, BufferId, COUNT_ALL, Device, Dispatch, Error, Operand, Params,
    Program, Result, Slot, Span, Step, Ticket,
};
use hadal_gpucpp::{GpuDevice, GpuOptions, Vendor};

use super::Mock;

pub const BYTES: u64 = 300_000;

pub fn bind(slot: u16, offset: u64, bytes: u64, access: Access) -> Bind {
    Bind {
        slot: Slot(slot),
        offset,
        bytes,
        access,
    }
}

pub fn span(buffer: BufferId, offset: u64, bytes: usize) -> Span {
    Span {
        buffer,
        offset,
        bytes: bytes as u64,
    }
}

pub fn pattern(seed: u32, bytes: u64) -> Vec<u8> {
    (0..bytes as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8)
        .collect()
}

pub fn buffer(device: &GpuDevice, bytes: u64) -> Result<BufferId> {
    device.alloc(&BufferDesc::new("a buffer", bytes))
}

pub fn read(device: &GpuDevice, buffer: BufferId, bytes: u64) -> Result<Vec<u8>> {
    let mut read = vec![0; bytes as usize];
    device.read(span(buffer, 0, read.len()), &mut read)?;
    Ok(read)
}

/// A copy, a fill, and a kernel: slot 1 gets slot 0 and a part of it is filled; then slot 2
/// gets the sum of the first numbers of both.
pub fn program(device: &GpuDevice, values: u32) -> Result<Program> {
    let add = Body::Gpu {
        file: "values",
        entry: "add",
        operands: "rrrw",
    };
    let pipeline = device.pipeline("add", &add, &[("THREADS", 256)])?;
    let params = Params {
        rows: 1,
        count_word: COUNT_ALL,
        n: values,
        ..Params::default()
    };
    let numbers = u64::from(values) * 4;
    let read = |slot| Operand::Range(bind(slot, 0, numbers, Access::Read));
    Ok(Program {
        slots: 3,
        steps: vec![
            Step::Copy {
                from: bind(0, 0, BYTES, Access::Read),
                to: bind(1, 0, BYTES, Access::Write),
            },
            Step::Fill {
                to: bind(1, BYTES - 1003, 1001, Access::Write),
                byte: 0xA5,
            },
            Step::Dispatch(Dispatch {
                pipeline,
                groups: [values.div_ceil(256), 1, 1],
                operands: vec![
                    read(0),
                    read(0),
                    read(1),
                    Operand::Range(bind(2, 0, numbers, Access::Write)),
                ],
                params: Box::new(params),
                label: "add".into(),
            }),
        ],
    })
}

/// Opens a device and does a little of everything; `Ok` only if all of it was right.
pub fn session(mock: &Mock, vendor: Vendor) -> Result<()> {
    let device = mock.backend(vendor, GpuOptions::default()).open(0)?;
    let done = work(&device);
    if let Err(Error::Lost { .. }) = done {
        // And nothing else from now on.
        assert!(matches!(buffer(&device, 4), Err(Error::Lost { .. })));
        assert!(matches!(device.wait(Ticket(0)), Err(Error::Lost { .. })));
        assert!(matches!(
            device.prepare(&Program::default()).map(|_| ()),
            Err(Error::Lost { .. })
        ));
    }
    done
}

pub fn work(device: &Arc<GpuDevice>) -> Result<()> {
    let values = 700u32;
    let tables = [
        buffer(device, BYTES)?,
        buffer(device, BYTES)?,
        buffer(device, 4096)?,
    ];
    let numbers: Vec<u8> = (0..values).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let mut first = pattern(1, BYTES);
    first[..numbers.len()].copy_from_slice(&numbers);
    device.write(span(tables[0], 0, first.len()), &first)?;
    let mut executable = device.prepare(&program(device, values)?)?;
    let ticket = executable.submit(&tables)?;
    // Comes after the program, which must not see it.
    device.write(span(tables[0], 0, 8), &[0xFF; 8])?;
    device.wait(ticket)?;
    let second = read(device, tables[1], BYTES)?;
    let mut expected = first.clone();
    expected[BYTES as usize - 1003..BYTES as usize - 2].fill(0xA5);
    assert!(second == expected, "the copy and the fill");
    let sums = read(device, tables[2], u64::from(values) * 4)?;
    for (i, sum) in sums.chunks_exact(4).enumerate() {
        let sum = f32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]]);
        assert_eq!(sum, 2.0 * i as f32);
    }
    assert_eq!(read(device, tables[0], 8)?, [0xFF; 8]);
    drop(executable);
    tables.into_iter().for_each(|table| device.free(table));
    Ok(())
}
