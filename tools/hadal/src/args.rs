//! What can be typed: the commands and the options that several of them share.
//!
//! Decides names and help texts. Options of one command alone stand in that command's file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use hadal_engine::registry::Isa;
use hadal_engine::{Budget, DISPATCH_BUDGET};

use crate::commands;

/// Runs the DeepSeek-V3 model family on any accelerator.
///
/// Without --model, a small story-telling model that is part of this program is used, so
/// that every command works at once.
#[derive(Parser, Debug)]
#[command(
    name = "hadal",
    version,
    arg_required_else_help = true,
    after_help = "Start here:\n  hadal run \"Once upon a time\"\n  hadal chat\n  hadal devices\n\n\
                  `hadal help COMMAND` or `hadal COMMAND --help` tells more, with examples."
)]
pub struct Cli {
    /// Write the report as JSON on standard output.
    #[arg(long, global = true, display_order = 900)]
    pub json: bool,
    /// No notes and no progress on standard error, only errors.
    #[arg(short, long, global = true, display_order = 901)]
    pub quiet: bool,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands, in the order of the help.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Continue a text, or answer a question with --chat.
    Run(commands::run::RunArgs),
    /// Talk with a model, line by line.
    Chat(commands::chat::ChatArgs),
    /// What a model is: sizes, parameters, bytes, licence. config.json is enough.
    Info(commands::info::InfoArgs),
    /// The devices of this machine, and why others are absent.
    Devices(commands::devices::DevicesArgs),
    /// Text to token ids, or ids to text.
    Tokenize(commands::tokenize::TokenizeArgs),
    /// A conversation to the prompt that the model sees.
    Render(commands::render::RenderArgs),
    /// How well a model predicts a text.
    Perplexity(commands::perplexity::PerplexityArgs),
    /// Make a smaller file of a model: GGUF, in the formats of a recipe.
    Quantize(commands::quantize::QuantizeArgs),
    /// How much each column of each weight matters for a text, for quantize.
    Imatrix(commands::imatrix::ImatrixArgs),
    /// Logits and intermediates of given tokens, as a file to compare with.
    Forward(commands::forward::ForwardArgs),
    /// Which kernel each step of a model takes, and why others were refused.
    Explain(commands::explain::ExplainArgs),
    /// Where a model would lie, whether it fits, and how fast it would be.
    Plan(commands::plan::PlanArgs),
    /// Measure tokens per second and memory bandwidth.
    Bench(commands::bench::BenchArgs),
    /// Check that a device computes what it must, case by case.
    Conformance(commands::conformance::ConformanceArgs),
}

/// Which model.
#[derive(Args, Debug, Clone)]
pub struct ModelArgs {
    /// A .gguf file (of a model in parts, any of them), or a folder with config.json,
    /// tokenizer.json and *.safetensors, as downloaded. Without it: the small model inside
    /// this program.
    #[arg(short, long, value_name = "PATH")]
    pub model: Option<PathBuf>,
}

/// Which device.
#[derive(Args, Debug, Clone)]
pub struct DeviceArgs {
    /// Device to run on: host, wgpu, wgpu:1, ... (`hadal devices` lists them); layers are shared
    /// among several by cuda:0+cuda:1 or cuda:all. Without it: a GPU if there is one, else the
    /// host.
    #[arg(short, long, value_name = "NAME")]
    pub device: Option<String>,
    /// Instruction set of the host, where the best one is not wanted.
    #[arg(long, value_enum, value_name = "SET", hide_short_help = true)]
    pub isa: Option<IsaArg>,
    /// Threads of the host [default: one a core].
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..=1024),
        hide_short_help = true
    )]
    pub threads: Option<u16>,
    /// Compile GPU kernels with bounds checks.
    #[arg(long, hide_short_help = true)]
    pub checked_shaders: bool,
    /// Run Vulkan under the validation layers of Khronos, which must be installed; whatever
    /// they say is an error.
    #[arg(long, hide_short_help = true)]
    pub validation_layers: bool,
    /// Copy weights to a GPU that could read them in place, where its driver has trouble with
    /// that.
    #[arg(long, hide_short_help = true)]
    pub copy_weights: bool,
    /// Fault injection: lose the GPU after so many submits; the answer goes on without it.
    #[arg(long, value_name = "SUBMITS", hide = true)]
    pub lose_device_after: Option<u64>,
}

/// How the model is put on the device.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Engine")]
pub struct EngineArgs {
    /// Most tokens of prompt and output together [default: what fits and the model allows, up
    /// to 16384 or what is needed].
    #[arg(long, value_name = "TOKENS")]
    pub context: Option<u32>,
    /// Memory that may be used, where it is not all that is free: `device=20GiB,host=64GiB`; of
    /// several devices, of each. What does not fit is refused before weights are read.
    #[arg(long, value_name = "MEMORY=SIZE,...", value_parser = crate::budget::parse)]
    pub budget: Option<Budget>,
    /// Tokens that are fed at once, up to 4096.
    #[arg(
        long,
        value_name = "TOKENS",
        default_value_t = hadal_engine::CHUNK,
        hide_short_help = true
    )]
    pub chunk: u32,
    /// Longest time that a GPU may work on one thing before others have their turn; longer
    /// work is cut. 0: no limit.
    #[arg(
        long,
        value_name = "MS",
        default_value_t = DISPATCH_BUDGET.as_millis() as u64,
        value_parser = clap::value_parser!(u64).range(0..=60_000),
        hide_short_help = true
    )]
    pub dispatch_budget: u64,
    /// Form of attention, where the device's choice is not wanted.
    #[arg(long, value_enum, hide_short_help = true)]
    pub form: Option<FormArg>,
    /// How experts read their tokens, where the usual choice is not wanted.
    #[arg(long, value_enum, hide_short_help = true)]
    pub moe: Option<MoeArg>,
    /// fp8: round activations before FP8 products, as in training (W8A8). q8: round them, to 8
    /// bits or a little more, before products and attention where that is faster.
    #[arg(long, value_enum, value_name = "FORMAT", hide_short_help = true)]
    pub activations: Option<ActivationsArg>,
}

/// Instruction sets of the host.
#[derive(ValueEnum, Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum IsaArg {
    Scalar,
    Neon,
    Avx2,
    Avx512,
    Avx512Vnni,
    Avx512Vbmi,
    Avx512Bf16,
    Amx,
}

impl From<IsaArg> for Isa {
    fn from(isa: IsaArg) -> Isa {
        match isa {
            IsaArg::Scalar => Isa::Scalar,
            IsaArg::Neon => Isa::Neon,
            IsaArg::Avx2 => Isa::Avx2,
            IsaArg::Avx512 => Isa::Avx512,
            IsaArg::Avx512Vnni => Isa::Avx512Vnni,
            IsaArg::Avx512Vbmi => Isa::Avx512Vbmi,
            IsaArg::Avx512Bf16 => Isa::Avx512Bf16,
            IsaArg::Amx => Isa::Amx,
        }
    }
}

/// Forms of attention.
#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum FormArg {
    /// On the latent cache itself.
    Absorbed,
    /// With keys and values expanded.
    Expanded,
}

/// Forms of expert dispatch.
#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum MoeArg {
    /// Every token reads its experts.
    Direct,
    /// Every expert reads its tokens.
    Grouped,
}

/// Formats that activations are rounded to.
#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum ActivationsArg {
    /// As the training of V3 did: what FP8 weights are multiplied by becomes E4M3 with a scale for
    /// each 128 values, everything else as with q8.
    Fp8,
    /// 8 bits with a scale for each 256 values (GGUF blocks), BF16 (BF16 weights, attention on
    /// Hopper) or 12 bits with a scale for each 128 values (FP8 weights, attention elsewhere), where
    /// that is faster.
    Q8,
    /// Not rounded.
    F32,
}
