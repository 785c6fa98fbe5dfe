//! `hadal bench`: tokens per second at given depths, beside what the memory can do.
//!
//! Decides what is measured and reported; `measure.rs` does it, `bandwidth.rs` measures the
//! memory. Figures are medians; nothing else should run on the machine.

mod bandwidth;
mod measure;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use clap::builder::RangedI64ValueParser;
use hadal_engine::{Engine, EngineError, Model};
use hadal_models::Config;
use hadal_models::manifest::{mtp_copies, official_manifest};
use hadal_weights::{DummySource, DummyTensor};
use serde_json::{Value, json};

use crate::args::{DeviceArgs, EngineArgs, ModelArgs};
use crate::console::{Console, Interrupts, Unit};
use crate::failure::{Failure, Result};
use crate::{figures, open};
use bandwidth::Bandwidth;
use measure::{Measured, Plan};

/// Measure tokens per second and memory bandwidth.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    hadal bench\n  \
    hadal bench --model ~/Moonlight-16B --depth 0,4096 --json\n  \
    hadal bench --dummy-weights models/fixtures/configs/deepseek_v3.json --layers 5 --experts 16\n\n\
    The share of the memory bandwidth can pass 100 % where the weights fit the processor's \
    cache, as those of the small model do.")]
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
    /// How often each is measured; the median counts.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    repeat: u32,
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

/// Runs the command.
pub fn run(args: &BenchArgs, console: &Console) -> Result<()> {
    let interrupts = Interrupts::install()?;
    let model = match &args.dummy_weights {
        Some(path) => made_up(path, args, console)?,
        None => open::model(&args.model)?,
    };
    let deepest = args.depth.iter().max().copied().unwrap_or(0);
    let context = deepest + args.prefill.max(args.decode + 2).max(1);
    let settings = open::engine_options(&args.engine, Some(context));
    let device = open::device(&args.device, console)?;
    let engine = open::engine(model, device, settings, &interrupts.cancel, console)?;
    let plan = Plan {
        prefill: args.prefill as usize,
        decode: args.decode as usize,
        repeat: args.repeat as usize,
        made_up: args.dummy_weights.is_some(),
    };
    let bar = console.bar("measuring", Unit::Runs);
    let runs_each = plan.runs();
    let mut measured = Vec::new();
    for (index, &depth) in args.depth.iter().enumerate() {
        let mut progress = |run: usize| {
            bar.set(
                (index * runs_each + run) as u64,
                (args.depth.len() * runs_each) as u64,
            );
        };
        measured.push(measure::at_depth(
            &engine,
            depth as usize,
            &plan,
            &interrupts.cancel,
            &mut progress,
        )?);
    }
    bar.clear();
    // Before the memory is measured, whose buffers are not the engine's. The engine's threads
    // sleep by then.
    let peak = figures::peak_process_bytes();
    let memory = bandwidth::measure(args.device.threads.map(usize::from));
    console.report(
        || report(args, &engine, peak, &memory, &measured),
        || text(args, &engine, &memory, &measured),
    )
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
    let bytes = |tensor: &DummyTensor| tensor.shape.iter().product::<u64>() * tensor.dtype.bytes();
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

fn text(args: &BenchArgs, engine: &Engine, memory: &Bandwidth, measured: &[Measured]) -> String {
    let config = &engine.model().config;
    let mut out = format!(
        "{}: {} layers, {} experts, weights {} | memory reads {:.1} GB/s with {} threads\n\n\
         {:>7} {:>14} {:>14} {:>12} {:>10} {:>10}  {}\n",
        name(args),
        config.num_hidden_layers,
        config.n_routed_experts,
        figures::bytes(engine.weight_bytes()),
        memory.bytes_per_second / 1e9,
        memory.threads,
        "depth",
        "prefill tok/s",
        "decode tok/s",
        "bytes/token",
        "GB/s",
        "of memory",
        "with drafts"
    );
    let rate = |rate: Option<f64>| rate.map_or("-".to_string(), |rate| format!("{rate:.1}"));
    for row in measured {
        let moved = row.decode_bytes_per_second();
        let share = moved.map(|moved| 100.0 * moved / memory.bytes_per_second);
        let drafts = row.drafted.as_ref().map_or(String::new(), |drafted| {
            format!(
                "{:.1} tok/s, {:.0} % accepted",
                drafted.tokens_per_second,
                100.0 * drafted.acceptance
            )
        });
        out.push_str(&format!(
            "{:>7} {:>14} {:>14} {:>12} {:>10} {:>8} %  {drafts}\n",
            row.depth,
            rate(row.prefill.median()),
            rate(row.decode.median()),
            figures::bytes(row.bytes_per_token),
            rate(moved.map(|moved| moved / 1e9)),
            share.map_or("-".to_string(), |share| format!("{share:.0}")),
        ));
    }
    out
}

fn report(
    args: &BenchArgs,
    engine: &Engine,
    peak: Option<u64>,
    memory: &Bandwidth,
    measured: &[Measured],
) -> Value {
    let config = &engine.model().config;
    let rows = measured.iter().map(|row| {
        let moved = row.decode_bytes_per_second();
        json!({
            "depth": row.depth,
            "prefill_tokens": args.prefill,
            "prefill_tokens_per_second": row.prefill.median(),
            "prefill_samples": row.prefill.samples,
            "decode_tokens": args.decode,
            "decode_tokens_per_second": row.decode.median(),
            "decode_samples": row.decode.samples,
            "bytes_per_token": row.bytes_per_token,
            "decode_bytes_per_second": moved,
            "bandwidth_share": moved.map(|moved| moved / memory.bytes_per_second),
            "drafts": row.drafted.as_ref().map(|drafted| json!({
                "tokens_per_second": drafted.tokens_per_second,
                "acceptance": drafted.acceptance,
            })),
        })
    });
    json!({
        "model": name(args),
        "made_up_weights": args.dummy_weights.is_some(),
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "experts": config.n_routed_experts,
        "device": open::device_json(engine.device().info()),
        "weight_bytes": engine.weight_bytes(),
        "peak_process_bytes": peak,
        "memory_bandwidth": {
            "read_bytes_per_second": memory.bytes_per_second,
            "threads": memory.threads,
        },
        "repeat": args.repeat,
        "rows": rows.collect::<Vec<_>>(),
    })
}
