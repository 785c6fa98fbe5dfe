//! Text in, token ids out, and back: tokeniser, chat templates, streaming text and sampling.
//!
//! Everything here is pure host code on plain slices and strings. It decides how text becomes
//! ids and how logits become the next id; it must not know devices, graphs or weights, and it
//! neither prints nor keeps global state. Files that come with a checkpoint are untrusted:
//! whatever they contain ends in a value or in a [`TokensError`].
//!
//! Read [`TextModel`] first: it is everything a checkpoint folder says about text.
//!
//! ```no_run
//! use hadal_tokens::{RenderOptions, Sampler, SamplingOptions, TextModel};
//! # fn logits() -> Vec<f32> { Vec::new() }
//! # fn main() -> Result<(), hadal_tokens::TokensError> {
//! let text = TextModel::open("checkpoint".as_ref())?;
//! let messages = serde_json::json!([{"role": "user", "content": "Hello"}]);
//! let prompt = text.render(&messages, &RenderOptions::default())?;
//! let mut history = prompt.ids;
//! let mut sampler = Sampler::new(SamplingOptions::default())?;
//! let mut stream = text.tokenizer().stream(true);
//! loop {
//!     let id = sampler.sample(&logits(), &history)?;
//!     if text.stop_ids().contains(&id) {
//!         break;
//!     }
//!     let piece = stream.push(id)?; // whole characters only
//!     history.push(id);
//! #   let _ = piece;
//! }
//! # Ok(())
//! # }
//! ```

mod alphabet;
mod chat;
mod config;
mod error;
mod gguf;
mod jinja;
mod model;
mod rng;
mod sampling;
mod speculative;
mod stop;
mod stream;
mod tokenizer;

pub use chat::{ChatFamily, ChatTemplate, RenderOptions, Rendered};
pub use config::{GenerationConfig, TokenizerConfig};
pub use error::{Result, TokensError};
pub use gguf::GgufText;
pub use model::TextModel;
pub use rng::Rng;
pub use sampling::{Sampler, SamplingOptions};
pub use speculative::{Verdict, accept_draft, draw};
pub use stop::{StopPush, StopStrings};
pub use stream::Stream;
pub use tokenizer::Tokenizer;
