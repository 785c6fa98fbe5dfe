//! The block formats of GGUF: from bytes to numbers.
//!
//! [`unpack`] takes a block apart into what all of them come down to, small integers and a
//! scale and a minimum for each sixteen; kernels of processors multiply those. [`decode`]
//! gives the values themselves. Knows no files, shapes or kernels.
#![deny(unsafe_code)]

mod decode;
pub mod grids;
mod unpack;

pub use decode::decode;
pub use unpack::{Block, GROUP, MAX_VALUES, unpack};
