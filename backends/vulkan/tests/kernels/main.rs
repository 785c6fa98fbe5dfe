//! Every row that runs on Vulkan, the WGSL ones and the SPIR-V ones, against a formula in f64:
//! the cases of wgpu's kernels, and those that only rows of this backend can do.

#[path = "../../../wgpu/tests/kernels/attention.rs"]
mod attention;
mod bytes;
#[path = "../../../wgpu/tests/kernels/experts.rs"]
mod experts;
#[path = "../../../wgpu/tests/kernels/formats.rs"]
mod formats;
#[path = "../../../wgpu/tests/kernels/harness.rs"]
mod harness;
#[path = "../../../wgpu/tests/kernels/linear.rs"]
mod linear;
mod matrix;
mod open;
#[path = "../../../wgpu/tests/kernels/route.rs"]
mod route;
#[path = "../../../wgpu/tests/kernels/values.rs"]
mod values;
