//! `hadal perplexity`: how well a model predicts a text.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use hadal_engine::{EngineError, Model};
use serde_json::json;

use crate::args::{DeviceArgs, EngineArgs, ModelArgs};
use crate::console::{Console, Interrupts, Unit, seconds};
use crate::failure::{Failure, Result};
use crate::input::text_file;
use crate::open;

/// How well a model predicts a text.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    hadal perplexity --text story.txt\n  \
    hadal perplexity --text story.txt --window 512 --json\n\n\
    The text is read in windows that overlap by half; every token is scored once, with at \
    least half a window before it, those of the first window with all that is before them.")]
pub struct PerplexityArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// The text, UTF-8.
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens a window [default: the context].
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(4..))]
    window: Option<u32>,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Largest text that is scored: some hundred million tokens.
const MAX_TEXT_BYTES: usize = 1 << 30;

/// A window has a token to begin with, one to score, and as much again to overlap.
const LEAST_CONTEXT: u32 = 4;

/// Window where none is asked for. Never what the memory allows: scores would hang on it.
const USUAL_WINDOW: u32 = 4096;

/// Tokens a window of a model where none are asked for.
pub fn usual_window(model: &Model) -> u32 {
    USUAL_WINDOW.min(model.config.max_position_embeddings)
}

/// Runs the command.
pub fn run(args: &PerplexityArgs, console: &Console) -> Result<()> {
    let text = text_file(&args.text, MAX_TEXT_BYTES)?;
    if text.is_empty() {
        return Err(Failure::usage(format!("{} is empty", args.text.display())));
    }
    let interrupts = Interrupts::install()?;
    let model = open::model(&args.model)?;
    let context = args.window.or(Some(usual_window(&model)));
    let settings = open::engine_options(&args.engine, &model, context);
    if let Some(few) = settings.context.filter(|context| *context < LEAST_CONTEXT) {
        let why = format!("a context of {few} tokens is too small to score a text");
        return Err(Failure::usage(why).help(format!("choose at least {LEAST_CONTEXT}")));
    }
    let device = open::device(&args.device, console)?;
    let engine = open::engine(model, device, settings, &interrupts.cancel, console)?;
    let bar = console.bar("scoring", Unit::Tokens);
    let started = Instant::now();
    let mut progress = |done: usize, total: usize, sum: &hadal_engine::Perplexity| {
        bar.set(done as u64, total as u64);
        bar.message(format!(
            "scoring ({:.4} nats a token)",
            sum.nats_per_token()
        ));
    };
    let sum = hadal_engine::perplexity(
        &engine,
        &text,
        args.window,
        &interrupts.cancel,
        &mut progress,
    )
    .map_err(|error| match error {
        // The library's word for a list of tokens that has nothing to predict.
        EngineError::EmptyPrompt => Failure::usage(format!(
            "{} is a single token; there is nothing to predict",
            args.text.display()
        ))
        .help("give a text of at least two tokens"),
        other => other.into(),
    })?;
    bar.clear();
    let elapsed = started.elapsed();
    console.report(
        || {
            json!({
                "model": open::model_name(&args.model),
                "device": open::device_json(engine.device().info()),
                "tokens": sum.tokens,
                "bytes": sum.bytes,
                "nats_per_token": sum.nats_per_token(),
                "bits_per_byte": sum.bits_per_byte(),
                "perplexity": sum.perplexity(),
                "window": args.window.unwrap_or(engine.context()),
                "seconds": seconds(elapsed),
                "tokens_per_second": sum.tokens as f64 / elapsed.as_secs_f64(),
            })
        },
        || {
            format!(
                "{} tokens, {} bytes: {:.4} nats a token, {:.4} bits a byte, perplexity {:.3}\n",
                sum.tokens,
                sum.bytes,
                sum.nats_per_token(),
                sum.bits_per_byte(),
                sum.perplexity()
            )
        },
    )
}
