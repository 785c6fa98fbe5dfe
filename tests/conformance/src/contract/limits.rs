//! Limits: claimed honestly, and usable to their ends.

use hadal_device::{Access, BufferDesc, Device, Dispatch, Error, Features, Operand, Step};

use super::Verdict;
use super::tools::*;

pub fn the_device_has_what_every_kernel_assumes(device: &dyn Device) -> Verdict {
    let l = device.info().limits;
    // Other languages lay work out by the device alone.
    let shader = device.info().features.has(Features::WGSL);
    let least = |least: u64| if shader { least } else { 1 };
    for (name, has, least) in [
        ("max_operands", u64::from(l.max_operands), 8),
        ("max_workgroup", u64::from(l.max_workgroup), least(256)),
        ("max_grid", u64::from(l.max_grid), 65_535),
        ("shared_bytes", u64::from(l.shared_bytes), least(16 << 10)),
        ("max_binding_bytes", l.max_binding_bytes, 64 << 10),
        ("max_buffer_bytes", l.max_buffer_bytes, l.max_binding_bytes),
    ] {
        ensure!(has >= least, "{name} is {has}; kernels assume {least}");
    }
    let align = l.offset_align;
    ensure!(
        align.is_power_of_two() && align <= 4096,
        "offset_align is {align}"
    );
    let (least, most) = l.subgroup;
    let sizes =
        (least, most) == (0, 0) || (least.is_power_of_two() && least <= most && most <= 128);
    ensure!(sizes, "subgroups of {least} to {most}");
    Ok(())
}

pub fn a_range_may_end_a_large_buffer(device: &dyn Device) -> Verdict {
    let mut memory = Memory::of(device);
    let l = device.info().limits;
    let size = l.max_buffer_bytes.min(96 << 20) / 4096 * 4096;
    let large = memory.alloc(size)?;
    let [inputs, b, y] = memory.table([64, 256, 256])?;
    let at = (size - 256) / l.offset_align * l.offset_align;
    memory.write(large, at, &floats(&[5.0; 64]))?;
    memory.write(b, 0, &floats(&[0.5; 64]))?;
    let good = Add::values(64).dispatch(device)?;
    let mut operands = good.operands.clone();
    operands[1] = Operand::Range(bind(1, at, 256, Access::Read));
    let step = Step::Dispatch(Dispatch { operands, ..good });
    memory.run(4, vec![step], &[inputs, large, b, y])?;
    ensure!(
        memory.read(y, 0, 256)? == floats(&[5.5; 64]),
        "wrong sums from byte {at}"
    );
    Ok(())
}

pub fn the_longest_range_is_reached_to_its_end(device: &dyn Device) -> Verdict {
    let mut memory = Memory::of(device);
    let l = device.info().limits;
    // Kernels count elements in 32 bits, so lowering binds no more.
    let mut size = l.max_binding_bytes.min(l.max_buffer_bytes).min(1 << 32);
    let large = loop {
        size = size / 4096 * 4096;
        let desc = BufferDesc::new("conformance", size);
        match device.alloc(&desc) {
            Ok(buffer) => break memory.keep(buffer),
            Err(Error::OutOfMemory { .. }) if size > 1 << 20 => size /= 2,
            Err(error) => return Err(format!("{size} bytes: {error}")),
        }
    };
    let [inputs, b, y] = memory.table([64, 256, 256])?;
    memory.write(large, size - 256, &floats(&[5.0; 64]))?;
    memory.write(b, 0, &floats(&[0.5; 64]))?;
    let good = Add::values(64).dispatch(device)?;
    let (mut operands, mut params) = (good.operands.clone(), good.params.clone());
    operands[1] = Operand::Range(bind(1, 0, size, Access::Read));
    params.x_offset = ((size - 256) / 4) as u32;
    let step = Step::Dispatch(Dispatch {
        operands,
        params,
        ..good
    });
    memory.run(4, vec![step], &[inputs, large, b, y])?;
    ensure!(
        memory.read(y, 0, 256)? == floats(&[5.5; 64]),
        "wrong sums at the end of a range of {size} bytes"
    );
    Ok(())
}

pub fn the_longest_grid_axis_is_walked_to_its_end(device: &dyn Device) -> Verdict {
    // Rows lie along an axis of their own; lowering uses it up to this many.
    let rows = device.info().limits.max_grid.min(65_535);
    let bytes = 4 * u64::from(rows);
    let mut memory = Memory::of(device);
    let table = memory.table([64, bytes, bytes, bytes])?;
    let a: Vec<f32> = (0..rows).map(|i| i as f32).collect();
    memory.write(table[1], 0, &floats(&a))?;
    memory.write(table[2], 0, &floats(&vec![1.0; rows as usize]))?;
    let add = Add {
        rows,
        ..Add::values(1)
    };
    memory.run(4, vec![add.step(device)?], &table)?;
    let want: Vec<f32> = a.iter().map(|a| a + 1.0).collect();
    ensure!(
        memory.read(table[3], 0, bytes)? == floats(&want),
        "rows were left out"
    );
    Ok(())
}
