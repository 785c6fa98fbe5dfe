//! From options to an engine: the model, the device, the load with its progress.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hadal_device::{Device, DeviceInfo, DeviceKind, Error};
use hadal_engine::registry::{self, Options, Reopening};
use hadal_engine::{Cancel, Engine, EngineOptions, Form, Model, MoeForm, Recovery, gguf_file};
use hadal_models::Config;
use hadal_tokens::{GenerationConfig, TextModel};
use hadal_weights::Checkpoint;
use serde_json::{Value, json};

use crate::args::{ActivationsArg, DeviceArgs, EngineArgs, FormArg, ModelArgs, MoeArg};
use crate::console::{Console, Unit};
use crate::failure::{Failure, Result};
use crate::input::text_file;

/// Opens the checkpoint, or the model inside this program.
pub fn model(args: &ModelArgs) -> Result<Arc<Model>> {
    let model = match &args.model {
        Some(path) if path.is_file() && gguf_file(path)?.is_none() => {
            return Err(not_a_model(path));
        }
        Some(path) => Model::open(path)?,
        None => embedded()?,
    };
    Ok(Arc::new(model))
}

/// The files that a model is read from.
pub fn files(model: &Model) -> impl Iterator<Item = &Path> {
    let shards = model.source.shards().iter();
    shards.filter_map(|shard| shard.path.as_deref())
}

fn not_a_model(path: &Path) -> Failure {
    Failure::usage(format!("{} is no GGUF file", path.display()))
        .help("--model takes a .gguf file, or the folder that holds config.json and the weights")
}

/// The model inside this program.
pub fn embedded() -> Result<Model> {
    let config = Config::from_json(hadal_tiny::CONFIG)?;
    let source = Checkpoint::from_static(&[("embedded model", hadal_tiny::WEIGHTS)])
        .map_err(hadal_engine::EngineError::from)?;
    let text = embedded_text().map_err(|error| error.to_string());
    Ok(Model::new(config, Arc::new(source), text)?)
}

fn embedded_text() -> hadal_tokens::Result<TextModel> {
    let mut text = TextModel::from_bytes(
        hadal_tiny::TOKENIZER,
        Some(hadal_tiny::TOKENIZER_CONFIG),
        None,
    )?;
    text.set_generation(GenerationConfig::from_bytes(hadal_tiny::GENERATION_CONFIG)?);
    Ok(text)
}

/// Largest config.json that is read; published ones stay below 10 kB.
const MAX_CONFIG_BYTES: usize = 16 << 20;

/// The text of a config.json.
pub fn config_text(file: &Path) -> Result<String> {
    let help = "give a .gguf file, the folder of a checkpoint, or its config.json";
    if file.exists() && !file.is_file() {
        let why = format!("{} is not a plain file", file.display());
        return Err(Failure::failed(why).help(help));
    }
    text_file(file, MAX_CONFIG_BYTES).map_err(|failure| failure.help(help))
}

/// Only the text side of a model: no weights are touched.
pub fn text(args: &ModelArgs) -> Result<TextModel> {
    Ok(match &args.model {
        Some(path) => match gguf_file(path)? {
            Some(file) => hadal_engine::gguf_text(&file)?,
            None => TextModel::open(path)?,
        },
        None => embedded_text()?,
    })
}

/// What people call the model.
pub fn model_name(args: &ModelArgs) -> String {
    let name = args.model.as_ref().map(|folder| {
        let last = folder.file_name();
        last.map_or(folder.display().to_string(), |name| {
            name.to_string_lossy().into_owned()
        })
    });
    name.unwrap_or_else(|| hadal_tiny::NAME.to_string())
}

/// Options of backends.
pub fn device_options(args: &DeviceArgs) -> Options {
    Options {
        isa: args.isa.map(Into::into),
        threads: args.threads.map(usize::from),
        checked_shaders: args.checked_shaders,
        validation_layers: args.validation_layers,
        copy_weights: args.copy_weights,
        lose_after_submits: args.lose_device_after,
    }
}

/// An open device, and how it is opened again.
pub struct Chosen {
    /// The device.
    pub device: Arc<dyn Device>,
    reopening: Reopening,
}

/// Opens the device and says which it is and why.
pub fn device(args: &DeviceArgs, console: &Console) -> Result<Chosen> {
    let wanted = args.device.as_deref();
    let options = device_options(args);
    let opened = registry::open(wanted, &options)?;
    let reopening = Reopening::of(&opened, wanted, &options);
    let info = opened.device.info();
    let software = if info.kind == DeviceKind::Software {
        ": a software adapter, not a GPU; the host is usually faster"
    } else {
        ""
    };
    console.note(&format!(
        "device {} ({}, {}), because {}{software}",
        info.id(),
        info.name,
        info.driver,
        opened.why
    ));
    note_unused(args, &info.id(), console);
    Ok(Chosen {
        device: opened.device,
        reopening,
    })
}

/// Says which options of `args` the device `id` (`wgpu:0`, `wgpu`) has no use for.
pub fn note_unused(args: &DeviceArgs, id: &str, console: &Console) {
    let backend = id.split(':').next().unwrap_or(id);
    let host = backend == "host";
    for (typed, name, place, is_used) in [
        (args.isa.is_some(), "--isa", "the host", host),
        (args.threads.is_some(), "--threads", "the host", host),
        (args.checked_shaders, "--checked-shaders", "GPUs", !host),
        (
            args.validation_layers,
            "--validation-layers",
            "vulkan",
            backend == "vulkan",
        ),
        (args.copy_weights, "--copy-weights", "GPUs", !host),
    ] {
        if typed && !is_used {
            console.note(&format!(
                "note: {name} is for {place}; {id} does not use it"
            ));
        }
    }
}

/// Opens the device again after a loss, and tells of it.
struct Resuming {
    reopening: Reopening,
    cancel: Cancel,
    console: Console,
}

impl Recovery for Resuming {
    fn reopen(&self, lost: &Error) -> hadal_engine::Result<Arc<dyn Device>> {
        if let Error::Lost { device, why } = lost {
            let why = why.trim_end_matches('.');
            self.console.note(&format!(
                "\nthe device {device} was lost ({why}); opening it again"
            ));
        }
        self.reopening.reopen(lost)
    }

    fn progress(&self, _: hadal_engine::Progress) -> ControlFlow<()> {
        go_on(&self.cancel)
    }

    fn resumed(&self, _: &Error, device: &DeviceInfo) {
        let (id, name) = (device.id(), &device.name);
        self.console.note(&format!("continuing on {id} ({name})"));
    }
}

fn go_on(cancel: &Cancel) -> ControlFlow<()> {
    match cancel.is_cancelled() {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}

/// Options of the engine for requests of `tokens` tokens or more, where no context was asked
/// for.
pub fn options_for(args: &EngineArgs, model: &Model, tokens: usize) -> EngineOptions {
    let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
    EngineOptions {
        least_context: tokens.clamp(1, model.config.max_position_embeddings),
        ..engine_options(args, model, None)
    }
}

/// Options of the engine with a context of `context` where none was asked for; `None`: what
/// fits.
pub fn engine_options(args: &EngineArgs, model: &Model, context: Option<u32>) -> EngineOptions {
    let rough = match args.activations {
        Some(ActivationsArg::Q8) => true,
        Some(ActivationsArg::Fp8) => model.config.fp8.is_some(),
        Some(ActivationsArg::F32) | None => false,
    };
    EngineOptions {
        context: args.context.or(context),
        least_context: 1,
        budget: args.budget.unwrap_or_default(),
        batch: 1,
        chunk: args.chunk,
        form: args.form.map(|form| match form {
            FormArg::Absorbed => Form::Absorbed,
            FormArg::Expanded => Form::Expanded,
        }),
        moe: match args.moe {
            None => MoeForm::Auto,
            Some(MoeArg::Direct) => MoeForm::Direct,
            Some(MoeArg::Grouped) => MoeForm::Grouped,
        },
        quantise_activations: matches!(args.activations, Some(ActivationsArg::Fp8)),
        rough_activations: rough,
        dispatch_budget: Some(Duration::from_millis(args.dispatch_budget))
            .filter(|budget| !budget.is_zero()),
    }
}

/// Loads of fewer bytes are over before a bar could be read.
const WORTH_A_BAR: u64 = 100_000_000;

/// Puts the model on the device, with a progress bar. The engine goes on after a loss.
pub fn engine(
    model: Arc<Model>,
    chosen: Chosen,
    options: EngineOptions,
    cancel: &Cancel,
    console: &Console,
) -> Result<Arc<Engine>> {
    if options.quantise_activations && model.config.fp8.is_none() {
        console.note("note: --activations fp8 changes nothing: this model has no FP8 weights");
    }
    let bar = console.bar("loading", Unit::Bytes);
    let mut progress = |progress: hadal_engine::Progress| {
        if progress.bytes_total >= WORTH_A_BAR {
            bar.set(progress.bytes_done, progress.bytes_total);
        }
        go_on(cancel)
    };
    let engine = Engine::load(model, chosen.device, options, &mut progress)?;
    Ok(Arc::new(engine.with_recovery(Resuming {
        reopening: chosen.reopening,
        cancel: cancel.clone(),
        console: console.clone(),
    })))
}

/// A device in reports.
pub fn device_json(info: &DeviceInfo) -> Value {
    json!({
        "id": info.id(),
        "name": info.name,
        "driver": info.driver,
        "software": info.kind == DeviceKind::Software,
    })
}
