//! What is asked of a session.

use std::collections::BTreeMap;

use hadal_engine::SamplingOptions;
use serde_json::{Value, json};

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message {
            role: role.into(),
            content: content.into(),
        }
    }

    /// What the person said.
    pub fn user(content: impl Into<String>) -> Message {
        Message::new("user", content)
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Message {
        Message::new("assistant", content)
    }

    /// What holds for the whole conversation.
    pub fn system(content: impl Into<String>) -> Message {
        Message::new("system", content)
    }

    pub(crate) fn json(&self) -> Value {
        json!({"role": self.role, "content": self.content})
    }
}

/// What the model continues.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// A whole conversation, through the model's chat template. What the session has of it
    /// already is not computed again; what it has beyond is forgotten.
    Messages(Vec<Message>),
    /// The same as JSON, for templates that read more than role and content: a list of
    /// objects.
    Json(Value),
    /// Text after what the session has; at its beginning, with the token that begins one.
    Text(String),
    /// Token ids after what the session has.
    Ids(Vec<u32>),
}

/// A prompt and how to continue it.
///
/// ```
/// # #[cfg(feature = "tiny")]
/// # fn main() -> hadal::Result<()> {
/// # use std::ops::ControlFlow;
/// # use hadal::{LoadOptions, Message, Model, Request, SamplingOptions, SessionOptions};
/// # let engine = Model::shipped()?.load(LoadOptions::on("host").with_context(512))?;
/// # let session = engine.session(SessionOptions::default())?;
/// let sampling = SamplingOptions { temperature: 0.7, top_p: 0.9, ..SamplingOptions::default() };
/// let mut request = Request::text("Lily found a red ball.")
///     .with_sampling(sampling)
///     .with_seed(1)
///     .with_max_tokens(32)
///     .with_stop("\n")
///     .with_logprobs(3);
/// request.ignore_end = true;
/// let made = session.generate(&request, &mut |_| ControlFlow::Continue(()))?;
/// assert!(made.ids.len() <= 32 && !made.text.contains('\n'));
///
/// // A conversation, for models with a chat template.
/// let asked = Request::chat([Message::system("Be brief."), Message::user("Hello!")]);
/// if engine.model().can_chat() {
///     session.clear()?;
///     session.generate(&asked, &mut |_| ControlFlow::Continue(()))?;
/// }
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "tiny"))]
/// # fn main() {}
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What to continue.
    pub prompt: Prompt,
    /// Most tokens of output; `None`: as many as the context holds.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen; `None`: as the model's publisher recommends, with seed 0.
    pub sampling: Option<SamplingOptions>,
    /// Seed, also over that of `sampling`.
    pub seed: Option<u64>,
    /// Strings that end the output; they are not part of it.
    pub stop: Vec<String>,
    /// Go on after an end-of-text token.
    pub ignore_end: bool,
    /// Whether the model should reason first, for templates that let one choose.
    pub thinking: Option<bool>,
    /// Further variables for the template, `tools` for example.
    pub template_variables: BTreeMap<String, Value>,
    /// Log probabilities with each token, and so many of the likeliest beside it.
    pub logprobs: Option<usize>,
    /// Tell which experts each layer asked ([`crate::Event::Routes`]).
    pub watch_experts: bool,
}

impl Request {
    /// Continue `prompt`.
    pub fn new(prompt: Prompt) -> Request {
        Request {
            prompt,
            max_tokens: None,
            sampling: None,
            seed: None,
            stop: Vec::new(),
            ignore_end: false,
            thinking: None,
            template_variables: BTreeMap::new(),
            logprobs: None,
            watch_experts: false,
        }
    }

    /// Continue a text.
    pub fn text(text: impl Into<String>) -> Request {
        Request::new(Prompt::Text(text.into()))
    }

    /// Answer a conversation.
    pub fn chat(messages: impl Into<Vec<Message>>) -> Request {
        Request::new(Prompt::Messages(messages.into()))
    }

    /// Continue token ids.
    pub fn ids(ids: impl Into<Vec<u32>>) -> Request {
        Request::new(Prompt::Ids(ids.into()))
    }

    /// At most so many tokens of output.
    pub fn with_max_tokens(mut self, tokens: usize) -> Request {
        self.max_tokens = Some(tokens);
        self
    }

    /// Choosing tokens so.
    pub fn with_sampling(mut self, sampling: SamplingOptions) -> Request {
        self.sampling = Some(sampling);
        self
    }

    /// The most probable token, always.
    pub fn greedy(self) -> Request {
        self.with_sampling(SamplingOptions::greedy())
    }

    /// With this seed.
    pub fn with_seed(mut self, seed: u64) -> Request {
        self.seed = Some(seed);
        self
    }

    /// Ending before this text.
    pub fn with_stop(mut self, stop: impl Into<String>) -> Request {
        self.stop.push(stop.into());
        self
    }

    /// With log probabilities of the chosen token and of the `top` likeliest.
    pub fn with_logprobs(mut self, top: usize) -> Request {
        self.logprobs = Some(top);
        self
    }

    /// Telling which experts each layer asked.
    pub fn watching_experts(mut self) -> Request {
        self.watch_experts = true;
        self
    }
}
