//! Programs: steps behave as if run one after the other, broken ones are refused.

use hadal_device::{Access, Body, Device, Dispatch, Error, Features, Operand, Program, Step};

use super::Verdict;
use super::tools::*;

pub fn an_empty_program_does_nothing(device: &dyn Device) -> Verdict {
    let mut memory = Memory::of(device);
    memory.run(0, Vec::new(), &[])?;
    let buffer = memory.alloc(16)?;
    memory.write(buffer, 0, &[9; 16])?;
    memory.run(1, Vec::new(), &[buffer])?;
    ensure!(memory.read(buffer, 0, 16)? == [9; 16], "its buffer changed");
    Ok(())
}

pub fn copies_and_fills_keep_to_their_ranges_and_their_order(device: &dyn Device) -> Verdict {
    let mut memory = Memory::of(device);
    let large = 3u64 << 20;
    let all = 2 * large + 64;
    let buffer = memory.alloc(all)?;
    let steps = vec![
        fill(0, 0, all, 0x11),
        fill(0, 16, large, 0xab),
        fill(0, 32, 16, 0),
        // Within one buffer, longer than any staging.
        copy((0, 16), (0, 32 + large), large),
    ];
    memory.run(1, steps, &[buffer])?;
    let mut want = vec![0x11u8; all as usize];
    want[16..16 + large as usize].fill(0xab);
    want[32..48].fill(0);
    want.copy_within(16..16 + large as usize, 32 + large as usize);
    let found = memory.read(buffer, 0, all)?;
    let wrong = found.iter().zip(&want).position(|(a, b)| a != b);
    ensure!(wrong.is_none(), "byte {} is wrong", wrong.unwrap_or(0));
    Ok(())
}

/// Enough values that a step takes a while.
const MANY: u32 = 1 << 16;

pub fn a_step_sees_what_the_step_before_wrote(device: &dyn Device) -> Verdict {
    // y = a + b, then y = y + b thirty times: a barrier missing anywhere loses an addition.
    let mut memory = Memory::of(device);
    let bytes = 4 * u64::from(MANY);
    let table = memory.table([64, bytes, bytes, bytes])?;
    memory.write(table[1], 0, &floats(&vec![1.0; MANY as usize]))?;
    let b: Vec<f32> = (0..MANY).map(|i| (i % 7) as f32).collect();
    memory.write(table[2], 0, &floats(&b))?;
    let mut steps = vec![Add::values(MANY).step(device)?];
    let again = Add {
        slots: [3, 2, 3],
        ..Add::values(MANY)
    };
    for _ in 0..30 {
        steps.push(again.step(device)?);
    }
    memory.run(4, steps, &table)?;
    let want: Vec<f32> = b.iter().map(|b| 1.0 + 31.0 * b).collect();
    ensure!(
        memory.read(table[3], 0, bytes)? == floats(&want),
        "an addition was lost"
    );
    Ok(())
}

pub fn a_step_does_not_see_what_a_later_step_writes(device: &dyn Device) -> Verdict {
    // Reads a, then overwrites it, ten times: the sums must be of what was there before.
    let mut memory = Memory::of(device);
    let bytes = 4 * u64::from(MANY);
    let table = memory.table([64, bytes, bytes, bytes])?;
    memory.write(table[1], 0, &vec![0; bytes as usize])?;
    memory.write(table[3], 0, &vec![0; bytes as usize])?;
    let sum = Add {
        slots: [1, 3, 3],
        ..Add::values(MANY)
    };
    let mut steps = Vec::new();
    for byte in 1..=10u8 {
        steps.push(sum.step(device)?);
        // As a float, a word of equal bytes is tiny and different each time.
        steps.push(fill(1, 0, bytes, byte));
    }
    memory.run(4, steps, &table)?;
    let values = (1..10u8).map(|byte| f32::from_le_bytes([byte; 4]));
    let want = values.fold(0.0f32, |sum, value| value + sum);
    let found = memory.read(table[3], 0, bytes)?;
    ensure!(
        found == want.to_le_bytes().repeat(MANY as usize),
        "a later fill was read"
    );
    Ok(())
}

pub fn slots_may_hold_the_same_buffer(device: &dyn Device) -> Verdict {
    // Through slots 1 and 2 the same bytes: the second fill must wait for the copy.
    let mut memory = Memory::of(device);
    let size = 4u64 << 20;
    let [shared, other] = memory.table([size, size])?;
    let steps = vec![
        fill(1, 0, size, 7),
        copy((2, 0), (0, 0), size),
        fill(1, 0, size, 9),
    ];
    memory.run(3, steps, &[other, shared, shared])?;
    let found = memory.read(other, 0, size)?;
    let wrong = found.iter().position(|byte| *byte != 7);
    ensure!(
        wrong.is_none(),
        "byte {} was copied too early or too late",
        wrong.unwrap_or(0)
    );
    Ok(())
}

pub fn broken_programs_are_refused(device: &dyn Device) -> Verdict {
    let good = Add::values(4).dispatch(device)?;
    let limits = device.info().limits;
    let try_with = |what: &str, change: &dyn Fn(&mut Dispatch)| {
        let mut dispatch = good.clone();
        change(&mut dispatch);
        let program = Program {
            slots: 4,
            steps: vec![Step::Dispatch(dispatch)],
        };
        refused(device.prepare(&program), what)
    };
    let range = |slot, offset, bytes| Operand::Range(bind(slot, offset, bytes, Access::Read));
    try_with("too few operands", &|d| d.operands.truncate(3))?;
    try_with("an empty grid", &|d| d.groups[1] = 0)?;
    try_with("a pipeline that does not exist", &|d| d.pipeline.0 = 9999)?;
    try_with("a slot that does not exist", &|d| {
        d.operands[1] = range(9, 0, 16)
    })?;
    try_with("a range beyond all numbers", &|d| {
        d.operands[1] = range(1, u64::MAX, 16)
    })?;
    try_with("a table without entries", &|d| {
        d.operands[1] = Operand::Table(Vec::new())
    })?;
    if let Some(grid) = limits.max_grid.checked_add(1) {
        try_with("a grid above the limit", &|d| d.groups[0] = grid)?;
    }
    if let Some(bytes) = limits.max_binding_bytes.checked_add(256) {
        try_with("a range above the limit", &|d| {
            d.operands[1] = range(1, 0, bytes)
        })?;
    }
    if limits.offset_align > 1 {
        let half = limits.offset_align / 2;
        try_with("a misaligned range", &|d| {
            d.operands[1] = range(1, half, 16)
        })?;
    }
    if !device.info().features.has(Features::POINTER_TABLES) {
        let entries = |offsets: [u64; 3]| {
            let step = limits.offset_align.max(16);
            let bind = |offset: u64| bind(1, offset * step, 16, Access::Read);
            Operand::Table(offsets.map(bind).to_vec())
        };
        try_with("an uneven table", &|d| d.operands[1] = entries([0, 1, 3]))?;
        try_with("a backward table", &|d| d.operands[1] = entries([2, 1, 0]))?;
    }
    let lengths = Step::Copy {
        from: bind(0, 0, 4, Access::Read),
        to: bind(0, 8, 8, Access::Write),
    };
    let program = Program {
        slots: 1,
        steps: vec![lengths],
    };
    refused(device.prepare(&program), "a copy of two lengths")
}

pub fn the_same_kernel_is_compiled_once(device: &dyn Device) -> Verdict {
    let first = Add::values(10).dispatch(device)?.pipeline;
    let warm = device.setup_counts();
    let again = Add::values(10).dispatch(device)?.pipeline;
    ensure!(again == first, "two pipelines for the same kernel");
    let counts = device.setup_counts();
    ensure!(
        counts == warm,
        "something was set up again: {warm:?}, then {counts:?}"
    );
    Ok(())
}

pub fn kernels_of_other_languages_are_refused(device: &dyn Device) -> Verdict {
    let features = device.info().features;
    let foreign = [
        (Features::HOST, Body::Host("no_such_function")),
        (
            Features::WGSL,
            Body::Wgsl {
                file: "no_such_file",
                defines: &[],
            },
        ),
    ];
    for (language, body) in foreign {
        match device.pipeline("foreign kernel", &body, &[]) {
            Err(Error::Unsupported { what, .. }) if !features.has(language) => {
                ensure!(
                    what.contains("foreign kernel"),
                    "the kernel is not named: {what}"
                );
            }
            Err(_) if features.has(language) => {}
            Err(other) => return Err(format!("refused as {other:?}, which is not Unsupported")),
            Ok(_) => {
                return Err(format!(
                    "a kernel that does not exist was compiled: {body:?}"
                ));
            }
        }
    }
    Ok(())
}
