//! Rows of weights as floats, for products with many rows of activations.

use super::codes::Codes;
use super::format::{Format, MOST_BYTES, SPAN, Scales, each_part};

/// The values of a row, as many as `to` has; what lies `ahead` bytes further is asked for.
///
/// # Safety
/// See [`Codes`].
#[inline(always)]
pub(super) unsafe fn decode<C: Codes, F: Format>(stored: &[u8], ahead: usize, to: &mut [f32]) {
    for (stored, to) in stored.chunks(F::BYTES).zip(to.chunks_mut(SPAN)) {
        for line in (0..F::BYTES).step_by(64) {
            // SAFETY: the caller's promise; a prefetch may have any address.
            unsafe { C::prefetch(stored.as_ptr().wrapping_add(ahead + line)) };
        }
        let (mut bytes, mut values) = ([0; MOST_BYTES], [0.0; SPAN]);
        // SAFETY: the caller's promise; both have the length of a span in each arm.
        unsafe {
            match <&mut [f32; SPAN]>::try_from(&mut *to) {
                Ok(to) if stored.len() == F::BYTES => span::<C, F>(stored.as_ptr(), to),
                _ => {
                    bytes[..stored.len()].copy_from_slice(stored);
                    span::<C, F>(bytes.as_ptr(), &mut values);
                    to.copy_from_slice(&values[..to.len()]);
                }
            }
        }
    }
}

/// # Safety
/// See [`Format`].
#[inline(always)]
unsafe fn span<C: Codes, F: Format>(at: *const u8, to: &mut [f32; SPAN]) {
    // SAFETY: the caller's promise.
    unsafe {
        let scales = Scales::of::<C, F>(at);
        each_part!(part => values::<C, F>(at, &scales, part, to));
    }
}

/// The values of part `part` of the span at `at`.
///
/// # Safety
/// See [`Format`].
#[inline(always)]
unsafe fn values<C: Codes, F: Format>(
    at: *const u8,
    scales: &Scales,
    part: usize,
    to: &mut [f32; SPAN],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let floats = F::codes::<C>(at, part).floats(F::SIGNED);
        for (i, floats) in floats.into_iter().enumerate() {
            let group = if F::WIDE { part } else { 2 * part + i / 2 };
            let added = C::splat(scales.added[group]);
            let values = C::fma(added, floats, C::splat(scales.factors[group]));
            C::store_eight(values, to[32 * part + 8 * i..][..8].as_mut_ptr());
        }
    }
}
