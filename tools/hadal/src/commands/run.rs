//! `hadal run`: continue a text, or answer a message, as it is written.

use std::ops::ControlFlow;

use clap::Args;
use hadal_engine::{
    Engine, Event, Finish, GenerateOptions, Generated, Model, SamplingOptions, Session, generate,
};
use serde_json::{Value, json};

use crate::args::{DeviceArgs, EngineArgs, ModelArgs};
use crate::console::{Console, Interrupts, Unit, seconds};
use crate::failure::{Failure, Result};
use crate::input::standard_input;
use crate::sampling::SamplingArgs;
use crate::template::ConversationArgs;
use crate::{figures, open};

/// Continue a text, or answer a question with --chat.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    hadal run \"Once upon a time\"\n  \
    hadal run --model ~/DeepSeek-V3 --chat \"Why is the sky blue?\"\n  \
    hadal run --model ~/DeepSeek-V3.1 --chat --thinking --system \"Be brief.\" \"Why?\"\n  \
    hadal run --temperature 0 --max-tokens 50 \"The old king\"\n  \
    cat story.txt | hadal run -\n  \
    hadal run --json --seed 7 \"Once\" > answer.json")]
pub struct RunArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// The text; - reads it from standard input.
    prompt: String,
    /// Treat the text as a message and let the model answer it.
    #[arg(long)]
    chat: bool,
    #[command(flatten)]
    conversation: ConversationArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// When output ends.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Most tokens of output [default: 300 for the model inside this program, for others
    /// what the context holds].
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub max_tokens: Option<u64>,
    /// End the output before this text. May be repeated.
    #[arg(long, value_name = "TEXT", value_parser = stop_text)]
    pub stop: Vec<String>,
    /// Go on after the model ended its text.
    #[arg(long)]
    pub ignore_end: bool,
    /// Do not let the next-token module guess ahead. Greedy text (temperature 0) is the same
    /// either way and sampled text is distributed the same; which is faster depends on how
    /// often the module of the model is right.
    #[arg(long)]
    pub no_draft: bool,
}

fn stop_text(text: &str) -> std::result::Result<String, String> {
    match text.is_empty() {
        true => Err("every text would end at once; give at least one character".to_string()),
        false => Ok(text.to_string()),
    }
}

/// Most tokens of the small model, which likes to ramble.
const EMBEDDED_TOKENS: usize = 300;

impl OutputArgs {
    /// Options of a generation.
    pub fn options(&self, model: &ModelArgs, sampling: SamplingOptions) -> GenerateOptions {
        let usual = model.model.is_none().then_some(EMBEDDED_TOKENS);
        GenerateOptions {
            max_tokens: self.max_tokens.map(saturating).or(usual),
            sampling,
            stop: self.stop.clone(),
            ignore_end: self.ignore_end,
            ..GenerateOptions::default()
        }
    }
}

fn saturating(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// Runs the command.
pub fn run(args: &RunArgs, console: &Console) -> Result<()> {
    if !args.chat {
        args.conversation.refuse_without_chat()?;
    }
    let model = open::model(&args.model)?;
    let recommended = Some(model.text()?.generation());
    let vocab = model.config.vocab_size;
    let sampling = args.sampling.checked(recommended, vocab)?;
    let seed = sampling.seed;
    let options = args.output.options(&args.model, sampling);
    // Before Ctrl-C is taken over: it must end the waiting for standard input.
    let prompt = prompt(&args.prompt)?;
    let interrupts = Interrupts::install()?;
    let ids = prompt_ids(&model, &prompt, args)?;
    let wanted = ids.len().saturating_add(options.max_tokens.unwrap_or(0));
    let settings = open::options_for(&args.engine, &model, wanted);
    let device = open::device(&args.device, console)?;
    let engine = open::engine(model, device, settings, &interrupts.cancel, console)?;
    let mut session = Session::new(&engine, !args.output.no_draft)?;
    let lead = match console.watched() && !args.chat {
        true => prompt.as_str(),
        false => "",
    };
    let made = stream(&mut session, &ids, lead, &options, &interrupts, console)?;
    if !console.json() {
        console.print("\n")?;
        console.note(&line(&made, &session));
    }
    let report = || {
        let mut report = report(&made, &session, seed);
        report["model"] = open::model_name(&args.model).into();
        report["prompt"] = prompt.clone().into();
        report["device"] = open::device_json(engine.device().info());
        report
    };
    if console.json() {
        console.report(report, String::new)?;
    }
    match made.finish {
        Finish::Cancelled => Err(Failure::interrupted()),
        _ => Ok(()),
    }
}

fn prompt(typed: &str) -> Result<String> {
    let text = match typed {
        "-" => standard_input()?,
        _ => typed.to_string(),
    };
    if text.is_empty() {
        return Err(Failure::usage("the prompt is empty")
            .help("give a text to continue: hadal run \"Once upon a time\""));
    }
    Ok(text)
}

fn prompt_ids(model: &Model, prompt: &str, args: &RunArgs) -> Result<Vec<u32>> {
    let text = model.text()?;
    if !args.chat {
        return Ok(text.encode_prompt(prompt)?);
    }
    let mut text = text.clone();
    args.conversation.template.apply(&mut text)?;
    let system = args.conversation.system.iter();
    let system = system.map(|content| json!({"role": "system", "content": content}));
    let message = json!({"role": "user", "content": prompt});
    let messages: Value = system.chain([message]).collect();
    let options = args.conversation.template.options();
    Ok(text.render(&messages, &options)?.ids)
}

/// Generates, showing text as it comes. `lead` stands before it, once the prompt is read and
/// the progress bar is gone.
pub fn stream(
    session: &mut Session,
    ids: &[u32],
    lead: &str,
    options: &GenerateOptions,
    interrupts: &Interrupts,
    console: &Console,
) -> Result<Generated> {
    let bar = console.bar("reading the prompt", Unit::Tokens);
    let (mut trouble, mut shown) = (None, Shown::default());
    let mut on_event = |event: Event| {
        let shown = match event {
            Event::Prompt { done, total } if done < total => {
                bar.set(done as u64, total as u64);
                Ok(())
            }
            Event::Prompt { .. } => {
                bar.clear();
                console.print(lead)
            }
            Event::Text(_) if console.json() => Ok(()),
            Event::Text(text) => console.print_model_text(&shown.push(&text)),
            _ => Ok(()),
        };
        match shown {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => {
                trouble = Some(failure);
                ControlFlow::Break(())
            }
        }
    };
    let mut made = generate(session, ids, options, &interrupts.cancel, &mut on_event)?;
    if let Some(failure) = trouble {
        return Err(failure);
    }
    if ends_inside_a_character(session.engine().model(), &made) {
        made.text.pop();
        shown.held.pop();
    }
    console.print_model_text(&shown.held)?;
    Ok(made)
}

/// Text as it is shown: what stands for broken bytes is held back while it is the end, where
/// it may be the beginning of a character whose rest never came.
#[derive(Default)]
struct Shown {
    held: String,
}

impl Shown {
    /// What one more piece makes ready to be shown.
    fn push(&mut self, piece: &str) -> String {
        self.held.push_str(piece);
        let certain = self.held.trim_end_matches('\u{FFFD}').len();
        let rest = self.held.split_off(certain);
        std::mem::replace(&mut self.held, rest)
    }
}

/// True if the last token began a character that no token ended, which the text then shows
/// as U+FFFD.
fn ends_inside_a_character(model: &Model, made: &Generated) -> bool {
    let Ok(text) = &model.text else { return false };
    if made.finish == Finish::Stop || !made.text.ends_with('\u{FFFD}') {
        return false;
    }
    let mut stream = text.tokenizer().stream(true);
    for &id in &made.ids {
        // A row of the embedding without a token has no text.
        let _ = stream.push(id);
    }
    stream.finish().is_some()
}

/// The line of figures.
pub fn line(made: &Generated, session: &Session) -> String {
    let mut parts = vec![
        format!("{} tokens", made.ids.len()),
        format!("first after {:.0} ms", made.first_token.as_secs_f64() * 1e3),
    ];
    if let Some(rate) = made.tokens_per_second() {
        parts.push(format!("{rate:.1} tokens/s"));
    }
    if let Some(share) = made.drafts.acceptance() {
        parts.push(format!(
            "{:.0} % of {} drafts accepted",
            share * 100.0,
            made.drafts.drafted
        ));
    }
    let engine: &Engine = session.engine();
    let mut memory = format!(
        "weights {}, cache {}",
        figures::bytes(engine.weight_bytes()),
        figures::bytes(session.cache_bytes())
    );
    if let Some(peak) = figures::peak_process_bytes() {
        memory.push_str(&format!(", process {}", figures::bytes(peak)));
    }
    parts.push(memory);
    format!("[{}]", parts.join(" | "))
}

/// The same figures for scripts.
pub fn report(made: &Generated, session: &Session, seed: u64) -> Value {
    json!({
        "text": made.text,
        "ids": made.ids,
        "finish": made.finish.name(),
        "seed": seed,
        "prompt_tokens": made.prompt_tokens,
        "output_tokens": made.ids.len(),
        "steps": made.steps,
        "seconds_to_first_token": seconds(made.first_token),
        "decode_seconds": seconds(made.decode),
        "tokens_per_second": made.tokens_per_second(),
        "drafts": {
            "made": made.drafts.drafted,
            "accepted": made.drafts.accepted,
            "acceptance": made.drafts.acceptance(),
        },
        "memory": {
            "weight_bytes": session.engine().weight_bytes(),
            "cache_bytes": session.cache_bytes(),
            "peak_process_bytes": figures::peak_process_bytes(),
        },
    })
}
