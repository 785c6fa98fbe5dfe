//! Products that may be rounded (`flags::ROUGH`) of E4M3 and BF16 weights, and of `f32` in
//! attention: instructions multiply two columns of 16 bits at once, twice as many as of floats.
//!
//! A product is written once over [`Pairs`], which says what 16 bits are: [`Integers`] for E4M3
//! weights, [`Halves`] for BF16. 128 columns are added before a scale is met.
//!
//! The ladder, measured on two cores of Zen 4 for 8192 weight rows of 7168 (`examples/kernels.rs`;
//! GFLOP/s; `f32` can do 232 here and pairs twice that):
//!
//! | | 4 rows | 8 | 16 | 512 |
//! |---|---|---|---|---|
//! | E4M3 as `f32` | 100 | 118 | 134 | 189 |
//! | two panels of sixteen weight rows, twelve rows of activations | | | 125 | 354 |
//! | nothing hidden from the inliner, weights asked for two blocks ahead | | 196 | 257 | 382 |
//! | few rows, signs by masks; by shifts | 145; 166 | | | |
//! | BF16 as `f32` | 136 | 171 | 107 | 182 |
//! | two panels | | 170 | 244 | 363 |
//!
//! Few rows of BF16 are no faster than `f32`, and one or two of E4M3 neither: weights come from
//! memory then.
//!
//! Everything here is `inline(always)`: it is compiled inside the functions of the cores that
//! carry the instruction set.

#![allow(
    clippy::needless_range_loop,
    reason = "a number of a row or a column is an index of several arrays of registers"
)]

mod few;
mod halves;
mod integers;
mod many;
mod mixed;

use std::arch::x86_64::*;

use hadal_device::DType;

pub(super) use self::halves::Halves;
pub(super) use self::integers::Integers;
pub(super) use self::mixed::{dots, mix};
use super::Panel;
use super::digits::{Digits, Layout, Line};
use crate::args::Fault;
use crate::weight::{BLOCK, Elements, Matrix, Rows};

/// Lines of 128 weights or activations.
const ROW: usize = 4;
/// Lines of 128 activations with what one of them counts, in all lanes.
const RECORD: usize = ROW + 1;

/// What is wrong with weights.
#[derive(Clone, Copy, Default)]
pub(super) struct Wrong {
    /// One is no number, which sums do not tell.
    no_number: bool,
    /// All are so small that too few bits are left of them.
    small: bool,
}

/// What 16 bits of a pair are.
///
/// # Safety
/// Every method may be called only on a processor with the instruction set of the
/// implementation, from a function compiled for it (through `inline(always)` all the way).
pub(super) unsafe trait Pairs: 'static {
    /// The format of the weights.
    const TYPE: DType;
    /// A weight of one; what a sum counts is divided by it.
    const UNIT: f32;
    /// What taking weights apart needs in registers.
    type Tables: Copy;

    unsafe fn tables() -> Self::Tables;

    /// Writes 128 activations, in the order of [`Pairs::weights`], of which `from` has the first
    /// and the others are 0; returns what one counts.
    unsafe fn activations(from: &[f32], to: &mut [Line; ROW]) -> f32;

    /// 64 weights at `from`, of which `count` can be read; those beyond are zeros. `worst` is
    /// what [`Pairs::wrong`] is asked about.
    unsafe fn weights(
        tables: &Self::Tables,
        from: *const u8,
        count: usize,
        worst: &mut __m512i,
    ) -> [__m512i; 2];

    /// What is wrong with 128 weights, of all of which `worst` was told.
    unsafe fn wrong(worst: __m512i) -> Wrong;

    /// `sum` and the products of two columns in each lane.
    unsafe fn dot(sum: __m512i, weights: __m512i, activations: __m512i) -> __m512i;

    /// A sum as floats.
    unsafe fn total(sum: __m512i) -> __m512;

    /// [`many::tile`] as a function of its own: among what else would be inlined beside it, its
    /// loop gets too few registers.
    ///
    /// # Safety
    /// See there.
    unsafe fn tile<const C: usize, const R: usize>(
        panels: *const Line,
        records: *const Line,
        out: *mut f32,
        to: many::To,
    ) -> usize;
}

/// Sixteen floats from number `first` on; 0 where there is none.
///
/// # Safety
/// See [`Pairs`].
#[inline(always)]
pub(super) unsafe fn sixteen(from: &[f32], first: usize) -> __m512 {
    let left = from.len().saturating_sub(first).min(16);
    let mask = (!0u32 << left) as u16 ^ !0;
    // SAFETY: the caller's promise; masked floats are not read.
    unsafe { _mm512_maskz_loadu_ps(mask, from.as_ptr().wrapping_add(first)) }
}

/// `Core::dots` for few rows of activations: weights stay in the registers they are taken apart in.
/// False, and nothing is said of `out`, where of some weights too few bits would be left.
///
/// # Safety
/// See [`Pairs`], of whose format `w` is.
#[inline(always)]
pub(super) unsafe fn few<P: Pairs, W: Elements>(
    x: Rows<'_>,
    w: &Matrix<'_>,
    out: &mut [f32],
    panel: &mut Panel,
) -> Result<bool, Fault> {
    assert!(out.len() >= x.count * w.rows && x.k == w.k);
    // SAFETY: the caller's promise.
    unsafe { few::dots::<P, W>(records::<P>(x, &mut panel.digits)?, x.count, w, out) }
}

/// `Core::dots` for many rows of activations; see [`few`].
///
/// # Safety
/// See [`few`].
#[inline(always)]
pub(super) unsafe fn many<P: Pairs, W: Elements>(
    x: Rows<'_>,
    w: &Matrix<'_>,
    out: &mut [f32],
    panel: &mut Panel,
) -> Result<bool, Fault> {
    assert!(out.len() >= x.count * w.rows && x.k == w.k);
    let Panel { digits, lines, .. } = panel;
    // SAFETY: the caller's promise.
    unsafe { many::dots::<P, W>(records::<P>(x, digits)?, x.count, w, out, lines) }
}

/// Records of all rows, the first block of each row before the second of any.
///
/// # Safety
/// See [`Pairs`].
#[inline(always)]
unsafe fn records<'d, P: Pairs>(x: Rows<'_>, digits: &'d mut Digits) -> Result<&'d [Line], Fault> {
    let layout = Layout {
        format: P::TYPE,
        digits: 2,
    };
    let count = x.k.div_ceil(BLOCK) * x.count * RECORD;
    let (lines, known) = digits.of(x, layout, count)?;
    if !known {
        let mut records = lines.as_chunks_mut::<RECORD>().0.iter_mut();
        for first in (0..x.k).step_by(BLOCK) {
            for (row, record) in (0..x.count).zip(&mut records) {
                let part = &x.row(row)[first..x.k.min(first + BLOCK)];
                let [lines @ .., scale] = record;
                // SAFETY: the caller's promise.
                let one = unsafe { P::activations(part, lines) };
                *scale = Line([one.to_bits(); 16]);
            }
        }
    }
    Ok(lines)
}
