//! Every kernel's source, and one table of them. No GPU dependency: this crate only holds
//! text and the rules for choosing among kernels.
#![forbid(unsafe_code)]

#[cfg(feature = "planted-faults")]
mod emulate;
#[cfg(feature = "planted-faults")]
pub mod faults;
pub mod gpu;
mod gpu_launch;
mod gpu_native;
mod gpu_rows;
mod host_rows;
pub mod spirv;
mod spirv_rows;
pub mod wgsl;
pub mod wgsl_blocks;
mod wgsl_fit;
pub mod wgsl_kernels;
mod wgsl_launch;
pub mod wgsl_operands;
pub mod wgsl_probe;
mod wgsl_rows;
mod wgsl_sources;

use std::sync::LazyLock;

use hadal_device::KernelRow;

/// Why a row does not fit a problem whose weight has another format than its own.
pub const OTHER_FORMAT: &str = "is for another weight format";

/// All kernels of all languages, faster rows of an operation above slower ones.
pub fn table() -> &'static [KernelRow] {
    static TABLE: LazyLock<Vec<KernelRow>> = LazyLock::new(|| {
        let (matrix, pointers) = (spirv_rows::matrix_rows(), spirv_rows::pointer_rows());
        [
            host_rows::rows(),
            gpu_rows::rows(),
            matrix,
            wgsl_rows::rows(),
            pointers,
        ]
        .concat()
    });
    &TABLE
}
