//! Hadal on the application's own device: whose errors are whose, whose turn it is, what is
//! left behind. Without an adapter each test says that it did not run.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use common::filling;
use hadal_device::{BufferDesc, BufferId, Device, Error, Features, Span};
use hadal_wgpu::{WgpuDevice, WgpuOptions, from_wgpu, required_features, required_limits, wgpu};

#[path = "../../contract.rs"]
mod contract;

contract::for_each!(open);

/// A shared device keeps the contract as any other.
fn open(test: &str) -> Option<Arc<dyn Device>> {
    Some(App::whole(test)?.share().expect("it is shared"))
}

/// An application with a device.
struct App {
    instance: wgpu::Instance,
    adapter: wgpu::Adapter,
    device: wgpu::Device,
    queue: wgpu::Queue,
    /// What its handler heard.
    errors: Arc<AtomicU32>,
    /// Its callback for a loss was called.
    lost: Arc<AtomicBool>,
}

impl App {
    fn open(test: &str, features: wgpu::Features, limits: Option<wgpu::Limits>) -> Option<App> {
        let mut desc = wgpu::InstanceDescriptor::new_without_display_handle();
        desc.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
        let instance = wgpu::Instance::new(desc);
        let asked = instance.request_adapter(&Default::default());
        let Ok(adapter) = pollster::block_on(asked) else {
            println!("NOT RUN: {test}: there is no adapter");
            return None;
        };
        let desc = wgpu::DeviceDescriptor {
            required_features: features & required_features(&adapter),
            required_limits: limits.unwrap_or_else(|| required_limits(&adapter)),
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&desc)).expect("opens");
        let (errors, lost) = (
            Arc::new(AtomicU32::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (heard, left) = (errors.clone(), lost.clone());
        device.on_uncaptured_error(Arc::new(move |_| {
            heard.fetch_add(1, Ordering::Relaxed);
        }));
        device.set_device_lost_callback(move |_, _| left.store(true, Ordering::Relaxed));
        Some(App {
            instance,
            adapter,
            device,
            queue,
            errors,
            lost,
        })
    }

    fn whole(test: &str) -> Option<App> {
        App::open(test, wgpu::Features::all(), None)
    }

    fn share(&self) -> hadal_device::Result<Arc<WgpuDevice>> {
        let (device, queue) = (self.device.clone(), self.queue.clone());
        let options = WgpuOptions::default();
        from_wgpu(&self.instance, &self.adapter, device, queue, options)
    }

    /// Something the application does wrong.
    fn blunder(&self) {
        let _ = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("wrong"),
            size: 16,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
    }

    fn wait(&self) {
        let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
    }
}

fn span(buffer: BufferId, bytes: u64) -> Span {
    Span {
        buffer,
        offset: 0,
        bytes,
    }
}

#[test]
fn errors_stay_with_whose_they_are() {
    let Some(app) = App::whole("errors_stay_with_whose_they_are") else {
        return;
    };
    let shared = app.share().expect("it is shared");
    assert!(shared.info().features.has(Features::SHARED));
    let (program, buffer) = filling(shared.as_ref(), 64, 1);
    let mut executable = shared.prepare(&program).expect("it prepares");
    // Ours, which wgpu finds: the application destroyed what we bound.
    shared.buffer(buffer).expect("it is there").destroy();
    let refused = executable.submit(&[buffer]);
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    assert_eq!(app.errors.load(Ordering::Relaxed), 0);
    // Theirs, on the thread that we run on and within a scope of theirs around us.
    app.blunder();
    assert_eq!(app.errors.load(Ordering::Relaxed), 1);
    let scope = app.device.push_error_scope(wgpu::ErrorFilter::Validation);
    let (program, other) = filling(shared.as_ref(), 64, 1);
    let mut executable = shared.prepare(&program).expect("it prepares");
    let ticket = executable.submit(&[other]).expect("theirs is not ours");
    shared.wait(ticket).expect("it runs");
    let refused = shared.prepare(&program).expect("again").submit(&[buffer]);
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    assert!(pollster::block_on(scope.pop()).is_none());
    // And while we run on another thread.
    std::thread::scope(|threads| {
        threads.spawn(|| (0..50).for_each(|_| app.blunder()));
        for _ in 0..50 {
            let ticket = executable.submit(&[other]).expect("theirs is not ours");
            shared.wait(ticket).expect("it runs");
        }
    });
    assert_eq!(app.errors.load(Ordering::Relaxed), 51);
    assert!(!app.lost.load(Ordering::Relaxed));
}

#[test]
fn what_the_application_submits_runs_after_one_submit_at_most() {
    let test = "what_the_application_submits_runs_after_one_submit_at_most";
    let Some(app) = App::whole(test) else { return };
    let shared = app.share().expect("it is shared");
    let (program, buffer) = filling(shared.as_ref(), 16 << 20, 20);
    let mut executable = shared.prepare(&program).expect("it prepares");
    let mut before = executable.submit(&[buffer]).expect("submit");
    for _ in 0..10 {
        let ticket = executable.submit(&[buffer]).expect("submit");
        assert!(shared.completed() >= before, "two at once");
        before = ticket;
    }
    // From two threads too.
    let newest = Mutex::new(before);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                let mut executable = shared.prepare(&program).expect("it prepares");
                for _ in 0..10 {
                    let ticket = executable.submit(&[buffer]).expect("submit");
                    let mut newest = newest.lock().expect("no panic");
                    *newest = ticket.max(*newest);
                    assert!(shared.completed().0 + 1 >= ticket.0, "two at once");
                }
            });
        }
    });
    shared
        .wait(newest.into_inner().expect("no panic"))
        .expect("it runs");
}

#[test]
fn a_device_with_webgpus_defaults_and_no_features_will_do() {
    let test = "a_device_with_webgpus_defaults_and_no_features_will_do";
    let limits = Some(wgpu::Limits::default());
    let Some(app) = App::open(test, wgpu::Features::empty(), limits) else {
        return;
    };
    let shared = app.share().expect("it is shared");
    let info = shared.info();
    assert_eq!(
        (info.limits.max_binding_bytes, info.limits.max_operands),
        (128 << 20, 8)
    );
    assert!(
        !info
            .features
            .meets(Features::SUBGROUPS.with(Features::SHADER_F16))
    );
    let (program, buffer) = filling(shared.as_ref(), 64, 1);
    let mut executable = shared.prepare(&program).expect("it prepares");
    let ticket = executable.submit(&[buffer]).expect("submit");
    shared.wait(ticket).expect("it runs");
    assert_eq!(shared.gpu_time(ticket), None);
    let mut bytes = [0; 64];
    shared.read(span(buffer, 64), &mut bytes).expect("it reads");
    assert_eq!(bytes, [7; 64]);
}

#[test]
fn every_limit_that_is_too_low_is_named_with_what_is_needed() {
    let test = "every_limit_that_is_too_low_is_named_with_what_is_needed";
    let limits = wgpu::Limits {
        max_storage_buffers_per_shader_stage: 4,
        max_compute_workgroup_storage_size: 8 << 10,
        ..wgpu::Limits::default()
    };
    let Some(app) = App::open(test, wgpu::Features::empty(), Some(limits)) else {
        return;
    };
    let Err(Error::Unsupported { why, .. }) = app.share() else {
        panic!("it is too little");
    };
    for part in [
        "max_storage_buffers_per_shader_stage is 4 and must be at least 8",
        "max_compute_workgroup_storage_size is 8192 and must be at least 16384",
        "required_limits",
    ] {
        assert!(why.contains(part), "{why}");
    }
    assert!(!why.contains("max_buffer_size"), "{why}");
}

#[test]
fn a_destroyed_device_is_lost_and_nobody_panics() {
    let Some(app) = App::whole("a_destroyed_device_is_lost_and_nobody_panics") else {
        return;
    };
    let shared = app.share().expect("it is shared");
    let (program, buffer) = filling(shared.as_ref(), 1 << 20, 20);
    let mut executable = shared.prepare(&program).expect("it prepares");
    executable.submit(&[buffer]).expect("submit");
    app.device.destroy();
    let results = [
        executable.submit(&[buffer]).map(|_| ()),
        shared.alloc(&BufferDesc::new("more", 16)).map(|_| ()),
        shared.write(span(buffer, 16), &[0; 16]),
        shared.read(span(buffer, 16), &mut [0; 16]),
        shared.prepare(&program).map(|_| ()),
    ];
    for result in results {
        assert!(matches!(result, Err(Error::Lost { .. })), "{result:?}");
    }
    shared.free(buffer);
    drop((executable, shared));
    app.wait();
    assert!(app.lost.load(Ordering::Relaxed), "their callback is theirs");
    assert_eq!(app.errors.load(Ordering::Relaxed), 0);
}

#[test]
fn a_read_finds_the_device_destroyed() {
    let Some(app) = App::whole("a_read_finds_the_device_destroyed") else {
        return;
    };
    let shared = app.share().expect("it is shared");
    let buffer = shared.alloc(&BufferDesc::new("read", 16)).expect("memory");
    app.device.destroy();
    let read = shared.read(span(buffer, 16), &mut [0; 16]);
    assert!(matches!(read, Err(Error::Lost { .. })), "{read:?}");
    let shared = app.share().map(|_| ());
    assert!(matches!(shared, Err(Error::Lost { .. })), "{shared:?}");
}

#[test]
fn nothing_of_ours_stays_and_the_device_does() {
    let test = "nothing_of_ours_stays_and_the_device_does";
    let Some(app) = App::whole(test) else { return };
    let allocated = || {
        app.wait();
        let report = app.device.generate_allocator_report();
        report.map(|report| report.total_allocated_bytes)
    };
    let before = allocated();
    let shared = app.share().expect("it is shared");
    let (program, buffer) = filling(shared.as_ref(), 4 << 20, 20);
    let mut executable = shared.prepare(&program).expect("it prepares");
    executable.submit(&[buffer]).expect("submit");
    if let (Some(before), Some(within)) = (before, allocated()) {
        assert!(within >= before + (4 << 20), "{within} after {before}");
    } else {
        println!("NOT RUN: {test}: this driver reports no allocations");
    }
    // The wrong way round, with work under way.
    executable.submit(&[buffer]).expect("submit");
    drop(shared);
    drop(executable);
    let after = allocated();
    assert!(after <= before, "{after:?} after {before:?}");
    assert!(!app.lost.load(Ordering::Relaxed));
    let again = app.share().expect("it is still there");
    filling(again.as_ref(), 64, 1);
    // The application's handles first.
    let App { errors, .. } = app;
    let (program, buffer) = filling(again.as_ref(), 64, 1);
    let mut executable = again.prepare(&program).expect("it prepares");
    executable.submit(&[buffer]).expect("submit");
    assert_eq!(errors.load(Ordering::Relaxed), 0);
}
