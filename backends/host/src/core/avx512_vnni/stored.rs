//! Where the spans of weight rows lie.

use std::arch::x86_64::*;

use super::format::{Format, GROUPS, MOST_BYTES, SPAN, Span};
use crate::weight::Matrix;

/// Rows in a block format.
pub(in crate::core) struct Stored<'a> {
    w: &'a Matrix<'a>,
    /// Spans of a row, the last of which may have fewer blocks than the others.
    pub spans: usize,
}

impl<'a> Stored<'a> {
    pub fn new(w: &'a Matrix<'a>) -> Stored<'a> {
        Stored {
            w,
            spans: w.k.div_ceil(SPAN),
        }
    }

    /// Sixteens of columns of span `index`.
    #[inline(always)]
    pub fn groups(&self, index: usize) -> usize {
        (self.w.k - index * SPAN).min(SPAN).div_ceil(16)
    }

    /// From one row to the next.
    pub fn row_bytes(&self) -> usize {
        self.w.row_bytes
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.w.rows
    }

    /// Span `index` of row `row`; what lies `ahead` bytes further is asked for.
    ///
    /// # Safety
    /// See [`Format`].
    #[inline(always)]
    pub unsafe fn span<F: Format>(&self, row: usize, index: usize, ahead: usize) -> Span {
        let stored = &self.w.stored_from(row)[index * F::BYTES..];
        let groups = self.groups(index);
        // SAFETY: all bytes of a span are there, or were put there; a prefetch may have any
        // address.
        unsafe {
            for line in (0..F::BYTES * groups / GROUPS).step_by(64) {
                let at = stored.as_ptr().wrapping_add(ahead + line);
                _mm_prefetch::<_MM_HINT_T0>(at.cast());
            }
            if groups < GROUPS {
                // What follows is the next row: read with this one, and left out.
                return match stored.len() < F::BYTES {
                    true => F::span(filled(stored).as_ptr()),
                    false => F::span(stored.as_ptr()),
                }
                .of_lanes(F::KEPT[groups]);
            }
            F::span(stored.as_ptr())
        }
    }
}

/// The blocks at the end of the last row, and blocks of zeros.
#[cold]
fn filled(stored: &[u8]) -> [u8; MOST_BYTES] {
    let mut bytes = [0; MOST_BYTES];
    bytes[..stored.len()].copy_from_slice(stored);
    bytes
}
