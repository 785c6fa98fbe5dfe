//! What lowering is asked for and what it gives: requests, slots, outputs, reasons.

use hadal_device::{DType, OpKind, Program, Rejection, Slot};

use super::work::{Work, WorkLimit};
use crate::Dim;

/// What a program is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// Most tokens a step.
    pub bucket: u32,
    /// Most rows of logits a step.
    pub logit_rows: u32,
    /// Sequences in the page table.
    pub sequences: u32,
    /// Page-table entries a sequence.
    pub page_stride: u32,
    /// Rows of each layer's cache: pages times [`hadal_device::PAGE`].
    pub cache_rows: u32,
    /// Positions in the rotary table: the context length.
    pub context: u32,
    /// How experts read their tokens.
    pub moe: MoeForm,
    /// Activations may be rounded ([`hadal_device::flags::ROUGH`]), but for the router.
    pub rough: bool,
    /// What FP8 weights are multiplied by is rounded to FP8 already, and no further.
    pub quantised: bool,
    /// Dispatches of more work are cut where they can be; `None`: only where a binding's
    /// limit demands it.
    pub limit: Option<WorkLimit>,
}

/// How experts read their tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum MoeForm {
    /// By token count.
    #[default]
    Auto,
    /// Each choice looks its expert up: no sorting, an expert's weights are read once a
    /// choice.
    Direct,
    /// Choices are sorted by expert: an expert's weights are read once a step.
    Grouped,
}

/// What a slot of the program is bound to at submit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SlotUse {
    /// The step's inputs (`hadal_device::Inputs`).
    Inputs,
    /// The arena of temporaries.
    Scratch,
    /// Cosines and sines.
    RopeTable,
    /// Rows handed in (`Op::Hidden`).
    HiddenIn,
    /// The rows named `hidden`, kept for the next-token module.
    HiddenOut,
    /// The latent cache of a layer.
    Cache(u32),
    /// A buffer of the weight placement.
    Weights(u32),
}

/// A readable output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputPlace {
    /// Name, as given by the model.
    pub name: String,
    /// Slot it lies in.
    pub slot: Slot,
    /// Byte offset of row 0.
    pub offset: u64,
    /// From row to row, in numbers of four bytes.
    pub row_stride: u32,
    /// Numbers a row.
    pub width: u32,
    /// `F32` or `U32`.
    pub dtype: DType,
    /// `Dim::T` or `Dim::R`: how many rows there are.
    pub rows: Dim,
}

/// The kernel row a step takes, and the rows refused before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Place in the model.
    pub scope: String,
    /// The operation.
    pub op: OpKind,
    /// Format of its weight; `F32` where it has none.
    pub weight: DType,
    /// The row taken.
    pub row: &'static str,
    /// Rows refused, with reasons.
    pub rejected: Vec<Rejection>,
    /// Bytes of weights, cache and rotary table that the step may read: a table counts every
    /// entry it could choose.
    pub read_bytes: u64,
    /// What it has to do.
    pub work: Work,
}

/// Bytes of the scratch arena between the steps where they mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Temporary {
    /// First byte.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
    /// First step that writes it.
    pub first: usize,
    /// Last step that touches it; the number of steps where it is read after them.
    pub last: usize,
}

/// A program with everything needed to bind and read it.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The steps.
    pub program: Program,
    /// What each slot is.
    pub slots: Vec<SlotUse>,
    /// Size of the scratch arena.
    pub scratch_bytes: u64,
    /// What lies there when.
    pub temporaries: Vec<Temporary>,
    /// Readable outputs.
    pub outputs: Vec<OutputPlace>,
    /// One entry a dispatch.
    pub explained: Vec<Explained>,
}
