//! The mock drivers, loaded as the backends load them.
#![cfg(unix)]

mod common;

use common::{Api, CUDA_PTX, Node, hip_image};

/// What a small program does on either driver: fill, copy, launch, and replay a graph on CUDA.
fn round_trip(api: &Api, image: &[u8]) {
    api.configure("seed=3");
    api.open(0);
    let (work, copies) = (api.stream(), api.stream());
    let module = api.module(image).unwrap();
    let axpy = api.function(module, "test_axpy").unwrap();
    let n = 1000u32;
    let bytes = n as usize * 4;
    let pinned = api.pinned(bytes);
    let (x, y) = (api.alloc(bytes).unwrap(), api.alloc(bytes).unwrap());
    pinned.fill(3.0);
    assert_eq!(api.upload(x, pinned.as_ptr().cast(), bytes, copies), 0);
    // Memory that is not pinned may be changed at once.
    let mut plain = vec![1.0f32; n as usize];
    assert_eq!(api.upload(y, plain.as_ptr().cast(), bytes, copies), 0);
    plain.fill(9.0);
    let uploaded = api.event();
    api.record(uploaded, copies);
    api.wait(work, uploaded);
    let node = Node::new(axpy, [4, 1, 1], 256)
        .value(2.0f32.to_bits())
        .address(x)
        .address(y)
        .value(n);
    assert_eq!(api.launch(&node, work), 0);
    // Six more, in graphs where there are such.
    let graph = (!api.is_hip()).then(|| {
        let graph = api.graph();
        let first = api.node(graph, &[], &node).unwrap();
        api.node(graph, &[first], &node).unwrap();
        (graph, api.instantiate(graph))
    });
    for _ in 0..3 {
        match graph {
            Some((_, exec)) => assert_eq!(api.launch_graph(exec, work), 0),
            None => (0..2).for_each(|_| assert_eq!(api.launch(&node, work), 0)),
        }
    }
    let (begin, end) = (api.event(), api.event());
    api.record(begin, work);
    api.record(end, work);
    assert_eq!(api.download(plain.as_mut_ptr().cast(), y, bytes, work), 0);
    // 1 + 7 launches of 2 * 3 each.
    assert!(plain.iter().all(|v| *v == 43.0), "{:?}", &plain[..4]);
    assert!(api.elapsed(begin, end).unwrap() > 0.0);
    if let Some((graph, exec)) = graph {
        api.destroy_exec(exec);
        api.destroy_graph(graph);
    }
    for event in [uploaded, begin, end] {
        api.destroy_event(event);
    }
    api.destroy_stream(work);
    api.destroy_stream(copies);
    api.free(x);
    api.free(y);
    api.free_pinned(pinned);
    api.unload(module);
    api.close(0);
    assert_eq!(api.live("all"), 0);
    assert_eq!(api.complaints(), "");
}

#[test]
fn a_program_runs_on_either_driver() {
    let _alone = common::alone();
    round_trip(&Api::cuda(), CUDA_PTX);
    let hip = Api::hip();
    let source = std::fs::read_to_string(common::kernel_file()).unwrap();
    let image = hip
        .compile(&source, "--offload-arch=gfx942:sramecc+:xnack-")
        .unwrap();
    round_trip(&hip, &image);
    let image = Api::cuda()
        .compile(&source, "--gpu-architecture=sm_90a")
        .unwrap();
    round_trip(&Api::cuda(), &image);
}

#[test]
fn a_missing_wait_reads_what_is_not_there_yet() {
    let _alone = common::alone();
    let api = Api::cuda();
    let mut stale = 0;
    for seed in 0..20 {
        api.configure(&format!("seed={seed}"));
        api.open(0);
        let (a, b) = (api.stream(), api.stream());
        let pinned = api.pinned(4);
        let at = api.alloc(4).unwrap();
        pinned.fill(5.0);
        api.upload(at, pinned.as_ptr().cast(), 4, a);
        let mut out = [0f32];
        api.download(out.as_mut_ptr().cast(), at, 4, b);
        stale += u32::from(out[0].is_nan());
        // Pinned memory is read when the copy runs.
        pinned.fill(6.0);
        api.upload(at, pinned.as_ptr().cast(), 4, a);
        pinned.fill(7.0);
        api.download(out.as_mut_ptr().cast(), at, 4, a);
        assert_eq!(out[0], 7.0);
    }
    assert!((5..=15).contains(&stale), "{stale} of 20");
}

#[test]
fn nodes_without_a_dependency_run_in_any_order() {
    let _alone = common::alone();
    let api = Api::cuda();
    let mut seen = std::collections::BTreeSet::new();
    for (seed, chained) in (0..40).map(|i| (i / 2, i % 2 == 1)) {
        api.configure(&format!("seed={seed}"));
        api.open(0);
        let stream = api.stream();
        let module = api.module(CUDA_PTX).unwrap();
        let step = api.function(module, "test_step").unwrap();
        let at = api.alloc(4).unwrap();
        let mut value = 1u32;
        api.upload(at, (&raw const value).cast(), 4, stream);
        let graph = api.graph();
        let mut before = Vec::new();
        for (factor, term) in [(2, 1), (3, 5)] {
            let node = Node::new(step, [1, 1, 1], 32)
                .address(at)
                .value(factor)
                .value(term);
            let made = api.node(graph, &before, &node).unwrap();
            if chained {
                before = vec![made];
            }
        }
        api.launch_graph(api.instantiate(graph), stream);
        api.download((&raw mut value).cast(), at, 4, stream);
        match chained {
            true => assert_eq!(value, 14),
            false => drop(seen.insert(value)),
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [14, 17]);
}

#[test]
fn mistakes_are_refused_and_written_down() {
    let _alone = common::alone();
    let api = Api::cuda();
    api.configure("memory=1M");
    assert_eq!(api.alloc(4), Err(3), "before the driver is initialised");
    api.open(0);
    assert_eq!(api.alloc(2 << 20), Err(2));
    let at = api.alloc(64).unwrap();
    let stream = api.stream();
    let mut out = [0f32; 32];
    assert_eq!(api.download(out.as_mut_ptr().cast(), at, 128, stream), 1);
    assert_eq!(api.free(at), 0);
    assert_eq!(api.free(at), 1);
    assert_eq!(api.download(out.as_mut_ptr().cast(), at, 4, stream), 1);
    assert_eq!(api.download(out.as_mut_ptr().cast(), at, 4, 12345), 400);
    let module = api.module(CUDA_PTX).unwrap();
    assert_eq!(api.function(module, "nothing"), Err(500));
    assert_eq!(
        api.function(module, "test_count"),
        Err(500),
        "other arguments"
    );
    let count = api.function(module, "test_step").unwrap();
    let node = |threads| {
        Node::new(count, [1, 1, 1], threads)
            .address(at)
            .value(1)
            .value(1)
    };
    assert_eq!(api.launch(&node(64), stream), 1, "another block");
    assert_eq!(api.launch(&node(32), stream), 0);
    assert_eq!(api.synchronise(stream), 700, "freed memory");
    assert_eq!(api.alloc(4), Err(700));
    let complaints = api.complaints();
    for what in [
        "called before cuInit",
        "ends 64 bytes later",
        "was freed before",
        "no stream",
        "arguments of [8] bytes",
        "has 32 threads",
        "operand 0",
    ] {
        assert!(complaints.contains(what), "{what}: {complaints}");
    }
    std::thread::scope(|scope| {
        let other = scope.spawn(|| api.alloc(4));
        assert_eq!(
            other.join().unwrap(),
            Err(201),
            "no context on another thread"
        );
    });
    api.close(0);
    api.open(0);
    assert!(api.alloc(4).is_ok());
}

#[test]
fn writes_behind_memory_are_found() {
    let _alone = common::alone();
    let api = Api::hip();
    api.configure("");
    api.open(0);
    let stream = api.stream();
    let module = api.module(&hip_image("gfx942")).unwrap();
    let function = api.function(module, "test_out_of_range").unwrap();
    let at = api.alloc(16).unwrap();
    api.launch(
        &Node::new(function, [1, 1, 1], 32).address(at).value(4),
        stream,
    );
    assert_eq!(api.synchronise(stream), 0);
    assert!(
        api.complaints().contains("bytes around"),
        "{}",
        api.complaints()
    );
}

#[test]
fn failures_come_where_they_are_asked_for() {
    let _alone = common::alone();
    let api = Api::cuda();
    api.configure("devices=2");
    api.open(0);
    let before = api.calls();
    api.fail_at(2, 2);
    let first = api.alloc(4).unwrap();
    assert_eq!(api.alloc(4), Err(2));
    let third = api.alloc(4).unwrap();
    assert_eq!(api.calls(), before + 3);
    api.fail_call("cuMemFree_v2", 2, 719);
    assert_eq!(api.free(first), 0);
    assert_eq!(api.free(third), 719);
    assert_eq!(api.live("allocations"), 0, "released all the same");
    assert_eq!(api.alloc(4), Err(719));
    api.open(1);
    assert!(api.alloc(4).is_ok(), "the other device works");
    api.configure("fail=cuMemAlloc_v2:1:2");
    api.open(0);
    assert_eq!(api.alloc(4), Err(2));
    api.configure("devices=0");
    assert_eq!(api.init(), 100);
}

#[test]
fn images_must_be_for_the_device() {
    let _alone = common::alone();
    let cuda = Api::cuda();
    for (text, code) in [("arch=sm_80", 218), ("driver=11040", 222)] {
        cuda.configure(text);
        cuda.open(0);
        assert_eq!(cuda.module(CUDA_PTX), Err(code), "{text}");
    }
    let hip = Api::hip();
    hip.configure("arch=gfx1100");
    hip.open(0);
    assert_eq!(hip.module(&hip_image("gfx942")), Err(209));
    assert!(hip.module(&hip_image("gfx1100")).is_ok());
    assert_eq!(hip.compile("no kernel", "--offload-arch=gfx1100"), Err(6));
}

#[test]
fn devices_have_memory_and_handles_of_their_own() {
    let _alone = common::alone();
    for api in [Api::cuda(), Api::hip()] {
        api.configure("devices=2");
        let contexts = [api.open(0), api.open(1)];
        let there = api.alloc(4).unwrap();
        let there_stream = api.stream();
        let mut out = [1f32];
        api.open(0);
        let (here, stream) = (api.alloc(4).unwrap(), api.stream());
        assert_eq!(api.upload(here, out.as_ptr().cast(), 4, there_stream), 400);
        assert_eq!(api.upload(there, out.as_ptr().cast(), 4, stream), 1);
        assert_eq!(api.upload(here, out.as_ptr().cast(), 4, stream), 0);
        let peer = (contexts[1], contexts[0]);
        assert_eq!(api.copy_peer(there, here, peer, 4, stream), 0);
        assert_eq!(api.copy_peer(there, here, (peer.1, peer.0), 4, stream), 1);
        assert_eq!(api.synchronise(stream), 0);
        api.open(1);
        out[0] = 0.0;
        assert_eq!(
            api.download(out.as_mut_ptr().cast(), there, 4, there_stream),
            0
        );
        assert_eq!(out, [1.0]);
    }
}

#[test]
fn a_kernel_that_hangs_makes_the_device_fail() {
    let _alone = common::alone();
    let api = Api::hip();
    api.configure("");
    api.open(0);
    let (stream, event) = (api.stream(), api.event());
    let module = api.module(&hip_image("gfx942")).unwrap();
    let function = api.function(module, "test_returns_early").unwrap();
    let at = api.alloc(256).unwrap();
    assert_eq!(
        api.launch(&Node::new(function, [1, 1, 1], 64).address(at), stream),
        0
    );
    api.record(event, stream);
    let mut answers = std::iter::repeat_with(|| api.query(event));
    assert_eq!(answers.find(|code| *code != 600), Some(719));
    assert!(
        api.complaints()
            .contains("test_returns_early (wave 64), block 0,0,0")
    );
    assert_eq!(api.free(at), 719);
    assert_eq!(api.live("allocations"), 0);
}

#[test]
fn planted_mistakes_come_on_request_and_complaints_go_to_a_file() {
    let _alone = common::alone();
    let api = Api::hip();
    let log = tempfile::NamedTempFile::new().unwrap();
    for planted in [0, 1] {
        api.configure(&format!("planted={planted},log={}", log.path().display()));
        api.open(0);
        let stream = api.stream();
        let module = api.module(&hip_image("gfx942")).unwrap();
        let function = api.function(module, "test_block_sum").unwrap();
        let (x, sum) = (api.alloc(1024).unwrap(), api.alloc(4).unwrap());
        api.upload(x, [1f32; 256].as_ptr().cast(), 1024, stream);
        let node = Node::new(function, [1, 1, 1], 256)
            .address(x)
            .value(256)
            .address(sum);
        api.launch(&node, stream);
        let mut out = [0f32];
        api.download(out.as_mut_ptr().cast(), sum, 4, stream);
        assert_eq!(out[0] == 256.0, planted == 0);
    }
    assert_eq!(std::fs::read_to_string(log.path()).unwrap(), "");
    api.free(4096);
    let text = std::fs::read_to_string(log.path()).unwrap();
    assert_eq!(text, "hipFree: 0x1000 is no such allocation\n");
    api.configure("");
}

#[test]
fn launches_of_one_graph_follow_each_other() {
    let _alone = common::alone();
    let api = Api::cuda();
    for seed in 0..10 {
        api.configure(&format!("seed={seed}"));
        api.open(0);
        let (a, b) = (api.stream(), api.stream());
        let module = api.module(CUDA_PTX).unwrap();
        let step = api.function(module, "test_step").unwrap();
        let at = api.alloc(4).unwrap();
        let mut value = 1u32;
        api.upload(at, (&raw const value).cast(), 4, a);
        api.synchronise(a);
        let node = |term| {
            Node::new(step, [1, 1, 1], 32)
                .address(at)
                .value(2)
                .value(term)
        };
        let graph = api.graph();
        let first = api.node(graph, &[], &node(1)).unwrap();
        api.node(graph, &[first], &node(0)).unwrap();
        let exec = api.instantiate(graph);
        // What is added later is not in what was made executable before.
        api.node(graph, &[], &node(9)).unwrap();
        api.launch_graph(exec, a);
        api.launch_graph(exec, b);
        api.destroy_exec(exec);
        api.synchronise(a);
        api.download((&raw mut value).cast(), at, 4, b);
        // Twice: doubled and one more, doubled.
        assert_eq!(value, 26, "seed {seed}");
    }
}

#[test]
fn a_folder_has_the_drivers_names() {
    let folder = tempfile::tempdir().unwrap();
    hadal_gpumock::driver_folder(folder.path(), true).unwrap();
    for name in ["libcuda.so.1", "libamdhip64.so.7", "libnvrtc.so.13"] {
        assert!(folder.path().join(name).is_file(), "{name}");
    }
}
