//! `hadal quantize`: from a model to a GGUF file.

mod report;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use hadal_device::DType;
use hadal_engine::{Cancel, EngineOptions, Model, Perplexity, gguf_file, gguf_model};
use hadal_models::Config;
use hadal_quantize::{
    Choice, Importance, Options, Plan, Planned, Progress, QuantizeError, Stage, TextFiles, Value,
    Watch, Written, quantize,
};
use hadal_weights::{Gguf, Metadata, gguf_stem};

use crate::args::{DeviceArgs, ModelArgs};
use crate::commands::perplexity;
use crate::console::{Console, Interrupts, Unit};
use crate::failure::{Failure, Result};
use crate::input::text_file;
use crate::open;

/// Make a smaller file of a model: GGUF, in the formats of a recipe.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    hadal quantize small.gguf\n  \
    hadal quantize --model ~/DeepSeek-V3 --recipe Q4_K_M --dry-run v3.gguf\n  \
    hadal quantize --model ~/DeepSeek-V3 --recipe IQ2_XS --imatrix v3.imatrix.gguf v3.gguf\n  \
    hadal quantize --model ~/DeepSeek-V3 --experts iq2_xxs --attention q6_k \\\n      \
    --tensor 'blk.?.attn_*=q8_0' v3.gguf\n\n\
    Recipes: F16 BF16 Q8_0 Q6_K Q5_1 Q5_0 Q5_K_M Q5_K_S Q4_1 Q4_0 Q4_K_M Q4_K_S IQ4_NL IQ4_XS\n\
    Q3_K_L Q3_K_M Q3_K_S IQ3_S IQ3_M IQ3_XXS Q2_K IQ2_M IQ2_S IQ2_XS IQ2_XXS IQ1_M IQ1_S\n\
    TQ2_0 TQ1_0. Formats: f32, f16, bf16 and those of blocks, as q4_k or iq2_xxs.\n\n\
    Take the checkpoint where you can. A GGUF file serves as well as it was rounded: one of F16,\n\
    BF16 or Q8_0 nearly as well. Its blocks are copied where they stay of their format, and rounded\n\
    again where they do not.\n\n\
    Until the file is whole it is called OUT.part; what was interrupted goes on there when the\n\
    same command runs again. A file OUT that is there already is only replaced with --force. Memory is bounded, whatever the size of the model.")]
pub struct QuantizeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The GGUF file to write.
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// The recipe: a format for most weights, a higher one for those that matter most.
    #[arg(short, long, value_name = "NAME", default_value = "Q4_K_M")]
    recipe: String,
    /// How much columns matter, as `hadal imatrix` writes it: worth it below five bits, needed
    /// below three.
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Format of the tables of experts.
    #[arg(long, value_name = "FORMAT")]
    experts: Option<String>,
    /// Format of the matrices of attention.
    #[arg(long, value_name = "FORMAT")]
    attention: Option<String>,
    /// Format of the tensors whose GGUF name fits a pattern of * and ?; may be given again, the
    /// last one that fits wins.
    #[arg(long, value_name = "PATTERN=FORMAT")]
    tensor: Vec<String>,
    /// Leave out the next-token modules: llama.cpp and ik_llama.cpp refuse DeepSeek-V3's.
    #[arg(long)]
    without_drafts: bool,
    /// Replace OUT where it is there already, once the new file is whole.
    #[arg(long)]
    force: bool,
    /// Say what would be written, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not read the file back to compare it with the model.
    #[arg(long)]
    no_verify: bool,
    /// Score this text with the model and with the file.
    #[arg(long, value_name = "TEXT")]
    perplexity: Option<PathBuf>,
    /// Tokens a window of that text [default: the context].
    #[arg(
        long,
        value_name = "TOKENS",
        requires = "perplexity",
        value_parser = clap::value_parser!(u32).range(4..)
    )]
    window: Option<u32>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Fault injection: the disk is full after so many bytes.
    #[arg(long, value_name = "BYTES", hide = true)]
    disk_full_after: Option<u64>,
}

/// Largest text that is scored.
const MAX_TEXT_BYTES: usize = 1 << 30;

/// What the file is to be a model of.
fn config(args: &QuantizeArgs, model: &Model) -> Config {
    let mut config = model.config.clone();
    if args.without_drafts {
        config.num_nextn_predict_layers = 0;
    }
    config
}

/// Runs the command.
pub fn run(args: &QuantizeArgs, console: &Console) -> Result<()> {
    let choice = choice(args)?;
    check_out(args)?;
    let text = args.perplexity.as_ref();
    let text = text
        .map(|path| text_file(path, MAX_TEXT_BYTES))
        .transpose()?;
    let (model, described) = opened(&args.model)?;
    let config = config(args, &model);
    let plan = Plan::new(&config, model.source.as_ref(), &choice)?;
    note_rounded(&plan, console);
    let metadata = metadata(args, &model, &config, described.as_ref(), &plan)?;
    if !metadata
        .iter()
        .any(|(key, _)| key.starts_with("tokenizer."))
    {
        console.note("note: the model has no tokenizer, and neither will the file");
    }
    let importance = args.imatrix.as_deref().map(Importance::open).transpose()?;
    let weighed = importance.as_ref().map(|it| it.check(&plan)).transpose()?;
    if weighed.is_none() && plan.tensors.iter().any(|it| is_rough(it.format)) {
        console.note(
            "note: formats of fewer than three bits want to know which columns matter: make a file \
             with `hadal imatrix` and give it with --imatrix",
        );
    }
    let header = hadal_quantize::header(&metadata, &plan.described()).len() as u64;
    let mut report = report::Report::new(args, &plan, choice.recipe.name, header);
    report.weighed = weighed;
    if args.dry_run {
        return report.show(console);
    }
    let interrupts = Interrupts::install()?;
    if let Some(text) = &text {
        report.before = Some(score(
            args,
            model.clone(),
            text,
            &interrupts.cancel,
            console,
        )?);
    }
    let options = Options {
        threads: threads(&args.device),
        verify: !args.no_verify,
        disk_full_after: args.disk_full_after,
    };
    let started = Instant::now();
    let source = model.source.as_ref();
    let importance = importance.as_ref();
    let written = watched(console, &interrupts.cancel, &mut |watch| {
        let out = &args.out;
        quantize(&plan, &metadata, source, importance, out, &options, watch)
    })?;
    report.done(written, started.elapsed());
    drop(model);
    if let Some(text) = &text {
        let model = Arc::new(Model::open(&args.out)?);
        report.after = Some(score(args, model, text, &interrupts.cancel, console)?);
    }
    report.show(console)
}

/// Does `work` while a bar shows how far it is, until somebody stops it.
fn watched(
    console: &Console,
    cancel: &Cancel,
    work: &mut dyn FnMut(&mut Watch<'_>) -> hadal_quantize::Result<Written>,
) -> Result<Written> {
    let bar = console.bar("quantising", Unit::Share);
    let mut watch = |progress: Progress<'_>| {
        bar.set(progress.done, progress.total);
        bar.message(doing(&progress));
        match cancel.is_cancelled() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let written = work(&mut watch)?;
    bar.clear();
    Ok(written)
}

/// What the bar says.
fn doing(progress: &Progress<'_>) -> String {
    let doing = match progress.stage {
        Stage::Writing => "quantising",
        Stage::Verifying => "reading back",
    };
    format!("{doing} {}", progress.tensor)
}

/// Formats as typed.
fn choice(args: &QuantizeArgs) -> Result<Choice> {
    let mut choice = Choice::new(&args.recipe)?;
    let format = |name: &Option<String>| name.as_deref().map(Choice::format).transpose();
    choice.experts = format(&args.experts)?;
    choice.attention = format(&args.attention)?;
    for typed in &args.tensor {
        let (pattern, name) = typed.rsplit_once('=').ok_or_else(|| {
            Failure::usage(format!("--tensor {typed} has no =FORMAT"))
                .help("as in --tensor 'blk.0.*=q8_0'")
        })?;
        choice
            .tensors
            .push((pattern.to_string(), Choice::format(name)?));
    }
    Ok(choice)
}

/// Fewer than three bits a weight.
fn is_rough(format: DType) -> bool {
    8 * format.row_bytes(256) < 3 * 256
}

/// The model, and what a GGUF file says of itself.
fn opened(args: &ModelArgs) -> Result<(Arc<Model>, Option<Metadata>)> {
    let path = args.model.as_deref();
    match path.map(gguf_file).transpose()?.flatten() {
        None => Ok((open::model(args)?, None)),
        Some(file) => {
            let file = Gguf::open(file).map_err(hadal_engine::EngineError::from)?;
            let model = gguf_model(&file)?;
            Ok((Arc::new(model), Some(file.metadata().clone())))
        }
    }
}

/// Says what is rounded a second time.
fn note_rounded(plan: &Plan, console: &Console) {
    let again = |tensor: &&Planned| tensor.source_format.is_blocks() && !tensor.is_copied();
    let formats: BTreeSet<&str> = plan
        .tensors
        .iter()
        .filter(again)
        .map(|tensor| tensor.source_format.name())
        .collect();
    if formats.is_empty() {
        return;
    }
    let formats: Vec<&str> = formats.into_iter().collect();
    console.note(&format!(
        "note: this model is rounded already ({}), and is rounded again: a file made of the \
         checkpoint it came from loses less",
        formats.join(", ")
    ));
}

/// Refuses early what would fail after hours, and what would be lost.
fn check_out(args: &QuantizeArgs) -> Result<()> {
    let out = &args.out;
    if out.exists() && !out.is_file() {
        let why = format!("{} is not an ordinary file", out.display());
        return Err(Failure::usage(why).help("give the name of a file to write"));
    }
    if out.exists() && !args.force && !args.dry_run {
        let why = format!("{} is there already", out.display());
        return Err(Failure::usage(why).help("give another name, or --force to replace it"));
    }
    let name = out.file_name().and_then(|name| name.to_str());
    if let Some(name) = name.filter(|name| gguf_stem(name) != *name) {
        let why = format!("{name} is the name of a part of a split model");
        return Err(Failure::usage(why).help("the whole file needs one without -of-NUMBER"));
    }
    let folder = out.parent().filter(|it| !it.as_os_str().is_empty());
    if folder.is_some_and(|folder| !folder.is_dir()) {
        let why = format!("there is no folder for {}", out.display());
        return Err(Failure::usage(why).help("make it first"));
    }
    Ok(())
}

/// Threads that work on the processor.
pub fn threads(args: &DeviceArgs) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    args.threads.map_or_else(cores, usize::from)
}

/// The keys of the file. Of a GGUF file those of its text side are copied, and its name.
fn metadata(
    args: &QuantizeArgs,
    model: &Model,
    config: &Config,
    described: Option<&Metadata>,
    plan: &Plan,
) -> Result<Vec<(String, Value)>> {
    let name = described.and_then(|it| it.text("general.name"));
    let name = name.map_or_else(|| open::model_name(&args.model), str::to_string);
    let text = match described {
        Some(described) => hadal_quantize::text_keys(described)?,
        None => match text_files(&args.model, model)? {
            Some(files) => files.keys(config)?,
            None => Vec::new(),
        },
    };
    Ok(hadal_quantize::metadata(config, &name, text, plan)?)
}

/// The files of a checkpoint that say how text becomes ids.
fn text_files(args: &ModelArgs, model: &Model) -> Result<Option<TextFiles>> {
    let Ok(text) = &model.text else {
        return Ok(None);
    };
    let (tokenizer, template) = match &args.model {
        Some(folder) => {
            let jinja = folder.join("chat_template.jinja");
            let template = match jinja.is_file() {
                true => Some(text_file(&jinja, MAX_TEXT_BYTES)?),
                false => None,
            };
            let tokenizer = text_file(&folder.join("tokenizer.json"), MAX_TEXT_BYTES)?;
            (tokenizer, template)
        }
        None => (
            String::from_utf8_lossy(hadal_tiny::TOKENIZER).into_owned(),
            None,
        ),
    };
    Ok(Some(TextFiles {
        tokenizer,
        template: template.or_else(|| text.config().chat_template.clone()),
        bos: text.bos(),
        stops: stops(&model.config, text.stop_ids()),
    }))
}

/// Ids that end an answer; of a model whose text side names none, those of its configuration.
fn stops(config: &Config, ids: &[u32]) -> Vec<u32> {
    match ids.is_empty() {
        true => config.eos_token_ids.clone(),
        false => ids.to_vec(),
    }
}

/// How well a model predicts the text.
fn score(
    args: &QuantizeArgs,
    model: Arc<Model>,
    text: &str,
    cancel: &Cancel,
    console: &Console,
) -> Result<Perplexity> {
    let options = EngineOptions {
        context: Some(args.window.unwrap_or(perplexity::usual_window(&model))),
        ..EngineOptions::default()
    };
    let device = open::device(&args.device, console)?;
    let engine = open::engine(model, device, options, cancel, console)?;
    let bar = console.bar("scoring", Unit::Tokens);
    let mut progress =
        |done: usize, total: usize, _: &Perplexity| bar.set(done as u64, total as u64);
    let sum = hadal_engine::perplexity(&engine, text, args.window, cancel, &mut progress)?;
    Ok(sum)
}

impl From<QuantizeError> for Failure {
    fn from(error: QuantizeError) -> Failure {
        match error {
            QuantizeError::Cancelled => Failure::interrupted()
                .help("what is written stays: the same command goes on where it stopped"),
            QuantizeError::Choice(_) => Failure::usage(error),
            QuantizeError::Io { path, source } => Failure::file(&path, source),
            other => Failure::failed(other),
        }
    }
}
