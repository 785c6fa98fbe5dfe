//! The contract between the runtime and its backends: the only crate a backend's author
//! depends on.
//!
//! # What the runtime promises
//! * Programs are valid: every slot is in range, every range lies in its buffer, operands
//!   come in the order of the operation's sentence in [`OpKind`], limits of [`Limits`] hold.
//!   Backends need not check again, except that nothing may be undefined behaviour on the
//!   host for a program that breaks this: return [`Error::Invalid`].
//! * A buffer is freed only when no unfinished submit uses it.
//! * What changes from step to step is written to buffers before the submit.
//!
//! # What a backend promises
//! * No panic, no abort, no print, no exit. A missing driver, a full memory and a lost
//!   device are values of [`Error`].
//! * Steps of a program, and submits and writes of a device, behave as if done one after
//!   the other.
//! * After an error the device either works on or answers [`Error::Lost`] to everything.
//! * A submit with a table seen before (one of the last [`KEPT_TABLES`]) allocates nothing
//!   and compiles nothing.
//! * Kernels do what [`OpKind`] says, within the arithmetic of `f32`, and write nothing
//!   outside their output rows.
//!
//! # Where to start
//! Copy `backends/null`, then implement in the order: info, memory, pipeline, prepare,
//! submit.
#![forbid(unsafe_code)]

mod backend;
mod buffer;
mod cost;
mod dtype;
mod error;
mod hazards;
mod info;
mod kept;
mod kernel;
mod params;
mod program;

pub use backend::{Backend, Device, Executable, SetupCounts, SubmitCost, Ticket, check_table};
pub use buffer::{BufferDesc, BufferId, Pages, Span};
pub use cost::CostCounter;
pub use dtype::{DType, E4M3_MAX, SCALE_BLOCK, e4m3_to_f32, f32_to_e4m3};
pub use error::{Error, Result};
pub use hazards::{levels, levels_with};
pub use info::{DeviceInfo, DeviceKind, Features, Limits, MatrixSizes, Member};
pub use kept::{KEPT_TABLES, Kept};
pub use kernel::{
    Body, Choice, KernelRow, Launch, NO_ARGMAX, OpKind, Problem, Rejection, able, select,
};
pub use params::{COUNT_ALL, Inputs, PAGE, Params, coded_scales, coded_words, flags};
pub use program::{
    Access, Bind, Dispatch, Operand, PipelineId, Program, Slot, Stage, Step, table_stride,
};
