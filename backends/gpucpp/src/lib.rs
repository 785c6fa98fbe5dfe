//! The host code of CUDA and ROCm, which are one interface under two names.
//!
//! Knows buffers, kernels and programs; must never know a model, an expert or a token.
//! [`GpuBackend`] is the way in; `hadal-cuda` and `hadal-rocm` say what their devices can do.
//! `driver` is the vendors' libraries, found when the program runs; `gpu` owns an open device
//! and what the driver makes on it; `lane` is a stream, `lanes` the order of two; `memory` and
//! `transfer` are bytes; `code`, `compile`, `rtc` and `cache` get modules, `kernel` keeps them;
//! `blaslt` is a library that multiplies, `native` where it is used; `operands` checks programs,
//! `lists` are what kernels find addresses and maps in, `launch` is a program as its launches,
//! `graph` makes a graph of them where the driver's are used, and `program` submits either;
//! `timing` measures, `core` and `device` put it together.

mod backend;
mod blaslt;
mod cache;
mod code;
mod compile;
mod core;
mod device;
mod driver;
mod fault;
mod gpu;
mod graph;
mod kernel;
mod lane;
mod lanes;
mod launch;
mod lists;
mod memory;
mod native;
mod operands;
mod program;
mod rtc;
mod timing;
mod transfer;

use std::path::PathBuf;

pub use crate::backend::{GpuBackend, Offer};
pub use crate::code::{Code, ShaderCode, Target};
pub use crate::device::{GpuDevice, copy_between};
pub use crate::driver::{Arch, Found, Vendor};

/// How devices are opened.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct GpuOptions {
    /// The driver's library, where it is not the system's; its compiler is looked for there
    /// first.
    pub library: Option<PathBuf>,
    /// Where compiled kernels are kept for the next process; `None`: nowhere.
    pub cache_folder: Option<PathBuf>,
    /// Device memory to use at most, where less than the device has is wanted.
    pub memory_bytes: Option<u64>,
    /// Longest operand in bytes, where less than the device's memory is wanted: makes
    /// lowering cut small models into shards. Rounded down to a multiple of 256.
    pub binding_bytes: Option<u64>,
    /// Do as if no kernels had been made ahead: the driver's compiler makes all of them.
    pub no_images: bool,
    /// Fault injection, for tests of whoever must survive a lost device: the first device
    /// of this backend value that has submitted so many programs behaves from then on as if
    /// the driver had lost it. Devices opened afterwards, by the same value or a clone of it,
    /// work.
    pub lose_after_submits: Option<u64>,
}
