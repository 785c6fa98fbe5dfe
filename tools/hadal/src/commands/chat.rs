//! `hadal chat`: a conversation, line by line.
//!
//! Decides what a typed line does. The conversation itself is `conversation.rs`.

mod conversation;

use std::path::{Path, PathBuf};

use clap::Args;
use hadal_engine::{Finish, GenerateOptions, Session};
use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor};
use serde_json::json;

use crate::args::{DeviceArgs, EngineArgs, ModelArgs};
use crate::commands::run::{self, OutputArgs};
use crate::console::{Console, Interrupts};
use crate::failure::{Failure, Result};
use crate::open;
use crate::sampling::SamplingArgs;
use crate::template::ConversationArgs;
use conversation::Conversation;

/// Talk with a model, line by line.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    hadal chat\n  \
    hadal chat --model ~/DeepSeek-V3 --system \"You answer in one sentence.\"\n\n\
    In the chat, /help lists the commands. Ctrl-C stops an answer, Ctrl-D ends the chat.")]
pub struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Continue one text together instead of asking and answering, as models do that were
    /// not trained to chat. The model inside this program always does.
    #[arg(long, conflicts_with_all = ["family", "thinking", "no_thinking"])]
    story: bool,
    /// Do not keep typed lines for the next time.
    #[arg(long)]
    no_history: bool,
    #[command(flatten)]
    conversation: ConversationArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

const HELP: &str = "\
/help            this list
/clear           forget the conversation
/system TEXT     tell the model something before the conversation (forgets it); no TEXT: nothing
/retry           another answer to the last line
/save FILE       write the conversation to a file (JSON, or plain text for a story)
/quit            end (also Ctrl-D)
Ctrl-C stops an answer; what is there so far stays. Arrow keys bring typed lines back.";

/// Runs the command.
pub fn run(args: &ChatArgs, console: &Console) -> Result<()> {
    let interrupts = Interrupts::install()?;
    let model = open::model(&args.model)?;
    let mut text = model.text()?.clone();
    let ConversationArgs { system, template } = &args.conversation;
    template.apply(&mut text)?;
    let story = args.story || args.model.model.is_none() || !text.has_chat_template();
    let vocab = model.config.vocab_size;
    let sampling = args.sampling.checked(Some(text.generation()), vocab)?;
    let options = args.output.options(&args.model, sampling);
    let settings = open::options_for(&args.engine, &model, 0);
    let device = open::device(&args.device, console)?;
    let engine = open::engine(model, device, settings, &interrupts.cancel, console)?;
    let mut chat = Chat {
        conversation: Conversation::new(text, story, template.options(), system.clone()),
        session: Session::new(&engine, !args.output.no_draft)?,
        options,
        interrupts,
        console,
    };
    if let Some(name) = template.typed().filter(|_| story) {
        console.note(&format!(
            "note: {name} is for chats; a story has no template"
        ));
    }
    greet(args, story, console);
    chat.talk(&mut Lines::open(args.no_history)?)
}

fn greet(args: &ChatArgs, story: bool, console: &Console) {
    let name = open::model_name(&args.model);
    console.note(&if story {
        format!(
            "{name} was not trained to chat: it continues stories. Type the beginning of one; \
             it goes on, then you, then it. /help for help."
        )
    } else {
        format!("{name} is listening. /help for help, Ctrl-D to end.")
    });
}

/// The lines a person types, with editing and history.
struct Lines {
    editor: DefaultEditor,
    history: Option<PathBuf>,
}

impl Lines {
    fn open(no_history: bool) -> Result<Lines> {
        let config = Config::builder().auto_add_history(true).build();
        let mut editor = DefaultEditor::with_config(config)
            .map_err(|error| Failure::failed(format!("cannot read lines: {error}")))?;
        let history = if no_history { None } else { history_file() };
        if let Some(path) = &history {
            // There is none the first time.
            let _ = editor.load_history(path);
        }
        Ok(Lines { editor, history })
    }

    /// The next line; `None` at the end of the input.
    fn next(&mut self) -> Result<Option<String>> {
        loop {
            match self.editor.readline("> ") {
                Ok(line) => return Ok(Some(line)),
                // Ctrl-C while typing drops the line, as shells do.
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => return Ok(None),
                Err(error) => return Err(Failure::failed(format!("cannot read lines: {error}"))),
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if let Some(path) = &self.history {
            // A history that cannot be kept is not worth a message at the end of a chat.
            let folder = path.parent().map(std::fs::create_dir_all);
            if matches!(folder, Some(Ok(()))) {
                let _ = self.editor.save_history(path);
            }
        }
    }
}

/// Where typed lines are kept: the folder that the platform has for such things.
fn history_file() -> Option<PathBuf> {
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let state = variable("XDG_STATE_HOME")
        .or_else(|| variable("LOCALAPPDATA"))
        .or_else(|| variable("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("hadal").join("chat_history"))
}

/// A running chat.
struct Chat<'c> {
    conversation: Conversation,
    session: Session,
    options: GenerateOptions,
    interrupts: Interrupts,
    console: &'c Console,
}

impl Chat<'_> {
    fn talk(&mut self, lines: &mut Lines) -> Result<()> {
        while let Some(line) = lines.next()? {
            let outcome = match line.trim() {
                "" => Ok(()),
                "/quit" | "/exit" => return Ok(()),
                command if command.starts_with('/') => self.command(command),
                _ => self
                    .conversation
                    .say(&line)
                    .map_err(Failure::from)
                    .and_then(|()| self.answer()),
            };
            match outcome {
                Ok(()) => {}
                // A mistake or a full context ends the turn, not the chat.
                Err(failure) if failure.is_lasting() => return Err(failure),
                Err(failure) => failure.tell(),
            }
        }
        Ok(())
    }

    fn command(&mut self, command: &str) -> Result<()> {
        let (name, rest) = command.split_once(' ').unwrap_or((command, ""));
        let rest = rest.trim();
        match name {
            "/help" => self.console.reply(HELP),
            "/clear" => {
                self.conversation.clear();
                self.console.reply("forgotten");
            }
            "/system" => {
                self.conversation
                    .set_system((!rest.is_empty()).then(|| rest.to_string()));
                self.console.reply("a new conversation begins");
            }
            "/retry" => {
                if !self.conversation.take_answer_back() {
                    return Err(Failure::usage("there is no answer yet"));
                }
                let seed = &mut self.options.sampling.seed;
                *seed = seed.wrapping_add(1);
                return self.answer();
            }
            "/save" if rest.is_empty() => return Err(Failure::usage("/save needs a file name")),
            "/save" => {
                let path = Path::new(rest);
                std::fs::write(path, self.conversation.saved())
                    .map_err(|error| Failure::file(path, error))?;
                self.console.reply(&format!("saved to {rest}"));
            }
            _ => {
                return Err(
                    Failure::usage(format!("there is no {name}")).help("/help lists what there is")
                );
            }
        }
        Ok(())
    }

    /// The prompt, if the context holds it.
    fn fitting(&self, ids: Vec<u32>) -> Result<Vec<u32>> {
        let engine = self.session.engine();
        let context = engine.context();
        let max = engine.model().config.max_position_embeddings;
        if ids.len() <= context as usize {
            return Ok(ids);
        }
        let larger = match context < max {
            true => format!("; `hadal chat --context {max}` is the most this model allows"),
            false => String::new(),
        };
        Err(Failure::usage(format!(
            "with this line the conversation has {} tokens, but the context holds {context}",
            ids.len()
        ))
        .help(format!("/clear begins a new conversation{larger}")))
    }

    /// Lets the model speak.
    fn answer(&mut self) -> Result<()> {
        self.interrupts.reset();
        let prompt = self.conversation.prompt().map_err(Failure::from);
        let ids = match prompt.and_then(|ids| self.fitting(ids)) {
            Ok(ids) => ids,
            Err(failure) => {
                self.conversation.unsay();
                return Err(failure);
            }
        };
        // What the cache already holds of this prompt is not fed again; one token must be,
        // to have something to answer to.
        let known = self
            .session
            .tokens()
            .iter()
            .zip(&ids)
            .take_while(|(a, b)| a == b);
        let known = known.count().min(ids.len().saturating_sub(1));
        self.session.keep(known);
        let (session, options) = (&mut self.session, &self.options);
        let made = run::stream(
            session,
            &ids[known..],
            "",
            options,
            &self.interrupts,
            self.console,
        );
        let made = match made {
            Ok(made) => made,
            Err(failure) => {
                self.conversation.unsay();
                return Err(failure);
            }
        };
        self.conversation.answered(&ids, &made);
        if self.console.json() {
            let mut report = run::report(&made, &self.session, self.options.sampling.seed);
            report["cached_tokens"] = json!(known);
            return self.console.print(&format!("{report}\n"));
        }
        self.console.print("\n")?;
        if made.finish == Finish::Context {
            self.console
                .note("the context is full; /clear begins a new conversation");
        }
        self.console.note(&run::line(&made, &self.session));
        Ok(())
    }
}
