//! `hadal bench`: tokens per second at given depths, beside what the memory can do.
//!
//! Decides what is measured; `measure.rs` does it, `together.rs` for several sequences,
//! `kernels.rs` takes the time of single dispatches, the engine measures the memory and
//! `arithmetic.rs` products, which `floor.rs` makes a floor of, `report.rs` and `trace.rs` write
//! it down. Figures are medians;
//! nothing else should run on the machine.

mod arithmetic;
mod floor;
mod kernels;
mod measure;
mod report;
mod together;
mod trace;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use clap::builder::RangedI64ValueParser;
use hadal_conformance::Lacking;
use hadal_device::Features;
use hadal_engine::bandwidth::{self, Bandwidth, Effort};
use hadal_engine::plan::{Ask, MOST_SEQUENCES};
use hadal_engine::{Engine, EngineError, EngineOptions, Model};
use hadal_models::Config;
use hadal_models::manifest::{mtp_copies, official_manifest};
use hadal_weights::{DummySource, DummyTensor};

use crate::args::{DeviceArgs, EngineArgs, ModelArgs};
use crate::console::{Console, Interrupts, Unit};
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::{figures, open};
use floor::Floors;
use kernels::Phase;
use measure::{Measured, Plan};

/// Measure tokens per second and memory bandwidth.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    hadal bench\n  \
    hadal bench --model ~/Moonlight-16B --depth 0,4096 --json\n  \
    hadal bench --device vulkan,wgpu\n  \
    hadal bench --depth 0 --batch 1,4,16\n  \
    hadal bench --dummy-weights models/fixtures/configs/deepseek_v3.json --layers 5 --experts 16\n  \
    hadal bench --dummy-weights models/fixtures/configs/v3_layer.json --kernels\n  \
    hadal bench --depth 0 --trace trace.json\n\n\
    The forecast is what `hadal plan` expects of decoding, from the bandwidth measured here.\n\n\
    Several devices after --device are measured in turn, run by run. The share of the memory \
    bandwidth can pass 100 % where the weights fit a cache, as those of the small model do; \
    a kernel's time can then be below its floor.\n\n\
    The floor of a kernel is the longer of two times: its bytes of weights and cache at the \
    bandwidth of the device's memory, and its multiply-adds at the rate of a large square \
    product with weights of the same format, both measured on the same device. Kernels are \
    timed and traced with each dispatch submitted alone, so that their sum is longer than a \
    step.")]
pub struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Measure the shapes of this config.json with made-up weights. They must fit the memory:
    /// --layers N and --experts N keep a part of a large model.
    #[arg(long, value_name = "CONFIG", conflicts_with = "model")]
    dummy_weights: Option<PathBuf>,
    /// Keep only the first N layers of the config.
    #[arg(long, value_name = "N", requires = "dummy_weights")]
    layers: Option<u32>,
    /// Keep only N routed experts a layer.
    #[arg(long, value_name = "N", requires = "dummy_weights")]
    experts: Option<u32>,
    /// Tokens already in the cache when measuring begins.
    #[arg(
        long,
        value_name = "N,N,...",
        value_delimiter = ',',
        default_value = "0,1024",
        value_parser = tokens()
    )]
    depth: Vec<u32>,
    /// Tokens of a prompt; 0 leaves prompts out.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = tokens())]
    prefill: u32,
    /// Tokens to decode; 0 leaves decoding out.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = tokens())]
    decode: u32,
    /// Also decode so many sequences together, a token of each in a step: tokens a second of all
    /// of them. Each has --depth tokens of its own in its cache.
    #[arg(
        long,
        value_name = "N,N,...",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_SEQUENCES))
    )]
    batch: Vec<u32>,
    /// How often each is measured; the median counts.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    repeat: u32,
    /// Also take the time of every kernel, of a prompt and of a decoded token, at the first
    /// depth: beside it the bytes and multiply-adds it cannot do without, and how many times
    /// the least time that these take on the device ("x floor").
    #[arg(long)]
    kernels: bool,
    /// Also take the time of each other kernel that could do the same ("or"), at the first
    /// dispatch of its sizes. Implies --kernels.
    #[arg(long)]
    rows: bool,
    /// Write every dispatch of a step of a prompt and of a decoded token, in order, to a file
    /// that ui.perfetto.dev opens. Each is submitted alone. Implies --kernels.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Do as if the devices lacked these features: `cooperative-matrix`, `subgroups`, ...;
    /// `software`: take a software adapter for a GPU.
    #[arg(long, value_name = "FEATURE,...", value_delimiter = ',', value_parser = feature)]
    without: Vec<Features>,
    /// Seed of made-up weights.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Counts of tokens: far beyond every model, and sums of them are numbers still.
fn tokens() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(0..=1 << 24)
}

fn feature(name: &str) -> std::result::Result<Features, String> {
    let found = Features::ALL.iter().find(|(_, known)| *known == name);
    found.map(|(feature, _)| *feature).ok_or_else(|| {
        let known: Vec<&str> = Features::ALL.iter().map(|(_, name)| *name).collect();
        format!("there is no such feature; there are {}", known.join(", "))
    })
}

/// Runs the command.
pub fn run(args: &BenchArgs, console: &Console) -> Result<()> {
    let interrupts = Interrupts::install()?;
    // Before anything is measured, which takes a while.
    let trace = trace_file(args)?;
    let engines = engines(args, &interrupts, console)?;
    let mut measured = measure_all(&engines, args, &interrupts, console)?;
    let kernels = match args.kernels || args.rows || trace.is_some() {
        true => kernels::measure(&engines, args, &interrupts.cancel)?,
        false => Vec::new(),
    };
    for engine in &engines {
        let notes = engine.device().notes().into_iter();
        notes.for_each(|note| console.note(&format!("note: {note}")));
    }
    // Before the memory is measured, whose buffers are not the engine's. The engine's threads
    // sleep by then.
    let peak = figures::peak_process_bytes();
    let threads = args.device.threads.map(usize::from);
    let memory = engines
        .iter()
        .map(|engine| bandwidth::of_device(engine.device().as_ref(), threads, Effort::THOROUGH))
        .collect::<hadal_device::Result<Vec<_>>>()
        .map_err(EngineError::from)?;
    for row in &mut measured {
        for ((row, engine), memory) in row.iter_mut().zip(&engines).zip(&memory) {
            row.forecast = forecast(args, engine, memory, row.depth);
        }
    }
    let floors = floors(&engines, &memory, &kernels).map_err(EngineError::from)?;
    let found = Found {
        args,
        engines: &engines,
        peak,
        memory,
        measured,
        kernels,
        floors,
    };
    if let Some(output) = trace {
        trace::write(output, &found)?;
    }
    console.report(|| report::json(&found), || report::text(&found))
}

fn trace_file(args: &BenchArgs) -> Result<Option<Output>> {
    let Some(path) = &args.trace else {
        return Ok(None);
    };
    if args.prefill == 0 && args.decode == 0 {
        let why = "--trace has nothing to write: --prefill and --decode are both 0";
        return Err(Failure::usage(why).help("leave one of them above 0"));
    }
    Output::beside(args.model.model.as_deref().into_iter(), "--trace", path).map(Some)
}

/// The model on each of the devices.
fn engines(
    args: &BenchArgs,
    interrupts: &Interrupts,
    console: &Console,
) -> Result<Vec<Arc<Engine>>> {
    let model = match &args.dummy_weights {
        Some(path) => made_up(path, args, console)?,
        None => open::model(&args.model)?,
    };
    let deepest = args.depth.iter().max().copied().unwrap_or(0);
    let context = deepest + args.prefill.max(args.decode + 2).max(1);
    let settings = EngineOptions {
        batch: args.batch.iter().max().copied().unwrap_or(1),
        ..open::engine_options(&args.engine, &model, Some(context))
    };
    let mut engines = Vec::new();
    for device in devices(&args.device) {
        let mut chosen = open::device(&device, console)?;
        if !args.without.is_empty() {
            let features = args.without.iter().copied();
            let features = features.fold(Features::NONE, Features::with);
            chosen.device = Arc::new(Lacking::new(chosen.device, features));
        }
        let (model, settings, cancel) = (model.clone(), settings.clone(), &interrupts.cancel);
        let engine = open::engine(model, chosen, settings, cancel, console)?;
        engine.wait_for_pages();
        engines.push(engine);
    }
    Ok(engines)
}

/// Tokens a second that a plan expects at `depth`, from this bandwidth.
fn forecast(args: &BenchArgs, engine: &Engine, memory: &Bandwidth, depth: usize) -> Option<f64> {
    let depth = u32::try_from(depth).ok()?;
    let options = EngineOptions {
        context: Some(depth.max(1)),
        ..open::engine_options(&args.engine, engine.model(), None)
    };
    let ask = Ask {
        bandwidth: Some(bandwidth::Measured::given(memory.bytes_per_second)),
        threads: args.device.threads.map(usize::from),
        drafts: false,
    };
    let plan = hadal_engine::Plan::of(engine.model(), engine.device().info(), &options, &ask);
    let expected = plan.ok()?.decoding.into_iter();
    let mut expected = expected.filter(|it| it.batch == 1 && it.depth == depth);
    expected.next().map(|it| it.tokens_per_second)
}

/// What bounds the kernels of each engine, where they were measured.
fn floors(
    engines: &[Arc<Engine>],
    memory: &[Bandwidth],
    kernels: &[Vec<Phase>],
) -> hadal_device::Result<Vec<Floors>> {
    let engines = engines.iter().zip(memory).zip(kernels);
    let floors = engines.map(|((engine, memory), phases)| {
        let traced = phases.iter().flat_map(Phase::traced);
        Floors::measure(engine.device().as_ref(), memory, traced)
    });
    floors.collect()
}

/// One for each device of a list.
fn devices(args: &DeviceArgs) -> Vec<DeviceArgs> {
    let one = |name: &str| DeviceArgs {
        device: Some(name.trim().to_string()),
        ..args.clone()
    };
    match &args.device {
        Some(list) => list.split(',').map(one).collect(),
        None => vec![args.clone()],
    }
}

/// Everything a report tells.
struct Found<'a> {
    args: &'a BenchArgs,
    engines: &'a [Arc<Engine>],
    /// Most memory that the process ever had.
    peak: Option<u64>,
    /// By engine.
    memory: Vec<Bandwidth>,
    /// By depth, then by engine.
    measured: Vec<Vec<Measured>>,
    /// By engine; empty where not asked for.
    kernels: Vec<Vec<Phase>>,
    /// Of these kernels, by engine.
    floors: Vec<Floors>,
}

fn measure_all(
    engines: &[Arc<Engine>],
    args: &BenchArgs,
    interrupts: &Interrupts,
    console: &Console,
) -> Result<Vec<Vec<Measured>>> {
    let plan = Plan {
        prefill: args.prefill as usize,
        decode: args.decode as usize,
        repeat: args.repeat as usize,
        batch: args.batch.iter().map(|&count| count as usize).collect(),
        made_up: args.dummy_weights.is_some(),
    };
    let bar = console.bar("measuring", Unit::Runs);
    let runs_each = plan.runs(engines.len());
    let mut measured = Vec::new();
    for (index, &depth) in args.depth.iter().enumerate() {
        let mut progress = |run: usize| {
            bar.set(
                (index * runs_each + run) as u64,
                (args.depth.len() * runs_each) as u64,
            );
        };
        let cancel = &interrupts.cancel;
        let depth = depth as usize;
        measured.push(measure::at_depth(
            engines,
            depth,
            &plan,
            cancel,
            &mut progress,
        )?);
    }
    bar.clear();
    Ok(measured)
}

/// Any config.json with weights made in memory.
fn made_up(path: &Path, args: &BenchArgs, console: &Console) -> Result<Arc<Model>> {
    let config = Config::from_json(&open::config_text(path)?)?.cut(args.layers, args.experts)?;
    let copies = mtp_copies(&config);
    let tensors = official_manifest(&config)
        .into_iter()
        .filter(|tensor| !copies.iter().any(|copy| copy.name == tensor.name))
        .map(|tensor| DummyTensor {
            name: tensor.name,
            shape: tensor.shape,
            dtype: tensor.dtype,
        });
    let tensors: Vec<DummyTensor> = tensors.collect();
    let bytes = |tensor: &DummyTensor| tensor.dtype.row_bytes(tensor.shape.iter().product());
    let total: u64 = tensors.iter().map(bytes).sum();
    console.note(&format!("making up {} of weights", figures::bytes(total)));
    let source = DummySource::new(tensors, args.seed).map_err(|error| {
        Failure::from(EngineError::from(error))
            .help("--layers N and --experts N measure a part of the model")
    })?;
    let no_text = Err("made-up weights have no tokenizer".to_string());
    Ok(Arc::new(Model::new(config, Arc::new(source), no_text)?))
}

fn name(args: &BenchArgs) -> String {
    match &args.dummy_weights {
        None => open::model_name(&args.model),
        Some(path) => {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            format!("{stem}, made-up weights")
        }
    }
}
