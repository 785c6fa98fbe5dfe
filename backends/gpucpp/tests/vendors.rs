//! Devices of both vendors under the mock drivers: what is done, what goes wrong, what is left.
#![cfg(unix)]

mod mock;

use hadal_device::{
    Access, Body, BufferId, Device, Dispatch, Error, Operand, Program, Step, Ticket,
};
use hadal_gpucpp::{GpuDevice, GpuOptions, Vendor, copy_between};

use mock::session::{BYTES, bind, buffer, pattern, program, read, session, span, work};
use mock::{Mock, VENDORS};

#[test]
fn what_is_written_copied_filled_and_computed_comes_back() {
    let mock = Mock::new("");
    for vendor in VENDORS {
        for seed in 1..8 {
            mock.configure(&format!("seed={seed}"));
            session(&mock, vendor).expect("it works");
            assert_eq!((mock.complaints().as_str(), mock.live()), ("", 0));
        }
    }
}

#[test]
fn a_warm_submit_sets_nothing_up_and_tables_are_kept() {
    let mock = Mock::new("");
    for vendor in VENDORS {
        mock.configure("");
        let device = mock.device(vendor);
        let made = || buffer(&device, BYTES).expect("memory");
        let tables: Vec<[BufferId; 3]> = (0..3).map(|_| [made(), made(), made()]).collect();
        let program = program(&device, 64).expect("kernels");
        let mut executable = device.prepare(&program).expect("a program");
        let mut submit = || {
            for table in &tables {
                let ticket = executable.submit(table).expect("a submit");
                device.wait(ticket).expect("it is done");
                assert!(device.completed() >= ticket);
                assert!(device.gpu_time(ticket).is_some());
            }
        };
        submit();
        let before = device.setup_counts();
        submit();
        submit();
        assert_eq!(device.setup_counts(), before);
        assert_eq!(device.submit_cost().submits, 9);
        // More tickets than there are events.
        let mut last = Ticket(0);
        for _ in 0..200 {
            last = executable.submit(&tables[0]).expect("a submit");
        }
        device.wait(Ticket(1)).expect("long done");
        device.wait(last).expect("done");
        assert_eq!(device.completed(), last);
        assert!(matches!(
            device.wait(Ticket(last.0 + 1)),
            Err(Error::Invalid(_))
        ));
        drop(executable);
        drop(device);
        assert_eq!((mock.complaints().as_str(), mock.live()), ("", 0));
    }
}

#[test]
fn programs_are_graphs_on_cuda_and_launches_in_order_on_hip() {
    let mock = Mock::new("");
    for vendor in VENDORS {
        for seed in 1..8 {
            mock.configure(&format!("seed={seed}"));
            let device = mock.device(vendor);
            let table = [0; 3].map(|_| buffer(&device, BYTES).expect("memory"));
            let values = 64;
            let program = program(&device, values).expect("kernels");
            let mut executable = device.prepare(&program).expect("a program");
            let numbers: Vec<u8> = (0..values).flat_map(|i| (i as f32).to_le_bytes()).collect();
            device
                .write(span(table[0], 0, numbers.len()), &numbers)
                .expect("a write");
            let ticket = executable.submit(&table).expect("a submit");
            device.wait(ticket).expect("done");
            let is_graph = u64::from(vendor == Vendor::Cuda);
            assert_eq!((mock.count("execs"), mock.count("graphs")), (is_graph, 0));
            // Each of the three kernels but the first, one after the other.
            assert_eq!(mock.count("ahead"), 2 * is_graph);
            let sums = read(&device, table[2], 4 * u64::from(values)).expect("a read");
            // The sum reads what the copy wrote, which another order would not.
            let expected: Vec<u8> = (0..values)
                .flat_map(|i| (2.0 * i as f32).to_le_bytes())
                .collect();
            assert!(sums == expected, "{vendor:?}, {seed}");
            // A submit of which a launch is refused is none, and the next one is whole.
            let (launch, each) = match vendor {
                Vendor::Cuda => ("cuGraphLaunch", 1),
                Vendor::Hip => ("hipModuleLaunchKernel", 3),
            };
            for nth in 1..=each {
                mock.fail_nth(launch, nth, 1);
                let refused = executable.submit(&table);
                assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
                let ticket = executable.submit(&table).expect("a submit");
                device.wait(ticket).expect("done");
                assert_eq!(device.completed(), ticket);
            }
            drop((executable, device));
            assert_eq!((mock.complaints().as_str(), mock.live()), ("", 0));
        }
    }
}

#[test]
fn kernels_are_sent_ahead_where_they_wait_and_the_driver_can() {
    let mock = Mock::new("");
    // Edges by which kernels are sent ahead, where some calls fail: which ones of a function.
    let ahead = |settings: &str, failing: &[(&str, &[u64])]| {
        mock.configure(settings);
        let device = mock.device(Vendor::Cuda);
        for (call, which) in failing {
            which.iter().for_each(|nth| mock.fail_nth(call, *nth, 801));
        }
        let table = [0; 3].map(|_| buffer(&device, BYTES).expect("memory"));
        let program = program(&device, 64).expect("kernels");
        let mut executable = device.prepare(&program).expect("a program");
        let ticket = executable.submit(&table).expect("a submit");
        device.wait(ticket).expect("done");
        assert_eq!(mock.count("execs"), 1, "{settings}");
        mock.count("ahead")
    };
    assert_eq!(ahead("arch=sm_90a", &[]), 2);
    assert_eq!(ahead("arch=sm_100a", &[]), 2);
    // Kernels made for older devices do not wait, wherever they are.
    assert_eq!(ahead("arch=sm_80", &[]), 0);
    let compiler: (&str, &[u64]) = ("nvrtcCompileProgram", &[1, 2, 3, 4]);
    assert_eq!(ahead("arch=sm_100a", &[compiler]), 0);
    // Where the driver does not take such edges, or nothing with them, it gets others.
    let edges = "cuGraphAddDependencies_v2";
    let ready: (&str, &[u64]) = ("cuGraphInstantiateWithFlags", &[1]);
    assert_eq!(ahead("", &[(edges, &[1])]), 0);
    assert_eq!(ahead("", &[(edges, &[2])]), 1);
    assert_eq!(ahead("", &[ready]), 0);
    assert_eq!(ahead("", &[(edges, &[2]), ready]), 0);
    assert_eq!((mock.complaints().as_str(), mock.live()), ("", 0));
}

#[test]
fn a_launch_that_is_refused_loses_no_device() {
    let mock = Mock::new("");
    for vendor in VENDORS {
        mock.configure("");
        let device = mock.device(vendor);
        let table = [0; 3].map(|_| buffer(&device, BYTES).expect("memory"));
        let good = program(&device, 64).expect("kernels");
        let mut bad = good.clone();
        let Some(Step::Dispatch(dispatch)) = bad.steps.last_mut() else {
            panic!("a dispatch");
        };
        let add = Body::Gpu {
            file: "values",
            entry: "add",
            operands: "rrrw",
        };
        // It was compiled for half as many.
        let wide = device.pipeline("add", &add, &[("THREADS", 512)]);
        dispatch.pipeline = wide.expect("a kernel");
        let mut executable = device.prepare(&bad).expect("a program");
        let refused = executable.submit(&table);
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
        let mut executable = device.prepare(&good).expect("a program");
        let ticket = executable.submit(&table).expect("it goes on");
        device.wait(ticket).expect("it is done");
        let said = mock.complaints();
        assert!(
            said.lines().count() == 1 && said.contains("add has 256 threads"),
            "{said}"
        );
        // From a wait the same code is a loss.
        let [wait, code] = match vendor {
            Vendor::Cuda => ["cuEventSynchronize", "CUDA_ERROR_LAUNCH_FAILED"],
            Vendor::Hip => ["hipEventSynchronize", "hipErrorLaunchFailure"],
        };
        mock.fail_calls(wait, 1, 719);
        let ticket = executable.submit(&table).expect("a submit");
        let lost = device.wait(ticket).expect_err("it failed");
        assert!(
            matches!(&lost, Error::Lost { why, .. } if why.contains(code)),
            "{lost}"
        );
    }
}

#[test]
fn a_device_that_does_not_answer_leaves_the_others() {
    let mock = Mock::new("");
    for vendor in VENDORS {
        let memory = match vendor {
            Vendor::Cuda => "cuDeviceTotalMem_v2",
            Vendor::Hip => "hipDeviceTotalMem",
        };
        mock.configure("devices=2");
        let backend = mock.backend(vendor, GpuOptions::default());
        mock.fail_calls(memory, 1, 1);
        let devices = backend.devices().expect("the other one");
        assert_eq!(devices.len(), 1);
        assert_eq!(devices[0].ordinal, 0);
        mock.fail_calls(memory, 2, 1);
        let none = backend.devices().expect_err("none is left").to_string();
        for ordinal in 0..2 {
            let why = format!("device {ordinal} of the driver: asking for memory failed with");
            assert!(none.contains(&why), "{none}");
        }
    }
}

#[test]
fn broken_programs_are_refused() {
    let mock = Mock::new("");
    let device = mock.device(Vendor::Cuda);
    let good = program(&device, 64).expect("kernels");
    let table = [0; 3].map(|_| buffer(&device, BYTES).expect("memory"));
    let broken: &[fn(&mut Dispatch)] = &[
        |dispatch| drop(dispatch.operands.pop()),
        |dispatch| dispatch.groups[1] = 0,
        |dispatch| dispatch.groups[0] = 65536,
        |dispatch| dispatch.pipeline.0 += 1,
        |dispatch| dispatch.operands[1] = Operand::Range(bind(0, 4, 16, Access::Read)),
        |dispatch| dispatch.operands[1] = Operand::Range(bind(9, 0, 16, Access::Read)),
        |dispatch| dispatch.operands[1] = Operand::Range(bind(0, 16, u64::MAX, Access::Read)),
        |dispatch| dispatch.operands[1] = Operand::Range(bind(0, 0, 0, Access::Read)),
        |dispatch| dispatch.operands[3] = Operand::Range(bind(2, 0, 16, Access::Read)),
        |dispatch| dispatch.operands[1] = Operand::Table(vec![]),
    ];
    for (number, break_it) in broken.iter().enumerate() {
        let mut program = good.clone();
        let Some(Step::Dispatch(dispatch)) = program.steps.last_mut() else {
            panic!("a dispatch");
        };
        break_it(dispatch);
        let refused = device.prepare(&program).map(|_| ());
        assert!(
            matches!(refused, Err(Error::Invalid(_))),
            "{number}: {refused:?}"
        );
    }
    // What only the buffers tell.
    let mut executable = device.prepare(&good).expect("a program");
    let short = buffer(&device, 1000).expect("memory");
    for table in [
        vec![table[0]; 2],
        vec![table[0], short, table[2]],
        vec![BufferId(999); 3],
    ] {
        let refused = executable.submit(&table);
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
    let ticket = executable.submit(&table).expect("it still works");
    device.wait(ticket).expect("it is done");
}

#[test]
fn memory_ends_with_an_error_that_leaves_the_rest_alone() {
    let mock = Mock::new("memory=64M");
    let options = GpuOptions {
        memory_bytes: Some(8 << 20),
        ..GpuOptions::default()
    };
    for (options, most) in [(GpuOptions::default(), 64), (options, 8)] {
        let device = mock
            .backend(Vendor::Hip, options)
            .open(0)
            .expect("it opens");
        let mut buffers = Vec::new();
        let full = loop {
            match buffer(&device, 1 << 20) {
                Ok(made) => buffers.push(made),
                Err(error) => break error,
            }
        };
        assert!(
            matches!(
                full,
                Error::OutOfMemory {
                    wanted_bytes: 1_048_576,
                    ..
                }
            ),
            "{full:?}"
        );
        assert!(
            (most / 2..=most).contains(&buffers.len()),
            "{}",
            buffers.len()
        );
        assert!(matches!(
            buffer(&device, u64::MAX),
            Err(Error::OutOfMemory { .. })
        ));
        device.free(buffers[0]);
        buffer(&device, 1 << 20).expect("as much as was freed");
        // Who opens it now is told what is left.
        let gone = buffers.split_off(most / 4);
        gone.into_iter().for_each(|id| device.free(id));
        let told = mock.device(Vendor::Hip).info().memory_bytes;
        let left = (64 - most as u64 / 4) << 20;
        assert!(told.is_some_and(|told| told <= left), "{told:?} of {left}");
    }
    assert_eq!((mock.complaints().as_str(), mock.live()), ("", 0));
}

#[test]
fn a_device_is_lost_on_purpose_once() {
    let mock = Mock::new("");
    let options = GpuOptions {
        lose_after_submits: Some(2),
        ..GpuOptions::default()
    };
    let backend = mock.backend(Vendor::Cuda, options);
    let submits = |device: &GpuDevice| {
        let mut executable = device
            .prepare(&Program::default())
            .expect("an empty program");
        (0..5).map_while(|_| executable.submit(&[]).ok()).count()
    };
    let device = backend.open(0).expect("it opens");
    assert_eq!(submits(&device), 2);
    assert!(matches!(buffer(&device, 4), Err(Error::Lost { .. })));
    assert_eq!(submits(&backend.open(0).expect("again")), 5);
    drop(device);
    assert_eq!((mock.complaints().as_str(), mock.live()), ("", 0));
}

#[test]
fn devices_work_beside_each_other_and_hand_over_bytes() {
    let mock = Mock::new("");
    for vendor in VENDORS {
        for seed in 1..6 {
            mock.configure(&format!("devices=2,seed={seed}"));
            let [one, two] = mock.devices(vendor);
            std::thread::scope(|scope| {
                let working = [&one, &two].map(|device| scope.spawn(|| work(device)));
                for thread in working {
                    thread.join().expect("no panic").expect("it works");
                }
            });
            let bytes = pattern(seed, BYTES);
            let from = buffer(&one, BYTES).expect("memory");
            let to = buffer(&two, BYTES).expect("memory");
            let back = buffer(&one, BYTES).expect("memory");
            let whole = |buffer| span(buffer, 0, BYTES as usize);
            one.write(whole(from), &bytes).expect("a write");
            let ticket = copy_between(&one, whole(from), &two, whole(to)).expect("a copy");
            // Comes after the copy, which must not see it.
            one.write(whole(from), &pattern(77, BYTES))
                .expect("a write");
            copy_between(&two, whole(to), &one, whole(back)).expect("a copy");
            two.write(whole(to), &pattern(78, BYTES)).expect("a write");
            two.wait(ticket).expect("it is done");
            assert!(read(&one, back, BYTES).expect("a read") == bytes);
            let half = BYTES as usize / 2;
            copy_between(&one, span(back, 0, half), &one, span(from, 0, half)).expect("a copy");
            let copied = read(&one, from, BYTES).expect("a read");
            assert!(copied[..half] == bytes[..half]);
            let overlap = copy_between(&one, span(back, 0, half), &one, span(back, 8, half));
            assert!(matches!(overlap, Err(Error::Invalid(_))));
            drop((one, two));
            assert_eq!((mock.complaints().as_str(), mock.live()), ("", 0));
        }
    }
}

#[test]
fn a_short_way_between_devices_is_asked_for_once_and_not_needed() {
    let mock = Mock::new("");
    for vendor in VENDORS {
        let [asks, enables] = match vendor {
            Vendor::Cuda => ["cuDeviceCanAccessPeer", "cuCtxEnablePeerAccess"],
            Vendor::Hip => ["hipDeviceCanAccessPeer", "hipDeviceEnablePeerAccess"],
        };
        // Whether there are ways, a call that fails with a code, ways after two copies.
        let cases = [
            (1, None, Ok(1)),
            (0, None, Ok(0)),
            (1, Some((asks, 1)), Ok(0)),
            (1, Some((enables, 2)), Ok(0)),
            (1, Some((asks, 719)), Err(())),
            (1, Some((enables, 719)), Err(())),
        ];
        for (peers, fault, expected) in cases {
            mock.configure(&format!("devices=2,peers={peers}"));
            let [one, two] = mock.devices(vendor);
            let from = buffer(&one, BYTES).expect("memory");
            let to = buffer(&two, BYTES).expect("memory");
            let whole = |buffer| span(buffer, 0, BYTES as usize);
            if let Some((call, code)) = fault {
                mock.fail_calls(call, 1, code);
            }
            let done = (1..3).try_for_each(|seed| {
                let bytes = pattern(seed, BYTES);
                one.write(whole(from), &bytes)?;
                copy_between(&one, whole(from), &two, whole(to))?;
                // From now on nobody asks.
                mock.fail_calls(asks, 1, 719);
                assert!(read(&two, to, BYTES)? == bytes);
                Ok(())
            });
            match expected {
                Ok(ways) => assert_eq!((done, mock.count("peers")), (Ok(()), ways)),
                Err(()) => assert!(matches!(done, Err(Error::Lost { .. })), "{done:?}"),
            }
            drop((one, two));
            assert_eq!((mock.complaints().as_str(), mock.live()), ("", 0));
        }
    }
}
