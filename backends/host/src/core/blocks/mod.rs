//! Weights in block formats times activations on AVX2 and Advanced SIMD, which have no instruction
//! made for it. Plain AVX-512 takes the AVX2 functions.
//!
//! Few rows of activations become integers of 16 bits and are multiplied by the codes, widened to
//! as many ([`few`]; read `format` first, then `record`); 32 or sixteen columns are added before
//! their factor is applied. For many rows weights become floats ([`many`]): with a sum to convert
//! and to scale for each 32 columns and row, integers would be no faster. Formats are written once,
//! over [`Codes`].
//!
//! The ladder, measured on one of two shared cores of a Xeon (Sapphire Rapids) with AVX2, for rows
//! of 7168 (`examples/kernels.rs avx2 blocks 1`; GB/s of weights for one row of activations,
//! GFLOP/s for more; FP8 does 49 for 64). Other work on the machine moves them by a fifth:
//!
//! | | Q8_0 | Q4_K | Q6_K | 16 rows, Q4_K | 128 rows, Q4_K |
//! |---|---|---|---|---|---|
//! | decoded to `f32` by the common decoder | 2.2 | 0.4 | 0.9 | 11 | 24 |
//! | integers; four rows of weights at a time as floats | 9.8 | 8.8 | 7.2 | 40 | 28 |
//! | no loop over parts of a span; 1024 columns of all rows as floats | 12.6 | 8.7 | 9.7 | 18 | 45 |
//! | no closure around instructions; weights asked for ahead of floats | 14.0 | 9.8 | 8.1 | 50 | 52 |
//!
//! With plain AVX-512 the last row is 102 GFLOP/s for 128 rows, with VNNI 11.3 GB/s and 148.

#![allow(
    clippy::needless_range_loop,
    reason = "a number of a row or a column is an index of several arrays of registers"
)]

#[cfg(target_arch = "x86_64")]
mod avx2;
mod codes;
mod few;
mod format;
mod many;
#[cfg(target_arch = "aarch64")]
mod neon;
mod patterns;
mod record;
mod super_blocks;
mod thirty_twos;

use hadal_device::DType;

#[cfg(target_arch = "x86_64")]
pub(super) use self::avx2::Bytes;
pub(super) use self::codes::Codes;
use self::format::{Format, SPAN};
#[cfg(target_arch = "aarch64")]
pub(super) use self::neon::Bytes;
#[cfg(target_arch = "x86_64")]
pub(super) use self::patterns::sign;
use self::patterns::{Iq1M, Iq1S, Iq2S, Iq2Xs, Iq2Xxs, Iq3S, Iq3Xxs};
use self::record::{LINES, Record};
use self::super_blocks::{Iq4Xs, Q2K, Q3K, Q6K, Q45K, Tq1_0, Tq2_0};
use self::thirty_twos::{Iq4Nl, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
use super::digits::Layout;
use super::lanes::Lanes;
use super::{LONG, Panel, products};
use crate::args::Fault;
use crate::weight::{F32, Matrix, Rows};

/// Rows of activations up to which weights stay in registers.
const FEW_ROWS: usize = 8;
/// Columns of weights that are floats at once: 32 rows of them are 128 KiB, which a second-level
/// cache holds beside as many columns of activations.
const COLUMNS: usize = 4 * SPAN;
/// Keeps rows of a panel off each other's cache sets.
const PADDING: usize = 16;

/// What is compiled for a format.
struct Compiled {
    format: DType,
    few: unsafe fn(&[Record], usize, &Matrix<'_>, &mut [f32]),
    decode: unsafe fn(&[u8], usize, &mut [f32]),
}

impl Compiled {
    fn of<C: Codes, F: Format>() -> Compiled {
        Compiled {
            format: F::TYPE,
            few: C::few::<F>,
            decode: C::decode::<F>,
        }
    }

    fn find<C: Codes>(format: Option<DType>) -> Result<Compiled, Fault> {
        Ok(of_format!(format, F => Compiled::of::<C, F>()))
    }
}

/// `Core::block_dots`.
///
/// # Safety
/// See [`Lanes`] and [`Codes`].
#[inline(always)]
pub(super) unsafe fn dots<V: Lanes, C: Codes>(
    x: Rows<'_>,
    w: &Matrix<'_>,
    out: &mut [f32],
    panel: &mut Panel,
) -> Result<(), Fault> {
    let compiled = Compiled::find::<C>(w.format)?;
    assert!(out.len() >= x.count * w.rows && x.k == w.k);
    assert!(w.row_bytes as u64 == compiled.format.row_bytes(w.k as u64));
    // SAFETY: the caller's promise.
    unsafe {
        match x.count <= FEW_ROWS && x.k >= LONG {
            true => few_rows::<C>(&compiled, x, w, out, panel),
            false => many_rows::<V>(&compiled, x, w, out, panel),
        }
    }
}

/// Integer products with weights in registers.
#[inline(always)]
unsafe fn few_rows<C: Codes>(
    compiled: &Compiled,
    x: Rows<'_>,
    w: &Matrix<'_>,
    out: &mut [f32],
    panel: &mut Panel,
) -> Result<(), Fault> {
    let layout = Layout {
        // All formats have columns as they come.
        format: DType::F32,
        digits: 2,
    };
    let lines = x.k.div_ceil(SPAN) * x.count * LINES;
    let (lines, known) = panel.digits.of(x, layout, lines)?;
    let records = record::records(lines);
    // SAFETY: the caller's promise.
    unsafe {
        if !known {
            C::split(x, records);
        }
        (compiled.few)(records, x.count, w, out);
    }
    Ok(())
}

/// Rows are taken out of their blocks, so many columns at a time, and multiplied as floats.
#[inline(always)]
unsafe fn many_rows<V: Lanes>(
    compiled: &Compiled,
    x: Rows<'_>,
    w: &Matrix<'_>,
    out: &mut [f32],
    panel: &mut Panel,
) -> Result<(), Fault> {
    out[..x.count * w.rows].fill(0.0);
    // The next columns of a row come when these of all rows were multiplied.
    let ahead = compiled.format.row_bytes(COLUMNS as u64) as usize;
    for first in (0..w.k).step_by(COLUMNS) {
        let k = COLUMNS.min(w.k - first);
        let begin = compiled.format.row_bytes(first as u64) as usize;
        let stride = k + PADDING;
        let floats = panel.floats.take(w.rows * stride)?;
        for (row, floats) in floats.chunks_exact_mut(stride).enumerate() {
            // SAFETY: the caller's promise.
            unsafe { (compiled.decode)(&w.stored(row)[begin..], ahead, &mut floats[..k]) };
        }
        let floats = Matrix::floats(floats, w.rows, k, stride);
        // SAFETY: as above.
        unsafe { products::tiles::<V, F32, true>(x.columns(first, k), &floats, out, w.rows) };
    }
    Ok(())
}
