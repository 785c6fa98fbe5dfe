//! How a conversation becomes a prompt: the options that `render`, `run --chat` and `chat`
//! share.

use clap::{Args, ValueEnum};
use hadal_tokens::{ChatFamily, RenderOptions, TextModel};

use crate::failure::{Failure, Result};

/// Which template, and what it is told.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Conversation")]
pub struct TemplateArgs {
    /// Use this built-in chat template instead of the checkpoint's own.
    #[arg(long, value_enum, value_name = "NAME")]
    family: Option<FamilyArg>,
    /// Let the model reason before it answers, where the template has the choice.
    #[arg(long, overrides_with = "no_thinking")]
    thinking: bool,
    /// Let it answer at once.
    #[arg(long)]
    no_thinking: bool,
}

/// The built-in chat templates.
#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum FamilyArg {
    /// DeepSeek-V3 and V3-0324: no reasoning.
    V3,
    /// DeepSeek-R1 and R1-0528: every answer begins with reasoning.
    R1,
    /// DeepSeek-V3.1: reasoning with --thinking.
    #[value(name = "v3.1")]
    V3_1,
}

impl TemplateArgs {
    /// Gives the text side the built-in template that was asked for.
    pub fn apply(&self, text: &mut TextModel) -> Result<()> {
        let family = match self.family {
            None => return Ok(()),
            Some(FamilyArg::V3) => ChatFamily::V3,
            Some(FamilyArg::R1) => ChatFamily::R1,
            Some(FamilyArg::V3_1) => ChatFamily::V3_1,
        };
        Ok(text.set_chat_family(family)?)
    }

    /// The options of a prompt that is to be answered.
    pub fn options(&self) -> RenderOptions {
        RenderOptions {
            thinking: match (self.thinking, self.no_thinking) {
                (true, _) => Some(true),
                (_, true) => Some(false),
                _ => None,
            },
            ..RenderOptions::default()
        }
    }

    /// The first of these options that was typed.
    pub fn typed(&self) -> Option<&'static str> {
        [
            (self.family.is_some(), "--family"),
            (self.thinking, "--thinking"),
            (self.no_thinking, "--no-thinking"),
        ]
        .into_iter()
        .find_map(|(typed, name)| typed.then_some(name))
    }
}

/// What a model is told before it answers.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Conversation")]
pub struct ConversationArgs {
    /// What the model is told before the conversation.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    #[command(flatten)]
    pub template: TemplateArgs,
}

impl ConversationArgs {
    /// Refuses these options where a text is continued and no template is used.
    ///
    /// # Errors
    /// One was typed.
    pub fn refuse_without_chat(&self) -> Result<()> {
        let system = self.system.is_some().then_some("--system");
        match system.or(self.template.typed()) {
            None => Ok(()),
            Some(name) => Err(Failure::usage(format!("{name} needs --chat"))
                .help("without --chat the text is continued as it is, without a chat template")),
        }
    }
}
