//! Registers of Advanced SIMD, 64-bit Arm.

use std::arch::aarch64::*;

use super::lanes::{Lanes, exp};

/// The Advanced SIMD core.
pub(crate) struct Neon;

/// Four floats.
#[derive(Clone, Copy)]
pub(super) struct Quad(pub(super) float32x4_t);

// SAFETY: the methods use Advanced SIMD, which every 64-bit Arm processor has, and read or
// write 4 elements at any alignment.
#[rustfmt::skip]
unsafe impl Lanes for Quad {
    const N: usize = 4;
    const TILE: usize = 4;
    const E4M3_UNIT: f32 = 1.0;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Quad {
        // SAFETY: the contract of `Lanes`, here and below.
        Quad(unsafe { vdupq_n_f32(value) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Quad {
        // SAFETY: see above; the bytes may be unaligned.
        Quad(unsafe { vreinterpretq_f32_u8(vld1q_u8(from.cast())) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe { vst1q_u8(to.cast(), vreinterpretq_u8_f32(self.0)) }
    }
    /// Bits moved into a float have the value times 2^-112, also the subnormals; infinities
    /// and NaN get the missing exponent bits.
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Quad {
        // SAFETY: see above.
        unsafe {
            let codes = vmovl_u16(vreinterpret_u16_u8(vld1_u8(from)));
            let bits = vshlq_n_u32::<13>(vandq_u32(codes, vdupq_n_u32(0x7FFF)));
            let special = vcgeq_u32(bits, vdupq_n_u32(0x7C00 << 13));
            let value = vmulq_n_f32(vreinterpretq_f32_u32(bits), f32::from_bits((127 + 112) << 23));
            let fixed = vorrq_u32(bits, vdupq_n_u32(0x7F80_0000));
            let value = vbslq_u32(special, fixed, vreinterpretq_u32_f32(value));
            let sign = vshlq_n_u32::<16>(vandq_u32(codes, vdupq_n_u32(0x8000)));
            Quad(vreinterpretq_f32_u32(vorrq_u32(value, sign)))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Quad {
        // SAFETY: see above.
        unsafe {
            let codes = vreinterpret_u16_u8(vld1_u8(from));
            Quad(vreinterpretq_f32_u32(vshll_n_u16::<16>(codes)))
        }
    }
    /// As `load_f16`, with 2^-120 and NaN for the codes 0x7F and 0xFF.
    #[inline(always)]
    unsafe fn load_e4m3(from: *const u8) -> Quad {
        // SAFETY: see above; four bytes are read.
        unsafe {
            let four = from.cast::<u32>().read_unaligned();
            let bytes = vreinterpret_u8_u32(vdup_n_u32(four));
            let codes = vmovl_u16(vget_low_u16(vmovl_u8(bytes)));
            let bits = vshlq_n_u32::<20>(vandq_u32(codes, vdupq_n_u32(0x7F)));
            let nan = vceqq_u32(bits, vdupq_n_u32(0x7F << 20));
            let value = vmulq_n_f32(vreinterpretq_f32_u32(bits), f32::from_bits((127 + 120) << 23));
            let value = vorrq_u32(vreinterpretq_u32_f32(value), vandq_u32(nan, vdupq_n_u32(0x7FC0_0000)));
            let sign = vshlq_n_u32::<24>(vandq_u32(codes, vdupq_n_u32(0x80)));
            Quad(vreinterpretq_f32_u32(vorrq_u32(value, sign)))
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Quad) -> Quad {
        // SAFETY: see above.
        Quad(unsafe { vaddq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Quad) -> Quad {
        // SAFETY: see above.
        Quad(unsafe { vmulq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn div(self, other: Quad) -> Quad {
        // SAFETY: see above.
        Quad(unsafe { vdivq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn max(self, other: Quad) -> Quad {
        // SAFETY: see above.
        Quad(unsafe { vmaxnmq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn fma(self, a: Quad, b: Quad) -> Quad {
        // SAFETY: see above.
        Quad(unsafe { vfmaq_f32(self.0, a.0, b.0) })
    }
    #[inline(always)]
    unsafe fn exp(self) -> Quad {
        // SAFETY: see above. Maximum and minimum keep a NaN.
        unsafe {
            let x = vmaxq_f32(vdupq_n_f32(exp::LOW), self.0);
            let x = vminq_f32(vdupq_n_f32(exp::HIGH), x);
            let n = vrndnq_f32(vmulq_n_f32(x, std::f32::consts::LOG2_E));
            let r = vfmsq_f32(x, n, vdupq_n_f32(exp::LN2_HIGH));
            let r = vfmsq_f32(r, n, vdupq_n_f32(exp::LN2_LOW));
            let mut p = vdupq_n_f32(exp::POLYNOMIAL[0]);
            for c in &exp::POLYNOMIAL[1..] {
                p = vfmaq_f32(vdupq_n_f32(*c), p, r);
            }
            let p = vfmaq_f32(vaddq_f32(r, vdupq_n_f32(1.0)), p, vmulq_f32(r, r));
            let power = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
            Quad(vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32::<23>(power))))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe { vaddvq_f32(self.0) }
    }
    #[inline(always)]
    unsafe fn prefetch(_at: *const u8) {}
}

super::vector_core::vector_core!(Neon, Quad, crate::core::blocks::Bytes, "neon");
