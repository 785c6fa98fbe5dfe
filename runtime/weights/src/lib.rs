//! Checkpoints: from files to buffers of a device, as stored, with nothing expanded and
//! nothing copied where a device can use the file's pages.
//!
//! [`Checkpoint`] and [`Gguf`] open files (each a [`TensorSource`]), [`bind`] checks them both ways against
//! the weights a model [`Declared`], [`Placement`] decides where each weight lies on a
//! device and uploads it. [`DummySource`] makes weights up, [`Outline`] describes weights that
//! are not here. This crate knows no model, no
//! kernel and no backend.
#![deny(unsafe_code)]

mod bind;
mod checkpoint;
mod dummy;
mod error;
mod file;
mod gguf;
mod in_place;
mod index;
mod into_memory;
mod load;
mod lost_pages;
mod map;
mod members;
mod memory;
mod outline;
mod place;
mod safetensors;
mod source;
mod values;

pub use bind::{Bound, BoundWeight, Declared, SCALE_SUFFIX, Stored, bind};
pub use checkpoint::Checkpoint;
pub use dummy::{DummySource, DummyTensor};
pub use error::{Problem, WeightsError};
pub use file::{read_bounded, read_text};
pub use gguf::{Gguf, GgufValue, Metadata, Rename, Renamed, gguf_number, gguf_stem};
pub use index::Index;
pub use into_memory::{Moving, move_into_memory};
pub use load::Progress;
pub use lost_pages::survive_lost_pages;
pub use members::Members;
pub use memory::available as available_memory;
pub use outline::{Outline, OutlineTensor};
pub use place::{Piece, Placed, PlacedTable, Placement, TableChunk};
pub use source::{Extent, FileType, Shard, TensorInfo, TensorSource, layer_of};

/// Result of everything in this crate.
pub type Result<T> = std::result::Result<T, WeightsError>;
