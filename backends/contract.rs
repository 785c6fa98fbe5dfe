//! The device contract of `hadal-device` as checks: memory, programs, replays, limits and
//! errors. Each is a sentence and takes any device that runs WGSL rows; a backend's tests run
//! them all by [`for_each`]. No backend is named here.

use hadal_device::{
    Access, Bind, BufferDesc, BufferId, COUNT_ALL, DType, Device, Dispatch, Error, Executable,
    OpKind, Operand, Params, Problem, Program, Slot, Span, Step, Ticket,
};

/// A test for each check, over the device that `$open` gives for the name of the test, if
/// any.
macro_rules! for_each {
    ($open:path) => {
        $crate::contract::for_each! { $open:
            bytes_come_back_as_written_whatever_their_length
            a_write_reaches_later_submits_and_no_earlier_one
            copies_and_fills_keep_to_their_ranges_and_their_order
            a_second_submit_sees_new_inputs_and_makes_nothing_new
            many_tables_take_turns_and_the_last_ones_stay_bound
            the_same_kernel_is_compiled_once
            tickets_rise_and_finish
            broken_programs_are_refused_with_the_step_and_the_reason
            broken_tables_are_refused_and_the_device_works_on
            misplaced_transfers_are_refused
            too_much_memory_is_a_value_and_leaves_the_rest_untouched
            host_rows_are_refused_by_name
        }
    };
    ($open:path: $($check:ident)*) => {
        $(#[test]
        fn $check() {
            if let Some(device) = $open(stringify!($check)) {
                $crate::contract::$check(device.as_ref());
            }
        })*
    };
}
pub(crate) use for_each;

pub fn alloc(device: &dyn Device, bytes: u64) -> BufferId {
    device
        .alloc(&BufferDesc::new("test", bytes))
        .expect("memory")
}

pub fn span(buffer: BufferId, offset: u64, bytes: u64) -> Span {
    Span {
        buffer,
        offset,
        bytes,
    }
}

pub fn write(device: &dyn Device, buffer: BufferId, offset: u64, bytes: &[u8]) {
    device
        .write(span(buffer, offset, bytes.len() as u64), bytes)
        .expect("write");
}

pub fn read(device: &dyn Device, buffer: BufferId, offset: u64, bytes: u64) -> Vec<u8> {
    let mut data = vec![0xee; bytes as usize];
    device
        .read(span(buffer, offset, bytes), &mut data)
        .expect("read");
    data
}

pub fn bind(slot: u16, offset: u64, bytes: u64, access: Access) -> Bind {
    Bind {
        slot: Slot(slot),
        offset,
        bytes,
        access,
    }
}

pub fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// One `add` of `n` values: inputs in slot 0, `a` and `b` and `y` in slots 1, 2 and 3.
pub fn add(device: &dyn Device, n: u32) -> Dispatch {
    let params = Params {
        rows: 1,
        count_word: COUNT_ALL,
        n,
        ..Params::default()
    };
    let problem = Problem {
        op: OpKind::Add,
        weight: DType::F32,
        params,
    };
    let Ok(choice) = hadal_device::select(hadal_shaders::table(), device.info(), &problem) else {
        panic!("a row for add");
    };
    let launch = (choice.row.launch)(&problem, device.info());
    let pipeline = device
        .pipeline(choice.row.name, &choice.row.body, &launch.constants)
        .expect("the row compiles");
    let bytes = 4 * u64::from(n);
    Dispatch {
        pipeline,
        groups: launch.groups,
        operands: vec![
            Operand::Range(bind(0, 0, 64, Access::Read)),
            Operand::Range(bind(1, 0, bytes, Access::Read)),
            Operand::Range(bind(2, 0, bytes, Access::Read)),
            Operand::Range(bind(3, 0, bytes, Access::Write)),
        ],
        params: Box::new(params),
        label: "add".into(),
    }
}

pub fn program(slots: u16, steps: Vec<Step>) -> Program {
    Program { slots, steps }
}

pub fn prepare(device: &dyn Device, program: &Program) -> Box<dyn Executable> {
    device.prepare(program).expect("a valid program")
}

/// The message of a program that breaks the contract.
pub fn refused(device: &dyn Device, program: &Program) -> String {
    match device.prepare(program) {
        Err(Error::Invalid(why)) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted: {program}"),
    }
}

pub fn bytes_come_back_as_written_whatever_their_length(device: &dyn Device) {
    for bytes in [1u64, 3, 4, 5, 1000, (33 << 20) + 7] {
        let data: Vec<u8> = (0..bytes).map(|i| (i * 7 + i / 251) as u8).collect();
        let buffer = alloc(device, bytes);
        write(device, buffer, 0, &data);
        assert!(read(device, buffer, 0, bytes) == data, "{bytes} bytes");
        // Any range can be read.
        let (from, length) = (bytes / 3, bytes / 2);
        let part = read(device, buffer, from, length);
        assert!(
            part == data[from as usize..][..length as usize],
            "part of {bytes} bytes"
        );
        device.free(buffer);
    }
}

pub fn a_write_reaches_later_submits_and_no_earlier_one(device: &dyn Device) {
    let (from, to) = (alloc(device, 8), alloc(device, 8));
    let copy = |at| Step::Copy {
        from: bind(0, 0, 4, Access::Read),
        to: bind(1, at, 4, Access::Write),
    };
    let mut first = prepare(device, &program(2, vec![copy(0)]));
    let mut second = prepare(device, &program(2, vec![copy(4)]));
    write(device, from, 0, &[1; 4]);
    first.submit(&[from, to]).expect("submit");
    write(device, from, 0, &[2; 4]);
    second.submit(&[from, to]).expect("submit");
    assert_eq!(read(device, to, 0, 8), [1, 1, 1, 1, 2, 2, 2, 2]);
}

pub fn copies_and_fills_keep_to_their_ranges_and_their_order(device: &dyn Device) {
    let large = 3 << 20;
    let buffer = alloc(device, 2 * large + 64);
    let steps = vec![
        Step::Fill {
            to: bind(0, 0, 2 * large + 64, Access::Write),
            byte: 0x11,
        },
        Step::Fill {
            to: bind(0, 16, large, Access::Write),
            byte: 0xab,
        },
        Step::Fill {
            to: bind(0, 32, 16, Access::Write),
            byte: 0,
        },
        // Within one buffer, longer than any staging.
        Step::Copy {
            from: bind(0, 16, large, Access::Read),
            to: bind(0, 32 + large, large, Access::Write),
        },
    ];
    let mut executable = prepare(device, &program(1, steps));
    let ticket = executable.submit(&[buffer]).expect("submit");
    device.wait(ticket).expect("wait");
    let mut want = vec![0x11u8; 2 * large as usize + 64];
    want[16..16 + large as usize].fill(0xab);
    want[32..48].fill(0);
    want.copy_within(16..16 + large as usize, 32 + large as usize);
    assert!(read(device, buffer, 0, 2 * large + 64) == want);
}

pub fn a_second_submit_sees_new_inputs_and_makes_nothing_new(device: &dyn Device) {
    let n = 300;
    let steps = vec![
        Step::Dispatch(add(device, n)),
        Step::Fill {
            to: bind(1, 0, 4, Access::Write),
            byte: 7,
        },
        Step::Dispatch(Dispatch {
            // y = y + b, in place
            operands: vec![
                Operand::Range(bind(0, 0, 64, Access::Read)),
                Operand::Range(bind(3, 0, 4 * u64::from(n), Access::Read)),
                Operand::Range(bind(2, 0, 4 * u64::from(n), Access::Read)),
                Operand::Range(bind(3, 0, 4 * u64::from(n), Access::Write)),
            ],
            ..add(device, n)
        }),
    ];
    let program = program(4, steps);
    let mut executable = prepare(device, &program);
    let table: Vec<BufferId> = [64, 1200, 1200, 1200]
        .map(|bytes| alloc(device, bytes))
        .into();
    let run = |executable: &mut Box<dyn Executable>, seed: f32| {
        let a: Vec<f32> = (0..n).map(|i| seed + i as f32).collect();
        let b: Vec<f32> = (0..n).map(|i| seed * i as f32).collect();
        write(device, table[1], 0, &floats(&a));
        write(device, table[2], 0, &floats(&b));
        let ticket = executable.submit(&table).expect("submit");
        device.wait(ticket).expect("wait");
        let want: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b + b).collect();
        let got = read(device, table[3], 0, 4 * u64::from(n));
        assert!(got == floats(&want), "seed {seed}");
        got
    };
    run(&mut executable, 1.5);
    let warm = device.setup_counts();
    let again = run(&mut executable, 2.5);
    assert_eq!(device.setup_counts(), warm);
    let fresh = run(&mut prepare(device, &program), 2.5);
    assert_eq!(again, fresh);
}

pub fn many_tables_take_turns_and_the_last_ones_stay_bound(device: &dyn Device) {
    let program = program(4, vec![Step::Dispatch(add(device, 4))]);
    let mut executable = prepare(device, &program);
    let inputs = alloc(device, 64);
    let shared = alloc(device, 16);
    write(device, shared, 0, &floats(&[1.0, 2.0, 3.0, 4.0]));
    let tables: Vec<[BufferId; 4]> = (0..12)
        .map(|_| [inputs, shared, shared, alloc(device, 16)])
        .collect();
    for table in tables.iter().chain(&tables) {
        write(device, table[3], 0, &[0xff; 16]);
        let ticket = executable.submit(table).expect("submit");
        device.wait(ticket).expect("wait");
        assert_eq!(read(device, table[3], 0, 16), floats(&[2.0, 4.0, 6.0, 8.0]));
    }
    let warm = device.setup_counts();
    executable.submit(&tables[11]).expect("submit");
    assert_eq!(device.setup_counts(), warm);
}

pub fn the_same_kernel_is_compiled_once(device: &dyn Device) {
    let first = add(device, 10).pipeline;
    let warm = device.setup_counts();
    assert_eq!(add(device, 500).pipeline, first);
    assert_eq!(device.setup_counts(), warm);
}

pub fn tickets_rise_and_finish(device: &dyn Device) {
    let steps = vec![Step::Fill {
        to: bind(0, 0, 1 << 20, Access::Write),
        byte: 3,
    }];
    let mut executable = prepare(device, &program(1, steps));
    let buffer = alloc(device, 1 << 20);
    let tickets: Vec<Ticket> = (0..50)
        .map(|_| executable.submit(&[buffer]).expect("submit"))
        .collect();
    assert!(tickets.is_sorted_by(|a, b| a < b));
    device.wait(tickets[49]).expect("wait");
    device.wait(tickets[3]).expect("an old ticket is done");
    // The last callback may come from another thread, an instant later.
    while device.completed() < tickets[49] {
        std::thread::yield_now();
    }
    let never = Ticket(tickets[49].0 + 1);
    assert!(matches!(device.wait(never), Err(Error::Invalid(_))));
}

pub fn broken_programs_are_refused_with_the_step_and_the_reason(device: &dyn Device) {
    let good = add(device, 4);
    let with = |change: &dyn Fn(&mut Dispatch)| {
        let mut dispatch = good.clone();
        change(&mut dispatch);
        program(4, vec![Step::Dispatch(dispatch)])
    };
    let operand = |b: Bind| move |d: &mut Dispatch| d.operands[1] = Operand::Range(b);
    let align = device.info().limits.offset_align;
    let misplaced = match align {
        4 => "does not begin with a word".to_string(),
        _ => format!("no multiple of {align}"),
    };
    for (broken, why) in [
        (with(&|d| d.operands.truncate(3)), "4 operands"),
        (with(&|d| d.groups[1] = 0), "grid"),
        (with(&|d| d.groups[0] = 70_000), "grid"),
        (with(&|d| d.pipeline.0 = 999), "pipeline 999"),
        (
            with(&operand(bind(9, 0, 16, Access::Read))),
            "no range of a slot",
        ),
        (
            with(&operand(bind(1, 0, 0, Access::Read))),
            "no range of a slot",
        ),
        (
            with(&operand(bind(1, u64::MAX, 16, Access::Read))),
            "no range of a slot",
        ),
        (
            with(&operand(bind(1, align / 2, 16, Access::Read))),
            misplaced.as_str(),
        ),
        (
            with(&operand(bind(1, 0, 1 << 40, Access::Read))),
            "above the limit",
        ),
        (
            with(&|d| d.operands[1] = Operand::Table(Vec::new())),
            "without entries",
        ),
    ] {
        let message = refused(device, &broken);
        assert!(
            message.contains(why) && message.contains("step 0"),
            "{message}"
        );
    }
    let entries = |offsets: [u64; 3]| {
        let binds = offsets.map(|offset| bind(1, offset, 16, Access::Read));
        with(&|d| d.operands[1] = Operand::Table(binds.to_vec()))
    };
    for offsets in [[0, 256, 768], [512, 256, 0]] {
        assert!(refused(device, &entries(offsets)).contains("constant stride"));
    }
    device
        .prepare(&entries([0, 256, 512]))
        .map(drop)
        .expect("an even table");
}

pub fn broken_tables_are_refused_and_the_device_works_on(device: &dyn Device) {
    let mut executable = prepare(device, &program(4, vec![Step::Dispatch(add(device, 4))]));
    let good = [
        alloc(device, 64),
        alloc(device, 16),
        alloc(device, 16),
        alloc(device, 16),
    ];
    let short = alloc(device, 8);
    let freed = alloc(device, 16);
    device.free(freed);
    device.free(freed);
    for table in [
        &good[..3],
        &[good[0], short, good[2], good[3]],
        &[good[0], freed, good[2], good[3]],
        &[good[0], BufferId(u64::MAX), good[2], good[3]],
    ] {
        assert!(matches!(executable.submit(table), Err(Error::Invalid(_))));
    }
    let ticket = executable.submit(&good).expect("a good table");
    device.wait(ticket).expect("wait");
    // Also a table that was good before.
    device.free(good[1]);
    assert!(matches!(executable.submit(&good), Err(Error::Invalid(_))));
}

pub fn misplaced_transfers_are_refused(device: &dyn Device) {
    let buffer = alloc(device, 10);
    for (offset, bytes) in [(0, 11), (8, 4), (u64::MAX, 4), (2, 4), (0, 6)] {
        let data = vec![0; bytes as usize];
        let result = device.write(span(buffer, offset, bytes), &data);
        assert!(
            matches!(result, Err(Error::Invalid(_))),
            "{offset} +{bytes}"
        );
    }
    assert!(device.read(span(buffer, 8, 4), &mut [0; 4]).is_err());
    assert!(device.read(span(buffer, 0, 4), &mut [0; 3]).is_err());
    assert!(device.read(span(BufferId(77), 0, 4), &mut [0; 4]).is_err());
}

pub fn too_much_memory_is_a_value_and_leaves_the_rest_untouched(device: &dyn Device) {
    let kept = alloc(device, 16);
    write(device, kept, 0, &[5; 16]);
    let made = device.setup_counts().buffers;
    let wanted = device.info().limits.max_buffer_bytes + 1;
    let error = device.alloc(&BufferDesc::new("cache", wanted)).unwrap_err();
    let Error::OutOfMemory {
        what,
        memory,
        wanted_bytes,
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(
        (what.as_str(), memory.as_str(), wanted_bytes),
        ("cache", device.info().id().as_str(), wanted)
    );
    assert_eq!(device.setup_counts().buffers, made);
    assert_eq!(read(device, kept, 0, 16), [5; 16]);
}

pub fn host_rows_are_refused_by_name(device: &dyn Device) {
    let error = device
        .pipeline("host_add", &hadal_device::Body::Host("add"), &[])
        .unwrap_err();
    assert!(matches!(&error, Error::Unsupported { what, .. } if what.contains("host_add")));
}
