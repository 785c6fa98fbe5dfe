//! BF16 weights as they are, and activations as BF16.

use std::arch::x86_64::*;

use hadal_device::DType;

use super::many::{self, To};
use super::{Pairs, ROW, Wrong, sixteen};
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
    unsafe fn activations(from: &[f32], to: &mut [Line; ROW]) -> f32 {
        // SAFETY: the trait's contract; 128 halves, four lines, are written.
        unsafe {
            for i in 0..BLOCK / 16 {
                let halves = _mm512_cvtneps_pbh(sixteen(from, 16 * i));
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
    unsafe fn wrong(_: __m512i) -> Wrong {
        Wrong::default()
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

    #[inline(always)]
    unsafe fn tile<const C: usize, const R: usize>(
        panels: *const Line,
        records: *const Line,
        out: *mut f32,
        to: To,
    ) -> usize {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
        #[inline(never)]
        unsafe fn alone<const C: usize, const R: usize>(
            panels: *const Line,
            records: *const Line,
            out: *mut f32,
            to: To,
        ) -> usize {
            // SAFETY: the caller's promise.
            unsafe { many::tile::<Halves, C, R>(panels, records, out, to) }
        }
        // SAFETY: the caller's promise.
        unsafe { alone::<C, R>(panels, records, out, to) }
    }
}
