//! `hadal forward`: logits and intermediates of given tokens, as a safetensors file.

mod write;

use std::path::{Path, PathBuf};

use clap::Args;
use hadal_engine::{EngineError, ForwardOptions, Model, Numbers, Tensor, forward};
use serde_json::json;

use crate::args::{DeviceArgs, EngineArgs, ModelArgs};
use crate::console::{Console, Interrupts, Unit};
use crate::failure::{Failure, Result};
use crate::input::{MAX_BYTES, text_file};
use crate::open;
use crate::output::Output;

/// Logits and intermediates of given tokens, as a file to compare with.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    hadal forward --ids 0,405,1092 --out logits.safetensors\n  \
    hadal forward --model ~/DeepSeek-V3 --ids prompt.txt --all --greedy 16 --out all.safetensors\n\n\
    The file holds logits [T, V]; with --all also embed, layer.{i}.out, layer.{i}.attn_out,\n\
    layer.{i}.kv_latent, layer.{i}.k_pe, layer.{i}.router_idx, layer.{i}.router_weight,\n\
    layer.{i}.router_scores, final_hidden, rope_inv_freq_f64 and mtp.0.*; with --greedy also greedy_ids and greedy_logits.")]
pub struct ForwardArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Token ids: a list such as 0,405,1092, or a file of numbers separated by commas or
    /// white space.
    #[arg(long, value_name = "LIST|FILE")]
    ids: String,
    /// The safetensors file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Write every intermediate too.
    #[arg(long)]
    all: bool,
    /// Continue greedily for N tokens.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        value_parser = clap::value_parser!(u32).range(0..=1 << 24)
    )]
    greedy: u32,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Runs the command.
pub fn run(args: &ForwardArgs, console: &Console) -> Result<()> {
    let ids = parse_ids(&args.ids)?;
    let interrupts = Interrupts::install()?;
    let model = open::model(&args.model)?;
    // The last token of the continuation is chosen and not fed.
    let wanted = ids.len() + args.greedy.saturating_sub(1) as usize;
    let settings = open::options_for(&args.engine, &model, wanted);
    check_room(&model, wanted, settings.context)?;
    let out = Output::beside(open::files(&model), "--out", &args.out)?;
    let device = open::device(&args.device, console)?;
    let engine = open::engine(model, device, settings, &interrupts.cancel, console)?;
    let options = ForwardOptions {
        all: args.all,
        greedy: args.greedy as usize,
    };
    let bar = console.bar("computing", Unit::Tokens);
    let mut progress = |done: usize, total: usize| bar.set(done as u64, total as u64);
    let mut tensors = forward(&engine, &ids, options, &interrupts.cancel, &mut progress)?;
    bar.clear();
    if args.all {
        tensors.push(Tensor {
            name: "input_ids".to_string(),
            shape: vec![ids.len()],
            numbers: Numbers::I64(ids.iter().map(|id| i64::from(*id)).collect()),
        });
    }
    write::write(out, &tensors)?;
    let greedy = tensors.iter().find_map(|tensor| match &tensor.numbers {
        Numbers::I64(ids) if tensor.name == "greedy_ids" => Some(ids.clone()),
        _ => None,
    });
    console.report(
        || {
            let list = tensors.iter();
            let list = list.map(|tensor| json!({"name": tensor.name, "shape": tensor.shape}));
            json!({
                "out": args.out.display().to_string(),
                "model": open::model_name(&args.model),
                "device": open::device_json(engine.device().info()),
                "tokens": ids.len(),
                "tensors": list.collect::<Vec<_>>(),
                "greedy_ids": greedy,
            })
        },
        || {
            let mut out = String::new();
            for tensor in &tensors {
                out.push_str(&format!("{:<28} {:?}\n", tensor.name, tensor.shape));
            }
            out + &format!(
                "{} tensors written to {}\n",
                tensors.len(),
                args.out.display()
            )
        },
    )
}

/// Refuses what the context cannot hold before anything is computed.
fn check_room(model: &Model, wanted: usize, context: Option<u32>) -> Result<()> {
    let max = model.config.max_position_embeddings;
    let context = context.unwrap_or(max);
    if wanted <= context as usize {
        return Ok(());
    }
    let full = EngineError::ContextFull {
        wanted,
        context,
        max,
    };
    Err(full.into())
}

/// Ids from a list, or from a file where the text is no list: what begins with a number is
/// one, unless there is a file of that name.
pub fn parse_ids(text: &str) -> Result<Vec<u32>> {
    let separator = |c: char| c == ',' || c.is_whitespace();
    let first = text.split(separator).find(|word| !word.is_empty());
    let digits = first.map_or("", |word| word.trim_start_matches(['-', '+']));
    let is_list = digits.chars().all(|c| c.is_ascii_digit()) && !Path::new(text).is_file();
    let (from, content) = if is_list {
        ("the list".to_string(), text.to_string())
    } else {
        let help = "give a list such as 0,405,1092, or a file of numbers";
        let content = text_file(Path::new(text), MAX_BYTES);
        (
            text.to_string(),
            content.map_err(|failure| failure.help(help))?,
        )
    };
    let words = content.split(separator);
    let ids = words.filter(|word| !word.is_empty()).map(|word| {
        word.parse::<u32>().map_err(|_| {
            let word: String = word.chars().take(40).collect();
            Failure::usage(format!("{word:?} in {from} is no token id"))
        })
    });
    let ids = ids.collect::<Result<Vec<u32>>>()?;
    if ids.is_empty() {
        return Err(Failure::usage(format!("there is no token id in {from}"))
            .help("give at least one, as --ids 0,405,1092"));
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_a_list_or_a_file_separated_by_commas_or_white_space() {
        assert_eq!(parse_ids("1, 2,3").unwrap(), [1, 2, 3]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ids.txt");
        std::fs::write(&path, "1 2\n3,\t4\n").unwrap();
        let path = path.display().to_string();
        assert_eq!(parse_ids(&path).unwrap(), [1, 2, 3, 4]);
        for wrong in ["", ",", "4294967296", "no/such/file"] {
            assert!(parse_ids(wrong).is_err(), "{wrong:?}");
        }
    }
}
