//! What the tests across crates share: small checkpoints made in memory, single operations, and
//! comparison.
#![forbid(unsafe_code)]

pub mod counting;
pub mod devices;
pub mod dispatch;
pub mod golden;
pub mod headers;
pub mod shipped;
pub mod small;
pub mod unit;

pub use hadal_conformance::Random;
pub use hadal_conformance::models::{checkpoint, compare, oracle};
