//! BF16 weights as they are, and activations as BF16.

use std::arch::x86_64::*;

use hadal_device::DType;

use super::{Pairs, ROW};
use crate::core::digits::Line;
use crate::weight::BLOCK;

/// See [`Pairs`].
pub(crate) struct Halves;

// SAFETY: AVX-512 F, BW and BF16 are used, here and below.
unsafe impl Pairs for Halves {
    const TYPE: DType = DType::Bf16;
    const UNIT: f32 = 1.0;
    type Tables = ();

    #[inline(always)]
    unsafe fn tables() {}

    #[inline(always)]
    unsafe fn activations(values: &[f32; BLOCK], to: &mut [Line; ROW]) -> f32 {
        // SAFETY: the trait's contract; 128 floats are read and as many halves of them, four
        // lines, written.
        unsafe {
            for i in 0..BLOCK / 16 {
                let halves = _mm512_cvtneps_pbh(_mm512_loadu_ps(values.as_ptr().add(16 * i)));
                let to = to.as_mut_ptr().cast::<__m256bh>().add(i);
                to.write(halves);
            }
        }
        1.0
    }

    /// Columns as they come.
    #[inline(always)]
    unsafe fn weights(_: &(), from: *const u8, count: usize, _: &mut __m512i) -> [__m512i; 2] {
        // SAFETY: the trait's contract; masked halves are not read.
        unsafe {
            match count < 64 {
                true => {
                    let mask: u64 = (1 << count) - 1;
                    let last = from.wrapping_add(64).cast();
                    [
                        _mm512_maskz_loadu_epi16(mask as u32, from.cast()),
                        _mm512_maskz_loadu_epi16((mask >> 32) as u32, last),
                    ]
                }
                false => [
                    _mm512_loadu_si512(from.cast()),
                    _mm512_loadu_si512(from.add(64).cast()),
                ],
            }
        }
    }

    #[inline(always)]
    unsafe fn are_numbers(_: __m512i) -> bool {
        true
    }

    #[inline(always)]
    unsafe fn dot(sum: __m512i, weights: __m512i, activations: __m512i) -> __m512i {
        // SAFETY: the trait's contract; both are registers of 32 numbers.
        unsafe {
            let [weights, activations]: [__m512bh; 2] = std::mem::transmute([weights, activations]);
            let sum = _mm512_castsi512_ps(sum);
            _mm512_castps_si512(_mm512_dpbf16_ps(sum, weights, activations))
        }
    }

    #[inline(always)]
    unsafe fn total(sum: __m512i) -> __m512 {
        // SAFETY: the trait's contract.
        unsafe { _mm512_castsi512_ps(sum) }
    }
}
