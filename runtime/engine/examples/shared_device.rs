//! A program that draws 60 frames a second and lets a model write on the same wgpu device: how
//! late are the frames? `cargo run --release -p hadal-engine --example shared_device`
//!
//! A frame is a pass that clears a texture, a buffer made and destroyed, and a wait for both;
//! its time runs from where it was due to its end on the device.

use std::error::Error;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hadal_engine::registry::hadal_wgpu::{
    WgpuDevice, WgpuOptions, from_wgpu, required_features, required_limits, wgpu,
};
use hadal_engine::{
    Cancel, Engine, EngineOptions, GenerateOptions, Model, SHARED_BUDGET, Session, generate,
};
use hadal_models::Config;
use hadal_tokens::TextModel;
use hadal_weights::Checkpoint;

const FRAME: Duration = Duration::from_millis(16);

/// A frame's time, and what the model did then.
type Frames = Arc<Mutex<Vec<(&'static str, Duration)>>>;

/// The application's side: its device and what it draws on.
struct Window {
    device: wgpu::Device,
    queue: wgpu::Queue,
    view: wgpu::TextureView,
}

impl Window {
    fn new(device: wgpu::Device, queue: wgpu::Queue) -> Window {
        let texture = device.create_texture(&wgpu::TextureDescriptor {
            label: Some("frame"),
            size: wgpu::Extent3d {
                width: 640,
                height: 480,
                depth_or_array_layers: 1,
            },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: wgpu::TextureFormat::Rgba8Unorm,
            usage: wgpu::TextureUsages::RENDER_ATTACHMENT,
            view_formats: &[],
        });
        let view = texture.create_view(&wgpu::TextureViewDescriptor::default());
        Window {
            device,
            queue,
            view,
        }
    }

    fn draw(&self) -> Result<(), wgpu::PollError> {
        let vertices = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("vertices"),
            size: 4096,
            usage: wgpu::BufferUsages::VERTEX | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.queue.write_buffer(&vertices, 0, &[0; 4096]);
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
            label: Some("frame"),
            color_attachments: &[Some(wgpu::RenderPassColorAttachment {
                view: &self.view,
                depth_slice: None,
                resolve_target: None,
                ops: wgpu::Operations {
                    load: wgpu::LoadOp::Clear(wgpu::Color::BLUE),
                    store: wgpu::StoreOp::Store,
                },
            })],
            ..Default::default()
        });
        let index = self.queue.submit([encoder.finish()]);
        self.device.poll(wgpu::PollType::Wait {
            submission_index: Some(index),
            timeout: None,
        })?;
        // Wants the lock that presenting a frame wants.
        vertices.destroy();
        Ok(())
    }

    /// Draws until `stop`; what the model does is in `doing`.
    fn run(&self, doing: &Mutex<&'static str>, frames: &Frames, stop: &AtomicBool) {
        let mut due = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let Ok(phase) = doing.lock().map(|phase| *phase) else {
                return;
            };
            if self.draw().is_err() {
                return;
            }
            let took = due.elapsed();
            if let Ok(mut frames) = frames.lock() {
                frames.push((phase, took));
            }
            due = (due + FRAME).max(Instant::now());
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
}

fn report(phase: &str, frames: &Frames) {
    let Ok(frames) = frames.lock() else { return };
    let of_phase = frames.iter().filter(|(name, _)| *name == phase);
    let mut times: Vec<f64> = of_phase.map(|(_, t)| t.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    let Some(last) = times.len().checked_sub(1) else {
        println!("{phase:<24} no frame");
        return;
    };
    let at = |share: f64| times[(share * last as f64) as usize];
    println!(
        "{phase:<24} {:>5} frames  p50 {:>6.2} ms  p99 {:>6.2} ms  max {:>6.2} ms",
        times.len(),
        at(0.5),
        at(0.99),
        times[last]
    );
}

fn model() -> Result<Arc<Model>, Box<dyn Error>> {
    let config = Config::from_json(hadal_tiny::CONFIG)?;
    let source = Checkpoint::from_static(&[("model", hadal_tiny::WEIGHTS)])?;
    let tokenizer_config = Some(hadal_tiny::TOKENIZER_CONFIG);
    let text = TextModel::from_bytes(hadal_tiny::TOKENIZER, tokenizer_config, None);
    let text = text.map_err(|error| error.to_string());
    Ok(Arc::new(Model::new(config, Arc::new(source), text)?))
}

/// Writes with slices of at most `budget`; returns tokens a second.
fn write(
    device: Arc<WgpuDevice>,
    budget: Duration,
    doing: &Mutex<&'static str>,
    phases: [&'static str; 3],
) -> Result<f64, Box<dyn Error>> {
    let enter = |phase| {
        if let Ok(mut doing) = doing.lock() {
            *doing = phase;
        }
    };
    enter(phases[0]);
    let options = EngineOptions {
        context: Some(1024),
        dispatch_budget: Some(budget),
        ..EngineOptions::default()
    };
    let mut quiet = |_| ControlFlow::Continue(());
    let engine = Arc::new(Engine::load(model()?, device, options, &mut quiet)?);
    let mut session = Session::new(&engine, true)?;
    let prompt = "It was late in the evening when the man came home. ".repeat(16);
    let options = GenerateOptions {
        max_tokens: Some(64),
        ignore_end: true,
        ..GenerateOptions::default()
    };
    let mut rate = 0.0;
    for phase in [phases[1], phases[2], phases[2]] {
        enter(phase);
        session.clear();
        let ids = match &engine.model().text {
            Ok(text) => text.encode_prompt(&prompt)?,
            Err(why) => return Err(why.clone().into()),
        };
        let cancel = Cancel::new();
        let mut on_event = |_| ControlFlow::Continue(());
        let done = generate(&mut session, &ids, &options, &cancel, &mut on_event)?;
        rate = done.tokens_per_second().unwrap_or(0.0);
    }
    Ok(rate)
}

fn main() -> Result<(), Box<dyn Error>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default()))?;
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        required_features: required_features(&adapter),
        required_limits: required_limits(&adapter),
        ..Default::default()
    }))?;
    let options = WgpuOptions::default();
    let shared = from_wgpu(&instance, &adapter, device.clone(), queue.clone(), options)?;
    println!("{}", adapter.get_info().name);
    let window = Window::new(device, queue);
    let (doing, stop) = (Mutex::new("idle"), AtomicBool::new(false));
    let frames = Frames::default();
    let phases = [
        [
            "loading, default slice",
            "first text, default",
            "text, default slice",
        ],
        [
            "loading, 4 ms slice",
            "first text, 4 ms",
            "text, 4 ms slice",
        ],
    ];
    std::thread::scope(|scope| {
        scope.spawn(|| window.run(&doing, &frames, &stop));
        std::thread::sleep(Duration::from_secs(3));
        let budgets = [SHARED_BUDGET, Duration::from_millis(4)];
        let rates = budgets
            .into_iter()
            .zip(phases)
            .map(|(budget, phases)| write(shared.clone(), budget, &doing, phases));
        let rates: Result<Vec<f64>, _> = rates.collect();
        stop.store(true, Ordering::Relaxed);
        rates
    })
    .map(|rates| {
        for phase in ["idle"].iter().chain(phases.as_flattened()) {
            report(phase, &frames);
        }
        println!("{rates:.1?} tokens a second with the default slice and with 4 ms");
    })
}
