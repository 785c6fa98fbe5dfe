//! What must not happen before something else, and what must be as it was afterwards.
#![cfg(unix)]

mod mock;

use hadal_device::{Access, Body, Device, Dispatch, Error, Operand, Params, Program, Step};
use hadal_gpucpp::{GpuOptions, Vendor, copy_between};

use mock::session::{BYTES, bind, buffer, pattern, program, read, span, work};
use mock::{Mock, VENDORS};

/// More than pinned memory has room for at once.
const LONG: u64 = 5 * (4 << 20) + 12;

#[test]
fn a_long_write_takes_turns_with_its_copies() {
    let mock = Mock::new("");
    for vendor in VENDORS {
        for seed in 1..4 {
            mock.configure(&format!("seed={seed}"));
            let device = mock.device(vendor);
            let to = buffer(&device, LONG).expect("memory");
            let bytes = pattern(seed, LONG);
            let whole = span(to, 0, bytes.len());
            device.write(whole, &bytes).expect("a write");
            assert!(read(&device, to, LONG).expect("a read") == bytes);
            // Freed while it is still written.
            device.write(whole, &bytes).expect("a write");
            device.free(to);
            assert!(matches!(read(&device, to, 4), Err(Error::Invalid(_))));
            drop(device);
            assert_eq!((mock.complaints().as_str(), mock.live()), ("", 0));
        }
    }
}

#[test]
fn a_copy_between_devices_follows_what_is_written_on_both() {
    let mock = Mock::new("");
    for vendor in VENDORS {
        for seed in 1..16 {
            mock.configure(&format!("devices=2,seed={seed}"));
            let [one, two] = mock.devices(vendor);
            let from = buffer(&one, BYTES).expect("memory");
            let to = buffer(&two, BYTES).expect("memory");
            let (first, second) = (pattern(seed, BYTES), pattern(99, BYTES));
            let whole = |buffer| span(buffer, 0, BYTES as usize);
            // Both are long and go down lanes of their own.
            two.write(whole(to), &second).expect("a write");
            one.write(whole(from), &first).expect("a write");
            copy_between(&one, whole(from), &two, whole(to)).expect("a copy");
            assert!(read(&two, to, BYTES).expect("a read") == first, "{seed}");
            // A short one is in the lane of programs.
            one.write(span(from, 0, 8), &[7; 8]).expect("a write");
            copy_between(&one, whole(from), &two, whole(to)).expect("a copy");
            let copied = read(&two, to, BYTES).expect("a read");
            assert!(copied[..8] == [7; 8] && copied[8..] == first[8..], "{seed}");
        }
    }
}

#[test]
fn a_table_with_a_buffer_that_is_gone_is_refused() {
    let mock = Mock::new("");
    for vendor in VENDORS {
        mock.configure("");
        let device = mock.device(vendor);
        let table = [0; 3].map(|_| buffer(&device, BYTES).expect("memory"));
        let made = program(&device, 64).expect("kernels");
        let mut executable = device.prepare(&made).expect("a program");
        let ticket = executable.submit(&table).expect("a submit");
        device.wait(ticket).expect("done");
        device.free(table[1]);
        let refused = executable.submit(&table);
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
}

#[test]
fn memory_that_the_driver_does_not_give_is_still_there_to_be_asked_for() {
    let mock = Mock::new("");
    for (vendor, alloc) in VENDORS.into_iter().zip(["cuMemAlloc_v2", "hipMalloc"]) {
        mock.configure("");
        let options = GpuOptions {
            memory_bytes: Some(8 << 20),
            ..GpuOptions::default()
        };
        let device = mock.backend(vendor, options).open(0).expect("it opens");
        mock.fail_calls(alloc, 1, 2);
        let full = buffer(&device, 6 << 20);
        assert!(matches!(full, Err(Error::OutOfMemory { .. })), "{full:?}");
        buffer(&device, 6 << 20).expect("all but a little of it");
    }
}

#[test]
fn what_the_thread_was_at_it_is_at_afterwards() {
    let mock = Mock::new("");
    for vendor in VENDORS {
        mock.configure("devices=2");
        let device = mock.device(vendor);
        let other = mock.at_second_device(vendor);
        work(&device).expect("it works");
        assert_eq!(mock.current(vendor), other, "{vendor:?}");
        mock.leave_second_device(vendor);
    }
}

#[test]
fn a_device_that_works_again_is_no_lost_one() {
    let mock = Mock::new("");
    let backend = mock.backend(Vendor::Cuda, GpuOptions::default());
    let device = backend.open(0).expect("it opens");
    mock.fail_calls("cuMemGetInfo_v2", 1, 700);
    let lost = buffer(&device, 64);
    assert!(matches!(lost, Err(Error::Lost { .. })), "{lost:?}");
    drop(device);
    drop(backend.open(0).expect("it opens again"));
    mock.fail_calls("cuDevicePrimaryCtxRetain", 1, 2);
    let why = backend.open(0).err().expect("no memory").to_string();
    assert!(why.contains("could not be opened"), "{why}");
}

#[test]
fn fills_and_copies_end_where_they_should() {
    let mock = Mock::new("");
    for vendor in VENDORS {
        mock.configure("");
        let device = mock.device(vendor);
        let table = [0; 2].map(|_| buffer(&device, 1024).expect("memory"));
        let bytes = pattern(3, 1024);
        let mut expected = pattern(4, 1024);
        let mut steps = Vec::new();
        let mut at = 0;
        for length in [1, 2, 3, 4, 5, 7, 16, 17, 30, 31] {
            let to = bind(1, at, length, Access::Write);
            let range = at as usize..(at + length) as usize;
            if length % 2 == 0 {
                let from = bind(0, at, length, Access::Read);
                steps.push(Step::Copy { from, to });
                expected[range.clone()].copy_from_slice(&bytes[range]);
            } else {
                steps.push(Step::Fill { to, byte: 0x5A });
                expected[range].fill(0x5A);
            }
            // All begin at whole words.
            at += 64;
        }
        for (buffer, bytes) in table.iter().zip([&bytes, &pattern(4, 1024)]) {
            device
                .write(span(*buffer, 0, 1024), bytes)
                .expect("a write");
        }
        let program = Program { slots: 2, steps };
        let mut executable = device.prepare(&program).expect("a program");
        let ticket = executable.submit(&table).expect("a submit");
        device.wait(ticket).expect("done");
        assert!(read(&device, table[1], 1024).expect("a read") == expected);
    }
}

#[test]
fn an_entry_of_a_table_must_begin_with_a_word() {
    let mock = Mock::new("");
    let device = mock.device(Vendor::Cuda);
    let body = Body::Gpu {
        file: "tile",
        entry: "grouped_linear_tile_f32",
        operands: "rrrtw",
    };
    let pipeline = device.pipeline("grouped", &body, &[("THREADS", 256)]);
    let pipeline = pipeline.expect("a kernel");
    let refused = |offset| {
        let range = |slot, access| Operand::Range(bind(slot, 0, 16, access));
        let read = |slot| range(slot, Access::Read);
        let dispatch = Dispatch {
            pipeline,
            groups: [1; 3],
            operands: vec![
                read(0),
                read(0),
                read(0),
                Operand::Table(vec![bind(1, offset, 16, Access::Read)]),
                range(2, Access::Write),
            ],
            params: Box::new(Params {
                expert_count: 1,
                ..Params::default()
            }),
            label: "grouped".into(),
        };
        let steps = vec![Step::Dispatch(dispatch)];
        let made = device.prepare(&Program { slots: 3, steps });
        made.err().map(|error| error.to_string())
    };
    assert_eq!(refused(4), None);
    let why = refused(2).expect("it is refused");
    assert!(why.contains("no multiple of 4"), "{why}");
}
