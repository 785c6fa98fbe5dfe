//! Activations taken apart for integer products, kept while a step lasts.
//!
//! The pieces of a step that share rows of activations come to a thread one after the other:
//! taking the rows apart once is enough. What is kept is known by where the rows lie, so it
//! is forgotten when a step begins; rows outside of operands, which may change within a step,
//! are never known, and have memory of their own.

use hadal_device::DType;

use super::Grown;
use crate::args::Fault;
use crate::weight::{Place, Rows};

/// A cache line: a register of 512 bits.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
pub(crate) struct Line(#[allow(dead_code, reason = "cores read registers")] pub [u32; 16]);

/// How rows are taken apart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Of the weights, whose columns may lie in an order of their own.
    pub format: DType,
    /// Digits of an activation.
    pub digits: usize,
}

/// Rows taken apart.
#[derive(Default)]
pub(crate) struct Digits {
    known: Option<(Place, Layout)>,
    lines: Grown<Line>,
    passing: Grown<Line>,
}

impl Digits {
    /// What was kept may no longer be what the rows hold.
    pub fn forget(&mut self) {
        self.known = None;
    }

    /// `count` lines for `x` in `layout`, and whether they are known: if not, the caller fills
    /// them. (A closure that did would not be compiled for the caller's instruction set.)
    pub fn of(
        &mut self,
        x: Rows<'_>,
        layout: Layout,
        count: usize,
    ) -> Result<(&mut [Line], bool), Fault> {
        let Some(place) = x.place() else {
            return Ok((self.passing.take(count)?, false));
        };
        let lines = self.lines.take(count)?;
        let known = self.known == Some((place, layout));
        // If filling them ends early, so does the step, and the next one forgets them.
        self.known = Some((place, layout));
        Ok((lines, known))
    }
}
