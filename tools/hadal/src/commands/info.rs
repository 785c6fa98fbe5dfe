//! `hadal info`: what a model is, from config.json and whatever else is there.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use hadal_device::DType;
use hadal_engine::plan::{PartKind, stored};
use hadal_engine::{Model, describe, gguf_file};
use hadal_models::Config;
use hadal_models::config::{ScoringFunc, TopkMethod};
use hadal_models::counts::{Counts, Part};
use hadal_weights::Gguf;
use serde_json::{Value, json};

use crate::console::Console;
use crate::failure::Result;
use crate::{figures, open};

/// What a model is: sizes, parameters, bytes, licence. config.json is enough.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    hadal info\n  \
    hadal info --model ~/DeepSeek-V3\n  \
    hadal info --model config.json")]
pub struct InfoArgs {
    /// A .gguf file, the folder of a checkpoint, or a config.json alone. Without it: the model
    /// inside this program.
    #[arg(short, long, value_name = "PATH")]
    model: Option<PathBuf>,
}

/// What was found.
struct Found {
    name: String,
    config: Config,
    licence: Option<String>,
    weights: Weights,
    /// Bytes by part and format, where there are headers to tell them.
    stored: BTreeMap<(PartKind, DType), u64>,
}

enum Weights {
    /// A config alone.
    Absent,
    /// Checked against the config: files and their bytes.
    Whole { files: usize, bytes: u64 },
    /// Parts of a GGUF file that are not here or not all there.
    Partly(Vec<String>),
    /// They cannot be used, because of this.
    Unusable(String),
}

/// Runs the command.
pub fn run(args: &InfoArgs, console: &Console) -> Result<()> {
    let found = find(args)?;
    let mut counts = Counts::of(&found.config);
    if !found.stored.is_empty() {
        as_stored(&mut counts, &found);
    }
    console.report(|| report(&found, &counts), || text(&found, &counts))
}

fn find(args: &InfoArgs) -> Result<Found> {
    let Some(path) = &args.model else {
        let bytes = hadal_tiny::WEIGHTS.len() as u64;
        let model = open::embedded()?;
        return Ok(Found {
            name: hadal_tiny::NAME.to_string(),
            stored: stored(&model),
            config: model.config,
            licence: Some(hadal_tiny::LICENCE.to_string()),
            weights: Weights::Whole { files: 1, bytes },
        });
    };
    if let Some(file) = gguf_file(path)? {
        return in_gguf(&file);
    }
    let is_folder = path.is_dir();
    let file = if is_folder {
        path.join("config.json")
    } else {
        path.clone()
    };
    let text = open::config_text(&file)?;
    let name = path.file_name().map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    );
    let (weights, stored) = match is_folder {
        true => weights(path),
        false => (Weights::Absent, BTreeMap::new()),
    };
    Ok(Found {
        name,
        config: Config::from_json(&text).map_err(|error| error.of(&file.display().to_string()))?,
        licence: is_folder.then(|| licence(path)).flatten(),
        weights,
        stored,
    })
}

/// A GGUF file is config and weights in one.
fn in_gguf(file: &Path) -> Result<Found> {
    let (model, _) = describe(file)?;
    let (gguf, lacking) = Gguf::open_partly(file).map_err(hadal_engine::EngineError::from)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let licence = gguf.metadata().text("general.license");
    Ok(Found {
        name: name.into_owned(),
        licence: licence.map(str::to_string),
        weights: match lacking.is_empty() {
            true => whole(&model),
            false => Weights::Partly(lacking),
        },
        stored: stored(&model),
        config: model.config,
    })
}

fn whole(model: &Model) -> Weights {
    let shards = model.source.shards();
    Weights::Whole {
        files: shards.len(),
        bytes: shards.iter().map(|shard| shard.bytes().len() as u64).sum(),
    }
}

fn weights(folder: &Path) -> (Weights, BTreeMap<(PartKind, DType), u64>) {
    let has = |name: &str| folder.join(name).exists();
    if !has("model.safetensors") && !has("model.safetensors.index.json") {
        return (Weights::Absent, BTreeMap::new());
    }
    match Model::open(folder) {
        Ok(model) => (whole(&model), stored(&model)),
        Err(error) => (Weights::Unusable(error.to_string()), BTreeMap::new()),
    }
}

/// Bytes as the files have them in the place of those that the config says.
fn as_stored(counts: &mut Counts, found: &Found) {
    let bytes_of = |wanted: PartKind| {
        let own = found.stored.iter().filter(|((kind, _), _)| *kind == wanted);
        own.map(|(_, bytes)| *bytes).sum::<u64>()
    };
    let parts: [(&mut Part, PartKind); 9] = [
        (&mut counts.embedding, PartKind::Embedding),
        (&mut counts.head, PartKind::Head),
        (&mut counts.attention, PartKind::Attention),
        (&mut counts.dense, PartKind::Dense),
        (&mut counts.shared, PartKind::SharedExperts),
        (&mut counts.routed, PartKind::RoutedExperts),
        (&mut counts.router, PartKind::Router),
        (&mut counts.norms, PartKind::Norms),
        (&mut counts.mtp, PartKind::NextToken),
    ];
    for (part, kind) in parts {
        part.bytes = bytes_of(kind);
        let active = u128::from(part.bytes) * u128::from(part.active);
        part.active_bytes = (active / u128::from(part.params.max(1))) as u64;
    }
    if found.config.tie_word_embeddings {
        counts.head.active_bytes = counts.embedding.bytes;
    }
}

/// Bytes by format, the most first.
fn formats(found: &Found) -> Vec<(DType, u64)> {
    let mut formats: BTreeMap<&str, (DType, u64)> = BTreeMap::new();
    for ((_, format), bytes) in &found.stored {
        formats.entry(format.name()).or_insert((*format, 0)).1 += bytes;
    }
    let mut formats: Vec<_> = formats.into_values().collect();
    formats.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    formats
}

/// The licence: the `license:` line of the model card, or the title of a licence file.
fn licence(folder: &Path) -> Option<String> {
    let read = |name: &str| hadal_weights::read_text(&folder.join(name), 1 << 20).ok();
    let card = read("README.md").unwrap_or_default();
    let head = card
        .strip_prefix("---\n")
        .and_then(|rest| rest.split("\n---").next());
    let line = |key: &str| {
        let lines = head.unwrap_or_default().lines();
        let value = lines.filter_map(|line| line.strip_prefix(key)).next()?;
        Some(value.trim().to_string()).filter(|value| !value.is_empty())
    };
    let from_card = line("license_name:").or_else(|| line("license:"));
    let from_file = || {
        let files = ["LICENSE-MODEL", "LICENSE", "LICENSE.txt", "LICENSE.md"];
        let text = files.iter().find_map(|name| read(name))?;
        let title = text.lines().map(str::trim).find(|line| !line.is_empty())?;
        Some(title.trim_start_matches(['#', ' ']).to_string())
    };
    from_card.or_else(from_file)
}

fn quantisation(found: &Found) -> &'static str {
    let has_blocks = found.stored.keys().any(|(_, format)| format.is_blocks());
    match found.config.fp8 {
        _ if has_blocks => "block formats of GGUF",
        None => "none (as the files say: BF16, F16 or F32)",
        Some(fp8) if fp8.power_of_two_scales => "FP8 E4M3, 128x128 blocks, power-of-two scales",
        Some(_) => "FP8 E4M3, 128x128 blocks",
    }
}

/// `1 file`, `2 files`.
fn counted(count: usize, what: &str) -> String {
    let end = if count == 1 { "" } else { "s" };
    format!("{count} {what}{end}")
}

/// The rows of the table: name and value.
fn rows(config: &Config) -> Vec<(&'static str, String)> {
    let dense = (0..config.num_hidden_layers)
        .filter(|layer| !config.is_moe(*layer))
        .count();
    let scoring = match config.scoring_func {
        ScoringFunc::Sigmoid => "sigmoid",
        ScoringFunc::Softmax => "softmax",
    };
    let method = match config.topk_method {
        TopkMethod::NoauxTc => "bias-corrected",
        TopkMethod::Greedy => "greedy",
        TopkMethod::GroupLimitedGreedy => "group-limited greedy",
    };
    let query = match config.q_lora_rank {
        Some(rank) => format!("latent {rank}"),
        None => "one matrix".to_string(),
    };
    let context = match &config.yarn {
        Some(_) => format!("{} tokens (YaRN)", config.max_position_embeddings),
        None => format!("{} tokens", config.max_position_embeddings),
    };
    vec![
        ("family", config.model_type.clone()),
        (
            "layers",
            format!("{} ({dense} dense)", config.num_hidden_layers),
        ),
        ("hidden", format!("{}", config.hidden_size)),
        ("vocabulary", format!("{}", config.vocab_size)),
        ("context", context),
        (
            "attention",
            format!(
                "{} heads of {} + {} rotated, values {}, queries {query}, cache {} + {} a token and layer",
                config.num_attention_heads,
                config.qk_nope_head_dim,
                config.qk_rope_head_dim,
                config.v_head_dim,
                config.kv_lora_rank,
                config.qk_rope_head_dim
            ),
        ),
        (
            "experts",
            format!(
                "{} of {} + {} shared, {} of {} groups, {scoring}, {method}, scale {}",
                config.num_experts_per_tok,
                config.n_routed_experts,
                config.n_shared_experts,
                config.kept_groups(),
                config.groups(),
                config.routing_scale()
            ),
        ),
        (
            "next-token",
            counted(config.num_nextn_predict_layers as usize, "module"),
        ),
    ]
}

/// What there is of the weights.
fn state(weights: &Weights) -> String {
    match weights {
        Weights::Absent => "not here; the sizes below follow from config.json".to_string(),
        Weights::Whole { files, bytes } => {
            let files = counted(*files, "file");
            format!("{files}, {}, complete", figures::bytes(*bytes))
        }
        Weights::Partly(lacking) => format!(
            "NOT ALL HERE, sizes follow from the recipe; missing or unfinished: {}",
            lacking.join(", ")
        ),
        Weights::Unusable(why) => format!("NOT USABLE: {why}"),
    }
}

fn text(found: &Found, counts: &Counts) -> String {
    let mut out = format!("{}\n", found.name);
    // Writing to a String does not fail.
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(out, "  {name:<12} {value}");
    };
    for (name, value) in rows(&found.config) {
        row(name, &value);
    }
    row("quantised", quantisation(found));
    let formats = formats(found).into_iter();
    let formats: Vec<String> = formats
        .map(|(format, bytes)| format!("{format} {}", figures::bytes(bytes)))
        .collect();
    if !formats.is_empty() {
        row("formats", &formats.join(", "));
    }
    row(
        "licence",
        found
            .licence
            .as_deref()
            .unwrap_or("not stated in the folder"),
    );
    row("weights", &state(&found.weights));
    if !found.config.unknown_keys.is_empty() {
        row("unknown keys", &found.config.unknown_keys.join(", "));
    }
    let _ = writeln!(
        out,
        "\n  {:<24}{:>22}{:>22}{:>12}",
        "", "parameters", "active a token", "bytes"
    );
    for (name, part) in counts.parts() {
        if part.params > 0 || part.active > 0 {
            part_row(&mut out, name, part.params, part.active, part.bytes);
        }
    }
    let main = counts.main();
    part_row(&mut out, "total", main.params, main.active, main.bytes);
    let _ = writeln!(
        out,
        "\n  {} parameters, {} active a token, next-token prediction not counted; {} once loaded",
        figures::parameters(main.params),
        figures::parameters(main.active),
        figures::bytes(counts.bytes())
    );
    out
}

fn part_row(out: &mut String, name: &str, params: u64, active: u64, bytes: u64) {
    let _ = writeln!(
        out,
        "  {name:<24}{:>22}{:>22}{:>12}",
        figures::grouped(params),
        figures::grouped(active),
        figures::bytes(bytes)
    );
}

fn report(found: &Found, counts: &Counts) -> Value {
    let config = &found.config;
    let parts = counts.parts().into_iter().map(|(name, part)| {
        let value = json!({
            "parameters": part.params,
            "active": part.active,
            "bytes": part.bytes,
            "active_bytes": part.active_bytes,
        });
        (name.to_string(), value)
    });
    let weights = match &found.weights {
        Weights::Absent => json!({"state": "absent"}),
        Weights::Whole { files, bytes } => {
            json!({"state": "complete", "files": files, "bytes": bytes})
        }
        Weights::Partly(lacking) => json!({"state": "partly", "lacking": lacking}),
        Weights::Unusable(why) => json!({"state": "unusable", "why": why}),
    };
    let formats = formats(found).into_iter();
    let formats = formats.map(|(format, bytes)| (format.name().to_string(), bytes.into()));
    json!({
        "name": found.name,
        "family": config.model_type,
        "licence": found.licence,
        "parameters": counts.total(),
        "active_parameters": counts.active(),
        "bytes": counts.bytes(),
        "parts": parts.collect::<serde_json::Map<_, _>>(),
        "weights": weights,
        "unknown_keys": config.unknown_keys,
        "quantised": quantisation(found),
        "formats": formats.collect::<serde_json::Map<_, _>>(),
        "config": {
            "num_hidden_layers": config.num_hidden_layers,
            "hidden_size": config.hidden_size,
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.max_position_embeddings,
            "num_attention_heads": config.num_attention_heads,
            "q_lora_rank": config.q_lora_rank,
            "kv_lora_rank": config.kv_lora_rank,
            "qk_nope_head_dim": config.qk_nope_head_dim,
            "qk_rope_head_dim": config.qk_rope_head_dim,
            "v_head_dim": config.v_head_dim,
            "intermediate_size": config.intermediate_size,
            "moe_intermediate_size": config.moe_intermediate_size,
            "first_k_dense_replace": config.first_k_dense_replace,
            "n_routed_experts": config.n_routed_experts,
            "n_shared_experts": config.n_shared_experts,
            "num_experts_per_tok": config.num_experts_per_tok,
            "n_group": config.groups(),
            "topk_group": config.kept_groups(),
            "num_nextn_predict_layers": config.num_nextn_predict_layers,
        },
    })
}
