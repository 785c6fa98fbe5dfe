//! Activations as integers of 16 bits: 256 of a row share a scale.
//!
//! A span with an infinity or a NaN gets a NaN for scale.

use super::format::SPAN;
use crate::core::digits::Line;
use crate::weight::Rows;

/// Values below count as nothing where no larger one shares their scale: their reciprocals
/// would be infinite.
const LEAST: f32 = 1e-30;
/// The largest integer. Four products with codes of eight bits stay within 31 bits.
const MOST: f32 = 32767.0;
/// Added to a number of 16 bits, this leaves it rounded in the lowest bits of a float.
const TO_INTEGER: f32 = 12_582_912.0;

/// 256 activations of a row.
#[repr(C, align(64))]
pub(crate) struct Record {
    /// Integers; of each 32 the even columns, then the odd ones.
    pub numbers: [i16; SPAN],
    /// The integers' sum of each sixteen columns.
    pub sixteens: [f32; SPAN / 16],
    /// The same of each 32.
    pub thirty_twos: [f32; SPAN / 32],
    /// What an integer counts.
    pub scale: f32,
}

/// Lines of a record.
pub(super) const LINES: usize = size_of::<Record>() / size_of::<Line>();

/// Records in memory of so many lines.
pub(super) fn records(lines: &mut [Line]) -> &mut [Record] {
    let count = lines.len() / LINES;
    // SAFETY: a record is `LINES` lines long and aligned as they are, and any bits are one.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), count) }
}

/// Records of all rows, the first span of each row before the second of any.
#[inline(always)]
pub(super) fn split(x: Rows<'_>, to: &mut [Record]) {
    let mut records = to.iter_mut();
    for first in (0..x.k).step_by(SPAN) {
        for (row, record) in (0..x.count).zip(&mut records) {
            let part = &x.row(row)[first..x.k.min(first + SPAN)];
            let mut values = [0.0; SPAN];
            values[..part.len()].copy_from_slice(part);
            fill(record, &values);
        }
    }
}

#[inline(always)]
fn fill(record: &mut Record, values: &[f32; SPAN]) {
    // Magnitudes in order, NaN last.
    let magnitude = |value: &f32| value.to_bits() & 0x7FFF_FFFF;
    let largest = f32::from_bits(values.iter().map(magnitude).fold(0, u32::max));
    let finite = largest.is_finite();
    let largest = largest.max(LEAST);
    record.scale = if finite { largest / MOST } else { f32::NAN };
    let factor = MOST / largest;

    let mut whole = [0; SPAN];
    for (whole, value) in whole.iter_mut().zip(values) {
        *whole = (value * factor + TO_INTEGER).to_bits() as i16;
    }
    let parts = record.numbers.as_chunks_mut::<32>().0;
    for (to, from) in parts.iter_mut().zip(whole.as_chunks::<32>().0) {
        for i in 0..16 {
            to[i] = from[2 * i];
            to[16 + i] = from[2 * i + 1];
        }
    }
    for (sum, whole) in record.sixteens.iter_mut().zip(whole.as_chunks::<16>().0) {
        *sum = whole.iter().map(|n| i32::from(*n)).sum::<i32>() as f32;
    }
    let pairs = record.sixteens.as_chunks::<2>().0;
    for (sum, [a, b]) in record.thirty_twos.iter_mut().zip(pairs) {
        *sum = a + b;
    }
}
