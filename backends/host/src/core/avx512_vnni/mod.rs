//! AVX-512 with VNNI: weights in block formats, which are integers, times activations as
//! integers.
//!
//! Products of attention that may be rounded are `avx512_pairs`; everything else is the AVX-512
//! core's. Read `format` first, then `split`.
//!
//! The ladder, measured on one core of Zen 4 at 3.64 GHz with other work on the machine, for
//! rows of 7168 (`examples/kernels.rs`; GB/s of weights for one row of activations, GFLOP/s for
//! 128; VNNI can do 466 with one digit, 233 with two, and `f32` 116):
//!
//! | | Q8_0 | Q4_K | Q6_K | 128 rows, Q4_K |
//! |---|---|---|---|---|
//! | decoded to `f32` by the common decoder | 2.8 | 0.6 | 2.0 | 68 |
//! | codes by shifts and masks, three digits in one integer sum | 10.5 | 8.3 | 9.3 | |
//! | weights asked for 4 KiB ahead instead of 1 | 10.8 | 10.8 | 9.1 | |
//! | offsets of codes as a minimum: no line of corrections to read | 11.5 | 11.8 | 10.0 | |
//! | a panel of sixteen rows, two digits | | | | 179 |
//! | one digit (`flags::ROUGH`) | 13.3 | 13.0 | | 291 |
//!
//! Then, on one core of Zen 5 that reads 22 GB/s of `f32` weights so: two rows of 7168 Q8_0
//! weights at a time 11.3 GB/s, with the rows after these asked for instead of the next one
//! ([`super::ahead`]) 12.6, four rows at a time 15.4 (Q4_K: 10.0, 13.3, 14.0).
//!
//! For many rows two panels at a time, so that a number of an activation is read once for both, are
//! no faster: what is left above the products is the factors and minima of each 32 columns.
//!
//! Weights in the second-level cache are read at 29, 16 and 21 GB/s. A function that a closure
//! hides from the inliner costs three quarters of the speed: what holds instructions here is a
//! loop or `inline(always)`. Exact BF16 products of FP8 and BF16 weights cannot beat the `f32`
//! panel for many rows: the unit does twice the products of `f32`, and an activation is two at least.

#![allow(
    clippy::needless_range_loop,
    reason = "a number of a row or a column is an index of several arrays of registers"
)]

mod few;
mod format;
mod grids;
mod many;
mod split;
mod stored;
mod super_blocks;
mod thirty_twos;

use std::ops::Range;

pub(super) use self::format::{Format, GROUPS, Minima, SPAN, Span};
pub(super) use self::grids::{Iq1M, Iq1S, Iq2S, Iq2Xs, Iq2Xxs, Iq3S, Iq3Xxs, Tq1_0};
use self::split::Record;
pub(super) use self::stored::Stored;
pub(super) use self::super_blocks::{Iq4Xs, Q2K, Q3K, Q6K, Q45K, Tq2_0};
pub(super) use self::thirty_twos::{Iq4Nl, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
use super::avx512::as_avx512;
use super::avx512_pairs;
use super::digits::{Digits, Layout, Line};
use super::{Avx512, Core, LONG, Panel};
use crate::args::Fault;
use crate::weight::{Elements, F32, Matrix, Rows};

/// The AVX-512 core with products of integers.
pub(crate) struct Avx512Vnni;

/// Rows of activations from which a panel of weights pays: four rows of 1536 by 1024 Q4_K
/// weights take 126 us with it and 153 without.
const MANY_ROWS: usize = 4;
/// Rows of factors from which rounded ones pay.
const MIXED_ROWS: usize = 12;

impl Core for Avx512Vnni {
    fn dots<W: Elements>(
        x: Rows<'_>,
        w: &Matrix<'_>,
        out: &mut [f32],
        panel: &mut Panel,
    ) -> Result<(), Fault> {
        Avx512::dots::<W>(x, w, out, panel)
    }

    fn block_dots(
        x: Rows<'_>,
        w: &Matrix<'_>,
        out: &mut [f32],
        panel: &mut Panel,
    ) -> Result<(), Fault> {
        of_format!(w.format, F => product::<F>(x, w, out, panel))
    }

    const ROUGH: bool = true;

    fn rough_mix(
        (p, some): (Rows<'_>, Range<usize>),
        w: &Matrix<'_>,
        out: &mut [f32],
        panel: &mut Panel,
    ) -> Result<(), Fault> {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        fn rough(
            p: (Rows<'_>, Range<usize>),
            w: &Matrix<'_>,
            out: &mut [f32],
            panel: &mut Panel,
        ) -> Result<(), Fault> {
            // SAFETY: compiled for the instruction set, see below.
            unsafe { avx512_pairs::mix(p, w, out, panel) }
        }
        if some.len() < MIXED_ROWS {
            Avx512::mix::<F32>(p.rows(some.start, some.len()), w, out);
            return Ok(());
        }
        // SAFETY: as in `few_rows`.
        unsafe { rough((p, some), w, out, panel) }
    }

    fn rough_dots(
        x: Rows<'_>,
        w: &Matrix<'_>,
        out: (&mut [f32], usize),
        panel: &mut Panel,
    ) -> Result<(), Fault> {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        fn rough(
            x: Rows<'_>,
            w: &Matrix<'_>,
            out: (&mut [f32], usize),
            panel: &mut Panel,
        ) -> Result<(), Fault> {
            // SAFETY: compiled for the instruction set, see below.
            unsafe { avx512_pairs::dots(x, w, out, panel) }
        }
        // SAFETY: as in `few_rows`.
        unsafe { rough(x, w, out, panel) }
    }

    fn mix<W: Elements>(p: Rows<'_>, w: &Matrix<'_>, out: &mut [f32]) {
        Avx512::mix::<W>(p, w, out);
    }

    as_avx512!();
}

fn product<F: Format>(
    x: Rows<'_>,
    w: &Matrix<'_>,
    out: &mut [f32],
    panel: &mut Panel,
) -> Result<(), Fault> {
    assert!(out.len() >= x.count * w.rows && x.k == w.k);
    let many = x.count >= MANY_ROWS;
    match w.rough {
        true if many => many_rows::<F, 1>(x, w, out, panel),
        true => few_rows::<F, 1>(x, w, out, panel),
        false if many && x.k >= LONG => many_rows::<F, 2>(x, w, out, panel),
        false if many => many_rows::<F, 3>(x, w, out, panel),
        false => few_rows::<F, 3>(x, w, out, panel),
    }
}

fn few_rows<F: Format, const D: usize>(
    x: Rows<'_>,
    w: &Matrix<'_>,
    out: &mut [f32],
    panel: &mut Panel,
) -> Result<(), Fault> {
    let records = records::<F, D>(x, &mut panel.digits)?;
    // SAFETY: `HostDevice::pipeline` gives out kernels of this core only on a processor whose
    // features were detected.
    unsafe { few::dots::<F, D>(records, x.count, &Stored::new(w), out) };
    Ok(())
}

fn many_rows<F: Format, const D: usize>(
    x: Rows<'_>,
    w: &Matrix<'_>,
    out: &mut [f32],
    panel: &mut Panel,
) -> Result<(), Fault> {
    let Panel { digits, lines, .. } = panel;
    let records = records::<F, D>(x, digits)?;
    // SAFETY: as in `few_rows`.
    unsafe { many::dots::<F, D>(records, x.count, &Stored::new(w), out, lines) }
}

/// Rows of activations as `D` digits.
fn records<'d, F: Format, const D: usize>(
    x: Rows<'_>,
    digits: &'d mut Digits,
) -> Result<&'d [Line], Fault> {
    let count = x.k.div_ceil(SPAN) * x.count * Record::lines(D);
    let layout = Layout {
        format: F::TYPE,
        digits: D,
    };
    let (lines, known) = digits.of(x, layout, count)?;
    if !known {
        // SAFETY: as in `few_rows`.
        unsafe { split::split::<F, D>(x, lines) };
    }
    Ok(lines)
}
