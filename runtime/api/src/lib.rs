//! DeepSeek-V3 models inside another program.
//!
//! Open a [`Model`], [`Model::plan`] it, load it to an [`Engine`], begin a [`Session`] and read
//! a [`Stream`] of what the model writes:
//!
//! ```
//! # #[cfg(feature = "tiny")]
//! # fn main() -> hadal::Result<()> {
//! use hadal::{Event, LoadOptions, Model, Request, SessionOptions};
//!
//! let model = Model::shipped()?;
//! let options = LoadOptions::on("host").with_context(512);
//! let plan = model.plan(&options)?;
//! assert!(plan.fits, "{}", plan.verdict());
//!
//! let engine = model.load(options)?;
//! let session = engine.session(SessionOptions::default())?;
//! let request = Request::text("Once upon a time").with_max_tokens(8).with_seed(5);
//! let mut story = String::new();
//! for event in session.stream(request)? {
//!     match event? {
//!         Event::Text { text, .. } => story += &text,
//!         Event::End(end) => assert_eq!(end.ids.len(), 8),
//!         _ => {}
//!     }
//! }
//! assert!(!story.is_empty());
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "tiny"))]
//! # fn main() {}
//! ```
//!
//! **What it never does.** It prints nothing, exits nowhere, installs no handler unless asked
//! ([`survive_lost_pages`]) and has no globals; two engines live side by side. What goes wrong is
//! an [`Error`] with a [`Error::code`] for programs and a [`Error::cure`] for people, a panic of its
//! own too. Where a function of the program panics, the call that it was in ends, and the panic goes
//! on.
//!
//! **Threads.** All types are `Send` and, but for [`Stream`], `Sync`. A stream works on a
//! thread `hadal-generate`, a load in the background on `hadal-load`, and an engine on the host
//! on `hadal-host-N`, as many as [`LoadOptions::device_options`] says; `hadal-pages` reads weights
//! ahead and moves them into large pages meanwhile. None of them wakes up while there is nothing to
//! do.
//!
//! **Courtesy.** [`Engine::pause`], [`Engine::set_low_priority`] and [`Engine::set_budget`] may
//! be called from any thread while the engine works.
#![forbid(unsafe_code)]

mod chat;
mod devices;
mod engine;
mod error;
mod guard;
mod load;
mod model;
mod queue;
mod request;
mod session;
mod stream;

pub use devices::{DeviceChoice, devices};
pub use engine::Engine;
pub use error::{Error, ErrorCode, Result};
pub use load::{LoadOptions, Loading};
pub use model::{Model, ModelBytes};
pub use request::{Message, Prompt, Request};
pub use session::{Session, SessionOptions};
pub use stream::{Event, Stream, Token};

pub use hadal_device::{BufferId, Device, DeviceInfo, DeviceKind, Span};
pub use hadal_engine::plan::{Memory, Nearest, PartKind, Tier};
pub use hadal_engine::registry::{Options as DeviceOptions, Survey};
pub use hadal_engine::{
    Budget, Cancel, DraftCounts, EngineError, EngineOptions, Finish, Generated, Logprobs,
    MemoryUse, Plan, Progress, Route, SamplingOptions,
};
pub use hadal_weights::survive_lost_pages;

/// The backends that a device's name may begin with.
pub const BACKENDS: &[&str] = &hadal_engine::registry::NAMES;

/// Version of this library.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The example of the README runs.
#[cfg(all(doctest, feature = "tiny"))]
#[doc = include_str!("../../../README.md")]
struct Readme;
