//! From a model to a GGUF file.
//!
//! [`Choice`] says which format each kind of tensor takes, [`Plan`] lists the tensors of the
//! file with their formats and places, and [`quantize`] streams them into it and reads them back.
//! Memory is bounded by a few million values a thread, whatever the model's size. A model that is
//! a GGUF file itself may be rounded already: blocks that stay as they are get copied, others are
//! rounded again. Knows no devices and never prints.
#![forbid(unsafe_code)]

mod collect;
mod error;
mod file;
mod importance;
mod metadata;
mod plan;
mod pool;
mod recipe;
mod rows;
mod state;
mod text;
mod verify;
mod write;

pub use collect::Collector;
pub use error::QuantizeError;
pub use file::{Described, Value, header};
pub use importance::{Importance, Summed, write_importance};
pub use metadata::metadata;
pub use plan::{Plan, Planned};
pub use recipe::{Choice, RECIPES, Recipe, Role};
pub use rows::Matrix;
pub use text::{TextFiles, text_keys};
pub use verify::Compared;
pub use write::{Options, Progress, Stage, Watch, Written, part_path, quantize};

/// Result of everything in this crate.
pub type Result<T> = std::result::Result<T, QuantizeError>;
