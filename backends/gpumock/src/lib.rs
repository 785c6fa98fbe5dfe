//! What stands in for GPUs of NVIDIA and AMD in tests: the kernels of `shaders/gpu` built for
//! the CPU, and mock drivers that run them.
//!
//! The kernels' threads are fibers; [`launch`] runs one on slices. As a dynamic library this
//! crate is both vendors' driver and run-time compiler, with work that waits until somebody
//! waits for it, orders drawn from a seed, and complaints about whatever a real driver would
//! forgive or crash on. `HADAL_MOCK` says what devices there are, such as
//! `arch=sm_80,devices=2,memory=2G,seed=7`; [`library`] is what to load. `README.md` lists the
//! functions that steer it.
#![cfg(unix)]

mod codes;
mod config;
mod control;
mod cpu;
mod cublaslt;
mod cuda;
mod elf;
mod exports;
#[cfg(feature = "planted-faults")]
pub mod faults;
mod graph;
mod hip;
mod image;
mod locate;
mod memory;
mod module;
mod msgpack;
mod product;
mod queue;
mod random;
mod rtc;
mod state;
mod steer;
mod tensor;

pub use config::all_archs;
pub use cpu::{Arg, Kernel, Parameter, find, kernels, launch, launch_with};
pub use locate::{driver_folder, library};
pub use steer::Steer;
pub use tensor::{Matrix, TensorMap};
