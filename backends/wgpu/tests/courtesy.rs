//! What a device tells of its work and its memory, so that others can keep to a budget, and
//! how it is lost on purpose. Without an adapter each test says that it did not run.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::filling;
use hadal_device::{Backend, BufferDesc, Device, Error, Ticket};
use hadal_wgpu::{WgpuBackend, WgpuOptions};

fn device(test: &str, options: WgpuOptions) -> Option<Arc<dyn Device>> {
    match WgpuBackend::new(options).open(0) {
        Ok(device) => Some(device),
        Err(error) => {
            println!("NOT RUN: {test}: {error}");
            None
        }
    }
}

#[test]
fn the_device_time_of_a_submit_is_told_once_it_is_done() {
    let test = "the_device_time_of_a_submit_is_told_once_it_is_done";
    let Some(device) = device(test, WgpuOptions::default()) else {
        return;
    };
    let time = |times| {
        let (program, buffer) = filling(device.as_ref(), 8 << 20, times);
        let mut executable = device.prepare(&program).expect("it prepares");
        executable.submit(&[buffer]).expect("the first is dearer");
        let started = Instant::now();
        let ticket = executable.submit(&[buffer]).expect("submit");
        device.wait(ticket).expect("wait");
        let waited = started.elapsed();
        let time = device.gpu_time(ticket)?;
        assert_eq!(device.gpu_time(ticket), Some(time), "asked again");
        assert!(time <= waited, "{time:?} of {waited:?}");
        Some(time)
    };
    let (Some(short), Some(long)) = (time(1), time(40)) else {
        println!("NOT RUN: {test}: this adapter has no timestamps");
        return;
    };
    assert!(
        long > 4 * short && long > Duration::ZERO,
        "{long:?} after {short:?}"
    );
    assert_eq!(device.gpu_time(Ticket(u64::MAX)), None);
    assert_eq!(device.gpu_time(Ticket(0)), None);
}

#[test]
fn submits_are_counted_with_what_they_cost() {
    let Some(device) = device(
        "submits_are_counted_with_what_they_cost",
        WgpuOptions::default(),
    ) else {
        return;
    };
    let (program, buffer) = filling(device.as_ref(), 64, 3);
    let mut executable = device.prepare(&program).expect("it prepares");
    let before = device.submit_cost();
    let started = Instant::now();
    for _ in 0..5 {
        executable.submit(&[buffer]).expect("submit");
    }
    let took = started.elapsed();
    let after = device.submit_cost();
    assert_eq!(after.submits - before.submits, 5);
    let (total, driver) = (after.total - before.total, after.driver - before.driver);
    assert!(
        Duration::ZERO < driver && driver < total,
        "{driver:?} of {total:?}"
    );
    assert!(total <= took, "{total:?} of {took:?}");
}

#[test]
fn a_device_is_lost_after_as_many_submits_as_asked_for() {
    let options = WgpuOptions {
        lose_after_submits: Some(3),
        ..WgpuOptions::default()
    };
    let test = "a_device_is_lost_after_as_many_submits_as_asked_for";
    let Some(device) = device(test, options) else {
        return;
    };
    let (program, buffer) = filling(device.as_ref(), 64, 1);
    let mut executable = device.prepare(&program).expect("it prepares");
    let results: Vec<_> = (0..5).map(|_| executable.submit(&[buffer])).collect();
    assert!(results[..3].iter().all(Result::is_ok), "{results:?}");
    for result in &results[3..] {
        assert!(matches!(result, Err(Error::Lost { .. })), "{results:?}");
    }
}

#[test]
fn memory_beyond_the_share_of_the_budget_is_refused() {
    let test = "memory_beyond_the_share_of_the_budget_is_refused";
    let options = WgpuOptions {
        memory_percent: Some(1),
        ..WgpuOptions::default()
    };
    let Some(device) = device(test, options) else {
        return;
    };
    // A hundredth of the free memory of no machine that runs this holds them.
    let wanted = 128 << 20;
    let allocs = (0..64).map(|_| device.alloc(&BufferDesc::new("cache of layer 7", wanted)));
    match allocs.filter_map(Result::err).next() {
        Some(Error::OutOfMemory {
            what, wanted_bytes, ..
        }) => assert_eq!((what.as_str(), wanted_bytes), ("cache of layer 7", wanted)),
        Some(other) => panic!("{other}"),
        None => println!("NOT RUN: {test}: this driver reports no budget"),
    }
    device.alloc(&BufferDesc::new("small", 16)).map_or_else(
        |error| assert!(matches!(error, Error::OutOfMemory { .. }), "{error}"),
        |buffer| device.free(buffer),
    );
}
