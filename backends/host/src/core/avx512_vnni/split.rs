//! Activations as integers: 256 of a row are digits of 8 bits that share a scale.
//!
//! With three digits an activation keeps 22 bits of the largest of its 256, which is what a
//! float keeps of itself; with two 16. A span with an infinity or a NaN gets a NaN for scale.

use std::arch::x86_64::*;

use super::format::{Format, GROUPS, Minima, SPAN};
use crate::core::digits::Line;
use crate::weight::Rows;

/// Values below count as nothing where no larger one shares their scale: their reciprocals
/// would be infinite.
const LEAST: f32 = 1e-30;

/// What products read of 256 activations, in lines: the digits, highest first; sums that
/// minima are multiplied with; the scale in all lanes.
pub(super) struct Record;

impl Record {
    pub const fn sums(digits: usize) -> usize {
        4 * digits
    }
    pub const fn scale(digits: usize) -> usize {
        4 * digits + 1
    }
    pub const fn lines(digits: usize) -> usize {
        4 * digits + 2
    }
}

/// The largest integer: sums of four products with codes stay within 31 bits.
const fn most(digits: usize) -> f32 {
    match digits {
        1 => 127.0,
        2 => 32512.0,
        _ => 2_088_960.0,
    }
}

/// True if sums of products of 32 columns begin with the sums of a record, which are integers then:
/// of one digit, whose sums nothing is multiplied with but factors.
pub(super) const fn begins<F: Format, const D: usize>() -> bool {
    D == 1 && matches!(F::MINIMA, Minima::Offset)
}

/// Records of all rows, the first span of each row before the second of any.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn split<F: Format, const D: usize>(x: Rows<'_>, to: &mut [Line]) {
    let mut records = to.chunks_exact_mut(Record::lines(D));
    for first in (0..x.k).step_by(SPAN) {
        for (row, record) in (0..x.count).zip(&mut records) {
            let part = &x.row(row)[first..x.k.min(first + SPAN)];
            let mut values = [0.0; SPAN];
            values[..part.len()].copy_from_slice(part);
            // SAFETY: a record has the lines that are written.
            unsafe { span::<F, D>(&values, record.as_mut_ptr()) };
        }
    }
}

/// # Safety
/// `to` has the lines of a record.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn span<F: Format, const D: usize>(values: &[f32; SPAN], to: *mut Line) {
    // SAFETY: 256 floats are read, and the lines of a record written.
    unsafe {
        let x: [__m512; GROUPS] =
            std::array::from_fn(|group| _mm512_loadu_ps(values.as_ptr().add(16 * group)));
        // Magnitudes in order, NaN last.
        let mut largest = _mm512_setzero_si512();
        for x in x {
            let magnitude = _mm512_castps_si512(_mm512_abs_ps(x));
            largest = _mm512_max_epu32(largest, magnitude);
        }
        let largest = f32::from_bits(_mm512_reduce_max_epu32(largest));
        let finite = largest.is_finite();
        let largest = largest.max(LEAST);
        let (scale, factor) = (largest / most(D), most(D) / largest);
        let scale = if finite { scale } else { f32::NAN };

        let mut sums = [0.0; GROUPS];
        for (group, x) in x.into_iter().enumerate() {
            let scaled = _mm512_mul_ps(x, _mm512_set1_ps(factor));
            let mut whole = _mm512_cvtps_epi32(scaled);
            // Of the integers: a minimum then takes off what it adds to codes, and what
            // rounding costs hangs on weights, not on codes.
            sums[group] = _mm512_reduce_add_epi32(whole) as f32;
            for digit in (0..D).rev() {
                let at = to.add(4 * digit).cast::<u8>().add(16 * F::PLACES[group]);
                _mm_storeu_si128(at.cast(), _mm512_cvtepi32_epi8(whole));
                let rounded = _mm512_add_epi32(whole, _mm512_set1_epi32(128));
                whole = _mm512_srai_epi32::<8>(rounded);
            }
        }
        let sums = by_lanes::<F>(sums);
        *to.add(Record::sums(D)) = Line(match begins::<F, D>() {
            true => sums.map(|sum| sum as i32 as u32),
            false => sums.map(f32::to_bits),
        });
        *to.add(Record::scale(D)) = Line([scale.to_bits(); 16]);
    }
}

/// What minima are multiplied with, in their lanes.
fn by_lanes<F: Format>(sums: [f32; GROUPS]) -> [f32; GROUPS] {
    let mut lanes = [0.0; GROUPS];
    for (group, sum) in sums.into_iter().enumerate() {
        let lane = F::LANES[group];
        match F::MINIMA {
            Minima::Offset => lanes[lane] -= F::OFFSET as f32 * sum,
            Minima::Sixteens => lanes[lane] -= sum,
            Minima::Odd => lanes[lane + 1] -= sum,
            Minima::OddAdded => lanes[lane + 1] += sum,
        }
    }
    lanes
}
