//! `hadal render`: a conversation to the prompt that the model sees.

use std::path::Path;

use clap::Args;
use hadal_tokens::RenderOptions;
use serde_json::{Value, json};

use crate::args::ModelArgs;
use crate::console::Console;
use crate::failure::{Failure, Result};
use crate::input::{MAX_BYTES, text_file};
use crate::open;
use crate::template::TemplateArgs;

/// A conversation to the prompt that the model sees.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    hadal render --messages '[{\"role\": \"user\", \"content\": \"Hello\"}]'\n  \
    hadal render --model ~/DeepSeek-V3.1 --thinking --messages talk.json\n  \
    hadal render --family r1 --json --messages talk.json")]
pub struct RenderArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The conversation: a JSON list of {"role", "content"}, or a file with one.
    #[arg(long, value_name = "FILE|JSON")]
    messages: String,
    /// Tool descriptions: a JSON list, or a file with one.
    #[arg(long, value_name = "FILE|JSON")]
    tools: Option<String>,
    /// End behind the last message, not where the answer begins.
    #[arg(long)]
    no_generation_prompt: bool,
    #[command(flatten)]
    template: TemplateArgs,
}

/// Runs the command.
pub fn run(args: &RenderArgs, console: &Console) -> Result<()> {
    let mut text = open::text(&args.model)?;
    args.template.apply(&mut text)?;
    let options = RenderOptions {
        add_generation_prompt: !args.no_generation_prompt,
        tools: args.tools.as_deref().map(json_or_file).transpose()?,
        ..args.template.options()
    };
    let rendered = text.render(&json_or_file(&args.messages)?, &options)?;
    console.report(
        || json!({"text": rendered.text, "ids": rendered.ids, "count": rendered.ids.len()}),
        || {
            let ids: Vec<String> = rendered.ids.iter().map(u32::to_string).collect();
            format!("{}\n\n{}\n", rendered.text, ids.join(","))
        },
    )
}

/// JSON typed on the command line, or the content of a file.
fn json_or_file(text: &str) -> Result<Value> {
    let typed = text.trim_start().starts_with(['[', '{']);
    let (name, content) = if typed {
        ("what was typed".to_string(), text.to_string())
    } else {
        (text.to_string(), text_file(Path::new(text), MAX_BYTES)?)
    };
    serde_json::from_str(&content)
        .map_err(|error| Failure::usage(format!("{name} is not JSON: {error}")))
}
