//! `hadal imatrix`: how much each column of each weight matters for a text.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use hadal_engine::{Budget, EngineOptions, Model, Numbers, Tensor, activations};
use hadal_models::Config;
use hadal_quantize::{Collector, write_importance};
use serde_json::json;

use super::quantize::threads;
use crate::args::{DeviceArgs, ModelArgs};
use crate::console::{Console, Interrupts, Unit, seconds};
use crate::failure::{Failure, Result};
use crate::input::text_file;
use crate::open;
use crate::output::Output;

/// How much each column of each weight matters for a text, for `hadal quantize --imatrix`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    hadal imatrix --text stories.txt -o small.imatrix.gguf\n  \
    hadal imatrix --model ~/DeepSeek-V3 --text mixed.txt --tokens 100000 -o v3.imatrix.gguf\n\n\
    The file is GGUF: for each tensor NAME the sums of squares of what it was multiplied by,\n\
    NAME.in_sum2, and how many rows were summed, NAME.counts; of experts for each of them. Take\n\
    a text like those that the model is for, of some ten thousand tokens at least: an expert\n\
    that no token goes to is quantised as if all its columns mattered alike.")]
pub struct ImatrixArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The text, UTF-8.
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// Tokens a window: each begins with an empty context.
    #[arg(
        long,
        value_name = "TOKENS",
        default_value_t = 512,
        value_parser = clap::value_parser!(u32).range(2..)
    )]
    window: u32,
    /// Stop after so many tokens of the text.
    #[arg(long, value_name = "TOKENS")]
    tokens: Option<usize>,
    /// Memory that may be used, where it is not all that is free: `device=20GiB,host=64GiB`.
    #[arg(long, value_name = "MEMORY=SIZE,...", value_parser = crate::budget::parse)]
    budget: Option<Budget>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Largest text that is read.
const MAX_TEXT_BYTES: usize = 1 << 30;

/// Memory that the values of a step may take on the device.
const STEP_BYTES: u64 = 1 << 30;

/// Runs the command.
pub fn run(args: &ImatrixArgs, console: &Console) -> Result<()> {
    let text = text_file(&args.text, MAX_TEXT_BYTES)?;
    let interrupts = Interrupts::install()?;
    let model = open::model(&args.model)?;
    let ids = ids(args, &model, &text)?;
    let out = Output::beside(open::files(&model), "--out", &args.out)?;
    let options = EngineOptions {
        context: Some(args.window.min(model.config.max_position_embeddings)),
        chunk: chunk(&model.config, args.window),
        budget: args.budget.unwrap_or_default(),
        ..EngineOptions::default()
    };
    let device = open::device(&args.device, console)?;
    let engine = open::engine(model.clone(), device, options, &interrupts.cancel, console)?;
    let source = model.source.as_ref();
    let mut collector = Collector::new(&model.config, source, threads(&args.device));
    let bar = console.bar("reading", Unit::Tokens);
    let started = Instant::now();
    // A failure here is told after the run, which has errors of its own kind only.
    let mut failed = None;
    let mut visit = |tensors: &[Tensor], done: usize| {
        bar.set(done as u64, ids.len() as u64);
        if let Err(error) = step(&mut collector, tensors) {
            failed = Some(error);
            return Err(hadal_engine::EngineError::Cancelled);
        }
        Ok(())
    };
    let window = engine.context().min(args.window);
    let outcome = activations(&engine, &ids, window, &interrupts.cancel, &mut visit);
    if let Some(error) = failed {
        return Err(error.into());
    }
    outcome?;
    bar.clear();
    let summed = collector.summed();
    let name = args.text.display().to_string();
    out.finish(|file| write_importance(file, &summed, &name, args.window))?;
    let (experts, unseen) = collector.experts_seen();
    let time = started.elapsed();
    console.report(
        || {
            json!({
                "out": args.out.display().to_string(),
                "model": open::model_name(&args.model),
                "tokens": ids.len(),
                "tensors": summed.len(),
                "experts": experts,
                "experts_without_tokens": unseen,
                "seconds": seconds(time),
            })
        },
        || {
            format!(
                "{} tokens in {:.1} s: {} tensors written to {}; {unseen} of {experts} experts \
                 saw no token\n",
                ids.len(),
                time.as_secs_f64(),
                summed.len(),
                args.out.display()
            )
        },
    )
}

/// The tokens to read.
fn ids(args: &ImatrixArgs, model: &Model, text: &str) -> Result<Vec<u32>> {
    let mut ids = model.text()?.tokenizer().encode(text)?;
    ids.truncate(args.tokens.unwrap_or(usize::MAX));
    if ids.is_empty() {
        let why = format!("{} has no token to read", args.text.display());
        return Err(Failure::usage(why).help("give a text that is not empty"));
    }
    Ok(ids)
}

/// Adds the values of a step.
fn step(collector: &mut Collector<'_>, tensors: &[Tensor]) -> hadal_quantize::Result<()> {
    let (mut values, mut routes) = (BTreeMap::new(), BTreeMap::new());
    for tensor in tensors {
        let name = tensor.name.as_str();
        let width = tensor.shape.last().copied().unwrap_or(1);
        match &tensor.numbers {
            Numbers::F32(numbers) => {
                values.insert(name, (width, numbers.as_slice()));
            }
            Numbers::I64(numbers) => {
                if let Some(layer) = name.strip_suffix(".router_idx") {
                    let experts = numbers.iter().map(|index| *index as u32).collect();
                    routes.insert(layer, (width, experts));
                }
            }
            Numbers::F64(_) => {}
        }
    }
    collector.step(&values, &routes)
}

/// Tokens a step whose values fit the device.
fn chunk(config: &Config, window: u32) -> u32 {
    let c = config;
    let heads = c.num_attention_heads;
    let attention = heads * (c.qk_nope_head_dim + c.qk_rope_head_dim + c.v_head_dim);
    let feed_forward = c.intermediate_size.max(c.n_routed_experts);
    let layer = 5 * c.hidden_size + attention + feed_forward;
    let token = 4 * u64::from(layer) * u64::from(c.all_layers());
    let fits = (STEP_BYTES / token).clamp(1, 256) as u32;
    // Steps are made for powers of two.
    (1 << fits.ilog2()).min(window)
}
