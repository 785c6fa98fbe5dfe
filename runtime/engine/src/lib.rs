//! The engine: a model on a device, sessions over prepared programs, decoding with the
//! model's own drafts, text in and out.
//!
//! A library for other programs: nothing here prints, installs a handler or exits; every
//! failure is an [`EngineError`]. Nothing is global; engines live side by side.
//!
//! Read [`Engine`], then [`Session`], then [`generate`].
#![forbid(unsafe_code)]

mod activations;
pub mod bandwidth;
mod batch;
mod courtesy;
mod decode;
mod engine;
mod error;
mod explain;
mod forward;
mod gate;
mod generate;
mod gguf;
mod home;
mod ledger;
mod model;
mod observe;
mod outline;
mod pace;
mod perplexity;
pub mod plan;
mod prepared;
mod programs;
mod recovery;
pub mod registry;
mod seat;
mod session;
pub mod stage;
mod step;
mod tenancy;
mod trace;

pub use activations::activations;
pub use batch::Batch;
pub use decode::{Decoder, DraftCounts};
pub use engine::{CHUNK, DISPATCH_BUDGET, Engine, EngineOptions, SHARED_BUDGET};
pub use error::{EngineError, Result};
pub use forward::{ForwardOptions, Numbers, Tensor, forward};
pub use gate::Cancel;
pub use generate::{Event, Finish, GenerateOptions, Generated, generate};
pub use gguf::{gguf_file, gguf_model, gguf_text};
pub use hadal_graph::{Form, Graph, Lowered, MoeForm};
pub use hadal_tokens::SamplingOptions;
pub use hadal_weights::Progress;
pub use ledger::MemoryUse;
pub use model::{Kind, Model};
pub use observe::{Chosen, Logprobs, Observe, Route};
pub use outline::{Described, describe};
pub use perplexity::{Perplexity, perplexity};
pub use plan::{Budget, Plan};
pub use recovery::Recovery;
pub use session::Session;
pub use trace::Traced;
