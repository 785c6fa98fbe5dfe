//! The host backend: runs programs on the machine's own processor.
//!
//! Scalar kernels for every operation, vector ones where time goes, chosen at run time; one
//! pool of threads a device. It interprets a program step by step, dividing the groups of a
//! dispatch among the threads. Weights are read as they are stored, at any alignment, also
//! from adopted pages. Little-endian processors only, as the formats are. Read
//! [`HostBackend`] first, then `execute`.

mod activations;
mod args;
mod backend;
mod core;
mod device;
mod execute;
mod kernels;
mod memory;
mod past_caches;
mod pool;
mod resolve;
mod weight;

pub use backend::{HostBackend, Isa};
pub use past_caches::fill_past_caches;
