//! `hadal plan`: what of a model would lie where, whether it fits, and how fast it would be.

use std::path::{Path, PathBuf};

use clap::Args;
use hadal_engine::bandwidth::{Measured, Store};
use hadal_engine::plan::{Ask, MOST_SEQUENCES};
use hadal_engine::{Described, EngineError, EngineOptions, Model, Plan, describe};
use serde_json::{Value, json};

use crate::args::{DeviceArgs, EngineArgs};
use crate::console::Console;
use crate::failure::{Failure, Result};
use crate::{figures, open, plan_text};

/// Where a model would lie, whether it fits, and how fast it would be.
///
/// Reads headers only: no weight is touched. `hadal run` follows the same plan.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    hadal plan\n  \
    hadal plan ~/DeepSeek-V3\n  \
    hadal plan config.json --context 32768 --batch 4\n  \
    hadal plan ~/V3-Q4_K_M-00001-of-00009.gguf\n  \
    hadal plan ~/Moonlight-16B --device vulkan --budget device=20GiB --json\n\n\
    A folder of config.json and model.safetensors.index.json, or a config.json alone, is \
    enough. Sizes are then those of the published files.\n\n\
    The exit code is 0 if the model fits, 1 if it does not; the plan is written all the same.")]
pub struct PlanArgs {
    /// Folder of a checkpoint, whose weights may be absent, a config.json or a GGUF file. Without
    /// it: the model inside this program.
    #[arg(value_name = "MODEL")]
    model: Option<PathBuf>,
    /// The same, as other commands take it.
    #[arg(long = "model", value_name = "MODEL", conflicts_with = "model")]
    named: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Sessions that decode together, each with a cache of its own.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_SEQUENCES))
    )]
    batch: u32,
    /// Bandwidth of the device's memory, in GB/s [default: measured in 0.2 s, and kept for a day].
    #[arg(long, value_name = "GB/S", value_parser = bandwidth)]
    bandwidth: Option<f64>,
    /// Measure it now, although a figure is kept: the machine was busy then.
    #[arg(long, conflicts_with = "bandwidth")]
    measure: bool,
    /// Measure nothing and forecast nothing.
    #[arg(long, conflicts_with_all = ["bandwidth", "measure"])]
    no_measure: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

fn bandwidth(text: &str) -> std::result::Result<f64, String> {
    let value = text.parse().ok();
    let value = value.filter(|value| (0.001..=1e6).contains(value));
    value.ok_or_else(|| "write GB a second, as 31.8".to_string())
}

/// Runs the command.
pub fn run(args: &PlanArgs, console: &Console) -> Result<()> {
    let path = args.model.as_deref().or(args.named.as_deref());
    let chosen = open::device(&args.device, console)?;
    // Before the model is there: what is measured with and the headers never take memory together.
    let bandwidth = measured(args, chosen.device.as_ref())?;
    let (model, described) = model(path)?;
    let options = EngineOptions {
        batch: args.batch,
        ..open::engine_options(&args.engine, &model, None)
    };
    let ask = Ask {
        bandwidth,
        threads: args.device.threads.map(usize::from),
        ..Ask::default()
    };
    let plan = Plan::of(&model, chosen.device.info(), &options, &ask)?;
    let name = match path {
        Some(path) => path.display().to_string(),
        None => hadal_tiny::NAME.to_string(),
    };
    console.report(
        || report(&name, described, &plan),
        || text(&name, described, &plan),
    )?;
    match plan.fits {
        true => Ok(()),
        false => Err(Failure::failed("the model does not fit").help("the plan says what would")),
    }
}

fn model(path: Option<&Path>) -> Result<(Model, Described)> {
    match path {
        Some(path) => describe(path).map_err(unreadable),
        None => Ok((open::embedded()?, Described::Headers)),
    }
}

fn unreadable(error: EngineError) -> Failure {
    let is_io = matches!(error, EngineError::Io { .. });
    let failure = Failure::from(error);
    match is_io {
        true => failure.help("give a .gguf file, the folder of a checkpoint, or its config.json"),
        false => failure,
    }
}

fn measured(args: &PlanArgs, device: &dyn hadal_device::Device) -> Result<Option<Measured>> {
    if args.no_measure {
        return Ok(None);
    }
    if let Some(rate) = args.bandwidth {
        return Ok(Some(Measured::given(rate * 1e9)));
    }
    let threads = args.device.threads.map(usize::from);
    let store = Store::of_the_user();
    let measured = match args.measure {
        true => store.measure(device, threads),
        false => store.measured(device, threads),
    };
    Ok(Some(measured.map_err(EngineError::from)?))
}

fn text(name: &str, described: Described, plan: &Plan) -> String {
    let sizes = match described {
        Described::Headers => "sizes as the files have them",
        Described::Index => "some files are not here; sizes follow from index and config",
        Described::Config => "weights are not here; sizes follow from the config",
        Described::Parts => "parts are not all here; sizes of theirs follow from the recipe",
    };
    format!(
        "{name}: {} parameters, {} active a token, on {}; {sizes}\n{}",
        figures::parameters(plan.model.parameters),
        figures::parameters(plan.model.active_parameters),
        plan.device.id,
        plan_text::whole(plan)
    )
}

fn report(name: &str, described: Described, plan: &Plan) -> Value {
    json!({
        "name": name,
        "described_by": described,
        "verdict": plan.verdict(),
        "plan": plan,
        "weight_bytes": plan.weight_bytes(),
        "peak_process_bytes": figures::peak_process_bytes(),
    })
}
