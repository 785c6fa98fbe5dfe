//! The block formats of GGUF: from bytes to numbers and back.
//!
//! [`unpack`] takes a block apart into what all of them come down to, small integers and a
//! scale and a minimum for each sixteen; kernels of processors multiply those. [`decode`]
//! gives the values themselves, [`encode`] finds the codes of values. Knows no files, shapes or
//! kernels.
#![deny(unsafe_code)]

mod decode;
mod encode;
pub mod grids;
mod scales;
mod unpack;

pub use decode::decode;
pub use encode::{EncodeError, encode};
pub use scales::set_scales;
pub use unpack::{Block, GROUP, LEVELS, MAX_VALUES, unpack};
