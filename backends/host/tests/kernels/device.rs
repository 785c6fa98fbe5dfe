//! The device's promises: errors instead of panics, order, pages, counters.

use std::sync::Arc;

use hadal_device::{
    Access, Backend, Bind, Body, BufferDesc, BufferId, DType, Device, Dispatch, Error, OpKind,
    Operand, Params, Problem, Program, Slot, Span, Step,
};
use hadal_host::{HostBackend, Isa};

use crate::stage::*;

fn open() -> Arc<dyn Device> {
    HostBackend::new().with_threads(3).open(0).unwrap()
}

fn span(buffer: BufferId, offset: u64, bytes: u64) -> Span {
    Span {
        buffer,
        offset,
        bytes,
    }
}

fn bind(slot: u16, offset: u64, bytes: u64, access: Access) -> Bind {
    Bind {
        slot: Slot(slot),
        offset,
        bytes,
        access,
    }
}

fn invalid<T: std::fmt::Debug>(result: hadal_device::Result<T>) {
    assert!(matches!(result, Err(Error::Invalid(_))), "{result:?}");
}

#[test]
fn an_instruction_set_that_is_absent_is_named_and_refused() {
    for isa in Isa::ALL.into_iter().filter(|isa| !isa.available()) {
        println!(
            "NOT RUN: kernels of {}, which this processor lacks",
            isa.name()
        );
        match HostBackend::new().with_isa(isa).open(0) {
            Err(Error::Unavailable { why, .. }) => assert!(why.contains(isa.name()), "{why}"),
            other => panic!("{:?}", other.map(|device| device.info().clone())),
        }
    }
}

#[test]
fn the_device_says_what_it_is() {
    for (isa, device) in devices() {
        let info = device.info();
        assert_eq!(
            (info.backend, info.ordinal, info.driver.as_str()),
            ("host", 0, isa.name())
        );
        assert_eq!(info.limits.offset_align, 1);
        assert!(!info.name.is_empty());
    }
    assert!(HostBackend::new().open(1).is_err());
}

#[test]
fn an_instruction_set_that_is_missing_is_unavailable() {
    let missing = if cfg!(target_arch = "x86_64") {
        Isa::Neon
    } else {
        Isa::Avx2
    };
    let result = HostBackend::new().with_isa(missing).open(0);
    assert!(matches!(result.err(), Some(Error::Unavailable { .. })));
}

#[test]
fn absurd_allocations_are_refused_and_harm_nothing() {
    let device = open();
    let kept = device.alloc(&BufferDesc::new("kept", 4)).unwrap();
    for bytes in [u64::MAX, u64::MAX / 2, isize::MAX as u64, 1 << 60, 1 << 48] {
        let result = device.alloc(&BufferDesc::new("absurd", bytes));
        assert!(
            matches!(result, Err(Error::OutOfMemory { .. })),
            "{result:?}"
        );
    }
    invalid(device.alloc(&BufferDesc::new("nothing", 0)));
    device.write(span(kept, 0, 4), &[1, 2, 3, 4]).unwrap();
}

#[test]
fn ranges_outside_a_buffer_are_refused() {
    let device = open();
    let id = device.alloc(&BufferDesc::new("b", 16)).unwrap();
    invalid(device.write(span(id, 16, 4), &[0; 4]));
    invalid(device.write(span(id, u64::MAX, 4), &[0; 4]));
    invalid(device.read(span(id, 8, 12), &mut [0; 12]));
    invalid(device.read(span(id, 8, 8), &mut [0; 4]));
    device.free(id);
    device.free(id);
    invalid(device.read(span(id, 0, 4), &mut [0; 4]));
}

#[test]
fn adopted_pages_are_used_in_place_and_never_written() {
    let device = open();
    let id = device
        .adopt(Arc::new(vec![1u8, 2, 3, 4, 5, 6, 7, 8]))
        .unwrap();
    let mut bytes = [0; 3];
    device.read(span(id, 5, 3), &mut bytes).unwrap();
    assert_eq!(bytes, [6, 7, 8]);
    invalid(device.write(span(id, 0, 4), &[0; 4]));
    let program = Program {
        slots: 1,
        steps: vec![Step::Fill {
            to: bind(0, 0, 4, Access::Write),
            byte: 0,
        }],
    };
    invalid(device.prepare(&program).unwrap().submit(&[id]));
}

#[test]
fn copies_and_fills_run_in_order() {
    let device = open();
    let bytes = 3 << 20;
    let ids: Vec<_> = (0..2)
        .map(|_| device.alloc(&BufferDesc::new("b", bytes)).unwrap())
        .collect();
    let program = Program {
        slots: 2,
        steps: vec![
            Step::Fill {
                to: bind(0, 0, bytes, Access::Write),
                byte: 7,
            },
            Step::Fill {
                to: bind(0, 5, 10, Access::Write),
                byte: 9,
            },
            Step::Copy {
                from: bind(0, 0, bytes, Access::Read),
                to: bind(1, 0, bytes, Access::Write),
            },
            Step::Fill {
                to: bind(0, 0, bytes, Access::Write),
                byte: 1,
            },
        ],
    };
    let mut executable = device.prepare(&program).unwrap();
    for _ in 0..20 {
        let ticket = executable.submit(&ids).unwrap();
        device.wait(ticket).unwrap();
        assert_eq!(device.completed(), ticket);
        let mut read = vec![0; bytes as usize];
        device.read(span(ids[1], 0, bytes), &mut read).unwrap();
        let want = |i: usize| if (5..15).contains(&i) { 9 } else { 7 };
        assert!(read.iter().enumerate().all(|(i, b)| *b == want(i)));
    }
}

/// Fills `A`, copies it to `B` and the second half of that to a place of its own, again and
/// again: a thread that is done with the first half of a copy must wait for the other one.
fn check_order(read_a: u16, read_b: u16, slots: u16) {
    let device = open();
    let (half, rounds) = (1u64 << 20, 48u8);
    let sizes = [2 * half, 2 * half, half * u64::from(rounds)];
    let ids = sizes.map(|n| device.alloc(&BufferDesc::new("b", n)).unwrap());
    let mut steps = Vec::new();
    for round in 0..rounds {
        steps.push(Step::Fill {
            to: bind(0, 0, 2 * half, Access::Write),
            byte: round,
        });
        steps.push(Step::Copy {
            from: bind(read_a, 0, 2 * half, Access::Read),
            to: bind(1, 0, 2 * half, Access::Write),
        });
        steps.push(Step::Copy {
            from: bind(read_b, half, half, Access::Read),
            to: bind(2, half * u64::from(round), half, Access::Write),
        });
    }
    let mut executable = device.prepare(&Program { slots, steps }).unwrap();
    let table = [ids[0], ids[1], ids[2], ids[0], ids[1]];
    for _ in 0..8 {
        executable.submit(&table[..usize::from(slots)]).unwrap();
        let mut bytes = vec![0; sizes[2] as usize];
        device.read(span(ids[2], 0, sizes[2]), &mut bytes).unwrap();
        for (round, bytes) in bytes.chunks_exact(half as usize).enumerate() {
            assert!(
                bytes.iter().all(|b| usize::from(*b) == round),
                "round {round}"
            );
        }
    }
}

#[test]
fn a_step_waits_for_all_pieces_of_the_one_before() {
    check_order(0, 1, 3);
}

#[test]
fn slots_that_hold_the_same_buffer_are_ordered() {
    // By slot numbers the copies read what nobody writes.
    check_order(3, 4, 5);
}

#[test]
fn a_warm_submit_makes_nothing() {
    let device = open();
    let ids = [0; 2].map(|_| device.alloc(&BufferDesc::new("b", 64)).unwrap());
    let program = Program {
        slots: 2,
        steps: vec![Step::Copy {
            from: bind(0, 0, 64, Access::Read),
            to: bind(1, 0, 64, Access::Write),
        }],
    };
    let mut executable = device.prepare(&program).unwrap();
    executable.submit(&ids).unwrap();
    let counts = device.setup_counts();
    for _ in 0..100 {
        executable.submit(&ids).unwrap();
    }
    assert_eq!(device.setup_counts(), counts);
    assert_eq!((counts.buffers, counts.programs), (2, 1));
}

/// A linear step over one slot, with what is wrong put in by `spoil`.
fn spoiled(
    device: &dyn Device,
    spoil: impl Fn(&mut Dispatch, &mut Vec<u64>),
) -> hadal_device::Result<()> {
    let params = Params {
        rows: 2,
        k: 8,
        n: 4,
        x_stride: 8,
        y_stride: 4,
        row_count: 4,
        ..Params::default()
    };
    let problem = Problem {
        op: OpKind::Linear,
        weight: DType::F32,
        params,
    };
    let row = rows_for(device, &problem)[0];
    let launch = (row.launch)(&problem, device.info());
    let mut dispatch = Dispatch {
        pipeline: device.pipeline(row.name, &row.body, &launch.constants)?,
        groups: launch.groups,
        operands: vec![
            Operand::Range(bind(0, 0, 64, Access::Read)),
            Operand::Range(bind(1, 0, 64, Access::Read)),
            Operand::Range(bind(2, 0, 128, Access::Read)),
            Operand::Range(bind(3, 0, 32, Access::Write)),
        ],
        params: Box::new(params),
        label: "spoiled".to_string(),
    };
    let mut sizes = vec![64, 64, 128, 32];
    spoil(&mut dispatch, &mut sizes);
    let mut ids = Vec::new();
    for bytes in &sizes {
        let id = device.alloc(&BufferDesc::new("b", *bytes))?;
        // `inputs`: two real rows, a bucket of two.
        let first = [2u32, 2, 2].map(u32::to_le_bytes).concat();
        device.write(
            span(id, 0, 12.min(*bytes)),
            &first[..12.min(*bytes as usize)],
        )?;
        ids.push(id);
    }
    let program = Program {
        slots: sizes.len() as u16,
        steps: vec![Step::Dispatch(dispatch)],
    };
    device.prepare(&program)?.submit(&ids).map(|_| ())
}

fn range(dispatch: &mut Dispatch, operand: usize) -> &mut Bind {
    match &mut dispatch.operands[operand] {
        Operand::Range(bind) => bind,
        Operand::Table(_) => unreachable!(),
    }
}

#[test]
fn programs_that_break_the_contract_are_errors() {
    let device = open();
    spoiled(&*device, |_, _| ()).unwrap();
    type Spoil = fn(&mut Dispatch, &mut Vec<u64>);
    let spoils: &[(&str, Spoil)] = &[
        ("a range beyond its buffer", |d, _| range(d, 1).bytes = 65),
        ("an offset beyond its buffer", |d, _| {
            range(d, 2).offset = u64::MAX
        }),
        ("a small input", |_, sizes| sizes[1] = 60),
        ("a small weight", |d, _| range(d, 2).bytes = 127),
        ("a small output", |d, _| range(d, 3).bytes = 28),
        ("an output that may only be read", |d, _| {
            range(d, 3).access = Access::Read
        }),
        ("an unaligned output", |d, sizes| {
            sizes[3] = 64;
            range(d, 3).offset = 2;
        }),
        ("an unaligned input", |d, sizes| {
            sizes[1] = 128;
            range(d, 1).offset = 1;
        }),
        ("a slot that is not there", |d, _| {
            range(d, 1).slot = Slot(9)
        }),
        ("an operand too few", |d, _| drop(d.operands.pop())),
        ("an operand too many", |d, _| {
            d.operands.push(d.operands[0].clone())
        }),
        ("a table for a range", |d, _| {
            let only = *range(d, 1);
            d.operands[1] = Operand::Table(vec![only]);
            d.params.expert_count = 1;
        }),
        ("rows beyond the operands", |d, _| d.params.rows = 3),
        ("a dot product beyond the operands", |d, _| d.params.k = 9),
        ("huge numbers", |d, _| {
            d.params.rows = u32::MAX;
            d.params.k = u32::MAX;
            d.params.x_stride = u32::MAX;
            d.params.x_offset = u32::MAX;
        }),
        ("an input that is also the output", |d, sizes| {
            sizes[1] = 128;
            *range(d, 3) = bind(1, 32, 32, Access::Write);
        }),
        ("a count word beyond inputs", |d, _| {
            d.params.count_word = 1000
        }),
        ("a grid without end", |d, _| d.groups = [u32::MAX; 3]),
        ("a pipeline that is not there", |d, _| d.pipeline.0 = 77),
    ];
    for (name, spoil) in spoils {
        let wide_rows = |d: &mut Dispatch, sizes: &mut Vec<u64>| {
            // Without this the count is 2 whatever the program says.
            d.params.count_word = u32::MAX;
            spoil(d, sizes);
        };
        let result = spoiled(&*device, wide_rows);
        assert!(
            matches!(result, Err(Error::Invalid(_))),
            "{name}: {result:?}"
        );
    }
    spoiled(&*device, |_, _| ()).unwrap();
}

#[test]
fn a_table_of_the_wrong_length_is_an_error() {
    let device = open();
    let mut executable = device
        .prepare(&Program {
            slots: 2,
            steps: vec![],
        })
        .unwrap();
    let id = device.alloc(&BufferDesc::new("b", 4)).unwrap();
    invalid(executable.submit(&[id]));
    invalid(executable.submit(&[id, BufferId(999)]));
    executable.submit(&[id, id]).unwrap();
}

#[test]
fn only_host_bodies_are_supported() {
    let device = open();
    let bodies = [
        Body::Host("no such function"),
        Body::Wgsl {
            file: "norm",
            defines: &[],
        },
    ];
    for body in bodies {
        let result = device.pipeline("row", &body, &[]);
        assert!(
            matches!(result, Err(Error::Unsupported { .. })),
            "{result:?}"
        );
    }
}

#[test]
fn many_small_steps_keep_their_order_on_any_number_of_threads() {
    for threads in [1, 2, 5] {
        let device = HostBackend::new().with_threads(threads).open(0).unwrap();
        let params = Params {
            rows: 1,
            count_word: u32::MAX,
            n: 16,
            ..Params::default()
        };
        let problem = Problem {
            op: OpKind::Add,
            weight: DType::F32,
            params,
        };
        let row = rows_for(&*device, &problem)[0];
        let launch = (row.launch)(&problem, device.info());
        let pipeline = device
            .pipeline(row.name, &row.body, &launch.constants)
            .unwrap();
        // Fibonacci: y = a + b, each step reading the two before it.
        let cell = |i: u64| bind(0, 64 * i, 64, Access::Read);
        let steps = (2..90)
            .map(|i| {
                Step::Dispatch(Dispatch {
                    pipeline,
                    groups: launch.groups,
                    operands: vec![
                        Operand::Range(bind(1, 0, 64, Access::Read)),
                        Operand::Range(cell(i - 2)),
                        Operand::Range(cell(i - 1)),
                        Operand::Range(Bind {
                            access: Access::Write,
                            ..cell(i)
                        }),
                    ],
                    params: Box::new(params),
                    label: "add".to_string(),
                })
            })
            .collect();
        let ids = [90 * 64, 64].map(|n| device.alloc(&BufferDesc::new("b", n)).unwrap());
        let ones = 1.0f32.to_le_bytes().repeat(32);
        device.write(span(ids[0], 0, 128), &ones).unwrap();
        let mut executable = device.prepare(&Program { slots: 2, steps }).unwrap();
        for _ in 0..20 {
            executable.submit(&ids).unwrap();
            let mut bytes = [0; 4];
            device.read(span(ids[0], 30 * 64, 4), &mut bytes).unwrap();
            assert_eq!(f32::from_le_bytes(bytes), 1_346_269.0);
        }
    }
}
