//! A conversation as the text a model was trained to continue.
//!
//! Decides which template is used and what it is given; it must not know token ids. The
//! built-in templates under `templates/` are for checkpoints that bring none and are chosen by
//! name only: a wrong guess would look like a bad model. Read [`ChatTemplate`] first; the test
//! that breaks first is `every_family_writes_its_published_prompt`.

use minijinja::value::{Serde, Value as JinjaValue};
use minijinja::{Environment, Error as JinjaError};
use serde_json::{Map, Value};

use crate::error::{Result, TokensError};
use crate::jinja;

/// Longest accepted template; published ones stay below 16 KiB.
const MAX_TEMPLATE_BYTES: usize = 1 << 20;
/// Fuel of a render: instructions, plus one per 64 bytes made. Enough for thousands of
/// messages, gone within about a second; the part for the input is added.
const BASE_FUEL: u64 = 2_000_000;
const NAME: &str = "chat_template";

/// The prompt formats of the DeepSeek-V3 family that are built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChatFamily {
    /// V3 and V3-0324: no reasoning.
    V3,
    /// R1 and R1-0528: every answer begins with reasoning.
    R1,
    /// V3.1: reasoning on request, tool descriptions in the prompt.
    V3_1,
}

impl ChatFamily {
    /// The token that begins a document, in every family.
    pub const BOS: &'static str = "<｜begin▁of▁sentence｜>";

    /// The token that ends an answer, in every family.
    pub const EOS: &'static str = "<｜end▁of▁sentence｜>";

    /// The family called `name`: "v3", "r1" or "v3.1".
    #[must_use]
    pub fn from_name(name: &str) -> Option<ChatFamily> {
        let all = [ChatFamily::V3, ChatFamily::R1, ChatFamily::V3_1];
        all.into_iter().find(|family| family.name() == name)
    }

    /// The name that [`ChatFamily::from_name`] takes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ChatFamily::V3 => "v3",
            ChatFamily::R1 => "r1",
            ChatFamily::V3_1 => "v3.1",
        }
    }

    /// The source of the built-in template.
    #[must_use]
    pub fn template(self) -> &'static str {
        match self {
            ChatFamily::V3 => include_str!("../templates/v3.jinja"),
            ChatFamily::R1 => include_str!("../templates/r1.jinja"),
            ChatFamily::V3_1 => include_str!("../templates/v3.1.jinja"),
        }
    }
}

/// What to render besides the messages.
#[derive(Debug, Clone, PartialEq)]
pub struct RenderOptions {
    /// Whether the prompt ends where the model's answer begins.
    pub add_generation_prompt: bool,
    /// Whether the model should reason first, for templates that let one choose. None leaves
    /// it to the template.
    pub thinking: Option<bool>,
    /// Tool descriptions: a list of `{"type": "function", "function": {…}}`.
    pub tools: Option<Value>,
    /// Further variables for the template.
    pub variables: Map<String, Value>,
    /// The time `strftime_now` tells, in seconds since 1970 UTC; None is the clock's.
    pub now_unix_seconds: Option<u64>,
}

impl Default for RenderOptions {
    /// A prompt to be answered, everything else left to the template.
    fn default() -> RenderOptions {
        RenderOptions {
            add_generation_prompt: true,
            thinking: None,
            tools: None,
            variables: Map::new(),
            now_unix_seconds: None,
        }
    }
}

/// A prompt, as text and as ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text, BOS written out.
    pub text: String,
    /// Its ids.
    pub ids: Vec<u32>,
}

/// A compiled chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// Compiles a template. `bos_token` and `eos_token` are the texts it may write; empty
    /// where the model has none.
    ///
    /// # Errors
    /// [`TokensError::Template`] with the line that does not compile.
    pub fn new(source: &str, bos_token: &str, eos_token: &str) -> Result<ChatTemplate> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(TokensError::Template {
                why: format!(
                    "it has {} bytes; at most {MAX_TEMPLATE_BYTES} are accepted",
                    source.len()
                ),
            });
        }
        let mut environment = jinja::environment().map_err(|error| template_error(&error))?;
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| template_error(&error))?;
        Ok(ChatTemplate {
            environment,
            bos_token: bos_token.to_owned(),
            eos_token: eos_token.to_owned(),
        })
    }

    /// The text of BOS that the template may write.
    pub(crate) fn bos_token(&self) -> &str {
        &self.bos_token
    }

    /// The prompt text of `messages`, a list of objects with `role` and `content` (a string,
    /// null, or a list of text parts, which are joined by newlines) and whatever else the
    /// template reads.
    ///
    /// # Errors
    /// [`TokensError::Messages`] if `messages` is no conversation; [`TokensError::Refused`] if
    /// the template says so; [`TokensError::Template`] if it fails or works beyond its bounds.
    pub fn render(&self, messages: &Value, options: &RenderOptions) -> Result<String> {
        let (messages, content_bytes) = normalise(messages)?;
        let tool_bytes = options.tools.as_ref().map_or(0, |t| t.to_string().len());

        let mut variables = options.variables.clone();
        variables.insert("messages".into(), messages);
        variables.insert("bos_token".into(), self.bos_token.clone().into());
        variables.insert("eos_token".into(), self.eos_token.clone().into());
        variables.insert(
            "add_generation_prompt".into(),
            options.add_generation_prompt.into(),
        );
        if let Some(thinking) = options.thinking {
            // DeepSeek's name, and the one GLM and others use for the same switch.
            variables.insert("thinking".into(), thinking.into());
            variables.insert("enable_thinking".into(), thinking.into());
        }
        if let Some(tools) = &options.tools {
            variables.insert("tools".into(), tools.clone());
        }
        if let Some(now) = options.now_unix_seconds {
            variables.insert(jinja::NOW.into(), now.into());
        }

        // A clone shares the compiled template; the fuel depends on the conversation.
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(BASE_FUEL + (content_bytes + tool_bytes) as u64));
        let template = environment
            .get_template(NAME)
            .map_err(|error| template_error(&error))?;
        template
            .render(JinjaValue::from(Serde(variables)))
            .map_err(|error| template_error(&error))
    }
}

fn template_error(error: &JinjaError) -> TokensError {
    match jinja::refusal(error) {
        Some(message) => TokensError::Refused {
            message: message.to_owned(),
        },
        None => TokensError::Template {
            why: error.to_string(),
        },
    }
}

/// Checks that `messages` is a conversation and makes every content a string or null. Also
/// gives the size of all contents in bytes.
fn normalise(messages: &Value) -> Result<(Value, usize)> {
    let wrong = |at: String, why: &str| TokensError::Messages {
        at,
        why: why.to_owned(),
    };
    let list = messages
        .as_array()
        .ok_or_else(|| wrong("messages".into(), "must be a list of objects"))?;
    if list.is_empty() {
        return Err(wrong("messages".into(), "is empty; say at least one thing"));
    }
    let mut bytes = 0;
    let mut normalised = Vec::with_capacity(list.len());
    for (index, message) in list.iter().enumerate() {
        let at = |field: &str| format!("messages[{index}]{field}");
        let mut message = message
            .as_object()
            .ok_or_else(|| wrong(at(""), "must be an object with `role` and `content`"))?
            .clone();
        if !message.get("role").is_some_and(Value::is_string) {
            return Err(wrong(at(".role"), "must be a string such as \"user\""));
        }
        let content = match message.get("content") {
            None | Some(Value::Null) => Value::Null,
            Some(Value::String(text)) => Value::String(text.clone()),
            Some(Value::Array(parts)) => joined_text(parts)
                .map(Value::String)
                .ok_or_else(|| wrong(at(".content"), "has a part that is not text"))?,
            Some(_) => {
                return Err(wrong(
                    at(".content"),
                    "must be a string, null or a list of text parts",
                ));
            }
        };
        bytes += content.as_str().map_or(0, str::len);
        message.insert("content".into(), content);
        normalised.push(Value::Object(message));
    }
    Ok((Value::Array(normalised), bytes))
}

/// The texts of `[{"type": "text", "text": …}, …]`, one per line.
fn joined_text(parts: &[Value]) -> Option<String> {
    let texts: Option<Vec<&str>> = parts
        .iter()
        .map(|part| match part {
            Value::String(text) => Some(text.as_str()),
            part => part.get("text")?.as_str(),
        })
        .collect();
    Some(texts?.join("\n"))
}
