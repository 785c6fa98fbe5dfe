//! 32 codes in two registers of Advanced SIMD.

use std::arch::aarch64::*;

use super::codes::{Codes, compiled};
use super::format::bytes;
use crate::core::lanes::Lanes;
use crate::core::neon::Quad;
use crate::weight::{Elements, F16};

/// 32 bytes.
#[derive(Clone, Copy)]
pub(crate) struct Bytes([uint8x16_t; 2]);

// SAFETY: the methods use Advanced SIMD, which every 64-bit Arm processor has, and read bytes at
// any alignment, numbers where they are aligned.
unsafe impl Codes for Bytes {
    type Eight = [float32x4_t; 2];
    /// Even ones of the first sixteen codes, of the others; then the odd ones.
    type Wide = [int16x8_t; 4];

    // SAFETY (all blocks): the contract of `Codes`.
    #[inline(always)]
    unsafe fn load(at: *const u8) -> Bytes {
        // SAFETY: see above.
        Bytes(unsafe { [vld1q_u8(at), vld1q_u8(at.add(16))] })
    }
    #[inline(always)]
    unsafe fn words([a, b, c, d]: [u64; 4]) -> Bytes {
        // SAFETY: see above.
        unsafe {
            Bytes([
                vcombine_u8(vcreate_u8(a), vcreate_u8(b)),
                vcombine_u8(vcreate_u8(c), vcreate_u8(d)),
            ])
        }
    }
    #[inline(always)]
    unsafe fn all(byte: u8) -> Bytes {
        // SAFETY: see above.
        Bytes([unsafe { vdupq_n_u8(byte) }; 2])
    }
    #[inline(always)]
    unsafe fn nibbles(at: *const u8) -> Bytes {
        // SAFETY: see above.
        unsafe {
            let bytes = vld1q_u8(at);
            Bytes([vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes)])
        }
    }
    #[inline(always)]
    unsafe fn masks(bits: u32) -> Bytes {
        // SAFETY: see above.
        unsafe {
            let [a, b, c, d] = bits.to_le_bytes();
            let bit = vcreate_u8(0x8040_2010_0804_0201);
            let bit = vcombine_u8(bit, bit);
            Bytes([
                vtstq_u8(vcombine_u8(vdup_n_u8(a), vdup_n_u8(b)), bit),
                vtstq_u8(vcombine_u8(vdup_n_u8(c), vdup_n_u8(d)), bit),
            ])
        }
    }
    #[inline(always)]
    unsafe fn and(self, other: Bytes) -> Bytes {
        let ([a, b], [c, d]) = (self.0, other.0);
        // SAFETY: see above.
        Bytes(unsafe { [vandq_u8(a, c), vandq_u8(b, d)] })
    }
    #[inline(always)]
    unsafe fn or(self, other: Bytes) -> Bytes {
        let ([a, b], [c, d]) = (self.0, other.0);
        // SAFETY: see above.
        Bytes(unsafe { [vorrq_u8(a, c), vorrq_u8(b, d)] })
    }
    #[inline(always)]
    unsafe fn add(self, other: Bytes) -> Bytes {
        let ([a, b], [c, d]) = (self.0, other.0);
        // SAFETY: see above.
        Bytes(unsafe { [vaddq_u8(a, c), vaddq_u8(b, d)] })
    }
    #[inline(always)]
    unsafe fn moved(self, by: i32) -> Bytes {
        let [a, b] = self.0;
        // SAFETY: see above.
        unsafe {
            let up = vdupq_n_s8(-by as i8);
            Bytes([vshlq_u8(a, up), vshlq_u8(b, up)])
        }
    }
    #[inline(always)]
    unsafe fn at_least(self, least: u8) -> Bytes {
        let [a, b] = self.0;
        // SAFETY: see above.
        unsafe {
            let least = vdupq_n_u8(least);
            Bytes([vcgeq_u8(a, least), vcgeq_u8(b, least)])
        }
    }
    #[inline(always)]
    unsafe fn negated(self, masks: Bytes) -> Bytes {
        let ([a, b], [c, d]) = (self.0, masks.0);
        // SAFETY: see above.
        unsafe { Bytes([vsubq_u8(veorq_u8(a, c), c), vsubq_u8(veorq_u8(b, d), d)]) }
    }
    #[inline(always)]
    unsafe fn of(self, table: &[i8; 16]) -> Bytes {
        let [a, b] = self.0;
        // SAFETY: see above.
        unsafe {
            let table = vld1q_u8(table.as_ptr().cast());
            Bytes([vqtbl1q_u8(table, a), vqtbl1q_u8(table, b)])
        }
    }

    #[inline(always)]
    unsafe fn wide(self, signed: bool) -> [int16x8_t; 4] {
        // SAFETY: see above.
        unsafe {
            let [a, b] = [
                vreinterpretq_s16_u8(self.0[0]),
                vreinterpretq_s16_u8(self.0[1]),
            ];
            match signed {
                true => [
                    vshrq_n_s16::<8>(vshlq_n_s16::<8>(a)),
                    vshrq_n_s16::<8>(vshlq_n_s16::<8>(b)),
                    vshrq_n_s16::<8>(a),
                    vshrq_n_s16::<8>(b),
                ],
                false => [
                    vandq_s16(a, vdupq_n_s16(255)),
                    vandq_s16(b, vdupq_n_s16(255)),
                    vreinterpretq_s16_u16(vshrq_n_u16::<8>(vreinterpretq_u16_s16(a))),
                    vreinterpretq_s16_u16(vshrq_n_u16::<8>(vreinterpretq_u16_s16(b))),
                ],
            }
        }
    }
    #[inline(always)]
    unsafe fn products([a, b, c, d]: [int16x8_t; 4], x: *const i16) -> [float32x4_t; 2] {
        // SAFETY: see above; 32 numbers are read.
        unsafe {
            let (even, odd) = (vld1q_s16(x), vld1q_s16(x.add(16)));
            let low = vmull_s16(vget_low_s16(a), vget_low_s16(even));
            let low = vmlal_high_s16(low, a, even);
            let low = vmlal_s16(low, vget_low_s16(c), vget_low_s16(odd));
            let low = vmlal_high_s16(low, c, odd);
            let (even, odd) = (vld1q_s16(x.add(8)), vld1q_s16(x.add(24)));
            let high = vmull_s16(vget_low_s16(b), vget_low_s16(even));
            let high = vmlal_high_s16(high, b, even);
            let high = vmlal_s16(high, vget_low_s16(d), vget_low_s16(odd));
            let high = vmlal_high_s16(high, d, odd);
            [vcvtq_f32_s32(low), vcvtq_f32_s32(high)]
        }
    }
    #[inline(always)]
    unsafe fn floats(self, signed: bool) -> [[float32x4_t; 2]; 4] {
        // SAFETY: see above.
        unsafe {
            let mut floats = [[vdupq_n_f32(0.0); 2]; 4];
            for i in 0..2 {
                let bytes = self.0[i];
                let [low, high] = match signed {
                    true => [
                        vmovl_s8(vget_low_s8(vreinterpretq_s8_u8(bytes))),
                        vmovl_high_s8(vreinterpretq_s8_u8(bytes)),
                    ],
                    false => [
                        vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes))),
                        vreinterpretq_s16_u16(vmovl_high_u8(bytes)),
                    ],
                };
                for (j, eight) in [low, high].into_iter().enumerate() {
                    floats[2 * i + j] = [
                        vcvtq_f32_s32(vmovl_s16(vget_low_s16(eight))),
                        vcvtq_f32_s32(vmovl_high_s16(eight)),
                    ];
                }
            }
            floats
        }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> [float32x4_t; 2] {
        // SAFETY: see above.
        [unsafe { vdupq_n_f32(value) }; 2]
    }
    #[inline(always)]
    unsafe fn two(at: *const f32) -> [float32x4_t; 2] {
        // SAFETY: see above; two numbers are read.
        unsafe { [vdupq_n_f32(*at), vdupq_n_f32(*at.add(1))] }
    }
    #[inline(always)]
    unsafe fn load_eight(at: *const f32) -> [float32x4_t; 2] {
        // SAFETY: see above.
        unsafe { [vld1q_f32(at), vld1q_f32(at.add(4))] }
    }
    #[inline(always)]
    unsafe fn store_eight([a, b]: [float32x4_t; 2], to: *mut f32) {
        // SAFETY: see above.
        unsafe {
            vst1q_f32(to, a);
            vst1q_f32(to.add(4), b);
        }
    }
    #[inline(always)]
    unsafe fn fma(
        sum: [float32x4_t; 2],
        a: [float32x4_t; 2],
        b: [float32x4_t; 2],
    ) -> [float32x4_t; 2] {
        // SAFETY: see above.
        unsafe { [vfmaq_f32(sum[0], a[0], b[0]), vfmaq_f32(sum[1], a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn sum([a, b]: [float32x4_t; 2]) -> f32 {
        // SAFETY: see above.
        unsafe { vaddvq_f32(vaddq_f32(a, b)) }
    }
    #[inline(always)]
    unsafe fn of_bytes(bytes: u64) -> [float32x4_t; 2] {
        // SAFETY: see above.
        unsafe {
            let wide = vmovl_u8(vcreate_u8(bytes));
            [
                vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide))),
                vcvtq_f32_u32(vmovl_high_u16(wide)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn halves(at: *const u8, step: usize) -> [float32x4_t; 2] {
        // SAFETY: see above; the last two bytes can be read.
        unsafe {
            let halves: [[u8; 2]; 8] = std::array::from_fn(|i| bytes(at.add(i * step)));
            let at = halves.as_ptr().cast();
            [Quad::load_f16(at).0, Quad::load_f16(at.add(8)).0]
        }
    }
    #[inline(always)]
    unsafe fn half(at: *const u8) -> f32 {
        // SAFETY: see above; two bytes are read.
        F16::decode(&unsafe { bytes::<2>(at) })
    }
    #[inline(always)]
    unsafe fn prefetch(_at: *const u8) {}

    compiled!(Bytes, "neon");
}
