//! `hadal tokenize`: text to ids, or ids to text.

use std::fmt::Write;

use clap::Args;
use hadal_tokens::TextModel;
use serde_json::json;

use crate::args::ModelArgs;
use crate::commands::forward::parse_ids;
use crate::console::Console;
use crate::failure::Result;
use crate::input::standard_input;
use crate::open;

/// Text to token ids, or ids to text.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    hadal tokenize \"Once upon a time\"\n  \
    hadal tokenize --bos --json \"Once upon a time\"\n  \
    hadal tokenize --decode 0,405,1092\n  \
    cat story.txt | hadal tokenize -")]
pub struct TokenizeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The text; - reads it from standard input.
    #[arg(required_unless_present = "decode")]
    text: Option<String>,
    /// Put the token that begins a document in front, as prompts have it.
    #[arg(long)]
    bos: bool,
    /// Take special tokens written in the text, such as <｜User｜>, for plain characters.
    #[arg(long, conflicts_with = "bos")]
    plain: bool,
    /// Turn these ids into text instead: a list, or a file of numbers.
    #[arg(long, value_name = "IDS|FILE", conflicts_with_all = ["text", "bos", "plain"])]
    decode: Option<String>,
}

/// Runs the command.
pub fn run(args: &TokenizeArgs, console: &Console) -> Result<()> {
    let model = open::text(&args.model)?;
    let (ids, text) = match (&args.decode, &args.text) {
        (Some(ids), _) => {
            let ids = parse_ids(ids)?;
            let text = model.tokenizer().decode(&ids)?;
            (ids, text)
        }
        (None, text) => {
            let text = match text.as_deref().unwrap_or_default() {
                "-" => standard_input()?,
                typed => typed.to_string(),
            };
            (encode(args, &model, &text)?, text)
        }
    };
    let pieces = ids
        .iter()
        .map(|id| model.tokenizer().token_text(*id))
        .collect::<hadal_tokens::Result<Vec<String>>>()?;
    console.report(
        || json!({"text": text, "ids": ids, "tokens": pieces, "count": ids.len()}),
        || {
            if args.decode.is_some() {
                return format!("{text}\n");
            }
            let mut out = String::new();
            for (id, piece) in ids.iter().zip(&pieces) {
                // Writing to a String does not fail.
                let _ = writeln!(out, "{id:>7} {piece:?}");
            }
            out
        },
    )
}

fn encode(args: &TokenizeArgs, model: &TextModel, text: &str) -> Result<Vec<u32>> {
    if args.bos {
        return Ok(model.encode_prompt(text)?);
    }
    let tokenizer = model.tokenizer();
    Ok(match args.plain {
        true => tokenizer.encode_plain(text)?,
        false => tokenizer.encode(text)?,
    })
}
