//! Engines on a wgpu device that is the application's own: the same tokens as on a device of
//! Hadal's, two engines at once, results that stay on the device, and a device that is
//! destroyed in the middle of an answer. Without an adapter each test says that it did not run.

use std::ops::ControlFlow;
use std::sync::Arc;

use hadal_device::{Backend, Device, Error};
use hadal_engine::registry::hadal_wgpu::{
    WgpuBackend, WgpuDevice, WgpuOptions, from_wgpu, required_features, required_limits, wgpu,
};
use hadal_engine::{Cancel, Decoder, Engine, EngineError, EngineOptions, SamplingOptions, Session};
use hadal_tests::shipped::trained;

/// An application's device, and Hadal on it.
struct App {
    device: wgpu::Device,
    queue: wgpu::Queue,
    shared: Arc<WgpuDevice>,
}

fn app(test: &str) -> Option<App> {
    let mut desc = wgpu::InstanceDescriptor::new_without_display_handle();
    desc.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let instance = wgpu::Instance::new(desc);
    let asked = instance.request_adapter(&Default::default());
    let Ok(adapter) = pollster::block_on(asked) else {
        println!("NOT RUN: {test}: there is no adapter");
        return None;
    };
    let desc = wgpu::DeviceDescriptor {
        required_features: required_features(&adapter),
        required_limits: required_limits(&adapter),
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&desc)).expect("opens");
    device.on_uncaptured_error(Arc::new(|error| panic!("not the application's: {error}")));
    let options = WgpuOptions::default();
    let shared = from_wgpu(&instance, &adapter, device.clone(), queue.clone(), options);
    Some(App {
        device,
        queue,
        shared: shared.expect("it is shared"),
    })
}

fn engine(device: Arc<dyn Device>) -> Arc<Engine> {
    let options = EngineOptions {
        context: Some(128),
        chunk: 16,
        ..EngineOptions::default()
    };
    let mut quiet = |_| ControlFlow::Continue(());
    Arc::new(Engine::load(trained(), device, options, &mut quiet).expect("it loads"))
}

const PROMPT: [u32; 21] = [
    0, 300, 17, 802, 45, 1200, 9, 77, 512, 33, 1024, 5, 61, 700, 20, 90, 41, 333, 8, 15, 260,
];

/// Greedy tokens after the prompt; calls `between` before each step.
fn answer(
    engine: &Arc<Engine>,
    count: usize,
    mut between: impl FnMut(usize),
) -> Result<Vec<u32>, EngineError> {
    let mut session = Session::new(engine, true)?;
    let cancel = Cancel::new();
    let sampling = SamplingOptions {
        temperature: 0.0,
        ..SamplingOptions::default()
    };
    let mut decoder = Decoder::start(&mut session, &PROMPT, sampling, &cancel, &mut |_, _| {})?;
    let mut out = vec![decoder.newest()];
    while out.len() < count {
        between(out.len());
        out.extend(decoder.advance()?);
    }
    out.truncate(count);
    Ok(out)
}

#[test]
fn two_engines_on_the_applications_device_write_what_one_on_its_own_does() {
    let test = "two_engines_on_the_applications_device_write_what_one_on_its_own_does";
    let Some(app) = app(test) else { return };
    let own = WgpuBackend::default().open(0).expect("there is an adapter");
    let expected = answer(&engine(own), 12, |_| {}).expect("it writes");
    std::thread::scope(|threads| {
        let both = [(); 2].map(|()| {
            let device = app.shared.clone();
            threads.spawn(move || answer(&engine(device), 12, |_| {}).expect("it writes"))
        });
        for thread in both {
            assert_eq!(thread.join().expect("no panic"), expected);
        }
    });
}

#[test]
fn a_device_destroyed_in_the_middle_of_an_answer_is_a_lost_one() {
    let test = "a_device_destroyed_in_the_middle_of_an_answer_is_a_lost_one";
    let Some(app) = app(test) else { return };
    let engine = engine(app.shared.clone());
    let destroy = |done| {
        if done >= 4 {
            app.device.destroy();
        }
    };
    let lost = answer(&engine, 40, destroy);
    let Err(EngineError::Device(Error::Lost { why, .. })) = lost else {
        panic!("{lost:?}");
    };
    assert!(why.contains("application's"), "{why}");
    let again = Session::new(&engine, true).map(|_| ());
    assert!(
        matches!(again, Err(EngineError::Device(Error::Lost { .. }))),
        "{again:?}"
    );
}

/// Finds the largest of `count` values at `first`.
const LARGEST: &str = "
@group(0) @binding(0) var<storage, read> values: array<f32>;
@group(0) @binding(1) var<storage, read_write> found: u32;
@compute @workgroup_size(1) fn main() {
    var best = 0u;
    for (var i = 1u; i < arrayLength(&values); i += 1u) {
        if values[i] > values[best] { best = i; }
    }
    found = best;
}";

/// A pass of the application that reads `values` where they lie.
fn largest(app: &App, values: wgpu::BufferBinding<'_>) -> u32 {
    let device = &app.device;
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(LARGEST.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: Default::default(),
        cache: None,
    });
    let buffer = |usage| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 4,
            usage,
            mapped_at_creation: false,
        })
    };
    let found = buffer(wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC);
    let read = buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[
            wgpu::BindGroupEntry {
                binding: 0,
                resource: wgpu::BindingResource::Buffer(values),
            },
            wgpu::BindGroupEntry {
                binding: 1,
                resource: found.as_entire_binding(),
            },
        ],
    });
    let mut encoder = device.create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &group, &[]);
    pass.dispatch_workgroups(1, 1, 1);
    drop(pass);
    encoder.copy_buffer_to_buffer(&found, 0, &read, 0, 4);
    app.queue.submit([encoder.finish()]);
    read.map_async(wgpu::MapMode::Read, .., |mapped| mapped.expect("it maps"));
    let waited = device.poll(wgpu::PollType::wait_indefinitely());
    waited.expect("it runs");
    let bytes = read.get_mapped_range(..).expect("it is mapped").to_vec();
    u32::from_le_bytes(bytes.try_into().expect("four bytes"))
}

#[test]
fn a_pass_of_the_application_finds_the_next_token_in_the_logits() {
    let test = "a_pass_of_the_application_finds_the_next_token_in_the_logits";
    let Some(app) = app(test) else { return };
    let engine = engine(app.shared.clone());
    let expected = answer(&engine, 4, |_| {}).expect("it writes");
    let mut session = Session::new(&engine, false).expect("there is room");
    let (mut ids, mut found) = (PROMPT.to_vec(), Vec::new());
    for _ in 0..expected.len() {
        let next = session.logits_on_device(&ids, &Cancel::new(), |span| {
            let buffer = app.shared.buffer(span.buffer).expect("it lives");
            let values = wgpu::BufferBinding {
                buffer: &buffer,
                offset: span.offset,
                size: wgpu::BufferSize::new(span.bytes),
            };
            largest(&app, values)
        });
        ids = vec![next.expect("it runs")];
        found.push(ids[0]);
    }
    assert_eq!(found, expected);
}
