//! Every host row of the kernel table against the formula of its operation in `f64`,
//! written here from the sentence in `OpKind` and from nothing else.
//!
//! Weights lie at odd addresses, outputs are poisoned with NaN and checked word by word:
//! what an operation does not write must still be poison. Rows beyond the real count hold
//! NaN in every input.

mod attention;
mod blocks;
mod device;
mod experts;
mod latent;
mod linear;
mod pointwise;
mod route;
mod rows;
mod stage;
mod table;
