//! Every WGSL row on a real device against a formula in f64, over awkward shapes.
//!
//! Each case runs through every row that fits it, launched as for a GPU and as for a
//! software adapter, with and without bounds checks. Activations share one buffer with
//! guards between them; outputs begin as NaN. Without an adapter each test says that it did
//! not run.

mod attention;
mod experts;
mod formats;
mod harness;
mod linear;
mod open;
mod route;
mod split;
mod values;
