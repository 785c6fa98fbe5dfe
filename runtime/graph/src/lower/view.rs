//! Where a value lies while a program runs: slots, temporaries and strided views of them.

use hadal_device::{Access, Bind, Slot, flags};

use super::types::Temporary;
use crate::plan::{Life, Plan};

/// Memory a view looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A temporary in the scratch arena; its offset is known once the plan is made.
    Scratch(usize),
    /// A slot of its own, whole.
    Slot {
        /// The slot.
        slot: Slot,
        /// Its size.
        bytes: u64,
    },
}

/// `rows x heads x width` numbers of four bytes within a place. Offsets and strides count
/// numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub place: Place,
    pub offset: u32,
    pub row_stride: u32,
    pub heads: u32,
    pub head_stride: u32,
    pub width: u32,
    /// Its rows are E4M3 codes and scales (`flags::CODED`).
    pub coded: bool,
}

impl View {
    /// Dense rows of `heads * width` numbers.
    pub fn dense(place: Place, heads: u32, width: u32) -> View {
        View {
            place,
            offset: 0,
            row_stride: heads * width,
            heads,
            head_stride: width,
            width,
            coded: false,
        }
    }

    /// The same rows as codes.
    pub fn coded(self, coded: bool) -> View {
        View { coded, ..self }
    }

    /// What says so in `Params::flags`.
    pub fn flags(self) -> u32 {
        if self.coded { flags::CODED } else { 0 }
    }

    /// A piece of the last axis.
    pub fn slice(self, first: u32, count: u32) -> View {
        View {
            offset: self.offset + first,
            width: count,
            ..self
        }
    }

    /// The last axis cut into heads.
    pub fn split_heads(self, heads: u32) -> View {
        let width = self.width / heads;
        View {
            heads,
            head_stride: width,
            width,
            ..self
        }
    }

    /// Heads joined into one axis; only where they touch.
    pub fn flat(self) -> Option<View> {
        (self.heads == 1 || self.head_stride == self.width).then_some(View {
            heads: 1,
            head_stride: self.heads * self.width,
            width: self.heads * self.width,
            ..self
        })
    }
}

/// A bind whose scratch offset is not known yet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PendingBind {
    Scratch(usize, Access),
    Ready(Bind),
}

/// Temporaries of a program under construction.
#[derive(Default)]
pub(crate) struct Scratch {
    lives: Vec<Option<Life>>,
    sizes: Vec<u64>,
}

impl Scratch {
    /// A new temporary of `bytes` bytes.
    pub fn add(&mut self, bytes: u64) -> Place {
        self.sizes.push(bytes.max(4));
        self.lives.push(None);
        Place::Scratch(self.sizes.len() - 1)
    }

    /// Marks that `step` touches the temporary.
    pub fn touch(&mut self, index: usize, step: usize) {
        let bytes = self.sizes[index];
        let life = self.lives[index].get_or_insert(Life {
            bytes,
            first: step,
            last: step,
        });
        life.first = life.first.min(step);
        life.last = life.last.max(step);
    }

    /// Size of a temporary.
    pub fn bytes(&self, index: usize) -> u64 {
        self.sizes[index]
    }

    /// Size of the largest temporary that a step touches.
    pub fn largest(&self) -> u64 {
        let lives = self.lives.iter().flatten();
        lives.map(|life| life.bytes).max().unwrap_or(0)
    }

    /// The temporaries that a step touches, at the offsets of `plan`.
    pub fn temporaries(&self, plan: &Plan) -> Vec<Temporary> {
        let placed = self.lives.iter().zip(&plan.offsets);
        let touched = placed.filter_map(|(life, offset)| {
            let Life { bytes, first, last } = (*life)?;
            Some(Temporary {
                offset: *offset,
                bytes,
                first,
                last,
            })
        });
        touched.collect()
    }

    /// Offsets of all temporaries; untouched ones take no room.
    pub fn plan(&self, align: u64) -> Plan {
        let lives: Vec<Life> = self
            .lives
            .iter()
            .map(|life| {
                life.unwrap_or(Life {
                    bytes: 0,
                    first: 0,
                    last: 0,
                })
            })
            .collect();
        crate::plan::plan(&lives, align)
    }
}
