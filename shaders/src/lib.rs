//! Every kernel's source, and one table of them. No GPU dependency: this crate only holds
//! text and the rules for choosing among kernels.
#![forbid(unsafe_code)]

mod host_rows;
pub mod wgsl;
mod wgsl_fit;
pub mod wgsl_kernels;
mod wgsl_launch;
pub mod wgsl_operands;
pub mod wgsl_probe;
mod wgsl_rows;
mod wgsl_sources;

use std::sync::LazyLock;

use hadal_device::KernelRow;

/// All kernels of all languages, faster rows of an operation above slower ones.
pub fn table() -> &'static [KernelRow] {
    static TABLE: LazyLock<Vec<KernelRow>> =
        LazyLock::new(|| [host_rows::rows().as_slice(), &wgsl_rows::rows()].concat());
    &TABLE
}
